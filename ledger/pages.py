"""What people see of the log: read-only pages, made here from what the log says, whole without JavaScript.

A page gathers plain values out of the books, or out of entries whose hash was compared, and a template prints them. It
reads at most one page of anything, `ROWS`, and its address holds all of its state. Everything that a member wrote is
escaped, and no page may load, run or send anything but what this ledger serves.

Who may read them, ledger/guard.py says. Nothing here writes.
"""

from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from importlib.resources import files
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from ledger.log import Log
from ledger.projections import Projector
from ledger.witnesses import Witnesses
from shared_models.http_answers import problem
from shared_models.records import entry as entries
from shared_models.records import note
from shared_models.records.kinds import Charter, Receipt, RoundClose, RoundOpen, Statement, StatementLine
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import CLAUSES
from shared_models.rules.books import Books, Run
from shared_models.rules.currency import UNITS, money
from shared_models.rules.pricing import FLOP_PER_NCU

R = TypeVar("R", RoundOpen, RoundClose, Receipt, Statement)
ROWS = 100
WIDE, HIGH = 600, 150  # Of a curve, in units of its own.
SHOWN_NAMES = 5  # In one cell; the round's page has the others.
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
    "verify.js": "text/javascript; charset=utf-8",
}

At = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
Number = Annotated[int, PathParameter(ge=0, le=2**63 - 1)]
Named = Annotated[str, PathParameter(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
Sha256 = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")]


class Shown(NamedTuple):
    """A value as people read it, and exactly."""

    text: str
    exact: str


class Part(NamedTuple):
    """Some of many things: their places, in the order they are shown, and where the next ones begin."""

    places: range
    more: int | None


def newest(count: int, before: int | None) -> Part:
    """The newest of so many things, the newest first, or the newest before that one."""
    end = count if before is None else min(before, count)
    start = max(0, end - ROWS)
    return Part(range(end - 1, start - 1, -1), start or None)


def oldest(count: int, after: int | None) -> Part:
    """The first of so many things, or the first from that one on."""
    start = min(after or 0, count)
    end = min(start + ROWS, count)
    return Part(range(start, end), end if end < count else None)


def amount(minor: int | Fraction, charter: Charter) -> Shown:
    return Shown(money(minor, charter), f"{minor} minor units of {charter.currency}")


def work(flop: int) -> Shown:
    name, unit = next((each for each in UNITS if flop >= 10 * each[1]), UNITS[-1])
    return Shown(f"{flop // unit:,} {name}", f"{flop:,} FLOP")


def loss(unats: int) -> Shown:
    exact = f"{unats // 10**6}.{unats % 10**6:06}"
    return Shown(exact[:-3], f"{exact} nats per byte, cut after three digits")


def count(number: int) -> Shown:
    return Shown(f"{number:,}", str(number))


def moment(ms: int) -> Shown:
    """A time in UTC; a number of milliseconds that is no time of any calendar stays what it is."""
    try:
        found = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return Shown(f"{ms} ms", str(ms))
    return Shown(f"{found:%Y-%m-%d %H:%M:%S} UTC", f"{ms} ms since 1970")


def few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


# What each page shows, from the books.


def curve(run: Run) -> dict[str, Any] | None:
    """The held-out loss before the first round and after others, at most `ROWS` of them, evenly; None before the first.

    Points are in units of the picture: from the left the rounds, from the top the highest loss down to the lowest.
    """
    closed = [(each.number, each.closed.loss_unats) for each in run.rounds[-1:] if each.closed is not None]
    done = len(run.rounds) if closed else len(run.rounds) - 1
    if done < 1:
        return None
    step = -(-done // ROWS)
    chosen = [(0, run.manifest.loss_unats)]
    for number in sorted({*range(step, done + 1, step), done}):
        found = run.rounds[number - 1].closed
        if found is not None:
            chosen.append((number, found.loss_unats))
    high, low = max(value for _, value in chosen), min(value for _, value in chosen)
    points = [
        (10 + (WIDE - 20) * number // done, 10 + (HIGH - 20) * (high - value) // max(1, high - low))
        for number, value in chosen
    ]
    return {
        "points": points,
        "line": " ".join(f"{x},{y}" for x, y in points),
        "first": loss(chosen[0][1]),
        "last": loss(chosen[-1][1]),
        "rounds": done,
    }


def run_row(name: str, run: Run) -> dict[str, Any]:
    closed = [each.closed for each in run.rounds[-2:] if each.closed is not None]
    going = "in a round" if run.rounds and run.rounds[-1].closed is None else "between rounds"
    return {
        "name": name,
        "state": run.ended.status if run.ended is not None else going if run.rounds else "not begun",
        "reason": run.ended.reason if run.ended is not None else "",
        "opened": len(run.rounds),
        "closed": len(run.rounds) - (1 if run.rounds and run.rounds[-1].closed is None else 0),
        "rounds": run.manifest.rounds,
        "members": len(run.manifest.members),
        "consents": len(run.consents),
        "before": loss(run.manifest.loss_unats),
        "now": loss(closed[-1].loss_unats) if closed else None,
    }


def run_page(books: Books, name: str, before: int | None) -> dict[str, Any]:
    run = found_run(books, name)
    part, rows = newest(len(run.rounds), before), []
    for place in part.places:
        turn = run.rounds[place]
        base = run.rounds[place - 1].closed if place else None
        rows.append(
            {
                "number": turn.number,
                "invited": len(turn.invited),
                "answered": len({member for member, _ in turn.said}),
                "closed": turn.closed is not None,
                "included": len(turn.closed.included) if turn.closed else None,
                "excluded": few([f"{who}: {why}" for who, why in turn.closed.excluded]) if turn.closed else "",
                "before": loss(base.loss_unats if base else run.manifest.loss_unats),
                "after": loss(turn.closed.loss_unats) if turn.closed else None,
            }
        )
    return {"run": run_row(name, run), "curve": curve(run), "rows": rows, "part": part}


def found_run(books: Books, name: str) -> Run:
    """Raises `Refused(NOT_FOUND)`."""
    if name not in books.runs:
        raise Refused(Refusal.NOT_FOUND, f"the log holds no run {name}")
    return books.runs[name]


def round_page(log: Log, books: Books, name: str, number: int, after: int | None) -> dict[str, Any]:
    """One round: who was asked, who has answered by a receipt in the log, and what became of it.

    Raises `Refused(NOT_FOUND)`.
    """
    run = found_run(books, name)
    if not 1 <= number <= len(run.rounds):
        raise Refused(Refusal.NOT_FOUND, f"run {name} has no round {number}")
    turn, author = run.rounds[number - 1], f"{books.charter.consortium}/coordinator"
    opened_at, opened = said(log, author, RoundOpen, f"{name}/{number}")
    closed_at, closed = said(log, author, RoundClose, f"{name}/{number}") if turn.closed else (None, None)
    counted = {each.member: each for each in closed.included} if closed else {}
    reasons = {each.member: each.reason for each in closed.excluded} if closed else {}
    nodes = dict(sorted(turn.said, reverse=True))  # Of each member the first one, if it has several.
    invited = sorted(turn.invited)
    part, rows = oldest(len(invited), after), []
    for place in part.places:
        member = invited[place]
        receipt_at, receipt = None, None
        if member in nodes:
            receipt_at, receipt = said(log, f"{member}/compute", Receipt, f"{name}/{number}/{nodes[member]}")
        rows.append(
            {
                "member": member,
                "state": "included" if member in counted else "left out" if closed else "answered",
                "waited": closed is None and member not in nodes,
                "reason": reasons.get(member, ""),
                "judged": counted[member].judged if member in counted else "",
                "receipt": receipt_at,
                "tokens": count(receipt.tokens) if receipt else None,
                "work": work(receipt.flop) if receipt else None,
                "took": Shown(f"{receipt.wall_ms / 1000:,.1f} s", f"{receipt.wall_ms} ms") if receipt else None,
            }
        )
    return {
        "name": name,
        "number": number,
        "rounds": run.manifest.rounds,
        "opened": moment(opened.opened_ms),
        "opened_at": opened_at,
        "deadline": moment(opened.deadline_ms),
        "closed_at": closed_at,
        "loss": loss(closed.loss_unats) if closed else None,
        "checkpoint": closed.checkpoint if closed else None,
        "waited": sum(1 for member in invited if member not in nodes) if closed is None else 0,
        "late": [each.member for each in closed.late] if closed else [],
        "rows": rows,
        "part": part,
    }


def said(log: Log, author: str, kind: type[R], idem: str) -> tuple[int, R]:
    """(index, record) of what this author has said about this. Raises `Refused` as `Log.find`."""
    at, leaf = log.find(author, kind.kind, idem)
    record = entries.peek(leaf)
    assert isinstance(record, kind)
    return at, record


def bill_row(bill: Statement, charter: Charter) -> dict[str, Any]:
    moved = sum(each.amount for each in bill.transfers)
    return {
        "period": bill.period,
        "start": bill.start,
        "last": bill.end - 1,
        "members": len(bill.balances),
        "moved": amount(moved, charter),
        "transfers": len(bill.transfers),
    }


def found_bill(books: Books, period: str) -> Statement:
    """Raises `Refused(NOT_FOUND)`."""
    found = next((each for each in books.statements if each.period == period), None)
    if found is None:
        raise Refused(Refusal.NOT_FOUND, f"the log holds no statement {period}")
    return found


def bill_page(log: Log, books: Books, period: str, after: int | None) -> dict[str, Any]:
    """A statement, each member's lines with how they come about. Raises `Refused(NOT_FOUND)`.

    What was carried over is what makes the sum right: net + carry - (credits - charges). It is exact, and no belief of
    ours: the ledger recomputed the statement before it took it in.
    """
    bill = found_bill(books, period)
    charter, agreement, settlements = books.charter, books.agreement, books.accounts.settlements
    terms = agreement.at(bill.start)[0]
    at, _ = said(log, f"{charter.consortium}/admin", Statement, period)
    wholes, lines_of = defaultdict[str, Fraction](Fraction), defaultdict[str, list[StatementLine]](list)
    for line in bill.lines:
        wholes[line.pot] += line.credit
        lines_of[line.member].append(line)
    part, members = oldest(len(bill.balances), after), []
    for place in part.places:
        balance = bill.balances[place]
        lines = lines_of[balance.member]
        credit = sum((each.credit for each in lines), Fraction(0))
        charge = sum((each.charge for each in lines), Fraction(0))
        carried = balance.net + balance.carry - (credit - charge)
        members.append(
            {
                "member": balance.member,
                "work": work(balance.flop),
                "credit": amount(credit, charter),
                "charge": amount(charge, charter),
                "carried": amount(carried, charter),
                "net": amount(balance.net, charter),
                "carry": amount(balance.carry, charter),
                "lines": [
                    {
                        "pot": each.pot,
                        "credit": amount(each.credit, charter),
                        "charge": amount(each.charge, charter),
                        "how": formula(bill, terms, each, balance.flop, wholes[each.pot]),
                    }
                    for each in lines
                ],
            }
        )
    return {
        "bill": bill_row(bill, charter),
        "currency": charter.currency,
        "at": at,
        "terms_at": agreement.entries[bill.charter],
        "price": amount(bill.price, charter),
        "price_of": f"{FLOP_PER_NCU:,}",
        "witnesses": [note.parse_signature(each).name for each in bill.cosignatures[:ROWS]],
        "root": bill.root,
        "members": members,
        "part": part,
        "transfers": [(each.payer, each.payee, amount(each.amount, charter)) for each in bill.transfers[:ROWS]],
        "open": [
            (each.payer, each.payee, amount(each.amount, charter), sorted(each.said))
            for each in settlements.open(period)[:ROWS]
        ],
        "defaulters": settlements.defaulters(period),
    }


def formula(bill: Statement, terms: Charter, line: StatementLine, flop: int, whole: Fraction) -> list[str]:
    """How a line comes about, a sentence for its credit and one for its charge; its pot holds this `whole`."""
    told, name = list[str](), line.pot
    if name == terms.compute_pot:
        told.append(
            f"credit: {flop:,} FLOP of accepted work x {money(bill.price, terms)} {terms.currency}"
            f" / {FLOP_PER_NCU:,} FLOP, and corrections of earlier bills"
        )
    pot = next((each for each in terms.pots if each.name == name), None)
    if pot is None:
        return [*told, CLAUSES[name]]
    if name != terms.compute_pot:
        told.append(f"credit: what {line.member} paid for this pot, as its cost items and credit notes say")
    by = {
        "benefit": "the members' benefits",
        "usage": "what each has used (its benefit, where nothing was metered)",
        "paid": "what each has put in",
    }[pot.driver]
    weights = ", ".join(f"{each.name} {each.benefit}" for each in terms.members[:SHOWN_NAMES])
    if pot.driver == "benefit" and not pot.table:
        by += f" ({weights}{', …' if len(terms.members) > SHOWN_NAMES else ''})"
    told.append(
        f"charge: its part of {money(whole, terms)} {terms.currency}, all that members put into this pot,"
        f" by the rule {pot.rule} and {'the table of the charter' if pot.table else by}"
    )
    if pot.floors or pot.caps:
        told.append("within the floors and caps that the charter sets for this pot")
    return told


def overview_page(log: Log, books: Books, cosigned: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The newest run and its newest round, the last bill, the log and who has cosigned it."""
    charter, head = books.charter, log.head
    name = next(reversed(books.runs), None)
    run = books.runs[name] if name is not None else None
    bill = books.statements[-1] if books.statements else None
    return {
        "consortium": charter.consortium,
        "currency": charter.currency,
        "run": run_row(name, run) if name is not None and run is not None else None,
        "curve": curve(run) if run is not None else None,
        "round": round_page(log, books, name, len(run.rounds), None) if name and run and run.rounds else None,
        "bill": bill_row(bill, charter) if bill else None,
        "balances": [(each.member, amount(each.net, charter)) for each in bill.balances[:ROWS]] if bill else [],
        "size": count(head.size),
        "root": head.root.hex(),
        "witnesses": witness_rows(books, cosigned, head.size),
        "quorum": charter.quorum,
    }


def witness_rows(books: Books, cosigned: dict[str, dict[str, int]], size: int) -> list[dict[str, Any]]:
    rows = []
    for member in books.charter.members[:ROWS]:
        seen = cosigned.get(member.name)
        rows.append(
            {
                "member": member.name,
                "size": count(seen["size"]) if seen else None,
                "behind": count(size - seen["size"]) if seen else None,
                "time": moment(1000 * seen["time"]) if seen else None,
            }
        )
    return rows


def log_rows(start: int, leaves: Iterable[bytes]) -> list[dict[str, Any]]:
    """Of entries that stand in the log from this place on, the newest first: who said what kind of thing about what."""
    rows = []
    for index, leaf in enumerate(leaves, start):
        record = entries.peek(leaf)
        assert record is not None
        author = note.parse(leaf).signatures[0].name
        about = "" if record.kind.startswith("key.") else record.idem
        rows.append({"index": index, "author": author, "kind": record.kind, "about": about})
    return rows[::-1]


def entry_page(log: Log, index: int) -> dict[str, Any]:
    """An entry, its hash, and the proof that it stands under the newest head. Raises `Refused(NOT_FOUND)`."""
    head = log.head
    path = log.inclusion(index, head.size)
    (leaf,) = log.stored(index, index + 1)
    parsed = note.parse(leaf)
    (row,) = log_rows(index, [leaf])
    return {
        **row,
        "text": parsed.text,
        "signatures": [(each.name, each.id.hex()) for each in parsed.signatures],
        "hash": log.books.tree.leaf(index).hex(),
        "path": [each.hex() for each in path],
        "size": head.size,
        "root": head.root.hex(),
        "head": head.note.decode(),
    }


def members_page(books: Books, after: int | None) -> dict[str, Any]:
    charter, agreement = books.charter, books.agreement
    part, rows = oldest(len(charter.members), after), []
    in_default = books.accounts.settlements.in_default()
    for place in part.places:
        member = charter.members[place]
        keys = []
        for role in entries.MEMBER_ROLES:
            last = books.chains.get(f"{member.name}/{role}")
            keys.append((role, getattr(member, role), last.at if last else None))
        rows.append(
            {
                "name": member.name,
                "benefit": count(member.benefit),
                "pledge": amount(member.pledge, charter),
                "left": agreement.left.get(member.name),
                "default": member.name in in_default,
                "keys": keys,
            }
        )
    return {"rows": rows, "part": part, "currency": charter.currency, "charter_at": agreement.entries[agreement.hash]}


def models_page(books: Books, before: int | None) -> dict[str, Any]:
    held = list(books.library.artefacts.values())
    part = newest(len(held), before)
    rows = [
        {
            "artefact": held[place].record.artefact,
            "at": held[place].at,
            "publisher": held[place].record.publisher,
            "form": held[place].record.form,
            "size": size(held[place].record.size),
        }
        for place in part.places
    ]
    return {"rows": rows, "part": part}


def model_page(books: Books, artefact: str, after: int | None) -> dict[str, Any]:
    """An artefact, what it descends from, and for each member whether it may have it and why. Raises NOT_FOUND."""
    held = books.library.held(artefact)
    members, grounds = books.charter.members, books.grounds()
    part, verdicts = oldest(len(members), after), []
    for place in part.places:
        name = members[place].name
        verdict = books.library.access(name, artefact, grounds)
        verdicts.append({"member": name, **verdict._asdict()})
    return {
        "artefact": artefact,
        "at": held.at,
        "publisher": held.record.publisher,
        "form": held.record.form,
        "size": size(held.record.size),
        "checkpoints": held.record.checkpoints[:ROWS],
        "parents": held.record.parents[:ROWS],
        "verdicts": verdicts,
        "part": part,
    }


def size(number: int) -> Shown:
    name, unit = next(((n, u) for n, u in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)) if number >= u), ("bytes", 1))
    return Shown(f"{number / unit:,.1f} {name}" if unit > 1 else f"{number} bytes", f"{number:,} bytes")


# Over HTTP.


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


def _page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(_TEMPLATES.get_template(f"{template}.html").render(values))


def _refusal(request: Request, refused: Refused) -> HTMLResponse:
    told = problem(refused, request.url.path)
    page = _page("refused", problem=told)
    page.status_code = int(told["status"])
    if page.status_code == 429:
        page.headers["Retry-After"] = "1"
    return page


def router(log: Log, witnesses: Witnesses, projector: Projector) -> APIRouter:
    """The pages of an open log."""
    pages = APIRouter(route_class=Page, include_in_schema=False, default_response_class=HTMLResponse)

    @pages.get("/")
    def home() -> Response:
        return RedirectResponse("/overview")

    @pages.get("/overview")
    def overview() -> Response:
        seen = witnesses.state()
        with log.reading() as books:
            found = overview_page(log, books, seen)
        return _page("overview", **found)

    @pages.get("/runs")
    def runs(before: At = None) -> Response:
        with log.reading() as books:
            names = list(books.runs)
            part = newest(len(names), before)
            rows = [run_row(names[place], books.runs[names[place]]) for place in part.places]
        return _page("runs", rows=rows, part=part)

    @pages.get("/runs/{name}")
    def run(name: Named, before: At = None) -> Response:
        with log.reading() as books:
            found = run_page(books, name, before)
        return _page("run", **found)

    @pages.get("/runs/{name}/{number}")
    def turn(name: Named, number: Number, after: At = None) -> Response:
        with log.reading() as books:
            found = round_page(log, books, name, number, after)
        return _page("round", **found)

    @pages.get("/bills")
    def bills(before: At = None) -> Response:
        with log.reading() as books:
            part = newest(len(books.statements), before)
            rows = [bill_row(books.statements[place], books.charter) for place in part.places]
        return _page("bills", rows=rows, part=part)

    @pages.get("/bills/{period}")
    def bill(period: Named, after: At = None) -> Response:
        with log.reading() as books:
            found = bill_page(log, books, period, after)
        return _page("bill", **found)

    @pages.get("/bills/{period}/receipts")
    def receipts(period: Named, after: At = None) -> Response:
        return _page("receipts", **of_period(period, "receipt", after))

    @pages.get("/bills/{period}/costs")
    def costs(period: Named, after: At = None) -> Response:
        return _page("costs", **of_period(period, "item", after))

    def of_period(period: str, table: str, after: int | None) -> dict[str, Any]:
        """The rows of a projection that are of the entries which a statement covers."""
        with log.reading() as books:
            bill = found_bill(books, period)
        since = bill.start - 1 if after is None else max(after, bill.start - 1)
        page = projector.page(table, (since, 2**62), ROWS)
        rows = [each for each in page.rows if each["index"] < bill.end]
        whole = page.last is None or len(rows) < len(page.rows)
        more = None if whole else rows[-1]["index"]
        return {"period": period, "start": bill.start, "end": bill.end, "rows": rows, "part": Part(range(0), more)}

    @pages.get("/log")
    def entries_page(before: At = None) -> Response:
        head = log.head
        part = newest(head.size, before)
        start, end = min(part.places, default=0), max(part.places, default=-1) + 1
        rows = log_rows(start, log.stored(start, end))
        cosigned = witnesses.state()
        with log.reading() as books:
            seen = witness_rows(books, cosigned, head.size)
        return _page("log", rows=rows, part=part, size=count(head.size), witnesses=seen, head=head.note.decode())

    @pages.get("/log/{index}")
    def entry(index: Number) -> Response:
        return _page("entry", **entry_page(log, index))

    @pages.get("/members")
    def members(after: At = None) -> Response:
        with log.reading() as books:
            found = members_page(books, after)
        return _page("members", **found)

    @pages.get("/models")
    def models(before: At = None) -> Response:
        with log.reading() as books:
            found = models_page(books, before)
        return _page("models", **found)

    @pages.get("/models/{artefact}")
    def model(artefact: Sha256, after: At = None) -> Response:
        with log.reading() as books:
            found = model_page(books, artefact, after)
        return _page("model", **found)

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
