"""The Merkle tree of RFC 9162 §2.1 (SHA-256): roots, inclusion proofs, consistency proofs, and their verification."""

import threading
from collections.abc import Iterable
from hashlib import sha256
from struct import iter_unpack

from shared_models.records.refusals import Refusal, Refused

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A Merkle tree that only grows, and remembers the hash of every complete subtree: 64 bytes for each entry.

    `root`, `inclusion` and `consistency` work for every size the tree ever had, in O(log n) hashes.
    """

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]  # _levels[k] holds MTH(D[i·2^k : (i+1)·2^k]) for i = 0, 1, ...
        self._turn = threading.Lock()  # One thread appends; several may ask.

    @property
    def size(self) -> int:
        return len(self._levels[0]) // 32

    def append(self, hashed: bytes) -> None:
        """Add the hash of a leaf."""
        assert len(hashed) == 32
        self._levels[0].extend(hashed)

    def extend(self, hashes: Iterable[bytes]) -> None:
        """Add the hashes of leaves that stand one behind another."""
        for hashed in hashes:
            self.append(hashed)

    def _complete(self) -> None:
        """Hash what was appended since the last time, a level at a time: in a row, it costs half."""
        with self._turn:
            for below in range(64):
                level = self._levels[below]
                if len(level) < 64:
                    return
                if below + 1 == len(self._levels):
                    self._levels.append(bytearray())
                above = self._levels[below + 1]
                new = bytes(level[2 * len(above) : len(level) // 64 * 64])
                above += b"".join([sha256(b"\x01" + pair).digest() for (pair,) in iter_unpack("64s", new)])

    def hashes(self, level: int, start: int, end: int) -> bytes:
        """The hashes of the complete subtrees of 2^level leaves, number start to end, one after another."""
        if level and (level >= len(self._levels) or len(self._levels[level]) < 32 * end):
            self._complete()
            if level >= len(self._levels):
                return b""
        return bytes(self._levels[level][32 * start : 32 * end])

    def leaf(self, index: int) -> bytes:
        """The hash of one leaf."""
        return self.hashes(0, index, index + 1)

    def _range(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]), where start is a multiple of the largest power of two below end - start."""
        width = end - start
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self.hashes(level, start >> level, (start >> level) + 1)
        split = start + _split(width)
        return node_hash(self._range(start, split), self._range(split, end))

    def root(self, size: int | None = None) -> bytes:
        """The root of the tree as it was at this size; as it is, by default."""
        size = self.size if size is None else size
        assert 0 <= size <= self.size
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The audit path of leaf `index` in the tree of `size` leaves, from its sibling up (RFC 9162 §2.1.3.1)."""
        assert 0 <= index < size <= self.size
        start, end, path = 0, size, list[bytes]()
        while end - start > 1:
            split = start + _split(end - start)
            if index < split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(start, split))
                start = split
        return path[::-1]

    def run(self, start: int, end: int, size: int) -> list[bytes]:
        """What proves that the leaves from `start` to `end` stand one behind another in the tree of `size` leaves.

        The hashes of all subtrees beside them, from left to right. For many leaves in a row this is not much more than
        one inclusion proof.
        """
        assert 0 <= start < end <= size <= self.size
        path = list[bytes]()

        def walk(low: int, high: int) -> None:
            if high <= start or end <= low:
                path.append(self._range(low, high))
            elif low < start or end < high:
                split = low + _split(high - low)
                walk(low, split)
                walk(split, high)

        walk(0, size)
        return path

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `old` leaves is a beginning of that of `new` leaves (RFC 9162 §2.1.4.1).

        From size 0 it is empty: every tree begins with nothing.
        """
        assert 0 <= old <= new <= self.size
        if old in (0, new):
            return []
        start, end, whole, path = 0, new, True, list[bytes]()
        while old != end:
            split = start + _split(end - start)
            if old <= split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(start, split))
                start, whole = split, False
        if not whole:
            path.append(self._range(start, end))
        return path[::-1]


def _split(width: int) -> int:
    """The largest power of two smaller than width."""
    return 1 << (width - 1).bit_length() - 1


def verify_inclusion(leaf: bytes, index: int, size: int, root: bytes, path: list[bytes]) -> None:
    """Prove that the leaf with this hash stands at `index` in the tree of `size` leaves (RFC 9162 §2.1.3.2).

    Raises `Refused(BAD_PROOF)`.
    """
    if not 0 <= index < size:
        raise Refused(Refusal.BAD_PROOF, f"there is no leaf {index} in a tree of {size}")
    node, last, hashed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise Refused(Refusal.BAD_PROOF, "the inclusion proof is too long")
        if node & 1 or node == last:
            hashed = node_hash(sibling, hashed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        node, last = node >> 1, last >> 1
    if last or hashed != root:
        raise Refused(
            Refusal.BAD_PROOF, f"the inclusion proof of entry {index} does not lead to the root of size {size}"
        )


def verify_run(leaves: list[bytes], start: int, size: int, root: bytes, path: list[bytes]) -> None:
    """Prove that leaves with these hashes stand from `start` on in the tree of `size` leaves (see `Tree.run`).

    Raises `Refused(BAD_PROOF)`.
    """
    end, beside = start + len(leaves), iter(path)

    def walk(low: int, high: int) -> bytes:
        if high <= start or end <= low:
            hashed = next(beside, None)
            if hashed is None:
                raise Refused(Refusal.BAD_PROOF, f"the proof of entries {start} to {end} is too short")
            return hashed
        if high - low == 1:
            return leaves[low - start]
        split = low + _split(high - low)
        return node_hash(walk(low, split), walk(split, high))

    if not 0 <= start < end <= size:
        raise Refused(Refusal.BAD_PROOF, f"there are no entries {start} to {end} in a tree of {size}")
    if walk(0, size) != root or next(beside, None) is not None:
        raise Refused(
            Refusal.BAD_PROOF, f"the proof of entries {start} to {end} does not lead to the root of size {size}"
        )


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: list[bytes]) -> None:
    """Prove that the tree of `old` leaves is a beginning of that of `new` leaves (RFC 9162 §2.1.4.2).

    From size 0 the proof is empty, and so it is between equal sizes. Raises `Refused(BAD_PROOF)`.
    """
    bad = Refused(Refusal.BAD_PROOF, f"the tree of size {new} does not begin with the tree of size {old}")
    if old > new or old < 0:
        raise bad
    if old == 0 or old == new:
        if path or (old_root != new_root if old == new else old_root != EMPTY_ROOT):
            raise bad
        return
    path = [old_root, *path] if old & (old - 1) == 0 else path
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    if not path:
        raise bad
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise bad  # Too long.
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    if last or first != old_root or second != new_root:
        raise bad
