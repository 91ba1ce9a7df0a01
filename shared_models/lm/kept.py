"""What a member's training process finds again in its next round: the checkpoint, and what it left unsent.

Flower may start that process anew for every message, so it is on disk. The disk is not trusted: everything is named by
its digest and hashed again when it is read, and what is not whole is as if it were not there. Who deletes it makes
the member download a checkpoint, and lose the remainder of an update; nothing else depends on it.
"""

import shutil
from pathlib import Path

from shared_models.lm import weights
from shared_models.lm.weights import Weights


class Kept:
    """What is kept for one run, in `folder/<run>`: one checkpoint, what the last two rounds left unsent, and what is
    frozen beside an adapter.
    """

    def __init__(self, folder: Path, run: str) -> None:
        """`run` is the hash of the run's manifest: what was left by another run, of any name, is never sent in this."""
        self._folder, self._run = folder, folder / run

    def checkpoint(self, digest: str) -> Weights | None:
        """The checkpoint of this digest, if it is here."""
        return weights.held(self._run / "checkpoint", digest)

    def keep_checkpoint(self, checkpoint: Weights) -> None:
        """Keep this one, and no other; nor anything of another run, so that a disk does not fill up with old ones."""
        _only(checkpoint, self._run / "checkpoint")
        for other in self._folder.iterdir():
            if other != self._run:
                shutil.rmtree(other)

    def frozen(self, digest: str) -> Weights | None:
        """What of this digest is frozen, if it is here."""
        return weights.held(self._run / "frozen", digest)

    def keep_frozen(self, frozen: Weights) -> None:
        """Keep what is frozen, for as long as the run is the one that is trained."""
        _only(frozen, self._run / "frozen")

    def unsent(self, round_: int) -> Weights:
        """What the newest round before this one left unsent; nothing, if there is none.

        Before this one: who is asked for a round again must send again what it has signed a receipt for.
        """
        for folder in reversed(self._rounds()):
            if int(folder.name) < round_:
                found = [weights.held(folder, path.stem) for path in folder.glob("*.safetensors")]
                return next(filter(None, found), {})
        return {}

    def keep_unsent(self, round_: int, left: Weights) -> None:
        """Keep what this round left unsent, and what the one before it did."""
        _only(left, self._run / "unsent" / f"{round_:08}")
        for old in self._rounds()[:-2]:
            shutil.rmtree(old)

    def _rounds(self) -> list[Path]:
        return sorted((self._run / "unsent").glob("[0-9]*"))


def _only(what: Weights, folder: Path) -> None:
    """Write these weights to this folder, then delete the others in it."""
    name = weights.keep(what, folder)
    for other in folder.iterdir():  # What was not written to its end is there too.
        if other.name != f"{name}.safetensors":
            other.unlink()
