"""When a run may stop before its last round, and what was not spent because it did.

It follows from the losses that the log holds, which are the coordinator's word: whoever has the checkpoints and the
text can score them again. It moves no money: nobody is paid for what was not done.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from shared_models.records.kinds import Manifest
from shared_models.rules.pricing import rounds_flop


class Unspent(NamedTuple):
    """What a run that stopped early has not trained."""

    entry: int  # Its run.end.
    run: str
    trained: int  # Rounds that were closed,
    rounds: int  # of so many that its manifest has.
    members: int  # That had consented and not left then: as many as another round could have asked.
    flop: int  # Of these, in all the rounds that were left.


def plateau(losses: Sequence[int], patience: int) -> bool:
    """Whether none of the last `patience` losses is below the lowest before them: then a run stops.

    The first loss is that of the checkpoint that it began with, each other one of a round that has taken a step. With a
    patience of 0 there is no plateau.
    """
    return 0 < patience < len(losses) and min(losses[-patience:]) >= min(losses[:-patience])


def unspent(entry: int, manifest: Manifest, trained: int, members: Collection[str]) -> Unspent:
    """What is left of a run behind so many rounds, if these members had answered in each, as they had agreed to."""
    flop = sum(rounds_flop(manifest, trained + 1, manifest.rounds, member) for member in members)
    return Unspent(entry, manifest.run, trained, manifest.rounds, len(members), flop)
