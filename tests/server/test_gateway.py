"""The gateway over TLS: what passes to the port behind it, and what never gets there."""

import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from server import gateway, home, https
from shared_models.processes import free_port
from shared_models.records.refusals import Refusal, Refused

FLEET = "/v1/fleet/pull-messages"
MIB = 1 << 20


class Behind(BaseHTTPRequestHandler):
    """What stands where the SuperLink would, and says what has reached it."""

    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        length, left = int(self.headers.get("Content-Length", 0)), 0
        while left < length and (came := self.rfile.read(min(length - left, MIB))):
            left += len(came)
        self.server.reached.append((self.command, self.path, dict(self.headers), left, length))
        much = int(self.headers.get("Flwr-Much", 0))
        self.send_response(200)
        self.send_header("Content-Length", str(much or length))
        self.send_header("Keep-Alive", "timeout=9")
        self.end_headers()
        for start in range(0, much or length, MIB):
            self.wfile.write(b"x" * min(MIB, (much or length) - start))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_any  # noqa: N815

    def log_message(self, *_) -> None:
        """Nothing."""


class Walled:
    def __init__(self, folder) -> None:
        self.inner, self.port = free_port(), free_port()
        settings = home.Settings(
            ledger="", superlink=f"127.0.0.1:{self.inner}", gateway=f"0.0.0.0:{self.port}", gateway_name="localhost"
        )
        self.home = home.create(folder / "coordinator", "commons.example", settings)
        self.trust = ssl.create_default_context(cafile=self.home.path / "tls" / "ca.crt")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.home.path / "tls" / "server.crt", self.home.path / "tls" / "server.key")
        self.server = ThreadingHTTPServer(("127.0.0.1", self.inner), Behind)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.reached = self.server.reached = []
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()

    def connect(self, port: int = 0, of: str = "127.0.0.1"):
        raw = socket.create_connection(("127.0.0.1", port or self.port), timeout=60, source_address=(of, 0))
        return self.trust.wrap_socket(raw, server_hostname="localhost")

    def raw(self, head: str, body: bytes = b"", port: int = 0) -> tuple[int, bytes]:
        """(status, all that came) for these very bytes; the connection is closed afterwards by who answers."""
        with self.connect(port) as one:
            one.sendall(head.encode("latin-1") + b"Connection: close\r\n\r\n" + body)
            came = b""
            while more := one.recv(65_536):
                came += more
        return int(came.split(b" ", 2)[1]), came


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    walled = Walled(tmp_path_factory.mktemp("gateway"))
    with gateway.serving(walled.home):
        yield walled
    walled.server.shutdown()
    walled.server.server_close()


@pytest.fixture
def walled(running):
    running.reached.clear()
    return running


def test_what_a_supernode_asks_passes_with_its_signature_and_nothing_that_is_said_of_a_connection(walled):
    head = f"POST {FLEET} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Type: application/protobuf\r\n"
    head += "flwr-public-key: a\r\nflwr-signature: b\r\nflwr-timestamp: c\r\nX-Forwarded-For: 10.0.0.1\r\n"
    head += "Forwarded: for=10.0.0.1\r\nVia: x\r\nX-Real-IP: 10.0.0.1\r\nUpgrade: h2c\r\nTE: trailers\r\nCookie: x\r\n"
    status, came = walled.raw(head, b"abc")
    assert (status, came.endswith(b"\r\n\r\nxxx"), b"Keep-Alive" in came) == (200, True, False)
    ((method, path, fields, _, _),) = walled.reached
    assert (method, path) == ("POST", FLEET)
    assert sorted(fields) == [
        "Connection",
        "Content-Length",
        "Content-Type",
        "Host",
        "flwr-public-key",
        "flwr-signature",
        "flwr-timestamp",
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_its_health_is_shown(walled, method):
    assert walled.raw(f"{method} /health HTTP/1.1\r\nHost: x\r\n")[0] == 200
    assert [each[:2] for each in walled.reached] == [(method, "/health")]


def test_every_path_of_flower_that_is_not_the_fleet_s_is_refused(walled):
    others = [path for _, path in PROTOBUF_REQUEST_TYPES if not path.startswith("/v1/fleet/")]
    assert len(others) > 50
    for path in others:
        assert walled.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\n", port=walled.inner)[0] == 200
    assert len(walled.reached) == len(others)
    walled.reached.clear()
    for path in others:
        status, came = walled.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\n")
        assert (status, json.loads(came.split(b"\r\n\r\n")[1])["code"]) == (403, "not_passed")
    assert walled.reached == []


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/fleet/../control/start-run HTTP/1.1",
        "POST /v1/fleet/..%2fcontrol/start-run HTTP/1.1",
        "POST /v1/fleet/%2e%2e/control/start-run HTTP/1.1",
        "POST /v1/fleet/./pull-messages HTTP/1.1",
        "POST /v1/fleet/..;/control/start-run HTTP/1.1",
        "POST /v1/fleet/..\\control\\start-run HTTP/1.1",
        "POST //v1/fleet/pull-messages HTTP/1.1",
        "POST /v1/fleet//pull-messages HTTP/1.1",
        "POST /v1//fleet/pull-messages HTTP/1.1",
        "POST /v1/fleet/pull-messages/ HTTP/1.1",
        "POST /v1/fleet/pull-messages?x HTTP/1.1",
        "POST /v1/fleet/pull-messages#x HTTP/1.1",
        "POST /v1/fleet/PULL-MESSAGES HTTP/1.1",
        "POST /v1/fleet/ HTTP/1.1",
        "POST /v1/fleet HTTP/1.1",
        "POST /v1/fleetx/pull-messages HTTP/1.1",
        "POST /v1/fleet/pull-messages\x00 HTTP/1.1",
        "POST https://localhost/v1/fleet/pull-messages HTTP/1.1",
        "POST v1/fleet/pull-messages HTTP/1.1",
        "POST  /v1/fleet/pull-messages HTTP/1.1",
        "POST\t/v1/fleet/pull-messages HTTP/1.1",
        "POST /v1/fleet/pull-messages HTTP/1.0",
        "POST /v1/fleet/pull-messages HTTP/1.1 x",
        "POST /health HTTP/1.1",
        "GET /v1/fleet/pull-messages HTTP/1.1",
        "PUT /v1/fleet/pull-messages HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT localhost:22 HTTP/1.1",
        "GET /docs HTTP/1.1",
        "GET / HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /healthz HTTP/1.1",
        "GET /health/../v1/control/list-runs HTTP/1.1",
    ],
)
def test_a_line_that_is_not_to_the_letter_what_passes_is_refused(walled, line):
    status, came = walled.raw(f"{line}\r\nHost: x\r\n")
    assert (status, json.loads(came.split(b"\r\n\r\n")[1])["code"]) == (403, "not_passed")
    assert walled.reached == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ("Transfer-Encoding: chunked\r\n", "bad_range"),
        ("Content-Length: 0\r\nContent-Length: 5\r\n", "bad_range"),
        ("Content-Length: +5\r\n", "bad_range"),
        (f"Content-Length: {gateway.MOST_BYTES + 1}\r\n", "too_large"),
        ("flwr-timestamp: a\r\n b\r\n", "bad_field"),
        ("no colon\r\n", "bad_field"),
        ("flwr-x: " + "x" * https.HEAD_BYTES + "\r\n", "not_passed"),
    ],
)
def test_a_head_that_can_be_read_in_two_ways_or_is_too_long_is_refused(walled, fields, code):
    came = walled.raw(f"POST {FLEET} HTTP/1.1\r\nHost: x\r\n{fields}")[1]
    assert json.loads(came.split(b"\r\n\r\n")[1])["code"] == code
    assert walled.reached == []


