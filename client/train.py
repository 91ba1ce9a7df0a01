"""The inner loop: H steps from the shared checkpoint on the member's own text. Read it top to bottom."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from client.data import Batches
from shared_models.claims import Progress
from shared_models.lm import gpt, weights
from shared_models.lm.corpus import Tokens
from shared_models.lm.inner import Inner
from shared_models.records.kinds import Recipe

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
) -> Trained:
    """Train `recipe.inner_steps` steps from `base`, with what the optimiser remembers of the round before, if anything.

    All state is here: the model, the optimiser, the batches. The rate falls linearly to a tenth over the whole run, by
    the same law within every member, so that nobody needs to be told it. Until the optimiser has made a twentieth of
    the run's steps it is warmed up: at the run's beginning, and wherever it had to start afresh.
    """
    model = gpt.GPT(gpt.Shape.of(recipe))
    weights.put(base, model)
    optimiser = Inner(model, recipe.inner, memory)
    batches = Batches(tokens, recipe.context + 1, seed=recipe.seed, member=member, round_=round_)
    whole = rounds * recipe.inner_steps
    warm = max(1, whole // 20)
    losses: list[float] = []
    started = told = time.monotonic()

    for step in range(recipe.inner_steps):
        done = ((round_ - 1) * recipe.inner_steps + step) / whole
        warmth = min(1.0, (optimiser.steps + 1) / warm)
        loss = model.loss(torch.from_numpy(batches.draw(recipe.batch)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(float(recipe.inner_rate) * (1 - 0.9 * done) * warmth)
        losses.append(loss.item())
        now = time.monotonic()
        if now - told > REPORT_S:
            trained_on = (step + 1) * recipe.batch * recipe.context
            busy_ms = round(1000 * (now - started))
            report(Progress(tokens=trained_on, loss_unats=round(1e6 * losses[-1]), busy_ms=busy_ms))
            told = now

    trained = weights.of(model)
    return Trained(
        update={name: trained[name] - base[name] for name in base},
        tokens=recipe.inner_steps * recipe.batch * recipe.context,
        steps=recipe.inner_steps,
        busy_ms=int(1000 * (time.monotonic() - started)),
        loss=float(np.mean(losses[-5:])),
        data=batches.digest,
        memory=optimiser.memory(),
    )
