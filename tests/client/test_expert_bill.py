"""What members' experts are worth, on the bill as a person and a program read it."""

import json
from fractions import Fraction

import pytest
from world import CONSORTIUM, digest, experts, key

from bench.receipts import publish
from consortium.cli import main
from shared_models.rules.currency import money


@pytest.fixture
def bill(tmp_path, capsys):
    """Print the bill of a month in which two members have measured what experts are worth: (exit code, output)."""

    def command(*words: str, **charter: object) -> tuple[int, str]:
        world = experts(**charter)
        world.bill()
        publish(tmp_path, world.leaves, key(f"{CONSORTIUM}/log"))
        code = main(["bill", str(tmp_path), *words])
        return code, capsys.readouterr().out

    return command


def test_a_bill_says_what_each_expert_is_worth_and_in_which_entry_it_was_measured(bill):
    code, said = bill()
    first, second = (each.entry for each in experts().books.worths)
    about = f"experts of run r1 on the text {digest('text')[:12]}…, as acme has measured, are worth"
    parts = "acme 91 (0.0% of the routes), birch 30 (0.0% of the routes), cedar -30 (0.0% of the routes)"
    assert (code, f"entry {first}: {about}, in millionths of a nat per byte: {parts}" in said.splitlines()) == (0, True)
    assert f"entry {second}: " in said


def test_and_so_it_does_for_programs_exactly(bill):
    code, said = bill("--json")
    first, second = json.loads(said)["worth"]
    assert (code, first["worth_unats"]) == (0, {"acme": "181/2", "birch": "61/2", "cedar": "-30"})
    assert (first["member"], second["member"], first["routed"]["cedar"]) == ("acme", "birch", "1/2048")


def test_what_is_paid_for_an_expert_opens_to_what_most_have_measured(bill):
    code, said = bill("--explain", "acme/worth", worth_share=Fraction(1, 10))
    whole = experts(worth_share=Fraction(1, 10))
    line = next(each for each in whole.statement().lines if (each.pot, each.member) == ("worth", "acme"))
    assert (code, f"which is {line.credit} minor units, of" in said) == (0, True)
    assert f"charge {money(line.charge, whole.charter)}, which is {line.charge} minor units" in said
    assert "  181/242 of what all experts that lower the loss take off it" in said
    for each in whole.books.worths:
        assert f"entry {each.entry:<8} what experts are worth, as a member has measured" in said
    assert "entry 0        the charter: price, rules, benefits" in said
    assert "as a member has measured" not in bill("--explain", "acme/compute", worth_share=Fraction(1, 10))[1]


@pytest.mark.parametrize("form", ["csv", "hledger", "beancount", "focus"])
def test_other_programs_are_given_it_as_they_are_a_cap(bill, form):
    code, said = bill("--as", form, worth_share=Fraction(1, 10))
    assert (code, "worth" in said) == (0, True)


def test_what_was_served_opens_to_who_has_said_so_and_to_its_price(serving):
    world, command = serving
    first, second = (each.at for each in world.books.accounts.served.billed["2026-11"])
    code, said = command()
    assert (code, "served: credit" in said) == (0, True)
    told = f"entry {first}: acme says that it has served 1,000,001 tokens in 2026-11, of a model of run r1:"
    parts = "500,000 through the expert of birch, 100,000 through the expert of cedar"
    assert f"{told} {parts}, 400,001 through the given weights" in said.splitlines()
    code, said = command("--explain", "birch/served")
    price = "x 30 minor units / 1,000,000"
    assert f"  acme has served 500,000 tokens through the expert of birch {price} = 0.150000" in said
    assert f"  birch has served 4,000,000 tokens through the expert of cedar {price} = 1.200000" in said
    assert "credit 0.150000, which is 15 minor units" in said
    assert "charge 1.200000, which is 120 minor units" in said
    assert "acme has served 100,000" not in said
    for at in (first, second):
        assert f"entry {at:<8} what a member says that it has served" in said
    assert "what a member says" not in command("--explain", "birch/compute")[1]


def test_and_so_it_does_for_programs(serving):
    world, command = serving
    one, other = json.loads(command("--json")[1])["served"]
    assert (one["member"], one["tokens"], one["routes"]) == ("acme", 1_000_001, {"birch": 500_000, "cedar": 100_000})
    assert (other["member"], other["routes"]) == ("birch", {"birch": 1_000_000, "cedar": 4_000_000})
    assert one["model"] == world.books.runs["r1"].checkpoint
    code, said = command("--what-if", "served=60")
    assert (code, "birch would have 1.05 less" in said) == (0, True)
    for form in ("csv", "hledger", "beancount", "focus"):
        code, said = command("--as", form)
        assert (code, "served" in said) == (0, True)
    opened = json.loads(command("--explain", "cedar/served", "--json")[1])
    assert [each["index"] for each in opened["entries"]] == [0, one["entry"], other["entry"]]


@pytest.fixture
def serving(tmp_path, capsys):
    """A month in which two members have served, at 30 minor units for a million tokens; and its bill as printed."""
    world = experts(expert_price=Fraction(30))
    world.say("acme/admin", world.served("acme", 1_000_001, {"birch": 500_000, "cedar": 100_000}))
    world.say("birch/admin", world.served("birch", 8_000_000, {"birch": 1_000_000, "cedar": 4_000_000}))
    world.bill()
    publish(tmp_path, world.leaves, key(f"{CONSORTIUM}/log"))

    def command(*words: str) -> tuple[int, str]:
        return main(["bill", str(tmp_path), *words]), capsys.readouterr().out

    return world, command


def test_without_worth_share_no_line_is_there(bill):
    assert "worth: credit" not in bill()[1]
    assert "worth: credit" in bill(worth_share=Fraction(1, 10))[1]
