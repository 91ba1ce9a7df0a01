"""A key is changed through the log, by who may, and nothing is lost where that is interrupted."""

import fcntl
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from world import added, revoked

import client.keys
from client.auditor import Auditor
from client.keys import add, affirm, holder, listed, revoke
from client.signer import Signer
from client.witness import Witness
from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from shared_models.folder import Folder
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records import note, policy
from shared_models.records.keys import MLDSA44, SigningKey
from shared_models.records.kinds import FIRST, CostItem
from shared_models.records.refusals import Refusal, Refused


@pytest.fixture
def founded(tmp_path):
    return found(
        tmp_path / "parties",
        {"acme": 1, "birch": 1},
        ledger_url=f"http://127.0.0.1:{free_port()}",
        superlink="127.0.0.1:0",
        price=PRICE,
    )


@contextmanager
def served(founded):
    port = int(founded.member("acme").settings.ledger.rpartition(":")[2])
    with serving(founded.ledger, port) as ledger:
        ledger.append(founded.charter)
        yield ledger


def acme(founded, role: str = "compute", **more):
    return holder(founded.member("acme").path, role, **more)


def refused(act, *arguments, **named) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments, **named)
    return caught.value.refusal


def item(name: str) -> CostItem:
    return CostItem(
        seq=0,
        prev=FIRST,
        item=name,
        payer="acme",
        pot="services",
        period="2026-11",
        category="network",
        amount="1",
        currency="EUR",
        date="2026-11-05",
        evidence="0" * 64,
    )


def test_a_new_key_takes_the_old_one_s_place_and_the_old_one_ends_when_it_is_revoked(founded):
    home = founded.member("acme")
    before = home.key("admin")
    with served(founded) as ledger:
        new, old, index = add(acme(founded, "admin"))
        assert (index, old, home.key("admin").verify_key) == (1, before.verify_key.id.hex(), new.verify_key)
        assert SigningKey.load(home.path / "keys" / f"admin-{old}.key").verify_key == before.verify_key
        folder = Folder(home.path)
        for number, key in enumerate((before, new, before)):  # Both count, in one chain.
            assert folder.say(ledger, key, item(f"i{number}"))[1].index == 2 + number
        assert revoke(acme(founded, "admin"), old) == 5
        assert refused(folder.say, ledger, before, item("late")) is Refusal.REVOKED
        assert folder.say(ledger, new, item("on"))[1].index == 6
        assert refused(revoke, acme(founded, "admin"), old) is Refusal.UNKNOWN_KEY
        report = Auditor(charter=home.charter_entry.hash.hex()).run(ledger.url)
        assert (report.findings, report.entries) == ([], 7)


def test_a_member_s_daemon_goes_on_with_its_new_compute_key(founded):
    home = founded.member("acme")
    with served(founded) as ledger:
        _, old, _ = add(acme(founded))
        revoke(acme(founded), old)
        fresh = founded.member("acme")
        signer = Signer(fresh, Witness(fresh, ledger.consistency))
        assert signer._key.verify_key.id.hex() != old
        assert fresh.keyring.counts("acme/compute", signer._key.verify_key.id)
        assert not fresh.keyring.counts("acme/compute", bytes.fromhex(old))
        assert sorted(path.name for path in (home.path / "keyring").iterdir()) == [
            "000000000001.note",
            "000000000002.note",
        ]


@pytest.mark.parametrize("at", ["say", "link", "replace"])
def test_what_was_interrupted_goes_on_with_the_same_key(founded, monkeypatch, at):
    where = Folder if at == "say" else client.keys.os
    really = getattr(where, at)

    def fail(*what: object) -> None:
        if at == "say" or str(what[0 if at == "replace" else 1]).startswith(str(founded.folder / "acme" / "keys")):
            raise KeyboardInterrupt
        really(*what)

    with served(founded) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(where, at, fail)
            with pytest.raises(KeyboardInterrupt):
                add(acme(founded))
        waiting = SigningKey.load(founded.member("acme").path / "keys" / "compute.next.key").verify_key
        new, _, index = add(acme(founded))
        assert (new.verify_key, index, ledger.size()) == (waiting, 1, 2)
        assert not (founded.member("acme").path / "keys" / "compute.next.key").exists()


