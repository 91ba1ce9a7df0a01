"""Training at 113 million weights on a GPU: how fast, whether to the same bits, and as good as synchronously.

`python -m bench.gpu [--processor cuda] [--part speed|scratch|warm] [--quick] [--json]`. By the product's own inner loop
and outer step. MFU is the FLOP that the formula of the bill counts (`pricing.flop_per_token`: a token's way forward and
back through the matrices, without recomputation) over the peak that the maker states for dense bfloat16.

The rows of `bench.training` that say most are trained at the same two rates each, one seed, as many tokens in each
row; a member alone keeps one of them. Several rows share the GPU at a time: while one hashes, another computes.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import torch

from bench import report, training
from client import data
from client.reexecute import distance_ppm
from client.train import train
from client.training import Machine, Training
from server import outer
from shared_models.lm import weights
from shared_models.records.kinds import Recipe
from shared_models.rules.pricing import flop_per_token
from shared_models.rules.recipes import SMALL

# 113.7 M weights: 16 layers of 768, a step of 16 times 512 bytes.
LARGE = replace(
    SMALL, layers=16, heads=12, width=768, context=512, batch=16, inner_steps=24, segment=24, precision="bf16"
)
QUICK = replace(LARGE, layers=1, heads=2, width=16, context=16, batch=2, inner_steps=3, segment=3)
RATES: tuple[str, ...] = ("0.001", "0.003")
ROWS = ("alone", "sync_adamw", "sync_muon", "default", "1000x")
STEPS, WORKERS, THREADS = 192, 3, 5
# Dense bfloat16 matrix products, FLOP/s, by the maker's datasheet; SXM modules.
PEAK = {"H100 80GB HBM3": 989.4e12, "H200": 989.4e12, "A100-SXM4": 312e12}
PARTS = ("speed", "scratch", "warm")
KINDS: dict[str, tuple[dict[str, Any], bool]] = {  # How the same steps are made.
    "plain": ({}, True),
    "any_bits": ({}, False),
    "compiled": ({"compile": True}, True),
    "recomputed": ({"recompute": True}, True),
}
MEANING = {
    "weights_m": "millions of weights",
    **{f"tokens_per_s_{kind}": f"a member's tokens a second, {kind}" for kind in KINDS},
    **{f"mfu_{kind}": f"its FLOP, by the bill's formula / the GPU's peak, {kind}" for kind in KINDS},
    "same_bits_over_any": "time of a step to the same bits each time / by PyTorch's fastest kernels",
    "outside_share": "of a round of 200 steps: its time outside of them (copies and digests of the states, the update)",
    "twice_the_same": "1 if the same steps twice came to the same bits, with Muon, with AdamW, by all kinds",
    "twice_other_bits_ppm": "the distance of the two without that; 0 if they happened to be the same",
    "from_cpu_ppm_fp32": "six steps on the GPU from the same on the processor, float32; an audit allows 100,000",
    "from_cpu_ppm_bf16": "the same in bfloat16",
}
for _start in ("scratch", "warm"):
    MEANING |= {f"{row}_loss_{_start}": "held out, nats per byte" for row in ROWS}
    MEANING |= {f"{row}_over_sync_adamw_{_start}": "that loss / synchronous AdamW's" for row in ROWS}

Say = Callable[[str], object]


def speed(machine: Machine, recipe: Recipe, steps: int, say: Say) -> dict[str, float]:
    """How fast one member trains on this machine, and whether to the same bits."""
    count = sum(weight.numel() for weight in outer.model(recipe).parameters())
    found, per_step = {"weights_m": count / 1e6}, dict[str, float]()
    for kind, (how, same) in KINDS.items():
        seconds = _per_step(replace(machine, **how), recipe, steps, same)
        rate = recipe.batch * recipe.context / seconds
        per_step[kind], found[f"tokens_per_s_{kind}"] = seconds, rate
        if peak := _peak(machine):
            found[f"mfu_{kind}"] = rate * flop_per_token(recipe) / peak
        say(f"{kind:12}{rate:12,.0f} tokens/s  MFU {found.get(f'mfu_{kind}', 0):.3f}")
    found["same_bits_over_any"] = per_step["plain"] / per_step["any_bits"]
    found["outside_share"] = _outside(machine, recipe, per_step["plain"])
    small = replace(recipe, layers=2, inner_steps=6, segment=6)
    begun = outer.first(small), weights.Weights()
    found["twice_the_same"] = float(
        all(
            _apart(begun, *(_after(replace(machine, **how), replace(small, inner=inner)) for _ in "12")) == 0
            for inner in ("muon", "adamw")
            for how, same in KINDS.values()
            if same
        )
    )
    found["twice_other_bits_ppm"] = _apart(begun, *(_after(machine, small, same=False) for _ in "12"))
    for precision in ("fp32", "bf16"):
        of = replace(small, precision=precision)
        found[f"from_cpu_ppm_{precision}"] = _apart(begun, _after(machine, of), _after(Machine(), of))
    return found


def _training(machine: Machine, recipe: Recipe, same: bool = True) -> Training:
    tokens, turn = data.load("python-stdlib:0/4"), {"member": "m0", "round_": 1, "rounds": 10}
    made = Training(outer.first(recipe), recipe, tokens, {}, machine=machine, **turn)  # type: ignore[arg-type]
    if not same:
        torch.use_deterministic_algorithms(False)
    return made


def _per_step(machine: Machine, recipe: Recipe, steps: int, same: bool) -> float:
    """Median seconds of a step, behind the first three."""
    made, times = _training(machine, recipe, same), [time.perf_counter()]
    for _ in made.until(3 + steps):  # Each loss waits for the GPU.
        times.append(time.perf_counter())
    spent = sorted(after - before for before, after in pairwise(times[3:]))
    return spent[len(spent) // 2]


def _outside(machine: Machine, recipe: Recipe, step_s: float) -> float:
    """Measured over the recipe's few steps, and set against 200."""
    began = time.perf_counter()
    base = outer.first(recipe)
    made = time.perf_counter() - began  # A member has it.
    train(
        base,
        recipe,
        data.load("python-stdlib:0/4"),
        {},
        member="m0",
        round_=1,
        rounds=10,
        report=lambda _: None,
        machine=machine,
    )
    outside = time.perf_counter() - began - made - recipe.inner_steps * step_s
    return outside / (outside + 200 * step_s)


