"""Closing a period: the administrator recomputes the log, then signs the statement that follows from it.

The ledger holds no key for this. It checks a statement like any other entry, by recomputing it.
"""

from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.rules.books import NOTHING, Books


def close(books: Books, period: str, key: SigningKey) -> bytes:
    """The signed statement of everything in these books that is not yet billed. Raises `Refused`."""
    last = books.chains.get(key.name, NOTHING)
    bill = books.statement(period, books.tree.size, seq=last.seq + 1, prev=last.hash)
    return entries.sign(bill, books.charter.consortium, [key])
