"""Statements made by hand: what exports must cope with, whatever rules have led to it."""

from collections.abc import Mapping
from fractions import Fraction

from world import charter, digest, pot

from shared_models.records.kinds import FIRST, Balance, Statement, StatementLine
from shared_models.rules.netting import net_transfers
from shared_models.rules.statement import settle

HASH = digest("charter")
CHARTER = charter(
    {"acme": 2, "birch": 1, "cedar": 1},
    pots=(
        pot("compute", "proportional"),
        pot("storage", "two_part", "usage"),
        pot("direct", "equal", "paid"),
    ),
)
Lines = Mapping[str, tuple[int | Fraction, int | Fraction]]  # By member: (credit, charge).


def bill(*pots: tuple[str, Lines], flop: Mapping[str, int] | None = None, period: str = "2026-11") -> Statement:
    """A statement of these lines, whose nets and transfers follow from them."""
    lines = [
        StatementLine(pot=name, member=member, credit=Fraction(credit), charge=Fraction(charge))
        for name, said in pots
        for member, (credit, charge) in said.items()
    ]
    members = [each.name for each in CHARTER.members]
    exact = dict.fromkeys(members, Fraction(0))
    for line in lines:
        exact[line.member] += line.credit - line.charge
    nets, carries = settle(exact, {}, period)
    return Statement(
        seq=0,
        prev=FIRST,
        period=period,
        charter=HASH,
        price=Fraction(100),
        start=0,
        end=7,
        root=digest("root"),
        cosignatures=(),
        lines=tuple(lines),
        balances=tuple(
            Balance(member=each, flop=(flop or {}).get(each, 0), net=nets[each], carry=carries[each])
            for each in members
        ),
        transfers=net_transfers(nets),
        certificate=(),
        unspent_flop=0,
    )
