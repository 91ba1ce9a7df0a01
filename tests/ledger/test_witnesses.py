"""Members' cosignatures at the ledger: asked for under one head, checked, published, and counted."""

import json
import urllib.error
import urllib.request

import pytest
from ledger_service import serving, write_key
from world import CONSORTIUM, World, added, key, revoked

import ledger.witnesses
from ledger.billing import statement, witnessed
from ledger.log import open_log
from ledger.witnesses import Witnesses
from shared_models.ledger_http import LedgerHttp
from shared_models.records import merkle, note, tlog
from shared_models.records.keys import ED25519, MLDSA44, SigningKey
from shared_models.records.refusals import Refusal, Refused


@pytest.fixture
def world():
    made = World({f"m{number:02}": 1 for number in range(70)}, quorum=3)
    made.start()
    return made


@pytest.fixture
def log(tmp_path, world):
    write_key(tmp_path)
    opened = open_log(tmp_path)
    for leaf in world.leaves[:10]:
        opened.append(leaf)
    yield opened
    opened.close()


def signed(head: bytes, *names: str, time_s: int = 1_700_000_000, **keys: SigningKey) -> bytes:
    """This head with cosignatures of keys of these names; a key that signs no time signs it plainly."""
    parsed = note.parse(head)
    pens = [*map(key, names), *keys.values()]
    lines = [note.signature(parsed.text, each, None if each.verify_key.kind == ED25519 else time_s) for each in pens]
    return note.Note(parsed.text, (*parsed.signatures, *lines)).data()


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def names(data: bytes) -> list[str]:
    return [signature.name for signature in note.parse(data, tlog.HEAD_BYTES).signatures]


def test_everybody_is_asked_about_one_head_until_a_quorum_has_cosigned_it(log, world, monkeypatch):
    witnesses = Witnesses(log)
    first = witnesses.wanted(0)
    assert (tlog.unsigned(first.head).size, first.path) == (10, ())
    log.append(world.leaves[10])
    assert witnesses.wanted(4).head == first.head
    size = tlog.unsigned(first.head).size
    merkle.verify_consistency(
        4, size, log.books.tree.root(4), log.books.tree.root(size), list(witnesses.wanted(4).path)
    )
    for name in ("m00", "m01"):
        witnesses.accept(signed(first.head, f"{name}/witness"))
    assert witnesses.wanted(0).head == first.head
    witnesses.accept(signed(first.head, "m02/witness"))
    assert tlog.unsigned(witnesses.wanted(0).head).size == 11
    log.append(world.leaves[11])
    monkeypatch.setattr(ledger.witnesses, "RENEW_S", 0.0)  # Or until it was asked about for long enough.
    assert tlog.unsigned(witnesses.wanted(0).head).size == 12
    assert refused(witnesses.wanted, 13) is Refusal.NOT_FOUND


def test_the_newest_head_with_a_quorum_is_published_and_each_member_s_own(log, world):
    witnesses = Witnesses(log)
    head = witnesses.wanted(0).head
    assert refused(witnesses.published, "cosigned") is Refusal.NOT_FOUND
    assert witnesses.accept(signed(head, "m00/witness", "m00/attest")) == 2
    assert witnesses.accept(signed(head, "m00/witness")) == 0
    assert witnesses.accept(signed(head, "m00/witness", time_s=1_700_000_001)) == 1
    assert names(witnesses.published("witness/m00")) == [f"{CONSORTIUM}/log", "m00/witness"]
    assert names(witnesses.published("attest/m00")) == [f"{CONSORTIUM}/log", "m00/attest"]
    assert refused(witnesses.published, "witness/m01") is Refusal.NOT_FOUND
    for name in ("m01", "m02", "m03"):
        witnesses.accept(signed(head, f"{name}/witness"))
    cosigned = witnesses.published("cosigned")
    assert names(cosigned)[1:] == [f"m0{number}/witness" for number in range(4)]
    assert tlog.open_cosigned(cosigned, world.books.keys)[0].size == 10
    assert witnesses.state()["m00"] == {"size": 10, "time": 1_700_000_001}
    again = Witnesses(log)  # After a restart it is all there.
    assert again.published("cosigned") == cosigned
    log.append(world.leaves[10])
    assert tlog.unsigned(again.wanted(0).head).size == 11


def test_an_older_head_replaces_no_newer_one(log, world):
    witnesses = Witnesses(log)
    old = log.head.note
    log.append(world.leaves[10])
    newest = signed(log.head.note, *(f"m0{number}/witness" for number in range(3)))
    witnesses.accept(newest)
    witnesses.accept(signed(old, *(f"m0{number}/witness" for number in range(3)), time_s=1_800_000_000))
    assert tlog.unsigned(witnesses.published("cosigned")).size == 11
    assert tlog.unsigned(witnesses.published("witness/m00")).size == 11


def test_at_most_64_cosignatures_are_inline_and_the_others_are_in_their_members_own(log):
    witnesses = Witnesses(log)
    head = log.head.note
    witnesses.accept(signed(head, *(f"m{number:02}/witness" for number in range(70))))
    assert len(names(witnesses.published("cosigned"))) == 1 + 64
    assert names(witnesses.published("witness/m69"))[1:] == ["m69/witness"]


