"""What a run has cost, and between what the rest of it lies: its work, what that is worth, and when it ends.

The band of m rounds to come is m times the least and m times the most that one of the n rounds seen has taken. It
assumes no distribution, only that the order of the rounds is by chance (that they are exchangeable). Then each round to
come lies between the extremes of those seen if the least and the most of all n + m are among the n. The chance of that
is n (n - 1) / ((n + m) (n + m - 1)), or more where values repeat (L. Danziger and S. A. Davis, Tables of
distribution-free tolerance limits, Annals of Mathematical Statistics 35(3), 1964; all m are to lie within). What they
add up to is in the band then, and often when one of them is not. No band promises more than n / (n + m) of a sum
without assuming more: one round may outweigh all others, and is still to come with the chance m / (n + m).

What the assumption leaves out: members who come or go, machines or texts that change, a coordinator that stood still.
Tests hold the formula against every order of a few rounds, and the band against runs that were trained.
"""

from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from ledger.curve import Track, worth
from ledger.shown import Shown, amount, moment, span, work
from shared_models.rules.pricing import value

FEW = 4  # Of fewer rounds the next one leaves what they span as often as not: (n - 1) / (n + 1) is a half or less.


class Sum(NamedTuple):
    """What some rounds come to."""

    rounds: int
    flop: int
    cost: Fraction  # Minor units.
    takes_ms: int  # From the opening of the first of them to the end of the last.
    until_ms: int

    def plus(self, later: "Sum") -> "Sum":
        """These rounds and then those."""
        counted = self.rounds + later.rounds, self.flop + later.flop, self.cost + later.cost
        return Sum(*counted, self.takes_ms + later.takes_ms, later.until_ms)


class Band(NamedTuple):
    """The rounds to come."""

    least: Sum
    most: Sum
    seen: int  # Rounds, from one opening to the next: what it follows from.
    chance: Fraction  # That each round to come is, in work and in time, no less and no more than one that was seen.


def so_far(run: Track) -> Sum:
    """What the closed rounds count, each at the price of its period; in time, up to the newest opening, which is some
    time of 1970 before there is one.
    """
    first, newest = (run.opened_ms[0], run.opened_ms[-1]) if run.opened_ms else (0, 0)
    flop = sum(each.flop for each in run.closed)
    (cost,) = worth(run, [len(run.closed)])
    return Sum(len(run.closed), flop, cost, newest - first, newest)


def chance(seen: int, left: int) -> Fraction:
    """That the extremes of so many rounds, in an order by chance, are among those that were seen, two or more."""
    return Fraction(seen * (seen - 1), (seen + left) * (seen + left - 1))


def band(run: Track, now_ms: int) -> Band | str:
    """What is to come, of all that is known at this time; or why nothing can be said of it."""
    planned, took_ms = run.manifest.rounds, _took_ms(run)
    if run.ended or len(run.closed) == planned:
        return "Nothing is to come: " + ("the run has ended." if run.ended else "every round is closed.")
    seen = len(took_ms)
    if seen < FEW:
        return (
            f"Nothing can be said yet of what is to come: of {planned} rounds {seen} have been seen from their opening"
            f" to the next, and of fewer than {FEW} another one leaves what they span as often as not."
        )
    if min(took_ms) < 0:
        return (
            "Nothing can be said of what is to come: the coordinator's clock has gone back from one round to the next."
        )
    newest, left = run.opened_ms[-1], planned - seen  # With the newest one, whether it is still open or just closed.

    def each_as(one_ms: int, flop: int) -> Sum:
        """If all that is to come were so; but the newest round has not ended before now."""
        until_ms = max(newest + one_ms, now_ms) + (left - 1) * one_ms
        rounds = planned - len(run.closed)
        return Sum(rounds, rounds * flop, value(rounds * flop, run.price), until_ms - newest, until_ms)

    flop = [each.flop for each in run.closed]
    return Band(each_as(min(took_ms), min(flop)), each_as(max(took_ms), max(flop)), seen, chance(seen, left))


def _took_ms(run: Track) -> list[int]:
    """What each round took that was seen from its opening to the next."""
    return [after - before for before, after in pairwise(run.opened_ms)]


def forecast(run: Track, now_ms: int) -> dict[str, Any]:
    """The same to be shown: what was spent, and either `rows` or `why` there are none."""
    spent, found = so_far(run), band(run, now_ms)
    told: dict[str, Any] = {
        "ended": run.ended,
        "rounds": spent.rounds,
        "work": work(spent.flop),
        "cost": amount(spent.cost, run.charter),
        "price": amount(run.price, run.charter),
        "patience": run.manifest.patience,
        "why": found if isinstance(found, str) else "",
        "rows": [],
    }
    if isinstance(found, str):
        return told
    overdue = now_ms - run.opened_ms[-1] > max(_took_ms(run))
    percent = None if overdue else Shown(f"{100 * found.chance // 1} %", str(found.chance), str(found.chance))
    rows = [_row("so far", spent, run, None)]
    bounds = {"at least": found.least, "at most": found.most}
    rows += [_row(f"to come, {name}", each, run, percent) for name, each in bounds.items()]
    rows += [_row(f"in all, {name}", spent.plus(each), run, percent) for name, each in bounds.items()]
    return told | {
        "rows": rows,
        "seen": found.seen,
        "left": found.least.rounds,
        "chance": percent,
        "overdue": len(run.opened_ms) if overdue else None,  # Its number.
    }


def _row(what: str, of: Sum, run: Track, percent: Shown | None) -> dict[str, Any]:
    return {
        "what": what,
        "rounds": of.rounds,
        "work": work(of.flop),
        "cost": amount(of.cost, run.charter),
        "takes": span(of.takes_ms),
        "until": moment(of.until_ms),
        "chance": percent,
    }
