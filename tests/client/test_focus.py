"""Bills in FOCUS form. The rules of the specification are read here, not the writer: columns, values, sums."""

import codecs
import csv
import datetime
import io
import json
import random
import re
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from bills import CHARTER, HASH, bill
from hypothesis import given
from hypothesis import strategies as st
from world import pot as pot_of

from client.focus import as_focus, costs, items, rows
from client.home import Home
from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records.refusals import Refusal, Refused

# FOCUS 1.4, Cost and Usage: what must be there, what must have a value; and what these values may be.
MANDATORY = {
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "HostProviderName",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ServiceCategory",
    "ServiceName",
    "ServiceProviderName",
}
NULLABLE = {"BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"}
# What must be there too, for who splits costs, measures usage, prices units, and has sub accounts.
CONDITIONAL = {
    "AllocatedMethodId",
    "AllocatedResourceId",
    "AllocatedResourceName",
    "AllocatedTags",
    "ConsumedQuantity",
    "ConsumedUnit",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
}
RECOMMENDED = {"AllocatedMethodDetails", "ChargeFrequency"}
DECIMALS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "ConsumedQuantity", "PricingQuantity")
MOMENTS = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
PRICED = ("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit", "SkuId", "SkuMeter", "SkuPriceId")
SERVICES = {
    "AI and Machine Learning",
    "Analytics",
    "Business Applications",
    "Compute",
    "Databases",
    "Developer Tools",
    "Multicloud",
    "Identity",
    "Integration",
    "Internet of Things",
    "Management and Governance",
    "Media",
    "Migration",
    "Mobile",
    "Networking",
    "Security",
    "Storage",
    "Web",
    "Other",
}
METRICS = {*DECIMALS, "AllocatedMethodDetails", "x_ExactCost"}
CONSUMER = {"AllocatedResourceId", "AllocatedResourceName"}


def validated(text: str) -> list[dict[str, str]]:
    """The rows of a FOCUS data set that is one, as its specification has it."""
    read = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    names = read[0]
    ours = [name for name in names if name.startswith("x_")]
    assert names == [*sorted(set(names) - set(ours)), *ours]  # Each once; custom columns last.
    assert set(names) - set(ours) == MANDATORY | CONDITIONAL | RECOMMENDED
    assert all(re.fullmatch(r"x_[A-Z][A-Za-z]+", name) for name in ours)
    found = [dict(zip(names, row, strict=True)) for row in read[1:]]
    origins = defaultdict(list)
    for row in found:
        assert all(row[name] for name in MANDATORY - NULLABLE)
        for name in DECIMALS:
            assert re.fullmatch(r"(-?\d+(\.\d+)?)?", row[name], re.ASCII), name
        for name in MOMENTS:
            datetime.datetime.strptime(row[name], "%Y-%m-%dT%H:%M:%S%z")
            assert row[name].endswith("Z")
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        assert re.fullmatch("[A-Z]{3}", row["BillingCurrency"])
        assert row["ChargeCategory"] in ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
        assert row["ChargeClass"] in ("", "Correction")
        assert row["ChargeFrequency"] in ("One-Time", "Recurring", "Usage-Based")
        assert row["ServiceCategory"] in SERVICES
        assert row["BilledCost"] == row["EffectiveCost"] == row["ContractedCost"] == row["ListCost"]  # No discounts.
        used = row["ChargeCategory"] == "Usage" and not row["ChargeClass"]
        assert [bool(row[name]) for name in PRICED] == [used] * len(PRICED)
        assert bool(row["SubAccountId"]) == bool(row["SubAccountName"])
        split = bool(row["AllocatedMethodId"])
        assert [bool(row[name]) for name in ("AllocatedMethodDetails", *sorted(CONSUMER))] == [split] * 3
        if split:
            details = json.loads(row["AllocatedMethodDetails"], parse_float=Decimal, parse_int=Decimal)
            assert details.keys() == {"Elements"}
            for each in details["Elements"]:
                assert {"AllocatedRatio"} <= each.keys() <= {"AllocatedRatio", "UsageUnit", "UsageQuantity"}
                assert 0 <= each["AllocatedRatio"] <= 1
                assert ("UsageUnit" in each) == ("UsageQuantity" in each)
            row["ratio"] = str(sum(each["AllocatedRatio"] for each in details["Elements"]))
            origins[tuple(row[name] for name in names if name not in METRICS | CONSUMER)].append(row)
    # All that was split from one charge is alike in all that names it, and there is one such charge for each pot.
    assert len(origins) == len({(row["x_Period"], row["ServiceName"]) for row in found if row["AllocatedMethodId"]})
    for split in origins.values():
        assert sum(Fraction(row["ratio"]) for row in split) == 1
        assert len({row["AllocatedResourceId"] for row in split}) == len(split)
    return found


