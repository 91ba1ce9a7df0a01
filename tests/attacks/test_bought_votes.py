"""A member that gives nearly everything would like to decide alone. It has one vote, and no way to another."""

from dataclasses import replace
from fractions import Fraction

import pytest
from world import CONSORTIUM, World, added, digest, key, revoked

from shared_models.records.kinds import FIRST, Amendment, Chained, Vote
from shared_models.records.refusals import Refusal, Refused

ADMIN = "acme/admin"


@pytest.fixture
def world() -> World:
    """acme has nine tenths of the benefit, has done all the work, and has paid for everything."""
    world = World({"acme": 90, "birch": 5, "cedar": 5})
    world.start()
    world.round(members=["acme"])
    world.say(ADMIN, world.item("acme", 10**9))
    return world


def proposed(world: World, name: str = "mine", **new: object) -> str:
    return world.say(ADMIN, amendment(world, name, **new))


def amendment(world: World, name: str = "mine", **new: object) -> Amendment:
    return Amendment(
        seq=0,
        prev=FIRST,
        member="acme",
        amendment=name,
        replaces=world.books.agreement.hash,
        charter=replace(world.books.charter, **new),
    )


def vote(member: str, hashed: str) -> Vote:
    return Vote(seq=0, prev=FIRST, member=member, amendment=hashed, choice="yes")


def refused(world: World, author: str, record: Chained, *signers) -> Refusal:
    with pytest.raises(Refused) as caught:
        world.append(world.sign(author, record, *signers))
    assert world.books.charter == world.charter
    return caught.value.refusal


def test_nine_tenths_of_the_work_and_of_the_money_are_one_vote(world):
    hashed = proposed(world, price=Fraction(10**18))
    world.say(ADMIN, vote("acme", hashed))
    assert world.books.charter == world.charter
    assert refused(world, ADMIN, vote("acme", hashed)) is Refusal.CONFLICT
    world.say("cedar/admin", vote("cedar", hashed))
    assert world.books.charter.price == 10**18


def test_a_second_admin_key_is_no_second_vote(world):
    hashed = proposed(world, price=Fraction(1))
    new = key(ADMIN, 2)
    world.say(ADMIN, added("acme", "admin", new))
    world.say(ADMIN, vote("acme", hashed))
    assert refused(world, ADMIN, vote("acme", hashed), new) is Refusal.CONFLICT
    assert refused(world, ADMIN, vote("birch", hashed), new, key(ADMIN)) is Refusal.WRONG_ROLE


def test_no_signature_beside_the_author_s_is_a_vote(world):
    hashed = proposed(world, price=Fraction(1))
    world.append(world.sign(ADMIN, vote("acme", hashed), *(key(f"{each}/admin") for each in world.members)))
    assert world.books.charter == world.charter


def test_a_key_that_was_revoked_votes_no_more(world):
    hashed = proposed(world, price=Fraction(1))
    world.say("cedar/admin", added("cedar", "admin", key("cedar/admin", 2)))
    world.say("cedar/admin", revoked("cedar", "admin", key("cedar/admin")))
    assert refused(world, "cedar/admin", vote("cedar", hashed)) is Refusal.REVOKED
    world.append(world.sign("cedar/admin", vote("cedar", hashed), key("cedar/admin", 2)))


@pytest.mark.parametrize("approvals", [1, 2**62])
def test_no_charter_lets_one_decide_alone_or_nobody_ever(world, approvals):
    assert refused(world, ADMIN, amendment(world, approvals=approvals)) is Refusal.BAD_FIELD


def test_the_operator_s_keys_cannot_be_exchanged_by_a_charter(world):
    mine = key(f"{CONSORTIUM}/admin", 2).verify_key.text()
    assert refused(world, ADMIN, amendment(world, admin=mine)) is Refusal.WRONG_CHARTER


def test_votes_for_one_text_are_none_for_another(world):
    """The same name, one word different: what was voted for is the hash."""
    good, bad = proposed(world, "good", price=Fraction(2)), proposed(world, "bad", price=Fraction(3))
    world.say("birch/admin", vote("birch", good))
    world.say(ADMIN, vote("acme", bad))
    assert world.books.charter == world.charter
    assert refused(world, ADMIN, amendment(world, "good", price=Fraction(9))) is Refusal.CONFLICT
    assert refused(world, "cedar/admin", vote("cedar", digest("something else"))) is Refusal.WRONG_CHARTER
    world.say("cedar/admin", vote("cedar", good))
    assert (world.books.charter.price, world.books.agreement.hash) == (2, good)
