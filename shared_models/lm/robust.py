"""From a round's updates to the one that is followed, tensor by tensor, from nothing but the weights in the log.

`mean`, `centred` and `krum` differ in the weights only (`lm/hygiene.py`): the step is one sum. `trimmed` and `median`
look at each coordinate by itself (arXiv:1803.01498): they are no function of a few numbers for each member, and have
their own rule here. All of it is float32, in member order, without a library that may use several threads; so anyone
who has the updates repeats it to the bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[np.float32]

WHOLE = 10**9  # Weights are in billionths.
SLICE = 2**16  # So many values of each update are in work at a time.
TRIMMED = 4  # Of so many updates one is cut at each end of a coordinate; of three to seven also one.


def combine(rule: str, tensors: Iterable[Tensor], weights: Sequence[int]) -> Tensor:
    """What the updates of one parameter come to, of its shape; `weights` are in billionths, above 0, in the same order.

    `mean`, `centred`, `krum`: Σ weight × tensor. Each tensor is added as it comes and can then be dropped.
    `trimmed`, `median`: of n tensors, each times n × weight, the mean of what is left of each coordinate when its
    largest and its smallest are cut off. They are read side by side, a slice at a time: give tensors that lie on a
    disk (`np.memmap`), and memory stays that of the result.
    """
    assert weights
    if rule in COORDINATES:
        return _by_coordinate(COORDINATES[rule], list(tensors), weights)
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        part = np.float32(weight / WHOLE) * tensor
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


def _by_coordinate(cut: Callable[[int], int], tensors: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    count, shape = len(tensors), tensors[0].shape
    scales = [np.float32(count * weight / WHOLE) for weight in weights]
    flat = [np.ascontiguousarray(tensor).reshape(-1) for tensor in tensors]
    assert len(weights) == count
    kept = range(cut(count), count - cut(count))
    result = np.zeros(flat[0].size, np.float32)
    for at in _slices(result.size):
        rows = np.sort(np.stack([scale * each[at] for scale, each in zip(scales, flat, strict=True)]), axis=0)
        for row in kept:
            result[at] += rows[row]
        result[at] /= np.float32(len(kept))
    return result.reshape(shape)


def _slices(size: int) -> Iterator[slice]:
    for start in range(0, size, SLICE):
        yield slice(start, start + SLICE)


# How many of so many sorted values are cut off at each end.
COORDINATES: dict[str, Callable[[int], int]] = {
    "median": lambda count: (count - 1) // 2,  # Of an even number the two in the middle are left.
    "trimmed": lambda count: min((count - 1) // 2, max(1, count // TRIMMED)),
}
