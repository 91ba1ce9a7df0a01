"""What the members decide, as pages show it: other rules for a bill, the charter and votes on it, joins, disputes.

Nothing is computed here: what a rule would bill and how a clause reads is the code that members' own commands use.
"""

from fractions import Fraction
from typing import Any, NamedTuple

from ledger.invites import Invites
from ledger.log import Log
from ledger.shown import ROWS, Part, amount, count, moment, newest, oldest
from ledger.views import found_bill
from shared_models import invites
from shared_models.invites import Invite, Join
from shared_models.records import entry as entries
from shared_models.records.kinds import Amendment, Charter, Dispute, Statement, Vote
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import what_if, wording
from shared_models.rules.accounts import Case
from shared_models.rules.agreement import Agreement, changes
from shared_models.rules.allocation import RULES
from shared_models.rules.books import Books
from shared_models.rules.games import TABLE_RULES
from shared_models.rules.statement import Facts


def stated(books: Books, period: str) -> tuple[Statement, Facts]:
    """A statement, and what it follows from. Raises `Refused(NOT_FOUND)`."""
    bill = found_bill(books, period)
    return bill, books.accounts.stated[books.statements.index(bill)]


def what_if_page(
    bill: Statement, facts: Facts, asked: list[str], costs: list[str], after: int | None
) -> dict[str, Any]:
    """A bill as it is and by other rules, member by member. Needs no books. Raises `Refused` as `what_if.under`.

    `asked` is POT=RULE, and `costs` POT=TABLE for those that take one: else it is the charter's. While one is missing
    nothing is computed.
    """
    charter, rules, tables = facts.charter, what_if.asked(asked), what_if.asked(costs)
    own = {each.name: " ".join(f"{'+'.join(one.members)}:{one.cost}" for one in each.table) for each in charter.pots}
    tables = {pot: tables.get(pot) or own.get(pot, "") for pot, rule in rules.items() if rule in TABLE_RULES}
    missing = [pot for pot in own if tables.get(pot) == ""]
    said = {pot: f"{rule} {tables.get(pot, '')}".strip() for pot, rule in rules.items()}
    other = what_if.under(bill, facts, said) if said and not missing else None
    part = oldest(len(bill.balances), after)
    names = [bill.balances[place].member for place in part.places]
    return {
        "period": bill.period,
        "currency": charter.currency,
        "pots": [
            {
                "name": pot.name,
                "rule": pot.rule,
                "asked": rules.get(pot.name, ""),
                "rules": [*RULES, *TABLE_RULES],
                "table": tables.get(pot.name),
            }
            for pot in charter.pots[:ROWS]
        ],
        "asked": [f"{pot}={rule}" for pot, rule in rules.items()],
        "missing": missing,
        "nets": compared(bill, other, charter, part) if other is not None else [],
        "charges": charges(bill, other, charter, names) if other is not None else [],
        "part": part,
    }


def compared(bill: Statement, other: Statement, charter: Charter, part: Part) -> list[dict[str, Any]]:
    """The nets of these members by both statements. They have the same members, in the same order."""
    return [
        {
            "member": bill.balances[place].member,
            "billed": amount(bill.balances[place].net, charter),
            "other": amount(other.balances[place].net, charter),
            "difference": amount(other.balances[place].net - bill.balances[place].net, charter),
        }
        for place in part.places
    ]


def charges(bill: Statement, other: Statement, charter: Charter, names: list[str]) -> list[dict[str, Any]]:
    """What each pot charges these members by both statements."""
    billed, found = ({(each.member, each.pot): each.charge for each in one.lines} for one in (bill, other))
    place = {name: at for at, name in enumerate(names)}
    lines = sorted((each for each in {**billed, **found} if each[0] in place), key=lambda each: place[each[0]])
    nothing = Fraction(0)  # With a price of 0 there are no lines for what was served.
    return [
        {
            "member": each[0],
            "pot": each[1],
            "billed": amount(billed.get(each, nothing), charter),
            "other": amount(found.get(each, nothing), charter),
            "difference": amount(found.get(each, nothing) - billed.get(each, nothing), charter),
        }
        for each in lines
    ]


# The charter.


