"""The coordinator says that a run stopped early, and so saved its members work, where its losses do not show it."""

import pytest
from world import TOY, World

from client.steps import logged, repeat
from consortium.simulate import simulate
from server import outer
from shared_models.published import fetch, reader
from shared_models.records.refusals import Refusal, Refused


def refused(world: World) -> str:
    """What is said of it; nothing is booked, and the run goes on."""
    size = world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.say(world.coordinator, world.end(status="stopped"))
    assert caught.value.refusal is Refusal.WRONG_ROUND
    assert (world.books.tree.size, world.books.runs["r1"].ended) == (size, None)
    assert world.statement().unspent_flop == 0
    return caught.value.detail


def test_a_run_without_patience_never_stops_early():
    world = World()
    world.start(patience=0, rounds=9)
    world.round()
    world.round()
    assert "behind 2 of 9 rounds run r1 shows no plateau by its patience of 0" in refused(world)


def test_a_loss_that_still_falls_is_no_plateau():
    world = World()
    world.start(patience=1, rounds=9)
    world.round()
    refused(world)
    world.round()  # The same loss once more.
    world.say(world.coordinator, world.end(status="stopped"))
    assert world.statement().unspent_flop > 0


def test_a_run_stops_between_two_rounds_only():
    """Members are at work in one that is open."""
    world = World()
    world.start(patience=1, rounds=9)
    world.round()
    world.round()
    world.say(world.coordinator, world.opened())
    assert "or a round is open" in refused(world)


def test_a_run_that_is_trained_to_its_last_round_has_saved_nothing():
    world = World()
    world.start(patience=1, rounds=2)
    world.round()
    world.round()
    assert "or none is left" in refused(world)
    world.say(world.coordinator, world.end(status="completed"))
    assert world.statement().unspent_flop == 0


def test_a_round_that_took_no_step_is_no_plateau():
    """Its loss is no lower, for the checkpoint is the one before: too few have answered."""
    world = World()
    world.start(patience=1, rounds=9)
    world.round()
    world.round(members=["acme"])
    assert world.books.runs["r1"].rounds[1].closed.checkpoint == world.books.runs["r1"].rounds[1].base
    refused(world)


@pytest.mark.parametrize("lied", [1, 2])
def test_losses_that_are_made_up_for_a_plateau_are_found_by_who_scores_the_checkpoints(tmp_path, monkeypatch, lied):
    """The log shows what the coordinator says; the first is the manifest's, each other one a round's."""
    told, right = [], outer.held_out_loss

    def loss(*given, **more) -> float:
        told.append(right(*given, **more))
        return told[0] if len(told) == lied + 1 else told[-1]

    monkeypatch.setattr(outer, "held_out_loss", loss)
    run = simulate(tmp_path / "parties", {"acme": 1, "birch": 1}, rounds=5, recipe=TOY, patience=1)
    monkeypatch.undo()
    assert len(told) == lied + 1
    assert (run.report.findings, run.bill.unspent_flop > 0) == ([], True)
    leaves = fetch(reader(str(run.founded.ledger / "log"))).leaves
    *before, last = repeat(logged(leaves, "r1"), run.founded.coordinator.path)
    assert [each.wrong for each in before] == [""] * (lied - 1)
    assert last.wrong.endswith(
        f" has a loss of {round(1e6 * told[0])} unats in the log, and {round(1e6 * told[-1])} here"
    )


def test_the_loss_that_a_run_begins_with_is_scored_again_too(tmp_path, monkeypatch):
    right = outer.held_out_loss
    monkeypatch.setattr(outer, "held_out_loss", lambda *given, **more: right(*given, **more) - 1)
    run = simulate(tmp_path / "parties", {"acme": 1, "birch": 1}, rounds=2, recipe=TOY)
    monkeypatch.undo()
    leaves = fetch(reader(str(run.founded.ledger / "log"))).leaves
    for each, base in zip(
        repeat(logged(leaves, "r1"), run.founded.coordinator.path), (run.manifest.base, ""), strict=True
    ):
        assert each.wrong.startswith(f"checkpoint {base[:12] or each.checkpoint[:12]}… has a loss of ")
