"""The accounts: what was paid, used and disputed, and what each period's statement follows from.

A statement credits and charges what no earlier one did. What is disputed waits; what is found void is never billed, or
taken back if it was. Corrections are entries of a later period: nothing that is closed is opened again.
"""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

from shared_models.records.kinds import (
    FIRST,
    Charter,
    CostItem,
    CreditNote,
    Default,
    Dispute,
    Price,
    QuoteOpen,
    QuoteSeal,
    Rate,
    Resolution,
    Served,
    Settlement,
    Statement,
    Usage,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import currency, served
from shared_models.rules.agreement import NO_POT, carried
from shared_models.rules.keyring import Keyring
from shared_models.rules.pricing import value
from shared_models.rules.quotes import Quotes
from shared_models.rules.served import Servings
from shared_models.rules.settlement import Settlements
from shared_models.rules.statement import Facts, Put
from shared_models.rules.stopping import Unspent
from shared_models.rules.worth import Worths

T = TypeVar("T")
NOW = 1 << 62  # A size that no log has: as it stands.
Key = tuple[str, bytes]  # (name, id) of who signed it.


class Work(NamedTuple):
    """A receipt of an open round, or one that was accepted."""

    member: str
    flop: int
    at: int  # Index in the log.
    key_id: bytes


@dataclass(slots=True)
class Accepted:
    """The accepted work of one round, column by column."""

    index: int  # Of the round.close.
    run: str
    round: int
    members: tuple[str, ...]
    flop: tuple[int, ...]
    key_ids: tuple[bytes, ...]
    receipts: "array[int]"  # Indices.

    def each(self) -> Iterator[Work]:
        return map(Work, self.members, self.flop, self.receipts, self.key_ids)

    def about(self, member: str) -> str:
        """How a dispute names this member's part of it."""
        return f"work/{self.run}/{self.round}/{member}"


class Said(NamedTuple):
    """What the administrator has said of a rate or of usage, first or as a correction of what it had said before."""

    at: int  # Index in the log.
    hash: str  # Leaf hash.
    value: Fraction


@dataclass(slots=True)
class Item:
    """A cost that was entered, and what credit notes have left of it, in units of its currency."""

    index: int
    record: CostItem
    key: Key
    left: Fraction
    rate: Said | None = None  # The one that it was billed by.


class Cited(NamedTuple):
    """Indices of entries that a statement follows from."""

    charter: int
    price: int | None  # None where it is the charter's.
    quotes: tuple[int, ...]  # What coalitions would pay alone.
    usage: Mapping[str, Mapping[str, int]]  # By pot and member.
    statements: tuple[int, ...]  # Of the periods before it.
    worths: tuple[int, ...]  # What experts are worth.
    served: tuple[int, ...]  # What members have served.


class Later(NamedTuple):
    """Something that a period's statement takes in, once that what it corrects is billed."""

    period: str
    put: Put
    key: Key
    about: str
    flop: int = 0  # Accepted work that it takes back.


@dataclass(slots=True)
class Case:
    """A dispute, and what was ruled. Times are indices of the log."""

    opened: int
    hash: str  # Leaf hash of the first dispute.
    period: str  # Of the statement that bills it; empty as long as none does.
    billed: Put | None  # What that has credited for it, to be taken back if it is void.
    flop: int = 0  # The same as work.
    by: dict[str, int] = field(default_factory=dict)  # Where each member that disputes it has said so.
    said: dict[str, str] = field(default_factory=dict)  # Outcome by member.
    ruled: int | None = None
    outcome: str = ""

    def open(self, size: int) -> bool:
        """Whether it was disputed, and not ruled on, in a log of this size."""
        return self.opened < size and not self.over(size)

    def over(self, size: int) -> bool:
        return self.ruled is not None and self.ruled < size

    def void(self, size: int) -> bool:
        return self.over(size) and self.outcome == "void"


Quoting = QuoteSeal | QuoteOpen | Price
Money = Rate | CostItem | CreditNote | Usage | Served | Quoting | Dispute | Resolution | Settlement | Default


class Accounts:
    """Everything about money that follows from the entries so far. Use `check`, then `add`, in the log's order."""

    def __init__(self, keyring: Keyring) -> None:
        self._agreement, self._keyring = keyring.agreement, keyring
        self.statements: list[Statement] = []
        self._stated_at: list[int] = []  # Their indices,
        self.stated: list[Facts] = []  # and what each of them follows from.
        self.quotes, self.settlements = Quotes(self._agreement.charter.minor_digits), Settlements()
        self.worths, self.served = Worths(), Servings()
        self.unspent: list[Unspent] = []  # What runs that stopped early have not trained, in the log's order.
        self.given: list[Mapping[str, Fraction]] = []  # For each statement, what each member gave, in minor units.
        self.cases: dict[str, Case] = {}  # By what they are about.
        self._rates: dict[tuple[str, str], list[Said]] = {}  # By currency and day, the newest last.
        self._items: dict[str, Item] = {}  # Each that there ever was, by what a dispute calls it;
        self._by_hash: dict[str, str] = {}  # the same by leaf hash.
        self._unbilled: list[Later] = []
        self._usage: dict[tuple[str, str], dict[str, list[Said]]] = {}  # By period and pot, then member.
        self._work: list[Accepted] = []  # Not yet billed,
        self._recent: list[tuple[int, Accepted]] = []  # or by that statement, so lately that it can be disputed.
        self._billed_in: dict[str, int] = {}  # The statement that billed an item.
        self._past: dict[str, int] = {}  # FLOP billed so far.
        self._cash: dict[str, Fraction] = {}  # Paid by each since the last statement.
        self._same: dict[Any, Any] = {}  # One object for equal ones: most rounds have the same members.

    @property
    def start(self) -> int:
        """Where the period that runs begins: the entry behind the last one that a statement covers."""
        return self.statements[-1].end if self.statements else 0

    @property
    def _terms(self) -> Charter:
        """The charter that the period which runs is billed by."""
        return self._agreement.at(self.start)[0]

    def price_at(self, index: int) -> Fraction:
        """Minor units for one NCU in the period that this entry lies in: as its statement has it, or, in the one that
        runs, as the charter says that it is billed by; its quotes, if there are any, come with its statement.
        """
        number = bisect_right(self.statements, index, key=lambda each: each.end)
        return self.statements[number].price if number < len(self.statements) else self._terms.price

    # Rules. Each raises `Refused` and changes nothing.

    def check(self, record: Money) -> None:
        """Whether this may come next, its author aside. Raises `Refused`."""
        match record:
            case Rate():
                ours = self._agreement.charter.currency
                currency.digits(record.currency)
                if record.currency == ours or record.rate <= 0:
                    raise Refused(Refusal.BAD_FIELD, f"{record.rate} {ours} for 1 {record.currency}")
                self._check_correction(record)
            case CostItem():
                self._check_item(record)
            case CreditNote():
                self._check_note(record)
            case Usage():
                self._check_open_period(record.period)
                if not any(each.name == record.pot and each.driver == "usage" for each in self._terms.pots):
                    raise Refused(Refusal.WRONG_ITEM, f"{record.pot} is not metered: its driver is not usage")
                self._check_member(record.member)
                self._check_correction(record)
            case Served():
                self._check_open_period(record.period)
                for name in (record.member, *(each.member for each in record.routes)):
                    self._check_member(name)
                self.served.check(record)
            case QuoteSeal() | QuoteOpen() | Price():
                self.quotes.check(record, self._agreement.present())
            case Dispute():
                self._check_dispute(record)
            case Resolution():
                self._check_resolution(record)
            case Settlement() | Default():
                self.settlements.check(record, self._agreement.present())

    def _check_correction(self, record: Rate | Usage) -> None:
        """Whether it replaces what stands, and nothing that was billed."""
        said = self._said(record)
        stands = said[-1].hash if said else FIRST
        if record.replaces != stands:
            raise Refused(Refusal.CONFLICT, f"it replaces {record.replaces[:12]}…; what stands is {stands[:12]}…")
        if isinstance(record, Rate):
            day = record.currency, record.date
            for item in self._items.values():
                if item.rate is not None and (item.record.currency, item.record.date) == day:
                    raise Refused(Refusal.CLOSED, f"{item.record.item} was billed by the rate of that day")

    def _said(self, record: Rate | Usage) -> list[Said]:
        """What was said of the same thing before."""
        if isinstance(record, Rate):
            return self._rates.get((record.currency, record.date), [])
        return self._usage.get((record.period, record.pot), {}).get(record.member, [])

    def _check_item(self, item: CostItem) -> None:
        charter = self._terms
        self._check_open_period(item.period)
        self._check_pot(item.pot)
        self._check_member(item.payer)
        if item.pot == charter.compute_pot:
            raise Refused(Refusal.WRONG_ITEM, f"{item.pot} holds work; the shared pots are {self._shared_pots()}")
        currency.digits(item.currency)
        if Fraction(item.amount) == 0:
            raise Refused(Refusal.WRONG_ITEM, f"the item {item.item} is of nothing")
        if item.currency != charter.currency and (item.currency, item.date) not in self._rates:
            raise Refused(Refusal.NO_RATE, f"no rate of {item.currency} on {item.date} is in the log")

    def _check_note(self, credit: CreditNote) -> None:
        self._check_open_period(credit.period)
        about = self._by_hash.get(credit.item)
        if about is None or (item := self._items[about]).record.payer != credit.payer:
            raise Refused(Refusal.WRONG_ITEM, f"{credit.item[:12]}… is no cost item of {credit.payer}")
        if (case := self.cases.get(about)) is not None and case.outcome == "void":
            raise Refused(Refusal.WRONG_ITEM, f"{item.record.item} is void: there is nothing of it to give back")
        if not 0 < Fraction(credit.amount) <= item.left:
            raise Refused(
                Refusal.WRONG_ITEM,
                f"{credit.amount} {item.record.currency} back; of {item.record.item} there are {item.left} left",
            )

    def _check_open_period(self, period: str) -> None:
        if any(each.period == period for each in self.statements):
            raise Refused(Refusal.CLOSED, f"the period {period} has its statement")

    def _check_pot(self, pot: str) -> None:
        if pot not in {each.name for each in self._terms.pots}:
            raise Refused(Refusal.WRONG_ITEM, f"{pot} is not one of the shared pots {self._shared_pots()}")

    def _check_member(self, member: str) -> None:
        if member not in {each.name for each in self._terms.members}:
            raise Refused(Refusal.WRONG_MEMBER, f"{member} is no member in the period that runs")

    def _shared_pots(self) -> str:
        return ", ".join(sorted({each.name for each in self._terms.pots} - {self._terms.compute_pot}))

    def _check_dispute(self, dispute: Dispute) -> None:
        case = self.cases.get(dispute.about)
        if case is not None and case.ruled is not None:
            raise Refused(Refusal.WRONG_DISPUTE, f"{dispute.about} was ruled on at entry {case.ruled}: {case.outcome}")
        self._disputable(dispute.about)

    def _disputable(self, about: str) -> tuple[str, Put | None, int]:
        """In which period this was billed, if it was, what was credited for it, and how much work; it can be disputed.

        Raises `Refused(WRONG_DISPUTE)`.
        """
        put, flop = None, 0
        if about in self._items:
            billed = self._billed_in.get(about)
            if billed is not None:
                put = self._item_put(self._items[about])
        else:
            billed, work = self._find_work(about)
            if billed is not None:
                put, flop = self._work_put(work, self.statements[billed].price, about), work.flop
        if billed is not None and len(self.statements) - 1 - billed >= self._agreement.charter.objection:
            raise Refused(
                Refusal.WRONG_DISPUTE, f"{about} was billed in {self.statements[billed].period}: it is too late"
            )
        return ("" if billed is None else self.statements[billed].period), put, flop

    def disputable(self) -> Iterator[tuple[Accepted, Work]]:
        """All accepted work that can be disputed now: it was not billed, or lately."""
        depth, newest = self._agreement.charter.objection, len(self.statements) - 1
        recent = [each for billed, each in self._recent if newest - billed < depth]
        return ((accepted, work) for accepted in [*recent, *self._work] for work in accepted.each())

    def _find_work(self, about: str) -> tuple[int | None, Work]:
        """(the number of the statement that billed it, if one has, the work) of what a dispute names."""
        for billed, accepted in [*((None, each) for each in self._work), *self._recent]:
            for work in accepted.each():
                if accepted.about(work.member) == about:
                    return billed, work
        raise Refused(Refusal.WRONG_DISPUTE, f"{about} is no cost item or accepted work that can be disputed now")

    def _check_resolution(self, ruling: Resolution) -> None:
        case = self.cases.get(ruling.about)
        if case is None or case.hash != ruling.dispute:
            raise Refused(Refusal.WRONG_DISPUTE, f"{ruling.about} has no first dispute {ruling.dispute[:12]}…")
        if case.ruled is not None:
            raise Refused(Refusal.WRONG_DISPUTE, f"{ruling.about} was ruled on at entry {case.ruled}: {case.outcome}")

    # What follows.

    def add(self, record: Money, index: int, hashed: str, key: Key) -> None:
        """Take in what was checked."""
        match record:
            case Rate():
                said = self._rates.setdefault((record.currency, record.date), [])
                said.append(Said(index, hashed, record.rate))
            case CostItem():
                about = f"item/{record.payer}/{record.item}"
                self._items[about] = item = Item(index, record, key, Fraction(record.amount))
                self._by_hash[hashed] = about
                self._unbilled.append(Later(record.period, self._item_put(item), key, about))
                self.quotes.begin(index, record.period)
            case CreditNote():
                about = self._by_hash[record.item]
                item = self._items[about]
                item.left -= Fraction(record.amount)
                what = f"credit note {record.note} for {item.record.item}"
                put = self._put(item, -Fraction(record.amount), index, what)
                self._unbilled.append(Later(record.period, put, key, about))
            case Usage():
                used = self._usage.setdefault((record.period, record.pot), {}).setdefault(record.member, [])
                used.append(Said(index, hashed, Fraction(record.quantity)))
            case Served():
                self.served.add(served.Said(index, hashed, key, record))
            case QuoteSeal() | QuoteOpen() | Price():
                self.quotes.add(record, index)
            case Dispute():
                if record.about not in self.cases:
                    self.cases[record.about] = Case(index, hashed, *self._disputable(record.about))
                self.cases[record.about].by[record.member] = index
            case Resolution():
                self._add_resolution(record, index)
            case Settlement() | Default():
                before = self.settlements.paid(record.period)
                self.settlements.add(record, self._agreement.present())
                for member, paid in self.settlements.paid(record.period).items():
                    more = max(0, paid - before[member])  # Who is paid has given no less.
                    self._cash[member] = self._cash.get(member, Fraction(0)) + more

    def _add_resolution(self, ruling: Resolution, index: int) -> None:
        case = self.cases[ruling.about]
        case.said[ruling.member] = ruling.outcome
        said = [member for member, outcome in case.said.items() if outcome == ruling.outcome]
        if carried(said, self._agreement.present()):
            case.ruled, case.outcome = index, ruling.outcome
            self._take_back(ruling.about, case)

    def _take_back(self, about: str, case: Case) -> None:
        """If it is void and was billed, it is taken back: an item less what credit notes take back of it anyway."""
        if case.outcome == "void" and case.billed is not None and case.ruled is not None:
            left = self._items[about].left / case.billed.original if about in self._items else Fraction(1)
            back = replace(
                case.billed,
                index=case.ruled,
                amount=-case.billed.amount * left,
                original=-case.billed.original * left,
                what=f"correction: {about} is void",
            )
            self._unbilled.append(Later("", back, ("", b""), "", case.flop))

    def add_close(self, index: int, run: str, number: int, works: Iterable[Work]) -> None:
        """Take in the work that a round.close accepts."""
        self._work.append(self._accepted(index, run, number, works))

    def add_statement(self, bill: Statement, index: int) -> None:
        """Take in a statement, which stands at this index of the log: what it bills is billed."""
        self._stated_at.append(index)
        self.stated.append(self.facts(bill.period, bill.end))
        number = len(self.statements)
        cash, self._cash = self._cash, {}
        given = {each.member: cash.get(each.member, Fraction(0)) for each in bill.balances}
        for line in bill.lines:
            if line.pot not in NO_POT:
                given[line.member] += line.credit
        self.given.append(given)
        for each in bill.balances:
            self._past[each.member] = self._past.get(each.member, 0) + each.flop
        depth = self._agreement.charter.objection
        self._recent = [each for each in self._recent if number - each[0] < depth]
        work, self._work = self._work, []
        for accepted in work:
            left, billed = self._split(accepted, bill.end)
            self._work += left
            for part in billed:
                if depth:
                    self._recent.append((number, part))
                if self.cases:
                    for done in part.each():
                        about = part.about(done.member)
                        self._billed(about, bill.period, self._work_put(done, bill.price, about), done.flop)
        billed_now = self.put_later(bill.period, bill.end)
        taken = {each.put.index for each in billed_now}
        self._unbilled = [
            each for each in self._unbilled if each.put.index not in taken and not self._void(each.about, bill.end)
        ]
        for later in billed_now:
            self._past[later.put.member] = self._past.get(later.put.member, 0) - later.flop
            if later.about and later.put.amount > 0:
                self._billed_in[later.about] = number
                self._items[later.about].rate = self._rate(self._items[later.about], bill.end)
                self._billed(later.about, bill.period, later.put, 0)
        self.served.add_statement(bill.period, self.due(bill.period, bill.end))
        self.statements.append(bill)
        members = self._agreement.at(bill.start)[0].members
        self.settlements.add_statement(bill, {each.name: each.benefit for each in members})
        self.quotes.add_statement(bill)

    def _billed(self, about: str, period: str, put: Put, flop: int) -> None:
        """The statement of this period bills this, although it was disputed meanwhile: behind the end of the period."""
        if (case := self.cases.get(about)) is not None:
            case.period, case.billed, case.flop = period, put, flop
            self._take_back(about, case)

    # What a statement is computed from.

    def facts(self, period: str, end: int) -> Facts:
        """What the statement of this period follows from, if it covers the entries before `end`."""
        charter, hashed = self._agreement.at(self.start)
        price = self.quotes.price(period, end)
        return Facts(
            period=period,
            start=self.start,
            end=end,
            charter=charter,
            charter_hash=hashed,
            price=charter.price if price is None else price,
            work=self.flop(end),
            put=tuple(each.put for each in self.put_later(period, end)),
            usage=self._used(period, end),
            gone=[member for member, index in self._agreement.left.items() if index < self.start],
            joined=self._joined(),
            past=dict(self._past),
            quotes=self.quotes.alone(period, end),
            carries=dict(self.carries()),
            worth=self._worth(charter, end),
            served=served.used(self.due(period, end)),
            unspent=tuple(self.unspent_in(self.start, end)),
        )

    def unspent_in(self, start: int, end: int) -> Iterator[Unspent]:
        """Of the runs that stopped early between these entries, the second one excluded."""
        return (each for each in self.unspent if start <= each.entry < end)

    def due(self, period: str, end: int) -> tuple[served.Said, ...]:
        """What members have served that the statement of this period bills, if it ends there."""
        periods = {each.period for each in self.statements} | {period}
        return self.served.due(periods, end, lambda said: self._keyring.disputes(said.key, said.at, end))

    def _worth(self, charter: Charter, end: int) -> dict[str, Fraction]:
        return self.worths.parts(end, [each.name for each in charter.members]) if charter.worth_share else {}

    def cited(self, period: str, end: int) -> Cited:
        """Which entries that statement goes by, besides those of what was done and put in."""
        used = {
            pot: {member: _standing(said, end).at for member, said in used.items() if said[0].at < end}
            for (of, pot), used in self._usage.items()
            if of == period
        }
        charter, hashed = self._agreement.at(self.start)
        worth = self.worths.standing(end) if charter.worth_share else None
        entry, measured = self._agreement.entries[hashed], worth.entries if worth is not None else ()
        due = tuple(each.at for each in self.due(period, end)) if charter.expert_price else ()
        return Cited(entry, *self.quotes.cited(period, end), used, tuple(self._stated_at), measured, due)

    def _joined(self) -> list[str]:
        """Members of the period that runs who were none in the one before."""
        if not self.statements:
            return []
        before = {each.member for each in self.statements[-1].balances}
        return [each.name for each in self._terms.members if each.name not in before]

    def _used(self, period: str, end: int) -> dict[str, dict[str, Fraction]]:
        """As it stood then."""
        return {
            pot: {member: _standing(said, end).value for member, said in used.items() if said[0].at < end}
            for (of, pot), used in self._usage.items()
            if of == period
        }

    def accepted(self, end: int) -> Iterator[tuple[Accepted, Work]]:
        """All work that a statement which ends there credits."""
        for accepted in self._work:
            for billed in self._split(accepted, end)[1]:
                for work in billed.each():
                    yield accepted, work

    def flop(self, end: int) -> dict[str, int]:
        """The same, by member. Rounds alike are counted first, and then added up."""
        alike = Counter[tuple[tuple[str, ...], tuple[int, ...]]]()
        for accepted in self._work:
            for billed in self._split(accepted, end)[1]:
                alike[billed.members, billed.flop] += 1
        total: dict[str, int] = {}
        for (members, flops), times in alike.items():
            for member, flop in zip(members, flops, strict=True):
                total[member] = total.get(member, 0) + times * flop
        return total

    def put_later(self, period: str, end: int) -> list[Later]:
        """Costs, credit notes and corrections that a statement of this period takes in, if it ends there."""
        closed, found, billed = {each.period for each in self.statements} | {period, ""}, list[Later](), set[str]()
        for each in self._unbilled:
            doubtful = self._disputed(each.about, end) or self._void(each.about, end) or self._doubted(each, end)
            if each.put.index >= end or each.period not in closed or doubtful:
                continue
            if each.put.amount > 0:
                billed.add(each.about)
            elif each.about and each.about not in billed and each.about not in self._billed_in:
                continue  # What it gives back is not billed yet.
            found.append(each._replace(put=self._rated(each, end)))
        return found

    def running(self) -> dict[str, Fraction]:
        """What each member has given since the last statement, in minor units, if it is not in dispute."""
        size = NOW
        charter = self._terms
        given = {each.name: self._cash.get(each.name, Fraction(0)) for each in charter.members}
        for member, flop in self.flop(size).items():
            given[member] += value(flop, charter.price)
        for each in self._unbilled:
            if not (self._disputed(each.about, size) or self._void(each.about, size)):
                given[each.put.member] += self._rated(each, size).amount
        return given

    def item_hash(self, about: str) -> str:
        """The leaf hash of the cost item that a dispute would call this. Raises `Refused(WRONG_ITEM)`."""
        found = next((hashed for hashed, named in self._by_hash.items() if named == about), None)
        if found is None:
            raise Refused(Refusal.WRONG_ITEM, f"the log holds no {about}")
        return found

    def used(self, period: str, pot: str) -> dict[str, Said]:
        """What each member has used of a pot in a period, as it stands, as far as it was said."""
        return {member: said[-1] for member, said in self._usage.get((period, pot), {}).items()}

    def rate(self, code: str, date: str) -> Said | None:
        """What a currency was worth on a day, as it stands; None if nobody has said so."""
        return self._rates.get((code, date), [None])[-1]

    def carries(self) -> Mapping[str, Fraction]:
        """What rounding has left over for each member so far."""
        return self.settlements.carries

    def disputed(self, bill: Statement) -> list[tuple[str, Put]]:
        """What this statement bills and is in dispute now: (what it is about, what was credited)."""
        return [
            (about, case.billed)
            for about, case in self.cases.items()
            if case.ruled is None and case.billed is not None and case.period == bill.period
        ]

    # Parts.

    def _disputed(self, about: str, size: int) -> bool:
        case = self.cases.get(about)
        return case is not None and case.billed is None and case.open(size)

    def _void(self, about: str, size: int) -> bool:
        case = self.cases.get(about)
        return case is not None and case.billed is None and case.void(size)

    def _doubted(self, later: Later, end: int) -> bool:
        return later.key[0] != "" and self._keyring.disputes(later.key, later.put.index, end)

    def _split(self, accepted: Accepted, end: int) -> tuple[list[Accepted], list[Accepted]]:
        """(what a statement that ends there leaves for a later one, what it bills) of a round's work."""
        if accepted.index >= end:
            return [accepted], []
        billed_by, in_force = self._terms, self._agreement.charter
        # What a newcomer does before its first period is billed in that.
        new = set[str]()
        if billed_by is not in_force:
            new = {each.name for each in in_force.members} - {each.name for each in billed_by.members}
        if not self.cases and not self._keyring.revoked and new.isdisjoint(accepted.members):
            return [], [accepted]
        left, billed = list[Work](), list[Work]()
        for work in accepted.each():
            about = accepted.about(work.member)
            if self._void(about, end):
                continue
            doubted = self._keyring.disputes((f"{work.member}/compute", work.key_id), work.at, end)
            waits = doubted or self._disputed(about, end) or work.member in new
            (left if waits else billed).append(work)
        return self._part(accepted, left), self._part(accepted, billed)

    def _part(self, accepted: Accepted, works: list[Work]) -> list[Accepted]:
        if not works:
            return []
        if len(works) == len(accepted.members):
            return [accepted]
        return [self._accepted(accepted.index, accepted.run, accepted.round, works)]

    def _accepted(self, index: int, run: str, number: int, works: Iterable[Work]) -> Accepted:
        members, flop, indices, key_ids = zip(*works, strict=True)
        one = self._one
        return Accepted(index, run, number, one(members), one(flop), one(key_ids), array("Q", indices))

    def _one(self, value: T) -> T:
        found: T = self._same.setdefault(value, value)
        return found

    def _item_put(self, item: Item) -> Put:
        return self._put(item, Fraction(item.record.amount), item.index, item.record.item)

    def _put(self, item: Item, amount: Fraction, index: int, what: str, end: int = NOW) -> Put:
        rate, worth = self._rate(item, end), amount * 10**self._agreement.charter.minor_digits
        put = Put(index, item.record.pot, item.record.payer, worth, item.record.currency, amount, what)
        return put if rate is None else replace(put, amount=worth * rate.value, rate_at=rate.at)

    def _rate(self, item: Item, end: int) -> Said | None:
        """What a unit of an item's currency is worth in a log of this size; what is billed keeps its rate.

        None for the charter's currency, which is the same in all charters.
        """
        if item.record.currency == self._agreement.charter.currency:
            return None
        return item.rate or _standing(self._rates[item.record.currency, item.record.date], end)

    def _rated(self, later: Later, end: int) -> Put:
        """The same by the rate that stands in a log of this size; what takes something back, as that was billed."""
        put = later.put
        return self._put(self._items[later.about], put.original, put.index, put.what, end) if later.about else put

    def _work_put(self, work: Work, price: Fraction, about: str) -> Put:
        charter, worth = self._agreement.charter, value(work.flop, price)
        original = worth / 10**charter.minor_digits
        return Put(work.at, charter.compute_pot, work.member, worth, charter.currency, original, about)


def _standing(said: list[Said], end: int) -> Said:
    """What stood in a log of this size, in which it had been said."""
    return next(each for each in reversed(said) if each.at < end)
