"""The files of the artefacts: served to members that have access, and said so themselves, in the log, before; and taken
in from who has published them.

    GET|HEAD /v1/artefacts/SHA256?access=INDEX    the file, or the part of it that `Range` asks for
    PUT      /v1/artefacts/SHA256                 the piece of it that `Content-Range` names; `bytes */SIZE`: none

The files stand on a shelf (shared_models/shelf.py), which is not trusted. They are read as fast as they are taken, a
piece at a time. What comes is kept in the shelf's spool until it is whole: who was broken off asks how much is here.
"""

import base64
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ledger.log import Log
from ledger.signers import signer
from shared_models import durable, http_answers, http_signatures
from shared_models.http_answers import PROBLEM, problem
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import Shelf


class Desk:
    """Where the artefacts of one open log are handed out."""

    def __init__(self, log: Log, shelf: Shelf) -> None:
        self._log, self._shelf, self._intake = log, shelf, Intake(shelf)

    def answer(self, request: Request, artefact: str, access: int) -> Response:
        """The response to a request for an artefact, if all of this holds.

        1. It is signed by a compute key that counts: method, path and query, and the range where there is one, not
           long ago.
        2. The entry it cites is in the log, on the disk, and is this member's access to this artefact.
        3. The member has access now, too.
        4. The file is here, and as long as the log says.

        Raises `Refused`: BAD_SIGNATURE, STALE, UNKNOWN_KEY, REVOKED, WRONG_MEMBER, NOT_FOUND, NO_ACCESS, NOT_SET_UP,
        CORRUPT, UNREACHABLE. Bytes that the file does not have are answered with BAD_RANGE and the file's size.
        """
        member = signed_by(self._log, request, "compute", "range")
        record = self._log.granted(member, artefact, access)
        size = self._shelf.size(artefact)
        if size is None:
            raise Refused(Refusal.NOT_SET_UP, f"artefact {artefact} is not on the ledger's shelf")
        if size != record.size:
            raise Refused(Refusal.CORRUPT, f"artefact {artefact} is {size:,} bytes here, {record.size:,} in the log")
        return response(request, self._shelf, record.artefact, record.size, bytes.fromhex(record.artefact))

    def upload(self, request: Request, artefact: str, piece: bytes) -> int:
        """Take in a piece of an artefact's file; how many bytes of it are here then, all of them once it is served.

        1. The entry that registers it is in the log, on the disk.
        2. The request is signed, not long ago, by the publisher's key: where the piece belongs, and its digest.
        3. The piece is the one that was signed, and no gap is before it.
        4. There is room for the file, twice over: an upload fills no disk that the log is on.
        5. The whole has the SHA-256 that is its name, or nothing of it is kept.

        Raises `Refused`: NOT_FOUND, BAD_SIGNATURE, STALE, UNKNOWN_KEY, REVOKED, WRONG_MEMBER, BAD_RANGE, TOO_LARGE,
        CORRUPT, UNREACHABLE; BUSY while another request is at this file.
        """
        record = self._log.registered(artefact)
        role = "coordinator" if record.publisher == self._log.books.charter.consortium else "admin"
        signer = signed_by(self._log, request, role, "content-range", "content-digest")
        if signer != record.publisher:
            raise Refused(Refusal.WRONG_MEMBER, f"{record.publisher} has published {artefact[:12]}…, not {signer}")
        start, size = placed(request, piece)
        if size != record.size:
            said = request.headers["content-range"]
            raise Refused(Refusal.BAD_RANGE, f"{said[:80]!r}; the file has {record.size:,}")
        return self._intake.take(artefact, start, size, piece, lambda path: _check_whole(artefact, path))


