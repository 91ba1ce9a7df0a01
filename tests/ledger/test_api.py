"""The ledger over HTTP, by the client that everybody uses and by hand: proofs, the published log, and refusals."""

import json
import shutil
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ledger_service import serving
from world import CONSORTIUM, World, key

from ledger.billing import statement
from shared_models.ledger_http import LedgerHttp
from shared_models.published import fetch, reader, save
from shared_models.records import note, tlog
from shared_models.records.merkle import leaf_hash, verify_consistency
from shared_models.records.refusals import REMEDY, Refusal, Refused
from shared_models.rules.audit import audit

KEYS = note.known([key(f"{CONSORTIUM}/log").verify_key])


@pytest.fixture(scope="module")
def world():
    world = World()
    world.start()
    world.round()
    return world


@pytest.fixture(scope="module")
def ledger(world, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("ledger")) as served:
        for leaf in world.leaves:
            served.append(leaf)
        yield served


def settled(folder: Path, size: int) -> None:
    """Wait until the folder has the head of this size: it follows what was answered."""
    head, until = folder / "log" / "checkpoint", time.monotonic() + 60
    while tlog.unsigned(head.read_bytes()).size < size:
        assert time.monotonic() < until
        time.sleep(0.01)


def post(ledger: LedgerHttp, body: bytes, **headers: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(  # noqa: S310
        ledger.url + "/v1/entries", body, {"Content-Type": "application/octet-stream", **headers}
    )
    return answer(request)


def answer(request: urllib.request.Request | str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            return reply.status, reply.headers["Content-Type"], reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_an_append_is_answered_with_an_offline_proof_and_a_second_one_with_the_same_place(ledger, world):
    leaf = world.sign("birch/admin", world.item("birch", 1_200))
    status, kind, body = post(ledger, leaf)
    assert (status, kind) == (201, "text/plain; charset=utf-8")
    first = tlog.Proof.parse(body)
    first.verify(leaf_hash(leaf), KEYS)
    status, _, body = post(ledger, leaf)
    assert (status, tlog.Proof.parse(body).index) == (200, first.index)


def test_what_it_serves_is_the_log(ledger, world, tmp_path):
    log = fetch(reader(ledger.url))
    assert log.leaves[: len(world.leaves)] == world.leaves
    assert audit(log.leaves, log.head, log.hashes, charter=world.books.charter_hash).findings == []
    save(reader(ledger.url), tmp_path / "bundle")
    assert fetch(reader(str(tmp_path / "bundle"))).leaves == log.leaves


def test_proofs_by_http(ledger, world):
    size = ledger.size()
    head = tlog.open_head(ledger.read("checkpoint"), KEYS)
    assert head.size == size
    verify_consistency(5, size, world.books.tree.root(5), head.root, list(ledger.consistency(5, size).path))
    assert tlog.Proof(3, tuple(ledger.inclusion(3, size)), ledger.read("checkpoint")).verify(
        leaf_hash(world.leaves[3]), KEYS
    )
    last = world.books.chains["acme/compute"]
    assert ledger.last("acme/compute") == (last.seq, last.hash, last.at)
    assert ledger.last("nobody/compute") is None
    assert ledger.runs() == [(world.leaves[1], world.members, "")]


def test_a_period_is_closed_by_recomputing_the_log(ledger, world):
    log = fetch(reader(ledger.url))
    report = audit(log.leaves, log.head, log.hashes)
    ledger.append(statement(report.books, "2026-11", key(f"{CONSORTIUM}/admin"), None))
    log = fetch(reader(ledger.url))
    report = audit(log.leaves, log.head, log.hashes)
    assert report.findings == []
    assert [bill.period for bill in report.books.statements] == ["2026-11"]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda leaf: leaf.replace(b'"tokens":96', b'"tokens":97'), 422, "bad_signature"),
        (lambda _: b"hello", 422, "not_a_note"),
        (lambda _: b"\xff\xfe", 422, "not_text"),
        (lambda leaf: leaf.replace(b"acme/compute ", b"nobody/compute "), 422, "unknown_key"),
        (lambda _: b"", 422, "not_a_note"),
    ],
)
def test_a_refusal_is_a_problem_with_its_name_and_its_remedy(ledger, world, change, status, code):
    size = ledger.size()
    leaf = next(each for each in world.leaves if b"/receipt@v1" in each and b"acme/compute " in each)
    got, kind, body = post(ledger, change(leaf))
    problem = json.loads(body)
    assert (got, kind, problem["code"], problem["status"]) == (status, "application/problem+json", code, status)
    assert (problem["fix"], problem["type"]) == (REMEDY[Refusal(code)], f"docs/errors/{code}.md")
    assert problem["kept"] == Refused(Refusal(code), "").kept
    assert problem["detail"]
    assert ledger.size() == size


