"""A member changes the charter from its folder: what it writes, what it is shown, and what everybody then goes by."""

import json
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import pytest
from parties import BUNDLE, Parties
from world import TOY as TINY
from world import charter as toy
from world import pot, vkey

from client import charter
from client.charter import changed, read
from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from ledger.billing import witnessed
from server.launch import propose
from shared_models.bundle import Bundle
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, Amendment, Coalition, Vote
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import changes

TOY = toy({"acme": 2, "birch": 1})


def refused(act, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value


@pytest.fixture
def founded(tmp_path):
    return found(
        tmp_path / "parties",
        {"acme": 2, "birch": 1, "cedar": 1},
        ledger_url=f"http://127.0.0.1:{free_port()}",
        superlink="127.0.0.1:0",
        price=PRICE,
        quorum=0,
    )


@contextmanager
def served(founded):
    port = int(founded.member("acme").settings.ledger.rpartition(":")[2])
    with serving(founded.ledger, port) as ledger:
        ledger.append(founded.charter)
        yield ledger


# What a person writes.


def test_what_a_file_says_is_put_into_the_charter_exactly(tmp_path):
    text = """
        price = 12.1
        quorum = 1
        [members.acme]
        benefit = 7
        [members.aa]
        benefit = 1
        admin = "%s"
        compute = "%s"
        witness = "%s"
        attest = "%s"
        [pots.services]
        rule = "shapley"
        table = [{members = ["acme"], cost = 3}]
        [pots.mail]
        rule = "equal"
        floors = {birch = 5, acme = 1}
        caps = {acme = 9}
        [tiers.full]
        share = "1/3"
        right = "use"
        lag = 0
        quota = 5
        [tiers.free]
        share = 0
        right = "use"
        lag = 8
        quota = 0
    """ % tuple(vkey(f"aa/{role}") for role in ("admin", "compute", "witness", "attest"))  # noqa: UP031
    (tmp_path / "new.toml").write_text(text)
    new = changed(TOY, read(tmp_path / "new.toml"))
    assert (new.price, new.quorum, new.currency) == (Fraction(121, 10), 1, TOY.currency)
    assert [(each.name, each.benefit, each.pledge) for each in new.members] == [
        ("aa", 1, 0),
        ("acme", 7, 0),
        ("birch", 1, 0),
    ]
    table = (Coalition(members=("acme",), cost=3),)
    mail = pot("mail", "equal", floors={"acme": 1, "birch": 5}, caps={"acme": 9})
    assert new.pots == (TOY.pots[0], replace(TOY.pots[1], rule="shapley", table=table), mail)
    assert [(each.name, each.share) for each in new.tiers] == [("free", 0), ("full", Fraction(1, 3))]
    (tmp_path / "new.json").write_text(json.dumps({"price": "1/3", "accession": 0.25, "tiers": {"full": False}}))
    again = changed(new, read(tmp_path / "new.json"))
    assert (again.price, again.accession) == (Fraction(1, 3), Fraction(1, 4))
    assert again.tiers == new.tiers[:1]


@pytest.mark.parametrize(
    "asked",
    [
        {"prize": 1},
        {"kind": "vote"},
        {"quorum": "1"},
        {"quorum": -1},
        {"price": "cheap"},
        {"currency": "eur"},
        {"members": ["acme"]},
        {"members": {"acme": {"name": "birch"}}},
        {"members": {"acme": 5}},
        {"members": {"dora": {"benefit": 1}}},
        {"pots": {"mail": {"rule": "shapley", "table": 5}}},
        {"pots": {"mail": {"rule": "equal", "caps": 5}}},
        {"pots": {"mail": {"rule": "equal", "caps": {"acme": "5"}}}},
        {"pots": {"mail": {"rule": "equal", "floors": {"acme": -1}}}},
        {"pots": {"mail": {"rule": "shapley", "table": [{"members": ["acme"]}]}}},
        {"pots": {"mail": {"rule": "shapley", "table": [{"members": "acme", "cost": 1}]}}},
    ],
)
def test_what_no_charter_has_is_refused(asked):
    assert refused(changed, TOY, asked).refusal is Refusal.BAD_FIELD


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert refused(read, tmp_path / "nothing.toml").refusal is Refusal.NOT_FOUND
    for name, text in (("a.toml", "price ="), ("a.json", "{"), ("b.json", "[1]")):
        (tmp_path / name).write_text(text)
        assert refused(read, tmp_path / name).refusal is Refusal.BAD_FIELD


def test_every_change_is_shown_with_what_was_there_before():
    new = changed(
        TOY,
        {
            "price": 2,
            "members": {"acme": {"benefit": 5}},
            "pots": {"mail": {"rule": "equal", "caps": {"acme": 9}}},
            "quorum": 1,
        },
    )
    assert charter.lines(list(changes(TOY, new))) == [
        "  price: 100000000000000 -> 2",
        "  pots/mail: nothing -> rule equal, driver benefit, table none, floors none, caps acme 9",
        "  members/acme/benefit: 2 -> 5",
        "  quorum: 0 -> 1",
    ]


# From the command line to what everybody goes by.


def test_the_commands(founded, tmp_path, capsys):
    file = tmp_path / "cheaper.toml"
    file.write_text("price = 1\nquorum = 2\n")
    homes = {name: str(founded.member(name).path) for name in founded.members}
    with served(founded) as ledger:
        assert witnessed(ledger, 1, 0) is None
        assert main(["charter", "propose", "--home", homes["acme"], str(file)]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[:2] == ["  price: 4000000000 -> 1", "  quorum: 0 -> 2"]
        hashed = said[2].split()[1]
        assert said[2].endswith("is entry 1; it takes 2 votes, yours too:")
        assert main(["charter", "show", ledger.url]) == 0
        shown = capsys.readouterr().out
        assert f"amendment cheaper of acme, {hashed}\n  price: 4000000000 -> 1\n  quorum: 0 -> 2\n" in shown
        assert "votes: none yet; 2 more needed; not voted: acme, birch, cedar" in shown
        assert main(["charter", "vote", "--home", homes["acme"], "0" * 64, "yes"]) == 2
        assert main(["charter", "vote", "--home", homes["acme"], hashed, "yes"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said == [
            "  price: 4000000000 -> 1",
            "  quorum: 0 -> 2",
            "your vote, yes, is entry 2; 1 more needed; not voted: birch, cedar",
        ]
        assert main(["charter", "vote", "--home", homes["acme"], hashed, "no"]) == 2
        assert main(["charter", "show", ledger.url, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        (proposal,) = told["open"]
        assert (told["schema"], told["needed"], proposal["votes"]) == ("consortium.charter/1", 2, {"acme": "yes"})
        assert proposal["changes"][0] == {"at": ["price"], "old": "4000000000", "new": "1"}
        assert main(["charter", "vote", "--home", homes["birch"], hashed, "yes"]) == 0
        assert "is entry 3; it is in force" in capsys.readouterr().out
        assert main(["leave", "--home", homes["cedar"], "--reason", "merged"]) == 0
        assert main(["leave", "--home", homes["cedar"], "--reason", "again"]) == 2
        assert main(["charter", "propose", "--home", homes["cedar"], str(file), "--name", "b"]) == 2
        capsys.readouterr()
        assert main(["charter", "show", ledger.url]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"charter {hashed}\n")
        assert ("price: 1\n" in shown, "left: cedar, entry 4" in shown, ledger.size()) == (True, True, 5)
        assert main(["audit", ledger.url, "--home", homes["acme"]]) == 0
        assert refused(witnessed, ledger, 5, 0).refusal is Refusal.NO_QUORUM
        home = founded.coordinator
        home.learn_keys(ledger)
        manifest = propose(
            home.keyring.agreement, "r1", TINY, Bundle(b"", BUNDLE), rounds=1, quorum=None, deadline_ms=60_000
        )
        assert (manifest.charter, manifest.members) == (hashed, ("acme", "birch"))
        home.say(ledger, home.key, manifest)


def amend(parties: Parties, **new) -> str:
    """Put another charter in force: acme proposes it, acme and birch vote for it. Its leaf hash."""
    home = parties.founded.member("acme")
    whole = replace(home.charter, **new)
    replaces = parties.log.books.agreement.hash
    hashed = say(
        parties, "acme", Amendment(seq=0, prev=FIRST, member="acme", amendment="a", replaces=replaces, charter=whole)
    )
    for each in ("acme", "birch"):
        say(parties, each, Vote(seq=0, prev=FIRST, member=each, amendment=hashed, choice="yes"))
    return hashed


def say(parties: Parties, member: str, record) -> str:
    key = parties.founded.member(member).key("admin")
    last = parties.log.books.chains.get(key.name)
    seq, prev = (last.seq + 1, last.hash) if last else (0, FIRST)
    leaf = entries.sign(replace(record, seq=seq, prev=prev), parties.home.charter.consortium, [key])
    parties.log.append(leaf)
    return entries.open_leaf(leaf, parties.home.charter.consortium, parties.log.books.keys).hash.hex()


class Told:
    """A ledger that tells these entries."""

    def __init__(self, entries_: list[tuple[int, bytes]]) -> None:
        self._entries = entries_

    def keys(self, since: int) -> list[tuple[int, bytes]]:
        return [each for each in self._entries if each[0] >= since]


def test_a_daemon_consents_under_the_charter_in_force_and_under_no_other(tmp_path):
    parties = Parties(tmp_path)
    signer = parties.signer("acme")
    hashed = amend(parties, price=Fraction(1))
    leaf, _ = parties.say(replace(parties.manifest, run="r2", charter=hashed))
    assert refused(signer.consent, leaf, BUNDLE).refusal is Refusal.NO_CHARTER  # It has not heard of it.
    signer.home.learn_keys(Told(parties.log.books.about_keys))
    signer.consent(leaf, BUNDLE)
    assert refused(signer.consent, parties.manifest_leaf, BUNDLE).refusal is Refusal.NO_CHARTER
    assert parties.signer("acme").home.keyring.agreement.hash == hashed  # It is kept.
    parties.log.close()


def test_a_daemon_learns_what_a_command_has_learned_in_its_folder_meanwhile(tmp_path):
    parties = Parties(tmp_path)
    running = parties.founded.member("acme")
    before, hashed = running.keyring.agreement.hash, amend(parties, price=Fraction(1))
    told = Told(parties.log.books.about_keys)
    assert parties.founded.member("acme").learn_keys(told) == 3
    assert running.keyring.agreement.hash == before
    assert running.learn_keys(told) == 0
    assert running.keyring.agreement.hash == hashed
    parties.log.close()


def test_a_vote_that_was_made_up_is_not_learned(tmp_path):
    parties = Parties(tmp_path)
    amend(parties, price=Fraction(1))
    home = parties.founded.member("cedar")
    *others, (index, leaf) = parties.log.books.about_keys
    lie = leaf.replace(b'"yes"', b'"no"')
    assert refused(home.learn_keys, Told([*others, (index, lie)])).refusal is Refusal.BAD_SIGNATURE
    assert home.keyring.charter == home.charter
    parties.log.close()
