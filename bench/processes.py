"""What it saves that several processes of one member train together: data parallel, shared out, tensor parallel.

`python -m bench.processes [--json]`. Each way trains the same model on the same tokens in two processes, by torchrun
over gloo, and is held against one process that torchrun started too, of one thread each: CPU time, for wall time says
little of a machine that does other work. The distances are those of six steps of the small recipe, by the measure of an
audit.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from bench import memory, report
from client import data
from client.reexecute import distance_ppm
from client.team import Team
from client.training import ONE, Machine
from server import outer
from shared_models.lm.weights import Weights
from shared_models.records.kinds import Recipe
from shared_models.rules.recipes import SMALL, TOY

WAYS = {
    "ddp": Machine(processes=2),
    "fsdp": Machine(processes=2, shard=True),
    "tensor": Machine(processes=2, tensor=True),
}
STEPS, APART_STEPS = 4, 6
LARGE = replace(TOY, layers=8, heads=8, width=512, context=256, batch=4, inner_steps=STEPS, inner="muon")  # 25.4 M.
MEANING = {"one_mb": "the most memory of one process that trains alone, PyTorch itself included, in MB"}
for name, says in {"ddp": "DDP", "fsdp": "FSDP2", "tensor": "tensor parallel"}.items():
    MEANING |= {
        f"{name}_memory_ratio": f"{says}: the most memory of each of two processes / of one alone",
        f"{name}_cpu_ratio": f"{says}: CPU time of three steps, of both processes together / of one alone",
        f"{name}_ppm": f"{says}: how far six steps lead from one process, in millionths of the change",
    }


def trained(machine: Machine, recipe: Recipe, steps: int) -> tuple[dict[str, float], tuple[Weights, Weights]]:
    """What training costs behind the first step, which makes what an optimiser remembers; and the state reached."""
    start, tokens = outer.first(recipe), data.load("python-stdlib:0/3")
    turn = {"member": "acme", "round_": 1, "rounds": 2}
    with tempfile.TemporaryDirectory() as folder:
        team = Team(Path(folder), start, recipe, tokens, {}, machine, **turn)  # type: ignore[arg-type]
        try:
            processes = psutil.Process(team._process.pid).children()
            list(team.until(1))
            for each in processes:
                Path(f"/proc/{each.pid}/clear_refs").write_text("5")  # As in `bench.most_memory`.
            before_s = _cpu_s(processes)
            list(team.until(steps))
            used_s, most = _cpu_s(processes) - before_s, max(memory("VmHWM", each.pid) for each in processes)
            return {"cpu": used_s, "memory": most}, team.state()
        finally:
            team.close()


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def figures(small: Recipe = SMALL, large: Recipe = LARGE) -> dict[str, float]:
    """Every way, held against one process."""
    torch.set_num_threads(1)
    (alone, _), (_, reached) = trained(ONE, large, STEPS), trained(ONE, small, APART_STEPS)
    told = {"one_mb": alone["memory"] / 1e6}
    for way, machine in WAYS.items():
        cost, _ = trained(machine, large, STEPS)
        told |= {f"{way}_{what}_ratio": value / alone[what] for what, value in cost.items()}
        _, theirs = trained(machine, small, APART_STEPS)
        told[f"{way}_ppm"] = distance_ppm((outer.first(small), {}), reached, theirs)
    return told


if __name__ == "__main__":
    report("processes", figures(), MEANING)
