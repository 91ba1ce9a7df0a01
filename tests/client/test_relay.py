"""The way out: what is let through comes whole, both ways, and what is not ends at once."""

import socket
import socketserver
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from shared_models import relay
from shared_models.relay import Relay, Way, through


@contextmanager
def server(handle):
    """A server on loopback whose connections this handles, given (rfile, wfile); its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            handle(self.rfile, self.wfile)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_address[1]
        serving.shutdown()


def echo(rfile, wfile) -> None:
    wfile.write(rfile.read())


@pytest.fixture
def folder():
    """One whose path a Unix socket can have."""
    with tempfile.TemporaryDirectory(prefix="relay-") as found:
        yield Path(found)


@contextmanager
def way(folder: Path, *ports: int):
    """A way to these ports of loopback."""
    found = Way(folder / "way", lambda host, port: host == "127.0.0.1" and port in ports)
    try:
        yield found
    finally:
        found.close()


def said(line: socket.socket, *parts: bytes) -> bytes:
    """What comes back, once this was said and nothing more is."""
    with line:
        for part in parts:
            line.sendall(part)
        line.shutdown(socket.SHUT_WR)
        return line.makefile("rb").read()


def test_what_is_said_comes_whole_and_what_is_answered_too_after_an_end_was_said(folder):
    whole = bytes(range(256)) * (5 << 12)  # 5 MB.
    with server(echo) as port, way(folder, port) as found:
        assert said(through(found.path, "127.0.0.1", port), whole) == whole
        assert found.path.stat().st_mode & 0o077 == 0
    assert not found.path.exists()


def test_who_is_not_let_out_is_told_by_the_end_and_nobody_is_asked(folder):
    asked = []
    with (
        server(echo) as port,
        server(lambda rfile, _: asked.append(rfile.read())) as other,
        way(folder, port) as found,
    ):
        for host, to in (("127.0.0.1", other), ("localhost", port), ("127.0.0.1", 1), ("", port)):
            with suppress(BrokenPipeError, ConnectionResetError):  # It was ended before it had said it.
                assert said(through(found.path, host, to), b"hello?") == b""
    assert asked == []


@pytest.mark.parametrize("line", [b"\n", b"127.0.0.1\n", b"127.0.0.1:\n", b"127.0.0.1:x\n", b":\n", b"x" * 400, b""])
def test_a_line_that_names_no_address_ends_it_and_the_way_goes_on(folder, line):
    with server(echo) as port, way(folder, port) as found:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(found.path))
            one.settimeout(5)
            try:
                one.sendall(line)
                one.shutdown(socket.SHUT_WR)
                assert one.recv(1) == b""
            except (BrokenPipeError, ConnectionResetError):
                pass
        assert said(through(found.path, "127.0.0.1", port), b"still there") == b"still there"


def test_who_says_nothing_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(relay, "SILENT_S", 0.2)
    with server(echo) as port, way(folder, port) as found, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(found.path))
        silent.settimeout(5)
        assert silent.recv(1) == b""


def test_an_end_that_is_gone_ends_the_other(folder):
    ended = threading.Event()

    def waits(rfile, _) -> None:
        rfile.read()
        ended.set()

    with server(waits) as port, way(folder, port) as found:
        through(found.path, "127.0.0.1", port).close()
        assert ended.wait(5)
    with server(lambda *_: None) as port, way(folder, port) as found:
        line = through(found.path, "127.0.0.1", port)
        line.settimeout(5)
        assert line.recv(1) == b""
        line.close()


def test_of_many_at_once_the_next_one_is_closed_and_room_comes_back(folder, monkeypatch):
    monkeypatch.setattr(relay, "MOST_AT_ONCE", 3)
    with server(echo) as port, way(folder, port) as found, ExitStack() as stack:
        held = [stack.enter_context(through(found.path, "127.0.0.1", port)) for _ in range(3)]
        for each in held:  # Each is under way.
            each.sendall(b"x")
        until = time.monotonic() + 60
        while True:
            try:
                if said(through(found.path, "127.0.0.1", port), b"one more") == b"":
                    break
            except (BrokenPipeError, ConnectionResetError):
                break
            assert time.monotonic() < until
        assert said(held.pop(), b"y") == b"xy"
        while True:
            try:
                if said(through(found.path, "127.0.0.1", port), b"now") == b"now":
                    break
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert time.monotonic() < until


def test_a_relay_that_is_closed_lets_nobody_in(folder):
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with server(echo) as behind:
        found = Relay(listening, lambda _: socket.create_connection(("127.0.0.1", behind)))
        found.start()
        assert said(socket.create_connection(("127.0.0.1", port)), b"in") == b"in"
        found.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
