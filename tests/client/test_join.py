"""One more member: a string, four words, a vote; and everything that is refused on the way."""

import base64
import hashlib
import json
import stat
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from databases import KINDS, change, fresh

import client.invites
import client.join
from client import speed
from client.charter import propose, vote
from client.home import Home
from client.invites import admit, pending
from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from ledger.invites import KEPT_S, OPEN, Invites
from ledger.log import open_log
from shared_models import invites, words
from shared_models.invites import PREFIX, Invite, Join, Ticket
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import note
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import SigningKey, VerifyKey
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit

DAY_S = 86_400


def refused(act, *arguments, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments, **more)
    return caught.value


@pytest.fixture
def consortium(tmp_path):
    """Three members, whose ledger is not started yet."""
    return found(
        tmp_path / "parties",
        {"acme": 2, "birch": 1, "cedar": 1},
        ledger_url=f"http://127.0.0.1:{free_port()}",
        superlink="127.0.0.1:9092",
        price=PRICE,
    )


@contextmanager
def served(founded, **settings):
    port = int(founded.member("acme").settings.ledger.rpartition(":")[2])
    with serving(founded.ledger, port, **settings) as ledger:
        yield ledger


@pytest.fixture
def ledger(consortium):
    with served(consortium) as ledger:
        yield ledger


def invited(founded, member="dogwood", benefit=3, hours=1, by="acme") -> str:
    return client.invites.invite(founded.member(by), member, benefit, hours).text()


def joined(founded, text, name="dogwood", agrees=lambda *_: True, **more):
    return client.join.join(text, founded.folder / name, agrees, **{"data": "python-stdlib:0/1"} | more)


def admitted(founded, member="dogwood", by="acme", said=None):
    return admit(founded.member(by), member, lambda guest: said in (None, guest.words))


def voted(founded, hashed, who=("acme", "birch")) -> None:
    for each in who:
        vote(founded.member(each).path, hashed, "yes")


# The whole way.


@pytest.mark.parametrize("kind", KINDS)
def test_an_invited_organisation_becomes_a_member_whose_keys_speak(consortium, kind):
    with served(consortium, database_url=fresh(kind)) as ledger:
        text = invited(consortium)
        first = joined(consortium, text)
        assert (first.at, len(first.words.split())) == (None, 4)
        (guest,) = pending(consortium.member("birch"), ledger)
        assert (guest.member, guest.inviter, guest.words, guest.amendment) == ("dogwood", "acme", first.words, "")
        said = admitted(consortium, said=first.words)
        assert [each.at for each in said.changes] == [("members", "dogwood"), ("quorum",), ("approvals",)]
        voted(consortium, said.hash)
        last = joined(consortium, text)
        assert (last.at, last.words) == (3, first.words)
        assert list(pending(consortium.member("birch"), ledger)) == []

        home = Home(consortium.folder / "dogwood")
        (member,) = [each for each in home.keyring.charter.members if each.name == "dogwood"]
        assert {role: getattr(member, role) for role in MEMBER_ROLES} == {
            role: home.key(role).verify_key.text() for role in MEMBER_ROLES
        }
        assert member.benefit == 3
        assert (home.path / "ca.crt").read_bytes() == (consortium.member("acme").path / "ca.crt").read_bytes()
        assert (home.path / "charter.note").read_bytes() == consortium.charter
        assert home.settings.superlink == consortium.member("acme").settings.superlink

        file = home.path / "cheaper.toml"
        file.write_text("price = 1\n")
        for words_ in (["propose", str(file)], ["vote", "", "yes"]):
            hashed = next(iter(home.keyring.agreement.open), "")
            command = ["charter", words_[0], "--home", str(home.path), *[each or hashed for each in words_[1:]]]
            assert main(command) == 0
            home = Home(home.path)
        assert next(iter(home.keyring.agreement.open.values())).votes == {"dogwood": "yes"}
        log = fetch(reader(ledger.url))
        assert audit(log.leaves, log.head, log.hashes, charter=home.charter_entry.hash.hex()).findings == []


