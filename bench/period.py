"""A large period and its statement, by itself: so `python -m bench.period` says what time and memory it takes."""

import random
import re
import time
from pathlib import Path
from typing import NamedTuple

from bench.receipts import charter
from shared_models.records.keys import VerifyKey
from shared_models.records.kinds import FIRST, Statement
from shared_models.rules.accounts import Accounts, Work
from shared_models.rules.keyring import Keyring
from shared_models.rules.statement import statement


class Billed(NamedTuple):
    """The accounts of a period that is over, and what its rounds accepted."""

    accounts: Accounts
    rounds: list[tuple[list[str], int]]  # (members, FLOP of each).
    end: int

    def statement(self) -> Statement:
        facts = self.accounts.facts("2026-11", self.end)
        return statement(facts, root="0" * 64, cosignatures=(), seq=0, prev=FIRST)


def billed(members: int, rounds: int) -> Billed:
    """A period of so many rounds, in two runs by turns, in each of which one member of twenty does not answer."""
    draw, agreed = random.Random(2), charter(members)
    names = [member.name for member in agreed.members]
    accounts, index = Accounts(Keyring(agreed, FIRST)), 0
    key_id = VerifyKey.parse(agreed.members[0].compute).id
    accepted = []
    for number in range(1, rounds + 1):
        inside = sorted(draw.sample(names, members - members // 20)) if members >= 20 else names
        flop = (10**15, 3 * 10**15)[number % 2]
        accepted.append((inside, flop))
        works = [Work(name, flop, at, key_id) for at, name in enumerate(inside, index)]
        index += len(works) + 1
        accounts.add_close(index, f"r{number % 2}", number, works)
    return Billed(accounts, accepted, index + 1)


if __name__ == "__main__":
    period = billed(1_000, 1_053)  # A million receipts: of each round 950.
    began = time.process_time()
    period.statement()
    took = time.process_time() - began
    # Not ru_maxrss: to that counts what the parent held when it started us.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(took, int(peak[1]) / 1024 if peak else 0)
