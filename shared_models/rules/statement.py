"""The bill: from accepted work and shared costs to what each member is owed, exactly.

Two vectors, never one. Contribution (accepted work, shared costs paid) is a credit; benefit (the weight of a member's
access, or what it used) drives the charge. Net = credit - charge, and the nets sum to zero. To charge by contribution
would make the most generous member pay most.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor

from shared_models.records.kinds import Balance, Charter, Pot, Statement, StatementLine
from shared_models.records.refusals import Refused
from shared_models.rules.agreement import ACCESSION, CAP, SERVED, WORTH
from shared_models.rules.allocation import RULES, bounded, proportional
from shared_models.rules.games import by_table
from shared_models.rules.netting import net_transfers
from shared_models.rules.pricing import value
from shared_models.rules.quotes import caps, certificate
from shared_models.rules.served import payments
from shared_models.rules.stopping import Unspent

MOST = 2**96  # No record counts further, and a manifest may agree to more than anybody could ever train.


@dataclass(frozen=True, slots=True)
class Put:
    """What a member has put into a pot, or what is taken back of it: an invoice, a credit note, a correction."""

    index: int  # Of the entry that says so.
    pot: str
    member: str
    amount: Fraction  # Minor units of the charter's currency,
    currency: str  # and that it is on paper,
    original: Fraction  # in units of that currency.
    what: str
    rate_at: int | None = None  # The entry that says what that currency was worth.


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the statement of one period is computed from."""

    period: str
    start: int
    end: int
    charter: Charter
    charter_hash: str
    price: Fraction  # Minor units for one NCU.
    work: Mapping[str, int]  # Accepted FLOP by member;
    put: Collection[Put]  # costs, and corrections of what was billed before.
    usage: Mapping[str, Mapping[str, Fraction]]  # By pot and member.
    gone: Collection[str]  # Members that had left before the period began.
    joined: Collection[str]  # Members whose first period this is,
    past: Mapping[str, int]  # and the FLOP accepted in all periods before it.
    quotes: Mapping[frozenset[str], Fraction]  # What coalitions would pay alone, in minor units.
    carries: Mapping[str, Fraction]  # What earlier rounding left over.
    worth: Mapping[str, Fraction]  # Which part of what experts gain is whose; empty if nothing is paid for it.
    served: Mapping[str, Mapping[str, int]]  # How many tokens who has served through whose expert.
    unspent: Collection[Unspent] = ()  # What runs that stopped early have not trained; it is charged to nobody.


def statement(facts: Facts, *, root: str, cosignatures: tuple[str, ...], seq: int, prev: str) -> Statement:
    """The statement that follows from these facts. Raises `Refused`: INFEASIBLE, or as a rule of allocation.

    1. A member is credited, in each pot, what it put into it; in the compute pot also its accepted work at the price.
    2. What a pot holds is charged to the members by the pot's rule, driven by their benefit or what they used, within
       the pot's floors and caps.
    3. If the charter says so, a part of what the compute pot holds is paid by benefit to those whose experts gain.
    4. If the charter caps, nobody is charged more than what it quoted for going alone; the others bear the rest.
    5. Who joined pays its part of the price of all earlier work to those who did it.
    6. If the charter has a price for that, who has served tokens through another's expert pays that member.
    7. Net = credits - charges, exact; it is rounded once, with the carry, so that nets are whole minor units.
    8. Transfers settle the nets.
    9. What runs that stopped early left undone is booked as not spent, beside all this.
    """
    members = [member.name for member in facts.charter.members]
    nothing = dict.fromkeys(members, Fraction(0))
    credits_ = {pot.name: dict(nothing) for pot in facts.charter.pots}
    for each in facts.put:
        credits_[each.pot][each.member] += each.amount
    for member, flop in facts.work.items():
        credits_[facts.charter.compute_pot][member] += value(flop, facts.price)
    lines, charged = [], dict(nothing)
    for pot in facts.charter.pots:
        charges = charge(pot, credits_[pot.name], facts)
        lines += _lines(pot.name, credits_[pot.name], charges)
        charged = {member: charged[member] + charges[member] for member in members}
    pool = facts.charter.worth_share * sum(credits_[facts.charter.compute_pot].values(), Fraction(0))
    if facts.worth and pool > 0:
        paid, charges = _for_worth(pool, facts)
        lines += _lines(WORTH, paid, charges)
        charged = {member: charged[member] + charges[member] - paid[member] for member in members}
    if facts.charter.cap == "alone":
        capped = _capped(charged, caps(facts.quotes))
        more = {member: capped[member] - charged[member] for member in members}
        less = {member: max(Fraction(0), -each) for member, each in more.items()}
        lines += _lines(CAP, less, {member: max(Fraction(0), each) for member, each in more.items()})
        charged = capped
    if facts.joined:
        lines += _lines(ACCESSION, *_accession(facts))
    if facts.charter.expert_price and facts.served:
        lines += _lines(SERVED, *payments(facts.served, facts.charter))
    exact = dict(nothing)
    for line in lines:
        exact[line.member] += line.credit - line.charge
    nets, left = settle(exact, facts.carries, facts.period)
    return Statement(
        seq=seq,
        prev=prev,
        period=facts.period,
        charter=facts.charter_hash,
        price=facts.price,
        start=facts.start,
        end=facts.end,
        root=root,
        cosignatures=cosignatures,
        lines=tuple(lines),
        balances=tuple(
            Balance(member=member, flop=facts.work.get(member, 0), net=nets[member], carry=left[member])
            for member in members
        ),
        transfers=net_transfers(nets),
        certificate=certificate(charged, facts.quotes),
        unspent_flop=min(sum(each.flop for each in facts.unspent), MOST),
    )


