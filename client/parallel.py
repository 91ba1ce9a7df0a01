"""Tensor parallelism: each process holds a part of every matrix, and trains on the whole of every batch.

By PyTorch's own styles (torch.distributed.tensor.parallel), as Megatron-LM cuts a layer (arXiv:1909.08053): what heads
are made of and what goes into a feed-forward by their outputs, what comes out of both by its inputs, so that each adds
up once. The embedding and the head are cut by the vocabulary. Norms, and of a low rank the narrower matrices, each
process has whole.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed import device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from shared_models.lm import gpt, weights

Rows = npt.NDArray[np.int64]


class Whole(ParallelStyle):
    """A module whose weights each process has whole. Its input is so too, or each has a part: its heads."""

    def __init__(self, layout: Placement) -> None:
        super().__init__()
        self._layout = layout

    def _apply(self, module: nn.Module, mesh: device_mesh.DeviceMesh) -> nn.Module:
        def shared(_: nn.Module, inputs: tuple[Tensor]) -> DTensor:
            return DTensor.from_local(inputs[0], mesh, [self._layout], run_check=False)

        module.register_forward_pre_hook(shared)
        module.register_forward_hook(lambda _, _inputs, output: output.to_local())
        return distribute_module(module, mesh)


def share_out(model: gpt.GPT, processor: str, processes: int) -> Rows:
    """Leave of a model, the same in all processes, this one's part; the order in which the rows of each `qkv` are now.

    An optimiser's step is the same in any order of rows: AdamW's is of each number, and the nearest orthogonal matrix
    to one with its rows in another order has its rows in that order.
    """
    mesh = device_mesh.init_device_mesh(torch.device(processor).type, (processes,))
    tied = model.head.weight is model.embed.weight
    top = {"embed": RowwiseParallel(input_layouts=Replicate()), "norm": Whole(Replicate())}
    parallelize_module(model, mesh, top | {"head": ColwiseParallel(output_layouts=Replicate())})
    if tied:
        model.head.weight = model.embed.weight
    order = _rows(model, processes)
    for block in model.blocks:
        assert isinstance(block, gpt.Block)
        with torch.no_grad():
            for each in block.qkv.parameters():
                each.copy_(each[torch.from_numpy(order)])
        styles = dict(_styles(block))
        for name, style in styles.items():
            if isinstance(style, RowwiseParallel):  # Parts are added up in float32, whatever they were computed in.
                block.get_submodule(name).register_forward_hook(lambda _, _inputs, output: output.float())
        parallelize_module(block, mesh, styles)
        block.heads, block.kv_heads = block.heads // processes, block.kv_heads // processes
    return order


def _styles(block: gpt.Block) -> Iterator[tuple[str, ParallelStyle]]:
    yield from ((name, Whole(Replicate())) for name in ("norm1", "norm2"))
    if block.norm_q is not None:
        yield from ((name, Whole(Shard(2))) for name in ("norm_q", "norm_k"))
    yield from (("qkv", ColwiseParallel()), ("out", RowwiseParallel()))
    for name in ("up", "gate") if block.gate is not None else ("up",):
        yield from _feed(name, block.get_submodule(name), ColwiseParallel(), 1)
    yield from _feed("down", block.down, RowwiseParallel(), 0)


def _feed(name: str, matrix: nn.Module, style: ParallelStyle, wide: int) -> Iterator[tuple[str, ParallelStyle]]:
    """Of two matrices of a low rank that is cut which has the feed-forward's width."""
    if isinstance(matrix, nn.Sequential):
        yield from ((f"{name}.{wide}", style), (f"{name}.{1 - wide}", Whole(Replicate())))
    else:
        yield name, style


def _rows(model: gpt.GPT, processes: int) -> Rows:
    """The rows of a layer's `qkv` by process, and not by kind: of each its queries, its keys and its values."""
    block = model.blocks[0]
    assert isinstance(block, gpt.Block)
    queries, keys = (heads * block.head_width for heads in (block.heads, block.kv_heads))
    kinds = np.split(np.arange(queries + 2 * keys), [queries, queries + keys])
    return np.concatenate([np.split(kind, processes)[rank] for rank in range(processes) for kind in kinds])


def in_order(tensors: weights.Weights, order: Rows) -> weights.Weights:
    """Weights, or what an optimiser remembers of them, with the rows of each `qkv` in this order."""
    return {
        name: tensor[order] if ".qkv." in name and tensor.shape[:1] == order.shape else tensor
        for name, tensor in tensors.items()
    }
