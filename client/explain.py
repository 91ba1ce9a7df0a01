"""Where a number of a bill comes from: opened down to receipts and invoices, compared, and under other rules.

Everything here is recomputed from a log that was audited, with the functions that made the bill. Nothing is believed
and nothing is rounded; what a person reads is cut after four digits more than the currency has, and says so by `~`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations
from typing import Any, NamedTuple

from client.bill import text
from shared_models.published import Read, leaf_at
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.kinds import Charter, CostItem, Manifest, Receipt, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.accounts import Cited, Work
from shared_models.rules.agreement import ACCESSION, CAP, CLAUSES, SERVED, WORTH
from shared_models.rules.books import Books
from shared_models.rules.currency import money
from shared_models.rules.games import Game, shapley
from shared_models.rules.pricing import FLOP_PER_NCU, value
from shared_models.rules.served import MILLION
from shared_models.rules.statement import Facts, Put, drivers
from shared_models.rules.what_if import asked, with_rules

FACTORS = ("price", "volume", "share", "fx")


@dataclass(frozen=True, slots=True)
class Opened:
    """A statement, and everything it was computed from."""

    bill: Statement
    facts: Facts
    accepted: tuple[tuple[int, Work], ...]  # (index of the round.close, work).
    manifests: Mapping[str, Manifest]
    cited: Cited

    @property
    def charter(self) -> Charter:
        return self.facts.charter

    @classmethod
    def of(cls, books: Books, bill: Statement) -> "Opened":
        """Before the books have taken the statement in."""
        manifests = {name: run.manifest for name, run in books.runs.items()}
        accepted = tuple((each.index, work) for each, work in books.accounts.accepted(bill.end))
        facts, cited = books.accounts.facts(bill.period, bill.end), books.accounts.cited(bill.period, bill.end)
        return cls(bill, facts, accepted, manifests, cited)


class Number(NamedTuple):
    """A number of a bill, opened: what it is, how it comes about, and the entries that it stands on."""

    title: str
    lines: tuple[str, ...]
    entries: tuple[tuple[int, str], ...]  # (index, what it is there for).


def explain(opened: Opened, line: str, read: Read, size: int) -> Number:
    """Open `MEMBER`, its net, or `MEMBER/POT`, what a pot gives it and takes. Raises `Refused(NOT_FOUND)`."""
    member, _, pot = line.partition("/")
    if not any(each.member == member for each in opened.bill.balances):
        raise Refused(Refusal.NOT_FOUND, f"the statement {opened.bill.period} has no member {member[:80]}")
    if not pot:
        return _net(opened, member)
    if not any(each.pot == pot for each in opened.bill.lines):
        raise Refused(Refusal.NOT_FOUND, f"the statement {opened.bill.period} has no pot {pot[:80]}")
    return _line(opened, member, pot, read, size)


def _net(opened: Opened, member: str) -> Number:
    bill, charter = opened.bill, opened.charter
    balance = next(each for each in bill.balances if each.member == member)
    carried, exact, lines = opened.facts.carries.get(member, Fraction(0)), Fraction(0), list[str]()
    for each in bill.lines:
        if each.member == member:
            exact += each.credit - each.charge
            lines.append(f"{each.pot}: credit {money(each.credit, charter)}, charge {money(each.charge, charter)}")
    lines += [
        f"credits less charges {money(exact, charter)}",
        f"carried over from before {money(carried, charter)}",
        f"so due is {money(exact + carried, charter)}, which is {exact + carried} minor units",
        f"paid is the whole of it, {money(balance.net, charter)} {charter.currency}, up or down: all members' sum to 0",
        f"carried on {money(balance.carry, charter)}",
        f"each line opens: --explain {member}/POT",
    ]
    before = tuple((at, "the statement before, and what it carried on") for at in opened.cited.statements[-1:])
    return Number(f"{member}: net {money(balance.net, charter)} {charter.currency}", tuple(lines), before)


def _line(opened: Opened, member: str, pot: str, read: Read, size: int) -> Number:
    bill, charter = opened.bill, opened.charter
    line = next(each for each in bill.lines if (each.pot, each.member) == (pot, member))
    lines, stands_on = [f"credit {money(line.credit, charter)}, which is {line.credit} minor units, of"], []
    if pot == charter.compute_pot:
        flop, price = 0, money(opened.facts.price, charter)
        for close, work in opened.accepted:
            if work.member == member:
                flop += work.flop
                what, included = _receipt(opened, leaf_at(read, work.at, size)), f"included by entry {close}"
                stands_on += [(work.at, f"{what}; {included}"), (close, "closes that round")]
        worth = money(value(flop, opened.facts.price), charter)
        if opened.cited.price is not None:
            stands_on.append((opened.cited.price, "the price of an NCU: the median of the quotes that were opened"))
        lines.append(f"  {flop:,} FLOP x {price} {charter.currency} / {FLOP_PER_NCU:,} FLOP = {worth}")
    if pot == WORTH:
        lines.append(f"  {opened.facts.worth.get(member, 0)} of what all experts that lower the loss take off it")
    if pot == SERVED:
        lines += _served(opened, member)
    for put in opened.facts.put:
        if (put.member, put.pot) == (member, pot):
            amount = int(put.amount) if put.amount.denominator == 1 else put.amount
            lines.append(f"  {money(amount, charter)} for {put.what}{_paper(put, charter, read, size)}")
            stands_on.append((put.index, f"{put.what}, paid by {member}"))
            if put.rate_at is not None:
                stands_on.append((put.rate_at, f"what {put.currency} was worth that day"))
    lines += _charge(opened, member, pot)
    stands_on += [(at, f"what {who} has used") for who, at in opened.cited.usage.get(pot, {}).items()]
    stands_on += [(at, "a quote for going alone") for at in opened.cited.quotes if pot == CAP]
    stands_on += [
        (at, "what experts are worth, as a member has measured") for at in opened.cited.worths if pot == WORTH
    ]
    stands_on += [(at, "what a member says that it has served") for at in opened.cited.served if pot == SERVED]
    stands_on += [(at, "a statement, and the work it bills") for at in opened.cited.statements if pot == ACCESSION]
    stands_on.append((opened.cited.charter, "the charter: price, rules, benefits"))
    return Number(f"{member}/{pot}", tuple(lines), tuple(sorted(dict(stands_on).items())))


def _served(opened: Opened, member: str) -> Iterable[str]:
    """What a member is paid for its expert, and what it pays for others'."""
    charter = opened.charter
    for who, through in opened.facts.served.items():
        for owner, tokens in through.items():
            if who != owner and member in (who, owner):
                amount = money(charter.expert_price * tokens / MILLION, charter)
                said = f"{who} has served {tokens:,} tokens through the expert of {owner}"
                yield f"  {said} x {charter.expert_price} minor units / {MILLION:,} = {amount}"


