"""What training used, measured from outside the process that trains."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import psutil

from client.energy import Energy


@dataclass(frozen=True, slots=True)
class Usage:
    """From the start of a task until it was read."""

    wall_ms: int
    cpu_ms: int
    started_ms: int  # Unix time.
    ended_ms: int
    energy_mj: int = 0
    energy_method: str = "none"
    landlock: int = 0  # The version that kept it in (client/confine.py); 0: none did.
    offline: bool = False  # Whether it was kept from the network.
    memory_bytes: int = 0  # The most that it took at a time, with its children; 0: nobody looked.

    def plus(self, more: "Usage") -> "Usage":
        """This, and what was used later. Energy is known if it was known of both in the same way; what kept
        it in is what kept in both.
        """
        known = self.energy_method == more.energy_method
        return Usage(
            self.wall_ms + more.wall_ms,
            self.cpu_ms + more.cpu_ms,
            self.started_ms,
            more.ended_ms,
            self.energy_mj + more.energy_mj if known else 0,
            self.energy_method if known else "none",
            min(self.landlock, more.landlock),
            self.offline and more.offline,
            max(self.memory_bytes, more.memory_bytes),
        )


class Meter(Protocol):
    """Something that can be asked at any time what the task has used so far."""

    def read(self) -> Usage: ...


class _Clock:
    """Wall time by the monotonic clock; the Unix times are for people."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._started_ms = time.time_ns() // 1_000_000

    def usage(self, cpu_s: float) -> Usage:
        wall_ms = round(1000 * (time.monotonic() - self._started_s))
        return Usage(wall_ms, round(1000 * cpu_s), self._started_ms, self._started_ms + wall_ms)


class ProcessMeter:
    """CPU time of a process and of all its children, ended ones too, as the kernel counts it; energy and memory."""

    def __init__(
        self,
        pid: int,
        energy: Energy | None = None,
        landlock: int = 0,
        *,
        offline: bool = False,
        memory: Callable[[], int] = lambda: 0,
    ) -> None:
        """`memory` says how many bytes it took at the most so far: client/limits.py."""
        self._clock, self._energy, self._confined, self._memory = _Clock(), energy, (landlock, offline), memory
        self._process = psutil.Process(pid)
        self.before: Usage | None = None  # What the same work used before, in a process that has ended.

    def read(self) -> Usage:
        cpu_s = sum(_cpu_s(each) for each in (self._process, *self._process.children(recursive=True)))
        landlock, offline = self._confined
        usage = replace(self._clock.usage(cpu_s), landlock=landlock, offline=offline, memory_bytes=self._memory())
        if self._energy is not None:
            energy_mj, method = self._energy.used(usage.wall_ms)
            usage = replace(usage, energy_mj=energy_mj, energy_method=method)
        return self.before.plus(usage) if self.before is not None else usage


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    gone = times.children_user + times.children_system  # Of its children that ended and were waited for, and of theirs.
    return float(times.user + times.system + gone)


class ThreadMeter:
    """CPU time of one thread of this process: a simulated member is a thread. Linux and other POSIX systems."""

    def __init__(self, ident: int) -> None:
        self._clock = _Clock()
        self._cpu = time.pthread_getcpuclockid(ident)
        self._before_s = time.clock_gettime(self._cpu)

    def read(self) -> Usage:
        return self._clock.usage(time.clock_gettime(self._cpu) - self._before_s)
