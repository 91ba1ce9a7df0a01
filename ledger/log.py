"""The log: the only writer. It admits an entry, stores it, publishes it, and answers with the proof.

Stores, and what someone who can change them could make us sign:

    log.key       trusted       whoever reads it can sign tree heads in our name
    log/          not trusted   published tiles and the newest tree head; every byte is compared before it is served
    ledger.db     not trusted   the entries; hashed again at the start, before anything is signed

The order of an append is: check, commit to the database, tiles, tree head, answer. A crash between any two loses
nothing that was answered: at the next start the database is either at the head, or ahead of it and is published on
from there. A database behind the head is an old copy, and signing from it would fork the log: then we do not start.
"""

import fcntl
import re
import shutil
import threading
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from ledger.tables import Entry as Row
from ledger.tables import connect
from shared_models import durable
from shared_models.records import note, tlog
from shared_models.records.entry import Entry
from shared_models.records.keys import SigningKey
from shared_models.records.merkle import EMPTY_ROOT, Tree, leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books, Last

_TILE = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class Log:
    """An open log in a folder; at most one process has it open at a time."""

    def __init__(self, folder: Path) -> None:
        """Open the log and prove to ourselves that it is whole.

        Raises `Refused`: NOT_SET_UP without a key, LOCKED if another process has it, CORRUPT naming the entry that is
        not what was published, BEHIND if the database lacks entries that were.
        """
        self.key = SigningKey.load(folder / "log.key")
        self._lock_file = open(folder / "lock", "w")  # noqa: SIM115 - held for as long as this log is open.
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise Refused(Refusal.LOCKED, f"another ledger serves {folder}") from None
        self._public = folder / "log"
        self._public.mkdir(exist_ok=True)
        self._turn = threading.Lock()
        self._stopped: str | None = None
        self._engine = connect(folder / "ledger.db")
        self.books = Books()
        try:
            self._reopen()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()
        self._lock_file.close()

    # Writing.

    def append(self, leaf: bytes) -> tuple[bool, tlog.Proof]:
        """Put a leaf into the log; (whether it is new, the proof that it stands there).

        The same text again is not new: its first place is proven. Raises `Refused`, and then nothing is written.
        """
        with self._turn:
            if self._stopped is not None:
                raise Refused(Refusal.STOPPED, self._stopped)
            entry = self.books.open(leaf)
            if self.books.said(entry):
                return False, self._proof(self._first(entry))
            self.books.check(entry)
            try:
                index = self._write(entry)
            except (OSError, SQLAlchemyError, Refused) as error:
                # The disk may hold more, less or other than we think: nothing more is signed before a start has looked.
                self._stopped = f"writing an entry failed: {error}"
                raise Refused(Refusal.STOPPED, self._stopped) from error
            return True, self._proof(index)

    def _first(self, entry: Entry) -> int:
        """Where this text was said first. Raises `Refused(CONFLICT)` if another one was."""
        author, kind, idem = entry.about
        with Session(self._engine) as session:
            index, leaf = session.exec(
                select(Row.index, Row.leaf).where(Row.author == author, Row.kind == kind, Row.idem == idem)
            ).one()
        if leaf[: leaf.rindex(b"\n\n") + 1] != entry.text:
            raise Refused(Refusal.CONFLICT, f"{author} said something else about {kind} {idem} at entry {index}")
        return index

    def _write(self, entry: Entry) -> int:
        index = self.books.tree.size
        author, kind, idem = entry.about
        with Session(self._engine) as session:
            session.add(Row(index=index, author=author, kind=kind, idem=idem, leaf=entry.leaf))
            session.commit()
        self.books.add(entry)
        self._publish(since=index)
        return index

    def _publish(self, since: int) -> None:
        """Write the tiles that grew since this size, and only then the tree head that needs them."""
        tree = self.books.tree
        for level, number, width in tlog.tiles(tree.size, since):
            self._put(tlog.tile_path(level, number, width), self._tile(level, number, width))
            if level == 0:
                leaves = self._leaves(number * tlog.WIDTH, number * tlog.WIDTH + width)
                self._put(tlog.tile_path("entries", number, width), tlog.pack(leaves))
            if width == tlog.WIDTH:  # The whole tile stands for all its beginnings (tlog-tiles, "Partial Tiles").
                for kind in (level, "entries") if level == 0 else (level,):
                    shutil.rmtree(self._public / f"{tlog.tile_path(kind, number)}.p", ignore_errors=True)
        self._head = tlog.TreeHead(self.key.name, tree.size, tree.root()).sign(self.key)
        self._put(tlog.HEAD, self._head)

    def _put(self, path: str, data: bytes) -> None:
        target = self._public / path
        target.parent.mkdir(parents=True, exist_ok=True)
        durable.write(target, data)

    def _leaves(self, start: int, end: int) -> list[bytes]:
        with Session(self._engine) as session:
            leaves = session.exec(
                select(Row.leaf).where(col(Row.index) >= start, col(Row.index) < end).order_by(col(Row.index))
            ).all()
        for index, leaf in enumerate(leaves, start):
            if index < self.books.tree.size and leaf_hash(leaf) != self.books.tree.leaf(index):
                raise Refused(Refusal.CORRUPT, f"entry {index} in the database is not what was appended")
        return list(leaves)

    # Reading.

    @property
    def head(self) -> bytes:
        """The newest signed tree head."""
        return self._head

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The path from entry `index` to the root of the log of this size. Raises `Refused(NOT_FOUND)`."""
        with self._turn:
            if not 0 <= index < size <= self.books.tree.size:
                raise Refused(
                    Refusal.NOT_FOUND, f"entry {index} in size {size}; the log has {self.books.tree.size} entries"
                )
            return self.books.tree.inclusion(index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of size `old` is a beginning of that of size `new`. Raises `Refused(NOT_FOUND)`."""
        with self._turn:
            if not 0 <= old <= new <= self.books.tree.size:
                raise Refused(Refusal.NOT_FOUND, f"sizes {old} and {new}; the log has {self.books.tree.size} entries")
            return self.books.tree.consistency(old, new)

    def last(self, author: str) -> Last:
        """The newest entry of this author. Raises `Refused(NOT_FOUND)`."""
        with self._turn:
            if author not in self.books.chains:
                raise Refused(Refusal.NOT_FOUND, f"{author[:80]} has no entry in this log")
            return self.books.chains[author]

    def runs(self) -> list[tuple[bytes, list[str]]]:
        """The manifest of each run as it was signed, and who has consented."""
        with self._turn:
            return [(run.leaf, sorted(run.consents)) for run in self.books.runs.values()]

    def published(self, path: str) -> bytes:
        """A published file, compared with the tree before it is given out.

        Raises `Refused`: NOT_FOUND, or CORRUPT naming the entry that is not what was appended.
        """
        if path == tlog.HEAD:
            return self._head
        match = _TILE.fullmatch(path)
        if match is None or not (self._public / path).is_file():
            raise Refused(Refusal.NOT_FOUND, f"this log has no {path[:80]!r}")
        number = int(match[2].replace("/x", "").replace("/", "").lstrip("x"))
        kind = match[1] if match[1] == "entries" else int(match[1])
        with self._turn:
            return self._checked(kind, number, int(match[3] or tlog.WIDTH))

    def _checked(self, kind: int | str, number: int, width: int) -> bytes:
        """A tile or a bundle from the disk, if it is what was published. Raises `Refused(CORRUPT)`."""
        path = tlog.tile_path(kind, number, width)
        data = self._on_disk(path)
        if isinstance(kind, int):
            self._check_tile(path, data, kind, number, width)
        else:
            self._check_bundle(path, data, number * tlog.WIDTH, width)
        return data

    def _on_disk(self, path: str) -> bytes:
        file = self._public / path
        return file.read_bytes() if file.is_file() else b""

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

    def _proof(self, index: int) -> tlog.Proof:
        tree = self.books.tree
        return tlog.Proof(index, tuple(tree.inclusion(index, tree.size)), self._head)

    # Opening.

    def _reopen(self) -> None:
        """Read everything back and believe nothing of it.

        1. The head on disk, if there is one, is signed by our own key.
        2. The database holds every entry that the head speaks of; more is what a crash kept from being published.
        3. Each entry hashes to what the published tile says, and all of them to the head's root. So they are those we
           signed.
        4. Each entry keeps the rules.
        5. The published files are those of this tree.
        """
        head = self._head_on_disk()
        with Session(self._engine) as session:
            rows = session.exec(select(Row.index, Row.leaf).order_by(col(Row.index))).all()
        if len(rows) < head.size:
            raise Refused(Refusal.BEHIND, f"the database holds {len(rows)} entries, the log has published {head.size}")
        hashes = self._hashes_on_disk(head.size)
        whole = Tree()
        for hashed in hashes:
            whole.append(hashed)
        tiles_are_right = whole.size == head.size and whole.root() == head.root
        for index, (stored, leaf) in enumerate(rows):
            if stored != index:
                raise Refused(Refusal.CORRUPT, f"entry {index} is missing from the database")
            if index < len(hashes) and leaf_hash(leaf) != hashes[index]:
                where = "in the database" if tiles_are_right else "in its tile, or in the database,"
                raise Refused(Refusal.CORRUPT, f"entry {index} {where} is not what was published")
            try:
                entry = self.books.open(leaf)
                self.books.check(entry)
            except Refused as refused:
                raise Refused(Refusal.CORRUPT, f"entry {index} in the database: {refused}") from refused
            self.books.add(entry)
        if self.books.tree.root(head.size) != head.root:
            raise Refused(Refusal.CORRUPT, f"the entries below {head.size} do not hash to the root that was signed")
        self._head = tlog.TreeHead(self.key.name, head.size, head.root).sign(self.key)
        for level, number, width in tlog.tiles(head.size):
            self._checked(level, number, width)
            if level == 0:
                self._checked("entries", number, width)
        if head.size < self.books.tree.size or head.size == 0:
            self._publish(since=head.size)

    def _head_on_disk(self) -> tlog.TreeHead:
        try:
            data = (self._public / tlog.HEAD).read_bytes()
        except FileNotFoundError:
            return tlog.TreeHead(self.key.name, 0, EMPTY_ROOT)
        return tlog.open_head(data, note.known([self.key.verify_key]))

    def _hashes_on_disk(self, size: int) -> list[bytes]:
        """The leaf hashes as published, as far as they are there."""
        hashes = list[bytes]()
        for level, number, width in tlog.tiles(size):
            if level == 0:
                data = self._on_disk(tlog.tile_path(0, number, width))
                hashes += [data[at : at + 32].ljust(32, b"\0") for at in range(0, len(data), 32)]
        return hashes
