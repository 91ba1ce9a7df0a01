"""Our executor at a real SuperNode's Runtime API. What comes from the SuperLink is said here.

A SuperNode has one task at a time, and keeps the task of a message whose run ended while it came.
"""

import queue
import threading
import time
from datetime import timedelta

import httpx
import pytest
import uvicorn
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _pull_and_store_message, _push_messages
from world import until

from client import executor
from client.executor import Executor, Task
from client.home import Settings, create
from shared_models import processes
from shared_models.bundle import build
from shared_models.records.refusals import Refusal, Refused

SETTINGS = Settings(
    member="acme", ledger="http://127.0.0.1:1", superlink="127.0.0.1:2", data="x", device="cpu-core", devices=1
)
PAUSED = Refused(Refusal.POLICY, "training is paused")
NODE, BROKEN, WHOLE = 7, 1, 2  # The node; a run that ends while its message comes, and one that does not.
WAIT_S = 60.0


class SuperNode:
    """Flower's own, but for its connection. Its messages are those of `ask`; `sent` has the runs that it answered."""

    def __init__(self, secret: bytes, port: int) -> None:
        store = ObjectStoreFactory()
        factory = NodeStateFactory(objectstore_factory=store)
        self.state, self.store = factory.state(), store.store()
        self.state.set_node_id(NODE)
        self.asked, self.sent, self.ended = queue.Queue(), queue.Queue(), threading.Event()
        self.server = uvicorn.Server(
            uvicorn.Config(create_app(factory, secret), host=executor.HOST, port=port, ws="none", log_level="error")
        )
        for each in (self.server.run, self._work):
            threading.Thread(target=each, daemon=True).start()
        until(lambda: self.server.started)

    def ask(self, run: int) -> None:
        metadata = Metadata(run, "", 1, NODE, "", "", time.time(), 3600.0, "train")
        message = make_message(metadata, RecordDict({"what": ConfigRecord({"run": run})}))
        metadata.__dict__["_message_id"] = message.object_id
        self.asked.put(message)

    def taken(self, run: int) -> bool:
        """Whether somebody has asked for the message of this run."""
        with self.state.lock_msg_store:
            return any(
                entry.is_retrieved for entry in self.state.msg_store.values() if entry.message.metadata.run_id == run
            )

    def _work(self) -> None:
        objects = {}

        def receive():
            message = self.asked.get()
            objects.update({name: each.deflate() for name, each in get_all_nested_objects(message).items()})
            return remove_content_from_message(message), get_object_tree(message)

        def pull(run: int, name: str) -> bytes:
            if run == BROKEN:
                self.ended.wait()
                raise RunNotRunningException
            return objects[name]

        def known(run: int) -> Run:
            found = Run.create_empty(run)
            found.fab_hash, found.series_id = build().sha256, run
            return found

        fab = Fab(build().sha256, build().data, {})
        parts = (self.state, self.store)
        while True:
            run = _pull_and_store_message(*parts, {}, receive, known, lambda *_: fab, pull, lambda *_: None, None)
            if run is not None:
                _push_messages(*parts, self._send, lambda *_: None)

    def _send(self, message: Message, tree, *_) -> tuple[set[str], str]:
        self.sent.put(message.metadata.run_id)
        return {each.object_id for each in iterate_object_tree(tree)}, ""  # It waits until it has them.


@pytest.fixture
def parts(tmp_path):
    home, port = create(tmp_path / "acme", SETTINGS), processes.free_port()
    ours = Executor(home, port, build(), {}, tmp_path / "way")
    node = SuperNode((home.path / "keys" / "executor.secret").read_bytes(), port)
    yield ours, node
    node.server.should_exit = True
    ours.close()


def acquired(ours: Executor) -> Task:
    found = [None]
    until(lambda: found.append(ours.acquire()) or found[-1] is not None)
    return found[-1]


def refusing(ours: Executor, task: Task) -> tuple[threading.Thread, list[Exception]]:
    caught = []

    def refuse() -> None:
        try:
            ours.refuse(task, PAUSED)
        except httpx.HTTPStatusError as error:
            caught.append(error)

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    return thread, caught


def test_a_task_is_refused_by_an_answer(parts):
    ours, node = parts
    node.ask(WHOLE)
    ours.refuse(acquired(ours), PAUSED)
    assert node.sent.get(timeout=WAIT_S) == WHOLE


def test_a_task_that_is_given_up_is_never_answered_in_the_place_of_the_next(parts, monkeypatch):
    """Nothing is heard of it for a minute; then the next is answered, and nothing else."""
    ours, node = parts
    node.ask(BROKEN)
    first = acquired(ours)
    thread, caught = refusing(ours, first)
    until(lambda: node.taken(BROKEN))
    node.ended.set()
    node.ask(WHOLE)
    until(lambda: len(node.state.get_tasks()) == 2)
    ours.give_up(first)
    now = in_memory_corestate.now
    monkeypatch.setattr(in_memory_corestate, "now", lambda: now() + timedelta(seconds=90))
    ours.refuse(acquired(ours), PAUSED)
    assert node.sent.get(timeout=WAIT_S) == WHOLE
    assert node.sent.empty()
    thread.join(WAIT_S)
    assert [error.response.status_code for error in caught] == [401]  # Whoever waited for the rest waits no longer.


def test_a_task_that_is_over_is_given_up_without_a_word(parts):
    ours, node = parts
    node.ask(WHOLE)
    task = acquired(ours)
    ours.refuse(task, PAUSED)
    ours.give_up(task)
    node.ask(WHOLE)
    ours.refuse(acquired(ours), PAUSED)
    assert [node.sent.get(timeout=WAIT_S) for _ in range(2)] == [WHOLE, WHOLE]


def test_who_waits_for_a_message_to_refuse_it_is_heard_of_meanwhile(parts, monkeypatch):
    """Unheard of for a minute, its task would be answered by the SuperNode, after its run ended too."""
    monkeypatch.setattr(executor, "BEAT_S", 0.05)
    ours, node = parts
    node.ask(BROKEN)
    task = acquired(ours)
    thread, _ = refusing(ours, task)
    until(lambda: node.taken(BROKEN))
    (record,) = node.state.task_token_store.values()
    before = record.active_until
    until(lambda: record.active_until > before)
    node.ended.set()
    ours.give_up(task)
    thread.join(WAIT_S)
