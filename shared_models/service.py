"""How a daemon of ours is a service: what it tells systemd, how it logs, and the unit by which it is one."""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

STATIC = """\
# It may do what is named here. Everything else is taken from it: systemd-analyze security shows what is left.
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateUsers=yes
PrivateMounts=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
"""


def tell(**state: str) -> None:
    """Tell systemd how this process is, if it started it: sd_notify(3), such as READY="1" or STATUS="it waits"."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    said = "\n".join(f"{name}={' '.join(value.split())}" for name, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way, suppress(OSError):  # Nobody works for being watched.
        way.connect("\0" + address[1:] if address.startswith("@") else address)
        way.send(said.encode())


class _Lines(logging.Formatter):
    """One line of JSON for each event: `at` (RFC 3339, UTC), `level`, `from`, `says`, and `error` where one was."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line = {"at": at, "level": record.levelname.lower(), "from": record.name, "says": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Coloured(logging.Formatter):
    """For people: warnings in yellow, errors in red."""

    def format(self, record: logging.LogRecord) -> str:
        colour = 31 if record.levelno >= logging.ERROR else 33 if record.levelno >= logging.WARNING else 0
        line = super().format(record)
        return f"\033[{colour}m{line}\033[0m" if colour else line


def log_to_stderr(names: Iterable[str]) -> None:
    """Log what these loggers say, for whoever reads: JSON with CONSORTIUM_LOG=json, colours on a terminal (unless
    NO_COLOR is set: no-color.org), else plain lines.
    """
    handler, plain = logging.StreamHandler(), "%(asctime)s %(message)s"
    if os.environ.get("CONSORTIUM_LOG") == "json":
        handler.setFormatter(_Lines())
    elif sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        handler.setFormatter(_Coloured(plain))
    else:
        handler.setFormatter(logging.Formatter(plain))
    logging.basicConfig(handlers=[handler])
    for name in names:
        logging.getLogger(name).setLevel(logging.INFO)


def unit(
    command: Sequence[str],
    *,
    what: str,
    writes: Sequence[Path],
    watchdog_s: int,
    devices: bool = False,
    namespaces: str = "yes",
) -> str:
    """A unit of systemd that runs this command as the owner of the first folder that it writes in.

    `what` it is, for people; without `devices` it sees no GPU; `namespaces` are those that it may make, as in
    `RestrictNamespaces`: `yes`, none. Nothing but the folders that it writes in can be changed by it. It is stopped by
    SIGTERM to the command alone, which ends what it started.
    """
    import pwd  # There is none on Windows, and no systemd.

    folders = [each.resolve() for each in writes]
    user = pwd.getpwuid(folders[0].stat().st_uid).pw_name
    line = " ".join(f'"{each}"' if " " in each else each for each in (*_program(), *command))
    lines = [
        "[Unit]",
        f"Description={what}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={line.replace('%', '%%')}",
        f"User={user}",
        "Environment=CONSORTIUM_LOG=json",
        "Restart=always",
        "RestartSec=5",
        f"WatchdogSec={watchdog_s}",
        "TimeoutStartSec=300",
        "TimeoutStopSec=60",
        "KillMode=mixed",
        f"ReadWritePaths={' '.join(_quoted(each) for each in folders)}",
        f"PrivateDevices={'no' if devices else 'yes'}",
        f"RestrictNamespaces={namespaces}",
        STATIC,
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    found = str(path).replace("%", "%%")
    return f'"{found}"' if " " in found else found


def _program() -> tuple[str, ...]:
    """How this very installation is called."""
    beside = Path(sys.executable).parent / "consortium"
    return (str(beside),) if beside.is_file() else (sys.executable, "-m", "consortium")
