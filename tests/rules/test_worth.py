"""What members' experts are worth: who may say so, and what follows from it."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, TOY, World, charter, digest, experts

from shared_models.records.kinds import FIRST, Leave
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import worth
from shared_models.rules.agreement import CAP, WORTH
from shared_models.rules.statement import statement

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


# What is paid for it.

SHARE = Fraction(1, 10)


def paid(world: World) -> dict[str, tuple[Fraction, Fraction]]:
    """(credit, charge) of each member's line `worth` in the statement that could be made now."""
    return {each.member: (each.credit, each.charge) for each in world.statement().lines if each.pot == WORTH}


def pool(world: World) -> Fraction:
    return SHARE * sum(each.credit for each in world.statement().lines if each.pot == "compute")


def test_members_are_paid_by_what_their_experts_gain_out_of_what_all_pay_by_benefit():
    """acme's expert takes 90.5 off, birch's 30.5, cedar's adds 30; the benefits are 2, 1, 1."""
    world = experts(worth_share=SHARE)
    assert paid(world) == {
        "acme": (pool(world) * Fraction(181, 242), pool(world) / 2),
        "birch": (pool(world) * Fraction(61, 242), pool(world) / 4),
        "cedar": (0, pool(world) / 4),
    }
    assert pool(world) > 0
    bill = world.bill()
    assert sum(each.net for each in bill.balances) == 0
    assert world.books.accounts.given[-1] == {each.member: each.credit for each in bill.lines if each.pot == "compute"}


def test_nothing_is_paid_for_experts_unless_the_charter_says_so():
    assert paid(experts()) == {}


def test_it_takes_more_than_half_of_the_members_present():
    whole, world = experts(worth_share=SHARE), World(worth_share=SHARE)
    for leaf in whole.leaves[1:-1]:
        world.append(leaf)
    assert ([each.record.member for each in world.books.worths], paid(world)) == (["acme"], {})
    world.say("cedar/admin", Leave(seq=0, prev=FIRST, member="cedar", reason=""))
    assert paid(world) == {}  # One of two is half of them.
    world.append(whole.leaves[-1])
    assert [credit > 0 for credit, _ in paid(world).values()] == [True, True, False]


def test_what_who_has_left_has_measured_no_longer_counts():
    world = experts(worth_share=SHARE)
    world.round()
    world.say("acme/compute", world.worth("acme"))
    world.say("acme/admin", Leave(seq=0, prev=FIRST, member="acme", reason=""))
    before = paid(world)
    world.say("birch/compute", world.worth("birch", losses_unats=(9, 9, 9, 9, 9, 9, 9, 0)))
    assert paid(world) == before
    world.say("cedar/compute", world.worth("cedar", losses_unats=(9, 9, 9, 9, 0, 0, 0, 0)))
    assert paid(world) != before


def test_the_text_is_the_run_s_own_and_nobody_s_choice():
    world = experts(worth_share=SHARE)
    before = paid(world)
    for by in world.members:
        world.say(f"{by}/compute", world.worth(by, text=digest("chosen"), losses_unats=(9, 9, 9, 9, 0, 0, 0, 0)))
    assert paid(world) == before


def test_a_lie_of_one_moves_nothing_where_three_have_measured():
    world = experts(worth_share=SHARE)
    honest = paid(world)
    world.say("cedar/compute", world.worth("cedar", losses_unats=(9 * MILLION,) * 7 + (0,)))
    assert paid(world) == honest
    # Where two have, each loss is the lower one of both, until a third measures.
    world.round()
    for by, losses_ in (("acme", (9, 9, 9, 9, 9, 9, 9, 0)), ("birch", (9, 0, 9, 0, 9, 0, 9, 0))):
        world.say(f"{by}/compute", world.worth(by, losses_unats=losses_))
    assert [credit > 0 for credit, _ in paid(world).values()] == [True, False, False]


