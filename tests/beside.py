"""Models beside given weights, for tests of what is trained there: an adapter, members' experts."""

from dataclasses import replace

import numpy as np
import torch

from server import outer
from shared_models.lm import gpt, weights
from shared_models.records.kinds import Recipe

TURN = {"member": "acme", "round_": 1, "rounds": 2}


def given(recipe: Recipe) -> weights.Weights:
    """Weights as if they had been trained: the head is not zero."""
    model, random = outer.model(replace(recipe, adapter=0, member_experts=0), 3), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn(each.shape, generator=random))
    return weights.of(model)


def moved(recipe: Recipe, by: float, seed: int = 5) -> weights.Weights:
    """What is trained there, where it does something: each number drawn with this standard deviation."""
    random = np.random.default_rng(seed)
    shapes = gpt.shapes(gpt.Shape.of(recipe))
    return {name: random.normal(0, by, shape).astype(np.float32) for name, shape in shapes.items()}


def text(recipe: Recipe) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (recipe.batch, recipe.context + 1), generator=random)


def logits(recipe: Recipe, put: weights.Weights) -> torch.Tensor:
    model = gpt.GPT(gpt.Shape.of(recipe))
    weights.put(put, model)
    with torch.no_grad():
        return model(text(recipe)[:, :-1])[0]
