"""Closing a period: the administrator recomputes the log, then signs the statement, or the price, that follows from it.

The ledger holds no key for this. It checks a statement like any other entry, by recomputing it. A statement covers the
entries below a tree head that a quorum of members has witnessed: only this waits for the witnesses, nothing else does.
"""

import time

from shared_models.ledger_http import LedgerHttp
from shared_models.published import bundles, fetch, reader
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Charter, Price
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit
from shared_models.rules.books import NOTHING, Books
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
    last = books.chains.get(key.name, NOTHING)
    median, members = books.accounts.quotes.median(period)
    record = Price(seq=last.seq + 1, prev=last.hash, period=period, price=median, quotes=members)
    books.accounts.quotes.check(record, books.agreement.present())
    return record, ledger.append(entries.sign(record, books.charter.consortium, [key]))


def _recomputed(ledger: LedgerHttp, charter: str) -> Books:
    log = fetch(reader(ledger.url))
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
