"""The folder that a log publishes: tiles, entry bundles, heads. Any static server can hand it out.

Not trusted: what is read back is compared with the tree before it is served.
"""

import shutil
from pathlib import Path
from typing import Protocol

from shared_models import durable


class Public(Protocol):
    """Files by path."""

    def read(self, path: str) -> bytes | None:
        """What is there, or None."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Put it there, whole and for good. Raises OSError."""
        ...

    def drop(self, path: str) -> None:
        """Remove a folder, if it is there."""
        ...


class PublicFolder:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def put(self, path: str, data: bytes) -> None:
        target = self.folder / path
        durable.make_folder(target.parent)
        durable.write(target, data)

    def drop(self, path: str) -> None:
        shutil.rmtree(self.folder / path, ignore_errors=True)
