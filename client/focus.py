"""Bills in the form of FOCUS 1.4 (FinOps Open Cost and Usage Specification, Cost and Usage): ours out, a cloud's in.

Out: each pot is an origin charge of the consortium, split among its members. FOCUS asks that what was split from one
charge adds up to it, in every cost, quantity and ratio, and is alike in all that names it; so which member pays stands
in `AllocatedResourceId`, and in `SubAccountId` where nothing was split. Costs are cut as `export` cuts them, behind
them `x_ExactCost` has the fraction. All that concerns one member in one period sums to what it pays, to the unit.

In: the rows of a provider's bill become cost items, one for each service category, currency and billing period.
"""

import codecs
import csv
import datetime
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from client.cost import Cost
from client.export import FINER, as_decimal, bounds, fine_amounts
from shared_models.records.kinds import Charter, Pot, Statement, StatementLine
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import currency
from shared_models.rules.statement import settle

COLUMNS = (
    "AllocatedMethodDetails",
    "AllocatedMethodId",
    "AllocatedResourceId",
    "AllocatedResourceName",
    "AllocatedTags",
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
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
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "x_ExactCost",
    "x_LedgerLeafIndex",
    "x_Period",
    "x_PolicyHash",
    "x_Rule",
)
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")  # All one: there are no discounts.
DIGITS = 18  # Of a ratio, and of an amount of NCU, which is then in whole FLOP.
ROUNDING = "rounding"
NETWORK = {"networking": "network"}  # What FOCUS and a cost item call by different words.
SERVICES = {"compute": "Compute", "network": "Networking", "security": "Security", "storage": "Storage"}


def as_focus(bills: Iterable[tuple[int, Statement, Charter]], date: str | None) -> str:
    """CSV of these statements, each with its index in the log and the charter it follows.

    Raises `Refused(BAD_FIELD)` if a period has no dates.
    """
    out = io.StringIO()
    written = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    written.writeheader()
    for index, bill, charter in bills:
        first, last = (f"{day}T00:00:00Z" for day in bounds(bill.period, date))
        whole = {
            "BillingAccountId": charter.consortium,
            "BillingAccountName": charter.consortium,
            "BillingCurrency": charter.currency,
            "BillingPeriodStart": first,
            "BillingPeriodEnd": last,
            "ChargePeriodStart": first,
            "ChargePeriodEnd": last,
            "HostProviderName": charter.consortium,
            "InvoiceIssuerName": charter.consortium,
            "ServiceProviderName": charter.consortium,
            "x_LedgerLeafIndex": str(index),
            "x_Period": bill.period,
            "x_PolicyHash": bill.charter,
        }
        written.writerows(whole | row for row in _rows(bill, charter))
    return out.getvalue()


def _rows(bill: Statement, charter: Charter) -> Iterator[dict[str, str]]:
    """What each row of a statement has of its own.

    1. What a pot charges is split among the members, by ratios that sum to one: a Usage.
    2. What a member has put into a pot is a Credit, below zero.
    3. A line that belongs to no pot, and those of a pot that charges some members and repays others, are Adjustments;
       so is what rounding and carrying add to a member's lines, or take from them.
    4. A pot takes less than nothing only by credit notes and corrections: such a row corrects what was billed before.
    """
    fine, unit = fine_amounts(bill), 10**charter.minor_digits
    pots = {pot.name: pot for pot in charter.pots}
    paid, exact = dict[str, int](), dict[str, Fraction]()
    for name in dict.fromkeys(each.pot for each in bill.lines):
        lines = [each for each in bill.lines if each.pot == name]
        pot = pots.get(name)
        total = sum((each.charge for each in lines), Fraction(0))
        split = pot is not None and total != 0 and all(each.charge * total >= 0 for each in lines)
        parts = _parts(pot, lines, total, bill, charter) if pot is not None and split else {}
        for line in lines:
            charge, credit = fine[name, line.member, "charge"], fine[name, line.member, "credit"]
            paid[line.member] = paid.get(line.member, 0) + charge - credit
            exact[line.member] = exact.get(line.member, Fraction(0)) + line.charge - line.credit
            for amount, whole, category in (
                (charge, line.charge, "Usage" if split else "Adjustment"),
                (-credit, -line.credit, "Adjustment" if pot is None else "Credit"),
            ):
                if whole:
                    corrects = pot is not None and (whole < 0) == (category != "Credit")
                    row = _row(name, category, charter, amount, whole / unit)
                    row |= {"ChargeClass": "Correction" if corrects else "", "x_Rule": pot.rule if pot else ""}
                    yield row | (parts[line.member] if category == "Usage" else _of(line.member))
    for balance in bill.balances:
        left = -balance.net * 10**FINER - paid.get(balance.member, 0)
        whole = -balance.net - exact.get(balance.member, Fraction(0))
        if left or whole:
            yield _row(ROUNDING, "Adjustment", charter, left, whole / unit) | _of(balance.member)


