"""Programs started by us: each in a process group of its own, and the whole group ended with it."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_S = 10.0

FLOWER = {  # Flower speaks to nobody but us, and installs nothing.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def program(name: str) -> str:
    """A program that was installed with this interpreter."""
    return str(Path(sys.executable).parent / name)


def start(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, cores: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, with this environment only; what it prints goes to the log.

    It and what it starts run on the first so many `cores` of those that this thread may use.
    """
    with open(log, "ab") as output, on_cores(cores):
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextmanager
def on_cores(cores: int | None) -> Iterator[None]:
    """What this thread starts meanwhile runs on the first so many of those that it may use: sched_setaffinity(2).

    Linux only; elsewhere nothing, and nothing without a number.
    """
    if cores is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def end(process: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """End a program that `start` started, and all of its group: asked first, unless it is given no time; then not."""
    if grace_s:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def lives(pid: int) -> bool:
    """Whether there is such a process on this machine, of whomever."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def scrubbed(**more: str) -> dict[str, str]:
    """An environment that holds nothing of ours but the path to programs, and what is named here."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "LANG": "C.UTF-8", **FLOWER, **more}


def free_port() -> int:
    """A port on loopback that nobody listens on now, and that no system gives to who asks for any.

    Those are the ports that outgoing connections have (from 32768 on, ip(7)): one of them may be taken again before
    who asked here has it.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
