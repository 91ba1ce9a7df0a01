"""The outer step: from a checkpoint and the members' updates to the next checkpoint, by a rule that anyone can repeat.

All of it is float32 arithmetic in the order of the members' names, tensor by tensor: whoever has the checkpoint, the
updates, their weights, and what the rule remembers, gets the same bits. No tensor is needed twice, so a step takes the
memory of a few tensors, however many members there are (of as many as there are members, if each coordinate of theirs
is sorted: `trimmed`, `median`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared_models.lm import codecs
from shared_models.lm.codecs import Packed
from shared_models.lm.robust import combine

GROWN = 0.5  # The share of a run's rounds after which momentum is what the recipe says.

Tensor = npt.NDArray[np.float32]
Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


class Plan(Protocol):
    """What a recipe says of the outer step."""

    @property
    def outer(self) -> str: ...
    @property
    def outer_rate(self) -> str: ...
    @property
    def outer_momentum(self) -> str: ...
    @property
    def down(self) -> str: ...
    @property
    def aggregate(self) -> str: ...
    @property
    def influence(self) -> str: ...
    @property
    def member_experts(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """How the updates of one round become one, and how that is followed."""

    aggregate: str  # As `robust.combine` has it.
    outer: str  # One of RULES.
    rate: np.float32
    momentum: np.float32
    down: str  # The codec of what is sent of the step.


def rule(plan: Plan, round_: int, rounds: int) -> Rule:
    """The rule of one of a run's rounds, counted from 1: nobody needs more than the recipe to know it."""
    mu = momentum(plan.outer_momentum, round_, rounds)
    return Rule(plan.aggregate, plan.outer, np.float32(plan.outer_rate), mu, plan.down)


@dataclass(frozen=True, slots=True)
class Moved:
    """What a step makes of one parameter."""

    name: str
    checkpoint: Tensor
    sent: Packed  # From the base to the checkpoint, as members that hold the base get it.
    state: dict[str, Tensor]  # What is remembered, by the names that `state_shapes` gives.


def step(base: Tensors, updates: Sequence[tuple[int, Tensors]], state: Tensors, rule: Rule) -> Iterator[Moved]:
    """The next checkpoint, parameter by parameter: along what these updates come to (`robust.combine`).

    `updates` are (weight in billionths, update), in the order of their members' names, because a sum of floats depends
    on its order; those of weight 0 are not read, and where one lacks a tensor it says nothing. What `state` has no
    tensor for is zero: so it is before the first step. Where the step goes is where what was sent of it leads; what the
    codec loses is remembered (`codecs.left`), and sent with the next one. Raises `Refused` as `codecs.encode`.
    """
    live = [(weight, update, set(update)) for weight, update in updates if weight]
    for name in sorted(base):
        total, here = np.zeros_like(base[name]), [(weight, update) for weight, update, names in live if name in names]
        if here:
            total = combine(rule.aggregate, (update[name] for _, update in here), [weight for weight, _ in here])
        remembered = MEMORY[rule.outer]
        memory = tuple(_remembered(state, f"{name}/{each}", total) for each in remembered)
        move, memory = RULES[rule.outer](total, memory, rule.momentum)
        meant = rule.rate * move
        after = {f"{name}/{each}": tensor for each, tensor in zip(remembered, memory, strict=True)}
        if rule.down in EXACT:
            sent = Packed(rule.down, meant.shape, codecs.encode(rule.down, meant))
        else:
            meant += _remembered(state, f"{name}/unsent", total)
            sent = Packed(rule.down, meant.shape, codecs.encode(rule.down, meant))
            came = codecs.decode(sent.codec, sent.data, sent.shape)
            after[f"{name}/unsent"], meant = codecs.left(rule.down, meant, came), came
        yield Moved(name, base[name] + meant, sent, after)


def state_shapes(shapes: Shapes, rule: Rule) -> dict[str, tuple[int, ...]]:
    """The names and shapes of what is remembered behind a step."""
    words = (*MEMORY[rule.outer], *(() if rule.down in EXACT else ("unsent",)))
    return {f"{name}/{word}": shape for name, shape in shapes.items() for word in words}


def momentum(whole: str, round_: int, rounds: int) -> np.float32:
    """The momentum of a round, counted from 1: it grows in a straight line, and is all there at half of the rounds.

    The first updates of a run from random weights are long and soon point elsewhere, and full momentum goes on along
    them for many rounds: the textbook's 0.9 left a short run behind plain averaging, growing to the same 0.9 put it
    ahead. From a warm start growing cost about as much as it gained there, and at the default recipe's 0.6 both are
    hardly more than noise (docs/experiments.md: a small model, short runs, one seed). It is a function of the recipe
    and the round alone, so that whoever replays a step needs nothing else.
    """
    return np.float32(whole) * np.float32(min(1.0, round_ / (GROWN * rounds)))


def _remembered(state: Tensors, name: str, like: Tensor) -> Tensor:
    return state[name] if name in state else np.zeros_like(like)


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
MEMORY = {"adam": ("momentum", "square"), "mean": (), "nesterov": ("momentum",)}
EXACT = ("fp32",)  # Codecs that lose nothing.
