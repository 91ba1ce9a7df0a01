"""The log on disks that fail: a power cut at any call, an error before or after it took effect, pages torn or turned.

Everything is drawn from a seed, and nothing is written to a real disk. Two kinds of disk:

    honest      keeps the word of `Store`, `Register` and `Public`: what has returned is there after a power cut
    lying       keeps it for the register only, which is trusted: all else may be lost though it was flushed, reach the
                disk in another order, come back torn, or turn to something else later

On both, no two roots are ever signed for one size, every head continues every other, and what was acknowledged stands
where it stood. An honest disk is always opened again; a lying one may be refused, by name.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, partial
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import CONSORTIUM, LONG, World, added, key, revoked

from ledger.log import Log, Placed
from ledger.store import Row
from shared_models.published import fetch
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.kinds import FIRST, CostItem, Equivocation
from shared_models.records.merkle import Tree, leaf_hash
from shared_models.records.refusals import Refusal, Refused

T = TypeVar("T")
LOG = key(f"{CONSORTIUM}/log")
KEYS = note.known([LOG.verify_key])
# What a start may say of a disk that lies. Heads and registers that are torn are refused as the notes they are.
OF_A_LIAR = {
    Refusal.CORRUPT,
    Refusal.BEHIND,
    Refusal.NOT_A_NOTE,
    Refusal.NOT_TEXT,
    Refusal.BAD_SIGNATURE,
    Refusal.UNKNOWN_KEY,
    Refusal.BAD_PROOF,
}


class PowerCut(BaseException):
    """Nobody catches it: the process is gone."""


@dataclass
class Disk:
    """What lies there, what of it is only in the cache, and how likely it fails. Every handle to it is a process's."""

    chance: random.Random
    honest: bool = True
    failing: float = 0.0  # Of each call.
    rows: dict[int, Row] = field(default_factory=dict)
    head: bytes | None = None  # In the register.
    files: dict[str, bytes] = field(default_factory=dict)
    loose: list[tuple[dict[Any, Any], Any, Any]] = field(default_factory=list)  # What a power cut may still undo.
    seen: list[tlog.TreeHead] = field(default_factory=list)  # Every head that anybody could have read.
    meant: dict[int, bytes] = field(default_factory=dict)  # What was to be stored last.
    wrote_badly: bool = False  # Whether a write of this process has failed.

    def fate(self, act: Callable[[], T], *, half: Callable[[], object] | None = None) -> T:
        """Do it, or fail before it, in the middle of it or behind it, with an error or a power cut."""
        if self.chance.random() >= self.failing:
            return act()
        when = self.chance.choice(("before", "behind", "half" if half else "before"))
        if when == "behind":
            act()
        if when == "half" and half is not None:
            half()
        if self.chance.random() < 0.5:
            raise PowerCut
        raise OSError(self.chance.choice((5, 28)), f"the disk failed {when} it")

    def write(self, act: Callable[[], T], *, half: Callable[[], object] | None = None) -> T:
        try:
            return self.fate(act, half=half)
        except OSError:
            self.wrote_badly = True
            raise

    def set(self, where: dict[Any, Any], name: Any, value: Any, *, flushed: bool) -> None:
        """Put it there, or remove it if it is None."""
        if not flushed:
            self.loose.append((where, name, where.get(name)))
        if value is None:
            where.pop(name, None)
        else:
            where[name] = value

    @property
    def flushes(self) -> bool:
        """Whether what is flushed now is on the disk."""
        return self.honest or self.failing == 0 or self.chance.random() < 0.7

    def garbled(self, data: bytes) -> bytes:
        """These bytes torn, or with a page of something else in them."""
        at = self.chance.randrange(len(data) + 1)
        if self.chance.random() < 0.5:
            return data[:at]
        return data[:at] + self.chance.randbytes(self.chance.randrange(1, 60)) + data[at + 60 :]

    def settle(self, power: bool) -> None:
        """What is there when the machine comes up again; without its power it has forgotten some of what was loose."""
        if power:
            for where, name, old in reversed(self.loose):
                if self.chance.random() < 0.5:
                    self.set(where, name, old, flushed=True)
        self.loose.clear()
        self.meant.clear()
        self.wrote_badly = False

    def rot(self) -> None:
        """Turn something to garbage, or to what somebody else has signed; not the register, which is trusted."""
        if self.files and self.chance.random() < 0.5:
            path = self.chance.choice(list(self.files)[-4:])
            self.files[path] = self.garbled(self.files[path])
        elif self.rows:
            at = self.chance.choice(sorted(self.rows)[-6:])
            leaf = self.rows[at].leaf
            self.rows[at] = self.rows[at]._replace(leaf=other_text().get(leaf) or self.garbled(leaf))

    def show(self, data: bytes) -> None:
        """Somebody can read this head from now on. There is one for each size, and it is that of the entries."""
        head = tlog.open_head(data, KEYS)
        assert all(other.root == head.root for other in self.seen if other.size == head.size)
        if self.honest:
            assert root([self.rows[at].leaf for at in range(head.size)]) == head.root
        self.seen.append(head)

    @property
    def leaves(self) -> list[bytes]:
        return [self.rows[at].leaf for at in sorted(self.rows)]

    def open(self) -> Log:
        return Log([LOG], MemoryStore(self), MemoryRegister(self), MemoryPublic(self))