def test_keys_are_made_here_for_their_owner_alone_and_the_secret_is_not_kept(consortium, ledger, tmp_path):
    text = invited(consortium)
    joined(consortium, text)
    folder = consortium.folder / "dogwood"
    private = [path for path in (folder / "keys").iterdir() if path.suffix != ".pub"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    secret = Ticket.parse(text).secret.encode()
    everywhere = [path for where in (folder, consortium.ledger) for path in where.rglob("*") if path.is_file()]
    assert not [
        path
        for path in everywhere
        if secret in path.read_bytes() or bytes.fromhex(secret.decode()) in path.read_bytes()
    ]
    seeds = [path.read_text().split("+", 4)[4].strip() for path in private if path.name in ("admin.key", "compute.key")]
    assert not [
        path
        for path in consortium.ledger.rglob("*")
        if path.is_file() and any(each.encode() in path.read_bytes() for each in seeds)
    ]


def test_the_same_command_goes_on_and_changes_nothing(consortium, ledger):
    text = invited(consortium)
    first = joined(consortium, text)
    before = {path: path.read_bytes() for path in (consortium.folder / "dogwood").rglob("*") if path.is_file()}
    again = joined(consortium, text, agrees=lambda *_: pytest.fail("it was asked before"))
    assert (again.at, again.words) == (None, first.words)
    assert {path: path.read_bytes() for path in (consortium.folder / "dogwood").rglob("*") if path.is_file()} == before


def test_who_was_cut_off_before_its_answer_was_sent_goes_on(consortium, ledger, monkeypatch):
    text = invited(consortium)
    with monkeypatch.context() as offline:
        offline.setattr(LedgerHttp, "answer", lambda *_: (_ for _ in ()).throw(Refused(Refusal.UNREACHABLE, "cut")))
        assert refused(joined, consortium, text).refusal is Refusal.UNREACHABLE
    assert [guest.join for guest in pending(consortium.member("acme"), ledger)] == [None]
    assert joined(consortium, text).at is None
    assert [guest.join is None for guest in pending(consortium.member("acme"), ledger)] == [False]


def test_who_does_not_accept_the_charter_has_made_and_sent_nothing(consortium, ledger):
    text, shown = invited(consortium), []
    assert joined(consortium, text, agrees=lambda says, agreement: shown.append((says.member, agreement.hash))) is None
    assert shown == [("dogwood", consortium.member("acme").charter_entry.hash.hex())]
    assert sorted(path.name for path in consortium.folder.iterdir()) == [
        "acme",
        "admin",
        "birch",
        "cedar",
        "coordinator",
        "ledger",
    ]
    assert [guest.join for guest in pending(consortium.member("acme"), ledger)] == [None]


def test_who_joins_is_shown_what_has_changed_since_it_accepted_the_charter(consortium, ledger):
    for price, also in (("1", "before"), ("2", "behind")):
        file = consortium.folder.parent / f"{also}.toml"
        file.write_text(f"price = {price}\n")
        voted(consortium, propose(consortium.member("acme").path, file, also).hash)
        if also == "before":
            text = invited(consortium)
            joined(consortium, text)
    voted(consortium, admitted(consortium).hash)
    changed = {each.at: (each.old, each.new) for each in joined(consortium, text).changed}
    assert changed.keys() == {("price",), ("members", "dogwood"), ("quorum",), ("approvals",)}
    assert changed["price",] == (1, 2)


def test_any_member_can_admit_and_twice_is_once(consortium, ledger):
    joined(consortium, invited(consortium))
    first = admitted(consortium, by="birch")
    size = ledger.size()
    assert admitted(consortium, by="cedar") == first._replace(missing=first.missing)
    assert (admitted(consortium, by="birch").hash, ledger.size()) == (first.hash, size)
    (guest,) = pending(consortium.member("acme"), ledger)
    assert guest.amendment == first.hash


def test_the_votes_and_the_witnesses_needed_stay_more_than_half(consortium, ledger):
    for number, name in enumerate(("dogwood", "elm", "fir"), start=4):
        joined(consortium, invited(consortium, name), name)
        voted(consortium, admitted(consortium, name).hash, ("acme", "birch", "cedar")[: (number - 1) // 2 + 1])
        home = consortium.member("acme")
        home.learn_keys(ledger)
        charter = home.keyring.charter
        assert (len(charter.members), charter.approvals, charter.quorum) == (number, number // 2 + 1, number // 2 + 1)


def test_a_quorum_that_was_no_majority_is_left_as_it_is(tmp_path):
    founded = found(
        tmp_path / "parties",
        {"acme": 1, "birch": 1, "cedar": 1},
        ledger_url=f"http://127.0.0.1:{free_port()}",
        superlink="127.0.0.1:9092",
        price=PRICE,
        quorum=1,
    )
    with served(founded):
        joined(founded, invited(founded))
        assert [each.at for each in admitted(founded).changes] == [("members", "dogwood"), ("approvals",)]


# The string.


def test_a_ticket_is_one_short_string_and_reads_back():
    ticket = Ticket(ledger="https://ledger.example", invite="a" * 64, secret="0f" * 16, expires_s=1_800_000_000)
    assert Ticket.parse(ticket.text()) == ticket
    assert (ticket.text().startswith(PREFIX), len(ticket.text()) < 300) == (True, True)
    assert ticket.key("birch").verify_key == ticket.key("birch").verify_key
    other = replace(ticket, secret="0e" * 16)
    assert other.key("birch").verify_key.public != ticket.key("birch").verify_key.public


def test_the_key_of_a_ticket_is_derived_by_hkdf():
    """Test case 3 of RFC 5869 has no salt either; the derivation is held against the library's."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    ticket = Ticket(ledger="https://ledger.example", invite="a" * 64, secret="0f" * 16, expires_s=1)
    seed = HKDF(SHA256(), 32, None, b"consortium invite v1").derive(b"\x0f" * 16)
    assert ticket.key("birch").verify_key == SigningKey.of_seed("birch/invite", seed).verify_key


def test_the_forms_are_those_of_the_protocol_page():
    """Other programs rely on these bytes; a change here is a change of the protocol."""
    ticket = Ticket(ledger="https://ledger.example", invite="a" * 64, secret="0f" * 16, expires_s=1_800_000_000)
    body = (
        b'{"expires_s":1800000000,"invite":"' + b"a" * 64 + b'","ledger":"https://ledger.example","secret":"'
        b'0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"}'
    )
    checksum = hashlib.sha256(b"consortium ticket\n" + body).digest()[:4]
    assert ticket.text() == "consortium_inv_1." + base64.urlsafe_b64encode(body + checksum).decode().rstrip("=")
    text = "commons.example/join@v1\n{}\n"
    said = invites.spoken(invites.Opened(None, note.Note(text, ())))
    stretched = hashlib.scrypt(text.encode(), salt=b"consortium words v1", n=65_536, r=8, p=1, maxmem=2**27, dklen=4)
    assert said == words.spoken(stretched) == "wizard sailor filter apple"


def test_a_ticket_that_was_altered_is_named_as_such():
    text = Ticket(ledger="https://ledger.example", invite="a" * 64, secret="0f" * 16, expires_s=1).text()
    for at in range(len(PREFIX), len(text), 7):
        other = "A" if text[at] != "A" else "B"
        assert refused(Ticket.parse, text[:at] + other + text[at + 1 :]).refusal is Refusal.BAD_INVITE
    for wrong in ("", "hello", PREFIX, text[:-1], text[1:], text + "A", text + "!", text.replace("_1.", "_2.", 1)):
        assert refused(Ticket.parse, wrong).refusal is Refusal.BAD_INVITE
    assert "version 2" in refused(Ticket.parse, text.replace("_1.", "_2.", 1)).detail
    assert "checksum" in refused(Ticket.parse, text[:-1]).detail


def test_the_words_are_a_byte_each_and_cannot_be_mistaken():
    assert len(words.WORDS) == len({word[:3] for word in words.WORDS}) == 256
    assert all(word.isascii() and word.islower() and 3 <= len(word) <= 8 for word in words.WORDS)
    assert words.spoken(bytes([0, 255, 1])) == "acorn zipper actor"


# What is refused.


def test_a_ticket_that_has_ended_makes_no_folder(consortium, ledger, monkeypatch):
    text = invited(consortium)
    later = time.time() + 2 * 3_600
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(time, "time", lambda: later)
        caught = refused(joined, consortium, text)
        assert (caught.refusal, "this machine's clock" in caught.detail) == (Refusal.EXPIRED, True)
    assert not (consortium.folder / "dogwood").exists()


def test_a_second_answer_to_one_invite_is_refused_and_the_first_stands(consortium, ledger):
    text = invited(consortium)
    first = joined(consortium, text)
    caught = refused(joined, consortium, text, "somewhere-else")
    assert caught.refusal is Refusal.INVITE_USED
    assert [guest.words for guest in pending(consortium.member("acme"), ledger)] == [first.words]


def test_other_words_than_those_that_were_said_admit_nobody(consortium, ledger):
    joined(consortium, invited(consortium))
    assert refused(admitted, consortium, said="acorn acorn acorn acorn").refusal is Refusal.WRONG_WORDS
    assert ledger.size() == 1


def test_of_two_that_answer_as_the_same_member_the_words_choose(consortium, ledger):
    joined(consortium, invited(consortium), "one")
    two = joined(consortium, invited(consortium, by="birch"), "two")
    said = admitted(consortium, said=two.words)
    voted(consortium, said.hash)
    assert joined(consortium, invited_again(two, consortium), "two").at == 3
    one = client.invites.Home(consortium.folder / "one")
    assert one.key("admin").verify_key.text() not in str(two.home.keyring.charter)


def invited_again(guest, founded) -> str:
    """A ticket to go on with: what is asked of it is only which invite it is of, and where the ledger is."""
    says = invites.read(Join, (guest.home.path / client.join.ANSWER).read_bytes()).says
    ticket = Ticket(ledger=guest.home.settings.ledger, invite=says.invite, secret="0" * 32, expires_s=1)
    return ticket.text()


def test_a_name_that_a_member_has_is_refused_wherever_it_comes(consortium, ledger):
    assert refused(invited, consortium, "birch").refusal is Refusal.ALREADY_MEMBER
    assert refused(admitted, consortium, "birch").refusal is Refusal.ALREADY_MEMBER
    says = invites.read(Invite, ledger.invited(Ticket.parse(invited(consortium)).invite)).says
    taken = replace(says, member="birch", key=SigningKey.generate("birch/invite").verify_key.text())
    signed = invites.sign(taken, [consortium.member("acme").key("admin")])
    assert refused(ledger.invite, signed).refusal is Refusal.ALREADY_MEMBER


def test_another_invite_of_a_name_that_became_a_members_is_refused(consortium, ledger):
    other = invited(consortium, by="birch")
    joined(consortium, invited(consortium))
    voted(consortium, admitted(consortium).hash)
    caught = refused(joined, consortium, other, "late")
    assert (caught.refusal, (consortium.folder / "late").exists()) == (Refusal.ALREADY_MEMBER, False)


def test_who_answered_and_finds_other_keys_in_the_charter_is_told(consortium, ledger):
    text = invited(consortium)
    joined(consortium, text, "one")
    other = joined(consortium, invited(consortium, by="birch"), "two")
    voted(consortium, admitted(consortium, said=other.words).hash)
    caught = refused(joined, consortium, text, "one")
    assert (caught.refusal, "not yours" in caught.detail) == (Refusal.ALREADY_MEMBER, True)


def test_nobody_is_admitted_who_has_not_answered(consortium, ledger):
    assert refused(admitted, consortium).refusal is Refusal.NOT_FOUND
    invited(consortium)
    assert refused(admitted, consortium).refusal is Refusal.NOT_FOUND


def test_a_folder_that_holds_something_is_left_alone(consortium, ledger):
    text, folder = invited(consortium), consortium.folder / "dogwood"
    folder.mkdir()
    (folder / "thesis").write_text("years of work")
    assert refused(joined, consortium, text).refusal is Refusal.LOCKED
    assert [path.name for path in folder.iterdir()] == ["thesis"]
    (folder / "thesis").unlink()
    assert joined(consortium, text).at is None  # An empty one is none.
    assert refused(joined, consortium, invited(consortium, by="birch")).refusal is Refusal.CONFLICT


@pytest.mark.parametrize(("device", "devices"), [("h100", 1), (None, 0), ("cpu-core", -1)])
def test_a_device_that_the_charter_does_not_have_is_refused(consortium, ledger, device, devices):
    text = invited(consortium)
    assert refused(joined, consortium, text, device=device, devices=devices).refusal is Refusal.BAD_FIELD
    assert not (consortium.folder / "dogwood").exists()


def test_who_has_answered_an_invite_that_the_ledger_has_forgotten_asks_for_another(consortium, ledger):
    text = invited(consortium)
    joined(consortium, text)
    change("", consortium.ledger, "DELETE FROM invite")
    caught = refused(joined, consortium, text)
    assert (caught.refusal, "nobody was admitted" in caught.detail) == (Refusal.EXPIRED, True)


def test_an_invite_that_the_ledger_has_lost_is_refused_as_ended(consortium, ledger):
    ticket = Ticket.parse(invited(consortium))
    lost = replace(ticket, invite="0" * 64).text()
    caught = refused(joined, consortium, lost)
    assert (caught.refusal, "does not know it" in caught.detail) == (Refusal.EXPIRED, True)


def test_without_the_coordinators_authority_nobody_is_invited(consortium, ledger):
    (consortium.member("acme").path / "ca.crt").unlink()
    assert refused(invited, consortium).refusal is Refusal.NOT_SET_UP


# What the ledger takes in.


@pytest.fixture(params=KINDS)
def desk(consortium, request):
    """A ledger's table of invites without HTTP: time is what it is told."""
    log = open_log(consortium.ledger, database=fresh(request.param))
    now = SimpleNamespace(s=1_800_000_000)
    yield SimpleNamespace(table=Invites(log, lambda: now.s), now=now, log=log, founded=consortium)
    log.close()


SECRETS = iter(f"{number:032x}" for number in range(1_000_000))


def made(desk, by="acme", **changes) -> tuple[Ticket, bytes]:
    """An invite that was not sent yet, and its ticket."""
    home, member = desk.founded.member(by), changes.get("member", "dogwood")
    ticket = Ticket(ledger="http://ledger", invite="0" * 64, secret=next(SECRETS), expires_s=desk.now.s + DAY_S)
    says = Invite(
        consortium=home.charter.consortium,
        charter=home.charter_entry.hash.hex(),
        log=home.charter.log,
        superlink="fleet.example:9092",
        authority=(home.path / "ca.crt").read_text(),
        inviter=by,
        member=member,
        benefit=1,
        key=ticket.key(member).verify_key.text(),
        created_s=desk.now.s,
        expires_s=desk.now.s + DAY_S,
    )
    return ticket, invites.sign(replace(says, **changes), [home.key("admin")])


def answered(ticket: Ticket, invite: bytes, tmp_path, **changes) -> bytes:
    """The answer of an honest guest, but for these changes."""
    opened = invites.read(Invite, invite)
    says = opened.says
    keys = [SigningKey.generate(f"{says.member}/{role}", kinds[0]) for role, kinds in MEMBER_ROLES.items()]
    join = Join(
        consortium=says.consortium,
        log=says.log,
        invite=opened.hash,
        accepts=says.charter,
        member=says.member,
        **{key.name.rpartition("/")[2]: key.verify_key.text() for key in keys},
        node="ecdsa-sha2-nistp384 " + "A" * 180,
    )
    return invites.sign(replace(join, **changes), [ticket.key(says.member), *keys])


def test_an_invite_and_its_answer_are_kept_as_they_were_signed(desk, tmp_path):
    ticket, invite = made(desk)
    hashed = desk.table.take(invite)
    assert desk.table.take(invite) == hashed
    assert desk.table.all() == [{"invite": invite.decode(), "answer": None}] == [desk.table.one(hashed)]
    answer = answered(ticket, invite, tmp_path)
    for _ in range(2):
        desk.table.answer(hashed, answer)
    assert desk.table.one(hashed) == {"invite": invite.decode(), "answer": answer.decode()}
    assert refused(desk.table.answer, hashed, answered(ticket, invite, tmp_path)).refusal is Refusal.INVITE_USED
    assert refused(desk.table.one, "0" * 64).refusal is Refusal.NOT_FOUND
    assert refused(desk.table.answer, "0" * 64, answer).refusal is Refusal.NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"created_s": 1_800_000_000 - 301}, Refusal.STALE),
        ({"created_s": 1_800_000_000 + 301}, Refusal.STALE),
        ({"expires_s": 1_800_000_000}, Refusal.BAD_FIELD),
        ({"expires_s": 1_800_000_000 + 31 * DAY_S}, Refusal.BAD_FIELD),
        ({"charter": "0" * 64}, Refusal.WRONG_ORIGIN),
        ({"log": SigningKey.generate("commons.example/log").verify_key.text()}, Refusal.WRONG_ORIGIN),
        ({"consortium": "others.example"}, Refusal.WRONG_ORIGIN),
        ({"inviter": "birch"}, Refusal.WRONG_MEMBER),
        ({"key": SigningKey.generate("elm/invite").verify_key.text()}, Refusal.BAD_FIELD),
        ({"key": SigningKey.generate("dogwood/admin").verify_key.text()}, Refusal.BAD_FIELD),
        ({"key": SigningKey.generate("dogwood/invite", b"\x04").verify_key.text()}, Refusal.BAD_FIELD),
    ],
)
def test_an_invite_that_is_not_right_is_not_taken(desk, changes, refusal):
    _, invite = made(desk, **changes)
    assert refused(desk.table.take, invite).refusal is refusal
    assert desk.table.all() == []