def charter_page(books: Books, after: int | None) -> dict[str, Any]:
    """The charter in force, clause by clause, and what is proposed to come after it."""
    agreement, said = books.agreement, list(wording.clauses(books.charter))
    part = oldest(len(said), after)
    return {
        "consortium": books.charter.consortium,
        "hash": agreement.hash,
        "at": agreement.entries[agreement.hash],
        "since": agreement.since,
        "needed": agreement.needed,
        "present": count(len(agreement.present())),
        "left": [{"member": name, "index": index} for name, index in list(agreement.left.items())[:ROWS]],
        "open": [amendment_row(agreement, each) for each in list(agreement.open)[:ROWS]],
        "clauses": [{"clause": said[place][0], "says": said[place][1]} for place in part.places],
        "part": part,
    }


def amendment_row(agreement: Agreement, hashed: str) -> dict[str, Any]:
    """An amendment, and what has become of it; who has proposed it under which name, if it is open."""
    proposal = agreement.open.get(hashed)
    if proposal is not None:
        state = "open"
    elif agreement.of(hashed) is not None:
        state = "in force" if hashed == agreement.hash else "was in force"
    else:
        state = "overtaken"  # Another came into force first; this would have replaced what is not there any more.
    return {
        "hash": hashed,
        "index": agreement.entries[hashed],
        "name": proposal and proposal.amendment.amendment,
        "member": proposal and proposal.amendment.member,
        "state": state,
        "votes": wording.missing(agreement, proposal) if proposal is not None else "",
        "for": agreement.voted(proposal) if proposal is not None else None,
    }


def amendments_page(log: Log, before: int | None) -> dict[str, Any]:
    with log.reading() as books:
        hashes = list(books.agreement.entries)[1:]  # The first is the charter that the log begins with.
        part = newest(len(hashes), before)
        rows = [amendment_row(books.agreement, hashes[place]) for place in part.places]
    for row in rows:
        record = _record(log, row["index"], Amendment)
        row |= {"name": record.amendment, "member": record.member}
    return {"rows": rows, "part": part}


def amendment_page(log: Log, hashed: str, after: int | None) -> dict[str, Any]:
    """What an amendment changes in the charter that it replaces, and each member's vote. Raises `Refused(NOT_FOUND)`.

    What is read of the log is read while others may append.
    """
    with log.reading() as books:
        index = books.agreement.entries.get(hashed, 0)
    if index == 0:  # There stands the charter that the log begins with.
        raise Refused(Refusal.NOT_FOUND, f"the log holds no amendment {hashed[:12]}…")
    record = _record(log, index, Amendment)
    with log.reading() as books:
        agreement = books.agreement
        row, needed, left = amendment_row(agreement, hashed), agreement.needed, dict(agreement.left)
        before, replaces_at = agreement.of(record.replaces), agreement.entries[record.replaces]
    assert before is not None  # It was in force when this was proposed.
    found = list(wording.changed(changes(before, record.charter)))
    voters = [member.name for member in before.members]
    part = oldest(max(len(found), len(voters)), after)
    return {
        **row,
        "name": record.amendment,
        "member": record.member,
        "replaces": record.replaces,
        "replaces_at": replaces_at,
        "needed": needed,
        "changes": [
            {"clause": where, "before": old, "after": new}
            for where, old, new in (found[place] for place in part.places if place < len(found))
        ],
        "ballots": [
            {**_ballot(log, voters[place], hashed), "left": left.get(voters[place])}
            for place in part.places
            if place < len(voters)
        ],
        "part": part,
    }


def _ballot(log: Log, member: str, hashed: str) -> dict[str, Any]:
    choice, index = "not voted", None
    try:
        index, leaf = log.find(f"{member}/admin", Vote.kind, hashed)
    except Refused as refused:
        if refused.refusal is not Refusal.NOT_FOUND:
            raise
    else:
        record = entries.peek(leaf)
        assert isinstance(record, Vote)
        choice = record.choice
    return {"member": member, "choice": choice, "index": index}


def _record(log: Log, index: int, kind: type[Any]) -> Any:
    (leaf,) = log.stored(index, index + 1)
    record = entries.peek(leaf)
    assert isinstance(record, kind)
    return record


