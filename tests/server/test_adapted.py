"""A run that trains an adapter beside given weights: only that travels, and all that holds of a run holds of it."""

import shutil
import threading
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from world import TOY, World, digest

from client import begun, reexecute
from client.app import _base
from client.steps import logged, repeat
from consortium.cli import main
from consortium.simulate import Result, simulate
from server import outer
from server.journal import Turn
from server.outer import Outer
from shared_models import huggingface
from shared_models.lm import codecs, gpt, weights
from shared_models.lm.kept import Kept
from shared_models.messages import Task
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import FIRST, Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Trajectory
from shared_models.transport import Inline

TWO = {"acme": 2, "birch": 1}
PLAIN = replace(TOY, layers=2, outer="nesterov", outer_momentum="0.5", inner_rate="0.05")
RECIPE = replace(PLAIN, adapter=2)
SHAPE = gpt.Shape.of(RECIPE)


class Killed(BaseException):
    """What nothing catches."""


def toy(folder, **more) -> Result:
    return simulate(folder / "parties", TWO, **{"rounds": 2, "recipe": RECIPE} | more)


def leaves(result: Result) -> list[bytes]:
    return fetch(reader(str(result.founded.ledger / "log"))).leaves


def receipts(result: Result) -> list[Receipt]:
    return [each for leaf in leaves(result) if isinstance(each := entries.peek(leaf), Receipt)]


def reached(result: Result) -> list[tuple[str, int]]:
    return [(turn.closed.checkpoint, turn.closed.loss_unats) for turn in result.report.books.runs["r1"].rounds]


def right(result: Result) -> None:
    """The bill is, and anyone comes to the same checkpoints."""
    assert (result.report.findings, result.excluded) == ([], ())
    found = list(repeat(logged(leaves(result), "r1"), result.founded.coordinator.path))
    assert [each.wrong for each in found] == [""] * len(found) != []


def kept(result: Result, name: str):
    return result.founded.coordinator.path / "checkpoints" / f"{name}.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The file of the weights that adapters stand beside."""
    result = toy(tmp_path_factory.mktemp("base"), recipe=PLAIN, rounds=1)
    return kept(result, reached(result)[-1][0])


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory) -> Result:
    return toy(tmp_path_factory.mktemp("adapted"), start=base)


def test_what_travels_and_what_is_kept_of_a_checkpoint_is_the_adapter_alone(base, adapted):
    right(adapted)
    manifest, shapes = adapted.manifest, gpt.shapes(SHAPE)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    assert (manifest.start, manifest.base) == (base.stem, weights.digest(zeros))
    assert adapted.losses[0] == pytest.approx(outer.held_out_loss(outer.model(PLAIN), load_file(base), PLAIN), abs=1e-6)
    assert adapted.losses[2] < adapted.losses[0]
    for name, _ in reached(adapted):
        assert {key: each.shape for key, each in load_file(kept(adapted, name)).items()} == shapes
    adapter, whole = codecs.total("fp32", shapes), codecs.total("fp32", gpt.frozen(SHAPE))
    assert [each.bytes_up for each in receipts(adapted)] == [adapter] * 4
    # Who has nothing is sent what is frozen too, once; then steps.
    assert [each.bytes_down for each in receipts(adapted)] == [adapter + whole] * 2 + [adapter] * 2
    assert 6 * adapter < whole
    assert {each.flop for each in receipts(adapted)} == {96 * manifest.flop_per_token}


@pytest.mark.parametrize("codec", ["int4", "top64"])
def test_so_it_does_in_few_bits_and_with_answers_that_come_late(base, tmp_path, codec):
    right(toy(tmp_path, start=base, recipe=replace(RECIPE, up=codec, down=codec, outer="adam"), late=1))


def test_so_it_does_where_what_is_frozen_goes_beside_the_messages(base, adapted, tmp_path):
    result = toy(tmp_path, start=base, inline_bytes=codecs.total("fp32", gpt.shapes(SHAPE)))
    right(result)
    assert reached(result) == reached(adapted)
    assert [each.bytes_down for each in receipts(result)] == [each.bytes_down for each in receipts(adapted)]


