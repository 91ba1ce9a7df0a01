"""Who has paid, and who does not: whatever is paid and whoever is in default, the rest settle to the unit."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, World

from shared_models.records.kinds import FIRST, Balance, Default, Settlement, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.netting import net_transfers
from shared_models.rules.settlement import Settlements, carried
from shared_models.rules.statement import settle

PERIOD = "2026-11"


def stated(exact: dict[str, Fraction], carries: dict[str, Fraction] | None = None, period: str = PERIOD) -> Statement:
    """A statement of nothing but what each is owed, rounded as statements are."""
    nets, left = settle(exact, carries or {}, period)
    return Statement(
        seq=0,
        prev=FIRST,
        period=period,
        charter="0" * 64,
        price=Fraction(1),
        start=0,
        end=0,
        root="0" * 64,
        cosignatures=(),
        lines=(),
        balances=tuple(Balance(member=each, flop=0, net=nets[each], carry=left[each]) for each in exact),
        transfers=net_transfers(nets),
        certificate=(),
        unspent_flop=0,
    )


class Party:
    """Some members, one statement, and what they say of it."""

    def __init__(self, nets: dict[str, int | Fraction], benefits: dict[str, int] | None = None) -> None:
        self.members = sorted(nets)
        self.settlements = Settlements()
        self.statement = stated({member: Fraction(net) for member, net in nets.items()})
        self.benefits = benefits or dict.fromkeys(nets, 1)
        self.settlements.add_statement(self.statement, self.benefits)

    def say(self, record: Settlement | Default) -> None:
        self.settlements.check(record, self.members)
        self.settlements.add(record, self.members)

    def says(self, member: str, payer: str, payee: str, amount: int, netting: int = 0) -> None:
        named = {"payer": payer, "payee": payee, "amount": amount, "netting": netting}
        self.say(Settlement(seq=0, prev=FIRST, member=member, period=PERIOD, **named))

    def pay(self, payer: str, payee: str, amount: int, netting: int = 0) -> None:
        for member in (payer, payee):
            self.says(member, payer, payee, amount, netting)

    def blame(self, member: str, defaulter: str, netting: int = 0, period: str = PERIOD) -> None:
        named = {"defaulter": defaulter, "netting": netting, "reason": "four weeks"}
        self.say(Default(seq=0, prev=FIRST, member=member, period=period, **named))

    def fail(self, defaulter: str, netting: int = 0) -> None:
        """As many of the others as it takes, say that this one does not pay."""
        for member in [each for each in self.members if each != defaulter][: (len(self.members) - 1) // 2 + 1]:
            self.blame(member, defaulter, netting)

    def owes(self, member: str) -> bool:
        """Whether it could be said to be in default."""
        named = {"defaulter": member, "netting": self.settlements.netting(PERIOD), "reason": ""}
        other = next(each for each in self.members if each != member)
        try:
            self.settlements.check(Default(seq=0, prev=FIRST, member=other, period=PERIOD, **named), self.members)
        except Refused:
            return False
        return True

    @property
    def open(self) -> list[tuple[str, str, int]]:
        return [each[1:4] for each in self.settlements.open(PERIOD)]

    @property
    def nets(self) -> dict[str, int]:
        """What each is still to get, by what is open."""
        nets = dict.fromkeys(self.members, 0)
        for payer, payee, amount in self.open:
            nets[payer] -= amount
            nets[payee] += amount
        return nets


def refuses(party: Party, refusal: Refusal, action, *arguments, **named) -> None:
    before = party.open
    with pytest.raises(Refused) as caught:
        action(*arguments, **named)
    assert (caught.value.refusal, party.open) == (refusal, before)


# Paying.


def test_a_transfer_is_paid_when_both_have_said_so():
    party = Party({"ada": -100, "bob": 60, "eve": 40})
    assert party.open == [("ada", "bob", 60), ("ada", "eve", 40)]
    party.says("ada", "ada", "bob", 60)
    assert party.open == [("ada", "bob", 60), ("ada", "eve", 40)]
    assert party.settlements.open(PERIOD)[0].said == {"ada"}
    assert party.settlements.paid(PERIOD) == {"ada": 0, "bob": 0, "eve": 0}
    party.says("bob", "ada", "bob", 60)
    assert party.open == [("ada", "eve", 40)]
    assert party.settlements.paid(PERIOD) == {"ada": 60, "bob": -60, "eve": 0}
    refuses(party, Refusal.NOT_OWED, party.says, "ada", "ada", "bob", 60)


@pytest.mark.parametrize(
    "said",
    [("ada", "ada", "bob", 59), ("ada", "ada", "bob", 60, 1), ("eve", "eve", "bob", 60), ("ada", "ada", "dan", 60)],
)
def test_only_what_is_open_is_paid(said):
    party = Party({"ada": -100, "bob": 60, "eve": 40})
    refuses(party, Refusal.NOT_OWED, party.says, *said)


def test_nobody_else_says_what_was_paid():
    party = Party({"ada": -100, "bob": 60, "eve": 40})
    refuses(party, Refusal.WRONG_MEMBER, party.says, "eve", "ada", "bob", 60)


def test_of_no_statement_nothing_is_paid():
    party = Party({"ada": -1, "bob": 1})
    record = Settlement(seq=0, prev=FIRST, member="ada", period="p", netting=0, payer="ada", payee="bob", amount=1)
    refuses(party, Refusal.NOT_OWED, party.say, record)
    for ask in (party.settlements.open, party.settlements.paid, party.settlements.defaulters):
        refuses(party, Refusal.NOT_OWED, ask, "p")


# Default.


def test_more_than_half_of_the_others_have_to_say_so():
    party = Party({"ada": -90, "bob": 30, "dan": 30, "eve": 30})
    party.blame("bob", "ada")
    assert party.settlements.defaulters(PERIOD) == ()
    party.blame("eve", "ada")
    assert party.settlements.defaulters(PERIOD) == ("ada",)
    assert (party.open, party.settlements.netting(PERIOD)) == ([], 1)
    assert carried({"bob", "eve", "gone"}, ["bob", "dan", "eve", "fay"]) is False


def test_the_rest_bear_it_by_their_benefit_and_settle_anew():
    party = Party({"ada": -90, "bob": -10, "dan": 40, "eve": 60}, {"ada": 7, "bob": 3, "dan": 0, "eve": 6})
    party.fail("ada")
    assert party.nets == {"ada": 0, "bob": -40, "dan": 40, "eve": 0}
    assert party.open == [("bob", "dan", 40)]
    assert set(party.settlements.carries.values()) == {0}


def test_without_any_benefit_among_the_rest_they_bear_it_equally():
    party = Party({"ada": -90, "bob": 30, "eve": 60}, {"ada": 7, "bob": 0, "eve": 0})
    party.fail("ada")
    assert party.nets == {"ada": 0, "bob": -15, "eve": 15}


def test_a_lone_creditor_bears_what_it_is_not_paid():
    party = Party({"ada": -90, "bob": 90})
    party.blame("bob", "ada")
    assert (party.open, party.settlements.defaulters(PERIOD)) == ([], ("ada",))


def test_who_owes_nothing_is_not_declared_in_default():
    party = Party({"ada": -100, "bob": 60, "eve": 40})
    refuses(party, Refusal.NOT_OWED, party.blame, "ada", "bob")
    refuses(party, Refusal.NOT_OWED, party.blame, "bob", "ada", netting=1)
    refuses(party, Refusal.NOT_OWED, party.blame, "bob", "ada", period="p")
    party.pay("ada", "bob", 60)
    party.pay("ada", "eve", 40)
    refuses(party, Refusal.NOT_OWED, party.blame, "bob", "ada")


@pytest.mark.parametrize("member", ["ada", "stranger"])
def test_neither_the_defaulter_nor_who_has_left_has_a_say(member):
    party = Party({"ada": -100, "bob": 60, "eve": 40})
    refuses(party, Refusal.WRONG_MEMBER, party.blame, member, "ada")


def test_what_is_said_of_a_debt_ends_with_it():
    party = Party({"ada": -10, "bob": -50, "dan": 30, "eve": 30}, {"ada": 1, "bob": 0, "dan": 1, "eve": 0})
    party.blame("dan", "ada")
    (payment,) = [each for each in party.open if each[0] == "ada"]
    party.pay(*payment)
    party.fail("bob")
    assert party.nets["ada"] == -25  # It bears a half of what bob owes, and so owes again;
    party.blame("eve", "ada", 1)
    assert party.settlements.defaulters(PERIOD) == ("bob",)  # dan has said nothing about that.
    party.blame("dan", "ada", 1)
    assert party.settlements.defaulters(PERIOD) == ("bob", "ada")


def test_what_is_said_of_a_debt_holds_when_another_default_makes_it_more():
    party = Party({"ada": -10, "bob": -50, "dan": 30, "eve": 30})
    party.blame("dan", "ada")
    party.fail("bob")
    party.blame("eve", "ada", 1)
    assert party.settlements.defaulters(PERIOD) == ("bob", "ada")


def test_the_payee_s_word_counts_and_the_defaulter_s_does_not():
    party = Party({"ada": -100, "bob": 60, "eve": 40}, {"ada": 0, "bob": 1, "eve": 1})
    party.says("bob", "ada", "bob", 60)  # It came, though ada does not say so.
    party.says("ada", "ada", "eve", 40)  # It did not come, whatever ada says.
    party.fail("ada")
    assert party.settlements.paid(PERIOD) == {"ada": 60, "bob": -60, "eve": 0}
    assert party.open == [("bob", "eve", 20)]


def test_who_was_paid_all_by_the_payee_s_word_owes_nothing():
    party = Party({"ada": -60, "bob": 60})
    party.says("bob", "ada", "bob", 60)
    refuses(party, Refusal.NOT_OWED, party.blame, "bob", "ada")


def test_what_another_says_is_on_its_way_stays_open_as_it_is():
    party = Party({"ada": -100, "bob": -60, "eve": 160}, {"ada": 0, "bob": 1, "eve": 1})
    party.says("bob", "bob", "eve", 60)
    party.fail("ada")
    assert party.open == [("bob", "eve", 60), ("bob", "eve", 50)]
    assert [each.netting for each in party.settlements.open(PERIOD)] == [0, 1]
    party.says("eve", "bob", "eve", 60)
    party.pay("bob", "eve", 50, netting=1)
    assert party.open == []
    assert party.settlements.paid(PERIOD) == {"ada": 0, "bob": 110, "eve": -110}


def test_what_is_on_its_way_to_the_defaulter_is_paid():
    """cedar defaults; then dan, to whom ada says it has paid something, does not pay what that made it owe."""
    party = Party({"ada": -50, "bob": 90, "cedar": -90, "dan": 50}, {"ada": 0, "bob": 0, "cedar": 1, "dan": 1})
    party.says("ada", *next(each for each in party.open if each[0] == "ada"))
    (way,) = [each for each in party.settlements.open(PERIOD) if each.said]
    assert way[1:4] == ("ada", "dan", 50)
    party.fail("cedar")
    assert party.open == [("ada", "dan", 50), ("dan", "bob", 90)]
    party.fail("dan", netting=1)
    assert party.settlements.paid(PERIOD) == {"ada": 50, "bob": 0, "cedar": 0, "dan": -50}
    assert party.open == [("ada", "bob", 45)]


def test_what_was_on_its_way_for_ever_is_a_debt_too():
    party = Party({"ada": -100, "bob": -60, "eve": 160}, {"ada": 0, "bob": 1, "eve": 1})
    party.says("bob", "bob", "eve", 60)
    party.fail("ada")
    party.pay("bob", "eve", 50, netting=1)
    party.fail("bob", netting=1)
    assert (party.open, party.nets["eve"]) == ([], 0)
    assert party.settlements.defaulters(PERIOD) == ("ada", "bob")


def test_a_second_default_nets_again_and_the_first_is_not_asked_to_bear_it():
    party = Party({"ada": -80, "bob": -40, "dan": 60, "eve": 60}, {"ada": 9, "bob": 1, "dan": 1, "eve": 2})
    party.fail("ada")
    assert party.nets == {"ada": 0, "bob": -60, "dan": 40, "eve": 20}
    refuses(party, Refusal.NOT_OWED, party.blame, "dan", "ada", netting=1)
    party.fail("bob", netting=1)
    assert party.nets == {"ada": 0, "bob": 0, "dan": 20, "eve": -20}
    assert party.settlements.netting(PERIOD) == 2


@st.composite
def parties(draw):
    names = [f"m{number}" for number in range(draw(st.integers(2, 7)))]
    part = st.fractions(-1000, 1000, max_denominator=7)
    nets = {name: draw(part) for name in names[1:]}
    nets[names[0]] = -sum(nets.values(), Fraction(0))
    return Party(nets, {name: draw(st.integers(0, 4)) for name in names})


def shares(debt: Fraction, benefits: dict[str, int], rest: Iterable[str]) -> dict[str, Fraction]:
    weights = {name: benefits[name] for name in rest}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1)
    return {name: debt * weight / sum(weights.values()) for name, weight in weights.items()}


@given(parties(), st.randoms(use_true_random=False))
def test_the_rest_settle_to_the_unit_whatever_was_paid_and_whoever_is_in_default(party, random):
    """By the exact amounts alone: due is what each is to get in all, which shrinks by what it bears."""
    settlements, benefits = party.settlements, party.benefits
    due = {each.member: each.net + each.carry for each in party.statement.balances}
    gone: list[str] = []
    for netting in range(len(party.members)):
        for each in settlements.open(PERIOD):
            for member in random.choice([[], [each.payer], [each.payee], [each.payer, each.payee]]):
                if member not in each.said:
                    party.says(member, *each[1:4], each.netting)
        owing = [name for name in party.members if party.owes(name)]
        if not owing:
            break
        defaulter = random.choice(owing)
        party.fail(defaulter, netting)
        gone.append(defaulter)
        paid, carries = settlements.paid(PERIOD), settlements.carries
        debt = -due[defaulter] - paid[defaulter]
        for name, share in shares(debt, benefits, set(party.members) - set(gone)).items():
            due[name] -= share
        due[defaulter] += debt
        for name in party.members:
            assert party.nets[name] + carries[name] == due[name] + paid[name]
            assert abs(carries[name]) < 1
        assert all(carries[name] == party.nets[name] == 0 for name in gone)
        assert sum(carries.values()) == sum(party.nets.values()) == 0
        assert sum(1 for each in settlements.open(PERIOD) if each.netting == netting + 1) < len(party.members)


@given(parties(), parties())
def test_a_late_default_is_rounded_with_what_is_carried_now(party, other):
    """A statement later, the carries are others; each stays below one unit all the same."""
    carries = {name: party.settlements.carries.get(name, Fraction(0)) for name in {*party.members, *other.members}}
    exact = {each.member: Fraction(each.net) for each in other.statement.balances}
    later = stated({name: exact.get(name, Fraction(0)) for name in carries}, carries, "2026-12")
    party.settlements.add_statement(later, {})
    owing = [each[0] for each in party.open]
    if owing:
        party.fail(owing[0])
        assert all(abs(carry) < 1 for carry in party.settlements.carries.values())
        assert party.settlements.carries[owing[0]] == sum(party.settlements.carries.values()) == 0


def carrying(**carries: Fraction) -> Party:
    """ada owes bob 10, and this is what everybody carries since; zed joined later."""
    party = Party({"ada": -10, "bob": 10})
    party.settlements.add_statement(stated(dict.fromkeys(carries, Fraction(0)), carries, "2026-12"), {})
    assert party.settlements.carries == carries
    party.members = ["ada", "bob", "zed"]
    party.fail("ada")
    return party


def test_who_joined_later_and_gets_a_unit_of_what_it_carries_bears_it_if_nobody_else_is_left():
    party = carrying(ada=Fraction(-1, 2), bob=Fraction(0), zed=Fraction(1, 2))
    assert party.open == [("bob", "zed", 1)]
    party.fail("bob", netting=1)
    assert (party.open, set(party.settlements.carries.values())) == ([], {0})


def test_who_joined_later_and_owes_a_unit_of_what_it_carries_can_be_in_default():
    party = carrying(ada=Fraction(3, 10), bob=Fraction(3, 10), zed=Fraction(-3, 5))
    assert party.open == [("zed", "bob", 1)]
    party.settlements.add_statement(stated({"ada": Fraction(0), "bob": Fraction(0)}, {}, "2027-01"), {})
    party.fail("zed", netting=1)
    assert (party.open, set(party.settlements.carries.values())) == ([], {0})


# In the books.


def world_with_a_bill() -> World:
    world = World()
    world.say("birch/admin", world.item("birch", 301))
    world.bill(PERIOD)
    return world


def settlement(world: World, member: str, payer: str) -> Settlement:
    (each,) = [each for each in world.books.accounts.settlements.open(PERIOD) if each.payer == payer]
    named = each._asdict()
    del named["said"]
    return Settlement(seq=0, prev=FIRST, member=member, period=PERIOD, **named)


def default(member: str, defaulter: str) -> Default:
    return Default(seq=0, prev=FIRST, member=member, period=PERIOD, netting=0, defaulter=defaulter, reason="four weeks")


def test_each_speaks_once_and_by_its_administrator():
    world = world_with_a_bill()
    mine = settlement(world, "acme", "acme")
    for author, refusal in (("acme/compute", Refusal.WRONG_ROLE), ("birch/admin", Refusal.WRONG_MEMBER)):
        with pytest.raises(Refused) as caught:
            world.say(author, mine)
        assert caught.value.refusal is refusal
    world.say("acme/admin", mine)
    with pytest.raises(Refused) as caught:
        world.say("acme/admin", mine)
    assert caught.value.refusal is Refusal.CONFLICT
    world.say("birch/admin", replace(mine, member="birch"))
    assert [each.payer for each in world.books.accounts.settlements.open(PERIOD)] == ["cedar"]
    with pytest.raises(Refused) as caught:
        world.say("acme/admin", default("birch", "cedar"))
    assert caught.value.refusal is Refusal.WRONG_MEMBER


def test_what_a_default_leaves_over_is_carried_into_the_next_statement():
    world = world_with_a_bill()
    for member in ("acme", "birch"):
        world.say(f"{member}/admin", default(member, "cedar"))
    carries = world.books.accounts.settlements.carries
    assert any(carries.values())
    exact = {each.member: each.net + each.carry for each in world.statement("2026-12").balances}
    assert exact == carries
    world.say(f"{CONSORTIUM}/admin", world.statement("2026-12"))