def test_what_a_thief_may_have_signed_is_disputed_until_it_is_affirmed(founded):
    with served(founded) as ledger:
        old = founded.member("acme").key("admin")
        Folder(founded.member("acme").path).say(ledger, old, item("mine"))
        add(acme(founded, "admin"))
        key_id = old.verify_key.id.hex()
        assert refused(revoke, acme(founded, "admin"), key_id, suspect_from=99) is Refusal.BAD_FIELD
        assert revoke(acme(founded, "admin"), key_id, suspect_from=1) == 3
        assert refused(affirm, acme(founded, "admin"), key_id, 0, 2) is Refusal.BAD_FIELD
        assert affirm(acme(founded, "admin"), key_id, 1, 2) == 4
        found = {each.id: each for each in listed(Folder(founded.member("acme").path))}
        assert found[key_id][2:] == (0, 3, 1, [(1, 2)])


def test_nobody_changes_another_s_keys_and_some_keys_cannot_be_changed(founded):
    with served(founded) as ledger:
        other = acme(founded)._replace(signer=founded.member("birch").key("admin"))
        assert refused(add, other) is Refusal.WRONG_ROLE
        assert refused(add, acme(founded), post_quantum=True) is Refusal.BAD_FIELD
        log = holder(founded.member("acme").path, "log", founded.ledger / "log.key", founded.admin_key)
        assert refused(add, log) is Refusal.WRONG_ROLE
        assert refused(holder, founded.member("acme").path, "nothing") is Refusal.NOT_SET_UP
        assert refused(holder, founded.folder / "ledger", "log", founded.ledger / "log.key") is Refusal.NOT_SET_UP
        assert ledger.size() == 1


def test_what_a_ledger_says_about_keys_is_learned_only_if_who_may_has_signed_what_can_be(founded):
    home, birch = founded.member("acme"), founded.member("birch")
    mine, new = home.key("admin"), SigningKey.generate("acme/compute")
    for record, by, refusal in (
        (item("mine"), mine, Refusal.WRONG_ROLE),  # Not about keys.
        (added("acme", "compute", new), birch.key("admin"), Refusal.WRONG_ROLE),
        (added("acme", "compute", home.key("compute")), mine, Refusal.BAD_FIELD),  # It stands there already.
        (revoked("acme", "compute", new), mine, Refusal.UNKNOWN_KEY),
    ):
        leaf = entries.sign(record, home.charter.consortium, [by])
        assert refused(home.learn_keys, SimpleNamespace(keys=lambda leaf=leaf, **_: [(1, leaf)])) is refusal
    assert not (home.path / "keyring").exists()


def test_a_witness_and_a_log_can_sign_with_a_key_too_that_quantum_computers_do_not_break(founded):
    home = founded.member("acme")
    with served(founded) as ledger:
        new, replaced, _ = add(acme(founded, "witness"), post_quantum=True)
        assert (new.verify_key.kind, replaced) == (MLDSA44, "")
        assert refused(add, acme(founded, "witness"), post_quantum=True) is Refusal.BAD_FIELD
        log = holder(founded.coordinator.path, "log", founded.ledger / "log.key", founded.admin_key)
        add(log, post_quantum=True)
    with serving(founded.ledger, free_port()) as ledger:
        Folder(home.path).say(ledger, home.key("admin"), item("after"))  # The next head has both lines.
        fresh = founded.member("acme")
        witness = Witness(fresh, ledger.consistency)
        fresh.learn_keys(ledger)
        witness.visit(ledger)
        signed = note.parse(ledger.read("witness/acme")).signatures
        assert [line.name for line in signed] == ["commons.example/log"] * 2 + ["acme/witness"] * 2
        assert Auditor(charter=home.charter_entry.hash.hex()).run(ledger.url).findings == []
        # Such a key is followed by another one, as any is.
        mldsa = acme(founded, "witness", key=home.path / "keys" / "witness-mldsa.key", url=ledger.url)
        assert add(mldsa).replaced == new.verify_key.id.hex()
        log = log._replace(path=founded.ledger / "log-mldsa.key", ledger=ledger)
        assert add(log).key.verify_key.kind == MLDSA44