def test_a_coordinator_that_was_killed_goes_on_to_the_same_checkpoints(base, adapted, tmp_path, monkeypatch):
    keep, killed = Turn.keep, []

    def kill(turn, member, answer):
        keep(turn, member, answer)
        if not killed and turn.folder.name == f"{2:08}" and threading.current_thread() is threading.main_thread():
            killed.append(member)
            raise Killed

    def attempt(coordinate):
        with suppress(Killed):
            coordinate()
        coordinate()

    monkeypatch.setattr(Turn, "keep", kill)
    again = toy(tmp_path, start=base, attempt=attempt)
    assert (len(killed), reached(again)) == (1, reached(adapted))
    # Who was known to hold the checkpoint before is known no more, and is sent the whole again.
    assert {each.bytes_down for each in receipts(again)} >= {receipts(adapted)[0].bytes_down}


def test_a_member_that_has_lost_what_is_frozen_is_sent_it_again_in_the_same_round(base, adapted, tmp_path, monkeypatch):
    keep, lost = Turn.keep, []

    def lose(turn, member, answer):
        keep(turn, member, answer)
        if member == "birch" and not lost:
            lost.extend((tmp_path / "parties" / "birch").rglob("frozen"))
            shutil.rmtree(lost[0])

    monkeypatch.setattr(Turn, "keep", lose)
    result = toy(tmp_path, start=base)
    right(result)
    assert (len(lost), reached(result)) == (1, reached(adapted))
    down = {(each.member, each.round): each.bytes_down for each in receipts(result)}
    assert down["birch", 1] == down["birch", 2] > down["acme", 2]


# What a member takes.


def asked(since: str, tensors: weights.Weights, codec: str = "fp32") -> Task:
    return Task(None, b"", since, codecs.pack(codec, tensors))  # type: ignore[arg-type] - nobody looks at the rest.


def test_a_member_trains_beside_the_weights_of_the_manifest_and_no_others(base, adapted, tmp_path):
    manifest, own = adapted.manifest, Kept(tmp_path / "kept", "run")
    frozen, zeros = load_file(base), dict(load_file(kept(adapted, adapted.manifest.base)))
    other = frozen | {"norm.weight": frozen["norm.weight"] * np.float32(2)}
    one = {name: tensor + np.float32(1) for name, tensor in zeros.items()}

    def taken(task: Task, checkpoint: weights.Weights = zeros):
        found, beside = _base(task, weights.digest(checkpoint), manifest, own, Inline(), tmp_path)
        own.keep_checkpoint(found)
        return weights.digest(found), weights.digest(beside)

    def refused(task: Task, checkpoint: weights.Weights = zeros) -> Refusal:
        with pytest.raises(Refused) as caught:
            taken(task, checkpoint)
        return caught.value.refusal

    (tmp_path / "kept").mkdir()
    assert refused(asked("", zeros | other)) is Refusal.WRONG_BASE
    assert refused(asked("", one | frozen)) is Refusal.WRONG_BASE
    assert refused(asked("", zeros)) is Refusal.WRONG_SHAPE
    assert refused(asked(manifest.base, one), one) is Refusal.NO_CHECKPOINT
    assert taken(asked("", zeros | frozen)) == (manifest.base, manifest.start)
    assert taken(asked(manifest.base, one), one) == (weights.digest(one), manifest.start)
    (path,) = (tmp_path / "kept" / "run" / "frozen").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert refused(asked(weights.digest(one), one), one) is Refusal.NO_CHECKPOINT


