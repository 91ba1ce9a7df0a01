"""Recipes of all architectures with all that changes a model, small, and models of them."""

from dataclasses import replace

import torch
from world import TOY

from server import outer

MIX = replace(TOY, layers=4, heads=4, width=32, context=24)
EXPERTS = {"feed": "swiglu", "experts": 4, "experts_per_token": 2}
# Every two options meet in one of these.
MIXES = {
    "arcee": MIX,
    "arcee-kv": replace(MIX, kv_heads=1, shared=4),
    "arcee-rank": replace(MIX, rank=8, shared=2),
    "arcee-all": replace(MIX, kv_heads=2, rank=5),
    "llama": replace(MIX, feed="swiglu"),
    "llama-kv": replace(MIX, feed="swiglu", kv_heads=2, shared=2),
    "llama-rank": replace(MIX, feed="swiglu", rank=8, kv_heads=1),
    "llama-all": replace(MIX, feed="swiglu", rank=5, shared=4),
    "mixtral": replace(MIX, **EXPERTS),
    "mixtral-kv": replace(MIX, **EXPERTS, kv_heads=1, rank=8),
    "mixtral-rank": replace(MIX, **EXPERTS, rank=5, shared=2),
    "mixtral-one": replace(MIX, **EXPERTS | {"experts_per_token": 1}, kv_heads=2, shared=4),
}


def trained(recipe):
    """A model of this recipe as if it had been trained: no tensor is as it was made, the head not zero."""
    model, random = outer.model(recipe, 3), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn(each.shape, generator=random))
    return model
