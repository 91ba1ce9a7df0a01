"""Training together against training in one place: the same tokens, held-out loss, bytes between the members.

`python -m bench.training [--steps N] [--round-steps H] [--seeds S] [--plot FILE] [--quick] [--json]`. Four members hold
different packages of the standard library; files of all are held out. Every row trains by the product's own inner loop
and outer step, and on as many tokens, but for a member alone on its own machine. With the first seed, each way to train
is tried at the same three rates, and the best counts; a member alone keeps the default rate, and what differs from the
default in one thing only, a codec or a slow member, has the default's best. The headline rows are trained with the
other seeds too, at the rate that was best. The warm start is a checkpoint trained here on other draws of all text.

Synchronous data parallel is computed as what it is: one loop whose batch is that of all members. What it would send is
its gradient up and the mean of all gradients down, in every step. With few tokens in a step, a row that makes more
steps of fewer tokens wins; so steps and batch stand beside every figure.

In the row `late` one member takes four times as long as the others and nobody waits for it: its update is of three
rounds before when it counts, and counts half, by the product's rule (`hygiene.judge`).

With `--lost` the default alone is trained, and twice again with its coordinator lost in the middle, where another goes
on as `consortium take-over` does: the round that was open has no step, and what the outer step remembered is lost
(`handed_over`), or kept, as by who has repeated the steps of a run that showed its updates (`shown`).
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench import coordinator, report
from client.train import train
from client.training import ONE, Machine
from server import outer
from shared_models.lm import codecs, corpus, gpt, weights
from shared_models.lm import outer as steps
from shared_models.lm.tokenizer import Tokens
from shared_models.records.kinds import BILLION, Recipe
from shared_models.rules.recipes import SMALL

MEMBERS = 4
RATES = ("0.004", "0.008", "0.016")
EVALUATED = 256  # Sequences.
STARTS = ("scratch", "warm")
MODEL = replace(SMALL, layers=3, width=96, batch=1)  # 381,600 weights.
QUICK = replace(MODEL, layers=1, heads=2, width=16, context=16)
SLOW = 4  # So many times as long takes the slow member of the row `late`.
CODED = {"1000x": 1000, "4000x": 4000}  # The default in signs, exchanged seldom: at least so many times fewer bytes.
SIGNS = 31  # Times fewer than float32.
CODECS = (
    "bf16",
    "int8",
    "int4",
    "sign2",
    "sign1",
    "top64",
)  # The default with these, both ways, and nothing else changed.
HEADLINE = ("alone", "sync_adamw", "default", *CODED)  # Trained with every seed.
# Where names stand in the plot, in points from their row, so that none stands on another.
ASIDE = {
    "fedavg": (-36, 5),
    "late": (4, -12),
    "int8": (4, -12),
    "bf16": (-6, 8),
    "int4": (-14, 8),
    "sign2": (-6, -13),
    "sign1": (-28, -11),
    "default": (4, 12),
    "sync_adamw": (-58, 5),
    "sync_muon": (-54, 5),
}
MEANING = {
    "loss_ratio_scratch": "held-out loss of the default / best synchronous AdamW, from random weights; at most 1.03",
    "loss_ratio_warm": "the same from a warm start; at most 1",
    "loss_ratio_scratch_least": "of the seeds, the least loss_ratio_scratch",
    "loss_ratio_scratch_most": "and the most",
    "default_over_sync_muon_scratch": "the same / best synchronous Muon",
    "default_over_fedavg_scratch": "the same / best AdamW averaged at the end of each round (FedAvg)",
    "default_over_alone_scratch": "the same / the best of the members alone, each on its own machine and text; below 1",
    "default_over_alone_with_all_scratch": "the same / that member on its own text, with everybody's machines",
    "late_over_default_scratch": "one member four times as slow, and nobody waits for it / the default",
    "sync_mb": "bytes of a member in a synchronous run, up, and as many down, in MB",
    "default_mb": "the same by the default recipe",
    "bytes_reduction": "the one / the other",
    "late_time_over_barrier": "rounds of the row late / those of the default, if each takes as long as its slow member",
}
MEANING |= {
    name.replace("scratch", "warm"): f"warm: {what}"
    for name, what in MEANING.items()
    if ("over" in name and "scratch" in name) or name.startswith("loss_ratio_scratch_")
}
MEANING |= {
    f"{row}_loss_{start}": "nats per byte"
    for row in (*HEADLINE, "alone_with_all", "sync_muon", "fedavg", "late", *CODECS)
    for start in STARTS
}
MEANING |= {
    f"loss_ratio_{start}_{row}": f"the default with {times:,} times fewer bytes up, and down / best synchronous AdamW"
    for row, times in CODED.items()
    for start in STARTS
}
MEANING |= {
    f"loss_ratio_{start}_{row}": f"the default in {row} up, and down / best synchronous AdamW"
    for row in CODECS
    for start in STARTS
}
MEANING |= {f"bytes_reduction_{row}": f"how many times fewer these are in row {row}" for row in (*CODED, *CODECS)}
LOST = {"handed_over": "a round's step and momentum lost in the middle", "shown": "that step lost alone"}
LOST_MEANING = {
    f"{row}_over_default_{start}{of}": f"{what}, from {start} / the default undisturbed; {told}"
    for row, what in LOST.items()
    for start in STARTS
    for of, told in (("", "mean of the seeds"), ("_least", "least of the seeds"), ("_most", "most of the seeds"))
}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train: so many rounds of this recipe by each of these shards."""

    name: str
    shards: Sequence[Tokens]
    recipe: Recipe
    rounds: int
    exchanges: int  # Times that weights or gradients travel up, and down.
    slow: int = 1  # The last member needs so many rounds for one, and nobody waits for it.
    lost: int = 0  # The round in which the coordinator is lost,
    forgets: bool = False  # and whether momentum is, too.

    def sent(self, codec: str) -> int:
        """The bytes of a member, one way in this codec; a first checkpoint is not in them."""
        return self.exchanges * codecs.total(codec, gpt.shapes(gpt.Shape.of(self.recipe)))


