"""The outer optimiser: from a checkpoint and the members' updates to the next checkpoint, and how good that is.

Everything is added up in member order, in float32, so that any member can repeat the step and get the same bits.
"""

from collections.abc import Iterable

import numpy as np
import torch

from shared_models.lm import corpus, gpt, weights
from shared_models.records.kinds import Recipe

EVALUATED = 64  # Sequences of held-out text that a checkpoint is scored on.


def step(
    base: weights.Weights, updates: Iterable[weights.Weights], momentum: weights.Weights, recipe: Recipe
) -> tuple[weights.Weights, weights.Weights]:
    """(the next checkpoint, the next momentum): Nesterov on the mean update, as in DiLoCo (arXiv:2311.08105).

    With rate 1 and momentum 0 it is plain averaging (FedAvg). Each update is added as it comes and can then be dropped;
    they must come in member order, because a sum of floats depends on its order.
    """
    total = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    count = 0
    for update in updates:
        count += 1
        for name, tensor in total.items():
            tensor += update[name]
    assert count > 0
    rate, mu = np.float32(recipe.outer_rate), np.float32(recipe.outer_momentum)
    fresh, moved = weights.Weights(), weights.Weights()
    for name, tensor in total.items():
        mean = (tensor / np.float32(count)).astype(np.float32)
        moved[name] = (mu * momentum[name] + mean).astype(np.float32)
        fresh[name] = (base[name] + rate * (mean + mu * moved[name])).astype(np.float32)
    return fresh, moved


def still(base: weights.Weights) -> weights.Weights:
    """The momentum of a run that has not moved yet."""
    return {name: np.zeros_like(tensor) for name, tensor in base.items()}


def held_out_loss(model: gpt.GPT, checkpoint: weights.Weights, recipe: Recipe) -> float:
    """Mean loss of a checkpoint on the held-out text, in nats per byte; always the same sequences."""
    weights.put(checkpoint, model)
    tokens = corpus.held_out()
    starts = np.linspace(0, tokens.size - recipe.context - 1, EVALUATED).astype(np.int64)
    batch = torch.from_numpy(corpus.windows(tokens, starts, recipe.context + 1))
    with torch.no_grad():
        return float(np.mean([model.loss(part).item() for part in torch.split(batch, 16)]))


def first(recipe: Recipe) -> weights.Weights:
    """The checkpoint a run starts from."""
    return weights.of(model(recipe, recipe.seed))


def model(recipe: Recipe, seed: int = 0) -> gpt.GPT:
    shape = gpt.Shape(recipe.vocabulary, recipe.layers, recipe.heads, recipe.width, recipe.context)
    return gpt.fresh(shape, seed)
