"""Recipes of all architectures with all that changes a model, small, and models of them."""

from dataclasses import replace

import torch
from world import TOY

from server import outer

INNERS = ("adamw", "muon", "adafactor", "lamb", "lion", "scion")
MIX = replace(TOY, layers=4, heads=4, width=32, context=24)
EXPERTS = {"feed": "swiglu", "experts": 4, "experts_per_token": 2}
BASE = {"rope_theta": 500_000, "rope_factor": 8, "norm_eps": "0.00001"}  # As weights that are there have it.
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
    "arcee-tied": replace(MIX, **BASE, embeddings="tied", head_dim=12, feed_dim=72, rank=4),
    "llama-3": replace(MIX, **BASE, feed="swiglu", kv_heads=2, feed_dim=112),
    "llama-base": replace(MIX, **BASE | {"rope_factor": 0}, feed="swiglu", head_dim=16, embeddings="tied"),
    "llama-tied": replace(MIX, **BASE, feed="swiglu", kv_heads=2, head_dim=16, embeddings="tied", shared=2),
    "mixtral-base": replace(MIX, **BASE, **EXPERTS, feed_dim=40, head_dim=16, embeddings="tied", rank=8),
    "qwen2": replace(MIX, feed="swiglu", bias="qkv"),
    "qwen2-all": replace(MIX, **BASE, feed="swiglu", bias="qkv", kv_heads=1, embeddings="tied", feed_dim=80, shared=2),
    "qwen2-rank": replace(MIX, feed="swiglu", bias="qkv", head_dim=12, rank=5),
    "qwen3": replace(MIX, feed="swiglu", qk_norm="head"),
    "qwen3-all": replace(MIX, **BASE, feed="swiglu", qk_norm="head", kv_heads=2, head_dim=16, embeddings="tied"),
    "qwen3-rank": replace(MIX, feed="swiglu", qk_norm="head", feed_dim=80, rank=5, shared=2),
    "olmoe": replace(MIX, **EXPERTS, qk_norm="whole", expert_weights="softmax"),
    "olmoe-all": replace(MIX, **BASE, **EXPERTS, qk_norm="whole", kv_heads=2, feed_dim=24, embeddings="tied"),
    "olmoe-rank": replace(MIX, **EXPERTS, qk_norm="whole", expert_weights="softmax", kv_heads=1, rank=8, shared=2),
    "qwen3_moe": replace(MIX, **EXPERTS, qk_norm="head"),
    "qwen3_moe-all": replace(
        MIX, **BASE, **EXPERTS, qk_norm="head", expert_weights="softmax", kv_heads=2, head_dim=16, feed_dim=24, shared=2
    ),
    "qwen3_moe-rank": replace(
        MIX, **EXPERTS, qk_norm="head", expert_weights="softmax", embeddings="tied", norm_eps="0.00001", rank=8
    ),
}
ODD = {  # Mixes of which llama.cpp has no architecture: for which option, and with what instead it has one.
    "olmoe-all": ("rope_factor = 8", {"rope_factor": 0, "kv_heads": 0, "expert_weights": "softmax"}),
    "olmoe-rank": ("kv_heads = 1", {"kv_heads": 0}),
    "qwen2-all": ("rope_factor = 8", {"rope_factor": 0}),
    "qwen2-rank": ("heads × head_dim = 48", {"head_dim": 0}),
    "qwen3-all": ("rope_factor = 8", {"rope_factor": 0}),
    "qwen3_moe-all": ("rope_factor = 8", {"rope_factor": 0, "expert_weights": "shares"}),
    "qwen3_moe-rank": ("expert_weights = softmax", {"expert_weights": "shares"}),
} | {name: ('feed = "gelu"', None) for name in MIXES if name.startswith("arcee")}
HELD = {  # By a file for llama.cpp.
    name: replace(each, **ODD.get(name, ("", {}))[1]) for name, each in MIXES.items() if not name.startswith("arcee")
}


def trained(recipe):
    """A model of this recipe as if it had been trained: no tensor is as it was made, the head not zero."""
    model, random = outer.model(recipe, 3), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn(each.shape, generator=random))
    return model
