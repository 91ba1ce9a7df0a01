"""What a member has served with a model of members' experts, and whose these were: what it says, and what it pays by.

A token goes through two feed-forwards in each layer, and each of them has an equal part of it: to count is exact, to
weigh by a router's float is not. So no feed-forward, the given one too, has more than half of the tokens. What was
served nobody but the member has seen: this is its word (decision 0030).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from shared_models.records.kinds import FIRST, Charter, Served
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.worth import ROUTES

MILLION = 10**6  # Tokens that a price is for.


class Said(NamedTuple):
    """An entry that says what a member has served."""

    at: int  # Its index,
    hash: str  # and leaf hash.
    key: tuple[str, bytes]  # (name, id) of who signed it.
    record: Served


class Servings:
    """What members have said that they served; and what of it each statement has billed."""

    def __init__(self) -> None:
        self.billed: dict[str, tuple[Said, ...]] = {}  # By the statement's period.
        self._open: dict[tuple[str, str], list[Said]] = {}  # By member and `_about`, the newest last.

    def stands(self, record: Served) -> Said | None:
        """What the same member has last said of the same model and period, if that is not billed."""
        said = self._open.get(_about(record))
        return said[-1] if said else None

    def check(self, record: Served) -> None:
        """Whether it replaces what stands. Raises `Refused(CONFLICT)`."""
        said = self.stands(record)
        if record.replaces != (stands := said.hash if said else FIRST):
            raise Refused(Refusal.CONFLICT, f"it replaces {record.replaces[:12]}…; what stands is {stands[:12]}…")

    def add(self, said: Said) -> None:
        """Take in what was checked."""
        self._open.setdefault(_about(said.record), []).append(said)

    def due(self, periods: Collection[str], end: int, doubted: Callable[[Said], bool]) -> tuple[Said, ...]:
        """What stands of these periods in a log of this size, is not billed, and nobody doubts; in the log's order."""
        found = []
        for said in self._open.values():
            standing = next((each for each in reversed(said) if each.at < end), None)
            if standing is not None and standing.record.period in periods and not doubted(standing):
                found.append(standing)
        return tuple(sorted(found))

    def add_statement(self, period: str, billed: tuple[Said, ...]) -> None:
        """These are billed by the statement of this period."""
        self.billed[period] = billed
        for each in billed:
            del self._open[_about(each.record)]


def _about(record: Served) -> tuple[str, str]:
    return record.member, f"{record.period}/{record.run}/{record.model}"


def check_served(record: Served, owners: Collection[str]) -> None:
    """Whether tokens can have gone so, through a model that holds the experts of these members.

    Raises `Refused`: WRONG_MEMBER for a member without an expert in it, BAD_FIELD.
    """
    if not owners:
        raise Refused(Refusal.BAD_FIELD, f"the model {record.model[:12]}… holds no member's expert of run {record.run}")
    names = [each.member for each in record.routes]
    if strangers := sorted(set(names).difference(owners)):
        raise Refused(Refusal.WRONG_MEMBER, f"{', '.join(strangers)}: no expert in the model {record.model[:12]}…")
    if names != sorted(set(names)):
        raise Refused(Refusal.BAD_FIELD, "the members whose experts were used are out of order, or one stands twice")
    routed = [each.tokens for each in record.routes]
    most = -(-record.tokens // ROUTES)
    if max([record.tokens - sum(routed), *routed]) > most or sum(routed) > record.tokens:
        cause = f"{sum(routed)} of {record.tokens} tokens through members' experts, by members {routed}"
        raise Refused(Refusal.BAD_FIELD, f"{cause[:200]}: no feed-forward has more than {most} of them")


def used(found: Iterable[Said]) -> dict[str, dict[str, int]]:
    """How many tokens each member has served through whose expert."""
    total: dict[str, dict[str, int]] = {}
    for each in found:
        through = total.setdefault(each.record.member, {})
        for route in each.record.routes:
            through[route.member] = through.get(route.member, 0) + route.tokens
    return total


def payments(
    served: Mapping[str, Mapping[str, int]], charter: Charter
) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """(credits, charges), which sum to the same. Nobody pays for its own expert, or anybody for the given weights."""
    names = [member.name for member in charter.members]
    credits_, charges = dict.fromkeys(names, Fraction(0)), dict.fromkeys(names, Fraction(0))
    for member, through in served.items():
        for owner, tokens in through.items():
            if owner != member:
                credits_[owner] += charter.expert_price * tokens / MILLION
                charges[member] += charter.expert_price * tokens / MILLION
    return credits_, charges


def split(tokens: int, routes: Sequence[int]) -> list[int]:
    """So many tokens in proportion to routes: whole ones, which sum to them. Each part is rounded down, and what this
    leaves over goes to the largest remainders, of equal ones to the first.
    """
    total = sum(routes)
    found = [tokens * each // total for each in routes]
    largest = sorted(range(len(routes)), key=lambda number: tokens * routes[number] % total, reverse=True)
    for number in largest[: tokens - sum(found)]:
        found[number] += 1
    return found
