"""A published log, read from wherever it lies: a folder, a zip file or the ledger's address. Standard library only.

A bundle is nothing but the log as C2SP tlog-tiles lays it out: `checkpoint` and `tile/...`. What is read is not
believed.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared_models.ledger_http import LedgerHttp
from shared_models.records import note, tlog
from shared_models.records.refusals import Refusal, Refused

Read = Callable[[str], bytes]  # From a path of the log to its bytes. Raises Refused(NOT_FOUND).


@dataclass(frozen=True, slots=True)
class Published:
    """What a log has published: its head as a note, its entries, and the leaf hashes of its tiles."""

    head: bytes
    leaves: list[bytes]
    hashes: list[bytes]


def reader(where: str) -> Read:
    """The way to the log at this place. Raises `Refused(NOT_FOUND)` if nothing is there."""
    if where.startswith(("http://", "https://")):
        return LedgerHttp(where, patience_s=2.0).read
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


def fetch(read: Read) -> Published:
    """Everything that the newest head speaks of. Raises `Refused` if a part of it is missing."""
    head = read(tlog.HEAD)
    leaves, hashes = list[bytes](), list[bytes]()
    for path, data in _files(head, read):
        if path.startswith("tile/entries/"):
            leaves += tlog.unpack(data)
        elif path.startswith("tile/0/"):
            hashes += [data[at : at + 32].ljust(32, b"\0") for at in range(0, len(data), 32)]
    return Published(head, leaves, hashes)


def save(read: Read, folder: Path) -> None:
    """Copy the log into a folder, as it stands, so that it can be audited where there is no network."""
    head = read(tlog.HEAD)
    for path, data in _files(head, read):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / tlog.HEAD).write_bytes(head)  # Last: a head is only there with all that it speaks of.


def _files(head: bytes, read: Read) -> Iterator[tuple[str, bytes]]:
    size = tlog.parse_head(note.parse(head).text).size
    for level, number, width in tlog.tiles(size):
        for kind in (level, "entries") if level == 0 else (level,):
            path = tlog.tile_path(kind, number, width)
            yield path, read(path)
