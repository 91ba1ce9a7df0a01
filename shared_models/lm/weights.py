"""Weights: as arrays between processes, as safetensors on disk, and as the one digest by which records name them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from shared_models import durable

Weights = dict[str, npt.NDArray[np.float32]]


def of(model: nn.Module) -> Weights:
    """A copy of a model's parameters (not its state_dict, which repeats what is tied), float32, by name."""
    return {name: weight.detach().cpu().numpy().astype(np.float32) for name, weight in model.named_parameters()}


def put(weights: Weights, model: nn.Module) -> None:
    """Set a model's parameters to these weights."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.tensor(weights[name]))


def digest(weights: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """SHA-256 of, for each tensor in order of its name: a line `name float32 d1xd2`, then its little-endian values."""
    hashed = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        assert tensor.dtype == np.float32
        hashed.update(f"{name} float32 {'x'.join(map(str, tensor.shape))}\n".encode())
        hashed.update(np.ascontiguousarray(tensor, "<f4").data)
    return hashed.hexdigest()


def size(weights: Mapping[str, npt.NDArray[np.float32]]) -> int:
    """The bytes of the values."""
    return sum(tensor.nbytes for tensor in weights.values())


def keep(weights: Weights, folder: Path) -> str:
    """Write weights to `<digest>.safetensors` in this folder, for good; their digest."""
    name = digest(weights)
    folder.mkdir(parents=True, exist_ok=True)
    durable.write(folder / f"{name}.safetensors", save(weights))
    return name


def load(folder: Path, name: str) -> Weights:
    """The weights of this digest, hashed again after reading. Raises ValueError if they are others."""
    weights: Weights = load_file(folder / f"{name}.safetensors")
    if digest(weights) != name:
        raise ValueError(f"{folder / name}.safetensors does not hold the weights it is named for")
    return weights


def held(folder: Path, name: str) -> Weights | None:
    """The weights of this digest, if this folder holds them whole."""
    try:
        return load(folder, name)
    except (FileNotFoundError, ValueError, SafetensorError):
        return None


def minus(one: Weights, other: Weights) -> Weights:
    return {name: tensor - other[name] for name, tensor in one.items()}


def plus(one: Weights, other: Weights) -> Weights:
    """Each value the one float32 nearest to the sum: the same bits on every machine."""
    return {name: tensor + other[name] for name, tensor in one.items()}
