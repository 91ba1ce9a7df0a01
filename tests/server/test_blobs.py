"""Blobs over TLS: who may bring and fetch what, what is kept of it, and how it goes on where it was cut off."""

import hashlib
import http.client
import itertools
import json
import os
import random
import shutil
import socket
import ssl
import threading
import time
from dataclasses import replace

import pytest
from cutting import cutting
from world import digest

from server import blobs, home, https
from server.blobs import Blobs, Capability, serving
from shared_models.processes import free_port
from shared_models.records.refusals import Refusal, Refused
from shared_models.transport import BlobsHttp, Named

DATA = random.Random(1).randbytes(3_072_000)  # More than one piece.
MIB = 1 << 20
NAME = hashlib.sha256(DATA).hexdigest()
WHOLE = Named(sha256=NAME, size=len(DATA))
RUN = digest("manifest")


class Served:
    """A coordinator whose second round is open, and its blobs."""

    def __init__(self, folder) -> None:
        self.port = free_port()
        self.home = home.create(
            folder / "coordinator",
            "commons.example",
            home.Settings(ledger="", superlink="127.0.0.1:0", blobs=f"127.0.0.1:{self.port}"),
        )
        self.blobs = Blobs(self.home.blobs_path)
        self.round = self.blobs.round(RUN, 2)
        self.round.mkdir(parents=True)
        self.right = Capability(RUN, 2, "acme", len(DATA), int(time.time()) + 60)

    def shown(self, **changes) -> str:
        return replace(self.right, **changes).sealed(self.home.blobs_secret())

    def way(self, port: int = 0, patience_s: float = 5.0, **changes) -> BlobsHttp:
        authority = self.home.path / "tls" / "ca.crt"
        return BlobsHttp("127.0.0.1", port or self.port, authority, self.shown(**changes), patience_s)

    def ask(self, method: str, path: str = f"/v1/blobs/{NAME}", body: bytes = b"", shown: str | None = None, **headers):
        """(status, headers, body) of one request, as anybody could send it."""
        context = ssl.create_default_context(cafile=self.home.path / "tls" / "ca.crt")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        fields = {"Authorization": f"Bearer {self.shown() if shown is None else shown}", "Content-Length": len(body)}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.putrequest(method, path)
            for name, value in fields.items():
                connection.putheader(name, str(value))
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def refusal(self, *arguments, **more) -> str:
        status, headers, body = self.ask(*arguments, **more)
        assert (status >= 400, headers["Content-Type"]) == (True, "application/problem+json")
        told = json.loads(body)
        assert told["status"] == status
        return told["code"]

    def piece(self, start: int, end: int, data: bytes = DATA, size: int = len(DATA), **more):
        return self.ask("PUT", body=data[start:end], Content_Range=f"bytes {start}-{end - 1}/{size}", **more)

    def here(self) -> int:
        """How much of the blob is there, as who was cut off asks."""
        return json.loads(self.ask("PUT", Content_Range=f"bytes */{len(DATA)}")[2])["size"]

    def stands(self, member: str = "acme") -> list[str]:
        folder = self.round / member
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("blobs"))
    with serving(served.home):
        yield served


@pytest.fixture
def served(running):
    shutil.rmtree(running.round, ignore_errors=True)
    running.round.mkdir()
    return running


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def pieces(data: bytes = DATA):
    """What is to be brought, from a byte on."""
    return lambda start: iter([data[start:]])


def test_a_blob_is_brought_and_fetched_again(served, tmp_path):
    served.way().put(WHOLE, pieces())
    assert served.stands() == [NAME]
    assert served.way().get(WHOLE, tmp_path).read_bytes() == DATA
    served.way().put(WHOLE, pieces())  # Nothing is sent again.
    with served.blobs.open(served.right, NAME) as there:
        assert there.read() == DATA


