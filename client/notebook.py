"""A log as objects, for Python and for notebooks. Whoever connects has audited it: what they show was recomputed here.

    from client.notebook import Ledger

    log = Ledger.connect("http://127.0.0.1:8443", home="parties/acme")
    log.bill()                                          # the newest one; a notebook shows it as a table
    log.bill("2026-11", rule={"services": "proportional"})  # what it would be
    log.bill("2026-12").diff(log.bill("2026-11"))       # why it is another one
    log.curve("r1")                                     # the loss against tokens
    for index, receipt in log.records("receipt"): ...

Needs the base install and nothing else: numbers are ints and Fractions, rows are dictionaries, as pandas takes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from client import bill as bills
from client import explain
from client.auditor import Auditor
from client.home import Home
from shared_models.published import Read, bundles, reader
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import KINDS, Charter, Record, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import what_if
from shared_models.rules.audit import Finding
from shared_models.rules.books import Books, Run

WIDE, HIGH = 480, 160  # Of a picture, in pixels.


class Point(NamedTuple):
    """What a run had come to after a round; after none, before the first."""

    round: int
    tokens: int  # That were counted so far,
    flop: int  # and the work for them.
    loss: float  # Held-out, nats per byte.


@dataclass(frozen=True)
class Curve(Sequence[Point]):
    """The held-out loss of a run, round by round."""

    run: str
    points: tuple[Point, ...]

    def __getitem__(self, at: Any) -> Any:
        return self.points[at]

    def __len__(self) -> int:
        return len(self.points)

    def _repr_html_(self) -> str:
        losses, most = [each.loss for each in self.points], max(1, self.points[-1].tokens)
        high, span = max(losses), (max(losses) - min(losses)) or 1
        right, down = (WIDE - 20) / most, (HIGH - 20) / span
        places = (f"{10 + right * each.tokens:.0f},{10 + down * (high - each.loss):.0f}" for each in self.points)
        says = f"{self.run}: {losses[0]:.3f} to {losses[-1]:.3f} nats per byte in {self.points[-1].tokens:,} tokens"
        return (
            f'<figure><svg viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" role="img" aria-label="{escape(says)}">'
            f'<polyline points="{" ".join(places)}" fill="none" stroke="currentColor" stroke-width="2"/></svg>'
            f"<figcaption>{escape(says)}</figcaption></figure>"
        )


@dataclass(frozen=True)
class Change:
    """Why each member's net is another one than in the period before: `parts[member][factor]`, exact, in minor units.

    The factors are those of `client.explain.change`; a member's parts sum to the difference.
    """

    before: explain.Opened
    after: explain.Opened
    parts: Mapping[str, Mapping[str, Fraction]]

    def __str__(self) -> str:
        return explain.changes_text(self.parts, self.before, self.after)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class Bill:
    """A statement, with everything that it was computed from."""

    opened: explain.Opened
    statement: Statement  # That of the log, or what another rule would make of it,
    charter: Charter  # under this charter, or one with that rule.
    read: Read
    size: int  # Of the log.

    def net(self, member: str) -> int:
        """What it is paid out, in minor units; below zero, what it pays. Raises `Refused(NOT_FOUND)`."""
        found = [each.net for each in self.statement.balances if each.member == member]
        if not found:
            raise Refused(Refusal.NOT_FOUND, f"{member[:80]} is not in the statement {self.statement.period}")
        return found[0]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each member and pot: what it put in and what it is charged, exact, in minor units."""
        return [asdict(each) for each in self.statement.lines]

    def explain(self, line: str) -> str:
        """How a number comes about, down to the entries: MEMBER, or MEMBER/POT. Raises `Refused(NOT_FOUND)`.

        It is the log's own number that is explained, also of a bill by another rule.
        """
        return explain.number_text(explain.explain(self.opened, line, self.read, self.size))

    def diff(self, before: "Bill") -> Change:
        """Why it is another one than the bill of the period before. Raises `Refused(NOT_FOUND)` as `explain.change`."""
        return Change(before.opened, self.opened, explain.changes(before.opened, self.opened))

    def __str__(self) -> str:
        return bills.text(self.statement, self.charter)

    def _repr_html_(self) -> str:
        first, *rows = bills.rows(self.statement, self.charter)
        head = "".join(f"<th>{escape(cell)}</th>" for cell in first)
        body = "".join(f"<tr><th>{escape(row[0])}</th>{''.join(map(_number, row[1:]))}</tr>" for row in rows)
        told = *bills.transfers(self.statement, self.charter), *bills.not_spent(self.statement, self.charter)
        pays = "<br/>".join(map(escape, told))
        title = escape(bills.title(self.statement, self.charter))
        return f"<table><caption>{title}</caption><tr>{head}</tr>{body}</table><p>{pays}</p>"


def _number(cell: str) -> str:
    return f'<td style="text-align:right">{escape(cell)}</td>'