class Run(NamedTuple):
    """What one training came to."""

    loss: float  # Held out, in nats per byte.
    cpu_s: float  # Of all members together.


class Result(NamedTuple):
    """A row at its best rate, with one seed or more."""

    row: Row
    rate: str
    runs: Sequence[Run]

    def loss(self, seeds: int | None = None) -> float:
        return statistics.mean(run.loss for run in self.runs[:seeds])

    def over(self, other: "Result") -> float:
        """This loss / another one, with the seeds that both were trained with."""
        seeds = min(len(self.runs), len(other.runs))
        return self.loss(seeds) / other.loss(seeds)


Results = Mapping[tuple[str, str], Result]  # By row and start.


def figures(
    steps: int = 280,
    round_steps: int = 20,
    seeds: int = 3,
    recipe: Recipe = MODEL,
    rates: Sequence[str] = RATES,
    say: Callable[[str], object] = lambda _: None,
    plot: Path | None = None,
) -> dict[str, float]:
    """Train every row, say each result, and put them into proportion; with `plot`, draw them into that file."""
    recipe = replace(recipe, inner_steps=round_steps)
    pool = ProcessPoolExecutor(
        os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,), mp_context=get_context("spawn")
    )
    with pool:
        found = _results(pool, recipe, steps, seeds, rates, say)
    for start in STARTS:
        say(_table(found, start))
    if plot:
        _draw(found, plot)
    told = dict[str, float]()
    for start in STARTS:
        default, sync = found["default", start], found["sync_adamw", start]
        by_seed = [mine.loss / theirs.loss for mine, theirs in zip(default.runs, sync.runs, strict=True)]
        told[f"loss_ratio_{start}"] = default.over(sync)
        told |= {f"loss_ratio_{start}_least": min(by_seed), f"loss_ratio_{start}_most": max(by_seed)}
        told |= {f"loss_ratio_{start}_{row}": found[row, start].over(sync) for row in (*CODED, *CODECS)}
        for other in ("sync_muon", "fedavg", "alone", "alone_with_all"):
            told[f"default_over_{other}_{start}"] = default.over(found[other, start])
        told[f"late_over_default_{start}"] = found["late", start].over(default)
    told |= {f"{row}_loss_{start}": result.loss() for (row, start), result in found.items()}
    up = {row: result.row.sent(result.row.recipe.up) for (row, _), result in found.items()}
    told |= {f"bytes_reduction_{row}": up["sync_adamw"] / up[row] for row in (*CODED, *CODECS)}
    told |= {"sync_mb": up["sync_adamw"] / 1e6, "default_mb": up["default"] / 1e6}
    told["late_time_over_barrier"] = found["late", "warm"].row.rounds / (SLOW * found["default", "warm"].row.rounds)
    return told | {"bytes_reduction": up["sync_adamw"] / up["default"]}


