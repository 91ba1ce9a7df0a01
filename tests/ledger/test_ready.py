"""A ledger says whether it would write, which release it is, and to a client that is too old what to do."""

import json
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing, suppress

import pytest
from ledger_service import serving
from world import World, whole

from ledger import ready
from shared_models import release
from shared_models.records.kinds import KINDS
from shared_models.records.refusals import Refusal, Refused


def get(ledger, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(ledger.url + path, body, named)) as reply:  # noqa: S310
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "EVERY_S", 0.0)
    with serving(tmp_path) as served:
        served.append(World().leaves[0])
        yield served


def code(ledger) -> str:
    """Why it is not ready."""
    status, told = get(ledger, "/readyz")
    assert (status, told["status"], bool(told["detail"]), bool(told["fix"])) == (503, 503, True, True)
    return told["code"]


def test_a_ledger_that_would_write_is_ready(ledger, tmp_path):
    assert get(ledger, "/readyz") == (200, {"status": "ready"})
    assert [each.name for each in (tmp_path / "log").iterdir() if each.name.startswith(".")] == [ready.PROBE]


def test_a_register_that_is_away_or_was_moved_on_is_said(ledger, tmp_path):
    head = tmp_path / "register" / "head"
    kept = head.read_bytes()
    head.unlink()
    assert code(ledger) == "not_set_up"
    head.write_bytes(kept.replace(b"\n1\n", b"\n2\n"))
    assert code(ledger) == "behind"
    head.write_bytes(kept)
    assert get(ledger, "/readyz")[0] == 200


def test_a_disk_that_takes_no_file_is_said(ledger, tmp_path):
    (tmp_path / "log").rename(tmp_path / "aside")
    (tmp_path / "log").write_bytes(b"")  # Nobody writes a file into a file, not even root.
    assert code(ledger) == "stopped"
    assert get(ledger, "/healthz")[0] == 200
    (tmp_path / "log").unlink()
    (tmp_path / "aside").rename(tmp_path / "log")
    assert get(ledger, "/readyz")[0] == 200


def test_a_database_that_does_not_answer_and_a_write_that_has_failed_are_said(ledger, tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        database.execute("ALTER TABLE entry RENAME TO gone")
        assert code(ledger) == "stopped"
        world = World()
        world.start()
        with suppress(Refused):
            ledger.append(world.leaves[1])
        database.execute("ALTER TABLE gone RENAME TO entry")
    assert code(ledger) == "stopped"  # Until it is started again: the disk may hold more or less than it thinks.


def test_who_asks_often_is_told_what_was_found_last(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "EVERY_S", 60.0)
    assert get(ledger, "/readyz")[0] == 200
    (tmp_path / "register" / "head").unlink()
    assert get(ledger, "/readyz")[0] == 200


def test_what_it_is_it_says_to_everybody(tmp_path):
    with serving(tmp_path, members_only=True) as ledger:
        status, told = get(ledger, "/version", User_Agent="consortium/0.0.1")
        assert get(ledger, "/readyz") == (200, {"status": "ready"})
    assert (status, told["software"], told["api"], told["oldest_client"]) == (200, release.RELEASE, "1", release.OLDEST)
    spelled = {leaf.partition(b"\n")[0].decode().rpartition("/")[2] for leaf in whole().leaves}
    assert spelled <= set(told["kinds"])
    assert len(told["kinds"]) == len(KINDS)


# Releases.


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/entries", "/v1/batch", "/events", "/overview", "/nothing"])
def test_a_client_that_is_too_old_is_told_the_command_whatever_it_asks(ledger, path):
    body = World().leaves[0] if path in ("/v1/entries", "/v1/batch") else None
    status, told = get(ledger, path, body, User_Agent="consortium/0.0.9")
    assert (status, told["code"]) == (400, "outdated")
    assert "`pip install --upgrade .`" in told["fix"]
    assert (
        told["detail"] == f"consortium/0.0.9 asks; this ledger, {release.RELEASE}, answers {release.OLDEST} and newer"
    )


def test_who_is_too_old_hears_that_and_no_broken_connection_however_much_it_sends(ledger):
    status, told = get(ledger, "/v1/artefacts/" + "0" * 64, b"x" * (8 << 20), User_Agent="consortium/0.0.9")
    assert (status, told["code"]) == (400, "outdated")


@pytest.mark.parametrize(
    "agent",
    [
        release.AGENT,
        "consortium/0.1.0 (auditor)",
        "consortium/0.10.0",
        "consortium/1.0.0",
        "curl/7.0.0",
        "",
        "Mozilla/5.0",
    ],
)
def test_everybody_else_is_answered(ledger, agent):
    assert get(ledger, "/healthz", User_Agent=agent)[0] == 200


def test_our_client_says_which_release_it_is(ledger, monkeypatch):
    assert ledger.size() == 1
    monkeypatch.setattr(release, "OLDEST", "0.1.1")
    for ask in (ledger.size, lambda: ledger.append(World().leaves[0])):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.refusal is Refusal.OUTDATED
