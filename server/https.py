"""How the coordinator serves over HTTPS: a thread for each connection, of which there are so many and not more.

Standard library only: a handshake, a head, a body that does not move, each holds one thread of a bounded number for a
bounded time. A handler refuses by raising `Refused`; that goes out as problem+json (RFC 9457).
"""

import http.client
import json
import re
import socket
import ssl
import sys
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

from shared_models import http_answers
from shared_models.records.refusals import Refusal, Refused

PIECE_BYTES = 1 << 18  # What is held of a body at a time.
HEAD_BYTES = 1 << 14  # What the header fields of a request may take.
SILENT_S = 30.0  # A connection on which nothing moves for so long is closed,
MOST_AT_ONCE = 256  # and of so many the next one waits for none: it is closed, and comes again.
MOST_OF_ONE = 64  # From one address; so one member that is slow, or mad, leaves room for the others.


class _Server(ThreadingHTTPServer):
    """Who connects and says nothing holds a thread, and no more than that."""

    daemon_threads = True
    request_queue_size = MOST_AT_ONCE

    def __init__(self, address: tuple[str, int], handler: type["Handler"], context: ssl.SSLContext) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)
        self._context, self._lock, self._open = context, threading.Lock(), Counter[str]()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The connection, whose handshake is left to its thread."""
        connection, address = super().get_request()
        connection.settimeout(SILENT_S)
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            room = self._open.total() < MOST_AT_ONCE and self._open[client_address[0]] < MOST_OF_ONE
            if room:
                self._open[client_address[0]] += 1
        if room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open[client_address[0]] -= 1
                self._open += Counter()  # Without who has none.

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break, and handshakes fail: whoever was at the other end comes again."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Head:
    """The header fields, as they are read: of so many bytes and not more."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file, self._left = file, HEAD_BYTES

    def readline(self, most: int) -> bytes:
        line = self._file.readline(min(most, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("head")
        return line


class Handler(BaseHTTPRequestHandler):
    """What the answers to all requests have in common."""

    protocol_version = "HTTP/1.1"
    timeout = SILENT_S

    def parse_request(self) -> bool:
        """As the standard library does, except that it takes 100 lines of 64 KiB each."""
        whole, self.rfile = self.rfile, cast(BufferedIOBase, _Head(self.rfile))
        try:
            return super().parse_request()
        finally:
            self.rfile = whole

    def log_message(self, *_: object) -> None:
        """Nothing: what came of it is in the log and on show."""

    @abstractmethod
    def act(self) -> None:
        """Answer this request, of which `unread` bytes are to come, or raise `Refused`."""

    def _answer(self) -> None:
        self.unread = 0
        try:
            lengths = self.headers.get_all("Content-Length", ["0"])
            if len(lengths) > 1 or not re.fullmatch("[0-9]{1,18}", lengths[0]) or "Transfer-Encoding" in self.headers:
                raise Refused(Refusal.BAD_RANGE, "a body says how long it is, by one Content-Length")
            self.unread = int(lengths[0])
            self.act()
        except Refused as refused:
            self.refuse(refused)

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - the standard library's names.

    def read(self, piece: memoryview) -> int:
        """Read some of the body: how many bytes it was."""
        came = self.rfile.readinto1(piece)
        self.unread -= came
        return came

    def refuse(self, refused: Refused, status: int = 0) -> None:
        """Say so; with the status of its kind, if no other is given."""
        self.drop()
        told = http_answers.problem(refused, self.path)
        told["status"] = status or told["status"]
        self.tell(int(told["status"]), told, http_answers.PROBLEM)

    def drop(self) -> None:
        """Read what was sent and is not wanted, if it is little: its sender looks for the answer only then."""
        unwanted = memoryview(bytearray(min(self.unread, 4 * PIECE_BYTES)))
        while 0 < self.unread <= len(unwanted) and self.read(unwanted[: self.unread]):
            pass
        self.close_connection = self.close_connection or self.unread > 0

    def tell(self, status: int, what: dict[str, Any], kind: str) -> None:
        """Answer with this, as JSON."""
        body = json.dumps(what).encode()
        self.begin(status, len(body), {"Content-Type": kind})
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        """The head of an answer."""
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving(address: tuple[str, int], handler: type[Handler], tls: Path) -> Iterator[None]:
    """Serve at this address with the certificate in this folder, for as long as the context lasts. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls / "server.crt", tls / "server.key")
    with _Server(address, handler, context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
