"""A member's part in changing the charter: proposing, voting, leaving; and how a change reads.

What is signed is a whole charter. A person writes, and is shown, only what is different in it.
"""

import json
import tomllib
import typing
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from client.allocate import number
from client.home import Home
from shared_models.ledger_http import LedgerHttp
from shared_models.records import canonical
from shared_models.records.kinds import (
    FIRST,
    Amendment,
    Charter,
    Coalition,
    Device,
    Leave,
    Limit,
    Member,
    Pot,
    Tier,
    Vote,
)
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import wording
from shared_models.rules.agreement import LISTS, Agreement, Change, changes

OF = {"members": Member, "pots": Pot, "devices": Device, "tiers": Tier}
USUAL: dict[str, dict[str, Any]] = {
    "pots": {"driver": "benefit", "table": (), "floors": (), "caps": ()},
    "members": {"pledge": 0},
}
ORDER: dict[str, Any] = {"members": lambda each: each.name, "tiers": lambda each: each.share}


class Said(NamedTuple):
    """What was put into the log, where, and what it would change."""

    changes: list[Change]
    hash: str
    at: int  # Index in the log.
    needed: int  # Votes, in all.
    missing: str  # Whose, as a sentence.


def propose(folder: Path, file: Path, name: str) -> Said:
    """Propose the charter in force with what this file changes. Raises `Refused`, before anything is said if it can."""
    home = Home(folder)
    ledger = home.ledger()
    home.learn_keys(ledger)
    return put(home, ledger, read(file), name)


def put(home: Home, ledger: LedgerHttp, asked: dict[str, Any], name: str) -> Said:
    """Propose the charter in force with these changes, as `changed` takes them. Raises `Refused`."""
    agreement = home.keyring.agreement
    charter = changed(agreement.charter, asked)
    record = Amendment(
        seq=0,
        prev=FIRST,
        member=home.settings.member,
        amendment=name,
        replaces=agreement.hash,
        charter=charter,
    )
    _, hashed = _say(home, ledger, record)
    return proposed(agreement, hashed)


def proposed(agreement: Agreement, hashed: str) -> Said:
    """What the open amendment with this leaf hash would change."""
    proposal = agreement.open[hashed]
    found = list(changes(agreement.charter, proposal.amendment.charter))
    return Said(found, hashed, agreement.entries[hashed], agreement.needed, wording.missing(agreement, proposal))


def vote(folder: Path, amendment: str, choice: str) -> Said:
    """Vote on an amendment that is open. Raises `Refused`: WRONG_CHARTER if it is not, CONFLICT after another vote."""
    home = Home(folder)
    ledger = home.ledger()
    home.learn_keys(ledger)
    agreement = home.keyring.agreement
    record = Vote(seq=0, prev=FIRST, member=home.settings.member, amendment=amendment, choice=choice)
    agreement.check(record)
    proposal, needed = agreement.open[amendment], agreement.needed
    found = list(changes(agreement.charter, proposal.amendment.charter))
    index, _ = _say(home, ledger, record)
    left = "it is in force" if agreement.hash == amendment else wording.missing(agreement, proposal)
    return Said(found, amendment, index, needed, left)


def leave(folder: Path, reason: str) -> int:
    """Leave the consortium; the index of the entry that says so. Raises `Refused`."""
    home = Home(folder)
    ledger = home.ledger()
    home.learn_keys(ledger)
    return _say(home, ledger, Leave(seq=0, prev=FIRST, member=home.settings.member, reason=reason))[0]


def _say(home: Home, ledger: LedgerHttp, record: Amendment | Vote | Leave) -> tuple[int, str]:
    """Say it, if it can still be said: who says a thing twice in other words has equivocated."""
    home.keyring.check(record, ledger.size())
    leaf, proof = home.say(ledger, home.key("admin"), record)
    home.learn_keys(ledger)
    return proof.index, leaf_hash(leaf).hex()


# What a person writes.


def read(file: Path) -> dict[str, Any]:
    """What this TOML or JSON says; decimals as text, so that none becomes a float. Raises `Refused`."""
    try:
        text = file.read_text()
        found = json.loads(text, parse_float=str) if file.suffix == ".json" else tomllib.loads(text, parse_float=str)
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(Refusal.BAD_FIELD, f"{file}: {error}") from None
    if not isinstance(found, dict):
        raise Refused(Refusal.BAD_FIELD, f"{file} names no fields")
    return found


