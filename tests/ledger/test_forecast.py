"""What a run has cost and what is still to come of it: the numbers, the chance that is said of them, and the page."""

import csv
import io
import json
from fractions import Fraction
from itertools import accumulate, permutations
from math import factorial

import pytest
from reading import get, rows, served, text
from world import World

from ledger.curve import Track, track
from ledger.forecast import FEW, Band, Sum, band, chance, forecast, so_far
from shared_models.rules.pricing import value

TAKEN_S = (40, 30, 50, 45, 35)
BEGAN_MS = 7_258_118_400_000  # In the year 2200: on a page no round of it takes long.
FLOP = 4_276_224  # Of one member in one round.


def trained(world: World, taken_s: tuple[int, ...] = TAKEN_S, is_open: bool = True, **manifest: int) -> Track:
    """A run whose rounds have taken so long from one opening to the next; birch misses the first."""
    world.start(**{"rounds": 8} | manifest)
    *before, newest = [BEGAN_MS + 1000 * each for each in accumulate(taken_s, initial=0)]
    for at in before if is_open else [*before, newest]:
        who = ["acme", "cedar"] if at == BEGAN_MS else world.members
        world.round(members=who, opened_ms=at, deadline_ms=at + 60_000)
    if is_open:
        world.say(world.coordinator, world.opened(opened_ms=newest, deadline_ms=newest + 60_000))
    return track(world.books, world.books.runs["r1"])


def found(run: Track, now_ms: int = BEGAN_MS) -> Band:
    told = band(run, now_ms)
    assert isinstance(told, Band), told
    return told


def test_the_band_is_as_many_times_the_least_and_the_most_that_was_seen():
    world = World()
    run, price = trained(world), world.charter.price
    newest = BEGAN_MS + 200_000
    assert so_far(run) == Sum(5, 14 * FLOP, value(14 * FLOP, price), 200_000, newest)
    assert found(run) == Band(
        least=Sum(3, 6 * FLOP, value(6 * FLOP, price), 90_000, newest + 90_000),
        most=Sum(3, 9 * FLOP, value(9 * FLOP, price), 150_000, newest + 150_000),
        seen=5,
        chance=Fraction(5 * 4, 8 * 7),
    )


def test_while_no_round_is_open_the_newest_one_s_work_is_known_and_its_time_is_not():
    world = World()
    run = trained(world, is_open=False)
    newest, told = BEGAN_MS + 200_000, found(run)
    assert so_far(run)[:2] == (6, 17 * FLOP)
    assert (told.least[:2], told.most[:2]) == ((2, 4 * FLOP), (2, 6 * FLOP))
    assert (told.least.until_ms, told.most.until_ms) == (newest + 90_000, newest + 150_000)
    assert (told.seen, told.chance) == (5, Fraction(5, 14))


@pytest.mark.parametrize(
    ("now_s", "least_s", "most_s", "overdue"),
    [(0, 90, 150, None), (30, 90, 150, None), (42, 102, 150, None), (50, 110, 150, None), (51, 111, 151, 6)],
)
def test_a_round_that_is_open_has_not_ended_before_now(now_s, least_s, most_s, overdue):
    run, newest = trained(World()), BEGAN_MS + 200_000
    told = found(run, newest + 1000 * now_s)
    assert (told.least.takes_ms, told.most.takes_ms) == (1000 * least_s, 1000 * most_s)
    assert told.least.until_ms == newest + 1000 * least_s
    shown = forecast(run, newest + 1000 * now_s)
    assert shown["overdue"] == overdue
    assert [row["chance"] is None for row in shown["rows"]] == [True, *4 * [overdue is not None]]


def test_of_few_rounds_nothing_is_said_and_why():
    told = forecast(trained(World(), TAKEN_S[: FEW - 1]), BEGAN_MS)
    assert told["rows"] == []
    assert told["why"] == (
        "Nothing can be said yet of what is to come: of 8 rounds 3 have been seen from their opening to the next,"
        " and of fewer than 4 another one leaves what they span as often as not."
    )
    assert chance(FEW - 1, 1) == Fraction(1, 2) < chance(FEW, 1)
    assert forecast(trained(World(), TAKEN_S[:FEW]), BEGAN_MS)["why"] == ""
    world = World()
    world.start()
    told = forecast(track(world.books, world.books.runs["r1"]), BEGAN_MS)
    assert (told["cost"].plain, told["work"].plain, told["rows"]) == ("0", "0", [])


def test_of_a_run_that_is_over_there_is_no_forecast():
    world = World()
    run = trained(world, rounds=6, is_open=False)
    told = forecast(run, BEGAN_MS)
    assert (told["rows"], told["why"]) == ([], "Nothing is to come: every round is closed.")
    world.say(world.coordinator, world.end())
    told = forecast(track(world.books, world.books.runs["r1"]), BEGAN_MS)
    assert (told["rows"], told["why"]) == ([], "Nothing is to come: the run has ended.")
    assert Fraction(told["cost"].plain) == value(17 * FLOP, world.charter.price)
    world = World()
    trained(world)
    world.say(world.coordinator, world.end(status="failed", reason="power cut"))
    assert forecast(track(world.books, world.books.runs["r1"]), BEGAN_MS)["rows"] == []