def _paper(put: Put, charter: Charter, read: Read, size: int) -> str:
    """What stands on the invoice: its amount, if it is of another currency, and the commitment to it."""
    said = ""
    if put.currency != charter.currency:
        rate = put.amount / put.original / 10**charter.minor_digits
        said = f", {put.original} {put.currency} x {rate} {charter.currency}"
    entry = entries.peek(leaf_at(read, put.index, size))
    return f"{said}, evidence {entry.evidence[:16]}…" if isinstance(entry, CostItem) else said


def _charge(opened: Opened, member: str, name: str) -> Iterable[str]:
    """How a line's charge comes about."""
    bill, charter = opened.bill, opened.charter
    line = next(each for each in bill.lines if (each.pot, each.member) == (name, member))
    pot = next((each for each in charter.pots if each.name == name), None)
    cost = sum((each.credit for each in bill.lines if each.pot == name), Fraction(0))
    if not line.credit:
        yield "  nothing"
    yield (
        f"charge {money(line.charge, charter)}, which is {line.charge} minor units: its part of"
        f" {money(cost, charter)}, all that members put into this pot"
    )
    if pot is None:
        yield f"  by `shared_models.rules.statement`, as {CLAUSES[name]}"
    elif pot.table:
        said = ", ".join(f"{' '.join(each.members)} {each.cost}" for each in pot.table)
        yield f"  divided by the rule {pot.rule}, `shared_models.rules.games.{pot.rule}`, of the table: {said}"
    else:
        by = "what each has put in"
        if pot.driver != "paid":
            found = ", ".join(f"{who} {driver}" for who, driver in drivers(pot, opened.facts).items())
            by = f"{pot.driver} as the charter and the log have it: {found}"
        yield f"  divided by the rule {pot.rule}, whose text is `shared_models.rules.allocation.{pot.rule}`, by {by}"
    if pot is not None and (pot.floors or pot.caps):
        floors, caps = (", ".join(f"{each.member} {each.amount}" for each in said) for said in (pot.floors, pot.caps))
        yield f"  by `shared_models.rules.allocation.bounded` none below its floor: {floors or 'none'}"
        yield f"  and none above its cap: {caps or 'none'}; in minor units, where the pot holds a cost"