def changed(charter: Charter, asked: dict[str, Any]) -> Charter:
    """The charter with other values in these fields; of members, pots, devices and tiers in those of this name.

    A name that is new brings in a new one; `false` in its place leaves it out. Whether the charter may change so is
    for the agreement to say. Raises `Refused(BAD_FIELD)` for what no charter has, or a value outside its domain.
    """
    new: dict[str, Any] = {}
    for name, given in asked.items():
        if name in LISTS:
            new[name] = _listed(name, {each.name: each for each in getattr(charter, name)}, given)
        else:
            new |= _values(Charter, {name: given})
    whole = replace(charter, **new)
    canonical.encode(whole)
    return whole


def _listed(what: str, found: dict[str, Any], given: object) -> tuple[Any, ...]:
    for name, parts in _object(given).items():
        if parts is False:
            found.pop(name, None)
            continue
        values = _values(OF[what], _object(parts))
        try:
            found[name] = (
                replace(found[name], **values) if name in found else OF[what](name=name, **USUAL.get(what, {}) | values)
            )
        except TypeError as error:
            raise Refused(Refusal.BAD_FIELD, f"{what}/{name}: {error}") from None
    listed = tuple(found.values())
    return tuple(sorted(listed, key=ORDER[what])) if what in ORDER else listed


def _object(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Refused(Refusal.BAD_FIELD, f"{str(given)[:80]!r} where fields by name are asked for")
    return given


def _values(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """These fields as the record has them: rationals from decimals too."""
    hints, found = typing.get_type_hints(cls), dict[str, Any]()
    for name, value in given.items():
        if name not in hints or name in ("kind", "name", "idem"):
            raise Refused(Refusal.BAD_FIELD, f"a {cls.__name__.lower()} has no {name} to change")
        if hints[name] is Fraction:
            found[name] = number(str(value))
        elif name == "table":
            found[name] = tuple(map(_coalition, _list(value)))
        elif name in ("floors", "caps"):
            found[name] = tuple(Limit(member=each, amount=amount) for each, amount in sorted(_object(value).items()))
        else:
            found[name] = value
    return found


def _coalition(given: object) -> Coalition:
    asked = _object(given)
    if asked.keys() != {"members", "cost"}:
        raise Refused(Refusal.BAD_FIELD, "what a table says of a coalition is its members and their cost")
    return Coalition(members=tuple(_list(asked["members"])), cost=asked["cost"])


def _list(given: object) -> list[Any]:
    if not isinstance(given, list):
        raise Refused(Refusal.BAD_FIELD, f"{str(given)[:80]!r} where a list is asked for")
    return given


# What a person reads.


def lines(found: list[Change]) -> list[str]:
    """A line for each change: where, and what is there before and after."""
    return [f"  {where}: {old} -> {new}" for where, old, new in wording.changed(found)]


def text(agreement: Agreement) -> str:
    """The charter in force, and each open amendment with its changes and its votes."""
    charter, told = agreement.charter, [f"charter {agreement.hash}"]
    told += [f"  {where}: {what}" for where, what in wording.clauses(charter)]
    told += [f"  left: {member}, entry {index}" for member, index in agreement.left.items()]
    for hashed, proposal in agreement.open.items():
        told.append(f"amendment {proposal.amendment.amendment} of {proposal.amendment.member}, {hashed}")
        told += lines(list(changes(charter, proposal.amendment.charter)))
        votes = ", ".join(f"{member} {choice}" for member, choice in proposal.votes.items()) or "none yet"
        told.append(f"  votes: {votes}; {wording.missing(agreement, proposal)}")
    return "\n".join(told)


def as_json(agreement: Agreement) -> dict[str, Any]:
    """The same for programs."""
    return {
        "hash": agreement.hash,
        "charter": {each.name: _json(getattr(agreement.charter, each.name)) for each in fields(Charter)},
        "present": list(agreement.present()),
        "left": agreement.left,
        "needed": agreement.needed,
        "open": [
            {
                "hash": hashed,
                "amendment": proposal.amendment.amendment,
                "member": proposal.amendment.member,
                "changes": [
                    {"at": list(each.at), "old": _json(each.old), "new": _json(each.new)}
                    for each in changes(agreement.charter, proposal.amendment.charter)
                ],
                "votes": proposal.votes,
                "counted": agreement.voted(proposal),
            }
            for hashed, proposal in agreement.open.items()
        ],
    }


def _json(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _json(getattr(value, each.name)) for each in fields(value)}
    return [_json(each) for each in value] if isinstance(value, tuple) else _scalar(value)


def _scalar(value: Any) -> Any:
    return str(value) if isinstance(value, Fraction) else value
