"""Entering a shared cost: signed by the member that paid it, with a commitment to the invoice and not the invoice."""

import hashlib
import re
import secrets
from pathlib import Path

from client.home import Home
from shared_models import durable
from shared_models.ledger_http import LedgerHttp
from shared_models.records.kinds import FIRST, CostItem
from shared_models.records.refusals import Refusal, Refused


def minor_units(amount: str, digits: int) -> int:
    """The whole minor units of a decimal amount such as 12.00. Raises `Refused(BAD_FIELD)`: nothing is rounded here."""
    match = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?", amount)
    fraction = (match[2] or "") if match else ""
    if match is None or len(fraction) > digits:
        raise Refused(Refusal.BAD_FIELD, f"{amount!r} is not an amount with at most {digits} digits after the point")
    return int(match[1] + fraction.ljust(digits, "0"))


def append(folder: Path, item: str, pot: str, amount: str, invoice: Path) -> int:
    """Append a cost item of this member; its index in the log. Raises `Refused`.

    The salt of the commitment stays in the member's folder, to be shown to an auditor with the invoice.
    """
    home = Home(folder)
    charter, salt = home.charter, secrets.token_bytes(32)
    record = CostItem(
        seq=0,
        prev=FIRST,
        item=item,
        payer=home.settings.member,
        pot=pot,
        amount=minor_units(amount, charter.minor_digits),
        currency=charter.currency,
        evidence=hashlib.sha256(salt + invoice.read_bytes()).hexdigest(),
    )
    kept = folder / "evidence"
    kept.mkdir(mode=0o700, exist_ok=True)
    durable.write(kept / f"{record.evidence}.salt", salt, mode=0o600)
    return home.say(LedgerHttp(home.settings.ledger), home.key("admin"), record)[1].index
