"""What the newest rounds of a member began from, on its own disk, so that it can show how it trained.

FOLDER/<manifest>/<round>.begun, one file a round: a line of canonical JSON that says what the round committed to, then
the tensors it began from (safetensors): base, memory, what was unsent. From these and its text the member trains the
round again, to the bit, when the log asks to see a segment of it. So what is kept is not a state for each segment but
what all of them follow from: 12 bytes a parameter with Muon inside, 16 with AdamW, for each of two rounds.

The folder is not trusted: what is shown is held against the receipt. Who loses it cannot show how it trained, and
others will say so in the log.
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from client.memory import Turn
from shared_models import durable
from shared_models.lm.weights import Weights
from shared_models.records import canonical
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Trajectory

ROUNDS = 2  # So many, the newest, can be shown.


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """One round: whose and from where, what it committed to, and what the round before it had committed to."""

    turn: Turn
    trajectory: Trajectory
    before: tuple[Trajectory, ...]  # At most one.


def keep(folder: Path, turn: Turn, trajectory: Trajectory, **tensors: Weights) -> None:
    """Keep what this round began from (`base`, `memory`, `unsent`), and of the earlier ones only the newest."""
    there = folder / turn.manifest
    durable.make_folder(there)
    rounds = sorted((int(path.stem), path) for path in there.glob("*.begun"))
    earlier = [path for number, path in rounds if number < turn.round]
    before = (_read(earlier[-1])[0].trajectory,) if earlier else ()
    said = canonical.encode(Begun(turn=turn, trajectory=trajectory, before=before))
    durable.write(there / f"{turn.round}.begun", said + b"\n" + pack(**tensors))
    for path in earlier[: len(earlier) + 1 - ROUNDS]:
        path.unlink()


def recall(folder: Path, manifest: str, round_: int) -> tuple[Begun, dict[str, Weights]]:
    """What this round of this run began from. Raises `Refused`: TOO_LATE if it is not kept, CORRUPT."""
    path = folder / manifest / f"{round_}.begun"
    if not path.is_file():
        raise Refused(Refusal.TOO_LATE, f"what round {round_} of run {manifest[:12]}… began from is not at {path}")
    return _read(path)


def _read(path: Path) -> tuple[Begun, dict[str, Weights]]:
    try:
        line, tensors = split(path.read_bytes())
        return canonical.decode(Begun, line), tensors
    except Refused as refused:
        raise Refused(Refusal.CORRUPT, f"{path}: {refused}") from None


def pack(**tensors: Weights) -> bytes:
    """Named groups of tensors as one safetensors file: `group/name`."""
    return save({f"{group}/{name}": each for group, many in tensors.items() for name, each in many.items()})


def split(data: bytes) -> tuple[bytes, dict[str, Weights]]:
    """(the line before, the groups) of a line and what `pack` packed. Raises `Refused(MALFORMED)`."""
    line, _, packed = data.partition(b"\n")
    groups: dict[str, Weights] = {}
    try:
        found = load(packed)
    except SafetensorError as error:
        raise Refused(Refusal.MALFORMED, f"no tensors behind the first line: {error}") from None
    for key, tensor in found.items():
        group, _, name = key.partition("/")
        if tensor.dtype != "float32":
            raise Refused(Refusal.MALFORMED, f"{key[:80]} is {tensor.dtype}, and not float32")
        groups.setdefault(group, {})[name] = tensor
    return line, groups
