"""Daemons as services: what systemd is told, the units that we print, and how daemons log."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from consortium.cli import main
from shared_models import service
from shared_models.processes import free_port

# Of 10; systemd's own scale. A unit without any of it has 9.6. A member's may make namespaces to keep its training in.
EXPOSURE = {"up": 2.2, "coordinate": 2.0, "serve": 2.0}


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Where systemd would listen."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(path)
        listening.settimeout(60)
        yield listening


@pytest.fixture
def parties(tmp_path):
    words = ("--member", "acme=1", "--ledger", f"http://127.0.0.1:{free_port()}", "--superlink", "127.0.0.1:9092")
    assert main(["found", str(tmp_path / "the parties"), *words]) == 0
    return tmp_path / "the parties"


def test_what_systemd_is_told_is_a_datagram_of_assignments(told):
    service.tell(READY="1", STATUS="it waits\nMAINPID=1")
    assert told.recv(100) == b"READY=1\nSTATUS=it waits MAINPID=1"


def test_an_abstract_socket_is_found_and_one_that_is_gone_keeps_nobody_from_working(monkeypatch):
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(f"\0consortium-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@consortium-test-{os.getpid()}")
        service.tell(WATCHDOG="1")
        assert listening.recv(100) == b"WATCHDOG=1"
    service.tell(WATCHDOG="1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    service.tell(WATCHDOG="1")


def ended(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def heard(told, *wanted: str) -> None:
    """Listen until each of these was said, in this order."""
    for each in wanted:
        while told.recv(1000).decode() != each:
            pass


def test_a_ledger_says_that_it_is_ready_that_it_lives_and_that_it_stops(told, parties):
    command = [
        sys.executable,
        "-m",
        "consortium",
        "serve",
        "--dir",
        str(parties / "ledger"),
        "--port",
        str(free_port()),
    ]
    with subprocess.Popen(command) as serving:
        heard(told, "READY=1", "WATCHDOG=1", "WATCHDOG=1")
        assert ended(serving) == -signal.SIGTERM  # Uvicorn's way: it ends in order, and then as it was asked to.
        heard(told, "STOPPING=1")


@pytest.mark.slow
def test_a_member_says_what_it_does_in_lines_of_json(told, parties, monkeypatch):
    monkeypatch.setenv("CONSORTIUM_LOG", "json")
    command = [sys.executable, "-m", "consortium", "up", "--home", str(parties / "acme")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as daemon:
        heard(told, "STATUS=waiting", "READY=1", "WATCHDOG=1", "WATCHDOG=1")
        assert ended(daemon) == 0
        heard(told, "STOPPING=1", "STATUS=stopped")
        lines = [json.loads(line) for line in daemon.stderr]
    assert [line["says"] for line in lines if line["from"] == "client.daemon"][:1] == ["waiting"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["at"])


LOGS = """
import logging, sys
from shared_models import service
service.log_to_stderr(["ours"])
logging.getLogger("ours").info("for %s", "you")
logging.getLogger("theirs").info("not for you")
try:
    raise ValueError("why")
except ValueError:
    logging.getLogger("ours").exception("it failed")
"""


def logged(**env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOGS], capture_output=True, text=True, check=True, env=os.environ | env
    )
    return done.stderr


def test_logs_are_plain_lines_or_json_as_who_runs_it_says():
    plain = logged(CONSORTIUM_LOG="").splitlines()
    assert plain[0].endswith(" for you")
    assert "not for you" not in "".join(plain)
    assert plain[-1] == "ValueError: why"
    first, last = (json.loads(line) for line in logged(CONSORTIUM_LOG="json").splitlines())
    assert (first["level"], first["from"], first["says"]) == ("info", "ours", "for you")
    assert (last["level"], last["says"], last["error"].splitlines()[-1]) == ("error", "it failed", "ValueError: why")


def test_a_terminal_shows_colours_unless_they_are_unwanted():
    def shown(**env: str) -> bytes:
        ours, theirs = os.openpty()
        with os.fdopen(theirs, "wb") as terminal:
            subprocess.run([sys.executable, "-c", LOGS], stderr=terminal, check=True, env=os.environ | env)
        with os.fdopen(ours, "rb", buffering=0) as screen:
            return screen.read(4096)

    assert b"\033[31m" in shown(NO_COLOR="")
    assert b"\033[" not in shown(NO_COLOR="1")


@pytest.mark.parametrize(
    "words", [("up", "--home", "acme"), ("coordinate", "--home", "coordinator"), ("serve", "--dir", "ledger")]
)
def test_systemd_finds_no_fault_with_a_unit_and_little_that_it_exposes(parties, capsys, tmp_path, words):
    if not shutil.which("systemd-analyze") and not os.environ.get("CONSORTIUM_REQUIRE_SYSTEMD"):
        pytest.skip("needs systemd-analyze")
    assert main([*words[:2], str(parties / words[2]), "--unit"]) == 0
    unit = tmp_path / "consortium.service"
    printed = capsys.readouterr().out
    unit.write_text(printed[printed.index("[Unit]") :])
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert float(re.search(r"exposure level for .*: ([0-9.]+)", said)[1]) <= EXPOSURE[words[0]]
    assert f'ReadWritePaths="{parties / words[2]}"' in unit.read_text()
    assert f"RestrictNamespaces={'user net' if words[0] == 'up' else 'yes'}\n" in unit.read_text()


def test_a_unit_takes_paths_as_they_are(tmp_path):
    folder = tmp_path / "a 50% share"
    folder.mkdir()
    unit = service.unit(["up", "--home", str(folder)], what="Consortium member acme", writes=[folder], watchdog_s=60)
    assert f'--home "{tmp_path}/a 50%% share"' in unit
    assert f'ReadWritePaths="{tmp_path}/a 50%% share"' in unit
