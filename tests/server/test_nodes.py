"""The coordinator lets in the nodes of who has joined: those that their members' own keys have signed for."""

import sqlite3
from dataclasses import replace

import pytest
from parties import three

import client.invites
import client.join
from client.charter import leave, vote
from client.home import Home
from client.invites import admit
from client.keys import add, holder, revoke
from server.nodes import Nodes
from shared_models import invites
from shared_models.invites import Join
from shared_models.records.refusals import Refusal, Refused


@pytest.fixture
def consortium(tmp_path):
    """Three members with a ledger that serves; dogwood has answered an invite."""
    with three(tmp_path) as founded:
        ticket = client.invites.invite(founded.member("acme"), "dogwood", 1, 1)
        client.join.join(ticket.text(), founded.folder / "dogwood", lambda *_: True, data="python-stdlib:0/1")
        yield founded


def admitted(founded) -> None:
    hashed = admit(founded.member("acme"), "dogwood", lambda _: True).hash
    for each in ("acme", "birch"):
        vote(founded.member(each).path, hashed, "yes")


def looking(founded, refusal: Refusal | None = None) -> tuple[Nodes, list[tuple[str, bytes]]]:
    let_in: list[tuple[str, bytes]] = []

    def register(member: str, key: bytes) -> None:
        let_in.append((member, key))
        if refusal is not None:
            raise Refused(refusal, "it says no")

    return Nodes(founded.coordinator.path, register), let_in


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
