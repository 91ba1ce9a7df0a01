"""Training together against training in one place: the same tokens, held-out loss, bytes between the members.

`python -m bench.training [--steps N] [--round-steps H] [--seeds S] [--quick] [--json]`. Four members hold different
packages of the standard library; files of all are held out. Every row trains by the product's own inner loop and outer
step, and on as many tokens, but for a member alone on its own machine. The rows of a member alone keep the default
rate; every other one is tried at the same three, and the best counts. The warm start is a checkpoint trained here on
other draws of all text.

Synchronous data parallel is computed as what it is: one loop whose batch is that of all members. What it would send is
its gradient up and the mean of all gradients down, in every step. With few tokens in a step, a row that makes more
steps of fewer tokens wins; so steps and batch stand beside every figure.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import torch

from bench import coordinator, report
from client.train import train
from server import outer
from server.launch import SMALL
from shared_models.lm import codecs, corpus, weights
from shared_models.lm import outer as steps
from shared_models.lm.corpus import Tokens
from shared_models.records.kinds import BILLION, Recipe

MEMBERS = 4
RATES = ("0.004", "0.008", "0.016")
EVALUATED = 256  # Sequences.
STARTS = ("scratch", "warm")
MODEL = replace(SMALL, layers=3, width=96, batch=1)  # 381,600 weights.
QUICK = replace(MODEL, layers=1, heads=2, width=16, context=16)
CODED = {"int4": "150", "1000x": "1,000", "4000x": "4,000"}  # Rows by a codec; at least so many times fewer bytes.
MEANING = {
    "loss_ratio_scratch": "held-out loss of the default / best synchronous AdamW, from random weights; at most 1.03",
    "loss_ratio_warm": "the same from a warm start; at most 1",
    "default_over_sync_muon_scratch": "the same / best synchronous Muon",
    "default_over_fedavg_scratch": "the same / best AdamW averaged at the end of each round (FedAvg)",
    "default_over_alone_scratch": "the same / the best of the members alone, each on its own machine and text; below 1",
    "default_over_alone_with_all_scratch": "the same / the best of them on its own text, with everybody's machines",
    "sync_mb": "bytes of a member in a synchronous run, up, and as many down, in MB",
    "default_mb": "the same by the default recipe",
    "bytes_reduction": "the one / the other",
}
MEANING |= {name.replace("scratch", "warm"): f"warm: {what}" for name, what in MEANING.items() if "over" in name}
MEANING |= {
    f"{row}_loss_{start}": "nats per byte"
    for row in ("alone", "alone_with_all", "sync_adamw", "sync_muon", "fedavg", "default", *CODED)
    for start in STARTS
}
MEANING |= {
    f"loss_ratio_{start}_{row}": f"the default with {times} times fewer bytes up, and down / best synchronous AdamW"
    for row, times in CODED.items()
    for start in STARTS
}
MEANING |= {f"bytes_reduction_{row}": f"how many times fewer these are in row {row}" for row in CODED}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train: so many rounds of this recipe by each of these shards."""

    name: str
    shards: Sequence[Tokens]
    recipe: Recipe
    rounds: int
    exchanges: int  # Times that weights or gradients travel up, and down.

    def sent(self, base: weights.Weights) -> int:
        """The bytes of a member, up, and as many down; a first checkpoint is not in them."""
        return self.exchanges * sum(codecs.size(self.recipe.up, tensor.shape) for tensor in base.values())


def figures(
    steps: int = 280,
    round_steps: int = 20,
    seeds: int = 1,
    recipe: Recipe = MODEL,
    rates: Sequence[str] = RATES,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, float]:
    """Train every row, say each result, and put them into proportion."""
    torch.set_num_threads(1)
    recipe = replace(recipe, inner_steps=round_steps)
    losses: dict[tuple[str, str], float] = {}
    sent: dict[str, int] = {}
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,), mp_context=get_context("spawn")) as pool:
        for start in STARTS:
            bases = {seed: started(start, replace(recipe, seed=seed), steps) for seed in range(1, seeds + 1)}
            tried = [
                (row, rate)
                for row in rows(recipe, steps)
                for rate in (rates if row.exchanges else (recipe.inner_rate,))
            ]
            runs = [[pool.submit(_loss, *each, base, seed) for seed, base in bases.items()] for each in tried]
            for (row, rate), reached in zip(tried, runs, strict=True):
                loss = statistics.mean(each.result() for each in reached)
                say(f"{start:8}{row.name:16}{rate:7}{row.recipe.inner_steps:5} × {row.recipe.batch:<3}{loss:8.4f}")
                losses[row.name, start] = min(losses.get((row.name, start), np.inf), loss)
                sent[row.name] = row.sent(bases[1])
    found = {f"loss_ratio_{start}": losses["default", start] / losses["sync_adamw", start] for start in STARTS}
    for start in STARTS:
        for other in ("sync_muon", "fedavg", "alone", "alone_with_all"):
            found[f"default_over_{other}_{start}"] = losses["default", start] / losses[other, start]
        for coded in CODED:
            found[f"loss_ratio_{start}_{coded}"] = losses[coded, start] / losses["sync_adamw", start]
    found |= {f"{row}_loss_{start}": loss for (row, start), loss in losses.items()}
    found |= {f"bytes_reduction_{row}": sent["sync_adamw"] / sent[row] for row in CODED}
    found["sync_mb"], found["default_mb"] = sent["sync_adamw"] / 1e6, sent["default"] / 1e6
    return found | {"bytes_reduction": sent["sync_adamw"] / sent["default"]}


