"""What was paid of a statement, and what becomes of what is not.

A transfer is paid when payer and payee have both said so. When more than half of the other members say that one does
not pay what it owes, the rest of the statement bear its debt and settle anew among themselves, to the unit.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from shared_models.records.kinds import Default, Settlement, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import carried
from shared_models.rules.allocation import proportional
from shared_models.rules.netting import net_transfers
from shared_models.rules.statement import settle


class Open(NamedTuple):
    """A transfer that is not yet paid, and who has said that it is: the payer, or the payee."""

    netting: int
    payer: str
    payee: str
    amount: int
    said: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Period:
    """What is left of one statement."""

    benefits: dict[str, int]  # Of those who bear what is left unpaid.
    open: list[Open]
    paid: dict[str, int]  # By each, less what it received.
    netting: int = 0
    voices: dict[str, set[str]] = field(default_factory=dict)  # By member, who says that it does not pay.
    defaulters: list[str] = field(default_factory=list)

    def unconfirmed(self, member: str) -> list[Open]:
        """The transfers that end if this member is in default.

        What a payee has confirmed does not: its word costs itself alone. Nor does what a payer says is on its way, to
        the member too; but the member's own word that it has paid ends no debt.
        """
        return [
            each
            for each in self.open
            if each.payee not in each.said and (each.payer == member or each.payer not in each.said)
        ]

    def debt(self, member: str) -> int:
        """What it owes by these, less what it is owed."""
        return sum(each.amount * ((each.payer == member) - (each.payee == member)) for each in self.unconfirmed(member))

    def confirm(self, transfer: Open) -> None:
        """This transfer was paid."""
        self.open.remove(transfer)
        for member, amount in ((transfer.payer, transfer.amount), (transfer.payee, -transfer.amount)):
            self.paid[member] = self.paid.get(member, 0) + amount

    def forget(self) -> None:
        """Who owes nothing any more is no longer said to."""
        self.voices = {member: voices for member, voices in self.voices.items() if self.debt(member) > 0}


class Settlements:
    """What is paid of each statement, and what each member carries on. Use `check`, then `add`, in order of the log."""

    def __init__(self) -> None:
        self._periods: dict[str, _Period] = {}
        # Minor units that rounding has left over for each member: of the newest statement, and of the defaults since.
        self.carries: dict[str, Fraction] = {}

    def add_statement(self, record: Statement, benefits: Mapping[str, int]) -> None:
        """A statement: its transfers are to be paid. `benefits` are those of the charter that it follows."""
        members = [each.member for each in record.balances]
        self.carries = {each.member: each.carry for each in record.balances}
        self._periods[record.period] = _Period(
            benefits={member: benefits.get(member, 0) for member in members},
            open=[Open(0, each.payer, each.payee, each.amount) for each in record.transfers],
            paid=dict.fromkeys(members, 0),
        )

    def open(self, period: str) -> tuple[Open, ...]:
        """What is still to be paid. Raises `Refused(NOT_OWED)` if there is no such statement."""
        return tuple(self._period(period).open)

    def paid(self, period: str) -> dict[str, int]:
        """Minor units that each member has paid for a period, less what it has received. Raises as `open`."""
        return dict(self._period(period).paid)

    def defaulters(self, period: str) -> tuple[str, ...]:
        """Who was declared in default, the first one first. Raises as `open`."""
        return tuple(self._period(period).defaulters)

    def in_default(self) -> set[str]:
        """Who was declared in default, for any period."""
        return {member for period in self._periods.values() for member in period.defaulters}

    def voices(self, period: str) -> dict[str, tuple[str, ...]]:
        """For each member of which it is said that it does not pay, who says so, by name. Raises as `open`."""
        return {member: tuple(sorted(said)) for member, said in self._period(period).voices.items()}

    def netting(self, period: str) -> int:
        """How often the period was netted anew. Raises as `open`."""
        return self._period(period).netting

    def _period(self, period: str) -> _Period:
        if period not in self._periods:
            raise Refused(Refusal.NOT_OWED, f"there is no statement {period}")
        return self._periods[period]

    def check(self, record: Settlement | Default, present: Collection[str]) -> None:
        """Whether this may come next; that its author says it once is taken for granted.

        Raises `Refused`: WRONG_MEMBER, NOT_OWED.
        """
        period = self._period(record.period)
        match record:
            case Settlement():
                if record.member not in (record.payer, record.payee):
                    raise Refused(Refusal.WRONG_MEMBER, f"{record.payer} pays {record.payee}, not {record.member}")
                if _find(record, period) is None:
                    raise Refused(
                        Refusal.NOT_OWED,
                        f"{record.payer} owes {record.payee} no {record.amount} minor units"
                        f" by netting {record.netting} of {record.period}",
                    )
            case Default():
                if record.member not in present or record.member == record.defaulter:
                    raise Refused(Refusal.WRONG_MEMBER, f"{record.member} has no say about {record.defaulter}")
                if record.netting != period.netting or period.debt(record.defaulter) <= 0:
                    raise Refused(
                        Refusal.NOT_OWED,
                        f"{record.defaulter} owes nothing for {record.period}, or not by netting {record.netting}:"
                        f" the newest is {period.netting}",
                    )

    def add(self, record: Settlement | Default, present: Collection[str]) -> None:
        """Take in what was checked; `present` are the members that have a say."""
        period = self._periods[record.period]
        match record:
            case Settlement():
                transfer = _find(record, period)
                assert transfer is not None
                said = transfer._replace(said=transfer.said | {record.member})
                period.open[period.open.index(transfer)] = said
                if len(said.said) == 2:
                    period.confirm(said)
                period.forget()
            case Default():
                voices = period.voices.setdefault(record.defaulter, set())
                voices.add(record.member)
                if carried(voices, [each for each in present if each != record.defaulter]):
                    self._default(record.period, period, record.defaulter)

    def _default(self, name: str, period: _Period, defaulter: str) -> None:
        """Net a period anew, without this member.

        1. What a payee has confirmed is paid, and so is what a payer says is on its way to the defaulter, which has no
           say any more. What another says is on its way stays open as it is. The rest ends.
        2. The debt is what the defaulter owes by that rest, less what it was carrying.
        3. The others of the statement bear it in proportion to their benefit; equally, if none of them has any; and if
           there are no others, those to whom it is owed.
        4. What that leaves each of them with is rounded as a statement is, with what it was carrying, and netted. So
           every carry stays below one unit, and the defaulter's is zero: it was a part of the debt. Who joined later,
           and carries something, may come to pay or to get one unit of that.
        """
        ends, owed = period.unconfirmed(defaulter), period.debt(defaulter)
        period.open = [each for each in period.open if each not in ends]
        for each in [each for each in period.open if each.payee in each.said or each.payee == defaulter]:
            period.confirm(each)
        exact = defaultdict[str, Fraction](Fraction, dict.fromkeys([*period.benefits, *self.carries], Fraction(0)))
        for each in ends:
            exact[each.payer] -= each.amount
            exact[each.payee] += each.amount
        carry = self.carries.get(defaulter, Fraction(0))
        period.benefits.pop(defaulter, None)
        bearers = period.benefits or {each.payee: 1 for each in ends if each.payer == defaulter}
        for member, share in _shares(owed - carry, bearers).items():
            exact[member] -= share
        exact[defaulter] = -carry
        nets, self.carries = settle(exact, self.carries, name)
        period.netting += 1
        period.defaulters.append(defaulter)
        period.open += [Open(period.netting, each.payer, each.payee, each.amount) for each in net_transfers(nets)]
        period.forget()


def _shares(debt: Fraction, benefits: Mapping[str, int]) -> dict[str, Fraction]:
    weights = benefits if any(benefits.values()) else dict.fromkeys(benefits, 1)
    return proportional(debt, {member: Fraction(weight) for member, weight in weights.items()})


def _find(record: Settlement, period: _Period) -> Open | None:
    named = record.netting, record.payer, record.payee, record.amount
    return next((each for each in period.open if each[:4] == named), None)
