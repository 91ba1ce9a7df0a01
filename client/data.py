"""The member's own data: which text this node trains on, and in what order."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared_models.lm import corpus, tokenizer
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import length_at

STDLIB = "python-stdlib"
FILE, DIGEST = "file:", "sha256:"  # How a text of one's own is called here, and how to others.


class Kept(NamedTuple):
    """Where a machine keeps tokenizers, and texts in their tokens."""

    tokenizers: Path = Path()
    tokens: Path = Path()


NOWHERE = Kept()  # Who trains on bytes needs neither.


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
    and length of the run, and a digest of all that was drawn.
    """

    def __init__(self, tokens: tokenizer.Tokens, recipe: Recipe, *, member: str, round_: int, rounds: int) -> None:
        """Raises `Refused(NO_TEXT)` if the text is shorter than a sequence and the token after it."""
        if tokens.size <= recipe.context + 1:
            cause = f"the text holds {tokens.size} tokens; a sequence takes {recipe.context + 1}"
            raise Refused(Refusal.NO_TEXT, cause)
        drawn = hashlib.sha256(f"{recipe.seed} {member} {round_}".encode()).digest()
        self._random = np.random.Generator(np.random.PCG64(int.from_bytes(drawn[:16], "big")))
        self._tokens, self._recipe, self._rounds = tokens, recipe, rounds
        self._step = (round_ - 1) * recipe.inner_steps  # Of the run.
        self._digest, self._dtype = hashlib.sha256(), tokenizer.dtype(recipe.tokenizer, recipe.vocabulary)

    def draw(self) -> npt.NDArray[np.int64]:
        """The next step's (count, length + 1) tokens, in a curriculum more sequences where they are shorter: a step
        trains batch × context. Whatever is drawn counts as trained on.
        """
        recipe = self._recipe
        length = length_at(recipe, self._rounds, self._step)
        count, self._step = recipe.batch * recipe.context // length, self._step + 1
        starts = self._random.integers(0, self._tokens.size - length - 1, count)
        batch = corpus.windows(self._tokens, starts, length + 1)
        self._digest.update(batch.astype(self._dtype).data)
        return batch

    @property
    def digest(self) -> str:
        """SHA-256 of every token drawn so far."""
        return self._digest.hexdigest()
