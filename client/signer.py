"""The member's pen: it decides what this member signs. No network, no Flower, no clock but the meter's.

What the coordinator's code claims is checked against the signed round, the manifest this member consented to, and the
meter. What was signed is on the disk before it leaves, so the same question gets the same answer after a crash, and a
different story under the same name is never signed.
"""

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from client import aside, confine
from client.home import Home
from client.meter import Meter
from client.witness import Witness
from shared_models import durable
from shared_models.claims import Begin, Claim
from shared_models.ledger_http import AWAY
from shared_models.messages import MAX_ENTRIES
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.entry import Entry
from shared_models.records.kinds import FIRST, Access, AuditResult, Consent, Manifest, Receipt, RoundOpen, Worth
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import committed
from shared_models.rules.pricing import check_claim, flop_per_token, round_flop
from shared_models.rules.recipes import check_recipe, check_start

K = TypeVar("K", Access, Consent, Receipt)

# After one of these an entry may stand in the log all the same.
_UNTOLD = (*AWAY, Refusal.BAD_PROOF)


@dataclass(slots=True)
class _Task:
    """The round this member is training in."""

    opened: RoundOpen
    hash: str
    manifest: Manifest
    head: tlog.TreeHead  # The newest one that was verified when it began,
    cosigned: bytes  # and its note with this member's cosignature.