def test_what_is_offered_is_there_for_every_member_and_what_one_brought_for_nobody_else(served, tmp_path):
    (served.round / NAME).write_bytes(DATA)
    for member in ("acme", "birch"):
        folder = tmp_path / member
        folder.mkdir()
        assert served.way(member=member).get(WHOLE, folder).read_bytes() == DATA
    own = hashlib.sha256(b"own").hexdigest()
    served.way().put(Named(sha256=own, size=3), pieces(b"own"))
    where = f"/v1/blobs/{own}"
    assert served.ask("GET", where)[::2] == (200, b"own")
    assert served.refusal("GET", where, shown=served.shown(member="birch")) == "not_found"
    assert served.refusal("GET", where, shown=served.shown(round=1)) == "not_found"
    assert served.refusal("GET", where, shown=served.shown(manifest=digest("other"))) == "not_found"


@pytest.mark.parametrize(
    ("part", "start", "end"),
    [
        ("5-9", 5, 10),
        ("5-", 5, len(DATA)),
        ("-7", len(DATA) - 7, len(DATA)),
        ("0-0", 0, 1),
        ("9-9999999", 9, len(DATA)),
    ],
)
def test_a_part_is_served_as_it_was_asked_for(served, part, start, end):
    (served.round / NAME).write_bytes(DATA)
    status, headers, body = served.ask("GET", Range=f"bytes={part}")
    assert (status, body) == (206, DATA[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


def test_bytes_that_a_blob_does_not_have_are_refused_and_what_is_no_range_gets_the_whole(served):
    (served.round / NAME).write_bytes(DATA)
    assert served.refusal("GET", Range=f"bytes={len(DATA)}-") == "bad_range"
    assert served.ask("GET", Range="bytes=9-5")[::2] == (200, DATA)
    status, headers, body = served.ask("HEAD", Range="bytes=0-1")
    assert (status, headers["Content-Length"], headers["ETag"], body) == (200, str(len(DATA)), f'"{NAME}"', b"")


def test_a_transfer_that_is_cut_again_and_again_goes_on_where_it_was(served, tmp_path):
    """No connection lasts for more than 700 kB: only who goes on ever comes to an end."""
    with cutting(served.port, itertools.repeat(700_000)) as cut:
        served.way(cut.port).put(WHOLE, pieces())
        assert served.stands() == [NAME]
        assert served.way(cut.port).get(WHOLE, tmp_path).read_bytes() == DATA
    assert cut.cuts >= 8


def test_what_had_come_before_a_crash_of_either_side_is_not_sent_again(served, tmp_path):
    (served.round / "acme").mkdir()
    (served.round / "acme" / f"{NAME}.part").write_bytes(DATA[:2_000_000])
    with cutting(served.port, itertools.repeat(2**60)) as cut:
        served.way(cut.port).put(WHOLE, pieces())
        assert cut.moved < len(DATA) - 1_900_000
    (tmp_path / NAME).write_bytes(DATA[:2_000_000])
    with cutting(served.port, itertools.repeat(2**60)) as cut:
        assert served.way(cut.port).get(WHOLE, tmp_path).read_bytes() == DATA
        assert cut.moved < len(DATA) - 1_900_000


def test_a_part_that_a_crash_has_altered_is_sent_once_more(served, tmp_path):
    (served.round / "acme").mkdir()
    (served.round / "acme" / f"{NAME}.part").write_bytes(b"x" * 2_000_000)
    served.way().put(WHOLE, pieces())
    assert served.stands() == [NAME]
    (tmp_path / NAME).write_bytes(b"x" * len(DATA))
    assert served.way().get(WHOLE, tmp_path).read_bytes() == DATA


def test_of_what_does_not_hash_to_its_name_nothing_is_kept(served, tmp_path):
    other = DATA[:-1] + b"x"
    assert served.refusal("PUT", body=other, Content_Range=f"bytes 0-{len(other) - 1}/{len(other)}") == "corrupt"
    assert served.stands() == []
    assert refused(served.way().put, WHOLE, pieces(other)) is Refusal.CORRUPT
    assert served.stands() == []
    (served.round / NAME).write_bytes(other)  # The coordinator's disk.
    assert refused(served.way().get, WHOLE, tmp_path) is Refusal.CORRUPT
    assert not (tmp_path / NAME).exists()


def test_a_blob_that_is_longer_on_the_coordinator_s_side_than_it_said_is_not_read_to_its_end(served, tmp_path):
    (served.round / NAME).write_bytes(DATA)
    short = Named(sha256=NAME, size=1_000_000)
    with cutting(served.port, itertools.repeat(2**60)) as cut:
        assert refused(served.way(cut.port).get, short, tmp_path) is Refusal.CORRUPT
    assert not (tmp_path / NAME).exists()


def test_a_blob_that_is_cut_on_the_coordinator_s_side_is_given_up(served, tmp_path):
    (served.round / NAME).write_bytes(DATA[:-1])
    assert refused(served.way(patience_s=0.5).get, WHOLE, tmp_path) is Refusal.BAD_RANGE


def test_more_than_the_capability_says_is_refused_before_any_of_it_is_written(served, tmp_path):
    much = DATA + b"x"
    assert served.refusal("PUT", body=b"x", Content_Range=f"bytes 0-0/{len(much)}") == "too_large"
    assert served.refusal("PUT", Content_Range="bytes */1", shown=served.shown(most=0)) == "too_large"
    assert served.stands() == []
    named = Named(sha256=hashlib.sha256(much).hexdigest(), size=len(much))
    assert refused(served.way().put, named, pieces(much)) is Refusal.TOO_LARGE


def test_a_blob_for_which_there_is_no_room_is_refused(served, monkeypatch):
    monkeypatch.setattr(blobs.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 2 * len(DATA) - 2))
    assert served.refusal("PUT", Content_Range=f"bytes */{len(DATA)}") == "too_large"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda _: "", "bad_signature"),
        (lambda _: "acme", "bad_signature"),
        (lambda served: served.right.sealed(b"another secret"), "bad_signature"),
        (lambda served: served.shown().replace("acme", "birch"), "bad_signature"),
        (lambda served: served.shown().replace(f".{len(DATA)}.", f".{len(DATA) * 9}."), "bad_signature"),
        (lambda served: served.shown(member="acme/../birch"), "bad_signature"),
        (lambda served: served.shown()[:-1] + "\u00e9", "bad_signature"),
        (lambda served: served.shown(expires_s=int(time.time()) - 2), "late"),
        (lambda served: served.shown(round=3), "not_found"),  # A round that has not begun, or is over.
        (lambda served: served.shown(manifest=digest("other")), "not_found"),
    ],
)
def test_who_shows_no_capability_for_this_is_refused(served, spoil, code):
    shown = spoil(served)
    assert served.refusal("PUT", Content_Range=f"bytes */{len(DATA)}", shown=shown) == code
    assert served.refusal("GET", shown=shown) == code
    assert not served.blobs.round(RUN, 3).exists()