def total(found: list[dict[str, str]], name: str = "BilledCost", **where: str) -> Fraction:
    chosen = [row for row in found if all(row[key] == value for key, value in where.items())]
    return sum((Fraction(row[name] or "0") for row in chosen), Fraction(0))


def member(row: dict[str, str]) -> str:
    return row["AllocatedResourceId"] or row["SubAccountId"]


def check(stated, charter=CHARTER) -> list[dict[str, str]]:
    """Its rows, once they are valid and sum to what the statement says."""
    found = validated(as_focus([(7, stated, charter)], None))
    unit = 10**charter.minor_digits
    for balance in stated.balances:
        mine = [row for row in found if member(row) == balance.member]
        assert total(mine) * unit == total(mine, "x_ExactCost") * unit == -balance.net
    for pot in charter.pots:
        lines = [each for each in stated.lines if each.pot == pot.name]
        charged = sum((each.charge for each in lines), Fraction(0))
        assert total(found, "x_ExactCost", ServiceName=pot.name, AllocatedMethodId=f"{pot.rule}/{pot.driver}") in (
            charged / unit,
            0,
        )
        assert total(found, ServiceName=pot.name) == 0  # What was put in was charged, to the last digit.
    return found


def test_a_bill_is_a_focus_data_set_that_sums_to_what_each_pays():
    stated = bill(
        ("compute", {"acme": (700, 500), "birch": (300, 250), "cedar": (0, 250)}),
        ("storage", {"acme": (Fraction(1, 3), Fraction(1, 6)), "birch": (0, Fraction(1, 6)), "cedar": (0, 0)}),
        flop={"acme": 7 * 10**18, "birch": 3 * 10**18},
    )
    found = check(stated)
    usage = [row for row in found if (row["ServiceName"], row["ChargeCategory"]) == ("compute", "Usage")]
    assert [(row["AllocatedResourceId"], row["BilledCost"], row["ConsumedQuantity"]) for row in usage] == [
        ("acme", "5.00", "5"),
        ("birch", "2.50", "2.5"),
        ("cedar", "2.50", "2.5"),
    ]
    assert {row["ConsumedUnit"] for row in usage} == {"NCU"}
    assert json.loads(usage[0]["AllocatedMethodDetails"]) == {
        "Elements": [{"AllocatedRatio": 0.5, "UsageUnit": "Benefit", "UsageQuantity": 2}]
    }
    credit = next(row for row in found if row["ChargeCategory"] == "Credit")
    assert (credit["SubAccountId"], credit["BilledCost"], credit["x_Rule"]) == ("acme", "-7.00", "proportional")
    assert {row["ServiceCategory"] for row in found if row["ServiceName"] == "storage"} == {"Storage"}
    for row in found:
        assert (row["x_LedgerLeafIndex"], row["x_PolicyHash"], row["x_Period"]) == ("7", HASH, "2026-11")
        assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
        assert (row["BillingAccountId"], row["BillingCurrency"]) == (CHARTER.consortium, "EUR")
    assert all("UsageUnit" not in row["AllocatedMethodDetails"] for row in found if row["ServiceName"] == "storage")


