"""Somebody wants a model that it has no right to: the operator helps it, or it helps itself."""

import base64
import hashlib
import time
import urllib.error
import urllib.request
from dataclasses import replace
from fractions import Fraction

import pytest
from ledger_service import serving
from world import CONSORTIUM, World, added, affirmed, digest, key, revoked

from shared_models.http_signatures import sign
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.kinds import FIRST, Access, Artefact, Checkpoint, Tier
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit

DATA = b"what three organisations have paid for"
NAME = hashlib.sha256(DATA).hexdigest()
TIERS = (
    Tier(name="late", share=Fraction(0), right="download", lag=2, quota=10**9),
    Tier(name="full", share=Fraction(1), right="download", lag=0, quota=10**9),
)


def artefact(name: str, by: str, checkpoints=(), parents=()) -> Artefact:
    return Artefact(
        seq=0,
        prev=FIRST,
        publisher=by,
        artefact=name,
        size=len(DATA),
        form="safetensors",
        checkpoints=tuple(Checkpoint(run="r1", round=each) for each in checkpoints),
        parents=parents,
        without=(),
    )


def access(member: str, fetch: int = 1) -> Access:
    return Access(seq=0, prev=FIRST, member=member, artefact=NAME, fetch=fetch)


def trained() -> World:
    """Two have worked and one has not; the checkpoint is embargoed for two rounds."""
    world = World(tiers=TIERS)
    world.start()
    world.round(members=["acme", "birch"])
    world.say(world.coordinator, artefact(NAME, CONSORTIUM, checkpoints=(1,)))
    return world


def findings(world: World, *more: bytes):
    """What the audit says of this world's log when an operator has put these leaves behind it, and signed it."""
    leaves = [*world.leaves, *more]
    tree = merkle.Tree()
    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
    head = tlog.TreeHead(f"{CONSORTIUM}/log", tree.size, tree.root()).sign(key(f"{CONSORTIUM}/log"))
    return audit(leaves, head, [merkle.leaf_hash(leaf) for leaf in leaves]).findings


def test_an_operator_that_grants_a_friend_what_it_may_not_have_is_found_by_every_audit():
    world = trained()
    (finding,) = findings(world, world.sign("cedar/compute", access("cedar")))
    assert (finding.index, finding.refusal) == (len(world.leaves), Refusal.NO_ACCESS)
    assert "0 rounds of run r1 have closed behind round 1" in finding.detail


def test_an_operator_cannot_invent_that_a_member_has_taken_a_model():
    world = trained()
    leaf = world.sign("acme/compute", access("acme"))
    forged = leaf.replace(b'"fetch":1', b'"fetch":2')
    assert [each.refusal for each in findings(world, forged)] == [Refusal.BAD_SIGNATURE]
    world.append(leaf)
    again = entries.peek(leaf)
    own = entries.sign(replace(again, member="birch"), CONSORTIUM, [key("acme/compute")])
    assert Refusal.WRONG_MEMBER in [each.refusal for each in findings(world, own)]


def test_an_embargo_is_not_shed_by_giving_the_weights_another_name():
    """One that may have it publishes it as derived from nothing, from older rounds, or for the coordinator."""
    world = trained()
    for author, record, refusal in [
        ("acme/admin", artefact(digest("same, renamed"), "acme"), Refusal.WRONG_LINEAGE),
        ("acme/admin", artefact(digest("same, renamed"), "acme", checkpoints=(1,)), Refusal.WRONG_LINEAGE),
        ("acme/admin", artefact(NAME, "acme", parents=(NAME,)), Refusal.CONFLICT),
        ("acme/admin", artefact(digest("same"), CONSORTIUM, checkpoints=(1,)), Refusal.WRONG_ROLE),
    ]:
        with pytest.raises(Refused) as caught:
            world.say(author, record)
        assert caught.value.refusal is refusal
    world.say("acme/admin", artefact(digest("tuned"), "acme", parents=(NAME,)))
    assert not world.books.access("cedar", digest("tuned")).granted


def test_work_that_may_be_a_thief_s_opens_nothing():
    """acme's key was stolen and has worked: what is disputed does not count, until acme affirms it."""
    world = trained()
    assert world.books.access("acme", NAME).granted
    world.say("acme/compute", access("acme"))
    new = key("acme/compute", 2)
    world.say("acme/admin", added("acme", "compute", new))
    world.say("acme/admin", revoked("acme", "compute", key("acme/compute")))
    assert not world.books.access("acme", NAME, anew=False).granted
    world.say("acme/admin", affirmed("acme", "compute", key("acme/compute"), 0, len(world.leaves) - 3))
    assert world.books.access("acme", NAME, anew=False).granted


def test_a_request_that_was_overheard_is_good_for_nothing_else(tmp_path):
    """cedar has read acme's request from the wire, and its entry from the log, which everybody can."""
    world = trained()
    world.say("acme/compute", access("acme"))
    at = len(world.leaves) - 1
    (tmp_path / "artefacts").mkdir()
    (tmp_path / "artefacts" / NAME).write_bytes(DATA)
    path, query = f"/v1/artefacts/{NAME}", f"?access={at}"
    parts = {"@method": "GET", "@path": path, "@query": query, "range": "bytes=0-3"}
    with serving(tmp_path) as ledger:
        for leaf in world.leaves:
            ledger.append(leaf)

        def ask(headers: dict[str, str]) -> bytes:
            request = urllib.request.Request(ledger.url + path + query, headers=headers)  # noqa: S310
            with urllib.request.urlopen(request) as reply:  # noqa: S310
                return reply.read()

        heard = sign(parts, key("acme/compute"), int(time.time()))
        assert ask(heard | {"Range": "bytes=0-3"}) == DATA[:4]
        raw = base64.b64encode(key("cedar/compute").sign(b"anything")).decode()
        for theft in (
            heard,  # All of it,
            heard | {"Range": "bytes=4-"},  # the rest of it,
            heard | {"Range": "bytes=0-3", "Signature": f"sig=:{raw}:"},
            sign(parts, key("cedar/compute"), int(time.time())) | {"Range": "bytes=0-3"},  # or in its own name.
            sign(parts, key("acme/compute"), int(time.time()) - 3_600) | {"Range": "bytes=0-3"},
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                ask(theft)
            assert caught.value.code == 422
            caught.value.close()
