"""Repeating a run's outer steps: from the log and the stored updates to the checkpoints that the coordinator signed.

Nothing of the coordinator's files is believed: the checkpoint, what the step remembers and every update are hashed, and
their digests are those in the log. What the updates then lead to is computed here, and is the next step's base.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from shared_models import durable
from shared_models.folder import TOKENIZERS
from shared_models.lm import codecs, corpus, gpt, hygiene, models, outer, own, tokenizer, weights
from shared_models.lm.blob import Blob
from shared_models.lm.codecs import Decoded
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import FIRST, Manifest, Receipt, RoundClose
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import PIECE_BYTES

BORNE, BORNE_UNATS = 1_000, 100  # What the same arithmetic on another processor may differ by.


Bring = Callable[[int, str], BinaryIO]  # The update of a round's member, to be read and closed; raises `Refused`.


@dataclass(frozen=True, slots=True)
class Logged:
    """What the log says of a run's steps."""

    hash: str  # Of the manifest.
    manifest: Manifest
    closes: tuple[RoundClose, ...]
    updates: Mapping[str, tuple[int, str]]  # From the leaf hash of each receipt to its round and its update's digest.


@dataclass(frozen=True, slots=True)
class Repeated:
    """One step, taken again."""

    round: int
    updates: int
    checkpoint: str
    wrong: str  # What is not as the log says; nothing, if all of it is.


def logged(leaves: Iterable[bytes], run: str) -> Logged:
    """What these entries say of a run; they have been audited. Raises `Refused(UNKNOWN_RUN)`."""
    manifest, hashed, closes, updates = None, "", list[RoundClose](), dict[str, tuple[int, str]]()
    for leaf in leaves:
        record = entries.peek(leaf)
        if isinstance(record, Manifest) and record.run == run:
            manifest, hashed = record, merkle.leaf_hash(leaf).hex()
        elif isinstance(record, RoundClose) and record.run == run:
            closes.append(record)
        elif isinstance(record, Receipt) and record.run == run:
            updates[merkle.leaf_hash(leaf).hex()] = record.round, record.update
    if manifest is None:
        raise Refused(Refusal.UNKNOWN_RUN, f"the log holds no manifest of a run {run}")
    return Logged(hashed, manifest, tuple(closes), updates)


def repeat(
    said: Logged, files: Path, only: int | None = None, bring: Bring | None = None, read: Path = Path()
) -> Iterator[Repeated]:
    """Every step of the run again, or only that of one round, from the files in a coordinator's folder or a copy of it.

    What is missing there is brought, or made: updates, the run's first checkpoint, and what each step leads to. The
    code of a model that is not ours is no such file: it runs here, and is taken from the folder of what was `read`.
    Raises `Refused`: WRONG_ROUND if the log closes no such round.
    """
    if only is not None and not 1 <= only <= len(said.closes):
        raise Refused(Refusal.WRONG_ROUND, f"round {only}: the log closes {len(said.closes)} rounds of this run")
    if bring is not None:
        _begin(said.manifest, files / "checkpoints", read)
    state = weights.NOTHING
    for close in said.closes:
        if only in (None, close.round):
            try:
                wrong = _wrong(said, close, state, files, bring, read)
            except Refused as refused:
                wrong = str(refused)
            updates = 0 if close.seed == FIRST else len(close.included) + len(close.late)
            yield Repeated(close.round, updates, close.checkpoint, wrong)
        state = close.state


def _begin(manifest: Manifest, checkpoints: Path, read: Path) -> None:
    """See that the checkpoint with which a run begins is there, if it can be made. Raises `Refused` as `stored`,
    and as `models.made`.
    """
    if not (checkpoints / f"{manifest.base}.safetensors").is_file():
        given = None if manifest.start == FIRST else weights.stored(checkpoints, manifest.start)
        model = models.begun(manifest.recipe, read, given)
        weights.keep(weights.views(model), checkpoints)


def _bring(bring: Bring, round_: int, member: str, path: Path, size: int) -> None:
    """Put this update, of so many bytes, at this path. Raises `Refused`: as `bring`; WRONG_SHAPE if it has others."""
    durable.make_folder(path.parent)
    with bring(round_, member) as reply, durable.writing(path) as file:
        try:
            while (here := file.tell()) <= size and (piece := reply.read(min(PIECE_BYTES, size + 1 - here))):
                file.write(piece)
        except (HTTPException, OSError) as error:
            raise Refused(Refusal.UNREACHABLE, f"the update of {member}: {error}") from None
        if here != size:
            raise Refused(Refusal.WRONG_SHAPE, f"what is shown of {member} has not {size:,} bytes")


