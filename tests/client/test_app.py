"""The ClientApp on its own: it trains only what the round names, and says why not."""

import hashlib
import os
import shutil
import socket
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from parties import FakeTime, Parties
from torch.nn.modules.module import register_module_forward_pre_hook
from world import TOY, counted

from client import begun, data, reexecute
from client.app import app
from client.door import Door
from client.signer import Signer
from client.train import train
from client.training import ONE, Machine, Training, build
from consortium.grid import InProcessGrid
from shared_models.claims import Daemon, Progress
from shared_models.lm import codecs, weights
from shared_models.lm.kept import Kept
from shared_models.messages import Answer, Task, from_error
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import CODECS, Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Trajectory


class Asked:
    """A run, and acme's ClientApp beside its daemon. Every task meets a new one: all that it knows is on its disk."""

    def __init__(self, parties: Parties, door: Door, signers: list[Signer], kept: Path) -> None:
        self.parties, self.kept, self.memory = parties, kept, kept.with_name("memory")
        self.door = door
        self._signers, self._opening = signers, None
        self._config = {"door": str(door.path), "data": "python-stdlib:0/3", "member": "acme"}
        self._config |= {"kept": str(kept), "memory": str(self.memory), "begun": str(kept.with_name("begun"))}
        self._config |= {name: str(kept.with_name(name)) for name in ("half", "tokenizers", "tokens")}

    def task(self, base: weights.Weights | None = None, **changes: object) -> Task:
        """The task of the next round, from this checkpoint, as an honest coordinator sends it to who has nothing."""
        parties = self.parties
        base = parties.base if base is None else base
        self._opening = parties.say(parties.opened())
        return replace(
            Task(parties.begin("acme", *self._opening), parties.manifest_leaf, "", codecs.pack("fp32", base)), **changes
        )

    def next(self, base: weights.Weights) -> None:
        """The open round ends: acme has answered, birch answers too, and what it came to is this checkpoint."""
        parties, (_, birch) = self.parties, self._signers
        birch.begin(parties.begin("birch", *self._opening))
        birch.claim(parties.claim(), FakeTime())
        leaves = [signer.unlogged()[-1] for signer in self._signers]
        for leaf in leaves:
            parties.log.append(leaf)
        hashes = [merkle.leaf_hash(leaf).hex() for leaf in leaves]
        parties.close(
            checkpoint=weights.digest(base),
            included=tuple(map(counted, ("acme", "birch"), hashes)),
            excluded=(),
        )

    def ask(self, task: Task, **config: str) -> Answer:
        context = Context(run_id=1, node_id=2, node_config=self._config | config, state=RecordDict(), run_config={})
        reply = app(message=Message(task.to_record(), dst_node_id=2, message_type="train"), context=context)
        if reply.has_error():
            raise from_error(reply.error)
        return Answer.from_record(reply.content, 10**7)


@pytest.fixture
def asked(tmp_path, request):
    """acme, asked in a run with these codecs (up, down)."""
    up, down = getattr(request, "param", ("fp32", "fp32"))
    parties = Parties(tmp_path, replace(TOY, up=up, down=down))
    signers = [parties.consenting(name) for name in ("acme", "birch")]
    InProcessGrid(app, [], {}).close()  # It gives this process the identity that Flower's messages ask for.
    with tempfile.TemporaryDirectory() as folder:
        door = Door(Path(folder) / "door", signers[0], seen=lambda _: None)
        door.expect(FakeTime(wall_ms=10**6), lambda pid: pid == os.getpid())
        yield Asked(parties, door, signers, tmp_path / "kept")
        door.close()
    parties.log.close()


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def receipt(answer: Answer) -> Receipt:
    record = entries.peek(answer.entries[-1])
    assert isinstance(record, Receipt)
    return record


