"""What members say about the log's heads: asked for, checked, published. The log signs nothing here.

    cosigned           the newest head that the charter's quorum of members has witnessed
    witness/<member>   the newest head that this member has witnessed
    attest/<member>    the newest head below which this member says that every entry of its own is its own

All three are notes of heads with cosignatures. At most 64 are inline; the others are in their members' own.
"""

import threading
import time
from dataclasses import dataclass, field

from ledger.log import Log
from shared_models.records import note, tlog
from shared_models.records.keys import VerifyKey, time_of
from shared_models.records.note import Note, Signature
from shared_models.records.refusals import Refusal, Refused

INLINE = 64  # Cosignatures in one published head: Go's note package reads at most 100 signatures.
RENEW_S = 10.0  # A head that is asked about for so long is followed by a newer one, quorum or not.
ROLES = ("witness", "attest")


@dataclass(slots=True)
class _Head:
    """A head and who has cosigned it."""

    head: tlog.TreeHead
    log: tuple[Signature, ...]
    lines: dict[tuple[str, bytes], Signature] = field(default_factory=dict)

    def note(self, *names: str) -> bytes:
        """The note, with the cosignatures of these names; without names those of witnesses, as many as are inline."""
        chosen = [
            line
            for (name, _), line in sorted(self.lines.items())
            if (name in names if names else name.endswith("/witness"))
        ]
        return Note(self.head.text, (*self.log, *chosen[: INLINE if not names else None])).data()


class Witnesses:
    """The members' cosignatures of one log. May be used from several threads."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._turn = threading.Lock()
        self._asked: tuple[int, float] = (-1, 0.0)  # The size that members are asked to cosign, and since when.
        self._recent: dict[int, _Head] = {}  # By size: the one that is asked about, and those cosigned lately.
        self._cosigned = self._size_of("cosigned")

    def wanted(self, old: int) -> tlog.AddCheckpoint:
        """The head that members are asked to cosign now, as a request to one that cosigned size `old` before.

        One head for all, so that their cosignatures meet under it. Raises `Refused(NOT_FOUND)` if `old` is larger: then
        there is nothing to cosign.
        """
        with self._turn:
            newest, (size, since) = self._log.head, self._asked
            if size < 0 or (newest.size > size and (self._cosigned >= size or time.monotonic() - since > RENEW_S)):
                size = newest.size
                self._asked = size, time.monotonic()
                self._remember(tlog.unsigned(newest.note), note.parse(newest.note, tlog.HEAD_BYTES))
            shown = self._recent[size]
        path = self._log.consistency(old, size)  # Refuses an `old` that is larger.
        return tlog.AddCheckpoint(old, tuple(path), Note(shown.head.text, shown.log).data())

    def accept(self, data: bytes) -> int:
        """Take in the cosignatures under this head, which the log must have signed; how many are new or newer.

        Raises `Refused`: as `tlog.open_head`; FORK if the log has another root of that size (then the sender holds the
        proof of a fork, and should show it around); REVOKED; UNKNOWN_KEY if no member has signed.
        """
        log, books = self._log, self._log.books
        head = tlog.open_head(data, books.keys)
        if head.origin != log.key.name:
            raise Refused(Refusal.WRONG_ORIGIN, f"a head of {head.origin[:80]}")
        if head.size > log.head.size or books.tree.root(head.size) != head.root:
            raise Refused(Refusal.FORK, f"this log has another root at size {head.size}, or is not that long yet")
        parsed = note.parse(data, tlog.HEAD_BYTES)
        found = [(key, line) for line in parsed.signatures if (key := self._member(line)) is not None]
        if not found:
            raise Refused(Refusal.UNKNOWN_KEY, "no member's witness or attest key has signed this head")
        for key, _ in found:
            books.keyring.check_counts(key.name, key.id)
        with self._turn:
            return self._keep(head, parsed, [line for _, line in found])

    def published(self, path: str) -> bytes:
        """`cosigned`, `witness/<member>` or `attest/<member>`. Raises `Refused(NOT_FOUND)`."""
        kind, _, member = path.partition("/")
        known = kind in ROLES and any(each.name == member for each in self._log.books.charter.members)
        data = self._log.public.read(path) if known or path == "cosigned" else None
        if data is None:
            raise Refused(Refusal.NOT_FOUND, f"nobody has cosigned {path[:80]!r} yet")
        return data

    def state(self) -> dict[str, dict[str, int]]:
        """For each member the size it has witnessed last, and when (Unix time in seconds)."""
        state = {}
        for member in self._log.books.charter.members:
            data = self._log.public.read(f"witness/{member.name}")
            if data is not None:
                lines = note.parse(data, tlog.HEAD_BYTES).signatures
                newest = max(time_of(line.raw) for line in lines if line.name == f"{member.name}/witness")
                state[member.name] = {"size": tlog.unsigned(data).size, "time": newest}
        return state

    # What lies behind.

    def _member(self, line: Signature) -> VerifyKey | None:
        key = self._log.books.keys.get((line.name, line.id))
        return key if key is not None and key.name.rpartition("/")[2] in ROLES else None

    def _remember(self, head: tlog.TreeHead, parsed: Note) -> _Head:
        if head.size not in self._recent:
            logs = tuple(each for each in parsed.signatures if each.name == head.origin)
            self._recent[head.size] = _Head(head, logs)
            for size in sorted(self._recent)[:-8]:
                if size != self._asked[0]:
                    del self._recent[size]
        return self._recent[head.size]

    def _keep(self, head: tlog.TreeHead, parsed: Note, lines: list[Signature]) -> int:
        kept, new = self._remember(head, parsed), 0
        for line in lines:
            before = kept.lines.get((line.name, line.id))
            if before is None or time_of(before.raw) < time_of(line.raw):
                kept.lines[line.name, line.id] = line
                new += 1
        for name in {line.name for line in lines} if new else ():
            member, _, role = name.rpartition("/")
            if self._size_of(f"{role}/{member}") <= head.size:
                self._log.public.put(f"{role}/{member}", kept.note(name))
        witnesses = {name for name, _ in kept.lines if name.endswith("/witness")}
        if new and head.size >= self._cosigned and len(witnesses) >= max(1, self._log.books.charter.quorum):
            self._log.public.put("cosigned", kept.note())
            self._cosigned = head.size
        return new

    def _size_of(self, path: str) -> int:
        data = self._log.public.read(path)
        return tlog.unsigned(data).size if data is not None else -1
