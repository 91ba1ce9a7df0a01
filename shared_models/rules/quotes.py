"""Sealed quotes: what an NCU should be worth, and what going alone would cost; and the certificate on each bill.

A quote is sealed before anything is known that it could be bent to: before the work and the costs of its period begin,
and before another's quote of the price is opened. Nothing proves that a quote is honest. That it was said in time, and
that it cannot be changed, is proven here. All amounts that come out are exact, in minor units.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from statistics import median
from typing import NamedTuple

from shared_models.records.kinds import Price, Quoted, QuoteOpen, QuoteSeal, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import carried

EXACT = 12  # Up to so many coalitions that would be better off alone, every union of them is looked at: 2^12.


def sealed(about: str, period: str, members: Collection[str], amount: str, salt: str) -> str:
    """The seal of a quote: SHA-256 of the salt's 32 bytes and one line, `alone 2026-11 acme+birch 1200.5`, in ASCII.

    No part of the line holds a space and no name a plus sign, so it reads in one way only. Who the members are is
    sealed too, so that nobody can hand in another's seal as its own and open it after the other.
    """
    line = f"{about} {period} {'+'.join(members)} {amount}"
    return hashlib.sha256(bytes.fromhex(salt) + line.encode("ascii")).hexdigest()


class Named(NamedTuple):
    """Whose quote about what: there is one of this name."""

    member: str
    about: str
    period: str
    members: tuple[str, ...]

    @classmethod
    def of(cls, record: QuoteSeal | QuoteOpen) -> "Named":
        return cls(record.member, record.about, record.period, record.members)


class Opened(NamedTuple):
    """What was in a seal."""

    amount: Fraction  # Minor units.
    sealed_at: int  # Index of the quote.seal,
    opened_at: int  # and of the quote.open.


class Quotes:
    """Every seal, and what was in it. Use `check`, then `add`, with entries in their order.

    A period is what a statement covers, and only the statement names it. So it is by their place in the log that quotes
    and prices come in time, and `begin` is to be told each round that opens and each cost that is entered.
    """

    def __init__(self, minor_digits: int) -> None:
        self._unit = 10**minor_digits
        self.seals: dict[Named, tuple[str, int]] = {}  # (seal, index).
        self.opened: dict[Named, Opened] = {}
        self._prices: dict[str, tuple[Fraction, int]] = {}  # By period: (price, index).
        self._works: list[tuple[int, str]] = []  # (index, period if it names one) behind the last statement's end.
        self._stated: dict[str, int | None] = {}  # By period, the index at which it began; None without work.

    def begin(self, index: int, period: str = "") -> None:
        """A round was opened, or a cost entered, at this index. A cost says for which period it is."""
        self._works.append((index, period))

    def check(self, record: QuoteSeal | QuoteOpen | Price, present: Collection[str]) -> None:
        """Whether this may come next, for these members; that its author says it once is taken for granted.

        Raises `Refused`: AFTER_THE_FACT, WRONG_MEMBER, WRONG_SEAL, TOO_EARLY, WRONG_PRICE.
        """
        match record:
            case QuoteSeal():
                self._check_before(record.period)
                self._check_members(record, present)
                if record.about == "price" and self._quoted(record.period):
                    raise Refused(Refusal.AFTER_THE_FACT, f"a quote of the price of {record.period} is open already")
            case QuoteOpen():
                if record.period in self._stated:
                    raise Refused(Refusal.AFTER_THE_FACT, f"{record.period} has its statement")
                seal, _ = self.seals.get(Named.of(record), ("", 0))
                if sealed(record.about, record.period, record.members, record.amount, record.salt) != seal:
                    raise Refused(
                        Refusal.WRONG_SEAL,
                        f"{record.member} sealed {seal[:12] + '…, of something else' if seal else 'nothing'}"
                        f" about {record.about} of {record.period} for {'+'.join(record.members)[:120]}",
                    )
                sealed_by = [named.member for named in self.seals if named[1:3] == ("price", record.period)]
                if record.about == "price" and not carried(sealed_by, present):  # Who opens ends the sealing for all.
                    raise Refused(
                        Refusal.TOO_EARLY,
                        f"{len(sealed_by)} of {len(present)} members have sealed a price of {record.period}",
                    )
            case Price():
                self._check_before(record.period)
                self._check_price(record, present)

    def _check_before(self, period: str) -> None:
        """A cost for another period shows that another one runs. If that was a lie, nothing is gained: see `alone`."""
        if period in self._stated:
            raise Refused(Refusal.AFTER_THE_FACT, f"{period} has its statement")
        if self._works and not {named for _, named in self._works} - {"", period}:
            raise Refused(
                Refusal.AFTER_THE_FACT,
                f"work or a cost of the period that runs stands at entry {self._works[0][0]},"
                f" and nothing shows that it is not {period}",
            )

    def _check_members(self, record: QuoteSeal, present: Collection[str]) -> None:
        names = record.members
        if record.member not in names or not set(names) <= set(present) or names != tuple(sorted(set(names))):
            raise Refused(
                Refusal.WRONG_MEMBER,
                f"{record.member} quotes for {', '.join(names)[:120]}: not members in order of their names, or not it",
            )
        if record.about == "price" and len(names) > 1:
            raise Refused(Refusal.WRONG_MEMBER, f"{record.member} quotes a price for {', '.join(names)[:120]}")

    def _check_price(self, record: Price, present: Collection[str]) -> None:
        quoted = self._quoted(record.period)
        if not carried(quoted, present):
            raise Refused(
                Refusal.WRONG_PRICE,
                f"{len(quoted)} quotes of the price of {record.period} are open;"
                f" it takes those of more than half of {len(present)} members",
            )
        right = self.median(record.period)
        if (record.price, record.quotes) != right:
            raise Refused(
                Refusal.WRONG_PRICE,
                f"{record.price} of {', '.join(record.quotes)[:120]};"
                f" the median is {right[0]}, of {', '.join(right[1])[:120]}",
            )

    def add(self, record: QuoteSeal | QuoteOpen | Price, index: int) -> None:
        """Take in what was checked."""
        match record:
            case QuoteSeal():
                self.seals[Named.of(record)] = record.seal, index
            case QuoteOpen():
                _, at = self.seals[Named.of(record)]
                self.opened[Named.of(record)] = Opened(Fraction(record.amount) * self._unit, at, index)
            case Price():
                self._prices[record.period] = record.price, index

    def add_statement(self, record: Statement) -> None:
        """A period has its statement: when it began is known now, and nothing more is said about it."""
        self._stated[record.period] = self._began(record.period)
        self._works = [each for each in self._works if each[0] >= record.end]

    def median(self, period: str) -> tuple[Fraction, tuple[str, ...]]:
        """(price in minor units, members): the exact median of the price's opened quotes, and whose they are.

        The middle one, or the mean of the two in the middle. Raises `Refused(WRONG_PRICE)` if there are none.
        """
        quoted = self._quoted(period)
        if not quoted:
            raise Refused(Refusal.WRONG_PRICE, f"no quote of the price of {period} is open")
        return Fraction(median(quoted.values())), tuple(sorted(quoted))

    def price(self, period: str, end: int) -> Fraction | None:
        """Minor units for one NCU, as an entry below this index has it that stood before the period began."""
        price, at = self._prices.get(period, (None, 0))
        return price if at < end and self._in_time(period, at) else None

    def cited(self, period: str, end: int) -> tuple[int | None, tuple[int, ...]]:
        """The indices of the entry that this price is from, and of those that opened quotes for going alone."""
        price = self._prices[period][1] if self.price(period, end) is not None else None
        return price, tuple(each.opened_at for _, each in self._alone(period, end))

    def alone(self, period: str, end: int) -> dict[frozenset[str], Fraction]:
        """Minor units that the period would cost each coalition alone, as opened below this index.

        Those count whose seal stood in the log before any work or cost did that the period's statement covers, or will
        cover. Where several members quote for one coalition, the least of it counts.
        """
        quotes: dict[frozenset[str], Fraction] = {}
        for named, each in self._alone(period, end):
            coalition = frozenset(named.members)
            quotes[coalition] = min(each.amount, quotes.get(coalition, each.amount))
        return quotes

    def _alone(self, period: str, end: int) -> Iterator[tuple[Named, Opened]]:
        for named, each in self.opened.items():
            if named[1:3] == ("alone", period) and each.opened_at < end and self._in_time(period, each.sealed_at):
                yield named, each

    def _quoted(self, period: str) -> dict[str, Fraction]:
        return {named.member: each.amount for named, each in self.opened.items() if named[1:3] == ("price", period)}

    def _began(self, period: str) -> int | None:
        """The index of a period's first work or cost; for one without a statement, as if it ran now."""
        return self._stated[period] if period in self._stated else min((at for at, _ in self._works), default=None)

    def _in_time(self, period: str, index: int) -> bool:
        began = self._began(period)
        return began is None or index < began