class Signer:
    """The holder of a member's compute key.

    Its state is a folder of everything it ever signed (`entries/`), so that nothing can be signed and forgotten. There
    is one for the daemon, and one for a command beside it: they take turns, and each reads what the other has signed.
    """

    def __init__(self, home: Home, witness: Witness) -> None:
        self.home, self.witness = home, witness
        self._key = home.key("compute")
        self._turn = threading.Lock()
        self._signed = home.signed()
        self._records = [self._open(leaf).record for leaf in self._signed]
        self._logged_seq = -1
        self._task: _Task | None = None

    # Consent.

    def consent(self, leaf: bytes, bundle: str) -> bytes:
        """The countersignature under this manifest, whose bundle must be the one this machine builds itself.

        Raises `Refused`: NOT_APPROVED, what is wrong with the manifest, or as `aside.check`.
        """
        with self._alone():
            entry = self._open(leaf)
            manifest = entry.record
            if not isinstance(manifest, Manifest) or entry.author != f"{self.home.charter.consortium}/coordinator":
                raise Refused(Refusal.WRONG_ROLE, f"{entry.author} wrote a {entry.record.kind}, not its manifest")
            if manifest.charter != self.home.keyring.agreement.hash:
                raise Refused(Refusal.NO_CHARTER, "the manifest cites another charter than the one in force")
            if self.home.settings.member not in manifest.members:
                raise Refused(Refusal.NOT_INVITED, f"run {manifest.run} does not name {self.home.settings.member}")
            check_recipe(manifest.recipe)
            check_start(manifest)
            self.home.check_tokenizer(manifest.recipe)
            self.home.check_machine(manifest.recipe)
            if manifest.flop_per_token != flop_per_token(manifest.recipe):
                raise Refused(Refusal.WRONG_FLOP, f"{manifest.flop_per_token} FLOP per token is not the recipe's")
            if manifest.bundle != bundle:
                raise Refused(
                    Refusal.NOT_APPROVED,
                    f"run {manifest.run} is for bundle {manifest.bundle[:12]}…, here is {bundle[:12]}…",
                )
            for signed in self._said(Consent):
                if signed.run == manifest.run:
                    if signed.manifest != entry.hash.hex():
                        raise Refused(Refusal.CONFLICT, f"run {manifest.run} was consented to under another manifest")
                    return self._signed[signed.seq]
            aside.check(self.home, manifest.recipe)  # The last thing: it runs a file's code, confined.
            durable.write(self._manifest_path(entry.hash.hex()), leaf)
            return self._sign(
                Consent(
                    seq=len(self._signed),
                    prev=self._prev(),
                    member=self.home.settings.member,
                    run=manifest.run,
                    manifest=entry.hash.hex(),
                )
            )

    # A round.

    def begin(self, begin: Begin) -> tuple[bytes, ...]:
        """Accept a task, if all of this holds; then entries of this member that the log lacks.

        1. The coordinator signed the opening of this round, and it invites this member.
        2. This member consented to the run's manifest.
        3. The log's newest head is signed by its key, and the opening of the round stands in it.
        4. The head is of the history that this member witnessed before. It is on the disk before it is cosigned.
        5. What other members have cosigned is of the same history.
        6. What the coordinator says is logged of this member's entries is.
        """
        with self._alone():
            self._task = None
            charter = self.home.charter
            entry = self._open(begin.opened.encode())
            opened = entry.record
            if not isinstance(opened, RoundOpen) or entry.author != f"{charter.consortium}/coordinator":
                raise Refused(Refusal.WRONG_ROLE, f"{entry.author} wrote a {entry.record.kind}, not an open round")
            if self.home.settings.member not in opened.invited:
                raise Refused(Refusal.NOT_INVITED, f"round {opened.round} does not invite {self.home.settings.member}")
            manifest = self._consented(opened)
            proof = tlog.Proof.parse(begin.proof.encode())
            head = proof.verify(entry.hash, self.home.keyring.keys)
            path = tuple(bytes.fromhex(each) for each in begin.consistency)
            cosigned = self.witness.follow(proof.head, begin.since, path)
            for other in begin.cosigned:
                self.witness.compare(other.encode())
            self._note_logged(head, begin)
            self._task = _Task(opened, entry.hash.hex(), manifest, self.witness.head, cosigned)
            return self._outbox()

    def manifest(self, opened: RoundOpen) -> Manifest:
        """What this member consented to for a round's run. Raises `Refused` if it did not."""
        with self._alone():
            return self._consented(opened)

    def receipts(self) -> list[Receipt]:
        """Every receipt that was signed here, oldest first."""
        with self._alone():
            return list(self._said(Receipt))

    def claim(self, claim: Claim, meter: Meter) -> tuple[bytes, ...]:
        """Sign the receipt of the task that began, if the claim agrees with it and with the meter.

        The same claim again gets the same receipt; another update for the same round is refused. Returns the member's
        entries that the log lacks, the receipt last. Raises `Refused`: NO_TASK, CONFLICT, or as `check_claim`.
        """
        with self._alone():
            if self._task is None:
                raise Refused(Refusal.NO_TASK, "no task has begun")
            task, settings = self._task, self.home.settings
            for signed in self._said(Receipt):
                if signed.opened == task.hash and signed.node == settings.node:
                    if signed.update != claim.update:
                        raise Refused(Refusal.CONFLICT, f"round {signed.round} was receipted for another update")
                    return self._outbox(up_to=signed.seq) or (self._signed[signed.seq],)  # It may be logged by now.
            usage = meter.read()
            receipt = Receipt(
                seq=len(self._signed),
                prev=self._prev(),
                member=settings.member,
                node=settings.node,
                run=task.opened.run,
                round=task.opened.round,
                opened=task.hash,
                base=task.opened.base,
                update=claim.update,
                data=self._salted(task, claim.data),
                trajectory=claim.trajectory,
                build=claim.build,
                tokens=claim.tokens,
                steps=claim.steps,
                flop=round_flop(task.manifest, task.opened.round, settings.member),
                busy_ms=claim.busy_ms,
                wall_ms=usage.wall_ms,
                cpu_ms=usage.cpu_ms,
                device=settings.device,
                devices=settings.devices,
                energy_mj=usage.energy_mj,
                energy_method=usage.energy_method,
                memory_bytes=usage.memory_bytes,
                isolation=confine.word(usage.landlock, usage.offline),
                bytes_down=claim.bytes_down,
                bytes_up=claim.bytes_up,
                started_ms=usage.started_ms,
                ended_ms=usage.ended_ms,
                witnessed_size=task.head.size,
                witnessed_root=task.head.root.hex(),
            )
            check_claim(receipt, task.manifest, self.home.keyring.charter)
            self._sign(receipt)
            return self._outbox(up_to=receipt.seq)

    @property
    def cosigned(self) -> bytes:
        """The head that came with the task, with this member's cosignature; nothing without a task."""
        return self._task.cosigned if self._task is not None else b""

    # Access.

    def taken(self, artefact: str) -> bytes | None:
        """The newest access entry for this artefact that was signed here."""
        with self._alone():
            said = [each for each in self._said(Access) if each.artefact == artefact]
            return self._signed[said[-1].seq] if said else None

    def take(self, artefact: str, logged: int, append: Callable[[bytes], tlog.Proof]) -> int:
        """Sign that this member takes an artefact, once more, and append it; its index. As `say`."""

        def record() -> Access:
            fetch = sum(each.artefact == artefact for each in self._said(Access)) + 1
            return Access(seq=0, prev=FIRST, member=self.home.settings.member, artefact=artefact, fetch=fetch)

        return self.say(record, logged, append)

    def say(
        self, record: Callable[[], Access | AuditResult | Worth], logged: int, append: Callable[[bytes], tlog.Proof]
    ) -> int:
        """Sign this at the end of the member's chain, and append it; its index.

        `logged` is how many entries of this key the log has; the others are appended before. Nobody else signs
        meanwhile: an entry that the log refuses would stand in the way of all behind it, so it is put aside. Raises
        `Refused`.
        """
        with self._alone():
            for leaf in self._signed[logged:]:
                append(leaf)
            leaf = self._sign(replace(record(), seq=len(self._signed), prev=self._prev()))
            try:
                proof = append(leaf)
            except Refused as refused:
                if refused.refusal not in _UNTOLD:
                    self._put_aside()
                raise
            proof.verify(merkle.leaf_hash(leaf), self.home.keyring.keys)
            return proof.index

    # The outbox.

    def unlogged(self) -> tuple[bytes, ...]:
        """The entries that were signed and are not known to be in the log, oldest first."""
        with self._alone():
            return tuple(self._signed[self._logged_seq + 1 :])

    def logged(self, leaf: bytes, proof: tlog.Proof) -> None:
        """Take note that this entry is in the log. Raises `Refused` if the proof does not prove it."""
        with self._alone():
            proof.verify(merkle.leaf_hash(leaf), self.home.keyring.keys)
            self._logged_seq = max(self._logged_seq, self._signed.index(leaf))

    # What lies behind.

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else signs with this key; what somebody has signed before is known."""
        with self._turn, (self.home.path / "entries" / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            while (path := self._path(len(self._signed))).is_file():
                leaf = path.read_bytes()
                self._records.append(self._open(leaf).record)
                self._signed.append(leaf)
            yield

    def _path(self, seq: int) -> Path:
        return self.home.path / "entries" / f"{seq:08}.note"

    def _put_aside(self) -> None:
        path = self._path(len(self._signed) - 1)
        path.replace(path.with_suffix(".refused"))
        durable.sync_folder(path.parent)
        self._signed.pop()
        self._records.pop()

    def _open(self, leaf: bytes) -> Entry:
        return entries.open_leaf(leaf, self.home.charter.consortium, self.home.keyring.keys)

    def _said(self, kind: type[K]) -> list[K]:
        return [record for record in self._records if isinstance(record, kind)]

    def _consented(self, opened: RoundOpen) -> Manifest:
        for signed in self._said(Consent):
            if signed.run == opened.run and signed.manifest == opened.manifest:
                leaf = self._manifest_path(opened.manifest).read_bytes()
                entry = self._open(leaf)
                if entry.hash.hex() != opened.manifest or not isinstance(entry.record, Manifest):
                    raise Refused(Refusal.CORRUPT, f"{self._manifest_path(opened.manifest)} is another manifest")
                return entry.record
        raise Refused(Refusal.NOT_APPROVED, f"no consent was given to run {opened.run} under {opened.manifest[:12]}…")

    def _manifest_path(self, hashed: str) -> Path:
        return self.home.path / "entries" / f"{hashed}.manifest"

    def _note_logged(self, head: tlog.TreeHead, begin: Begin) -> None:
        if begin.logged_seq < 0:
            return
        if begin.logged_seq >= len(self._signed):
            raise Refused(
                Refusal.CONFLICT, f"the log holds entry {begin.logged_seq} of this key; it was not signed here"
            )
        leaf = merkle.leaf_hash(self._signed[begin.logged_seq])
        merkle.verify_inclusion(
            leaf, begin.logged_index, head.size, head.root, [bytes.fromhex(each) for each in begin.logged_path]
        )
        self._logged_seq = max(self._logged_seq, begin.logged_seq)

    def _outbox(self, up_to: int | None = None) -> tuple[bytes, ...]:
        end = len(self._signed) if up_to is None else up_to + 1
        return tuple(self._signed[self._logged_seq + 1 : end][:MAX_ENTRIES])

    def _salted(self, task: _Task, data: str) -> str:
        """The commitment to the data of a round. Who is given the salt of that round can check what was trained on."""
        return committed(self.home.salt(task.opened.run, task.opened.round), data)

    def _sign(self, record: Access | AuditResult | Consent | Receipt | Worth) -> bytes:
        assert record.seq == len(self._signed)
        leaf = entries.sign(record, self.home.charter.consortium, [self._key])
        durable.write(self._path(record.seq), leaf)
        self._signed.append(leaf)
        self._records.append(record)
        return leaf

    def _prev(self) -> str:
        return merkle.leaf_hash(self._signed[-1]).hex() if self._signed else FIRST