def test_what_is_no_invite_is_not_taken(desk, tmp_path):
    ticket, invite = made(desk)
    answer = answered(ticket, invite, tmp_path)
    assert refused(desk.table.take, answer).refusal is Refusal.UNKNOWN_KIND
    assert refused(desk.table.take, invite.replace(b"commons.example/invite", b"others.example/invite", 1)).refusal in (
        Refusal.WRONG_ORIGIN,
    )
    assert refused(desk.table.take, b"x" * 20_000).refusal is Refusal.TOO_LARGE
    assert refused(desk.table.take, consortium_charter(desk)).refusal is Refusal.UNKNOWN_KIND
    assert refused(entries.open_leaf, invite, "commons.example", desk.log.books.keys).refusal is Refusal.UNKNOWN_KIND


def consortium_charter(desk) -> bytes:
    return desk.founded.charter


def test_only_the_admin_key_of_who_is_present_invites(desk):
    home = desk.founded.member("acme")
    says = invites.read(Invite, made(desk)[1]).says
    compute = invites.sign(says, [home.key("compute")])
    assert refused(desk.table.take, compute).refusal is Refusal.WRONG_MEMBER
    stranger = invites.sign(says, [SigningKey.generate("acme/admin")])
    assert refused(desk.table.take, stranger).refusal is Refusal.UNKNOWN_KEY