def _wrong(said: Logged, close: RoundClose, state: str, files: Path, bring: Bring | None, read: Path) -> str:
    """What of a round's step is not as its close says. Raises `Refused` for a file that is missing, or another one.

    Of a round that was handed over the log's rules say where it leads; what is remembered then stays, or is nothing.
    """
    if close.seed == FIRST:
        return "" if close.state in (state, weights.NOTHING) else "remembers what no step has left"
    run, recipe = files / "runs" / said.hash, said.manifest.recipe
    base = weights.stored(files / "checkpoints", close.base)
    before = weights.stored(run / "state", state) if state != weights.NOTHING else weights.Weights()
    counted = (*close.included, *close.late)
    if len(counted) < said.manifest.quorum:
        return "" if (close.checkpoint, close.state) == (close.base, state) else "a step without a quorum"
    shape, updates = gpt.Shape.of(recipe), list[tuple[int, weights.Tensors]]()
    shapes = models.sent_shapes(recipe, read)
    for each in counted:
        of, meant = said.updates[each.receipt]
        path = run / f"{of:08}" / f"{each.member}.update"
        missing = not path.is_file()
        if missing and bring is not None:
            _bring(bring, of, each.member, path, codecs.total(recipe.up, shapes))
        update = Decoded(Blob(path, recipe.up, shapes))
        try:
            found = weights.digest(update)
        except FileNotFoundError as error:
            raise Refused(Refusal.NOT_FOUND, f"the update of {each.member}: {error}") from None
        if found != meant:
            if missing:
                path.unlink()  # Another one may be shown yet.
            raise Refused(Refusal.WRONG_DIGEST, f"{each.member} sent {meant[:12]}…, not {found[:12]}…")
        number = said.manifest.members.index(each.member)
        updates.append((each.weight, own.placed(update, shape, number)))
    rule = outer.rule(recipe, close.round, said.manifest.rounds)
    with ExitStack() as kept:
        checkpoint: weights.Hash | weights.Writer = weights.Hash()
        after: weights.Hash | weights.Writer = weights.Hash()
        if bring is not None:
            whole = models.shapes(recipe, read)
            checkpoint = kept.enter_context(weights.writing(files / "checkpoints", whole))
            after = kept.enter_context(weights.writing(run / "state", outer.state_shapes(whole, rule)))
        for moved in outer.step(base, updates, before, rule):
            checkpoint.put(moved.name, moved.checkpoint)
            for name in sorted(moved.state):
                after.put(name, moved.state[name])
    led = {"checkpoint": (close.checkpoint, checkpoint.digest), "state": (close.state, after.digest)}
    for what, (right, came) in led.items():
        if right != came:
            return f"the log has {what} {right[:12]}…, the updates lead to {came[:12]}…"
    named = {each.receipt: update for each, (_, update) in zip(counted, updates, strict=True)}
    return _misjudged(said, close, base, named, files, read)


def _misjudged(
    said: Logged,
    close: RoundClose,
    base: weights.Tensors,
    updates: Mapping[str, weights.Tensors],
    files: Path,
    read: Path,
) -> str:
    """What of these updates is weighed or scored otherwise by the rule, or of the checkpoint that they lead to, and of
    the run's first one; what another processor may compute is borne.
    """
    recipe, seed = said.manifest.recipe, bytes.fromhex(close.seed)
    invited = len(close.included) + len(close.excluded) + len(close.late)
    ages = {each.receipt: close.round - said.updates[each.receipt][0] for each in close.late}
    cut = tokenizer.held(recipe.tokenizer, recipe.vocabulary, files / TOKENIZERS)
    scored = corpus.scored_on(recipe.corpus, files / "texts", recipe.context + 1, cut)
    beside = weights.stored(files / "checkpoints", said.manifest.start) if recipe.beside else None
    model = models.made(recipe, read) if beside is None else models.begun(recipe, read, beside)
    loss = hygiene.hidden_loss(model, base, recipe.context, seed, *scored)
    counted = (*close.included, *close.late)
    trained = {each.receipt: said.manifest.recipe_of(each.member).inner_steps for each in counted}
    found = hygiene.judge(updates, recipe, invited, seed, loss, ages, trained)
    for each in counted:
        right = found[each.receipt]
        if right.note != each.judged or abs(right.weight - each.weight) > BORNE:
            return (
                f"{each.member} counts {each.weight} billionths, as {each.judged};"
                f" by the rule it counts {right.weight}, as {right.note}"
            )
        if abs(right.gain_unats - each.gain_unats) > BORNE_UNATS:
            return f"{each.member} gains {each.gain_unats} unats in the log, and {right.gain_unats} here"
    tokens, sizes = scored
    chosen = hygiene.spread(hygiene.EVALUATED, recipe.context, tokens)
    begun = [(close.base, said.manifest.loss_unats)] if close.round == 1 else []
    for digest, unats in (*begun, (close.checkpoint, close.loss_unats)):
        checkpoint = weights.stored(files / "checkpoints", digest)
        here = round(1e6 * hygiene.held_out_loss(model, checkpoint, chosen, sizes)(None))
        if abs(here - unats) > BORNE_UNATS:
            return f"checkpoint {digest[:12]}… has a loss of {unats} unats in the log, and {here} here"
    return ""
