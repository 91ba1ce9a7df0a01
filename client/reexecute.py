"""Training again: a member shows how it came to its update, and whoever has the text does a part of it once more.

An opening is a line of canonical JSON and tensors: all that a receipt commits to, and the states at both ends of one
segment. What is not what the receipt was signed for, anybody could have written: that is refused, and says nothing of
the member. What was signed for and contradicts itself, or the text, or the steps, is held against it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from client import begun, data, hardest
from client.begun import Begun
from client.data import Batches, Picked, Sample, Shard, Slice
from client.team import at_work
from client.training import ONE, Machine, build
from shared_models.lm import codecs, gpt, own, weights
from shared_models.lm.tokenizer import Tokens
from shared_models.records import canonical
from shared_models.records.canonical import Count, Hash, Line
from shared_models.records.kinds import FIRST, Manifest, Receipt, Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import TOLERANCE_PPM, Point, Trajectory, committed, ends

State = tuple[weights.Weights, weights.Weights]  # Weights, and the optimiser's memory.
MOST_THREADS = 256  # Whatever a receipt says.
FARTHEST_PPM = 10**12  # What is farther, or not a number, counts as this.
NOTHING = weights.digest({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a member shows of one receipt, beside the tensors."""

    receipt: Hash
    segment: Count  # From 0.
    text: Line  # Which text it trained on, as client.data.named says it.
    salt: Hash  # Of the receipt's commitment to the data.
    trajectory: Trajectory
    before: tuple[Trajectory, ...]  # That of the member's receipt before this one, if it carried something over.
    sample: tuple[Sample, ...]  # What its synthetic text says of itself, if it has one,
    slice: tuple[Slice, ...]  # and what it had trained on when the round ended, if there is one of it.
    picked: tuple[Count, ...]  # By the recipe's choice of the hardest, step by step: `client.hardest`.


class Found(NamedTuple):
    """What came of repeating a segment."""

    verdict: str  # As an audit.result says it.
    distance_ppm: int
    why: str


# The member's side.


def show(
    kept: tuple[Begun, Mapping[str, weights.Weights]],
    receipt: Receipt,
    hashed: str,
    manifest: Manifest,
    *,
    segment: int,
    text: str,
    salt: str,
    machine: Machine = ONE,
    cut: data.Kept = data.NOWHERE,
    synthetic: Path | None = None,
) -> bytes:
    """The opening of one segment: the round is trained again, from what it began with.

    It is trained by this machine, as the receipt was, on tokens that are `cut` here. Raises `Refused(WRONG_OPENING)` if
    that leads elsewhere than the receipt says: the disk or the build has changed; or as `team.at_work` and
    `data.shard`.
    """
    said, groups = kept
    recipe, base, memory = manifest.recipe_of(receipt.member), groups["base"], groups.get("memory", {})
    frozen = groups.get("frozen", {})
    with _threads(receipt.build):
        points, states = list[Point](), list[State]()
        turn = _turn(receipt, manifest)
        start = _mine(base, receipt, manifest) | gpt.beside(gpt.Shape.of(recipe), frozen)
        tokens = data.shard(text, synthetic, recipe, cut)
        picked: Picked = ()
        if recipe.candidates > 1:
            picked = [rows for rows, _ in hardest.picked(start, recipe, tokens, machine, **turn)]
        with at_work(start, recipe, tokens, memory, machine=machine, picked=picked, **turn) as training:
            for end in ends(recipe):
                for _ in training.until(end):
                    pass
                points.append(training.point())
                states.append(training.state() if len(states) in (segment, segment + 1) else ({}, {}))
            trained, _ = training.state()
        here = build(recipe.precision, machine, recipe.inner)
    promised, unsent = said.trajectory, groups.get("unsent", {})
    right = tuple(points) == promised.points and weights.digest(unsent) == promised.unsent_before
    if not right or promised.root != receipt.trajectory:
        raise Refused(
            Refusal.WRONG_OPENING,
            f"training round {receipt.round} again leads elsewhere; the receipt's was {receipt.build}, this is {here}",
        )
    opening = Opening(
        receipt=hashed,
        segment=segment,
        text=data.named(text),
        salt=salt,
        trajectory=said.trajectory,
        before=said.before,
        sample=() if synthetic is None else (data.sampled(synthetic),),
        slice=_slice(tokens, picked, receipt, manifest),
        picked=tuple(chain(*picked)),
    )
    return write(opening, base, unsent, states[segment], states[segment + 1], trained, frozen)