def lost_figures(
    steps: int = 280,
    round_steps: int = 20,
    seeds: int = 3,
    recipe: Recipe = MODEL,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, float]:
    """What it costs to lose the coordinator in the middle: the default recipe at its own rate, with and without."""
    told, recipe = dict[str, float](), replace(recipe, inner_steps=round_steps)
    default = next(row for row in rows(recipe, steps) if row.name == "default")
    middle = (default.rounds + 1) // 2
    lost = [replace(default, name=name, lost=middle, forgets=name == "handed_over") for name in LOST]
    torch.set_num_threads(1)
    for start in STARTS:
        ratios: dict[str, list[float]] = {name: [] for name in LOST}
        for seed in range(1, seeds + 1):
            base = started(start, replace(recipe, seed=seed), steps)
            right, *others = (train_row(row, recipe.inner_rate, base, seed).loss for row in (default, *lost))
            for name, loss in zip(LOST, others, strict=True):
                say(f"{start:8}{name:12}{seed:3}{loss:8.4f} for {right:.4f}")
                ratios[name].append(loss / right)
        for name, each in ratios.items():
            figure = f"{name}_over_default_{start}"
            told |= {figure: statistics.mean(each), f"{figure}_least": min(each), f"{figure}_most": max(each)}
    return told


def _results(
    pool: ProcessPoolExecutor,
    recipe: Recipe,
    steps: int,
    seeds: int,
    rates: Sequence[str],
    say: Callable[[str], object],
) -> Results:
    """Every row at its best rate, from each start."""
    numbers = range(1, seeds + 1)
    begun = {
        (start, seed): pool.submit(started, start, replace(recipe, seed=seed), steps)
        for start in STARTS
        for seed in numbers
    }
    bases = {which: base.result() for which, base in begun.items()}

    def run(row: Row, rate: str, start: str, seed: int) -> Future[Run]:
        return pool.submit(train_row, row, rate, bases[start, seed], seed)

    def tell(row: Row, rate: str, start: str, loss: float) -> None:
        say(f"{start:8}{row.name:16}{rate:7}{row.recipe.inner_steps:5} × {row.recipe.batch:<3}{loss:8.4f}")

    tried = [
        (start, row, rate, run(row, rate, start, 1))
        for start in STARTS
        for row in rows(recipe, steps)
        for rate in (rates if row.exchanges else (recipe.inner_rate,))
    ]
    best = dict[tuple[str, str], Result]()
    for start, row, rate, trained in tried:
        reached = trained.result()
        tell(row, rate, start, reached.loss)
        if (row.name, start) not in best or reached.loss < best[row.name, start].loss():
            best[row.name, start] = Result(row, rate, [reached])

    more = [(result, start, 1) for start in STARTS for result in _beside(best, start)]
    more += [(best[name, start], start, seed) for start in STARTS for name in HEADLINE for seed in numbers[1:]]
    running = [(each, start, run(each.row, each.rate, start, seed)) for each, start, seed in more]
    for each, start, trained in running:
        tell(each.row, each.rate, start, trained.result().loss)
        before = best.get((each.row.name, start), each)
        best[each.row.name, start] = before._replace(runs=[*before.runs, trained.result()])
    return best


def _beside(best: Results, start: str) -> list[Result]:
    """What is trained at the rate that was best for another row, and has no run yet."""
    default, alone = best["default", start], best["alone", start]
    recipe = default.row.recipe
    joint = replace(alone.row.recipe, batch=MEMBERS * recipe.batch)
    unwaited = int(default.row.rounds * MEMBERS / (MEMBERS - 1 + 1 / SLOW))  # Of hardly fewer tokens.
    late = replace(default.row, name="late", rounds=unwaited, exchanges=unwaited, slow=SLOW)
    coded = (replace(default.row, name=codec, recipe=replace(recipe, up=codec, down=codec)) for codec in CODECS)
    return [
        Result(replace(alone.row, name="alone_with_all", recipe=joint), alone.rate, []),
        *(Result(row, default.rate, []) for row in (late, *coded)),
    ]


