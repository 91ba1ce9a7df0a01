"""An entry of the log: a record signed as a note. The same bytes from the signer to the auditor; nobody re-encodes.

    commons.example/receipt@v1
    {"base":"9c1e…","busy_ms":2710,…}

    — acme/compute AbCd…

A leaf is the whole note, signatures included, so the log commits to what was said and to who said it.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared_models.records import canonical, merkle, note
from shared_models.records.keys import COSIGNATURE, ED25519, MLDSA44, SigningKey, VerifyKey
from shared_models.records.kinds import KINDS, Charter, Record
from shared_models.records.refusals import Refusal, Refused

MAX_BYTES = note.MAX_BYTES
# The roles of a member and of the consortium, and the types of key that each can have.
MEMBER_ROLES = {
    "admin": (ED25519,),
    "compute": (ED25519,),
    "witness": (COSIGNATURE, MLDSA44),
    "attest": (COSIGNATURE, MLDSA44),
}
READER_ROLES = {"auditor": (ED25519,)}  # Of a member, and in no charter: they read, and write nothing.
CONSORTIUM_ROLES = {"admin": (ED25519,), "coordinator": (ED25519,), "log": (ED25519, MLDSA44)}
SIGN_CHARTER = ("admin", "coordinator", "log")  # With these a charter is signed, and vouches for the others.


@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf that was opened: its record, who signed it, and its bytes."""

    leaf: bytes
    hash: bytes
    record: Record
    signers: tuple[VerifyKey, ...]

    @property
    def author(self) -> str:
        """The key name that speaks in this entry: the first signer."""
        return self.signers[0].name

    @property
    def about(self) -> tuple[str, str, str]:
        """What this entry is about: its author may say it once."""
        return self.author, self.record.kind, self.record.idem

    @property
    def text(self) -> bytes:
        """The signed text. Two leaves of the same text differ in their signatures only and say the same."""
        return self.leaf[: self.leaf.rindex(b"\n\n") + 1]


def digest_of(author: str, kind: str, idem: str) -> bytes:
    """16 bytes for what an entry is about, where names would take too much room. None of the three holds a newline."""
    return hashlib.blake2b(f"{author}\n{kind}\n{idem}".encode(), digest_size=16).digest()


def sign(record: Record, consortium: str, keys: Iterable[SigningKey]) -> bytes:
    """The leaf of this record. Raises `Refused`: BAD_FIELD, or TOO_LARGE if no log would take it."""
    text = f"{consortium}/{record.kind}@v1\n{canonical.encode(record).decode()}\n"
    leaf = note.sign(text, keys)
    if len(leaf) > MAX_BYTES:
        raise Refused(Refusal.TOO_LARGE, f"a {record.kind} of {len(leaf)} bytes; at most {MAX_BYTES}")
    return leaf


def open_leaf(leaf: bytes, consortium: str, keys: note.Keys, vouched: Collection[str] = ()) -> Entry:
    """The record in this leaf, if a known key signed it and it is spelled in its one canonical way.

    The order is fixed: size, text, signature, kind, fields, re-encoding. What is not signed is not parsed.
    `vouched` is as for `note.verify`. Raises `Refused`.
    """
    parsed = note.parse(leaf)
    signers = note.verify(parsed, keys, vouched)
    return Entry(leaf, merkle.leaf_hash(leaf), _record(parsed, consortium), signers)


def open_charter(leaf: bytes) -> Entry:
    """The charter in this leaf, if every member and every operator it names has signed it.

    It is the one record that brings its own keys. Whether it is the right charter only its reader can say: by its leaf
    hash, which each member keeps from the day it signed.
    """
    parsed = note.parse(leaf)
    consortium = parsed.text.partition("\n")[0].rpartition("/")[0]
    charter = _record(parsed, consortium)
    if not isinstance(charter, Charter):
        raise Refused(Refusal.NO_CHARTER, f"the first entry is a {charter.kind}")
    if charter.consortium != consortium:
        raise Refused(Refusal.WRONG_ORIGIN, f"the charter of {charter.consortium} under the name {consortium[:80]}")
    keys = charter_keys(charter)
    signers = note.verify(parsed, keys)
    needed = {name for name, _ in keys if name.rpartition("/")[2] in SIGN_CHARTER}
    unsigned = needed - {key.name for key in signers}
    if unsigned:
        raise Refused(Refusal.BAD_SIGNATURE, f"the charter is not signed by {', '.join(sorted(unsigned))}")
    return Entry(leaf, merkle.leaf_hash(leaf), charter, signers)


def peek(leaf: bytes) -> Record | None:
    """What this leaf claims to say, believed by nobody: for naming what is wrong with it, never for a decision."""
    try:
        parsed = note.parse(leaf)
        return _record(parsed, parsed.text.partition("\n")[0].rpartition("/")[0])
    except Refused:
        return None


def charter_keys(charter: Charter) -> note.Keys:
    """Every key that the charter names; each must have the name and a type of its holder's role.

    Raises `Refused`: BAD_KEY, or BAD_FIELD if a key is not what its role asks for, or one stands under two names.
    """
    keys: dict[tuple[str, bytes], VerifyKey] = {}
    for holder, role, text in roles(charter):
        key = role_key(charter, holder, role, text)
        if key.name in {name for name, _ in keys}:
            raise Refused(Refusal.BAD_FIELD, f"{key.name} stands twice")
        keys[key.name, key.id] = key
    if len({key.public for key in keys.values()}) != len(keys):
        raise Refused(Refusal.BAD_FIELD, "one key stands under two names")
    return keys


def role_key(charter: Charter, holder: str, role: str, text: str) -> VerifyKey:
    """The key that this text spells, if this holder can have it for this role.

    Raises `Refused`: BAD_KEY, or BAD_FIELD if there is no such holder or role, or the key has another name or type.
    """
    key = VerifyKey.parse(text)
    kinds = holder_roles(charter, holder).get(role, ())
    if key.name != f"{holder}/{role}" or key.kind not in kinds:
        raise Refused(Refusal.BAD_FIELD, f"{key.name}, of type {key.kind.hex()}, is no key of {holder}/{role}")
    return key


def holder_roles(charter: Charter, holder: str) -> dict[str, tuple[bytes, ...]]:
    """The roles that a holder of keys has, with the types of key for each; none if the charter does not name it."""
    if holder == charter.consortium:
        return CONSORTIUM_ROLES
    return MEMBER_ROLES | READER_ROLES if any(member.name == holder for member in charter.members) else {}


def roles(charter: Charter) -> list[tuple[str, str, str]]:
    """(holder, role, verifier key) of every key in the charter."""
    found = [(charter.consortium, role, getattr(charter, role)) for role in CONSORTIUM_ROLES]
    for member in charter.members:
        found += [(member.name, role, getattr(member, role)) for role in MEMBER_ROLES]
    return found


def _record(parsed: note.Note, consortium: str) -> Record:
    line, _, body = parsed.text.partition("\n")
    if not line.startswith(consortium + "/") or "/" in line[len(consortium) + 1 :]:
        raise Refused(Refusal.WRONG_ORIGIN, f"{line[:120]!r} is not of {consortium[:80]}")
    kind, at, version = line[len(consortium) + 1 :].partition("@")
    if at + version != "@v1" or kind not in KINDS:
        raise Refused(Refusal.UNKNOWN_KIND, f"{line[:120]!r} names no kind of record that is known here")
    return canonical.decode(KINDS[kind], body.removesuffix("\n").encode())  # Canonical JSON is one line.
