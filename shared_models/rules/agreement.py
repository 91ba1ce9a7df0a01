"""What the members have agreed: the charter in force, how they change it, and who has left.

A charter is changed as a whole. A member proposes one, and each member votes once, for the very text it has read; it
comes into force with the entry that brings enough votes. Every member has one vote, whatever it gives. What everybody
must be able to rely on stays: who the members are, by which keys they speak, which pots and devices there are, and what
the money is counted in. Who coordinates speaks for all of them, and so they can name another one.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from shared_models.records import entry as entries
from shared_models.records import note
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.kinds import Amendment, Charter, Device, Leave, Member, Pot, Tier, Vote
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.allocation import RULES
from shared_models.rules.currency import digits
from shared_models.rules.games import TABLE_RULES, by_table

WORTH, CAP, ACCESSION, SERVED = NO_POT = (
    "worth",
    "cap",
    "accession",
    "served",
)  # What lines of a statement are called that belong to no pot.
CLAUSES = {  # What such a line is by, for people.
    WORTH: "a part of the accepted work's price is paid by benefit to the members whose experts are worth something",
    CAP: "nobody is charged more than it has quoted for going alone, and the others bear the rest",
    ACCESSION: "who joins pays its part of the price of all earlier work to those who did it",
    SERVED: "who serves tokens through another member's expert pays that member for them, by the charter's price",
}
FIXED = ("consortium", "currency", "minor_digits", "compute_pot", "admin", "log")
LISTS = ("members", "pots", "devices", "tiers")  # What a charter has many of, each with a name.
RIGHTS = ("use", "download")  # From the least to the most.
KEPT = ("members", "pots", "devices")  # Of these, what is there stays there.


def carried(said: Collection[str], present: Collection[str]) -> bool:
    """Whether those who have said so are more than half of the members present."""
    return 2 * len(set(said) & set(present)) > len(present)


class Change(NamedTuple):
    """One place where two charters differ, and what each has there: None where one has no such thing."""

    at: tuple[str, ...]  # Such as ("price",), ("members", "acme", "benefit"), ("pots", "mail").
    old: object
    new: object


def changes(old: Charter, new: Charter) -> Iterator[Change]:
    """Every place where the charters differ; there is none only if they are equal."""
    for each in fields(Charter):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if each.name in LISTS:
            yield from _changes_of(each.name, before, after)
        elif before != after:
            yield Change((each.name,), before, after)


Listed = tuple[Member | Pot | Device | Tier, ...]


def _changes_of(what: str, before: Listed, after: Listed) -> Iterator[Change]:
    old, new = ({each.name: each for each in listed} for listed in (before, after))
    for name in old | new:
        if name not in old or name not in new:
            yield Change((what, name), old.get(name), new.get(name))
            continue
        for part in fields(old[name]):
            was, will = getattr(old[name], part.name), getattr(new[name], part.name)
            if was != will:
                yield Change((what, name, part.name), was, will)
    was_order, will_order = tuple(each for each in old if each in new), tuple(each for each in new if each in old)
    if was_order != will_order:
        yield Change((what,), was_order, will_order)


@dataclass(slots=True)
class Proposal:
    """An amendment that is open, and what each member has said to it."""

    amendment: Amendment
    keys: note.Keys  # Those that it brings in: nobody else may take one of them meanwhile.
    votes: dict[str, str] = field(default_factory=dict)


class Agreement:
    """The charter in force, what is proposed to come after it, and who has left.

    Use `check`, then `add`, with these entries in their order. Whose key counts is for the keyring to say.
    """

    def __init__(self, charter: Charter, hashed: str) -> None:
        """What was founded on: a charter that was checked, and its leaf hash."""
        self._terms = [(0, charter, hashed)]  # (size of the log from which it is in force, charter, leaf hash).
        self.open: dict[str, Proposal] = {}  # By leaf hash, the oldest first.
        self.left: dict[str, int] = {}  # The index of each leaver's entry.
        self.entries = {hashed: 0}  # The index of each charter and amendment, by leaf hash.

    @property
    def charter(self) -> Charter:
        """The charter in force."""
        return self._terms[-1][1]

    @property
    def hash(self) -> str:
        """The leaf hash of the entry that holds it: the first one, or an amendment."""
        return self._terms[-1][2]

    @property
    def since(self) -> int:
        """The size of the log from which it is in force: the entry before has brought it."""
        return self._terms[-1][0]

    def at(self, size: int) -> tuple[Charter, str]:
        """The charter, and its leaf hash, by which the entry that comes next in a log of this size is judged."""
        return next((charter, hashed) for start, charter, hashed in reversed(self._terms) if start <= size)

    def of(self, hashed: str) -> Charter | None:
        """The charter with this leaf hash, if it is in force or was."""
        return next((charter for _, charter, known in self._terms if known == hashed), None)

    def present(self) -> tuple[str, ...]:
        """The members that have not left, in order of their names."""
        return tuple(member.name for member in self.charter.members if member.name not in self.left)

    @property
    def needed(self) -> int:
        """So many members must vote for an amendment: as the charter says, or all that are left of them."""
        return min(self.charter.approvals, max(1, len(self.present())))

    def voted(self, proposal: Proposal) -> list[str]:
        """The members whose votes for it count: who has left has no vote."""
        return [member for member in self.present() if proposal.votes.get(member) == "yes"]

    def awaited(self) -> note.Keys:
        """The keys that open amendments bring in."""
        return {named: key for proposal in self.open.values() for named, key in proposal.keys.items()}

    def check(self, record: Amendment | Vote | Leave) -> None:
        """Whether this may come next, its signature aside. Raises `Refused`: WRONG_MEMBER, CONFLICT, WRONG_CHARTER;
        BAD_FIELD, as `check_charter`."""
        if record.member not in self.present():
            raise Refused(
                Refusal.WRONG_MEMBER, f"{record.member} has left, or never was a member: it has no say in the charter"
            )
        match record:
            case Amendment():
                if record.replaces != self.hash:
                    raise Refused(
                        Refusal.WRONG_CHARTER, f"it replaces {record.replaces[:12]}…; {self.hash[:12]}… is in force"
                    )
                check_charter(record.charter, self.left)
                _check_changes(list(changes(self.charter, record.charter)))
            case Vote():
                if record.amendment not in self.open:
                    raise Refused(Refusal.WRONG_CHARTER, f"{record.amendment[:12]}… is no amendment that is open")
                if record.member in self.open[record.amendment].votes:
                    raise Refused(Refusal.CONFLICT, f"{record.member} has voted on {record.amendment[:12]}… before")

    def add(self, record: Amendment | Vote | Leave, index: int, hashed: str) -> bool:
        """Take in what was checked: its index and its leaf hash. True if another charter is in force behind it."""
        match record:
            case Amendment():
                self.entries[hashed] = index
                self.open[hashed] = Proposal(record, newcomers(self.charter, record.charter))
            case Vote():
                self.open[record.amendment].votes[record.member] = record.choice
            case Leave():
                self.left[record.member] = index
        for amendment, proposal in self.open.items():
            if len(self.voted(proposal)) >= self.needed:
                self._terms.append((index + 1, proposal.amendment.charter, amendment))
                self.open = {}  # What else was proposed would replace a charter that is not in force any more.
                return True
        return False


def newcomers(old: Charter, new: Charter) -> note.Keys:
    """The keys that are in the new charter only: those of new members, and of another coordinator."""
    known = entries.charter_keys(old)
    return {named: key for named, key in entries.charter_keys(new).items() if named not in known}


def _check_changes(found: list[Change]) -> None:
    """Whether a charter may change so. Raises `Refused(WRONG_CHARTER)`."""
    if not found:
        raise Refused(Refusal.WRONG_CHARTER, "it changes nothing")
    for at, _, new in found:
        where = "/".join(at)
        match at:
            case (name,) if name in FIXED:
                raise Refused(Refusal.WRONG_CHARTER, f"{where} cannot change")
            case (what, _) if what in KEPT and new is None:
                raise Refused(Refusal.WRONG_CHARTER, f"{where} is left out")
            case ("members", _, part) if part in MEMBER_ROLES:
                raise Refused(Refusal.WRONG_CHARTER, f"{where} changes by key.add and key.revoke only")
            case ("devices", _, _):
                raise Refused(Refusal.WRONG_CHARTER, f"{where} cannot change: another class has another name")


def check_charter(charter: Charter, left: Collection[str] = ()) -> None:
    """Whether everything that a charter says can be kept to, when these of its members have left.

    Raises `Refused`: BAD_KEY, BAD_FIELD; INFEASIBLE, as the rule of a cost table.
    """
    for what in LISTS:
        names = [each.name for each in getattr(charter, what)]
        if len(set(names)) != len(names) or (what in KEPT and not names):
            raise Refused(Refusal.BAD_FIELD, f"the charter names no {what[:-1]}, or one twice")
    members = [member.name for member in charter.members]
    if members != sorted(members):
        raise Refused(Refusal.BAD_FIELD, "the charter's members are not in order of their names")
    entries.charter_keys(charter)
    if charter.compute_pot not in {pot.name for pot in charter.pots}:
        raise Refused(Refusal.BAD_FIELD, f"the compute pot {charter.compute_pot} is not among the pots")
    for pot in charter.pots:
        _check_pot(pot, members)
    if charter.quorum > len(members):
        raise Refused(Refusal.BAD_FIELD, f"a quorum of {charter.quorum} among {len(members)} members")
    present = len(set(members).difference(left))
    if not present < 2 * charter.approvals <= 2 * present:
        raise Refused(
            Refusal.BAD_FIELD, f"{charter.approvals} approvals among {present} members: more than half, at most all"
        )
    if charter.minor_digits != digits(charter.currency):
        raise Refused(Refusal.BAD_FIELD, f"{charter.currency} has {digits(charter.currency)} digits by ISO 4217")
    if charter.price < 0 or not 0 <= charter.accession <= 1:
        raise Refused(Refusal.BAD_FIELD, "the price is below zero, or accession is no part of it")
    if not 0 <= charter.worth_share <= 1:
        raise Refused(Refusal.BAD_FIELD, f"worth_share = {charter.worth_share} is no part of what work is paid")
    if charter.expert_price < 0:
        raise Refused(Refusal.BAD_FIELD, f"expert_price = {charter.expert_price} is below zero")
    if sum(member.benefit for member in charter.members if member.name not in left) == 0:
        raise Refused(Refusal.BAD_FIELD, "no member has a benefit to be charged by")
    _check_tiers(charter)


def _check_tiers(charter: Charter) -> None:
    """Whether each tier asks for more than the one before, and gives no less. Raises `Refused(BAD_FIELD)`."""
    tiers = charter.tiers
    if len({tier.name for tier in tiers}) != len(tiers) or any(tier.share < 0 for tier in tiers):
        raise Refused(Refusal.BAD_FIELD, "the charter names a tier twice, or one asks for less than nothing")
    for low, high in pairwise(tiers):
        gives_less = RIGHTS.index(high.right) < RIGHTS.index(low.right) or high.lag > low.lag or high.quota < low.quota
        if high.share <= low.share or gives_less:
            raise Refused(Refusal.BAD_FIELD, f"tier {high.name} asks for no more than {low.name}, or gives less")


def _check_pot(pot: Pot, members: list[str]) -> None:
    if pot.name in NO_POT:
        raise Refused(Refusal.BAD_FIELD, f"a pot cannot be called {pot.name}: a line of a statement is")
    if pot.rule not in (TABLE_RULES if pot.table else RULES):
        without = "" if pot.table else "out"
        raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: no rule with{without} a table is called {pot.rule}")
    if pot.driver == "paid" and pot.rule != "proportional":
        raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: who has paid a cost bears it: the rule is proportional")
    _check_limits(pot, members)
    if not pot.table:
        return
    table = {frozenset(each.members): Fraction(each.cost) for each in pot.table}
    strangers = frozenset[str]().union(*table).difference(members)
    if pot.driver != "benefit":
        raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: the table divides it, so its driver is benefit")
    spelled = all(list(each.members) == sorted(set(each.members)) for each in pot.table)
    if not spelled or len(table) != len(pot.table) or strangers:
        raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: a coalition stands twice, or is not of members in order")
    shares = by_table(pot.rule, table)
    if (pot.floors or pot.caps) and min(shares.values()) < 0:
        raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: its table gives somebody back, so it has no floors and caps")


def _check_limits(pot: Pot, members: list[str]) -> None:
    """Whether floors and caps can be kept to, if the cost allows it. Raises `Refused(BAD_FIELD)`."""
    if (pot.floors or pot.caps) and pot.driver == "paid":
        raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: who has paid a cost bears it, without floors and caps")
    caps = {each.member: each.amount for each in pot.caps}
    for limits in (pot.floors, pot.caps):
        names = [each.member for each in limits]
        if names != sorted(set(names)) or not set(names) <= set(members):
            raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: a limit stands twice, or is not of a member in order")
    for floor in pot.floors:
        if floor.amount > caps.get(floor.member, floor.amount):
            raise Refused(Refusal.BAD_FIELD, f"pot {pot.name}: the floor of {floor.member} is above its cap")
