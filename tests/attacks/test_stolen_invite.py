"""Somebody wants to become a member in another's place: it has stolen the ledger's table, the string, or the line."""

import sqlite3
from contextlib import contextmanager
from dataclasses import replace

import pytest
from parties import three

import client.invites
import client.join
from client.charter import put, vote
from client.home import Home, Settings, create
from client.invites import admit, pending
from client.keys import add, holder, revoke
from consortium.found import PRICE, found
from ledger.api import serving
from shared_models import invites
from shared_models.invites import Invite, Join, Ticket
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Leave, Vote
from shared_models.records.refusals import Refusal, Refused
from shared_models.records.tlog import Proof


def refused(act, *arguments, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments, **more)
    return caught.value


@pytest.fixture
def consortium(tmp_path):
    """Three members and their ledger, which serves."""
    with three(tmp_path) as founded:
        yield founded


def ledger_of(founded) -> LedgerHttp:
    return LedgerHttp(founded.member("acme").settings.ledger)


def invited(founded) -> str:
    return client.invites.invite(founded.member("acme"), "dogwood", 1, 1).text()


def joined(founded, text: str, name: str = "dogwood"):
    return client.join.join(text, founded.folder / name, lambda *_: True, data="python-stdlib:0/1")


def thief(folder) -> dict[str, SigningKey]:
    """Keys under the victim's name, made by who wants to be it."""
    home = create(folder, Settings(member="dogwood", ledger="", superlink="", data="", device="cpu-core", devices=1))
    return {role: home.key(role) for role in MEMBER_ROLES}


def forged(opened, keys: dict[str, SigningKey], signers: list[SigningKey], **changes) -> bytes:
    says = opened.says
    join = Join(
        consortium=says.consortium,
        log=says.log,
        invite=opened.hash,
        accepts=says.charter,
        member=says.member,
        **{role: key.verify_key.text() for role, key in keys.items()},
        node="ecdsa-sha2-nistp384 " + "A" * 180,
    )
    return invites.sign(replace(join, **changes), signers)


def rows(founded) -> list[tuple]:
    with sqlite3.connect(founded.ledger / "ledger.db") as database:
        found_ = database.execute("SELECT * FROM invite").fetchall()
    database.close()
    return found_


def test_who_has_copied_the_ledgers_table_cannot_answer(consortium, tmp_path):
    invited(consortium)
    ((hashed, _, _, _, invite, answer),) = rows(consortium)
    assert answer is None
    opened, keys = invites.read(Invite, invite), thief(tmp_path / "thief")
    for signer in (SigningKey.generate("dogwood/invite"), SigningKey.of_seed("dogwood/invite", bytes.fromhex(hashed))):
        lie = forged(opened, keys, [signer, *keys.values()])
        caught = refused(ledger_of(consortium).answer, hashed, lie)
        assert (caught.refusal, "dogwood/invite" in caught.detail) == (Refusal.BAD_SIGNATURE, True)
    assert refused(ledger_of(consortium).answer, hashed, forged(opened, keys, [*keys.values()])).refusal is (
        Refusal.BAD_SIGNATURE
    )
    assert [guest.join for guest in pending(consortium.member("acme"), ledger_of(consortium))] == [None]


def test_a_ledger_that_writes_its_own_answer_is_not_believed(consortium, tmp_path):
    """It has everything but the ticket; what it shows is not even listed, and nobody is admitted."""
    invited(consortium)
    ((*_, invite, _),) = rows(consortium)
    keys = thief(tmp_path / "thief")
    lie = forged(invites.read(Invite, invite), keys, [SigningKey.generate("dogwood/invite"), *keys.values()])
    with sqlite3.connect(consortium.ledger / "ledger.db") as database:
        database.execute("UPDATE invite SET answer = ?", (lie,))
    database.close()
    assert ledger_of(consortium).invites() == [(invite, lie)]
    assert list(pending(consortium.member("acme"), ledger_of(consortium))) == []
    assert refused(admit, consortium.member("acme"), "dogwood", lambda _: True).refusal is Refusal.NOT_FOUND


