"""The benchmark of training, as a toy: every row is trained, and the last line is all of it."""

import json

import pytest

from bench import training


@pytest.mark.slow
def test_every_row_is_trained_and_the_last_line_holds_every_figure(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training", "--quick", "--json"])
    training.main()
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert set(figures) == set(training.MEANING)
    assert figures["bytes_reduction"] == 3  # Rounds of 3 steps.
    assert all(0 < figure < 10 for figure in figures.values())
    for start in training.STARTS:
        ratio = figures[f"default_loss_{start}"] / figures[f"sync_adamw_loss_{start}"]
        assert figures[f"loss_ratio_{start}"] == pytest.approx(ratio, rel=1e-4)
    assert figures["alone_with_all_loss_warm"] < figures["alone_with_all_loss_scratch"]
