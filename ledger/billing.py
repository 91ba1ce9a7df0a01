"""Closing a period, and what is said before it: the administrator recomputes the log, then signs what follows from it.

The ledger holds no key for this. It checks a statement like any other entry, by recomputing it. A statement covers the
entries below a tree head that a quorum of members has witnessed: only this waits for the witnesses, nothing else does.
"""

import csv
import io
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from shared_models.ledger_http import LedgerHttp
from shared_models.published import bundles, fetch
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Charter, Price, Rate, Usage
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit
from shared_models.rules.books import NOTHING, Books
from shared_models.rules.currency import amount
from shared_models.rules.keyring import Keyring

LOOK_S = 0.2


def close(ledger: LedgerHttp, period: str, key: SigningKey, charter: str, *, wait_s: float) -> tlog.Proof:
    """Bill everything that the log holds now and no statement covers; the proof of the statement's place.

    `charter` is the leaf hash of the charter that the administrator signed. Raises `Refused`: NO_QUORUM if too few
    members have witnessed the log after `wait_s` seconds, or the first finding of the audit.
    """
    cosigned = witnessed(ledger, ledger.size(), wait_s)
    return ledger.append(statement(_recomputed(ledger, charter), period, key, cosigned))


def price(ledger: LedgerHttp, period: str, key: SigningKey, charter: str) -> tuple[Price, tlog.Proof]:
    """Set the price of a period that has not begun: the median of the quotes that are open, the proof of its place.

    Raises `Refused`: WRONG_PRICE if too few have opened theirs, AFTER_THE_FACT, or the first finding of the audit.
    """
    books = _recomputed(ledger, charter)
    median, members = books.accounts.quotes.median(period)
    record = Price(seq=0, prev=FIRST, period=period, price=median, quotes=members)
    return record, _say(ledger, books, [record], key)[0]


def rate(
    ledger: LedgerHttp,
    currency: str,
    date: str,
    worth: str,
    source: str,
    key: SigningKey,
    charter: str,
    *,
    correct: bool = False,
) -> tuple[Rate, tlog.Proof]:
    """Enter what a currency was worth on a day, `0.9` or `9/10` units of the charter's; the proof of its place.

    `correct`: instead of the rate that stands. Raises `Refused`: BAD_FIELD, UNKNOWN_CURRENCY; CONFLICT if a rate of
    that day stands and is not corrected, NOT_FOUND if none is there to be; CLOSED if something was billed by it; or
    the audit's first finding.
    """
    if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,12}|/[1-9][0-9]{0,17})?", worth, re.ASCII):
        raise Refused(Refusal.BAD_FIELD, f"{worth[:60]!r} is not a rate such as 0.9 or 9/10")
    books = _recomputed(ledger, charter)
    stands = books.accounts.rate(currency, date)
    if stands is not None and (not correct or stands.value == Fraction(worth)):
        raise Refused(Refusal.CONFLICT, f"a rate of {currency} on {date} stands in the log: {stands.value}")
    if stands is None and correct:
        raise Refused(Refusal.NOT_FOUND, f"no rate of {currency} on {date} is there to be corrected")
    record = Rate(
        seq=0,
        prev=FIRST,
        currency=currency,
        date=date,
        rate=Fraction(worth),
        source=source,
        replaces=stands.hash if stands else FIRST,
    )
    return record, _say(ledger, books, [record], key)[0]


def usage(
    ledger: LedgerHttp,
    period: str,
    pot: str,
    quantities: Mapping[str, str],
    source: str,
    key: SigningKey,
    charter: str,
    *,
    correct: bool = False,
) -> dict[str, tlog.Proof]:
    """Enter what members have used of a pot, `Amount`s by member; the proof of the place of each that is new.

    All are checked before one is signed. What was entered before is not entered again, so the same once more is safe.
    `correct`: instead of what stands, where that is another quantity.
    Raises `Refused`: WRONG_MEMBER, WRONG_ITEM, CLOSED, CONFLICT if another quantity stands and is not corrected, or the
    first finding.
    """
    books = _recomputed(ledger, charter)
    before, records = books.accounts.used(period, pot), dict[str, Usage]()
    for member, quantity in quantities.items():
        stands = before.get(member)
        if stands is not None and stands.value == Fraction(quantity):
            continue
        if stands is not None and not correct:
            raise Refused(Refusal.CONFLICT, f"{member} has used {stands.value} of {pot} in {period}, as the log has it")
        records[member] = Usage(
            seq=0,
            prev=FIRST,
            member=member,
            pot=pot,
            period=period,
            quantity=quantity,
            source=source,
            replaces=stands.hash if stands else FIRST,
        )
    return dict(zip(records, _say(ledger, books, list(records.values()), key), strict=True))


