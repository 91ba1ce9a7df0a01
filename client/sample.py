"""Text sampled from a model that the member was granted, to be trained on beside its own: once each, and not what is
there already.

A document repeats if more than a tenth of its windows of 64 bytes are in the member's text, or in a document before it
(containment: Broder, 1997, On the resemblance and containment of documents; why: arXiv:2107.06499). Of the windows that
there are, one in 16 is looked at, the same of the same text wherever it stands (Manber, 1994): so beside the documents
that are kept, half a byte is held in memory for each byte that is compared.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from client import data
from client.auditor import audited
from client.data import Sample
from client.home import Home
from client.training import build
from shared_models import durable
from shared_models.lm import corpus, gpt, tokenizer, weights
from shared_models.records import canonical
from shared_models.records.kinds import FIRST, Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books
from shared_models.rules.recipes import HOTTEST

DOCUMENT = 512  # Tokens of one.
TOGETHER = 32  # So many are sampled at a time.
WINDOW = 64  # Bytes.
ALIKE = 0.1  # A document of which more is there already is dropped.
CHOSEN = np.uint64(60)  # Looked at is a window whose hash has zeros from this bit on: one in 16.
FACTOR = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio, odd: what a window's bytes are weighed by the powers of.
PIECE_BYTES = 1 << 22  # Of the member's text, in memory at a time.
FRUITLESS = 8  # If so many times as many documents repeat as are new, and a batch, it is given up.

Windows = npt.NDArray[np.uint64]
START = b"\n"  # What a document is the continuation of, if nothing else is given.


def sample(
    folder: Path,
    file: Path,
    to: Path,
    *,
    size: int,
    seed: int,
    temperature: str,
    prompts: Path | None = None,
    text: Path | None = None,
    base: Path | None = None,
) -> Sample:
    """Write `size` bytes of text, sampled from the model in a file, to one that is not there yet; what stands in the
    file beside that, TO.json.

    It repeats nothing of the member's text; or of another's, `text`, for who samples again what that one did. `base` is
    what an adapter or members' experts stand beside. It is sampled on the CPU: the same words give the same bytes where
    the build is the same. Raises `Refused`: NOT_FOUND, NO_ACCESS as `granted`; BAD_FIELD for what cannot be sampled
    from, or if hardly any of it is new; NO_TEXT for prompts that are too short; as `audited`, `_model` and
    `tokenizer.held`.
    """
    home = Home(folder)
    if to.exists():
        raise Refused(Refusal.BAD_FIELD, f"--to {to}: it is there already, and nothing is written over")
    own = home.text if text is None else f"{data.FILE}{text}"
    books = audited(home)
    artefact = _digest(file)
    said = Sample(
        artefact=artefact,
        grant=granted(books, home.settings.member, artefact),
        prompts=FIRST if prompts is None else _digest(prompts),
        seed=seed,
        temperature=temperature,
        build=build("fp32"),
        beside=data.named(own),
        documents=0,
        repeat_own=0,
        repeat_sampled=0,
        size=size,
        text=FIRST,
    )
    canonical.encode(said)  # What cannot be said is not begun.
    if not 0 < Fraction(temperature) <= HOTTEST:
        raise Refused(Refusal.BAD_FIELD, f"--temperature {temperature}: above 0, and up to {HOTTEST}")
    recipe, start = _recipe(books, artefact)
    model = _model(file, recipe, base, start)
    cut = tokenizer.held(recipe.tokenizer, recipe.vocabulary, home.tokenizers_path)
    begins = _prompts(prompts, recipe, cut)
    random = np.random.Generator(np.random.PCG64(seed))
    new = New(data.load(own))
    hashed, room = hashlib.sha256(), size
    with durable.writing(to, 0o600) as out:
        while room:
            for document in sampled(model, begins, recipe.context, float(temperature), random, cut):
                if room and new.take(document):
                    written = (document + b"\n")[:room]
                    hashed.update(written)
                    room -= out.write(written)
            if new.fruitless:
                cause = f"{new.repeat_own:,} documents repeat the member's text, {new.repeat_sampled:,} one another"
                raise Refused(Refusal.BAD_FIELD, f"{cause}, and {new.documents:,} are new: --temperature {temperature}")
    counts = {"documents": new.documents, "repeat_own": new.repeat_own, "repeat_sampled": new.repeat_sampled}
    said = replace(said, text=hashed.hexdigest(), **counts)  # type: ignore[arg-type]
    durable.write(data.beside(to), canonical.encode(said) + b"\n", 0o600)
    return said


class New:
    """Documents that repeat neither a text nor one another, and how many did."""

    def __init__(self, own: tokenizer.Text) -> None:
        """Of a text that may be larger than memory: it is read once, piece by piece."""
        pieces = (own[start : start + PIECE_BYTES + WINDOW - 1] for start in range(0, own.size, PIECE_BYTES))
        self._own = np.unique(np.concatenate([np.empty(0, np.uint64), *map(chosen, pieces)]))
        self._seen = set[int]()
        self.documents = self.repeat_own = self.repeat_sampled = 0

    def take(self, document: bytes) -> bool:
        """Whether this one is new; then it is known from now on."""
        text = np.frombuffer(document, np.uint8)
        found = chosen(text)
        looked_at = found if found.size else hashes(text)[:1]
        if np.isin(looked_at, self._own).mean() > ALIKE:
            self.repeat_own += 1
            return False
        numbers = looked_at.tolist()
        if sum(number in self._seen for number in numbers) > ALIKE * len(numbers):
            self.repeat_sampled += 1
            return False
        self._seen.update(numbers)
        self.documents += 1
        return True

    @property
    def fruitless(self) -> bool:
        """Whether hardly any is new."""
        dropped = self.repeat_own + self.repeat_sampled
        return dropped > FRUITLESS * (TOGETHER + self.documents)


def granted(books: Books, member: str, artefact: str) -> int:
    """The index of the newest entry by which this member took this artefact, which it still may have.

    Raises `Refused`: NOT_FOUND if it is no artefact of the log; NO_ACCESS.
    """
    verdict = books.access(member, artefact, anew=False)
    if not verdict.granted:
        raise Refused(Refusal.NO_ACCESS, "; ".join(verdict.reasons))
    taken = [index for index, each in books.library.grants.items() if each == (member, artefact)]
    if not taken:
        cause = f"no entry of the log says that {member} took artefact {artefact[:12]}…: `consortium model get`"
        raise Refused(Refusal.NO_ACCESS, cause)
    return taken[-1]


def _recipe(books: Books, artefact: str) -> tuple[Recipe, str]:
    """What this artefact is a model of, and the weights that its run began with, or `FIRST`.

    Raises `Refused(BAD_FIELD)` if it is not one round's checkpoint, whole.
    """
    record = books.library.held(artefact).record
    if len(record.checkpoints) != 1 or record.without or record.form != "safetensors":
        raise Refused(Refusal.BAD_FIELD, f"artefact {artefact[:12]}… is not the whole checkpoint of one round")
    manifest = books.run(record.checkpoints[0].run).manifest
    if not manifest.recipe.ours:
        raise Refused(Refusal.BAD_FIELD, f"artefact {artefact[:12]}… is a file's model, which nothing samples from")
    recipe = replace(manifest.recipe, teacher_layers=0, teacher_heads=0, teacher_width=0, temperature="0", taught="0")
    return recipe, manifest.start


def _model(file: Path, recipe: Recipe, base: Path | None, start: str) -> gpt.GPT:
    """Raises `Refused`: WRONG_MODEL; NOT_SET_UP without a base where there must be one; as `weights.read_base`."""
    stored, _ = weights.read(file)
    shape = gpt.Shape.of(recipe)
    if {name: tensor.shape for name, tensor in stored.items()} != gpt.shapes(shape):
        raise Refused(Refusal.WRONG_MODEL, f"{file} does not hold a model of the recipe that its run had")
    given: weights.Tensors = {}
    if recipe.beside:
        if base is None:
            raise Refused(Refusal.NOT_SET_UP, f"--base FILE: {file} stands beside the weights {start[:12]}…")
        given, _ = weights.read_base(base, start)
    model = gpt.GPT(shape)
    weights.put({**given, **stored}, model)
    return model


def _digest(path: Path) -> str:
    """SHA-256 of a file. Raises `Refused(NOT_FOUND)`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"{path}: {error.strerror}") from None