class Intake:
    """Takes in files for a shelf, a piece at a time: who was broken off asks how much is here."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._turn, self._coming = threading.Lock(), set[str]()

    def take(
        self, name: str, start: int, size: int, piece: bytes, check: Callable[[Path], None] = lambda _: None
    ) -> int:
        """Take in a piece of the file of this name, which begins here; how many bytes of its size are here then.

        `check` raises `Refused` for a file that is whole and wrong: nothing of it is kept. Raises `Refused`: BAD_RANGE
        if there is a gap before it, TOO_LARGE if there is no room for the file twice over, for an upload is to fill no
        disk that the log is on; UNREACHABLE; BUSY while another request is at this file.
        """
        if self._shelf.size(name) == size:
            return size
        with self._alone(name):
            path = self._shelf.spool / f".{name}.part"
            here = path.stat().st_size if path.exists() else 0
            if here > size:  # Of a file of this name that was another one.
                path.unlink()
                here = 0
            if start > here:
                raise Refused(Refusal.BAD_RANGE, f"{here:,} bytes are here, the piece begins behind {start:,}")
            durable.make_folder(self._shelf.spool)
            room = shutil.disk_usage(self._shelf.spool).free // 2
            if size - here > room:
                raise Refused(Refusal.TOO_LARGE, f"{size - here:,} bytes are to come, there is room for {room:,}")
            if piece:
                _write(path, start, piece)
                here = max(here, start + len(piece))
            if here == size:
                try:
                    check(path)
                except Refused:
                    path.unlink()
                    raise
                self._shelf.take(name, path)
            return here

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """No other request writes this file."""
        with self._turn:
            if name in self._coming:
                raise Refused(Refusal.BUSY, f"another request is at {name[:12]}…")
            self._coming.add(name)
        try:
            yield
        finally:
            self._coming.discard(name)


def _check_whole(artefact: str, path: Path) -> None:
    with path.open("rb") as file:
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
    if hashed != artefact:
        raise Refused(Refusal.CORRUPT, f"what came as {artefact[:12]}… hashes to {hashed[:12]}…")


def signed_by(log: Log, request: Request, roles: str, *fields: str) -> str:
    """Who has signed this request, by a key of one of these roles that counts: method, path, query, and these fields as
    far as they are there.

    Raises `Refused`: BAD_SIGNATURE, UNKNOWN_KEY if it is no key of such a role, REVOKED, STALE.
    """
    asked = roles.split()
    key = signer(
        request,
        lambda name, key_id: log.books.keys.get((name, key_id)) if name.rpartition("/")[2] in asked else None,
        *fields,
    )
    log.books.keyring.check_counts(key.name, key.id)
    return key.name.rpartition("/")[0]


def placed(request: Request, piece: bytes) -> tuple[int, int]:
    """(where this piece begins, the size of the file) by a request whose `Content-Digest` was signed, and is right.

    Raises `Refused`: BAD_SIGNATURE, BAD_RANGE.
    """
    if request.headers.get("content-digest") != http_signatures.digest(piece):
        raise Refused(Refusal.BAD_SIGNATURE, "Content-Digest is not that of these bytes")
    return http_answers.piece(request.headers.get("content-range", ""), len(piece))


def _write(path: Path, start: int, piece: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
        file.seek(start)
        file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def response(request: Request, shelf: Shelf, name: str, size: int, digest: bytes | None = None) -> Response:
    """A file of the shelf, or the part of it that was asked for; its SHA-256, if that is known.

    Bytes that it does not have are answered with BAD_RANGE and the file's size.
    """
    etag = f'"{name}"'
    headers = {"Accept-Ranges": "bytes", "ETag": etag}
    if digest is not None:
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(digest).decode()}:"
    start, end, status = 0, size, 200
    said = ", ".join(request.headers.getlist("range"))
    asked = http_answers.wanted(said, size) if request.headers.get("if-range", etag) == etag else None
    if asked is not None and request.method == "GET":  # A range means nothing to another method (RFC 9110, 14.2).
        (start, end), status = asked, 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if start >= end:
            refused = Refused(Refusal.BAD_RANGE, f"{request.headers['range']} of {size:,} bytes")
            headers["Content-Range"] = f"bytes */{size}"
            return JSONResponse(problem(refused, request.url.path), 416, headers, PROBLEM)
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(shelf.read(name, start, end), status, headers, "application/octet-stream")
