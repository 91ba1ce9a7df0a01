"""What each page shows: plain values, out of the books or out of entries whose hash was compared.

Each reads at most one page of anything, `ROWS`. What the members decide is in `decided`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any, TypeVar

from ledger.log import Log
from ledger.shown import (
    ROWS,
    SHOWN_NAMES,
    amount,
    count,
    gain,
    loss,
    moment,
    names,
    newest,
    oldest,
    remaining,
    share,
    size,
    took,
    work,
)
from shared_models.records import entry as entries
from shared_models.records import note
from shared_models.records.kinds import (
    Charter,
    Manifest,
    Receipt,
    RoundClose,
    RoundOpen,
    Statement,
    StatementLine,
    Transfer,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import CLAUSES, SERVED, WORTH
from shared_models.rules.books import Books, Run
from shared_models.rules.currency import money
from shared_models.rules.pricing import FLOP_PER_NCU, value
from shared_models.rules.served import MILLION
from shared_models.rules.settlement import Open
from shared_models.rules.worth import whole

R = TypeVar("R", Manifest, RoundOpen, RoundClose, Receipt, Statement)


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
    """A run but for its curve: its rounds, the newest first. Raises `Refused(NOT_FOUND)`."""
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
                "excluded": names([f"{who}: {why}" for who, why in turn.closed.excluded]) if turn.closed else None,
                "before": loss(base.loss_unats if base else run.manifest.loss_unats),
                "after": loss(turn.closed.loss_unats) if turn.closed else None,
                "tokens": count(turn.closed.tokens) if turn.closed else None,
                "work": work(turn.closed.flop) if turn.closed else None,
            }
        )
    manifest = run.manifest
    own = dict(zip(manifest.members, manifest.steps, strict=True)) if manifest.steps else {}
    steps = [{"member": member, "steps": count(number)} for member, number in own.items()]
    return {
        "run": run_row(name, run),
        "origin": books.origin(name),
        "steps": steps,
        "asked": names([f"{member} {number:,}" for member, number in own.items()]),
        "rows": rows,
        "part": part,
    }


def found_run(books: Books, name: str) -> Run:
    """Raises `Refused(NOT_FOUND)`."""
    if name not in books.runs:
        raise Refused(Refusal.NOT_FOUND, f"the log holds no run {name}")
    return books.runs[name]


def round_page(log: Log, books: Books, name: str, number: int, after: int | None, now_ms: int) -> dict[str, Any]:
    """One round: who was asked, who has answered by a receipt in the log, and what became of it; at this time, UTC.

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
    is_open = closed is None and run.ended is None
    missing = [member for member in invited if member not in nodes]
    part, rows = oldest(len(invited), after), []
    for place in part.places:
        member = invited[place]
        receipt_at, receipt = None, None
        if member in nodes:
            receipt_at, receipt = said(log, f"{member}/compute", Receipt, f"{name}/{number}/{nodes[member]}")
        if closed is not None:
            state = "included" if member in counted else "left out"
        else:
            state = "answered" if member in nodes else "waited for" if is_open else "no answer"
        rows.append(
            {
                "member": member,
                "state": state,
                "waited": is_open and member not in nodes,
                "reason": reasons.get(member, ""),
                "judged": counted[member].judged if member in counted else "",
                "receipt": receipt_at,
                "tokens": count(receipt.tokens) if receipt else None,
                "work": work(receipt.flop) if receipt else None,
                "took": took(receipt.wall_ms) if receipt else None,
                "isolation": receipt.isolation if receipt else "",
            }
        )
    return {
        "name": name,
        "number": number,
        "rounds": run.manifest.rounds,
        "opened": moment(opened.opened_ms),
        "opened_at": opened_at,
        "deadline": moment(opened.deadline_ms),
        "left_ms": opened.deadline_ms - now_ms,
        "left": remaining(opened.deadline_ms - now_ms),
        "open": is_open,
        "closed_at": closed_at,
        "loss": loss(closed.loss_unats) if closed else None,
        "checkpoint": closed.checkpoint if closed else None,
        "asked": len(invited),
        "missing": len(missing),
        "waited": names(missing),  # For whom.
        "late": [each.member for each in closed.late] if closed else [],
        "rows": rows,
        "part": part,
    }


def training(books: Books) -> str | None:
    """The run that trains now: of those that have not ended the newest that has begun, or the newest; else the last."""
    going = [name for name, run in books.runs.items() if run.ended is None]
    begun = [name for name in going if books.runs[name].rounds]
    return next(reversed(begun or going or list(books.runs)), None)


def between(log: Log, books: Books, name: str) -> dict[str, Any] | None:
    """Who is waited for, what for, and since which entry, while no round of this run is open; None while one is, and
    when it has ended.
    """
    run, author = books.runs[name], f"{books.charter.consortium}/coordinator"
    if run.ended is not None:
        return None
    if run.rounds:
        last = run.rounds[-1]
        if last.closed is None:
            return None
        what = f"to open round {last.number + 1}" if last.number < run.manifest.rounds else "to end the run"
        return {"who": "the coordinator", "what": what, "since": last.closed.at}
    since, _ = said(log, author, Manifest, name)
    silent = [member for member in run.manifest.members if member not in run.consents]
    if silent:
        return {"who": names(silent).text, "what": "to consent", "since": since}
    return {"who": "the coordinator", "what": "to open round 1", "since": since}


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
    part, members = oldest(len(bill.balances), after), list[dict[str, Any]]()
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
                        "listed": _listed(terms, each),
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
        "lines": [{"member": each["member"], **line} for each in members for line in each["lines"]],
        "part": part,
        "transfers": [_payment(each, charter) for each in bill.transfers[:ROWS]],
        "open": [{**_payment(each, charter), "said": sorted(each.said)} for each in settlements.open(period)[:ROWS]],
        "defaulters": settlements.defaulters(period),
        "worths": list(islice(_worths(books, bill), ROWS)),
        "paid_by": _paid_by(books, bill),
        "served": list(islice(_served(books, bill, terms), ROWS)),
        "unspent_work": work(bill.unspent_flop),
        "unspent_worth": amount(value(bill.unspent_flop, bill.price), terms),
        "unspent": list(islice(_unspent(books, bill, terms), ROWS)),
    }