def caps(quotes: Mapping[frozenset[str], Fraction]) -> dict[str, Fraction]:
    """What each member has quoted for itself alone."""
    return {next(iter(coalition)): amount for coalition, amount in quotes.items() if len(coalition) == 1}


def certificate(charges: Mapping[str, Fraction], quotes: Mapping[frozenset[str], Fraction]) -> tuple[Quoted, ...]:
    """What every coalition that quoted is charged, beside its quote: the one that gains least by staying first.

    Ties in order of their names. Coalitions with somebody who is charged nothing here, because it is no member any
    more, are left out.
    """
    found = [
        Quoted(
            members=tuple(sorted(coalition)),
            charge=sum((charges[each] for each in coalition), Fraction(0)),
            alone=alone,
        )
        for coalition, alone in quotes.items()
        if coalition <= charges.keys()
    ]
    return tuple(sorted(found, key=_rank))


def worst(certificate: Collection[Quoted]) -> Quoted | None:
    """The coalition with the least reason to stay, of those that quoted and of all that such ones can join to form.

    Coalitions without a member in common can leave together, each for its own quote. Joining one with slack left only
    adds slack, so the worst union is one of those that would be better off alone; all unions of up to 12 of them are
    looked at. Of more, the worst is taken first, then the next that fits, and so on: there may be a worse union than
    this one, whose parts overlap. None if nobody quoted.
    """
    blocking = sorted((each for each in certificate if each.alone < each.charge), key=_rank)
    if not blocking:
        return min(certificate, key=_rank, default=None)
    unions = [Quoted(members=(), charge=Fraction(0), alone=Fraction(0))]
    if len(blocking) > EXACT:
        for each in blocking:
            unions += [_joined(unions[-1], each)] if set(each.members).isdisjoint(unions[-1].members) else []
    else:
        for each in blocking:
            unions += [_joined(union, each) for union in unions if set(each.members).isdisjoint(union.members)]
    return min(unions, key=_rank)


def _rank(quoted: Quoted) -> tuple[Fraction, tuple[str, ...]]:
    return quoted.alone - quoted.charge, quoted.members


def _joined(one: Quoted, other: Quoted) -> Quoted:
    return Quoted(
        members=tuple(sorted(one.members + other.members)),
        charge=one.charge + other.charge,
        alone=one.alone + other.alone,
    )
