"""The log: what it admits, how that becomes durable and public, and what it refuses to serve.

Stores, and what someone who can change them could make us sign:

    log.key       trusted       whoever reads it can sign tree heads in our name
    register/     trusted       the newest head signed; set back together with the database, it would make us fork
    log/          not trusted   published tiles and heads; every byte is compared before it is served
    database      not trusted   the entries; hashed again before anything is signed

The order of a commit is: check, one transaction, read back and hash, sign, register, answer. The folder follows, tiles
first and then the head that needs them. A crash between any two loses nothing that was answered: at the next start the
database is either at the register, or ahead of it and is signed and published on from there. A database behind the
register is an old copy: then we do not start.

What is here runs in one thread at a time and does no waiting; `sequencer` puts a queue in front of it.
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ledger.public import Public, PublicFolder
from ledger.register import FileRegister, Register
from ledger.store import Row, SqlStore, Store
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.entry import Entry
from shared_models.records.keys import MLDSA44, SigningKey
from shared_models.records.kinds import Artefact, Charter, Equivocation
from shared_models.records.merkle import EMPTY_ROOT, Tree, leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.access import Verdict
from shared_models.rules.books import NOTHING, Books, Last
from shared_models.rules.skim import Skimmed, skim

_TILE = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_AT_ONCE = 1_024  # Entries read back at a time.


class Admitted(NamedTuple):
    """A leaf that was opened: it is signed, canonical and of this log. Whether it may come next is another question."""

    leaf: bytes
    entry: Entry | Skimmed

    @property
    def names(self) -> tuple[str, str, str]:
        """Author, kind, and what it is about."""
        if isinstance(self.entry, Skimmed):
            return self.entry.author, "receipt", self.entry.idem
        return self.entry.about

    @property
    def text(self) -> bytes:
        return _text(self.leaf)


class Placed(NamedTuple):
    """Where an entry stands, and whether this request has put it there."""

    at: int
    new: bool


class NotAdmitted(NamedTuple):
    """A leaf that cannot stand in this log, and why."""

    leaf: bytes
    why: Refused


Asked = Admitted | NotAdmitted
Answer = Placed | Refused
# What a leaf was refused by when it came, and may not be any more when its turn comes.
_MAY_HAVE_CHANGED = (Refusal.NO_CHARTER, Refusal.UNKNOWN_KEY)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest tree head: everything below its size is durable and public."""

    size: int
    root: bytes
    note: bytes


