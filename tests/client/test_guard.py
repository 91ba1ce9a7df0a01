"""A ledger for members only: who may read what, how people sign in, and what is tried by whoever may not."""

import base64
import http.client
import json
import re
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from parties import three

import client.invites
import client.join
import client.quotes
from client.charter import vote
from client.invites import admit
from client.keys import add, holder, revoke
from consortium.cli import main
from ledger import guard
from ledger.signers import FRESH_S
from shared_models import http_signatures
from shared_models.ledger_http import LedgerHttp
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Settlement
from shared_models.records.refusals import Refused

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@dataclass
class Asker:
    """A program or a browser, which keeps the cookie it is given and follows nothing by itself."""

    url: str
    key: SigningKey | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, path: str, method: str = "GET", body: bytes | None = None, **more: str) -> Answer:
        headers = self.headers | {name.replace("_", "-"): value for name, value in more.items()}
        if self.key is not None:
            where, _, query = path.partition("?")
            parts = {"@method": method, "@path": where, "@query": f"?{query}"}
            headers = http_signatures.sign(parts, self.key, int(time.time())) | headers
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310
        try:
            reply = urllib.request.build_opener(_Stay).open(request, timeout=60)
        except urllib.error.HTTPError as error:
            reply = error
        with reply:
            found = Answer(reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read())
        if cookie := found.headers.get("set-cookie"):
            self.headers["Cookie"] = cookie.partition(";")[0]
        return found

    def listening(self) -> http.client.HTTPResponse:
        """What it is told at /events, as it comes."""
        parts = {"@method": "GET", "@path": "/events", "@query": "?"}
        headers = self.headers if self.key is None else http_signatures.sign(parts, self.key, int(time.time()))
        reply = urllib.request.urlopen(urllib.request.Request(f"{self.url}/events", None, headers), timeout=60)  # noqa: S310
        assert reply.readline().startswith(b":")
        return reply

    def post(self, path: str, link: str = "", **more: str) -> Answer:
        return self(path, "POST", f"link={link}".encode(), **(FORM | more))


@pytest.fixture
def founded(tmp_path):
    with three(tmp_path, members_only=True) as founded:
        LedgerHttp(founded.member("acme").settings.ledger).append(founded.charter)
        yield founded


@pytest.fixture
def url(founded):
    return founded.member("acme").settings.ledger


def link_of(founded, name: str = "acme") -> str:
    ledger = founded.member(name).ledger()
    return ledger.link(ledger.key).partition("link=")[2]


def signed_in(founded, url: str) -> Asker:
    browser = Asker(url, headers={"Accept": "text/html"})
    assert browser.post("/open", link_of(founded)).status == 303
    return browser


# Who may read what.


def reads(member: Asker) -> list[str]:
    """Every address that the ledger answers when it is asked to read, by its own description and by the pages."""
    paths = [path for path, verbs in json.loads(member("/openapi.json").body)["paths"].items() if "get" in verbs]
    paths.remove("/events")  # Its answer has no end; who is no member is asked below.
    assert len(paths) > 15
    filled = {"path": "entries/000", "index": "0", "artefact": "0" * 64, "author": "acme/compute", "name": "receipt"}
    return [
        *(re.sub(r"{(\w+)(?::\w+)?}", lambda found: filled.get(found[1], "acme"), path) for path in paths),
        *("/overview", "/runs", "/runs/r1", "/runs/r1/1", "/bills", "/bills/2026-11", "/bills/2026-11/receipts"),
        *("/bills/2026-11/costs", "/log", "/log/0", "/members", "/models", "/models/" + "0" * 64),
        *("/bills/2026-11/what-if", "/bills/2026-11/disputes", "/charter", "/amendments", "/joins"),
        *(
            "/",
            "/docs",
            "/openapi.json",
            "/checkpoint",
            "/v1/proof?index=0",
            "/v1/keys?since=0",
            "/nothing",
            "/healthz/",
        ),
    ]


def free(path: str) -> bool:
    """What anybody may ask for; each of these shows nothing of the log."""
    return path in ("/healthz", "/readyz", "/version", "/open") or path.startswith(
        ("/static/", "/v1/artefacts/", "/v1/openings/", "/v1/updates/", "/v1/invites/")
    )


