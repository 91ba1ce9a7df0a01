"""Keys with names, as C2SP signed-note writes them, and verification that is strict on every back-end.

A key has a type, which is part of its id and says what a signature is of:

    0x01  Ed25519                       of the text of a note (signed-note)
    0x04  Ed25519, timestamped          of a tree head: a cosignature (tlog-cosignature)
    0x06  ML-DSA-44, timestamped        of a tree head, where quantum computers are feared (tlog-cosignature)

Libraries disagree on some Ed25519 signatures: non-canonical encodings, keys and nonces of small order. A receipt that
passes here and fails at another auditor would be a bill that cannot be settled, so we accept only what all of them
accept: canonical A, canonical R, neither of small order, S below the group order (RFC 8032 §5.1.7, without cofactor).
"""

import base64
import binascii
import hashlib
import os
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from shared_models.records.refusals import Refusal, Refused

ED25519, COSIGNATURE, MLDSA44 = b"\x01", b"\x04", b"\x06"
BACKEND = "CONSORTIUM_ED25519"  # The environment may name a back-end: `cryptography` or `nacl`.

_PUBLIC_BYTES = {ED25519: 32, COSIGNATURE: 32, MLDSA44: 1312}
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

Verify = Callable[[bytes, bytes], bool]  # (signature, message) -> whether it is right.


def _canonical_point(encoded: bytes) -> bool:
    """Whether these 32 bytes are a canonical encoding of a point that is not of small order (its being on the curve
    aside).

    The only points with x = 0 have y = 1 or -1, both of small order, so the sign bit needs no check of its own.
    """
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    return y < _P and y not in _SMALL_Y


def strict(public: bytes, signature: bytes) -> bool:
    """Whether every Ed25519 library would come to the same verdict about this signature; it may still be wrong."""
    return _canonical_point(public) and _strict_signature(signature)


def _strict_signature(signature: bytes) -> bool:
    return len(signature) == 64 and _canonical_point(signature[:32]) and int.from_bytes(signature[32:], "little") < _L


def ed25519(public: bytes, backend: str) -> Verify:
    """Verification under this key by this back-end, `cryptography` or `nacl`, strict on both.

    Raises ValueError if the key is no point of the curve (`nacl` finds that out with the first signature).
    """
    if backend == "nacl":
        from nacl.bindings import crypto_sign_open
        from nacl.exceptions import BadSignatureError

        canonical = _canonical_point(public)

        def by_nacl(signature: bytes, message: bytes) -> bool:
            if not canonical or not _strict_signature(signature):
                return False
            try:
                crypto_sign_open(signature + message, public)
            except BadSignatureError:
                return False
            return True

        return by_nacl

    key, canonical = Ed25519PublicKey.from_public_bytes(public), _canonical_point(public)

    def by_cryptography(signature: bytes, message: bytes) -> bool:
        if not canonical or not _strict_signature(signature):
            return False
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return by_cryptography


@cache
def backend() -> str:
    """The back-end in use: what the environment names, else `nacl` where the extra `fast` has brought it."""
    named = os.environ.get(BACKEND, "")
    if named in ("cryptography", "nacl"):
        return named
    try:
        import nacl.bindings
    except ImportError:
        return "cryptography"
    return "nacl" if nacl.bindings else "cryptography"


def key_id(name: str, public: bytes, kind: bytes = ED25519) -> bytes:
    """The four bytes that stand before a signature (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def valid_name(name: str) -> bool:
    """Whether this may be a key's name: not empty, no space of any script, no plus."""
    return name != "" and not any(c == "+" or c.isspace() or unicodedata.category(c)[0] == "Z" for c in name)


