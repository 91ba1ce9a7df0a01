"""Who asks for too much is told when to come again, and nobody else notices; what one has already is not sent again."""

import json
import urllib.error
import urllib.request
from email.message import Message

import pytest
from ledger_service import serving
from world import World

from ledger.limits import KEPT, Limits
from shared_models.ledger_http import LedgerHttp
from shared_models.records import tlog


class Clock:
    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock():
    return Clock()


def get(ledger: LedgerHttp, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Message, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(ledger.url + path, body, named)) as reply:  # noqa: S310
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


# The count.


def test_all_of_a_minute_may_be_asked_for_at_once_and_then_as_it_comes_back(clock):
    limits = Limits(60, clock)
    said = [limits.take("acme") for _ in range(61)]
    assert [wait for wait, _ in said[:60]] == [0.0] * 60
    assert [left for _, left in said[:2]] == ['"requests";r=59;t=1', '"requests";r=58;t=2']
    assert said[59][1] == '"requests";r=0;t=60'
    assert said[60] == (pytest.approx(1.0), '"requests";r=0;t=60')
    assert limits.policy == '"requests";q=60;w=60'
    clock.s += 0.5
    assert limits.take("acme")[0] == pytest.approx(0.5)
    clock.s += 0.5
    assert limits.take("acme") == (0.0, '"requests";r=0;t=60')
    clock.s += 3_600
    assert limits.take("acme") == (0.0, '"requests";r=59;t=1')


def test_nobody_pays_for_another(clock):
    limits = Limits(2, clock)
    assert [limits.take("acme")[0] > 0 for _ in range(3)] == [False, False, True]
    assert limits.take("birch")[0] == 0.0


def test_whoever_waits_is_not_counted(clock):
    limits = Limits(1, clock)
    waits = [limits.take("acme")[0] for _ in range(5)]
    assert waits == [0.0, *[pytest.approx(60.0)] * 4]
    clock.s += 60.0
    assert limits.take("acme")[0] == 0.0


def test_it_does_not_remember_everybody_for_ever(clock):
    limits = Limits(2, clock)
    for number in range(KEPT + 5):
        limits.take(f"first {number}")
    assert len(limits._full) == KEPT
    clock.s += 60.0
    limits.take("another")
    assert len(limits._full) == 1


# Over HTTP.


@pytest.fixture
def world():
    world = World()
    world.start()
    world.round()
    return world


def test_who_asks_for_too_much_is_told_when_to_come_again(tmp_path, world):
    with serving(tmp_path, requests=3) as ledger:
        said = [get(ledger, "/v1/runs") for _ in range(4)]
        assert [status for status, _, _ in said] == [200, 200, 200, 429]
        assert [headers["RateLimit-Policy"] for _, headers, _ in said] == ['"requests";q=3;w=60'] * 4
        assert [headers["RateLimit"][:14] for _, headers, _ in said] == [f'"requests";r={n}' for n in (2, 1, 0, 0)]
        _, headers, body = said[3]
        told = json.loads(body)
        assert (headers["Content-Type"], told["code"], told["status"]) == ("application/problem+json", "busy", 429)
        assert 1 <= int(headers["Retry-After"]) <= 20
        assert get(ledger, "/v1/artefacts/" + "0" * 64, b"x" * 1_000_000)[0] == 429
        for path in ("/healthz", "/readyz", "/version"):
            status, headers, _ = get(ledger, path)
            assert (status, headers["RateLimit"]) == (200, None)


def test_behind_a_proxy_on_this_machine_each_has_a_limit_of_its_own(tmp_path):
    with serving(tmp_path, requests=1) as ledger:
        asked = [get(ledger, "/v1/keys", X_Forwarded_For=each)[0] for each in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
    assert asked == [200, 200, 429]


def test_what_is_appended_is_counted_in_no_limit_and_no_receipt_is_lost_to_one(tmp_path, world):
    with serving(tmp_path, requests=1) as ledger:
        assert get(ledger, "/v1/runs")[0] == 200
        assert get(ledger, "/v1/runs")[0] == 429
        for leaf in world.leaves[:4]:
            ledger.append(leaf)
        found = get(ledger, "/v1/batch", tlog.pack(world.leaves[4:]))
        assert found[0] == 200
        assert ledger.size() == len(world.leaves)


# What one has already.


@pytest.fixture
def ledger(tmp_path, world):
    with serving(tmp_path) as served:
        for leaf in world.leaves[:-1]:
            served.append(leaf)
        yield served


@pytest.mark.parametrize(
    "path", ["/v1/tables/receipt?limit=2", "/v1/runs", "/v1/keys", "/v1/authors/acme/compute", "/v1/tables/member"]
)
def test_what_one_has_is_not_sent_again_until_the_log_has_grown(ledger, world, path):
    status, headers, body = get(ledger, path)
    tag = headers["ETag"]
    assert (status, headers["Cache-Control"], tag[0], tag[-1]) == (200, "no-cache", '"', '"')
    for said in (tag, f'"another", {tag}', f"W/{tag}", "*"):
        status, headers, none = get(ledger, path, If_None_Match=said)
        assert (status, headers["ETag"], none) == (304, tag, b"")
    assert get(ledger, path, If_None_Match='"another"')[2] == body
    ledger.append(world.leaves[-1])
    status, headers, _ = get(ledger, path, If_None_Match=tag)
    assert (status, headers["ETag"] == tag) == (200, False)


def test_a_page_names_the_address_of_the_next_one_and_the_last_none(ledger, world):
    rows, path, pages = [], "/v1/tables/key?limit=4", 0
    while path:
        status, headers, body = get(ledger, path)
        assert status == 200
        rows += json.loads(body)["rows"]
        link, pages = headers["Link"], pages + 1
        path = link and link.removeprefix("<").removesuffix('>; rel="next"')
        assert (link is None) == (json.loads(body)["next"] is None)
    assert pages > 2
    assert rows == json.loads(get(ledger, "/v1/tables/key")[2])["rows"]