def test_a_conflict_is_409(ledger, world):
    status, _, body = post(ledger, world.sign(world.coordinator, world.manifest(rounds=7)))
    assert (status, json.loads(body)["code"]) == (409, "conflict")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(ledger):
    status, _, body = post(ledger, b"x" * 70_000)
    assert (status, json.loads(body)["code"]) == (413, "too_large")


def test_a_body_of_unknown_length_is_refused(ledger):
    where = urlsplit(ledger.url)
    asked = "POST /v1/entries HTTP/1.1\r\nHost: ledger\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    with socket.create_connection((where.hostname, where.port), timeout=60) as connection:
        connection.sendall(asked.encode())  # At once: the ledger answers before it has read it all.
        got = HTTPResponse(connection)
        got.begin()
        assert (got.status, json.loads(got.read())["code"]) == (413, "too_large")
        got.close()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/tile/0/999", 404, "not_found"),
        ("/tile/..%2f..%2flog.key", 404, "not_found"),
        ("/tile/0/..%2f..%2f..%2fledger.db", 404, "not_found"),
        ("/v1/inclusion?index=0&size=999999", 404, "not_found"),
        ("/v1/inclusion?index=-1&size=1", 422, "bad_field"),
        ("/v1/inclusion?index=x&size=1", 422, "bad_field"),
        ("/v1/consistency?old=2&new=1", 404, "not_found"),
        ("/v1/consistency", 422, "bad_field"),
        ("/v1/authors/nobody", 404, "not_found"),
    ],
)
def test_bad_questions_get_the_same_kind_of_answer(ledger, path, status, code):
    got, kind, body = answer(ledger.url + path)
    assert (got, kind, json.loads(body)["code"]) == (status, "application/problem+json", code)


def test_the_client_raises_what_the_ledger_refused_with(ledger):
    with pytest.raises(Refused) as caught:
        ledger.append(b"hello")
    assert caught.value.refusal is Refusal.NOT_A_NOTE


def test_a_ledger_that_is_away_is_waited_for_and_then_named():
    with pytest.raises(Refused) as caught:
        LedgerHttp("http://127.0.0.1:1", patience_s=0.2).size()
    assert caught.value.refusal is Refusal.UNREACHABLE


def test_an_address_that_there_is_not_is_not_taken_for_a_name_that_the_log_has_not(ledger):
    with pytest.raises(Refused) as caught:
        LedgerHttp(ledger.url + "/nothing/here").last("acme/compute")
    assert caught.value.refusal is Refusal.WRONG_ADDRESS


