"""What every party's folder on its machine has: settings in TOML, and the charter it signed."""

import fcntl
import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from shared_models import durable
from shared_models.ledger_http import LedgerHttp
from shared_models.published import leaf_at
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.entry import Entry
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Chained, Charter
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.keyring import Keyring

S = TypeVar("S")
KEYRING = "keyring"
TOKENIZERS = "tokenizers"
MODELS = "models"
_UNTOLD = (Refusal.UNREACHABLE, Refusal.STOPPED, Refusal.BAD_PROOF)  # After these, an entry may be in the log or not.


@dataclass(frozen=True)
class Folder:
    """A folder with a charter in it: what its owner trusts, and all of it."""

    path: Path  # Absolute, whatever it was given as: the programs that are started for it run elsewhere.

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.resolve())

    @cached_property
    def charter_entry(self) -> Entry:
        """The charter that was signed here. Raises `Refused`."""
        try:
            return entries.open_charter((self.path / "charter.note").read_bytes())
        except FileNotFoundError:
            raise Refused(Refusal.NOT_SET_UP, f"there is no charter at {self.path / 'charter.note'}") from None

    @property
    def charter(self) -> Charter:
        """The same: what this consortium was founded on. What is in force now, `keyring` says."""
        record = self.charter_entry.record
        assert isinstance(record, Charter)
        return record

    @cached_property
    def keyring(self) -> Keyring:
        """The keys of the charter, and what was learned after it of keys and charters. Raises `Refused`."""
        ring = Keyring(self.charter, self.charter_entry.hash.hex())
        self._learn_kept(ring)
        return ring

    @property
    def tokenizers_path(self) -> Path:
        """Where its owner keeps the tokenizers that runs may name, each under its SHA-256."""
        return self.path / TOKENIZERS

    @property
    def models_path(self) -> Path:
        """Where its owner keeps the files that may build a run's model, each under its SHA-256: `lm.models`."""
        return self.path / MODELS

    @property
    def verified_path(self) -> Path:
        """Where it is kept how far its owner has verified the log."""
        return self.path / "verified.json"

    def _learn_kept(self, ring: Keyring) -> None:
        """Let it learn what is kept here; another process of this folder may have put more there meanwhile."""
        for path in sorted((self.path / KEYRING).glob("*.note")):
            if int(path.stem) not in self._learned:
                ring.learn(int(path.stem), path.read_bytes())
                self._learned.add(int(path.stem))

    @cached_property
    def _learned(self) -> set[int]:
        return set()  # The index of each entry that the keyring has.

    def learn_keys(self, ledger: LedgerHttp) -> int:
        """Ask the ledger for keys that were added and revoked, and for charters and votes; how many entries are new.

        Each is signed by who may write it, so the ledger can keep some back and invent none. Raises `Refused`.
        """
        folder, ring, known = self.path / KEYRING, self.keyring, self._learned
        self._learn_kept(ring)
        new = [(index, leaf) for index, leaf in ledger.keys(since=max(known, default=-1) + 1) if index not in known]
        for index, leaf in new:
            ring.learn(index, leaf)
            known.add(index)
            folder.mkdir(exist_ok=True)
            durable.write(folder / f"{index:012}.note", leaf)
        return len(new)

    def say(
        self, ledger: LedgerHttp, key: SigningKey, record: Chained, kept: Path | None = None
    ) -> tuple[bytes, tlog.Proof]:
        """Sign this record at the end of its author's chain, and append it: (its leaf, the proof of its place).

        Who cites an entry stands by it, and by all that it cites in turn: so what the ledger calls this author's last
        entry must be one. What is `kept` in that file was signed before, and is sent as it is: it may be in the log
        without an answer having come. What the ledger has refused is not kept.
        Raises `Refused`: BAD_PROOF if it is not, or as the ledger's own.
        """
        if kept is not None and kept.is_file():
            leaf = kept.read_bytes()
            try:
                return leaf, self._append(ledger, leaf, kept)
            except Refused as refused:
                if refused.refusal not in (Refusal.SEQUENCE_GAP, Refusal.WRONG_PREV):  # It never came, and others did.
                    raise
        with self._alone():
            last = ledger.last(key.name)
            if last is not None and self._said.get(key.name) != last[1]:
                self._check_own(ledger, key.name, *last[1:])
            record = replace(record, seq=last[0] + 1 if last else 0, prev=last[1] if last else FIRST)
            leaf = entries.sign(record, self.charter.consortium, [key])
            if kept is not None:
                durable.write(kept, leaf, mode=0o600)
            proof = self._append(ledger, leaf, kept)
            self._said[key.name] = leaf_hash(leaf).hex()
            return leaf, proof

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process, nor thread, says anything from this folder meanwhile: each cites what was said last."""
        with (self.path / "say.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _append(self, ledger: LedgerHttp, leaf: bytes, kept: Path | None) -> tlog.Proof:
        try:
            proof = ledger.append(leaf)
        except Refused as refused:
            if kept is not None and refused.refusal not in _UNTOLD:
                kept.unlink()
            raise
        proof.verify(leaf_hash(leaf), self.keyring.keys)
        return proof

    @cached_property
    def _said(self) -> dict[str, str]:
        return {}  # The leaf hash of what each author said last, here and since this process began.

    def _check_own(self, ledger: LedgerHttp, author: str, hashed: str, index: int) -> None:
        self.learn_keys(ledger)
        leaf = leaf_at(ledger.read, index, tlog.unsigned(ledger.read(tlog.HEAD)).size)
        try:
            entry = entries.open_leaf(leaf, self.charter.consortium, self.keyring.keys)
            right = entry.author == author and entry.hash.hex() == hashed
        except Refused:
            right = False
        if not right:
            raise Refused(Refusal.BAD_PROOF, f"the ledger shows entry {index} as the last of {author}: it is not")


def read_settings(path: Path, cls: type[S]) -> S:
    """The settings in this file. Raises `Refused`: NOT_SET_UP, BAD_FIELD if a name or a type is not the dataclass's."""
    try:
        found = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Refused(Refusal.NOT_SET_UP, f"there is no {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(Refusal.BAD_FIELD, f"{path}: {error}") from None
    known = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
    for name, value in found.items():
        if known.get(name) is not type(value):
            raise Refused(Refusal.BAD_FIELD, f"{path}: {name} = {value!r} is not a setting, or not of its type")
    try:
        return cls(**found)
    except TypeError as error:
        raise Refused(Refusal.BAD_FIELD, f"{path}: {error}") from None


def write_settings(path: Path, settings: Any) -> None:
    """Write settings so that `read_settings` reads them."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
