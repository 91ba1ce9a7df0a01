"""The books: what the log says, folded entry by entry, and what an entry must fulfil to be let in.

The ledger asks this before it writes, the auditor asks it again of every entry: one set of rules for both, in which
nobody has to be believed. The state is a pure function of the entries; it holds no clock, no file and no network.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from shared_models.records import entry as entries
from shared_models.records.entry import Entry
from shared_models.records.keys import VerifyKey
from shared_models.records.kinds import (
    FIRST,
    Charter,
    Consent,
    CostItem,
    Manifest,
    Receipt,
    RoundClose,
    RoundOpen,
    RunEnd,
    Statement,
)
from shared_models.records.merkle import Tree
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.allocation import RULES
from shared_models.rules.pricing import check_claim, flop_per_token
from shared_models.rules.statement import statement


@dataclass(slots=True)
class Round:
    """One exchange of a run."""

    opened: RoundOpen
    hash: str
    receipts: dict[str, Receipt] = field(default_factory=dict)  # By leaf hash.
    closed: RoundClose | None = None


@dataclass(slots=True)
class Run:
    """One run: what was agreed, who consented, how far it is."""

    manifest: Manifest
    hash: str
    leaf: bytes
    checkpoint: str
    consents: set[str] = field(default_factory=set)
    rounds: list[Round] = field(default_factory=list)
    ended: RunEnd | None = None


@dataclass(frozen=True, slots=True)
class Last:
    """The newest entry of one author."""

    seq: int
    hash: str
    index: int


class Books:
    """Everything that follows from the entries so far.

    Use: `entry = books.open(leaf)`, `books.check(entry)`, then, once it is stored, `books.add(entry)`.
    """

    def __init__(self) -> None:
        self.tree = Tree()
        self.keys: dict[str, VerifyKey] = {}
        self.chains: dict[str, Last] = {}  # By author.
        self.runs: dict[str, Run] = {}
        self.statements: list[Statement] = []
        self._charter: tuple[Charter, str] | None = None
        self._said: dict[tuple[str, str, str], tuple[int, bytes]] = {}
        self._work: list[tuple[int, str, int]] = []  # (index of the round.close, member, FLOP) not yet billed.
        self._items: list[tuple[int, CostItem]] = []  # Not yet billed.

    @property
    def charter(self) -> Charter:
        """The charter in force. Raises `Refused(NO_CHARTER)` before there is one."""
        return self._chartered()[0]

    @property
    def charter_hash(self) -> str:
        return self._chartered()[1]

    def _chartered(self) -> tuple[Charter, str]:
        if self._charter is None:
            raise Refused(Refusal.NO_CHARTER, "the log is empty")
        return self._charter

    def run(self, name: str) -> Run:
        """The run of this name. Raises `Refused(UNKNOWN_RUN)`."""
        if name not in self.runs:
            raise Refused(Refusal.UNKNOWN_RUN, f"the log holds no manifest of a run {name}")
        return self.runs[name]

    # Reading an entry.

    def open(self, leaf: bytes) -> Entry:
        """The entry in this leaf: its bytes are right and a key of this charter signed it. Raises `Refused`."""
        if self._charter is None:
            return entries.open_charter(leaf)
        return entries.open_leaf(leaf, self.charter.consortium, self.keys)

    def said(self, entry: Entry) -> int | None:
        """The index at which the log already holds this text. Raises `Refused(CONFLICT)` if it holds another one."""
        known = self._said.get(entry.key)
        if known is None:
            return None
        if known[1] != hashlib.sha256(entry.text).digest():
            author, kind, idem = entry.key
            raise Refused(Refusal.CONFLICT, f"{author} said something else about {kind} {idem} at entry {known[0]}")
        return known[0]

    # Rules. Each raises `Refused` and changes nothing.

    def check(self, entry: Entry) -> None:
        """Whether this entry may come next.

        1. It comes first and is a charter, or the log has one and it is another kind.
        2. Its author holds the role that writes this kind, and speaks for nobody else.
        3. It continues its author's chain: the next number, and the hash of the one before.
        4. What its kind asks for holds.
        """
        record = entry.record
        if isinstance(record, Charter):
            if self._charter is not None:
                raise Refused(Refusal.CONFLICT, "this log has its charter, at entry 0")
            _check_charter(record)
            return
        self._check_author(entry)
        last = self.chains.get(entry.author, Last(-1, FIRST, -1))
        if record.seq != last.seq + 1:
            raise Refused(Refusal.SEQUENCE_GAP, f"{entry.author} is at {last.seq}, this says {record.seq}")
        if record.prev != last.hash:
            raise Refused(
                Refusal.WRONG_PREV, f"{entry.author} cites {record.prev[:12]}…, its last is {last.hash[:12]}…"
            )
        match record:
            case Manifest():
                self._check_manifest(record)
            case Consent():
                self._check_consent(record)
            case RoundOpen():
                self._check_open(record)
            case Receipt():
                self._check_receipt(record)
            case RoundClose():
                self._check_close(record)
            case RunEnd():
                self._check_end(record)
            case CostItem():
                self._check_item(record)
            case Statement():
                self._check_statement(record)

    def _check_author(self, entry: Entry) -> None:
        match entry.record:
            case Consent(member=holder) | Receipt(member=holder):
                role = "compute"
            case CostItem(payer=holder):
                role = "admin"
            case Statement():
                holder, role = self.charter.consortium, "admin"
            case _:
                holder, role = self.charter.consortium, "coordinator"
        speaker, _, spoken = entry.author.rpartition("/")
        if spoken != role or (speaker == self.charter.consortium) != (holder == self.charter.consortium):
            raise Refused(Refusal.WRONG_ROLE, f"{entry.author} wrote a {entry.record.kind}; that is for {role} keys")
        if speaker != holder:
            raise Refused(Refusal.WRONG_MEMBER, f"{entry.author} signed for {holder}")

    def _check_manifest(self, manifest: Manifest) -> None:
        if manifest.charter != self.charter_hash:
            raise Refused(Refusal.NO_CHARTER, f"the manifest cites another charter, {manifest.charter[:12]}…")
        members = {member.name for member in self.charter.members}
        if not members.issuperset(manifest.members) or not _rising(manifest.members):
            raise Refused(
                Refusal.WRONG_MEMBER, f"not members in order of their names: {', '.join(manifest.members)[:120]}"
            )
        if not manifest.quorum <= len(manifest.members):
            raise Refused(Refusal.BAD_FIELD, f"a quorum of {manifest.quorum} among {len(manifest.members)} members")
        right = flop_per_token(manifest.recipe)
        if manifest.flop_per_token != right:
            raise Refused(Refusal.WRONG_FLOP, f"{manifest.flop_per_token} FLOP per token; the formula gives {right}")

    def _check_consent(self, consent: Consent) -> None:
        run = self.run(consent.run)
        if consent.manifest != run.hash:
            raise Refused(Refusal.WRONG_MANIFEST, f"{consent.member} consents to {consent.manifest[:12]}…")
        if consent.member not in run.manifest.members:
            raise Refused(Refusal.NOT_INVITED, f"run {consent.run} does not name {consent.member}")

    def _check_open(self, opened: RoundOpen) -> None:
        run = self._going(opened.run)
        if opened.manifest != run.hash:
            raise Refused(Refusal.WRONG_MANIFEST, f"the round cites {opened.manifest[:12]}…")
        if opened.round != len(run.rounds) + 1 or opened.round > run.manifest.rounds:
            raise Refused(Refusal.WRONG_ROUND, f"round {opened.round} after {len(run.rounds)} of {run.manifest.rounds}")
        if run.rounds and run.rounds[-1].closed is None:
            raise Refused(Refusal.WRONG_ROUND, f"round {len(run.rounds)} is still open")
        if opened.base != run.checkpoint:
            raise Refused(Refusal.WRONG_BASE, f"{opened.base[:12]}…; the run is at {run.checkpoint[:12]}…")
        missing = set(opened.invited) - run.consents
        if missing or not opened.invited or not _rising(opened.invited):
            who = ", ".join(sorted(missing)) or "nobody, or members out of order"
            raise Refused(Refusal.NO_CONSENT, f"round {opened.round} invites {who}")

    def _check_receipt(self, receipt: Receipt) -> None:
        run = self.run(receipt.run)
        if not 1 <= receipt.round <= len(run.rounds) or run.rounds[receipt.round - 1].hash != receipt.opened:
            raise Refused(Refusal.WRONG_ROUND, f"run {receipt.run} has no round {receipt.round} {receipt.opened[:12]}…")
        turn = run.rounds[receipt.round - 1]
        if receipt.member not in turn.opened.invited:
            raise Refused(Refusal.NOT_INVITED, f"round {receipt.round} does not invite {receipt.member}")
        if receipt.base != turn.opened.base:
            raise Refused(Refusal.WRONG_BASE, f"{receipt.base[:12]}…; the round's is {turn.opened.base[:12]}…")
        check_claim(receipt, run.manifest, self.charter)
        if (
            receipt.witnessed_size > self.tree.size
            or self.tree.root(receipt.witnessed_size).hex() != receipt.witnessed_root
        ):
            raise Refused(
                Refusal.WRONG_HEAD, f"{receipt.member} witnessed another history of size {receipt.witnessed_size}"
            )

    def _check_close(self, close: RoundClose) -> None:
        run = self._going(close.run)
        if close.round != len(run.rounds) or run.rounds[-1].closed is not None:
            raise Refused(Refusal.WRONG_ROUND, f"round {close.round} is not open")
        turn = run.rounds[-1]
        if close.base != turn.opened.base:
            raise Refused(Refusal.WRONG_BASE, f"{close.base[:12]}…; the round's is {turn.opened.base[:12]}…")
        inside = tuple(each.member for each in close.included)
        outside = tuple(each.member for each in close.excluded)
        if not _rising(inside) or not _rising(outside) or sorted(inside + outside) != list(turn.opened.invited):
            raise Refused(Refusal.NOT_INVITED, "included and excluded are not, in order, the members invited")
        for each in close.included:
            receipt = turn.receipts.get(each.receipt)
            if receipt is None or receipt.member != each.member:
                raise Refused(
                    Refusal.WRONG_RECEIPT, f"{each.receipt[:12]}… is no receipt of {each.member} in this round"
                )
        if len(inside) < run.manifest.quorum and close.checkpoint != close.base:
            raise Refused(
                Refusal.WRONG_CHECKPOINT, f"{len(inside)} answers, quorum {run.manifest.quorum}: the base must stay"
            )

    def _check_end(self, end: RunEnd) -> None:
        run = self._going(end.run)
        if end.checkpoint != run.checkpoint:
            raise Refused(Refusal.WRONG_CHECKPOINT, f"{end.checkpoint[:12]}…; the run is at {run.checkpoint[:12]}…")

    def _check_item(self, item: CostItem) -> None:
        pots = {pot.name for pot in self.charter.pots} - {self.charter.compute_pot}
        if item.pot not in pots:
            raise Refused(Refusal.WRONG_ITEM, f"{item.pot} is not one of the shared pots {', '.join(sorted(pots))}")
        if item.currency != self.charter.currency:
            raise Refused(Refusal.WRONG_ITEM, f"{item.currency}; the charter's currency is {self.charter.currency}")

    def _check_statement(self, stated: Statement) -> None:
        right = self.statement(stated.period, stated.end, seq=stated.seq, prev=stated.prev)
        if stated.start != right.start or not stated.start <= stated.end:
            raise Refused(
                Refusal.WRONG_PERIOD, f"from {stated.start} to {stated.end}; the last one ended at {right.start}"
            )
        wrong = differences(stated, right)
        if wrong:
            raise Refused(Refusal.WRONG_STATEMENT, wrong[0])

    def _going(self, name: str) -> Run:
        run = self.run(name)
        if run.ended is not None:
            raise Refused(Refusal.WRONG_ROUND, f"run {name} has ended: {run.ended.status}")
        return run

    # What follows.

    def add(self, entry: Entry) -> int:
        """Take in an entry that was checked; its index."""
        index, record, hashed = self.tree.size, entry.record, entry.hash.hex()
        match record:
            case Charter():
                self._charter = (record, hashed)
                self.keys = entries.charter_keys(record)
            case Manifest():
                self.runs[record.run] = Run(record, hashed, entry.leaf, record.base)
            case Consent():
                self.runs[record.run].consents.add(record.member)
            case RoundOpen():
                self.runs[record.run].rounds.append(Round(record, hashed))
            case Receipt():
                self.runs[record.run].rounds[record.round - 1].receipts[hashed] = record
            case RoundClose():
                run = self.runs[record.run]
                run.checkpoint = record.checkpoint
                turn = run.rounds[-1]
                turn.closed = record
                self._work += [
                    (index, each.member, turn.receipts[each.receipt].flop)
                    for each in record.included
                    if each.receipt in turn.receipts  # Always, after `check`; the audit goes on where that failed.
                ]
            case RunEnd():
                self.runs[record.run].ended = record
            case CostItem():
                self._items.append((index, record))
            case Statement():
                self.statements.append(record)
                self._work = [work for work in self._work if work[0] >= record.end]
                self._items = [item for item in self._items if item[0] >= record.end]
        if not isinstance(record, Charter):
            self.chains[entry.author] = Last(record.seq, hashed, index)
        self._said[entry.key] = (index, hashlib.sha256(entry.text).digest())
        self.tree.append(entry.hash)
        return index

    def statement(self, period: str, end: int, *, seq: int, prev: str) -> Statement:
        """The statement of what is not yet billed before entry `end`. Raises `Refused(WRONG_PERIOD)`."""
        if not 0 <= end <= self.tree.size:
            raise Refused(Refusal.WRONG_PERIOD, f"ends at {end}; the log has {self.tree.size} entries")
        work: dict[str, int] = {}
        for index, member, flop in self._work:
            if index < end:
                work[member] = work.get(member, 0) + flop
        return statement(
            self.charter,
            period,
            work,
            [item for index, item in self._items if index < end],
            self.carries(),
            start=self.statements[-1].end if self.statements else 0,
            end=end,
            root=self.tree.root(end).hex(),
            seq=seq,
            prev=prev,
        )

    def carries(self) -> Mapping[str, Fraction]:
        """What rounding has left over for each member so far."""
        return {each.member: each.carry for each in self.statements[-1].balances} if self.statements else {}


def _check_charter(charter: Charter) -> None:
    for what, names in (
        ("member", [member.name for member in charter.members]),
        ("pot", [pot.name for pot in charter.pots]),
        ("device", [device.name for device in charter.devices]),
    ):
        if not names or len(set(names)) != len(names):
            raise Refused(Refusal.BAD_FIELD, f"the charter names no {what}, or one twice")
    if not _rising(tuple(member.name for member in charter.members)):
        raise Refused(Refusal.BAD_FIELD, "the charter's members are not in order of their names")
    if unknown := {pot.rule for pot in charter.pots} - RULES.keys():
        raise Refused(Refusal.BAD_FIELD, f"no rule is called {', '.join(sorted(unknown))}")
    if charter.compute_pot not in {pot.name for pot in charter.pots}:
        raise Refused(Refusal.BAD_FIELD, f"the compute pot {charter.compute_pot} is not among the pots")
    if charter.price < 0 or sum(member.benefit for member in charter.members) == 0:
        raise Refused(Refusal.BAD_FIELD, "the price is below zero, or no member has a benefit to be charged by")


def _rising(names: tuple[str, ...]) -> bool:
    return all(one < other for one, other in pairwise(names))


def differences(stated: Statement, right: Statement) -> list[str]:
    """Each place where a statement is not what its entries say, a sentence for each number, lines first."""
    wrong = []
    for name, key, parts in (
        ("lines", ("pot", "member"), ("credit", "charge")),
        ("balances", ("member",), ("flop", "net", "carry")),
        ("transfers", ("payer", "payee"), ("amount",)),
    ):
        said = {tuple(getattr(each, part) for part in key): each for each in getattr(stated, name)}
        true = {tuple(getattr(each, part) for part in key): each for each in getattr(right, name)}
        for at in dict.fromkeys([*true, *said]):
            where = f"statement {right.period}, {name[:-1]} {' '.join(at)}"
            if at not in said or at not in true:
                wrong.append(f"{where}: {'left out' if at in true else 'should not be there'}")
                continue
            wrong += [
                f"{where}: {part} stated {getattr(said[at], part)}, recomputed {getattr(true[at], part)}"
                for part in parts
                if getattr(said[at], part) != getattr(true[at], part)
            ]
    if stated.root != right.root:
        wrong.append(f"statement {right.period}: root stated {stated.root[:12]}…, recomputed {right.root[:12]}…")
    if not wrong and stated != right:
        wrong.append(f"statement {right.period}: its numbers are right, but repeated or out of order")
    return wrong