@dataclass(frozen=True)
class Ledger:
    """A log that was read whole, and every number of it recomputed. What is in it later is not seen: connect again."""

    books: Books
    findings: tuple[Finding, ...]  # Empty if and only if all of it is right.
    opened: Mapping[str, explain.Opened]  # By period; without statements that are wrong.
    read: Read

    @classmethod
    def connect(
        cls,
        where: str | Path,
        *,
        home: str | Path | None = None,
        key: str | Path | None = None,
        charter: str | None = None,
    ) -> "Ledger":
        """Read and audit the log at this address, or in this folder, as `consortium audit` does.

        `home`, a member's folder, pins what it has signed and seen, and asks a ledger for members only by its key; else
        `key` is the file of one, and `charter` the leaf hash of what was signed. Raises `Refused` if a part of the log
        cannot be read; what is wrong in it is in `findings`.
        """
        found = dict[str, explain.Opened]()

        def keep(books: Books, stated: Statement) -> None:
            found[stated.period] = explain.Opened.of(books, stated)

        own = Home(Path(home)) if home is not None else None
        asks = SigningKey.load(Path(key)) if key is not None else own.ledger().key if own is not None else None
        pins: dict[str, Any] = {"charter": charter}
        if own is not None:
            pins = {"charter": own.charter_entry.hash.hex(), "mine": own.signed(), "witnessed": [own.witnessed()]}
        report = Auditor(**pins, billed=keep, key=asks).run(str(where))
        return cls(report.books, tuple(report.findings), found, reader(str(where), asks))

    @property
    def charter(self) -> Charter:
        """The one in force."""
        return self.books.charter

    @property
    def periods(self) -> tuple[str, ...]:
        """Those that are billed, in order."""
        return tuple(each.period for each in self.books.statements)

    @property
    def runs(self) -> Mapping[str, Run]:
        return self.books.runs

    def bill(self, period: str = "", *, rule: Mapping[str, str] | None = None) -> Bill:
        """The bill of a period, or the newest one; by other rules, {pot: rule}, what it would be, which nobody signs.

        Raises `Refused`: NOT_FOUND; WRONG_STATEMENT if it is not what its entries say; as `what_if.under`.
        """
        known = [each for each in self.periods if period in ("", each)]
        if not known:
            raise Refused(Refusal.NOT_FOUND, f"the log holds no statement {period[:80]}".rstrip())
        if (this := self.opened.get(known[-1])) is None:
            raise Refused(Refusal.WRONG_STATEMENT, f"{known[-1]} is not what its entries say: see findings")
        size = self.books.tree.size
        if not rule:
            return Bill(this, this.bill, this.charter, self.read, size)
        return Bill(
            this, what_if.under(this.bill, this.facts, rule), what_if.with_rules(this.charter, rule), self.read, size
        )

    def curve(self, run: str) -> Curve:
        """The held-out loss of a run. Raises `Refused(UNKNOWN_RUN)`."""
        found = self.books.run(run)
        closed = [each.closed for each in found.rounds if each.closed is not None]
        tokens = [0, *accumulate(each.tokens for each in closed)]
        flop = [0, *accumulate(each.flop for each in closed)]
        unats = [found.manifest.loss_unats, *(each.loss_unats for each in closed)]
        return Curve(
            run,
            tuple(
                Point(number, trained, done, loss / 1e6)
                for number, (trained, done, loss) in enumerate(zip(tokens, flop, unats, strict=True))
            ),
        )

    def records(self, kind: str = "", since: int = 0) -> Iterator[tuple[int, Record]]:
        """(index, record) of every entry, of this kind if one is named; read piece by piece, however long the log is.

        Raises `Refused`: BAD_FIELD if there is no such kind; CORRUPT if what is read now is not what was audited.
        """
        if kind and kind not in KINDS:
            raise Refused(Refusal.BAD_FIELD, f"no record is a {kind[:80]}; there are {', '.join(KINDS)}")
        for bundle in bundles(self.read, self.books.tree.size, since):
            audited = self.books.tree.hashes(0, bundle.start, bundle.start + len(bundle.leaves))
            if audited != b"".join(map(merkle.leaf_hash, bundle.leaves)):
                raise Refused(Refusal.CORRUPT, f"entries from {bundle.start} on are not those that were audited")
            for index, leaf in enumerate(bundle.leaves, bundle.start):
                if index >= since and (record := entries.peek(leaf)) and (not kind or record.kind == kind):
                    yield index, record

    def _repr_html_(self) -> str:
        head = tlog.unsigned(self.read(tlog.HEAD))
        wrong = f"{len(self.findings)} findings" if self.findings else "every number recomputed, no finding"
        rows = [f"<li>{escape(str(each))}</li>" for each in self.findings[:20]]
        title = f"{escape(self.charter.consortium)}: {self.books.tree.size:,} entries of {head.size:,}, {wrong}"
        return f"<p>{title}</p><ul>{''.join(rows)}</ul>"