def test_every_key_that_counts_reads_everything_and_nobody_else_anything(founded, url):
    acme, folder = founded.member("acme"), founded.folder
    members = [Asker(url, acme.key(role)) for role in ("admin", "compute")]
    members += [Asker(url, founded.coordinator.key), Asker(url, SigningKey.load(founded.admin_key))]
    stolen = SigningKey.create(folder / "stolen.key", "acme/compute")
    strangers = [Asker(url), Asker(url, stolen), Asker(url, SigningKey.create(folder / "x.key", "dogwood/admin"))]
    strangers.append(Asker(url, headers={"Cookie": f"{guard.COOKIE}=guessed"}))
    paths = [path for path in reads(members[0]) if not free(path)]
    for path in paths:
        for method in ("GET", "HEAD"):
            for who in strangers:
                answer = who(path, method)
                assert answer.status == 401, (path, method)
                assert answer.headers["accept-signature"] == 'sig=("@method" "@path" "@query");created;keyid'
                assert "private" in answer.headers["cache-control"] or "no-cache" in answer.headers["cache-control"]
        for who in members:
            assert who(path).status != 401, path
    assert json.loads(Asker(url)("/v1/runs").body)["code"] == "not_signed_in"
    assert {who("/events").status for who in strangers} == {401}
    assert json.loads(strangers[1]("/v1/runs").body)["code"] == "unknown_key"
    assert (json.loads(Asker(url)("/healthz").body), json.loads(members[0]("/healthz").body)["size"]) == (
        {"status": "ok"},
        1,
    )


def test_no_cache_keeps_for_others_what_is_for_members(founded, url):
    assert (
        "public"
        not in Asker(url, founded.member("acme").key("compute"))("/tile/entries/000.p/1").headers["cache-control"]
    )


def test_a_key_that_was_revoked_reads_no_more_nor_does_the_session_that_it_began(founded, url):
    folder = founded.member("acme").path
    old, browser = founded.member("acme").key("compute"), signed_in(founded, url)
    assert browser("/overview").status == Asker(url, old)("/overview").status == 200
    add(holder(folder, "compute"))
    revoke(holder(folder, "compute"), old.verify_key.id.hex())
    assert json.loads(Asker(url, old)("/v1/runs").body)["code"] == "revoked"
    assert b"revoked" in browser("/overview").body
    link = LedgerHttp(url).link(old).partition("link=")[2]
    assert json.loads(Asker(url).post("/open", link).body)["code"] == "revoked"
    assert founded.member("acme").ledger().runs() == []


def test_a_signature_is_for_one_address_and_for_five_minutes(founded, url, monkeypatch):
    key, asker = founded.member("acme").key("compute"), Asker(url)
    parts = {"@method": "GET", "@path": "/v1/runs", "@query": "?"}
    fresh = http_signatures.sign(parts, key, int(time.time()))
    assert asker("/v1/runs", **fresh).status == 200
    for path, headers, code in (
        ("/v1/keys", fresh, "bad_signature"),
        ("/v1/runs?x=1", fresh, "bad_signature"),
        ("/v1/runs", http_signatures.sign(parts, key, int(time.time()) - FRESH_S - 2), "stale"),
        ("/v1/runs", http_signatures.sign(parts, key, int(time.time()) + FRESH_S + 60), "stale"),
        ("/v1/runs", http_signatures.sign({"@method": "GET"}, key, int(time.time())), "bad_signature"),
        ("/v1/runs", fresh | {"Signature": "sig=:AAAA:"}, "bad_signature"),
        ("/v1/runs", {"Signature": fresh["Signature"]}, "bad_signature"),
        ("/v1/runs", as_key(fresh, founded.member("acme").key("witness")), "bad_signature"),
        ("/v1/runs", as_key(fresh, SigningKey.load(founded.ledger / "log.key")), "bad_signature"),
    ):
        answer = asker(path, **headers)
        assert (answer.status, json.loads(answer.body)["code"]) == (401, code)


def as_key(fields: dict[str, str], key: SigningKey) -> dict[str, str]:
    """The same signature under another key's name."""
    named = re.sub(r'keyid="[^"]*"', f'keyid="{key.name}+{key.verify_key.id.hex()}"', fields["Signature-Input"])
    return fields | {"Signature-Input": named}


# Auditors.


