"""HTTP Message Signatures (RFC 9421), as much of them as we use: one signature, by an Ed25519 key, of a request.

What is signed is the signature base: a line for each part of the request that is covered, then the parameters. It
begins with a quote, and the text of a note never does: no signature for one is good for the other.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from shared_models.records.keys import SigningKey, VerifyKey
from shared_models.records.refusals import Refusal, Refused

LABEL = "sig"

# One signature; parts without parameters of their own; parameters that are whole numbers or plain strings.
_INPUT = re.compile(
    r'([a-z*][a-z0-9_.*-]*)=(\(((?:"[@a-z0-9-]+"(?: "[@a-z0-9-]+")*)?)\)'
    r'((?:;[a-z*][a-z0-9_.*-]*=(?:[0-9]{1,15}|"[ !#-\[\]-~]*"))*))'
)
_PARAMETER = re.compile(r';([a-z*][a-z0-9_.*-]*)=(?:([0-9]+)|"([^"]*)")')
_SIGNATURE = re.compile(r"([a-z*][a-z0-9_.*-]*)=:((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?):")


class Signature(NamedTuple):
    """What the two header fields of a signed request say."""

    covered: tuple[str, ...]  # Names of parts: `@method`, `@path`, `@query`, or of a header field in lower case.
    parameters: Mapping[str, str]
    spelled: str  # Both, as they were sent.
    raw: bytes

    def base(self, parts: Mapping[str, str]) -> bytes:
        """What is signed (section 2.5). Raises `Refused(BAD_SIGNATURE)` if a part that is covered is not there."""
        missing = [name for name in self.covered if name not in parts]
        if missing or len(set(self.covered)) != len(self.covered):
            raise Refused(Refusal.BAD_SIGNATURE, f"it covers {', '.join(missing) or 'a part twice'}")
        lines = [f'"{name}": {parts[name]}' for name in self.covered]
        return "\n".join([*lines, f'"@signature-params": {self.spelled}']).encode()

    def check(self, parts: Mapping[str, str], key: VerifyKey) -> None:
        """Whether this key signed these parts, as far as they are covered. Raises `Refused(BAD_SIGNATURE)`."""
        if not key.verifies(self.raw, self.base(parts)):
            raise Refused(Refusal.BAD_SIGNATURE, f"{key.name} did not sign this request")


def digest(body: bytes) -> str:
    """The value of `Content-Digest` of a request with this body (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def parse(described: str, signed: str) -> Signature:
    """The signature in these values of `Signature-Input` and `Signature`. Raises `Refused(BAD_SIGNATURE)`."""
    found, value = _INPUT.fullmatch(described), _SIGNATURE.fullmatch(signed)
    if found is None or value is None or found[1] != value[1]:
        raise Refused(Refusal.BAD_SIGNATURE, "the request has no signature of the form that RFC 9421 gives it")
    parameters = {name: number or text for name, number, text in _PARAMETER.findall(found[4])}
    return Signature(tuple(found[3].replace('"', "").split()), parameters, found[2], base64.b64decode(value[2]))


def sign(parts: Mapping[str, str], key: SigningKey, created_s: int, nonce: str = "") -> dict[str, str]:
    """The header fields of a request of which this key signs these parts, at this Unix time in seconds.

    With a nonce, of letters that need no quoting, no two of them are the same.
    """
    covered = " ".join(f'"{name}"' for name in parts)
    spelled = f'({covered});created={created_s};keyid="{key.name}+{key.verify_key.id.hex()}"'
    spelled += f';nonce="{nonce}"' if nonce else ""
    raw = key.sign(Signature(tuple(parts), {}, spelled, b"").base(parts))
    return {"Signature-Input": f"{LABEL}={spelled}", "Signature": f"{LABEL}=:{base64.b64encode(raw).decode()}:"}