class Log:
    """An open log. `admit` may be called from any thread, `commit` from one at a time."""

    def __init__(
        self,
        keys: Sequence[SigningKey],
        store: Store,
        register: Register,
        public: Public,
        adopted: tlog.TreeHead | bytes | None = None,
    ) -> None:
        """Open the log and prove to ourselves that it is whole. `keys` sign its heads, the Ed25519 one first.

        Where the register is lost, `adopted` stands in for it: the newest head that anybody has seen, on the word of
        who names it, or as a note that a quorum of members has cosigned.

        Raises `Refused`: CORRUPT naming the entry that is not what was published, BEHIND if the database lacks entries
        that were, or a published file is newer than the register; NOT_SET_UP if the register is lost, CONFLICT if a
        head is adopted though it is not; as `_check_cosigned`.
        """
        self.key, *self._more_keys = keys
        self.store, self.register, self.public = store, register, public
        self.books = Books()
        self._turn = threading.Lock()
        self._stopped: str | None = None
        self._shown = 0  # The size of the head in the folder,
        self._edge: list[bytes] = []  # and every leaf from the bundle on that this size lies in.
        self._head = self._reopen(adopted)
        self._registered = self._head.note
        self._publish()

    def close(self) -> None:
        self.publish()
        self.store.close()

    @property
    def head(self) -> Head:
        """The newest signed tree head."""
        return self._head

    @property
    def behind(self) -> int:
        """How many entries the folder has not got yet."""
        return self._head.size - self._shown

    @property
    def stopped(self) -> str | None:
        """Why nothing more is written, or None as long as all is well."""
        return self._stopped

    def check_register(self) -> None:
        """Whether the next head could be signed. Raises `Refused`: STOPPED, NOT_SET_UP, BEHIND; OSError."""
        with self._turn:
            if self._stopped is not None:
                raise Refused(Refusal.STOPPED, self._stopped)
            found = self.register.read()
            if found is None:
                raise Refused(Refusal.NOT_SET_UP, "the head register is lost")
            if found != self._registered:
                raise Refused(Refusal.BEHIND, "the head register was moved on by somebody else")

    # Writing.

    def admit(self, leaf: bytes) -> Asked:
        """The entry in this leaf, or whatever can be told from the leaf itself that is against it."""
        context = self.books.context
        skimmed = skim(leaf, context) if context is not None else None
        if skimmed is not None:
            return Admitted(leaf, skimmed)
        try:
            return Admitted(leaf, self.books.open(leaf))
        except Refused as refused:
            return NotAdmitted(leaf, refused)

    def append(self, leaf: bytes) -> tuple[bool, tlog.Proof]:
        """Admit, commit and publish one leaf; (whether it is new, the proof that it stands in the log).

        The same text again is not new: its first place is proven. Raises `Refused`, and then nothing is written but,
        perhaps, the evidence that its author has said two things.
        """
        (answer,) = self.commit([[self.admit(leaf)]])[0]
        self.publish()
        if isinstance(answer, Refused):
            raise answer
        return answer.new, self.proof(answer.at)

    def commit(self, requests: Sequence[Sequence[Asked]]) -> list[list[Answer]]:
        """Put what may come next into the log, in this order; for each request an answer to each of its leaves.

        An entry that is refused stops no other. A request's new entries stand one behind another. On return they are
        on the disk, under a head that is signed; if that fails, nothing more is signed and everything is answered with
        STOPPED. The folder does not have them before `publish`.
        """
        with self._turn:
            if self._stopped is not None:
                return _all(requests, Refused(Refusal.STOPPED, self._stopped))
            since, rows = self.books.tree.size, list[Row]()
            try:
                answers = [self._request(request, rows) for request in requests]
                if rows:
                    self._persist(rows, since)
            except (OSError, Refused) as error:
                # The disk may hold more, less or other than we think: nothing is signed before a start has looked.
                self._stopped = f"writing entries failed: {error}"
                return _all(requests, Refused(Refusal.STOPPED, self._stopped))
            return answers

    def _request(self, request: Iterable[Asked], rows: list[Row]) -> list[Answer]:
        conflicts: list[tuple[int, Admitted, int, bytes]] = []
        answers: list[Answer] = []
        for number, each in enumerate(request):
            try:
                if isinstance(each, NotAdmitted) and each.why.refusal in _MAY_HAVE_CHANGED:
                    each = self.admit(each.leaf)  # A charter or a key may have come before it.
                if isinstance(each, NotAdmitted):
                    raise each.why
                if not self.books.said(each.entry):
                    answers.append(Placed(self._add(each, rows), True))
                    continue
                first = self._first(each, rows)
                if _text(first[1]) != each.text:
                    conflicts.append((number, each, *first))
                    author, kind, idem = each.names
                    raise Refused(
                        Refusal.CONFLICT, f"{author} said something else about {kind} {idem}: entry {first[0]}"
                    )
                answers.append(Placed(first[0], False))
            except Refused as refused:
                answers.append(refused)
        for number, other, index, leaf in conflicts:  # Behind the request's own entries, which stand in a row.
            answers[number] = self._keep_evidence(other, index, leaf, answers[number], rows)
        return answers

    def _first(self, admitted: Admitted, rows: list[Row]) -> tuple[int, bytes]:
        """(index, leaf) of what its author has said about the same thing before."""
        names = admitted.names
        for row in rows:
            if row[1:4] == names:
                return row.at, row.leaf
        found, tree = self.store.find(*names), self.books.tree
        if found is None or not 0 <= found[0] < tree.size or leaf_hash(found[1]) != tree.leaf(found[0]):
            raise Refused(Refusal.CORRUPT, f"the database has lost what {' '.join(names)} says")
        return found

    def _add(self, admitted: Admitted, rows: list[Row]) -> int:
        if isinstance(admitted.entry, Skimmed):
            index = self.books.take(admitted.entry)
        else:
            self.books.check(admitted.entry)
            if isinstance(admitted.entry.record, Charter):
                self._check_own_key(admitted.entry.record)
            index = self.books.add(admitted.entry)
        rows.append(Row(index, *admitted.names, admitted.leaf))
        return index

    def _check_own_key(self, charter: Charter | None = None) -> None:
        """Whether heads that we sign are those of the charter's log. Raises `Refused(UNKNOWN_KEY)`."""
        keys = self.books.keys if charter is None else entries.charter_keys(charter)
        if self.key.verify_key not in keys.values():
            raise Refused(
                Refusal.UNKNOWN_KEY, f"log.key, id {self.key.verify_key.id.hex()}, is not the charter's log key"
            )

    def _keep_evidence(self, other: Admitted, first: int, one: bytes, answer: Answer, rows: list[Row]) -> Answer:
        """Put both notes into the log, signed by nobody but those who signed them; what the sender is told then."""
        assert isinstance(answer, Refused)
        last = self.books.chains.get(self.key.name, NOTHING)
        try:
            record = Equivocation(
                seq=last.seq + 1, prev=last.hash, first=first, one=one.decode(), other=other.leaf.decode()
            )
            leaf = entries.sign(record, self.books.charter.consortium, [self.key])
            index = self._add(Admitted(leaf, self.books.open(leaf)), rows)
        except Refused:  # It is kept already, or too large, or the log's key may not write here.
            return answer
        return Refused(answer.refusal, f"{answer.detail}; both are kept in entry {index}")

    def _persist(self, rows: list[Row], since: int) -> None:
        tree = self.books.tree
        self.store.append(rows, tree.size, tree.root())
        leaves = self.stored(since, tree.size)
        head = self._signed(tree.size, tree.root())
        self.register.swap(self._registered, head.note)
        self._registered = head.note
        self._edge += leaves
        self._head = head

    def stored(self, start: int, end: int) -> list[bytes]:
        """Entries as the database has them now, each hashed again. Raises `Refused(CORRUPT)`."""
        found = self.store.read(start, end)
        for index, (stored, leaf) in enumerate(found, start):
            if stored != index or leaf_hash(leaf) != self.books.tree.leaf(index):
                raise Refused(Refusal.CORRUPT, f"entry {index} in the database is not what was appended")
        if len(found) != end - start:
            raise Refused(Refusal.CORRUPT, f"entry {start + len(found)} is missing from the database")
        return [leaf for _, leaf in found]

    def _signed(self, size: int, root: bytes) -> Head:
        head = tlog.TreeHead(self.key.name, size, root)
        return Head(size, root, head.sign(self.key, *self._more_keys, time_s=int(time.time())))

    def publish(self) -> None:
        """Bring the folder to the newest head. If that fails, nothing more is signed."""
        with self._turn:
            if self._stopped is None and self._shown < self._head.size:
                try:
                    self._publish()
                except OSError as error:
                    self._stopped = f"publishing failed: {error}"

    def _publish(self) -> None:
        """Write the tiles that grew since the folder's head, then the head; `_edge` has all leaves of these bundles."""
        head, edge, whole = self._head, self._shown - self._shown % tlog.WIDTH, list[str]()
        for level, number, width in tlog.tiles(head.size, self._shown):
            self.public.put(tlog.tile_path(level, number, width), self._tile(level, number, width))
            if level == 0:
                start = number * tlog.WIDTH - edge
                bundle = tlog.pack(self._edge[start : start + width])
                self.public.put(tlog.tile_path("entries", number, width), bundle)
            if width == tlog.WIDTH:  # The whole tile stands for all its beginnings (tlog-tiles, "Partial Tiles").
                for kind in (level, "entries") if level == 0 else (level,):
                    whole.append(f"{tlog.tile_path(kind, number)}.p")
        self.public.put(tlog.HEAD, head.note)
        for beginnings in whole:  # Only now: until then the head in the folder needs them.
            self.public.drop(beginnings)
        self._edge = self._edge[head.size - head.size % tlog.WIDTH - edge :]
        self._shown = head.size

    # Reading. Nothing here waits for a write but what asks for the newest state.

    def proof(self, index: int) -> tlog.Proof:
        """The proof that this entry stands in the log, under its newest head. Raises `Refused(NOT_FOUND)`."""
        head = self._head
        return tlog.Proof(index, tuple(self.inclusion(index, head.size)), head.note)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The path from an entry to the root of this size. Raises `Refused(NOT_FOUND)`."""
        if not 0 <= index < size <= self._head.size:
            raise Refused(Refusal.NOT_FOUND, f"entry {index} in size {size}; the log has {self._head.size} entries")
        return self.books.tree.inclusion(index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of size `old` is a beginning of that of size `new`. Raises `Refused(NOT_FOUND)`."""
        if not 0 <= old <= new <= self._head.size:
            raise Refused(Refusal.NOT_FOUND, f"sizes {old} and {new}; the log has {self._head.size} entries")
        return self.books.tree.consistency(old, new)

    def run(self, start: int, end: int, size: int) -> list[bytes]:
        """What proves that entries stand in a row (`merkle.Tree.run`). Raises `Refused(NOT_FOUND)`."""
        if not 0 <= start < end <= size <= self._head.size:
            raise Refused(Refusal.NOT_FOUND, f"entries {start} to {end} in size {size} of {self._head.size}")
        return self.books.tree.run(start, end, size)

    def last(self, author: str) -> Last:
        """The newest entry of this author. Raises `Refused(NOT_FOUND)`."""
        with self._turn:
            if author not in self.books.chains:
                raise Refused(Refusal.NOT_FOUND, f"{author[:80]} has no entry in this log")
            return self.books.chains[author]

    def runs(self) -> list[tuple[bytes, list[str], str]]:
        """The manifest of each run as it was signed, who has consented, and how it has ended; "" while it has not."""
        with self._turn:
            return [
                (run.leaf, sorted(run.consents), run.ended.status if run.ended is not None else "")
                for run in self.books.runs.values()
            ]

    def access(self, member: str, artefact: str) -> tuple[Verdict, Artefact]:
        """Whether a member may download an artefact now, and what the log says of it. Raises `Refused(NOT_FOUND)`."""
        with self._turn:
            return self.books.access(member, artefact), self.books.library.held(artefact).record

    @contextmanager
    def reading(self) -> Iterator[Books]:
        """The books between two commits, so that all of them is on the disk; whoever appends waits meanwhile.

        Raises `Refused(STOPPED)` once writing has failed: the books may be ahead of the disk then.
        """
        with self._turn:
            if self._stopped is not None:
                raise Refused(Refusal.STOPPED, self._stopped)
            yield self.books

    def find(self, author: str, kind: str, idem: str) -> tuple[int, bytes]:
        """(index, leaf) of what this author has said about this. Raises `Refused`: NOT_FOUND, CORRUPT."""
        found = self.store.find(author, kind, idem)
        if found is None or found[0] >= self._head.size:
            raise Refused(Refusal.NOT_FOUND, f"{author[:80]} has no {kind} {idem[:80]}")
        if leaf_hash(found[1]) != self.books.tree.leaf(found[0]):
            raise Refused(Refusal.CORRUPT, f"entry {found[0]} in the database is not what was appended")
        return found

    def registered(self, artefact: str) -> Artefact:
        """What the log says of an artefact, on the disk. Raises `Refused(NOT_FOUND)`."""
        with self._turn:
            held = self.books.library.held(artefact)
            if held.at >= self._head.size:  # Below the head it is on the disk.
                raise Refused(Refusal.NOT_FOUND, f"no artefact {artefact}")
            return held.record

    def shown(self, run: str, round_: int, member: str, *, drawn: bool) -> tuple[str, frozenset[str]]:
        """The leaf hash of the receipt of a member's work in a round, and whom that round invited.

        Raises `Refused`: NOT_FOUND if that work does not count, or cannot be disputed any more; NOT_DRAWN if it is to
        be drawn by the log, and is not.
        """
        with self._turn:
            found = next(self.books.challenges((run, round_, member)), None)
            what = f"{member[:80]}'s in round {round_} of {run[:80]}"
            if drawn and (found is None or found.segment is None):
                raise Refused(Refusal.NOT_DRAWN, f"the log has drawn nothing of {what} that can be disputed")
            if found is None:
                raise Refused(Refusal.NOT_FOUND, f"no work of {what} counts that can be disputed now")
            return found.receipt, self.books.run(run).rounds[round_ - 1].invited

    def all_shown(self, *, drawn: bool) -> set[str]:
        """The leaf hashes of all receipts of work that can be disputed; or only those that the log has drawn."""
        with self._turn:
            return {each.receipt for each in self.books.challenges() if each.segment is not None or not drawn}

    def granted(self, member: str, artefact: str, at: int) -> Artefact:
        """The artefact that this member may fetch now, by its access entry at this index.

        Raises `Refused`: NOT_FOUND if that is no access entry, WRONG_MEMBER if it is another's or for another artefact,
        NO_ACCESS if the member has no access any more.
        """
        with self._turn:
            library = self.books.library
            grant = library.grants.get(at) if at < self._head.size else None  # Below the head it is on the disk.
            if grant is None:
                raise Refused(Refusal.NOT_FOUND, f"entry {at} grants access to nothing")
            if grant != (member, artefact):
                raise Refused(Refusal.WRONG_MEMBER, f"entry {at} lets {grant.member} have {grant.artefact[:12]}…")
            verdict = self.books.access(member, artefact, anew=False)
            if not verdict.granted:
                raise Refused(Refusal.NO_ACCESS, "; ".join(verdict.reasons))
            return library.held(artefact).record

    def published(self, path: str) -> bytes:
        """A published tile or head, compared with the tree before it is given out.

        Raises `Refused`: NOT_FOUND, or CORRUPT naming the entry that is not what was appended.
        """
        if path == tlog.HEAD:
            return self._head.note
        match = _TILE.fullmatch(path)
        none = Refused(Refusal.NOT_FOUND, f"this log has no {path[:80]!r}")
        if match is None:
            raise none
        number = int(match[2].replace("/x", "").replace("/", "").lstrip("x"))
        kind, width = match[1] if match[1] == "entries" else int(match[1]), int(match[3] or tlog.WIDTH)
        if self.public.read(path) is not None:
            return self._checked(kind, number, width)
        # The folder has not got it yet: the tree and the database have, of sizes that were signed.
        level = kind if isinstance(kind, int) else 0
        if not 1 <= width <= tlog.WIDTH or number * tlog.WIDTH + width > self._head.size >> 8 * level:
            raise none
        start = number * tlog.WIDTH
        return self._tile(kind, number, width) if kind == level else tlog.pack(self.stored(start, start + width))

    def _checked(self, kind: int | str, number: int, width: int) -> bytes:
        """A tile or a bundle from the disk, if it is what was published. Raises `Refused(CORRUPT)`."""
        path = tlog.tile_path(kind, number, width)
        data = self.public.read(path) or b""
        if isinstance(kind, int):
            self._check_tile(path, data, kind, number, width)
        else:
            self._check_bundle(path, data, number * tlog.WIDTH, width)
        return data

    def _check_tile(self, path: str, data: bytes, level: int, number: int, width: int) -> None:
        right = self._tile(level, number, width)
        if data == right:
            return
        at = next((i for i in range(width) if data[32 * i : 32 * i + 32] != right[32 * i : 32 * i + 32]), width)
        first = (number * tlog.WIDTH + at) * tlog.WIDTH**level
        raise Refused(Refusal.CORRUPT, f"{path} is not what was published, from entry {first} on")

    def _check_bundle(self, path: str, data: bytes, start: int, width: int) -> None:
        leaves = tlog.unpack(data)
        for index, leaf in enumerate(leaves, start):
            if index >= self.books.tree.size or leaf_hash(leaf) != self.books.tree.leaf(index):
                raise Refused(Refusal.CORRUPT, f"entry {index} in {path} is not what was appended")
        if len(leaves) != width:
            raise Refused(Refusal.CORRUPT, f"entry {start + len(leaves)} is missing from {path}")

    def _tile(self, level: int, number: int, width: int) -> bytes:
        return self.books.tree.hashes(8 * level, number * tlog.WIDTH, number * tlog.WIDTH + width)

    # Opening.

    def _reopen(self, adopted: tlog.TreeHead | bytes | None) -> Head:
        """Read everything back and believe nothing of it; the newest head.

        1. The register's head and the published one are signed by our own key, and the published one is not newer.
        2. The database holds every entry that the register speaks of; more is what a crash kept from being signed.
        3. Each entry hashes to what its published tile says, and all below the register's head to its root. So they are
           those we signed, and were verified when they came; those beyond are verified now.
        4. Each entry keeps the rules.
        5. The published files are those of this tree. What is not yet signed is.
        """
        registered = self.register.read()
        signed, shown = self._own_head(registered), self._own_head(self.public.read(tlog.HEAD))
        size = self.store.size()
        if adopted is not None:
            if registered is not None:
                raise Refused(Refusal.CONFLICT, f"the register is there, at {signed.size}: nothing is to be adopted")
            signed = adopted if isinstance(adopted, tlog.TreeHead) else tlog.unsigned(adopted)
        elif registered is None and (size or shown.size):
            raise Refused(
                Refusal.NOT_SET_UP,
                f"the head register is lost, and with it which of {max(size, shown.size)} entries is the newest:"
                f" `consortium ledger adopt`, with the newest head that any member has witnessed",
            )
        if shown.size > signed.size:
            raise Refused(
                Refusal.BEHIND,
                f"the {'register' if adopted is None else 'adopted head'} is at {signed.size},"
                f" the log has published {shown.size} entries",
            )
        if size < signed.size:
            raise Refused(Refusal.BEHIND, f"the database holds {size} entries, the log has signed {signed.size}")
        self._read_back(size, signed, shown)
        tree = self.books.tree
        for head, where in ((signed, "signed"), (shown, "published")):
            if tree.root(head.size) != head.root:
                raise Refused(
                    Refusal.CORRUPT, f"the entries below {head.size} do not hash to the root that was {where}"
                )
        for level, number, width in tlog.tiles(shown.size):
            self._checked(level, number, width)
            if level == 0:
                self._checked("entries", number, width)
        if self.books.charter_hash:
            self._check_own_key()
        if isinstance(adopted, bytes):
            self._check_cosigned(adopted)
        self._shown = shown.size
        self._edge = self.stored(shown.size - shown.size % tlog.WIDTH, tree.size)
        if registered is None or tree.size > signed.size:
            newest = self._signed(tree.size, tree.root())
            self.register.swap(registered, newest.note)
            return newest
        return Head(tree.size, tree.root(), registered)

    def _read_back(self, size: int, signed: tlog.TreeHead, shown: tlog.TreeHead) -> None:
        hashes = self._hashes_shown(shown.size)
        whole = Tree()
        for hashed in hashes:
            whole.append(hashed)
        tiles_are_right = whole.size == shown.size and whole.root() == shown.root
        for start in range(0, size, _AT_ONCE):
            end = min(start + _AT_ONCE, size)
            found = self.store.read(start, end)
            for index, (stored, leaf) in enumerate(found, start):
                if stored != index:
                    raise Refused(Refusal.CORRUPT, f"entry {index} is missing from the database")
                if index < len(hashes) and leaf_hash(leaf) != hashes[index]:
                    where = "in the database" if tiles_are_right else "in its tile, or in the database,"
                    raise Refused(Refusal.CORRUPT, f"entry {index} {where} is not what was published")
                try:
                    context = self.books.context
                    skimmed = skim(leaf, context, verify=index >= signed.size) if context is not None else None
                    entry = skimmed if skimmed is not None else self.books.open(leaf)
                    self.books.check(entry)
                except Refused as refused:
                    raise Refused(Refusal.CORRUPT, f"entry {index} in the database: {refused}") from refused
                self.books.add(entry)
            if len(found) != end - start:
                raise Refused(Refusal.CORRUPT, f"entry {start + len(found)} is missing from the database")

    def _check_cosigned(self, data: bytes) -> None:
        """Whether we have signed this head, and a quorum of members whose keys count has witnessed it.

        Raises `Refused`: as `tlog.open_cosigned`, WRONG_ORIGIN, NO_QUORUM.
        """
        head, _ = tlog.open_cosigned(data, self.books.keys)
        if head.origin != self.key.name:
            raise Refused(Refusal.WRONG_ORIGIN, f"a head of {head.origin[:80]}")
        signed = {(line.name, line.id) for line in note.parse(data, tlog.HEAD_BYTES).signatures}
        names = {
            name for name, key_id in signed if name.endswith("/witness") and self.books.keyring.counts(name, key_id)
        }
        needed = max(1, self.books.charter.quorum)
        if len(names) < needed:
            raise Refused(
                Refusal.NO_QUORUM, f"{len(names)} members have cosigned the head of size {head.size}, it takes {needed}"
            )

    def _own_head(self, data: bytes | None) -> tlog.TreeHead:
        if data is None:
            return tlog.TreeHead(self.key.name, 0, EMPTY_ROOT)
        keys = [self.key.verify_key, *(key.verify_key for key in self._more_keys)]
        return tlog.open_head(data, note.known(keys))

    def _hashes_shown(self, size: int) -> list[bytes]:
        """The leaf hashes as published, as far as they are there."""
        hashes = list[bytes]()
        for level, number, width in tlog.tiles(size):
            if level == 0:
                data = self.public.read(tlog.tile_path(0, number, width)) or b""
                hashes += [data[at : at + 32].ljust(32, b"\0") for at in range(0, len(data), 32)]
        return hashes


