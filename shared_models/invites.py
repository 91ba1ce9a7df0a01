"""How the keys of a new member come to those who vote on them: a member invites, and who is invited answers.

Invite and answer are notes, as entries are. They stand in no log and decide nothing: who is a member, the members
vote on, by an amendment of the charter. What passes between people is one string, the ticket: where the ledger is,
which invite it has, by the SHA-256 of its text, and a secret. The secret is the seed of a key whose public half the
invite names; the answer is signed by it. So the ledger can tell who was invited, and cannot answer in its place.

    commons.example/invite@v1                     commons.example/join@v1
    {"authority":...,"benefit":...,...}           {"accepts":...,"admin":...,...}

    — acme/admin ...                              — birch/invite ...   and each of the keys that the answer brings

A third note of this form tells members where another coordinator is, whom they have elected: its key has signed it.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from shared_models import words
from shared_models.records import canonical, note
from shared_models.records.canonical import Count, Hash, Name, Pattern
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import ED25519, SigningKey, VerifyKey
from shared_models.records.kinds import Member, VKey
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.keyring import Keyring

MAX_BYTES = 16_384  # Of an invite or an answer: most of it is the certificate of the coordinator's authority.
MAX_DAYS = 30  # So long an invite can be open.
PREFIX = "consortium_inv_1."
# What a guess of four words costs: scrypt (RFC 7914), 64 MiB and a quarter of a second of one core.
_COST = {"n": 2**16, "r": 8, "p": 1, "maxmem": 2**27}

Url = Annotated[str, Pattern(r"https?://[!-~]{1,200}")]
Secret = Annotated[str, Pattern(r"[0-9a-f]{32}")]
Address = Annotated[str, Pattern(r"[!-~]{1,260}")]
Pem = Annotated[str, Pattern(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]{1,8000}-----END CERTIFICATE-----\n")]
NodeKey = Annotated[str, Pattern(r"ecdsa-sha2-nistp384 [A-Za-z0-9+/]{100,200}={0,2}")]  # OpenSSH's form of P-384.


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """A member of the consortium invites an organisation. Its secret is in no field of it."""

    consortium: Name
    charter: Hash  # Leaf hash of the charter that the log begins with.
    log: VKey
    superlink: Address  # Where members reach the coordinator.
    authority: Pem  # Who vouches for the coordinator's certificate.
    inviter: Name
    member: Name  # What the new one will be called,
    benefit: Count  # and the benefit that it will be charged by, if the members agree.
    key: VKey  # Of MEMBER/invite: who has the secret signs with it.
    created_s: Count  # Unix time.
    expires_s: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Whoever was invited answers with its keys. Each of them signs this, and so does the invite's."""

    consortium: Name
    log: VKey
    invite: Hash  # SHA-256 of the invite's text.
    accepts: Hash  # Leaf hash of the charter that was in force, and that whoever joins has been shown.
    member: Name
    admin: VKey
    compute: VKey
    witness: VKey
    attest: VKey
    node: NodeKey  # Flower knows the node by it; it signs nothing of ours.


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Where members reach the coordinator from now on. By its key."""

    consortium: Name
    superlink: Address
    authority: Pem  # Who vouches for its certificate.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What one person hands to another. Who has it can answer the invite, once."""

    ledger: Url
    invite: Hash
    secret: Secret
    expires_s: Count

    def text(self) -> str:
        """One string to be copied, with a checksum over it."""
        data = canonical.encode(self)
        return PREFIX + base64.urlsafe_b64encode(data + _checksum(data)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Ticket":
        """Raises `Refused`: BAD_INVITE; as `canonical.decode`, if it was made so."""
        found = re.fullmatch(r"consortium_inv_([0-9]{1,9})\.([A-Za-z0-9_-]{1,2000})", text)
        if found is None:
            raise Refused(
                Refusal.BAD_INVITE, f"{text[:24]!r}… does not begin with {PREFIX}, or goes on with odd letters"
            )
        if found[1] != "1":
            raise Refused(Refusal.BAD_INVITE, f"it is of version {found[1]}, this software knows version 1")
        try:
            raw = base64.urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4))
        except binascii.Error:
            raw = b""
        data, checksum = raw[:-4], raw[-4:]
        if not data or checksum != _checksum(data):
            raise Refused(Refusal.BAD_INVITE, "its checksum is wrong: a letter is missing, or another one")
        return canonical.decode(cls, data)

    def key(self, member: str) -> SigningKey:
        """The key of the invite: HKDF-SHA256 (RFC 5869) of the secret is its seed."""
        extracted = hmac.digest(b"", bytes.fromhex(self.secret), "sha256")
        seed = hmac.digest(extracted, b"consortium invite v1\x01", "sha256")
        return SigningKey.of_seed(f"{member}/invite", seed)


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(b"consortium ticket\n" + data).digest()[:4]


def new_secret() -> str:
    """128 bits of the system's randomness."""
    return secrets.token_hex(16)


R = TypeVar("R", Invite, Join, Moved)
_KINDS: dict[type, str] = {Invite: "invite", Join: "join", Moved: "moved"}


@dataclass(frozen=True, slots=True)
class Opened(Generic[R]):
    """One of these: what it says, and the note that says it."""

    says: R
    note: note.Note

    @property
    def hash(self) -> str:
        """SHA-256 of its text: it is known by this, whatever signatures stand below."""
        return hashlib.sha256(self.note.text.encode()).hexdigest()


