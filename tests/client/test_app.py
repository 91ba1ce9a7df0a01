"""The ClientApp on its own: it trains only what the round names, and says why not."""

import os
import socket
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from parties import FakeTime, Parties

from client.app import app
from client.door import Door
from consortium.grid import InProcessGrid
from shared_models.claims import Daemon, Progress
from shared_models.lm import weights
from shared_models.messages import Answer, Task, from_error
from shared_models.records.refusals import Refusal, Refused


@pytest.fixture
def asked(tmp_path):
    """(ask, an honest task): `ask(task)` runs the ClientApp on it beside acme's daemon."""
    parties = Parties(tmp_path)
    signer = parties.consenting("acme")
    task = Task(parties.begin("acme", *parties.say(parties.opened())), parties.manifest_leaf, parties.base)
    InProcessGrid(app, [], {}).close()  # It gives this process the identity that Flower's messages ask for.
    with tempfile.TemporaryDirectory() as folder:
        door = Door(Path(folder) / "door", signer, seen=lambda _: None)
        door.expect(FakeTime(wall_ms=10**6), lambda pid: pid == os.getpid())
        config = {"door": str(door.path), "data": "python-stdlib:0/3", "member": "acme"}

        def ask(what: Task) -> Answer:
            context = Context(run_id=1, node_id=2, node_config=config, state=RecordDict(), run_config={})
            message = Message(what.to_record(), dst_node_id=2, message_type="train")
            reply = app(message=message, context=context)
            if reply.has_error():
                raise from_error(reply.error)
            return Answer.from_record(reply.content, 10**7)

        yield ask, task
        door.close()
    parties.log.close()


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def test_it_trains_and_its_answer_carries_the_daemon_s_receipt(asked):
    ask, task = asked
    answer = ask(task)
    assert b"/receipt@v1" in answer.entries[-1]
    assert weights.digest(answer.update).encode() in answer.entries[-1]


def test_other_weights_than_the_round_names_are_not_trained(asked):
    ask, task = asked
    changed = {name: tensor + 1 for name, tensor in task.weights.items()}
    assert refused(ask, replace(task, weights=changed)) is Refusal.WRONG_BASE


def test_another_manifest_than_the_round_cites_is_not_followed(asked):
    ask, task = asked
    other = task.manifest.replace(b'"inner_steps":3', b'"inner_steps":9')
    assert refused(ask, replace(task, manifest=other)) is Refusal.WRONG_MANIFEST


def test_a_task_that_opens_nothing_is_malformed(asked):
    ask, task = asked
    assert refused(ask, replace(task, begin=replace(task.begin, opened="x"))) is Refusal.MALFORMED
    assert refused(ask, replace(task, manifest=task.begin.opened.encode())) is Refusal.MALFORMED


def test_what_the_daemon_refuses_is_not_trained(asked):
    ask, task = asked
    assert refused(ask, replace(task, begin=replace(task.begin, proof="x"))) is Refusal.BAD_PROOF


def test_a_daemon_that_goes_away_is_named(tmp_path):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/door")
        listening.listen()
        threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()
        with Daemon(f"{folder}/door") as daemon, pytest.raises(Refused) as caught:
            daemon.ask(Progress(tokens=1, loss_unats=1, busy_ms=1))
    assert caught.value.refusal is Refusal.NO_TASK