def write(
    opening: Opening,
    base: weights.Weights,
    unsent: weights.Weights,
    start: State,
    end: State,
    trained: weights.Weights,
    frozen: weights.Weights | None = None,
) -> bytes:
    """An opening as it travels: its line, then the tensors."""
    tensors = begun.pack(
        base=base,
        unsent=unsent,
        start=start[0],
        start_memory=start[1],
        end=end[0],
        end_memory=end[1],
        trained=trained,
        frozen=frozen or {},
    )
    return canonical.encode(opening) + b"\n" + tensors


# The auditor's side.


def read(shown: bytes) -> Opening:
    """What an opening says, beside the tensors. Raises `Refused`: what `canonical.decode` does."""
    return canonical.decode(Opening, shown.partition(b"\n")[0])


def replay(
    shown: bytes,
    receipt: Receipt,
    hashed: str,
    manifest: Manifest,
    earlier: Receipt | None,
    text: Path | None = None,
    machine: Machine = ONE,
    cut: data.Kept = data.NOWHERE,
    synthetic: Path | None = None,
) -> Found:
    """What an opening of this receipt shows. `earlier` is the member's newest receipt of this run before it.

    `text` is the file with the member's text, where that lies on no machine but its own and those it entrusts it to;
    and `synthetic` the one with what it sampled. `machine` is how the auditor's computes: bits are the same where it
    does as the receipt's build did.

    First whether it is the member's word, for what is not is refused:
    1. It is about this receipt, and its points and remainders lead to the root that the receipt was signed with.
    2. Its text and salt are those that the receipt has committed to, and so is how much of what was trained on is
       synthetic, of which sample, and what was picked.
    3. Its tensors are those that the points name, and the frozen ones those that the manifest does.
    Then what was signed, and is held against it:
    4. The points are where the recipe puts them; training began from the round's base, and with what the receipt
       before had ended with, or with nothing.
    5. Every point names the tokens that the member's texts give in the recipe's order: no fewer, no others; and so many
       of them as it says are synthetic.
    6. The update is what training came to and what was left unsent before, by the recipe's codec.
    7. In the segment's steps the hardest candidates were picked.
    8. These steps, done again, lead to the state that was signed: to the bit, or with another build closely.

    Raises `Refused`: MALFORMED, WRONG_OPENING; NOT_FOUND without a text that would be needed; OTHER_MACHINE where the
    steps say nothing here (`_check_machines`).
    """
    line, groups = begun.split(shown)
    opening = canonical.decode(Opening, line)
    recipe, trajectory = manifest.recipe_of(receipt.member), opening.trajectory
    if opening.receipt != hashed or trajectory.root != receipt.trajectory:
        raise Refused(Refusal.WRONG_OPENING, f"it does not lead to the trajectory of receipt {hashed[:12]}…")
    if not trajectory.points or committed(opening.salt, trajectory.points[-1].data) != receipt.data:
        raise Refused(Refusal.WRONG_OPENING, "its salt does not open the receipt's commitment to the data")
    _check_slice(opening)
    segments = len(trajectory.points) - 1
    if opening.segment >= segments:
        raise Refused(Refusal.WRONG_OPENING, f"segment {opening.segment} of {segments}")
    _check_tensors(opening, groups, receipt, manifest)
    mine = _mine(groups.get("base", {}), receipt, manifest)
    began = weights.digest(mine) if recipe.member_experts else receipt.base
    if why := _contradiction(opening, began, receipt, manifest, earlier):
        return Found("differs", FARTHEST_PPM, why)
    tokens = _texts(opening, recipe, text, synthetic, cut)
    picked = _picked(opening, receipt, manifest)
    if picked is None:
        return Found("differs", FARTHEST_PPM, "what it picked is none of the recipe's candidates, or not so many")
    if why := _other_tokens(opening, receipt, manifest, tokens, picked):
        return Found("differs", FARTHEST_PPM, why)
    if why := _other_update(mine, groups, receipt, recipe, trajectory):
        return Found("differs", FARTHEST_PPM, why)
    with _threads(receipt.build):
        _check_machines(receipt.build, build(recipe.precision, machine, recipe.inner))
        return _again(opening, mine, groups, receipt, manifest, tokens, picked, machine)


