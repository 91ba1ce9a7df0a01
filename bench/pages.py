"""The dashboard's pages and tables over a log of a million entries: how long the ledger takes for each.

Some minutes: it makes the log, every entry of it signed, serves it, and asks. The first answer, for which the ledger
brings its tables up to the log, is told apart. Then each page is asked for again and again, at places drawn by chance,
one request at a time, over one connection, as one reader does. Wall times are of a machine that does nothing else.
"""

import http.client
import random
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from bench import Figures, report
from bench.log import fill, serving_ledger
from bench.receipts import found, publish
from ledger.curve import AXES

ENTRIES, MEMBERS = 1_000_000, 100
TIMES = 40

# By name, an address of each, in a log of so many entries.
PAGES: dict[str, Callable[[random.Random, int], str]] = {
    "overview": lambda draw, _: f"/overview?against={draw.choice(AXES)}",
    "runs": lambda *_: "/runs",
    "run": lambda *_: "/runs/r1",
    "round": lambda draw, count: f"/runs/r1/{draw.randrange(1, count // (MEMBERS + 2))}",
    "members": lambda *_: "/members",
    "bills": lambda *_: "/bills",
    "models": lambda *_: "/models",
    "log": lambda draw, count: f"/log?before={draw.randrange(count)}",
    "entry": lambda draw, count: f"/log/{draw.randrange(count)}",
    "charter": lambda *_: "/charter",
    "joins": lambda *_: "/joins",
}
MEANING = {
    "entries": "entries of the log",
    "start_s": "seconds until the ledger answers at all: it reads its log",
    "first_s": "seconds of the first page that needs the tables of receipts: they are brought up to the log",
    "page_p95_ms": "95th percentile of all pages below, each asked for as often; at most 100",
    "page_worst_p95_ms": "that of the slowest of them",
    **{f"{name}_p95_ms": f"that of {name}" for name in PAGES},
}


def figures(count: int = ENTRIES) -> Figures:
    """Measure a log of so many entries."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, consortium = Path(scratch), found(MEMBERS)
        leaves = (leaf for part in (consortium.begin, consortium.rounds(count)) for leaf in part)
        publish(folder / "log", islice(leaves, count))
        fill(folder, consortium, count)
        began = time.monotonic()
        with serving_ledger(folder) as (_, ledger):
            start_s = time.monotonic() - began
            line = http.client.HTTPConnection("127.0.0.1", int(ledger.url.rpartition(":")[2]), timeout=600)
            first_s = _took_s(line, "/overview?against=kwh")
            found_ = _paged(line, count)
    every = [each for taken in found_.values() for each in taken]
    by_page = {name: _p95_ms(taken) for name, taken in found_.items()}
    return {
        "entries": count,
        "start_s": start_s,
        "first_s": first_s,
        "page_p95_ms": _p95_ms(every),
        "page_worst_p95_ms": max(by_page.values()),
        **{f"{name}_p95_ms": took for name, took in by_page.items()},
    }


def _paged(line: http.client.HTTPConnection, count: int) -> dict[str, list[float]]:
    """Seconds of each request, by page."""
    draw = random.Random(1)
    return {name: [_took_s(line, path(draw, count)) for _ in range(TIMES)] for name, path in PAGES.items()}


def _took_s(line: http.client.HTTPConnection, path: str) -> float:
    began = time.perf_counter()
    line.request("GET", path)
    reply = line.getresponse()
    reply.read()
    took = time.perf_counter() - began
    assert reply.status == 200, (path, reply.status)
    return took


def _p95_ms(taken: list[float]) -> float:
    return 1e3 * sorted(taken)[int(0.95 * (len(taken) - 1))]


if __name__ == "__main__":
    report("pages", figures(), MEANING)
