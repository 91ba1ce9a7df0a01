"""The audit: believe nothing, recompute everything.

It takes what a log published and the hash of the charter that the reader signed, and proves in this order:

1. The first entry is that charter; every member it names has signed it.
2. The tree head is signed by the log key of that charter, and the entries hash to its root. So these are the entries.
3. Every entry is canonical and signed by a key of the charter.
4. Every entry keeps the rules of `books`: roles, sequences, consents, rounds, claims, items.
5. Every statement is recomputed from the entries it covers, to the last carry, and so are its transfers.
6. For a member: what it signed and what it witnessed stand in this log.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from shared_models.records import entry as entries
from shared_models.records import merkle, note, tlog
from shared_models.records.kinds import Charter, Manifest, Receipt, RoundClose, RoundOpen, RunEnd, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books, Last, differences


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, and at which entry (None: the log as a whole)."""

    index: int | None
    refusal: Refusal
    detail: str

    def __str__(self) -> str:
        where = "log" if self.index is None else f"entry {self.index}"
        return f"{where}: {self.refusal.value}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A tree head that a member has verified before."""

    size: int
    root: str


@dataclass(slots=True)
class Report:
    """What the audit saw; `findings` is empty if and only if every number was recomputed and agrees."""

    findings: list[Finding] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    entries: int = 0
    signatures: int = 0
    receipts: int = 0
    accepted: int = 0  # Receipts that a round included: those that earn.
    numbers: int = 0  # Amounts of statements recomputed: credits, charges, nets, carries, transfers.


def audit(
    leaves: Iterable[bytes],
    head: bytes,
    hashes: Sequence[bytes],
    *,
    charter: str | None = None,
    mine: Iterable[bytes] = (),
    witnessed: Witnessed | None = None,
) -> Report:
    """Recompute a log from its leaves.

    `head` is the tree head's note, `hashes` the leaf hashes that the log published in its tiles; they are believed only
    as far as they lead to the head's root, and serve to say which entry was altered. `charter` is the leaf hash of the
    charter the reader signed; without it the audit proves that the log agrees with itself, not whose log it is. `mine`
    are leaves that a member signed, `witnessed` the newest head it verified.
    """
    report = Report()
    published = merkle.Tree()
    for hashed in hashes:
        published.append(hashed)
    books = report.books
    for index, leaf in enumerate(leaves):
        report.entries += 1
        hashed = merkle.leaf_hash(leaf)
        if index >= published.size or published.leaf(index) != hashed:
            report.findings.append(Finding(index, Refusal.CORRUPT, "its bytes are not those that the log published"))
        report.findings += (
            Finding(index, refused.refusal, refused.detail) for refused in _entry(report, books, leaf, published, index)
        )
        if index == 0:
            if books.tree.size == 0:
                return report  # Without a charter there are no keys, so nothing further can be told.
            if charter is not None and books.charter_hash != charter:
                report.findings.append(
                    Finding(
                        0, Refusal.NO_CHARTER, f"this is charter {books.charter_hash[:12]}…, you signed {charter[:12]}…"
                    )
                )
    report.findings += _log(report, published, head)
    report.findings += _member(published, mine, witnessed)
    return report


def _entry(report: Report, books: Books, leaf: bytes, published: merkle.Tree, index: int) -> Iterator[Refused]:
    """Check one entry and take it in; each reason why it should not be here."""
    try:
        entry = books.open(leaf)
        report.signatures += len(entry.signers)
        if (before := books.said(entry)) is not None:
            raise Refused(Refusal.CONFLICT, f"entry {before} says the same: this work would count twice")
        books.check(entry)
    except Refused as refused:
        yield refused
        yield from _named(books, leaf, refused)
        if books.keys:
            _step_over(books, leaf, published.leaf(index) if index < published.size else merkle.leaf_hash(leaf))
        return
    record = entry.record
    report.receipts += isinstance(record, Receipt)
    if isinstance(record, RoundClose):
        report.accepted += len(record.included)
    if isinstance(record, Statement):
        report.numbers += 2 * len(record.lines) + 3 * len(record.balances) + len(record.transfers)
    books.add(entry)