def _after(machine: Machine, recipe: Recipe, same: bool = True) -> tuple[weights.Weights, weights.Weights]:
    made = _training(machine, recipe, same)
    for _ in made.until(recipe.inner_steps):
        pass
    return made.state()


def _apart(begun: Any, one: Any, other: Any) -> float:
    same = all(weights.digest(a) == weights.digest(b) for a, b in zip(one, other, strict=True))
    return 0.0 if same else float(distance_ppm(begun, one, other))


def _peak(machine: Machine) -> float | None:
    if machine.processor == "cpu":
        return None
    name = torch.cuda.get_device_name(machine.processor)
    return next((peak for model, peak in PEAK.items() if model in name), None)


def losses(
    start: str, machine: Machine, recipe: Recipe, steps: int, rates: Sequence[str], say: Say
) -> dict[str, float]:
    """Every row at its best rate, from this start."""
    pool = ProcessPoolExecutor(
        WORKERS, initializer=torch.set_num_threads, initargs=(THREADS,), mp_context=get_context("spawn")
    )
    best = dict[str, float]()
    with pool:
        base = pool.submit(training.started, start, recipe, steps, machine).result()
        running: list[tuple[training.Row, str, Future[training.Run]]] = [
            (row, rate, pool.submit(training.train_row, row, rate, base, 1, machine))
            for row in _rows(recipe, steps)
            for rate in (rates if row.exchanges else rates[len(rates) // 2 :][:1])
        ]
        for row, rate, done in running:
            loss = done.result().loss
            say(f"{start:8}{row.name:12}{rate:7}{row.recipe.inner_steps:5} × {row.recipe.batch:<4}{loss:8.4f}")
            best[row.name] = min(loss, best.get(row.name, loss))
    told = {f"{row}_loss_{start}": loss for row, loss in best.items()}
    return told | {f"{row}_over_sync_adamw_{start}": loss / best["sync_adamw"] for row, loss in best.items()}


def _rows(recipe: Recipe, steps: int) -> Iterator[training.Row]:
    """Those with a name in `ROWS`, the longest first; of the members alone the one with most text."""
    named = {row.name: row for row in reversed(training.rows(recipe, steps))}
    for name in reversed(ROWS):
        yield replace(named[name], recipe=replace(named[name].recipe, segment=named[name].recipe.inner_steps))


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="training on a GPU")
    parser.add_argument("--processor", default="cuda", help="PyTorch's name of it")
    parser.add_argument("--part", choices=PARTS, action="append", help="this only; may be given again")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that all of it runs")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    say = (lambda line: print(line, flush=True)) if not chosen.json else lambda _: None
    machine, recipe, steps, rates = Machine(processor=chosen.processor), LARGE, STEPS, RATES
    if chosen.quick:
        recipe, steps, rates = QUICK, 12, RATES[:1]
    found = dict[str, float]()
    for part in chosen.part or PARTS:
        if part == "speed":
            found |= speed(machine, recipe, 3 if chosen.quick else 15, say)
        else:
            found |= losses(part, machine, recipe, steps, rates, say)
    report("gpu", found, MEANING)


if __name__ == "__main__":
    main()
