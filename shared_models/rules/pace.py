"""How many steps of a round each member trains, so that all end together: as its own receipts say how fast it is.

A receipt says what work was done and how long its training process was inside its steps. Recipes differ, so speed is
FLOP per millisecond. The times are the member's own word: who says that it is slower is asked for less and paid for
less, who says that it is faster is waited for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from shared_models.records.kinds import Manifest, Receipt
from shared_models.records.refusals import Refusal, Refused


def speeds(receipts: Iterable[Receipt]) -> dict[str, Fraction]:
    """The FLOP per millisecond of each member that has receipts, given in the log's order: of all those of the newest
    run that it has any of.
    """
    work = _Work()
    for each in receipts:
        work.add(each)
    return work.speeds()


class _Work:
    """What each member has done in the newest run that it has receipts of, and in what time."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, int, int]] = {}  # The run, FLOP, milliseconds.

    def add(self, receipt: Receipt) -> None:
        run, flop, busy_ms = self._of.get(receipt.member, (receipt.run, 0, 0))
        if run != receipt.run:
            flop = busy_ms = 0
        self._of[receipt.member] = receipt.run, flop + receipt.flop, busy_ms + receipt.busy_ms

    def speeds(self) -> dict[str, Fraction]:
        return {member: Fraction(flop, max(1, busy_ms)) for member, (_, flop, busy_ms) in self._of.items()}


def steps(
    members: Sequence[str], most: int, named: Mapping[str, int], speeds: Mapping[str, Fraction] | None = None
) -> tuple[int, ...]:
    """The steps of each of these members, in their order; none if all train the `most`, the recipe's `inner_steps`.

    Who is named trains so many. With `speeds` the fastest of the others trains the most, and each that part of it
    which its speed is of the fastest, rounded down, at least one; without, all do. Raises `Refused`: WRONG_MEMBER for
    who is named and is none of them; INFEASIBLE for who is not, and has no speed.
    """
    if strange := sorted(named.keys() - set(members)):
        raise Refused(Refusal.WRONG_MEMBER, f"steps of {', '.join(strange)}; the run's members: {', '.join(members)}")
    found = {member: named.get(member, most) for member in members}
    others = [member for member in members if member not in named]
    if speeds is not None and others:
        for member in others:
            if not speeds.get(member):
                how = f"name its steps, --steps {member}=N, or let it train a round first"
                raise Refused(Refusal.INFEASIBLE, f"the log has no receipt that says how fast {member} is: {how}")
        fastest = max(speeds[member] for member in others)
        found |= {member: max(1, int(most * speeds[member] / fastest)) for member in others}
    return () if set(found.values()) == {most} else tuple(found[member] for member in members)


class Paced(NamedTuple):
    """The steps that a manifest asks of its members in a round, and those that the receipts before it make of them.

    That they differ shows no wrong: steps may be named by hand.
    """

    entry: int  # The manifest's.
    run: str
    asked: Mapping[str, int]
    paced: Mapping[str, int]  # Of who has a receipt before it; the others are taken as named.


def checked(records: Iterable[object]) -> Iterator[Paced]:
    """Each manifest among all the records of a log, in its order, held against the receipts before it."""
    work = _Work()
    for index, record in enumerate(records):
        if isinstance(record, Receipt):
            work.add(record)
        elif isinstance(record, Manifest):
            said, members, most = work.speeds(), record.members, record.recipe.inner_steps
            asked = dict(zip(members, record.steps or (most,) * len(members), strict=True))
            named = {member: number for member, number in asked.items() if not said.get(member)}
            found = steps(members, most, named, said) or (most,) * len(members)
            paced = dict(zip(members, found, strict=True))
            yield Paced(index, record.run, asked, {member: paced[member] for member in members if member not in named})
