"""What members' experts are worth: who may say so, and what follows from it."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, TOY, World, digest

from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import worth

NAMES = tuple("abcdefgh")
MILLION = 10**6


@st.composite
def losses(draw: st.DrawFn, least: int = 1) -> list[int]:
    """The losses with each set of some members' experts."""
    members = draw(st.integers(least, 5))
    return draw(st.lists(st.integers(0, 9 * MILLION), min_size=1 << members, max_size=1 << members))


def members(of: list[int]) -> tuple[str, ...]:
    return NAMES[: len(of).bit_length() - 1]


# What follows from the losses.


def test_the_value_of_two_is_the_mean_of_the_two_orders_of_joining():
    """Alone a takes 100 off, b 40; b beside a takes 21 more, a beside b 81."""
    exact = worth.shares(("a", "b"), [1_000, 900, 960, 879])
    assert exact == {"a": Fraction(181, 2), "b": Fraction(61, 2)}
    assert worth.whole(exact) == {"a": 91, "b": 30}  # Of equal fractions, the first.


def test_an_expert_that_hurts_is_worth_less_than_nothing():
    assert worth.shares(("a", "b"), [1_000, 900, 1_100, 1_000]) == {"a": 100, "b": -100}


@given(losses())
def test_all_values_sum_to_what_all_experts_take_off_rounded_or_not(found):
    exact = worth.shares(members(found), found)
    rounded = worth.whole(exact)
    assert sum(exact.values()) == sum(rounded.values()) == found[0] - found[-1]
    assert all(abs(rounded[name] - exact[name]) < 1 for name in exact)
    assert rounded == worth.whole(exact)


@given(losses(least=2))
def test_members_that_no_set_can_tell_apart_are_worth_the_same(found):
    """The losses with one of the first two are made those with the other."""

    def swapped(bits: int) -> int:
        return bits & ~3 | (bits & 1) << 1 | bits >> 1 & 1

    exact = worth.shares(members(found), [min(found[bits], found[swapped(bits)]) for bits in range(len(found))])
    assert exact["a"] == exact["b"]


@given(losses())
def test_who_changes_no_loss_is_worth_nothing(found):
    exact = worth.shares(members(found), [found[bits & ~1] for bits in range(len(found))])
    assert exact["a"] == 0


@given(losses())
def test_what_is_measured_on_two_texts_adds_up(found):
    """And the order of members is no matter."""
    names = members(found)
    other = [(loss * 7919) % MILLION for loss in found]
    one, two = worth.shares(names, found), worth.shares(names, other)
    both = worth.shares(names, [sum(each) for each in zip(found, other, strict=True)])
    assert both == {name: one[name] + two[name] for name in names}
    turned = [found[int(f"{bits:0{len(names)}b}"[::-1], 2)] for bits in range(len(found))]
    assert worth.shares(names[::-1], turned) == one


# Who may say so.


@pytest.fixture
def world() -> World:
    """A run of three experts behind one round, and one that has none."""
    world = World()
    recipe = replace(TOY, feed="swiglu", member_experts=3)
    world.start(recipe=recipe, start=digest("given"))
    world.round()
    world.start("plain")
    world.round("plain")
    return world


def refused(world: World, author: str, **changes: object) -> Refused:
    leaf, size, before = (
        world.sign(author, world.worth("acme", **changes)),
        world.books.tree.size,
        len(world.books.worths),
    )
    with pytest.raises(Refused) as caught:
        world.append(leaf)
    assert (world.books.tree.size, len(world.books.worths)) == (size, before)
    return caught.value


def test_each_member_says_once_what_the_experts_are_worth_on_a_text(world):
    world.say("acme/compute", world.worth("acme"))
    world.say("birch/compute", world.worth("birch"))
    world.say("acme/compute", world.worth("acme", text=digest("another")))
    assert [(each.entry, each.record.member) for each in world.books.worths] == [
        (at, who) for at, who in enumerate(("acme", "birch", "acme"), world.books.tree.size - 3)
    ]
    assert refused(world, "acme/compute", losses_unats=tuple(range(8))).refusal is Refusal.CONFLICT
    world.round()
    world.say("acme/compute", world.worth("acme"))  # Of another checkpoint.


@pytest.mark.parametrize(
    ("author", "changes", "refusal", "why"),
    [
        ("acme/admin", {}, Refusal.WRONG_ROLE, "that is for compute keys"),
        (f"{CONSORTIUM}/coordinator", {}, Refusal.WRONG_ROLE, "that is for compute keys"),
        ("birch/compute", {}, Refusal.WRONG_MEMBER, "birch/compute signed for acme"),
        ("acme/compute", {"checkpoint": digest("base")}, Refusal.WRONG_CHECKPOINT, "no round of run r1 has led to"),
        ("acme/compute", {"checkpoint": digest("other")}, Refusal.WRONG_CHECKPOINT, "no round of run r1 has led to"),
        ("acme/compute", {"losses_unats": (1,) * 7}, Refusal.BAD_FIELD, "7 losses; 3 experts make 8 sets"),
        ("acme/compute", {"losses_unats": (1,) * 16}, Refusal.BAD_FIELD, "16 losses; 3 experts make 8 sets"),
        ("acme/compute", {"routes": (2_048, 0, 0)}, Refusal.BAD_FIELD, "2048 routes through 3 feed-forwards"),
        ("acme/compute", {"routes": (2_048, 1, 0, 0)}, Refusal.BAD_FIELD, "there are 2048 through 4"),
    ],
)
def test_what_cannot_be_so_is_refused_by_name(world, author, changes, refusal, why):
    found = refused(world, author, **changes)
    assert (found.refusal, why in found.detail) == (refusal, True), found


def test_it_is_about_a_run_whose_members_have_experts_and_not_too_many(world, monkeypatch):
    found = world.worth("acme")
    for changes, refusal, why in (
        ({"run": "plain", "checkpoint": world.books.runs["plain"].checkpoint}, Refusal.BAD_FIELD, "member_experts = 0"),
        ({"run": "none"}, Refusal.UNKNOWN_RUN, "no manifest of a run none"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            world.append(world.sign("acme/compute", replace(found, **changes)))
        assert caught.value.refusal is refusal
    monkeypatch.setattr(worth, "MOST", 2)
    with pytest.raises(Refused, match="member_experts = 3: all sets are tried of 1 to 2 members"):
        world.append(world.sign("acme/compute", found))


def test_a_checkpoint_that_the_run_has_left_behind_can_be_measured_too(world):
    first = world.worth("acme")
    world.round()
    world.say("acme/compute", first)
