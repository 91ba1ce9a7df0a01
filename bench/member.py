"""What a member's node costs beside training, against its limits: joining, memory, idle time, each round's overhead.

`python -m bench.member [--json]`. Real processes on one machine: ledger, coordinator, two members, and a third that
joins by an invite. Wall times are of a machine that does nothing else; each is also given as a share of its limit.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil

from bench import Figures, memory, report
from client import speed
from client.charter import vote
from client.home import Home
from client.invites import admit, invite
from consortium.found import PRICE, Founded, found
from consortium.running import Running, running
from shared_models import processes
from shared_models.ledger_http import LedgerHttp
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt, RoundOpen

IDLE_S, ROUNDS, ROUND_S = 60.0, 4, 60.0
LIMITS = {"join_s": 30.0, "daemon_rss_mb": 120.0, "daemon_cpu_share": 0.02, "round_overhead_s": 10.0}
LIMITS["metering_share"] = 0.005
MEANING = {
    "join_s": "seconds of `join`, then, the votes being in, of `join`, which calibrates, and `up` until it is online",
    "calibrated_over_rounds": "tokens/s as measured when joining / those of acme's rounds, beside birch's",
    "daemon_rss_mb": "memory of an idle daemon, MB",
    "supernode_rss_mb": "memory of Flower's SuperNode beside it, MB",
    "daemon_cpu_share": "CPU time of an idle daemon / wall time",
    "supernode_cpu_share": "the same of the SuperNode",
    "round_overhead_s": "seconds of a round outside the slowest member's training",
    "round_begin_s": "of these, from the round's opening until that member trains",
    "round_end_s": "of these, from the end of its training until the next round opens",
    "metering_share": "CPU time of a daemon in a round (metering, checking, signing) / a round of 60 s",
    **{f"{name}_of_limit": f"{name} / {limit:g}" for name, limit in LIMITS.items()},
}


def figures() -> Figures:
    """Measure one small consortium, in a folder of its own."""
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        (folder / "logs").mkdir()
        url, superlink = (f"{scheme}127.0.0.1:{processes.free_port()}" for scheme in ("http://", ""))
        founded = found(folder, {"acme": 1, "birch": 1}, ledger_url=url, superlink=superlink, price=PRICE)
        with running(folder) as started:
            started.start("serve", "--dir", str(founded.ledger), "--port", url.rpartition(":")[2], name="ledger")
            started.start("coordinate", "--home", str(founded.coordinator.path), name="coordinator")
            LedgerHttp(url, patience_s=30).append(founded.charter)
            for name in founded.members:
                started.start("up", "--home", str(founded.member(name).path), name=name)
            _wait(lambda: all(_online(founded.member(name)) for name in founded.members))
            found_ = _idle(founded.member("acme")) | _rounds(founded, started, url) | _join(founded, started)
        return found_ | {f"{name}_of_limit": found_[name] / limit for name, limit in LIMITS.items()}


def _wait(until: Callable[[], bool]) -> None:
    for _ in range(6000):
        if until():
            return
        time.sleep(0.02)
    raise TimeoutError


def _online(home: Home) -> bool:
    """Whether the SuperLink has given its node a number."""
    log = home.path / "supernode.log"
    return log.is_file() and "SuperNode ID:" in log.read_text(errors="replace")


def _processes(home: Home) -> tuple[psutil.Process, list[psutil.Process]]:
    """The daemon, and what runs under it."""
    (daemon,) = (
        each
        for each in psutil.Process().children()
        if each.cmdline()[2:] == ["consortium", "up", "--home", str(home.path)]
    )
    return daemon, daemon.children(recursive=True)


def _cpu_s(*those: psutil.Process) -> float:
    return sum(each.cpu_times().user + each.cpu_times().system for each in those)


def _idle(home: Home) -> dict[str, float]:
    daemon, others = _processes(home)
    before, before_others, began = _cpu_s(daemon), _cpu_s(*others), time.monotonic()
    time.sleep(IDLE_S)
    took = time.monotonic() - began
    return {
        "daemon_rss_mb": memory("VmRSS", daemon.pid) / 1e6,
        "supernode_rss_mb": sum(memory("VmRSS", each.pid) for each in others) / 1e6,
        "daemon_cpu_share": (_cpu_s(daemon) - before) / took,
        "supernode_cpu_share": (_cpu_s(*others) - before_others) / took,
    }


def _rounds(founded: Founded, started: Running, url: str) -> dict[str, float]:
    """The parts of a round of the small recipe, from the times that the log states; not of the first one."""
    daemon, _ = _processes(founded.member("acme"))
    before = _cpu_s(daemon)
    started.start("run", "r1", "--home", str(founded.coordinator.path), "--rounds", str(ROUNDS), name="run")
    _wait(lambda: started.done("run"))
    cpu_s = (_cpu_s(daemon) - before) / ROUNDS
    records = [entries.peek(leaf) for leaf in fetch(reader(url)).leaves]
    opened = {each.round: each.opened_ms for each in records if isinstance(each, RoundOpen)}
    parts = []
    for number, following in pairwise(sorted(opened)):
        work = [each for each in records if isinstance(each, Receipt) and each.round == number]
        slowest = max(work, key=lambda each: each.ended_ms)
        begin, end = slowest.started_ms - opened[number], opened[following] - slowest.ended_ms
        parts.append((begin / 1000, end / 1000))
    begins, ends = zip(*parts[1:], strict=True)  # What the first one takes is also Flower's, for the run.
    begin_s, end_s = sum(begins) / len(begins), sum(ends) / len(ends)
    return {
        "round_overhead_s": begin_s + end_s,
        "round_begin_s": begin_s,
        "round_end_s": end_s,
        "metering_share": cpu_s / ROUND_S,
    }


def _join(founded: Founded, started: Running) -> dict[str, float]:
    acme, guest = founded.member("acme"), Home(founded.folder / "cedar")
    ticket = invite(acme, "cedar", 1, 1).text()
    command = [sys.executable, "-m", "consortium", "join", ticket, "--dir", str(guest.path), "--yes"]
    began = time.monotonic()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 6  # The members vote.
    asked_s = time.monotonic() - began
    hashed = admit(acme, "cedar", lambda _: True).hash
    for name in founded.members:
        vote(founded.member(name).path, hashed, "yes")
    began = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    started.start("up", "--home", str(guest.path), name="cedar")
    _wait(lambda: _online(guest))
    joined_s, measured = asked_s + time.monotonic() - began, speed.kept(guest)
    assert measured is not None
    worked = founded.member("acme").receipts()
    in_rounds = sum(each.tokens for each in worked) / sum(each.busy_ms for each in worked) * 1000
    return {"join_s": joined_s, "calibrated_over_rounds": measured.tokens_per_s / in_rounds}


if __name__ == "__main__":
    report("member", figures(), MEANING)
