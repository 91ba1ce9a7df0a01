"""Settling a statement: what is still to be paid, saying that it was, and saying that somebody does not pay."""

from pathlib import Path
from typing import Any

from client.auditor import audited
from client.home import Home
from shared_models.records.kinds import FIRST, Default, Settlement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books
from shared_models.rules.currency import money


def settle(folder: Path, period: str, *, paid: str = "", received: str = "") -> int:
    """Say that this member has paid one, or has received from one, what was open; the index of the entry that says so.

    Of several transfers between the two it is the oldest of which this member has not yet said so. Raises `Refused`.
    """
    home = Home(folder)
    member, books = home.settings.member, audited(home)
    payer, payee = (member, paid) if paid else (received, member)
    opened = books.accounts.settlements.open(period)
    found = (each for each in opened if each[1:3] == (payer, payee) and member not in each.said)
    if (transfer := next(found, None)) is None:
        raise Refused(Refusal.NOT_OWED, f"{payer} owes {payee} nothing for {period} that you have not confirmed")
    record = Settlement(
        seq=0,
        prev=FIRST,
        member=member,
        period=period,
        netting=transfer.netting,
        payer=payer,
        payee=payee,
        amount=transfer.amount,
    )
    return home.say(home.ledger(), home.key("admin"), record)[1].index


def default(folder: Path, period: str, defaulter: str, reason: str) -> int:
    """Say that another does not pay what it owes; the index of the entry that says so. Raises `Refused`."""
    home = Home(folder)
    member, books = home.settings.member, audited(home)
    netting = books.accounts.settlements.netting(period)
    record = Default(
        seq=0, prev=FIRST, member=member, period=period, netting=netting, defaulter=defaulter, reason=reason
    )
    books.accounts.settlements.check(record, books.agreement.present())
    if member in books.accounts.settlements.voices(period).get(defaulter, ()):
        raise Refused(Refusal.CONFLICT, f"you have said so of {defaulter}; it takes others too")
    return home.say(home.ledger(), home.key("admin"), record)[1].index


def shown(books: Books, period: str) -> dict[str, Any]:
    """What is open, and who says what of it, for programs. Amounts are minor units. Raises `Refused(NOT_OWED)`."""
    settlements = books.accounts.settlements
    return {
        "period": period,
        "currency": books.charter.currency,
        "minor_digits": books.charter.minor_digits,
        "netting": settlements.netting(period),
        "open": [each._asdict() | {"said": sorted(each.said)} for each in settlements.open(period)],
        "paid": settlements.paid(period),
        "voices": settlements.voices(period),
        "defaulters": settlements.defaulters(period),
    }


def text(books: Books, period: str) -> str:
    """The same for people."""
    charter, settlements = books.charter, books.accounts.settlements
    lines = []
    for each in settlements.open(period):
        said = "".join(f", {member} says it is paid" for member in sorted(each.said))
        lines.append(f"{each.payer} pays {each.payee} {money(each.amount, charter)} {charter.currency}{said}")
    for member, voices in settlements.voices(period).items():
        lines.append(f"{member} does not pay, says {' and '.join(voices)}")
    lines += [f"{member} is in default: the others bear its debt" for member in settlements.defaulters(period)]
    return "\n".join(lines if settlements.open(period) else [*lines, f"everything of {period} is paid"])
