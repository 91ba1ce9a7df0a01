"""`consortium plan`: the law of a known curve is found, plans follow from the log, and come true where they say so."""

import json
import random
from dataclasses import replace
from fractions import Fraction

import pytest
from test_bill import LOG
from world import TOY, World

from bench.receipts import publish
from client import plan, scaling
from client.notebook import Ledger
from client.scaling import Law
from consortium.cli import main
from consortium.simulate import simulate
from shared_models.records.refusals import Refused
from shared_models.rules.pricing import FLOP_PER_NCU

KNOWN = Law(rest=1.2, falls=2.0, exponent=0.5, unit=1000.0)


def trained(world: World, run: str, rounds: int, law: Law = KNOWN, **changes) -> None:
    """A run whose loss falls by this law to the millionth, each of its rounds an hour after the one before."""
    world.start(run, rounds=rounds, **changes)
    for number in range(1, rounds + 1):
        opened_ms = 3_600_000 * number
        world.say(world.coordinator, world.opened(run, opened_ms=opened_ms, deadline_ms=opened_ms + 60_000))
        hashes = {each: world.say(f"{each}/compute", world.receipt(each, run)) for each in world.members}
        unats = round(law.loss(1000 * number) * 1_000_000)
        world.say(world.coordinator, world.close(hashes, run, loss_unats=unats))


