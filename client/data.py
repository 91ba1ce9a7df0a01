"""The member's own data: which text this node trains on, and in what order."""

import hashlib
import re

import numpy as np
import numpy.typing as npt

from shared_models.lm import corpus

STDLIB = "python-stdlib"


def load(spec: str) -> corpus.Tokens:
    """The tokens that this specification of the node's operator names: `python-stdlib:1/3` is shard 1 of 3.

    Raises ValueError, which reaches the coordinator as this member's failure.
    """
    match = re.fullmatch(rf"{STDLIB}:([0-9]{{1,4}})/([0-9]{{1,4}})", spec)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"data {spec!r} is not of the form {STDLIB}:NUMBER/OF")
    return corpus.shard(int(match[1]), int(match[2]))


class Batches:
    """Batches of sequences drawn from a shard, the same for the same seed, and a digest of all that was drawn."""

    def __init__(self, tokens: corpus.Tokens, length: int, *, seed: int, member: str, round_: int) -> None:
        if tokens.size <= length:
            raise ValueError(f"the shard holds {tokens.size} tokens; a sequence takes {length}")
        drawn = hashlib.sha256(f"{seed} {member} {round_}".encode()).digest()
        self._random = np.random.Generator(np.random.PCG64(int.from_bytes(drawn[:16], "big")))
        self._tokens, self._length = tokens, length
        self._digest = hashlib.sha256()

    def draw(self, count: int) -> npt.NDArray[np.int64]:
        """(count, length) tokens; whatever is drawn counts as trained on."""
        starts = self._random.integers(0, self._tokens.size - self._length, count)
        batch = corpus.windows(self._tokens, starts, self._length)
        self._digest.update(batch.astype(np.uint8).data)
        return batch

    @property
    def digest(self) -> str:
        """SHA-256 of every token drawn so far."""
        return self._digest.hexdigest()
