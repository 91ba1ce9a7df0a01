"""A member is billed often and little, so that rounding is always in its favour."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from world import World


@given(st.lists(st.tuples(st.sampled_from(["acme", "birch"]), st.integers(1, 4)), min_size=1, max_size=25))
def test_in_all_it_is_never_a_unit_ahead_however_many_bills_there_are(bills):
    world, exact, nets = World(), dict.fromkeys(["acme", "birch", "cedar"], Fraction(0)), dict[str, int]()
    for number, (payer, minor) in enumerate(bills):
        world.say(f"{payer}/admin", world.item(payer, minor, f"i{number}", period=f"p{number}"))
        exact[payer] += minor
        for each in world.bill(f"p{number}").balances:
            exact[each.member] -= Fraction(minor, 3)
            nets[each.member] = nets.get(each.member, 0) + each.net
            assert nets[each.member] + each.carry == exact[each.member]
            assert abs(each.carry) < 1
