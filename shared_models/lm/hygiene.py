"""What each update of a round counts: clipped to the round's scale, scored on hidden text, compared with the others.

Nobody is accused and nobody goes unpaid by this: it decides only what moves the model. All that it decides ends up in
one integer for each update, its weight, which stands in the log; so the step can be repeated without any of it.

Every rule that looks at whole updates is a function of their Gram matrix, the product of each with each: lengths,
angles, distances, and all that stays in their span. So updates are read one or two tensors at a time, and memory does
not grow with their number.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shared_models.lm import weights
from shared_models.lm.corpus import windows
from shared_models.lm.models import Model
from shared_models.lm.outer import Plan
from shared_models.lm.robust import WHOLE, Tensor
from shared_models.lm.tokenizer import Tokens

Update = Mapping[str, Tensor]
Matrix = npt.NDArray[np.float64]
Loss = Callable[[Update | None], float]

# What honest members and liars measured against each of these stands in docs/experiments.md.
EVALUATED = 64  # Held-out sequences that a checkpoint is scored on, always the same,
SCORED = 16  # and that the updates of a round are, others in each.
CLIP = 1.5  # No update counts as longer than so many times the median one.
AGREES = 0.1  # Who points along the others less than this part of what the median one does is against them.
SURE_NATS, FAR_NATS = 0.02, 0.5  # Set aside is who is against them and so much worse than the median; or so much worse.
ALIKE = (0.9, 0.5)  # Two updates of at least this cosine, or that share so many of their largest values,
APART = 0.3  # and are nearer to one another than this part of the median distance, are copies.
SAME = 1 - 1e-6  # Or at least as alike as this.
SAMPLED, CHUNK, ONE_IN = 4, 4096, 64  # So many chunks of a tensor are searched for their largest, one value in so many.
CENTRINGS = 5  # Steps of centred clipping.
MOST_NATS = 1000.0  # A gain is at most this, whichever way; a loss that is not finite is a harm of as much.


@dataclass(frozen=True, slots=True)
class Judged:
    """What one update counts, and why."""

    weight: int  # Its coefficient in the round's step, in billionths; those of a round add up to at most one.
    gain_unats: int  # Loss of the base minus that of base + this update as clipped, in millionths of a nat per byte.
    note: str  # `whole`; or why it counts less: `empty`, `harmful`, `outlier`, `copied`, `clipped`, `capped`, `stale`.


def judge(
    updates: Mapping[str, Update],
    recipe: Plan,
    invited: int,
    seed: bytes,
    loss: Loss,
    ages: Mapping[str, int] | None = None,
    steps: Mapping[str, int] | None = None,
) -> dict[str, Judged]:
    """What each of these updates counts, by member, in the order given; one at least counts if not all are empty.

    1. `empty`: all zeros. It counts nothing, so that it does not slow down the others.
    2. `clipped`: longer than CLIP times the median; of an even number, the lower one. It counts as that long.
    3. `harmful`: with it alone the held-out loss is clearly worse than with the median one, while it points away from
       the others; or is worse by far. It counts nothing. The better half of a round is never harmful.
    4. `copied`: k updates that are nearly one count as one, each a k-th of it. Who copied from whom cannot be known
       here, so nobody is taken for the thief; and it never pays to copy.
    5. The recipe's rule shares out the step: in equal parts, by `centred` clipping, or all to one, by `krum`, to which
       the others are an `outlier` each. `trimmed` and `median` begin from equal parts (`robust.combine`).
    6. `capped`: none counts more than the recipe's `influence`, or than an equal share of all who were invited,
       whichever is more. But for `krum`, whose point is that one counts.
    7. `stale`: of an earlier round, so many steps (`ages`) behind. It counts 1/√(1 + steps) of that (arXiv:2106.06639).

    Who trained other `steps` than others is held against what these would have come to with as many: who was asked for
    fewer is not taken for one that did nothing, nor who was asked for more for one that is too loud. By members; None:
    all trained as many.

    Of members' experts each update moves its own, and none is in another's way. So it counts whole, or nothing: it is
    `empty`, or `harmful` by far, beside the experts of the others as they are.

    `loss(update)` is the held-out loss of base + update, and of the base for None, in nats per byte (`held_out_loss`).
    `seed` says where copies are looked for: who knows it before could make a copy differ there, and nowhere else.
    """
    if recipe.member_experts:
        return _apart(updates, loss)
    products = gram(updates)
    lengths = np.sqrt(products.diagonal())
    some = lengths > 0
    trained = np.array([steps[name] if steps else 1 for name in updates], float)
    limits = CLIP * usual_lengths(lengths, trained, np.flatnonzero(some))
    scales = np.minimum(1.0, np.divide(limits, lengths, out=np.zeros_like(lengths), where=some))
    gains = _gains(updates, scales, loss)
    cosines = products / np.outer(*2 * [np.where(some, lengths, 1.0)])

    live = harmless(cosines, gains, np.flatnonzero(some), trained)
    marks = [largest(each, seed) for number, each in enumerate(updates.values()) if number in live]
    groups = copies(cosines[np.ix_(live, live)], overlaps(marks), trained[live])
    shares = np.zeros(len(lengths))
    if live:
        paced = scales * trained.max() / trained  # What a rule compares is as long as with the most steps.
        clipped = products * np.outer(paced, paced)
        shares[live] = RULES[recipe.aggregate](clipped[np.ix_(live, live)], groups)
    cap = 1.0 if recipe.aggregate == "krum" else max(float(recipe.influence), 1 / invited)

    def age(name: str) -> int:
        return ages.get(name, 0) if ages else 0

    copied = {live[each] for group in groups if len(group) > 1 for each in group}
    judged = {}
    for number, name in enumerate(updates):
        if not some[number]:
            note = "empty"
        elif number not in live:
            note = "harmful"
        elif not shares[number]:
            note = "outlier"
        elif number in copied:
            note = "copied"
        elif scales[number] < 1:
            note = "clipped"
        elif shares[number] > cap:
            note = "capped"
        else:
            note = "stale" if age(name) else "whole"
        weight = int(WHOLE * min(shares[number], cap) * scales[number] / math.sqrt(1 + age(name)))
        judged[name] = Judged(weight, round(1e6 * gains[number]), note)
    return judged


def _apart(updates: Mapping[str, Update], loss: Loss) -> dict[str, Judged]:
    some = [any(tensor.any() for tensor in update.values()) for update in updates.values()]
    judged = {}
    for name, moves, gain in zip(updates, some, _gains(updates, np.array(some, float), loss), strict=True):
        note = "empty" if not moves else "harmful" if gain < -FAR_NATS else "whole"
        judged[name] = Judged(WHOLE if note == "whole" else 0, round(1e6 * gain), note)
    return judged


# What is measured.


def gram(updates: Mapping[str, Update]) -> Matrix:
    """The products of each update with each, (n, n): float64, in the order of the tensors' names.

    Not by a BLAS, whose sums depend on its threads.
    """
    members = list(updates.values())
    products = np.zeros((len(members), len(members)))
    for name in sorted(members[0]) if members else ():
        for row, one in enumerate(members):
            tensor = one[name].reshape(-1)
            products[row, row] += np.einsum("i,i->", tensor, tensor, dtype=np.float64)
            for column in range(row + 1, len(members)):
                products[row, column] += np.einsum("i,i->", tensor, members[column][name].reshape(-1), dtype=np.float64)
    return products + np.triu(products, 1).T


def largest(update: Update, seed: bytes) -> npt.NDArray[np.int64]:
    """Where the largest values of some chunks of each tensor are, with their signs: the chunks that the seed draws.

    2 × the place of a value in the update, and one more if it is negative; each once.
    """
    random, start = _random(seed, "copies"), 0
    found = [np.zeros(0, np.int64)]
    for name in sorted(update):
        values = update[name].reshape(-1)
        chunks = -(-values.size // CHUNK)
        for chunk in sorted(random.choice(chunks, min(SAMPLED, chunks), replace=False)):
            part = values[chunk * CHUNK : (chunk + 1) * CHUNK]
            keep = -(-part.size // ONE_IN)
            at = np.argpartition(np.abs(part), part.size - keep)[part.size - keep :]
            at = at[part[at] != 0]
            found.append(2 * (start + chunk * CHUNK + at) + (part[at] < 0))
        start += values.size
    return np.concatenate(found)


def overlaps(marks: list[npt.NDArray[np.int64]]) -> Matrix:
    """What part of the smaller of each two sets is in the other, (n, n)."""
    shared = np.zeros((len(marks), len(marks)))
    for row, one in enumerate(marks):
        for column, other in enumerate(marks[: row + 1]):
            both = np.intersect1d(one, other, assume_unique=True).size
            shared[row, column] = shared[column, row] = both / max(1, min(one.size, other.size))
    return shared


def held_out_loss(
    model: Model, base: Update, sequences: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64] | None = None
) -> Loss:
    """How good the base is on these sequences, (count, context + 1), and how good with an update added, in nats per
    byte: the sum over all predicted tokens by the bytes that they stand for, which `sizes` says of each of the
    vocabulary; None: one byte each.

    The model's own weights are overwritten, one tensor at a time, wherever it is; what of it is frozen stays.
    """
    batch = torch.from_numpy(sequences).to(next(model.parameters()).device)
    tokens_per_byte = 1.0 if sizes is None else sequences[:, 1:].size / int(sizes[sequences[:, 1:]].sum())

    def loss(update: Update | None) -> float:
        added = update or {}
        names = set(added)
        with torch.no_grad():
            for name, weight in weights.trained(model):
                weight.copy_(torch.from_numpy(base[name] + added[name] if name in names else base[name]))
            return tokens_per_byte * float(np.mean([model.loss(part).item() for part in torch.split(batch, 16)]))

    return loss


def spread(count: int, context: int, tokens: Tokens) -> npt.NDArray[np.int64]:
    """Held-out sequences from all over the text, (count, context + 1); always the same."""
    starts = np.linspace(0, tokens.size - context - 1, count).astype(np.int64)
    return windows(tokens, starts, context + 1)


def hidden_loss(
    model: Model,
    base: Update,
    context: int,
    seed: bytes,
    tokens: Tokens,
    sizes: npt.NDArray[np.int64] | None = None,
) -> Loss:
    """How good the base is on the part of the held-out text that a round's seed draws, and how good with an update."""
    return held_out_loss(model, base, hidden(seed, SCORED, context, tokens), sizes)


