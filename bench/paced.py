"""One of four members is four times as slow: all train as many steps and wait for it, or each as many as it can.

`python -m bench.paced [--steps N] [--round-steps H] [--seeds S] [--quick] [--json]`. Members, texts and model are
those of `bench.training`, with the default rate; inner loop, judging and outer step are the product's. With steps in
proportion to speed a round takes as long as a fast member's steps; so behind as many tokens there are more rounds, and
behind as much time SLOW times as many. In the row `fast` one member is four times as fast as three. Time is counted in
steps of a fast member, and not measured.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import torch

from bench import Figures, report, training
from client.train import train
from server import outer
from shared_models.lm import corpus, hygiene, weights
from shared_models.records.kinds import BILLION, Recipe
from shared_models.rules import pace

SLOW = training.SLOW
MEMBERS = tuple(f"m{number}" for number in range(training.MEMBERS))
MEANING = {
    f"{row}_{what}_{start}": f"{means}; {where}"
    for start, where in (("scratch", "from random weights"), ("warm", "from a warm start"))
    for row, what, means in (
        ("paced", "loss_same_tokens", "held-out loss, steps by speed / as many steps of each, as many tokens"),
        ("by_steps", "loss_same_tokens", "the same, if updates were weighed by their steps"),
        ("paced", "loss_same_time", "the same behind as much time, each weighed alike"),
        ("fast", "loss_same_tokens", "the same, of one fast member and three slow ones, and as many tokens"),
        ("paced", "whole", "part of the updates that count whole; the least of the rows that are judged"),
    )
} | {
    "paced_time": "time of the rounds for as many tokens, steps by speed / as many steps of each, in steps",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One run: what each member trains in a round."""

    steps: Sequence[int]
    rounds: int
    judged: bool = True  # By the product's rule; else weighed by steps.


class Run(NamedTuple):
    """What came of it."""

    loss: float
    whole: float  # Part of the updates.


def figures(
    steps: int = 280,
    round_steps: int = 20,
    seeds: int = 1,
    recipe: Recipe = training.MODEL,
    say: Callable[[str], object] = lambda _: None,
) -> Figures:
    """Train every row from each start, and put them into proportion."""
    torch.set_num_threads(1)
    recipe, rounds = replace(recipe, inner_steps=round_steps), steps // round_steps
    one, three = (_steps(round_steps, slow) for slow in (1, len(MEMBERS) - 1))
    all_steps = len(MEMBERS) * steps
    paced = Row(one, all_steps // sum(one))
    rows = {
        "equal": Row((round_steps,) * len(MEMBERS), rounds),
        "paced": paced,
        "by_steps": replace(paced, judged=False),
        "same_time": Row(one, SLOW * rounds),
        "fast": Row(three, all_steps // sum(three)),
    }
    found = {"paced_time": paced.rounds / (SLOW * rounds)}
    for start in training.STARTS:
        runs: dict[str, list[Run]] = {name: [] for name in rows}
        for seed in range(1, seeds + 1):
            base = training.started(start, replace(recipe, seed=seed), steps)
            for name, row in rows.items():
                runs[name].append(trained(base, replace(recipe, seed=seed), row))
                say(f"{start:8}{name:10}{seed:3}{runs[name][-1].loss:8.4f}{runs[name][-1].whole:7.3f}")
        losses = {name: statistics.mean(each.loss for each in of) for name, of in runs.items()}
        for name in ("paced", "by_steps", "fast"):
            found[f"{name}_loss_same_tokens_{start}"] = losses[name] / losses["equal"]
        found[f"paced_loss_same_time_{start}"] = losses["same_time"] / losses["equal"]
        judged = (each.whole for name, row in rows.items() if row.judged for each in runs[name])
        found[f"paced_whole_{start}"] = min(judged)
    return found


def _steps(most: int, slow: int) -> tuple[int, ...]:
    """What members train of whom so many, the last, are slow."""
    speeds = {name: Fraction(1) for name in MEMBERS} | {name: Fraction(1, SLOW) for name in MEMBERS[-slow:]}
    return pace.steps(MEMBERS, most, {}, speeds)


def trained(base: weights.Weights, recipe: Recipe, row: Row) -> Run:
    """What these rounds lead to."""
    state, memory, model = weights.Weights(), dict[str, weights.Weights](), outer.model(recipe)
    steps, notes = dict(zip(MEMBERS, row.steps, strict=True)), list[str]()
    for round_ in range(1, row.rounds + 1):
        updates = dict[str, weights.Weights]()
        for number, member in enumerate(MEMBERS):
            reached = train(
                base,
                replace(recipe, inner_steps=steps[member]),
                corpus.shard(number, len(MEMBERS)),
                memory.get(member, {}),
                member=member,
                round_=round_,
                rounds=row.rounds,
                report=lambda _: None,
            )
            memory[member], updates[member] = reached.memory, reached.update
        counts = {member: BILLION * own // sum(row.steps) for member, own in steps.items()}
        if row.judged:
            seed = round_.to_bytes(32, "big")
            loss = hygiene.hidden_loss(model, base, recipe.context, seed, corpus.held_out())
            judged = hygiene.judge(updates, recipe, len(MEMBERS), seed, loss, steps=steps)
            counts = {member: each.weight for member, each in judged.items()}
            notes += [each.note for each in judged.values()]
        weighed = [(counts[member], updates[member]) for member in MEMBERS]
        base, state = training.stepped(base, weighed, state, recipe, round_, row.rounds)
    whole = notes.count("whole") / len(notes) if notes else 1.0
    return Run(outer.held_out_loss(model, base, recipe, training.EVALUATED), whole)


def main(words: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.paced", description="one of four members is slow")
    parser.add_argument("--steps", type=int, default=280, help="steps of each member, if all train as many")
    parser.add_argument("--round-steps", type=int, default=20, help="those of one round; divides them")
    parser.add_argument("--seeds", type=int, default=1, help="each row is the mean of so many")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that all of it runs")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args(words)
    say = print if not chosen.json else lambda _: None
    if chosen.quick:
        found = figures(16, 8, recipe=training.QUICK, say=say)
    else:
        found = figures(chosen.steps, chosen.round_steps, chosen.seeds, say=say)
    report("paced", found, MEANING)


if __name__ == "__main__":
    main()
