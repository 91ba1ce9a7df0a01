"""Real text that lies on every machine: the sources of the interpreter's own standard library, as bytes.

It is split by package, so that the shards of different members are naturally different (the one has asyncio and
email, the other ctypes and unittest), as the data of different organisations are. Some files are held out of every
shard.
"""

import hashlib
import sysconfig
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared_models.lm.tokenizer import Text, Tokenizer, Tokens
from shared_models.records.refusals import Refusal, Refused

HELD_OUT = 20  # One file in so many, by hash of its path.


@cache
def _files() -> tuple[tuple[str, Path, int], ...]:
    """(package, path, bytes) of every source file, in order; no tests' data, nothing that was installed later."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if {"site-packages", "dist-packages", "__pycache__"}.isdisjoint(inside.parts) and path.stat().st_size:
            found.append((inside.parts[0].removesuffix(".py"), path, path.stat().st_size))
    return tuple(found)


class Scored(NamedTuple):
    """A text that checkpoints are scored on."""

    tokens: Tokens
    sizes: npt.NDArray[np.int64] | None = None  # The bytes that each token of the vocabulary stands for; None: one.


def _is_held_out(path: Path) -> bool:
    relative = path.relative_to(sysconfig.get_path("stdlib")).as_posix()
    return int.from_bytes(hashlib.sha256(relative.encode()).digest()[:4], "big") % HELD_OUT == 0


def _read(paths: list[Path]) -> Text:
    return np.frombuffer(b"\n".join(path.read_bytes() for path in paths), np.uint8)


@cache
def shard(number: int, of: int) -> Text:
    """The text of one of `of` shards: whole packages, dealt out so that the shards are of about the same size.

    The largest package goes first, each to the shard that has least so far. Held-out files are in none of them.
    """
    assert 0 <= number < of
    sizes: dict[str, int] = {}
    for package, _, size in _files():
        sizes[package] = sizes.get(package, 0) + size
    total = [0] * of
    home = {}
    for package in sorted(sizes, key=lambda name: (-sizes[name], name)):
        home[package] = min(range(of), key=lambda index: (total[index], index))
        total[home[package]] += sizes[package]
    return _read([path for package, path, _ in _files() if home[package] == number and not _is_held_out(path)])


@cache
def _packages() -> tuple[Text, ...]:
    """The text of each package, without what is held out."""
    files: dict[str, list[Path]] = {}
    for package, path, _ in _files():
        if not _is_held_out(path):
            files.setdefault(package, []).append(path)
    return tuple(_read(files[package]) for package in sorted(files))


@cache
def uneven(number: int, of: int, alpha: float, seed: int) -> Text:
    """The text of one of `of` shards that differ in what they hold, and in how much: the more, the smaller `alpha` is.

    Each package is cut into a piece for every shard. How long these are is drawn from a symmetric Dirichlet
    distribution (arXiv:1909.06335, with packages for classes): near 0 one shard has nearly all of a package, at 100
    each has about as much of it. Held-out files are in none of them.
    """
    assert 0 <= number < of
    random = np.random.Generator(np.random.PCG64(seed))
    pieces = []
    for text in _packages():
        ends = np.rint(text.size * np.cumsum(random.dirichlet(np.full(of, alpha)))).astype(int)
        pieces.append(text[ends[number - 1] if number else 0 : ends[number]])
    return np.concatenate(pieces)


@cache
def held_out() -> Text:
    """The text that no member trains on."""
    return _read([path for _, path, _ in _files() if _is_held_out(path)])


@cache
def scored_on(name: str, texts: Path, at_least: int, cut: Tokenizer | None = None) -> Scored:
    """The text that checkpoints are scored on: `python-stdlib`, what is held out of it; `sha256:HEX`, a file.

    That is named HEX in the folder `texts`, hashed once, and read where it is drawn from. With a tokenizer the tokens
    are in memory: of half as many bytes as the text or less. Raises `Refused`: NOT_FOUND; CORRUPT if it is another one;
    BAD_FIELD if it has not so many tokens; as `Tokenizer.encode`.
    """
    kind, _, digest = name.partition(":")
    if kind != "sha256":
        return in_tokens(held_out(), at_least, cut)
    path = texts / digest
    if not path.is_file():
        raise Refused(Refusal.NOT_FOUND, f"the text {name} that the run is scored on is not at {path}")
    with path.open("rb") as file:
        if (found := hashlib.file_digest(file, "sha256").hexdigest()) != digest:
            raise Refused(Refusal.CORRUPT, f"{path} is sha256:{found}")
    return in_tokens(given(path, at_least), at_least, cut)


def in_tokens(text: Text, at_least: int, cut: Tokenizer | None) -> Scored:
    """A text to score by, in the tokens of this tokenizer, or in bytes. Raises `Refused`: BAD_FIELD if it has not so
    many tokens; as `Tokenizer.encode`.
    """
    if cut is None:
        return Scored(text)
    tokens = np.concatenate(list(cut.encode(text)))
    if tokens.size < at_least:
        raise Refused(Refusal.BAD_FIELD, f"the text has {tokens.size} tokens, too few to score by: {at_least}")
    return Scored(tokens, cut.sizes)


def given(path: Path, at_least: int) -> Text:
    """The text of this file, read where it is drawn from. Raises `Refused`: NOT_FOUND; BAD_FIELD if it has not so many
    tokens.
    """
    try:
        size = path.stat().st_size
        if size < at_least:
            raise Refused(Refusal.BAD_FIELD, f"the text {path} has {size} bytes, too few to score by: {at_least}")
        return np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"the text {path}: {error.strerror}") from None


def windows(tokens: Tokens, starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """The sequences of `length` tokens that begin at these places: (len(starts), length)."""
    chosen: npt.NDArray[np.int64] = tokens[starts[:, None] + np.arange(length)].astype(np.int64)
    return chosen