def hidden(seed: bytes, count: int, context: int, tokens: Tokens) -> npt.NDArray[np.int64]:
    """The held-out sequences that a seed of 32 bytes draws, (count, context + 1).

    A member that knew them before a round ended could train on them. So the seed stands in the log by its hash when the
    round opens, and in full when it closes: nobody can choose it afterwards, the coordinator included.
    """
    starts = _random(seed, "held out").integers(0, tokens.size - context, count)
    return windows(tokens, starts, context + 1)


def _random(seed: bytes, use: str) -> np.random.Generator:
    drawn = hashlib.sha256(seed + use.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(drawn[:16], "big")))


class _Scaled(Mapping[str, Tensor]):
    """An update made shorter, tensor by tensor as it is read."""

    def __init__(self, update: Update, scale: float) -> None:
        self._update, self._scale = update, np.float32(scale)

    def __getitem__(self, name: str) -> Tensor:
        return self._scale * self._update[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._update)

    def __len__(self) -> int:
        return len(self._update)


def _gains(updates: Mapping[str, Update], scales: Matrix, loss: Loss) -> Matrix:
    """How much better the base is with each of them alone; 0 for one of length 0, which is not tried."""
    before = loss(None)
    pairs = zip(updates.values(), scales, strict=True)
    gains: Matrix = np.array([before - loss(_Scaled(each, scale)) if scale else 0.0 for each, scale in pairs])
    gains[~np.isfinite(gains)] = -MOST_NATS
    return gains.clip(-MOST_NATS, MOST_NATS)


