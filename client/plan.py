"""What a run to come would take: rounds, work, money, time and energy for a loss, or the loss for a budget.

It follows from runs that the log holds: how their loss fell (`client.scaling`), what their rounds counted and how long
they took, what their receipts say. A plan repeats one of their recipes for more or fewer rounds. Of several, it is the
one that comes to the loss with the least work, or to the lowest loss for the budget: the envelope of training curves
of several sizes (approach 1 of Hoffmann et al., arXiv:2203.15556). No size is planned that was not trained.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from math import ceil
from statistics import median
from typing import NamedTuple

from client.notebook import Ledger
from client.scaling import FEW, Points, laws
from shared_models.records.kinds import FIRST, Manifest, Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import FLOP_PER_NCU, value
from shared_models.rules.statement import charge

BEYOND, FAR = 2, 100  # Times the rounds seen: beyond the first a plan is marked, beyond the second it is refused.


@dataclass(frozen=True, slots=True)
class Said:
    """What receipts say of the work in them, added up; that of rounds that did not count it, too."""

    flop: int = 0
    chip_ms: int = 0  # Time inside the steps × devices.
    receipts: int = 0
    measured: int = 0  # Of them, those that say how their energy was measured;
    measured_flop: int = 0  # of these alone.
    energy_mj: int = 0

    def plus(self, one: Receipt) -> "Said":
        sees = one.energy_method != "none"
        work = one.flop, one.busy_ms * one.devices, 1
        return self + Said(*work, int(sees), one.flop * sees, one.energy_mj * sees)

    def __add__(self, other: "Said") -> "Said":
        return Said(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def kwh(self, flop: int) -> Fraction | None:
        """That this work would take, by the receipts that measured it; None if none did."""
        return Fraction(self.energy_mj * flop, self.measured_flop * 3_600_000_000) if self.measured_flop else None

    def chip_hours(self, flop: int) -> Fraction | None:
        return Fraction(self.chip_ms * flop, self.flop * 3_600_000) if self.flop else None


class Plan(NamedTuple):
    """So many rounds of a run's recipe, from its own weights."""

    run: str
    seen: int  # Rounds that it has closed.
    rounds: int
    least: int  # Rounds; as many by the law of the stretch of the run that says least,
    most: int | None  # and most; None: by one of them the loss is never reached, or not in `FAR` times the rounds seen.
    loss: float  # After `rounds`, nats per byte,
    lowest: float  # by the law that says least,
    highest: float  # and most.
    round_flop: int
    round_tokens: int
    manifest: Manifest
    round_ms: float  # From one opening to the next: half of the rounds took no longer.

    @property
    def flop(self) -> int:
        return self.rounds * self.round_flop

    @property
    def tokens(self) -> int:
        return self.rounds * self.round_tokens

    @property
    def ncu(self) -> Fraction:
        return Fraction(self.flop, FLOP_PER_NCU)


def plans(
    log: Ledger, runs: Iterable[str], *, loss: float | None = None, budget: Fraction | None = None
) -> tuple[list[Plan], dict[str, str]]:
    """(a plan for each run by which there is one, the best first; why there is none by the others).

    For this loss, or for this budget in minor units; by these runs, or by all that began with their own weights and
    have closed `FEW` rounds. Raises `Refused`: UNKNOWN_RUN; BAD_FIELD if their losses are of different texts;
    INFEASIBLE if there is a plan by none.
    """
    names = list(runs) or [
        name
        for name, run in log.runs.items()
        if run.manifest.start == FIRST and sum(each.closed is not None for each in run.rounds) >= FEW
    ]
    if not names:
        raise Refused(Refusal.INFEASIBLE, f"no run that began with its own weights has closed {FEW} rounds")
    texts = {log.books.run(name).manifest.recipe.corpus for name in names}
    if len(texts) > 1:
        raise Refused(Refusal.BAD_FIELD, f"losses on {len(texts)} different texts: say with --run which runs compare")
    price = log.books.accounts.facts("", log.books.tree.size).price
    found, without = list[Plan](), dict[str, Refused]()
    for name in names:
        try:
            found.append(_plan(log, name, loss, _affordable(budget, price)))
        except Refused as refused:
            without[name] = refused
    if not found:
        raise next(iter(without.values()))
    found.sort(key=lambda each: each.flop if budget is None else each.loss)
    return found, {name: refused.detail for name, refused in without.items()}