class MemoryStore:
    """The store of a process on this disk."""

    engine: Any  # For projections, which a log does not need.
    turn: Any

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def append(self, rows: Sequence[Row], size: int, root: bytes) -> None:
        def act() -> None:
            if any(row.at in self.disk.rows for row in rows):  # As the table's primary key has it.
                assert not self.disk.honest
                raise OSError("there is such an entry")
            flushed = self.disk.flushes
            self.disk.meant = {row.at: row.leaf for row in rows}
            for row in rows:
                self.disk.set(self.disk.rows, row.at, row, flushed=flushed)
            if not self.disk.honest and self.disk.chance.random() < self.disk.failing / 4:
                at = rows[-1].at
                self.disk.rows[at] = rows[-1]._replace(leaf=self.disk.garbled(rows[-1].leaf))

        def half() -> None:
            for row in rows:
                if self.disk.chance.random() < 0.5:
                    torn = self.disk.garbled(row.leaf) if self.disk.chance.random() < 0.3 else row.leaf
                    self.disk.set(self.disk.rows, row.at, row._replace(leaf=torn), flushed=False)

        self.disk.write(act, half=None if self.disk.honest else half)

    def read(self, start: int, end: int) -> list[tuple[int, bytes]]:
        rows = self.disk.rows
        return self.disk.fate(lambda: [(at, rows[at].leaf) for at in sorted(rows) if start <= at < end])

    def size(self) -> int:
        return self.disk.fate(lambda: len(self.disk.rows))

    def find(self, author: str, kind: str, idem: str) -> tuple[int, bytes] | None:
        found = ((row.at, row.leaf) for row in self.disk.rows.values() if row[1:4] == (author, kind, idem))
        return self.disk.fate(lambda: next(found, None))

    def close(self) -> None:
        pass


class MemoryRegister:
    """The register: whatever the disk, what it has said is kept."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def read(self) -> bytes | None:
        return self.disk.fate(lambda: self.disk.head)

    def swap(self, old: bytes | None, new: bytes) -> None:
        def act() -> None:
            stored = {at: self.disk.rows[at].leaf for at in self.disk.meant if at in self.disk.rows}
            assert stored == self.disk.meant, "it signs what is not what it stored"
            self.disk.show(new)
            self.disk.head = new

        if self.disk.head != old:
            raise Refused(Refusal.BEHIND, "somebody else has moved it on")
        self.disk.write(act)


class MemoryPublic:
    """The published folder. Nothing flushes what is dropped: it may come back, and not all of it."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def read(self, path: str) -> bytes | None:
        return self.disk.fate(lambda: self.disk.files.get(path))

    def put(self, path: str, data: bytes) -> None:
        def act() -> None:
            if path == tlog.HEAD:
                assert self.disk.head is not None
                assert tlog.unsigned(data).size <= tlog.unsigned(self.disk.head).size
                self.disk.show(data)
            self.disk.set(self.disk.files, path, data, flushed=self.disk.flushes)

        def half() -> None:
            self.disk.set(self.disk.files, path, self.disk.garbled(data), flushed=False)

        self.disk.write(act, half=None if self.disk.honest else half)

    def drop(self, path: str) -> None:
        def remove(paths: list[str]) -> None:
            for each in paths:
                self.disk.set(self.disk.files, each, None, flushed=False)

        inside = [each for each in self.disk.files if each.startswith(path + "/")]
        self.disk.write(partial(remove, inside), half=partial(remove, inside[::2]))


