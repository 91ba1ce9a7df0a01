"""The pages of the ledger over HTTP: read-only, made here from what the log says, whole without JavaScript.

`views` and `decided` gather plain values, and a template prints them; the same tables are there as CSV and JSON. A page
reads at most one page of anything, `ROWS`, and its address holds all of its state. Everything that a member wrote is
escaped, and no page may load, run or send anything but what this ledger serves.

Who may read them, ledger/guard.py says. Nothing here writes.
"""

import time
from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import StringConstraints

from ledger import decided, lineage, views
from ledger.curve import DECLARED, Track, closes, drawn, track
from ledger.forecast import forecast
from ledger.invites import Invites
from ledger.log import Log
from ledger.projections import Projector
from ledger.shown import ROWS, Part, as_csv, as_json, count, newest
from ledger.witnesses import Witnesses
from shared_models.http_answers import PROBLEM, problem
from shared_models.records.refusals import Refusal, Refused

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self';"
        " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
STATIC = {
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "countdown.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "verify.js": "text/javascript; charset=utf-8",
}

NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
# A form of plain HTML sends the pots that stay as they are, too: as nothing.
Rules = Annotated[list[str], Query(default_factory=list, max_length=ROWS)]
Costs = Annotated[
    list[Annotated[str, StringConstraints(max_length=4_000)]], Query(default_factory=list, max_length=ROWS)
]
Against = Literal["rounds", "tokens", "work", "cost", "kwh", "hours"]
LOOKED = 10_000  # Entries that are looked through for one member's: it may have few of them, or none.
Whose = Annotated[str | None, Query(pattern=NAME)]
At = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
Number = Annotated[int, PathParameter(ge=0, le=2**63 - 1)]
Named = Annotated[str, PathParameter(pattern=NAME)]
Sha256 = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")]

CURVE = "round loss:unats tokens work:flop cost:minor energy:mj measured receipts busy:ms wall:ms"
# Of each page, by template: its tables, and of each of them the columns that CSV and JSON have (`shown`).
TABLES: dict[str, dict[str, str]] = {
    "amendment": {"changes": "clause before after", "ballots": "member choice index left"},
    "amendments": {"rows": "hash index name member state for votes"},
    "bill": {
        "members": "member net:minor credit:minor charge:minor carried:minor carry:minor work:flop",
        "lines": "member pot credit:minor charge:minor",
        "transfers": "payer payee amount:minor",
        "open": "payer payee amount:minor said",
        "worths": "member worth:unats routes run text by index",
        "served": "member tokens owner routed pays:minor run model index",
        "unspent": "run trained rounds members work:flop worth:minor index",
    },
    "bills": {"rows": "period start last members transfers moved:minor"},
    "charter": {"clauses": "clause says", "open": "hash index name member for votes", "left": "member index"},
    "costs": {"rows": "index item payer pot period amount currency date evidence"},
    "disputes": {
        "rows": "about state disputed rulings ruled billed:minor",
        "nets": "member billed:minor other:minor difference:minor",
    },
    "entry": {"signatures": "name key"},
    "joins": {"rows": "member inviter benefit until:ms invite state current amendment for"},
    "log": {"rows": "index kind about author", "witnesses": "member size behind time:ms"},
    "members": {"rows": "name benefit pledge:minor left default", "keys": "member role key last"},
    "model": {"verdicts": "member granted tier reasons missing"},
    "models": {"rows": "artefact form size:bytes publisher at"},
    "overview": {
        "answers": "member state waited reason judged tokens work:flop took:ms isolation receipt",
        "forecast": "what rounds work:flop cost:minor takes:ms until:ms chance",
        "curve": CURVE,
        "nets": "member net:minor",
        "witnesses": "member size behind time:ms",
    },
    "receipts": {"rows": "index member run round tokens flop devices device included"},
    "round": {"rows": "member state waited reason judged tokens work:flop took:ms isolation receipt"},
    "run": {
        "rows": "number invited answered included excluded before:unats after:unats tokens work:flop",
        "curve": CURVE,
        "steps": "member steps",
    },
    "runs": {"rows": "name state closed rounds consents members before:unats now:unats reason"},
    "what_if": {
        "nets": "member billed:minor other:minor difference:minor",
        "charges": "member pot billed:minor other:minor difference:minor",
    },
}
STATE = (
    "before",
    "after",
    "rule",
    "costs",
    "against",
    "member",
)  # What an address says beside its path, as links keep it.


def unfit(error: RequestValidationError) -> Refused:
    """A request with values that no route takes, as a refusal that names the first of them."""
    first = error.errors()[0]
    where = "/".join(str(part) for part in first["loc"])
    return Refused(Refusal.BAD_FIELD, f"{where}: {first['msg']}")


