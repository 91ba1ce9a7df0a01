"""A member uses the others' experts and does not want to pay: what the log takes of it, and what nobody can see."""

from dataclasses import replace
from fractions import Fraction

import pytest
from world import World, experts

from shared_models.records.refusals import Refusal, Refused

PRICE = Fraction(10**6)  # A minor unit for each token.


def refused(world: World, author: str, record) -> Refusal:
    size = world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.say(author, record)
    assert world.books.tree.size == size
    return caught.value.refusal


def paid(world: World) -> dict[str, Fraction]:
    return {each.member: each.credit - each.charge for each in world.statement().lines if each.pot == "served"}


def test_a_token_cannot_all_have_gone_through_the_given_weights_or_through_ones_own_expert():
    world = experts(expert_price=PRICE)
    for routes in ({}, {"acme": 1_000}, {"acme": 501}, {"acme": 499}):
        assert refused(world, "acme/admin", world.served("acme", 1_000, routes)) is Refusal.BAD_FIELD
    world.say("acme/admin", world.served("acme", 1_000, {"acme": 500}))  # The least that can be said.
    assert paid(world) == {"acme": 0, "birch": 0, "cedar": 0}


def test_who_names_a_friend_more_often_than_there_are_tokens_is_refused():
    world = experts(expert_price=PRICE)
    for routes in ({"birch": 1_000}, {"birch": 500, "cedar": 501}, {"acme": 400, "birch": 400, "cedar": 400}):
        assert refused(world, "acme/admin", world.served("acme", 1_000, routes)) is Refusal.BAD_FIELD


def test_nobody_is_charged_by_anothers_word_or_by_its_own_daemon():
    world = experts(expert_price=PRICE)
    said = world.served("acme", 10**9, {"birch": 5 * 10**8})
    assert refused(world, "birch/admin", said) is Refusal.WRONG_MEMBER
    assert refused(world, "commons.example/admin", said) is Refusal.WRONG_ROLE
    assert refused(world, "acme/compute", said) is Refusal.WRONG_ROLE
    assert paid(world) == {}


def test_what_is_said_is_taken_back_by_nobody_else_and_not_after_the_close():
    world = experts(expert_price=PRICE)
    first = world.say("acme/admin", world.served("acme", 1_000, {"birch": 500}))
    less = world.served("acme", 10, {"birch": 5})
    assert refused(world, "birch/admin", less) is Refusal.WRONG_MEMBER
    assert refused(world, "birch/admin", replace(less, member="birch")) is Refusal.CONFLICT  # It replaces none of its.
    world.bill()
    assert refused(world, "acme/admin", less) is Refusal.CLOSED
    assert refused(world, "acme/admin", replace(less, period="2026-12", replaces=first)) is Refusal.CONFLICT


def test_an_expert_that_is_another_runs_is_not_paid_for():
    world = experts(expert_price=PRICE)
    world.start("r2", recipe=world.books.runs["r1"].manifest.recipe, start=world.books.runs["r1"].manifest.start)
    here = world.served("acme", 10, {"birch": 5})
    assert refused(world, "acme/admin", replace(here, run="r2")) is Refusal.WRONG_CHECKPOINT


def test_who_says_nothing_or_too_little_pays_too_little_and_the_log_cannot_know():
    """What was served, only who served it has seen: decision 0030."""
    world = experts(expert_price=PRICE)
    assert paid(world) == {}
    world.say("acme/admin", world.served("acme", 2, {"birch": 1}))
    assert paid(world) == {"acme": -1, "birch": 1, "cedar": 0}
