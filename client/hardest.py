"""Active sampling: of so many candidates as the recipe has for each sequence, a step trains on the hardest
(arXiv:1511.06343), those that the round's base predicts worst.

Not those that the model of the moment does: all members of a round have the same base, so what is picked does not hang
on what a member's own steps came to, and the choice of any one step can be repeated alone. But losses are floats, and
on another build two that are nearly equal may change places. So a member shows what it picked, to which its receipt has
committed (`data.Slice`), and whoever repeats it asks that nothing much harder was left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it.

from client.data import Batches, Picked, Shard
from client.training import ONE, Machine
from shared_models.lm import gpt, weights
from shared_models.lm.tokenizer import Tokens
from shared_models.records.kinds import Recipe
from shared_models.rules.pricing import length_at

NEAR = 1e-4  # Nats per token: what one float32 forward may differ from another's by. Harder is harder by more.


class Scores:
    """How hard each candidate of a round is for its base, step by step."""

    def __init__(
        self,
        base: weights.Weights,
        recipe: Recipe,
        tokens: Tokens | Shard,
        machine: Machine = ONE,
        *,
        member: str,
        round_: int,
        rounds: int,
    ) -> None:
        """`base` is what a `Training` of the round starts from at its first step. Raises `Refused`, as `Batches`."""
        alone = replace(recipe, member_experts=min(1, recipe.member_experts))
        self._model = gpt.GPT(gpt.Shape.of(alone))  # A file's model has no candidates: `rules.recipes`.
        weights.put(base, self._model)
        self._model.to(machine.processor)
        self._processor, self._most = machine.processor, recipe.batch * recipe.context
        self._batches = Batches(tokens, recipe, member=member, round_=round_, rounds=rounds)

    def skip(self) -> None:
        """Leave the next step out."""
        self._batches.candidates()

    @torch.no_grad()
    def next(self) -> npt.NDArray[np.float32]:
        """The loss of each candidate of the next step, in nats per token: in float32, whatever the recipe's precision,
        as many at a time as a step trains.
        """
        drawn = torch.from_numpy(self._batches.candidates())
        parts = []
        for part in torch.split(drawn, max(1, self._most // (drawn.shape[1] - 1))):
            each = part.to(self._processor)
            logits, _ = self._model(each[:, :-1])
            losses = F.cross_entropy(logits.float().transpose(1, 2), each[:, 1:], reduction="none")
            parts.append(losses.mean(1).cpu())
        found: npt.NDArray[np.float32] = torch.cat(parts).numpy()
        return found


def pick(losses: npt.NDArray[np.float32], count: int) -> tuple[int, ...]:
    """The numbers of so many candidates with the highest losses, in their order; of equal ones the first."""
    return tuple(sorted(np.argsort(-losses, kind="stable")[:count].tolist()))


def picked(
    base: weights.Weights, recipe: Recipe, tokens: Tokens | Shard, machine: Machine = ONE, **turn: Any
) -> Iterator[tuple[tuple[int, ...], float]]:
    """What each step of a round trains on, and the mean loss of that under the base, in nats per token.

    Raises `Refused`, as `Scores`.
    """
    scores = Scores(base, recipe, tokens, machine, **turn)
    for _ in range(recipe.inner_steps):
        losses = scores.next()
        rows = pick(losses, len(losses) // recipe.candidates)
        yield rows, float(losses[[*rows]].mean())


def by_step(flat: Sequence[int], recipe: Recipe, round_: int, rounds: int) -> Picked | None:
    """What was picked in a round, step by step, from all of it in a row; None if it is none of this recipe."""
    found, done, before = list[Sequence[int]](), 0, (round_ - 1) * recipe.inner_steps
    for step in range(before, before + recipe.inner_steps):
        count = recipe.batch * recipe.context // length_at(recipe, rounds, step)
        rows = flat[done : done + count]
        if len(rows) < count or [*rows] != sorted(set(rows)) or rows[-1] >= recipe.candidates * count:
            return None
        found.append(rows)
        done += count
    return found if done == len(flat) else None


def left_out(
    base: weights.Weights,
    recipe: Recipe,
    tokens: Tokens | Shard,
    machine: Machine,
    rows: Picked,
    first: int,
    after: int,
    **turn: Any,
) -> str:
    """What was left out in these steps of a round though it is harder than what was picked; nothing if nothing was."""
    scores = Scores(base, recipe, tokens, machine, **turn)
    for step in range(after):
        if step < first:
            scores.skip()
            continue
        losses = scores.next()
        others = np.setdiff1d(np.arange(len(losses)), rows[step])
        least, most = losses[[*rows[step]]].min(), losses[others].max()
        if most > least + NEAR:
            return f"step {step + 1} was trained on a sequence of {least:.4f} nats a token, and left one of {most:.4f}"
    return ""