def test_a_member_has_so_many_open_invites_and_they_end(desk, tmp_path):
    for number in range(OPEN):
        ticket, invite = made(desk, member=f"m{number}")
        desk.table.take(invite)
    assert refused(desk.table.take, made(desk)[1]).refusal is Refusal.TOO_MANY_INVITES
    desk.table.take(made(desk, by="birch")[1])
    answer = answered(ticket, invite, tmp_path)
    desk.now.s += DAY_S
    hashed = invites.read(Invite, invite).hash
    assert refused(desk.table.answer, hashed, answer).refusal is Refusal.EXPIRED
    assert desk.table.all() == []
    desk.table.take(made(desk)[1])
    assert refused(desk.table.one, hashed).refusal is Refusal.NOT_FOUND  # It was forgotten.


def test_an_answer_waits_for_the_votes_but_not_for_ever(desk, tmp_path):
    ticket, invite = made(desk)
    hashed, answer = desk.table.take(invite), answered(ticket, invite, tmp_path)
    desk.table.answer(hashed, answer)
    desk.now.s += DAY_S + KEPT_S - 1
    desk.table.take(made(desk, member="elm")[1])
    desk.table.answer(hashed, answer)  # The same again, though its invite has ended.
    assert {each["answer"] for each in desk.table.all()} == {None, answer.decode()}
    desk.now.s += 1
    desk.table.take(made(desk, member="fir")[1])
    assert refused(desk.table.one, hashed).refusal is Refusal.NOT_FOUND


