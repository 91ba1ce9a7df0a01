"""One of four members lies: what the run comes to, against the run in which nobody does.

`python -m bench.robust [--steps N] [--quick] [--json]`. Four members hold different packages of the standard library
and train by the product's inner loop; one of them turns its updates around, makes them longer, hands in noise, nothing,
or another's. Each row is a whole run; its figure is its held-out loss over that of the honest run with the default
rule. `unguarded` is the plain mean of all updates, as it was before `lm/hygiene.py`. With four members `median` is the
same as `trimmed`.

What counts less in a run in which all are honest is a false alarm, and is counted; so is what of the liar counts whole.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bench import Figures, report, training
from client.train import train
from consortium.faults import POISONS
from server import outer
from shared_models.lm import codecs, corpus, hygiene, robust
from shared_models.lm.hygiene import Judged
from shared_models.lm.weights import Weights
from shared_models.records.kinds import Recipe
from shared_models.rules.recipes import SMALL

MEMBERS = [f"m{number}" for number in range(training.MEMBERS)]
LIAR, VICTIM = MEMBERS[-1], MEMBERS[0]
LIES = ("flipped", "scaled", "noise", "zeros", "copied")
ROUND_STEPS = 20
HONEST = "honest"


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    rule: str  # `default`, `unguarded`, or what a recipe may have as `aggregate`.
    lie: str = HONEST
    start: str = "scratch"
    up: str = "fp32"

    @property
    def name(self) -> str:
        changes = [each for each in (self.start, self.up) if each not in ("scratch", "fp32")]
        return "_".join([self.rule, *changes, self.lie])


ROWS = (
    Row("default"),
    *(Row("default", lie) for lie in LIES),
    *(Row("unguarded", lie) for lie in ("flipped", "scaled", "noise")),
    *(Row(rule, lie) for rule in ("trimmed", "centred", "krum") for lie in (HONEST, "flipped", "scaled")),
    Row("default", start="warm"),
    Row("default", "flipped", start="warm"),
    Row("default", up="int4"),
    Row("default", up="top64"),
)
MEANING = {
    row.name: f"final loss, {row.rule}: {row.lie} / {Row('default', start=row.start).name}"
    for row in ROWS
    if row.up == "fp32" and row != Row("default", start=row.start)
}
MEANING |= {
    "honest_loss": "held-out loss of the honest run by the default rule, nats per byte",
    "honest_updates": "updates judged in all runs by the default rule in which nobody lies, with codecs and warm too",
    "honest_set_aside": "those of them that counted nothing; must be 0",
    "honest_copied": "those of them taken for copies; must be 0",
    "liars_counting_whole": "updates of liars that counted like any other, by the default rule",
    "judging_over_training": "CPU time of judging a round of four / that of one member's training in it, small recipe",
}


def figures(
    steps: int = 100, recipe: Recipe = training.MODEL, say: Callable[[str], object] = lambda _: None
) -> Figures:
    """Train every row, say each result, and put them into proportion."""
    torch.set_num_threads(1)
    recipe = replace(recipe, inner_steps=min(ROUND_STEPS, steps // 2))
    bases = {start: training.started(start, recipe, steps) for start in training.STARTS}
    losses: dict[str, float] = {}
    honest, liars = list[Judged](), list[Judged]()
    for row in ROWS:
        reached, judged = _trained(bases[row.start], row, recipe, steps // recipe.inner_steps)
        losses[row.name] = outer.held_out_loss(outer.model(recipe), reached, recipe, training.EVALUATED)
        notes = " ".join(each[LIAR].note for each in judged)
        say(f"{row.name:28}{losses[row.name]:8.4f}  {notes if row.lie != HONEST else ''}")
        if row.rule == "default":
            honest += [each for verdict in judged for name, each in verdict.items() if row.lie == HONEST]
            liars += [verdict[LIAR] for verdict in judged if row.lie != HONEST]
    found = {
        row.name: losses[row.name] / losses[Row("default", start=row.start).name] for row in ROWS if row.name in MEANING
    }
    return found | {
        "honest_loss": losses[Row("default").name],
        "honest_updates": len(honest),
        "honest_set_aside": sum(each.weight == 0 for each in honest),
        "honest_copied": sum(each.note == "copied" for each in honest),
        "liars_counting_whole": sum(each.note == "whole" for each in liars),
        "judging_over_training": _cost(replace(SMALL, inner_steps=min(SMALL.inner_steps, steps))),
    }


def _trained(base: Weights, row: Row, recipe: Recipe, rounds: int) -> tuple[Weights, list[dict[str, Judged]]]:
    """The checkpoint that a row leads to, and what each round's updates counted."""
    recipe = replace(recipe, aggregate="mean" if row.rule in ("default", "unguarded") else row.rule, up=row.up)
    shards = [corpus.shard(number, len(MEMBERS)) for number in range(len(MEMBERS))]
    state, inner = Weights(), {member: Weights() for member in MEMBERS}
    unsent, model, verdicts = {member: Weights() for member in MEMBERS}, outer.model(recipe), []
    for round_ in range(1, rounds + 1):
        updates = {}
        for member, tokens in zip(MEMBERS, shards, strict=True):
            trained = train(
                base,
                recipe,
                tokens,
                inner[member],
                member=member,
                round_=round_,
                rounds=rounds,
                report=lambda _: None,
            )
            inner[member] = trained.memory
            update = trained.update
            if member == LIAR and row.lie in POISONS:
                POISONS[row.lie](update)
            sent = codecs.send(row.up, update, unsent[member])
            updates[member], unsent[member] = sent.values, sent.unsent
        if row.lie == "copied":
            updates[LIAR] = updates[VICTIM]
        if row.rule == "unguarded":
            judged = {member: Judged(robust.WHOLE // len(MEMBERS), 0, "whole") for member in MEMBERS}
        else:
            seed = round_.to_bytes(32, "big")
            loss = hygiene.hidden_loss(model, base, recipe.context, seed, corpus.held_out())
            judged = hygiene.judge(updates, recipe, len(MEMBERS), seed, loss)
        verdicts.append(judged)
        weighed = [(judged[member].weight, updates[member]) for member in MEMBERS]
        base, state = training.stepped(base, weighed, state, recipe, round_, rounds)
    return base, verdicts


def _cost(recipe: Recipe) -> float:
    """What it costs to judge a round of four updates, over what one of them cost to train."""
    base, model = outer.first(recipe), outer.model(recipe)
    began = time.process_time()
    update = train(base, recipe, corpus.shard(0, 1), {}, member="m0", round_=1, rounds=2, report=lambda _: None).update
    trained = time.process_time() - began
    random = np.random.default_rng(1)
    updates = {
        member: {
            name: tensor * random.standard_normal(tensor.shape).astype(np.float32) for name, tensor in update.items()
        }
        for member in MEMBERS
    }
    began = time.process_time()
    seed = bytes(32)
    loss = hygiene.hidden_loss(model, base, recipe.context, seed, corpus.held_out())
    hygiene.judge(updates, recipe, len(MEMBERS), seed, loss)
    return (time.process_time() - began) / trained


def main(words: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.robust", description="one of four members lies")
    parser.add_argument("--steps", type=int, default=100, help="steps of each member")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that all of it runs")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args(words)
    say = print if not chosen.json else lambda _: None
    found = figures(6, training.QUICK, say) if chosen.quick else figures(chosen.steps, say=say)
    report("robust", found, MEANING)


if __name__ == "__main__":
    main()