def _check_machines(theirs: str, ours: str) -> None:
    """In bf16 a GPU and anything else lie farther apart than the tolerance, honest as they are: docs/experiments.md.

    Raises `Refused(OTHER_MACHINE)`.
    """
    kernels = {build.split("/")[1] for build in (theirs, ours)}
    if theirs != ours and "cuda" in kernels and "bfloat16" in theirs:
        raise Refused(Refusal.OTHER_MACHINE, f"it was trained by {theirs}, and this is {ours}")


def _turn(receipt: Receipt, manifest: Manifest) -> dict[str, Any]:
    """Whose round it is, and of how many, as all that draws its batches is told."""
    return {"member": receipt.member, "round_": receipt.round, "rounds": manifest.rounds}


def _mine(base: weights.Weights, receipt: Receipt, manifest: Manifest) -> weights.Weights:
    """What of the round's base the member trains on: all of it, or of members' experts its own."""
    return own.taken(base, gpt.Shape.of(manifest.recipe), manifest.members.index(receipt.member))


def _check_tensors(
    opening: Opening, groups: Mapping[str, weights.Weights], receipt: Receipt, manifest: Manifest
) -> None:
    """Raises `Refused(WRONG_OPENING)` for the first group that is not what was named."""
    points = opening.trajectory.points
    start, end = points[opening.segment : opening.segment + 2]
    for group, named in (
        ("base", receipt.base if manifest.recipe.member_experts else points[0].weights),
        ("unsent", opening.trajectory.unsent_before),
        ("start", start.weights),
        ("start_memory", start.memory),
        ("end", end.weights),
        ("end_memory", end.memory),
        ("trained", points[-1].weights),
        ("frozen", NOTHING if manifest.frozen == FIRST else manifest.frozen),
    ):
        if weights.digest(groups.get(group, {})) != named:
            raise Refused(Refusal.WRONG_OPENING, f"its tensors {group} are not {named[:12]}…, which was named")


def _check_slice(opening: Opening) -> None:
    """Raises `Refused(WRONG_OPENING)` if it says another share of synthetic text than it was signed for, another
    sample, or that other sequences were picked.
    """
    samples = [said.sample for said in opening.slice if said.sample != FIRST]
    picks = [said.picked for said in opening.slice if said.picked != FIRST]
    if len(opening.slice) > 1 or len(opening.sample) != len(samples) or (opening.picked and not picks):
        raise Refused(Refusal.WRONG_OPENING, "it has one slice, and the sample and what was picked of that, or neither")
    for said in opening.slice:
        if said.hash != opening.trajectory.points[-1].data:
            cause = f"{said.synthetic} of {said.trained} synthetic tokens is not what the receipt has committed to"
            raise Refused(Refusal.WRONG_OPENING, cause)
    for sample, named in zip(opening.sample, samples, strict=True):
        if sample.hash != named:
            raise Refused(Refusal.WRONG_OPENING, f"its sample is not {named[:12]}…, which was named")
    if picks and data.digest_of(opening.picked) != picks[0]:
        raise Refused(Refusal.WRONG_OPENING, f"what it picked is not {picks[0][:12]}…, which was named")


def _picked(opening: Opening, receipt: Receipt, manifest: Manifest) -> Picked | None:
    """What it picked, step by step; None if it can have been no choice of this recipe's.

    Raises `Refused(WRONG_OPENING)` if it says nothing of it.
    """
    if manifest.recipe.candidates == 1:
        return () if not opening.picked else None
    if not opening.picked:
        raise Refused(Refusal.WRONG_OPENING, "it does not say what was picked")
    return hardest.by_step(opening.picked, manifest.recipe_of(receipt.member), receipt.round, manifest.rounds)


def _slice(tokens: Tokens | Shard, picked: Picked, receipt: Receipt, manifest: Manifest) -> tuple[Slice, ...]:
    """What a round of all these steps trains on, if there is one of it."""
    if not picked and (not isinstance(tokens, Shard) or tokens.synthetic is None):
        return ()  # It would be drawn, and cut anew, for nothing.
    recipe = manifest.recipe_of(receipt.member)
    batches = Batches(tokens, recipe, picked, **_turn(receipt, manifest))
    for _ in range(recipe.inner_steps):
        batches.draw()
    return () if batches.slice is None else (batches.slice,)


