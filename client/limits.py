"""How much of this machine training may have: memory of all its processes together, and a share of the time.

Of memory is counted what they took for themselves (RssAnon and RssShmem of Linux's /proc/PID/status, proc(5)): not
libraries, nor a text that is read where it lies, for which the kernel gives memory only while nobody needs it. It is a
watch and no wall: between two looks they may take more. Who has no control group of his own, as without root, has no
better one: RLIMIT_AS and RLIMIT_DATA count what is only set aside, of which PyTorch sets aside much, and each process
by itself.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

LOOK_S = 0.25
TURN_S = 4.0
GRACE_S = 10.0
TAKEN = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


def taken(pid: int) -> int:
    """Bytes that a process and all its children took; 0 once it has ended."""
    found = 0
    for each in _family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{each}/status").read_bytes()
            found += 1024 * sum(int(size) for size in TAKEN.findall(status))
    return found


def _family(pid: int) -> Iterator[int]:
    """This process and all its children, and theirs; each before its own."""
    waiting = [pid]
    while waiting:
        yield (each := waiting.pop())
        with suppress(FileNotFoundError, ProcessLookupError):  # It, or one of its threads, has ended meanwhile.
            for task in Path(f"/proc/{each}/task").iterdir():
                waiting += map(int, (task / "children").read_bytes().split())


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


class Turns:
    """Lets a process and all its children work a share of the time: of every `TURN_S` that much, and then they stand.

    They cannot refuse it: SIGSTOP is the kernel's. What they have handed to a GPU before it, a step at the most, it
    still computes. Their memory, on the GPU too, stays taken.
    """

    def __init__(self, pid: int, share: Fraction) -> None:
        self._pid, self._works_s = pid, float(share) * TURN_S
        self._over = threading.Event()
        if share < 1:
            threading.Thread(target=self._take, name=f"turns of {pid}", daemon=True).start()

    def stop(self) -> None:
        """No more turns: it works on, or has ended."""
        self._over.set()

    def _take(self) -> None:
        while not self._over.wait(self._works_s):
            stopped = [each for each in _family(self._pid) if _signalled(each, signal.SIGSTOP)]
            self._over.wait(TURN_S - self._works_s)
            for each in stopped:
                _signalled(each, signal.SIGCONT)


def _signalled(pid: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
