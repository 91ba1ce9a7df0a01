"""A payer chooses the day, or the rate, by which its invoice is worth most."""

from fractions import Fraction

import pytest
from world import CONSORTIUM, World

from shared_models.records.kinds import FIRST, Rate
from shared_models.records.refusals import Refusal, Refused


def refused(world: World, author: str, record) -> Refusal:
    with pytest.raises(Refused) as caught:
        world.say(author, record)
    return caught.value.refusal


def test_only_a_day_with_a_rate_counts_and_only_the_administrator_says_it_once():
    world = World()
    said = {"seq": 0, "prev": FIRST, "currency": "USD", "source": "a bank", "replaces": FIRST}
    world.say(f"{CONSORTIUM}/admin", Rate(date="2026-11-05", rate=Fraction(9, 10), **said))
    dear = world.item("acme", 100, currency="USD", date="2026-11-30")
    assert refused(world, "acme/admin", dear) is Refusal.NO_RATE
    mine = Rate(date="2026-11-30", rate=Fraction(2), **said)
    assert refused(world, "acme/admin", mine) is Refusal.WRONG_ROLE
    another = Rate(date="2026-11-05", rate=Fraction(2), **said)
    assert refused(world, f"{CONSORTIUM}/admin", another) is Refusal.CONFLICT


def test_a_rate_that_comes_later_changes_no_invoice_of_another_day():
    world = World()
    said = {"seq": 0, "prev": FIRST, "currency": "USD", "source": "a bank", "replaces": FIRST}
    world.say(f"{CONSORTIUM}/admin", Rate(date="2026-11-05", rate=Fraction(9, 10), **said))
    world.say("acme/admin", world.item("acme", 100, currency="USD"))
    world.say(f"{CONSORTIUM}/admin", Rate(date="2026-11-06", rate=Fraction(2), **said))
    assert [each.credit for each in world.statement().lines if each.pot == "services"] == [90, 0, 0]
