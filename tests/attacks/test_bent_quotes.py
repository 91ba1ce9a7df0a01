"""A member bends its quote to what it has seen: the work of the period, or what the others quoted."""

from fractions import Fraction

import pytest
from world import CONSORTIUM, World, digest

from shared_models.records.kinds import FIRST, Price, QuoteOpen, QuoteSeal
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.quotes import sealed

PERIOD = "2026-11"


def quote(world: World, member: str, about: str, amount: str, stolen: str = "") -> QuoteOpen:
    """Seal it, or hand in a seal that was stolen; what would open it."""
    opened = QuoteOpen(
        seq=0,
        prev=FIRST,
        member=member,
        about=about,
        period=PERIOD,
        members=(member,),
        amount=amount,
        salt=digest(f"salt {member}"),
    )
    seal = stolen or sealed(about, PERIOD, opened.members, amount, opened.salt)
    said = {"member": member, "about": about, "period": PERIOD, "members": (member,)}
    world.say(f"{member}/admin", QuoteSeal(seq=0, prev=FIRST, seal=seal, **said))
    return opened


def refused(action, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        action(*arguments)
    return caught.value.refusal


def test_quoting_after_the_fact():
    world = World()
    world.start()
    world.round()
    assert refused(quote, world, "acme", "alone", "0.01") is Refusal.AFTER_THE_FACT


def test_quoting_after_the_fact_behind_a_cost_that_names_another_period():
    """The ledger cannot know yet which period runs, so it takes the seal; but it counts for nothing."""
    world = World()
    honest = quote(world, "birch", "alone", "900")
    world.start()
    world.round()
    world.say("acme/admin", world.item("acme", 1, period="2027-01"))
    late = quote(world, "acme", "alone", "0.01")
    for each in (honest, late):
        world.say(f"{each.member}/admin", each)
    assert world.books.accounts.quotes.alone(PERIOD, world.books.tree.size) == {frozenset({"birch"}): 90_000}


def test_low_balling_after_seeing_the_others():
    world = World()
    first = quote(world, "acme", "price", "3")
    second = quote(world, "birch", "price", "2")
    world.say("acme/admin", first)
    assert refused(quote, world, "cedar", "price", "0.01") is Refusal.AFTER_THE_FACT
    cheaper = QuoteOpen(**{name: getattr(second, name) for name in QuoteOpen.__slots__} | {"amount": "3"})
    assert refused(world.say, "birch/admin", cheaper) is Refusal.WRONG_SEAL


def test_another_s_seal_opens_nothing():
    """Who hands in another's seal waits for the other to open it, and then says the same."""
    world = World()
    first = quote(world, "acme", "price", "3")
    seal = sealed("price", PERIOD, first.members, "3", first.salt)
    quote(world, "birch", "price", "3", seal)
    world.say("acme/admin", first)
    copied = QuoteOpen(
        **{name: getattr(first, name) for name in QuoteOpen.__slots__} | {"member": "birch", "members": ("birch",)}
    )
    assert refused(world.say, "birch/admin", copied) is Refusal.WRONG_SEAL


def test_a_price_that_the_administrator_made_up():
    world = World()
    opened = [quote(world, member, "price", amount) for member, amount in (("acme", "3"), ("birch", "2"))]
    for each in opened:
        world.say(f"{each.member}/admin", each)
    record = Price(seq=0, prev=FIRST, period=PERIOD, price=Fraction(10**9), quotes=("acme", "birch"))
    assert refused(world.say, f"{CONSORTIUM}/admin", record) is Refusal.WRONG_PRICE
