"""Quoting: everybody sees at once that a member has quoted, and nobody what, until it opens its quote.

What `quote.open` will say lies in the member's folder until then, as quotes/SEAL.json. Without that file a quote is
lost, so it is on the disk before the seal leaves.
"""

import secrets
from collections.abc import Collection
from pathlib import Path

from client.auditor import audited
from client.home import Home
from shared_models import durable
from shared_models.records import canonical
from shared_models.records.kinds import FIRST, QuoteOpen, QuoteSeal
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.quotes import Named, sealed


def seal(folder: Path, about: str, period: str, amount: str, others: Collection[str] = ()) -> int:
    """Seal a quote of this member, or of a coalition with others; the index of its seal. Raises `Refused`.

    The amount is in units of the charter's currency. What the ledger would refuse is refused before anything is kept.
    """
    home = Home(folder)
    opening = QuoteOpen(
        seq=0,
        prev=FIRST,
        member=home.settings.member,
        about=about,
        period=period,
        members=tuple(sorted({home.settings.member, *others})),
        amount=amount.rstrip("0").rstrip(".") if "." in amount else amount,
        salt=secrets.token_hex(32),
    )
    data, books = canonical.encode(opening), audited(home)
    if (before := books.accounts.quotes.seals.get(Named.of(opening))) is not None:
        raise Refused(Refusal.CONFLICT, f"you sealed this quote at entry {before[1]}")
    record = QuoteSeal(
        seq=0,
        prev=FIRST,
        member=opening.member,
        about=about,
        period=period,
        members=opening.members,
        seal=sealed(about, period, opening.members, opening.amount, opening.salt),
    )
    books.accounts.quotes.check(record, books.agreement.present())
    kept = home.path / "quotes"
    kept.mkdir(mode=0o700, exist_ok=True)
    durable.write(kept / f"{record.seal}.json", data, mode=0o600)
    durable.sync_folder(home.path)
    return home.say(home.ledger(), home.key("admin"), record)[1].index


def unseal(folder: Path, about: str, period: str, others: Collection[str] = ()) -> int:
    """Open what was sealed; the index of the entry that does. Raises `Refused`: NOT_FOUND, NOT_SET_UP, CONFLICT."""
    home = Home(folder)
    member, books = home.settings.member, audited(home)
    named = Named(member, about, period, tuple(sorted({member, *others})))
    if named not in books.accounts.quotes.seals:
        raise Refused(Refusal.NOT_FOUND, f"you sealed nothing about {about} of {period} for {'+'.join(named.members)}")
    if (before := books.accounts.quotes.opened.get(named)) is not None:
        raise Refused(Refusal.CONFLICT, f"you opened this quote at entry {before.opened_at}")
    path = home.path / "quotes" / f"{books.accounts.quotes.seals[named][0]}.json"
    try:
        record = canonical.decode(QuoteOpen, path.read_bytes())
    except FileNotFoundError:
        raise Refused(Refusal.NOT_SET_UP, f"{path} is gone, and only it says what was sealed") from None
    books.accounts.quotes.check(record, books.agreement.present())
    return home.say(home.ledger(), home.key("admin"), record)[1].index
