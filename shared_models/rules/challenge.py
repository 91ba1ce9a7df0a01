"""Work that can be checked: what a receipt commits to, and which part of it the log then asks to see.

A member's training process writes down its state every `segment` steps: the weights, what the optimiser remembers, and
every token trained on so far, each by digest. The receipt holds one root over these points (RFC 9162 §2.1), so they
are fixed before anybody knows which will be asked for. Whether a receipt is audited, and in which segment, follows
from it and from the root of the log right behind the entry that closed its round, which did not exist when it was
signed. Whoever has the log draws the same; nobody picks.
"""

import hashlib
from dataclasses import dataclass
from fractions import Fraction

from shared_models.records import canonical
from shared_models.records.canonical import Count, Hash
from shared_models.records.kinds import Recipe
from shared_models.records.merkle import Tree, leaf_hash

# Cheating in a share g of a round's work does not pay where p·(1 + P/g) >= 1, P the penalty in units of the round's
# pay: with P of a period of 20 rounds, p = 1/20 is enough for all of a round, and less for less.
AUDITED = Fraction(1, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The state of one member's training after so many inner steps of a round: all that the next step depends on."""

    step: Count
    data: Hash  # Of every token trained on in this round so far.
    weights: Hash
    memory: Hash  # Of what the optimiser remembers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A round's training at one member, as its receipt commits to it."""

    points: tuple[Point, ...]  # At each step of `ends`.
    unsent_before: Hash  # What earlier rounds had left unsent, and was added to the update,
    unsent: Hash  # and what this one left.

    @property
    def root(self) -> str:
        """RFC 9162 root over the canonical JSON of each point, and behind them of the two remainders."""
        tree = Tree()
        for point in self.points:
            tree.append(leaf_hash(canonical.encode(point)))
        tree.append(leaf_hash(f"{self.unsent_before} {self.unsent}".encode()))
        return tree.root().hex()


def ends(recipe: Recipe) -> tuple[int, ...]:
    """The inner steps at which there is a point: 0, each multiple of `segment`, and the last."""
    return (*range(0, recipe.inner_steps, recipe.segment), recipe.inner_steps)


def drawn(seed: bytes, receipt: str, segments: int, audited: Fraction = AUDITED) -> int | None:
    """Which of so many segments of this receipt (a leaf hash) this seed asks for; None if it asks for none of it.

    A receipt is audited with probability `audited`, each of its segments as likely as another (to one in 2^200).
    """
    found = hashlib.sha256(seed + bytes.fromhex(receipt)).digest()
    if int.from_bytes(found, "big") * audited.denominator >= audited.numerator << 256:
        return None
    return int.from_bytes(hashlib.sha256(found).digest(), "big") % segments


def detection(audited: Fraction, share: Fraction, rounds: int) -> Fraction:
    """The probability that a member who cheats in this share of its segments is found out within so many rounds."""
    return 1 - (1 - audited * share) ** rounds
