"""Every number that the README or the experiments page claims: a ratio to a limit, or to a peer in the same run.

`python -m bench.NAME [--json]` measures one thing and ends in one line of JSON; `python -m bench` prints them all as
a table. This machine's speed drifts, so CPU time is measured, the median of several runs is taken, and what matters
are ratios.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Figures = Mapping[str, float]


def cpu_us(work: Callable[[], object], times: int, runs: int = 7) -> float:
    """Median CPU time of one call, in microseconds, over `runs` runs of `times` calls."""
    measured = []
    for _ in range(runs):
        started = time.process_time()
        for _ in range(times):
            work()
        measured.append((time.process_time() - started) / times)
    return 1e6 * statistics.median(measured)


def memory(name: str, pid: int | str = "self") -> int:
    """A number of bytes from the status of a process (proc(5)): VmRSS, what it has; VmHWM, the most that it had."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def most_memory(work: Callable[[], object], pid: int | str = "self") -> int:
    """The most memory of a process while this is done, beyond what it had before, in bytes."""
    before = memory("VmRSS", pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # Forget the most so far (proc(5)).
    work()
    return memory("VmHWM", pid) - before


def report(name: str, figures: Figures, meaning: Mapping[str, str]) -> None:
    """Print the figures for a reader, and as the last line for a program."""
    if "--json" not in sys.argv:
        for figure, value in figures.items():
            print(f"{name:11}{figure:24}{value:10.4g}  {meaning[figure]}")
    print(json.dumps({figure: round(value, 6) for figure, value in figures.items()}))
