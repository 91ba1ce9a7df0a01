"""Group commit: senders share a flush, each gets its own answer, and a disk that fails stops everything."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ledger_service import write_key
from world import CONSORTIUM, World, key

from ledger.log import Placed, open_log
from ledger.sequencer import Sequencer
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records import note
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused

KEYS = note.known([key(f"{CONSORTIUM}/log").verify_key])
MEMBERS = {f"m{number:02}": 1 for number in range(20)}


class Slow:
    """A store that commits when it is told to, and counts."""

    def __init__(self, store):
        self._store, self.may, self.commits = store, threading.Event(), 0
        self.may.set()

    def append(self, *rows):
        self.may.wait()
        self.commits += 1
        self._store.append(*rows)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def log(tmp_path):
    write_key(tmp_path)
    opened = open_log(tmp_path)
    opened.store = Slow(opened.store)
    yield opened
    opened.close()


def world() -> World:
    """Twenty members in an open round."""
    made = World(MEMBERS)
    made.start()
    made.say(made.coordinator, made.opened())
    return made


def receipts(made: World) -> list[bytes]:
    return [made.sign(f"{name}/compute", made.receipt(name)) for name in made.members]


@pytest.mark.parametrize("verifiers", [0, 3])
def test_many_senders_share_a_commit_and_each_gets_its_own_place(log, verifiers):
    made = world()
    queue = Sequencer(log, verifiers=verifiers)
    assert all(isinstance(answer, Placed) for answer in queue.append(made.leaves))
    before = log.store.commits
    log.store.may.clear()
    got: dict[bytes, Placed] = {}
    senders = [
        threading.Thread(target=lambda leaf=leaf: got.update({leaf: queue.append([leaf])[0]}))
        for leaf in receipts(made)
    ]
    for sender in senders:
        sender.start()
    time.sleep(0.2)
    log.store.may.set()
    for sender in senders:
        sender.join()
    queue.close()
    assert sorted(each.at for each in got.values()) == list(range(len(made.leaves), len(made.leaves) + 20))
    assert log.store.commits - before <= 3
    for leaf, placed in got.items():
        log.proof(placed.at).verify(leaf_hash(leaf), KEYS)


def test_who_sends_too_much_is_asked_to_come_again_and_nothing_of_it_is_taken(log):
    made = world()
    queue = Sequencer(log, waiting=25)
    queue.append(made.leaves)  # More than the limit, but nobody else waits.
    log.store.may.clear()
    answered = []
    some = receipts(made)
    queue.submit(some, answered.append)
    size = log.head.size
    with pytest.raises(Refused) as caught:
        queue.submit(some[:6], answered.append)
    assert caught.value.refusal is Refusal.BUSY
    assert answered == []
    log.store.may.set()
    queue.close()
    assert [[each.new for each in answers] for answers in answered] == [[True] * 20]
    assert log.head.size == size + 20


def test_closing_answers_what_waits_and_takes_nothing_more(log):
    made = world()
    queue = Sequencer(log)
    queue.append(made.leaves)
    log.store.may.clear()
    answered = []
    queue.submit(receipts(made), answered.append)
    closing = threading.Thread(target=queue.close)
    closing.start()
    time.sleep(0.05)
    with pytest.raises(Refused) as caught:
        queue.submit([b"x"], answered.append)
    assert caught.value.refusal is Refusal.STOPPED
    log.store.may.set()
    closing.join()
    assert len(answered) == 1
    assert log.behind == 0  # The folder has it all.


def test_the_folder_follows_when_nobody_sends(log):
    made = world()
    queue = Sequencer(log)
    queue.append(made.leaves)
    until = time.monotonic() + 60
    while log.behind:
        assert time.monotonic() < until
        time.sleep(0.01)
    queue.close()


def test_after_a_failed_write_everybody_is_told_and_so_is_whoever_runs_it(log, monkeypatch):
    made = world()
    why = []
    queue = Sequencer(log, stopped=why.append)
    queue.append(made.leaves)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log.store, "append", full)
    (answer,) = queue.append(receipts(made)[:1])
    assert answer.refusal is Refusal.STOPPED
    queue.close()
    assert "No space left" in why[0]


def test_a_refusal_in_a_request_is_an_answer_like_any_other(log):
    made = world()
    queue = Sequencer(log)
    queue.append(made.leaves)
    good = receipts(made)
    answers = queue.append([good[0], b"nonsense", good[1]])
    assert [isinstance(each, Placed) for each in answers] == [True, False, True]
    assert answers[1].refusal is Refusal.NOT_A_NOTE
    queue.close()


# The service itself.


def serving(folder: Path, port: int, limit: str = "") -> subprocess.Popen:
    command = f"{limit} exec {sys.executable} -m consortium serve --dir {folder} --port {port}"
    return subprocess.Popen(["bash", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_write_that_fails_ends_the_process_and_what_was_answered_is_there_at_the_next_start(tmp_path):
    """Files may hold two megabytes: the database reaches that soon."""
    write_key(tmp_path)
    made = world()
    port = free_port()
    service = serving(tmp_path, port, "ulimit -f 2048;")
    ledger = LedgerHttp(f"http://127.0.0.1:{port}", patience_s=20)
    ledger.size()
    ledger = LedgerHttp(ledger.url, patience_s=0)
    placed = []

    def send() -> None:
        for leaf in made.leaves:
            placed.append(ledger.append(leaf).index)
        for number in range(2_000):
            leaf = made.sign("m00/admin", made.item("m00", 1, f"i{number}"))
            placed.append(ledger.append(leaf).index)
            made.append(leaf)

    with pytest.raises(Refused) as caught:
        send()
    assert caught.value.refusal in (Refusal.UNREACHABLE, Refusal.STOPPED)
    assert service.wait(timeout=60) == 74
    assert "stopped: " in service.communicate()[1]
    assert placed == list(range(len(placed)))
    assert len(placed) > 20
    log = open_log(tmp_path)
    assert log.head.size in (len(placed), len(placed) + 1)
    assert [log.books.tree.leaf(index) for index in placed] == [leaf_hash(leaf) for leaf in made.leaves[: len(placed)]]
    log.close()


def test_sigterm_ends_it_in_order(tmp_path):
    write_key(tmp_path)
    port = free_port()
    service = serving(tmp_path, port)
    ledger = LedgerHttp(f"http://127.0.0.1:{port}", patience_s=20)
    assert ledger.size() == 0
    ledger.append(world().leaves[0])
    os.kill(service.pid, 15)
    service.communicate(timeout=60)
    assert service.returncode in (0, -15)
    log = open_log(tmp_path)
    assert (log.head.size, log.behind) == (1, 0)
    log.close()
