"""The audit of a log of any length, on all cores, in constant memory: signatures aside, books here.

Worker processes read the entries and verify signatures; what follows from an entry is kept here, in one sequence. A
worker never judges: it says which receipts need no second look, and everything else is looked at here.

    full       every signature is verified
    attested   not those that a member has vouched for: what it says of its own entries can only cost itself; and of the
               coordinator only the newest, which cites the one before, and so on
    sampled    a share of the signatures of receipts, chosen afresh each time

A signature that was verified once need not be verified again: `Verified` says up to where, under which root.
"""

import fcntl
import gc
import json
import marshal
import os
import pickle
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from client.home import Home
from shared_models import durable
from shared_models.folder import Folder
from shared_models.ledger_http import LedgerHttp
from shared_models.published import Bundle, Read, bundle_at, bundles, cosigned, leaf_at, reader
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Charter
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import pace
from shared_models.rules.audit import Audit, Billed, Report, Witnessed
from shared_models.rules.books import Books
from shared_models.rules.skim import Context, Receipts, Skimmed, Turn, skim

MODES = ("full", "attested", "sampled")
FEW = 4_096  # Entries that one process is done with before others have started.
IN_FLIGHT = 14  # Bundles that wait at each worker: it is never idle, and no log is read far ahead.
PIPE_BYTES = 1 << 20  # What the answers to these take.
GARBAGE = 100_000  # Objects made before the collector looks.
KEEP = 20_000  # Entries between two notes of how far signatures were verified.

Shown = Callable[[int, int], object]  # (entries done, of so many).


