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


def test_without_worth_share_no_line_is_there(bill):
    assert "worth: credit" not in bill()[1]
    assert "worth: credit" in bill(worth_share=Fraction(1, 10))[1]