def test_a_ledger_cannot_make_up_an_invite(consortium, tmp_path):
    acme = consortium.member("acme")
    ticket = Ticket.parse(invited(consortium))
    says = invites.read(Invite, ledger_of(consortium).invited(ticket.invite)).says
    own = Ticket(ledger=ticket.ledger, invite="0" * 64, secret="1" * 32, expires_s=ticket.expires_s)
    made_up = replace(says, key=own.key("dogwood").verify_key.text())
    with opened_database(consortium) as database:
        for signer in (SigningKey.generate("acme/admin"), SigningKey.load(consortium.ledger / "log.key")):
            fake = invites.sign(made_up, [signer])
            database.execute("UPDATE invite SET invite = ?, hash = ?", (fake, invites.read(Invite, fake).hash))
            database.commit()
            assert list(pending(acme, ledger_of(consortium))) == []
            caught = refused(joined, consortium, replace(own, invite=invites.read(Invite, fake).hash).text())
            assert caught.refusal in (Refusal.UNKNOWN_KEY, Refusal.WRONG_MEMBER)
    assert not (consortium.folder / "dogwood").exists()


@contextmanager
def opened_database(founded):
    database = sqlite3.connect(founded.ledger / "ledger.db")
    yield database
    database.close()


def test_who_has_stolen_the_string_and_was_quicker_has_other_words(consortium):
    """The thief answers; the one who was meant is told that the invite was used, and its words are not the thief's."""
    text = invited(consortium)
    first = joined(consortium, text, "thief")
    assert refused(joined, consortium, text).refusal is Refusal.INVITE_USED
    meant = invites.read(Join, (consortium.folder / "dogwood" / client.join.ANSWER).read_bytes())
    assert invites.spoken(meant) != first.words
    said = invites.spoken(meant).split()
    caught = refused(admit, consortium.member("acme"), "dogwood", lambda guest: guest.words.split() == said)
    assert caught.refusal is Refusal.WRONG_WORDS
    assert ledger_of(consortium).size() == 1


@pytest.mark.parametrize("role", [*MEMBER_ROLES, "node"])
def test_whoever_swaps_one_key_on_the_line_changes_the_words(consortium, tmp_path, role):
    """Even with the string in hand, so that the ledger and every member find all signatures right."""
    text = invited(consortium)
    ticket = Ticket.parse(text)
    opened = invites.read(Invite, ledger_of(consortium).invited(ticket.invite))
    keys, other = thief(tmp_path / "one"), thief(tmp_path / "two")
    honest = forged(opened, keys, [ticket.key("dogwood"), *keys.values()])
    if role == "node":
        swapped = forged(opened, keys, [ticket.key("dogwood"), *keys.values()], node="ecdsa-sha2-nistp384 " + "B" * 180)
    else:
        keys = {**keys, role: other[role]}
        swapped = forged(opened, keys, [ticket.key("dogwood"), *keys.values()])
    ledger_of(consortium).answer(ticket.invite, swapped)
    (guest,) = pending(consortium.member("acme"), ledger_of(consortium))
    assert guest.words != invites.spoken(invites.read(Join, honest))


@pytest.mark.parametrize("role", list(MEMBER_ROLES))
def test_a_key_whose_holder_has_not_signed_is_nobodys_to_bring(consortium, tmp_path, role):
    """Another's key under one's own name: its work would be billed to who has brought it, or the other way round."""
    ticket = Ticket.parse(invited(consortium))
    opened = invites.read(Invite, ledger_of(consortium).invited(ticket.invite))
    keys = thief(tmp_path / "thief")
    stolen = consortium.member("birch").key(role).verify_key
    named = replace_name(stolen, f"dogwood/{role}")
    others = [key for name, key in keys.items() if name != role]
    for signers in (others, [*others, keys[role]], [*others, consortium.member("birch").key(role)]):
        lie = forged(opened, keys, [ticket.key("dogwood"), *signers], **{role: named})
        caught = refused(ledger_of(consortium).answer, ticket.invite, lie)
        assert (caught.refusal, f"dogwood/{role}" in caught.detail) == (Refusal.BAD_SIGNATURE, True)
    lie = forged(opened, keys, [ticket.key("dogwood"), *keys.values()], **{role: stolen.text()})
    assert refused(ledger_of(consortium).answer, ticket.invite, lie).refusal is Refusal.BAD_FIELD


def replace_name(key, name: str) -> str:
    return replace(key, name=name).text()


