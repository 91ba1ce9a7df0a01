"""`consortium allocate` and `consortium quote`: what they print, and what they do not read."""

import json
from argparse import ArgumentParser
from fractions import Fraction
from pathlib import Path

import pytest
from world import CONSORTIUM, key, whole

from bench.receipts import publish
from client.allocate import COMMANDS
from shared_models.records.refusals import Refused
from shared_models.records.tlog import TreeHead

COST = {"cost": 100, "drivers": {"acme": 2, "birch": 1, "cedar": 0}}
TABLE = {"costs": {"acme": 60, "birch": 50, "cedar": "30.5", "acme birch": 90, "acme cedar": 80, "cedar birch": 70}}
TABLE["costs"]["acme birch cedar"] = 100
QUOTE = ("quote", "--price", "30000", "--watts", "700", "--kwh", "0.08", "--server-power", "51/28")


@pytest.fixture
def run(capsys, tmp_path):
    """Run a command by calling its function; what stands for a file is written to one."""

    def command(name: str, *words: object) -> str:
        path = tmp_path / "asked.json"
        found = next(each for each in COMMANDS if each.name == name)
        parser = ArgumentParser()
        found.arguments(parser)
        line = []
        for word in words:
            if not isinstance(word, str):
                path.write_bytes(word if isinstance(word, bytes) else json.dumps(word).encode())
                word = path
            line.append(str(word))
        assert found.run(parser.parse_args(line)) == 0
        return capsys.readouterr().out

    return command


def test_charges_are_printed_exactly_and_in_whole_units_that_sum_to_the_cost(run):
    assert run("allocate", "proportional", COST) == (
        """\
acme                  67  200/3
birch                 33  100/3
cedar                  0  0
the cost             100
"""
    )


def test_a_tie_falls_as_in_a_statement_of_that_period(run):
    even = {"cost": 1, "drivers": {"acme": 1, "birch": 1}}
    printed = {run("allocate", "equal", even, "--period", period) for period in "abcdefgh"}
    assert len(printed) == 2
    assert all("1/2" in each for each in printed)


def test_a_refund_is_divided_too(run):
    told = json.loads(run("allocate", "proportional", COST | {"cost": -100}, "--json"))["charges"]
    assert {member: (each["exact"], each["rounded"]) for member, each in told.items()} == {
        "acme": ("-200/3", -67),
        "birch": ("-100/3", -33),
        "cedar": ("0", 0),
    }


def test_floors_and_caps_bound_a_rule(run):
    told = json.loads(run("allocate", "equal", COST | {"caps": {"birch": "40.25"}}, "--json"))
    assert told == {
        "schema": "consortium.allocation/1",
        "rule": "equal",
        "cost": 100,
        "charges": {
            "acme": {"exact": "239/4", "rounded": 60},
            "birch": {"exact": "161/4", "rounded": 40},
            "cedar": {"exact": "0", "rounded": 0},
        },
    }
    told = json.loads(run("allocate", "equal", COST | {"floors": {"cedar": 10}}, "--json"))
    assert [each["exact"] for each in told["charges"].values()] == ["45", "45", "10"]
    assert "the cost               0" in run("allocate", "equal", COST | {"cost": 0, "caps": {"acme": 1}})
    with pytest.raises(Refused, match="infeasible: the caps sum to 50, 50 less than the cost"):
        run("allocate", "equal", COST | {"caps": {"acme": 20, "birch": 30}})


@pytest.mark.parametrize(
    ("rule", "charges"),
    [
        ("shapley", ["539/12", "419/12", "121/6"]),
        ("scrb", ["7230/161", "5620/161", "3250/161"]),
        ("nucleolus", ["359/8", "279/8", "81/4"]),
    ],
)
def test_a_cost_table_is_divided_and_the_worst_off_are_named(run, rule, charges):
    told = json.loads(run("allocate", rule, TABLE, "--json"))
    assert [each["exact"] for each in told["charges"].values()] == charges
    assert sum(each["rounded"] for each in told["charges"].values()) == told["cost"] == 100
    assert set(told["worst_coalition"]) == {"members", "slack"}