def root(leaves: Sequence[bytes]) -> bytes:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree.root()


# What people send. All of it is signed once, in chains that do not depend on each other.


@dataclass(frozen=True)
class Speaker:
    """The entries of one author in their order, and of each another one that says something else."""

    name: str
    says: list[bytes]
    lies: list[bytes]

    def due(self, log: Log) -> int:
        """How many of them this log has."""
        last = log.books.chains.get(self.name)
        return last.seq + 1 if last is not None else 0


MEMBERS = ("acme", "birch", "cedar")
EACH = 120


@cache
def speakers() -> tuple[bytes, list[Speaker]]:
    """(the charter, who speaks)"""
    world = World()
    charter = world.leaves[0]
    found = []
    for member in MEMBERS:
        says, lies = list[bytes](), list[bytes]()
        for number in range(EACH):
            item = world.item(member, 100 + number, f"{member}-{number}")
            lies.append(world.sign(f"{member}/admin", replace(item, amount="1")))
            world.say(f"{member}/admin", item)
            says.append(world.leaves[-1])
        found.append(Speaker(f"{member}/admin", says, lies))
    return charter, found


@cache
def other_text() -> dict[bytes, bytes]:
    """For each entry the other one that its author has signed."""
    return {one: other for speaker in speakers()[1] for one, other in zip(speaker.says, speaker.lies, strict=True)}


@cache
def snapshot(size: int) -> Disk:
    """A disk with a log of so many entries on it, of which nothing went wrong."""
    charter, all_of_them = speakers()
    disk = Disk(random.Random(0))
    log = disk.open()
    leaves = [charter, *(speaker.says[number] for number in range(EACH) for speaker in all_of_them)][:size]
    if leaves:
        log.commit([[log.admit(leaf) for leaf in leaves]])
    log.close()
    return disk


def copy(size: int, seed: int, honest: bool) -> Disk:
    base = snapshot(size)
    return Disk(
        random.Random(seed), honest, rows=dict(base.rows), head=base.head, files=dict(base.files), seen=list(base.seen)
    )


