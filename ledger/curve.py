"""The curve of a run: its held-out loss after each round, along what its rounds have taken so far.

Rounds, tokens, work and its price follow from the books. Energy and time stand in the receipts alone, which the
projection of them has: they are the word of each member's own daemon, and added up of receipts that a round counts.
"""

import threading
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import accumulate, groupby
from typing import Any, NamedTuple

from ledger.projections import Projector
from ledger.shown import ROWS, Shown, amount, count, energy, hours, loss, work
from shared_models.records.kinds import Charter, Manifest
from shared_models.rules.books import Books, Closed, Run
from shared_models.rules.pricing import tokens_asked, value

WIDE, HIGH = 600, 150  # Of the picture, in units of its own.
AXES = ("rounds", "tokens", "work", "cost", "kwh", "hours")
DECLARED = ("kwh", "hours")  # What only receipts say.


class Spent(NamedTuple):
    """What the receipts that a close counts say of themselves."""

    receipts: int = 0
    measured: int = 0  # Of them, those that say how their energy was measured.
    energy_mj: int = 0  # Of these alone.
    busy_ms: int = 0
    wall_ms: int = 0

    def plus(self, other: "Spent") -> "Spent":
        return Spent(*(one + more for one, more in zip(self, other, strict=True)))


class Spending:
    """What every run's counted receipts say, added up by the close that counts them. From several threads.

    What a close counts never changes, so each receipt is read once. Whoever can write to the projection can make this
    lie, as `projections` says.
    """

    def __init__(self, projector: Projector) -> None:
        self._projector, self._turn = projector, threading.Lock()
        self._last, self._closes = -1, dict[int, Spent]()

    def closes(self) -> Mapping[int, Spent]:
        """By the index of each close that counts a receipt. Raises `Refused(BUSY)` as `Projector.page`."""
        with self._turn:
            found: dict[int, Spent] = {}
            for close, method, *said in self._projector.counted(self._last):
                energy_mj, busy_ms, wall_ms = map(int, said)
                measured = method != "none"
                one = Spent(1, int(measured), energy_mj if measured else 0, busy_ms, wall_ms)
                found[close] = found.get(close, Spent()).plus(one)
            self._closes |= found
            self._last = max(found, default=self._last)
            return self._closes


class Track(NamedTuple):
    """The rounds of a run, as the books have them: of this a curve is drawn when the books are free again."""

    charter: Charter
    manifest: Manifest
    closed: list[Closed]
    prices: list[Fraction]  # Minor units for one NCU, for what each of them counts;
    price: Fraction  # and for what comes next.
    opened_ms: list[int]  # When each round was opened, by the coordinator's clock.
    ended: bool


def track(books: Books, run: Run) -> Track:
    """What there is of this run so far."""
    closed = [each.closed for each in run.rounds if each.closed is not None]
    prices, price = [books.accounts.price_at(each.at) for each in closed], books.accounts.price_at(books.tree.size)
    opened_ms = [each.opened_ms for each in run.rounds]
    return Track(books.charter, run.manifest, closed, prices, price, opened_ms, run.ended is not None)


def worth(run: Track, rounds: Iterable[int]) -> list[Fraction]:
    """What is counted up to each of these rounds, from the lowest on, is worth: each round at the price of its period.

    In minor units, exact. A run has many more rounds than prices: those of one price are added up first.
    """
    found, total, done = list[Fraction](), Fraction(0), 0
    for upto in rounds:
        for price, part in groupby(range(done, upto), run.prices.__getitem__):
            total += value(sum(run.closed[each].flop for each in part), price)
        found.append(total)
        done = upto
    return found


def drawn(run: Track, against: str = "rounds", spent: Mapping[int, Spent] | None = None) -> dict[str, Any] | None:
    """The held-out loss before the first round and after others, at most `ROWS` of them, evenly; None before the first.

    Points are in units of the picture: from the left the rounds, or what was counted so far; from the top the highest
    loss down to the lowest. `rows` has the same points as numbers: those of `DECLARED` where it was told what was
    `spent`, which these axes need.
    """
    done = len(run.closed)
    if done < 1:
        return None
    step = -(-done // ROWS)
    chosen = [0, *sorted({*range(step, done + 1, step), done})]
    flop = _upto(chosen, (each.flop for each in run.closed))
    tokens = [each * tokens_asked(run.manifest.recipe) for each in _upto(chosen, (each.answers for each in run.closed))]
    cost = worth(run, chosen)
    said = None
    if spent is not None:
        columns = zip(*(spent.get(each.at, Spent()) for each in run.closed), strict=True)
        said = [Spent(*each) for each in zip(*(_upto(chosen, column) for column in columns), strict=True)]
    losses = [run.manifest.loss_unats, *(run.closed[number - 1].loss_unats for number in chosen[1:])]
    rows = [
        {
            "round": number,
            "loss": loss(unats),
            "tokens": count(tokens[at]),
            "work": work(flop[at]),
            "cost": amount(cost[at], run.charter),
            "energy": said and energy(said[at].energy_mj),
            "measured": said and said[at].measured,
            "receipts": said and said[at].receipts,
            "busy": said and hours(said[at].busy_ms),
            "wall": said and hours(said[at].wall_ms),
        }
        for at, (number, unats) in enumerate(zip(chosen, losses, strict=True))
    ]
    along: dict[str, list[int] | list[Fraction]] = {"rounds": chosen, "tokens": tokens, "work": flop, "cost": cost}
    if said is not None:
        along |= {"kwh": [each.energy_mj for each in said], "hours": [each.wall_ms for each in said]}
    where: list[int | Fraction] = [*along[against]]
    high, low, most = max(losses), min(losses), where[-1] or 1
    points = [
        (10 + (WIDE - 20) * x // most, 10 + (HIGH - 20) * (high - y) // max(1, high - low))
        for x, y in zip(where, losses, strict=True)
    ]
    last: dict[str, Shown] = {**rows[-1], "rounds": count(done), "kwh": rows[-1]["energy"], "hours": rows[-1]["wall"]}
    return {
        "points": points,
        "line": " ".join(f"{x},{y}" for x, y in points),
        "first": loss(losses[0]),
        "last": loss(losses[-1]),
        "high": loss(high),
        "low": loss(low),
        "rounds": done,
        "against": against,
        "axes": AXES,
        "end": last[against],
        "nothing": against != "rounds" and not where[-1],
        "currency": run.charter.currency,
        "receipts": said and said[-1].receipts,
        "measured": said and said[-1].measured,
        "rows": rows,
    }


def _upto(chosen: Iterable[int], of_rounds: Iterable[int]) -> list[int]:
    """The sums of these numbers of each round up to those that were chosen."""
    sums = [0, *accumulate(of_rounds)]
    return [sums[number] for number in chosen]