def _receipt(opened: Opened, leaf: bytes) -> str:
    receipt = entries.peek(leaf)
    assert isinstance(receipt, Receipt)  # The log was audited.
    per_token = opened.manifests[receipt.run].flop_per_token
    shorter = receipt.tokens * per_token - receipt.flop  # What attention is spared in a curriculum.
    less = f" - {shorter:,} for shorter sequences" if shorter else ""
    done = f"{receipt.tokens:,} tokens x {per_token:,}{less} = {receipt.flop:,} FLOP"
    by = f"run {receipt.run}, round {receipt.round}, node {receipt.node}, isolation {receipt.isolation}"
    if receipt.memory_bytes:
        by += f", {receipt.memory_bytes / 1e6:,.0f} MB of memory"
    return f"receipt of {by}: {done}"


def number_text(number: Number) -> str:
    """A line for each step, and for each entry."""
    stands_on = [f"entry {index:<8} {what}" for index, what in number.entries]
    return "\n".join([number.title, *number.lines, *stands_on])


def number_json(number: Number, books: Books, head: bytes) -> dict[str, Any]:
    """The same, and for each entry the C2SP tlog-proof that it stands under this head of the log."""
    size = tlog.unsigned(head).size
    found = [
        {
            "index": index,
            "what": what,
            "leaf_hash": books.tree.leaf(index).hex(),
            "proof": tlog.Proof(index, tuple(books.tree.inclusion(index, size)), head).data().decode(),
        }
        for index, what in number.entries
    ]
    return {"schema": "consortium.number/1", "title": number.title, "lines": number.lines, "entries": found}


def change(before: Opened, after: Opened, member: str) -> dict[str, Fraction]:
    """Why a member's net is another one than before: {factor: minor units}, exact; all of them sum to the difference.

    What a pot brings a member in one currency is price x volume x share x FX: what a unit of it costs, how much of it
    there was, the member's part of what was put in less its part of what is charged, and the mean rate at which the
    currency was converted. The factors' parts are the Shapley value of the game in which a coalition of factors is as
    after, the others as before: no order of changing them is preferred. `rounding` is the rest, below two units.
    Raises `Refused(NOT_FOUND)` if the member is not in both.
    """
    if not all(any(each.member == member for each in one.bill.balances) for one in (before, after)):
        raise Refused(Refusal.NOT_FOUND, f"{member[:80]} is not a member in both periods")
    parts = dict.fromkeys((*FACTORS, "rounding"), Fraction(0))
    for pot, paper in sorted(_currencies(before) | _currencies(after)):
        old, new = _factors(before, member, pot, paper), _factors(after, member, pot, paper)
        for empty, other in ((old, new), (new, old)):
            if empty["volume"] == 0:  # There is no share and no rate of nothing: it is the volume that changes.
                empty |= {**other, "volume": Fraction(0)}
        costs = dict[frozenset[str], Fraction]()
        base = _product(old)
        for changed in chain.from_iterable(combinations(FACTORS, count) for count in range(1, len(FACTORS) + 1)):
            costs[frozenset(changed)] = _product({**old, **{name: new[name] for name in changed}}) - base
        for factor, part in shapley(Game.of(costs)).items():
            parts[factor] += part
    moved = Fraction(net_of(after.bill, member) - net_of(before.bill, member))
    parts["rounding"] = moved - sum(parts.values())
    return parts


def _currencies(opened: Opened) -> set[tuple[str, str]]:
    """(pot, currency) of all that was put into pots."""
    ours = opened.charter.currency
    return {(each.pot, each.currency) for each in opened.facts.put} | {(each.pot, ours) for each in opened.bill.lines}