def test_one_blob_is_brought_and_the_first_whole_one_stands(served):
    other = hashlib.sha256(b"other").hexdigest()
    assert served.ask("PUT", f"/v1/blobs/{other}", b"ot", Content_Range="bytes 0-1/5")[0] == 200
    assert served.stands() == [f"{other}.part"]
    served.piece(0, 1_000)
    assert served.stands() == [f"{NAME}.part"]  # What was begun before it is given up.
    assert served.piece(1_000, len(DATA))[2] == f'{{"size": {len(DATA)}}}'.encode()
    assert served.refusal("PUT", f"/v1/blobs/{other}", b"other", Content_Range="bytes 0-4/5") == "conflict"
    assert (served.stands(), served.here()) == ([NAME], len(DATA))


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("", b""),
        ("bytes 0-9/3072000", b"123"),
        ("bytes 5-3/3072000", b""),
        ("bytes 0-2/2", b"123"),
        ("bytes 1-3/3072000", b"123"),  # A gap.
        ("bytes 0-2/*", b"123"),
    ],
)
def test_a_piece_belongs_where_it_says_and_has_no_gap_before_it(served, where, body):
    assert served.refusal("PUT", body=body, Content_Range=where) == "bad_range"
    assert served.stands() == []


@pytest.mark.parametrize("path", ["/", "/v1/blobs/", "/v1/blobs/x", f"/v1/blobs/{NAME}/", f"/v1/blobs/{NAME.upper()}"])
def test_nothing_else_is_served(served, path):
    assert served.refusal("GET", path) == "not_found"
    assert served.refusal("PUT", path, Content_Range="bytes */1") == "not_found"


