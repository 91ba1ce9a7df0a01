"""The ledger over HTTP. Routes carry, they do not decide; `shared_models.ledger_http` lists them."""

import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ledger import metrics, openapi, pages
from ledger.access import Desk
from ledger.events import Events, Server
from ledger.guard import Guard
from ledger.hot import Hot, read_body
from ledger.invites import Invites
from ledger.limits import Limited, Limits
from ledger.log import Head, open_log
from ledger.openings import Shown
from ledger.projections import Projector
from ledger.ready import Ready
from ledger.sequencer import Sequencer
from ledger.settings import Settings
from ledger.witnesses import Witnesses
from shared_models import invites, release
from shared_models.http_answers import PROBLEM, problem
from shared_models.ledger_http import UPLOAD_BYTES, LedgerHttp
from shared_models.records import tlog
from shared_models.records.kinds import KINDS
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import FolderShelf, Shelf

SWITCH_S = 0.0005
EX_IOERR = 74  # sysexits.h.
GARBAGE = 50_000  # Objects made before the collector looks; most of ours are kept for ever, and in no cycle.

Index = Annotated[int, Query(ge=0, le=2**63 - 1)]
Number = Annotated[int, PathParameter(ge=1, le=2**63 - 1)]
Sha256 = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")]


def create_app(
    sequencer: Sequencer,
    shelf: Shelf,
    settings: Settings,
    events: Events | None = None,
) -> Hot:
    """The service for an open log, the queue in front of it, and the shelf with the files of its artefacts.

    Whoever stops it closes `events` first.
    """
    log = sequencer.log
    witnesses, projector, desk, asked = Witnesses(log), Projector(log), Desk(log, shelf), Invites(log)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with projector.following():
            yield

    # Neither FastAPI's document, which knows half of the API, nor its pages, which load a script from elsewhere.
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    ready = Ready(sequencer)

    async def fresh(request: Request, response: Response) -> None:
        """Nothing is answered again to who has it: these answers follow from the log, so its head names them.

        An entry that comes meanwhile may be in the answer already; then it is only fetched once more than needed.
        """
        tag = _tag(log.head)
        said = request.headers.get("if-none-match", "")
        if tag in said or said.strip() == "*":
            raise _Unchanged(tag)
        response.headers["ETag"], response.headers["Cache-Control"] = tag, "no-cache"

    of_the_log = [Depends(fresh)]

    @app.get("/v1/inclusion")
    def inclusion(index: Index, size: Index) -> dict[str, list[str]]:
        return {"path": [each.hex() for each in log.inclusion(index, size)]}

    @app.get("/v1/run")
    def run(start: Index, end: Index, size: Index) -> dict[str, list[str]]:
        return {"path": [each.hex() for each in log.run(start, end, size)]}

    @app.get("/v1/proof")
    def proof(index: Index) -> Response:
        return Response(log.proof(index).data(), media_type="text/plain; charset=utf-8")

    @app.get("/v1/consistency")
    def consistency(old: Index, new: Index) -> dict[str, str | list[str]]:
        path = log.consistency(old, new)
        return {"root": log.books.tree.root(old).hex(), "path": [each.hex() for each in path]}

    @app.get("/v1/add-checkpoint")
    def wanted(old: Index) -> Response:
        """The head that members are asked to cosign now, as C2SP tlog-witness has it."""
        return Response(witnesses.wanted(old).data(), media_type="text/plain; charset=utf-8")

    @app.post("/v1/cosigned")
    async def cosigned(request: Request) -> dict[str, int]:
        """Take in a head with members' cosignatures."""
        data = await read_body(request.scope, request.receive, tlog.HEAD_BYTES)
        return {"new": await run_in_threadpool(witnesses.accept, data)}

    @app.get("/v1/witnesses")
    def state() -> dict[str, dict[str, int]]:
        return witnesses.state()

    @app.get("/v1/keys", dependencies=of_the_log)
    def keys(since: Index = 0) -> dict[str, list[dict[str, object]]]:
        found = [(index, leaf) for index, leaf in log.books.about_keys if index >= since]
        return {"entries": [{"index": index, "leaf": leaf.decode()} for index, leaf in found]}

    @app.get("/cosigned")
    def cosigned_head() -> Response:
        return _head(witnesses.published("cosigned"))

    @app.get("/witness/{member}")
    def witnessed_head(member: str) -> Response:
        return _head(witnesses.published(f"witness/{member}"))

    @app.get("/attest/{member}")
    def attested_head(member: str) -> Response:
        return _head(witnesses.published(f"attest/{member}"))

    @app.get("/v1/authors/{author:path}", dependencies=of_the_log)
    def last(author: str) -> dict[str, int | str]:
        newest = log.last(author)
        return {"seq": newest.seq, "hash": newest.hash, "index": newest.at}

    @app.get("/v1/runs", dependencies=of_the_log)
    def runs() -> dict[str, list[dict[str, object]]]:
        every = log.runs()
        return {"runs": [{"manifest": leaf.decode(), "consents": who, "ended": how} for leaf, who, how in every]}

    @app.get("/v1/tables/{name}", dependencies=of_the_log)
    def table(
        response: Response,
        name: str,
        after: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}\.[0-9]{1,18}$")] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 1_000,
    ) -> dict[str, object]:
        """Rows of a projection, as the log of this size has them; `next` is what to ask `after` for more."""
        index, part = map(int, (after or "-1.0").split("."))
        page = projector.page(name, (index, part), limit)
        more = page.last and "{}.{}".format(*page.last)
        if more:
            response.headers["Link"] = f'</v1/tables/{name}?after={more}&limit={limit}>; rel="next"'
        return {"size": page.size, "rows": page.rows, "next": more}

    @app.get("/v1/access/{member}/{artefact}", dependencies=of_the_log)
    def verdict(member: str, artefact: Sha256) -> dict[str, object]:
        """Whether a member may have an artefact, for information: everybody can recompute it."""
        verdict, record = log.access(member, artefact)
        return verdict._asdict() | {"size": record.size}

    @app.head("/v1/artefacts/{artefact}")
    @app.get("/v1/artefacts/{artefact}")
    def artefact(request: Request, artefact: Sha256, access: Index) -> Response:
        return desk.answer(request, artefact, access)

    @app.put("/v1/artefacts/{artefact}")
    async def upload(request: Request, artefact: Sha256) -> dict[str, int]:
        """Take in a piece of a file; how much of it is here then."""
        piece = await read_body(request.scope, request.receive, UPLOAD_BYTES)
        return {"size": await run_in_threadpool(desk.upload, request, artefact, piece)}

    _shows(app, "/v1/openings", Shown(log, FolderShelf(settings.openings)))
    _shows(app, "/v1/updates", Shown(log, FolderShelf(settings.updates), updates=True))

    @app.post("/v1/invites")
    async def invite(request: Request) -> dict[str, str]:
        data = await read_body(request.scope, request.receive, invites.MAX_BYTES)
        return {"invite": await run_in_threadpool(asked.take, data)}

    @app.get("/v1/invites")
    def invited() -> dict[str, list[dict[str, str | None]]]:
        return {"invites": asked.all()}

    @app.get("/v1/invites/{hashed}")
    def one_invite(hashed: Sha256) -> dict[str, str | None]:
        return asked.one(hashed)

    @app.post("/v1/invites/{hashed}")
    async def answer(request: Request, hashed: Sha256) -> dict[str, str]:
        data = await read_body(request.scope, request.receive, invites.MAX_BYTES)
        await run_in_threadpool(asked.answer, hashed, data)
        return {"invite": hashed}

    @app.get("/checkpoint")
    def head() -> Response:
        return _head(log.published(tlog.HEAD))

    @app.get("/tile/{path:path}")
    def tile(path: str) -> Response:
        return Response(
            log.published(f"tile/{path}"),
            media_type="application/octet-stream",
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )

    @app.get("/healthz")
    def health() -> dict[str, str | int]:
        return {"status": "ok", "size": log.head.size}

    @app.get("/readyz")
    def readiness(request: Request) -> JSONResponse:
        """Not ready is 503, whatever the cause: who asks looks at the status."""
        try:
            ready.check()
        except Refused as refused:
            return JSONResponse(problem(refused, request.url.path) | {"status": 503}, 503, media_type=PROBLEM)
        return JSONResponse({"status": "ready"})

    @app.get("/version")
    def version() -> dict[str, str | list[str]]:
        """Answered to everybody, however old."""
        told = {"software": release.RELEASE, "api": release.API, "oldest_client": release.OLDEST}
        return told | {"kinds": [f"{kind}@v1" for kind in KINDS]}

    @app.get("/openapi.json", include_in_schema=False)
    def described() -> JSONResponse:
        return JSONResponse(described_once)

    @app.exception_handler(Refused)
    def refused(request: Request, refusal: Refused) -> JSONResponse:
        return _problem(request, refusal)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(request, pages.unfit(error))

    @app.exception_handler(_Unchanged)
    def unchanged(_: Request, error: _Unchanged) -> Response:
        return Response(status_code=304, headers={"ETag": error.tag, "Cache-Control": "no-cache"})

    @app.exception_handler(HTTPException)
    def nowhere(request: Request, error: HTTPException) -> Response:
        """An address that there is not, or not for this method."""
        wrong = Refusal.WRONG_METHOD if error.status_code == 405 else Refusal.WRONG_ADDRESS
        refused = Refused(wrong, f"{request.method[:20]} {request.url.path[:80]}: {error.detail}")
        answer = pages.refusal(request, refused)
        if wrong is Refusal.WRONG_METHOD:
            matching = (each for each in app.routes if each.matches(request.scope)[0] is Match.PARTIAL)
            methods = set[str]().union(*(getattr(each, "methods", ()) for each in matching))
            named = (
                (error.headers or {}).get("Allow", "").split(", ")
            )  # The first route's, which may be one of several.
            answer.headers["Allow"] = ", ".join(sorted(methods | set(named) - {""}))
        return answer

    @app.exception_handler(Exception)
    def defect(request: Request, error: Exception) -> JSONResponse:
        """What should not have happened; it is raised again, and printed, when this is answered."""
        return _problem(request, Refused(Refusal.DEFECT, type(error).__name__))

    app.router.routes.append(Route("/events", events or Events(log), include_in_schema=False))
    app.include_router(pages.router(log, witnesses, projector, asked))
    described_once = openapi.describe(app)
    limited = Limited(Limits(settings.requests), app)
    return Hot(sequencer, Guard(log, asked, limited) if settings.members_only else limited)


