"""Keep a program from every file that is not its own: Linux's Landlock (landlock(7)), which needs no other user.

    python -m client.confine {"see": [...], "read": [...], "write": [...]} COMMAND...

Who starts code of others runs it under this. It binds the process and all that it starts, for ever: they may list what
is under `see`, read and run what is under `read`, change what is under `write`, and nothing else. They may neither
signal, nor trace, nor look into the memory of a process that is not one of them. The process that starts it takes it
along when it ends.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# <linux/landlock.h>; the numbers of system calls are the same on every architecture since Linux 5.13.
_CREATE, _ADD, _RESTRICT, _VERSION, _PATH_BENEATH = 444, 445, 446, 1, 1
_DEATH_SIGNAL, _NO_NEW_PRIVS = 1, 38  # <linux/prctl.h>
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


def version() -> int:
    """Which version of Landlock this kernel has; 0 where it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))))


def word(landlock: int) -> str:
    """How a receipt says that this version confined its training; `none` for 0."""
    return f"landlock-{landlock}" if landlock else "none"


def confined(command: Sequence[str], *, read: Iterable[Path], write: Iterable[Path]) -> list[str]:
    """This command, kept to the system's files, this interpreter's, and these; as it is, where there is no Landlock.

    Paths that are not there are left out: what is made later lies under one that is.
    """
    if version() == 0:
        return list(command)
    code = Path(__file__).parent.parent
    ours = [code / name for name in ("client", "consortium", "ledger", "server", "shared_models", "pyproject.toml")]
    kept = {
        "see": [path for path in sys.path if path],  # Python lists every folder that it imports from.
        "read": [*SYSTEM, sys.prefix, sys.base_prefix, *map(str, [*ours, *read])],
        "write": [*DEVICES, *map(str, write)],
    }
    # -s, -P: not from the folder that the program before could write in, its home, is anything imported here.
    return [sys.executable, "-s", "-P", "-m", "client.confine", json.dumps(kept), *command]


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
    _called(libc.prctl(_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0))
    if os.getppid() != parent:  # It has ended meanwhile.
        os.kill(os.getpid(), signal.SIGKILL)
    _called(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _called(libc.syscall(_RESTRICT, rules, ctypes.c_uint(0)))
    os.close(rules)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # No copy of its memory on a disk.


def _called(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    confine(**json.loads(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
