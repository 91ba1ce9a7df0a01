"""A small GPT, plain enough that its cost is a closed formula: `rules.pricing.flop_per_token` counts its matrices."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it.
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Sizes(Protocol):
    """What a recipe says of the model."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def context(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    vocabulary: int
    layers: int
    heads: int
    width: int
    context: int

    @classmethod
    def of(cls, recipe: Sizes) -> "Shape":
        return cls(recipe.vocabulary, recipe.layers, recipe.heads, recipe.width, recipe.context)


class Block(nn.Module):
    """Causal attention and a feed-forward four times as wide, each behind a norm and added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm1 = nn.RMSNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.norm2 = nn.RMSNorm(shape.width)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in (_rotate(q, rotation), _rotate(k, rotation), v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        fed: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return fed


class GPT(nn.Module):
    """Byte-level by default: tokens (batch, length) of integers in, logits (batch, length, vocabulary) out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, *, recompute: bool = False) -> None:
        """With `recompute`, what a block has in between is computed again on the way back, and not kept: to the bit the
        same gradients, for a third more work and memory that hardly grows with the layers (arXiv:1604.06174).
        """
        super().__init__()
        self._recompute = recompute
        assert shape.width % (2 * shape.heads) == 0
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        # Rotary positions (arXiv:2104.09864): nothing to learn, so nothing to send.
        half = shape.width // shape.heads // 2
        angle = torch.arange(shape.context)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos()[:, None], persistent=False)  # So that they go where the model goes.
        self.register_buffer("sin", angle.sin()[:, None], persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        rotation = (self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]])
        x = self.embed(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, rotation, use_reentrant=False) if self._recompute else block(x, rotation)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy, in nats, of predicting each token of (batch, length + 1) from those before it."""
        logits = self(tokens[:, :-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the two halves of each head (batch, length, heads, width) by the angles of their position."""
    cos, sin = rotation
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


def shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters, by name. No model is made."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in GPT(shape).named_parameters()}


def fresh(shape: Shape, seed: int) -> GPT:
    """A model with its first weights; the same seed gives the same bits on the same build of torch.

    Normal weights of scale 1/√fan-in, what is added to the residual stream smaller by √(2·layers) (GPT-2), a zero head:
    every byte is equally likely at first, so the loss starts at ln(vocabulary).
    """
    model = GPT(shape)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0)
            elif name == "head.weight":
                weight.zero_()
            else:
                scale = 0.02 if name == "embed.weight" else weight.shape[1] ** -0.5
                if name.endswith(("out.weight", "down.weight")):
                    scale /= (2 * shape.layers) ** 0.5
                weight.normal_(0.0, scale, generator=random)
    return model
