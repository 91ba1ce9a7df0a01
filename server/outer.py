"""The outer optimiser: from a checkpoint and the members' updates to the next checkpoint, and how good that is.

Everything is added up in member order, in float32, so that any member can repeat the step and get the same bits.
"""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch

from shared_models.lm import corpus, gpt, weights
from shared_models.records.kinds import Recipe

EVALUATED = 64  # Sequences of held-out text that a checkpoint is scored on.
GROWN = 0.5  # The share of a run's rounds after which momentum is what the recipe says.

Tensor = npt.NDArray[np.float32]
Memory = dict[str, tuple[Tensor, ...]]  # What the outer optimiser remembers of each parameter; the first is momentum.


def step(
    base: weights.Weights,
    updates: Iterable[weights.Weights],
    memory: Memory,
    recipe: Recipe,
    *,
    round_: int,
    rounds: int,
) -> tuple[weights.Weights, Memory]:
    """(the next checkpoint, the next memory), by the recipe's rule along the mean update.

    Each update is added as it comes and can then be dropped; they must come in member order, because a sum of floats
    depends on its order.
    """
    total = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    count = 0
    for update in updates:
        count += 1
        for name, tensor in total.items():
            tensor += update[name]
    assert count > 0
    rule = RULES[recipe.outer]
    rate, mu = np.float32(recipe.outer_rate), momentum(recipe, round_, rounds)
    fresh, remembered = weights.Weights(), Memory()
    for name, tensor in total.items():
        move, remembered[name] = rule(tensor / np.float32(count), memory[name], mu)
        fresh[name] = base[name] + rate * move
    return fresh, remembered


def momentum(recipe: Recipe, round_: int, rounds: int) -> np.float32:
    """The momentum of a round, counted from 1: it grows in a straight line, and is all there at half of the rounds.

    The first updates of a run from random weights are long and soon point elsewhere, and full momentum goes on along
    them for many rounds: the textbook's 0.9 left a short run behind plain averaging, growing to the same 0.9 put it
    ahead. From a warm start growing cost about as much as it gained there, and at the default recipe's 0.6 both are
    hardly more than noise (docs/experiments.md: a small model, short runs, one seed). It is a function of the recipe
    and the round alone, so that whoever replays a step needs nothing else.
    """
    return np.float32(recipe.outer_momentum) * np.float32(min(1.0, round_ / (GROWN * rounds)))


# The rules: from the mean update of one parameter, what is remembered of it, and the round's momentum to (where to go,
# what to remember).


def _mean(mean: Tensor, memory: tuple[Tensor, ...], _: np.float32) -> tuple[Tensor, tuple[Tensor, ...]]:
    """FedAvg (arXiv:1602.05629): with rate 1, the mean of the members' weights."""
    return mean, memory


def _nesterov(mean: Tensor, memory: tuple[Tensor, ...], mu: np.float32) -> tuple[Tensor, tuple[Tensor, ...]]:
    """DiLoCo (arXiv:2311.08105)."""
    moved = mu * memory[0] + mean
    return mean + mu * moved, (moved,)


def _adam(mean: Tensor, memory: tuple[Tensor, ...], mu: np.float32) -> tuple[Tensor, tuple[Tensor, ...]]:
    """FedAdam (arXiv:2003.00295, algorithm 2), with its β2 of 0.99 and τ of 10⁻³."""
    moved = mu * memory[0] + (np.float32(1) - mu) * mean
    square = np.float32(0.99) * memory[1] + np.float32(0.01) * mean * mean
    root: Tensor = np.sqrt(square)
    return moved / (root + np.float32(1e-3)), (moved, square)


RULES: dict[str, Callable[[Tensor, tuple[Tensor, ...], np.float32], tuple[Tensor, tuple[Tensor, ...]]]] = {
    "adam": _adam,
    "mean": _mean,
    "nesterov": _nesterov,
}


def still(base: weights.Weights, recipe: Recipe) -> Memory:
    """The memory of a run that has not moved yet."""
    kept = {"adam": 2, "mean": 0, "nesterov": 1}[recipe.outer]
    return {name: tuple(np.zeros_like(tensor) for _ in range(kept)) for name, tensor in base.items()}


def held_out_loss(model: gpt.GPT, checkpoint: weights.Weights, recipe: Recipe, sequences: int = EVALUATED) -> float:
    """Mean loss of a checkpoint on the held-out text, in nats per byte; always the same sequences."""
    weights.put(checkpoint, model)
    tokens = corpus.held_out()
    starts = np.linspace(0, tokens.size - recipe.context - 1, sequences).astype(np.int64)
    batch = torch.from_numpy(corpus.windows(tokens, starts, recipe.context + 1))
    with torch.no_grad():
        return float(np.mean([model.loss(part).item() for part in torch.split(batch, 16)]))


def first(recipe: Recipe) -> weights.Weights:
    """The checkpoint a run starts from."""
    return weights.of(model(recipe, recipe.seed))


def model(recipe: Recipe, seed: int = 0) -> gpt.GPT:
    shape = gpt.Shape(recipe.vocabulary, recipe.layers, recipe.heads, recipe.width, recipe.context)
    return gpt.fresh(shape, seed)
