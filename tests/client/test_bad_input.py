"""Whatever a ledger is sent that it must not take is refused by the name that docs/api.md says, and nothing is written.

What becomes of a request is looked at over HTTP, on a ledger for members only; what was written, in its folder and its
database: entries, heads, cosignatures, invites, files.
"""

import hashlib
import http.client
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from parties import three

import client.invites
from ledger import guard
from shared_models import http_signatures
from shared_models.ledger_http import UPLOAD_BYTES, LedgerHttp
from shared_models.records import tlog
from shared_models.records.keys import SigningKey
from shared_models.shelf import PIECE_BYTES

TEN_MB = 10_000_000


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    with three(tmp_path_factory.mktemp("founded"), members_only=True) as founded:
        acme = founded.member("acme")
        LedgerHttp(acme.settings.ledger).append(founded.charter)
        client.invites.invite(acme, "dogwood", 1, 1)
        yield founded


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json"
        told = json.loads(self.body)
        assert told["status"] == self.status
        assert told["detail"]
        assert told["fix"]
        return told["code"]


def send(founded, method: str, path: str, body: bytes | None = None, key: SigningKey | None = None, **more) -> Answer:
    """A request, its path as it stands here and not as a client would tidy it up."""
    where = urlsplit(founded.member("acme").settings.ledger)
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    if key is not None:
        plain, _, query = path.partition("?")
        headers |= http_signatures.sign(
            {"@method": method, "@path": plain, "@query": f"?{query}"}, key, int(time.time())
        )
    with closing(http.client.HTTPConnection(where.hostname, where.port, timeout=60)) as connection:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


def member(founded) -> SigningKey:
    return founded.member("acme").key("compute")


def written(founded) -> dict[str, str]:
    """All that a ledger keeps, as hashes: its files, and each table of its database."""
    found = dict[str, str]()
    for path in sorted(Path(founded.ledger).rglob("*")):
        if path.is_file() and not path.name.startswith("ledger.db"):
            found[str(path.relative_to(founded.ledger))] = hashlib.sha256(path.read_bytes()).hexdigest()
    with closing(sqlite3.connect(Path(founded.ledger) / "ledger.db")) as database:
        for table in ("entry", "head", "invite"):
            rows = database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()  # noqa: S608
            found[table] = hashlib.sha256(repr(rows).encode()).hexdigest()
    return found


@pytest.fixture(autouse=True)
def nothing_is_written(founded):
    """Of whatever a test here sends."""
    before = written(founded)
    assert len(before) > 8
    yield
    assert written(founded) == before


# A wrong signature.


def test_a_wrong_signature(founded):
    charter, key = founded.charter, member(founded)
    forged = charter.replace(b'"approvals"', b'"approval5"')
    head = send(founded, "GET", "/checkpoint", key=key).body
    invite = json.loads(send(founded, "GET", "/v1/invites", key=key).body)["invites"][0]["invite"].encode()
    for path, body, codes in (
        ("/v1/entries", forged, {"bad_signature"}),
        ("/v1/cosigned", head.replace(b"\n1\n", b"\n2\n"), {"bad_signature"}),
        ("/v1/cosigned", head, {"unknown_key"}),  # No member has signed it.
        (
            "/v1/invites",
            invite.replace(b'"benefit":"1"', b'"benefit":"9"').replace(b'"benefit":1', b'"benefit":9'),
            {"bad_signature"},
        ),
    ):
        assert body not in (charter, invite)
        answer = send(founded, "POST", path, body)
        assert (answer.status, answer.code in codes) == (422, True), path
    told = json.loads(send(founded, "POST", "/v1/batch", tlog.pack([forged])).body)
    assert told["entries"][0]["code"] == "bad_signature"
    stranger = SigningKey.create(founded.folder / "stranger.key", "acme/compute")
    assert send(founded, "GET", "/v1/runs", key=stranger).code == "unknown_key"


# Sent again.


def test_what_was_sent_before_changes_nothing(founded):
    charter, key = founded.charter, member(founded)
    again = send(founded, "POST", "/v1/entries", charter)
    assert (again.status, tlog.Proof.parse(again.body).index) == (200, 0)
    assert json.loads(send(founded, "POST", "/v1/batch", tlog.pack([charter, charter])).body)["entries"] == [0, 0]
    (invited,) = json.loads(send(founded, "GET", "/v1/invites", key=key).body)["invites"]
    assert send(founded, "POST", "/v1/invites", invited["invite"].encode()).status == 200
    link = founded.member("acme").ledger().link(key).partition("link=")[2]
    said = [send(founded, "POST", "/open", f"link={link}".encode(), Sec_Fetch_Site="same-origin") for _ in range(2)]
    assert (said[0].status, said[1].status, said[1].code) == (303, 401, "link_used")
    # A signed request is for one method and one address, and for five minutes.
    parts = {"@method": "GET", "@path": "/v1/runs", "@query": "?"}
    heard, late = (http_signatures.sign(parts, key, int(time.time()) - age_s) for age_s in (0, 310))
    assert send(founded, "GET", "/v1/runs", **heard).status == 200
    assert send(founded, "GET", "/v1/keys", **heard).code == "bad_signature"
    assert send(founded, "HEAD", "/v1/runs", **heard).status == 401
    assert send(founded, "GET", "/v1/runs", **late).code == "stale"


# A session.


def signed_in(founded) -> dict[str, str]:
    link = founded.member("acme").ledger().link(member(founded)).partition("link=")[2]
    opened = send(founded, "POST", "/open", f"link={link}".encode(), Sec_Fetch_Site="same-origin")
    assert opened.status == 303
    return {"Cookie": opened.headers["set-cookie"].partition(";")[0]}