def _row(service: str, category: str, charter: Charter, fine: int, exact: Fraction) -> dict[str, str]:
    said = {"Usage": "divided among the members", "Credit": "put in by a member"}.get(category, "to or from a member")
    kind = "AI and Machine Learning" if service == charter.compute_pot else SERVICES.get(service, "Other")
    return dict.fromkeys(COSTS, as_decimal(fine, charter)) | {
        "ChargeCategory": category,
        "ChargeDescription": f"{service}: {said}",
        "ChargeFrequency": "Usage-Based" if category == "Usage" else "One-Time",
        "ServiceCategory": kind,
        "ServiceName": service,
        "x_ExactCost": str(exact),
    }


def _of(member: str) -> dict[str, str]:
    return {"SubAccountId": member, "SubAccountName": member}


def _parts(
    pot: Pot, lines: Iterable[StatementLine], total: Fraction, bill: Statement, charter: Charter
) -> dict[str, dict[str, str]]:
    """How much of a pot is each member's. Decimals are rounded together: ratios sum to one, quantities to the whole.

    The quantity is a part of all accepted work, in NCU, to the FLOP; in another pot than that of compute, a part of
    the pot. A pot that repays gives back money, and no quantity.
    """
    shares = {each.member: each.charge / total for each in lines}
    ratios = _divided(10**DIGITS, shares, bill.period)
    quantities, unit = ratios, "Units"
    if pot.name == charter.compute_pot:
        quantities, unit = _divided(sum(each.flop for each in bill.balances), shares, bill.period), "NCU"
    benefits = {each.name: each.benefit for each in charter.members}
    limited = "/bounded" if pot.floors or pot.caps else ""
    found = dict[str, dict[str, str]]()
    for member, ratio in ratios.items():
        driver = ""
        if pot.driver == "benefit" and not (pot.table or limited):
            driver = f',"UsageUnit":"Benefit","UsageQuantity":{benefits[member]}'
        found[member] = {
            "AllocatedMethodDetails": f'{{"Elements":[{{"AllocatedRatio":{_plain(ratio)}{driver}}}]}}',
            "AllocatedMethodId": f"{pot.rule}/{pot.driver}{limited}",
            "AllocatedResourceId": member,
            "AllocatedResourceName": member,
        }
        if total > 0:
            found[member] |= dict.fromkeys(("SkuId", "SkuMeter", "SkuPriceId"), pot.name)
            found[member] |= dict.fromkeys(("ConsumedUnit", "PricingUnit"), unit)
            found[member] |= dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), _plain(quantities[member]))
    return found


def _divided(whole: int, shares: Mapping[str, Fraction], period: str) -> dict[str, int]:
    """This many, divided in these shares, which sum to one; whole, and without one left over."""
    nets, _ = settle({**{member: whole * share for member, share in shares.items()}, "": Fraction(-whole)}, {}, period)
    return {member: nets[member] for member in shares}


def _plain(scaled: int) -> str:
    whole, rest = divmod(scaled, 10**DIGITS)
    return f"{whole}.{rest:0{DIGITS}}".rstrip("0").rstrip(".")


# In.

NEEDED = ("BilledCost", "BillingCurrency", "BillingPeriodEnd", "ChargeCategory", "ServiceCategory")
CHARGES = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,30})?")  # FOCUS allows 35.2E-7 as well; in a bill that is a mistake.
MOMENT = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


class Row(NamedTuple):
    """A charge of a provider's bill."""

    number: int  # As spreadsheets count: the names of the columns are row 1.
    category: str
    currency: str
    date: str  # The last day of its billing period.
    amount: Fraction


class Item(NamedTuple):
    """The charges of one category, currency and billing period, as one cost."""

    category: str
    currency: str
    date: str
    amount: str
    rows: int


def costs(data: bytes, pot: str, period: str) -> list[Cost]:
    """The cost items that this file makes. Their names follow from its bytes: the same file names the same items."""
    digest = hashlib.sha256(data).hexdigest()[:12]
    return [
        Cost(
            item=f"{digest}-{each.date}-{each.currency.lower()}-{each.category.replace('_', '-')}",
            pot=pot,
            period=period,
            category=each.category,
            amount=each.amount,
            currency=each.currency,
            date=each.date,
        )
        for each in items(rows(data))
    ]


