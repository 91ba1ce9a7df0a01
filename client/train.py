"""The inner loop: H steps from the shared checkpoint on the member's own text. Read it top to bottom."""

import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.data import Batches
from shared_models.claims import Progress
from shared_models.lm import gpt, weights
from shared_models.lm.corpus import Tokens
from shared_models.lm.inner import Inner
from shared_models.records.kinds import Recipe
from shared_models.rules.challenge import Point, ends

NUMBERS = {"bf16": "bfloat16", "fp32": "float32"}  # What a build calls them.
REPORT_S = 0.5  # How often progress is told.


class Training:
    """One member's part of a round, at work. All state is here: the model, the optimiser, the batches.

    An auditor begins where a segment does, with the state that was there, and goes the same way: there is no other.
    """

    def __init__(
        self,
        start: weights.Weights,
        recipe: Recipe,
        tokens: Tokens,
        memory: weights.Weights,
        *,
        member: str,
        round_: int,
        rounds: int,
        step: int = 0,
        recompute: bool = False,
    ) -> None:
        """Before inner step `step`, whose weights and optimiser's memory these are. `recompute`: see `gpt.GPT`."""
        self._model = gpt.GPT(gpt.Shape.of(recipe), recompute=recompute)
        weights.put(start, self._model)
        self._optimiser = Inner(self._model, recipe.inner, memory)
        self._batches = Batches(tokens, recipe.context + 1, seed=recipe.seed, member=member, round_=round_)
        self._recipe, self._before, self._whole = recipe, (round_ - 1) * recipe.inner_steps, rounds * recipe.inner_steps
        self._step = step
        for _ in range(step):
            self._batches.draw(recipe.batch)

    def until(self, step: int) -> Iterator[float]:
        """Train up to before this inner step; the loss of each step as it is made, in nats per token.

        The rate falls linearly to a tenth over the whole run, by the same law within every member, so that nobody
        needs to be told it. Until the optimiser has made a twentieth of the run's steps it is warmed up: at the run's
        beginning, and wherever it had to start afresh.
        """
        warm = max(1, self._whole // 20)
        while self._step < step:
            done = (self._before + self._step) / self._whole
            warmth = min(1.0, (self._optimiser.steps + 1) / warm)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._recipe.precision == "bf16"):
                loss = self._model.loss(torch.from_numpy(self._batches.draw(self._recipe.batch)))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step(float(self._recipe.inner_rate) * (1 - 0.9 * done) * warmth)
            self._step += 1
            yield loss.item()

    def state(self) -> tuple[weights.Weights, weights.Weights]:
        """Copies of the weights, and of what the optimiser remembers."""
        return weights.of(self._model), self._optimiser.memory()

    @property
    def data(self) -> str:
        """SHA-256 of every token trained on so far."""
        return self._batches.digest

    def point(self) -> Point:
        """What a receipt commits to here."""
        reached, memory = self.state()
        return Point(step=self._step, data=self.data, weights=weights.digest(reached), memory=weights.digest(memory))


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
    recompute: bool = False,
) -> Trained:
    """Train `recipe.inner_steps` steps from `base`, with what the optimiser remembers of the round before, if anything.

    `recompute` takes less memory and more time (`gpt.GPT`). Raises ValueError if the shard is shorter than a sequence.
    """
    training = Training(base, recipe, tokens, memory, member=member, round_=round_, rounds=rounds, recompute=recompute)
    losses: list[float] = []
    points: list[Point] = []
    started = told = time.monotonic()

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
    return Trained(
        update=weights.minus(reached, base),
        tokens=recipe.inner_steps * recipe.batch * recipe.context,
        steps=recipe.inner_steps,
        busy_ms=int(1000 * (time.monotonic() - started)),
        loss=float(np.mean(losses[-5:])),
        data=training.data,
        memory=remembered,
        points=tuple(points),
    )


def build(precision: str) -> str:
    """What this thread computes with, as a receipt says it: where two say the same, the same steps give the same bits.

    PyTorch's version / the instruction set that its kernels use / threads / the number format of matrix products, by
    the recipe's precision / the model of processor, by which libraries under PyTorch choose kernels of their own.
    """
    return "/".join(
        (
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
            str(torch.get_num_threads()),
            NUMBERS[precision],
            _processor(),
        )
    )


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """Such as x86_64-AuthenticAMD-25-17; where the system does not tell, the architecture alone."""
    told = dict[str, str]()
    if path.is_file():
        for line in path.read_text().partition("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            told[name.strip()] = value.strip()
    parts = (platform.machine(), *(told.get(name, "") for name in ("vendor_id", "cpu family", "model")))
    return re.sub(r"[^A-Za-z0-9._+-]", "-", "-".join(filter(None, parts)))[:40]
