"""Changing keys: a holder has one more, one ends, and what an ended one had signed was right after all.

A key is changed in this order, so that a crash at any point loses nothing and the same command goes on: the new key is
written beside the old one (ROLE.next.key), the log takes it in, and only then it takes the old one's place, which is
kept as ROLE-ID.key.
"""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shared_models import durable
from shared_models.folder import Folder
from shared_models.ledger_http import LedgerHttp
from shared_models.records.entry import READER_ROLES
from shared_models.records.keys import MLDSA44, SigningKey, VerifyKey
from shared_models.records.kinds import FIRST, KeyAdd, KeyAffirm, KeyRevoke
from shared_models.records.refusals import Refusal, Refused


class Holder(NamedTuple):
    """Whose key it is: a folder with the charter in it, the key's file, who signs for the change, and the ledger."""

    folder: Folder
    path: Path
    signer: SigningKey
    ledger: LedgerHttp

    @property
    def name(self) -> tuple[str, str]:
        """(holder, role), as the key itself says."""
        holder, _, role = SigningKey.load(self.path).name.rpartition("/")
        return holder, role


class Added(NamedTuple):
    """A new key, the id of the one whose place it took, if any, and the entry from which it counts."""

    key: SigningKey
    replaced: str
    at: int


def holder(home: Path, role: str, key: Path | None = None, signer: Path | None = None, url: str = "") -> Holder:
    """The holder in this folder: a member's, a coordinator's, or any with the charter where the paths are given.

    A member's admin signs for all its keys; where there is none in the folder, a key signs for its own successor.
    Raises `Refused(NOT_SET_UP)`.
    """
    path = key or home / "keys" / f"{role}.key"
    present = SigningKey.load(path)
    admin = home / "keys" / "admin.key"
    by = SigningKey.load(signer) if signer else SigningKey.load(admin) if admin.is_file() else present
    return Holder(Folder(home), path, by, LedgerHttp(url or _ledger_of(home), key=by))


def _ledger_of(home: Path) -> str:
    for name in ("member.toml", "coordinator.toml"):
        if (home / name).is_file():
            return str(tomllib.loads((home / name).read_text())["ledger"])
    raise Refused(Refusal.NOT_SET_UP, f"{home} has neither member.toml nor coordinator.toml: name the ledger")


def add(held: Holder, post_quantum: bool = False) -> Added:
    """Make a new key of the same type in place of the present one, which counts until it is revoked.

    With `post_quantum` it is one of type ML-DSA-44 and takes no other's place: a witness, or a log, then signs with
    both, and who does not know the type passes its line over. Raises `Refused`.
    """
    old = SigningKey.load(held.path)
    owner, role = held.name
    place = held.path
    if post_quantum and old.verify_key.kind != MLDSA44:
        place = held.path.with_name(f"{role}-mldsa.key")
        if role not in ("witness", "log") or place.exists():
            raise Refused(Refusal.BAD_FIELD, f"{old.name} signs with one key only, or has {place.name} already")
    elif role == "log" and old.verify_key.kind != MLDSA44:
        raise Refused(Refusal.WRONG_ROLE, "a log's key is what it is known by: another key is another log")
    following = place.with_suffix(".next.key")
    if following.is_file():  # An earlier try got so far.
        new = SigningKey.load(following)
    else:
        new = SigningKey.create(following, old.name, MLDSA44 if post_quantum else old.verify_key.kind)
    held.folder.learn_keys(held.ledger)
    if (new.name, new.verify_key.id) not in held.folder.keyring.keys:
        record = KeyAdd(seq=0, prev=FIRST, holder=owner, role=role, key=new.verify_key.text())
        held.folder.say(held.ledger, held.signer, record)
        held.folder.learn_keys(held.ledger)
    replaced = old.verify_key.id.hex() if place == held.path else ""
    if replaced and not (kept := place.with_name(f"{role}-{replaced}.key")).exists():
        os.link(place, kept)
    os.replace(following, place)
    durable.sync_folder(place.parent)
    return Added(new, replaced, held.folder.keyring.standing[new.name, new.verify_key.id].start)


def revoke(held: Holder, key_id: str, suspect_from: int | None = None) -> int:
    """End a key; the index of the entry that does. What it signed from `suspect_from` on is disputed: nothing, by
    default. Raises `Refused`."""
    owner, role = held.name
    size = held.ledger.size()
    record = KeyRevoke(
        seq=0,
        prev=FIRST,
        holder=owner,
        role=role,
        id=key_id,
        suspect_from=size if suspect_from is None else suspect_from,
    )
    return _said(held, record)


def affirm(held: Holder, key_id: str, start: int, end: int) -> int:
    """Stand by what a revoked key signed from entry `start` up to `end`; the index of the entry that says so.

    Raises `Refused`.
    """
    owner, role = held.name
    record = KeyAffirm(seq=0, prev=FIRST, holder=owner, role=role, id=key_id, start=start, end=end)
    return _said(held, record)


def auditor(held: Holder, text: str, *, end: bool = False) -> int:
    """Let who has the private half of this key read what members read, or no more; the index of the entry that does.

    `held` is the admin's. A ledger that answers everybody asks no auditor for a key. Raises `Refused`: BAD_KEY,
    BAD_FIELD for another's key or a role that writes; UNKNOWN_KEY to end one that does not count.
    """
    key = VerifyKey.parse(text)
    owner, _ = held.name
    if key.name not in {f"{owner}/{role}" for role in READER_ROLES}:
        raise Refused(Refusal.BAD_FIELD, f"{key.name} is no key that only reads for {owner}")
    role = key.name.rpartition("/")[2]
    if not end:
        return _said(held, KeyAdd(seq=0, prev=FIRST, holder=owner, role=role, key=text))
    size = held.ledger.size()
    return _said(held, KeyRevoke(seq=0, prev=FIRST, holder=owner, role=role, id=key.id.hex(), suspect_from=size))


def _said(held: Holder, record: KeyAdd | KeyRevoke | KeyAffirm) -> int:
    """Say it, if it can still be said: who says a thing twice in other words has equivocated."""
    held.folder.learn_keys(held.ledger)
    held.folder.keyring.check(record, held.ledger.size())
    _, proof = held.folder.say(held.ledger, held.signer, record)
    held.folder.learn_keys(held.ledger)
    return proof.index


class Listed(NamedTuple):
    """One key of the log, and from which entry to which it counts."""

    name: str
    id: str
    start: int
    end: int | None  # The entry that revoked it.
    suspect_from: int | None
    affirmed: list[tuple[int, int]]


def listed(folder: Folder) -> Iterator[Listed]:
    """Every key that this folder knows of, by name and age. Raises `Refused`."""
    for (name, key_id), each in sorted(folder.keyring.standing.items(), key=lambda at: (at[0][0], at[1].start)):
        suspect = each.suspect_from if each.end is not None else None
        yield Listed(name, key_id.hex(), each.start, each.end, suspect, [(one[1], one[2]) for one in each.affirmed])
