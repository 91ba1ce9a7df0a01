"""A small GPT, plain enough that its cost is a closed formula: `rules.pricing.flop_per_token` counts its matrices.

What makes it cheaper, or one of the models that others have published, is a field of the recipe, and each mix is a
model that a standard architecture has a name for: `shared_models.huggingface` reads it and writes it out.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it.
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shared_models.lm import weights
from shared_models.records.refusals import Refusal, Refused

T = TypeVar("T")
TEACHER = "teacher."  # How the names of its tensors begin, where they stand beside the model's.
OWN_PER_TOKEN = 2  # Of the given feed-forward and members' experts, a token goes through so many.
LLAMA3_CONTEXT, LLAMA3_LOW, LLAMA3_HIGH = 8_192, 1.0, 4.0  # See `frequencies`.
BALANCE = 0.01  # What uneven use of the experts weighs in what training lowers (arXiv:2101.03961, section 2.2).


class Sizes(Protocol):
    """What a recipe says of the model: see `records.kinds.Recipe`."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def head_width(self) -> int: ...
    @property
    def qk_norm(self) -> str: ...
    @property
    def bias(self) -> str: ...
    @property
    def embeddings(self) -> str: ...
    @property
    def rope_theta(self) -> int: ...
    @property
    def rope_factor(self) -> int: ...
    @property
    def norm_eps(self) -> str: ...
    @property
    def feed(self) -> str: ...
    @property
    def feed_width(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def shared(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def experts_per_token(self) -> int: ...
    @property
    def expert_weights(self) -> str: ...
    @property
    def adapter(self) -> int: ...
    @property
    def member_experts(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def teacher(self) -> "Sizes | None": ...


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    vocabulary: int
    layers: int
    heads: int
    kv_heads: int
    width: int
    context: int
    head_width: int
    qk_norm: str
    bias: str
    embeddings: str
    rope_theta: int
    rope_factor: int
    norm_eps: str
    feed: str
    feed_width: int
    rank: int
    shared: int
    experts: int
    experts_per_token: int
    expert_weights: str
    adapter: int
    member_experts: int
    seed: int  # It draws what of an adapter is not trained.
    teacher: "Shape | None"

    @property
    def beside(self) -> bool:
        """Whether what is trained stands beside given weights, which stay as they are."""
        return self.adapter > 0 or self.member_experts > 0

    @classmethod
    def of(cls, recipe: Sizes) -> "Shape":
        sizes = {field.name: getattr(recipe, field.name) for field in fields(cls)}
        return cls(**sizes | {"teacher": cls.of(recipe.teacher) if recipe.teacher else None})


class Block(nn.Module):
    """Causal attention and a feed-forward or several, each behind a norm and added to its input."""

    norm_q: nn.RMSNorm | None
    norm_k: nn.RMSNorm | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = shape.heads, shape.kv_heads or shape.heads, shape.head_width
        self.norm1 = _norm(shape.width, shape)
        projected = (self.heads + 2 * self.kv_heads) * self.head_width
        self.qkv = _matrix(shape.width, projected, shape, bias=shape.bias == "qkv")
        self.norm_q = self.norm_k = None
        if shape.qk_norm != "none":  # arXiv:2302.05442: products of queries and keys stay in bounds.
            together = (self.heads, self.kv_heads) if shape.qk_norm == "whole" else (1, 1)
            self.norm_q, self.norm_k = (_norm(heads * self.head_width, shape) for heads in together)
        self.out = _matrix(self.heads * self.head_width, shape.width, shape)
        self.norm2 = _norm(shape.width, shape)
        self.experts_per_token, self.own = shape.experts_per_token, nn.ModuleList()
        self.shares = shape.expert_weights == "shares"
        if shape.experts:
            self.router = nn.Linear(shape.width, shape.experts, bias=False)
            self.experts = nn.ModuleList(Expert(shape) for _ in range(shape.experts))
        else:
            self.gate, self.up, self.down = _feed(shape)
        if shape.member_experts:
            self.experts_per_token = OWN_PER_TOKEN
            self.own.extend(Own(shape) for _ in range(shape.member_experts))

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], past: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(batch, length, width) in and out, and how unevenly experts are used: 1 is evenly; 0 without experts.

        `past` holds the keys and values of what came before, if anything did, and then these too.
        """
        batch, length, _ = x.shape
        projected = self.qkv(self.norm1(x)).view(batch, length, -1, self.head_width)
        q, k, v = projected.split([self.heads, self.kv_heads, self.kv_heads], 2)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = _normed(q, self.norm_q), _normed(k, self.norm_k)
        q, k, v = (each.transpose(1, 2) for each in (_rotate(q, rotation), _rotate(k, rotation), v))
        if past is not None:
            k, v = past[:] = [torch.cat(both, 2) for both in zip(past, (k, v), strict=True)] if past else [k, v]
        if self.kv_heads < self.heads:  # Each key and value serves as many heads (arXiv:2305.13245).
            k, v = (each.repeat_interleave(self.heads // self.kv_heads, 1) for each in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=k.shape[2] == length)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        if self.experts_per_token:
            fed, unevenness = self._routed(self.norm2(x))
            return x + fed, unevenness
        return x + self._given(self.norm2(x)), x.new_zeros(())

    def _given(self, x: Tensor) -> Tensor:
        return _fed(x, self.gate, self.up, self.down)

    def _routes(self, x: Tensor) -> tuple[list[Callable[[Tensor], Tensor]], Tensor]:
        """The feed-forwards that a token may go through, and its score for each, (batch, length, routes).

        Beside members' experts the first is that of the given weights, and its score is 0.
        """
        if not self.own:
            return list(self.experts), self.router(x)
        rows = torch.stack([expert.get_parameter("row") for expert in self.own])
        return [self._given, *self.own], F.pad(F.linear(x, rows), (1, 0))

    def _routed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each token through the experts that the router puts first, weighed by how likely it holds them.

        Of equal ones the first: a sort that is stable says the same everywhere. Weights are shares of 1 as Mixtral's
        (arXiv:2401.04088), or as likely as OLMoE's (arXiv:2409.02060). No token is left out, however many want one
        expert (arXiv:2211.15841), and an expert that nobody wants still has a gradient: zero. Unevenness is that of
        Switch (arXiv:2101.03961, equation 4), but of each sequence and then the mean (arXiv:2412.19437, equation 17):
        so it is the same, however many processes share a batch.
        """
        feeds, scores = self._routes(x)
        many, each_of = len(feeds), self.experts_per_token
        likely = F.softmax(scores.float(), -1)
        in_order = torch.sort(likely, dim=-1, descending=True, stable=True)
        weight, chosen = (each[..., :each_of].flatten(0, 1) for each in in_order)
        weight, tokens = weight / weight.sum(-1, keepdim=True) if self.shares else weight, x.flatten(0, 1)
        fed = torch.zeros_like(tokens)
        for number, expert in enumerate(feeds):
            token, place = (chosen == number).nonzero(as_tuple=True)
            fed.index_add_(0, token, (expert(tokens[token]) * weight[token, place, None]).to(fed.dtype))
        used = F.one_hot(chosen, many).view(x.shape[0], -1, many).float().mean(1)
        return fed.view_as(x), many * (used * likely.mean(1)).sum(-1).mean()


class Expert(nn.Module):
    """One feed-forward of several."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate, self.up, self.down = _feed(shape)

    def forward(self, x: Tensor) -> Tensor:
        return _fed(x, self.gate, self.up, self.down)


class Own(Expert):
    """An expert that one member trains, with its row of the router: nobody else's training depends on it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.row = nn.Parameter(torch.zeros(shape.width))


def _feed(shape: Shape) -> tuple[nn.Module | None, nn.Module, nn.Module]:
    """The matrices of a feed-forward: gate, up and down; GELU has no gate."""
    gate = _factored(shape.width, shape.feed_width, shape) if shape.feed == "swiglu" else None
    up = _factored(shape.width, shape.feed_width, shape)
    return gate, up, _factored(shape.feed_width, shape.width, shape)


def _fed(x: Tensor, gate: nn.Module | None, up: nn.Module, down: nn.Module) -> Tensor:
    fed: Tensor = down(F.gelu(up(x)) if gate is None else F.silu(gate(x)) * up(x))  # SwiGLU: arXiv:2002.05202.
    return fed


def _factored(inside: int, outside: int, shape: Shape) -> nn.Module:
    """A matrix, or of a rank two whose product it is (arXiv:2407.09835)."""
    if not shape.rank:
        return _matrix(inside, outside, shape)
    return nn.Sequential(nn.Linear(inside, shape.rank, bias=False), nn.Linear(shape.rank, outside, bias=False))


def _matrix(inside: int, outside: int, shape: Shape, *, bias: bool = False) -> nn.Module:
    if shape.adapter:
        return Adapted(inside, outside, shape.adapter, bias=bias)
    return nn.Linear(inside, outside, bias=bias)


def _norm(width: int, shape: Shape) -> nn.RMSNorm:
    return nn.RMSNorm(width, eps=float(shape.norm_eps) or None)


def _normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """(batch, length, heads, width) in and out, each head normed by itself, or as many together as the norm is wide: in
    float32, whatever products are computed in.
    """
    normed: Tensor = norm(x.float().reshape(*x.shape[:2], -1, *norm.normalized_shape))
    return normed.view(x.shape)


class Adapted(nn.Linear):
    """A matrix W that stays what it is, and what is trained beside it: W·x + B·(A·x) (LoRA, arXiv:2106.09685).

    A is drawn once and stays, so that the mean of several members' B is the mean of what they came to; of members who
    train A and B, the product of the means is not (FFA-LoRA, arXiv:2403.12313). B begins with zeros, and there is no
    factor before it: the learning rate is one.
    """

    a: Tensor

    def __init__(self, inside: int, outside: int, rank: int, *, bias: bool = False) -> None:
        super().__init__(inside, outside, bias=bias)
        self.register_buffer("a", torch.empty(rank, inside), persistent=False)
        self.b = nn.Parameter(torch.zeros(outside, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.a), self.b)


def drawn(seed: int, name: str, rank: int, inside: int) -> weights.Tensor:
    """The matrix A beside the matrix of this name, (rank, inside): ±1/√inside, so that lengths are about kept.

    Its signs are bits of SHAKE256: the same on every machine, which no library promises of its random numbers. Random
    signs serve as well as normal numbers (Achlioptas, 2003, Database-friendly random projections).
    """
    count = rank * inside
    data = hashlib.shake_256(f"{seed} {name}".encode()).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count)
    signs: weights.Tensor = np.float32(1) - np.float32(2) * bits.astype(np.float32)
    return (signs / np.float32(math.sqrt(inside))).reshape(rank, inside)


class GPT(nn.Module):
    """Byte-level by default: tokens (batch, length) of integers in, logits (batch, length, vocabulary) out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, *, recompute: bool = False) -> None:
        """With `recompute`, what a block has in between is computed again on the way back, and not kept: to the bit the
        same gradients, for a third more work and memory that hardly grows with the layers (arXiv:1604.06174).
        """
        super().__init__()
        self._recompute, self._shared, self._routes = recompute, shape.shared, shape.experts > 0
        self.depth = shape.layers
        self._taught: tuple[GPT, float, float] | None = None
        assert shape.head_width % 2 == 0
        assert shape.layers % shape.shared == 0
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers // shape.shared))
        self.norm = _norm(shape.width, shape)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        if shape.embeddings == "tied":
            self.head.weight = self.embed.weight  # One tensor, by the name that it has first.
        # Rotary positions (arXiv:2104.09864): nothing to learn, so nothing to send.
        angle = torch.arange(shape.context)[:, None] * frequencies(shape)
        self.register_buffer("cos", angle.cos()[:, None], persistent=False)  # So that they go where the model goes.
        self.register_buffer("sin", angle.sin()[:, None], persistent=False)
        for name, part in self.named_modules():
            if isinstance(part, Adapted):
                part.a = torch.from_numpy(drawn(shape.seed, name, *part.a.shape))
        if shape.beside:
            for name, weight in self.named_parameters():
                weight.requires_grad_(name.endswith(".b") or ".own." in name)

    def forward(self, tokens: Tensor, past: list[list[Tensor]] | None = None) -> tuple[Tensor, Tensor]:
        """The logits, and how unevenly experts are used, the sum over layers: see `Block`.

        With `past`, a list for each layer, these tokens come behind those that it was given before, if any: then one at
        a time.
        """
        before = past[0][0].shape[2] if past and past[0] else 0
        rotation = (self.cos[before : before + tokens.shape[1]], self.sin[before : before + tokens.shape[1]])
        x = self.embed(tokens)
        uneven: list[Tensor] = []  # Written so: torch.compile does not see through `list[Tensor]()`.
        for block in self.blocks:
            for _ in range(self._shared):  # The same weights so many times in a row (arXiv:2402.14905).
                if self._recompute:
                    x, unevenness = checkpoint(block, x, rotation, use_reentrant=False)
                else:
                    x, unevenness = block(x, rotation, past[len(uneven)] if past is not None else None)
                uneven.append(unevenness)
        logits: Tensor = self.head(self.norm(x))
        return logits, torch.stack(uneven).sum()

    def teach(self, teacher: "GPT", temperature: float, taught: float) -> None:
        """From now on training lowers what is `soft` too: so much of `objective` is that, and the rest what it was."""
        self._taught = teacher, temperature, taught  # In a tuple, so that the teacher is no part of this model.

    def matrices(self) -> set[str]:
        """The names of what Muon steps: the matrices of the blocks."""
        return {name for name, each in self.named_parameters() if each.dim() == 2 and name.startswith("blocks.")}

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy, in nats, of predicting each token of (batch, length + 1) from those before it."""
        return self._losses(tokens)[0]

    def objective(self, tokens: Tensor) -> Tensor:
        """What training lowers: that loss, or where it is taught a part of it and of what is `soft`; and with experts
        `BALANCE` times how unevenly they are used.
        """
        loss, uneven, logits = self._losses(tokens)
        if self._taught is not None:
            teacher, temperature, taught = self._taught
            with torch.no_grad():
                right = teacher(tokens[:, :-1])[0]
            loss = (1 - taught) * loss + taught * soft(logits, right, temperature)
        return loss + BALANCE * uneven if self._routes else loss

    def _losses(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, uneven = self(tokens[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()), uneven, logits


def soft(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far predictions are from a teacher's, (batch, length, vocabulary) both: the mean KL divergence, in nats per
    token, of the two made even by a temperature; times its square, so that gradients keep their size
    (arXiv:1503.02531).
    """
    mine, right = (F.log_softmax(each.float().flatten(0, 1) / temperature, -1) for each in (logits, teacher))
    return temperature**2 * F.kl_div(mine, right, reduction="batchmean", log_target=True)


def frequencies(shape: Shape) -> Tensor:
    """How far rotary positions turn each pair of a head's numbers from one token to the next, (width / 2), in radians.

    With a factor, as Llama 3.1: pairs that turn less than once in LLAMA3_CONTEXT positions turn so much slower, those
    that turn more than LLAMA3_HIGH times as fast as ever, and between the two it is something between
    (github.com/meta-llama/llama-models, apply_scaling).
    """
    half = shape.head_width // 2
    turns = float(shape.rope_theta) ** (-torch.arange(half) / half)
    if not shape.rope_factor:
        return turns
    often = turns * LLAMA3_CONTEXT / (2 * math.pi)
    kept = ((often - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0, 1)
    return (1 - kept) * turns / shape.rope_factor + kept * turns


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the two halves of each head (batch, length, heads, width) by the angles of their position."""
    cos, sin = rotation
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


def shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shapes of what is trained of a model, by name: those of its checkpoints. No model is made."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in weights.trained(GPT(shape))}


def frozen(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shapes of what stands beside what is trained, by name: those of the teacher, or of the given weights. None
    without either.
    """
    if shape.teacher is not None:
        return shapes(shape.teacher)
    return shapes(replace(shape, adapter=0, member_experts=0)) if shape.beside else {}


def beside(shape: Shape, frozen: Mapping[str, T]) -> dict[str, T]:
    """What is frozen, by names that it has beside what is trained: a teacher's tensors would be called as that is."""
    return {f"{TEACHER}{name}" if shape.teacher else name: each for name, each in frozen.items()}


def check_processor(name: str) -> None:
    """Whether this machine computes on the processor that PyTorch calls so. Raises `Refused(NOT_SET_UP)`."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).partition("\n")[0]
        raise Refused(Refusal.NOT_SET_UP, f"processor = {name!r}: {cause}") from None


def begun(shape: Shape, given: Mapping[str, weights.Tensor]) -> GPT:
    """The model that begins with weights that were given. What stands beside them changes nothing yet: an adapter is
    zero, and a member's expert the feed-forward that was given, with a row of zeros.
    """
    model = GPT(shape)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not (shape.beside and weight.requires_grad):
                weight.copy_(torch.tensor(given[name]))
    return _beside(model)


def _beside(model: GPT) -> GPT:
    """The same model, in which members' experts begin as the feed-forward of the given weights."""
    for block in model.blocks:
        assert isinstance(block, Block)
        given = block.state_dict()
        for expert in block.own:
            expert.load_state_dict({name: given.get(name, tensor) for name, tensor in expert.state_dict().items()})
    return model


def fresh(shape: Shape, seed: int) -> GPT:
    """A model with its first weights; the same seed gives the same bits on the same build of torch.

    Normal weights of scale 1/√fan-in, what is added to the residual stream smaller by √(2·layers) (GPT-2), a zero head:
    every byte is equally likely at first, so the loss starts at ln(vocabulary), and near it where the head is the
    embedding. What is added to queries, keys and values is zero, and so is what of an adapter is trained.
    """
    model = GPT(shape)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".own." in name:
                continue
            if weight.dim() == 1:
                weight.fill_(0.0 if name.endswith(".bias") else 1.0)
            elif name == "head.weight" or name.endswith(".b"):
                weight.zero_()
            else:
                scale = 0.02 if name == "embed.weight" else weight.shape[1] ** -0.5
                if name.endswith(("out.weight", "down.weight", "down.1.weight")):
                    scale /= (2 * shape.layers) ** 0.5
                weight.normal_(0.0, scale, generator=random)
    return _beside(model)