def members(log: Ledger, plan: Plan, said: dict[str, Said]) -> dict[str, tuple[Fraction, Fraction]]:
    """(what its work would earn, what it would be charged) by member, in minor units, at the price in force.

    Who works is who did in that run. Of the compute pot alone: without shared costs, caps for going alone, accession.
    Raises `Refused` as the pot's rule.
    """
    facts = log.books.accounts.facts("", log.books.tree.size)
    pot = next(each for each in facts.charter.pots if each.name == facts.charter.compute_pot)
    names = [each.name for each in facts.charter.members]
    done = {name: said[name].flop if name in said else 0 for name in names}
    if not any(done.values()):
        raise Refused(Refusal.INFEASIBLE, f"nobody who trained {plan.run} is a member now")
    cost = value(plan.flop, facts.price)
    credits_ = {name: cost * flop / sum(done.values()) for name, flop in done.items()}
    charges = charge(pot, credits_, facts)
    return {name: (credits_[name], charges[name]) for name in names}


def receipts(log: Ledger, run: str) -> dict[str, Said]:
    """What the receipts of a run say, by member."""
    found = defaultdict[str, Said](Said)
    for _, record in log.records("receipt"):
        if isinstance(record, Receipt) and record.run == run:
            found[record.member] = found[record.member].plus(record)
    return dict(found)


def _affordable(budget: Fraction | None, price: Fraction) -> int | None:
    """FLOP that this buys. Raises `Refused(INFEASIBLE)` where work is free."""
    if budget is not None and not price:
        raise Refused(Refusal.INFEASIBLE, "an NCU costs nothing: no budget limits the work")
    return None if budget is None else int(budget * FLOP_PER_NCU / price)


def _plan(log: Ledger, name: str, loss: float | None, flop: int | None) -> Plan:
    """Raises `Refused(INFEASIBLE)`: no law; the loss is never reached; less than one round; too far to be known."""
    run, (_, *curve) = log.books.run(name), log.curve(name)
    counted = (after for before, after in pairwise(log.curve(name)) if after.tokens > before.tokens and after.loss)
    points: Points = [(each.tokens, each.loss) for each in counted]
    expected, stretches = laws(name, points)
    seen, tokens = len(curve), curve[-1].tokens / len(curve)  # Of one round.
    round_flop, round_tokens = curve[-1].flop // seen, curve[-1].tokens // seen
    least = most = None
    if flop is not None:
        rounds = least = most = flop // round_flop
        if rounds < 1:
            cause = f"the budget pays for {max(0, flop):,} FLOP; one round of {name} takes {round_flop:,}"
            raise Refused(Refusal.INFEASIBLE, cause)
    else:
        assert loss is not None
        each = [law.tokens(loss) for law in (expected, *stretches)]
        bounds = [None if one is None or one > FAR * seen * tokens else max(1, ceil(one / tokens)) for one in each]
        known = [one for one in bounds if one is not None]
        if each[0] is None:
            cause = f"what {name} has shown comes to {expected.rest:.3f} nats per byte, and {loss:g} is asked"
            hope = f"; the most hopeful law of its band takes {min(known):,} rounds" if known else ""
            raise Refused(Refusal.INFEASIBLE, cause + hope)
        rounds = max(1, ceil(each[0] / tokens))
        least, most = min(known, default=rounds), None if None in bounds else max(known)
    if rounds > FAR * seen:
        cause = f"this takes {rounds:.3g} rounds, and {name} has shown {seen}: of more than {FAR} times as many"
        raise Refused(Refusal.INFEASIBLE, f"{cause} nothing is known")
    came = [law.loss(rounds * tokens) for law in (expected, *stretches)]
    round_ms = median(after.opened_ms - before.opened_ms for before, after in pairwise(run.rounds))
    of_round = round_flop, round_tokens, run.manifest, round_ms
    return Plan(name, seen, rounds, least, most, came[0], min(came), max(came), *of_round)
