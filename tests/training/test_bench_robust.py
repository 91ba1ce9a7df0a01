"""The benchmark of robustness, as a toy: every row is trained, and a liar changes little where updates are judged."""

import json

import pytest

from bench import robust


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_row_is_trained_and_no_honest_update_is_touched(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["robust", "--quick", "--json"])
    robust.main()
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert set(figures) == set(robust.MEANING)
    assert (figures["honest_set_aside"], figures["honest_copied"], figures["liars_counting_whole"]) == (0, 0, 0)
    assert figures["honest_updates"] == 4 * 4 * 2  # Four runs of two rounds.
    for lie in robust.LIES:
        assert 0.9 < figures[f"default_{lie}"] < 1.05
    assert figures["unguarded_flipped"] > 1.02 > figures["default_flipped"]
    assert 0 < figures["judging_over_training"] < 2