def test_who_repeats_a_segment_of_it_comes_to_the_same_bits_beside_the_same_weights(base, adapted):
    """What members keep to be able to show it, and what an auditor takes of it."""
    manifest, run = adapted.manifest, adapted.report.books.runs["r1"].hash
    leaf = next(each for each in leaves(adapted) if isinstance(entries.peek(each), Receipt))
    receipt, hashed = entries.peek(leaf), merkle.leaf_hash(leaf).hex()
    home = adapted.founded.member(receipt.member)
    found = begun.recall(home.begun_path, run, receipt.round)
    told = {"segment": 1, "text": home.settings.data, "salt": home.salt("r1", receipt.round)}
    shown = reexecute.show(found, receipt, hashed, manifest, **told)
    assert reexecute.replay(shown, receipt, hashed, manifest, None) == ("matches", 0, "the same bits")
    line, groups = begun.split(shown)
    for bent in ({}, {name: tensor * np.float32(2) for name, tensor in groups["frozen"].items()}):
        other = line + b"\n" + begun.pack(**groups | {"frozen": bent})
        with pytest.raises(Refused, match="its tensors frozen are not") as caught:
            reexecute.replay(other, receipt, hashed, manifest, None)
        assert caught.value.refusal is Refusal.WRONG_OPENING
    assert isinstance(found[0].trajectory, Trajectory)


# What it ends in, and what it cannot begin with.


def run(capsys, *words: object) -> tuple[int, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_it_is_written_out_merged_with_its_base_and_with_no_other(base, adapted, tmp_path, capsys):
    last, log = reached(adapted)[-1][0], adapted.founded.ledger / "log"
    words = ["model", "export", kept(adapted, last), "--to", tmp_path / "model", "--log", log]
    code, said = run(capsys, *words)
    assert (code, "--base FILE: adapter = 2 is merged" in said) == (2, True)
    other = weights.keep(outer.first(PLAIN), tmp_path)
    code, said = run(capsys, *words, "--base", tmp_path / f"{other}.safetensors")
    assert (code, "error wrong_base" in said) == (2, True)
    assert run(capsys, *words, "--base", base)[0] == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"| its base | {base.stem} |" in card
    assert "adapter = 0" in card
    # And a run goes on from it, with all weights or with another adapter.
    for recipe in (PLAIN, RECIPE):
        again = toy(tmp_path / str(recipe.adapter), start=tmp_path / "model", recipe=recipe, rounds=1)
        right(again)
        assert again.losses[0] == pytest.approx(adapted.losses[-1], abs=1e-4)


def test_an_adapter_is_nothing_to_begin_with_nor_is_nothing(base, adapted, tmp_path):
    for start, refusal, why in (
        (kept(adapted, reached(adapted)[-1][0]), Refusal.WRONG_MODEL, "holds an adapter: merge it"),
        (None, Refusal.WRONG_BASE, "adapter = 2 stands beside weights that are given"),
    ):
        with pytest.raises(Refused) as caught:
            toy(tmp_path / refusal.value, start=start)
        assert (caught.value.refusal, why in caught.value.detail) == (refusal, True)
        assert b"run.manifest" not in b"".join(fetch(reader(str(tmp_path / refusal / "parties/ledger/log"))).leaves)


def test_the_log_takes_no_manifest_of_an_adapter_beside_nothing():
    world = World()
    manifest = world.manifest(recipe=RECIPE, start=digest("given"))
    world.books.check(world.books.open(world.sign(world.coordinator, manifest)))
    with pytest.raises(Refused, match="adapter = 2 stands beside weights") as caught:
        world.books.check(world.books.open(world.sign(world.coordinator, replace(manifest, start=FIRST))))
    assert caught.value.refusal is Refusal.WRONG_BASE


def test_what_the_coordinator_scores_is_the_adapter_beside_its_base(base, adapted, tmp_path):
    last = reached(adapted)[-1]
    folder = adapted.founded.coordinator.path / "checkpoints"
    scored = Outer(RECIPE, 2, folder, tmp_path, tmp_path, base.stem)
    assert round(1e6 * scored.loss(last[0])) == last[1]
    merged = dict(huggingface.Merged(load_file(kept(adapted, last[0])), load_file(base), RECIPE))
    assert outer.held_out_loss(outer.model(PLAIN), merged, PLAIN) == pytest.approx(last[1] / 1e6, abs=1e-5)
