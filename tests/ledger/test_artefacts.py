"""Artefacts over HTTP: who gets which bytes, by a signed request that cites its entry in the log."""

import base64
import hashlib
import http.client
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from ledger_service import send, serving, write_key
from world import CONSORTIUM, World, added, digest, key, revoked

from ledger.log import open_log
from shared_models.http_signatures import digest as content_digest
from shared_models.http_signatures import sign
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records.kinds import FIRST, Access, AccessRestore, AccessRevoke, Artefact, Checkpoint, Tier
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import FolderShelf, ObjectShelf

DATA = bytes(range(256)) * 12_000  # 3 MB: more than one piece.
NAME = hashlib.sha256(DATA).hexdigest()
OTHER = digest("never put on the shelf")
FULL = Tier(name="full", share=Fraction(1), right="download", lag=0, quota=10**11)


class Served:
    """A world whose log is served, with an artefact on its shelf that everybody who worked may have."""

    def __init__(self, ledger: LedgerHttp, folder: Path, name: str = NAME, size: int = len(DATA)) -> None:
        self.ledger, self.folder, self.name = ledger, folder, name
        self.world = World(tiers=(FULL,))
        self.world.start()
        self.world.round()
        for artefact, much in ((name, size), (OTHER, 5)):
            self.world.say(self.world.coordinator, registered(artefact, much))
        for leaf in self.world.leaves:
            ledger.append(leaf)

    def say(self, author: str, record) -> int:
        self.world.say(author, record)
        return self.ledger.append(self.world.leaves[-1]).index

    def grant(self, member: str = "acme", artefact: str = "") -> int:
        """The index of a new access entry."""
        number = self.world.books.library.next_fetch(member, artefact or self.name)
        record = Access(seq=0, prev=FIRST, member=member, artefact=artefact or self.name, fetch=number)
        return self.say(f"{member}/compute", record)

    def ask(self, at: int, member: str = "acme", *, method: str = "GET", headers=(), signed=(), **changes):
        """The answer to a request as `member` signs it: (status, headers, body). `signed` are parts that it signs
        otherwise, `changes` what is sent instead."""
        path = changes.get("path", f"/v1/artefacts/{self.name}")
        query, sent = f"?access={at}", dict(headers)
        parts = {"@method": method, "@path": path, "@query": query}
        parts |= {"range": sent["Range"]} if "Range" in sent else {}
        parts |= dict(signed)
        parts = {name: value for name, value in parts.items() if value is not None}
        by = changes.get("by") or key(f"{member}/compute")
        fields = sign(parts, by, changes.get("created", int(time.time())))
        return self.send(method, path + query, {**fields, **sent, **changes.get("fields", {})})

    def send(
        self, method: str, target: str, headers, body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        return send(self.ledger, method, target, headers, body)

    def refusal(self, *arguments, **more) -> tuple[int, str]:
        status, headers, body = self.ask(*arguments, **more)
        assert headers["Content-Type"] == "application/problem+json"
        return status, json.loads(body)["code"]


def registered(name: str, size: int) -> Artefact:
    return Artefact(
        seq=0,
        prev=FIRST,
        publisher=CONSORTIUM,
        artefact=name,
        size=size,
        form="safetensors",
        checkpoints=(Checkpoint(run="r1", round=1),),
        parents=(),
        without=(),
    )


@contextmanager
def served_in(folder: Path, shelf: str = "folder"):
    (folder / "artefacts").mkdir()
    (folder / "artefacts" / NAME).write_bytes(DATA)
    with serving(folder, artefacts=f"file://{folder / 'artefacts'}" if shelf == "objects" else "") as ledger:
        yield Served(ledger, folder)


SHELVES = ["folder", "objects"]  # What stands where makes no difference to who asks for it.


@pytest.fixture(scope="module", params=SHELVES)
def shared(tmp_path_factory, request):
    with served_in(tmp_path_factory.mktemp("ledger"), request.param) as served:
        yield served


@pytest.fixture(params=SHELVES)
def fresh(tmp_path, request):
    with served_in(tmp_path, request.param) as served:
        yield served


@pytest.fixture(scope="module")
def at(shared):
    return shared.grant()


def test_the_whole_file_is_served_with_its_digest(shared, at):
    status, headers, body = shared.ask(at)
    assert (status, body) == (200, DATA)
    assert headers["Content-Length"] == str(len(DATA))
    assert headers["ETag"] == f'"{NAME}"'
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"


def test_head_says_how_much_there_is_and_sends_nothing(shared, at):
    status, headers, body = shared.ask(at, method="HEAD")
    assert (status, headers["Content-Length"], headers["ETag"], body) == (200, str(len(DATA)), f'"{NAME}"', b"")
    status, headers, _ = shared.ask(at, method="HEAD", headers={"Range": "bytes=0-1"})
    assert (status, headers["Content-Length"]) == (200, str(len(DATA)))


SIZE = len(DATA)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=1048570-", 1_048_570, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE + 9}", 0, SIZE),
        (f"bytes=9-{SIZE + 9}", 9, SIZE),
    ],
)
def test_a_range_is_a_part_of_the_file(shared, at, asked, start, end):
    status, headers, body = shared.ask(at, headers={"Range": asked})
    assert (status, body) == (206, DATA[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert headers["Content-Length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,5-9", "bytes=9-5", "bytes=-", "bytes=x-y", "lines=0-1", "bytes=+1-2"])
def test_what_is_no_single_range_is_answered_with_the_whole(shared, at, asked):
    status, _, body = shared.ask(at, headers={"Range": asked})
    assert (status, len(body)) == (200, SIZE)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0"])
def test_a_range_that_the_file_does_not_have_is_416(shared, at, asked):
    status, headers, body = shared.ask(at, headers={"Range": asked})
    assert (status, json.loads(body)["code"], headers["Content-Range"]) == (416, "bad_range", f"bytes */{SIZE}")


def test_if_range_holds_for_this_file_only(shared, at):
    for etag, status in ((f'"{NAME}"', 206), (f'"{OTHER}"', 200), (NAME, 200), (f'W/"{NAME}"', 200)):
        got, _, body = shared.ask(at, headers={"Range": "bytes=1-", "If-Range": etag})
        assert (got, len(body)) == (status, SIZE - (status == 206))


# Who may not.


def test_a_request_must_be_signed_as_it_is_sent(shared, at):
    stolen = {"range": "bytes=5-9"}
    for more in (
        {"headers": {"Range": "bytes=0-1"}, "signed": stolen},  # Of another range,
        {"headers": {"Range": "bytes=0-1"}, "signed": {"range": None}},  # of none,
        {"signed": {"@method": "HEAD"}},
        {"signed": {"@query": "?access=1"}},
        {"signed": {"@query": None}},
        {"signed": {"@path": f"/v1/artefacts/{OTHER}"}},
        {"signed": {"@path": None}},
        {"signed": {"date": "today"}},
        {"by": key("acme/compute", 2)},
        {"fields": {"Signature": "sig=:AAAA:"}},
        {"fields": {"Signature-Input": "", "Signature": ""}},
    ):
        assert shared.refusal(at, **more)[1] in ("bad_signature", "unknown_key")
    parts = {"@method": "GET", "@path": f"/v1/artefacts/{NAME}", "@query": f"?access={at}"}
    as_acme = sign(parts, key("birch/compute"), int(time.time()))
    known = f'"acme/compute+{key("acme/compute").verify_key.id.hex()}"'
    forged = as_acme | {"Signature-Input": as_acme["Signature-Input"].rpartition("keyid=")[0] + f"keyid={known}"}
    assert shared.refusal(at, fields=forged) == (422, "bad_signature")


def test_only_a_compute_key_fetches(shared, at):
    assert shared.refusal(at, by=key("acme/admin")) == (422, "unknown_key")


@pytest.mark.parametrize("age", [301, 86_400, -360])
def test_an_old_signature_is_stale_and_so_is_one_of_tomorrow(shared, at, age):
    assert shared.refusal(at, created=int(time.time()) - age) == (422, "stale")


def test_a_signature_without_a_date_is_refused(shared, at):
    parts = {"@method": "GET", "@path": f"/v1/artefacts/{NAME}", "@query": f"?access={at}"}
    by = key("acme/compute")
    spelled = f'("@method" "@path" "@query");keyid="acme/compute+{by.verify_key.id.hex()}"'
    base = "\n".join([*(f'"{name}": {value}' for name, value in parts.items()), f'"@signature-params": {spelled}'])
    raw = base64.b64encode(by.sign(base.encode())).decode()
    fields = {"Signature-Input": f"sig={spelled}", "Signature": f"sig=:{raw}:"}
    assert shared.refusal(at, fields=fields) == (422, "stale")


def test_the_entry_that_is_cited_is_one_s_own_and_for_this_artefact(shared, at):
    assert shared.refusal(at, "birch") == (422, "wrong_member")
    assert shared.refusal(shared.grant(artefact=OTHER)) == (422, "wrong_member")
    for elsewhere in (0, 5, 10**6):
        assert shared.refusal(elsewhere) == (404, "not_found")


def test_what_is_no_name_of_an_artefact_is_not_looked_for(shared, at):
    for path in ("/v1/artefacts/..%2flog.key", "/v1/artefacts/../../log.key", f"/v1/artefacts/{NAME.upper()}"):
        status, _, body = shared.ask(at, path=path)
        assert status in (404, 422)
        assert b"PRIVATE" not in body


def test_a_file_that_is_not_there_or_of_another_length_is_not_served(fresh):
    assert fresh.refusal(fresh.grant(artefact=OTHER), path=f"/v1/artefacts/{OTHER}") == (503, "not_set_up")
    (fresh.folder / "artefacts" / NAME).write_bytes(DATA[:-1])
    assert fresh.refusal(fresh.grant()) == (500, "corrupt")


def test_access_ends_between_two_ranges_and_comes_back(fresh):
    at = fresh.grant("cedar")
    assert fresh.ask(at, "cedar", headers={"Range": "bytes=0-99"})[0] == 206
    for member in ("acme", "birch"):
        fresh.say(f"{member}/admin", revoke(member))
    assert fresh.refusal(at, "cedar", headers={"Range": "bytes=100-"}) == (403, "no_access")
    assert fresh.ledger.access("cedar", NAME)["granted"] is False
    for member in ("acme", "birch"):
        fresh.say(f"{member}/admin", AccessRestore(seq=0, prev=FIRST, member=member, notice="n1"))
    assert fresh.ask(at, "cedar", headers={"Range": "bytes=100-"})[2] == DATA[100:]


def revoke(by: str) -> AccessRevoke:
    return AccessRevoke(seq=0, prev=FIRST, member=by, notice="n1", revoked="cedar", reason="")


def test_a_key_that_was_revoked_fetches_nothing_and_its_successor_goes_on(fresh):
    at, new = fresh.grant(), key("acme/compute", 2)
    fresh.say("acme/compute", added("acme", "compute", new))
    fresh.say("acme/admin", revoked("acme", "compute", key("acme/compute"), at))
    assert fresh.refusal(at) == (422, "revoked")
    assert fresh.ask(at, by=new)[0] == 200


def test_the_ledger_s_word_on_access_is_what_the_books_say(shared):
    told = shared.ledger.access("acme", NAME)
    verdict = shared.world.books.access("acme", NAME)
    assert told == json.loads(json.dumps(verdict._asdict() | {"size": SIZE}))
    with pytest.raises(Refused) as caught:
        shared.ledger.access("acme", digest("nothing"))
    assert caught.value.refusal is Refusal.NOT_FOUND


def test_the_client_asks_for_the_rest_of_a_file(shared, at):
    with shared.ledger.artefact(NAME, at, key("acme/compute"), 1_000) as reply:
        assert (reply.status, reply.read()) == (206, DATA[1_000:])
    with shared.ledger.artefact(NAME, at, key("acme/compute")) as reply:
        assert (reply.status, reply.read()) == (200, DATA)
    with pytest.raises(Refused) as caught:
        shared.ledger.artefact(NAME, at, key("birch/compute"))
    assert caught.value.refusal is Refusal.WRONG_MEMBER
    with pytest.raises(Refused) as caught:
        LedgerHttp("http://127.0.0.1:1").artefact(NAME, at, key("acme/compute"))
    assert caught.value.refusal is Refusal.UNREACHABLE


# Taking a file in.

MADE = bytes(range(255, -1, -1)) * 400  # 100 kB.
MADE_NAME = hashlib.sha256(MADE).hexdigest()


class Upload:
    """A file that acme has derived, registered, and puts on the shelf."""

    def __init__(self, served: Served) -> None:
        self.served = served
        record = registered(MADE_NAME, len(MADE))
        served.say("acme/admin", replace(record, publisher="acme", checkpoints=(), parents=(NAME,)))

    def put(self, piece: bytes = MADE, where: str = "", by: str = "acme/admin", *, name: str = MADE_NAME, **changes):
        """(status, what it says) of a piece, the whole by default; `changes` is what is signed or sent instead."""
        path = f"/v1/artefacts/{name}"
        sent = {
            "content-range": where or f"bytes 0-{len(piece) - 1}/{len(MADE)}",
            "content-digest": content_digest(changes.get("digested", piece)),
        }
        parts = {"@method": "PUT", "@path": path, "@query": "?", **sent, **changes.get("signed", {})}
        parts = {each: value for each, value in parts.items() if value is not None}
        fields = sign(parts, key(by), changes.get("created", int(time.time())))
        status, _, body = self.served.send("PUT", path, {**fields, **sent, **changes.get("fields", {})}, piece)
        told = json.loads(body)
        return status, told.get("code", told.get("size"))

    def kept(self) -> list[str]:
        """What the ledger keeps of it, under which names."""
        folders = (self.served.folder / "uploads", self.served.folder / "artefacts")
        return [
            each.name for folder in folders if folder.is_dir() for each in folder.iterdir() if MADE_NAME in each.name
        ]


@pytest.fixture
def upload(fresh):
    return Upload(fresh)


def test_the_publisher_puts_a_file_and_it_is_served(fresh, upload):
    assert upload.put(b"", f"bytes */{len(MADE)}") == (200, 0)
    assert upload.put() == (200, len(MADE))
    assert upload.kept() == [MADE_NAME]
    at = fresh.grant("birch", MADE_NAME)
    assert fresh.ask(at, "birch", path=f"/v1/artefacts/{MADE_NAME}")[2] == MADE
    again = upload.put(MADE[::-1])  # It is there: nothing is taken in.
    assert (again, fresh.ask(at, "birch", path=f"/v1/artefacts/{MADE_NAME}")[2]) == ((200, len(MADE)), MADE)


def test_a_file_comes_in_pieces_and_who_was_broken_off_asks_how_much_is_here(upload):
    size, half = len(MADE), 60_000
    assert upload.put(MADE[:half], f"bytes 0-{half - 1}/{size}") == (200, half)
    assert upload.put(b"", f"bytes */{size}") == (200, half)
    assert upload.put(MADE[half + 1 :], f"bytes {half + 1}-{size - 1}/{size}") == (416, "bad_range")
    assert upload.put(MADE[5 : half + 5], f"bytes 5-{half + 4}/{size}") == (200, half + 5)  # Some of it once more.
    assert upload.put(MADE[half:], f"bytes {half}-{size - 1}/{size}") == (200, size)
    assert upload.kept() == [MADE_NAME]


def test_a_file_that_has_become_shorter_is_not_sent_for_ever(fresh, upload):
    with pytest.raises(Refused, match="the file has 1,000 bytes left of 102,400"):
        fresh.ledger.upload(MADE_NAME, len(MADE), io.BytesIO(MADE[:1000]), key("acme/admin"))
    assert upload.put(b"", f"bytes */{len(MADE)}") == (200, 1000)  # What came is kept: the whole file goes on from it.
    fresh.ledger.upload(MADE_NAME, len(MADE), io.BytesIO(MADE), key("acme/admin"))
    assert upload.kept() == [MADE_NAME]


def test_what_is_not_the_artefact_is_refused_and_nothing_of_it_is_kept(upload):
    assert upload.put(MADE[::-1]) == (500, "corrupt")
    assert upload.kept() == []
    assert upload.put() == (200, len(MADE))


@pytest.mark.parametrize(
    ("piece", "where"),
    [
        (MADE + b"x", f"bytes 0-{len(MADE)}/{len(MADE) + 1}"),  # More than the log says,
        (MADE + b"x", f"bytes 0-{len(MADE)}/{len(MADE)}"),
        (MADE[:-1], f"bytes 0-{len(MADE) - 2}/{len(MADE) - 1}"),  # or less;
        (MADE[:9], f"bytes 0-9/{len(MADE)}"),  # of another length than it says,
        (MADE[:9], f"bytes */{len(MADE)}"),
        (b"", f"bytes 1-0/{len(MADE) + 1}"),
        (MADE[:9], "bytes 0-8/*"),  # or said otherwise.
        (MADE[:9], "lines 0-8/9"),
    ],
)
def test_a_piece_that_has_no_place_in_the_file_is_refused(upload, piece, where):
    assert upload.put(piece, where) == (416, "bad_range")
    assert upload.kept() == []


def test_only_who_has_published_it_puts_it_there_and_only_what_is_in_the_log(fresh, upload):
    size = len(MADE)
    for more, refusal in (
        ({"by": "birch/admin"}, (422, "wrong_member")),
        ({"by": "acme/compute"}, (422, "unknown_key")),
        ({"by": f"{CONSORTIUM}/coordinator"}, (422, "unknown_key")),
        ({"by": f"{CONSORTIUM}/admin"}, (422, "wrong_member")),
        ({"name": digest("nothing")}, (404, "not_found")),
        ({"name": NAME}, (422, "unknown_key")),  # The coordinator's.
        ({"digested": MADE[::-1]}, (422, "bad_signature")),
        ({"signed": {"content-range": f"bytes 1-{size}/{size}"}}, (422, "bad_signature")),
        ({"signed": {"content-range": None}}, (422, "bad_signature")),
        ({"signed": {"content-digest": None}}, (422, "bad_signature")),
        ({"signed": {"@method": "GET"}}, (422, "bad_signature")),
        ({"signed": {"@path": f"/v1/artefacts/{NAME}"}}, (422, "bad_signature")),
        ({"created": int(time.time()) - 301}, (422, "stale")),
        ({"fields": {"Signature": "sig=:AAAA:"}}, (422, "bad_signature")),
    ):
        assert upload.put(**more) == refusal, more
    new = key("acme/admin", 2)
    fresh.say("acme/admin", added("acme", "admin", new))
    at = fresh.world.books.tree.size
    fresh.say("acme/admin", revoked("acme", "admin", key("acme/admin"), at))
    assert upload.put() == (422, "revoked")
    assert upload.kept() == []


def test_the_coordinator_puts_what_it_has_published(fresh):
    data = b"hello"
    name = hashlib.sha256(data).hexdigest()
    fresh.say(f"{CONSORTIUM}/coordinator", registered(name, len(data)))
    fresh.ledger.upload(name, len(data), io.BytesIO(data), key(f"{CONSORTIUM}/coordinator"))
    assert fresh.ask(fresh.grant(artefact=name), path=f"/v1/artefacts/{name}")[2] == data


def test_one_request_at_a_time_writes_a_file_and_the_others_are_told_to_come_again(upload, monkeypatch):
    entered, go, answers = threading.Event(), threading.Event(), list[tuple]()
    for kind in (FolderShelf, ObjectShelf):

        def slow(self, name: str, file: Path, take=kind.take) -> None:
            entered.set()
            assert go.wait(60)
            take(self, name, file)

        monkeypatch.setattr(kind, "take", slow)
    first = threading.Thread(target=lambda: answers.append(upload.put()))
    first.start()
    assert entered.wait(60)
    assert upload.put() == (429, "busy")
    go.set()
    first.join()
    assert answers == [(200, len(MADE))]
    assert upload.put() == (200, len(MADE))


def test_no_upload_fills_the_disk_that_the_log_is_on(upload, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * len(MADE) - 2))
    assert upload.put() == (413, "too_large")
    assert upload.kept() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * len(MADE)))
    assert upload.put() == (200, len(MADE))


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A ledger whose disk becomes full: its books have the next entry, its database does not."""
    write_key(tmp_path)
    log = open_log(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    class Near:
        """The ledger without HTTP."""

        def append(self, leaf: bytes):
            return log.append(leaf)[1]

    served = Served(Near(), tmp_path)
    monkeypatch.setattr(log.store, "append", fail)
    yield served, log
    log.close()


def test_a_grant_that_is_not_on_the_disk_opens_nothing(failing):
    served, log = failing
    size = log.head.size
    with pytest.raises(Refused) as caught:
        served.grant()
    assert (caught.value.refusal, log.books.library.grants[size]) == (Refusal.STOPPED, ("acme", NAME))
    with pytest.raises(Refused) as caught:
        log.granted("acme", NAME, size)
    assert caught.value.refusal is Refusal.NOT_FOUND


def test_an_artefact_whose_entry_is_not_on_the_disk_is_not_taken_in(failing):
    served, log = failing
    with pytest.raises(Refused) as caught:
        Upload(served)
    assert (caught.value.refusal, log.books.library.held(MADE_NAME).at) == (Refusal.STOPPED, log.head.size)
    with pytest.raises(Refused) as caught:
        log.registered(MADE_NAME)
    assert caught.value.refusal is Refusal.NOT_FOUND


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_gigabytes_is_served_in_little_memory(tmp_path):
    size, port = 4 << 30, free_port()
    write_key(tmp_path)
    (tmp_path / "artefacts").mkdir()
    name = digest("four gigabytes of nothing")  # Who fetches it looks at the bytes; the ledger does not.
    with (tmp_path / "artefacts" / name).open("wb") as file:
        file.truncate(size)
    serve = [sys.executable, "-m", "consortium", "serve", "--dir", str(tmp_path), "--port", str(port)]
    process = subprocess.Popen(serve, stdout=subprocess.DEVNULL)
    try:
        served = Served(LedgerHttp(f"http://127.0.0.1:{port}", patience_s=30), tmp_path, name, size)
        at, got, began = served.grant(), 0, time.monotonic()
        before = peak_mb(process.pid)
        with served.ledger.artefact(name, at, key("acme/compute")) as reply:
            while piece := reply.read(1 << 20):
                got += len(piece)
        grown, seconds = peak_mb(process.pid) - before, time.monotonic() - began
        print(f"{got / seconds / 1e6:,.0f} MB/s, {before} MB before and {grown} MB more at the peak")
        assert got == size
        assert grown < 64
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_a_gigabyte_is_taken_in_in_little_memory(tmp_path):
    size, port, hashed = 1 << 30, free_port(), hashlib.sha256()
    write_key(tmp_path)
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    for _ in range(size >> 20):
        hashed.update(bytes(1 << 20))
    name = hashed.hexdigest()
    serve = [sys.executable, "-m", "consortium", "serve", "--dir", str(tmp_path), "--port", str(port)]
    process = subprocess.Popen(serve, stdout=subprocess.DEVNULL)
    try:
        served = Served(LedgerHttp(f"http://127.0.0.1:{port}", patience_s=30), tmp_path, name, size)
        before, began = peak_mb(process.pid), time.monotonic()
        with (tmp_path / "file").open("rb") as source:
            served.ledger.upload(name, size, source, key(f"{CONSORTIUM}/coordinator"))
        grown, seconds = peak_mb(process.pid) - before, time.monotonic() - began
        print(f"{size / seconds / 1e6:,.0f} MB/s, {before} MB before and {grown} MB more at the peak")
        assert (tmp_path / "artefacts" / name).stat().st_size == size
        assert grown < 64
    finally:
        process.terminate()
        process.wait()


def peak_mb(pid: int) -> int:
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


# The tables.


def test_what_was_registered_taken_and_revoked_stands_in_the_tables(fresh):
    at = fresh.grant()
    tuned = registered(digest("tuned"), 7)
    derived = fresh.say("acme/admin", replace(tuned, publisher="acme", checkpoints=(), parents=(NAME, OTHER)))
    notice = fresh.say("acme/admin", revoke("acme"))
    ended = [fresh.say("birch/admin", revoke("birch"))]
    ended.append(fresh.say("birch/admin", AccessRestore(seq=0, prev=FIRST, member="birch", notice="n1")))
    size = derived + 1 + 3
    first = at - 2

    def rows(name: str) -> list[tuple]:
        told = json.loads(fresh.ledger.read(f"v1/tables/{name}"))
        assert told["size"] == size
        return [tuple(row.values()) for row in told["rows"]]

    assert rows("artefact") == [
        (first, 0, CONSORTIUM, NAME, str(SIZE), "safetensors"),
        (first + 1, 0, CONSORTIUM, OTHER, "5", "safetensors"),
        (derived, 0, "acme", digest("tuned"), "7", "safetensors"),
    ]
    assert rows("lineage") == [
        (first, 0, NAME, "r1", 1, None),
        (first + 1, 0, OTHER, "r1", 1, None),
        (derived, 0, digest("tuned"), None, None, NAME),
        (derived, 1, digest("tuned"), None, None, OTHER),
    ]
    assert rows("grants") == [(at, 0, "acme", NAME, "1")]
    assert rows("revocation") == [(notice, 0, "acme", "n1", "cedar", ""), (ended[0], 0, "birch", "n1", "cedar", "")]
    assert rows("restoration") == [(ended[1], 0, "birch", "n1")]


def test_tables_of_an_older_ledger_are_built_anew(tmp_path):
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    config = Config()
    config.set_main_option("script_location", "ledger:migrations")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(sqlalchemy.text("INSERT INTO consent VALUES (3, 0, 'r9', 'nobody', '')"))
        connection.commit()
    engine.dispose()
    with served_in(tmp_path) as served:
        told = json.loads(served.ledger.read("v1/tables/consent"))
        assert [row["member"] for row in told["rows"]] == served.world.members
        assert [row["artefact"] for row in json.loads(served.ledger.read("v1/tables/artefact"))["rows"]] == [
            NAME,
            OTHER,
        ]
