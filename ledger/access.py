"""The files of the artefacts: served to members that have access, and said so themselves, in the log, before.

    GET|HEAD /v1/artefacts/SHA256?access=INDEX    the file, or the part of it that `Range` asks for

The files stand on a shelf (shared_models/shelf.py), which is not trusted. They are read as fast as they are taken, a
piece at a time.
"""

import base64
import re
import time

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ledger.hot import problem
from ledger.log import Log
from shared_models import http_signatures
from shared_models.ledger_http import PROBLEM
from shared_models.records.kinds import Artefact
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import Shelf

FRESH_S = 300  # A signature is good for so long: clocks differ, and who listens could use it again.

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_KEY_ID = re.compile(r"(([^/+]+)/compute)\+([0-9a-f]{8})")


class Desk:
    """Where the artefacts of one open log are handed out."""

    def __init__(self, log: Log, shelf: Shelf) -> None:
        self._log, self._shelf = log, shelf

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
        member = self._signer(request)
        record = self._log.granted(member, artefact, access)
        size = self._shelf.size(artefact)
        if size is None:
            raise Refused(Refusal.NOT_SET_UP, f"artefact {artefact} is not on the ledger's shelf")
        if size != record.size:
            raise Refused(Refusal.CORRUPT, f"artefact {artefact} is {size:,} bytes here, {record.size:,} in the log")
        return _response(request, record, self._shelf)

    def _signer(self, request: Request) -> str:
        headers = request.headers
        signature = http_signatures.parse(headers.get("signature-input", ""), headers.get("signature", ""))
        parts = {"@method": request.method, "@path": request.url.path, "@query": f"?{request.url.query}"}
        if "range" in headers:
            parts["range"] = ", ".join(headers.getlist("range"))
        if set(signature.covered) != set(parts):
            raise Refused(Refusal.BAD_SIGNATURE, f"it covers {' '.join(signature.covered)}, not {' '.join(parts)}")
        named = _KEY_ID.fullmatch(signature.parameters.get("keyid", ""))
        key = self._log.books.keys.get((named[1], bytes.fromhex(named[3]))) if named else None
        if named is None or key is None:
            raise Refused(Refusal.UNKNOWN_KEY, "keyid is not MEMBER/compute+ID of a key in the log")
        signature.check(parts, key)
        self._log.books.keyring.check_counts(key.name, key.id)
        created, now = signature.parameters.get("created", ""), int(time.time())
        if not created.isdigit() or abs(now - int(created)) > FRESH_S:
            raise Refused(Refusal.STALE, f"signed at {created or 'no time'}, it is {now}")
        return named[2]


def _response(request: Request, record: Artefact, shelf: Shelf) -> Response:
    etag = f'"{record.artefact}"'
    digest = base64.b64encode(bytes.fromhex(record.artefact)).decode()
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Repr-Digest": f"sha-256=:{digest}:"}
    start, end, status = 0, record.size, 200
    asked = _range(request, record.size) if request.headers.get("if-range", etag) == etag else None
    if asked is not None and request.method == "GET":  # A range means nothing to another method (RFC 9110, 14.2).
        (start, end), status = asked, 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{record.size}"
        if start >= end:
            refused = Refused(Refusal.BAD_RANGE, f"{request.headers['range']} of {record.size:,} bytes")
            headers["Content-Range"] = f"bytes */{record.size}"
            return JSONResponse(problem(refused, request.url.path), 416, headers, PROBLEM)
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(shelf.read(record.artefact, start, end), status, headers, "application/octet-stream")


def _range(request: Request, size: int) -> tuple[int, int] | None:
    """From where to where, the end not included: empty where the file has no such bytes.

    None where the whole is the answer: no range, several, or nothing that is one.
    """
    found = _RANGE.fullmatch(", ".join(request.headers.getlist("range")))
    if found is None or not (found[1] or found[2]) or (found[1] and found[2] and int(found[2]) < int(found[1])):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
