"""What the consortium adds to training: a simulated run against the bare training loop on the same batches."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from bench import Figures, report
from client import data
from client.train import train
from consortium.simulate import simulate
from server import outer
from shared_models.lm import weights
from shared_models.records.kinds import Recipe
from shared_models.rules.recipes import SMALL, TOY

MEMBERS = {"acme": 2, "birch": 1, "cedar": 1}
ROUNDS = 2
MEANING = {
    "toy_s": "wall seconds of three members, two rounds of a toy model, bill and audit included (bar: 5)",
    "toy_share_of_bar": "the same / 5 s",
    "overhead_ratio": "CPU of a simulated run of the small GPT / CPU of its inner steps alone",
}


def figures() -> Figures:
    """Measure; the small GPT with half its steps, so that it takes seconds."""
    recipe = replace(SMALL, inner_steps=20)
    _simulated(replace(TOY, seed=2))  # Text is read, and imports are done, once.
    toy = min(_simulated(TOY)[0] for _ in range(3))
    bare = _bare(recipe)
    whole = _simulated(recipe)[1]
    return {"toy_s": toy, "toy_share_of_bar": toy / 5, "overhead_ratio": whole / bare}


def _simulated(recipe: Recipe) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.monotonic(), time.process_time()
        result = simulate(Path(folder) / "parties", MEMBERS, rounds=ROUNDS, recipe=recipe)
        assert not result.report.findings
        return time.monotonic() - wall, time.process_time() - cpu


def _bare(recipe: Recipe) -> float:
    torch.set_num_threads(1)
    base = outer.first(recipe)
    started = time.process_time()
    for number, member in enumerate(MEMBERS):
        tokens, memory = data.load(f"python-stdlib:{number}/{len(MEMBERS)}"), weights.Weights()
        for round_ in range(1, ROUNDS + 1):
            memory = train(
                base, recipe, tokens, memory, member=member, round_=round_, rounds=ROUNDS, report=lambda _: None
            ).memory
    return time.process_time() - started


if __name__ == "__main__":
    report("simulation", figures(), MEANING)
