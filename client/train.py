"""One round of a member's training: H inner steps, and what they came to."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from client.team import at_work
from client.training import ONE, Machine
from shared_models.claims import Progress
from shared_models.lm import weights
from shared_models.lm.corpus import Tokens
from shared_models.records.kinds import Recipe
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
    data: str  # Digest of every token trained on.
    memory: weights.Weights  # What the optimiser remembers, for the next round.
    points: tuple[Point, ...]  # The states that led there.


def train(
    base: weights.Weights,
    recipe: Recipe,
    tokens: Tokens,
    memory: weights.Weights,
    *,
    member: str,
    round_: int,
    rounds: int,
    report: Callable[[Progress], object],
    machine: Machine = ONE,
) -> Trained:
    """Train `recipe.inner_steps` steps from `base`, with what the optimiser remembers of the round before, if anything.

    Raises `Refused`: NO_TEXT if the text is shorter than a sequence, or as `Machine.check`.
    """
    losses: list[float] = []
    points: list[Point] = []
    started = told = time.monotonic()

    turn = {"member": member, "round_": round_, "rounds": rounds}
    with at_work(base, recipe, tokens, memory, machine=machine, **turn) as training:
        for end in ends(recipe):
            for loss in training.until(end):
                losses.append(loss)
                now = time.monotonic()
                if now - told > REPORT_S:
                    trained_on = len(losses) * recipe.batch * recipe.context
                    busy_ms = round(1000 * (now - started))
                    report(Progress(tokens=trained_on, loss_unats=round(1e6 * loss), busy_ms=busy_ms))
                    told = now
            points.append(training.point())

        reached, remembered = training.state()
        data = training.data
    return Trained(
        update=weights.minus(reached, base),
        tokens=recipe.inner_steps * recipe.batch * recipe.context,
        steps=recipe.inner_steps,
        busy_ms=int(1000 * (time.monotonic() - started)),
        loss=float(np.mean(losses[-5:])),
        data=data,
        memory=remembered,
        points=tuple(points),
    )