def _prompts(path: Path | None, recipe: Recipe, cut: tokenizer.Tokenizer | None) -> tokenizer.Tokens:
    """What documents begin behind: a run of these tokens, half a context long; without a file `START`."""
    text = np.frombuffer(START, np.uint8) if path is None else data.load(f"{data.FILE}{path}")
    tokens = corpus.in_tokens(text, 0, cut).tokens
    if path is not None and tokens.size < recipe.context:
        cause = f"--prompts {path}: it has {tokens.size} tokens, and a sequence takes {recipe.context}"
        raise Refused(Refusal.NO_TEXT, cause)
    return tokens


@torch.no_grad()
def sampled(
    model: gpt.GPT,
    prompts: tokenizer.Tokens,
    context: int,
    temperature: float,
    random: np.random.Generator,
    cut: tokenizer.Tokenizer | None = None,
) -> Iterator[bytes]:
    """A batch of documents, each the continuation of a prompt, which is not part of it.

    A token is drawn by the probabilities that the logits / temperature say. Where the context is full, a document goes
    on behind its last half.
    """
    half = max(1, context // 2)
    starts = random.integers(0, max(1, prompts.size - half + 1), TOGETHER)
    known = corpus.windows(prompts, starts, min(half, prompts.size))
    written = np.empty((TOGETHER, 0), np.int64)
    past, coming = [list[torch.Tensor]() for _ in range(model.depth)], known
    while written.shape[1] < DOCUMENT:
        logits = model(torch.from_numpy(coming), past)[0][:, -1, : len(cut.tokens) if cut else None]
        warm = logits.double().numpy() / temperature
        likely = np.exp(warm - warm.max(-1, keepdims=True)).cumsum(-1)
        drawn = random.random((TOGETHER, 1)) * likely[:, -1:]
        coming = (likely > drawn).argmax(-1)[:, None]
        known, written = (np.concatenate([each, coming], 1) for each in (known, written))
        if past[0][0].shape[2] == context:
            past, coming = [[] for _ in past], known[:, -half:]
    for each in written:
        yield each.astype(np.uint8).tobytes() if cut is None else cut.text(each.tolist())


def chosen(text: tokenizer.Text) -> Windows:
    """The hashes of the windows that are looked at."""
    found = hashes(text)
    looked_at: Windows = found[found >> CHOSEN == 0]
    return looked_at


def hashes(text: tokenizer.Text) -> Windows:
    """A hash of each window: its bytes, weighed by powers of an odd number modulo 2^64 (Rabin and Karp, 1987), stirred.

    That of twice as many bytes is made of two, so that 64 take six steps. A text that is shorter is one window.
    """
    found = text.astype(np.uint64) + np.uint64(1)
    factor, wide = FACTOR, 1
    while wide < WINDOW and found.size > wide:
        found = found[:-wide] * np.uint64(factor) + found[wide:]
        factor, wide = factor * factor % 2**64, 2 * wide
    found = (found ^ (found >> np.uint64(32))) * np.uint64(FACTOR)
    return found ^ (found >> np.uint64(29))
