"""What each member's expert is worth: the loss of every coalition of members, found by leaving experts out.

Nothing is trained for it (decision 0022). All models are those that `consortium model export --without` writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path

from shared_models.huggingface import Mixture
from shared_models.lm import corpus, gpt, hygiene, own, weights
from shared_models.lm.tokenizer import Tokenizer
from shared_models.records.kinds import Manifest
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.games import Game, shapley

MOST = 10  # A thousand coalitions; each member more takes twice as long.


@dataclass(frozen=True, slots=True)
class Worth:
    """The held-out loss of each coalition of members on each text, in millionths of a nat per byte."""

    texts: tuple[str, ...]
    losses: Mapping[frozenset[str], tuple[int, ...]]
    routed: Mapping[str, int]  # How often a token went through whose expert, with all of them, in all layers together.
    routes: int  # How often one went through any feed-forward, the given one included.

    def gains(self) -> dict[frozenset[str], int]:
        """By how much each coalition's experts lower the losses of the given weights, summed over the texts."""
        nobody = self.losses[frozenset()]
        return {who: sum(nobody) - sum(losses) for who, losses in self.losses.items() if who}

    def shares(self) -> dict[str, Fraction]:
        """The Shapley value of each member, exact; they sum to what all gain together. One may be below zero."""
        return shapley(Game.of(self.gains()))


def measure(
    experts: weights.Tensors,
    given: weights.Tensors,
    manifest: Manifest,
    texts: Sequence[Path],
    cut: Tokenizer | None = None,
) -> Worth:
    """Score all coalitions of a run's members on these texts, on the sequences that a run scores its checkpoints on, in
    the tokens of the run's tokenizer, if it has one.

    Raises `Refused`: BAD_FIELD for a run without members' experts or with too many, or a text that is too short;
    NOT_FOUND; WRONG_MODEL if the weights are not of the run's recipe.
    """
    recipe, members = manifest.recipe, manifest.members
    if not 1 <= recipe.member_experts <= MOST:
        cause = f"member_experts = {recipe.member_experts}: all coalitions are tried of 1 to {MOST} members"
        raise Refused(Refusal.BAD_FIELD, cause)
    least = recipe.context + 1
    read = [corpus.in_tokens(corpus.given(path, least), least, cut) for path in texts]
    drawn = [hygiene.spread(hygiene.EVALUATED, recipe.context, each.tokens) for each in read]
    experts, given = dict(experts), dict(given)  # Read once, for all of them.
    losses = {}
    for size in range(len(members) + 1):
        for numbers in combinations(range(len(members)), size):
            mixture = Mixture(experts, given, recipe, numbers)
            model = gpt.GPT(mixture.shape)
            found = (
                hygiene.held_out_loss(model, mixture, sequences, text.sizes)(None)
                for text, sequences in zip(read, drawn, strict=True)
            )
            losses[frozenset(members[number] for number in numbers)] = tuple(round(1e6 * loss) for loss in found)
    used = [own.routed(model, sequences) for sequences in drawn]  # The last was that of all members.
    through_given, *theirs = (sum(counts) for counts in zip(*used, strict=True))
    named = tuple(path.name for path in texts)
    return Worth(named, losses, dict(zip(members, theirs, strict=True)), through_given + sum(theirs))