def items(charges: Iterable[Row]) -> list[Item]:
    """Charges as costs, in order; what comes to nothing is left out. Sums are exact: no digit is lost.

    Raises `Refused(BAD_FIELD)` if some come to less than nothing, which no cost item can, or to more digits than one
    can have.
    """
    groups = dict[tuple[str, str, str], list[Row]]()
    for each in charges:
        groups.setdefault((each.date, each.currency, each.category), []).append(each)
    found = []
    for (date, code, category), group in sorted(groups.items()):
        total = sum((each.amount for each in group), Fraction(0))
        what = f"{category} in {code} of the period to {date}, {_numbers([each.number for each in group])}"
        if total < 0:
            raise Refused(Refusal.BAD_FIELD, f"{what}: the credits are more than the charges")
        if total:
            found.append(Item(category, code, date, currency.spelled(total, what), len(group)))
    return found


def rows(data: bytes) -> Iterator[Row]:
    """The charges in a file of FOCUS 1.0 to 1.4, as CSV in UTF-8. Raises `Refused`: BAD_FIELD or UNKNOWN_CURRENCY."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Refused(Refusal.BAD_FIELD, f"line {line} is not UTF-8: save the file as CSV in UTF-8") from None
    read = csv.reader(io.StringIO(text, newline=""), strict=True)
    names, number = list[str](), 0
    try:
        for number, fields in enumerate(read, start=1):
            if number == 1:
                names = fields
                _check_columns(names)
            elif len(fields) != len(names):
                raise Refused(Refusal.BAD_FIELD, f"row {number} has {len(fields)} fields, row 1 has {len(names)}")
            else:
                yield _read(number, dict(zip(names, fields, strict=True)))
    except csv.Error as error:
        raise Refused(Refusal.BAD_FIELD, f"row {number + 1} is no CSV: {error}") from None
    if number < 2:
        raise Refused(Refusal.BAD_FIELD, "the file holds no charges")


def _check_columns(names: list[str]) -> None:
    if missing := [name for name in NEEDED if name not in names]:
        raise Refused(Refusal.BAD_FIELD, f"row 1 has no column {', '.join(missing)}: is this a bill in FOCUS form?")
    if twice := [name for name in NEEDED if names.count(name) > 1]:
        raise Refused(Refusal.BAD_FIELD, f"row 1 has a column {', '.join(twice)} twice")


def _read(number: int, fields: Mapping[str, str]) -> Row:
    cost, code, kind = fields["BilledCost"], fields["BillingCurrency"], fields["ChargeCategory"]
    if not NUMBER.fullmatch(cost):
        raise Refused(Refusal.BAD_FIELD, f"row {number}: BilledCost {cost[:40]!r} is no number such as -1234.50")
    try:
        currency.digits(code)
    except Refused as refused:
        raise Refused(refused.refusal, f"row {number}: BillingCurrency: {refused.detail}") from None
    if kind not in CHARGES:
        raise Refused(Refusal.BAD_FIELD, f"row {number}: ChargeCategory {kind[:40]!r} is none of {', '.join(CHARGES)}")
    category = re.sub("[^a-z]+", "_", fields["ServiceCategory"].lower()).strip("_")
    if not 0 < len(category) <= 32:
        raise Refused(Refusal.BAD_FIELD, f"row {number}: ServiceCategory {fields['ServiceCategory'][:40]!r} is no word")
    category = "tax" if kind == "Tax" else NETWORK.get(category, category)
    return Row(number, category, code, _last_day(number, fields["BillingPeriodEnd"]), Fraction(cost))


def _last_day(number: int, end: str) -> str:
    """Of a period that ends with this moment, which is no part of it. Where no time zone is named, it is in UTC."""
    try:
        if not MOMENT.fullmatch(end):
            raise ValueError
        moment = datetime.datetime.fromisoformat(end)
        zone = moment.tzinfo or datetime.UTC
        return str((moment.replace(tzinfo=zone).astimezone(datetime.UTC) - datetime.timedelta(microseconds=1)).date())
    except (ValueError, OverflowError):
        raise Refused(
            Refusal.BAD_FIELD, f"row {number}: BillingPeriodEnd {end[:40]!r} is no moment such as 2026-12-01T00:00:00Z"
        ) from None


def _numbers(numbers: list[int]) -> str:
    """Numbers that ascend, in short: rows 2-4, 7."""
    breaks = [0, *(at for at, (one, other) in enumerate(pairwise(numbers), start=1) if other > one + 1), len(numbers)]
    runs = [(numbers[start], numbers[end - 1]) for start, end in pairwise(breaks)]
    shown = ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in runs[:10])
    return f"rows {shown}{f' and {len(runs) - 10} more' if len(runs) > 10 else ''}"