def sign(record: Invite | Join | Moved, keys: list[SigningKey]) -> bytes:
    """The note that says this, signed by these. Raises `Refused(BAD_FIELD)`."""
    text = f"{record.consortium}/{_KINDS[type(record)]}@v1\n{canonical.encode(record).decode()}\n"
    now = int(time.time())
    times = [None if key.verify_key.kind == ED25519 else now for key in keys]
    return note.Note(text, tuple(map(note.signature, [text] * len(keys), keys, times))).data()


def read(cls: type[R], data: bytes) -> Opened[R]:
    """What this note says, unverified. Raises `Refused`: as `note.parse`, UNKNOWN_KIND, as `canonical.decode`."""
    parsed = note.parse(data, MAX_BYTES)
    line, _, body = parsed.text.partition("\n")
    if not line.endswith(f"/{_KINDS[cls]}@v1"):
        raise Refused(Refusal.UNKNOWN_KIND, f"{line[:120]!r} where an {_KINDS[cls]} was asked for")
    says = canonical.decode(cls, body.removesuffix("\n").encode())
    if line != f"{says.consortium}/{_KINDS[cls]}@v1":
        raise Refused(Refusal.WRONG_ORIGIN, f"it says that it is of {says.consortium}, under {line[:120]!r}")
    return Opened(says, parsed)


def check_invite(invite: Opened[Invite], keyring: Keyring, charter: str) -> None:
    """Whether a member that is present has signed this invite, to the log that began with this charter.

    Raises `Refused`: WRONG_ORIGIN, WRONG_MEMBER, REVOKED; as `note.verify`, BAD_KEY or BAD_FIELD for the invite's key.
    """
    says = invite.says
    signers = note.verify(invite.note, keyring.keys)
    if (says.consortium, says.charter, says.log) != (keyring.charter.consortium, charter, keyring.charter.log):
        raise Refused(Refusal.WRONG_ORIGIN, f"it is an invite to {says.consortium}, charter {says.charter[:12]}…")
    if [key.name for key in signers] != [f"{says.inviter}/admin"]:
        raise Refused(Refusal.WRONG_MEMBER, f"{signers[0].name} has signed an invite by {says.inviter}")
    if says.inviter not in keyring.agreement.present():
        raise Refused(Refusal.WRONG_MEMBER, f"{says.inviter} has left: it cannot invite anybody")
    keyring.check_counts(signers[0].name, signers[0].id)
    _key(says.member, "invite", says.key, (ED25519,))


def check_join(join: Opened[Join], invite: Opened[Invite]) -> None:
    """Whether this answers that invite, and each key in it is held by who answers.

    1. Who holds the invite's secret has signed it: nobody else is listened to.
    2. It is about this invite, and so about its consortium, log and member.
    3. Its keys are of their roles, under the member's name.
    4. Each of them has signed it.

    Raises `Refused`: BAD_SIGNATURE, WRONG_ORIGIN, BAD_KEY, BAD_FIELD.
    """
    says, asked = join.says, invite.says
    _signed(join.note, [VerifyKey.parse(asked.key)])
    about = (says.consortium, says.log, says.invite, says.member)
    if about != (asked.consortium, asked.log, invite.hash, asked.member):
        raise Refused(
            Refusal.WRONG_ORIGIN, f"{says.member} answers invite {says.invite[:12]}…, not {invite.hash[:12]}…"
        )
    keys = [_key(says.member, role, getattr(says, role), kinds) for role, kinds in MEMBER_ROLES.items()]
    _signed(join.note, keys)


def _key(member: str, role: str, text: str, kinds: tuple[bytes, ...]) -> VerifyKey:
    key = VerifyKey.parse(text)
    if key.name != f"{member}/{role}" or key.kind not in kinds:
        raise Refused(Refusal.BAD_FIELD, f"{key.name}, of type {key.kind.hex()}, is no key of {member}/{role}")
    return key


def _signed(what: note.Note, keys: list[VerifyKey]) -> None:
    """Whether all of these have signed this. Raises `Refused(BAD_SIGNATURE)`."""
    try:
        signers = note.verify(what, note.known(keys))
    except Refused as refused:
        raise Refused(Refusal.BAD_SIGNATURE, refused.detail) from None
    if missing := {key.name for key in keys} - {key.name for key in signers}:
        raise Refused(Refusal.BAD_SIGNATURE, f"{', '.join(sorted(missing))} has not signed it")


def check_moved(moved: Opened[Moved], keyring: Keyring) -> None:
    """Whether the coordinator has signed where it is, by a key that counts.

    Raises `Refused`: WRONG_ORIGIN, WRONG_ROLE, REVOKED; as `note.verify`.
    """
    signers = note.verify(moved.note, keyring.keys)
    if moved.says.consortium != keyring.charter.consortium:
        raise Refused(Refusal.WRONG_ORIGIN, f"it is about the coordinator of {moved.says.consortium}")
    if [key.name for key in signers] != [f"{moved.says.consortium}/coordinator"]:
        raise Refused(Refusal.WRONG_ROLE, f"{signers[0].name} has signed where the coordinator is")
    keyring.check_counts(signers[0].name, signers[0].id)


def is_of(join: Join, member: Member) -> bool:
    """Whether the member of a charter has just the keys of this answer."""
    return member.name == join.member and all(getattr(member, role) == getattr(join, role) for role in MEMBER_ROLES)


def spoken(join: Opened[Join]) -> str:
    """Four words for this answer, and all that it is about: invite, log, charter, keys.

    Two that have the same before them hear the same words. Another answer with the same words takes 2^32 guesses, of
    which each costs what `_COST` says.
    """
    return words.spoken(hashlib.scrypt(join.note.text.encode(), salt=b"consortium words v1", dklen=4, **_COST))