class Page(APIRoute):
    """A route whose refusals are pages too, and which says what a browser may do with all of them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                answer = await handle(request)
            except Refused as refused:
                answer = _refusal(request, refused)
            except RequestValidationError as error:
                answer = _refusal(request, unfit(error))
            answer.headers.update(HEADERS)
            return answer

        return told


_TEMPLATES = Environment(
    loader=PackageLoader("ledger"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def page(template: str, **values: Any) -> HTMLResponse:
    """A page outside the router, with the same headers."""
    answer = _page(template, **values)
    answer.headers.update(HEADERS)
    return answer


def refusal(request: Request, refused: Refused) -> Response:
    """A refusal of what is no page: as one for a browser, as problem+json for programs."""
    told = problem(refused, request.url.path)
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(told, int(told["status"]), media_type=PROBLEM)
    answer = page("refused", problem=told)
    answer.status_code = int(told["status"])
    return answer


def _page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(_TEMPLATES.get_template(f"{template}.html").render(values))


def _shown(request: Request, template: str, found: dict[str, Any]) -> Response:
    """What was found as a page; or, if `format` asks for that, one of its tables as CSV or JSON.

    Raises `Refused`: BAD_FIELD for another format, NOT_FOUND for a table that the page does not have.
    """
    given = request.query_params
    if "format" not in given:
        state = [(name, value) for name, value in given.multi_items() if name in STATE]

        def here(**changes: object) -> str:
            return "?" + urlencode([*(each for each in state if each[0] not in changes), *changes.items()])

        return _page(template, here=here, head_size=request.state.size, **found)
    tables = TABLES[template]
    form, name = given["format"], given.get("table", next(iter(tables)))
    if form not in ("csv", "json"):
        raise Refused(Refusal.BAD_FIELD, f"query/format: {form[:80]!r} is neither csv nor json")
    if name not in tables:
        raise Refused(Refusal.NOT_FOUND, f"there is no table {name[:80]} here; there are {', '.join(tables)}")
    rows, columns = found[name], tables[name]
    if form == "json":
        return Response(as_json(rows, columns, name), media_type="application/json")
    named = {"Content-Disposition": f'attachment; filename="{template}-{name}.csv"'}
    return Response(as_csv(rows, columns), media_type="text/csv; charset=utf-8; header=present", headers=named)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _refusal(request: Request, refused: Refused) -> HTMLResponse:
    told = problem(refused, request.url.path)
    page = _page("refused", problem=told)
    page.status_code = int(told["status"])
    if page.status_code == 429:
        page.headers["Retry-After"] = "1"
    return page


def router(log: Log, witnesses: Witnesses, projector: Projector, asked: Invites) -> APIRouter:
    """The pages of an open log."""

    async def sized(request: Request) -> None:
        """From this size of the log on a page asks to be told of its growth: it may show more, and never less."""
        request.state.size = log.head.size

    pages = APIRouter(
        route_class=Page,
        include_in_schema=False,
        default_response_class=HTMLResponse,
        dependencies=[Depends(sized)],
    )

    @pages.get("/")
    def home() -> Response:
        return RedirectResponse("/overview")

    @pages.get("/overview")
    def overview(request: Request, against: Against = "rounds") -> Response:
        seen, now_ms = witnesses.state(), _now_ms()
        with log.reading() as books:
            found = views.overview_page(log, books, seen, now_ms)
            of = track(books, books.runs[found["run"]["name"]]) if found["run"] else None
        spent = forecast(of, now_ms) if of is not None else None
        found |= {"spent": spent, "forecast": spent["rows"] if spent else []}
        return _shown(request, "overview", found | curve_of(request, of, against))

    @pages.get("/runs")
    def runs(request: Request, before: At = None) -> Response:
        with log.reading() as books:
            names = list(books.runs)
            part = newest(len(names), before)
            rows = [views.run_row(names[place], books.runs[names[place]]) for place in part.places]
        return _shown(request, "runs", {"rows": rows, "part": part})

    @pages.get("/runs/{name}")
    def run(request: Request, name: Named, before: At = None, against: Against = "rounds") -> Response:
        with log.reading() as books:
            found, of = views.run_page(books, name, before), track(books, books.runs[name])
        return _shown(request, "run", found | curve_of(request, of, against))

    def curve_of(request: Request, of: Track | None, against: str) -> dict[str, Any]:
        """The curve and its numbers. What only receipts say is read for who asks for it: it waits for the tables."""
        asked = against in DECLARED or request.query_params.get("table") == "curve"
        found = drawn(of, against, projector.spent(closes(of)) if asked else None) if of is not None else None
        return {"curve": found["rows"] if found else [], "picture": found}

    @pages.get("/runs/{name}/{number}")
    def turn(request: Request, name: Named, number: Number, after: At = None) -> Response:
        with log.reading() as books:
            found = views.round_page(log, books, name, number, after, _now_ms())
        return _shown(request, "round", {"round": found, "rows": found["rows"]})

    @pages.get("/bills")
    def bills(request: Request, before: At = None) -> Response:
        with log.reading() as books:
            part = newest(len(books.statements), before)
            rows = [views.bill_row(books.statements[place], books.charter) for place in part.places]
        return _shown(request, "bills", {"rows": rows, "part": part})

    @pages.get("/bills/{period}")
    def bill(request: Request, period: Named, after: At = None) -> Response:
        with log.reading() as books:
            found = views.bill_page(log, books, period, after)
        return _shown(request, "bill", found)

    @pages.get("/bills/{period}/receipts")
    def receipts(request: Request, period: Named, member: Whose = None, after: At = None) -> Response:
        return _shown(request, "receipts", of_period(period, "receipt", "member", member, after))

    @pages.get("/bills/{period}/costs")
    def costs(request: Request, period: Named, member: Whose = None, after: At = None) -> Response:
        return _shown(request, "costs", of_period(period, "item", "payer", member, after))

    @pages.get("/bills/{period}/what-if")
    def what_if(request: Request, period: Named, rule: Rules, costs: Costs, after: At = None) -> Response:
        with log.reading() as books:
            bill, facts = decided.stated(books, period)
        asked = [each for each in rule if each]
        return _shown(request, "what_if", decided.what_if_page(bill, facts, asked, costs, after))

    @pages.get("/bills/{period}/disputes")
    def disputes(request: Request, period: Named, after: At = None) -> Response:
        return _shown(request, "disputes", decided.disputes_page(log, period, after))

    def of_period(period: str, table: str, column: str, member: str | None, after: int | None) -> dict[str, Any]:
        """The rows of a projection that are of entries which a statement covers; of one member, `LOOKED` at a time."""
        with log.reading() as books:
            bill = views.found_bill(books, period)
        since = bill.start - 1 if after is None else max(after, bill.start - 1)
        end = bill.end if member is None else min(bill.end, since + 1 + LOOKED)
        page = projector.page(table, (since, 2**62), ROWS, end=end, of={} if member is None else {column: member})
        more = page.last[0] if page.last is not None else end - 1 if end < bill.end else None
        return {
            "period": period,
            "member": member,
            "start": bill.start,
            "end": bill.end,
            "rows": page.rows,
            "part": Part(range(0), more),
        }

    @pages.get("/charter")
    def charter(request: Request, after: At = None) -> Response:
        with log.reading() as books:
            found = decided.charter_page(books, after)
        return _shown(request, "charter", found)

    @pages.get("/amendments")
    def amendments(request: Request, before: At = None) -> Response:
        return _shown(request, "amendments", decided.amendments_page(log, before))

    @pages.get("/amendments/{hashed}")
    def amendment(request: Request, hashed: Sha256, after: At = None) -> Response:
        return _shown(request, "amendment", decided.amendment_page(log, hashed, after))

    @pages.get("/joins")
    def joins(request: Request, after: At = None) -> Response:
        return _shown(request, "joins", decided.joins_page(log, asked, after))

    @pages.get("/log")
    def entries_page(request: Request, before: At = None) -> Response:
        head = log.head
        part = newest(head.size, before)
        start, end = min(part.places, default=0), max(part.places, default=-1) + 1
        rows = views.log_rows(start, log.stored(start, end))
        cosigned = witnesses.state()
        with log.reading() as books:
            seen = views.witness_rows(books, cosigned, head.size)
        found = {"rows": rows, "part": part, "size": count(head.size), "witnesses": seen, "head": head.note.decode()}
        return _shown(request, "log", found)

    @pages.get("/log/{index}")
    def entry(request: Request, index: Number) -> Response:
        return _shown(request, "entry", views.entry_page(log, index))

    @pages.get("/members")
    def members(request: Request, after: At = None) -> Response:
        with log.reading() as books:
            found = views.members_page(books, after)
        return _shown(request, "members", found)

    @pages.get("/models")
    def models(request: Request, before: At = None) -> Response:
        with log.reading() as books:
            found = views.models_page(books, before)
        return _shown(request, "models", found)

    @pages.get("/models/{artefact}")
    def model(request: Request, artefact: Sha256, after: At = None) -> Response:
        with log.reading() as books:
            found = views.model_page(books, artefact, after) | {"graph": lineage.graph(books, artefact)}
        return _shown(request, "model", found)

    @pages.get("/open")
    def open_to_all() -> Response:
        """Where people sign in, of a ledger that does not ask who reads it: see ledger/guard.py."""
        return _page("open", link="", who="")

    @pages.get("/favicon.ico")
    def icon() -> Response:
        """Browsers ask for it beside answers that are no pages."""
        return RedirectResponse("/static/icon.svg")

    @pages.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            raise Refused(Refusal.NOT_FOUND, f"there is no file {name[:80]}")
        return Response(files("ledger").joinpath("static", name).read_bytes(), media_type=STATIC[name])

    return pages