def rows(recipe: Recipe, steps: int) -> list[Row]:
    """All ways that are compared. A member that has only its own machine trains its share of the tokens."""
    shards, whole = [corpus.shard(number, MEMBERS) for number in range(MEMBERS)], [_all()]
    alone = replace(recipe, inner_steps=steps, outer="mean", outer_rate="1")
    joint = replace(alone, batch=MEMBERS * recipe.batch)
    rounds = steps // recipe.inner_steps
    twice = replace(recipe, inner_steps=steps // 2, up="int4", down="int4", outer="mean", outer_rate="1")
    longer = replace(recipe, inner_steps=2 * recipe.inner_steps, up="top64", down="top64")
    return [
        *(Row("alone", [shard], alone, 1, 0) for shard in shards),
        *(Row("alone_with_all", [shard], joint, 1, 0) for shard in shards),
        Row("sync_adamw", whole, replace(joint, inner="adamw"), 1, steps),
        Row("sync_muon", whole, replace(joint, inner="muon"), 1, steps),
        Row("fedavg", shards, replace(recipe, inner="adamw", outer="mean", outer_rate="1"), rounds, rounds),
        Row("default", shards, recipe, rounds, rounds),
        Row("int4", shards, replace(recipe, up="int4", down="int4"), rounds, rounds),
        Row("1000x", shards, twice, 2, 2),
        Row("4000x", shards, longer, steps // longer.inner_steps, steps // longer.inner_steps),
    ]


def started(start: str, recipe: Recipe, steps: int) -> weights.Weights:
    """Random weights; or what AdamW makes of them in twice the steps of two sequences, on other draws of all text."""
    base = outer.first(recipe)
    if start == "scratch":
        return base
    before = replace(recipe, inner="adamw", inner_rate="0.004", outer="mean", outer_rate="1", seed=1000 + recipe.seed)
    return _trained(base, replace(before, batch=2, inner_steps=2 * steps), [_all()], 1)


def _loss(row: Row, rate: str, base: weights.Weights, seed: int) -> float:
    recipe = replace(row.recipe, inner_rate=rate, seed=seed)
    reached = _trained(base, recipe, row.shards, row.rounds)
    return outer.held_out_loss(outer.model(recipe), reached, recipe, EVALUATED)


def _all() -> Tokens:
    return np.concatenate([corpus.shard(number, MEMBERS) for number in range(MEMBERS)])


def _trained(base: weights.Weights, recipe: Recipe, shards: Sequence[Tokens], rounds: int) -> weights.Weights:
    """The checkpoint that these rounds lead to: what a coordinator and its members do, without the wire."""
    state, inner, unsent = weights.Weights(), [weights.Weights() for _ in shards], [weights.Weights() for _ in shards]
    for round_ in range(1, rounds + 1):
        updates = []
        for number, tokens in enumerate(shards):
            trained = train(
                base,
                recipe,
                tokens,
                inner[number],
                member=f"m{number}",
                round_=round_,
                rounds=rounds,
                report=lambda _: None,
            )
            inner[number] = trained.memory
            sent = codecs.send(recipe.up, trained.update, unsent[number])
            unsent[number] = sent.unsent
            updates.append((BILLION // len(shards), sent.values))
        base, state = stepped(base, updates, state, recipe, round_, rounds)
    return base


def stepped(
    base: weights.Weights,
    updates: Sequence[tuple[int, weights.Weights]],
    state: weights.Weights,
    recipe: Recipe,
    round_: int,
    rounds: int,
) -> tuple[weights.Weights, weights.Weights]:
    """The next checkpoint, and what the outer step remembers then, all in memory."""
    moved = list(steps.step(base, updates, state, steps.rule(recipe, round_, rounds)))
    state = {name: tensor for each in moved for name, tensor in each.state.items()}
    return {each.name: each.checkpoint for each in moved}, state


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description="training together, and its peers")
    parser.add_argument("--steps", type=int, default=280, help="steps of each member")
    parser.add_argument("--round-steps", type=int, default=20, help="those of one round; divides them")
    parser.add_argument("--seeds", type=int, default=1, help="each row is the mean of so many")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that all of it runs")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    say = print if not chosen.json else lambda _: None
    if chosen.quick:
        found = figures(steps=12, round_steps=3, recipe=QUICK, rates=RATES[:1], say=say)
    else:
        found = figures(chosen.steps, chosen.round_steps, chosen.seeds, say=say) | coordinator.figures()
    report("training", found, MEANING | coordinator.MEANING)


if __name__ == "__main__":
    main()
