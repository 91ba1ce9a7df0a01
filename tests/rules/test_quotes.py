"""Sealed quotes: said in time, opened to the letter, and what follows from them: a price, caps, a certificate."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, World, digest, pot

from shared_models.records.kinds import FIRST, Price, Quoted, QuoteOpen, QuoteSeal
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.quotes import EXACT, caps, certificate, sealed, worst

PERIOD = "2026-12"


def opening(member: str, amount: str, about: str = "alone", members: tuple[str, ...] = (), **changes) -> QuoteOpen:
    whole = QuoteOpen(
        seq=0,
        prev=FIRST,
        member=member,
        about=about,
        period=PERIOD,
        members=members or (member,),
        amount=amount,
        salt=digest(f"salt {member} {about}"),
    )
    return replace(whole, **changes)


def seal_of(opened: QuoteOpen, **changes) -> QuoteSeal:
    said = opened.about, opened.period, opened.members, opened.amount, opened.salt
    whole = QuoteSeal(
        seq=0,
        prev=FIRST,
        member=opened.member,
        about=opened.about,
        period=opened.period,
        members=opened.members,
        seal=sealed(*said),
    )
    return replace(whole, **changes)


def say(world: World, record: QuoteSeal | QuoteOpen) -> None:
    world.say(f"{record.member}/admin", record)


def quote(world: World, *opened: QuoteOpen) -> None:
    """Everybody seals, then everybody opens."""
    for each in opened:
        say(world, seal_of(each))
    for each in opened:
        say(world, each)


def priced(world: World, price: Fraction | int, *quotes: str, period: str = PERIOD) -> None:
    record = Price(seq=0, prev=FIRST, period=period, price=Fraction(price), quotes=quotes)
    world.say(f"{CONSORTIUM}/admin", record)


def refuses(refusal: Refusal, action, *arguments, **named) -> None:
    world = arguments[0]
    before = world.books.tree.size
    with pytest.raises(Refused) as caught:
        action(*arguments, **named)
    assert (caught.value.refusal, world.books.tree.size) == (refusal, before)


def alone(world: World, period: str = PERIOD) -> dict[str, Fraction]:
    return {"+".join(sorted(each)): amount for each, amount in world.books.accounts.quotes.alone(period, 10**9).items()}


def prices(world: World) -> list[QuoteOpen]:
    return [opening(member, amount, "price") for member, amount in zip(world.members, ("3", "1.25", "2"), strict=True)]


# The seal.


def test_the_bytes_of_a_seal():
    salt = "00" * 31 + "ff"
    golden = "715eaa81b16e8db3fe33fa72953267f88f1ddca8423a8239be60edf73a791e43"  # printf and sha256sum say so.
    assert sealed("alone", "2026-11", ("acme", "birch"), "1200.5", salt) == golden


def test_every_part_is_sealed():
    whole = opening("acme", "7")
    said = [whole.about, whole.period, whole.members, whole.amount, whole.salt]
    others = ["price", "2027-01", ("birch",), "7.1", digest("another")]
    seals = [sealed(*said[:at], other, *said[at + 1 :]) for at, other in enumerate(others)]
    assert len({sealed(*said), *seals}) == 6


# In time.


def test_a_quote_that_was_sealed_before_the_work_counts():
    world = World()
    mine = opening("acme", "1200.5")
    say(world, seal_of(mine))
    assert alone(world) == {}
    world.start()
    world.round()
    say(world, mine)
    assert alone(world) == {"acme": 120_050}


@pytest.mark.parametrize("begin", ["round", "cost"])
def test_after_the_work_or_a_cost_of_its_period_has_begun_nothing_is_sealed(begin):
    world = World()
    world.start()
    if begin == "round":
        world.say(world.coordinator, world.opened())
    else:
        world.say("birch/admin", world.item("birch", 100, period=PERIOD))
    refuses(Refusal.AFTER_THE_FACT, say, world, seal_of(opening("acme", "1")))


def test_a_cost_that_names_another_period_lets_the_next_one_be_quoted():
    world = World()
    world.say("birch/admin", world.item("birch", 100, period="2026-11"))
    mine, late = opening("acme", "12"), opening("birch", "3", period="2026-11")
    refuses(Refusal.AFTER_THE_FACT, say, world, seal_of(late))
    quote(world, mine)
    world.bill("2026-11")
    assert alone(world) == {"acme": 1_200}
    world.say("birch/admin", world.item("birch", 100, "more", period=PERIOD))
    refuses(Refusal.AFTER_THE_FACT, say, world, seal_of(opening("cedar", "1")))
    world.bill(PERIOD)
    assert alone(world) == {"acme": 1_200}


def test_work_behind_the_end_of_a_statement_is_of_the_next_period():
    world = World()
    world.say("birch/admin", world.item("birch", 100, period="2026-11"))
    bill = world.statement("2026-11")
    early = opening("acme", "12")
    say(world, seal_of(early))
    world.say("birch/admin", world.item("birch", 100, "more", period=PERIOD))
    late = opening("birch", "12")
    say(world, seal_of(late))  # Nothing shows yet that this is late.
    world.say(f"{CONSORTIUM}/admin", bill)
    say(world, early)
    say(world, late)
    assert alone(world) == {"acme": 1_200}


def test_what_has_its_statement_is_neither_quoted_nor_opened_nor_priced():
    world = World()
    mine = prices(world)
    for each in mine:
        say(world, seal_of(each))
    say(world, mine[0])
    say(world, mine[1])
    world.bill(PERIOD)
    refuses(Refusal.AFTER_THE_FACT, say, world, seal_of(opening("acme", "1")))
    refuses(Refusal.AFTER_THE_FACT, say, world, mine[2])
    refuses(Refusal.AFTER_THE_FACT, priced, world, 212, "acme", "birch")


def test_a_statement_counts_what_was_opened_below_its_end():
    world = World()
    quote(world, opening("acme", "5"), opening("birch", "6"))
    assert {len(each) for each in world.books.accounts.quotes.alone(PERIOD, world.books.tree.size)} == {1}
    assert world.books.accounts.quotes.alone(PERIOD, world.books.tree.size - 1) == {frozenset({"acme"}): 500}


# To the letter.


@pytest.mark.parametrize("lie", [{"amount": "6"}, {"salt": digest("another")}, {"period": "2027-01"}])
def test_only_what_was_sealed_is_opened(lie):
    world = World()
    mine = opening("acme", "5")
    say(world, seal_of(mine))
    refuses(Refusal.WRONG_SEAL, say, world, replace(mine, **lie))
    say(world, mine)
    refuses(Refusal.CONFLICT, say, world, mine)


def test_without_a_seal_there_is_nothing_to_open():
    refuses(Refusal.WRONG_SEAL, say, World(), opening("acme", "5"))


@pytest.mark.parametrize("members", [("birch",), ("birch", "acme"), ("acme", "acme"), ("acme", "dane"), ()])
def test_a_quote_names_members_in_order_its_author_among_them(members):
    refuses(Refusal.WRONG_MEMBER, say, World(), seal_of(opening("acme", "5"), members=members))


def test_a_price_is_quoted_by_each_for_itself():
    world = World()
    refuses(Refusal.WRONG_MEMBER, say, world, seal_of(opening("acme", "5", "price", ("acme", "birch"))))
    say(world, seal_of(opening("acme", "5", "price")))


def test_only_its_administrator_quotes_for_a_member():
    world = World()
    record = seal_of(opening("acme", "5"))
    for author, refusal in (("birch/admin", Refusal.WRONG_MEMBER), ("acme/compute", Refusal.WRONG_ROLE)):
        with pytest.raises(Refused) as caught:
            world.say(author, record)
        assert caught.value.refusal is refusal


def test_of_two_quotes_for_one_coalition_the_least_counts():
    world, both = World(), ("acme", "birch")
    quote(world, opening("acme", "9", members=both), opening("birch", "8", members=both), opening("acme", "7"))
    assert alone(world) == {"acme+birch": 800, "acme": 700}


# The price.


def test_the_price_is_the_median_of_what_was_opened():
    world = World()
    quote(world, *prices(world))
    assert world.books.accounts.quotes.price(PERIOD, 10**9) is None
    refuses(Refusal.WRONG_PRICE, priced, world, 201, "acme", "birch", "cedar")
    refuses(Refusal.WRONG_PRICE, priced, world, 200, "acme", "birch")
    priced(world, 200, "acme", "birch", "cedar")
    assert world.books.accounts.quotes.price(PERIOD, world.books.tree.size) == 200
    assert world.books.accounts.quotes.price(PERIOD, world.books.tree.size - 1) is None
    refuses(Refusal.CONFLICT, priced, world, 200, "acme", "birch", "cedar")


def test_of_an_even_number_it_is_the_mean_of_the_two_in_the_middle_exactly():
    world = World()
    acme, birch, _ = prices(world)
    quote(world, replace(acme, amount="0.001"), birch)
    priced(world, Fraction(1251, 20), "acme", "birch")
    assert world.books.accounts.quotes.price(PERIOD, 10**9) == Fraction(1251, 20)


def test_it_takes_the_quotes_of_more_than_half_of_the_members():
    world = World()
    acme, birch, _ = prices(world)
    say(world, seal_of(acme))
    say(world, seal_of(birch))
    say(world, acme)
    refuses(Refusal.WRONG_PRICE, priced, world, 300, "acme")
    refuses(Refusal.WRONG_PRICE, priced, World(), 0)
    with pytest.raises(Refused):
        World().books.accounts.quotes.median(PERIOD)


def test_nobody_opens_a_price_before_more_than_half_have_sealed_theirs():
    """Who opens at once would keep all others from quoting."""
    world = World()
    acme, birch, cedar = prices(world)
    say(world, seal_of(acme))
    refuses(Refusal.TOO_EARLY, say, world, acme)
    say(world, seal_of(opening("birch", "1")))  # Of another thing.
    refuses(Refusal.TOO_EARLY, say, world, acme)
    say(world, seal_of(birch))
    say(world, acme)
    refuses(Refusal.AFTER_THE_FACT, say, world, seal_of(cedar))


def test_no_period_is_priced_after_its_work_has_begun():
    world = World()
    quote(world, *prices(world))
    world.start()
    world.round()
    refuses(Refusal.AFTER_THE_FACT, priced, world, 200, "acme", "birch", "cedar")


def test_a_price_entered_while_its_own_period_ran_under_another_name_does_not_hold():
    world = World()
    quote(world, *prices(world))
    world.say("birch/admin", world.item("birch", 100, period="2026-11"))
    priced(world, 200, "acme", "birch", "cedar")
    assert world.books.accounts.quotes.price(PERIOD, 10**9) is None  # As long as this may be the period that runs;
    world.bill("2026-11")
    assert world.books.accounts.quotes.price(PERIOD, 10**9) == 200  # it was not.


def test_nobody_but_the_administrator_enters_a_price():
    world = World()
    quote(world, *prices(world))
    record = Price(seq=0, prev=FIRST, period=PERIOD, price=Fraction(200), quotes=("acme", "birch", "cedar"))
    with pytest.raises(Refused) as caught:
        world.say("acme/admin", record)
    assert caught.value.refusal is Refusal.WRONG_ROLE


# The certificate.


def coalition(*members: str) -> frozenset[str]:
    return frozenset(members)


def line(members: str, charge: int, quoted: int) -> Quoted:
    return Quoted(members=tuple(members.split("+")), charge=Fraction(charge), alone=Fraction(quoted))


CHARGES = {"a": Fraction(60), "b": Fraction(30), "c": Fraction(10)}


def test_a_certificate_begins_with_who_gains_least():
    quotes = {coalition("a"): 100, coalition("b"): 35, coalition("c"): 15, coalition("a", "b"): 80, coalition("d"): 1}
    exact = {each: Fraction(amount) for each, amount in quotes.items()}
    assert certificate(CHARGES, exact) == (
        line("a+b", 90, 80),
        line("b", 30, 35),
        line("c", 10, 15),
        line("a", 60, 100),
    )
    assert caps(exact) == {"a": 100, "b": 35, "c": 15, "d": 1}
    assert certificate(CHARGES, {}) == ()


def test_the_worst_union_of_coalitions_that_could_leave_together():
    assert worst(()) is None
    assert worst([line("a", 60, 70), line("b", 30, 30)]) == line("b", 30, 30)
    apart = [line("a", 60, 50), line("b", 30, 29), line("c", 10, 40), line("b+c", 40, 35)]
    assert worst(apart) == line("a+b+c", 100, 85)
    overlapping = [line("a+b", 90, 70), line("b+c", 40, 25), line("a", 60, 50)]
    assert worst(overlapping) == line("a+b+c", 100, 75)


@st.composite
def certificates(draw):
    names = "abcdefgh"[: draw(st.integers(1, 8))]
    found = draw(st.lists(st.sets(st.sampled_from(names), min_size=1).map(frozenset), unique=True, max_size=EXACT))
    charges = {name: Fraction(draw(st.integers(0, 9)), 2) for name in names}
    return certificate(charges, {each: Fraction(draw(st.integers(0, 30))) for each in found})


@given(certificates())
def test_no_union_is_worse(certified):
    slack = [(each.alone - each.charge, set(each.members)) for each in certified]
    unions = [
        sum(each for each, _ in chosen)
        for size in range(1, min(len(slack), 5) + 1)
        for chosen in combinations(slack, size)
        if sum(len(members) for _, members in chosen) == len(set().union(*(members for _, members in chosen)))
    ]
    found = worst(certified)
    assert (found is None) == (not slack)
    if found is not None:
        assert found.alone - found.charge <= min(unions)


def test_of_very_many_coalitions_the_worst_is_taken_first():
    many = [Quoted(members=(f"m{n:02}",), charge=Fraction(n + 1), alone=Fraction(0)) for n in range(EXACT + 1)]
    found = worst(many)
    assert (len(found.members), found.charge) == (EXACT + 1, sum(range(EXACT + 2)))
    both = Quoted(members=("m11", "m12"), charge=Fraction(20), alone=Fraction(0))
    assert worst([*many, both]).charge == sum(range(EXACT)) + 20


def test_quotes_are_in_the_charter_s_minor_units():
    world = World(currency="JPY", minor_digits=0, pots=(pot("compute", "proportional"), pot("services", "equal")))
    quote(world, opening("acme", "5.5"))
    assert alone(world) == {"acme": Fraction(11, 2)}
