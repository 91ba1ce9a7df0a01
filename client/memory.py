"""What a member's inner optimiser remembers, on the member's own disk from one round to the next.

FOLDER/<manifest>/<round>.memory, one file a round: a line with the SHA-256 of all that follows, a line of canonical
JSON that says what it belongs to, then the tensors (safetensors). It never travels: losing it costs a warm-up, not a
round.

The folder is not trusted: whoever can change it can spoil this member's updates, as whoever can change its text can.
What was altered by accident is refused as `bad_memory`, and so is the memory of another run, member or round. None of
that is passed over in silence: a member whose disk forgets would train worse, and nobody would know why. Two cases are
no fault. A member that missed the round before starts afresh, because its momentum belongs to a checkpoint long gone.
And a round that is asked again (its answer was lost) begins from the same memory as before and so ends in the same
update; for that, the memory of the round before is kept.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load, save

from shared_models import durable
from shared_models.lm.weights import Weights
from shared_models.records import canonical
from shared_models.records.canonical import Hash, Name
from shared_models.records.kinds import Positive
from shared_models.records.refusals import Refusal, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One member's part of one round."""

    manifest: Hash
    member: Name
    round: Positive
    base: Hash  # The checkpoint that the round begins from.


def recall(folder: Path, turn: Turn, late: int = 0) -> Weights:
    """The memory to begin this turn with: what `keep` kept after the round before, or nothing if it kept nothing.

    In a run that takes answers so many rounds late, a member may be asked again only that many later.

    Raises `Refused`: WRONG_BASE if this round was trained before, from another base; BAD_MEMORY if a file is not as it
    was written, or does not belong where it lies.
    """
    again = _read(folder, turn, turn.round)
    if again is not None and again[0] != turn:
        raise Refused(
            Refusal.WRONG_BASE, f"round {turn.round} was trained from {again[0].base[:12]}…, not {turn.base[:12]}…"
        )
    last = max((round_ for round_ in _rounds(folder, turn) if round_ < turn.round), default=0)
    before = _read(folder, turn, last) if last >= turn.round - 1 - late else None
    return load(before[1]) if before is not None else {}


def keep(folder: Path, turn: Turn, memory: Weights) -> None:
    """Keep the memory that this turn ended with, and of the earlier ones only that which it began with."""
    whole = canonical.encode(turn) + b"\n" + save(memory)
    path = _path(folder, turn, turn.round)
    durable.make_folder(path.parent)
    durable.write(path, hashlib.sha256(whole).hexdigest().encode() + b"\n" + whole)
    for other in [each for each in _rounds(folder, turn) if each < turn.round][:-1]:
        _path(folder, turn, other).unlink()


def _rounds(folder: Path, turn: Turn) -> list[int]:
    """The rounds of which there is a memory, in order."""
    return sorted(int(path.stem) for path in (folder / turn.manifest).glob("*.memory"))


def _path(folder: Path, turn: Turn, round_: int) -> Path:
    return folder / turn.manifest / f"{round_}.memory"


def _read(folder: Path, turn: Turn, round_: int) -> tuple[Turn, bytes] | None:
    """(the turn after which it was kept, the tensors) of this round, if there is a file."""
    path = _path(folder, turn, round_)
    if not path.is_file():
        return None
    named, _, whole = path.read_bytes().partition(b"\n")
    if hashlib.sha256(whole).hexdigest().encode() != named:
        raise Refused(Refusal.BAD_MEMORY, f"{path} is not as it was written")
    line, _, tensors = whole.partition(b"\n")
    after = canonical.decode(Turn, line)
    if (after.manifest, after.member, after.round) != (turn.manifest, turn.member, round_):
        raise Refused(
            Refusal.BAD_MEMORY, f"{path} is of {after.member}, round {after.round}, run {after.manifest[:12]}…"
        )
    return after, tensors
