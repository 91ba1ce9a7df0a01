"""How a charter, a change of it and the votes on that read: the same on every screen."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from shared_models.records.entry import CONSORTIUM_ROLES, MEMBER_ROLES
from shared_models.records.kinds import Charter, Limit
from shared_models.rules.agreement import LISTS, Agreement, Change, Proposal


def clauses(charter: Charter) -> Iterator[tuple[str, str]]:
    """(where, what it says) of each part of a charter, such as ("price", "0") and ("pots/mail", "rule equal, …").

    Without keys, which nobody can read.
    """
    for each in fields(Charter):
        value = getattr(charter, each.name)
        if each.name in LISTS:
            yield from ((f"{each.name}/{one.name}", plain(one)) for one in value)
        elif each.name not in CONSORTIUM_ROLES:
            yield each.name, plain(value)


def changed(found: Iterable[Change]) -> Iterator[tuple[str, str, str]]:
    """(where, before, after) of each change."""
    return (("/".join(each.at), plain(each.old), plain(each.new)) for each in found)


def missing(agreement: Agreement, proposal: Proposal) -> str:
    """How many votes an open amendment still needs, and who has none given."""
    more = agreement.needed - len(agreement.voted(proposal))
    silent = ", ".join(each for each in agreement.present() if each not in proposal.votes)
    return f"{more} more needed; not voted: {silent or 'nobody'}"


def plain(value: Any) -> str:
    """A value on one line; of a member without its keys, which nobody can read."""
    if value is None:
        return "nothing"
    if isinstance(value, Limit):
        return f"{value.member} {value.amount}"
    if is_dataclass(value):
        parts = [each.name for each in fields(value) if each.name not in ("name", *MEMBER_ROLES)]
        return ", ".join(f"{part} {plain(getattr(value, part))}" for part in parts)
    return " ".join(map(plain, value)) or "none" if isinstance(value, tuple) else str(value)
