"""A published log, read from wherever it lies: a folder, a zip file or the ledger's address. Standard library only.

A bundle is nothing but the log as C2SP tlog-tiles lays it out, `checkpoint` and `tile/...`, and beside it the heads
that members have cosigned: `cosigned`, `witness/<member>`, `attest/<member>`. What is read is not believed.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shared_models.ledger_http import LedgerHttp
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Charter
from shared_models.records.refusals import Refusal, Refused

Read = Callable[[str], bytes]  # From a path of the log to its bytes. Raises Refused(NOT_FOUND).


@dataclass(frozen=True)
class Bundle:
    """Up to 256 entries in a row, and the tile of hashes that the log has published for them."""

    start: int
    entries: bytes  # As tlog-tiles packs them.
    tile: bytes

    @cached_property
    def leaves(self) -> list[bytes]:
        """Raises `Refused(CORRUPT)`."""
        return tlog.unpack(self.entries)

    @property
    def hashes(self) -> list[bytes]:
        """As many as there are in the tile; a last one that is cut is filled with zeros, which no entry hashes to."""
        return [self.tile[at : at + 32].ljust(32, b"\0") for at in range(0, len(self.tile), 32)]


@dataclass(frozen=True, slots=True)
class Published:
    """What a log has published: its head as a note, its entries, the leaf hashes of its tiles, cosigned heads."""

    head: bytes
    leaves: list[bytes]
    hashes: list[bytes]
    cosigned: list[bytes]


def reader(where: str, key: SigningKey | None = None) -> Read:
    """The way to the log at this place; a ledger is asked by this key. Raises `Refused(NOT_FOUND)` if it has none."""
    if where.startswith(("http://", "https://")):
        return LedgerHttp(where, patience_s=2.0, key=key).read
    path = Path(where)
    if path.is_dir():
        return lambda name: _or_not_found(name, (path / name).read_bytes)
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        return lambda name: _or_not_found(name, lambda: archive.read(name))
    raise Refused(Refusal.NOT_FOUND, f"{where} is no folder, no zip file and no address of a log")


def _or_not_found(name: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (OSError, KeyError):
        raise Refused(Refusal.NOT_FOUND, f"the log has no {name}") from None


def bundles(read: Read, size: int, since: int = 0) -> Iterator[Bundle]:
    """The entries of a log of this size, one bundle after another, from the one on that holds entry `since`.

    Raises `Refused` if a part of it is missing.
    """
    for start in range(since // tlog.WIDTH * tlog.WIDTH, size, tlog.WIDTH):
        yield bundle_at(read, start, min(tlog.WIDTH, size - start))


def bundle_at(read: Read, start: int, width: int) -> Bundle:
    """The bundle of so many entries that begins there. Raises `Refused` if it is missing."""
    number = start // tlog.WIDTH
    tile = read(tlog.tile_path(0, number, width))
    return Bundle(start, read(tlog.tile_path("entries", number, width)), tile)


def leaf_at(read: Read, index: int, size: int) -> bytes:
    """The entry at this index of a log of this size. Raises `Refused`: NOT_FOUND if it is not there."""
    found = next(bundles(read, size, since=index)).leaves if index < size else []
    if index % tlog.WIDTH >= len(found):
        raise Refused(Refusal.NOT_FOUND, f"the log of size {size} has no entry {index}")
    return found[index % tlog.WIDTH]


def cosigned(read: Read) -> Iterator[tuple[str, bytes]]:
    """(path, note) of each head that members have cosigned, as far as they are there. Of a log that is not empty."""
    for path in _cosigned_paths(read):
        try:
            yield path, read(path)
        except Refused as refused:
            if refused.refusal is not Refusal.NOT_FOUND:
                raise


def _cosigned_paths(read: Read) -> list[str]:
    first = next(bundles(read, tlog.unsigned(read(tlog.HEAD)).size), None)
    charter = entries.peek(first.leaves[0]) if first is not None and first.leaves else None
    members = [member.name for member in charter.members] if isinstance(charter, Charter) else []
    return ["cosigned", *(f"{role}/{member}" for role in ("witness", "attest") for member in members)]


def fetch(read: Read) -> Published:
    """Everything that the newest head speaks of. Raises `Refused` if a part of it is missing."""
    extra = [data for _, data in cosigned(read)]  # First, so that they are of sizes that the head includes.
    head = read(tlog.HEAD)
    leaves, hashes = list[bytes](), list[bytes]()
    for bundle in bundles(read, tlog.unsigned(head).size):
        leaves += bundle.leaves
        hashes += bundle.hashes
    return Published(head, leaves, hashes, extra)


def save(read: Read, folder: Path) -> None:
    """Copy the log into a folder, as it stands, so that it can be audited where there is no network."""
    extra = dict(cosigned(read))
    head = read(tlog.HEAD)
    for level, number, width in tlog.tiles(tlog.unsigned(head).size):
        for kind in (level, "entries") if level == 0 else (level,):
            path = tlog.tile_path(kind, number, width)
            _put(folder / path, read(path))
    for path, data in extra.items():
        _put(folder / path, data)
    _put(folder / tlog.HEAD, head)  # Last: a head is only there with all that it speaks of.


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
