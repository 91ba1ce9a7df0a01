"""The dashboard's pages and tables over a log of a million entries: how long the ledger takes for each.

Some minutes: it makes the log, every entry of it signed, bills all of it, serves it, and asks. While the ledger brings
its tables up to the log, who asks for them is told to come again; that is told apart. Then each page is asked for again
and again, at places drawn by chance, one request at a time, over one connection, as one reader does. Wall times are of
a machine that does nothing else.
"""

import http.client
import random
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil

from bench import Figures, report
from bench.log import cpu_s, fill, serving_ledger, write_log_key
from bench.receipts import CONSORTIUM, found, key, publish
from ledger.billing import statement
from ledger.curve import AXES
from ledger.log import open_log

ENTRIES, MEMBERS = 1_000_000, 100
TIMES = 40
PERIOD = "2026-11"

# By name, an address of each, in a log of so many entries.
PAGES: dict[str, Callable[[random.Random, int], str]] = {
    "overview": lambda draw, _: f"/overview?against={draw.choice(AXES)}",
    "runs": lambda *_: "/runs",
    "run": lambda *_: "/runs/r1",
    "round": lambda draw, count: f"/runs/r1/{draw.randrange(1, count // (MEMBERS + 2))}",
    "members": lambda *_: "/members",
    "bills": lambda *_: "/bills",
    "bill": lambda *_: f"/bills/{PERIOD}",
    "receipts": lambda draw, count: f"/bills/{PERIOD}/receipts?after={draw.randrange(count)}",
    "what_if": lambda *_: f"/bills/{PERIOD}/what-if?rule=compute=equal",
    "disputes": lambda *_: f"/bills/{PERIOD}/disputes",
    "models": lambda *_: "/models",
    "log": lambda draw, count: f"/log?before={draw.randrange(count)}",
    "entry": lambda draw, count: f"/log/{draw.randrange(count)}",
    "charter": lambda *_: "/charter",
    "joins": lambda *_: "/joins",
}
MEANING = {
    "entries": "entries of the log",
    "start_s": "seconds until the ledger answers at all: it reads its log",
    "tables_s": "seconds from then on until the tables are brought up to the log, beside",
    "busy_worst_ms": "until who asks for them meanwhile is told to come again, at most",
    "first_s": "seconds of the first page that asks for what receipts declare, added up",
    "page_p95_ms": "95th percentile of all pages below, each asked for as often; at most 100",
    "page_worst_p95_ms": "that of the slowest of them",
    "page_worst_cpu_ms": "CPU of the ledger for one of the page that takes most of it, whatever else the machine does",
    "bill_cpu_ms": "the same of a bill",
    **{f"{name}_p95_ms": f"that of {name}" for name in PAGES},
}


def figures(count: int = ENTRIES) -> Figures:
    """Measure a log of so many entries."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, consortium = Path(scratch), found(MEMBERS)
        leaves = (leaf for part in (consortium.begin, consortium.rounds(count)) for leaf in part)
        publish(folder / "log", islice(leaves, count))
        fill(folder, consortium, count)
        _bill(folder)
        began = time.monotonic()
        with serving_ledger(folder) as (process, ledger):
            start_s = time.monotonic() - began
            line = http.client.HTTPConnection("127.0.0.1", int(ledger.url.rpartition(":")[2]), timeout=600)
            tables_s, busy_s = _until_there(line, f"/bills/{PERIOD}/receipts")
            first_s = _took_s(line, "/overview?against=kwh")
            found_, cpu_ms = _paged(line, process, count)
    every = [each for taken in found_.values() for each in taken]
    by_page = {name: _p95_ms(taken) for name, taken in found_.items()}
    return {
        "entries": count,
        "start_s": start_s,
        "tables_s": tables_s,
        "busy_worst_ms": 1e3 * busy_s,
        "first_s": first_s,
        "page_p95_ms": _p95_ms(every),
        "page_worst_p95_ms": max(by_page.values()),
        "page_worst_cpu_ms": max(cpu_ms.values()),
        "bill_cpu_ms": cpu_ms["bill"],
        **{f"{name}_p95_ms": took for name, took in by_page.items()},
    }


def _paged(
    line: http.client.HTTPConnection, process: psutil.Process, count: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """By page: seconds of each request, and CPU-ms of the ledger for one, on average."""
    draw, taken, cpu_ms = random.Random(1), dict[str, list[float]](), dict[str, float]()
    for name, path in PAGES.items():
        before = cpu_s(process)
        taken[name] = [_took_s(line, path(draw, count)) for _ in range(TIMES)]
        cpu_ms[name] = 1e3 * (cpu_s(process) - before) / TIMES
    return taken, cpu_ms


def _bill(folder: Path) -> None:
    """Bill all that the log of this folder holds, which no ledger serves now."""
    write_log_key(folder)
    log = open_log(folder)
    try:
        log.append(statement(log.books, PERIOD, key(f"{CONSORTIUM}/admin"), None))
    finally:
        log.close()


def _until_there(line: http.client.HTTPConnection, path: str) -> tuple[float, float]:
    """Seconds until it is answered, and until the slowest answer that told us to come again, which we do."""
    began, busy_s = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        if _status(line, path) == 200:
            return asked - began, busy_s
        busy_s = max(busy_s, time.perf_counter() - asked)
        time.sleep(0.5)


def _took_s(line: http.client.HTTPConnection, path: str) -> float:
    began = time.perf_counter()
    status = _status(line, path)
    assert status == 200, (path, status)
    return time.perf_counter() - began


def _status(line: http.client.HTTPConnection, path: str) -> int:
    line.request("GET", path)
    reply = line.getresponse()
    reply.read()
    return reply.status


def _p95_ms(taken: list[float]) -> float:
    return 1e3 * sorted(taken)[int(0.95 * (len(taken) - 1))]


if __name__ == "__main__":
    report("pages", figures(), MEANING)