def _named(books: Books, leaf: bytes, refused: Refused) -> Iterator[Refused]:
    """Which numbers of a refused entry are wrong, so that a reader sees the line and not only the entry."""
    claimed = entries.peek(leaf)
    if isinstance(claimed, Statement) and (right := _recomputed(books, claimed)):
        for sentence in differences(claimed, right):
            if sentence != refused.detail:
                yield Refused(Refusal.WRONG_STATEMENT, sentence)
    elif isinstance(claimed, Receipt) and claimed.run in books.runs and refused.refusal is Refusal.BAD_SIGNATURE:
        asked = books.runs[claimed.run].manifest.flop_per_token
        yield Refused(
            Refusal.BAD_SIGNATURE,
            f"what it now says: {claimed.member} trained {claimed.tokens} tokens in round {claimed.round},"
            f" of {asked} FLOP each, {claimed.flop} in all",
        )


def _recomputed(books: Books, claimed: Statement) -> Statement | None:
    try:
        return books.statement(claimed.period, claimed.end, seq=claimed.seq, prev=claimed.prev)
    except Refused:
        return None


def _step_over(books: Books, leaf: bytes, hashed: bytes) -> None:
    """Go on behind an entry that was refused, so that one lie does not make every later entry look wrong.

    It keeps its place in the tree and in its author's chain. What it says about work, money or consent does not count;
    a run or a round goes on as it says, and a statement as it should have been.
    """
    claimed = entries.peek(leaf)
    index = books.tree.size
    if claimed is None or isinstance(claimed, Charter):
        books.tree.append(hashed)
        return
    author = note.parse(leaf).signatures[0].name
    match claimed:
        case Manifest():
            goes_on = claimed.run not in books.runs
        case RoundOpen() | RunEnd():
            goes_on = claimed.run in books.runs
        case RoundClose():
            goes_on = claimed.run in books.runs and books.runs[claimed.run].rounds != []
        case _:
            goes_on = False
    right = _recomputed(books, claimed) if isinstance(claimed, Statement) else None
    record = right if right is not None else claimed
    if goes_on or right is not None:
        books.add(entries.Entry(leaf, hashed, record, (author,)))
    else:
        books.tree.append(hashed)
    if author in books.keys:
        books.chains[author] = Last(claimed.seq, hashed.hex(), index)


def _log(report: Report, published: merkle.Tree, head: bytes) -> Iterator[Finding]:
    """The tree head is signed by the log's key, and the published hashes lead to its root."""
    try:
        signed = tlog.open_head(head, report.books.keys)
    except Refused as refused:
        yield Finding(None, refused.refusal, f"tree head: {refused.detail}")
        return
    if signed.size != report.entries:
        yield Finding(None, Refusal.WRONG_HEAD, f"the head speaks of {signed.size} entries, there are {report.entries}")
    elif published.size != signed.size or published.root() != signed.root:
        yield Finding(None, Refusal.WRONG_HEAD, f"the published hashes do not lead to the root of size {signed.size}")


def _member(published: merkle.Tree, mine: Iterable[bytes], witnessed: Witnessed | None) -> Iterator[Finding]:
    """What a member signed and witnessed is part of this log's history."""
    if witnessed is not None and (
        witnessed.size > published.size or published.root(witnessed.size).hex() != witnessed.root
    ):
        yield Finding(
            None,
            Refusal.FORK,
            f"you witnessed root {witnessed.root[:12]}… at size {witnessed.size}; this log shows another",
        )
    held = {published.leaf(index) for index in range(published.size)}
    for leaf in mine:
        if merkle.leaf_hash(leaf) not in held:
            claimed = entries.peek(leaf)
            what = f"{claimed.kind} {claimed.idem}" if claimed else hashlib.sha256(leaf).hexdigest()[:12]
            yield Finding(None, Refusal.NOT_FOUND, f"you signed {what}, and this log does not hold it")
