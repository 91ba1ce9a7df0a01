"""What members have served with one another's experts: who may say so, and what it pays whom."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import life
from world import CONSORTIUM, TOY, World, added, affirmed, digest, experts, key, revoked
from world import member as joining

from shared_models.records.kinds import FIRST, Amendment, Artefact, Charter, Checkpoint, Statement, Vote
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.served import payments, split, used
from shared_models.rules.what_if import asked, under

NAMES = ("acme", "birch", "cedar")
PRICE = Fraction(10**6, 7)  # A seventh of a minor unit for each token.
HALF = {"birch": 500}


def lines(bill: Statement) -> dict[str, Fraction]:
    """What each is paid for its expert, less what it pays."""
    return {each.member: each.credit - each.charge for each in bill.lines if each.pot == "served"}


def refused(world: World, author: str, *said: object, **changes: object) -> Refused:
    leaf, size = world.sign(author, world.served(*said, **changes)), world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.append(leaf)
    assert world.books.tree.size == size
    return caught.value


# Whole tokens.


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), min_size=1, max_size=9).filter(any))
def test_tokens_are_split_in_whole_parts_that_sum_to_them(tokens, routes):
    found = split(tokens, routes)
    assert sum(found) == tokens
    assert all(abs(part * sum(routes) - tokens * each) < sum(routes) for part, each in zip(found, routes, strict=True))


def test_what_is_left_over_goes_to_the_largest_remainder_and_of_equal_ones_to_the_first():
    assert split(10, [1, 1, 1]) == [4, 3, 3]
    assert split(5, [50, 33, 17]) == [2, 2, 1]


@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_what_is_counted_on_a_model_is_never_refused(tokens, free):
    """A token takes two feed-forwards of a layer, so none is taken more often than all others together."""
    routes = [*free, sum(free) + 1]
    routes.append(sum(routes))
    assert max(split(tokens, routes)) <= -(-tokens // 2)


# Who may say so.


def test_a_member_says_what_it_has_served_and_corrects_it_until_the_period_is_closed():
    world = experts(expert_price=PRICE)
    first = world.say("acme/admin", world.served("acme", 10, {"birch": 5}))
    again = world.served("acme", 1_000, HALF)
    assert again.replaces == first
    assert refused(world, "acme/admin", "acme", 999, HALF, replaces=digest("none")).refusal is Refusal.CONFLICT
    world.say("acme/admin", again)
    assert refused(world, "acme/admin", "acme", 999, HALF, replaces=first).refusal is Refusal.CONFLICT
    assert lines(world.bill()) == {"acme": -500 * PRICE / 10**6, "birch": 500 * PRICE / 10**6, "cedar": 0}
    assert refused(world, "cedar/admin", "cedar", 1_000, HALF).refusal is Refusal.CLOSED


@pytest.mark.parametrize(
    ("author", "said", "changes", "refusal", "why"),
    [
        ("acme/compute", (1_000, HALF), {}, Refusal.WRONG_ROLE, "that is for admin keys"),
        (f"{CONSORTIUM}/admin", (1_000, HALF), {}, Refusal.WRONG_ROLE, "that is for admin keys"),
        ("acme/admin", (1_000, {"dora": 500}), {}, Refusal.WRONG_MEMBER, "dora: no expert in the model"),
        ("acme/admin", (1_000, HALF), {"model": digest("other")}, Refusal.WRONG_CHECKPOINT, "run r1 never was there"),
        ("acme/admin", (1_000, HALF), {"model": digest("base")}, Refusal.WRONG_CHECKPOINT, "run r1 never was there"),
        ("acme/admin", (1_000, HALF), {"run": "plain"}, Refusal.BAD_FIELD, "holds no member's expert of run plain"),
        ("acme/admin", (1_000, {"birch": 501}), {}, Refusal.BAD_FIELD, "no feed-forward has more than 500"),
        ("acme/admin", (1_000, {"birch": 499}), {}, Refusal.BAD_FIELD, "no feed-forward has more than 500"),
        ("acme/admin", (1_000, {}), {}, Refusal.BAD_FIELD, "no feed-forward has more than 500"),
        ("acme/admin", (10, dict.fromkeys(NAMES, 5)), {}, Refusal.BAD_FIELD, "15 of 10 tokens"),
    ],
)
def test_what_cannot_be_so_is_refused_by_name(author, said, changes, refusal, why):
    world = experts(expert_price=PRICE)
    world.start("plain")
    world.round("plain")
    found = refused(world, author, "acme", *said, **changes)
    assert (found.refusal, why in found.detail) == (refusal, True), found


def test_who_is_named_stands_in_order_and_once():
    world = experts()
    right = world.served("acme", 9, {"birch": 4, "cedar": 3})
    for routes in (right.routes[::-1], (right.routes[0],) * 2):
        with pytest.raises(Refused, match="out of order, or one stands twice"):
            world.say("acme/admin", replace(right, routes=routes))
    world.say("acme/admin", right)


def test_a_member_whose_expert_was_left_out_of_an_artefact_is_not_paid_for_it():
    world = experts(expert_price=PRICE)
    made = Artefact(
        seq=0,
        prev=digest("first"),
        publisher=CONSORTIUM,
        artefact=digest("model"),
        size=1,
        form="safetensors",
        checkpoints=(Checkpoint(run="r1", round=1),),
        parents=(),
        without=("birch",),
    )
    world.say(world.coordinator, made)
    found = refused(world, "acme/admin", "acme", 1_000, {"birch": 500}, model=made.artefact)
    assert (found.refusal, "birch: no expert in the model" in found.detail) == (Refusal.WRONG_MEMBER, True)
    world.say("acme/admin", world.served("acme", 1_000, {"cedar": 500}, model=made.artefact))
    assert lines(world.bill())["cedar"] == 500 * PRICE / 10**6


# What it pays.


def terms(price: Fraction) -> Charter:
    return replace(World().charter, expert_price=price)


@given(
    st.fractions(0, 10**6, max_denominator=999),
    st.dictionaries(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**12))),
)
def test_all_that_is_paid_is_charged_and_nobody_pays_for_its_own(price, served):
    credits_, charges = payments(served, terms(price))
    assert sum(credits_.values()) == sum(charges.values())
    for member in NAMES:
        others = sum(tokens for owner, tokens in served.get(member, {}).items() if owner != member)
        assert charges[member] == price * others / 10**6
    alone = {member: {member: sum(through.values())} for member, through in served.items()}
    assert not any(map(any, (each.values() for each in payments(alone, terms(price)))))


SAID = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 10**6)),
    min_size=1,
    max_size=4,
    unique_by=lambda each: each[0],
)


@given(SAID, st.randoms())
def test_the_order_of_what_different_members_say_is_no_matter(said, random):
    def billed(said: list[tuple[str, str, int]]) -> dict[str, Fraction]:
        world = experts(expert_price=PRICE)
        for member, owner, tokens in said:
            world.say(f"{member}/admin", world.served(member, 2 * tokens, {owner: tokens} if tokens else {}))
        found = lines(world.bill())
        assert sum(found.values()) == 0
        return found

    other = list(said)
    random.shuffle(other)
    assert billed(said) == billed(other)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_else_happens_what_is_paid_sums_to_nothing_and_each_entry_is_billed_once(seed):
    world = life(seed, 80, PRICE)
    servings, billed = world.books.accounts.served, list[int]()
    for bill in world.books.statements:
        assert sum(lines(bill).values()) == 0
        found = servings.billed[bill.period]
        credits_, charges = payments(used(found), world.books.agreement.at(bill.start)[0])
        assert lines(bill) in ({}, {each: credits_[each] - charges[each] for each in credits_})
        assert (lines(bill) == {}) == (found == ())
        billed += [each.at for each in found]
    assert len(set(billed)) == len(billed) > 0


def test_nothing_is_billed_where_the_charter_has_no_price_or_nobody_has_served():
    world = experts()
    world.say("acme/admin", world.served("acme", 1_000, HALF))
    bill = world.bill()
    assert lines(bill) == {} == lines(experts(expert_price=PRICE).bill())
    facts = world.books.accounts.stated[-1]
    assert lines(under(bill, facts, asked(["served=2000000"]))) == {"acme": -1_000, "birch": 1_000, "cedar": 0}
    for wrong in ("served=-1", "served=dear", "served=1/0", "served="):
        with pytest.raises(Refused, match="is no price"):
            under(bill, facts, asked([wrong]))


def test_what_comes_behind_the_end_of_a_statement_is_billed_by_the_next():
    world = experts(expert_price=PRICE)
    end = world.books.tree.size
    world.say("acme/admin", world.served("acme", 1_000, HALF))
    admin = f"{CONSORTIUM}/admin"
    world.say(admin, world.books.statement("2026-11", end, seq=0, prev=FIRST))
    assert lines(world.books.statements[-1]) == {}
    assert lines(world.bill("2026-12")) == {"acme": -500 * PRICE / 10**6, "birch": 500 * PRICE / 10**6, "cedar": 0}
    assert lines(world.bill("2027-01")) == {}


def test_what_is_said_of_a_period_to_come_waits_for_its_statement():
    world = experts(expert_price=PRICE)
    world.say("acme/admin", world.served("acme", 1_000, HALF, period="2026-12"))
    assert lines(world.bill()) == {}
    assert lines(world.bill("2026-12"))["birch"] == 500 * PRICE / 10**6


def test_what_a_key_that_may_be_a_thiefs_has_said_waits_until_it_is_affirmed():
    world = experts(expert_price=PRICE)
    at = world.books.tree.size
    world.say("acme/admin", world.served("acme", 1_000, HALF))
    old, new = key("acme/admin"), key("acme/admin", 2)
    world.say("acme/admin", added("acme", "admin", new))
    world.append(world.sign("acme/admin", revoked("acme", "admin", old, suspect_from=at), new))
    assert lines(world.bill()) == {}
    world.append(world.sign("acme/admin", affirmed("acme", "admin", old, at, at + 1), new))
    assert lines(world.bill("2026-12"))["birch"] == 500 * PRICE / 10**6


def test_a_newcomer_is_paid_from_its_first_period_on():
    world = experts(expert_price=PRICE)
    members = (*world.charter.members, joining("dora", 1))
    joined = replace(world.charter, members=members, approvals=3)
    said = {"seq": 0, "prev": FIRST, "member": "acme"}
    proposal = Amendment(**said, amendment="dora", replaces=world.books.agreement.hash, charter=joined)
    hashed = world.say("acme/admin", proposal)
    for each in ("acme", "birch"):
        vote = Vote(**said | {"member": each}, amendment=hashed, choice="yes")
        world.say(f"{each}/admin", vote)
    world.members.append("dora")
    recipe = replace(TOY, feed="swiglu", member_experts=4)
    terms_ = {"members": (*NAMES, "dora"), "charter": world.books.agreement.hash}
    world.start("r2", recipe=recipe, start=digest("given"), **terms_)
    world.round("r2")
    found = refused(world, "acme/admin", "acme", 1_000, {"dora": 500}, "r2")
    assert (found.refusal, found.detail) == (Refusal.WRONG_MEMBER, "dora is no member in the period that runs")
    world.bill()
    world.say("acme/admin", world.served("acme", 1_000, {"dora": 500}, "r2", "2026-12"))
    assert lines(world.bill("2026-12"))["dora"] == 500 * PRICE / 10**6