@dataclass(frozen=True, slots=True)
class Verified:
    """Every signature below this size of this history was verified here before."""

    charter: str = ""
    size: int = 0
    root: str = ""

    @classmethod
    def load(cls, path: Path | None) -> "Verified":
        """What this file says; nothing if there is none, or it is of another form."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path.read_bytes())) if path is not None else cls()
        return cls()

    def holds(self, audit: Audit) -> bool:
        """Whether what was fed to this audit so far is of this history."""
        tree = audit.books.tree
        return tree.size < self.size or self.size == 0 or tree.root(self.size).hex() == self.root


class Trust(NamedTuple):
    """Which signatures of receipts need not be verified."""

    below: int = 0  # Those below this index,
    of: Mapping[str, int] | None = None  # those of these authors below these indices,
    share: float = 1.0  # and all but this share of the others.

    def asks(self, index: int) -> bool:
        """Whether the signature of the receipt at this index is to be verified, whoever its author is."""
        return index >= self.below and (self.share >= 1.0 or random.random() < self.share)  # noqa: S311


Unread = tuple[bytes, bytes | None]  # A leaf, and its hash as published.
Looked = list[Receipts | Unread]  # What is in a bundle: what was skimmed, and what needs a second look.


@dataclass(slots=True, kw_only=True)
class Auditor:
    """How a log is to be audited."""

    charter: str | None = None  # Leaf hash of the charter that the reader signed.
    mine: Iterable[bytes] = ()
    witnessed: Iterable[Witnessed] = ()
    mode: str = "full"
    share: float = 0.05  # In mode `sampled`.
    workers: int | None = None  # As many as cores, if there is much to do; 0: everything in this process.
    verified_path: Path | None = None  # Where it is kept how far signatures were verified.
    shown: Shown = lambda *_: None
    billed: Billed | None = None  # As for `Audit`; twice for a statement if the audit has to start again.
    key: SigningKey | None = None  # By which a ledger is asked.

    def run(self, where: str) -> Report:
        """Audit the log at this place (`published.reader`). Raises `Refused` if a part of it cannot be read."""
        read = reader(where, self.key)
        heads = dict(cosigned(read))  # First, so that they are of sizes that the head includes.
        head = read(tlog.HEAD)
        size = tlog.unsigned(head).size
        before = Verified.load(self.verified_path) if self.mode == "full" else Verified()
        if before.charter != (self.charter or "") or before.size > size:
            before = Verified()
        chained, vouched = _vouching(heads, read, size) if self.mode == "attested" else ((), [])
        witnessed = [*self.witnessed, *vouched]
        audit = Audit(charter=self.charter, mine=self.mine, witnessed=witnessed, chained=chained, billed=self.billed)
        if not self._feed(audit, where, read, size, before, vouched):
            witnessed = [*self.witnessed, *(each for each in vouched if _counts(audit, f"{each.by}/attest"))]
            before = Verified()
            audit = Audit(charter=self.charter, mine=self.mine, witnessed=witnessed, billed=self.billed)
            self._feed(audit, where, read, size, before, [])
        report = audit.finish(head, heads.values())
        self._keep(audit, before)
        return report

    def _feed(
        self, audit: Audit, where: str, read: Read, size: int, before: Verified, vouched: Sequence[Witnessed]
    ) -> bool:
        """Feed it every entry of the log; False if what was not verified should have been.

        That is if this is another history than the one that was verified before, if the key that vouches for entries
        was revoked, or if a finding may come from what was not looked at.
        """
        trust = Trust(
            below=before.size,
            of={f"{each.by}/compute": each.size for each in vouched},
            share=self.share if self.mode == "sampled" else 1.0,
        )
        kept = before
        collected = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(GARBAGE)  # Most of what is made here is kept, and in no cycle.
        try:
            for looked in self._looked(where, read, size, audit, trust):
                _feed(audit, looked, trust)
                self.shown(audit.report.entries, size)
                if not kept.holds(audit):
                    return False
                if audit.report.entries - kept.size >= KEEP:
                    kept = self._keep(audit, kept)
        finally:
            gc.set_threshold(*collected)
            gc.unfreeze()
            if audit.report.entries < size:  # Interrupted: what was done need not be done again.
                self._keep(audit, kept)
        audit.settle()
        if audit.chained and audit.report.findings:
            return False
        return all(_counts(audit, name) for name in (*audit.chained, *(f"{each.by}/attest" for each in vouched)))

    def _looked(self, where: str, read: Read, size: int, audit: Audit, trust: Trust) -> Iterator[Looked]:
        """What there is at each place of the log, in order."""
        count = self.workers
        if count is None:
            count = (os.cpu_count() or 1) if size > FEW else 0
        with ExitStack() as stack:
            crew = [stack.enter_context(_Worker(where, self.key, trust)) for _ in range(count)]
            waiting: deque[_Worker] = deque()
            for start in range(0, size, tlog.WIDTH):
                width = min(tlog.WIDTH, size - start)
                context = audit.books.context
                if not crew or context is None:  # Before the charter there is nothing to hold a receipt against.
                    yield _look(bundle_at(read, start, width), context, trust)
                    continue
                waiting.append(crew[start // tlog.WIDTH % count])
                waiting[-1].ask(start, width, context)
                if len(waiting) == IN_FLIGHT * count:
                    yield waiting.popleft().answer()
            while waiting:
                yield waiting.popleft().answer()

    def _keep(self, audit: Audit, before: Verified) -> Verified:
        """Note how far every signature was verified; how far that is."""
        size, right = audit.report.entries, audit.report.findings == [] and before.holds(audit)
        if self.verified_path is None or self.mode != "full" or not right or size <= before.size:
            return before
        verified = Verified(self.charter or "", size, audit.books.tree.root(size).hex())
        durable.write(self.verified_path, json.dumps(asdict(verified)).encode())
        return verified


def audited(home: Home) -> Books:
    """What the log at this member's ledger says, recomputed. Raises `Refused`: what the audit found first.

    Who asks is about to sign something that follows from it. The ledger is asked in the member's name.
    """
    return recomputed(home, home.ledger(), [home.witnessed()])


def recomputed(folder: Folder, ledger: LedgerHttp, witnessed: Iterable[Witnessed] = ()) -> Books:
    """The same for any party's folder, at this ledger."""
    report = Auditor(
        charter=folder.charter_entry.hash.hex(),
        witnessed=witnessed,
        verified_path=folder.verified_path,
        key=ledger.key,
    ).run(ledger.url)
    if report.findings:
        raise Refused(report.findings[0].refusal, str(report.findings[0]))
    return report.books


def paced(where: str, books: Books, key: SigningKey | None = None) -> Iterator[pace.Paced]:
    """The steps of each run of a log, held against the receipts before it: the log is read again, which these books
    are of. Raises `Refused`: CORRUPT where it is another one; as `published.bundles`.
    """
    size = books.tree.size
    leaves = (leaf for bundle in bundles(reader(where, key), size) for leaf in bundle.leaves)

    def records() -> Iterator[object]:
        for index, leaf in enumerate(leaves):
            if merkle.leaf_hash(leaf) != books.tree.leaf(index):
                raise Refused(Refusal.CORRUPT, f"entry {index} is not the one that was audited")
            yield entries.peek(leaf)

    return pace.checked(records())