# Who wants to join.


def joins_page(log: Log, asked: Invites, after: int | None) -> dict[str, Any]:
    """Who was invited and is no member yet, what came as an answer, and how far its admission is.

    Signatures are verified again; what is not right is left out, as whoever admits would.
    """
    with log.reading() as books:
        members = {member.name for member in books.charter.members}
    start = after or 0
    found = asked.waiting(members, start, ROWS + 1)
    rows, wrong = [], 0
    for invite, answer in found[:ROWS]:
        try:
            rows.append(_join_row(log, invite, answer))
        except Refused:
            wrong += 1  # Its inviter has left, its key was revoked; or the database has another one than came.
    return {"rows": rows, "wrong": wrong, "part": Part(range(0), start + ROWS if len(found) > ROWS else None)}


def _join_row(log: Log, invite_note: bytes, answer: bytes | None) -> dict[str, Any]:
    invite, join = invites.read(Invite, invite_note), None
    if answer is not None:
        join = invites.read(Join, answer)
        invites.check_join(join, invite)
    with log.reading() as books:
        agreement = books.agreement
        invites.check_invite(invite, books.keyring, books.charter_hash)
        hashed = join and next((each for each in agreement.open if _brings(agreement, each, join.says)), None)
        proposal = agreement.open[hashed] if hashed else None
        return {
            "member": invite.says.member,
            "inviter": invite.says.inviter,
            "benefit": count(invite.says.benefit),
            "until": moment(1000 * invite.says.expires_s),
            "invite": invite.hash,
            "state": "not answered" if join is None else "to be admitted" if proposal is None else "voted on",
            "current": join is None or join.says.accepts == agreement.hash,
            "amendment": hashed,
            "for": agreement.voted(proposal) if proposal is not None else [],
            "missing": wording.missing(agreement, proposal) if proposal is not None else "",
        }


def _brings(agreement: Agreement, hashed: str, join: Join) -> bool:
    """Whether this amendment makes a member of who has answered so."""
    return any(invites.is_of(join, member) for member in agreement.open[hashed].amendment.charter.members)


# Disputes.


class Objection(NamedTuple):
    """Who disputes something, where in the log, and why."""

    member: str
    at: int
    reason: str

    def __str__(self) -> str:
        return f"{self.member}, entry {self.at}: {self.reason}"


def disputes_page(log: Log, period: str, after: int | None) -> dict[str, Any]:
    """What a statement bills and somebody disputes, or what it left out because of that; and the bill without it.

    Raises `Refused(NOT_FOUND)`.
    """
    with log.reading() as books:
        bill, facts = stated(books, period)
        accounts, charter = books.accounts, facts.charter
        about = [
            (name, case) for name, case in accounts.cases.items() if case.period == period or _left_out(case, bill)
        ]
        part, disputed = oldest(len(about), after), [put for _, put in accounts.disputed(bill)]
        rows = [_dispute_row(*about[place], charter) for place in part.places]
    for row in rows:
        row["disputed"] = [Objection(who, at, _record(log, at, Dispute).reason) for who, at in row["by"]]
    without, why = None, ""
    if disputed:
        try:
            without = what_if.without(bill, facts, disputed)
        except Refused as refused:  # Floors that the cost reaches with it only.
            why = str(refused)
    members = oldest(len(bill.balances), None)
    return {
        "period": period,
        "currency": charter.currency,
        "rows": rows,
        "open": len(disputed),
        "nets": compared(bill, without, charter, members) if without is not None else [],
        "why": why,
        "part": part,
    }


def _left_out(case: Case, bill: Statement) -> bool:
    """Whether it was in dispute in this statement's period, and none has billed it."""
    return case.billed is None and case.opened < bill.end and not case.over(bill.start)


def _dispute_row(about: str, case: Case, charter: Charter) -> dict[str, Any]:
    return {
        "about": about,
        "by": list(case.by.items())[:ROWS],
        "state": "open" if case.ruled is None else case.outcome,
        "ruled": case.ruled,
        "rulings": [f"{member}: {outcome}" for member, outcome in list(case.said.items())[:ROWS]],
        "billed": amount(case.billed.amount, charter) if case.billed is not None else None,
    }
