"""How much of this machine training may have: memory of all its processes together, looked at from outside.

Counted is what they took for themselves (RssAnon and RssShmem of Linux's /proc/PID/status, proc(5)): not libraries, nor
a text that is read where it lies, for which the kernel gives memory only while nobody needs it. It is a watch and no
wall: between two looks they may take more. Who has no control group of his own, as without root, has no better one:
RLIMIT_AS and RLIMIT_DATA count what is only set aside, of which PyTorch sets aside much, and each process by itself.
"""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

LOOK_S = 0.25
GRACE_S = 10.0
TAKEN = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


def taken(pid: int, proc: Path = Path("/proc")) -> int:
    """Bytes that a process and all its children took; 0 once it has ended."""
    found, waiting = 0, [pid]
    while waiting:
        there = proc / str(waiting.pop())
        try:
            found += 1024 * sum(int(each) for each in TAKEN.findall((there / "status").read_bytes()))
            for task in (there / "task").iterdir():
                waiting += map(int, (task / "children").read_bytes().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # It, or one of its threads, has ended meanwhile.
    return found


class Watch:
    """Looks at a process until it has ended. One that takes more than it may is told so when it next asks (`check`)."""

    def __init__(self, pid: int, most: int | None, above: Callable[[int], None], end: Callable[[], None]) -> None:
        """`above` is told once how many bytes it took; `end` ends it, if it has not stopped by itself in `GRACE_S`, or
        takes a quarter more than it may. Both are called in the watch's own thread. None: it may take what there is.
        """
        self.above = 0  # How many bytes it took that was more than it may.
        self._peak = 0
        self._pid, self._most, self._told, self._end = pid, most, above, end
        self._over = threading.Event()
        threading.Thread(target=self._look, name=f"memory of {pid}", daemon=True).start()

    def peak(self) -> int:
        """The most bytes that it took at a time, as far as it was looked at: now, too."""
        self._peak = max(self._peak, taken(self._pid))
        return self._peak

    def stop(self) -> None:
        """Look no more: the process has ended, and its number may become another's."""
        self._over.set()

    def _look(self) -> None:
        until = float("inf")
        while not self._over.wait(LOOK_S):
            found = taken(self._pid)
            self._peak = max(self._peak, found)
            if self._most is None:
                continue
            if found > self._most and not self.above:
                self.above, until = found, time.monotonic() + GRACE_S
                self._told(found)
            if 4 * found > 5 * self._most or time.monotonic() > until:
                self._end()
                return