def test_a_quorum_is_that_of_the_keys_that_count(founded, capsys):
    with served(founded) as ledger:
        home = founded.member("acme")
        _, old, _ = add(acme(founded, "witness"))
        for name in founded.members:
            member = founded.member(name)
            member.learn_keys(ledger)
            Witness(member, ledger.consistency).visit(ledger)
        (home.path / "cosigned").write_bytes(ledger.read("cosigned"))
        assert main(["quorum", "--home", str(home.path)]) == 0
        said = capsys.readouterr().out
        assert founded.member("acme").keyring.policy() == policy.parse(said.encode())
        assert said.count("witness acme-") == 2
        (home.path / "file.policy").write_text(said)
        for source in ("--home", str(home.path)), ("--policy", str(home.path / "file.policy")):
            assert main(["quorum", *source, str(home.path / "cosigned")]) == 0
            assert main(["quorum", *source, str(home.path / "charter.note")]) == 1
            assert main(["quorum", *source, str(home.path / "nothing")]) == 2
        revoke(acme(founded, "witness"), old)
        assert str(founded.member("acme").keyring.policy().data()).count("witness acme") == 1


def test_the_consortium_s_operators_change_theirs(founded):
    with served(founded) as ledger:
        new, old, index = add(holder(founded.coordinator.path, "coordinator"))
        assert (index, founded.coordinator.key.verify_key) == (1, new.verify_key)
        admin = holder(founded.coordinator.path, "admin", founded.admin_key)
        assert admin.signer.name == "commons.example/admin"
        assert add(admin)[2] == 2
        assert revoke(replace_signer(holder(founded.coordinator.path, "coordinator"), founded.admin_key), old) == 3
        charter = founded.coordinator.charter_entry.hash.hex()
        assert Auditor(charter=charter).run(ledger.url).findings == []


def replace_signer(held, path):
    return held._replace(signer=SigningKey.load(path))


def test_the_commands(founded, capsys):
    home = str(founded.member("acme").path)
    with served(founded):
        assert main(["key", "add", "compute", "--home", home]) == 0
        said = capsys.readouterr().out.splitlines()
        assert "counts from entry 1" in said[0]
        old = said[1].split()[1]
        assert said[1].endswith(f"consortium key revoke compute {old} --home {home}")
        assert main(["key", "revoke", "compute", old, "--home", home, "--suspect-from", "1"]) == 0
        assert main(["key", "affirm", "compute", old, "1", "2", "--home", home]) == 0
        capsys.readouterr()
        assert main(["key", "list", "--home", home]) == 0
        assert f"{old}  from entry 0 to 2, suspect from 1, but 1 to 2 affirmed" in capsys.readouterr().out
        assert main(["key", "list", "--home", home, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["schema"], len(found["keys"])) == ("consortium.keys/1", 12)
        assert main(["key", "revoke", "compute", "00000000", "--home", home]) == 2
        assert "unknown_key" in capsys.readouterr().err


def test_a_leaf_about_a_key_says_what_the_command_was_told(founded):
    with served(founded) as ledger:
        add(acme(founded))
        ((_, leaf),) = ledger.keys()
        record = entries.peek(leaf)
        home = founded.member("acme")
        assert record == replace(record, holder="acme", role="compute", key=home.key("compute").verify_key.text())


def test_two_processes_of_one_folder_take_turns_to_speak(founded):
    """Else both would cite the same last entry: a coordinator's run would stop at what is said beside it."""
    with served(founded) as ledger:
        path, key = founded.member("acme").path, founded.member("acme").key("admin")
        speak = threading.Thread(target=lambda: Folder(path).say(ledger, key, item("rent")))
        with (path / "say.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            speak.start()
            speak.join(0.3)
            assert (speak.is_alive(), ledger.size()) == (True, 1)
        speak.join(20)
        assert ledger.size() == 2
