"""How tasks and answers sit in Flower's records. The only file that knows Flower's keys."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict

from shared_models.claims import Begin
from shared_models.records import canonical
from shared_models.records.entry import MAX_BYTES
from shared_models.records.refusals import Refusal, Refused
from shared_models.records.tlog import HEAD_BYTES

Arrays = Mapping[str, npt.NDArray[np.float32]]

FLOAT32 = "consortium.float32"  # Little-endian values and nothing else: no header that could say something different.
UNAVAILABLE = 5  # Flower's error code for a node that does not answer any more.
REFUSED = 1000  # Ours: a member that refuses, and says why.
REFUSALS = {refusal.value for refusal in Refusal}
MAX_ENTRIES = 64  # Entries of a member that one answer may carry.


@dataclass(frozen=True, slots=True)
class Task:
    """What the coordinator asks of one member in one round."""

    begin: Begin
    manifest: bytes  # A leaf.
    weights: Arrays

    def to_record(self) -> RecordDict:
        config = ConfigRecord({"begin": canonical.encode(self.begin), "manifest": self.manifest})
        return RecordDict({"task": config, "weights": _arrays(self.weights)})

    @classmethod
    def from_record(cls, record: RecordDict) -> "Task":
        """Raises `Refused(MALFORMED)`."""
        config, arrays = _parts(record, "task", "weights")
        begin = canonical.decode(Begin, _bytes(config, "begin", 100 * MAX_BYTES))
        return cls(begin, _bytes(config, "manifest", MAX_BYTES), _floats(arrays))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member sends back: its update, and its entries that the log lacks, this round's receipt last."""

    entries: tuple[bytes, ...]
    update: Arrays
    cosigned: bytes  # The tree head that came with the task, cosigned by the member.

    def to_record(self) -> RecordDict:
        config = ConfigRecord({"entries": list(self.entries), "cosigned": self.cosigned})
        return RecordDict({"answer": config, "update": _arrays(self.update)})

    @classmethod
    def from_record(cls, record: RecordDict, max_bytes: int) -> "Answer":
        """The answer in this record, whose arrays may hold at most `max_bytes`; what they hold is not looked at yet.

        Raises `Refused`: MALFORMED, TOO_LARGE.
        """
        config, arrays = _parts(record, "answer", "update")
        entries = config.get("entries")
        if not isinstance(entries, list) or not all(isinstance(each, bytes) for each in entries):
            raise Refused(Refusal.MALFORMED, "the answer's entries are not a list of bytes")
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise Refused(Refusal.MALFORMED, f"the answer carries {len(entries)} entries, not 1 to {MAX_ENTRIES}")
        whole = sum(len(array.data) for array in arrays.values())
        if whole > max_bytes:
            raise Refused(Refusal.TOO_LARGE, f"the update holds {whole} bytes; at most {max_bytes}")
        cosigned = _bytes(config, "cosigned", HEAD_BYTES)
        return cls(tuple(entries), _floats(arrays), cosigned)  # type: ignore[arg-type]


def to_error(refused: Refused) -> Error:
    """How a member's refusal travels: by its name, in Flower's error."""
    return Error(REFUSED, str(refused))


def from_error(error: Error) -> Refused:
    """Why there is no answer: what the member refused with, or what happened to it. Nobody vouches for the reason."""
    reason = error.reason or ""
    name, _, detail = reason.partition(": ")
    if error.code == REFUSED and name in REFUSALS:
        return Refused(Refusal(name), detail)
    return Refused(Refusal.DEAD if error.code == UNAVAILABLE else Refusal.FAILED, reason)


def _arrays(tensors: Arrays) -> ArrayRecord:
    return ArrayRecord(
        {
            name: Array("float32", tensor.shape, FLOAT32, np.ascontiguousarray(tensor, "<f4").tobytes())
            for name, tensor in tensors.items()
        }
    )


def _parts(record: RecordDict, config: str, arrays: str) -> tuple[ConfigRecord, ArrayRecord]:
    if set(record.config_records) != {config} or set(record.array_records) != {arrays} or len(record) != 2:
        raise Refused(
            Refusal.MALFORMED, f"a record with {', '.join(map(str, record))[:120]}; not {config} and {arrays}"
        )
    return record.config_records[config], record.array_records[arrays]


def _bytes(config: ConfigRecord, name: str, most: int) -> bytes:
    found = config.get(name)
    if not isinstance(found, bytes) or len(found) > most:
        raise Refused(Refusal.MALFORMED, f"{name} is not bytes, or more than {most}")
    return found


def _floats(arrays: ArrayRecord) -> Arrays:
    """The arrays as sent. Raises `Refused`: MALFORMED if one is not in our encoding, WRONG_SHAPE if it is not whole."""
    floats = {}
    for name, array in arrays.items():
        if (array.dtype, array.stype) != ("float32", FLOAT32):
            raise Refused(Refusal.MALFORMED, f"{name[:80]} is {array.dtype[:20]} as {array.stype[:20]}, not {FLOAT32}")
        if len(array.data) != 4 * math.prod(array.shape) or min(array.shape, default=0) < 0:
            raise Refused(Refusal.WRONG_SHAPE, f"{name[:80]} says {array.shape} and holds {len(array.data)} bytes")
        floats[name] = np.frombuffer(array.data, "<f4").reshape(array.shape)
    return floats
