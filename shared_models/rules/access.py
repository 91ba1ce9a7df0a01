"""Who may have which model: a pure function of the log, so that no operator can deny it, grant it or invent it.

A member may do what its tier says. Its tier is the highest one for which it has given enough of what it pledged, over
the charter's window of statements:

* Up at once: what is accepted now counts now, before its period has a statement. Should it be disputed before then, it
  does not count until it was ruled on.
* Down only at a statement: until the next one a member has at least the tier that the last one left it.
* Who pledged nothing, as all have agreed in the charter, has kept its pledge as soon as it gave anything; until then it
  has only tiers that ask for nothing.

Who is in the tier for it may have a model that holds members' experts only if each of these members grants its own.

What is embargoed is a round of a run, and everything that descends from it. The embargo is counted in rounds, which are
in the log, and not in days, which are not. A derived artefact descends from what its publisher signed that it does.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from shared_models.records.kinds import (
    FIRST,
    Access,
    AccessRestore,
    AccessRevoke,
    Artefact,
    Charter,
    ExpertGrant,
    Manifest,
    RoundClose,
    Tier,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import RIGHTS, carried

Kind = Artefact | Access | AccessRevoke | AccessRestore


class Grounds(NamedTuple):
    """What the rest of the books says, at one size of the log."""

    charter: Charter  # In force.
    present: Collection[str]  # The members that have not left,
    left: Mapping[str, int]  # and those that have: the index of each one's member.leave.
    defaulters: Collection[str]
    given: Sequence[Mapping[str, Fraction]]  # What each member gave in the period of each statement so far,
    running: Mapping[str, Fraction]  # and since the last one, in minor units; nothing that is disputed.


class Verdict(NamedTuple):
    """Whether a member may have an artefact."""

    granted: bool
    tier: str  # Its name; empty where a member has none.
    reasons: tuple[str, ...]  # A sentence each: all that is against it, or where nothing is, all that is for it.
    missing: str  # What the next tier takes; empty where there is none.


class Delivered(NamedTuple):
    """What a member gave over some periods, and what it had pledged for them, in minor units."""

    given: Fraction
    pledged: int
    periods: int

    def reaches(self, tier: Tier) -> bool:
        """Whether this is enough for a tier."""
        return tier.share == 0 or (self.given > 0 and self.given >= tier.share * self.pledged)


class Held(NamedTuple):
    """An artefact in the log."""

    record: Artefact
    at: int  # Its index.
    newest: Mapping[str, int]  # The newest round of each run that it descends from: the one that is embargoed longest.
    experts: Collection[tuple[str, str]]  # (run, member) of each member's expert that is in it.


class Lent(NamedTuple):
    """What a member has last said of its expert of a run."""

    to: tuple[str, ...]
    at: int  # The index of the entry,
    hash: str  # and its leaf hash.


class Grant(NamedTuple):
    """An access entry: a member may fetch an artefact."""

    member: str
    artefact: str


@dataclass(slots=True)
class _Notice:
    """A ballot: shall a member get no more artefacts?"""

    revoked: str
    said: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)
    start: int | None = None  # The index from which it is in force,
    end: int | None = None  # and the one that ended it.

    @property
    def in_force(self) -> bool:
        return self.start is not None and self.end is None


class Library:
    """The artefacts of a log, who has fetched them, and who may. Use `check`, then `add`, with entries in order."""

    def __init__(self) -> None:
        self.artefacts: dict[str, Held] = {}  # By SHA-256.
        self.grants: dict[int, Grant] = {}  # By the index of the access entry.
        self.fetched = Counter[str]()  # Bytes granted to each member since the last statement.
        self._fetches = Counter[Grant]()
        self._closed: dict[str, array[int]] = {}  # For each run, the index of each round.close.
        self._ended: set[str] = set()  # Runs.
        self._experts: dict[str, tuple[str, ...]] = {}  # Of each run in which members have experts, the members.
        self._lent: dict[tuple[str, str], Lent] = {}  # By (run, member whose expert it is).
        self._pledges: list[dict[str, int]] = []  # Of whom each statement bills.
        self._settled: dict[str, Delivered] = {}  # As the last statement left it,
        self._leavers: dict[str, Tier | None] = {}  # and the tier that who left had then.
        self._notices: dict[str, _Notice] = {}

    # What follows from the log.

    def access(
        self, member: str, artefact: str, facts: Grounds, right: str = "download", *, anew: bool = True
    ) -> Verdict:
        """Whether a member may use or download an artefact. `anew`: it would count against its quota.

        Raises `Refused(NOT_FOUND)` if the log has no such artefact.
        """
        held, tier = self.held(artefact), self._tier(member, facts)
        found = list(self._reasons(member, held, tier, facts, right, anew))
        against = [sentence for good, sentence in found if not good]
        reasons = against or [sentence for _, sentence in found]
        return Verdict(not against, tier.name if tier else "", tuple(reasons), self._missing(member, tier, facts))

    def held(self, artefact: str) -> Held:
        """The artefact of this SHA-256. Raises `Refused(NOT_FOUND)`."""
        if artefact not in self.artefacts:
            raise Refused(Refusal.NOT_FOUND, f"no artefact {artefact[:64]}")
        return self.artefacts[artefact]

    def next_fetch(self, member: str, artefact: str) -> int:
        """The number of the next fetch of an artefact by a member."""
        return self._fetches[Grant(member, artefact)] + 1

    def _reasons(
        self, member: str, held: Held, tier: Tier | None, facts: Grounds, right: str, anew: bool
    ) -> Iterator[tuple[bool, str]]:
        """(whether it is for it, a sentence) for all that access depends on."""
        left, size = facts.left.get(member), held.record.size
        if left is None and member not in facts.present:
            yield False, f"{member} is no member"
        for name, notice in self._notices.items():
            if notice.revoked == member and notice.in_force:
                yield False, f"access of {member} was revoked at entry {notice.start}, under notice {name}"
        if member in facts.defaulters:
            yield False, f"{member} is in default"
        gave = _gave(self._best(member, facts), facts.charter)
        if tier is None:
            yield False, f"{member} has no tier: it {gave}"
            return
        yield True, f"{member} left with tier {tier.name}" if left is not None else f"{member} {gave}: tier {tier.name}"
        if RIGHTS.index(tier.right) < RIGHTS.index(right):
            yield False, f"tier {tier.name} may use models and not download them"
        for run, round_ in held.newest.items():
            closed = self._closed[run]
            behind = len(closed) - round_
            said = (
                f"{behind} rounds of run {run} have closed behind round {round_}, tier {tier.name} asks for {tier.lag}"
            )
            yield (True, f"run {run} has ended") if run in self._ended else (behind >= tier.lag, said)
            if left is not None:
                at = closed[round_ - 1]
                yield at < left, f"round {round_} of run {run} closed at entry {at}, {member} left at entry {left}"
        for run, owner in sorted(held.experts):
            if owner != member:
                lent = self._lent.get((run, owner))
                said = f"{owner} grants {member} its expert of run {run}"
                by = f"as entry {lent.at} says" if lent else "for both take part in it"
                if member in (lent.to if lent else self._experts[run]):
                    yield True, f"{said}, {by}"
                else:
                    yield False, f"{owner} has not granted {member} its expert of run {run}"
        if right == "download" and anew:
            taken = self.fetched[member]
            yield (
                taken + size <= tier.quota,
                f"{taken:,} bytes were taken since the last statement and these are {size:,} more,"
                f" tier {tier.name} has {tier.quota:,}",
            )

    def _tier(self, member: str, facts: Grounds) -> Tier | None:
        if member in facts.left:
            return self._leavers.get(member)
        if member not in facts.present:
            return None
        best = self._best(member, facts)
        reached = [tier for tier in facts.charter.tiers if best.reaches(tier)]
        return reached[-1] if reached else None

    def _best(self, member: str, facts: Grounds) -> Delivered:
        """What its tier rests on: what the last statement left it, or what is running where that reaches higher."""
        both = [self._running(member, facts)]
        if member in self._settled:
            both.insert(0, self._settled[member])
        return max(both, key=lambda each: sum(map(each.reaches, facts.charter.tiers)))

    def _running(self, member: str, facts: Grounds) -> Delivered:
        """Over the window that ends now: the charter's, with the running period in it."""
        pledge = next((each.pledge for each in facts.charter.members if each.name == member), 0)
        before = self._delivered(member, facts, facts.charter.window - 1)
        return Delivered(before.given + facts.running.get(member, 0), before.pledged + pledge, before.periods + 1)

    def _delivered(self, member: str, facts: Grounds, window: int) -> Delivered:
        """Over so many statements back, of those that bill this member."""
        start = max(0, len(self._pledges) - window)
        pledges = [each[member] for each in self._pledges[start:] if member in each]
        given = sum((each.get(member, Fraction(0)) for each in facts.given[start:]), Fraction(0))
        return Delivered(given, sum(pledges), len(pledges))

    def _missing(self, member: str, tier: Tier | None, facts: Grounds) -> str:
        tiers = facts.charter.tiers
        higher = tiers[tiers.index(tier) + 1 :] if tier in tiers else tiers
        if member not in facts.present or not higher:
            return ""
        following, so_far = higher[0], self._running(member, facts)
        lacks = max(following.share * so_far.pledged - so_far.given, Fraction(1))
        may = f"{following.right}, {following.lag} rounds late" if following.lag else following.right
        return f"{_money(lacks, facts.charter, up=True)} more for tier {following.name} ({may})"

    # Rules. Each raises `Refused` and changes nothing.

    def check(self, record: Kind | ExpertGrant, facts: Grounds) -> None:
        """Whether this may come next, its author aside."""
        match record:
            case Artefact():
                self._check_artefact(record, facts)
            case Access():
                number = self.next_fetch(record.member, record.artefact)
                verdict = self.access(record.member, record.artefact, facts)
                if not verdict.granted:
                    told = [*verdict.reasons, *([verdict.missing] if verdict.missing else [])]
                    raise Refused(Refusal.NO_ACCESS, "; ".join(told))
                if record.fetch != number:
                    raise Refused(Refusal.BAD_FIELD, f"fetch {record.fetch}; it is number {number} of this artefact")
            case ExpertGrant():
                self._check_lent(record, facts)
            case AccessRevoke():
                _check_votes(record.member, facts)
                notice = self._notices.get(record.notice)
                if notice is not None and (notice.revoked != record.revoked or notice.end is not None):
                    why = "has ended" if notice.end is not None else f"is about {notice.revoked}"
                    raise Refused(Refusal.CONFLICT, f"notice {record.notice} {why}: give this one another name")
                if record.revoked not in facts.present and record.revoked not in facts.left:
                    raise Refused(Refusal.WRONG_MEMBER, f"{record.revoked} is no member")
            case AccessRestore():
                _check_votes(record.member, facts)
                notice = self._notices.get(record.notice)
                if notice is None or not notice.in_force:
                    raise Refused(Refusal.NOT_FOUND, f"no revocation is in force under notice {record.notice}")

    def _check_lent(self, record: ExpertGrant, facts: Grounds) -> None:
        if record.member not in self._experts.get(record.run, ()):
            raise Refused(Refusal.WRONG_MEMBER, f"{record.member} has no expert in a run {record.run}")
        known = {each.name for each in facts.charter.members} - {record.member}
        if list(record.to) != sorted(set(record.to)) or not known.issuperset(record.to):
            raise Refused(Refusal.WRONG_MEMBER, f"not other members in order: {', '.join(record.to)[:120]}")
        lent = self._lent.get((record.run, record.member))
        stands = lent.hash if lent else FIRST
        if record.replaces != stands:
            raise Refused(Refusal.CONFLICT, f"it replaces {record.replaces[:12]}…; what stands is {stands[:12]}…")

    def _check_artefact(self, record: Artefact, facts: Grounds) -> None:
        if record.artefact in self.artefacts:
            at = self.artefacts[record.artefact].at
            raise Refused(Refusal.CONFLICT, f"artefact {record.artefact[:12]}… stands here already, at entry {at}")
        if not record.checkpoints and not record.parents:
            raise Refused(Refusal.WRONG_LINEAGE, "it descends from no checkpoint and no artefact")
        by_member = record.publisher != facts.charter.consortium
        if by_member and record.checkpoints:
            raise Refused(Refusal.WRONG_LINEAGE, f"{record.publisher} cites a checkpoint: members cite artefacts")
        owners = {owner for each in record.checkpoints for owner in self._experts.get(each.run, ())}
        if list(record.without) != sorted(set(record.without)) or not owners.issuperset(record.without):
            raise Refused(
                Refusal.WRONG_LINEAGE, f"without {', '.join(record.without)[:120]}: no experts of its checkpoints"
            )
        for each in record.checkpoints:
            closed = len(self._closed.get(each.run, ()))
            if each.round > closed:
                raise Refused(Refusal.WRONG_LINEAGE, f"round {each.round} of run {each.run}, which has closed {closed}")
        for parent in record.parents:
            if parent not in self.artefacts:
                raise Refused(Refusal.WRONG_LINEAGE, f"its parent {parent[:12]}… is no artefact of this log")
            if by_member and not (verdict := self.access(record.publisher, parent, facts, "use")).granted:
                told = "; ".join(verdict.reasons)
                raise Refused(Refusal.NO_ACCESS, f"it descends from {parent[:12]}…, but {told}")

    # What follows.

    def add(self, record: Kind, index: int, present: Collection[str]) -> None:
        """Take in what was checked, at this index of the log."""
        match record:
            case Artefact():
                newest: dict[str, int] = {}
                lineage = [(each.run, each.round) for each in record.checkpoints]
                lineage += [each for parent in record.parents for each in self.artefacts[parent].newest.items()]
                for run, round_ in lineage:
                    newest[run] = max(newest.get(run, 0), round_)
                experts = {each for parent in record.parents for each in self.artefacts[parent].experts}
                for each in record.checkpoints:
                    owners = set(self._experts.get(each.run, ())) - set(record.without)
                    experts |= {(each.run, owner) for owner in owners}
                self.artefacts[record.artefact] = Held(record, index, newest, frozenset(experts))
            case Access():
                grant = Grant(record.member, record.artefact)
                self.grants[index] = grant
                self._fetches[grant] += 1
                self.fetched[record.member] += self.artefacts[record.artefact].record.size
            case AccessRevoke():
                notice = self._notices.setdefault(record.notice, _Notice(record.revoked))
                notice.said.add(record.member)
                if notice.start is None and carried(notice.said, present):
                    notice.start = index
            case AccessRestore():
                notice = self._notices[record.notice]
                notice.restored.add(record.member)
                if carried(notice.restored, present):
                    notice.end = index

    def add_run(self, manifest: Manifest) -> None:
        """A run begins."""
        if manifest.recipe.member_experts:
            self._experts[manifest.run] = manifest.members

    def add_lent(self, record: ExpertGrant, index: int, hashed: str) -> None:
        """Take in what was checked, at this index of the log and with this leaf hash."""
        self._lent[record.run, record.member] = Lent(record.to, index, hashed)

    def lent(self, run: str, member: str) -> Lent | None:
        """What a member has last said of its expert of a run."""
        return self._lent.get((run, member))

    def add_close(self, close: RoundClose, index: int) -> None:
        """A round is closed, by the entry at this index."""
        closed = self._closed.setdefault(close.run, array("Q"))
        if close.round == len(closed) + 1:  # An audit goes on behind one that is closed twice.
            closed.append(index)

    def add_end(self, run: str) -> None:
        """This run is over: of what came of it nothing is embargoed any more."""
        self._ended.add(run)

    def add_statement(self, billed: Collection[str], facts: Grounds) -> None:
        """A period is over, and these members are billed for it. The last of `facts.given` is what they gave in it."""
        charter = facts.charter
        self._pledges.append({each.name: each.pledge for each in charter.members if each.name in billed})
        assert len(facts.given) == len(self._pledges)
        self._settled = {each.name: self._delivered(each.name, facts, charter.window) for each in charter.members}
        self.fetched.clear()

    def add_leave(self, member: str, facts: Grounds) -> None:
        """A member leaves, with the tier that it has; `facts` are those before it left."""
        self._leavers[member] = self._tier(member, facts)


def _check_votes(member: str, facts: Grounds) -> None:
    if member not in facts.present:
        raise Refused(Refusal.WRONG_MEMBER, f"{member} has left: it does not vote")


def _gave(so_far: Delivered, charter: Charter) -> str:
    of = _money(Fraction(so_far.pledged), charter)
    over = f"{so_far.periods} period{'' if so_far.periods == 1 else 's'}"
    return f"gave {_money(so_far.given, charter)} of {of} {charter.currency} pledged over {over}"


def _money(amount: Fraction, charter: Charter, up: bool = False) -> str:
    """An amount in units of the currency, cut to whole minor units, or filled up to one."""
    whole = -(-amount.numerator // amount.denominator) if up else amount.numerator // amount.denominator
    unit = 10**charter.minor_digits
    return f"{whole // unit:,}" + (f".{whole % unit:0{charter.minor_digits}}" if unit > 1 else "")