@pytest.fixture
def asked(tmp_path, capsys):
    """Ask for a plan by a world's log: (exit code, what it printed, what it complained)."""

    def command(world: World, *words: str) -> tuple[int, str, str]:
        publish(tmp_path / "log", world.leaves, LOG)
        code = main(["plan", str(tmp_path / "log"), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture(scope="module")
def one() -> World:
    world = World()
    trained(world, "r1", 20)
    return world


@pytest.mark.parametrize(
    "law", [KNOWN, Law(0.5, 1.0, 0.3, 1000.0), Law(0.0, 3.0, 0.1, 1000.0), Law(2.0, 1.0, 1.2, 1000.0)]
)
def test_a_known_law_is_found_in_spite_of_noise_and_of_points_that_are_off(law):
    draw = random.Random(5)
    points = [(1000 * each, law.loss(1000 * each) * (1 + draw.gauss(0, 0.001))) for each in range(1, 81)]
    points[40] = (points[40][0], points[40][1] * 1.3)
    found = scaling.fit(points)
    for tokens in (5_000, 80_000, 160_000):
        assert found.loss(tokens) == pytest.approx(law.loss(tokens), rel=0.005)
    back = scaling.fit([(tokens, law.loss(tokens)) for tokens, _ in points])
    assert back.exponent == pytest.approx(law.exponent, abs=0.02)
    assert back.rest == pytest.approx(law.rest, abs=0.1)
    assert back.tokens(law.loss(300_000)) == pytest.approx(300_000, rel=0.1)
    assert scaling.fit(points, rest=False).rest == 0


def test_below_its_rest_a_law_never_comes():
    assert KNOWN.tokens(1.2) is None
    assert KNOWN.tokens(KNOWN.loss(5e6)) == pytest.approx(5e6)
    assert 0 < KNOWN.tokens(1.2 + 1e-12) < float("inf")


def test_a_loss_is_planned_in_rounds_work_money_and_time(one, asked):
    loss = KNOWN.loss(40_000)
    code, out, _ = asked(one, "--loss", f"{loss:.6f}", "--json")
    told = json.loads(out)
    assert (code, told["run"], told["rounds_seen"], told["beyond"]) == (0, "r1", 20, False)
    assert told["rounds_least"] <= told["rounds"] == pytest.approx(40, abs=2)
    assert told["loss_least"] <= told["loss"] <= told["loss_most"]
    assert told["loss"] == pytest.approx(loss, abs=0.005)
    manifest = one.books.runs["r1"].manifest
    flop = told["rounds"] * sum(each.closed.flop for each in one.books.runs["r1"].rounds) // 20
    assert (int(told["flop"]), told["tokens"]) == (flop, flop // manifest.flop_per_token)
    cost = Fraction(one.charter.price) * flop / FLOP_PER_NCU
    assert Fraction(told["cost"]) == cost
    assert told["ms"] == told["rounds"] * 3_600_000
    charges = {name: Fraction(each["charge"]) for name, each in told["members"].items()}
    assert charges == {"acme": cost / 2, "birch": cost / 4, "cedar": cost / 4}  # By benefit, 2 : 1 : 1;
    assert {Fraction(each["credit"]) for each in told["members"].values()} == {cost / 3}  # and all work as much.


def test_a_budget_buys_whole_rounds_and_what_they_come_to_is_said(one, asked):
    run = one.books.runs["r1"]
    round_cost = Fraction(one.charter.price) * run.rounds[0].closed.flop / FLOP_PER_NCU / 100
    code, out, _ = asked(one, "--budget", str(round_cost * 30 + round_cost / 2), "--json")
    told = json.loads(out)
    assert (code, told["rounds"], told["rounds_least"], told["rounds_most"]) == (0, 30, 30, 30)
    assert told["loss"] == pytest.approx(KNOWN.loss(30_000), abs=0.01)
    assert json.loads(asked(one, "--budget", str(round_cost * 60), "--json")[1])["beyond"]


def test_it_is_told_in_words_with_what_each_would_pay_alone(one, asked):
    code, out, _ = asked(one, "--loss", "1.55", "--price", "30000", "--watts", "700", "--kwh", "0.1")
    assert code == 0
    for word in ("r1: 1 layers of 16, 20 rounds seen", "nats per byte, ", "cost alone", "no promise"):
        assert word.rstrip(", ") in out
    told = json.loads(asked(one, "--loss", "1.55", "--price", "30000", "--watts", "700", "--kwh", "0.1", "--json")[1])
    assert all(Fraction(each["alone"]) > 0 for each in told["members"].values())
    assert "BEYOND 2 times" in asked(one, "--loss", "1.4")[1]


def test_energy_is_by_those_receipts_that_measured_it():
    said = plan.Said(flop=100, chip_ms=7_200_000, receipts=2, measured=1, measured_flop=50, energy_mj=3_600_000_000)
    assert (said.kwh(200), said.chip_hours(50)) == (4, 1)
    assert (plan.Said().kwh(200), plan.Said().chip_hours(1)) == (None, None)


def test_of_two_sizes_the_one_that_takes_less_work_is_planned(asked):
    world = World()
    trained(world, "r1", 20)
    trained(world, "r2", 20, recipe=replace(TOY, width=32))  # As good by tokens, and more work for each.
    trained(world, "r3", 3)
    code, out, _ = asked(world, "--loss", "1.55", "--json")
    told = json.loads(out)
    assert (code, told["run"], list(told["others"]), told["without"]) == (0, "r1", ["r2"], {})
    assert (
        "r3" in json.loads(asked(world, "--loss", "1.55", "--run", "r1", "--run", "r3", "--json")[1])["without"]["r3"]
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--loss", "1.0"), "infeasible: what r1 has shown comes to 1."),
        (("--loss", "1.2099"), "infeasible: "),
        (("--loss", "-1"), "bad_field: a loss of -1"),
        (("--loss", "low"), "bad_field: low is no number"),
        (("--budget", "0"), "infeasible: the budget pays for 0 FLOP; one round of r1 takes"),
        (("--budget", "1e30"), "nothing is known"),
        (("--loss", "1.5", "--run", "r9"), "unknown_run"),
        (("--loss", "1.5", "--price", "1"), "bad_field: give --price, --watts and --kwh"),
    ],
)
def test_what_cannot_be_planned_is_refused_and_why(one, asked, words, why):
    code, out, err = asked(one, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error ")
    assert why in err


def test_runs_that_teach_nothing_are_refused(asked):
    world = World()
    trained(world, "r1", 11)
    assert "no run that began with its own weights has closed 12 rounds" in asked(world, "--loss", "1.5")[2]
    assert "r1 has closed 11 rounds, 1 too few" in asked(world, "--loss", "1.5", "--run", "r1")[2]
    trained(world, "r2", 14, Law(1.0, 2.0, -0.3, 1000.0))  # It rises.
    assert "the loss of r2 does not fall" in asked(world, "--loss", "1.5", "--run", "r2")[2]
    trained(world, "r3", 14, recipe=replace(TOY, corpus="sha256:" + 64 * "a"))
    assert "bad_field: losses on 2 different texts" in asked(world, "--loss", "1.5", "--run", "r1", "--run", "r3")[2]


def test_rounds_that_counted_nothing_teach_nothing_and_harm_nothing(asked):
    world = World()
    world.start(rounds=40)
    for number in range(1, 31):
        world.say(world.coordinator, world.opened(opened_ms=number, deadline_ms=number + 1))
        who = [] if number % 2 else world.members
        hashes = {each: world.say(f"{each}/compute", world.receipt(each)) for each in who}
        unats = round(KNOWN.loss(1000 * max(1, number // 2)) * 1_000_000)
        world.say(world.coordinator, world.close(hashes, loss_unats=unats))
    told = json.loads(asked(world, "--loss", f"{KNOWN.loss(20_000):.6f}", "--json")[1])
    assert told["rounds"] == pytest.approx(40, abs=2)


def test_where_all_who_trained_have_gone_nobody_is_told_what_its_work_earns(tmp_path, one):
    publish(tmp_path / "log", one.leaves, LOG)
    log = Ledger.connect(tmp_path / "log")
    (found, *_), _ = plan.plans(log, [], loss=1.6)
    with pytest.raises(Refused, match="infeasible: nobody who trained r1 is a member now"):
        plan.members(log, found, {"elm": plan.Said(flop=1, receipts=1)})


def test_where_work_costs_nothing_no_budget_limits_it(asked):
    world = World(price=Fraction(0))
    trained(world, "r1", 12)
    assert "infeasible: an NCU costs nothing" in asked(world, "--budget", "1")[2]


def test_a_log_that_is_wrong_plans_nothing(one, asked):
    wrong = World()
    wrong.leaves = [*one.leaves[:-1], one.leaves[-1].replace(b'"loss_unats":', b'"loss_unats":1', 1)]
    code, out, err = asked(wrong, "--loss", "1.5")
    assert (code, out) == (1, "")
    assert "nothing is planned by it" in err


@pytest.mark.parametrize("seed", [1, 2])
def test_half_of_a_run_says_how_it_ends(tmp_path, seed):
    """The band that half of it gives holds the end or misses it by little, and what is expected is near."""
    recipe = replace(TOY, width=32, context=32, batch=4, inner_steps=4, segment=4, seed=seed, inner_rate="0.008")
    result = simulate(tmp_path / "parties", {"acme": 2, "birch": 1}, rounds=32, recipe=recipe)
    curve = [(each.tokens, each.loss) for each in result.ledger().curve("r1")][1:]
    expected, stretches = scaling.laws("r1", curve[:16])
    tokens, loss = curve[-1]
    came = [each.loss(tokens) for each in (expected, *stretches)]
    assert came[0] == pytest.approx(loss, rel=0.08)
    assert 0.97 * min(came) <= loss <= 1.03 * max(came)
    log = Ledger.connect(result.founded.ledger / "log")
    (found, *_), _ = plan.plans(log, ["r1"], loss=curve[23][1])
    assert found.rounds == pytest.approx(24, abs=6)
    with pytest.raises(Refused, match="infeasible"):
        plan.plans(log, ["r1"], loss=0.01)