@pytest.mark.parametrize(
    "headers", [{"Content_Length": "-1"}, {"Content_Length": "x"}, {"Transfer_Encoding": "chunked"}]
)
def test_a_body_of_unknown_length_is_refused(served, headers):
    assert served.refusal("PUT", Content_Range=f"bytes */{len(DATA)}", **headers) == "bad_range"


def test_who_was_cut_off_without_a_word_is_not_waited_for(served):
    """The old connection stands open and silent in the middle of a piece; the new one goes on from there."""
    context = ssl.create_default_context(cafile=served.home.path / "tls" / "ca.crt")
    with (
        socket.create_connection(("127.0.0.1", served.port)) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as old,
    ):
        head = f"PUT /v1/blobs/{NAME} HTTP/1.1\r\nAuthorization: Bearer {served.shown()}\r\nContent-Range: bytes 0-"
        head += f"{len(DATA) - 1}/{len(DATA)}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        old.sendall(head.encode() + DATA[:MIB])
        until = time.monotonic() + 60
        while not (part := served.round / "acme" / f"{NAME}.part").exists() or part.stat().st_size < MIB:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert served.here() == MIB
        assert served.piece(MIB, 1_500_000)[0] == 200
        old.sendall(b"x" * MIB)
        assert b'"busy"' in old.recv(65_536) + old.recv(65_536)
        assert served.piece(1_500_000, len(DATA))[0] == 200
    assert served.stands() == [NAME]


def test_a_round_that_ends_in_the_middle_takes_its_blobs_with_it(served, monkeypatch):
    finish = blobs._finish

    def ended(*what) -> None:
        shutil.rmtree(served.round)
        finish(*what)

    monkeypatch.setattr(blobs, "_finish", ended)
    status, _, body = served.piece(0, len(DATA))
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    assert not served.round.exists()


def test_who_cannot_be_reached_and_who_is_not_the_coordinator_are_named(served, tmp_path):
    assert refused(served.way(free_port(), patience_s=0.3).put, WHOLE, pieces()) is Refusal.UNREACHABLE
    stranger = Served(tmp_path)
    with serving(stranger.home):
        began = time.monotonic()
        way = replace(served.way(stranger.port), patience_s=60.0)
        assert refused(way.put, WHOLE, pieces()) is Refusal.UNREACHABLE
        assert time.monotonic() - began < 50


def test_who_comes_too_early_waits_until_it_is_served(tmp_path):
    served = Served(tmp_path)
    threading.Timer(0.5, lambda: opened.set()).start()
    opened = threading.Event()
    done = threading.Event()

    def bring() -> None:
        served.way().put(WHOLE, pieces())
        done.set()

    threading.Thread(target=bring, daemon=True).start()
    assert opened.wait(5)
    with serving(served.home):
        assert done.wait(10)
    assert served.stands() == [NAME]


def test_connections_beyond_the_most_are_closed_and_those_before_are_served(served):
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(https.MOST_OF_ONE)]
    try:
        with pytest.raises(OSError):  # noqa: PT011 - however the machine calls it.
            served.here()
    finally:
        for each in idle:
            each.close()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            assert served.here() == 0
            break
        except OSError:
            time.sleep(0.05)
    else:
        pytest.fail("nobody is served any more")


def test_what_is_not_said_in_tls_is_not_answered(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain:
        plain.sendall(f"GET /v1/blobs/{NAME} HTTP/1.1\r\n\r\n".encode())
        assert b"HTTP" not in plain.recv(1_000)


def test_the_secret_is_made_once_and_for_nobody_else_to_read(tmp_path):
    served = Served(tmp_path)
    secret = served.home.blobs_secret()
    path = served.home.path / "keys" / "blobs.secret"
    assert (len(secret), served.home.blobs_secret(), oct(os.stat(path).st_mode & 0o777)) == (32, secret, "0o600")


def test_without_an_address_nothing_is_served(tmp_path):
    served = Served(tmp_path)
    served.home.__dict__["settings"] = replace(served.home.settings, blobs="")
    with serving(served.home), pytest.raises(OSError):  # noqa: PT011
        socket.create_connection(("127.0.0.1", served.port), timeout=1)
