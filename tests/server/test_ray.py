"""The simulation on Flower's own engine: worker processes instead of threads, and the same bits."""

import subprocess
import sys
from dataclasses import replace

import pytest

from consortium import ray_engine
from consortium.simulate import simulate
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt, RoundClose
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.recipes import SMALL

MEMBERS = dict.fromkeys(("acme", "birch", "cedar"), 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_ray_is_audited_and_comes_to_the_same_checkpoints_as_one_in_this_process(tmp_path):
    (tmp_path / "recipe.toml").write_text("inner_steps = 4\n")
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "consortium",
            "simulate",
            "--engine",
            "ray",
            "--members",
            "3",
            "--rounds",
            "2",
            "--deadline",
            "200",
            "--recipe",
            str(tmp_path / "recipe.toml"),
            "--keep",
            str(tmp_path / "ray"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "every number recomputed, 0 findings" in said.stdout
    assert "DEPRECATED" not in said.stderr
    ours = simulate(tmp_path / "ours", MEMBERS, rounds=2, recipe=replace(SMALL, inner_steps=4))
    reached = [turn.closed.checkpoint for turn in ours.report.books.runs["r1"].rounds]
    records = [
        entries.peek(leaf) for leaf in fetch(reader(str(tmp_path / "ray" / "parties" / "ledger" / "log"))).leaves
    ]
    assert [each.checkpoint for each in records if isinstance(each, RoundClose)] == reached
    receipts = [each for each in records if isinstance(each, Receipt)]
    assert len(receipts) == 2 * len(MEMBERS)
    for receipt in receipts:  # The meter reads a worker's CPU time, and only from where it began this round.
        assert 0 < receipt.cpu_ms < 1.5 * receipt.wall_ms


def test_ray_simulates_honest_members_only(tmp_path):
    with pytest.raises(Refused, match="honest") as caught:
        simulate(tmp_path / "new", MEMBERS, engine="ray", misbehave={"birch": "dead"})
    assert caught.value.refusal is Refusal.BAD_FIELD
    assert not (tmp_path / "new").exists()
    with pytest.raises(Refused, match="no engine mpi"):
        simulate(tmp_path / "new", MEMBERS, engine="mpi")


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Refused, match="pip install") as caught:
        ray_engine.train(None, None, {}, "r1", 1)
    assert caught.value.refusal is Refusal.NOT_SET_UP
