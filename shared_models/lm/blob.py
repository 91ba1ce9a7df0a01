"""An update as a file: what its tensors are packed to, one behind another in the order of their names.

It has no header: names and shapes are the model's and the codec is the recipe's, so the place of every tensor is known
before the file is opened, and none of it can lie. Read one tensor at a time, it takes no more memory than that.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared_models import durable
from shared_models.lm import codecs
from shared_models.lm.codecs import Packed


def write(path: Path, packed: Mapping[str, Packed]) -> None:
    """Put these tensors at this path, for good, one at a time."""
    with durable.writing(path) as file:
        for data in pieces(packed):
            file.write(data)


def pieces(packed: Mapping[str, Packed], start: int = 0) -> Iterator[bytes]:
    """The bytes of such a file, from this one on, a tensor at a time."""
    for name in sorted(packed):
        data = packed[name].data
        if start < len(data):
            yield data[start:] if start else data
        start = max(0, start - len(data))


def sha256(packed: Mapping[str, Packed]) -> str:
    """The SHA-256 of such a file, in hex."""
    hashed = hashlib.sha256()
    for data in pieces(packed):
        hashed.update(data)
    return hashed.hexdigest()


class Blob(Mapping[str, Packed]):
    """The tensors in such a file, each read when it is asked for."""

    def __init__(self, path: Path, codec: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises `Refused`: UNKNOWN_CODEC."""
        self.path, self._codec, self._shapes = path, codec, shapes
        self._places, end = dict[str, tuple[int, int]](), 0
        for name in sorted(shapes):
            length = codecs.size(codec, shapes[name])
            self._places[name] = end, length
            end += length

    def __getitem__(self, name: str) -> Packed:
        """Raises FileNotFoundError. What a file that is cut has no bytes for, `codecs.decode` refuses."""
        at, length = self._places[name]
        with self.path.open("rb") as file:
            file.seek(at)
            return Packed(self._codec, self._shapes[name], file.read(length))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