def test_a_pot_with_floors_or_caps_says_so_and_is_not_by_benefit_alone():
    pots = (CHARTER.pots[0], pot_of("storage", "equal", caps={"cedar": 10}), CHARTER.pots[2])
    stated = bill(("storage", {"acme": (30, 20), "birch": (0, 0), "cedar": (0, 10)}))
    found = validated(as_focus([(7, stated, replace(CHARTER, pots=pots))], None))
    storage = [row for row in found if row["AllocatedMethodId"]]
    assert {row["AllocatedMethodId"] for row in storage} == {"equal/benefit/bounded"}
    assert not any("UsageUnit" in row["AllocatedMethodDetails"] for row in storage)


def test_what_a_pot_repays_is_a_correction_and_moves_no_quantity():
    stated = bill(("storage", {"acme": (-100, -50), "birch": (40, -10), "cedar": (0, 0)}))
    found = check(stated)
    corrected = {(row["ChargeCategory"], member(row)): row["ChargeClass"] for row in found}
    assert corrected == {
        ("Usage", "acme"): "Correction",
        ("Usage", "birch"): "Correction",
        ("Credit", "acme"): "Correction",
        ("Credit", "birch"): "",
    }


def test_what_caps_and_accessions_move_is_an_adjustment_and_split_from_nothing():
    stated = bill(
        ("cap", {"acme": (30, 0), "birch": (0, 20), "cedar": (0, 10)}),
        ("accession", {"acme": (5, 0), "birch": (0, 0), "cedar": (0, 5)}),
    )
    found = check(stated)
    assert {row["ChargeCategory"] for row in found} == {"Adjustment"}
    assert {(row["ServiceName"], member(row)): row["BilledCost"] for row in found} == {
        ("cap", "acme"): "-0.30",
        ("cap", "birch"): "0.20",
        ("cap", "cedar"): "0.10",
        ("accession", "acme"): "-0.05",
        ("accession", "cedar"): "0.05",
    }


def test_a_pot_that_charges_some_and_repays_others_has_no_ratios():
    found = check(bill(("direct", {"acme": (-100, -100), "birch": (150, 150), "cedar": (0, 0)})))
    assert [row["ChargeCategory"] for row in found] == ["Adjustment", "Credit"] * 2
    assert [row["ChargeClass"] for row in found] == ["Correction", "Correction", "", ""]


def test_rounding_and_carrying_are_rows_of_their_own():
    stated = bill(
        ("storage", {"acme": (100, Fraction(100, 3)), "birch": (0, Fraction(100, 3)), "cedar": (0, Fraction(100, 3))}),
    )
    found = check(stated)
    rounded = {member(row): row["x_ExactCost"] for row in found if row["ServiceName"] == "rounding"}
    assert sum(map(Fraction, rounded.values())) == 0
    assert len(rounded) > 1
    assert all(row["ChargeCategory"] == "Adjustment" for row in found if row["ServiceName"] == "rounding")


amounts = st.fractions(min_value=0, max_value=10**9, max_denominator=10**6)
signed = st.fractions(min_value=-(10**6), max_value=10**9, max_denominator=10**6)


@given(
    given=st.tuples(signed, signed, signed),
    shares=st.tuples(*[st.integers(0, 10**6)] * 3).filter(any),
    flop=st.tuples(*[st.integers(0, 10**24)] * 3),
)
def test_any_bill_sums_to_what_each_pays_and_its_ratios_to_one(given, shares, flop):
    names, cost = ("acme", "birch", "cedar"), sum(given, Fraction(0))
    charged = [cost * share / sum(shares) for share in shares]
    lines = dict(zip(names, zip(given, charged, strict=True), strict=True))
    found = check(bill(("compute", lines), ("storage", lines), flop=dict(zip(names, flop, strict=True))))
    if cost > 0:
        assert total(found, "ConsumedQuantity", ServiceName="compute") == Fraction(sum(flop), 10**18)
        assert total(found, "ConsumedQuantity", ServiceName="storage") == 1


