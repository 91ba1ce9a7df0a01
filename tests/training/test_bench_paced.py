"""The benchmark of members of unlike speed, as a toy: every row is trained, and nobody counts less for its speed."""

import json

import pytest

from bench import paced


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_row_is_trained_and_each_update_counts_whole(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["paced", "--quick", "--json"])
    paced.main()
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert set(figures) == set(paced.MEANING)
    assert figures["paced_whole_scratch"] == figures["paced_whole_warm"] == 1
    assert 0 < figures["paced_time"] < 0.5
    for start in ("scratch", "warm"):
        assert figures[f"paced_loss_same_time_{start}"] < min(1, figures[f"paced_loss_same_tokens_{start}"])