# The commands.


def test_the_commands(consortium, ledger, capsys, monkeypatch):
    acme, folder = str(consortium.member("acme").path), str(consortium.folder / "dogwood")

    def run(*command: str) -> tuple[int, str, str]:
        code = main(list(command))
        said = capsys.readouterr()
        return code, said.out, said.err

    assert run("invite", "--pending", "--home", acme) == (0, "nobody is invited\n", "")
    code, text, err = run("invite", "dogwood", "--home", acme, "--benefit", "2", "--expires", "1")
    assert (code, text.startswith(PREFIX), text.count("\n"), "consortium join INVITE" in err) == (0, True, 1, True)
    code, out, _ = run("invite", "--pending", "--home", acme)
    assert (code, out.startswith("dogwood, invited by acme: no answer yet; open until 20")) == (0, True)

    monkeypatch.setattr("builtins.input", lambda _: "n")
    code, out, _ = run("join", text.strip(), "--dir", folder)
    assert (code, out.splitlines()[-1]) == (2, "nothing was made, and nothing was sent")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    code, out, _ = run("join", text.strip(), "--dir", folder)
    assert code == 6
    assert "members/acme: benefit 2, pledge 0" in out
    assert "acme invites you to commons.example as dogwood, to be charged by benefit 2" in out
    heard = out.splitlines()[-2].partition("telephone: ")[2]
    assert len(heard.split()) == 4
    monkeypatch.setattr("sys.stdin", SimpleNamespace(readline=lambda: text))
    code, again, _ = run("join", "-", "--dir", folder)
    assert (code, again.splitlines()) == (6, out.splitlines()[-2:])

    told = json.loads(run("invite", "--pending", "--json", "--home", acme)[1])
    assert (told["schema"], [each["words"] for each in told["invites"]]) == ("consortium.invites/1", [heard])
    assert heard in run("invite", "--pending", "--home", acme)[1]
    code, _, err = run("invite", "--admit", "dogwood", "--home", acme, "--words", "acorn actor album alley")
    assert (code, err.startswith("error wrong_words")) == (2, True)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert run("invite", "--admit", "dogwood", "--home", acme)[0] == 2
    code, out, _ = run("invite", "--admit", "dogwood", "--home", acme, "--words", heard.upper())
    assert (code, out.splitlines()[0]) == (0, "  members/dogwood: nothing -> benefit 2, pledge 0")
    hashed = out.splitlines()[-1].split()[-2]
    assert hashed in run("invite", "--pending", "--home", acme)[1]
    for each in ("acme", "birch"):
        home = str(consortium.member(each).path)
        code, out, _ = run("charter", "vote", "--home", home, hashed, "yes")
        assert (code, f"  words of dogwood: {heard}" in out.splitlines()) == (0, True)
    code, out, _ = run("join", text.strip(), "--dir", folder, "--wait")
    assert (code, out.splitlines()[-1]) == (0, f"start its node: consortium up --home {folder}")
    assert out.splitlines()[-3] == "dogwood is a member: entry 3, proven in the log; the charter names your keys"
    measured = speed.kept(Home(consortium.folder / "dogwood"))
    assert out.splitlines()[-2].startswith(f"this machine trains {measured.tokens_per_s:,} tokens/s, ")
    assert out.splitlines()[:-3] == [
        "changed in the charter since you accepted it:",
        "  members/dogwood: nothing -> benefit 2, pledge 0",
        "  quorum: 2 -> 3",
        "  approvals: 2 -> 3",
    ]
    code, out, _ = run("join", text.strip(), "--dir", folder)  # Once more: it is not measured again.
    assert (code, "tokens/s" in out) == (0, False)
    code, _, err = run("join", text.strip() + "A", "--dir", folder)
    assert (code, err.startswith("error bad_invite: ")) == (2, True)


def test_nobody_at_the_keyboard_accepts_nothing(consortium, ledger, monkeypatch, capsys):
    def closed(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    text = invited(consortium)
    assert main(["join", text, "--dir", str(consortium.folder / "dogwood")]) == 2
    assert main(["join", text, "--dir", str(consortium.folder / "dogwood"), "--yes"]) == 6
    assert main(["invite", "--admit", "dogwood", "--home", str(consortium.member("acme").path)]) == 2
    assert ledger.size() == 1
    assert VerifyKey.parse(Home(consortium.folder / "dogwood").key("admin").verify_key.text())