def test_two_keys_of_a_member_are_one_witness(log, world):
    second = SigningKey.generate("m00/witness", MLDSA44)
    third = SigningKey.generate("m00/witness", MLDSA44)
    for each in (second, third):
        leaf = world.sign("m00/admin", added("m00", "witness", each))
        log.append(leaf)
        world.append(leaf)
    witnesses = Witnesses(log)
    witnesses.accept(signed(log.head.note, "m00/witness", one=second, two=third))
    assert refused(witnesses.published, "cosigned") is Refusal.NOT_FOUND
    assert len(names(witnesses.published("witness/m00"))) == 1 + 3


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda _: b"nonsense", Refusal.NOT_A_NOTE),
        (lambda log: log.head.note, Refusal.UNKNOWN_KEY),
        (lambda log: signed(log.head.note, "m00/compute"), Refusal.UNKNOWN_KEY),
        (lambda log: signed(log.head.note, "stranger/witness"), Refusal.UNKNOWN_KEY),
        (lambda log: signed(log.head.note, "m00/witness").replace(b"\n10\n", b"\n9\n"), Refusal.BAD_SIGNATURE),
        (lambda log: signed(_head(log, 10), "m00/witness"), Refusal.FORK),
        (lambda log: signed(_head(log, 99), "m00/witness"), Refusal.FORK),
        (lambda log: signed(_unsigned(log), "m00/witness"), Refusal.UNKNOWN_KEY),
        (lambda log: signed(_head(log, 10, key(f"{CONSORTIUM}/admin")), "m00/witness"), Refusal.WRONG_ORIGIN),
    ],
)
def test_what_is_no_cosignature_of_this_log_is_refused(log, change, refusal):
    witnesses = Witnesses(log)
    assert refused(witnesses.accept, change(log)) is refusal
    assert witnesses.state() == {}


def _head(log, size: int, by: SigningKey | None = None) -> bytes:
    """A head of this size with another root, signed by the log's key or, as a head of its own, by another."""
    by = by or log.key
    return tlog.TreeHead(by.name, size, bytes(32)).sign(by)


def _unsigned(log) -> bytes:
    """The right head, signed by another log."""
    text = note.parse(log.head.note).text
    return note.Note(text, (note.signature(text, SigningKey.generate("other.example/log")),)).data()


def test_a_witness_whose_key_was_revoked_is_refused(log, world):
    log.append(world.sign("m00/admin", revoked("m00", "witness", key("m00/witness"))))
    assert refused(Witnesses(log).accept, signed(log.head.note, "m00/witness")) is Refusal.REVOKED


@pytest.mark.parametrize("path", ["witness/stranger", "witness/../cosigned", "other/m00", "checkpoint", "witness/"])
def test_nothing_else_is_published_here(log, path):
    assert refused(Witnesses(log).published, path) is Refusal.NOT_FOUND


# What waits for them.


def test_a_statement_is_not_signed_while_too_few_have_witnessed_what_it_covers(world):
    admin = key(f"{CONSORTIUM}/admin")
    head = world.head()
    for seen in (None, signed(head, "m00/witness", "m01/witness")):
        assert refused(statement, world.books, "2026-11", admin, seen) is Refusal.NO_QUORUM
    leaf = statement(world.books, "2026-11", admin, signed(head, "m00/witness", "m01/witness", "m02/witness"))
    world.append(leaf)


def test_an_empty_log_has_no_charter_that_says_who_must_witness_it(tmp_path):
    with serving(tmp_path) as served:
        assert refused(witnessed, served, 0, 0.0) is Refusal.NO_CHARTER


# Over HTTP.


def test_over_http(tmp_path, world):
    with serving(tmp_path) as served:
        for leaf in world.leaves[:10]:
            served.append(leaf)
        asked = tlog.AddCheckpoint.parse(served.wanted(3))
        assert tlog.unsigned(asked.head).size == 10
        assert served.cosign(signed(asked.head, *(f"m0{number}/witness" for number in range(3)))) == 3
        assert tlog.unsigned(served.read("cosigned")).size == 10
        assert names(served.read("witness/m02"))[1:] == ["m02/witness"]
        assert served.witnesses()["m01"]["size"] == 10
        with pytest.raises(Refused) as caught:
            served.cosign(asked.head)
        assert caught.value.refusal is Refusal.UNKNOWN_KEY
        assert problem(served, "/v1/cosigned", b"x" * 600_000) == (413, "too_large")
        assert problem(served, "/v1/add-checkpoint?old=11") == (404, "not_found")
        assert problem(served, "/witness/stranger") == (404, "not_found")
        assert problem(served, "/v1/run?start=5&end=5&size=9") == (404, "not_found")
        merkle.verify_run(
            [merkle.leaf_hash(leaf) for leaf in world.leaves[2:9]], 2, 10, world_root(world, 10), served.run(2, 9, 10)
        )


def world_root(world: World, size: int) -> bytes:
    return world.books.tree.root(size)


def problem(served: LedgerHttp, path: str, body: bytes | None = None) -> tuple[int, str]:
    request = urllib.request.Request(served.url + path, body)  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310
    with caught.value as error:
        return error.code, json.loads(error.read())["code"]


def test_entries_about_keys_can_be_asked_for(tmp_path, world):
    with serving(tmp_path) as served:
        served.append_all(world.leaves, world.books.keys)
        assert served.keys() == []
        leaf = world.sign("m00/admin", added("m00", "compute", key("m00/compute", 2)))
        served.append(leaf)
        index = len(world.leaves)
        assert served.keys() == served.keys(since=index) == [(index, leaf)]
        assert served.keys(since=index + 1) == []