class _Other(BaseHTTPRequestHandler):
    """A service that knows nothing of ours."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_) -> None:
        pass


def test_an_answer_that_is_no_problem_is_not_believed_to_be_one():
    with HTTPServer(("127.0.0.1", 0), _Other) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        with pytest.raises(Refused) as caught:
            LedgerHttp(f"http://127.0.0.1:{other.server_port}").size()
    assert caught.value.refusal is Refusal.UNREACHABLE


def test_a_corrupt_tile_is_not_served_and_the_entry_is_named(tmp_path, world):
    with serving(tmp_path) as ledger:
        for leaf in world.leaves:
            ledger.append(leaf)
        path = tmp_path / "log" / tlog.tile_path("entries", 0, len(world.leaves))
        settled(tmp_path, len(world.leaves))
        path.write_bytes(path.read_bytes().replace(b'"tokens":96', b'"tokens":97', 1))
        status, _, body = answer(f"{ledger.url}/{tlog.tile_path('entries', 0, len(world.leaves))}")
        assert (status, json.loads(body)["code"]) == (500, "corrupt")
        assert "entry 6 in tile/entries/000.p" in json.loads(body)["detail"]


def test_a_log_is_read_from_a_zip_file_too(ledger, tmp_path):
    save(reader(ledger.url), tmp_path / "bundle")
    zipped = shutil.make_archive(str(tmp_path / "bundle"), "zip", tmp_path / "bundle")
    assert fetch(reader(zipped)).leaves == fetch(reader(ledger.url)).leaves


def test_a_log_that_is_not_there_or_not_whole_is_refused(tmp_path, ledger):
    with pytest.raises(Refused) as caught:
        reader(str(tmp_path / "nothing"))
    assert caught.value.refusal is Refusal.NOT_FOUND
    save(reader(ledger.url), tmp_path / "bundle")
    for path in (tmp_path / "bundle" / "tile" / "entries").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(Refused) as caught:
        fetch(reader(str(tmp_path / "bundle")))
    assert caught.value.refusal is Refusal.NOT_FOUND


def test_a_fault_of_ours_is_a_problem_too_and_names_nothing_of_the_inside(tmp_path):
    with serving(tmp_path) as ledger:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
            database.execute("DROP TABLE invite")
        status, kind, body = answer(ledger.url + "/v1/invites")
    problem = json.loads(body)
    assert (status, kind, problem["code"]) == (500, "application/problem+json", "defect")
    assert problem["detail"] == "OperationalError"


# Many at once.


@pytest.fixture
def fresh(tmp_path):
    """A world in an open round, and a ledger that has it."""
    made = World()
    made.start()
    made.say(made.coordinator, made.opened())
    with serving(tmp_path) as served:
        served.append_all(made.leaves, KEYS)
        yield made, served


def test_a_batch_is_answered_entry_by_entry_and_its_places_are_proven(fresh):
    made, served = fresh
    size = served.size()
    receipts = [made.sign(f"{name}/compute", made.receipt(name)) for name in made.members]
    forged = receipts[0].replace(b'"tokens":96', b'"tokens":97')
    found = served.append_all([receipts[0], forged, made.leaves[2], receipts[1], receipts[0], receipts[2]], KEYS)
    assert isinstance(found[1], Refused)
    assert found[1].refusal is Refusal.BAD_SIGNATURE
    assert found[:1] + found[2:] == [size, 2, size + 1, size, size + 2]
    assert served.append_all(receipts, KEYS) == [size, size + 1, size + 2]
    assert served.proof(size).verify(leaf_hash(receipts[0]), KEYS).size == size + 3


def batch(ledger: LedgerHttp, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(ledger.url + "/v1/batch", body)  # noqa: S310
    status, _, said = answer(request)
    return status, json.loads(said)


def test_a_refusal_in_a_batch_says_which_entry_it_is(fresh):
    _, served = fresh
    status, told = batch(served, tlog.pack([b"hello"]))
    assert (status, told["entries"][0]["code"], told["entries"][0]["entry"]) == (
        200,
        "not_a_note",
        leaf_hash(b"hello").hex(),
    )
    status, _, body = post(served, b"hello")
    assert (status, json.loads(body)["entry"]) == (422, leaf_hash(b"hello").hex())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "malformed"),
        (b"\0", 422, "malformed"),
        (b"\0\5abc", 422, "malformed"),
        (tlog.pack([b"x"] * 257), 413, "too_large"),
        (b"\0" * 4_000_001, 413, "too_large"),
    ],
)
def test_a_body_that_is_no_batch_is_refused(ledger, body, status, code):
    got, told = batch(ledger, body)
    assert (got, told["code"]) == (status, code)


def test_a_ledger_that_has_too_much_to_do_says_when_to_come_again(tmp_path):
    made = World()
    made.start()
    with serving(tmp_path, waiting=1) as served:
        served.append(made.leaves[0])
        came = []
        senders = [threading.Thread(target=lambda: came.append(post(served, made.leaves[0])[0])) for _ in range(30)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert set(came) == {200, 429}
        request = urllib.request.Request(served.url + "/v1/batch", tlog.pack(made.leaves))  # noqa: S310
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request)  # noqa: S310
        for leaf in made.leaves:  # Who comes again is served in the end.
            served.append(leaf)


class Lying(LedgerHttp):
    """A ledger whose answers to batches are changed on the way."""

    def __init__(self, url: str, change) -> None:
        super().__init__(url)
        object.__setattr__(self, "change", change)

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        came = super()._call(path, body)
        return json.dumps(self.change(json.loads(came))).encode() if path == "/v1/batch" else came


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told | {"entries": told["entries"][:-1]},
        lambda told: told | {"entries": [told["entries"][0] + 1, *told["entries"][1:]]},
        lambda told: told | {"entries": told["entries"][::-1]},
        lambda told: told | {"entries": [0, *told["entries"][1:]]},
        lambda told: {"head": told["head"], "entries": [0, 1, 2]},  # As if they had been there before.
        lambda told: told | {"start": told["start"] + 1},
        lambda told: told | {"start": 0},
        lambda told: told | {"path": told["path"][:-1]},
        lambda told: told | {"path": [told["path"][0], *told["path"]]},
    ],
)
def test_a_place_that_is_not_proven_is_not_believed(fresh, change):
    made, served = fresh
    receipts = [made.sign(f"{name}/compute", made.receipt(name)) for name in made.members]
    liar = Lying(served.url, change)
    with pytest.raises(Refused) as caught:
        liar.append_all(receipts, KEYS)
    assert caught.value.refusal is Refusal.BAD_PROOF