def quantities(rows: str) -> dict[str, str]:
    """By member, as records have them, what lines of `member,quantity` say. Raises `Refused(BAD_FIELD)`."""
    found = dict[str, str]()
    for number, row in enumerate(csv.reader(io.StringIO(rows)), 1):
        if row in ([], ["member", "quantity"]):
            continue
        if len(row) != 2 or row[0] in found:
            raise Refused(Refusal.BAD_FIELD, f"row {number} is not member,quantity, or names a member again")
        found[row[0]] = amount(row[1])
    if not found:
        raise Refused(Refusal.BAD_FIELD, "there are no rows of member,quantity")
    return found


def _say(
    ledger: LedgerHttp, books: Books, records: Sequence[Price | Rate | Usage], key: SigningKey
) -> list[tlog.Proof]:
    """Append these, one behind the other, after all were checked."""
    for record in records:
        books.accounts.check(record)
    last, proofs = books.chains.get(key.name, NOTHING), list[tlog.Proof]()
    seq, prev = last.seq + 1, last.hash
    for record in records:
        leaf = entries.sign(replace(record, seq=seq, prev=prev), books.charter.consortium, [key])
        proofs.append(ledger.append(leaf))
        seq, prev = seq + 1, leaf_hash(leaf).hex()
    return proofs


def _recomputed(ledger: LedgerHttp, charter: str) -> Books:
    log = fetch(ledger.read)
    report = audit(log.leaves, log.head, log.hashes, cosigned=log.cosigned, charter=charter)
    if report.findings:
        first = report.findings[0]
        raise Refused(first.refusal, f"{first}; nothing is billed on a log that is not right")
    return report.books


def statement(books: Books, period: str, key: SigningKey, cosigned: bytes | None) -> bytes:
    """The signed statement of what is not yet billed below this head; of everything, where nobody need witness it.

    Raises `Refused`: NO_QUORUM, or as `Books.statement`.
    """
    end, lines = books.tree.size, tuple[str, ...]()
    if cosigned is not None:
        parsed = note.parse(cosigned, tlog.HEAD_BYTES)
        end = tlog.parse_head(parsed.text).size
        lines = tuple(each.line()[:-1] for each in parsed.signatures if each.name.endswith("/witness"))
    last = books.chains.get(key.name, NOTHING)
    bill = books.statement(period, end, seq=last.seq + 1, prev=last.hash, cosignatures=lines)
    books.check_cosignatures(bill)
    return entries.sign(bill, books.charter.consortium, [key])


def witnessed(ledger: LedgerHttp, size: int, wait_s: float) -> bytes | None:
    """A head of at least this size that a quorum has cosigned, waited for; None if the charter asks for nobody.

    Raises `Refused(NO_QUORUM)`, naming who is missing.
    """
    first = next(bundles(ledger.read, tlog.unsigned(ledger.read(tlog.HEAD)).size), None)
    founded = entries.open_charter(first.leaves[0]) if first is not None else None
    if founded is None or not isinstance(founded.record, Charter):
        raise Refused(Refusal.NO_CHARTER, "the log is empty")
    ring = Keyring(founded.record, founded.hash.hex())
    for index, leaf in ledger.keys(since=0):
        ring.learn(index, leaf)
    charter = ring.charter
    if charter.quorum == 0:
        return None
    until = time.monotonic() + wait_s
    while True:
        try:
            cosigned = ledger.read("cosigned")
            if tlog.unsigned(cosigned).size >= size:
                return cosigned
        except Refused as refused:
            if refused.refusal is not Refusal.NOT_FOUND:
                raise
        if time.monotonic() > until:
            state = ledger.witnesses()
            seen = {member.name: state.get(member.name, {}).get("size", 0) for member in charter.members}
            missing = [name for name, at in seen.items() if at < size]
            raise Refused(
                Refusal.NO_QUORUM,
                f"it takes {charter.quorum} members to witness the log of size {size};"
                f" missing after {wait_s:.0f} s: {', '.join(missing)}",
            )
        time.sleep(LOOK_S)