def test_an_answer_to_another_invite_is_none_to_this_one(consortium, tmp_path):
    tickets = [Ticket.parse(invited(consortium)) for _ in range(2)]
    one, other = (invites.read(Invite, ledger_of(consortium).invited(each.invite)) for each in tickets)
    keys = thief(tmp_path / "thief")
    both = [each.key("dogwood") for each in tickets]
    answer = forged(one, keys, [*both, *keys.values()])
    assert refused(ledger_of(consortium).answer, tickets[1].invite, answer).refusal is Refusal.WRONG_ORIGIN
    for changes in ({"member": "elm"}, {"log": SigningKey.generate("commons.example/log").verify_key.text()}):
        lie = forged(other, keys, [*both, *keys.values()], **changes)
        assert refused(ledger_of(consortium).answer, tickets[1].invite, lie).refusal is Refusal.WRONG_ORIGIN


def test_an_answer_is_no_entry_and_a_signature_of_it_is_good_for_nothing_else(consortium):
    """The new keys sign it; one that cosigns heads must not have cosigned one by that."""
    joined(consortium, invited(consortium))
    answer = (consortium.folder / "dogwood" / client.join.ANSWER).read_bytes()
    home = Home(consortium.folder / "dogwood")
    keys = note.known([home.key(role).verify_key for role in MEMBER_ROLES])
    assert refused(entries.open_leaf, answer, "commons.example", keys).refusal is Refusal.UNKNOWN_KIND
    assert refused(ledger_of(consortium).append, answer).refusal is Refusal.UNKNOWN_KEY
    assert refused(tlog.open_cosigned, answer, keys).refusal is Refusal.BAD_PROOF


def test_a_used_invite_that_is_sent_again_brings_nobody_in(consortium, tmp_path):
    """Not before the vote, not behind it, and not when it has been forgotten: it was made too long ago then."""
    text = invited(consortium)
    ticket, ledger = Ticket.parse(text), ledger_of(consortium)
    joined(consortium, text)
    invite = ledger.invited(ticket.invite)
    ledger.invite(invite)  # The same again changes nothing.
    keys = thief(tmp_path / "thief")
    lie = forged(invites.read(Invite, invite), keys, [ticket.key("dogwood"), *keys.values()])
    assert refused(ledger.answer, ticket.invite, lie).refusal is Refusal.INVITE_USED
    hashed = admit(consortium.member("acme"), "dogwood", lambda _: True).hash
    for each in ("acme", "birch"):
        vote(consortium.member(each).path, hashed, "yes")
    assert refused(ledger.answer, ticket.invite, lie).refusal is Refusal.INVITE_USED
    assert refused(ledger.invite, invite).refusal is Refusal.ALREADY_MEMBER


def test_an_invite_and_its_answer_give_no_voice_before_the_vote(consortium):
    text = invited(consortium)
    joined(consortium, text)
    home, ledger = Home(consortium.folder / "dogwood"), ledger_of(consortium)
    said = admit(consortium.member("acme"), "dogwood", lambda _: True)
    for record in (
        Vote(seq=0, prev=FIRST, member="dogwood", amendment=said.hash, choice="yes"),
        Leave(seq=0, prev=FIRST, member="dogwood", reason=""),
    ):
        leaf = entries.sign(record, "commons.example", [home.key("admin")])
        assert refused(ledger.append, leaf).refusal is Refusal.UNKNOWN_KEY
    vote(consortium.member("acme").path, said.hash, "yes")
    assert joined(consortium, text).at is None  # One of three is not enough.
    vote(consortium.member("cedar").path, said.hash, "yes")
    assert joined(consortium, text).at == 3


def test_a_member_that_proposes_its_own_keys_under_the_guests_name_is_seen(consortium, tmp_path):
    """acme invites, and then puts other keys to the vote: they are no answer's, so voters are shown no words of it."""
    joined(consortium, invited(consortium))
    acme, ledger = consortium.member("acme"), ledger_of(consortium)
    acme.learn_keys(ledger)
    keys = {role: key.verify_key.text() for role, key in thief(tmp_path / "thief").items()}
    said = put(acme, ledger, {"members": {"dogwood": {**keys, "benefit": 1}}, "approvals": 3}, "sly")
    (guest,) = pending(consortium.member("birch"), ledger)
    assert (guest.amendment, said.hash in consortium.member("birch").keyring.agreement.open) == ("", True)
    assert guest.words


