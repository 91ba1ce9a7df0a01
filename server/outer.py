"""What the coordinator knows of a checkpoint: the first one of a run, and how good one is on held-out text."""

import numpy as np
import torch

from shared_models.lm import corpus, gpt, weights
from shared_models.records.kinds import Recipe

EVALUATED = 64  # Sequences of held-out text that a checkpoint is scored on.


def held_out_loss(model: gpt.GPT, checkpoint: weights.Tensors, recipe: Recipe, sequences: int = EVALUATED) -> float:
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