def test_a_period_that_is_no_month_needs_a_date():
    stated = replace(bill(("cap", {"acme": (1, 0), "birch": (0, 1), "cedar": (0, 0)})), period="first")
    with pytest.raises(Refused, match="--date"):
        as_focus([(7, stated, CHARTER)], None)
    found = validated(as_focus([(7, stated, CHARTER)], "2026-12-31"))
    assert {(row["BillingPeriodStart"], row["BillingPeriodEnd"]) for row in found} == {
        ("2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z")
    }
    year = validated(as_focus([(7, replace(stated, period="2026"), CHARTER)], None))
    assert (year[0]["BillingPeriodStart"], year[0]["BillingPeriodEnd"]) == (
        "2026-01-01T00:00:00Z",
        "2027-01-01T00:00:00Z",
    )


# In.

HEADER = "BilledCost,BillingCurrency,BillingPeriodEnd,ChargeCategory,ServiceCategory"
END = "2026-12-01T00:00:00Z"


def csv_of(*lines: str, header: str = HEADER) -> bytes:
    return "\n".join([header, *lines, ""]).encode()


def row(cost: str, category: str = "Compute", code: str = "USD", end: str = END, kind: str = "Usage") -> str:
    return f"{cost},{code},{end},{kind},{category}"


def test_charges_become_one_cost_for_each_category_currency_and_period():
    data = csv_of(
        row("10.10"),
        row("-0.1", kind="Credit"),
        row("0.000000000001"),
        row("3", "Networking", "EUR"),
        row("2", "AI and Machine Learning"),
        row("5", end="2026-11-01 00:00:00"),
        row("1.9", kind="Tax"),
        row("1", "Storage"),
        row("-1", "Storage"),
    )
    assert [each[:4] for each in items(rows(data))] == [
        ("compute", "USD", "2026-10-31", "5"),
        ("network", "EUR", "2026-11-30", "3"),
        ("ai_and_machine_learning", "USD", "2026-11-30", "2"),
        ("compute", "USD", "2026-11-30", "10.000000000001"),
        ("tax", "USD", "2026-11-30", "1.9"),
    ]


