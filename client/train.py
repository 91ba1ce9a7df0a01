"""One round of a member's training: H inner steps, and what they came to."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client import hardest
from client.data import Batches, Shard
from client.half import Half
from client.team import at_work
from client.training import ONE, Machine
from shared_models.claims import Progress
from shared_models.lm import weights
from shared_models.lm.tokenizer import Tokens
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Point, ends

REPORT_S = 0.5  # How often progress is told.


@dataclass(frozen=True, slots=True)
class Trained:
    """What one round of training came to."""

    update: weights.Weights  # Trained weights minus base.
    tokens: int
    steps: int
    busy_ms: int
    loss: float  # Of the last steps, on the member's own text, in nats per token.
    data: str  # Digest of every token trained on: `Batches.digest`.
    memory: weights.Weights  # What the optimiser remembers, for the next round.
    points: tuple[Point, ...]  # The states that led there.


class BrokenOff(Exception):
    """The machine is about to be taken away: how far training came, and what it was told."""

    def __init__(self, half: Half, refused: Refused) -> None:
        super().__init__(str(refused))
        self.half, self.refused = half, refused


def train(
    base: weights.Weights,
    recipe: Recipe,
    tokens: Tokens | Shard,
    memory: weights.Weights,
    *,
    member: str,
    round_: int,
    rounds: int,
    report: Callable[[Progress], object],
    machine: Machine = ONE,
    since: Half | None = None,
    report_s: float = REPORT_S,
) -> Trained:
    """Train `recipe.inner_steps` steps from `base`, with what the optimiser remembers of the round before, if anything.

    Goes on from where the round was broken off, `since`, if the text is still the same: to the same bits. Raises
    `Refused`: NO_TEXT if the text is shorter than a sequence, or as `Machine.check` and `report`; `BrokenOff` if
    `report` says TAKEN_AWAY, after the step that was being made. Several processes go on to the end of a segment.
    """
    turn: dict[str, Any] = {"member": member, "round_": round_, "rounds": rounds}
    nothing = Half(step=0, weights={}, memory=memory, data=Batches(tokens, recipe, **turn).digest)
    half = since or nothing
    batches = Batches(tokens, recipe, half.picked, **turn)
    for _ in range(half.step):
        batches.draw()
    if half.data != batches.digest:
        half = nothing
    step, losses, points = half.step, [*half.losses], [*half.points]
    broken: Refused | None = None
    started = told = time.monotonic()

    def busy_ms() -> int:
        return half.busy_ms + int(1000 * (time.monotonic() - started))

    def tell(loss: float) -> None:
        nonlocal told, broken
        if time.monotonic() - told < report_s or broken is not None:
            return
        said = Progress(tokens=step * recipe.batch * recipe.context, loss_unats=round(1e6 * loss), busy_ms=busy_ms())
        try:
            report(said)
        except Refused as refused:
            if refused.refusal is not Refusal.TAKEN_AWAY:
                raise
            broken = refused
        told = time.monotonic()

    if recipe.candidates > 1 and step == 0:
        picked = list[tuple[int, ...]]()
        for rows, loss in hardest.picked(base, recipe, tokens, machine, **turn):
            picked.append(rows)
            tell(loss)
            if broken is not None:
                raise BrokenOff(replace(nothing, busy_ms=busy_ms()), broken)
        half = replace(half, picked=tuple(picked))
    start = base | half.weights  # What is frozen is in no half.
    turn |= {"step": step, "picked": half.picked}
    with at_work(start, recipe, tokens, half.memory, machine=machine, **turn) as training:
        for end in ends(recipe)[len(points) :]:
            for loss in training.until(end):
                losses, step = [*losses[-4:], loss], step + 1
                tell(loss)
                if broken is not None and machine.processes == 1:  # Several have begun another step by now.
                    break
            if broken is not None and step < recipe.inner_steps:
                reached, remembered = training.state()
                came = replace(half, step=step, weights=reached, memory=remembered, data=training.data)
                came = replace(came, points=tuple(points), losses=tuple(losses), busy_ms=busy_ms())
                raise BrokenOff(came, broken)
            points.append(training.point())

        reached, remembered = training.state()
        data = training.data
    return Trained(
        update=weights.minus(reached, base),
        tokens=recipe.inner_steps * recipe.batch * recipe.context,
        steps=recipe.inner_steps,
        busy_ms=busy_ms(),
        loss=float(np.mean(losses)),
        data=data,
        memory=remembered,
        points=tuple(points),
    )