def _counts(audit: Audit, name: str) -> bool:
    """Whether no key of this name was revoked."""
    return all(audit.books.keyring.counts(*named) for named in audit.books.keys if named[0] == name)


def _feed(audit: Audit, looked: Looked, trust: Trust) -> None:
    for seen in looked:
        if isinstance(seen, Receipts):
            audit.feed_all(seen)
        else:
            index = audit.report.entries
            audit.feed(*seen, trust.asks(index), trust.of)


def _look(bundle: Bundle, context: Context | None, trust: Trust) -> Looked:
    """What can be seen of these entries at a glance, and each that needs a second look."""
    found, row = Looked(), list[Skimmed]()
    for index, (leaf, hashed) in enumerate(zip_longest(bundle.leaves, bundle.hashes), bundle.start):
        if leaf is None:  # A hash of nothing that is there: the tree's root will be another.
            break
        seen = skim(leaf, context, trust.asks(index), index, trust.of) if context is not None else None
        if seen is not None and seen.hash != hashed:
            seen = None
        if row and (seen is None or seen.turn is not row[0].turn):
            found.append(Receipts.of(row))
            row = []
        if seen is not None:
            row.append(seen)
        else:
            found.append((leaf, hashed))
    if row:
        found.append(Receipts.of(row))
    return found


class _Worker:
    """A process that looks at bundles. It answers in the order it was asked in."""

    def __init__(self, where: str, key: SigningKey | None, trust: Trust) -> None:
        fork = get_context("fork")
        (asked, self._ask), (self._answer, answered) = fork.Pipe(duplex=False), fork.Pipe(duplex=False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # On Linux: then no answer waits for its reader.
            fcntl.fcntl(answered.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        mine = (self._ask, self._answer)
        self._process = fork.Process(target=_work, args=(where, key, trust, asked, answered, mine), daemon=True)
        self._process.start()
        asked.close()
        answered.close()
        self._context: Context | None = None

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._ask.close()
        self._answer.close()
        self._process.terminate()
        self._process.join()

    def ask(self, start: int, width: int, context: Context) -> None:
        self._ask.send((start, width, None if context is self._context else context))
        self._context = context

    def answer(self) -> Looked:
        """Raises `Refused` where reading did."""
        try:
            answer = marshal.loads(self._answer.recv_bytes())  # noqa: S302 - of a process that this one started.
        except (EOFError, OSError):
            raise Refused(Refusal.STOPPED, "a process of this audit was ended by somebody else") from None
        if isinstance(answer, bytes):
            raise pickle.loads(answer)  # noqa: S301 - the same.
        return [_unflat(each) for each in answer]


def _work(
    where: str,
    key: SigningKey | None,
    trust: Trust,
    asked: Connection,
    answered: Connection,
    other_ends: tuple[Connection, Connection],
) -> None:
    for each in other_ends:
        each.close()
    gc.disable()  # Nothing that is made here is kept, and nothing of it refers to itself.
    read, context = reader(where, key), None
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            start, width, new = asked.recv()
            context = new or context
            try:
                found = _look(bundle_at(read, start, width), context, trust)
            except Refused as refused:
                answered.send_bytes(marshal.dumps(pickle.dumps(refused)))
                continue
            answered.send_bytes(marshal.dumps([_flat(each) for each in found]))


def _flat(found: Receipts | Unread) -> tuple[Any, ...]:
    """In types that `marshal` knows."""
    return (*found[:-1], tuple(found.turn)) if isinstance(found, Receipts) else found


def _unflat(plain: tuple[Any, ...]) -> Receipts | Unread:
    return (plain[0], plain[1]) if len(plain) == 2 else Receipts._make((*plain[:-1], Turn(*plain[-1])))


def _vouching(heads: Mapping[str, bytes], read: Read, size: int) -> tuple[tuple[str, ...], list[Witnessed]]:
    """Whose newest entry vouches for those before it, and up to where each member vouches for its own."""
    try:
        charter = entries.open_charter(leaf_at(read, 0, size)).record
    except Refused:
        charter = None  # The audit itself will say why.
    if not isinstance(charter, Charter):
        return (), []
    keys, found = entries.charter_keys(charter), list[Witnessed]()
    for path, data in heads.items():
        role, _, member = path.partition("/")
        if role == "attest":
            with suppress(Refused):
                head, times = tlog.open_cosigned(data, keys)
                if f"{member}/attest" in times:
                    found.append(Witnessed(head.size, head.root.hex(), member))
    return (f"{charter.consortium}/coordinator",), found
