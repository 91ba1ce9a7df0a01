"""Entering a shared cost: signed by the member that paid it, with a commitment to the invoice and not the invoice."""

import hashlib
import re
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from client.home import Home
from shared_models import durable
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, CostItem
from shared_models.records.refusals import Refusal, Refused


def minor_units(amount: str, digits: int) -> int:
    """The whole minor units of a decimal amount such as 12.00. Raises `Refused(BAD_FIELD)`: nothing is rounded here."""
    match = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?", amount)
    fraction = (match[2] or "") if match else ""
    if match is None or len(fraction) > digits:
        raise Refused(Refusal.BAD_FIELD, f"{amount!r} is not an amount with at most {digits} digits after the point")
    return int(match[1] + fraction.ljust(digits, "0"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a cost item says of a cost. The rest of it, who pays and the commitment to the invoice, is made here."""

    item: str
    pot: str
    period: str
    category: str
    amount: str  # One that `Amount` allows, in units of the currency.
    currency: str
    date: str


def append(folder: Path, cost: Cost, invoice: bytes) -> int:
    """Append a cost item of this member; its index in the log. The same again is the same entry.

    The salt of the commitment stays in the member's folder, to be shown to an auditor with the invoice; and so does
    what was signed: were it signed anew, it would be another text under one name, which proves that its author
    said two things. Raises `Refused`: CONFLICT if another cost was entered under this name, or as the ledger's own.
    """
    home = Home(folder)
    kept = folder / "evidence"
    kept.mkdir(mode=0o700, exist_ok=True)
    note = kept / f"{cost.item}.note"
    said = entries.peek(note.read_bytes()) if note.is_file() else None
    salt = (kept / f"{said.evidence}.salt").read_bytes() if isinstance(said, CostItem) else secrets.token_bytes(32)
    evidence = hashlib.sha256(salt + invoice).hexdigest()
    record = CostItem(seq=0, prev=FIRST, payer=home.settings.member, evidence=evidence, **asdict(cost))
    if isinstance(said, CostItem) and replace(said, seq=0, prev=FIRST) != record:
        raise Refused(Refusal.CONFLICT, f"{cost.item} was signed for another cost: {note} has it")
    durable.write(kept / f"{evidence}.salt", salt, mode=0o600)
    return home.say(home.ledger(), home.key("admin"), record, note)[1].index
