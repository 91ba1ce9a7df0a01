"""A bill in the forms that other programs read: CSV, and double-entry journals for hledger and Beancount.

Lines are exact rationals, and journals know decimals. They are written to 12 digits behind those of the currency,
rounded together so that they still sum to zero: by `settle`, as the statement itself is.
"""

import csv
import datetime
import io
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

from shared_models.records.kinds import Charter, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.statement import settle

FINER = 12  # Digits behind those of the currency.
Key = tuple[str, str, str]  # (pot, member, credit or charge).


def as_csv(bills: Iterable[Statement], charter: Charter) -> str:
    """One row for each line of the statements, in units of the currency; what is exact stands behind what is cut."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["period", "pot", "member", "currency", "credit", "charge", "credit_exact", "charge_exact"])
    unit = 10**charter.minor_digits
    for bill in bills:
        fine = fine_amounts(bill)
        for each in bill.lines:
            shown = [as_decimal(fine[each.pot, each.member, what], charter) for what in ("credit", "charge")]
            exact = [str(each.credit / unit), str(each.charge / unit)]
            rows.writerow([bill.period, each.pot, each.member, charter.currency, *shown, *exact])
    return out.getvalue()


def hledger(bills: Iterable[Statement], charter: Charter, date: str | None) -> str:
    """A journal for hledger. Raises `Refused(BAD_FIELD)` if a period has no date."""
    found = [f"; {charter.consortium}: what members put in, what they are charged, what they pay each other"]
    for bill in bills:
        day = last_day(bill.period, date).isoformat()
        for what, postings in _transactions(bill, charter):
            found += ["", f"{day} * {what}"]
            found += [f"    {':'.join(account)}  {amount} {charter.currency}" for account, amount in postings]
        found += ["", f"{day} * {bill.period}: nobody owes anything"]
        found += [f"    members:{each.member}  0 {charter.currency} = 0 {charter.currency}" for each in bill.balances]
    return "\n".join(found) + "\n"


def beancount(bills: Iterable[Statement], charter: Charter, date: str | None) -> str:
    """A journal for Beancount. Raises `Refused(BAD_FIELD)` if a period has no date."""
    found, known = list[str](), set[str]()
    for bill in bills:
        day = last_day(bill.period, date)
        for what, postings in _transactions(bill, charter):
            names = [beancount_account(account) for account, _ in postings]
            found += [f"{day} open {name} {charter.currency}" for name in dict.fromkeys(names) if name not in known]
            known.update(names)
            found.append(f'{day} * "{what}"')
            found += [
                f"  {name}  {amount} {charter.currency}" for name, (_, amount) in zip(names, postings, strict=True)
            ]
            found.append("")
        next_day = day + datetime.timedelta(days=1)  # A balance is that of the morning.
        found += [
            f"{next_day} balance {name} 0 {charter.currency}"
            for each in bill.balances
            if (name := beancount_account(("members", each.member))) in known
        ]
        found.append("")
    return "\n".join(found)


FORMS: dict[str, Callable[[Iterable[Statement], Charter, str | None], str]] = {
    "csv": lambda bills, charter, _: as_csv(bills, charter),
    "hledger": hledger,
    "beancount": beancount,
}


def _transactions(bill: Statement, charter: Charter) -> Iterable[tuple[str, list[tuple[tuple[str, str], str]]]]:
    """(what happened, [(account, amount)]) in order. What stands at a member is what it owes; below zero, is owed.

    1. What members put into a pot is owed to them, and what they are charged they owe. The pot is empty again.
    2. What a member owes is rounded to whole minor units; what that leaves is kept under `rounding`.
    3. Members pay each other, and nobody owes anything.
    """
    fine, owed = fine_amounts(bill), dict[str, int]()
    for pot in dict.fromkeys(each.pot for each in bill.lines):
        postings = []
        for member in (each.member for each in bill.lines if each.pot == pot):
            credit, charge = fine[pot, member, "credit"], fine[pot, member, "charge"]
            owed[member] = owed.get(member, 0) + charge - credit
            for amount in (-credit, charge):
                if amount:
                    postings += [(("members", member), amount), (("pots", pot), -amount)]
        if postings:
            yield f"{bill.period}: {pot}", _shown(postings, charter)
    rounded = []
    for balance in bill.balances:
        if left := -balance.net * 10**FINER - owed[balance.member]:
            rounded += [(("members", balance.member), left), (("rounding", balance.member), -left)]
    if rounded:
        yield f"{bill.period}: to whole minor units, with what was carried over", _shown(rounded, charter)
    for each in bill.transfers:
        paid = each.amount * 10**FINER
        postings = [(("members", each.payer), -paid), (("members", each.payee), paid)]
        yield f"{bill.period}: {each.payer} pays {each.payee}", _shown(postings, charter)


def fine_amounts(bill: Statement) -> Mapping[Key, int]:
    """Each credit and charge in 10^-12 minor units: rounded, but so that all of a pot still sum to zero."""
    fine = dict[Key, int]()
    for pot in dict.fromkeys(each.pot for each in bill.lines):
        exact = dict[str, Fraction]()
        for each in bill.lines:
            if each.pot == pot:
                exact |= {
                    f"{each.member}/credit": each.credit * 10**FINER,
                    f"{each.member}/charge": -each.charge * 10**FINER,
                }
        for name, amount in settle(exact, {}, bill.period)[0].items():
            member, _, what = name.partition("/")
            fine[pot, member, what] = amount if what == "credit" else -amount
    return fine


def _shown(postings: list[tuple[tuple[str, str], int]], charter: Charter) -> list[tuple[tuple[str, str], str]]:
    return [(account, as_decimal(amount, charter)) for account, amount in postings]


def as_decimal(fine: int, charter: Charter) -> str:
    digits = charter.minor_digits + FINER
    whole, rest = divmod(abs(fine), 10**digits)
    tail = f"{rest:0{digits}}".rstrip("0").ljust(charter.minor_digits, "0")
    return f"{'-' if fine < 0 else ''}{whole}{'.' if tail else ''}{tail}"


def beancount_account(parts: tuple[str, str]) -> str:
    """An account as Beancount spells it: capital letters, no dots; two names never become one."""
    kind, name = parts
    root = {"members": "Assets:Members", "pots": "Equity:Pots", "rounding": "Equity:Rounding"}[kind]
    return f"{root}:{(name[0].upper() + name[1:]).replace('.', 'DOT')}"


def last_day(period: str, date: str | None) -> datetime.date:
    """The last day of a period. Raises `Refused` as `bounds`."""
    return bounds(period, date)[1] - datetime.timedelta(days=1)


def bounds(period: str, date: str | None) -> tuple[datetime.date, datetime.date]:
    """The first day of a period, and the first one behind it: of one named as a month or a year, or of the given day.

    Raises `Refused(BAD_FIELD)` where a name is neither and no day is given.
    """
    try:
        if date is not None:
            day = datetime.date.fromisoformat(date)
            return day, day + datetime.timedelta(days=1)
        if found := re.fullmatch(r"([0-9]{4})(?:-([0-9]{2}))?", period):
            first = datetime.date(int(found[1]), int(found[2] or 1), 1)
            last = datetime.date(first.year, int(found[2] or 12), 28) + datetime.timedelta(days=4)
            return first, last.replace(day=1)
    except (ValueError, OverflowError):
        pass
    raise Refused(Refusal.BAD_FIELD, f"this form needs a date, and {date or period} is none: --date YYYY-MM-DD")