def test_an_auditor_reads_what_a_member_reads_writes_nothing_and_is_let_go(founded, url, tmp_path, capsys):
    acme, file = founded.member("acme"), tmp_path / "auditor.key"
    assert main(["key", "make", "acme/auditor", "--to", str(file)]) == 0
    text = capsys.readouterr().out.strip()
    auditor = Asker(url, SigningKey.load(file))
    assert json.loads(auditor("/v1/runs").body)["code"] == "unknown_key"
    assert main(["key", "auditor", text, "--home", str(acme.path)]) == 0
    said = capsys.readouterr().out
    for path in reads(Asker(url, acme.key("compute"))):
        assert auditor(path).status == Asker(url, acme.key("compute"))(path).status, path
    assert f"consortium open --ledger {url} --key FILE" in said
    assert main(["open", "--ledger", url, "--key", str(file)]) == 0
    browser = Asker(url, headers={"Accept": "text/html"})
    assert browser.post("/open", capsys.readouterr().out.strip().partition("link=")[2]).status == 303
    assert b"signed in as <strong>acme/auditor</strong>" in browser("/open").body
    assert text.encode() in browser("/members").body
    assert main(["audit", url, "--key", str(file), "--charter", said.split()[-1]]) == 0

    size = founded.member("acme").ledger().size()
    record = Settlement(
        seq=0, prev=FIRST, member="acme", period="2026-11", netting=0, payer="birch", payee="acme", amount=1
    )
    leaf = entries.sign(record, founded.member("acme").charter.consortium, [SigningKey.load(file)])
    assert json.loads(auditor("/v1/entries", "POST", leaf).body)["code"] == "wrong_role"
    for method, query in (("GET", "?access=0"), ("PUT", "")):
        answer = auditor(f"/v1/artefacts/{'0' * 64}{query}", method)
        assert json.loads(answer.body)["code"] == ("unknown_key" if method == "GET" else "not_found"), method
    assert acme.ledger().size() == size

    assert main(["key", "auditor", text, "--end", "--home", str(acme.path)]) == 0
    assert json.loads(auditor("/v1/runs").body)["code"] == "revoked"
    assert browser("/overview").status == 401
    assert main(["key", "auditor", text, "--end", "--home", str(acme.path)]) == 2


def test_a_key_that_is_no_auditor_s_is_not_let_in_as_one(founded, url, tmp_path, capsys):
    acme, birch = (founded.member(name) for name in ("acme", "birch"))
    other = SigningKey.create(tmp_path / "birch.key", "birch/auditor").verify_key.text()
    new = SigningKey.create(tmp_path / "c.key", "acme/compute").verify_key.text()  # It would sign receipts.
    size = acme.ledger().size()
    for text in ("nothing", other, new, acme.key("compute").verify_key.text(), acme.key("witness").verify_key.text()):
        assert main(["key", "auditor", text, "--home", str(acme.path)]) == 2
    assert main(["key", "make", "acme/admin", "--to", str(tmp_path / "x.key")]) == 2
    assert not (tmp_path / "x.key").exists()
    assert main(["key", "make", "birch/auditor", "--to", str(tmp_path / "birch.key")]) == 2
    assert SigningKey.load(tmp_path / "birch.key").verify_key.text() == other
    assert (acme.ledger().size(), birch.ledger().size()) == (size, size)


# Signing in.


def test_a_link_signs_a_browser_in_once_and_it_signs_out(founded, url):
    browser, link = Asker(url, headers={"Accept": "text/html"}), link_of(founded)
    asked = browser("/overview")
    assert (asked.status, b"consortium open" in asked.body) == (401, True)
    assert asked.headers["content-security-policy"].startswith("default-src 'none'")
    for _ in range(2):  # As a mail program would, that looks where a link leads.
        shown = browser(f"/open?link={link}")
        assert (shown.status, b"<strong>acme/compute</strong>" in shown.body) == (200, True)
        assert browser("/overview").status == 401
    opened = browser.post("/open", link)
    assert (opened.status, opened.headers["location"]) == (303, "/overview")
    cookie = opened.headers["set-cookie"].lower()
    assert {"httponly", "samesite=lax", "path=/", "max-age=43200"} == set(cookie.split("; ")[1:])
    assert b"<h1>" in browser("/overview").body
    assert b"signed in as <strong>acme/compute</strong>" in browser("/open").body
    again = Asker(url).post("/open", link)
    assert (again.status, json.loads(again.body)["code"]) == (401, "link_used")
    session = Asker(url, headers=dict(browser.headers))
    assert browser.post("/leave").status == 303
    assert session("/overview").status == 401