def test_who_would_leave_is_said_in_words(run):
    table = {"costs": {"acme": 10, "birch": 10, "acme birch": 20}}
    said = "nobody would pay less alone; the nearest to it, acme, would pay 0 more"
    assert run("allocate", "shapley", table).splitlines()[-1] == said
    table = {"costs": {"a": 10, "b": 10, "c": 10, "a b": 12, "a c": 12, "b c": 12, "a b c": 30}}
    assert run("allocate", "nucleolus", table).splitlines()[-1] == "a b would pay 8 less alone"


def test_scrb_needs_no_more_than_its_quotes(run):
    quotes = {"cost": 100, "alone": {"a": 60, "b": 50, "c": 30}, "without": {"a": 80, "b": 70, "c": 90}}
    told = json.loads(run("allocate", "scrb", quotes, "--json"))
    assert [each["exact"] for each in told["charges"].values()] == ["40", "40", "20"]
    assert "worst_coalition" not in told
    alone = json.loads(run("allocate", "scrb", {"costs": {"acme": 7}}, "--json"))
    assert alone["charges"] == {"acme": {"exact": "7", "rounded": 7}}


def test_charges_of_thousands_of_digits_are_printed(run):
    odd = {"cost": 10**9, "drivers": {str(number): f"1/{10**29 + number}" for number in range(200)}}
    assert max(map(len, run("allocate", "proportional", odd).splitlines())) > 9000


@pytest.mark.parametrize(
    ("rule", "asked", "said"),
    [
        ("by_mood", COST, "no rule is called by_mood: proportional, equal"),
        ("equal", TABLE, "for this rule the file has cost, drivers"),
        ("equal", COST | {"cap": {}}, "for this rule the file has cost, drivers"),
        ("equal", [1], "for this rule the file has cost, drivers"),
        ("shapley", COST, "for this rule the file has costs"),
        ("scrb", {"cost": 1, "alone": {}}, "for this rule the file has alone, cost, without"),
        ("equal", COST | {"drivers": [1]}, "a number by name is asked for"),
        ("equal", COST | {"cost": "100.5"}, "the cost is 201/2: whole minor units are divided"),
        ("equal", COST | {"cost": True}, "True is no number"),
        ("equal", COST | {"cost": None}, "None is no number"),
        ("equal", COST | {"cost": "1e999"}, "1e999 is no number"),
        ("equal", COST | {"cost": "1/0"}, "1/0 divides by zero"),
        ("equal", b'{"cost": NaN, "drivers": {"a": 1}}', "nan is no number"),
        ("equal", b'{"cost": 1, "drivers": {"a": 1, "a": 2}}', "a name stands twice"),
        ("equal", b"{", "is no JSON"),
        ("equal", b"\xff", "is no JSON"),
        ("equal", b"[" * 100_000, "is no JSON"),
        ("shapley", {"costs": {"a b": 1, "b a": 2}}, "the table names a coalition twice"),
        ("shapley", {"costs": {"a": 1, "b": 1}}, "the table has no cost for a b"),
    ],
)
def test_what_cannot_be_divided_is_refused(run, rule, asked, said):
    with pytest.raises(Refused, match=f"bad_field: .*{said}"):
        run("allocate", rule, asked)


def test_a_file_that_is_not_there_is_not_found(run, tmp_path):
    with pytest.raises(Refused, match=r"not_found: .*nothing\.json"):
        run("allocate", "equal", str(tmp_path / "nothing.json"))


def test_a_decimal_is_read_exactly(run):
    told = run("allocate", "proportional", b'{"cost": 3e1, "drivers": {"a": 0.1, "b": 0.2}}', "--json")
    assert [each["exact"] for each in json.loads(told)["charges"].values()] == ["10", "20"]


def test_a_quote_by_part(run):
    assert run(*QUOTE, "--chip-hours", "1000000", "--years", "1.5") == (
        """\
chip hours          1,000,000.00
chips                 414,781.77
servers               265,460.34
network               159,562.96
energy                 95,625.00
total                 935,430.07
"""
    )


