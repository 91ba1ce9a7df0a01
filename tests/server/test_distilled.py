"""A run that learns from a teacher: the checkpoint of another run of its log, which its members may have."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from world import TOY

from client import begun, models, reexecute
from client.app import _base
from client.steps import logged, repeat
from consortium.simulate import Result, simulate
from ledger.api import serving
from server import outer
from server.launch import propose, taught
from shared_models.artefacts import publish
from shared_models.bundle import build
from shared_models.lm import codecs, gpt, weights
from shared_models.lm.kept import Kept
from shared_models.messages import Task
from shared_models.processes import free_port
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import FIRST, AccessRevoke, Checkpoint, Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.transport import Inline

TWO = {"acme": 2, "birch": 1}
TAUGHT = {"teacher_layers": 2, "teacher_heads": 2, "teacher_width": 24, "temperature": "2", "taught": "0.5"}
RECIPE = replace(TOY, outer="nesterov", outer_momentum="0.5", **TAUGHT)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Result:
    return simulate(tmp_path_factory.mktemp("run") / "parties", TWO, rounds=2, recipe=RECIPE, teacher_rounds=2)


def leaves(run: Result) -> list[bytes]:
    return fetch(reader(str(run.founded.ledger / "log"))).leaves


def receipts(run: Result) -> list[tuple[Receipt, str]]:
    found = ((entries.peek(leaf), merkle.leaf_hash(leaf).hex()) for leaf in leaves(run))
    return [(record, hashed) for record, hashed in found if isinstance(record, Receipt) and record.run == "r1"]


def kept(run: Result, name: str):
    return run.founded.coordinator.path / "checkpoints" / f"{name}.safetensors"


def test_a_student_is_taught_by_the_checkpoint_that_the_manifest_names_and_all_that_holds_of_a_run_holds(run):
    assert (run.report.findings, run.excluded) == ([], ())
    books = run.report.books
    assert run.manifest.teacher == books.runs["teacher"].rounds[-1].closed.checkpoint
    assert books.runs["teacher"].manifest.recipe == RECIPE.teacher
    student, teacher = gpt.shapes(gpt.Shape.of(RECIPE)), gpt.shapes(gpt.Shape.of(RECIPE.teacher))
    assert gpt.frozen(gpt.Shape.of(RECIPE)) == teacher != student
    for turn in books.runs["r1"].rounds:
        assert {name: each.shape for name, each in load_file(kept(run, turn.closed.checkpoint)).items()} == student
    for name in ("teacher", "r1"):
        found = list(repeat(logged(leaves(run), name), run.founded.coordinator.path))
        assert [each.wrong for each in found] == ["", ""]
    assert {each.flop for each, _ in receipts(run)} == {96 * run.manifest.flop_per_token}
    # The teacher travels once, with the whole checkpoint; the student alone comes back.
    one, other = codecs.total("fp32", student), codecs.total("fp32", teacher)
    assert [each.bytes_up for each, _ in receipts(run)] == [one] * 4
    assert [each.bytes_down for each, _ in receipts(run)] == [one + other] * 2 + [one] * 2


def test_what_it_learns_is_another_than_from_the_text_alone(run, tmp_path):
    alone = simulate(
        tmp_path / "parties",
        TWO,
        rounds=2,
        recipe=replace(RECIPE, **dict.fromkeys(TAUGHT, 0) | {"temperature": "0", "taught": "0"}),
    )
    assert alone.losses[0] == run.losses[0]
    assert alone.losses[1] != run.losses[1]


def test_who_repeats_a_segment_of_it_comes_to_the_same_bits_by_the_same_teacher_and_no_other(run):
    receipt, hashed = receipts(run)[0]
    home = run.founded.member(receipt.member)
    found = begun.recall(home.begun_path, run.report.books.runs["r1"].hash, receipt.round)
    told = {"segment": 1, "text": home.settings.data, "salt": home.salt("r1", receipt.round)}
    shown = reexecute.show(found, receipt, hashed, run.manifest, **told)
    assert reexecute.replay(shown, receipt, hashed, run.manifest, None) == ("matches", 0, "the same bits")
    line, groups = begun.split(shown)
    for bent in ({}, {name: tensor * np.float32(2) for name, tensor in groups["frozen"].items()}):
        other = line + b"\n" + begun.pack(**groups | {"frozen": bent})
        with pytest.raises(Refused, match="its tensors frozen are not") as caught:
            reexecute.replay(other, receipt, hashed, run.manifest, None)
        assert caught.value.refusal is Refusal.WRONG_OPENING


def test_a_member_learns_from_the_teacher_of_the_manifest_and_no_other(run, tmp_path):
    teacher, base = load_file(kept(run, run.manifest.teacher)), load_file(kept(run, run.manifest.base))

    def taken(teacher: weights.Weights):
        beside = gpt.beside(gpt.Shape.of(RECIPE), teacher)
        task = Task(None, b"", "", codecs.pack("fp32", base | beside))  # type: ignore[arg-type]
        return _base(task, run.manifest.base, run.manifest, Kept(tmp_path, "run"), Inline(), tmp_path)

    found, frozen = taken(teacher)
    assert (weights.digest(found), weights.digest(frozen)) == (run.manifest.base, run.manifest.teacher)
    with pytest.raises(Refused, match="the frozen weights that came are not") as caught:
        taken(teacher | {"norm.weight": teacher["norm.weight"] * np.float32(2)})
    assert caught.value.refusal is Refusal.WRONG_BASE


def test_a_teacher_that_is_none_of_the_recipe_s_starts_no_run(run, tmp_path):
    """Of another vocabulary or width; where the recipe has none; where it has one and none is given."""
    agreement, bundle, teacher = run.founded.coordinator.keyring.agreement, build(), kept(run, run.manifest.teacher)
    (tmp_path / "other").mkdir()
    named = weights.keep(outer.first(replace(RECIPE.teacher, vocabulary=128)), tmp_path / "other")
    other = tmp_path / "other" / f"{named}.safetensors"
    for recipe, file, refusal, why in (
        (RECIPE, other, Refusal.WRONG_MODEL, "embed.weight is 128 × 24, and 256 × 24"),
        (replace(RECIPE, teacher_width=32), teacher, Refusal.WRONG_MODEL, "256 × 24, and 256 × 32"),
        (TOY, teacher, Refusal.BAD_FIELD, "in the recipe teacher_layers are 0"),
        (RECIPE, None, Refusal.WRONG_BASE, "teacher_layers = 2, and the teacher is 000000000000…: `--teacher`"),
        (RECIPE, tmp_path / "none", Refusal.NOT_FOUND, "none"),
    ):
        with pytest.raises(Refused) as caught:
            propose(
                agreement, "r2", recipe, bundle, rounds=1, quorum=1, deadline_ms=1, checkpoints=tmp_path, teacher=file
            )
        assert (caught.value.refusal, why in caught.value.detail) == (refusal, True), caught.value
    with pytest.raises(Refused, match="1 rounds for a teacher, and teacher_layers are 0"):
        simulate(tmp_path / "parties", TWO, recipe=TOY, teacher_rounds=1)


def test_a_student_is_published_under_its_teacher_and_who_may_not_have_the_one_is_not_asked(run, caplog):
    """The last test of this log: it goes on here."""
    founded, teacher = run.founded, kept(run, run.manifest.teacher)
    home, agreement = founded.coordinator, founded.coordinator.keyring.agreement
    student = kept(run, run.report.books.runs["r1"].rounds[-1].closed.checkpoint)
    (artefact,) = run.report.books.holding(run.manifest.teacher)
    made = {"form": "safetensors", "checkpoints": (Checkpoint(run="r1", round=2),)}
    with serving(founded.ledger, free_port()) as ledger:
        assert taught(ledger, agreement, teacher) == ("acme", "birch")
        for file, why in ((student, "no artefact"), (teacher.with_name("none"), "No such file")):
            with pytest.raises(Refused, match=why) as caught:
                taught(ledger, agreement, file)
            assert caught.value.refusal is Refusal.NOT_FOUND
        for name in ("acme", "birch"):
            key = founded.member(name).key("admin")
            said = AccessRevoke(seq=0, prev=FIRST, member=name, notice="n1", revoked="birch", reason="it sells them")
            founded.member(name).say(ledger, key, said)
        assert taught(ledger, agreement, teacher) == ("acme",)
        assert "birch is not asked: it may not have the teacher: access of birch was revoked" in caplog.text
        published = publish(home, ledger, home.key, student, parents=(artefact,), **made)
        log = fetch(ledger.read)
        books = models.Books()
        for leaf in log.leaves:
            books.add(books.open(leaf))
        found = list(models.lineage(books, ledger.read, published.sha256))
    assert [each["artefact"] for each in found] == [published.sha256, artefact]
    assert [each["checkpoints"][0]["run"] for each in found] == ["r1", "teacher"]