def _contradiction(opening: Opening, began: str, receipt: Receipt, manifest: Manifest, earlier: Receipt | None) -> str:
    """What in the trajectory cannot be, whatever was trained, which had to begin from `began`; nothing if there is
    nothing.
    """
    trajectory = opening.trajectory
    first = trajectory.points[0]
    if tuple(point.step for point in trajectory.points) != ends(manifest.recipe_of(receipt.member)):
        return "its points are not where the recipe puts them"
    if first.weights != began:
        return f"it began from {first.weights[:12]}…, and not from the round's base"
    if {first.memory, trajectory.unsent_before} == {NOTHING}:
        return ""
    if earlier is None or len(opening.before) != 1 or opening.before[0].root != earlier.trajectory:
        return "it carried something over, and not from the member's receipt before this one"
    (before,) = opening.before
    if trajectory.unsent_before not in (NOTHING, before.unsent):
        return "it added to its update what no round had left unsent"
    if first.memory not in (NOTHING, before.points[-1].memory) or (
        first.memory != NOTHING and earlier.round < receipt.round - 1 - manifest.late
    ):
        return "its optimiser remembered what it had not ended the round before with"
    return ""


def _text(named: str, recipe: Recipe, file: Path | None, cut: data.Kept) -> Tokens:
    """The text that an opening names. The name is the member's word: it opens no file here."""
    if named.startswith(data.FILE):
        raise Refused(Refusal.MALFORMED, f"the text {named} is a file; its name for others is its SHA-256")
    if named.startswith(data.DIGEST) and file is None:
        raise Refused(
            Refusal.NOT_FOUND, f"the text {named} is the member's own: --text FILE, if it is entrusted to you"
        )
    spec = f"{data.FILE}{file}" if named.startswith(data.DIGEST) else named
    try:
        found, _ = data.named(spec), data.load(spec)
    except Refused as refused:
        raise Refused(Refusal.MALFORMED, refused.detail) from None
    if found != named:
        raise Refused(Refusal.WRONG_OPENING, f"{file} is {found}, the member's text {named}")
    tokens = data.in_tokens(spec, recipe, cut)
    if tokens.size <= recipe.context + 1:
        raise Refused(Refusal.MALFORMED, f"the text {spec} is shorter than a sequence")
    return tokens


def _texts(
    opening: Opening, recipe: Recipe, text: Path | None, synthetic: Path | None, cut: data.Kept
) -> Tokens | Shard:
    """The texts that an opening names. Raises `Refused`, as `_text`; NOT_FOUND without the synthetic one, or for
    another.
    """
    own, anew = _text(opening.text, recipe, text, cut), data.anew(recipe, cut)
    for sample in opening.sample:
        named = f"the synthetic text {data.DIGEST}{sample.text}"
        if synthetic is None:
            raise Refused(
                Refusal.NOT_FOUND, f"{named} is the member's own: --synthetic FILE, if it is entrusted to you"
            )
        return Shard(own, _text(f"{data.DIGEST}{sample.text}", recipe, synthetic, cut), sample.hash, anew)
    return Shard(own, cut=anew)


def _other_tokens(
    opening: Opening, receipt: Receipt, manifest: Manifest, tokens: Tokens | Shard, picked: Picked
) -> str:
    """Raises `Refused(WRONG_OPENING)` if no point fits: then it may be the text that is another one here."""
    slices = _slice(tokens, picked, receipt, manifest)
    if len(opening.slice) != len(slices):
        return "it was signed that something was sampled or picked, and by its texts and the recipe nothing is"
    for said, right in zip(opening.slice, slices, strict=True):
        if said != right and said.tokens == right.tokens:
            was = f"{right.synthetic} of {right.trained} tokens are synthetic"
            return f"by its texts {was}, and it was signed that {said.synthetic} of {said.trained} are"
    batches = Batches(tokens, manifest.recipe_of(receipt.member), picked, **_turn(receipt, manifest))
    fit, done = [], 0
    for point in opening.trajectory.points:
        for _ in range(done, point.step):
            batches.draw()
        done = point.step
        fit.append(batches.digest == point.data)
    if not any(fit[1:]):
        raise Refused(
            Refusal.WRONG_OPENING, f"the text {opening.text} as it is here gives none of the tokens that were signed"
        )
    if all(fit):
        return ""
    return f"by step {opening.trajectory.points[fit.index(False)].step} it had other tokens than {opening.text} gives"