@dataclass(frozen=True)
class VerifyKey:
    """A public key under the name its owner signs with, such as `acme/compute`."""

    name: str
    public: bytes
    kind: bytes = ED25519

    def __reduce__(self) -> tuple[type["VerifyKey"], tuple[str, bytes, bytes]]:
        return VerifyKey, (self.name, self.public, self.kind)  # What is cached cannot go to another process.

    @cached_property
    def id(self) -> bytes:
        return key_id(self.name, self.public, self.kind)

    @cached_property
    def _verify(self) -> Verify:
        if self.kind == MLDSA44:
            return _mldsa44(self.public)
        return ed25519(self.public, backend())

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """Whether this key signed this text of a note, strictly. The signature is what follows the id in its line."""
        if self.kind == ED25519:
            return self._verify(signature, text)
        message = cosigned_message(self, time_of(signature), text) if len(signature) > 8 else None
        return message is not None and self._verify(signature[8:], message)

    def text(self) -> str:
        """`name+id+base64(type, key)`, the form in which Go's note package reads a verifier key."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self.kind + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> "VerifyKey":
        """The key that this text spells. Raises `Refused(BAD_KEY)`, for a key of small order too."""
        name, _, rest = text.partition("+")
        hexed, _, encoded = rest.partition("+")
        try:
            raw = base64.b64decode(encoded, validate=True)
            key = cls(name, raw[1:], raw[:1])
            right = len(key.public) == _PUBLIC_BYTES.get(key.kind) and valid_name(name) and key.text() == text
            if right and (key.kind == MLDSA44 or _canonical_point(key.public)):
                _ = Ed25519PublicKey.from_public_bytes(key.public) if key.kind != MLDSA44 else _mldsa44(key.public)
                return key
        except ValueError:
            pass
        raise Refused(Refusal.BAD_KEY, f"{text[:120]!r} (id {hexed[:8]}) is not a verifier key name+id+base64")


def _mldsa44(public: bytes) -> Verify:
    key = MLDSA44PublicKey.from_public_bytes(public)

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    return verify


# Cosignatures: a signature over a tree head and the time it was given.


def time_of(signature: bytes) -> int:
    """The Unix time, in seconds, that a timestamped signature claims; the signature commits to it."""
    return int.from_bytes(signature[:8], "big")


def cosigned_message(key: VerifyKey, time_s: int, text: bytes) -> bytes | None:
    """What a timestamped signature signs of this tree head (C2SP tlog-cosignature), or None if that has no form.

    Ed25519 signs the time and the whole text; ML-DSA-44 signs a binary structure of the signer's name, time, origin,
    size and root, and says nothing about further lines.
    """
    if time_s >= 2**63:
        return None
    if key.kind == COSIGNATURE:
        return b"cosignature/v1\ntime %d\n" % time_s + text
    lines = text.split(b"\n")
    name, origin = key.name.encode(), lines[0]
    try:
        size, root = int(lines[1]), binascii.a2b_base64(lines[2])
    except (IndexError, ValueError):
        return None
    if len(root) != 32 or not 0 <= size < 2**64 or max(len(name), len(origin)) > 255:
        return None
    head = b"subtree/v1\n\0" + bytes([len(name)]) + name + struct.pack(">Q", time_s)
    return head + bytes([len(origin)]) + origin + struct.pack(">QQ", 0, size) + root


class SigningKey:
    """A private key under its name. Whoever holds this object can sign as `name`."""

    def __init__(self, name: str, private: Ed25519PrivateKey | MLDSA44PrivateKey, kind: bytes = ED25519) -> None:
        assert (kind == MLDSA44) == isinstance(private, MLDSA44PrivateKey)
        self.name = name
        self._private = private
        self.verify_key = VerifyKey(name, private.public_key().public_bytes_raw(), kind)

    def __repr__(self) -> str:
        return f"SigningKey({self.name})"

    def sign(self, text: bytes, time_s: int | None = None) -> bytes:
        """The signature of this text of a note; a key that cosigns tree heads needs the time, the others must not."""
        if self.verify_key.kind == ED25519:
            assert time_s is None
            return self._private.sign(text)
        assert time_s is not None
        message = cosigned_message(self.verify_key, time_s, text)
        assert message is not None
        return struct.pack(">Q", time_s) + self._private.sign(message)

    @classmethod
    def generate(cls, name: str, kind: bytes = ED25519) -> "SigningKey":
        return cls(name, MLDSA44PrivateKey.generate() if kind == MLDSA44 else Ed25519PrivateKey.generate(), kind)

    @classmethod
    def of_seed(cls, name: str, seed: bytes) -> "SigningKey":
        """The Ed25519 key of this seed, 32 bytes: the same again for whoever knows it."""
        return cls(name, Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def create(cls, path: Path, name: str, kind: bytes = ED25519) -> "SigningKey":
        """Make a key and write it where only its owner can read it; never over an old one.

        The file holds `PRIVATE+KEY+name+id+base64(type, seed)`, as Go's note package writes signer keys.
        Raises FileExistsError.
        """
        key = cls.generate(name, kind)
        seed = base64.b64encode(kind + key._private.private_bytes_raw()).decode()
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
            kind, seed = raw[:1], raw[1:]
            if head == "" and kind in _PUBLIC_BYTES:
                private = (
                    MLDSA44PrivateKey.from_seed_bytes(seed)
                    if kind == MLDSA44
                    else Ed25519PrivateKey.from_private_bytes(seed)
                )
                key = cls(name, private, kind)
                if key.verify_key.id.hex() == hexed:
                    return key
        except ValueError:
            pass
        raise Refused(Refusal.BAD_KEY, f"{path} does not hold a signing key")
