"""Publishing a model: its name and what it was made from go into the log, its file onto the ledger's shelf."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from shared_models import durable
from shared_models.folder import Folder
from shared_models.ledger_http import LedgerHttp
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Artefact, Checkpoint
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import PIECE_BYTES, Shelf


class Published(NamedTuple):
    """The name of an artefact, and the index of its entry."""

    sha256: str
    at: int


def publish(
    home: Folder,
    ledger: LedgerHttp,
    key: SigningKey,
    file: Path,
    *,
    form: str,
    checkpoints: tuple[Checkpoint, ...] = (),
    parents: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    shelf: Shelf | None = None,
) -> Published:
    """Register this file as an artefact of the key's holder, and upload it. The same again goes on where it broke off.

    With a shelf it is put there instead, before the log names it. What was signed stays in the folder: were it signed
    anew, it would be another text under one name, which proves that its author said two things. Raises `Refused`:
    NOT_FOUND without a file, CONFLICT if it was published as something else, or as the shelf and the ledger.
    """
    try:
        sha256, size = _copied(file, shelf)
    except FileNotFoundError as error:
        raise Refused(Refusal.NOT_FOUND, f"{error.filename}: {error.strerror}") from None
    record = Artefact(
        seq=0,
        prev=FIRST,
        publisher=key.name.rpartition("/")[0],
        artefact=sha256,
        size=size,
        form=form,
        checkpoints=checkpoints,
        parents=parents,
        without=without,
    )
    durable.make_folder(home.path / "published")
    note = home.path / "published" / f"{sha256}.note"
    said = entries.peek(note.read_bytes()) if note.is_file() else None
    if isinstance(said, Artefact) and replace(said, seq=0, prev=FIRST) != record:
        raise Refused(Refusal.CONFLICT, f"{sha256[:12]}… was published as something else: {note} has it")
    at = home.say(ledger, key, record, note)[1].index
    if shelf is None:
        with file.open("rb") as source:
            ledger.upload(sha256, size, source, key)
    return Published(sha256, at)


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
