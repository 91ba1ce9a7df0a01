"""Files that are there after a crash, whole, or not at all."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put these bytes at this path, for good: written aside, flushed to the disk, moved into place, folder flushed."""
    with writing(path, mode) as file:
        file.write(data)


@contextmanager
def writing(path: Path, mode: int = 0o644, named: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
    """A file, to be written and read, that is at this path for good when the block ends; not at all if it raises.

    Its name may be said at the end, by `named`.
    """
    aside = _aside(path)
    try:
        with os.fdopen(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    aside.replace(path.with_name(named()) if named else path)
    sync_folder(path.parent)


def link(file: Path, path: Path) -> None:
    """Let a file of the same disk, which is whole and never written again, be at this path too, for good."""
    aside = _aside(path)
    aside.unlink(missing_ok=True)
    os.link(file, aside)
    aside.replace(path)
    aside.unlink(missing_ok=True)  # Nothing is replaced where both were one file already (rename(2)).
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make this folder, and those it lies in, for good."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush which files this folder has."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _aside(path: Path) -> Path:
    """A name beside this one that no other process or thread writes to."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")


def show(path: Path, what: dict[str, Any]) -> None:
    """Put this JSON at this path for whoever looks; whole, but not flushed: it is only worth something now."""
    aside = _aside(path)
    aside.write_text(json.dumps(what))
    aside.replace(path)