def _factors(opened: Opened, member: str, pot: str, paper: str) -> dict[str, Fraction]:
    """What is in another currency than the charter's bears its part of the pot's charge, by what it is worth."""
    lines = [each for each in opened.bill.lines if each.pot == pot]
    foreign = [each for each in opened.facts.put if (each.pot, each.currency) == (pot, paper)]
    whole = sum((each.credit for each in lines), Fraction(0))
    mine = {each.member: (each.credit, each.charge) for each in lines}.get(member, (Fraction(0), Fraction(0)))
    ours = paper == opened.charter.currency
    others = [each for each in opened.facts.put if each.pot == pot and each.currency != opened.charter.currency]
    if ours:  # All that is not on paper in another currency.
        total = whole - sum((each.amount for each in others), Fraction(0))
        credit = mine[0] - sum((each.amount for each in others if each.member == member), Fraction(0))
    else:
        total = sum((each.amount for each in foreign), Fraction(0))
        credit = sum((each.amount for each in foreign if each.member == member), Fraction(0))
    charge = mine[1] * total / whole if whole else mine[1] * ours
    price = opened.facts.price / FLOP_PER_NCU if pot == opened.charter.compute_pot and ours else Fraction(1)
    units = total if ours else sum((each.original for each in foreign), Fraction(0))
    if not total or not price or not units:  # What comes and goes sums to nothing: what is left is the volume.
        return {"price": Fraction(1), "volume": credit - charge, "share": Fraction(1), "fx": Fraction(1)}
    return {"price": price, "volume": units / price, "share": (credit - charge) / total, "fx": total / units}


def _product(factors: Mapping[str, Fraction]) -> Fraction:
    return factors["price"] * factors["volume"] * factors["share"] * factors["fx"]


def net_of(bill: Statement, member: str) -> int:
    return next(each.net for each in bill.balances if each.member == member)


def changes(before: Opened, after: Opened) -> dict[str, dict[str, Fraction]]:
    """`change` for each member of both periods."""
    members = {each.member for each in before.bill.balances}
    return {each.member: change(before, after, each.member) for each in after.bill.balances if each.member in members}


def changes_text(found: Mapping[str, Mapping[str, Fraction]], before: Opened, after: Opened) -> str:
    """A row for each member: what it was due, why that is another amount now, what it is due."""
    charter = after.charter
    rows = [["", before.bill.period, *FACTORS, "rounding", after.bill.period]]
    for member, parts in found.items():
        nets = [money(net_of(each.bill, member), charter) for each in (before, after)]
        rows.append([member, nets[0], *(money(part, charter) for part in parts.values()), nets[1]])
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in rows]
    title = f"nets in {charter.currency}, what is paid out above zero; and what each factor has changed"
    return "\n".join([title, *table])


def changes_json(found: Mapping[str, Mapping[str, Fraction]]) -> dict[str, Any]:
    """In minor units, exact."""
    members = {member: {factor: str(part) for factor, part in parts.items()} for member, parts in found.items()}
    return {"schema": "consortium.change/1", "members": members}


def what_if_text(opened: Opened, other: Statement, rules: Iterable[str]) -> str:
    """The other bill, and what it would change for whom. It is signed by nobody."""
    charter = with_rules(opened.charter, asked(rules))
    lines = [f"if {', '.join(rules)}; this statement is signed by nobody", text(other, charter)]
    for each in other.balances:
        moved = each.net - net_of(opened.bill, each.member)
        lines.append(f"{each.member} would have {money(abs(moved), charter)} {'more' if moved >= 0 else 'less'}")
    return "\n".join(lines)


def as_json(bill: Statement, charter: Charter) -> dict[str, Any]:
    """The statement for programs: amounts in minor units, exact ones as fractions."""
    return {
        "period": bill.period,
        "start": bill.start,
        "end": bill.end,
        "root": bill.root,
        "charter": bill.charter,
        "price": str(bill.price),
        "currency": charter.currency,
        "minor_digits": charter.minor_digits,
        "lines": [
            {"pot": each.pot, "member": each.member, "credit": str(each.credit), "charge": str(each.charge)}
            for each in bill.lines
        ],
        "balances": [
            {"member": each.member, "flop": str(each.flop), "net": each.net, "carry": str(each.carry)}
            for each in bill.balances
        ],
        "transfers": [{"payer": each.payer, "payee": each.payee, "amount": each.amount} for each in bill.transfers],
        "certificate": [
            {"members": each.members, "charge": str(each.charge), "alone": str(each.alone)} for each in bill.certificate
        ],
        "unspent_flop": str(bill.unspent_flop),
    }
