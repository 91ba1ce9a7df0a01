"""The processes of a consortium on one machine, and that none of them is left."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psutil

from shared_models import processes
from shared_models.records.refusals import Refusal, Refused


class Running:
    """The processes of a consortium on one machine, each `consortium COMMAND` with a log of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *command: str, name: str, checkout: Path | None = None) -> None:
        """Start one of them; from another checkout of this code, if one is named."""
        self._all[name] = processes.start(
            [sys.executable, "-m", "consortium", *command],
            env=processes.scrubbed(HOME=str(self._folder)),
            cwd=checkout or self._folder,
            log=self._folder / "logs" / f"{name}.log",
        )

    def check(self) -> None:
        """Raises `Refused(FAILED)` if one of them has ended."""
        for name in self._all:
            if self._all[name].poll() is not None:
                self._fail(name)

    def done(self, name: str) -> bool:
        """Whether this one has ended, and well. Raises `Refused(FAILED)` if it, or another one, has ended otherwise."""
        if self._all[name].poll() != 0:
            self.check()
            return False
        del self._all[name]
        return True

    def ended(self, name: str) -> int:
        """Wait until this one has ended by itself, however; its exit code."""
        return self._all.pop(name).wait()

    def _fail(self, name: str) -> NoReturn:
        log, code = self._folder / "logs" / f"{name}.log", self._all[name].returncode
        last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
        raise Refused(Refusal.FAILED, f"{name} ended with code {code}: {last[:300]} (see {log})")

    def end(self) -> None:
        """End them all and whatever they started, members first, the ledger last. A second Ctrl-C does not stop it."""
        before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
        started = psutil.Process().children(recursive=True)
        asked = [process for name, process in reversed(self._all.items())]
        for process in asked:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in asked:
            processes.end(process)
        self._all.clear()
        for each in psutil.wait_procs(started, timeout=3)[1]:
            each.kill()
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(self, name: str) -> None:
        """Stop one of them, as its operator would: it is asked to end, and ends what it started."""
        processes.end(self._all.pop(name))

    def kill(self, name: str) -> None:
        """Kill one of them, and its children, as a power cut would."""
        process = self._all.pop(name)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Processes for as long as the context lasts; none is left after it, however it ends."""
    started = Running(folder)
    try:
        yield started
    except KeyboardInterrupt:
        print("\nInterrupted; every process that was started is ended.", file=sys.stderr)
        raise
    finally:
        started.end()
