"""What each way to lower the cost of training saves here: time, memory, and what it does to the loss.

`python -m bench.recipes [--json]`. Each row trains the same model on the same tokens in a process of its own, by the
product's own inner loop, and is held against the plain one of the same run. A row that saves nothing says so.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from bench import TOY, most_memory, report
from client import data
from client.training import ONE, Machine, Training
from server import outer

STEPS = 12
PLAIN = replace(
    TOY, layers=8, heads=4, width=192, context=256, batch=8, inner_steps=STEPS, inner="muon", inner_rate="0.008"
)  # 3.7 M weights.
ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "recompute": {"machine": Machine(recompute=True)},
}
MEANING = {
    f"{row}_{what}": f"{row}: {means}"
    for row in ROWS
    if row != "plain"
    for what, means in (
        ("cpu_ratio", "CPU time of a token / the plain one's"),
        ("memory_ratio", "most memory of training beyond what the process had / the plain one's"),
        ("loss_ratio", "held-out loss behind the same tokens / the plain one's"),
    )
}


def figures() -> dict[str, float]:
    """Measure every row in a process of its own."""
    found = {row: _in_a_process(row) for row in ROWS}
    return {
        f"{row}_{what}": found[row][what.removesuffix("_ratio")] / found["plain"][what.removesuffix("_ratio")]
        for row in ROWS
        if row != "plain"
        for what in ("cpu_ratio", "memory_ratio", "loss_ratio")
    }


def _in_a_process(row: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.recipes", "--row", row]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measured(machine: Machine = ONE, **changes: Any) -> dict[str, float]:
    """CPU seconds, most memory in bytes, and held-out loss in nats per byte, of one row."""
    torch.set_num_threads(1)
    recipe = replace(PLAIN, **changes)
    base, tokens = outer.first(recipe), data.load("python-stdlib:0/4")

    def train(steps: int) -> Training:
        training = Training(base, recipe, tokens, {}, member="acme", round_=1, rounds=4, machine=machine)
        for _ in training.until(steps):
            pass
        return training

    train(1)  # What is set up once.
    trained, started = list[Training](), time.process_time()
    most = most_memory(lambda: trained.append(train(STEPS)))
    cpu = time.process_time() - started
    loss = outer.held_out_loss(outer.model(recipe), trained[0].state()[0], recipe)
    return {"cpu": cpu, "memory": most, "loss": loss}


def main() -> None:
    """Measure; or be the process that is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.recipes", description="ways to lower the cost of training")
    parser.add_argument("--row", choices=ROWS, help="measure this one in this process")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    if chosen.row:
        print(json.dumps(_measured(**ROWS[chosen.row])))
    else:
        report("recipes", figures(), MEANING)


if __name__ == "__main__":
    main()
