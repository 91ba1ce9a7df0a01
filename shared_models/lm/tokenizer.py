"""Text in tokens of more than a byte: byte-level BPE (GPT-2's), by the library `tokenizers`, from a file of its format.

A run names that file, tokenizer.json, by its SHA-256. Of it the vocabulary, the merges and how a text is split count,
and nothing that stands beside: the tokens of a text, put together, are the text again to the byte, whatever it holds,
and each stands for so many bytes of it. So a loss in nats per byte is what it is without one.

The tokens of a text are those of its pieces, one after another (`pieces`), and a byte that is no UTF-8 where it stands
is a token by itself. So they can be made of a text larger than memory, and who makes them again, makes the same.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_models import durable
from shared_models.records.refusals import Refusal, Refused

BYTES = "bytes"  # What a recipe says that has no tokenizer: the number of a token is the byte.
NAMED = "sha256:"  # And how it names one.
ALONE = 256  # Each byte is a token by itself, too.
PIECE_BYTES, TOGETHER = 2**16, 16  # How long a piece is at most; so many are in memory at a time.
# What a tokenizer.json may say beside, such as one that is published with a model, and a text is cut without: special
# tokens that a text would spell, those that are put around it, and other letters in the place of its own.
BESIDE: Mapping[str, Any] = {
    "added_tokens": [],
    "normalizer": None,
    "post_processor": None,
    "truncation": None,
    "padding": None,
}
EXACT = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}  # None in a model.

# How a text is split into words, of which alone letters are merged: by this pattern, "" for GPT-2's, and whether a word
# that is a token stays whole, whatever the merges are.
Split = tuple[str, bool]
Text = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.unsignedinteger[Any]]


def shown(byte: int) -> str:
    """The letter that stands for a byte in GPT-2's alphabet: itself if it can be printed, else one from 256 on."""
    printed = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    if byte in printed:
        return chr(byte)
    return chr(ALONE + sum(other not in printed for other in range(byte)))


@cache
def _byte() -> Mapping[str, int]:
    """The byte that each of these letters stands for."""
    return {shown(byte): byte for byte in range(ALONE)}


def dtype(named: str, vocabulary: int) -> np.dtype[np.unsignedinteger[Any]]:
    """How tokens stand in files and are hashed: a byte each without a tokenizer; else little-endian, 2 or 4 bytes."""
    if named == BYTES:
        return np.dtype(np.uint8)
    return np.dtype("<u2" if vocabulary <= 2**16 else "<u4")


def pieces(text: Text) -> Iterator[bytes]:
    """The text, cut: of the next PIECE_BYTES bytes all up to the last newline and with it; all, if there is none or
    these are the last.
    """
    start = 0
    while start < text.size:
        piece = text[start : start + PIECE_BYTES].tobytes()
        if start + len(piece) < text.size:
            piece = piece[: piece.rfind(b"\n") + 1] or piece
        yield piece
        start += len(piece)


def _runs(piece: bytes) -> list[str]:
    """What of it is UTF-8, and between, as a surrogate (PEP 383), each byte that is not."""
    return [run for run in re.split("([\udc80-\udcff])", piece.decode(errors="surrogateescape")) if run]


