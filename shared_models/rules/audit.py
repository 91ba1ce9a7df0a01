"""The audit: believe nothing, recompute everything.

It takes what a log published and the hash of the charter that the reader signed, and proves in this order:

1. The first entry is that charter; every member it names has signed it.
2. Every entry is canonical and signed by a key that counted when it came.
3. Every entry keeps the rules of `books`: roles, sequences, consents, rounds, claims, items.
4. Every statement is recomputed from the entries it covers, to the last carry, and so are its transfers; a quorum of
   members has witnessed what it covers.
5. The tree head is signed by the log key of that charter, and the entries hash to its root. So these are the entries.
   Every head that members cosigned is a head of this history.
6. For a member: what it signed and what it witnessed stand in this log.

Entries are fed in order and forgotten; what stays is what the books keep.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared_models.records import entry as entries
from shared_models.records import merkle, note, tlog
from shared_models.records.entry import Entry
from shared_models.records.kinds import (
    FIRST,
    Charter,
    Equivocation,
    KeyRevoke,
    Leave,
    Manifest,
    Receipt,
    RoundClose,
    RoundOpen,
    RunEnd,
    Statement,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books, Last, differences
from shared_models.rules.pricing import round_flop
from shared_models.rules.skim import Receipts, Skimmed, skim


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
    """A tree head that somebody has verified before, by name: you, or a member that vouches for its entries below."""

    size: int
    root: str
    by: str = "you"


Billed = Callable[[Books, Statement], None]


@dataclass(slots=True)
class Report:
    """What the audit saw; `findings` is empty if and only if every number was recomputed and agrees."""

    findings: list[Finding] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)  # What is in order, and a reader should know of.
    books: Books = field(default_factory=Books)
    entries: int = 0
    signatures: int = 0  # Verified.
    vouched: int = 0  # Not verified, because somebody vouches for them.
    cosignatures: int = 0
    receipts: int = 0
    accepted: int = 0  # Receipts that a round included: those that earn.
    numbers: int = 0  # Amounts of statements recomputed: credits, charges, nets, carries, transfers.


class Audit:
    """An audit under way: `feed` it every entry in order, then `finish`."""

    def __init__(
        self,
        *,
        charter: str | None = None,
        mine: Iterable[bytes] = (),
        witnessed: Iterable[Witnessed] = (),
        chained: Collection[str] = (),
        billed: Billed | None = None,
    ) -> None:
        """`charter` is the leaf hash of the charter the reader signed; without it the audit proves that the log agrees
        with itself, not whose log it is. `mine` are leaves that a member signed; `witnessed` are heads that must be of
        this history: the reader's own, and those of whoever vouches for entries that are fed unverified. `chained` are
        authors of whom only the newest signature is verified (`settle`): each of their entries cites the one before.
        `billed` is called with each statement that is right, before the books forget what it covers.
        """
        self.report = Report()
        self._charter = charter
        self._mine = {merkle.leaf_hash(leaf): leaf for leaf in mine}
        self._witnessed = list(witnessed)
        self.chained = chained
        self._billed = billed
        self._newest: dict[str, tuple[int, Entry]] = {}  # Of each such author, the entry that was not verified yet.
        self._over = False

    @property
    def books(self) -> Books:
        return self.report.books

    def feed(
        self, leaf: bytes, published: bytes | None, verify: bool = True, vouched: Mapping[str, int] | None = None
    ) -> None:
        """The next entry, and its hash as the log's tile has it (None: it has none).

        The published hash is believed as far as it leads to the head's root, and tells which entry was altered.
        Whether the signature of a receipt is verified is said as for `skim`.
        """
        if self._over:
            return
        context = self.books.context
        skimmed = skim(leaf, context, verify, self.report.entries, vouched) if context is not None else None
        if skimmed is not None and skimmed.hash == published:
            self.feed_skimmed(skimmed)
        else:
            self._feed_slowly(leaf, published)

    def feed_skimmed(self, receipt: Skimmed) -> None:
        """The next entry: a receipt that was skimmed elsewhere, and whose hash is that of the log's tile.

        It was skimmed in an earlier context of these books, or this one.
        """
        report, books = self.report, self.report.books
        try:
            books.take(receipt)
        except Refused as refused:
            report.findings.append(Finding(report.entries, refused.refusal, refused.detail))
            books.chains[receipt.author] = Last(receipt.seq, receipt.hash.hex(), report.entries)
            books.tree.append(receipt.hash)
        else:
            report.receipts += 1
        report.entries += 1
        if receipt.verified:
            report.signatures += 1
        else:
            report.vouched += 1
        self._mine.pop(receipt.hash, None)

    def feed_all(self, receipts: Receipts) -> None:
        """The next entries: receipts of one round, each as `feed_skimmed` asks for."""
        report, fed = self.report, len(receipts.hashes)
        if not report.books.take_all(receipts):
            for each in receipts.each():
                self.feed_skimmed(each)
            return
        verified = sum(receipts.verified)
        report.receipts += fed
        report.entries += fed
        report.signatures += verified
        report.vouched += fed - verified
        if self._mine:
            for hashed in receipts.hashes:
                self._mine.pop(hashed, None)

    def _feed_slowly(self, leaf: bytes, published: bytes | None) -> None:
        findings, index = self.report.findings, self.report.entries
        self.report.entries += 1
        hashed = merkle.leaf_hash(leaf)
        if hashed != published:
            findings.append(Finding(index, Refusal.CORRUPT, "its bytes are not those that the log published"))
        findings += (
            Finding(index, refused.refusal, refused.detail) for refused in self._entry(leaf, published or hashed)
        )
        if index == 0:
            if self.books.tree.size == 0:
                self._over = True  # Without a charter there are no keys, so nothing further can be told.
            elif self._charter not in (None, self.books.charter_hash):
                mine, this = f"{self._charter}"[:12], self.books.charter_hash[:12]
                findings.append(Finding(0, Refusal.NO_CHARTER, f"this is charter {this}…, you signed {mine}…"))
        self._mine.pop(published or b"", None)

    def finish(self, head: bytes, cosigned: Iterable[bytes] = ()) -> Report:
        """The report, once every entry was fed: `head` is the log's newest, `cosigned` are heads with cosignatures."""
        self.settle()
        if not self._over:
            self.report.findings += self._log(head)
            for data in cosigned:
                self.report.findings += self._cosigned(data)
            self.report.findings += self._member()
        return self.report

    def settle(self) -> None:
        """Verify the newest signature of each author that is `chained`: it stands for those before it by the same key.

        Nobody signs but behind its own last entry (`Folder.say`), whose hash it cites.
        """
        for author in list(self._newest):
            self._settle(author)

    def _settle(self, author: str) -> None:
        index, newest = self._newest.pop(author)
        try:
            self.books.open(newest.leaf)
        except Refused as refused:
            self.report.findings.append(Finding(index, refused.refusal, refused.detail))
        self.report.signatures += 1
        self.report.vouched -= 1

    def _open(self, leaf: bytes) -> Entry:
        entry = self.books.open(leaf, self.chained)
        names = {key.name for key in entry.signers}
        if names.isdisjoint(self.chained):
            self.report.signatures += len(entry.signers)
        elif len(entry.signers) > 1:  # Others stand for it too.
            self.report.signatures += len(self.books.open(leaf).signers)
        else:
            newest = self._newest.get(entry.author)
            if newest is not None and newest[1].signers != entry.signers:
                self._settle(entry.author)  # Another key: it does not stand for what that one signed.
            self._newest[entry.author] = self.books.tree.size, entry
            self.report.vouched += 1
        return entry

    def _entry(self, leaf: bytes, hashed: bytes) -> Iterator[Refused]:
        """Check one entry and take it in, under this hash; each reason why it should not be here."""
        report, books = self.report, self.books
        try:
            entry = self._open(leaf)
            books.check(entry)
        except Refused as refused:
            yield refused
            yield from _named(books, leaf, refused)
            if books.keys:
                self._step_over(leaf, hashed)
            return
        record = entry.record
        report.receipts += isinstance(record, Receipt)
        if isinstance(record, RoundClose):
            report.accepted += len(record.included) + len(record.late)
        if isinstance(record, Statement):
            report.numbers += 2 * len(record.lines) + 3 * len(record.balances) + len(record.transfers)
            if self._billed is not None:
                self._billed(books, record)
        before = books.agreement.hash if books.keys else ""
        index = books.add(replace(entry, hash=hashed))
        if before not in ("", books.agreement.hash):
            report.notices.append(f"entry {index}: from here on another charter is in force, {books.agreement.hash}")
        if (notice := _notice(entry)) is not None:
            report.notices.append(f"entry {index}: {notice}")

    def _step_over(self, leaf: bytes, hashed: bytes) -> None:
        """Go on behind an entry that was refused, so that one lie does not make every later entry look wrong.

        It keeps its place in the tree and in its author's chain. What it says about work, money or consent does not
        count; a run or a round goes on as it says, and a statement as it should have been.
        """
        books = self.books
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
        key = next((key for (name, _), key in books.keys.items() if name == author), None)
        if key is not None and (goes_on or right is not None):
            books.add(Entry(leaf, hashed, record, (key,)))
        else:
            books.tree.append(hashed)
        if key is not None:
            books.chains[author] = Last(claimed.seq, hashed.hex(), index)

    def _log(self, head: bytes) -> Iterator[Finding]:
        """The tree head is signed by the log's key, and the entries lead to its root."""
        tree = self.books.tree
        try:
            signed = tlog.open_head(head, self.books.keys)
        except Refused as refused:
            yield Finding(None, refused.refusal, f"tree head: {refused.detail}")
            return
        if signed.size != tree.size:
            yield Finding(None, Refusal.WRONG_HEAD, f"the head speaks of {signed.size} entries, there are {tree.size}")
        elif tree.root() != signed.root:
            yield Finding(None, Refusal.WRONG_HEAD, f"the entries do not lead to the root of size {signed.size}")

    def _cosigned(self, data: bytes) -> Iterator[Finding]:
        """A head that the log signed and members cosigned is of this history."""
        tree = self.books.tree
        try:
            head, times = tlog.open_cosigned(data, self.books.keys)
        except Refused as refused:
            yield Finding(None, refused.refusal, f"cosigned head: {refused.detail}")
            return
        self.report.cosignatures += len(times)
        if head.size > tree.size or tree.root(head.size) != head.root:
            who = ", ".join(sorted(times)) or "nobody"
            yield Finding(None, Refusal.FORK, f"the log signed another root at size {head.size}, cosigned by {who}")

    def _member(self) -> Iterator[Finding]:
        """What a member signed and witnessed is part of this log's history."""
        tree = self.books.tree
        for seen in self._witnessed:
            if seen.size > tree.size or tree.root(seen.size).hex() != seen.root:
                yield Finding(
                    None,
                    Refusal.FORK,
                    f"{seen.by} witnessed root {seen.root[:12]}… at size {seen.size}; this log shows another",
                )
        for leaf in self._mine.values():
            claimed = entries.peek(leaf)
            what = f"{claimed.kind} {claimed.idem}" if claimed else hashlib.sha256(leaf).hexdigest()[:12]
            yield Finding(None, Refusal.NOT_FOUND, f"you signed {what}, and this log does not hold it")