def test_two_hundred_megabytes_each_way_take_no_memory(walled):
    """In this process are both ends too, which hold a MiB each."""
    much, body = 200 * MIB, bytes(MIB)
    before = most = psutil.Process().memory_info().rss
    with walled.connect() as one:
        head = f"POST {FLEET} HTTP/1.1\r\nHost: x\r\nContent-Length: {much}\r\nflwr-much: {much}\r\n\r\n"
        one.sendall(head.encode())
        for _ in range(200):
            one.sendall(body)
        most = max(most, psutil.Process().memory_info().rss)
        came = 0
        while came < much:
            came += len(one.recv(MIB))
            most = max(most, psutil.Process().memory_info().rss)
    assert walled.reached[0][3:] == (much, much)
    assert most - before < 16 * MIB


def test_of_who_goes_away_in_the_middle_the_superlink_has_no_whole_body(walled):
    with walled.connect() as one:
        one.sendall(f"POST {FLEET} HTTP/1.1\r\nHost: x\r\nContent-Length: {MIB}\r\n\r\n".encode() + b"x" * 99_999)
    until = time.monotonic() + 60
    while not walled.reached:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert 0 < walled.reached[0][3] < MIB


def test_one_who_connects_again_and_again_leaves_room_for_the_others(walled):
    idle = [socket.create_connection(("127.0.0.1", walled.port)) for _ in range(https.MOST_AT_ONCE)]
    try:
        with pytest.raises(OSError):  # noqa: PT011 - however the machine calls it.
            walled.connect().close()
        with walled.connect(of="127.0.0.2") as other:
            other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in other.recv(1_000)
    finally:
        for each in idle:
            each.close()


def test_a_superlink_that_is_down_is_named(tmp_path):
    walled = Walled(tmp_path)
    walled.server.shutdown()
    walled.server.server_close()
    with gateway.serving(walled.home):
        status, came = walled.raw(f"POST {FLEET} HTTP/1.1\r\nHost: x\r\n")
        assert (status, json.loads(came.split(b"\r\n\r\n")[1])["code"]) == (502, "unreachable")


def test_the_certificate_is_for_what_members_call_it_and_the_address_is_free_and_nothing_else_lets_in(walled):
    certificate = walled.home.path / "tls" / "server.crt"
    before = certificate.read_bytes()
    home.certify(certificate.parent, ["localhost"])
    assert certificate.read_bytes() == before
    (certificate.parent / "ca.key").rename(certificate.parent / "away")
    with pytest.raises(Refused, match="not_set_up"):
        home.certify(certificate.parent, ["training.example"])
    (certificate.parent / "away").rename(certificate.parent / "ca.key")
    for settings, refusal in [
        ({"gateway": f"127.0.0.1:{walled.port}"}, Refusal.UNREACHABLE),
        ({"gateway": "x"}, Refusal.BAD_FIELD),
        ({"superlink": "0.0.0.0:9092"}, Refusal.BAD_FIELD),
    ]:
        other = home.Home(walled.home.path)
        whole = {"ledger": "", "superlink": "127.0.0.1:9092", "gateway": "127.0.0.1:1"} | settings
        other.__dict__["settings"] = home.Settings(**whole)
        with pytest.raises(Refused) as caught, gateway.serving(other):
            pass
        assert caught.value.refusal is refusal


def test_without_an_address_nothing_is_served(tmp_path):
    other = home.create(tmp_path / "c", "commons.example", home.Settings(ledger="", superlink="127.0.0.1:0"))
    with gateway.serving(other):
        assert other.settings.gateway_address() is None