def rows(recipe: Recipe, steps: int) -> list[Row]:
    """The ways that are tried at every rate. A member that has only its own machine trains its share of the tokens."""
    shards, whole = [corpus.shard(number, MEMBERS) for number in range(MEMBERS)], [all_text()]
    alone = replace(recipe, inner_steps=steps, outer="mean", outer_rate="1")
    joint = replace(alone, batch=MEMBERS * recipe.batch)
    rounds = steps // recipe.inner_steps
    signs = replace(recipe, up="sign1", down="sign1")
    averaged = replace(signs, outer="mean", outer_rate="1")  # In two rounds momentum only overshoots.
    eight, two = (max(1, SIGNS * steps // times) for times in CODED.values())
    return [
        *(Row("alone", [shard], alone, 1, 0) for shard in shards),
        Row("sync_adamw", whole, replace(joint, inner="adamw"), 1, steps),
        Row("sync_muon", whole, replace(joint, inner="muon"), 1, steps),
        Row("fedavg", shards, replace(recipe, inner="adamw", outer="mean", outer_rate="1"), rounds, rounds),
        Row("default", shards, recipe, rounds, rounds),
        Row("1000x", shards, replace(signs, inner_steps=steps // eight), eight, eight),
        Row("4000x", shards, replace(averaged, inner_steps=steps // two), two, two),
    ]


def started(start: str, recipe: Recipe, steps: int, machine: Machine = ONE) -> weights.Weights:
    """Random weights; or what AdamW makes of them in twice the steps of two sequences, on other draws of all text."""
    base = outer.first(recipe)
    if start == "scratch":
        return base
    before = replace(recipe, inner="adamw", inner_rate="0.004", outer="mean", outer_rate="1", seed=1000 + recipe.seed)
    return trained(base, replace(before, batch=2, inner_steps=2 * steps), [all_text()], 1, machine=machine)


def train_row(row: Row, rate: str, base: weights.Weights, seed: int, machine: Machine = ONE) -> Run:
    """Train a row from this checkpoint, at this rate."""
    recipe, began = replace(row.recipe, inner_rate=rate, seed=seed), time.process_time()
    reached = trained(base, recipe, row.shards, row.rounds, row.slow, machine, row.lost, row.forgets)
    cpu_s = time.process_time() - began
    model = outer.model(recipe).to(machine.processor)
    return Run(outer.held_out_loss(model, reached, recipe, EVALUATED), cpu_s)


def all_text() -> Tokens:
    """The text of all members."""
    return np.concatenate([corpus.shard(number, MEMBERS) for number in range(MEMBERS)])


def trained(
    base: weights.Weights,
    recipe: Recipe,
    shards: Sequence[Tokens],
    rounds: int,
    slow: int = 1,
    machine: Machine = ONE,
    lost: int = 0,
    forgets: bool = False,
) -> weights.Weights:
    """The checkpoint that these rounds lead to: what a coordinator and its members do, without the wire.

    With `slow` above 1 the last member's update counts so many rounds after it was asked for, less one, and a part.
    The coordinator is `lost` in that round: it has no step, and its successor `forgets` momentum, or does not.
    """
    state, inner, unsent = weights.Weights(), [weights.Weights() for _ in shards], [weights.Weights() for _ in shards]
    at_work: weights.Weights = {}
    for round_ in range(1, rounds + 1):
        updates = []
        for number, tokens in enumerate(shards):
            waited_for = slow == 1 or number < len(shards) - 1
            if not waited_for and (round_ - 1) % slow:
                continue
            trained = train(
                base,
                recipe,
                tokens,
                inner[number],
                member=f"m{number}",
                round_=round_,
                rounds=rounds,
                report=lambda _: None,
                machine=machine,
            )
            inner[number] = trained.memory
            sent = codecs.send(recipe.up, trained.update, unsent[number])
            unsent[number] = sent.unsent
            if waited_for:
                updates.append(sent.values)
            else:
                at_work = sent.values
        if round_ == lost:
            state = {} if forgets else state
            continue
        late = slow > 1 and round_ % slow == 0
        share = BILLION / (len(updates) + late)
        weighed = [(int(share), update) for update in updates]
        if late:
            weighed.append((int(share / math.sqrt(slow)), at_work))
        base, state = stepped(base, weighed, state, recipe, round_, rounds)
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


def _table(found: Results, start: str) -> str:
    """What is compared, for a reader: the best rate of each row, and its seeds."""
    sync = found["sync_adamw", start]
    lines = [f"\n{'from ' + start:16}{'rate':7}{'steps':>5} × {'batch':6}{'loss':>7}{'least':>7}{'most':>7}"]
    lines[0] += f"{'/ sync':>8}{'MB up':>9}{'MB down':>9}{'fewer':>8}{'CPU-s':>7}"
    for (_, of), each in found.items():
        if of != start:
            continue
        recipe, losses = each.row.recipe, [run.loss for run in each.runs]
        up, down = each.row.sent(recipe.up), each.row.sent(recipe.down)
        fewer = f"{sync.row.sent('fp32') / up:8.0f}" if up else f"{'':8}"
        line = f"{each.row.name:16}{each.rate:7}{recipe.inner_steps:5} × {recipe.batch:<6}"
        line += f"{each.loss():7.3f}{min(losses):7.3f}{max(losses):7.3f}{each.over(sync):8.3f}"
        line += f"{up / 1e6:9.3f}{down / 1e6:9.3f}{fewer}{statistics.mean(run.cpu_s for run in each.runs):7.1f}"
        lines.append(line)
    return "\n".join(lines)


def _draw(found: Results, file: Path) -> None:
    """Held-out loss against the bytes of a member, one way; a bar is what lies between the seeds."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for place, start in zip(figure.subplots(1, len(STARTS)), STARTS, strict=True):
        for (name, of), each in found.items():
            if of != start or not each.row.exchanges:
                continue
            losses, mb = [run.loss for run in each.runs], each.row.sent(each.row.recipe.up) / 1e6
            place.errorbar(
                mb, each.loss(), [[each.loss() - min(losses)], [max(losses) - each.loss()]], fmt="o", capsize=3
            )
            aside = ASIDE.get(name, (4, 5))
            place.annotate(name, (mb, each.loss()), aside, textcoords="offset points", fontsize=8)
        alone = found["alone", start].loss()
        place.axhline(alone, linestyle=":", color="gray")
        place.annotate("a member alone", (0.01, alone), xycoords=place.get_yaxis_transform(), va="bottom", fontsize=8)
        place.set(xscale="log", title=f"from {'random weights' if start == 'scratch' else 'a warm start'}")
        place.set(xlabel="MB of a member, up, and as many down", ylabel="held-out nats per byte")
        place.margins(x=0.25)
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description="training together, and its peers")
    parser.add_argument("--steps", type=int, default=280, help="steps of each member")
    parser.add_argument("--round-steps", type=int, default=20, help="those of one round; divides them")
    parser.add_argument("--seeds", type=int, default=3, help="the headline rows are the mean of so many")
    parser.add_argument("--plot", type=Path, help="draw the rows into this file, such as training.svg")
    parser.add_argument("--lost", action="store_true", help="only what a coordinator lost in the middle costs")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that all of it runs")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    say = print if not chosen.json else lambda _: None
    if chosen.lost:
        steps, round_steps, seeds, recipe = chosen.steps, chosen.round_steps, chosen.seeds, MODEL
        if chosen.quick:
            steps, round_steps, seeds, recipe = 12, 3, 2, QUICK
        report("training", lost_figures(steps, round_steps, seeds, recipe, say), LOST_MEANING)
        return
    if chosen.quick:
        found = figures(12, 3, seeds=2, recipe=QUICK, rates=RATES[:1], say=say, plot=chosen.plot)
    else:
        found = figures(chosen.steps, chosen.round_steps, chosen.seeds, say=say, plot=chosen.plot)
        found |= coordinator.figures()
    report("training", found, MEANING | coordinator.MEANING)


if __name__ == "__main__":
    main()