def audit(
    leaves: Iterable[bytes],
    head: bytes,
    hashes: Sequence[bytes],
    *,
    cosigned: Iterable[bytes] = (),
    charter: str | None = None,
    mine: Iterable[bytes] = (),
    witnessed: Iterable[Witnessed] = (),
) -> Report:
    """Recompute a log that fits into memory, in this process: `Audit`, fed."""
    running = Audit(charter=charter, mine=mine, witnessed=witnessed)
    for index, leaf in enumerate(leaves):
        running.feed(leaf, hashes[index] if index < len(hashes) else None)
    return running.finish(head, cosigned)


def _notice(entry: Entry) -> str | None:
    match entry.record:
        case Equivocation(first=first, other=other):
            claimed = entries.peek(other.encode())
            what = f"{claimed.kind} {claimed.idem}" if claimed else "something"
            author = note.parse(other.encode()).signatures[0].name
            return f"{author} said two things about {what}: here, and at entry {first}"
        case KeyRevoke(holder=holder, role=role, id=key, suspect_from=start):
            return f"{holder} revoked its {role} key {key}; what it signed from entry {start} on was disputed"
        case RoundClose(seed=seed, run=run, round=number) if seed == FIRST:
            return f"round {number} of {run} was handed over to another coordinator: it has no step"
        case Leave(member=member, reason=reason):
            return f"{member} left: {reason}"
    return None


def _named(books: Books, leaf: bytes, refused: Refused) -> Iterator[Refused]:
    """Which numbers of a refused entry are wrong, so that a reader sees the line and not only the entry."""
    claimed = entries.peek(leaf)
    if isinstance(claimed, Statement) and (right := _recomputed(books, claimed)):
        for sentence in differences(claimed, right):
            if sentence != refused.detail:
                yield Refused(Refusal.WRONG_STATEMENT, sentence)
    elif isinstance(claimed, Receipt) and claimed.run in books.runs and refused.refusal is Refusal.BAD_SIGNATURE:
        manifest = books.runs[claimed.run].manifest
        if claimed.member not in manifest.members:
            return
        asked = round_flop(manifest, claimed.round, claimed.member)
        yield Refused(
            Refusal.BAD_SIGNATURE,
            f"what it now says: {claimed.member} trained {claimed.tokens} tokens in round {claimed.round},"
            f" {claimed.flop} FLOP; the round takes {asked}",
        )


def _recomputed(books: Books, claimed: Statement) -> Statement | None:
    try:
        return books.statement(
            claimed.period, claimed.end, seq=claimed.seq, prev=claimed.prev, cosignatures=claimed.cosignatures
        )
    except Refused:
        return None