def test_the_newest_checkpoint_counts_that_most_have_measured_in_the_period_or_before():
    world = experts(worth_share=SHARE)
    first, old = paid(world), {"checkpoint": world.books.runs["r1"].checkpoint}
    world.bill()
    world.round()
    assert [credit / pool(world) for credit, _ in paid(world).values()] == [Fraction(181, 242), Fraction(61, 242), 0]
    for by in ("acme", "birch"):
        world.say(f"{by}/compute", world.worth(by, losses_unats=(9, 9, 9, 9, 0, 0, 0, 0)))
    newest = paid(world)
    assert [credit / pool(world) for credit, _ in newest.values()] == [0, 0, 1] != first
    world.say("cedar/compute", world.worth("cedar", losses_unats=(9, 0, 9, 0, 9, 0, 9, 0), **old))
    assert paid(world) == newest  # What comes late of an older one changes nothing.
    # A statement goes by what stood below its end.
    end = next(each.entry for each in world.books.worths[2:])
    stated = world.books.statement("2026-12", end, seq=1, prev=FIRST)
    assert [each.credit > 0 for each in stated.lines if each.pot == WORTH] == [True, True, False]


def test_where_no_expert_gains_nobody_is_paid():
    world = experts(worth_share=SHARE)
    world.round()
    for by in ("acme", "birch"):
        world.say(f"{by}/compute", world.worth(by, losses_unats=(1, 2, 2, 3, 2, 3, 3, 4)))
    assert paid(world) == {}


def test_where_nothing_was_trained_nothing_is_paid_even_if_nobody_is_left_to_pay():
    world = experts(worth_share=SHARE)
    facts = world.books.accounts.facts("2026-11", world.books.tree.size)
    idle = replace(facts, work={}, gone=tuple(world.members))
    bill = statement(idle, root="", cosignatures=(), seq=0, prev=FIRST)
    assert (facts.worth != {}, {each.pot for each in bill.lines}) == (True, {"compute", "services"})


def test_it_stands_in_what_a_member_would_be_charged_alone():
    """What a member is charged, less what its expert brings it, is held against its quote."""
    world = experts(worth_share=SHARE)
    facts = world.books.accounts.facts("2026-11", world.books.tree.size)
    capped = replace(facts, charter=replace(facts.charter, cap="alone"))
    plain = statement(facts, root="", cosignatures=(), seq=0, prev=FIRST)
    cost = {who: sum(each.charge for each in plain.lines if each.member == who) for who in world.members}
    net = {who: cost[who] - paid(world)[who][0] for who in world.members}
    quotes = {frozenset({"acme"}): net["acme"]}
    bound = statement(replace(capped, quotes=quotes), root="", cosignatures=(), seq=0, prev=FIRST)
    assert all(each.credit == each.charge == 0 for each in bound.lines if each.pot == CAP)
    lower = {frozenset({"acme"}): net["acme"] - 1}
    bound = statement(replace(capped, quotes=lower), root="", cosignatures=(), seq=0, prev=FIRST)
    assert [each.credit for each in bound.lines if each.pot == CAP] == [1, 0, 0]
    assert bound.certificate[0].charge == net["acme"] - 1


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), min_size=2),
    losses(),
    st.fractions(0, 1, max_denominator=99),
    st.integers(0, 10**6),
)
def test_what_is_paid_for_experts_is_what_is_charged_for_them(benefits, found, share, flop):
    benefits = {**benefits, "a": 1 + benefits.get("a", 0)}
    gained = {who: max(each, Fraction(0)) for who, each in worth.shares(members(found), found).items()}
    whole = sum(each for who, each in gained.items() if who in benefits)
    parts = {who: each / whole for who, each in gained.items() if who in benefits} if whole else {}
    terms = charter(benefits, worth_share=share)
    world = World({"a": 1})
    facts = world.books.accounts.facts("p", 1)
    said = replace(facts, charter=terms, price=Fraction(10**18), work={"a": flop}, worth=parts)
    bill = statement(said, root="", cosignatures=(), seq=0, prev=FIRST)
    lines = [each for each in bill.lines if each.pot == WORTH]
    assert sum(each.credit for each in lines) == sum(each.charge for each in lines) == (share * flop if parts else 0)
    assert sum(each.net for each in bill.balances) == 0
    for each in lines:
        assert each.charge * sum(benefits.values()) == benefits[each.member] * share * flop
