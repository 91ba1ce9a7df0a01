"""The ledger over HTTP. Routes carry, they do not decide; `shared_models.ledger_http` lists them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ledger.log import Log
from shared_models.ledger_http import PROBLEM, LedgerHttp
from shared_models.records import tlog
from shared_models.records.entry import MAX_BYTES
from shared_models.records.refusals import Refusal, Refused

_STATUS = {
    Refusal.CONFLICT: 409,
    Refusal.NOT_FOUND: 404,
    Refusal.TOO_LARGE: 413,
    Refusal.STOPPED: 503,
    Refusal.CORRUPT: 500,
    Refusal.BAD_FIELD: 422,
}

Index = Annotated[int, Query(ge=0, le=2**63 - 1)]


def create_app(log: Log) -> FastAPI:
    """The service for an open log."""
    app = FastAPI(title="Consortium ledger", version="1")

    @app.middleware("http")
    async def bounded(request: Request, call_next):  # type: ignore[no-untyped-def]
        # Before the body is read: a sender that does not say how much it sends, or says too much, sends nothing.
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not (length.isdigit() and int(length) <= MAX_BYTES):
            return _problem(request, Refused(Refusal.TOO_LARGE, f"a body of {length or 'unknown'} bytes"))
        return await call_next(request)

    @app.post("/v1/entries", status_code=201)
    def append(leaf: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
        """Append a signed record; the answer is its place in the log and the proof of it."""
        new, proof = log.append(leaf)
        return Response(proof.data(), 201 if new else 200, media_type="text/plain; charset=utf-8")

    @app.get("/v1/inclusion")
    def inclusion(index: Index, size: Index) -> dict[str, list[str]]:
        return {"path": [each.hex() for each in log.inclusion(index, size)]}

    @app.get("/v1/consistency")
    def consistency(old: Index, new: Index) -> dict[str, list[str]]:
        return {"path": [each.hex() for each in log.consistency(old, new)]}

    @app.get("/v1/authors/{author:path}")
    def last(author: str) -> dict[str, int | str]:
        newest = log.last(author)
        return {"seq": newest.seq, "hash": newest.hash, "index": newest.at}

    @app.get("/v1/runs")
    def runs() -> dict[str, list[dict[str, object]]]:
        return {"runs": [{"manifest": leaf.decode(), "consents": who} for leaf, who in log.runs()]}

    @app.get("/checkpoint")
    def head() -> Response:
        return Response(
            log.published(tlog.HEAD),
            media_type="text/plain; charset=utf-8",
            headers={"Cache-Control": "no-cache"},
        )

    @app.get("/tile/{path:path}")
    def tile(path: str) -> Response:
        return Response(
            log.published(f"tile/{path}"),
            media_type="application/octet-stream",
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )

    @app.get("/healthz")
    def health() -> dict[str, str | int]:
        return {"status": "ok", "size": log.books.tree.size}

    @app.exception_handler(Refused)
    def refused(request: Request, refusal: Refused) -> JSONResponse:
        return _problem(request, refusal)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        return _problem(request, Refused(Refusal.BAD_FIELD, f"{where}: {first['msg']}"))

    return app


def _problem(request: Request, refused: Refused) -> JSONResponse:
    """RFC 9457: what was refused, why, and what to do."""
    return JSONResponse(
        {
            "type": f"docs/refusals.md#{refused.refusal.value}",
            "title": refused.refusal.value.replace("_", " "),
            "status": _STATUS.get(refused.refusal, 422),
            "code": refused.refusal.value,
            "detail": refused.detail,
            "fix": refused.remedy,
            "instance": request.url.path,
        },
        _STATUS.get(refused.refusal, 422),
        media_type=PROBLEM,
    )


@contextmanager
def opened(folder: Path) -> Iterator[Log]:
    """The open log of this folder; an empty one begins with the charter that lies there. Raises `Refused`."""
    log = Log(folder)
    try:
        charter = folder / "charter.note"
        if log.books.tree.size == 0 and charter.is_file():
            log.append(charter.read_bytes())
        yield log
    finally:
        log.close()


def serve(folder: Path, host: str, port: int) -> None:
    """Serve the log in this folder until SIGTERM. One worker, because there is one writer. Raises `Refused`."""
    with opened(folder) as log:
        uvicorn.run(create_app(log), host=host, port=port, log_level="warning", access_log=False, ws="none")


@contextmanager
def serving(folder: Path, port: int) -> Iterator[LedgerHttp]:
    """Serve the log in this folder on loopback, from a thread of this process, for as long as the context lasts."""
    with opened(folder) as log:
        config = uvicorn.Config(create_app(log), port=port, log_level="error", access_log=False, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield LedgerHttp(f"http://127.0.0.1:{port}")
        finally:
            server.should_exit = True
            thread.join()
