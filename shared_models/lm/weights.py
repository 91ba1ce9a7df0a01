"""Weights: as arrays between processes, as safetensors on disk, and as the one digest by which records name them.

On disk they may be larger than what memory should be spent on: they are written and read tensor by tensor.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from shared_models import durable
from shared_models.records.refusals import Refusal, Refused

Tensor = npt.NDArray[np.float32]
Tensors = Mapping[str, Tensor]
Weights = dict[str, Tensor]


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """A model's parameters that are trained, by name: all of them, if none is frozen."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def of(model: nn.Module) -> Weights:
    """A copy of what is trained of a model (not its state_dict, which repeats what is tied), float32, by name."""
    return {name: copied(weight) for name, weight in trained(model)}


def copied(tensor: torch.Tensor) -> Tensor:
    """A copy of one tensor, float32, wherever it is. If it is shared out, every process that holds a part must ask."""
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # A DTensor, whose import is heavy.
    return whole.detach().cpu().numpy().astype(np.float32)


def views(model: nn.Module) -> Weights:
    """The same, not copied: they change with the model. Of a float32 model that is not on another device."""
    return {name: weight.detach().numpy() for name, weight in trained(model)}


def put(weights: Tensors, model: nn.Module) -> None:
    """Set a model's parameters to these weights, those that are frozen too."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.tensor(weights[name]))


def digest(weights: Tensors) -> str:
    """The digest of these weights."""
    hashed = Hash()
    for name in sorted(weights):
        hashed.put(name, weights[name])
    return hashed.digest


class Hash:
    """SHA-256 of, for each tensor in order of its name: a line `name float32 d1xd2`, then its little-endian values."""

    def __init__(self) -> None:
        self._hashed, self._last = hashlib.sha256(), ""

    def put(self, name: str, tensor: Tensor) -> None:
        assert tensor.dtype == np.float32
        assert name > self._last
        self._last = name
        self._hashed.update(f"{name} float32 {'x'.join(map(str, tensor.shape))}\n".encode())
        self._hashed.update(np.ascontiguousarray(tensor, "<f4").data)

    @property
    def digest(self) -> str:
        return self._hashed.hexdigest()


NOTHING = digest({})  # Such as what an outer step remembers before the first one.


def size(weights: Tensors) -> int:
    """The bytes of the values."""
    return sum(tensor.nbytes for tensor in weights.values())


def keep(weights: Tensors, folder: Path) -> str:
    """Write weights to `<digest>.safetensors` in this folder, for good; their digest."""
    with writing(folder, {name: tensor.shape for name, tensor in weights.items()}) as writer:
        for name, tensor in weights.items():
            writer.put(name, tensor)
    return writer.digest


@contextmanager
def writing(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator["Writer"]:
    """A writer of weights; when the block ends, they are `<digest>.safetensors` in this folder, for good."""
    durable.make_folder(folder)
    with durable.writing(folder / "weights", named=lambda: f"{writer.digest}.safetensors") as file:
        writer = Writer(file, shapes)
        yield writer
        writer.digest = digest(writer)


class Writer(Mapping[str, Tensor]):
    """Writes weights tensor by tensor, in any order: the very bytes that the safetensors library writes of all at once.

    As a mapping it is what was written, read back.
    """

    digest: str  # When all is written.

    def __init__(
        self, file: BinaryIO, shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, str] | None = None
    ) -> None:
        """`about` stands in the header of the file, for who reads it."""
        self._file, self._shapes, self._at, end = file, dict(sorted(shapes.items())), dict[str, int](), 0
        header: dict[str, Any] = {"__metadata__": about} if about else {}
        for name, shape in self._shapes.items():
            self._at[name], end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (self._at[name], end)}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        self._start = 8 + len(text)
        file.write(len(text).to_bytes(8, "little") + text)

    def put(self, name: str, tensor: Tensor) -> None:
        assert tensor.shape == self._shapes[name]
        self._file.seek(self._start + self._at[name])
        self._file.write(np.ascontiguousarray(tensor, "<f4").data)

    def __getitem__(self, name: str) -> Tensor:
        self._file.seek(self._start + self._at[name])
        data = self._file.read(4 * math.prod(self._shapes[name]))
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class Stored(Mapping[str, Tensor]):
    """Weights in a file: each tensor is read when it is asked for, and not kept."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError, SafetensorError."""
        self._path = path
        with safe_open(path, "numpy") as file:
            self._names = sorted(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        """Raises KeyError; ValueError if it is not float32."""
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, "numpy") as file:  # What it maps of the file is given back.
            tensor: Tensor = file.get_tensor(name)
        if tensor.dtype != np.float32:
            raise ValueError(f"{name} in {self._path} is {tensor.dtype}")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Called(Mapping[str, Tensor]):
    """Weights by other names: of each of these, what the weights have under the name behind it."""

    def __init__(self, weights: Tensors, names: Mapping[str, str]) -> None:
        self._weights, self._names = weights, names

    def __getitem__(self, name: str) -> Tensor:
        """Raises KeyError."""
        return self._weights[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Widened(Stored):
    """Weights in a file of another program, whose numbers may be narrower: for each there is an equal float32."""

    def __getitem__(self, name: str) -> Tensor:
        """Raises KeyError; ValueError if it is of no kind of number that fits."""
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, "pt") as file:  # NumPy has no bfloat16.
            tensor = file.get_tensor(name)
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"{name} in {self._path} is {tensor.dtype}, and not float32, bfloat16 or float16")
        widened: Tensor = tensor.float().numpy()
        return widened

    def shape(self, name: str) -> tuple[int, ...]:
        """That of a tensor, which is not read for it."""
        with safe_open(self._path, "pt") as file:
            return tuple(file.get_slice(name).get_shape())


