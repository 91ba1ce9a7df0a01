"""Where the files of artefacts lie, each under its SHA-256: in a folder, or as objects of S3 or the like.

A shelf is not trusted: who can write there can make a download fail, and whoever fetches hashes what came. A file
stands on it whole, or not at all, and is read a piece at a time: its size costs no memory.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from shared_models import durable
from shared_models.records.refusals import Refusal, Refused

PIECE_BYTES = 1 << 20  # Of a file;
OBJECT_BYTES = 8 << 20  # of an object, each a request of its own: one that lasts is cut off after 30 s.
RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}  # Somebody waits for the answer meanwhile.


class Shelf(Protocol):
    """What the ledger, and who publishes, asks of a place for files."""

    spool: Path  # A folder of this machine in which a file is written until it is whole.

    def size(self, name: str) -> int | None:
        """How many bytes stand under this name; None where there is nothing. Raises `Refused(UNREACHABLE)`."""

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes from start to end. What is cut off meanwhile ends early."""

    def take(self, name: str, file: Path) -> None:
        """Put a file of the spool, which is on the disk, under this name, for good. Raises `Refused(UNREACHABLE)`."""


class FolderShelf:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder  # On the same disk: what is whole is only renamed.

    def size(self, name: str) -> int | None:
        try:
            return (self.spool / name).stat().st_size
        except OSError:
            return None

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        with (self.spool / name).open("rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(PIECE_BYTES, end - start))):
                start += len(piece)
                yield piece

    def take(self, name: str, file: Path) -> None:
        file.replace(self.spool / name)
        durable.sync_folder(self.spool)


class ObjectShelf:
    """A bucket, or a part of one, by its URL; keys and endpoint as the environment has them: AWS_ACCESS_KEY_ID, ...

    Raises `Refused`: NOT_SET_UP without the library, BAD_FIELD for a URL that it does not know.
    """

    def __init__(self, url: str, spool: Path) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise Refused(Refusal.NOT_SET_UP, f"{url}: pip install 'training-consortium[s3]'") from None
        self.spool, self._objects, self._errors = spool, obstore, (BaseError, OSError)
        try:
            self._store: Any = from_url(url, retry_config=RETRY)
        except (BaseError, ValueError) as error:
            raise Refused(Refusal.BAD_FIELD, f"{url} is no place for objects: {_first_line(error)}") from None

    def size(self, name: str) -> int | None:
        try:
            return int(self._objects.head(self._store, name)["size"])
        except FileNotFoundError:
            return None
        except self._errors as error:
            raise Refused(Refusal.UNREACHABLE, f"the shelf: {_first_line(error)}") from None

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            try:
                piece = self._objects.get_range(self._store, name, start=start, end=min(start + OBJECT_BYTES, end))
            except self._errors:
                return
            start += len(piece)
            yield bytes(piece)

    def take(self, name: str, file: Path) -> None:
        try:
            self._objects.put(self._store, name, file, chunk_size=2 * OBJECT_BYTES, max_concurrency=2)
        except self._errors as error:
            raise Refused(Refusal.UNREACHABLE, f"the shelf: {_first_line(error)}") from None
        file.unlink()


def open_shelf(where: str, spool: Path) -> Shelf:
    """The shelf at this URL, with this folder for what is not whole; or in a folder. Raises `Refused`."""
    return ObjectShelf(where, spool) if "://" in where else FolderShelf(Path(where))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]
