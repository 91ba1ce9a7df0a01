"""The way out of a place that has no network: a Unix socket, behind which somebody else connects, to what he allows.

    HOST:PORT\\n    the first line of a connection; from then on what either end says, until both have ended

Confined training is in such a place (client/confine.py), and its daemon is the somebody.
"""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PIECE_BYTES = 1 << 18
LINE_BYTES = 300  # A host's name has 255 at most (RFC 1035).
SILENT_S = 10.0  # Whoever says no line for so long is not waited for.
MOST_AT_ONCE = 64  # Connections; the next one is closed.

log = logging.getLogger(__name__)


def through(way: Path, host: str, port: int) -> socket.socket:
    """A connection to this host and port by that way. Raises OSError; if it is not allowed, it ends at once."""
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(str(way))
        found.sendall(f"{host}:{port}\n".encode())
    except OSError:
        found.close()
        raise
    return found


class Relay:
    """Carries what comes in at a socket that listens to where `leads` connects for it, in threads."""

    def __init__(self, listening: socket.socket, leads: Callable[[socket.socket], socket.socket]) -> None:
        """`leads` is given a connection that came, and raises OSError if it leads nowhere."""
        self._listening, self._leads = listening, leads
        self._room = threading.Semaphore(MOST_AT_ONCE)

    def start(self) -> None:
        """Serve in the background, until it is closed."""
        threading.Thread(target=self.serve, name="relay", daemon=True).start()

    def serve(self) -> None:
        """Serve until it is closed."""
        while True:
            try:
                came, _ = self._listening.accept()
            except OSError:
                return  # Closed.
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._carry, args=(came,), daemon=True).start()
            else:
                came.close()

    def close(self) -> None:
        """Let nobody in any more."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # Who waits in accept is woken by nothing else.
        self._listening.close()

    def _carry(self, came: socket.socket) -> None:
        try:
            with came, suppress(OSError), self._leads(came) as led:
                for each in (came, led):
                    if each.family != socket.AF_UNIX:
                        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_copy, args=(led, came), daemon=True)
                back.start()
                _copy(came, led)
                back.join()
        finally:
            self._room.release()


class Way(Relay):
    """The Unix socket behind which a connection is made to where its first line says, if that is allowed."""

    def __init__(self, path: Path, allows: Callable[[str, int], bool]) -> None:
        """`allows` is asked with the host, as it was written, and the port."""
        self.path, self._allows = path, allows
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(MOST_AT_ONCE)
        super().__init__(listening, self._connected)
        self.start()

    def close(self) -> None:
        """Let nobody in any more, and leave no file behind."""
        super().close()
        self.path.unlink(missing_ok=True)

    def _connected(self, came: socket.socket) -> socket.socket:
        host, port = _asked_for(came)
        if not self._allows(host, port):
            log.warning("the training process asked for %s:%d, and was let out to nowhere", host, port)
            raise ConnectionRefusedError(f"{host}:{port} is not allowed")
        led = socket.create_connection((host, port), timeout=SILENT_S)
        led.settimeout(None)
        return led


def _asked_for(came: socket.socket) -> tuple[str, int]:
    """The host and the port that a connection names first. Raises OSError if it says no such line."""
    came.settimeout(SILENT_S)
    line = b""
    while not line.endswith(b"\n"):
        more = came.recv(1)  # What comes after the line is not ours.
        if not more or len(line) == LINE_BYTES:
            raise ConnectionRefusedError("no line HOST:PORT came")
        line += more
    came.settimeout(None)
    host, colon, port = line.decode("ascii", "replace").strip().rpartition(":")
    if not colon or not port.isdecimal():
        raise ConnectionRefusedError(f"{line!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """What one says, to the other, until it has ended; an end that is gone ends it too."""
    with suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
