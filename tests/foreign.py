"""Models that are none of ours, as an engineer writes them: each one Python file, for tests."""

from dataclasses import replace
from pathlib import Path

from world import TOY

from shared_models.lm import models
from shared_models.records.kinds import Recipe

GRU = '''
"""A language model by a gated recurrent unit (arXiv:1406.1078): it looks at no position but the one before."""

import torch
from torch import nn


class Recurrent(nn.Module):
    def __init__(self, vocabulary, width, layers):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.cell = nn.GRU(width, width, layers, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens):
        read, _ = self.cell(self.embed(tokens))
        return self.head(self.norm(read))


def build(recipe):
    return Recurrent(recipe.vocabulary, recipe.width, recipe.layers)
'''

# Attention with one head and an objective of its own, whose cost grows with the context.
ATTENTIVE = """
import torch
import torch.nn.functional as F
from torch import nn


class Attentive(nn.Module):
    matrices = ("qkv.weight", "out.weight")

    def __init__(self, vocabulary, width, context):
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(context, width) / 10)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer("mask", torch.full((context, context), float("-inf")).triu(1))

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.embed(tokens) + self.place[:length]
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.mT) / q.shape[-1] ** 0.5 + self.mask[:length, :length]
        return self.head(x + self.out(scores.softmax(-1) @ v))

    def objective(self, tokens):
        logits = self(tokens[:, :-1])
        steady = 1e-4 * logits.logsumexp(-1).square().mean()
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) + steady


def build(recipe):
    return Attentive(recipe.vocabulary, recipe.width, recipe.context)
"""


def written(folder: Path, text: str) -> str:
    """FILE:FUNCTION of a file with this text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mymodel.py"
    path.write_text(text)
    return f"{path}:build"


def recipe_of(folder: Path, text: str, **changes: object) -> Recipe:
    """The toy recipe with a file's model, kept in this folder; FLOP are counted, where they are not said."""
    recipe = replace(TOY, model=models.keep(written(folder, text), folder), **changes)
    return models.stated(recipe, folder)