def _paid_by(books: Books, bill: Statement) -> tuple[int, ...]:
    """The entries by which members are paid for their experts; none where nothing is paid for them."""
    found = books.accounts.worths.standing(bill.end) if any(each.pot == WORTH for each in bill.lines) else None
    return found.entries[:ROWS] if found is not None else ()


def _worths(books: Books, bill: Statement) -> Iterator[dict[str, Any]]:
    """A row for each member and each entry of the period that says what its expert is worth."""
    for each in books.worths:
        if bill.start <= each.entry < bill.end:
            rounded = whole(each.shares)
            for who, exact in each.shares.items():
                yield {
                    "member": who,
                    "worth": gain(rounded[who], exact),
                    "routes": share(each.routed[who]),
                    "run": each.record.run,
                    "text": each.record.text,
                    "by": each.record.member,
                    "index": each.entry,
                }


def _served(books: Books, bill: Statement, terms: Charter) -> Iterator[dict[str, Any]]:
    """A row for each expert whose tokens a member says that it has served, of the entries that this statement bills."""
    for each in books.accounts.served.billed[bill.period]:
        for route in each.record.routes:
            price = terms.expert_price if route.member != each.record.member else Fraction(0)
            yield {
                "member": each.record.member,
                "tokens": count(each.record.tokens),
                "owner": route.member,
                "routed": count(route.tokens),
                "pays": amount(price * route.tokens / MILLION, terms),
                "run": each.record.run,
                "model": each.record.model,
                "index": each.at,
            }


def _unspent(books: Books, bill: Statement, terms: Charter) -> Iterator[dict[str, Any]]:
    """A row for each run that stopped early among the entries of this statement."""
    for each in books.accounts.unspent_in(bill.start, bill.end):
        yield {
            "run": each.run,
            "trained": count(each.trained),
            "rounds": count(each.rounds),
            "members": count(each.members),
            "work": work(each.flop),
            "worth": amount(value(each.flop, bill.price), terms),
            "index": each.entry,
        }


def _listed(terms: Charter, line: StatementLine) -> str:
    """Which page lists what this line's credit comes from; none does for what a clause says."""
    if line.pot == terms.compute_pot:
        return "receipts"
    return "costs" if any(pot.name == line.pot for pot in terms.pots) else ""


def _payment(each: Transfer | Open, charter: Charter) -> dict[str, Any]:
    return {"payer": each.payer, "payee": each.payee, "amount": amount(each.amount, charter)}


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
        price = f": {money(terms.expert_price, terms)} {terms.currency} for {MILLION:,}"
        return [*told, CLAUSES[name] + (price if name == SERVED else "")]
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


def overview_page(log: Log, books: Books, cosigned: dict[str, dict[str, int]], now_ms: int) -> dict[str, Any]:
    """The run that trains, but for its curve, and its newest round at this time; the last bill; the log, and who has
    cosigned it.
    """
    charter, head = books.charter, log.head
    name = training(books)
    run = books.runs[name] if name is not None else None
    bill = books.statements[-1] if books.statements else None
    found = round_page(log, books, name, len(run.rounds), None, now_ms) if name and run and run.rounds else None
    return {
        "consortium": charter.consortium,
        "currency": charter.currency,
        "run": run_row(name, run) if name is not None and run is not None else None,
        "waiting": between(log, books, name) if name is not None else None,
        "round": found,
        "answers": found["rows"] if found else [],
        "bill": bill_row(bill, charter) if bill else None,
        "nets": [{"member": each.member, "net": amount(each.net, charter)} for each in bill.balances[:ROWS]]
        if bill
        else [],
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
        "signatures": [{"name": each.name, "key": each.id.hex()} for each in parsed.signatures],
        "hash": log.books.tree.leaf(index).hex(),
        "path": [each.hex() for each in path],
        "size": head.size,
        "root": head.root.hex(),
        "head": head.note.decode(),
    }


def members_page(books: Books, after: int | None) -> dict[str, Any]:
    charter, agreement = books.charter, books.agreement
    part, rows = oldest(len(charter.members), after), list[dict[str, Any]]()
    in_default = books.accounts.settlements.in_default()
    for place in part.places:
        member = charter.members[place]
        keys = []
        for role in entries.MEMBER_ROLES:
            last = books.chains.get(f"{member.name}/{role}")
            key = getattr(member, role)
            keys.append({"member": member.name, "role": role, "key": key, "last": last.at if last else None})
        for role in entries.READER_ROLES:
            keys += [
                {"member": member.name, "role": role, "key": key.text(), "last": None}
                for named, key in books.keyring.keys.items()
                if key.name == f"{member.name}/{role}" and books.keyring.counts(*named)
            ]
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
    return {
        "rows": rows,
        "keys": [key for row in rows for key in row["keys"]],
        "part": part,
        "currency": charter.currency,
        "charter_at": agreement.entries[agreement.hash],
    }


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
        "checkpoints": [
            {"run": each.run, "round": each.round, "origin": books.origin(each.run)}
            for each in held.record.checkpoints[:ROWS]
        ],
        "parents": held.record.parents[:ROWS],
        "without": held.record.without[:ROWS],
        "verdicts": verdicts,
        "part": part,
    }
