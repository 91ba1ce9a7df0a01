"""The gateway: the one port that members reach. It passes what a SuperNode asks of the SuperLink, and nothing else.

    POST      /v1/fleet/NAME    what a SuperNode sends; the SuperLink checks its signature
    GET|HEAD  /health

Flower's port serves administrators too, and does not ask who they are; so it stays on loopback, and the gateway stands
before it. What passes is decided on the request line as it came, byte for byte: nothing is decoded or normalised, so
there are no two readings of a path. The request that goes on is a new one, with that path and the header fields that
Flower's client sends. Bodies go both ways piece by piece. Each request has a connection of its own to the SuperLink:
whoever goes away in the middle of a body takes that with him, and the SuperLink never has half of one for a whole.
"""

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from server import https
from server.home import Home, certify
from shared_models.records.refusals import Refusal, Refused

MOST_BYTES = 1 << 28  # Of a body: Flower cuts what it sends into pieces of 20 MiB, and reads a body whole.
ANSWER_S = 60.0  # The SuperLink takes so long for an answer, or is taken for gone.

_PASSED = re.compile(r"POST (/v1/fleet/[a-z]+(?:-[a-z]+)*) HTTP/1\.1|(?:GET|HEAD) (/health) HTTP/1\.1", re.ASCII)
_FIELD = re.compile(r"content-type|content-length|accept|accept-encoding|user-agent|flwr-[a-z0-9-]+")
_VALUE = re.compile(r"[ -~]*")
# RFC 9110, 7.6.1: about one connection, and there are two here. The date and the server are the SuperLink's.
_OF_A_CONNECTION = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}


class _Handler(https.Handler):
    superlink: tuple[str, int]  # Set by `serving`,
    trust: ssl.SSLContext  # as this is.

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library cannot read, and methods that it does not find here, do not pass either."""
        self.close_connection, self.unread, self.request_version = True, 0, self.protocol_version
        self.command, self.path = getattr(self, "command", None) or "", ""
        self.refuse(Refused(Refusal.NOT_PASSED, message or explain or str(code)))

    def act(self) -> None:
        """Pass this request on, if it may pass, and bring the answer back."""
        found = _PASSED.fullmatch(self.requestline)
        if found is None:
            self.close_connection = True
            raise Refused(Refusal.NOT_PASSED, f"{self.requestline[:80]!r}")
        if self.unread > MOST_BYTES:
            raise Refused(Refusal.TOO_LARGE, f"a body of {self.unread:,} bytes; {MOST_BYTES:,} may pass")
        fields = [(name, value) for name, value in self.headers.items() if _FIELD.fullmatch(name.lower())]
        if self.headers.defects or not all(_VALUE.fullmatch(value) for _, value in fields):
            self.close_connection = True
            raise Refused(Refusal.BAD_FIELD, "a header field is not of the form NAME: VALUE")
        with closing(http.client.HTTPSConnection(*self.superlink, timeout=ANSWER_S, context=self.trust)) as upstream:
            try:
                upstream.putrequest(self.command, found[1] or found[2], skip_accept_encoding=True)
                for name, value in fields:
                    upstream.putheader(name, value)
                upstream.putheader("Connection", "close")
                upstream.endheaders()
            except OSError as error:
                self._gone(error)
                return
            self._up(upstream)
            try:
                answer = upstream.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self._gone(error)
                return
            self._down(answer)

    def _gone(self, error: Exception) -> None:
        self.refuse(Refused(Refusal.UNREACHABLE, f"the SuperLink does not answer: {error}"), status=502)

    def _up(self, upstream: http.client.HTTPSConnection) -> None:
        """Raises OSError if the member has gone."""
        piece = memoryview(bytearray(min(self.unread, https.PIECE_BYTES)))
        while self.unread:
            came = self.read(piece[: self.unread])
            if not came:
                raise ConnectionAbortedError("the member went away in the middle of a body")
            try:
                upstream.send(piece[:came])
            except OSError:  # It has answered before the end, or is gone: that is read next.
                return

    def _down(self, answer: http.client.HTTPResponse) -> None:
        self.close_connection = self.close_connection or self.unread > 0
        chunked = answer.length is None
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_A_CONNECTION:
                self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        piece = memoryview(bytearray(https.PIECE_BYTES))
        try:
            while came := answer.readinto(piece):
                self.wfile.write(b"%x\r\n%b\r\n" % (came, bytes(piece[:came])) if chunked else piece[:came])
        except (OSError, http.client.HTTPException):
            self.close_connection = True
            return
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = self.close_connection or bool(answer.length)  # Cut short: the member must see it.


@contextmanager
def serving(home: Home) -> Iterator[None]:
    """Serve the gateway where the settings say, if they do, for as long as the context lasts.

    The server's certificate is for the name that members use afterwards. Raises `Refused`: BAD_FIELD, NOT_SET_UP,
    UNREACHABLE if the address cannot be had.
    """
    address = home.settings.gateway_address()
    if address is None:
        yield
        return
    tls = home.path / "tls"
    certify(tls, home.settings.names())
    host, _, port = home.settings.superlink.rpartition(":")
    trust = ssl.create_default_context(cafile=tls / "ca.crt")
    known = {"superlink": (host, int(port)), "trust": trust}
    with ExitStack() as stack:
        try:
            stack.enter_context(https.serving(address, type("Handler", (_Handler,), known), tls))
        except OSError as error:
            raise Refused(Refusal.UNREACHABLE, f"gateway = {home.settings.gateway!r} cannot be had: {error}") from None
        yield