def _text(leaf: bytes) -> bytes:
    """The signed text. Two leaves of one text differ in their signatures only, and say the same."""
    return leaf[: leaf.rindex(b"\n\n") + 1]


def _all(requests: Sequence[Sequence[object]], refused: Refused) -> list[list[Answer]]:
    return [[refused] * len(request) for request in requests]


def open_log(
    folder: Path,
    *,
    database: str = "",
    register: Path | None = None,
    adopted: tlog.TreeHead | bytes | None = None,
) -> Log:
    """Open the log in this folder. An empty one begins with the charter that lies there.

    `adopted` is for a log that has lost its register: see `Log`. Nothing in the machine can tell then whether the
    database is the newest; only the members' heads can.

    Raises `Refused`: NOT_SET_UP without a key, LOCKED if another process has it open, UNREACHABLE without a database,
    or as `Log`.
    """
    keys = [SigningKey.load(folder / "log.key")]
    if (folder / "log-mldsa.key").is_file():
        keys.append(SigningKey.load(folder / "log-mldsa.key"))
        if keys[1].verify_key.kind != MLDSA44:
            raise Refused(Refusal.BAD_KEY, f"{folder / 'log-mldsa.key'} is no ML-DSA-44 key")
    store = SqlStore(database or f"sqlite:///{folder / 'ledger.db'}", folder)
    try:
        log = Log(keys, store, FileRegister(register or folder / "register"), PublicFolder(folder / "log"), adopted)
        charter = folder / "charter.note"
        if log.head.size == 0 and charter.is_file():
            log.append(charter.read_bytes())
        return log
    except BaseException:
        store.close()
        raise