@given(cents=st.lists(st.integers(-(10**28), 10**28), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_sums_lose_no_digit_whatever_the_order(cents, seed):
    written = [f"{'-' if each < 0 else ''}{abs(each) // 10**12}.{abs(each) % 10**12:012}" for each in cents]
    lines = [row(each) for each in written]
    random.Random(seed).shuffle(lines)
    whole = Fraction(sum(cents), 10**12)
    if whole < 0:
        with pytest.raises(Refused, match="credits are more"):
            items(rows(csv_of(*lines)))
    else:
        assert [Fraction(each.amount) for each in items(rows(csv_of(*lines)))] == ([whole] if whole else [])


def test_the_official_sample_sums_to_its_published_totals():
    """Totals of the 1,000 rows of FOCUS's own sample of 1.0 (FinOps Foundation, CC-BY-4.0), by service category."""
    published = {
        "Compute": "17.56473934470",
        "Databases": "1.12763032714",
        "Identity": "0.00416666670",
        "Integration": "0.00008580060",
        "Management and Governance": "0.22020958380",
        "Networking": "0.49177673460",
        "Other": "0.46277298090",
        "Security": "0.00894444450",
        "Storage": "0.79179840783",
    }
    refunds = ("-0.15189756178", "AI and Machine Learning")
    lines = [row(cost, name) for name, cost in published.items()]
    found = items(rows(csv_of(*lines)))
    assert sum(Fraction(each.amount) for each in found) + Fraction(refunds[0]) == Fraction("20.52022672899")
    with pytest.raises(Refused, match=r"ai_and_machine_learning in USD of the period to 2026-11-30, rows 11: "):
        items(rows(csv_of(*lines, row(*refunds))))


def test_who_is_below_zero_is_named_with_its_rows():
    lines = [row("-1"), row("1", "Storage"), *[row("-1")] * 3, row("1", "Storage"), row("0.5")]
    with pytest.raises(Refused) as caught:
        items(rows(csv_of(*lines)))
    assert caught.value.refusal is Refusal.BAD_FIELD
    assert "compute in USD of the period to 2026-11-30, rows 2, 4-6, 8: the credits are more" in caught.value.detail
    many = [row(cost, name) for _ in range(15) for cost, name in (("-1", "Compute"), ("1", "Storage"))]
    with pytest.raises(Refused, match=r"rows 2, 4, 6, 8, 10, 12, 14, 16, 18, 20 and 5 more: "):
        items(rows(csv_of(*many)))


def test_more_digits_than_a_cost_item_has_are_refused_and_not_rounded():
    for cost in ("0.0000000000001", "999999999999999999"):
        with pytest.raises(Refused, match="rows 2-3 is of more digits"):
            items(rows(csv_of(row(cost), row("999999999999999999"))))
    assert items(rows(csv_of(row("0.0000000000005"), row("0.0000000000005"))))[0].amount == "0.000000000001"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file holds no charges"),
        (csv_of(), "the file holds no charges"),
        (csv_of(row("1"), header=HEADER.replace("BilledCost", "Cost")), "row 1 has no column BilledCost"),
        (csv_of(row("1"), header=HEADER.replace("ChargeCategory", "BilledCost")), "row 1 has no column ChargeCategory"),
        (csv_of(f"{row('1')},2", header=f"{HEADER},BilledCost"), "row 1 has a column BilledCost twice"),
        (csv_of(row("1"), row("2") + ","), "row 3 has 6 fields, row 1 has 5"),
        (csv_of(row("1"), "", row("2")), "row 3 has 0 fields"),
        (csv_of(row("1"), row("1e5")), "row 3: BilledCost '1e5'"),
        (csv_of(row("1"), row('"1,000"')), "row 3: BilledCost '1,000'"),
        (csv_of(row("+1")), "row 2: BilledCost '+1'"),
        (csv_of(row("")), "row 2: BilledCost ''"),
        (csv_of(row("NaN")), "row 2: BilledCost 'NaN'"),
        (csv_of(row("١٢")), "row 2: BilledCost"),
        (csv_of(row("1", code="USDT")), "row 2: BillingCurrency: USDT is no currency"),
        (csv_of(row("1", code="")), "row 2: BillingCurrency: "),
        (csv_of(row("1", kind="usage")), "row 2: ChargeCategory 'usage'"),
        (csv_of(row("1", "")), "row 2: ServiceCategory ''"),
        (csv_of(row("1", "a" * 33)), "row 2: ServiceCategory"),
        (csv_of(row("1", end="soon")), "row 2: BillingPeriodEnd 'soon'"),
        (csv_of(row("1", end="2026-W48-1")), "row 2: BillingPeriodEnd"),
        (csv_of(row("1", end="2026-13-01")), "row 2: BillingPeriodEnd"),
        (csv_of(row("1", end="0001-01-01")), "row 2: BillingPeriodEnd"),
        (csv_of(row("1")) + "1,USD,é".encode("latin-1"), "line 3 is not UTF-8"),
        (csv_of(row("1")).decode().encode("utf-16"), "line 1 is not UTF-8"),
        (csv_of(row("1"), '"1"2,USD'), "row 3 is no CSV"),
        (csv_of(row("1"), '"1,USD'), "row 3 is no CSV"),
    ],
)
def test_a_file_that_is_no_such_bill_is_refused_with_its_row(data, said):
    with pytest.raises(Refused) as caught:
        items(rows(data))
    assert said in caught.value.detail
    assert caught.value.refusal is (
        Refusal.UNKNOWN_CURRENCY if "is no currency" in str(caught.value) else Refusal.BAD_FIELD
    )


