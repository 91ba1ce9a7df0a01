"""How tasks and answers sit in Flower's records. The only file that knows Flower's keys."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict

from shared_models.claims import Begin
from shared_models.lm.codecs import Packed
from shared_models.records import canonical
from shared_models.records.entry import MAX_BYTES
from shared_models.records.refusals import Refusal, Refused
from shared_models.records.tlog import HEAD_BYTES
from shared_models.transport import Carried, Named, Pass

OURS = "consortium."  # A codec's name behind it is an array's stype: its bytes alone, no header that could lie.
UNAVAILABLE = 5  # Flower's error code for a node that does not answer any more.
REFUSED = 1000  # Ours: a member that refuses, and says why.
REFUSALS = {refusal.value for refusal in Refusal}
MAX_ENTRIES = 64  # Entries of a member that one answer may carry.


@dataclass(frozen=True, slots=True)
class Task:
    """What the coordinator asks of one member in one round."""

    begin: Begin
    manifest: bytes  # A leaf.
    since: str  # Digest of the checkpoint that `weights` are the step from, in the recipe's `down`; empty if they are
    weights: Mapping[
        str, Packed
    ]  # the whole checkpoint, and what is frozen beside it, in fp32. The checkpoint itself: no step, no weights.
    blob: Named | None = None  # What the weights are in, if they travel beside the message.
    granted: Pass | None = None  # What lets the member at blobs, if there are any.

    @property
    def carried(self) -> Carried:
        return Carried(self.weights, self.blob)

    def to_record(self) -> RecordDict:
        config = ConfigRecord(
            {"begin": canonical.encode(self.begin), "manifest": self.manifest, "since": self.since.encode()}
        )
        for name, what in (("blob", self.blob), ("granted", self.granted)):
            if what is not None:
                config[name] = canonical.encode(what)
        return RecordDict({"task": config, "weights": _arrays(self.weights)})

    @classmethod
    def from_record(cls, record: RecordDict) -> "Task":
        """Raises `Refused(MALFORMED)`."""
        config, arrays = _parts(record, "task", "weights")
        begin = canonical.decode(Begin, _bytes(config, "begin", 100 * MAX_BYTES))
        since = _bytes(config, "since", 64)
        if not re.fullmatch(rb"([0-9a-f]{64})?", since):
            raise Refused(Refusal.MALFORMED, f"{since[:80]!r} is not a digest")
        granted = canonical.decode(Pass, _bytes(config, "granted", MAX_BYTES)) if "granted" in config else None
        packed, blob = _carried(config, arrays)
        return cls(begin, _bytes(config, "manifest", MAX_BYTES), since.decode(), packed, blob, granted)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member sends back: its update, and its entries that the log lacks, this round's receipt last."""

    entries: tuple[bytes, ...]
    update: Mapping[str, Packed]  # In the recipe's `up`.
    cosigned: bytes  # The tree head that came with the task, cosigned by the member.
    blob: Named | None = None  # What the update is in, if it travels beside the message.

    @property
    def carried(self) -> Carried:
        return Carried(self.update, self.blob)

    def to_record(self) -> RecordDict:
        config = ConfigRecord({"entries": list(self.entries), "cosigned": self.cosigned})
        if self.blob is not None:
            config["blob"] = canonical.encode(self.blob)
        return RecordDict({"answer": config, "update": _arrays(self.update)})

    @classmethod
    def from_record(cls, record: RecordDict, max_bytes: int) -> "Answer":
        """The answer in this record, whose update may hold at most `max_bytes`; what it holds is not looked at yet.

        Raises `Refused`: MALFORMED, TOO_LARGE.
        """
        config, arrays = _parts(record, "answer", "update")
        entries = config.get("entries")
        if not isinstance(entries, list) or not all(isinstance(each, bytes) for each in entries):
            raise Refused(Refusal.MALFORMED, "the answer's entries are not a list of bytes")
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise Refused(Refusal.MALFORMED, f"the answer carries {len(entries)} entries, not 1 to {MAX_ENTRIES}")
        carried = _carried(config, arrays)
        if carried.size > max_bytes:
            raise Refused(Refusal.TOO_LARGE, f"the update holds {carried.size} bytes; at most {max_bytes}")
        cosigned = _bytes(config, "cosigned", HEAD_BYTES)
        return cls(tuple(entries), carried.packed, cosigned, carried.blob)  # type: ignore[arg-type]


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


def _arrays(packed: Mapping[str, Packed]) -> ArrayRecord:
    return ArrayRecord(
        {name: Array("float32", each.shape, OURS + each.codec, each.data) for name, each in packed.items()}
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


def _carried(config: ConfigRecord, arrays: ArrayRecord) -> Carried:
    """Raises `Refused(MALFORMED)`, as `_packed` and `canonical.decode` do, and if the tensors stand there twice."""
    blob = canonical.decode(Named, _bytes(config, "blob", MAX_BYTES)) if "blob" in config else None
    packed = _packed(arrays)
    if blob is not None and packed:
        raise Refused(Refusal.MALFORMED, "the message holds arrays, and names a blob")
    return Carried(packed, blob)


def _packed(arrays: ArrayRecord) -> Mapping[str, Packed]:
    """The arrays as sent, none of them decoded. Raises `Refused(MALFORMED)` if one is not in an encoding of ours."""
    packed = {}
    for name, array in arrays.items():
        if array.dtype != "float32" or not array.stype.startswith(OURS):
            raise Refused(Refusal.MALFORMED, f"{name[:80]} is {array.dtype[:20]} as {array.stype[:20]}, not {OURS}…")
        packed[name] = Packed(array.stype.removeprefix(OURS), tuple(array.shape), array.data)
    return packed
