"""The coordinator lets in nodes: of who has joined, if their members' own keys have signed, and those registered."""

import re
import shutil
import sqlite3
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from parties import three

import client.invites
import client.join
from client.charter import leave, vote
from client.home import Home
from client.invites import admit
from client.keys import add, holder, revoke
from server.nodes import Nodes, register
from shared_models import invites
from shared_models.invites import Join
from shared_models.records.refusals import Refusal, Refused


@pytest.fixture
def consortium(tmp_path):
    """Three members, of whose nodes none is registered, with a ledger that serves; dogwood has answered an invite."""
    with three(tmp_path) as founded:
        shutil.rmtree(founded.coordinator.nodes_path)
        ticket = client.invites.invite(founded.member("acme"), "dogwood", 1, 1)
        client.join.join(ticket.text(), founded.folder / "dogwood", lambda *_: True, data="python-stdlib:0/1")
        yield founded


def admitted(founded) -> None:
    hashed = admit(founded.member("acme"), "dogwood", lambda _: True).hash
    for each in ("acme", "birch"):
        vote(founded.member(each).path, hashed, "yes")


def looking(founded, refusal: Refusal | None = None) -> tuple[Nodes, list[tuple[str, bytes]]]:
    let_in: list[tuple[str, bytes]] = []

    def welcome(member: str, key: bytes) -> None:
        let_in.append((member, key))
        if refusal is not None:
            raise Refused(refusal, "it says no")

    return Nodes(founded.coordinator.path, welcome), let_in


def node_of(founded) -> bytes:
    return (founded.folder / "dogwood" / "keys" / "node.pub").read_bytes().strip()


def test_a_node_is_let_in_once_when_its_member_is_one(consortium):
    nodes, let_in = looking(consortium)
    assert (nodes.look(), let_in) == ([], [])
    admitted(consortium)
    assert (nodes.look(), nodes.look()) == (["dogwood"], [])
    assert let_in == [("dogwood", node_of(consortium))]
    again, let_in = looking(consortium)  # After a new start.
    assert (again.look(), let_in) == (["dogwood"], [("dogwood", node_of(consortium))])


def test_who_was_let_in_by_hand_is_not_asked_for_again(consortium):
    admitted(consortium)
    nodes, let_in = looking(consortium, Refusal.CONFLICT)
    assert (nodes.look(), nodes.look(), len(let_in)) == ([], [], 1)


def test_a_superlink_that_cannot_be_reached_is_asked_again(consortium):
    admitted(consortium)
    nodes, let_in = looking(consortium, Refusal.UNREACHABLE)
    for _ in range(2):
        with pytest.raises(Refused, match="it says no"):
            nodes.look()
    assert len(let_in) == 2


def test_a_node_that_the_members_key_has_not_signed_for_is_not_let_in(consortium):
    """The ledger puts its own node in; it has the invite's answer, and every key but the member's."""
    admitted(consortium)
    answer = (consortium.folder / "dogwood" / client.join.ANSWER).read_bytes()
    join = invites.read(Join, answer).says
    home = Home(consortium.folder / "dogwood")
    swapped = replace(join, node="ecdsa-sha2-nistp384 " + "B" * 180)
    lies = [
        answer.replace(join.node.encode(), swapped.node.encode()),
        invites.sign(swapped, [home.key("admin"), home.key("witness")]),
        invites.sign(replace(swapped, member="acme"), [home.key("compute")]),
        b"nothing",
    ]
    for lie in lies:
        with sqlite3.connect(consortium.ledger / "ledger.db") as database:
            database.execute("UPDATE invite SET answer = ?", (lie,))
        database.close()
        nodes, let_in = looking(consortium)
        assert (nodes.look(), let_in) == ([], [])


def test_a_node_of_a_revoked_key_or_of_who_has_left_is_not_let_in(consortium):
    admitted(consortium)
    folder = consortium.folder / "dogwood"
    old = Home(folder).key("compute").verify_key.id.hex()
    add(holder(folder, "compute"))
    assert looking(consortium)[0].look() == ["dogwood"]
    revoke(holder(folder, "compute"), old)
    assert looking(consortium)[0].look() == []


def test_a_node_of_who_has_left_is_not_let_in(consortium):
    admitted(consortium)
    leave(consortium.folder / "dogwood", "merged")
    assert looking(consortium)[0].look() == []


def public_key(home) -> bytes:
    return (home.path / "keys" / "node.pub").read_bytes().strip()


def test_the_founders_nodes_are_let_in_after_each_start_and_wait_for_no_ledger(tmp_path):
    with three(tmp_path) as founded:
        pass  # The ledger serves no more.
    for _ in range(2):
        nodes, let_in = looking(founded)
        with pytest.raises(Refused, match="unreachable"):
            nodes.look()
        assert let_in == [(name, public_key(founded.member(name))) for name in ("acme", "birch", "cedar")]


def test_a_node_that_is_registered_takes_the_place_of_the_one_before(consortium):
    home = consortium.coordinator
    nodes, let_in = looking(consortium)
    register(home, "acme", public_key(consortium.member("acme")))
    assert nodes.look() == ["acme"]
    register(home, "acme", public_key(consortium.member("birch")))
    assert (nodes.look(), nodes.look()) == (["acme"], [])
    again, let_in = looking(consortium)
    assert (again.look(), let_in) == (["acme"], [("acme", public_key(consortium.member("birch")))])


def test_only_a_members_key_of_the_right_curve_is_registered(consortium):
    home, key = consortium.coordinator, ec.generate_private_key(ec.SECP256R1()).public_key()
    other = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    for member, public, cause in (
        ("dogwood", public_key(consortium.member("acme")), "wrong_member: 'dogwood' is no member"),
        ("../acme", public_key(consortium.member("acme")), "wrong_member: '../acme' is no member"),
        ("acme", other, "bad_field: the node key of acme is not of the curve P-384"),
        ("acme", b"nothing", "bad_field: the node key of acme: "),
    ):
        with pytest.raises(Refused, match=re.escape(cause)):
            register(home, member, public)
    assert not home.nodes_path.exists()


def test_a_registered_node_of_who_has_left_is_let_in_no_more(consortium):
    register(consortium.coordinator, "cedar", public_key(consortium.member("cedar")))
    leave(consortium.folder / "cedar", "merged")
    assert looking(consortium)[0].look() == ["cedar"]  # It has not heard of it yet.
    assert looking(consortium)[0].look() == []