def test_behind_tls_the_cookie_is_for_tls_only(founded, url):
    opened = Asker(url).post("/open", link_of(founded), X_Forwarded_Proto="https")
    assert "secure" in opened.headers["set-cookie"].lower()


def test_a_session_ends(founded, url, monkeypatch):
    assert signed_in(founded, url)("/overview").status == 200
    monkeypatch.setattr(guard, "SESSION_S", 0)
    assert signed_in(founded, url)("/overview").status == 401


@pytest.mark.parametrize("why", ["it signs out", "it expires", "its key is revoked", "the key that signed is revoked"])
def test_who_may_read_no_more_is_told_nothing_more(founded, url, monkeypatch, why):
    """An answer that goes on for hours ends with the session, or the key, by which it was asked for."""
    birch, staying = founded.member("birch"), signed_in(founded, url)
    if why == "it expires":
        monkeypatch.setattr(guard, "SESSION_S", 2)
    browser = Asker(url)
    assert browser.post("/open", link_of(founded, "birch")).status == 303
    key = birch.key("compute")
    asker = Asker(url, key) if why == "the key that signed is revoked" else browser
    with staying.listening() as another, asker.listening() as listening:
        if why == "it signs out":
            browser.post("/leave")
        elif "revoked" in why:
            add(holder(birch.path, "compute"))
            revoke(holder(birch.path, "compute"), key.verify_key.id.hex())
        assert listening.read().count(b"data:") <= 1  # To its end; what came before may have been told.
        add(holder(birch.path, "witness"))
        told = f"data: {birch.ledger().size()}\n".encode()
        assert told in (another.readline() for _ in range(9))


def test_who_was_invited_is_told_nothing_more_when_the_invite_is_forgotten(founded, url):
    ticket = client.invites.invite(founded.member("acme"), "dogwood", 1, 1)
    with Asker(url, ticket.key("dogwood")).listening() as listening:
        with closing(sqlite3.connect(founded.ledger / "ledger.db")) as database, database:
            database.execute("DELETE FROM invite")
        assert b"data" not in listening.read()  # To its end.


def test_only_so_many_sessions_are_open_and_the_oldest_one_ends(founded, url, monkeypatch):
    monkeypatch.setattr(guard, "SESSIONS", 2)
    browsers = []
    for name in ("acme", "birch", "cedar"):
        browsers.append(Asker(url))
        assert browsers[-1].post("/open", link_of(founded, name)).status == 303
    assert [browser("/v1/runs").status for browser in browsers] == [401, 200, 200]


@pytest.mark.parametrize("path", ["/open", "/leave"])
def test_no_other_site_signs_anybody_in_or_out(founded, url, path):
    browser, link = signed_in(founded, url), link_of(founded, "birch")
    for site in ("cross-site", "same-site"):
        refused = browser.post(path, link, Sec_Fetch_Site=site)
        assert (refused.status, b"other_site" in refused.body) == (403, True)
    assert b"acme/compute" in browser("/open").body


def test_a_link_that_is_no_link_is_refused_by_name_and_begins_nothing(founded, url):
    link, now = link_of(founded), int(time.time())
    other = founded.member("acme").ledger()
    stale = {"@method": "POST", "@path": "/open"}
    old = http_signatures.sign(stale, founded.member("acme").key("compute"), now - FRESH_S - 2)
    for broken, code in (
        ("", "bad_signature"),
        ("nothing", "bad_signature"),
        (link[:-8], "bad_signature"),
        ("A" + link[1:], "bad_signature"),
        (other.link(SigningKey.create(founded.folder / "y.key", "acme/compute")).partition("link=")[2], "unknown_key"),
        (encoded(old), "stale"),
        (encoded(http_signatures.sign({"@method": "GET", "@path": "/open"}, other.key, now)), "bad_signature"),
    ):
        browser = Asker(url)
        answer = browser.post("/open", broken)
        assert (answer.status, json.loads(answer.body)["code"]) == (401, code), broken
        assert "Cookie" not in browser.headers
        if broken:
            assert browser(f"/open?link={broken}").status == 401
    huge = Asker(url)("/open", "POST", b"link=" + b"A" * 10_000_000, **FORM)
    assert (huge.status, json.loads(huge.body)["code"]) == (413, "too_large")


