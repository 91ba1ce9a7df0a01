"""What a log publishes and its witnesses say, to the letter of C2SP: tree heads (tlog-checkpoint), cosignatures
(tlog-cosignature), what a witness is asked (tlog-witness), offline proofs (tlog-proof), tiles (tlog-tiles).

A *tree head* is the log's signed size and root. C2SP calls it a checkpoint; here a checkpoint is always weights.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared_models.records import merkle, note
from shared_models.records.keys import COSIGNATURE, ED25519, SigningKey, time_of
from shared_models.records.refusals import Refusal, Refused

WIDTH = 256  # Hashes in a full tile, entries in a full bundle.
HEAD = "checkpoint"  # The path of the newest tree head.
MAX_PROOF = 63
HEAD_BYTES = 500_000  # A head with 64 cosignatures, each in two signature types, fits.

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


def _base64(text: str, size: int) -> bytes:
    """The bytes, `size` many (0: any number above none), of which this is the one base64."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw or size not in (0, len(raw)) or base64.b64encode(raw).decode() != text:
        raise Refused(Refusal.BAD_PROOF, f"{text[:60]!r} is not the base64 of {size or 'some'} bytes")
    return raw


def _hash_line(line: str) -> bytes:
    return _base64(line, 32)


def _path(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PROOF:
        raise Refused(Refusal.BAD_PROOF, f"a path of {len(lines)} hashes; at most {MAX_PROOF}")
    return tuple(_hash_line(line) for line in lines)


def _upper(data: bytes) -> list[str]:
    """The lines before the first blank line, then the note behind it."""
    try:
        upper, _, head = data.decode().partition("\n\n")
    except UnicodeDecodeError:
        raise Refused(Refusal.BAD_PROOF, "not UTF-8 text") from None
    return [*upper.split("\n"), head]


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise Refused(Refusal.BAD_PROOF, f"{text[:40]!r} is not a number in its one decimal spelling")
    return int(text)


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A size and a root that the log of this origin has signed, or is about to."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def sign(self, key: SigningKey, *more: SigningKey, time_s: int = 0) -> bytes:
        """The signed note of this head. A log's keys are named by its origin; `more` are such as sign the time too."""
        assert {each.name for each in (key, *more)} == {self.origin}
        signatures = [note.signature(self.text, key), *(note.signature(self.text, each, time_s) for each in more)]
        return note.Note(self.text, tuple(signatures)).data()


def open_head(data: bytes, keys: note.Keys) -> TreeHead:
    """The tree head in this note, signed by the log whose origin it names.

    Raises `Refused`: as `note.parse` and `note.verify`, BAD_PROOF if the text is no tree head, UNKNOWN_KEY if somebody
    signed but the log did not.
    """
    return open_cosigned(data, keys)[0]


def open_cosigned(data: bytes, keys: note.Keys) -> tuple[TreeHead, dict[str, int]]:
    """(the tree head in this note, the Unix time in seconds at which each known witness cosigned it, by key name).

    Of several cosignatures of one name the latest counts. Raises `Refused` as `open_head`.
    """
    parsed = note.parse(data, HEAD_BYTES)
    signers = note.verify(parsed, keys)
    head = parse_head(parsed.text)
    if not any(key.name == head.origin and key.kind != COSIGNATURE for key in signers):
        raise Refused(Refusal.UNKNOWN_KEY, f"the log {head.origin[:80]} did not sign this head")
    times: dict[str, int] = {}
    for signature in parsed.signatures:
        key = keys.get((signature.name, signature.id))
        if key is not None and key.kind != ED25519 and key.name != head.origin:
            times[key.name] = max(times.get(key.name, 0), time_of(signature.raw))
    return head, times


def parse_head(text: str) -> TreeHead:
    """The head that this text spells, signed or not. Raises `Refused(BAD_PROOF)`."""
    lines = text[:-1].split("\n")
    if len(lines) < 3 or "" in lines:
        raise Refused(Refusal.BAD_PROOF, "a tree head has three lines: origin, size, root")
    return TreeHead(lines[0], _number(lines[1]), _hash_line(lines[2]))


def unsigned(data: bytes) -> TreeHead:
    """The head that these bytes claim, whoever signed it. Raises `Refused`."""
    return parse_head(note.parse(data, HEAD_BYTES).text)


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """What a witness is asked to cosign: a head, and the proof that it continues the size it cosigned before."""

    old: int
    path: tuple[bytes, ...]
    head: bytes  # A note.

    def data(self) -> bytes:
        lines = [f"old {self.old}", *(base64.b64encode(each).decode() for each in self.path)]
        return ("\n".join(lines) + "\n\n").encode() + self.head

    @classmethod
    def parse(cls, data: bytes) -> "AddCheckpoint":
        """The request in these bytes; the head is not looked at. Raises `Refused(BAD_PROOF)`."""
        first, *lines, head = _upper(data)
        if not first.startswith("old ") or not head:
            raise Refused(Refusal.BAD_PROOF, "not a request to add a checkpoint")
        return cls(_number(first[4:]), _path(lines), head.encode())


@dataclass(frozen=True, slots=True)
class Proof:
    """That one entry stands in the log: its index, the path to the root, the signed tree head. Checkable offline."""

    index: int
    path: tuple[bytes, ...]
    head: bytes  # A note.
    extra: bytes = b""  # Opaque, and vouched for by nobody.

    def data(self) -> bytes:
        extra = [f"extra {base64.b64encode(self.extra).decode()}"] if self.extra else []
        path = (base64.b64encode(each).decode() for each in self.path)
        lines = ["c2sp.org/tlog-proof@v1", *extra, f"index {self.index}", *path]
        return ("\n".join(lines) + "\n\n").encode() + self.head

    @classmethod
    def parse(cls, data: bytes) -> "Proof":
        """The proof in these bytes, unverified. Raises `Refused(BAD_PROOF)`."""
        first, *lines, head = _upper(data)
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = _base64(lines[0][6:], 0)
            lines = lines[1:]
        if first != "c2sp.org/tlog-proof@v1" or not lines or not lines[0].startswith("index ") or not head:
            raise Refused(Refusal.BAD_PROOF, "not a c2sp.org/tlog-proof@v1")
        return cls(_number(lines[0][6:]), _path(lines[1:]), head.encode(), extra)

    def verify(self, leaf_hash: bytes, keys: note.Keys) -> TreeHead:
        """The head under which this leaf is proven to stand. Raises `Refused`."""
        head = open_head(self.head, keys)
        merkle.verify_inclusion(leaf_hash, self.index, head.size, head.root, list(self.path))
        return head


def tile_path(level: int | str, number: int, width: int = WIDTH) -> str:
    """Where a tile lies: `tile/0/x001/234.p/17`. Level `entries` is the entry bundle beside tile level 0."""
    assert 1 <= width <= WIDTH
    parts = [f"{number % 1000:03}"]
    while number := number // 1000:
        parts.append(f"x{number % 1000:03}")
    return f"tile/{level}/{'/'.join(reversed(parts))}" + (f".p/{width}" if width < WIDTH else "")


def tiles(size: int, since: int = 0) -> Iterator[tuple[int, int, int]]:
    """(level, number, width) of each tile of a tree of this size that a tree of size `since` did not have."""
    level = 0
    while now := size >> 8 * level:
        before = since >> 8 * level
        if now > before:
            for number in range(before // WIDTH, -(-now // WIDTH)):
                yield level, number, min(WIDTH, now - number * WIDTH)
        level += 1


def pack(entries: Iterable[bytes]) -> bytes:
    """An entry bundle: each entry behind its length in 16 bits."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises `Refused(CORRUPT)` if the last one is cut."""
    entries, at, size = list[bytes](), 0, len(data)
    while at < size:
        end = at + 2 + (data[at] << 8 | data[at + 1]) if at + 1 < size else size + 1
        if end > size:
            raise Refused(Refusal.CORRUPT, f"an entry bundle ends in the middle of its entry {len(entries)}")
        entries.append(data[at + 2 : end])
        at = end
    return entries