class Tokenizer:
    """One tokenizer."""

    def __init__(self, data: bytes, where: str) -> None:
        """Of the bytes of a tokenizer.json. `where` is said of it in a refusal. Raises `Refused(BAD_FIELD)`."""
        self.data, self.sha256 = data, hashlib.sha256(data).hexdigest()
        self.tokens, self.merges, self.split = _read(data, where)
        self.sizes = np.array([len(token) for token in self.tokens], np.int64)  # The bytes that each stands for.
        alone = {token: number for number, token in enumerate(self.tokens) if len(token) == 1}
        self._alone = [alone[shown(byte)] for byte in range(ALONE)]

    @property
    def name(self) -> str:
        """As a recipe says it."""
        return NAMED + self.sha256

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        return dtype(self.name, len(self.tokens))

    def encode(self, text: Text) -> Iterator[Tokens]:
        """The text's tokens, some pieces' at a time. Raises `Refused(NOT_SET_UP)` without the library."""
        library = _library().from_str(json.dumps(json.loads(self.data) | dict(BESIDE)))
        rest = pieces(text)
        while some := [run for piece in islice(rest, TOGETHER) for run in _runs(piece)]:
            whole = iter(library.encode_batch([run for run in some if not _is_alone(run)], add_special_tokens=False))
            numbers = [[self._alone[ord(run) - 0xDC00]] if _is_alone(run) else next(whole).ids for run in some]
            yield np.concatenate([np.array(each, self.dtype) for each in numbers])

    def cut_anew(self, text: bytes, dropout: float, random: Random) -> list[int]:
        """The tokens of a text of which merges are left out, each that there is with this chance whenever the best is
        chosen: BPE dropout (arXiv:1910.13267, algorithm 1). Put together, they are the text again.
        """
        found = list[int]()
        for run in _runs(text):
            if _is_alone(run):
                found.append(self._alone[ord(run) - 0xDC00])
                continue
            for word, _ in self._splitter.pre_tokenize_str(run):
                parts = list(word)
                while True:
                    there = (self._ranks.get(pair) for pair in pairwise(parts))
                    left = [
                        (rank, at) for at, rank in enumerate(there) if rank is not None and random.random() >= dropout
                    ]
                    if not left:
                        break
                    _, at = min(left)
                    parts[at : at + 2] = [parts[at] + parts[at + 1]]
                found += map(self._numbers.__getitem__, parts)
        return found

    @cached_property
    def _splitter(self) -> Any:
        return _library().from_str(json.dumps(json.loads(self.data) | dict(BESIDE))).pre_tokenizer

    @cached_property
    def _ranks(self) -> Mapping[tuple[str, ...], int]:
        return {tuple(merge.split(" ")): rank for rank, merge in enumerate(self.merges)}

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def text(self, numbers: Iterable[int]) -> bytes:
        """What these tokens, put together, stand for."""
        return bytes(_byte()[letter] for number in numbers for letter in self.tokens[number])

    def kept(self, text: Text, folder: Path) -> Tokens:
        """The text's tokens in a file of this folder, read where they are drawn from: made once, and found again.

        What stands beside it, digests and sizes, is written last: without that the file was not finished. Raises
        `Refused`: CORRUPT if the file is not what was written; as `encode`.
        """
        digest = hashlib.sha256(text.data).hexdigest()
        path = folder / self.sha256 / f"{digest}.tokens"
        index = path.with_suffix(".json")

        def said(sha256: str, size: int) -> dict[str, str | int]:
            about = {"text": digest, "tokenizer": self.sha256, "sha256": sha256, "dtype": self.dtype.str}
            return about | {"tokens": size // self.dtype.itemsize}

        if not index.is_file():
            durable.make_folder(path.parent)
            hashed = hashlib.sha256()
            with durable.writing(path, 0o600) as file:
                for part in self.encode(text):
                    hashed.update(part.data)
                    file.write(part.data)
                size = file.tell()
            durable.write(index, json.dumps(said(hashed.hexdigest(), size)).encode(), 0o600)
        try:
            with path.open("rb") as file:
                found = said(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())
            right = json.loads(index.read_bytes()) == found
        except (OSError, ValueError):
            right = False
        if not right:
            cause = "it is not what was made of the text; delete both, and they are made again"
            raise Refused(Refusal.CORRUPT, f"{path}, by the .json beside it: {cause}")
        return np.memmap(path, self.dtype, "r")


def read(path: Path) -> Tokenizer:
    """The tokenizer in this file. Raises `Refused`: NOT_FOUND, BAD_FIELD."""
    try:
        return Tokenizer(path.read_bytes(), str(path))
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"the tokenizer {path}: {error.strerror}") from None


@cache
def held(named: str, vocabulary: int, folder: Path) -> Tokenizer | None:
    """The tokenizer that a recipe names, out of this folder; None if each byte is a token.

    Raises `Refused`: NOT_SET_UP if it is not there, or the library is not; CORRUPT if it is another one; BAD_FIELD if
    it is larger than the recipe's vocabulary.
    """
    if named == BYTES:
        return None
    digest = named.removeprefix(NAMED)
    path = folder / digest
    if not path.is_file():
        others = ", ".join(f"{each.name[:12]}…" for each in sorted(folder.glob("[0-9a-f]*"))) or "none"
        cause = f"the run's text is in tokens of {named}, and here is {others}"
        raise Refused(Refusal.NOT_SET_UP, f"{cause}: `consortium model tokenizer FILE` puts it there")
    found = read(path)
    if found.sha256 != digest:
        raise Refused(Refusal.CORRUPT, f"{path} is {found.name}")
    check_size(found, vocabulary)
    _check_library()
    return found


def keep(given: Path, folder: Path) -> Tokenizer:
    """Keep a copy of this tokenizer in this folder, under its SHA-256. Raises `Refused`, as `read`."""
    found = read(given)
    durable.make_folder(folder)
    durable.write(folder / found.sha256, found.data)
    return found