def test_a_session_that_has_ended(founded, monkeypatch):
    assert send(founded, "GET", "/v1/runs", **signed_in(founded)).status == 200
    monkeypatch.setattr(guard, "SESSION_S", 0.3)
    cookie, until = signed_in(founded), time.monotonic() + 60
    while (answer := send(founded, "GET", "/v1/runs", **cookie)).status == 200:
        assert time.monotonic() < until
    assert (answer.status, answer.code) == (401, "not_signed_in")
    assert json.loads(answer.body)["detail"] == "your session has ended"
    monkeypatch.undo()
    assert send(founded, "GET", "/v1/runs", **cookie).status == 401


# Another site.


def test_a_page_of_another_site(founded):
    cookie = signed_in(founded)
    for path in ("/open", "/leave"):
        answer = send(founded, "POST", path, b"link=x", Sec_Fetch_Site="cross-site", **cookie)
        assert (answer.status, answer.code) == (403, "other_site")
    assert send(founded, "GET", "/v1/runs", **cookie).status == 200
    # Nor may its scripts read an answer, or ask whether they may send what a form cannot.
    for method, path in (
        ("GET", "/v1/runs"),
        ("OPTIONS", "/v1/runs"),
        ("POST", "/v1/entries"),
        ("OPTIONS", "/v1/entries"),
    ):
        answer = send(founded, method, path, b"" if method == "POST" else None, Origin="https://evil.example", **cookie)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    # A session reads. What is written holds its own signatures, and a cookie is none of them.
    assert send(founded, "POST", "/v1/entries", b"hello", Sec_Fetch_Site="cross-site", **cookie).code == "not_a_note"


# Out of its folder.

CLIMBS = [
    *("/tile/../log.key", "/tile/../../log.key", "/tile/%2e%2e/log.key", "/tile/..%2flog.key"),
    *("/tile/0/..%2f..%2f..%2flog.key", "/tile/..%5c..%5clog.key"),
    *("/tile//etc/passwd", "/tile/%2fetc%2fpasswd", "/tile/0/000%00", "/tile/entries/000.p/1/../../../../log.key"),
    *("/static/../settings.py", "/static/..%2fsettings.py", "/static/%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    *("/witness/..%2f..%2flog.key", "/attest/..%2fcheckpoint", "/witness/%2e%2e", "/v1/tables/..%2fentry"),
    *("/v1/artefacts/..%2f..%2flog.key", "/v1/invites/..%2f..%2flog.key", "/v1/authors/..%2f..%2flog.key"),
    *("/log/..%2flog.key", "/runs/..%2f..%2flog.key", "/..%2flog.key", "/log.key", "/ledger.db", "/register/head"),
]  # fmt: skip


@pytest.mark.parametrize("path", CLIMBS)
def test_a_path_that_climbs(founded, path):
    secret = (Path(founded.ledger) / "log.key").read_bytes().strip()
    for who, refused in ((signed_in(founded), (404, 422)), ({}, (401, 404, 422))):
        answer = send(founded, "GET", path, **who)
        assert answer.status in refused, answer
        assert secret not in answer.body
        assert b"root:" not in answer.body
        assert b"BaseSettings" not in answer.body


def test_a_file_is_put_nowhere_but_in_its_place(founded):
    for path in ("/v1/artefacts/..%2f..%2fevil", "/v1/artefacts/" + "0" * 63 + "%2e", "/tile/0/000", "/static/evil.js"):
        assert send(founded, "PUT", path, b"evil").status in (404, 405, 422), path


# Ten megabytes.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/entries"),
        ("POST", "/v1/batch"),
        ("POST", "/v1/cosigned"),
        ("POST", "/v1/invites"),
        ("POST", "/v1/invites/" + "0" * 64),
        ("PUT", "/v1/artefacts/" + "0" * 64),
        ("POST", "/open"),
        ("POST", "/leave"),
    ],
)
def test_a_body_of_ten_megabytes(founded, method, path):
    assert TEN_MB > UPLOAD_BYTES >= PIECE_BYTES
    answer = send(founded, method, path, b"x" * TEN_MB, key=member(founded), Sec_Fetch_Site="same-origin")
    assert (answer.status, answer.code) == (413, "too_large")


# A page of a million rows.


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tables/receipt?limit=1000000",
        "/v1/tables/receipt?limit=1001",
        "/v1/tables/receipt?limit=0",
        "/v1/tables/receipt?limit=-1",
        "/v1/tables/receipt?limit=1e3",
        "/v1/tables/receipt?after=x",
        "/v1/tables/receipt?after=9999999999999999999999.0",
        "/v1/keys?since=-1",
        "/v1/inclusion?index=0&size=99999999999999999999",
        "/v1/run?start=0&end=1000000&size=x",
    ],
)
def test_a_page_of_a_million_rows(founded, path):
    answer = send(founded, "GET", path, key=member(founded))
    assert (answer.status, answer.code) == (422, "bad_field")


def test_a_batch_of_a_million_entries(founded):
    assert send(founded, "POST", "/v1/batch", b"\0\0" * 1_000_000).code == "too_large"


def test_a_page_holds_no_more_than_a_hundred_rows_however_it_is_asked(founded):
    for path in ("/log?before=1000000", "/log?limit=1000000", f"/log?before={10**18}"):
        answer = send(founded, "GET", path, key=member(founded))
        assert (answer.status, answer.body.count(b"<tr>") <= 101) == (200, True)
    assert send(founded, "GET", f"/log?before={10**30}", key=member(founded)).status == 422
