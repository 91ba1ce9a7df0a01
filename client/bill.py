"""The bill as a person reads it. Every number of it stands in the statement; only the layout is made here."""

from shared_models.records.kinds import Charter, Statement
from shared_models.rules.currency import UNITS, money
from shared_models.rules.quotes import worst


def text(bill: Statement, charter: Charter) -> str:
    """The statement as a table, a column for each member."""
    members = [balance.member for balance in bill.balances]
    rows = [["", *members]]
    most = max((balance.flop for balance in bill.balances), default=0)
    unit, factor = next(((name, size) for name, size in UNITS if most >= 100 * size), UNITS[-1])
    rows.append([f"accepted work, {unit}", *(f"{balance.flop // factor:,}" for balance in bill.balances)])
    rules = {pot.name: pot.rule for pot in charter.pots}
    for pot in dict.fromkeys(line.pot for line in bill.lines):
        lines = {line.member: line for line in bill.lines if line.pot == pot}
        rows.append([f"{pot}: credit", *(money(lines[member].credit, charter) for member in members)])
        charge = f"charge, {rules[pot]}" if pot in rules else "charge"  # A cap and an accession are of no pot.
        rows.append([f"{pot}: {charge}", *(money(-lines[member].charge, charter) for member in members)])
    rows.append(["carried over", *(money(balance.carry, charter) for balance in bill.balances)])
    rows.append([f"net, {charter.currency}", *(money(balance.net, charter) for balance in bill.balances)])
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(wide[1 + i]) for i, cell in enumerate(row[1:]))]).rstrip()
        for row in rows
    ]
    pays = [
        f"{each.payer} pays {each.payee} {money(each.amount, charter)} {charter.currency}" for each in bill.transfers
    ]
    title = f"statement {bill.period} of {charter.consortium}, entries {bill.start} to {bill.end - 1}"
    return "\n".join([title, *table, *(pays or ["nobody owes anything"]), *_certificate(bill, charter)])


def _certificate(bill: Statement, charter: Charter) -> list[str]:
    """Whether anybody would be better off alone, of those who had quoted what that would cost."""
    if (found := worst(bill.certificate)) is None:
        return []
    who, slack = " and ".join(found.members), found.alone - found.charge
    if slack < 0:
        return [f"{who} would pay {money(-slack, charter)} less alone, by what was quoted before the period"]
    return [f"nobody who quoted would pay less alone; the nearest, {who}, would pay {money(slack, charter)} more"]
