"""What a log publishes, to the letter of C2SP: tree heads (tlog-checkpoint), offline proofs (tlog-proof), tiles
(tlog-tiles).

A *tree head* is the log's signed size and root. C2SP calls it a checkpoint; here a checkpoint is always weights.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared_models.records import merkle, note
from shared_models.records.keys import SigningKey
from shared_models.records.refusals import Refusal, Refused

WIDTH = 256  # Hashes in a full tile, entries in a full bundle.
HEAD = "checkpoint"  # The path of the newest tree head.
MAX_PROOF = 63

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


def _hash_line(line: str) -> bytes:
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or base64.b64encode(raw).decode() != line:
        raise Refused(Refusal.BAD_PROOF, f"{line[:60]!r} is not the base64 of a SHA-256 hash")
    return raw


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

    def sign(self, key: SigningKey) -> bytes:
        """The signed note of this head. The name of a log's key is its origin."""
        assert key.name == self.origin
        return note.sign(f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n", [key])


def open_head(data: bytes, keys: note.Keys) -> TreeHead:
    """The tree head in this note, signed by the log whose origin it names.

    Raises `Refused`: as `note.parse` and `note.verify`, BAD_PROOF if the text is no tree head, UNKNOWN_KEY if somebody
    signed but the log did not.
    """
    parsed = note.parse(data)
    signers = note.verify(parsed, keys)
    head = parse_head(parsed.text)
    if head.origin not in signers:
        raise Refused(Refusal.UNKNOWN_KEY, f"the log {head.origin[:80]} did not sign this head")
    return head


def parse_head(text: str) -> TreeHead:
    """The head that this text spells, signed or not. Raises `Refused(BAD_PROOF)`."""
    lines = text[:-1].split("\n")
    if len(lines) < 3 or "" in lines:
        raise Refused(Refusal.BAD_PROOF, "a tree head has three lines: origin, size, root")
    return TreeHead(lines[0], _number(lines[1]), _hash_line(lines[2]))


@dataclass(frozen=True, slots=True)
class Proof:
    """That one entry stands in the log: its index, the path to the root, the signed tree head. Checkable offline."""

    index: int
    path: tuple[bytes, ...]
    head: bytes  # A note.

    def data(self) -> bytes:
        lines = ["c2sp.org/tlog-proof@v1", f"index {self.index}", *(base64.b64encode(h).decode() for h in self.path)]
        return ("\n".join(lines) + "\n\n").encode() + self.head

    @classmethod
    def parse(cls, data: bytes) -> "Proof":
        """The proof in these bytes, unverified. An `extra` line is allowed and dropped: nobody vouches for it.

        Raises `Refused(BAD_PROOF)`.
        """
        try:
            upper, _, head = data.decode().partition("\n\n")
        except UnicodeDecodeError:
            raise Refused(Refusal.BAD_PROOF, "a proof is UTF-8 text") from None
        first, *lines = upper.split("\n")
        if lines and lines[0].startswith("extra "):
            lines = lines[1:]
        if first != "c2sp.org/tlog-proof@v1" or not lines or not lines[0].startswith("index ") or not head:
            raise Refused(Refusal.BAD_PROOF, "not a c2sp.org/tlog-proof@v1")
        if len(lines) > MAX_PROOF + 1:
            raise Refused(Refusal.BAD_PROOF, f"a path of {len(lines) - 1} hashes; at most {MAX_PROOF}")
        return cls(_number(lines[0][6:]), tuple(_hash_line(line) for line in lines[1:]), head.encode())

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
    entries, at = list[bytes](), 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise Refused(Refusal.CORRUPT, f"an entry bundle ends in the middle of its entry {len(entries)}")
        entries.append(data[at + 2 : end])
        at = end
    return entries
