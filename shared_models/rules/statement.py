"""The bill: from accepted work and shared costs to what each member is owed, exactly.

Two vectors, never one. Contribution (accepted work, shared costs paid) is a credit; benefit (the weight of a member's
access) drives the charge. Net = credit - charge, and the nets sum to zero. To charge by contribution would make the
most generous member pay most.
"""

import hashlib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import floor

from shared_models.records.kinds import Balance, Charter, CostItem, Statement, StatementLine
from shared_models.rules.allocation import RULES
from shared_models.rules.netting import net_transfers
from shared_models.rules.pricing import value


def statement(
    charter: Charter,
    period: str,
    work: Mapping[str, int],
    items: Iterable[CostItem],
    carries: Mapping[str, Fraction],
    *,
    start: int,
    end: int,
    root: str,
    cosignatures: tuple[str, ...],
    seq: int,
    prev: str,
) -> Statement:
    """The statement of a period: `work` is each member's accepted FLOP, `carries` what earlier rounding left over.

    1. A member is credited, in each pot, what it paid into it; in the compute pot also its accepted work at the
       charter's price per NCU.
    2. What a pot holds is charged to the members by the pot's rule, driven by their benefit.
    3. Net = credits - charges, exact; it is rounded once, with the carry, so that nets are whole minor units.
    4. Transfers settle the nets.
    """
    members = [member.name for member in charter.members]
    drivers = {member.name: Fraction(member.benefit) for member in charter.members}
    credits_ = {pot.name: dict.fromkeys(members, Fraction(0)) for pot in charter.pots}
    for item in items:
        credits_[item.pot][item.payer] += item.amount
    for member, flop in work.items():
        credits_[charter.compute_pot][member] += value(flop, charter)
    lines = []
    for pot in charter.pots:
        charges = RULES[pot.rule](sum(credits_[pot.name].values(), Fraction(0)), drivers)
        lines += [
            StatementLine(pot=pot.name, member=member, credit=credits_[pot.name][member], charge=charges[member])
            for member in members
        ]
    exact = dict.fromkeys(members, Fraction(0))
    for line in lines:
        exact[line.member] += line.credit - line.charge
    nets, left = settle(exact, carries, period)
    return Statement(
        seq=seq,
        prev=prev,
        period=period,
        start=start,
        end=end,
        root=root,
        cosignatures=cosignatures,
        lines=tuple(lines),
        balances=tuple(
            Balance(member=member, flop=work.get(member, 0), net=nets[member], carry=left[member]) for member in members
        ),
        transfers=net_transfers(nets),
    )


def settle(
    exact: Mapping[str, Fraction], carries: Mapping[str, Fraction], period: str
) -> tuple[dict[str, int], dict[str, Fraction]]:
    """Round each member's net to whole units; (nets, new carries). Both sum to zero, and each |carry| stays below 1.

    Every due amount (net + carry) is rounded down; the units this leaves over are fewer than the amounts that have a
    fraction, and go to the largest fractions. So a carry is a fraction f in [0, 1) or f - 1, for ever; and an amount
    that is whole is paid to the unit. Ties fall by hash of period and member: nobody gains by its name.
    """
    assert sum(exact.values()) == 0
    assert sum(carries.values()) == 0
    due = {member: amount + carries.get(member, 0) for member, amount in exact.items()}
    nets = {member: floor(amount) for member, amount in due.items()}
    left = {member: amount - nets[member] for member, amount in due.items()}

    def rank(member: str) -> tuple[Fraction, bytes]:
        return -left[member], hashlib.sha256(f"{period}|{member}".encode()).digest()

    for member in sorted(left, key=rank)[: -sum(nets.values())]:
        nets[member] += 1
        left[member] -= 1
    return nets, left
