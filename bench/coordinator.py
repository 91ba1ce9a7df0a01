"""What a round costs the coordinator in memory, and whether one that was stopped goes on to the same checkpoint.

`python -m bench.coordinator [--json]`. In a process of its own, so many answers in fp32 come one after another, each
whole in memory as Flower hands it over; they are admitted, kept, judged, stepped along and scored by the product's own
code. What counts is the most memory of that process beyond what it had before the run, over the size of the model.
Flower's own buffers are not in it.
"""

import _thread
import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench import most_memory, report
from consortium.simulate import RUN, simulate
from server.journal import Turn
from server.outer import Outer
from shared_models.lm import codecs, weights
from shared_models.lm.codecs import Decoded
from shared_models.messages import Answer
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Recipe
from shared_models.rules.recipes import TOY

MEMBERS = (2, 8, 32)
LARGE = replace(TOY, layers=12, heads=4, width=256, outer="nesterov", outer_momentum="0.6")  # 9.6 M weights, 38 MB.
MEANING = {
    f"server_memory_over_model_{count}": f"most memory of a round of {count} members / the model's; at most about 2"
    for count in MEMBERS
} | {"resume_digest_equal": "1 if a coordinator that was stopped in a round came to the same last checkpoint"}


def figures() -> dict[str, float]:
    """Measure each number of members in a process of its own, and stop a coordinator in its second round."""
    found = dict[str, float]()
    for count in MEMBERS:
        command = [sys.executable, "-m", "bench.coordinator", "--members", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[f"server_memory_over_model_{count}"] = float(done.stdout)
    return found | {"resume_digest_equal": float(_reached(stop=False) == _reached(stop=True))}


def _over_model(members: int, recipe: Recipe) -> float:
    """The most memory of a round of so many members, beyond what the process had before, over the model's."""
    torch.set_num_threads(1)
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        _round(Path(folder) / "small", TOY, 2, random)  # What is imported and set up once.
        model = list[int]()
        most = most_memory(lambda: model.append(_round(Path(folder) / "large", recipe, members, random)))
        return most / model[0]


def _round(folder: Path, recipe: Recipe, members: int, random: np.random.Generator) -> int:
    """A round of so many members; the bytes of the model."""
    folder.mkdir()
    outer, turn = Outer(recipe, 1, folder / "checkpoints", folder / "state", folder / "texts"), Turn(folder, 1)
    base, state = outer.begin()
    seed, names = turn.seed(), [f"m{number:02}" for number in range(members)]
    for name in names:
        _came(name, turn, outer.shapes, random)
    updates = {name: Decoded(turn.update(name, "fp32", outer.shapes)) for name in names}
    judged = outer.judge(base, updates, members, seed, {})
    weighed = [(each.weight, updates[name]) for name, each in judged.items()]
    checkpoint, _, _ = outer.step(1, base, state, weighed, turn.step)
    outer.loss(checkpoint)
    return sum(codecs.size("fp32", shape) for shape in outer.shapes.values())


def _came(name: str, turn: Turn, shapes: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    """An answer comes, is looked at as `server.admission` does, and is kept."""
    update = {
        name: codecs.Packed("fp32", shape, (1e-3 * random.standard_normal(shape, np.float32)).tobytes())
        for name, shape in shapes.items()
    }
    codecs.check(update, "fp32", shapes)
    weights.digest(Decoded(update))
    turn.keep(name, Answer((b"receipt",), update, b""))


def _reached(stop: bool) -> str:
    """The last checkpoint of a small run, whose coordinator is stopped when the second round's answers come."""
    asked = 0

    def interrupt(answer: Answer, _: SigningKey) -> Answer:
        nonlocal asked
        asked += 1
        if stop and asked == 2:
            _thread.interrupt_main()
        return answer

    def twice(coordinate: Callable[[], None]) -> None:
        with suppress(KeyboardInterrupt):
            coordinate()
            return
        coordinate()

    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(TOY, up="int4", down="top64", outer="nesterov", outer_momentum="0.6")
        members, lies = {"acme": 1, "birch": 1, "cedar": 1}, {"birch": interrupt}
        result = simulate(Path(folder) / "p", members, rounds=3, recipe=recipe, misbehave=lies, attempt=twice)
        assert result.report.findings == []
        return result.report.books.runs[RUN].checkpoint


def main() -> None:
    """Measure; or be the process that is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.coordinator", description="the coordinator's memory")
    parser.add_argument("--members", type=int, help="measure this process in a round of so many")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    if chosen.members:
        print(_over_model(chosen.members, LARGE))
    else:
        report("coordinator", figures(), MEANING)


if __name__ == "__main__":
    main()