# What is decided.


def usual_lengths(lengths: Matrix, steps: Matrix, live: npt.NDArray[np.int64]) -> Matrix:
    """How long, at the most, the median one of those that are live would be with each one's steps; of an even number
    the lower one.

    The path of so many times the steps is so many times as long, where each goes where the one before did, and the root
    of that where each goes elsewhere. Measured, it is near the first (docs/experiments.md); honest ones lie between.
    """
    if not len(live):
        return np.zeros_like(lengths)
    more = steps[:, None] / steps[live]
    usual: Matrix = np.quantile(lengths[live] * np.maximum(more, np.sqrt(more)), 0.5, axis=1, method="lower")
    return usual


def usual_gains(gains: Matrix, steps: Matrix, live: npt.NDArray[np.int64]) -> Matrix:
    """What, at the least, the median one of those that are live would gain with each one's steps.

    The first steps gain the most, so with a part of the steps it is that part of a gain or more. What is worse than
    nothing is noise, which more steps may make so many times worse.
    """
    if not len(live):
        return np.zeros_like(gains)
    more = steps[:, None] / steps[live]
    usual: Matrix = np.median(gains[live] * np.where(gains[live] > 0, np.minimum(1, more), np.maximum(1, more)), axis=1)
    return usual


def harmless(cosines: Matrix, gains: Matrix, live: npt.NDArray[np.int64], steps: Matrix) -> list[int]:
    """Which of these updates stay, by their number.

    Loss alone does not tell: from random weights the opposite of an update may be as good by itself (two matrices that
    both turn around still make the same product), and late in a run an honest one may be worse by itself than none,
    because its noise is averaged away only with the others'. Direction alone would set aside whoever has other text.
    So both must speak against an update, or its loss by far; and to point elsewhere is not to point away: of text like
    nobody else's an update is nearly at right angles to all. The most opposed goes first, and the others are looked at
    again without it: one liar makes two honest members look opposed who would not be. The median is the lower one, so
    that two who agree on everything, such as copies, do not make two others look opposed.
    """
    usual = usual_gains(gains, steps, live)
    stay = [int(each) for each in live if gains[each] >= usual[each] - FAR_NATS]
    while len(stay) > 1:
        along = agreement(cosines[np.ix_(stay, stay)])
        bound = AGREES * float(np.quantile(along, 0.5, method="lower"))
        against = [at for at in range(len(stay)) if along[at] < bound and gains[stay[at]] < usual[stay[at]] - SURE_NATS]
        if not against:
            break
        del stay[min(against, key=lambda at: along[at])]
    return stay