def test_a_bom_and_other_columns_and_lines_that_end_otherwise_are_no_fault():
    plain = csv_of(row("1.5"))
    more = csv_of(f'"a, ""b""\nc",{row("1.5")}', header=f"Tags,{HEADER}")
    for data in (codecs.BOM_UTF8 + plain, plain.replace(b"\n", b"\r\n"), plain.rstrip(), more):
        assert [each.amount for each in items(rows(data))] == ["1.5"]


@pytest.mark.parametrize(
    ("end", "day"),
    [
        ("2026-12-01T00:00:00Z", "2026-11-30"),
        ("2026-12-01", "2026-11-30"),
        ("2026-11-30T23:59:59.999Z", "2026-11-30"),
        ("2026-12-01T00:00:00+02:00", "2026-11-30"),
        ("2026-12-01T00:00:00-02:00", "2026-12-01"),
    ],
)
def test_a_cost_is_of_the_last_day_of_its_billing_period(end, day):
    assert [each.date for each in rows(csv_of(row("1", end=end)))] == [day]


def test_items_are_named_by_the_file_and_what_they_are_of():
    data = csv_of(row("1"), row("1", "Management and Governance"))
    first, second = costs(data, "services", "2026-11")
    assert re.fullmatch(r"[0-9a-f]{12}-2026-11-30-usd-compute", first.item)
    assert second.item == first.item.replace("compute", "management-and-governance")
    assert (first.pot, first.period) == ("services", "2026-11")
    assert costs(data.replace(b"1,", b"2,"), "services", "2026-11")[0].item != first.item


def test_a_bill_is_entered_once_however_often_the_command_is_given(tmp_path, capsys):
    port = free_port()
    founded = found(
        tmp_path / "parties",
        {"acme": 1, "birch": 1},
        ledger_url=f"http://127.0.0.1:{port}",
        superlink="127.0.0.1:0",
        price=PRICE,
    )
    home = founded.member("birch").path
    (tmp_path / "cloud.csv").write_bytes(csv_of(row("1.5", code="EUR"), row("2", "Storage", "EUR")))
    command = ["cost", "--home", str(home), "--focus", str(tmp_path / "cloud.csv"), "--period", "2026-11"]
    with serving(founded.ledger, port) as ledger:
        ledger.append(founded.charter)
        assert main([*command, "--pot", "services", "--dry-run"]) == 0
        planned = capsys.readouterr().out
        assert [line.partition(", ")[2] for line in planned.splitlines()] == [
            "1.5 EUR for compute",
            "2 EUR for storage",
        ]
        assert ledger.last("birch/admin") is None
        assert main([*command, "--pot", "compute"]) == 2
        assert "0 of 2 cost items are entered" in capsys.readouterr().err
        for _ in range(2):
            assert main([*command, "--pot", "services"]) == 0
            assert capsys.readouterr().out.splitlines() == [
                f"{line}, is entry {index}" for index, line in enumerate(planned.splitlines(), start=1)
            ]
        assert ledger.last("birch/admin")[2] == 2
    said = [entries.peek(path.read_bytes()) for path in (home / "evidence").glob("*.note")]
    assert {each.payer for each in said} == {Home(home).settings.member}
    assert len({each.evidence for each in said}) == 2  # Nobody can tell that they are of one file.


def test_a_bill_that_is_not_whole_enters_nothing(tmp_path, capsys):
    (tmp_path / "cloud.csv").write_bytes(csv_of(row("1.5"), row("x")))
    command = ["cost", "--home", str(tmp_path), "--focus", str(tmp_path / "cloud.csv"), "--period", "2026-11"]
    assert main([*command, "--pot", "services"]) == 2
    said = capsys.readouterr()
    assert (said.out, "row 3" in said.err) == ("", True)
    assert list(Path(tmp_path).iterdir()) == [tmp_path / "cloud.csv"]
