"""When a run may stop early, and what is then booked as not spent: beside the charges, and recomputed as they are."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, TOY, World

from shared_models.records.canonical import decode, encode
from shared_models.records.kinds import Leave, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import differences
from shared_models.rules.pricing import flop_per_token, round_flop, rounds_flop
from shared_models.rules.statement import MOST, statement
from shared_models.rules.stopping import Unspent, plateau

LOSSES = (50, 40, 41, 39, 39, 42)


def trained(world: World, losses: tuple[int, ...], run: str = "r1", **manifest: object) -> None:
    """A run that begins with the first of these losses, and has come to each other one in a round."""
    world.start(run, **{"loss_unats": losses[0], "rounds": 20, **manifest})
    for loss in losses[1:]:
        world.say(world.coordinator, world.opened(run))
        hashes = {name: world.say(f"{name}/compute", world.receipt(name, run)) for name in world.members}
        world.say(world.coordinator, world.close(hashes, run, loss_unats=loss))


def stop(world: World, run: str = "r1") -> int:
    """The index of the entry that says so."""
    world.say(world.coordinator, world.end(run, status="stopped", reason="the loss was no lower"))
    return world.books.tree.size - 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 12))
def test_a_plateau_is_when_each_of_the_last_losses_is_no_lower_than_some_loss_before_them(losses, patience):
    before, last = losses[: max(0, len(losses) - patience)], losses[max(0, len(losses) - patience) :]
    right = patience > 0 and before != [] and all(any(each >= other for other in before) for each in last)
    assert plateau(losses, patience) == right


def test_a_plateau_that_can_be_seen_by_hand():
    assert [plateau(LOSSES[:size], 2) for size in range(1, 7)] == [False, False, False, False, False, True]
    assert [plateau(LOSSES[:size], 1) for size in range(1, 7)] == [False, False, True, False, True, True]
    assert not plateau(LOSSES, 0)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 64), st.integers(0, 6), st.data())
def test_the_work_of_some_rounds_is_that_of_each_of_them_whatever_their_lengths(rounds, steps, context, cut, data):
    recipe = replace(TOY, inner_steps=steps, context=context << cut, shortest=context if cut else 0)
    manifest = World().manifest(recipe=recipe, rounds=rounds, flop_per_token=flop_per_token(recipe))
    first = data.draw(st.integers(1, rounds))
    last = data.draw(st.integers(first, rounds))
    each = [round_flop(manifest, number, "acme") for number in range(first, last + 1)]
    assert rounds_flop(manifest, first, last, "acme") == sum(each)
    assert rounds_flop(manifest, last + 1, last, "acme") == 0


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
    st.integers(1, 3),
    st.sampled_from([0, 4]),
    st.booleans(),
)
def test_what_is_not_spent_is_what_all_members_would_have_trained_in_the_rounds_left(losses, patience, short, leaves):
    world = World()
    recipe = replace(TOY, shortest=short)
    trained(world, tuple(losses), patience=patience, recipe=recipe)
    run = world.books.runs["r1"]
    if not plateau(losses, patience):
        with pytest.raises(Refused) as caught:
            stop(world)
        assert caught.value.refusal is Refusal.WRONG_ROUND
        assert world.statement().unspent_flop == 0
        return
    if leaves:
        world.say("cedar/admin", Leave(seq=0, prev="0" * 64, member="cedar", reason=""))
    entry, members = stop(world), 2 if leaves else 3
    left = [round_flop(run.manifest, number, "acme") for number in range(len(losses), 21)]
    booked = Unspent(entry, "r1", len(losses) - 1, 20, members, members * sum(left))
    assert [*world.books.accounts.unspent] == [booked]
    assert world.bill("2026-11").unspent_flop == booked.flop
    assert world.bill("2026-12").unspent_flop == 0  # Each stop is of one period.


def test_nobody_is_charged_or_credited_anything_for_what_was_not_spent():
    one, other = World(price=Fraction(10**16)), World(price=Fraction(10**16))
    for world, status in ((one, "stopped"), (other, "completed")):
        trained(world, (50, 40, 40), patience=1)
        world.say(world.coordinator, world.end(status=status))
    stopped, completed = one.statement(), other.statement()
    assert stopped.lines == completed.lines
    assert any(line.charge for line in stopped.lines)
    assert (stopped.balances, stopped.transfers) == (completed.balances, completed.transfers)
    assert stopped.unspent_flop > completed.unspent_flop == 0


def test_all_runs_that_stopped_in_a_period_are_added_up():
    world = World()
    for run in ("r1", "r2"):
        trained(world, (50, 40, 40), run, patience=1)
        stop(world, run)
    trained(world, (50, 40, 40), "r3", patience=1)
    world.say(world.coordinator, world.end("r3", status="failed"))  # That saves nothing.
    one, two = world.books.accounts.unspent
    assert (one.run, two.run, one.flop) == ("r1", "r2", two.flop)
    assert world.statement().unspent_flop == 2 * one.flop


def test_a_manifest_that_agrees_to_more_than_anybody_could_train_does_not_keep_a_period_open():
    world = World()
    trained(world, (50, 40, 40), patience=1, rounds=2**63 - 1)
    stop(world)
    flop = 3 * (2**63 - 3) * round_flop(world.books.runs["r1"].manifest, 1, "acme")
    assert world.bill("2026-11").unspent_flop == flop
    more = replace(world.books.accounts.stated[0], unspent=(world.books.accounts.unspent[0]._replace(flop=MOST + 1),))
    stated = statement(more, root="0" * 64, cosignatures=(), seq=0, prev="0" * 64)
    assert stated.unspent_flop == MOST
    assert decode(Statement, encode(stated)) == stated


@pytest.mark.parametrize(
    ("rounds", "patience", "right"), [(3, 2, True), (3, 3, False), (3, 2**63, False), (1, 0, True), (1, 1, False)]
)
def test_a_patience_that_can_never_end_before_the_run_is_refused(rounds, patience, right):
    world = World()
    if right:
        world.start(rounds=rounds, patience=patience)
        return
    with pytest.raises(Refused) as caught:
        world.start(rounds=rounds, patience=patience)
    assert caught.value.refusal is Refusal.BAD_FIELD
    assert f"a patience of {patience} rounds in a run of {rounds}" in caught.value.detail


def test_a_statement_that_books_another_number_is_refused_by_that_number():
    world = World()
    trained(world, (50, 40, 40), patience=1)
    stop(world)
    right = world.statement()
    wrong = replace(right, unspent_flop=right.unspent_flop + 1)
    said = f"FLOP not spent stated {right.unspent_flop + 1}, recomputed {right.unspent_flop}"
    assert differences(wrong, right) == [f"statement 2026-11: {said}"]
    with pytest.raises(Refused, match=said):
        world.say(f"{CONSORTIUM}/admin", wrong)
