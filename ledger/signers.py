"""Whose key has signed a request (RFC 9421): for all that the ledger does only for somebody."""

import re
import time
from collections.abc import Callable

from fastapi import Request

from shared_models import http_signatures
from shared_models.records.keys import VerifyKey
from shared_models.records.refusals import Refusal, Refused

FRESH_S = 300  # A signature is good for so long: clocks differ, and who listens could use it again.

Known = Callable[[str, bytes], VerifyKey | None]  # From a key's name and id to the key, if it is one.

_KEY_ID = re.compile(r"([a-z0-9.-]+/[a-z]+)\+([0-9a-f]{8})")


def signer(request: Request, known: Known, *fields: str) -> VerifyKey:
    """The key that has signed this request: its method, path, query, and these fields as far as they are there.

    Raises `Refused`: BAD_SIGNATURE, UNKNOWN_KEY, STALE.
    """
    headers = request.headers
    parts = {"@method": request.method, "@path": request.url.path, "@query": f"?{request.url.query}"}
    parts |= {name: ", ".join(headers.getlist(name)) for name in fields if name in headers}
    return check(headers.get("signature-input", ""), headers.get("signature", ""), parts, known)


def check(described: str, signed: str, parts: dict[str, str], known: Known) -> VerifyKey:
    """The key that has signed these parts and no others, not long ago. Raises `Refused`, as `signer`."""
    signature = http_signatures.parse(described, signed)
    if set(signature.covered) != set(parts):
        raise Refused(Refusal.BAD_SIGNATURE, f"it covers {' '.join(signature.covered)}, not {' '.join(parts)}")
    named = _KEY_ID.fullmatch(signature.parameters.get("keyid", ""))
    key = known(named[1], bytes.fromhex(named[2])) if named else None
    if key is None:
        raise Refused(Refusal.UNKNOWN_KEY, "keyid is no NAME/ROLE+ID of a key that may ask for this")
    signature.check(parts, key)
    created, now = signature.parameters.get("created", ""), int(time.time())
    if not created.isdigit() or abs(now - int(created)) > FRESH_S:
        raise Refused(Refusal.STALE, f"signed at {created or 'no time'}, it is {now}")
    return key
