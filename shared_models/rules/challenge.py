"""Work that can be checked: what a receipt commits to, and which part of it the log then asks to see.

A member's training process writes down its state every `segment` steps: the weights, what the optimiser remembers, and
every token trained on so far, each by digest. The receipt holds one root over these points (RFC 9162 §2.1), so they
are fixed before anybody knows which will be asked for. Whether a receipt is audited, and in which segment, follows
from it and from the root of the log right behind the entry that closed its round, which did not exist when it was
signed. So does who is to repeat it, beside whoever wants to. Whoever has the log draws the same; nobody picks.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from shared_models.records import canonical
from shared_models.records.canonical import Count, Hash
from shared_models.records.kinds import Recipe
from shared_models.records.merkle import Tree, leaf_hash
from shared_models.records.refusals import Refusal, Refused

# Cheating in a share g of a round's work does not pay where p·(1 + P/g) >= 1, P the penalty in units of the round's
# pay: with P of a period of 20 rounds, p = 1/20 is enough for all of a round, and less for less.
AUDITED = Fraction(1, 20)
AUDITORS = 2  # So many of the round's other members are drawn to repeat what was: one alone could spare a friend.

# How far two outcomes of a segment may lie apart that were computed with other builds, in millionths of the change. It
# was measured between instruction sets (docs/experiments.md): honest ones below 60,000, cheats above 260,000.
TOLERANCE_PPM = 100_000


class Challenge(NamedTuple):
    """One member's accepted work in one round, and what the log asks to see of it."""

    run: str
    round: int
    member: str
    receipt: str  # Leaf hash.
    size: int  # Of the log that drew it: it ends with the round.close.
    segment: int | None  # From 0; None: it was not drawn.
    auditors: tuple[str, ...] = ()  # Who was drawn to repeat it.


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


def committed(salt: str, data: str) -> str:
    """How a receipt commits to what it was trained on, by the salt of its round and the digest of all the tokens."""
    return hashlib.sha256(bytes.fromhex(salt) + bytes.fromhex(data)).hexdigest()


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


def auditors(seed: bytes, receipt: str, others: Iterable[str]) -> tuple[str, ...]:
    """Whom of these members this seed has repeat what it asks for of this receipt, a leaf hash; of few, all."""

    def rank(member: str) -> bytes:
        return hashlib.sha256(seed + bytes.fromhex(receipt) + member.encode()).digest()

    return tuple(sorted(others, key=rank)[:AUDITORS])


def check_verdict(verdict: str, distance_ppm: int) -> None:
    """Whether a verdict is what this distance means. Raises `Refused(BAD_FIELD)`.

    Where the builds are the same, any other bit differs, so `differs` may stand beside any distance.
    """
    right = {
        "matches": distance_ppm == 0,
        "close": 0 < distance_ppm <= TOLERANCE_PPM,
        "differs": True,
        "unanswered": distance_ppm == 0,
    }
    if not right[verdict]:
        raise Refused(Refusal.BAD_FIELD, f"a distance of {distance_ppm} ppm is not called {verdict}")


def detection(audited: Fraction, share: Fraction, rounds: int) -> Fraction:
    """The probability that a member who cheats in this share of its segments is found out within so many rounds."""
    return 1 - (1 - audited * share) ** rounds
