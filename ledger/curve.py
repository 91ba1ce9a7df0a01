"""The curve of a run: its held-out loss after each round, along what its rounds have taken so far.

Rounds, tokens, work and its price follow from the books. Energy and time stand in the receipts alone; what those say
that its rounds count, the word of each member's own daemon, is added up in a projection, `spent`.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import accumulate, groupby
from typing import Any, NamedTuple

from ledger.projections import Spent
from ledger.shown import ROWS, Shown, amount, count, energy, hours, loss, work
from shared_models.records.kinds import Charter, Manifest
from shared_models.rules.books import Books, Closed, Run
from shared_models.rules.pricing import value

WIDE, HIGH = 600, 150  # Of the picture, in units of its own.
AXES = ("rounds", "tokens", "work", "cost", "kwh", "hours")
DECLARED = ("kwh", "hours")  # What only receipts say.


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
    `spent` up to the `closes` of the run, which these axes need.
    """
    done = len(run.closed)
    if done < 1:
        return None
    chosen = _chosen(done)
    flop = _upto(chosen, (each.flop for each in run.closed))
    tokens = _upto(chosen, (each.tokens for each in run.closed))
    cost = worth(run, chosen)
    said = None if spent is None else [Spent(), *(spent.get(at, Spent()) for at in closes(run))]
    losses = [run.manifest.loss_unats, *(run.closed[number - 1].loss_unats for number in chosen[1:])]
    rows: list[dict[str, Any]] = [
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


def closes(run: Track) -> list[int]:
    """The indices of the closes behind which a curve of this run has a point."""
    return [run.closed[number - 1].at for number in _chosen(len(run.closed))[1:]]


def _chosen(done: int) -> list[int]:
    """Of so many rounds, those behind which a curve has a point, and 0, before them: at most `ROWS`, evenly."""
    step = max(1, -(-done // ROWS))
    return [0, *sorted({*range(step, done + 1, step), done} - {0})]


def _upto(chosen: Iterable[int], of_rounds: Iterable[int]) -> list[int]:
    """The sums of these numbers of each round up to those that were chosen."""
    sums = [0, *accumulate(of_rounds)]
    return [sums[number] for number in chosen]
