"""Who may be taught by which checkpoint, and what a model then descends from: the log asks it of every manifest."""

from dataclasses import replace

import pytest
from world import OPEN, TOY, World, digest

from shared_models.records.kinds import AccessRevoke, Artefact, Checkpoint
from shared_models.records.refusals import Refusal, Refused

RECIPE = replace(TOY, teacher_layers=2, teacher_heads=2, teacher_width=24, temperature="2", taught="0.5")


@pytest.fixture
def world():
    """A log with a run that has ended."""
    world = World(tiers=(OPEN,))
    world.start("large")
    world.round("large")
    world.say(world.coordinator, world.end("large"))
    return world


def checkpoint(world: World, run: str = "large") -> str:
    return world.books.runs[run].rounds[0].closed.checkpoint


def publish(world: World, name: str, run: str, parents: tuple[str, ...] = ()) -> None:
    made = Artefact(
        seq=0,
        prev=digest("prev"),
        publisher=world.charter.consortium,
        artefact=digest(name),
        size=400,
        form="safetensors",
        checkpoints=(Checkpoint(run=run, round=1),),
        parents=parents,
        without=(),
    )
    world.say(world.coordinator, made)


def refused(act, *arguments, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments, **more)
    return caught.value


def teach(world: World, teacher: str, **more) -> None:
    manifest = world.manifest("r1", recipe=RECIPE, teacher=teacher, **more)
    world.books.check(world.books.open(world.sign(world.coordinator, manifest)))


def test_a_teacher_is_an_artefact_that_is_a_checkpoint_of_the_log(world):
    assert refused(teach, world, checkpoint(world)).refusal is Refusal.NOT_FOUND  # Nobody has published it.
    publish(world, "file", "large")
    teach(world, checkpoint(world))
    why = refused(teach, world, digest("elsewhere"))
    assert (why.refusal, "no artefact is the checkpoint" in why.detail) == (Refusal.NOT_FOUND, True)


def test_who_may_not_have_it_is_named_and_the_others_are_taught_without(world):
    publish(world, "file", "large")
    for name in ("acme", "cedar"):
        said = AccessRevoke(
            seq=0, prev=digest("prev"), member=name, notice="n1", revoked="birch", reason="it sells them"
        )
        world.say(f"{name}/admin", said)
    why = refused(teach, world, checkpoint(world))
    assert (why.refusal, "birch may not have the teacher" in why.detail) == (Refusal.NO_ACCESS, True)
    assert "was revoked at entry" in why.detail
    teach(world, checkpoint(world), members=("acme", "cedar"))


def test_what_was_taught_descends_from_its_teacher(world):
    publish(world, "file", "large")
    world.start("r1", recipe=RECIPE, teacher=checkpoint(world))
    world.round("r1")
    for parents in ((), (digest("another"),)):
        if parents:
            publish(world, "another", "large")  # The same checkpoint in another form: it is the teacher, too.
            publish(world, "student", "r1", parents)
        else:
            why = refused(publish, world, "student", "r1")
            assert (why.refusal, "run r1 has learnt from" in why.detail) == (Refusal.WRONG_LINEAGE, True)
    held = world.books.library.held(digest("student"))
    assert held.newest == {"large": 1, "r1": 1}  # Whoever may not have the one may not have the other.


def test_a_recipe_and_its_manifest_say_the_same_of_a_teacher(world):
    publish(world, "file", "large")
    manifest = world.manifest("r1", recipe=TOY, teacher=checkpoint(world))
    why = refused(world.books.check, world.books.open(world.sign(world.coordinator, manifest)))
    assert (why.refusal, "teacher_layers = 0" in why.detail) == (Refusal.WRONG_BASE, True)
    why = refused(teach, world, "0" * 64)
    assert (why.refusal, "teacher_layers = 2" in why.detail) == (Refusal.WRONG_BASE, True)