class History:
    """One log from its first start to its last, and what its senders were told."""

    def __init__(self, seed: int, honest: bool, size: int) -> None:
        self.disk = copy(size, seed, honest)
        self.chance = self.disk.chance
        self.told: dict[bytes, int] = {leaf: at for at, leaf in enumerate(self.disk.leaves)}
        self.cuts = 0
        self.refused: Refusal | None = None

    def run(self) -> None:
        for _ in range(self.chance.randrange(1, 5)):
            self.disk.failing = self.chance.choice((0.02, 0.1, 0.3))
            try:
                self.live()
            except PowerCut:
                self.cuts += 1
                self.disk.settle(power=True)
            except OSError:
                self.disk.settle(power=False)
            except Refused as refused:
                return self.end(refused)
            if not self.disk.honest and self.chance.random() < 0.2:
                self.disk.rot()
        self.disk.failing = 0.0
        try:
            log = self.disk.open()
        except Refused as refused:
            return self.end(refused)
        self.check(log)
        return self.check_told(log)

    def end(self, refused: Refused) -> None:
        assert not self.disk.honest, refused
        assert refused.refusal in OF_A_LIAR, refused
        self.refused = refused.refusal

    def live(self) -> None:
        """One process, until it ends or is ended."""
        log = self.disk.open()
        self.check(log)
        stopped: int | None = None  # How many heads there were when it stopped.
        for _ in range(self.chance.randrange(1, 7)):
            requests = [self.request(log) for _ in range(self.chance.randrange(1, 4))]
            try:
                answers = log.commit([[log.admit(leaf) for leaf in request] for request in requests])
            except OSError:
                continue  # Whoever asks again must not be told something else.
            for request, answered in zip(requests, answers, strict=True):
                self.note(log, request, answered, stopped is not None)
            if self.chance.random() < 0.6:
                log.publish()
            if self.disk.wrote_badly or log.stopped is not None:
                assert log.stopped is not None, "it failed to write, and goes on"
                stopped = len(self.disk.seen) if stopped is None else stopped
                assert len(self.disk.seen) == stopped, "it signs though it has stopped"
            elif not self.disk.honest and self.chance.random() < 0.1:
                self.disk.rot()
            self.check(log)
        self.disk.settle(power=self.chance.random() < 0.5)

    def request(self, log: Log) -> list[bytes]:
        charter, all_of_them = speakers()
        leaves = [charter] if log.head.size == 0 or self.chance.random() < 0.05 else []
        due = {speaker.name: speaker.due(log) for speaker in all_of_them}
        for _ in range(self.chance.randrange(1, 5)):
            speaker = self.chance.choice(all_of_them)
            at = due[speaker.name]
            match self.chance.randrange(8):
                case 0 if at:
                    leaves.append(speaker.says[self.chance.randrange(at)])  # Again.
                case 1 if at:
                    leaves.append(speaker.lies[self.chance.randrange(at)])
                case 2:
                    leaves.append(speaker.says[min(at + 1, EACH - 1)])  # With a gap.
                case 3:
                    leaves.append(b"nonsense\n")
                case _ if at < EACH:
                    leaves.append(speaker.says[at])
                    due[speaker.name] += 1
        return leaves

    def note(self, log: Log, request: Sequence[bytes], answers: Sequence[Placed | Refused], stopped: bool) -> None:
        assert len(request) == len(answers)
        for leaf, answer in zip(request, answers, strict=True):
            if isinstance(answer, Refused):
                assert (answer.refusal is Refusal.STOPPED) == (log.stopped is not None), answer
                continue
            assert not stopped
            assert answer.at < log.head.size
            assert self.told.setdefault(leaf, answer.at) == answer.at
            if self.disk.honest:
                assert self.disk.rows[answer.at].leaf == leaf

    def check(self, log: Log) -> None:
        """Every head that was ever seen is a beginning of this log, and everything that was told is in it."""
        tree = log.books.tree
        for head in self.disk.seen:
            assert tree.root(head.size) == head.root
        for leaf, at in self.told.items():
            assert tree.leaf(at) == leaf_hash(leaf)
        assert tlog.open_head(log.head.note, KEYS) == tlog.TreeHead(LOG.name, log.head.size, log.head.root)

    def check_told(self, log: Log) -> None:
        """On a disk that no longer fails: what it serves is what it has, and who asks again is told the same."""
        log.publish()
        served = fetch(log.published)
        assert root(served.leaves) == tlog.open_head(served.head, KEYS).root == log.head.root
        for leaf, at in self.told.items():
            assert served.leaves[at] == leaf
        (answers,) = log.commit([[log.admit(leaf) for leaf in self.told]])
        assert answers == [Placed(at, False) for at in self.told.values()]


# Sizes to begin from: nothing, a little, and just before a tile is full.
SIZES = (0, 0, 0, 4, 12, 12, 250, 254)


def histories(seeds: range, honest: bool) -> Iterator[History]:
    for seed in seeds:
        history = History(seed, honest, SIZES[seed % len(SIZES)])
        try:
            history.run()
        except BaseException as error:
            error.add_note(f"seed {seed}, {'honest' if honest else 'lying'}")
            raise
        yield history


def test_on_an_honest_disk_that_fails_at_any_call_nothing_is_lost_or_told_twice():
    found = list(histories(range(160), honest=True))
    assert sum(history.cuts for history in found) > 60
    assert sum(history.disk.seen[-1].size > 256 for history in found if history.disk.seen) > 5


def test_a_disk_that_lies_makes_no_second_history():
    found = list(histories(range(1_000, 1_160), honest=False))
    refused = [history.refused for history in found if history.refused is not None]
    assert 20 < len(refused) < 140  # The others were opened in the end, and are whole.
    assert {Refusal.CORRUPT, Refusal.BEHIND} <= set(refused)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("honest", [True, False])
def test_thousands_of_histories(honest):
    for _ in histories(range(10_000, 11_000 if LONG else 10_200), honest):
        pass


# What a seed found, by hand.


class Once:
    """A part of a log, one call of which is answered by somebody else."""

    def __init__(self, part: Any, **instead: Callable[..., Any]) -> None:
        self._part, self._instead = part, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead.pop(name) if name in self._instead else getattr(self._part, name)


def broken(error: BaseException) -> Callable[..., Any]:
    def raises(*_: object) -> None:
        raise error

    return raises


