"""kill -9 of the ledger, two hundred times: what was answered stands where it stood, and no head is taken back.

Moments are drawn from a seed: while it starts, while several senders wait for an answer, while the folder follows. The
process is the real service, forked from one that has imported it.
"""

import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import databases
import pytest
from ledger_service import write_key
from world import CONSORTIUM, LONG, World, key

from ledger.api import serve
from ledger.settings import Settings
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.kinds import FIRST
from shared_models.records.merkle import Tree, leaf_hash, verify_consistency
from shared_models.records.refusals import Refusal, Refused

KILLS = 100 if LONG else 30  # Of each database, at least.
SENDERS = 4
KEYS = note.known([key(f"{CONSORTIUM}/log").verify_key])
LOCKED = 3  # PostgreSQL keeps a dead writer's lock until it has noticed.
MADE = World({f"m{number}": 1 for number in range(SENDERS)})


def child(settings: Settings) -> None:
    try:
        serve(settings)
    except Refused as refused:
        sys.exit(LOCKED if refused.refusal is Refusal.LOCKED else str(refused))


@dataclass
class Service:
    """A ledger that is started again and again on the same folder and database."""

    folder: Path
    database: str
    process: BaseProcess | None = None

    def begin(self) -> str:
        """Start it; its address, where it may not answer yet."""
        port = free_port()
        named: dict[str, Any] = {"dir": self.folder, "port": port, "database_url": self.database}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ledger.api", "psycopg", "pytest"])
        self.process = context.Process(target=child, args=(Settings(**named),), daemon=True)
        self.process.start()
        return f"http://127.0.0.1:{port}"

    def start(self) -> LedgerHttp:
        """Start it, until it answers."""
        until = time.monotonic() + 60
        while True:
            url = self.begin()
            assert self.process is not None
            while self.process.exitcode is None:
                assert time.monotonic() < until
                try:
                    urllib.request.urlopen(f"{url}/healthz", timeout=60).close()  # noqa: S310
                    return LedgerHttp(url, patience_s=0)
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.005)
            assert self.process.exitcode == LOCKED, "it does not start again; its reason is on stderr"
            time.sleep(0.01)

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        assert self.process.exitcode in (-signal.SIGKILL, LOCKED)
        self.process.close()


@dataclass
class Sender:
    """One who says one thing after another, alone or several together, and asks again until it is answered."""

    name: str
    chance: random.Random
    seq: int = 0
    prev: str = FIRST
    waiting: list[bytes] = field(default_factory=list)  # Sent, and not answered.
    found: dict[bytes, int] = field(default_factory=dict)  # Where a start has shown what was not answered.
    told: dict[bytes, int] = field(default_factory=dict)
    heads: list[tlog.TreeHead] = field(default_factory=list)

    def sign(self) -> bytes:
        item = replace(MADE.item(self.name, 1, f"{self.name}-{self.seq}"), seq=self.seq, prev=self.prev)
        leaf = entries.sign(item, CONSORTIUM, [key(f"{self.name}/admin")])
        self.seq, self.prev = self.seq + 1, leaf_hash(leaf).hex()
        return leaf

    def send(self, ledger: LedgerHttp, most: int) -> None:
        """Send until the ledger is gone, or so many requests are answered."""
        for _ in range(most):
            if not self.waiting:
                self.waiting = [self.sign() for _ in range(self.chance.choice((1, 1, 2, 5)))]
            try:
                places = self.ask(ledger)
            except Refused as refused:
                if refused.refusal is not Refusal.UNREACHABLE:
                    raise
                return
            for leaf, at in zip(self.waiting, places, strict=True):
                assert self.found.get(leaf, at) == at
                self.told[leaf] = at
            self.waiting, self.found = [], {}
            time.sleep(self.chance.random() * 0.01)

    def ask(self, ledger: LedgerHttp) -> list[int]:
        if len(self.waiting) == 1:
            proof = ledger.append(self.waiting[0])
            self.heads.append(proof.verify(leaf_hash(self.waiting[0]), KEYS))
            return [proof.index]
        places = []
        for place in ledger.append_all(self.waiting, KEYS):
            assert isinstance(place, int), place
            places.append(place)
        return places