def test_a_string_that_was_bent_to_another_log_is_noticed(consortium, tmp_path):
    """Whoever can alter the string can lead a guest to a consortium of its own: then no member hears its words."""
    port = free_port()
    evil = found(
        tmp_path / "evil", {"acme": 1, "birch": 1}, ledger_url=f"http://127.0.0.1:{port}", superlink="x:1", price=PRICE
    )
    text = invited(consortium)
    with serving(evil.ledger, port):
        bent = invited(evil)
        mixed = replace(Ticket.parse(text), ledger=f"http://127.0.0.1:{port}").text()
        assert refused(joined, consortium, mixed).refusal is Refusal.EXPIRED  # The other log knows no such invite.
        words = joined(consortium, bent).words
    assert [guest.words for guest in pending(consortium.member("acme"), ledger_of(consortium))] == [""]
    assert words


def test_a_ledger_that_shows_another_invite_or_another_beginning_is_refused(consortium, monkeypatch):
    text = invited(consortium)
    other = ledger_of(consortium).invited(Ticket.parse(invited(consortium)).invite)
    with monkeypatch.context() as lying:
        lying.setattr(LedgerHttp, "invited", lambda *_: other)
        assert refused(joined, consortium, text).refusal is Refusal.BAD_INVITE
    with monkeypatch.context() as lying:
        lying.setattr(client.join, "leaf_at", lambda *_: consortium.charter[:-10])
        assert refused(joined, consortium, text).refusal is Refusal.WRONG_ORIGIN
    with monkeypatch.context() as lying:
        proof = Proof(0, (b"0" * 32,), ledger_of(consortium).read(tlog.HEAD))
        lying.setattr(LedgerHttp, "proof", lambda *_: proof)
        assert refused(joined, consortium, text).refusal is Refusal.BAD_PROOF
    wrong_secret = replace(Ticket.parse(text), secret="0" * 32).text()
    assert refused(joined, consortium, wrong_secret).refusal is Refusal.BAD_INVITE
    assert not (consortium.folder / "dogwood").exists()


def test_a_charter_in_force_that_the_log_does_not_hold_makes_nobody_a_member(consortium, monkeypatch):
    """Votes come from the ledger: that they stand in the log is proven to who joins, under the key of the string."""
    text = invited(consortium)
    joined(consortium, text)
    hashed = admit(consortium.member("acme"), "dogwood", lambda _: True).hash
    for each in ("acme", "birch"):
        vote(consortium.member(each).path, hashed, "yes")
    proof = LedgerHttp.proof
    for wrong in (1, 3):
        with monkeypatch.context() as lying:
            lying.setattr(LedgerHttp, "proof", lambda self, at, wrong=wrong: proof(self, 2 if at == wrong else at))
            assert refused(joined, consortium, text).refusal is Refusal.BAD_PROOF
    assert joined(consortium, text).at == 3


def test_a_revoked_key_invites_nobody_and_what_it_had_invited_is_void(consortium):
    text, acme, ledger = invited(consortium), consortium.member("acme"), ledger_of(consortium)
    old = acme.key("admin")
    add(holder(acme.path, "admin"))
    kept = invites.read(Invite, ledger.invited(Ticket.parse(text).invite))
    revoke(holder(acme.path, "admin"), old.verify_key.id.hex())
    assert refused(ledger.invite, invites.sign(replace(kept.says, benefit=9), [old])).refusal is Refusal.REVOKED
    assert refused(joined, consortium, text).refusal is Refusal.REVOKED
    assert list(pending(consortium.member("birch"), ledger)) == []


def test_who_has_left_invites_nobody(consortium):
    text = invited(consortium)
    acme, ledger = consortium.member("acme"), ledger_of(consortium)
    acme.say(ledger, acme.key("admin"), Leave(seq=0, prev=FIRST, member="acme", reason=""))
    assert refused(invited, consortium).refusal is Refusal.WRONG_MEMBER
    assert refused(joined, consortium, text).refusal is Refusal.WRONG_MEMBER
    assert list(pending(consortium.member("birch"), ledger)) == []