def given(path: Path | None, named: str, vocabulary: int) -> Tokenizer | None:
    """The tokenizer that a recipe names, in this file; None if each byte is a token, and there is no file.

    Raises `Refused`: NOT_SET_UP without a file; BAD_FIELD for another one's, or a larger one; as `read`.
    """
    if path is None:
        if named == BYTES:
            return None
        raise Refused(Refusal.NOT_SET_UP, f"--tokenizer FILE: its tokens are those of {named}")
    found = read(path)
    if found.name != named:
        raise Refused(Refusal.BAD_FIELD, f"--tokenizer {path}: it is {found.name}, and the recipe has {named}")
    check_size(found, vocabulary)
    return found


def check_size(found: Tokenizer, vocabulary: int) -> None:
    """Raises `Refused(BAD_FIELD)` if it has more tokens than a vocabulary, which may have room that no text needs."""
    if len(found.tokens) > vocabulary:
        cause = f"vocabulary = {vocabulary}, and the tokenizer {found.sha256[:12]}… has {len(found.tokens)} tokens"
        raise Refused(Refusal.BAD_FIELD, cause)


def train(texts: Iterable[Path], vocabulary: int) -> bytes:
    """A tokenizer of so many tokens, learnt from these files: the same ones in the same order make the same bytes.

    Its tokens are parts of the text: whoever has it, reads them. Raises `Refused`: BAD_FIELD if the text is too short
    for so many, NOT_FOUND; NOT_SET_UP without the library.
    """
    library = _library()
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = library(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    runs = (run for path in texts for piece in pieces(_mapped(path)) for run in _runs(piece) if not _is_alone(run))
    made.train_from_iterator(runs, trainer)
    data: bytes = made.to_str().encode()
    if (found := made.get_vocab_size()) != vocabulary:
        cause = f"of {vocabulary} tokens these texts make {found}" if vocabulary > ALONE else "each byte is a token"
        raise Refused(Refusal.BAD_FIELD, f"--vocabulary {vocabulary}: {cause}")
    return data


def _mapped(path: Path) -> Text:
    try:
        return np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"the text {path}: {error.strerror}") from None
    except ValueError as error:  # Numpy's, where a file is empty.
        raise Refused(Refusal.BAD_FIELD, f"the text {path}: {error}") from None


def _is_alone(run: str) -> bool:
    return "\udc80" <= run[0] <= "\udcff"


def _check_library() -> None:
    if importlib.util.find_spec("tokenizers") is None:
        cause = "tokens of more than a byte need the package tokenizers: pip install 'training-consortium[text]'"
        raise Refused(Refusal.NOT_SET_UP, cause)


def _library() -> Any:
    _check_library()
    from tokenizers import Tokenizer as Library  # An extra: who trains on bytes needs none.

    return Library


def _read(data: bytes, where: str) -> tuple[list[str], list[str], Split | None]:
    """The tokens of a tokenizer.json by number, in GPT-2's letters, one for each byte; its merges, "one other"; and
    how it splits a text, None if not by one pattern.
    """

    def refused(cause: str) -> Refused:
        return Refused(Refusal.BAD_FIELD, f"{where}: {cause}")

    try:
        found = json.loads(data)
        model, before = found["model"], found["pre_tokenizer"]
        steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
        *splits, last = ((each["type"], each) for each in steps)
        vocab: Mapping[str, int] = model["vocab"]
        tokens = sorted(vocab, key=lambda token: vocab[token])
        numbered = [vocab[token] for token in tokens] == list(range(len(tokens)))
        merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
        kinds = {"model": model["type"], "decoder": found["decoder"]["type"], "pre_tokenizer": last[0]}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise refused(f"it is no byte-level BPE of the library tokenizers: {error!r}") from None
    for name, kind in kinds.items():
        if kind != (right := "BPE" if name == "model" else "ByteLevel"):
            raise refused(f"its {name} is {kind}, and not {right}")
    if odd := sorted(name for name in EXACT if model.get(name)):
        raise refused(f"it has {odd[0]}: its tokens, put together, may not be the text again")
    if last[1].get("add_prefix_space", True) or any(
        kind != "Split" or each.get("behavior") == "Removed" for kind, each in splits
    ):
        raise refused("its pre_tokenizer adds to the text, or leaves out of it")
    alphabet = {shown(byte) for byte in range(ALONE)}
    if not all(each.count(" ") == 1 and {*each.split(" "), each.replace(" ", "")} <= vocab.keys() for each in merges):
        raise refused("a merge is not of two tokens, or makes none")
    if not numbered or not alphabet <= set(tokens) or not all(token and alphabet >= set(token) for token in tokens):
        raise refused("its vocabulary is not numbered from 0, or a byte is no token of it, or a token is not of bytes")
    match [each for _, each in splits], last[1].get("use_regex", True):
        case [], True:
            pattern = ""
        case [{"pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}], False:
            pass
        case _:
            return tokens, merges, None
    return tokens, merges, (pattern, bool(model.get("ignore_merges")))