def agreement(cosines: Matrix) -> Matrix:
    """The cosine between each and the sum of the others, all made equally long."""
    each = cosines.sum(axis=1)
    agreed: Matrix = (each - 1) / np.sqrt(np.maximum(cosines.sum() - 2 * each + 1, 1e-12))
    return agreed


def copies(cosines: Matrix, shared: Matrix, steps: Matrix) -> list[list[int]]:
    """The updates in groups of nearly the same ones, the first of each in order; who is like nobody is alone.

    How alike honest updates are depends on the run: those of large batches of similar text are nearly parallel at
    first. So a copy is what is alike (ALIKE) and stands out from the round (APART); of two updates none can. Two that
    trained longer are nearer, for their noise is averaged away, by as much as the mean of a sample: so what stands out
    must do so with that and without.
    """
    count = len(cosines)
    group = list(range(count))
    noise = (steps.max() / steps if count else steps) / 2
    noise = noise[:, None] + noise
    for likeness, least in zip((cosines, shared), ALIKE, strict=True):
        pairs = np.triu_indices(count, 1)
        apart = 1 - likeness[pairs]
        usual = np.minimum(np.median(apart), np.median(apart / noise[pairs]) * noise) if apart.size else noise
        for row in range(count):
            for column in range(row + 1, count):
                alike = likeness[row, column]
                if alike >= SAME or (alike >= least and 1 - alike <= APART * usual[row, column]):
                    old, new = sorted((group[row], group[column]))[::-1]
                    group = [new if each == old else each for each in group]
    return [[each for each in range(count) if group[each] == first] for first in sorted(set(group))]


def equal(products: Matrix, groups: list[list[int]]) -> Matrix:
    """An equal share to each group, and in it to each update."""
    shares = np.zeros(len(products))
    for group in groups:
        shares[group] = 1 / (len(groups) * len(group))
    return shares


def centred(products: Matrix, groups: list[list[int]]) -> Matrix:
    """Centred clipping (arXiv:2012.10333): from 0, steps to the mean of all differences, each cut to the median one.

    The centre is a sum of the updates with these shares; so all of it happens between a few numbers.
    """
    part, centre = equal(products, groups), np.zeros(len(products))
    for _ in range(CENTRINGS):
        squares = products.diagonal() - 2 * products @ centre + centre @ products @ centre
        apart = np.sqrt(np.maximum(squares, 0))
        cut = part * np.minimum(1.0, np.divide(np.median(apart), apart, out=np.ones_like(apart), where=apart > 0))
        centre = centre * (1 - cut.sum()) + cut
    return centre


def krum(products: Matrix, groups: list[list[int]]) -> Matrix:
    """Krum (arXiv:1703.02757): all to the one whose nearest neighbours are nearest, with as many liars as it can bear.

    Of a group of copies only the first is looked at: copies are one another's nearest neighbours.
    """
    firsts = [group[0] for group in groups]
    lengths = products.diagonal()[firsts]
    apart = np.maximum(lengths[:, None] + lengths - 2 * products[np.ix_(firsts, firsts)], 0)
    liars = max(0, (len(firsts) - 3) // 2)
    near = np.sort(apart, axis=1)[:, 1 : max(1, len(firsts) - liars - 2) + 1].sum(axis=1)
    shares = np.zeros(len(products))
    chosen = groups[int(np.argmin(near))]
    shares[chosen] = 1 / len(chosen)
    return shares


RULES: Mapping[str, Callable[[Matrix, list[list[int]]], Matrix]] = {
    "centred": centred,
    "krum": krum,
    "mean": equal,
    "median": equal,  # And then, by `robust.combine`, coordinate by coordinate.
    "trimmed": equal,
}
