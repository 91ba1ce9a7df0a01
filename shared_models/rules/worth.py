"""What each member's expert is worth on a text: its exact Shapley value, from the losses with each set of experts.

A member leaves experts out of a checkpoint, scores every model that is left, and signs the losses. What follows from
them is computed here, by everybody, exactly. By itself it bills nothing.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

from shared_models.records.kinds import Manifest, Worth
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.games import Game, shapley

MOST = 10  # Members: a thousand sets of them, each a model to be scored; each member more takes twice as long.
SEQUENCES = 64  # Of the recipe's context, from all over the text: what each model is scored on.
ROUTES = 2  # Feed-forwards that a token goes through in each layer.


class Said(NamedTuple):
    """An entry that says what a run's experts are worth."""

    entry: int  # Its index.
    record: Worth
    members: tuple[str, ...]  # Whose experts, in the manifest's order.

    @property
    def shares(self) -> dict[str, Fraction]:
        return shares(self.members, self.record.losses_unats)

    @property
    def routed(self) -> dict[str, Fraction]:
        """Which part of all routes went through whose expert."""
        total = sum(self.record.routes)
        return {who: Fraction(each, total) for who, each in zip(self.members, self.record.routes[1:], strict=True)}


def check_worth(worth: Worth, manifest: Manifest) -> None:
    """Whether this can be what a run's experts are worth: a loss for each set of them, and a route for each token.

    Raises `Refused(BAD_FIELD)`.
    """
    recipe, members = manifest.recipe, manifest.members
    check_members(manifest)
    if len(worth.losses_unats) != 1 << len(members):
        cause = f"{len(worth.losses_unats)} losses; {len(members)} experts make {1 << len(members)} sets"
        raise Refused(Refusal.BAD_FIELD, cause)
    right = SEQUENCES * recipe.context * recipe.layers * ROUTES
    if len(worth.routes) != 1 + len(members) or sum(worth.routes) != right:
        cause = f"{sum(worth.routes)} routes through {len(worth.routes)} feed-forwards; there are {right}"
        raise Refused(Refusal.BAD_FIELD, f"{cause} through {1 + len(members)}")


def check_members(manifest: Manifest) -> None:
    """Whether all sets of a run's experts can be tried. Raises `Refused(BAD_FIELD)`."""
    experts = manifest.recipe.member_experts
    if not 1 <= experts <= MOST:
        raise Refused(Refusal.BAD_FIELD, f"member_experts = {experts}: all sets are tried of 1 to {MOST} members")


def shares(members: Sequence[str], losses_unats: Sequence[int]) -> dict[str, Fraction]:
    """By how much each member's expert lowers the loss: its Shapley value, exact, in millionths of a nat per byte.

    `losses_unats[m]` is the loss with the experts of those members whose bit is set in m: bit i stands for member i.
    The values sum to what all experts take off the loss; one may be below zero (Shapley, 1953).
    """
    return shapley(Game(tuple(members), [losses_unats[0] - loss for loss in losses_unats]))


def whole(exact: Mapping[str, Fraction]) -> dict[str, int]:
    """The same in whole millionths: each rounded down, and the units that this leaves over to the largest fractions,
    ties in order. So they still sum to the whole gain.
    """
    found = {member: floor(share) for member, share in exact.items()}
    left = {member: share - found[member] for member, share in exact.items()}
    assert sum(left.values()).denominator == 1
    for member in sorted(left, key=left.__getitem__, reverse=True)[: int(sum(left.values()))]:
        found[member] += 1
    return found
