"""A round that was broken off: how far this member came in it, on its own disk, to go on from there.

One file: a line with the SHA-256 of all that follows, a line of JSON that says what it belongs to, then the weights and
the optimiser's memory (safetensors). It is kept when the machine is about to be taken away, and gone on from when the
same round is asked for again, on the same kind of machine: then the round ends in the same bits as if nothing had
happened. Otherwise the round begins anew, which costs its time and nothing else. The file is not trusted: whoever can
change it can spoil this member's update, as whoever can change its text can.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from client import begun
from client.data import Picked
from client.memory import Turn
from shared_models import durable
from shared_models.lm.weights import Weights
from shared_models.records.refusals import Refused
from shared_models.rules.challenge import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """Where training stands in a round, between two inner steps."""

    step: int
    weights: Weights  # Where they are not those that the round began from.
    memory: Weights  # The optimiser's.
    data: str  # `Batches.digest` of what was trained on.
    picked: Picked = ()  # What the round's steps are trained on, if sequences are picked.
    points: tuple[Point, ...] = ()  # The states that led here.
    losses: tuple[float, ...] = ()  # Of the last steps.
    busy_ms: int = 0


def keep(path: Path, turn: Turn, build: str, half: Half) -> None:
    """Keep it, in place of any other: a machine trains one round at a time."""
    said = {"turn": asdict(turn), "build": build, "step": half.step, "data": half.data, "busy_ms": half.busy_ms}
    said |= {"picked": half.picked}
    said |= {"points": [asdict(each) for each in half.points], "losses": half.losses}
    whole = json.dumps(said).encode() + b"\n" + begun.pack(weights=half.weights, memory=half.memory)
    durable.write(path, hashlib.sha256(whole).hexdigest().encode() + b"\n" + whole)


def recall(path: Path, turn: Turn, build: str) -> Half | None:
    """Where this round was broken off, if that is kept, whole, and of the same build; then steps repeat to the bit."""
    try:
        named, _, whole = path.read_bytes().partition(b"\n")
        if hashlib.sha256(whole).hexdigest().encode() != named:
            return None
        line, tensors = begun.split(whole)
    except (FileNotFoundError, Refused):
        return None
    said = json.loads(line)
    if said["turn"] != asdict(turn) or said["build"] != build:
        return None
    return Half(
        step=said["step"],
        weights=tensors.get("weights", {}),
        memory=tensors.get("memory", {}),
        data=said["data"],
        picked=said["picked"],
        points=tuple(Point(**each) for each in said["points"]),
        losses=tuple(said["losses"]),
        busy_ms=said["busy_ms"],
    )


def forget(path: Path) -> None:
    """The round has its receipt."""
    path.unlink(missing_ok=True)
