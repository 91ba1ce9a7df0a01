"""What each member's expert is worth on a text: its exact Shapley value, from the losses with each set of experts.

A member leaves experts out of a checkpoint, scores every model that is left, and signs the losses. What follows from
them is computed here, by everybody, exactly. It moves money only as far as the charter says so.
"""

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

from shared_models.records.kinds import Manifest, Worth
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import carried
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


class Standing(NamedTuple):
    """What the experts of one checkpoint are worth, as most members have measured it."""

    closed: int  # The index of the round.close that has led to it,
    at: int  # and of the entry with which they were most.
    entries: tuple[int, ...]  # In which they say so.
    shares: dict[str, Fraction]


class Worths:
    """What members have measured, and by what of it the charter can pay.

    That is what more than half of the members present have measured on the text that the run's recipe has its
    checkpoints scored on, to which all have consented: so nobody chooses the text, and nobody alone the losses.
    """

    def __init__(self) -> None:
        self.said: list[Said] = []  # In the log's order.
        self._about: dict[str, list[Said]] = {}  # The same by run, checkpoint and text.
        self._standing: list[Standing] = []

    def add(self, said: Said, corpus: str, closed: int, present: Collection[str]) -> None:
        """Take in what was checked; the run is scored on this corpus, and this round.close led to the checkpoint."""
        self.said.append(said)
        about = self._about.setdefault(said.record.idem, [])
        about.append(said)
        same = [each for each in about if each.record.member in present]
        if corpus == f"sha256:{said.record.text}" and carried([each.record.member for each in same], present):
            losses = [_median(each) for each in zip(*(each.record.losses_unats for each in same), strict=True)]
            entries = tuple(each.entry for each in same)
            self._standing.append(Standing(closed, said.entry, entries, shares(said.members, losses)))

    def standing(self, end: int) -> Standing | None:
        """What holds in a log of this size: of the newest checkpoint that most members have measured."""
        return max((each for each in self._standing if each.at < end), default=None)

    def parts(self, end: int, members: Collection[str]) -> dict[str, Fraction]:
        """Which part of what these members' experts gain each has gained; an expert that hurts has gained nothing.

        They sum to one; nobody has any if there is nothing to go by.
        """
        found = self.standing(end)
        gained = (
            {who: max(share, Fraction(0)) for who, share in found.shares.items() if who in members} if found else {}
        )
        total = sum(gained.values(), Fraction(0))
        return {who: share / total for who, share in gained.items()} if total else {}


def _median(losses: Sequence[int]) -> int:
    """The lower one of the two in the middle, if their number is even: one of those that were said."""
    return sorted(losses)[(len(losses) - 1) // 2]


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
