"""Ed25519 keys with names, as C2SP signed-note writes them, and verification that is strict on every back-end.

Libraries disagree on some signatures: non-canonical encodings, keys and nonces of small order. A receipt that passes
here and fails at another auditor would be a bill that cannot be settled, so we accept only what all of them accept:
canonical A, canonical R, neither of small order, S below the group order (RFC 8032 §5.1.7, without cofactor).
"""

import base64
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared_models.records.refusals import Refusal, Refused

ED25519 = b"\x01"  # The signature type of C2SP signed-note.

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
# The y coordinates of the eight points whose order divides 8. tests/records/test_keys.py computes them from the curve.
_SMALL_Y = frozenset(
    {
        0,
        1,
        _P - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)


def _canonical_point(encoded: bytes) -> bool:
    """Whether these 32 bytes are a canonical encoding of a point that is not of small order (its being on the curve
    aside).

    The only points with x = 0 have y = 1 or -1, both of small order, so the sign bit needs no check of its own.
    """
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    return y < _P and y not in _SMALL_Y


def strict(public: bytes, signature: bytes) -> bool:
    """Whether every Ed25519 library would come to the same verdict about this signature; it may still be wrong."""
    return (
        len(signature) == 64
        and _canonical_point(public)
        and _canonical_point(signature[:32])
        and int.from_bytes(signature[32:], "little") < _L
    )


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes that stand before a signature (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


@dataclass(frozen=True)
class VerifyKey:
    """A public key under the name its owner signs with, such as `acme/compute`."""

    name: str
    public: bytes

    @cached_property
    def id(self) -> bytes:
        return key_id(self.name, self.public)

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.public)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key signed this message, strictly."""
        if not strict(self.public, signature):
            return False
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def text(self) -> str:
        """`name+id+base64(type, key)`, the form in which Go's note package reads a verifier key."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> "VerifyKey":
        """The key that this text spells. Raises `Refused(BAD_KEY)`, for a key of small order too."""
        name, _, rest = text.partition("+")
        hexed, _, encoded = rest.partition("+")
        try:
            raw = base64.b64decode(encoded, validate=True)
            key = cls(name, raw[1:])
            if raw[:1] == ED25519 and len(raw) == 33 and _canonical_point(key.public) and key.text() == text:
                _ = key._key
                return key
        except ValueError:
            pass
        raise Refused(Refusal.BAD_KEY, f"{text[:120]!r} (id {hexed[:8]}) is not a verifier key name+id+base64")


class SigningKey:
    """A private key under its name. Whoever holds this object can sign as `name`."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self.name = name
        self._private = private
        self.verify_key = VerifyKey(name, private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self.name})"

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    @classmethod
    def generate(cls, name: str) -> "SigningKey":
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def create(cls, path: Path, name: str) -> "SigningKey":
        """Make a key and write it where only its owner can read it; never over an old one.

        The file holds `PRIVATE+KEY+name+id+base64(type, seed)`, as Go's note package writes signer keys.
        Raises FileExistsError.
        """
        key = cls.generate(name)
        seed = base64.b64encode(ED25519 + key._private.private_bytes_raw()).decode()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"PRIVATE+KEY+{name}+{key.verify_key.id.hex()}+{seed}\n")
            file.flush()
            os.fsync(file.fileno())
        return key

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read a key that `create` wrote. Raises `Refused`: NOT_SET_UP if there is none, BAD_KEY if it is damaged."""
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            raise Refused(Refusal.NOT_SET_UP, f"there is no key at {path}") from None
        head, _, rest = text.partition("PRIVATE+KEY+")
        name, _, rest = rest.partition("+")
        hexed, _, encoded = rest.partition("+")
        try:
            raw = base64.b64decode(encoded, validate=True)
            key = cls(name, Ed25519PrivateKey.from_private_bytes(raw[1:]))
            if head == "" and raw[:1] == ED25519 and key.verify_key.id.hex() == hexed:
                return key
        except ValueError:
            pass
        raise Refused(Refusal.BAD_KEY, f"{path} does not hold a signing key")