class _Unchanged(Exception):
    """Who asks has what would be answered."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.tag = tag


def _shows(app: FastAPI, address: str, shown: Shown) -> None:
    """Serve what is shown to a round's members."""
    address += "/{run}/{number}/{member}"

    @app.head(address)
    @app.get(address)
    def answer(request: Request, run: str, number: Number, member: str) -> Response:
        return shown.answer(request, run, number, member)

    @app.put(address)
    async def show(request: Request, run: str, number: Number, member: str) -> dict[str, int]:
        """Take in a piece; how much of the file is here then."""
        piece = await read_body(request.scope, request.receive, UPLOAD_BYTES)
        return {"size": await run_in_threadpool(shown.upload, request, run, number, member, piece)}


def _tag(head: Head) -> str:
    """The ETag of what follows from the log under this head; another release may spell it otherwise."""
    return f'"{release.RELEASE}-{head.size}-{head.root.hex()[:16]}"'


def _head(data: bytes) -> Response:
    return Response(data, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-cache"})


def _problem(request: Request, refused: Refused) -> JSONResponse:
    body = problem(refused, request.url.path)
    fields = {"Retry-After": "1"} if body["status"] == 429 else None
    return JSONResponse(body, int(body["status"]), fields, PROBLEM)


@contextmanager
def opened(settings: Settings, stopped: Callable[[str], object] | None = None) -> Iterator[Sequencer]:
    """The open log of these settings, behind its queue. Raises `Refused`."""
    log = open_log(settings.dir, database=settings.database_url, register=settings.register_dir)
    sequencer = Sequencer(log, waiting=settings.waiting, stopped=stopped)
    try:
        yield sequencer
    finally:
        sequencer.close()
        log.close()


def serve(settings: Settings) -> None:
    """Serve a log until SIGTERM. One worker, because there is one writer. Raises `Refused`.

    A write that fails ends the process at once: what the disk holds then, only a new start can tell.
    """

    def stopped(why: str) -> None:
        print(f"error stopped: {why}", file=sys.stderr, flush=True)
        os._exit(EX_IOERR)

    sys.setswitchinterval(SWITCH_S)
    shelf = settings.shelf()
    with opened(settings, stopped) as sequencer, metrics.serving(settings.metrics, sequencer):
        gc.freeze()  # What was read back stays, and is not looked through for garbage again and again.
        gc.set_threshold(GARBAGE)
        events = Events(sequencer.log)
        app = create_app(sequencer, shelf, settings, events)
        config = uvicorn.Config(
            app, host=settings.host, port=settings.port, log_level="warning", access_log=False, ws="none"
        )
        with suppress(KeyboardInterrupt):
            Server(config, events).run()


@contextmanager
def serving(folder: Path, port: int, **settings: Any) -> Iterator[LedgerHttp]:
    """Serve the log in this folder on loopback, from a thread of this process, for as long as the context lasts."""
    found = Settings(dir=folder, port=port, **settings)
    with opened(found) as sequencer, metrics.serving(found.metrics, sequencer):
        events = Events(sequencer.log)
        app = create_app(sequencer, found.shelf(), found, events)
        config = uvicorn.Config(app, port=port, log_level="error", access_log=False, ws="none")
        server = Server(config, events)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield LedgerHttp(f"http://127.0.0.1:{port}")
        finally:
            server.should_exit = True
            thread.join()
