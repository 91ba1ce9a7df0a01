"""The coordinator's part of the outer step: checkpoints on its disk, how good each is, and the step to the next one.

Whatever the number of members, memory holds one model, to score with, and a few tensors: the rest is read from the disk
when it is needed.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from shared_models import durable
from shared_models.lm import corpus, gpt, hygiene, models, outer, own, tokenizer, weights
from shared_models.lm.blob import Blob
from shared_models.records.kinds import FIRST, Recipe


class Outer:
    """One run's checkpoints, in one folder by digest, and in another what the step remembers behind each."""

    def __init__(
        self,
        recipe: Recipe,
        rounds: int,
        checkpoints: Path,
        states: Path,
        texts: Path,
        start: str = FIRST,
        frozen: str = FIRST,
        tokenizers: Path = Path(),
        models: Path = Path(),
        processor: str = "cpu",
    ) -> None:
        """`start` is the digest of the weights that the run was given to begin with, `frozen` of those that stand
        beside what is trained; `FIRST` if there are none. Checkpoints are scored on this processor, by PyTorch's name.

        Raises `Refused(NOT_SET_UP)` if there is none such.
        """
        gpt.check_processor(processor)
        self._processor = processor
        self._recipe, self._rounds, self._start, self._frozen = recipe, rounds, start, frozen
        self._checkpoints, self._states, self._texts, self._tokenizers = checkpoints, states, texts, tokenizers
        self._models = models

    @cached_property
    def _model(self) -> models.Model:
        """To score checkpoints with. It has the run's first weights until it does."""
        given = None if self._start == FIRST else self.checkpoint(self._start)
        return models.begun(self._recipe, self._models, given)

    @cached_property
    def _scorer(self) -> models.Model:
        """The same, where scores are computed."""
        return self._model.to(self._processor)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return models.shapes(self._recipe, self._models)

    @cached_property
    def update_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what a member sends: of members' experts its own."""
        return models.sent_shapes(self._recipe, self._models)

    def placed(self, update: weights.Tensors, number: int) -> weights.Tensors:
        """The update of the member with this number in the manifest, as one of the whole checkpoint."""
        return own.placed(update, gpt.Shape.of(self._recipe), number)

    def begin(self) -> tuple[str, str]:
        """The digests of the first checkpoint and of what is remembered then: nothing. Both are kept.

        To be called before anything is scored. Raises `Refused` as `checkpoint`, if weights were given.
        """
        return weights.keep(weights.views(self._model), self._checkpoints), weights.keep({}, self._states)

    def checkpoint(self, digest: str) -> weights.Stored:
        """Raises `Refused`: NO_CHECKPOINT, CORRUPT."""
        return weights.stored(self._checkpoints, digest)

    def whole(self, digest: str) -> tuple[weights.Tensors, dict[str, tuple[int, ...]]]:
        """All that a member needs who has nothing, and its shapes: a checkpoint, and the frozen weights beside it.

        Raises `Refused` as `checkpoint`.
        """
        shape = gpt.Shape.of(self._recipe)
        called = gpt.beside(shape, {name: name for name in gpt.frozen(shape)})
        given = weights.Called(self.checkpoint(self._frozen), called) if called else {}
        shapes = self.shapes | gpt.beside(shape, gpt.frozen(shape))
        return ChainMap(self.checkpoint(digest), given), shapes  # type: ignore[arg-type]

    def loss(self, digest: str) -> float:
        """The held-out loss of a checkpoint, in nats per byte."""
        return held_out_loss(
            self._scorer, self.checkpoint(digest), self._recipe, texts=self._texts, tokenizers=self._tokenizers
        )

    def judge(
        self,
        base: str,
        updates: Mapping[str, weights.Tensors],
        invited: int,
        seed: str,
        ages: Mapping[str, int],
        steps: Mapping[str, int] | None = None,
    ) -> dict[str, hygiene.Judged]:
        """What each of these updates counts (`hygiene.judge`) in a step from a base, by text that the seed draws."""
        drawn = bytes.fromhex(seed)
        scored = held_out(self._recipe, self._texts, self._tokenizers)
        loss = hygiene.hidden_loss(self._scorer, self.checkpoint(base), self._recipe.context, drawn, *scored)
        return hygiene.judge(updates, self._recipe, invited, drawn, loss, ages, steps)

    def step(
        self, number: int, base: str, state: str, updates: Sequence[tuple[int, weights.Tensors]], sent: Path
    ) -> tuple[str, str, Blob]:
        """Round `number`'s step along these (weight, update), in member order, tensor by tensor from disk to disk.

        The digests of the next checkpoint and of what is remembered then, and what is sent of the step, kept at this
        path. Raises `Refused` as `checkpoint`.
        """
        rule = outer.rule(self._recipe, number, self._rounds)
        before, remembered = self.checkpoint(base), weights.stored(self._states, state)
        with (
            weights.writing(self._checkpoints, self.shapes) as after,
            weights.writing(self._states, outer.state_shapes(self.shapes, rule)) as kept,
            durable.writing(sent) as step,
        ):
            for moved in outer.step(before, updates, remembered, rule):
                after.put(moved.name, moved.checkpoint)
                for name, tensor in moved.state.items():
                    kept.put(name, tensor)
                step.write(moved.sent.data)
        return after.digest, kept.digest, Blob(sent, rule.down, self.shapes)


def held_out(recipe: Recipe, texts: Path, tokenizers: Path) -> corpus.Scored:
    """The text that this recipe's checkpoints are scored on. Raises `Refused`, as `corpus.scored_on` and
    `tokenizer.held`.
    """
    cut = tokenizer.held(recipe.tokenizer, recipe.vocabulary, tokenizers)
    return corpus.scored_on(recipe.corpus, texts, recipe.context + 1, cut)


def held_out_loss(
    model: models.Model,
    checkpoint: weights.Tensors,
    recipe: Recipe,
    sequences: int = hygiene.EVALUATED,
    texts: Path = Path(),
    tokenizers: Path = Path(),
) -> float:
    """Mean loss of a checkpoint on the held-out text, in nats per byte; always the same sequences.

    Raises `Refused`, as `held_out`.
    """
    tokens, sizes = held_out(recipe, texts, tokenizers)
    chosen = hygiene.spread(sequences, recipe.context, tokens)
    return hygiene.held_out_loss(model, checkpoint, chosen, sizes)(None)


def first(recipe: Recipe) -> weights.Weights:
    """The checkpoint a run starts from, if it was given none."""
    return weights.of(model(recipe, recipe.seed))


def model(recipe: Recipe, seed: int = 0) -> gpt.GPT:
    return gpt.fresh(gpt.Shape.of(recipe), seed)
