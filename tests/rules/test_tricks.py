"""The table of tricks: none gains anything here, and what each would gain elsewhere is computed."""

import json
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest

from consortium.cli import main
from shared_models.rules import tricks
from shared_models.rules.tricks import NAMES, OTHERS, PARTS, WORTH, Row

ROOT = Path(__file__).parent.parent.parent
ROWS = tricks.table()


def row(words: str) -> Row:
    (found,) = (each for each in ROWS if words in each.trick)
    return found


@pytest.mark.parametrize("each", ROWS, ids=lambda each: each.trick)
def test_a_trick_gains_nothing_and_the_test_that_plays_it_is_there(each):
    assert each.gain <= 0 <= each.gain_elsewhere
    assert (ROOT / each.test).is_file()


def test_what_costs_the_cheat_something_costs_it_its_own_part():
    assert {each.trick: each.gain for each in ROWS if each.gain} == {
        row("equal pot").trick: -WORTH * (Fraction(8, 12) - Fraction(1, 5)),
        row("dearer").trick: -Fraction(WORTH, 5),
    }


def test_equal_parts_for_each_node_make_two_thirds_of_a_fifth():
    found = row("share work's pot")
    assert "20.0 % becomes 66.7 %" in found.elsewhere
    assert found.gain_elsewhere == 5 * WORTH * (Fraction(8, 12) - Fraction(1, 5))


def test_what_a_copy_brings_by_the_shapley_value_is_the_mean_over_all_orders():
    """Counted over the orders of joining, by places: only the first copy adds anything."""

    def value(copies: int) -> Fraction:
        """What all copies add, in the mean over orders of their places among the others."""
        total, count = Fraction(0), 0
        for order in set(permutations([True] * copies + [False] * 2)):
            others = order.index(True)  # So many others stand before the first copy.
            total += Fraction(1, 2**others) - Fraction(1, 2 ** (others + 1))
            count += 1
        return total / count

    by_class = tricks.shapley_by_class(
        {"cheat": 3, "others": 2}, lambda counts: 1 - Fraction(1, 2 ** (min(counts[0], 1) + counts[1]))
    )
    assert 3 * by_class["cheat"] == value(3) > value(1)
    assert row("copy another").gain_elsewhere > 0


@pytest.mark.parametrize(
    ("words", "elsewhere"),
    [
        ("pose as one", WORTH * (Fraction(2, 5) - Fraction(1, 4))),
        ("outvote", WORTH * Fraction(4, 5)),
        ("ten times the hours", 5 * WORTH * (Fraction(10, 14) - Fraction(1, 5))),
        ("ten times the work", 9 * WORTH * Fraction(4, 5)),
        ("twice", WORTH * Fraction(4, 5)),
        ("scale", 5 * WORTH * (Fraction(10, 14) - Fraction(1, 5))),
        ("invent", WORTH * Fraction(4, 5)),
        ("closed", WORTH * Fraction(4, 5)),
        ("better rate", WORTH * Fraction(1, 10) * Fraction(4, 5)),
        ("quote low", WORTH),
        ("creditor", Fraction(WORTH, 5)),
        ("tiny", 100 * Fraction(1, 5)),
    ],
)
def test_what_a_trick_would_gain_elsewhere(words, elsewhere):
    assert all(each.gain_elsewhere == elsewhere for each in ROWS if words in each.trick)
    assert any(words in each.trick for each in ROWS)


def test_what_is_refused_says_by_which_name():
    assert {each.stopped_by.partition(";")[0] for each in ROWS if each.stopped_by.startswith("refused")} == {
        f"refused: {name}"
        for name in ("wrong_charter", "implausible", "conflict", "wrong_item", "closed", "no_rate", "after_the_fact",
                     "not_owed")
    }  # fmt: skip


def test_a_trick_that_gained_something_would_be_seen(monkeypatch, capsys):
    """The check of the check: a cost that is invented, and that nobody disputes."""

    def unseen(lie: bool) -> tricks.Play:
        play = tricks.Play()
        if lie:
            play.say("acme/admin", tricks.item("invented"))
        play.bill()
        return play

    trick = tricks.Trick("invent, unseen", unseen, "the same", lambda: Fraction(0), "nothing", "gold_plated_cost")
    monkeypatch.setattr(tricks, "TRICKS", (trick,))
    (found,) = tricks.table()
    assert found.gain == WORTH * Fraction(4, 5)
    assert main(["ledger", "audit-rules"]) == 1
    assert "invent, unseen" in capsys.readouterr().out


def test_the_command_prints_the_table_and_says_that_nothing_is_gained(capsys):
    assert main(["ledger", "audit-rules"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 + 2 * len(ROWS)
    assert main(["ledger", "audit-rules", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "consortium.audit_rules/1"
    assert [Fraction(each["gain_elsewhere"]) for each in told["tricks"]] == [each.gain_elsewhere for each in ROWS]
    assert [each["trick"] for each in told["tricks"]] == [each.trick for each in ROWS]


def test_the_parties_are_those_of_the_table():
    assert (NAMES[1:], len(PARTS)) == (OTHERS, 8)
