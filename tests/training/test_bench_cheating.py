"""The benchmark of cheats, as a toy: every cheat is audited, no honest member is accused, and the last line is all."""

import json

import pytest

from bench import cheating


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:resource_tracker")  # That of this process may have been ended with a mutant.
def test_every_cheat_is_found_as_often_as_the_formula_says_and_no_honest_member_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cheating", "--quick", "--json"])
    cheating.main()
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert set(figures) == set(cheating.MEANING)
    assert (figures["audits"], figures["false_alarms"]) == (20, 0)
    assert (figures["across_false_alarms"], figures["across_missed"]) == (0, 0)
    assert figures["across_least_cheat_ppm"] > 100_000 > figures["across_honest_muon_ppm"]
    for cheated in (1, 2, 4):
        for cheat in cheating.CHEATS:
            assert abs(figures[f"{cheat}_{cheated}_of_4"] - figures[f"predicted_{cheated}_of_4"]) < 0.1