def refused(act: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        act()
    return caught.value


def said(log: Log, speaker: Speaker, number: int) -> Placed | Refused:
    return log.commit([[log.admit(speaker.says[number])]])[0][0]


def test_a_power_cut_while_a_tile_becomes_whole_leaves_a_log_that_opens():
    """The head in the folder needs its partial tile until the next head lies there."""
    disk = copy(255, 0, honest=True)
    log = disk.open()
    acme = speakers()[1][0]
    assert isinstance(said(log, acme, acme.due(log)), Placed)
    log.public = CutAtTheHead(disk)
    with pytest.raises(PowerCut):
        log.publish()
    disk.settle(power=False)
    assert disk.open().behind == 0


class CutAtTheHead(MemoryPublic):
    def put(self, path: str, data: bytes) -> None:
        if path == tlog.HEAD:
            raise PowerCut
        super().put(path, data)


def test_a_database_that_does_not_answer_stops_the_log_before_it_signs_what_is_not_stored():
    disk = copy(12, 0, honest=True)
    log = disk.open()
    acme = speakers()[1][0]
    log.store = Once(log.store, find=broken(OSError(5, "no answer")))
    due = acme.due(log)
    with suppress(OSError):
        log.commit([[log.admit(acme.says[due]), log.admit(acme.lies[0])]])  # New, and one that must be looked up.
    answer = said(log, acme, due + 1)
    assert (isinstance(answer, Refused), log.stopped is not None, len(disk.rows)) == (True, True, 12)
    assert isinstance(said(disk.open(), acme, due), Placed)


@pytest.mark.parametrize("garbage", [b"no note at all", b"\xff\n\n\xff\n", b"another text\n\nand no signature\n"])
def test_what_the_database_says_was_said_before_is_hashed_before_it_is_believed(garbage):
    disk = copy(12, 0, honest=False)
    log = disk.open()
    disk.rows[1] = disk.rows[1]._replace(leaf=garbage)
    answer = said(log, speakers()[1][0], 0)
    assert isinstance(answer, Refused)
    assert answer.refusal in (Refusal.CORRUPT, Refusal.STOPPED)
    assert not [row for row in disk.rows.values() if row.kind == "equivocation"]


def test_a_newest_entry_that_stands_elsewhere_in_the_database_is_named():
    disk = copy(12, 0, honest=False)
    disk.rows[99] = disk.rows.pop(11)._replace(at=99)
    caught = refused(disk.open)
    assert (caught.refusal, "entry 11" in caught.detail) == (Refusal.CORRUPT, True)


# Two texts under one name, and keys that come and go, beside a naive model.

COORDINATOR, ADMIN = f"{CONSORTIUM}/coordinator", f"{CONSORTIUM}/admin"
Told = Placed | tuple[Refusal, int | None]  # A refusal, and the entry that the evidence is in.
ACTS = ("say", "say", "pay", "lie", "lie", "repeat", "add", "revoke", "stranger")


@dataclass
class Model:
    """What a log must hold and answer: lists and dictionaries, and no Merkle tree."""

    leaves: list[bytes]
    first: dict[tuple[str, str, str], int] = field(default_factory=dict)
    evidence: set[int] = field(default_factory=set)  # Of the entries that somebody has contradicted.
    chains: dict[str, tuple[int, str]] = field(default_factory=dict)
    newest: int = 1  # Generation of the coordinator's keys.
    gone: set[int] = field(default_factory=set)

    def leaf(self, author: str, record: Any, generation: int = 1) -> bytes:
        seq, prev = self.chains.get(author, (-1, FIRST))
        return entries.sign(replace(record, seq=seq + 1, prev=prev), CONSORTIUM, [key(author, generation)])

    def add(self, author: str, leaf: bytes) -> int:
        record = entries.peek(leaf)
        assert record is not None
        self.first[author, record.kind, record.idem] = len(self.leaves)
        self.chains[author] = (self.chains.get(author, (-1, ""))[0] + 1, leaf_hash(leaf).hex())
        self.leaves.append(leaf)
        return len(self.leaves) - 1

    def told(self, leaf: bytes) -> tuple[Told, int | None]:
        """(the answer, the entry that this contradicts)"""
        record, signature = entries.peek(leaf), note.parse(leaf).signatures[0]
        assert record is not None
        author = signature.name
        generations = {
            key(author, each).verify_key.id: each for each in range(1, self.newest + 1 if author == COORDINATOR else 2)
        }
        if signature.id not in generations:
            return (Refusal.UNKNOWN_KEY, None), None
        before = self.first.get((author, record.kind, record.idem))
        if before is not None:
            if text(self.leaves[before]) == text(leaf):
                return Placed(before, False), None
            return (Refusal.CONFLICT, None), before
        if author == COORDINATOR and generations[signature.id] in self.gone:
            return (Refusal.REVOKED, None), None
        return Placed(self.add(author, leaf), True), None

    def keep(self, first: int, other: bytes) -> int | None:
        """The entry that says that an author has contradicted itself, unless there is one of this entry already."""
        if first in self.evidence:
            return None
        self.evidence.add(first)
        record = Equivocation(seq=0, prev=FIRST, first=first, one=self.leaves[first].decode(), other=other.decode())
        return self.add(LOG.name, self.leaf(LOG.name, record))


def text(leaf: bytes) -> str:
    return note.parse(leaf).text


class ConflictMachine(RuleBasedStateMachine):
    """Requests of everything that two parties can say, contradict and revoke."""

    @initialize()
    def found(self):
        self.disk, self.world = copy(0, 0, honest=True), World()
        self.log = self.disk.open()
        charter = self.world.leaves[0]
        assert self.log.append(charter)[0]
        self.model = Model([charter], {(ADMIN, "charter", self.world.charter.idem): 0})

    @rule(
        acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=5)
    )
    def send(self, acts):
        leaves, expected = list[bytes](), list[Told]()
        conflicts = list[tuple[int, int]]()
        for act in acts:
            leaf = self.leaf(*act)
            told, first = self.model.told(leaf)
            if first is not None:
                conflicts.append((len(leaves), first))
            leaves.append(leaf)
            expected.append(told)
        for at, first in conflicts:
            expected[at] = (Refusal.CONFLICT, self.model.keep(first, leaves[at]))
        (answers,) = self.log.commit([[self.log.admit(leaf) for leaf in leaves]])
        for answer, right in zip(answers, expected, strict=True):
            if isinstance(answer, Placed):
                assert answer == right
                continue
            _, kept, entry = answer.detail.partition("both are kept in entry ")
            assert (answer.refusal, int(entry) if kept else None) == right

    def leaf(self, what: str, one: int, two: int) -> bytes:
        model, generation = self.model, one % self.model.newest + 1
        match what:
            case "say":
                return model.leaf(COORDINATOR, self.world.manifest(f"r{two}"), generation)
            case "pay":
                return model.leaf("acme/admin", self.world.item("acme", 1 + one, f"item-{two % 10}"))
            case "repeat":
                return model.leaves[one % len(model.leaves)]
            case "stranger":
                return model.leaf(COORDINATOR, self.world.manifest(f"r{two}"), model.newest + 1)
            case "add":
                model.newest += 1  # Always taken: nobody has had this key.
                new = key(COORDINATOR, model.newest)
                return model.leaf(ADMIN, added(CONSORTIUM, "coordinator", new))
            case "revoke":
                # A second time it is another text about the same thing.
                model.gone.add(generation)
                return model.leaf(ADMIN, revoked(CONSORTIUM, "coordinator", key(COORDINATOR, generation)))
        index = one % len(model.leaves)
        author = note.parse(model.leaves[index]).signatures[0].name
        record: Any = entries.peek(model.leaves[index])
        if isinstance(record, CostItem):
            changed = str(int(Fraction(record.amount) * 100) + 1 + two)
            return entries.sign(replace(record, amount=changed), CONSORTIUM, [key(author)])
        if author == COORDINATOR:
            lie = replace(record, deadline_ms=70_000 + two)
            return entries.sign(lie, CONSORTIUM, [key(author, generation)])
        return model.leaves[index]

    @precondition(lambda self: hasattr(self, "log"))
    @rule()
    def restart(self):
        self.log.close()
        self.log = self.disk.open()

    @invariant()
    def it_holds_what_the_model_holds(self):
        if hasattr(self, "log"):
            assert self.disk.leaves == self.model.leaves
            assert self.log.head.root == root(self.model.leaves)


TestConflictMachine = ConflictMachine.TestCase
TestConflictMachine.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