@pytest.mark.parametrize("asked", [(up, "fp32") for up in CODECS], indirect=True)
def test_it_trains_and_its_answer_carries_the_daemon_s_receipt_for_what_was_sent(asked):
    task = asked.task()
    answer = asked.ask(task)
    said, up = receipt(answer), asked.parties.manifest.recipe.up
    came = codecs.unpack(answer.update, up, codecs.shapes(asked.parties.base))
    assert said.update == weights.digest(came)
    assert said.bytes_down == codecs.nbytes(task.weights) == weights.size(asked.parties.base)
    assert said.bytes_up == codecs.nbytes(answer.update) == sum(codecs.size(up, t.shape) for t in came.values())


def test_a_member_that_computes_again_instead_of_keeping_sends_the_same_bits(asked):
    task, blocks = asked.task(), Counter[str]()
    with register_module_forward_pre_hook(lambda module, _: blocks.update([type(module).__name__])):
        kept = asked.ask(task)
        before = blocks["Block"]
        again = asked.ask(task, recompute="yes")
    assert blocks["Block"] == 3 * before
    assert again.entries[-1] == kept.entries[-1]  # The receipt that it had signed for this very update.


def test_a_round_that_is_broken_off_is_gone_on_with_when_it_is_asked_again(asked, monkeypatch):
    """Its daemon would end it where here it goes on to answer; the receipt is as if nothing had happened."""
    monkeypatch.setattr("client.app.train", partial(train, report_s=0.0))
    task, said, leaving = asked.task(), [], [False, True]

    def go_on() -> None:
        if leaving and leaving.pop(0):
            raise Refused(Refusal.TAKEN_AWAY, "this machine is taken away")

    asked.door._go_on, asked.door._seen = go_on, said.append
    with pytest.raises(Refused, match="this machine is taken away"):
        asked.ask(task)
    half = asked.kept.with_name("half")
    assert [type(each).__name__ for each in said] == ["Begin", "Progress", "Refused", "Halted"]
    assert (said[-1].step, half.is_file()) == (2, True)
    said.clear()
    answer = asked.ask(task)
    assert [each.tokens // (TOY.batch * TOY.context) for each in said if isinstance(each, Progress)] == [3]
    assert not half.exists()
    shutil.rmtree(asked.memory)
    whole = asked.ask(task)
    assert (whole.entries[-1], receipt(whole).steps) == (answer.entries[-1], 3)


def opened(asked: Asked, answer: Answer, text: str, machine: Machine = ONE):
    """What acme shows of a segment of the round, and what belongs to it: as `reexecute.replay` takes it."""
    said, hashed = receipt(answer), merkle.leaf_hash(answer.entries[-1]).hex()
    run = merkle.leaf_hash(asked.parties.manifest_leaf).hex()
    kept = begun.recall(asked.kept.with_name("begun"), run, said.round)
    salt, manifest = asked.parties.founded.member("acme").salt("r1", said.round), asked.parties.manifest
    shown = reexecute.show(kept, said, hashed, manifest, segment=1, text=text, salt=salt, machine=machine)
    return shown, said, hashed, manifest, None


def test_it_trains_on_a_text_of_its_own_which_is_needed_to_audit_that_and_is_told_by_its_digest_only(asked, tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_bytes(b"Nobody else has this line of text. " * 60)
    other.write_bytes(b"Nobody else has that line of text. " * 60)
    answer = asked.ask(asked.task(), data=f"file:{mine}")
    given = opened(asked, answer, f"file:{mine}")
    assert reexecute.read(given[0]).text == "sha256:" + hashlib.sha256(mine.read_bytes()).hexdigest()
    assert b"Nobody else" not in given[0]
    assert reexecute.replay(*given, mine) == ("matches", 0, "the same bits")
    for text, refusal, why in (
        (None, Refusal.NOT_FOUND, "--text FILE"),
        (other, Refusal.WRONG_OPENING, f"{other} is sha256:"),
        (tmp_path, Refusal.MALFORMED, "Is a directory"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            reexecute.replay(*given, text)
        assert caught.value.refusal is refusal


@pytest.mark.slow
def test_it_trains_in_two_processes_if_it_is_told_to_and_can_show_that_to_who_has_one(asked):
    answer = asked.ask(asked.task(), processes="2")
    two = Machine(processes=2)
    assert receipt(answer).build == build("fp32", two) != build("fp32")
    given = opened(asked, answer, "python-stdlib:0/3", two)
    assert reexecute.replay(*given).verdict == "close"
    with pytest.raises(Refused, match=r"2x1/.*, this is [^ ]*/2/") as caught:
        opened(asked, answer, "python-stdlib:0/3")
    assert caught.value.refusal is Refusal.WRONG_OPENING


@pytest.mark.parametrize(
    ("setting", "refusal"), [({"processes": "3"}, Refusal.BAD_FIELD), ({"processor": "moon"}, Refusal.NOT_SET_UP)]
)
def test_it_begins_nothing_that_its_machine_cannot_do(asked, setting, refusal):
    task = asked.task()
    assert refused(lambda: asked.ask(task, **setting)) is refusal
    assert receipt(asked.ask(task)).tokens  # Once that is mended, the round can still be answered.


def test_its_receipt_commits_to_the_states_that_training_went_through_and_to_what_was_carried_over(asked):
    task = asked.task()
    said, manifest, base = receipt(asked.ask(task)), asked.parties.manifest, asked.parties.base
    tokens = data.load("python-stdlib:0/3")
    training = Training(base, manifest.recipe, tokens, {}, member="acme", round_=1, rounds=manifest.rounds)
    points = []
    for end in (0, 2, 3):
        list(training.until(end))
        points.append(training.point())
    none = {name: np.zeros_like(tensor) for name, tensor in base.items()}  # In fp32 all is sent.
    trajectory = Trajectory(points=tuple(points), unsent_before=weights.digest({}), unsent=weights.digest(none))
    assert (said.trajectory, said.build) == (trajectory.root, build("fp32"))


def test_other_weights_than_the_round_names_are_not_trained(asked):
    changed = {name: tensor + 1 for name, tensor in asked.parties.base.items()}
    assert refused(asked.ask, asked.task(weights=codecs.pack("fp32", changed))) is Refusal.WRONG_BASE


def test_another_manifest_than_the_round_cites_is_not_followed(asked):
    task = asked.task()
    other = task.manifest.replace(b'"inner_steps":3', b'"inner_steps":9')
    assert refused(asked.ask, replace(task, manifest=other)) is Refusal.WRONG_MANIFEST


def test_a_task_that_opens_nothing_is_malformed(asked):
    task = asked.task()
    assert refused(asked.ask, replace(task, begin=replace(task.begin, opened="x"))) is Refusal.MALFORMED
    assert refused(asked.ask, replace(task, manifest=task.begin.opened.encode())) is Refusal.MALFORMED


def test_what_the_daemon_refuses_is_not_trained(asked):
    task = asked.task()
    assert refused(asked.ask, replace(task, begin=replace(task.begin, proof="x"))) is Refusal.BAD_PROOF


# What it finds again.


def second(asked, step: weights.Weights) -> tuple[weights.Weights, dict[str, codecs.Packed], str]:
    """The second round, after this step was sent: its checkpoint, the step as it travels, and where it begins."""
    sent = codecs.send(asked.parties.manifest.recipe.down, step, {})
    return weights.plus(asked.parties.base, sent.values), sent.packed, weights.digest(asked.parties.base)


@pytest.mark.parametrize("asked", [("fp32", down) for down in CODECS], indirect=True)
def test_who_holds_the_checkpoint_before_is_sent_the_step_and_nothing_more(asked):
    first = asked.ask(asked.task())
    step = codecs.unpack(first.update, "fp32", codecs.shapes(asked.parties.base))
    base, packed, since = second(asked, step)
    asked.next(base)
    task = asked.task(base, since=since, weights=packed)
    said = receipt(asked.ask(task))
    assert (said.round, said.base, said.bytes_down) == (2, weights.digest(base), codecs.nbytes(packed))
    again = receipt(asked.ask(task))  # Its checkpoint is another one now; the step is not taken twice.
    assert again == said


def test_where_nothing_moved_nothing_is_sent(asked):
    asked.ask(asked.task())
    asked.next(asked.parties.base)
    said = receipt(asked.ask(asked.task(since=weights.digest(asked.parties.base), weights={})))
    assert (said.round, said.bytes_down) == (2, 0)


def test_who_lost_its_checkpoint_says_so_before_it_trains_and_is_sent_it_whole(asked):
    asked.ask(asked.task())
    base, packed, since = second(asked, {name: tensor + 1 for name, tensor in asked.parties.base.items()})
    asked.next(base)
    task = asked.task(base, since=since, weights=packed)
    (path,) = (asked.kept / task_run(task) / "checkpoint").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert refused(asked.ask, task) is Refusal.NO_CHECKPOINT
    shutil.rmtree(asked.kept)
    assert refused(asked.ask, task) is Refusal.NO_CHECKPOINT
    said = receipt(asked.ask(replace(task, since="", weights=codecs.pack("fp32", base))))
    assert (said.round, said.bytes_down) == (2, weights.size(base))


def test_a_step_that_leads_elsewhere_or_is_none_is_refused(asked):
    asked.ask(asked.task())
    step = {name: tensor + 1 for name, tensor in asked.parties.base.items()}
    base, packed, since = second(asked, step)
    asked.next(base)
    task = asked.task(base, since=since, weights=packed)
    for told, refusal in (
        (codecs.pack("fp32", {name: -tensor for name, tensor in step.items()}), Refusal.WRONG_BASE),
        (codecs.pack("bf16", step), Refusal.MALFORMED),
        ({}, Refusal.WRONG_SHAPE),
    ):
        assert refused(asked.ask, replace(task, weights=told)) is refusal
    assert receipt(asked.ask(task)).round == 2  # What was refused has replaced nothing.


@pytest.mark.parametrize("asked", [("top64", "fp32")], indirect=True)
def test_what_was_left_unsent_is_sent_in_the_next_round_and_the_same_if_it_is_asked_for_again(asked):
    task = asked.task()
    first = asked.ask(task)
    run = Kept(asked.kept, task_run(task))
    left = run.unsent(2)
    assert np.abs(left["head.weight"]).max() > 0
    assert asked.ask(task).update == first.update
    assert weights.digest(run.unsent(2)) == weights.digest(left)
    asked.next(asked.parties.base)
    task = asked.task()
    with_it = asked.ask(task)
    assert weights.digest(run.unsent(2)) == weights.digest(left)
    # The same round without it: another update, for which the daemon does not sign, and nothing is kept of it.
    shutil.rmtree(asked.kept / task_run(task) / "unsent")
    assert refused(asked.ask, task) is Refusal.CONFLICT
    assert run.unsent(3) == {}
    assert with_it.update != first.update


def test_what_its_optimiser_remembers_is_kept_for_the_next_round_and_this_one_can_be_asked_again(asked):
    task = asked.task()
    one, other = asked.ask(task), asked.ask(task)
    kept = [path.relative_to(asked.memory).as_posix() for path in sorted(asked.memory.rglob("*.memory"))]
    assert kept == [f"{task_run(task)}/1.memory"]
    assert one.update == other.update
    assert one.entries[-1] == other.entries[-1]


def test_a_memory_that_is_not_as_it_was_written_ends_the_round_by_name(asked):
    task = asked.task()
    path = asked.memory / task_run(task) / "0.memory"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert refused(asked.ask, task) is Refusal.BAD_MEMORY


def task_run(task: Task) -> str:
    return merkle.leaf_hash(task.manifest).hex()


def test_a_daemon_that_goes_away_is_named(tmp_path):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/door")
        listening.listen()
        threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()
        with Daemon(f"{folder}/door") as daemon, pytest.raises(Refused) as caught:
            daemon.ask(Progress(tokens=1, loss_unats=1, busy_ms=1))
    assert caught.value.refusal is Refusal.NO_TASK
