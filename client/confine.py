"""Keep a program from every file that is not its own, and from the network, by what Linux grants to any user.

    python -m client.confine {"see": [...], "read": [...], "write": [...]} COMMAND...

Who starts code of others runs it under this. It binds the process and all that it starts, for ever: they may list what
is under `see`, read and run what is under `read`, change what is under `write`, and nothing else (Landlock).
They may neither signal, nor trace, nor look into the memory of a process that is not one of them. With a `way` they are
in a network of their own (network_namespaces(7)) in which there is nothing but they, and one port that leads out, to
where the Unix socket leads (shared_models/relay.py). The process that starts it takes it along when it ends.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from shared_models.relay import Relay, through

# <linux/landlock.h>; the numbers of system calls are the same on every architecture since Linux 5.13.
_CREATE, _ADD, _RESTRICT, _VERSION, _PATH_BENEATH = 444, 445, 446, 1, 1
_DEATH_SIGNAL, _SECUREBITS, _NO_NEW_PRIVS = 1, 28, 38  # <linux/prctl.h>
_NOROOT = 0b11  # <linux/securebits.h>: root is nobody special to what is started, and that stays so.
_NEWUSER, _NEWNET = 0x1000_0000, 0x4000_0000  # <linux/sched.h>
_SIOCSIFFLAGS, _UP = 0x8914, 1  # <linux/sockios.h>, <linux/if.h>
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
# Rights over files, and whether signals and abstract sockets are kept in, by the version that brought them.
_FILE_RIGHTS = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15, 4: 1 << 15, 5: 1 << 16}
_SCOPED = 0b11  # From version 6 on.
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15  # The others are of folders.

_ETC = """ssl ca-certificates hosts host.conf resolv.conf nsswitch.conf gai.conf passwd group ld.so.cache ld.so.conf
    ld.so.conf.d localtime alternatives mime.types protocols"""
_PROC = "cpuinfo meminfo stat loadavg uptime filesystems version sys driver self"  # Nothing of other processes.
SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/sys", "/run/nvidia-persistenced"),
    *(f"/etc/{name}" for name in _ETC.split()),
    *(
        f"/etc/python{which}" for which in ("3", f"3.{sys.version_info.minor}")
    ),  # Debian's Python has parts of it there.
    *(f"/proc/{name}" for name in _PROC.split()),
)
DEVICES = ("/dev",)  # Null, random numbers, shared memory, GPUs: whose they are, their own modes say.

# -s, -P: not from the folder that the program before could write in, its home, is anything imported here.
_SELF = (sys.executable, "-s", "-P", "-m", "client.confine")


def version() -> int:
    """Which version of Landlock this kernel has; 0 where it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))))


def offline() -> bool:
    """Whether a process can be kept from the network here: this system lets its user make namespaces.

    Not without Landlock: it could look into the processes outside, and so get out.
    """
    return version() > 0 and _lets_leave_network()


@cache
def _lets_leave_network() -> bool:
    return subprocess.run([*_SELF, "null"], capture_output=True, timeout=60, check=False).returncode == 0


def word(landlock: int, offline: bool) -> str:
    """How a receipt says what confined its training: this version of Landlock, or 0, and a network of its own."""
    return f"landlock-{landlock}{'+netns' if offline else ''}" if landlock else "none"


def confined(
    command: Sequence[str], *, read: Iterable[Path], write: Iterable[Path], way: tuple[int, Path] | None = None
) -> list[str]:
    """This command, kept to the system's files, this interpreter's, and these; as it is, where there is no Landlock.

    With a `way`, a port of 127.0.0.1 and the Unix socket that leads from there out, it is kept from the network too,
    where `offline` says so. Paths that are not there are left out: what is made later lies under one that is.
    """
    if version() == 0:
        return list(command)
    code = Path(__file__).parent.parent
    ours = [code / name for name in ("client", "consortium", "ledger", "server", "shared_models", "pyproject.toml")]
    kept: dict[str, Any] = {
        "see": [path for path in sys.path if path],  # Python lists every folder that it imports from.
        "read": [*SYSTEM, sys.prefix, sys.base_prefix, *map(str, [*ours, *read])],
        "write": [*DEVICES, *map(str, write)],
    }
    if way is not None and offline():
        kept["way"] = (way[0], str(way[1]))
    return [*_SELF, json.dumps(kept), *command]


def confine(*, see: Iterable[str], read: Iterable[str], write: Iterable[str]) -> None:
    """Confine this process. Raises OSError if the kernel does not do it."""
    has, parent = version(), os.getppid()
    all_rights = _FILE_RIGHTS[min(has, 5)] - 1
    may_read = _EXECUTE | _READ_FILE | _READ_DIR
    attributes = struct.pack("QQQ", all_rights, 0, _SCOPED)[: 8 if has < 4 else 16 if has < 6 else 24]
    libc = _libc()
    rules = _called(libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)))
    for paths, rights in ((see, _READ_DIR), (read, may_read), (write, all_rights)):
        for path in paths:
            try:
                at = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            given = rights if os.path.isdir(path) else rights & _OF_FILES
            if given:
                rule = struct.pack("=Qi", given & all_rights, at)
                _called(libc.syscall(_ADD, rules, _PATH_BENEATH, rule, ctypes.c_uint(0)))
            os.close(at)
    _die_with(parent)
    _called(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _called(libc.syscall(_RESTRICT, rules, ctypes.c_uint(0)))
    os.close(rules)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # No copy of its memory on a disk.


def leave_network() -> None:
    """Be in a network of one's own, of which only the loopback is there. Raises OSError if the kernel does not do it.

    It takes a user namespace, in which this user is itself, and has no privilege that it had not. For root that means:
    a file of another user is read only if anybody may.
    """
    uid, gid = os.geteuid(), os.getegid()
    _called(_libc().unshare(_NEWUSER | _NEWNET))
    for name, said in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(said)
    with socket.socket() as any_:
        fcntl.ioctl(any_, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP))
    _called(_libc().prctl(_SECUREBITS, _NOROOT, 0, 0, 0))


def _lead_out(listening: socket.socket, way: Path) -> None:
    """Start a process that carries what comes in there out by this way, and ends with this one."""
    host, port = listening.getsockname()
    parent = os.getpid()
    if os.fork() == 0:
        _die_with(parent)
        Relay(listening, lambda _: through(way, host, port)).serve()
        os._exit(0)


def _die_with(parent: int) -> None:
    _called(_libc().prctl(_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0))
    if os.getppid() != parent:  # It has ended meanwhile.
        os.kill(os.getpid(), signal.SIGKILL)


def _called(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"not confined: {os.strerror(number)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _main(kept: dict[str, Any] | None, command: list[str]) -> NoReturn:
    """Become the command, confined; without anything to keep, say by the exit code whether `leave_network` can be."""
    if kept is None:
        leave_network()
        sys.exit()
    if (way := kept.pop("way", None)) is not None:
        leave_network()
        listening = socket.socket()
        listening.bind(("127.0.0.1", way[0]))
        listening.listen()
    confine(**kept)
    if way is not None:
        _lead_out(listening, Path(way[1]))
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), sys.argv[2:])