def _other_update(
    base: weights.Weights,
    groups: Mapping[str, weights.Weights],
    receipt: Receipt,
    recipe: Recipe,
    trajectory: Trajectory,
) -> str:
    trained, unsent = (groups.get(name, {}) for name in ("trained", "unsent"))
    if codecs.shapes(trained) != codecs.shapes(base) or (unsent and codecs.shapes(unsent) != codecs.shapes(base)):
        return "its weights are not of the model's shapes"
    try:
        sent = codecs.send(recipe.up, weights.minus(trained, base), unsent)
    except Refused as refused:
        return f"what it trained cannot have been sent: {refused}"
    if weights.digest(sent.values) != receipt.update:
        return "its update is not what its training came to"
    return "" if weights.digest(sent.unsent) == trajectory.unsent else "it left something else unsent than it says"


def _again(
    opening: Opening,
    base: weights.Weights,
    groups: Mapping[str, weights.Weights],
    receipt: Receipt,
    manifest: Manifest,
    tokens: Tokens | Shard,
    picked: Picked,
    machine: Machine,
) -> Found:
    start, end = (opening.trajectory.points[at] for at in (opening.segment, opening.segment + 1))
    before = groups.get("start", {}), groups.get("start_memory", {})
    recipe = manifest.recipe_of(receipt.member)
    beside = gpt.beside(gpt.Shape.of(recipe), groups.get("frozen", {}))
    theirs = groups.get("end", {}), groups.get("end_memory", {})
    turn = _turn(receipt, manifest)
    if picked:
        about = base | beside, recipe, tokens, machine, picked
        if why := hardest.left_out(*about, start.step, end.step, **turn):
            return Found("differs", FARTHEST_PPM, why)
    turn |= {"step": start.step, "picked": picked}
    with at_work(base | beside, recipe, tokens, {}, machine=machine, **turn) as model:
        for _ in model.until(start.step + 1):
            pass
        shapes = [codecs.shapes(each) for each in model.state()]
    if codecs.shapes(before[0]) != shapes[0] or (before[1] and codecs.shapes(before[1]) != shapes[1]):
        return Found("differs", FARTHEST_PPM, "the state it began the segment with is none of this model")
    if not all(np.isfinite(tensor).all() for each in before for tensor in each.values()):
        return Found("differs", FARTHEST_PPM, "the state it began the segment with is not finite")
    with at_work(before[0] | beside, recipe, tokens, before[1], machine=machine, **turn) as training:
        for _ in training.until(end.step):
            pass
        reached, ours = training.point(), training.state()
    if reached == end:
        return Found("matches", 0, "the same bits")
    distance = distance_ppm(before, ours, theirs)
    here = build(recipe.precision, machine, recipe.inner)
    if receipt.build != here and distance <= TOLERANCE_PPM:
        return Found("close", distance, f"its build is {receipt.build}, this is {here}")
    why = "the same build, other bits" if receipt.build == here else f"farther than {TOLERANCE_PPM} ppm"
    return Found("differs", distance, f"steps {start.step} to {end.step} lead elsewhere: {why}")


def distance_ppm(before: State, ours: State, theirs: State) -> int:
    """How far two outcomes of one segment lie apart, in millionths of the change from its beginning, rounded up.

    The largest over the weights and each kind of memory, each as one vector: the L2 norm of the difference over that of
    our change, so that what is small beside the rest is not lost in it. At least 1; `FARTHEST_PPM` for what has no
    such distance: other shapes, something that is not a number, a difference where nothing should have changed.
    """
    if [*map(codecs.shapes, ours)] != [*map(codecs.shapes, theirs)]:
        return FARTHEST_PPM
    apart, moved = dict[str, float](), dict[str, float]()
    for then, mine, other in zip(before, ours, theirs, strict=True):
        for name, tensor in mine.items():
            kind = name.partition("/")[2]
            exact = tensor.astype(np.float64)
            apart[kind] = apart.get(kind, 0.0) + float(np.sum((other[name] - exact) ** 2))
            moved[kind] = moved.get(kind, 0.0) + float(np.sum((exact - then.get(name, np.float32(0))) ** 2))
    worst = 1.0
    for kind, square in apart.items():
        if not math.isfinite(square) or (square and not moved[kind]):
            return FARTHEST_PPM
        worst = max(worst, 1e6 * math.sqrt(square / moved[kind])) if square else worst
    return min(FARTHEST_PPM, math.ceil(worst))


@contextmanager
def _threads(built: str) -> Iterator[None]:
    """Compute with as many threads as this build did, in all its processes together."""
    before, asked = torch.get_num_threads(), re.split("[stx]", built.split("/")[2])
    known = all(each.isdecimal() for each in asked)
    torch.set_num_threads(min(max(1, math.prod(map(int, asked))), MOST_THREADS) if known else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