def test_of_a_clock_that_has_gone_back_nothing_follows():
    told = forecast(trained(World(), (40, 30, -1, 45, 35)), BEGAN_MS)
    assert told["rows"] == []
    assert told["why"].endswith("the coordinator's clock has gone back from one round to the next.")


def test_what_was_spent_is_at_the_price_of_its_period_and_what_is_to_come_at_the_one_in_force():
    world, quoted = World(), Fraction(7 * 10**12)
    world.start(rounds=9)
    world.quoted(quoted)
    for number in range(6):
        if number == 4:
            world.bill()
        world.round(members=["acme", "birch"] if number == 4 else ["acme"], opened_ms=BEGAN_MS + number)
    run, price = track(world.books, world.books.runs["r1"]), world.charter.price
    assert so_far(run).cost == value(4 * FLOP, quoted) + value(3 * FLOP, price)
    assert quoted != price
    told = found(run)
    assert (told.least.cost, told.most.cost) == (value(3 * FLOP, price), value(6 * FLOP, price))


# The chance.


@pytest.mark.parametrize("seen", [2, 3, 4, 5])
def test_the_chance_is_that_of_every_order_of_the_rounds(seen):
    """Of all orders of six rounds, the share in which none of those to come is below or above all that were seen."""
    within = added = 0
    for order in permutations((1, 2, 4, 8, 16, 32)):
        before, behind = order[:seen], order[seen:]
        within += min(before) < min(behind) and max(behind) < max(before)
        added += len(behind) * min(before) <= sum(behind) <= len(behind) * max(before)
    assert Fraction(within, factorial(6)) == chance(seen, 6 - seen)
    assert within <= added


def test_of_a_sum_no_more_can_be_promised_where_one_round_outweighs_all_others():
    """Which round is the long one, of ten: six seen, and the band has what is to come only if it was among them."""
    outcomes = []
    for long_one in range(10):
        taken = [1_000 if at == long_one else 1 for at in range(10)]
        outcomes.append(4 * min(taken[:6]) <= sum(taken[6:]) <= 4 * max(taken[:6]))
    assert Fraction(sum(outcomes), 10) == Fraction(6, 6 + 4)


# The page.


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run that is forecast; it stops early when it learns no more."""
    world = World()
    trained(world, patience=7)
    with served(world, tmp_path_factory.mktemp("ledger")) as ledger:
        yield ledger, world


def test_the_overview_shows_it_and_what_it_is_worth(shown):
    ledger, _ = shown
    page = get(ledger, "/overview")[2]
    said = text(page)
    assert "Spent so far: 59.867136 EUR , for 59 MFLOP that 5 closed rounds count." in said
    assert "as the most of the 5 seen so far. " in said
    assert "Round 6 has taken longer than any of them already" not in said
    assert "That all 3 lie between has a chance of at least 35 % ; their sum lies there at least as often." in said
    assert "the run ends earlier if the loss is no lower for 7 rounds" in said
    table = {row[0]: row[1:] for row in rows(page)}
    assert table["So far"] == ["5", "59 MFLOP", "59.867136", "3 min 20 s", "2200-01-01 00:03:20 UTC"]
    assert table["To come, at least"][:3] == ["3", "25 MFLOP", "25.657344"]
    assert table["In all, at most"] == ["8", "98 MFLOP", "98.353152", "5 min 50 s", "2200-01-01 00:05:50 UTC"]


def test_as_csv_and_json_it_is_exact_and_what_was_and_what_comes_add_up(shown):
    ledger, world = shown
    told = json.loads(get(ledger, "/overview?format=json&table=forecast")[2])["rows"]
    read = list(csv.DictReader(io.StringIO(get(ledger, "/overview?format=csv&table=forecast")[2])))
    by = {row["what"]: row for row in told}
    assert [row["what"] for row in read] == list(by)
    assert [row["chance"] for row in read] == ["", *4 * ["5/14"]]
    assert Fraction(by["so far"]["cost_minor"]) == value(14 * FLOP, world.charter.price)
    for bound in ("at least", "at most"):
        for column in ("rounds", "work_flop", "cost_minor", "takes_ms"):
            parts = [Fraction(by[what][column]) for what in ("so far", f"to come, {bound}", f"in all, {bound}")]
            assert parts[0] + parts[1] == parts[2]
        assert by[f"to come, {bound}"]["until_ms"] == by[f"in all, {bound}"]["until_ms"]


def test_a_page_without_a_forecast_says_why(tmp_path):
    world = World()
    world.start()
    world.round()
    with served(world, tmp_path) as ledger:
        page = text(get(ledger, "/overview")[2])
        assert "Nothing can be said yet of what is to come: of 3 rounds 0 have been seen" in page
        assert json.loads(get(ledger, "/overview?format=json&table=forecast")[2])["rows"] == []
        told = get(ledger, "/overview?format=csv&table=forecast")[2]
    assert told == "what,rounds,work_flop,cost_minor,takes_ms,until_ms,chance\r\n"


def test_where_no_run_was_proposed_nothing_was_spent(tmp_path):
    with served(World(), tmp_path) as ledger:
        assert "Spent" not in text(get(ledger, "/overview")[2])
        assert json.loads(get(ledger, "/overview?format=json&table=forecast")[2])["rows"] == []
