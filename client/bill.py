"""The bill as a person reads it. Every number of it stands in the statement; only the layout is made here."""

from collections.abc import Iterable, Iterator
from typing import Any

from shared_models.records.kinds import Charter, Statement
from shared_models.rules import served
from shared_models.rules.currency import UNITS, money
from shared_models.rules.pricing import value
from shared_models.rules.quotes import worst
from shared_models.rules.stopping import Unspent
from shared_models.rules.worth import Said, whole


def text(bill: Statement, charter: Charter) -> str:
    """The statement as a table, a column for each member."""
    table = rows(bill, charter)
    wide = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(wide[1 + i]) for i, cell in enumerate(row[1:]))]).rstrip()
        for row in table
    ]
    said = [title(bill, charter), *lines, *transfers(bill, charter)]
    return "\n".join([*said, *not_spent(bill, charter), *_certificate(bill, charter)])


def title(bill: Statement, charter: Charter) -> str:
    return f"statement {bill.period} of {charter.consortium}, entries {bill.start} to {bill.end - 1}"


def transfers(bill: Statement, charter: Charter) -> list[str]:
    """Who pays whom."""
    pays = [
        f"{each.payer} pays {each.payee} {money(each.amount, charter)} {charter.currency}" for each in bill.transfers
    ]
    return pays or ["nobody owes anything"]


def rows(bill: Statement, charter: Charter) -> list[list[str]]:
    """The cells of the table, the members' names first."""
    members = [balance.member for balance in bill.balances]
    table = [["", *members]]
    unit, factor = _unit(max((balance.flop for balance in bill.balances), default=0))
    table.append([f"accepted work, {unit}", *(f"{balance.flop // factor:,}" for balance in bill.balances)])
    rules = {pot.name: pot.rule for pot in charter.pots}
    for pot in dict.fromkeys(line.pot for line in bill.lines):
        lines = {line.member: line for line in bill.lines if line.pot == pot}
        table.append([f"{pot}: credit", *(money(lines[member].credit, charter) for member in members)])
        charge = f"charge, {rules[pot]}" if pot in rules else "charge"  # A cap and an accession are of no pot.
        table.append([f"{pot}: {charge}", *(money(-lines[member].charge, charter) for member in members)])
    table.append(["carried over", *(money(balance.carry, charter) for balance in bill.balances)])
    table.append([f"net, {charter.currency}", *(money(balance.net, charter) for balance in bill.balances)])
    return table


def not_spent(bill: Statement, charter: Charter) -> list[str]:
    """What nobody has to pay, because runs stopped early."""
    if not bill.unspent_flop:
        return []
    unit, factor = _unit(bill.unspent_flop)
    work, worth = f"{bill.unspent_flop // factor:,} {unit}", money(value(bill.unspent_flop, bill.price), charter)
    return [f"not spent, as runs stopped early: {work}, worth {worth} {charter.currency}; in no line above"]


def _unit(flop: int) -> tuple[str, int]:
    """The name and size of the largest unit of which this is a hundred."""
    return next((each for each in UNITS if flop >= 100 * each[1]), UNITS[-1])


def _certificate(bill: Statement, charter: Charter) -> list[str]:
    """Whether anybody would be better off alone, of those who had quoted what that would cost."""
    if (found := worst(bill.certificate)) is None:
        return []
    who, slack = " and ".join(found.members), found.alone - found.charge
    if slack < 0:
        return [f"{who} would pay {money(-slack, charter)} less alone, by what was quoted before the period"]
    return [f"nobody who quoted would pay less alone; the nearest, {who}, would pay {money(slack, charter)} more"]


def worth_text(found: Iterable[Said]) -> Iterator[str]:
    """What members have measured of one another's experts, a line for each entry."""
    for each in found:
        record, routed = each.record, each.routed
        parts = ", ".join(
            f"{who} {unats:,} ({float(routed[who]):.1%} of the routes)" for who, unats in whole(each.shares).items()
        )
        yield (
            f"entry {each.entry}: experts of run {record.run} on the text {record.text[:12]}…, as {record.member} has"
            f" measured, are worth, in millionths of a nat per byte: {parts}"
        )


def worth_json(found: Iterable[Said]) -> list[dict[str, Any]]:
    """The same for programs, exact."""
    return [
        {
            "entry": each.entry,
            "member": each.record.member,
            "run": each.record.run,
            "checkpoint": each.record.checkpoint,
            "text": each.record.text,
            "worth_unats": {who: str(share) for who, share in each.shares.items()},
            "routed": {who: str(part) for who, part in each.routed.items()},
        }
        for each in found
    ]


def served_text(found: Iterable[served.Said]) -> Iterator[str]:
    """What members say that they have served, a line for each entry that the statement bills."""
    for each in found:
        record, tokens = each.record, each.record.tokens
        parts = [f"{route.tokens:,} through the expert of {route.member}" for route in record.routes]
        parts.append(f"{tokens - sum(route.tokens for route in record.routes):,} through the given weights")
        said = f"entry {each.at}: {record.member} says that it has served {tokens:,} tokens in {record.period}"
        yield f"{said}, of a model of run {record.run}: {', '.join(parts)}"


def served_json(found: Iterable[served.Said]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "entry": each.at,
            "member": each.record.member,
            "period": each.record.period,
            "run": each.record.run,
            "model": each.record.model,
            "tokens": each.record.tokens,
            "routes": {route.member: route.tokens for route in each.record.routes},
        }
        for each in found
    ]


def unspent_text(found: Iterable[Unspent], bill: Statement, charter: Charter) -> Iterator[str]:
    """What each run that stopped early has not trained, a line for each, at the statement's price."""
    for each in found:
        worth = money(value(each.flop, bill.price), charter)
        left = each.rounds - each.trained
        yield (
            f"entry {each.entry}: run {each.run} stopped early, its held-out loss no lower any more, behind round"
            f" {each.trained} of {each.rounds}; not spent: {left} rounds of {each.members} members, {each.flop:,} FLOP,"
            f" worth {worth} {charter.currency}"
        )


def unspent_json(found: Iterable[Unspent], bill: Statement) -> list[dict[str, Any]]:
    """The same for programs; the worth in minor units, exact."""
    return [
        {
            "entry": each.entry,
            "run": each.run,
            "trained": each.trained,
            "rounds": each.rounds,
            "members": each.members,
            "flop": str(each.flop),
            "worth": str(value(each.flop, bill.price)),
        }
        for each in found
    ]
