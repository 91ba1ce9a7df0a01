"""The benchmark of training, as a toy: every row is trained, and the last line is all of it."""

import json
from dataclasses import replace

import pytest

from bench import training
from server import outer
from shared_models.lm import corpus, weights


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:resource_tracker")  # That of this process may have been ended with a mutant.
def test_every_row_is_trained_and_drawn_and_the_last_line_holds_every_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training", "--quick", "--json", "--plot", str(tmp_path / "rows.svg")])
    training.main()
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert set(figures) == set(training.MEANING)
    assert figures["bytes_reduction"] == 3  # Rounds of 3 steps.
    assert 12 * 28 < figures["bytes_reduction_1000x"] <= 12 * 31  # One exchange for twelve, of 1.03 bits for 32.
    reductions = {name for name in figures if name.startswith("bytes_reduction")}
    assert all(0 < figure < 10 for name, figure in figures.items() if name not in reductions)
    for start in training.STARTS:
        ratio = figures[f"default_loss_{start}"] / figures[f"sync_adamw_loss_{start}"]
        assert figures[f"loss_ratio_{start}"] == pytest.approx(ratio, rel=1e-4)
        assert (
            figures[f"loss_ratio_{start}_least"] < figures[f"loss_ratio_{start}"] < figures[f"loss_ratio_{start}_most"]
        )
        assert figures[f"bf16_loss_{start}"] == pytest.approx(figures[f"default_loss_{start}"], rel=0.02)
        assert figures[f"top64_loss_{start}"] > figures[f"default_loss_{start}"] != figures[f"late_loss_{start}"]
    assert figures["late_time_over_barrier"] == 4 / (4 * 4)  # Four rounds, of which one member needs all for one.
    assert (tmp_path / "rows.svg").read_text().count(">a member alone<") == len(training.STARTS)
    assert figures["alone_with_all_loss_warm"] < figures["alone_with_all_loss_scratch"]


def test_what_a_lost_coordinator_costs_is_measured_and_momentum_apart_from_the_step(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training", "--lost", "--quick", "--json"])
    training.main()
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == set(training.LOST_MEANING)
    for start in training.STARTS:
        apart = [figures[f"{row}_over_default_{start}"] for row in training.LOST]
        assert len({*apart, 1.0}) == 3
        for row in training.LOST:
            least, mean, most = (figures[f"{row}_over_default_{start}{of}"] for of in ("_least", "", "_most"))
            assert 0.5 < least <= mean <= most < 2


def test_a_round_whose_step_is_lost_leaves_the_checkpoint_and_momentum_unless_that_is_forgotten():
    recipe, shards = replace(training.QUICK, inner_steps=3), [corpus.shard(number, 2) for number in range(2)]
    base = outer.first(recipe)
    assert weights.digest(training.trained(base, recipe, shards, 1, lost=1)) == weights.digest(base)
    forgot, kept, whole = (
        weights.digest(training.trained(base, recipe, shards, 3, lost=lost, forgets=forgets))
        for lost, forgets in ((2, True), (2, False), (0, True))
    )
    assert len({forgot, kept, whole}) == 3
    first = (training.trained(base, recipe, shards, 3, lost=1, forgets=forgets) for forgets in (True, False))
    assert len({weights.digest(each) for each in first}) == 1  # There was nothing to forget yet.