def widened(path: Path) -> Widened:
    """The weights of another program's file, to be read tensor by tensor. Raises `Refused`: NOT_FOUND, CORRUPT."""
    with _refusing(path):
        return Widened(path)


def read(path: Path) -> tuple[Stored, str]:
    """The weights of this file, to be read tensor by tensor, and their digest. Raises `Refused`: NOT_FOUND, CORRUPT."""
    with _refusing(path):
        found = Stored(path)
        return found, digest(found)


def read_base(path: Path, start: str) -> tuple[Stored, str]:
    """The same of a file that shall be the weights with this digest, with which a run began; of any, if that is empty.

    Raises `Refused`: WRONG_BASE; as `read`.
    """
    found, held = read(path)
    if start and held != start:
        raise Refused(Refusal.WRONG_BASE, f"{path} is {held[:12]}…, and the run began with {start[:12]}…")
    return found, held


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"{path}: {error.strerror or error}") from None
    except (ValueError, SafetensorError) as error:
        raise Refused(Refusal.CORRUPT, f"{path} does not hold float32 weights: {error}") from None


def stored(folder: Path, name: str) -> Stored:
    """The weights of this digest in this folder, to be read tensor by tensor; hashed now.

    Raises `Refused`: NO_CHECKPOINT if they are not there, CORRUPT if others are.
    """
    path = folder / f"{name}.safetensors"
    try:
        found = Stored(path)
        right = digest(found) == name
    except FileNotFoundError:
        raise Refused(Refusal.NO_CHECKPOINT, f"there is no {path}") from None
    except (ValueError, SafetensorError):
        right = False
    if not right:
        raise Refused(Refusal.CORRUPT, f"{path} does not hold the weights that it is named for")
    return found


def held(folder: Path, name: str) -> Weights | None:
    """The weights of this digest, if this folder holds them whole."""
    try:
        return dict(stored(folder, name))
    except Refused:
        return None


def minus(one: Tensors, other: Tensors) -> Weights:
    return {name: tensor - other[name] for name, tensor in one.items()}


def plus(one: Tensors, other: Tensors) -> Weights:
    """Each value the one float32 nearest to the sum: the same bits on every machine."""
    return {name: tensor + other[name] for name, tensor in one.items()}
