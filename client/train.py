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


def train(
    base: weights.Weights,
    recipe: Recipe,
    tokens: Tokens,
    *,
    member: str,
    round_: int,
    rounds: int,
    report: Callable[[Progress], object],
) -> Trained:
    """Train `recipe.inner_steps` steps of AdamW from `base`.

    All state is here: the model, the optimiser, the batches. The optimiser starts afresh every round, so its first
    steps are warmed up; keeping its state at the member was not studied yet. The rate falls linearly to a tenth over
    the run, and by the same law within every member, so that nobody needs to be told it.
    """
    shape = gpt.Shape(recipe.vocabulary, recipe.layers, recipe.heads, recipe.width, recipe.context)
    model = gpt.GPT(shape)
    weights.put(base, model)
    peak = float(recipe.inner_rate)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.1)
    batches = Batches(tokens, recipe.context + 1, seed=recipe.seed, member=member, round_=round_)
    warm = max(1, recipe.inner_steps // 10)
    whole = rounds * recipe.inner_steps
    losses: list[float] = []
    started = told = time.monotonic()

    for step in range(recipe.inner_steps):
        done = ((round_ - 1) * recipe.inner_steps + step) / whole
        rate = peak * (1 - 0.9 * done) * min(1.0, (step + 1) / warm)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = model.loss(torch.from_numpy(batches.draw(recipe.batch)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
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
    )