def encoded(fields: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(f"{fields['Signature-Input']}\n{fields['Signature']}".encode()).decode().rstrip("=")


def test_what_is_shown_of_a_link_is_escaped(founded, url):
    """Its key is looked up before it is named; a link that is not whole is not printed at all."""
    answer = Asker(url, headers={"Accept": "text/html"})("/open?link=%3Cscript%3Ealert(1)%3C/script%3E")
    assert (answer.status, b"<script>alert" in answer.body) == (401, False)


def test_a_path_that_climbs_is_not_taken_for_one_that_is_free(founded, url):
    for path in (
        "/static/../checkpoint",
        "/static/%2e%2e/checkpoint",
        "/open/../v1/runs",
        "//checkpoint",
        "/v1/invites/../runs",
    ):
        assert Asker(url)(path).status in (401, 404, 422), path


# What members and their programs do all day.


def test_members_write_read_join_and_audit_as_they_do_elsewhere(founded, url):
    acme = founded.member("acme")
    ticket = client.invites.invite(acme, "dogwood", 1, 1)
    guest = client.join.join(ticket.text(), founded.folder / "dogwood", lambda *_: True, data="python-stdlib:0/1")
    assert guest.at is None
    hashed = admit(acme, "dogwood", lambda _: True).hash
    for each in ("acme", "birch"):
        vote(founded.member(each).path, hashed, "yes")
    joined = client.join.join(ticket.text(), founded.folder / "dogwood", lambda *_: True, data="")
    assert joined.at == 3
    log = fetch(reader(url, joined.home.key("compute")))
    assert len(log.leaves) == 4
    for read in (lambda: fetch(reader(url)), LedgerHttp(url).size):
        with pytest.raises(Refused, match="not_signed_in"):
            read()


def test_what_a_log_draws_is_drawn_by_a_key_that_reads_it(founded, url, capsys):
    tariff = founded.folder / "tariff.json"
    tariff.write_text('{"demand": {"acme": 30, "birch": 80}, "blocks": [{"price": 6}]}')
    asked = ["allocate", "sampled", str(tariff), "--log", url]
    assert main(asked) == 2
    assert "not_signed_in" in capsys.readouterr().err
    key = founded.member("acme").path / "keys" / "compute.key"
    assert main([*asked, "--key", str(key)]) == 0
    assert "drawn by the log's root of 1 entries" in capsys.readouterr().out


def test_who_is_about_to_sign_what_follows_from_the_log_reads_it_by_its_own_key(founded):
    assert client.quotes.seal(founded.member("acme").path, "price", "2026-11", "0.60") == 1


def test_who_was_invited_reads_what_it_joins_by_the_invites_key_and_by_no_other(founded, url):
    ticket = client.invites.invite(founded.member("acme"), "dogwood", 1, 1)
    assert Asker(url, ticket.key("dogwood"))("/checkpoint").status == 200
    assert Asker(url, ticket.key("birch"))("/checkpoint").status == 401
    other = SigningKey.create(founded.folder / "z.key", "dogwood/invite")
    assert Asker(url, other)("/checkpoint").status == 401
    link = LedgerHttp(url).link(ticket.key("dogwood")).partition("link=")[2]  # It reads, and begins no session.
    assert json.loads(Asker(url).post("/open", link).body)["code"] == "unknown_key"


def test_each_key_has_a_limit_of_its_own_and_so_has_a_browser_by_the_key_that_let_it_in(tmp_path):
    with three(tmp_path, members_only=True, requests=3) as founded:
        url = founded.member("acme").settings.ledger
        LedgerHttp(url).append(founded.charter)
        acme, birch = (Asker(url, founded.member(name).key("compute")) for name in ("acme", "birch"))
        browser = signed_in(founded, url)
        assert [acme("/v1/runs").status, acme("/v1/keys").status, browser("/overview").status] == [200] * 3
        assert [acme("/v1/runs").status, browser("/overview").status] == [429] * 2
        assert Asker(url, founded.member("acme").key("admin"))("/v1/runs").status == 200
        assert birch("/v1/runs").headers["ratelimit"].startswith('"requests";r=2;')
        assert [Asker(url)("/v1/runs").status for _ in range(5)] == [401] * 5  # Who may not ask takes nothing away.
        assert birch("/v1/runs").headers["ratelimit"].startswith('"requests";r=1;')
