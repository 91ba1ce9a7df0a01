"""The forecast of a run, held against how runs went on whose members are unlike, and none as quick every time."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from world import TOY

from consortium import faults
from consortium.simulate import simulate
from ledger.curve import Track, track
from ledger.forecast import FEW, Band, band, chance, so_far
from shared_models.published import fetch, reader
from shared_models.rules.books import Books

FOUR = {"acme": 2, "birch": 1, "cedar": 1, "dogwood": 1}
UNLIKE: dict[str, faults.How] = {"birch": faults.Slow(4), "cedar": faults.Slow(20), "dogwood": 0.3}
# Each round waits for all, of whom one is late now and then; or for no more than two, and others count later.
RUNS = ({"wait": "all", "deadline_s": 0.5}, {"wait": "quorum", "deadline_s": 5.0, "late": 2})
ROUNDS = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[list[Track]]:
    folder = tmp_path_factory.mktemp("runs")
    simulate(folder / "warm", FOUR, rounds=1, recipe=TOY)  # The first of a process imports half of what there is.
    return [trained(folder / more["wait"], **more) for more in RUNS]


def trained(folder: Path, **more) -> list[Track]:
    """What the books had of a run when each of its rounds had just been opened.

    The log says when a round is opened, and not when one is closed: so the last one says when the one before it ended,
    and the run is taken for one without it.
    """
    result = simulate(folder, FOUR, rounds=ROUNDS + 1, recipe=TOY, quorum=2, misbehave=UNLIKE, **more)
    found, books = list[Track](), Books()
    for leaf in fetch(reader(str(result.founded.ledger / "log"))).leaves:
        books.add(books.open(leaf))
        run = books.runs.get("r1")
        if run is not None and len(run.rounds) > len(found):
            of = track(books, run)
            found.append(of._replace(manifest=replace(of.manifest, rounds=ROUNDS)))
    assert len(found) == ROUNDS + 1
    return found


def held(steps: list[Track]) -> Iterator[tuple[Band, bool, bool]]:
    """Each band that the overview would have shown: (the band, whether the cost was in it, whether the end was)."""
    whole = so_far(steps[-1])
    for of in steps[FEW:-1]:
        told, spent = band(of, of.opened_ms[-1]), so_far(of)
        assert isinstance(told, Band)
        least, most = spent.plus(told.least), spent.plus(told.most)
        assert least.rounds == most.rounds == whole.rounds == ROUNDS
        yield told, least.cost <= whole.cost <= most.cost, least.until_ms <= whole.until_ms <= most.until_ms


def test_as_they_went_on_they_were_in_the_band_as_often_as_was_said(runs):
    told = [each for steps in runs for each in held(steps)]
    assert [each.seen for each, _, _ in told] == 2 * list(range(FEW, ROUNDS))
    right = sum(cost + end for _, cost, end in told)
    assert right >= 2 * sum(each.chance for each, _, _ in told)


def test_in_whatever_order_their_rounds_had_come_they_would_have_been(runs):
    """In orders drawn by chance, often enough for what is said at each step, but for what luck takes: four sigmas."""
    draw, orders = random.Random(7), 400
    for whole in (steps[-1] for steps in runs):
        turns = list(zip((after - before for before, after in pairwise(whole.opened_ms)), whole.closed, strict=True))
        costs, ends = dict.fromkeys(range(FEW, ROUNDS), 0), dict.fromkeys(range(FEW, ROUNDS), 0)
        for _ in range(orders):
            draw.shuffle(turns)
            opened_ms = list(accumulate((each for each, _ in turns), initial=whole.opened_ms[0]))
            closed = [each for _, each in turns]
            steps = [
                whole._replace(opened_ms=opened_ms[: at + 1], closed=closed[:at], prices=whole.prices[:at])
                for at in range(ROUNDS + 1)
            ]
            for told, cost, end in held(steps):
                costs[told.seen] += cost
                ends[told.seen] += end
        for seen, right in (*costs.items(), *ends.items()):
            said = chance(seen, ROUNDS - seen)
            short = max(0, orders * said - right)
            assert short**2 <= 16 * orders * said * (1 - said), (seen, right)
