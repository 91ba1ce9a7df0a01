"""Which release of this software is which, so that one that is too old is told what to do instead of failing somehow.

A client names its release in every request (RFC 9110, `User-Agent: consortium/0.1.0`). The ledger answers only those
that it can serve. A program that is not ours names none, and is answered.
"""

import re

from shared_models.records.refusals import Refusal, Refused

RELEASE = "0.1.0"  # As pyproject.toml says; a test compares them.
OLDEST = "0.1.0"  # The oldest client that the ledger answers: raised when the API takes away what one still asks for.
API = "1"  # The first part of the API's addresses is /v1. What is added does not change it.
AGENT = f"consortium/{RELEASE}"

_NAMED = re.compile(r"consortium/([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")


def check_agent(said: str) -> None:
    """Whether the ledger answers who names itself so. Raises `Refused(OUTDATED)`."""
    named = _NAMED.match(said)
    if named and tuple(map(int, named.groups())) < tuple(map(int, OLDEST.split("."))):
        raise Refused(Refusal.OUTDATED, f"{named[0]} asks; this ledger, {RELEASE}, answers {OLDEST} and newer")
