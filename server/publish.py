"""Publishing a model: its file onto the ledger's shelf, then its name and what it was made from into the log."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from server.home import Home
from shared_models import durable
from shared_models.ledger_http import LedgerHttp
from shared_models.records.kinds import FIRST, Artefact, Checkpoint
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import PIECE_BYTES, Shelf


class Published(NamedTuple):
    """The name of an artefact, and the index of its entry."""

    sha256: str
    at: int


def publish(
    home: Home,
    file: Path,
    checkpoints: tuple[Checkpoint, ...],
    parents: tuple[str, ...],
    form: str,
    shelf: Shelf | None,
) -> Published:
    """Register this file as an artefact. With a shelf it stands there, under its SHA-256, before the log names it.

    Raises `Refused`: NOT_FOUND without a file, or as the shelf and the ledger, CONFLICT if it is registered already.
    """
    try:
        sha256, size = _copied(file, shelf)
    except FileNotFoundError as error:
        raise Refused(Refusal.NOT_FOUND, f"{error.filename}: {error.strerror}") from None
    record = Artefact(
        seq=0,
        prev=FIRST,
        publisher=home.charter.consortium,
        artefact=sha256,
        size=size,
        form=form,
        checkpoints=checkpoints,
        parents=parents,
    )
    return Published(sha256, home.say(LedgerHttp(home.settings.ledger), home.key, record)[1].index)


def _copied(file: Path, shelf: Shelf | None) -> tuple[str, int]:
    """(SHA-256, bytes) of a file. What stands on the shelf is what was hashed, whatever becomes of the file."""
    hashed, size, aside = hashlib.sha256(), 0, Path(os.devnull)
    if shelf is not None:
        durable.make_folder(shelf.spool)
        aside = shelf.spool / f".{file.name}.{os.getpid()}"
    with file.open("rb") as source, aside.open("wb") as copy:
        while piece := source.read(PIECE_BYTES):
            hashed.update(piece)
            copy.write(piece)
            size += len(piece)
        if shelf is not None:
            copy.flush()
            os.fsync(copy.fileno())
    if shelf is not None:
        try:
            shelf.take(hashed.hexdigest(), aside)
        finally:
            aside.unlink(missing_ok=True)
    return hashed.hexdigest(), size