def charge(pot: Pot, credits_: Mapping[str, Fraction], facts: Facts) -> dict[str, Fraction]:
    """What a pot that holds these credits charges whom; what it gives back knows no floors and caps.

    Raises `Refused` as its rule; INFEASIBLE, by how much, if its floors and caps cannot be kept to.
    """
    cost = sum(credits_.values(), Fraction(0))
    if pot.driver == "paid":  # In proportion to what one has put in is what one has put in.
        return dict(credits_)
    if cost == 0:
        return dict.fromkeys(credits_, Fraction(0))
    if pot.table:
        shares = by_table(pot.rule, {frozenset(each.members): Fraction(each.cost) for each in pot.table})
        charges = {member: cost * shares.get(member, 0) for member in credits_}
    else:
        charges = RULES[pot.rule](cost, drivers(pot, facts))
    return _limited(pot, cost, charges, facts) if (pot.floors or pot.caps) and cost > 0 else charges


def _limited(pot: Pot, cost: Fraction, charges: Mapping[str, Fraction], facts: Facts) -> dict[str, Fraction]:
    """The same charges, but none below the pot's floors or above its caps; who has left has no floor any more.

    Raises `Refused(INFEASIBLE)`, by how much.
    """
    floors = {each.member: Fraction(each.amount) for each in pot.floors if each.member not in facts.gone}
    caps_ = {each.member: Fraction(each.amount) for each in pot.caps}
    try:
        return bounded(cost, charges, floors, caps_)
    except Refused as refused:
        raise Refused(refused.refusal, f"pot {pot.name}: {refused.detail}") from None


def drivers(pot: Pot, facts: Facts) -> dict[str, Fraction]:
    """What a pot's cost is divided by: what each has used of it; its benefit, if nothing was metered."""
    used = facts.usage.get(pot.name, {}) if pot.driver == "usage" else {}
    if any(used.values()):
        return {member.name: used.get(member.name, Fraction(0)) for member in facts.charter.members}
    return benefits(facts)


def benefits(facts: Facts) -> dict[str, Fraction]:
    """What each pays by unless a pot says otherwise; who has left has none any more."""
    return {
        member.name: Fraction(0 if member.name in facts.gone else member.benefit) for member in facts.charter.members
    }


def _lines(pot: str, credits_: Mapping[str, Fraction], charges: Mapping[str, Fraction]) -> list[StatementLine]:
    return [
        StatementLine(pot=pot, member=member, credit=credit, charge=charges[member])
        for member, credit in credits_.items()
    ]


def _for_worth(pool: Fraction, facts: Facts) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """(credits, charges). Who has more of the model pays more; whose expert takes more off the loss is paid more."""
    paid = {member.name: pool * facts.worth.get(member.name, 0) for member in facts.charter.members}
    return paid, proportional(pool, benefits(facts))


def _capped(charged: Mapping[str, Fraction], limits: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """Who is charged less than nothing, keeps that. Raises `Refused(INFEASIBLE)`, by how much."""
    payers = {member: amount for member, amount in charged.items() if amount > 0}
    limits = {member: limit for member, limit in limits.items() if member in payers}
    return {**charged, **bounded(sum(payers.values(), Fraction(0)), payers, {}, limits)} if limits else dict(charged)


def _accession(facts: Facts) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """(credits, charges). What was done before costs what it would at today's price, replaced in full."""
    members = [member.name for member in facts.charter.members]
    credits_, charges = dict.fromkeys(members, Fraction(0)), dict.fromkeys(members, Fraction(0))
    done = sum(facts.past.values())
    for member in facts.joined:
        charges[member] = facts.charter.accession * value(done, facts.price)
        for earlier, flop in facts.past.items() if done else ():
            credits_[earlier] += charges[member] * flop / done
    return credits_, charges


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
