"""Objecting to a bill, ruling on objections, and giving back what an invoice said too much.

What the ledger would refuse is refused here first, by the same rules on the same log: nothing is signed in vain.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from client.auditor import audited
from client.home import Home
from shared_models.records.kinds import FIRST, CreditNote, Dispute, Resolution
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import carried
from shared_models.rules.books import Books
from shared_models.rules.currency import amount as spelled


class Ruled(NamedTuple):
    """What was ruled so far."""

    at: int  # Index of this member's ruling.
    said: tuple[str, ...]  # The members present that say the same, in order of their names.
    present: int  # So many members have a say,
    needed: int  # and so many of them decide.

    @property
    def decided(self) -> bool:
        return len(self.said) >= self.needed


def credit(folder: Path, item: str, amount: str, period: str, reason: str) -> int:
    """Give back a part of a cost that this member has entered, named as it was; the index of the credit note.

    The note's name follows from what it says, so the same again is refused: who gives the same back twice, for two
    reasons, says so. Raises `Refused`: BAD_FIELD, WRONG_ITEM, CLOSED, CONFLICT.
    """
    home = Home(folder)
    member, books = home.settings.member, audited(home)
    given, hashed = spelled(amount), books.accounts.item_hash(f"item/{member}/{item}")
    named = hashlib.sha256("\n".join((hashed, period, given, reason)).encode()).hexdigest()
    record = CreditNote(
        seq=0,
        prev=FIRST,
        note=f"credit-{named[:16]}",
        payer=member,
        item=hashed,
        period=period,
        amount=given,
        reason=reason,
    )
    return _say(home, books, record)


def dispute(folder: Path, about: str, reason: str) -> int:
    """Object to what is billed, or will be: item/PAYER/ITEM or work/RUN/ROUND/MEMBER; the index of the dispute.

    Raises `Refused`: WRONG_DISPUTE, CONFLICT if this member has done so before.
    """
    home = Home(folder)
    record = Dispute(seq=0, prev=FIRST, member=home.settings.member, about=about, reason=reason)
    return _say(home, audited(home), record)


def rule(folder: Path, about: str, outcome: str, reason: str) -> Ruled:
    """Say whether what is disputed stands or is void. Raises `Refused`: WRONG_DISPUTE, CONFLICT."""
    home = Home(folder)
    member, books = home.settings.member, audited(home)
    if (case := books.accounts.cases.get(about)) is None:
        raise Refused(Refusal.WRONG_DISPUTE, f"nobody has disputed {about}")
    record = Resolution(
        seq=0, prev=FIRST, member=member, about=about, dispute=case.hash, outcome=outcome, reason=reason
    )
    index, present = _say(home, books, record), books.agreement.present()
    agreeing = {member, *(each for each, said in case.said.items() if said == outcome)}
    needed = next(count for count in range(len(present) + 1) if carried(present[:count], present))
    return Ruled(index, tuple(sorted(agreeing.intersection(present))), len(present), needed)


def _say(home: Home, books: Books, record: CreditNote | Dispute | Resolution) -> int:
    if books.spoken(f"{home.settings.member}/admin", record):
        raise Refused(Refusal.CONFLICT, f"you have said so before, or otherwise: {record.kind} {record.idem}")
    books.accounts.check(record)
    return home.say(home.ledger(), home.key("admin"), record)[1].index