def test_a_quote_by_the_work_to_be_done(run):
    told = json.loads(run(*QUOTE, "--flop", "3.6e20", "--peak", "1e15", "--mfu", "0.5", "--json"))
    assert (told["schema"], told["chip_hours"], told["energy"]) == ("consortium.quote/1", "200.00", "19.12")
    assert set(told) == {"schema", "chip_hours", "chips", "servers", "network", "energy", "total"}


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--chip-hours", "1", "--flop", "1e20", "--peak", "1e15"),
        ("--flop", "1e20"),
        ("--chip-hours", "1", "--peak", "1e15"),
    ],
)
def test_a_quote_is_for_hours_or_for_work(run, words):
    with pytest.raises(Refused, match="bad_field: give --chip-hours, or --flop and --peak"):
        run(*QUOTE, *words)


LOG = f"{CONSORTIUM}/log"
BOUGHT = {
    "demand": {"acme": 30, "birch": 80, "cedar": "1.5"},
    "fixed": 500,
    "blocks": [{"upto": 100, "price": 9}, {"price": 6}],
}


@pytest.fixture
def log(tmp_path) -> tuple[str, str]:
    """A log of three entries, as words of a command."""
    publish(tmp_path / "log", whole().leaves[:3], key(LOG))
    return "--log", str(tmp_path / "log")


def test_what_buying_together_saves_is_estimated_from_a_root_of_the_log(run, log):
    told = json.loads(run("allocate", "sampled", BOUGHT, *log, "--samples", "50", "--json"))
    estimates = told.pop("estimates")
    assert {name: told[name] for name in ("cost", "log_size", "samples", "risk")} == {
        "cost": "1469",
        "log_size": 3,
        "samples": 50,
        "risk": "1/20",
    }
    assert sum(Fraction(each["value"]) for each in estimates.values()) == 1469
    assert Fraction(estimates["birch"]["bound"]) > Fraction(estimates["cedar"]["bound"]) > 0
    again = json.loads(run("allocate", "sampled", BOUGHT, *log, "--samples", "50", "--json", "--size", "3"))
    assert again == told | {"estimates": estimates}
    earlier = json.loads(run("allocate", "sampled", BOUGHT, *log, "--samples", "50", "--json", "--size", "2"))
    other = json.loads(run("allocate", "sampled", BOUGHT | {"fixed": "500.0"}, *log, "--samples", "50", "--json"))
    assert len({each["seed"] for each in (told, earlier, other)}) == 3
    assert earlier["estimates"] != estimates
    printed = run("allocate", "sampled", BOUGHT, *log).splitlines()
    assert [line.split()[0] for line in printed] == ["acme", "birch", "cedar", "the", "1000"]
    assert printed[-1].startswith("1000 orders, drawn by the log's root of 3 entries")


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        ({}, ("--size", "4"), "the log has 3 entries, and not yet 4"),
        ({}, ("--size", "0"), "the log has 3 entries, and not yet 0"),
        ({}, ("--samples", "0"), "one sample at least"),
        ({"demand": {"acme": -1}}, (), "a demand of nothing at least"),
        ({"demand": {}}, (), "a demand of nothing at least, of one member at least"),
        ({"blocks": {"price": 1}}, (), "are a list"),
        ({"blocks": [{"upto": 3, "price": 1}]}, (), "ends behind the one before it"),
        ({"blocks": [{"from": 3, "price": 1}]}, (), "the file has price"),
        ({"tariff": 1}, (), "the file has blocks, demand"),
    ],
)
def test_what_cannot_be_estimated_is_refused(run, log, change, words, why):
    with pytest.raises(Refused, match=why):
        run("allocate", "sampled", BOUGHT | change, *log, *words)


def test_an_estimate_names_its_log_and_the_log_is_whole(run, log):
    with pytest.raises(Refused, match="say with --log"):
        run("allocate", "sampled", BOUGHT)
    (head,) = Path(log[1]).glob("checkpoint")
    head.write_bytes(TreeHead(LOG, 3, bytes(32)).sign(key(LOG)))
    with pytest.raises(Refused, match="do not come to its root"):
        run("allocate", "sampled", BOUGHT, *log)