@dataclass
class Witness:
    """It has seen every head there was."""

    roots: dict[int, bytes] = field(default_factory=dict)
    newest: int = 0

    def see(self, head: tlog.TreeHead) -> None:
        assert self.roots.setdefault(head.size, head.root) == head.root, f"two roots of size {head.size}"

    def look(self, folder: Path) -> None:
        """What lies in the folder and in the register when nobody runs."""
        for path in (folder / "log" / "checkpoint", folder / "register" / "head"):
            if path.exists():
                self.see(tlog.open_head(path.read_bytes(), KEYS))

    def check(self, ledger: LedgerHttp) -> list[bytes]:
        """What it serves makes its head, and that continues every head there ever was; the entries."""
        head = tlog.open_head(ledger.read(tlog.HEAD), KEYS)
        self.see(head)
        assert max(self.roots) == head.size, "it has taken entries back"
        leaves, tree = list[bytes](), Tree()
        for start in range(0, head.size, tlog.WIDTH):
            width = min(tlog.WIDTH, head.size - start)
            leaves += tlog.unpack(ledger.read(tlog.tile_path("entries", start // tlog.WIDTH, width)))
        for leaf in leaves:
            tree.append(leaf_hash(leaf))
        assert len(leaves) == head.size
        for size, root in self.roots.items():
            assert tree.root(size) == root
        path = list(ledger.consistency(self.newest, head.size).path)
        verify_consistency(self.newest, head.size, self.roots.get(self.newest, tree.root(0)), head.root, path)
        self.newest = head.size
        return leaves


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
def test_an_answer_that_is_cut_is_no_answer(status):
    """So a client learns by one name that a ledger has died, however far it had got."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(65_536)
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 100\r\n\r\nhalf".encode())

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(Refused) as caught:
            LedgerHttp(f"http://127.0.0.1:{server.getsockname()[1]}", patience_s=0).read("checkpoint")
        answering.join()
    assert caught.value.refusal is Refusal.UNREACHABLE


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", databases.KINDS)
def test_a_ledger_that_is_killed_at_any_moment_keeps_what_it_has_said(kind, tmp_path):
    chance = random.Random(f"kill {kind}")
    write_key(tmp_path)
    (tmp_path / "charter.note").write_bytes(MADE.leaves[0])
    service = Service(tmp_path, databases.fresh(kind))
    senders = [Sender(name, random.Random(f"{kind} {name}")) for name in MADE.members]
    witness, written = Witness(), 0
    kills = 0
    with ThreadPoolExecutor(SENDERS) as threads:
        while True:
            if chance.random() < 0.15:
                service.begin()
                time.sleep(chance.uniform(0.0, 0.3))  # It starts.
                service.kill()
                kills += 1
            ledger = service.start()
            leaves = witness.check(ledger)
            place = {leaf: at for at, leaf in enumerate(leaves)}
            assert len(place) == len(leaves), "an entry stands twice"
            for sender in senders:
                assert all(leaves[at] == leaf for leaf, at in sender.told.items()), "an answer was taken back"
                sender.found = {leaf: place[leaf] for leaf in sender.waiting if leaf in place}
                assert len(sender.found) in (0, len(sender.waiting)), "half a request was written"
                written += bool(sender.found)
            if kills >= KILLS and written >= 5:  # As many came between a commit and its answer.
                break
            sending = [threads.submit(sender.send, ledger, chance.randrange(1, 4)) for sender in senders]
            time.sleep(chance.choice((chance.uniform(0.0, 0.03), chance.uniform(0.0, 0.15))))
            service.kill()
            kills += 1
            for each in sending:
                each.result()
            for sender in senders:
                for head in sender.heads:
                    witness.see(head)
                sender.heads.clear()
            witness.look(tmp_path)
        for sender in senders:
            sender.send(ledger, 2)
            assert not sender.waiting
            assert len(sender.told) == sender.seq
    service.kill()
    assert len(leaves) > kills
    print(f"{kind}: {len(leaves)} entries, {len(witness.roots)} heads, {written} written but not answered")
