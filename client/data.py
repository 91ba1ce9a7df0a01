"""The member's own data: which text this node trains on, and in what order.

Beside its own text a member may train on one that was sampled from a model (client/sample.py), and by some recipes on
the hardest of more sequences (client/hardest.py). Then what its receipt commits to says so: a `Slice`, with how many of
the tokens were synthetic, of which `Sample`, and with what was picked.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared_models.lm import corpus, tokenizer
from shared_models.records import canonical
from shared_models.records.canonical import Count, Decimal, Hash, Line
from shared_models.records.kinds import FIRST, Build, Positive, Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import length_at

STDLIB = "python-stdlib"
FILE, DIGEST = "file:", "sha256:"  # How a text of one's own is called here, and how to others.


class Kept(NamedTuple):
    """Where a machine keeps tokenizers, and texts in their tokens."""

    tokenizers: Path = Path()
    tokens: Path = Path()


NOWHERE = Kept()  # Who trains on bytes needs neither.
Picked = Sequence[Sequence[int]]  # For each step of a round the numbers, from 0, of the candidates it trains on.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a synthetic text says of itself, in the file beside it: who has all of this makes it again."""

    artefact: Hash  # What it was sampled from,
    grant: Count  # and the index of the entry by which the member took that.
    prompts: Hash  # SHA-256 of the text whose parts it goes on from; `FIRST`: of none.
    seed: Count
    temperature: Decimal
    build: Build  # Where it is the same, so is the text.
    beside: Line  # The text of whose parts it repeats none, as `named` says it.
    documents: Count  # Of which it is made,
    repeat_own: Count  # and how many were left out, for they repeat that text,
    repeat_sampled: Count  # or one of these.
    size: Positive  # Bytes.
    text: Hash  # SHA-256 of it.

    @property
    def hash(self) -> str:
        return hashlib.sha256(canonical.encode(self)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What a member trained on in a round so far, if it has a synthetic text, or picks: its digest stands where else
    that of the tokens does, so a receipt commits to all of it.
    """

    tokens: Hash  # SHA-256 of every token trained on.
    sample: Hash  # Of the `Sample`; `FIRST`: there is none.
    trained: Count  # Tokens,
    synthetic: Count  # and how many of them were the synthetic text's.
    picked: Hash  # `digest_of` what was picked; `FIRST`: all candidates are trained on.

    @property
    def hash(self) -> str:
        return hashlib.sha256(canonical.encode(self)).hexdigest()


def digest_of(picked: Sequence[int]) -> str:
    """SHA-256 of what was picked, step by step, each number in 8 bytes, little-endian."""
    return hashlib.sha256(np.array(picked, "<u8").data).hexdigest()


class Shard(NamedTuple):
    """What a member trains on, in tokens."""

    own: tokenizer.Tokens
    synthetic: tokenizer.Tokens | None = None
    sample: str = ""  # The hash of the `Sample` that tells of it.
    cut: tokenizer.Tokenizer | None = None  # By what sequences are cut anew, if the recipe has a `merge_dropout`.


def shard(spec: str, synthetic: Path | None, recipe: Recipe, kept: Kept) -> Shard:
    """What a member trains on: its text, as `in_tokens`, and the one in this file. Raises `Refused`, as `sampled`."""
    own, cut = in_tokens(spec, recipe, kept), anew(recipe, kept)
    if synthetic is None:
        return Shard(own, cut=cut)
    said = sampled(synthetic)
    return Shard(own, in_tokens(f"{FILE}{synthetic}", recipe, kept), said.hash, cut)


def anew(recipe: Recipe, kept: Kept) -> tokenizer.Tokenizer | None:
    """By what this recipe cuts sequences anew. Raises `Refused`, as `tokenizer.held`."""
    if recipe.merge_dropout == "0":
        return None
    return tokenizer.held(recipe.tokenizer, recipe.vocabulary, kept.tokenizers)


def beside(synthetic: Path) -> Path:
    """Where it stands what a synthetic text says of itself."""
    return synthetic.with_name(f"{synthetic.name}.json")


def sampled(synthetic: Path) -> Sample:
    """What the file beside a synthetic text says of it. Raises `Refused`: NO_TEXT if either is not there; CORRUPT if it
    tells of another text.
    """
    path = beside(synthetic)
    try:
        said = canonical.decode(Sample, path.read_bytes().removesuffix(b"\n"))
    except OSError as error:
        cause = f"synthetic {str(synthetic)!r}: {path}: {error.strerror}"
        raise Refused(Refusal.NO_TEXT, f"{cause}; `consortium model sample` writes both") from None
    except Refused as refused:
        raise Refused(Refusal.CORRUPT, f"{path}: {refused}") from None
    if named(f"{FILE}{synthetic}") != DIGEST + said.text:
        raise Refused(Refusal.CORRUPT, f"{synthetic} is not the text of which {path} tells")
    return said


def in_tokens(spec: str, recipe: Recipe, kept: Kept) -> tokenizer.Tokens:
    """The text that this specification names, in the recipe's tokens. Raises `Refused`: as `load`, `tokenizer.held` and
    `Tokenizer.kept`.
    """
    cut = tokenizer.held(recipe.tokenizer, recipe.vocabulary, kept.tokenizers)
    text = load(spec)
    return text if cut is None else cut.kept(text, kept.tokens)


def load(spec: str) -> tokenizer.Text:
    """The text that this specification of the node's operator names, in bytes: `python-stdlib:1/3` is shard 1 of 3.

    `python-stdlib:1/3,alpha=0.5,seed=7` is one of 3 that `corpus.uneven` cuts. `file:/srv/text` is a file; it may be
    larger than memory, for it is read where it is drawn from. Raises `Refused(NO_TEXT)`.
    """
    try:
        return np.memmap(spec.removeprefix(FILE), np.uint8, "r") if spec.startswith(FILE) else _stdlib(spec)
    except OSError as error:
        raise Refused(
            Refusal.NO_TEXT, f"data {spec!r}: {error.strerror}: {error.filename or ''}".rstrip(": ")
        ) from None
    except ValueError as error:  # Numpy's, where a file is empty.
        raise Refused(Refusal.NO_TEXT, f"data {spec!r}: {error}") from None


def _stdlib(spec: str) -> tokenizer.Text:
    uneven = r"(?:,alpha=([0-9]{1,4}(?:\.[0-9]{1,6})?),seed=([0-9]{1,9}))?"
    match = re.fullmatch(rf"{STDLIB}:([0-9]{{1,4}})/([0-9]{{1,4}}){uneven}", spec)
    if match is None or not int(match[1]) < int(match[2]) or float(match[3] or 1) == 0:
        form = f"{STDLIB}:NUMBER/OF[,alpha=ABOVE_ZERO,seed=NUMBER]"
        raise ValueError(f"it is not of the form {form} or {FILE}PATH")
    number, of = int(match[1]), int(match[2])
    return corpus.uneven(number, of, float(match[3]), int(match[4])) if match[3] else corpus.shard(number, of)


def named(spec: str) -> str:
    """What others are told of which text that is: of a file its SHA-256. Raises `Refused(NO_TEXT)`."""
    if not spec.startswith(FILE):
        return spec
    try:
        with Path(spec.removeprefix(FILE)).open("rb") as file:
            return DIGEST + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(Refusal.NO_TEXT, f"data {spec!r}: {error.strerror}") from None


class Batches:
    """The batches of a member's round, step by step: drawn from its text, the same for the same recipe, member, round
    and length of the run, and a digest of all that was trained on.

    A sequence is of its own text or of the synthetic one, and each place of either is as likely. With a `merge_dropout`
    the text of its tokens is cut anew, and as many of these are taken; where there are fewer, it stays as it was. Where
    a recipe has several candidates for each sequence, those are trained on that were `picked`.
    """

    def __init__(
        self,
        tokens: tokenizer.Tokens | Shard,
        recipe: Recipe,
        picked: Picked = (),
        *,
        member: str,
        round_: int,
        rounds: int,
    ) -> None:
        """Raises `Refused(NO_TEXT)` if a text is shorter than a sequence and the token after it."""
        shard = tokens if isinstance(tokens, Shard) else Shard(tokens)
        self._texts = [shard.own] if shard.synthetic is None else [shard.own, shard.synthetic]
        for text in self._texts:
            if text.size <= recipe.context + 1:
                cause = f"the text holds {text.size} tokens; a sequence takes {recipe.context + 1}"
                raise Refused(Refusal.NO_TEXT, cause)
        assert (recipe.merge_dropout == "0") == (shard.cut is None)
        self._sample, self._cut, self._dropout = shard.sample, shard.cut, float(recipe.merge_dropout)
        self._trained = self._synthetic = 0
        drawn = hashlib.sha256(f"{recipe.seed} {member} {round_}".encode()).digest()
        self._random = np.random.Generator(np.random.PCG64(int.from_bytes(drawn[:16], "big")))
        self._left_out = Random(int.from_bytes(drawn[16:], "big"))  # noqa: S311 - its numbers are those of any Python.
        self._recipe, self._rounds, self._picked = recipe, rounds, picked
        self._step = self._first = (round_ - 1) * recipe.inner_steps  # Of the run.
        self._digest, self._dtype = hashlib.sha256(), tokenizer.dtype(recipe.tokenizer, recipe.vocabulary)

    def draw(self) -> npt.NDArray[np.int64]:
        """The next step's (count, length + 1) tokens, in a curriculum more sequences where they are shorter: a step
        trains batch × context. Whatever is drawn counts as trained on.
        """
        step = self._step - self._first
        batch, synthetic = self._drawn()
        if self._recipe.candidates > 1:
            rows = [*self._picked[step]]
            batch, synthetic = batch[rows], synthetic[rows]
        count, length = len(batch), batch.shape[1] - 1
        self._trained, self._synthetic = self._trained + count * length, self._synthetic + int(synthetic.sum()) * length
        self._digest.update(batch.astype(self._dtype).data)
        return batch

    def candidates(self) -> npt.NDArray[np.int64]:
        """The next step's (candidates × count, length + 1) tokens, of which none counts as trained on."""
        return self._drawn()[0]

    def _drawn(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The next step's candidates, and which of them are synthetic."""
        recipe = self._recipe
        length = length_at(recipe, self._rounds, self._step)
        count, self._step = recipe.candidates * recipe.batch * recipe.context // length, self._step + 1
        places = [text.size - length - 1 for text in self._texts]
        starts = self._random.integers(0, sum(places), count)
        batch = np.empty((count, length + 1), np.int64)
        own = starts < places[0]
        batch[own] = corpus.windows(self._texts[0], starts[own], length + 1)
        if not own.all():
            batch[~own] = corpus.windows(self._texts[1], starts[~own] - places[0], length + 1)
        if self._cut is not None:
            batch = np.stack([self._anew(each, self._cut) for each in batch])
        return batch, ~own

    def _anew(self, sequence: npt.NDArray[np.int64], cut: tokenizer.Tokenizer) -> npt.NDArray[np.int64]:
        found = cut.cut_anew(cut.text(sequence.tolist()), self._dropout, self._left_out)
        return np.array(found[: sequence.size]) if len(found) >= sequence.size else sequence

    @property
    def slice(self) -> Slice | None:
        """What was trained on so far, if some of the text is synthetic, or sequences are picked."""
        picks = self._recipe.candidates > 1
        if not self._sample and not picks:
            return None
        return Slice(
            tokens=self._digest.hexdigest(),
            sample=self._sample or FIRST,
            trained=self._trained,
            synthetic=self._synthetic,
            picked=digest_of([*chain(*self._picked[: self._step - self._first])]) if picks else FIRST,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of every token trained on so far; or where there is one, of the `slice`."""
        mixed = self.slice
        return self._digest.hexdigest() if mixed is None else mixed.hash
