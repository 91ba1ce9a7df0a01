"""Members' experts: what of a checkpoint is whose, and the model without some of them.

A checkpoint of a run with `member_experts` holds one expert for each member of its manifest, in their order, and the
tensors of number i are `blocks.N.own.i.…` (decision 0022). What a member trains, and sends, is a model with one expert,
number 0. So whose an expert is stands in its names alone: to place an update is to rename it, and to leave a member out
is to leave its names out. In any other run everything is everybody's, and all of this changes nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it.
from torch import nn

from shared_models.lm.gpt import GPT, OWN_PER_TOKEN, Shape
from shared_models.lm.weights import Tensor, Tensors, Weights

_NUMBER = re.compile(r"(?<=\.own\.)\d+(?=\.)")


def alone(shape: Shape) -> Shape:
    """That of the model that one member trains: with its own expert and no other's."""
    return replace(shape, member_experts=min(1, shape.member_experts))


def taken(checkpoint: Weights, shape: Shape, number: int) -> Weights:
    """What of a checkpoint member `number` goes on with."""
    return among(checkpoint, [number]) if shape.member_experts else checkpoint


def placed(update: Tensors, shape: Shape, number: int) -> Tensors:
    """A member's update as one of the whole checkpoint, of which it has the tensors of its own expert only."""
    return _Named(update, {_numbered(name, number): name for name in update}) if shape.member_experts else update


def among(checkpoint: Tensors, numbers: Sequence[int]) -> Weights:
    """The experts with these numbers, numbered anew: a checkpoint of the model that has them and no others."""
    return {
        _numbered(name, numbers.index(number)): checkpoint[name]
        for name in checkpoint
        if (number := _number(name)) in numbers
    }


def routed(model: GPT, sequences: npt.NDArray[np.int64]) -> list[int]:
    """How often a token of these sequences, (count, context + 1), goes through each feed-forward of a mixture, over all
    of its layers.
    """
    used: list[torch.Tensor] = []

    def count(_router: nn.Module, _tokens: object, scores: torch.Tensor) -> None:
        likely = F.softmax(scores.float(), -1)  # As `gpt.Block`: of equal ones the first.
        chosen = torch.sort(likely, dim=-1, descending=True, stable=True)[1][..., :OWN_PER_TOKEN]
        used.append(torch.bincount(chosen.flatten(), minlength=scores.shape[-1]))

    hooks = [block.get_submodule("router").register_forward_hook(count) for block in model.blocks]
    try:
        with torch.no_grad():
            for part in torch.split(torch.from_numpy(sequences), 16):
                model(part[:, :-1])
    finally:
        for hook in hooks:
            hook.remove()
    counts: list[int] = torch.stack(used).sum(0).tolist()
    return counts


def _number(name: str) -> int:
    found = _NUMBER.search(name)
    assert found is not None
    return int(found[0])


def _numbered(name: str, number: int) -> str:
    return _NUMBER.sub(str(number), name)


class _Named(Mapping[str, Tensor]):
    """Tensors by other names: each is read when it is asked for."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
