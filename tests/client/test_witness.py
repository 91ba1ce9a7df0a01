"""A member as a witness: what it cosigns, with which answers, and what it does when it is shown two histories."""

import hashlib
import shutil
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from parties import Parties

import ledger.log
from client.witness import Witness, monitored
from client.witness_http import serving
from shared_models.ledger_http import Consistency
from shared_models.records import merkle, note, tlog
from shared_models.records.keys import MLDSA44, SigningKey
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.fork import Fork


@pytest.fixture
def parties(tmp_path):
    made = Parties(tmp_path)
    for _ in range(3):
        grow(made)
    yield made
    made.log.close()


def grow(parties: Parties) -> None:
    """One more entry in the log."""
    run = f"x{parties.log.head.size}"
    parties.say(replace(parties.manifest, run=run))


def refused(act, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value


def asked(parties: Parties, old: int) -> tlog.AddCheckpoint:
    """A request for the newest head, from a log that knows that this witness is at size `old`."""
    head = parties.log.head
    return tlog.AddCheckpoint(old, tuple(parties.log.consistency(old, head.size)), head.note)


def add(witness: Witness, request: tlog.AddCheckpoint) -> tuple[int, str]:
    answer = witness.add_checkpoint(request.data())
    return answer.status, answer.body.decode()


# The protocol, by the words of C2SP tlog-witness.


def test_a_head_is_cosigned_with_lines_that_can_be_added_to_it(parties):
    witness = parties.witness("acme")
    request = asked(parties, 0)
    status, lines = add(witness, request)
    assert status == 200
    keys = parties.home.keyring.keys
    head, times = tlog.open_cosigned(request.head + lines.encode(), keys)
    assert (head.size, set(times)) == (parties.log.head.size, {"acme/witness"})
    assert parties.witness("acme").head == head  # After a restart too.


def test_it_goes_on_from_what_it_cosigned_and_says_where_it_is(parties):
    witness = parties.witness("acme")
    add(witness, asked(parties, 0))
    size = parties.log.head.size
    grow(parties)
    answer = witness.add_checkpoint(asked(parties, size - 1).data())
    assert (answer.status, answer.kind, answer.body) == (409, "text/x.tlog.size", f"{size}\n".encode())
    assert add(witness, asked(parties, size))[0] == 200
    assert add(witness, asked(parties, size + 1))[0] == 200  # The same head once more, from itself.


def test_what_it_answers_to_what_it_does_not_cosign(parties):
    witness, good = parties.witness("acme"), asked(parties, 0)
    key = parties.log.key
    other_log, other_key = SigningKey.generate("other.example/log"), SigningKey.generate(key.name)
    head = tlog.unsigned(good.head)

    def signed(by: SigningKey, **changes) -> bytes:
        return replace(head, **{"origin": by.name} | changes).sign(by)

    assert add(witness, replace(good, head=signed(other_log)))[0] == 404
    assert add(witness, replace(good, head=signed(other_key)))[0] == 403
    assert add(witness, replace(good, head=good.head.replace(b"\n5\n", b"\n6\n")))[0] == 403
    assert add(witness, replace(good, old=head.size + 1))[0] == 400
    assert add(witness, replace(good, old=2))[0] == 409
    assert add(witness, replace(good, path=(bytes(32),)))[0] == 422
    assert add(witness, replace(good, head=signed(key, size=0)))[0] == 422
    assert witness.add_checkpoint(b"nonsense").status == 400
    assert witness.add_checkpoint(b"").status == 400
    assert witness.add_checkpoint(b"old 0\n\nno note\n").status == 400
    assert witness.head.size == 0
    assert add(witness, good)[0] == 200
    grow(parties)
    later = asked(parties, head.size)
    assert add(witness, replace(later, path=later.path[:-1]))[0] == 422
    assert not witness.home.fork_path.exists()  # A wrong proof is not a wrong log.
    assert add(witness, replace(later, path=()))[0] == 422
    assert add(witness, later)[0] == 200


def test_an_older_head_of_the_same_history_changes_nothing_and_what_was_witnessed_stays(parties):
    witness, older = parties.witness("acme"), asked(parties, 0)
    grow(parties)
    add(witness, asked(parties, 0))
    newest = witness.head
    assert tlog.unsigned(witness.follow(older.head, newest.size, ())) == newest
    assert (witness.head, parties.witness("acme").head) == (newest, newest)


def test_a_proof_from_another_size_is_not_followed_though_its_hashes_lead_from_the_root_that_was_witnessed(parties):
    """As if the root of size 5 were one of size 4: what is appended to it then is no history of ours."""
    witness = Witness(parties.founded.member("acme"), lambda *_: Consistency("0" * 64, ()))
    add(witness, asked(parties, 0))
    newest, more = witness.head, (bytes(32),)
    longer = replace(newest, size=8, root=merkle.node_hash(newest.root, *more))
    merkle.verify_consistency(4, longer.size, newest.root, longer.root, list(more))
    assert newest.size == 5
    assert refused(witness.follow, longer.sign(parties.log.key), 4, more).refusal is Refusal.FORK
    assert witness.head == newest


@pytest.mark.parametrize("how", ["follow", "compare"])
def test_a_head_that_another_of_the_consortium_s_keys_signed_is_of_another_log(parties, how):
    witness = parties.witness("acme")
    add(witness, asked(parties, 0))
    newest, key = witness.head, parties.home.key
    foreign = replace(newest, origin=key.name, size=newest.size + 1, root=bytes(32)).sign(key)
    arguments = {"follow": (foreign, newest.size, ()), "compare": (foreign,)}[how]
    assert refused(getattr(witness, how), *arguments).refusal is Refusal.WRONG_ORIGIN
    assert witness.head == newest
    assert not witness.home.fork_path.exists()


def test_an_empty_log_can_be_cosigned(parties):
    empty = tlog.TreeHead(parties.log.key.name, 0, merkle.EMPTY_ROOT).sign(parties.log.key)
    assert add(parties.witness("acme"), tlog.AddCheckpoint(0, (), empty))[0] == 200


def test_unknown_signatures_are_ignored(parties):
    request = asked(parties, 0)
    stranger = SigningKey.generate("stranger.example/log")
    head = tlog.unsigned(request.head)
    extra = note.signature(head.text, stranger).line().encode()
    assert add(parties.witness("acme"), replace(request, head=request.head + extra))[0] == 200


def test_a_second_key_gives_a_second_line(parties):
    home = parties.founded.member("acme")
    second = SigningKey.create(home.path / "keys" / "witness-mldsa.key", "acme/witness", MLDSA44)
    request = asked(parties, 0)
    status, lines = add(parties.witness("acme"), request)
    assert (status, lines.count("\n")) == (200, 2)
    known = note.known([parties.log.key.verify_key, second.verify_key])
    assert tlog.open_cosigned(request.head + lines.encode(), known)[1].keys() == {"acme/witness"}


def test_it_is_on_the_disk_before_it_is_signed(parties, monkeypatch):
    witness = parties.witness("acme")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("client.witness.durable.write", full)
        with pytest.raises(OSError, match="No space"):
            witness.add_checkpoint(asked(parties, 0).data())
    assert witness.head.size == 0
    assert add(witness, asked(parties, 0))[0] == 200


def test_requests_at_the_same_time_never_roll_it_back(parties):
    witness = parties.witness("acme")
    requests = []
    for _ in range(8):
        requests.append(asked(parties, 0))
        grow(parties)
    answers = []
    senders = [threading.Thread(target=lambda each=each: answers.append(add(witness, each))) for each in requests]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert sorted(status for status, _ in answers) == [200, *[409] * 7]


# Over HTTP.


def test_over_http_for_logs_that_ask_and_members_that_compare(parties):
    witness = parties.witness("acme")
    with serving(witness, "127.0.0.1:0") as url:
        origin = parties.log.key.name
        assert refused(monitored, url, origin).refusal is Refusal.NOT_FOUND
        with urllib.request.urlopen(f"{url}/add-checkpoint", asked(parties, 0).data()) as reply:  # noqa: S310
            assert reply.read().decode().startswith("— acme/witness ")
        keys = parties.home.keyring.keys
        assert tlog.open_cosigned(monitored(url, origin), keys)[1].keys() == {"acme/witness"}
        assert refused(monitored, url, "other.example/log").refusal is Refusal.NOT_FOUND
        for path, body, status in (
            ("/add-checkpoint", asked(parties, 3).data(), 409),
            ("/elsewhere", b"x", 404),
            ("/add-checkpoint", b"x" * 600_000, 413),
            (f"/{hashlib.sha256(origin.encode()).hexdigest()}", None, 404),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(url + path, body)  # noqa: S310
            assert caught.value.code == status
            caught.value.close()
    assert refused(monitored, url, origin).refusal is Refusal.UNREACHABLE
    assert refused(monitored, "file:///etc/passwd", origin).refusal is Refusal.BAD_FIELD


# Two histories.


@pytest.fixture
def forked(parties, tmp_path):
    """A second log with the same key and the same first entries, which goes on differently."""
    parties.log.close()
    shutil.copytree(parties.founded.ledger, tmp_path / "other")
    parties.log = ledger.log.open_log(parties.founded.ledger)
    other = Parties.__new__(Parties)
    other.__dict__ |= parties.__dict__
    other.log = ledger.log.open_log(tmp_path / "other")
    parties.say(replace(parties.manifest, run="one"))
    other.say(replace(parties.manifest, run="other"))
    yield other
    other.log.close()


def kept(witness: Witness) -> Fork:
    return Fork.parse(witness.home.fork_path.read_bytes())


def test_two_roots_of_one_size_are_proof_for_anybody(parties, forked):
    witness = parties.witness("acme")
    add(witness, asked(parties, 0))
    caught = refused(witness.compare, forked.log.head.note)
    assert (caught.refusal, "kept as proof" in caught.detail) == (Refusal.FORK, True)
    said = kept(witness).check(parties.founded.member("cedar").keyring.keys)
    assert said == f"commons.example/log has signed two roots for size {parties.log.head.size}"


@pytest.mark.parametrize("how", ["follow", "add_checkpoint", "compare"])
def test_two_sizes_that_do_not_fit_are_proof_too_if_the_log_says_how_it_came_there(parties, forked, how):
    witness = Witness(parties.founded.member("acme"), forked.consistency)
    add(witness, asked(parties, 0))
    for _ in range(3):
        grow(forked)
    old = parties.log.head.size
    if how == "add_checkpoint":
        status, said = add(witness, asked(forked, old))
        assert (status, said.startswith("fork: ")) == (422, True)
    else:
        request = asked(forked, old)
        act, arguments = {
            "follow": (witness.follow, (request.head, request.old, request.path)),
            "compare": (witness.compare, (request.head,)),
        }[how]
        assert refused(act, *arguments).refusal is Refusal.FORK
    said = kept(witness).check(parties.founded.member("cedar").keyring.keys)
    assert f"for size {old}, and size {forked.log.head.size} of a history" in said


@pytest.mark.parametrize("how", ["follow", "compare"])
def test_an_older_head_of_another_history_is_found_too(parties, forked, how):
    witness = parties.witness("acme")
    grow(parties)
    add(witness, asked(parties, 0))
    shown = forked.log.head.note
    act = {"follow": lambda: witness.follow(shown, 0, ()), "compare": lambda: witness.compare(shown)}[how]
    assert refused(act).refusal is Refusal.FORK
    kept(witness).check(parties.home.keyring.keys)


def test_a_log_that_does_not_say_how_they_fit_stops_the_witness_all_the_same(parties, forked):
    witness = Witness(parties.founded.member("acme"), lambda *_: Consistency("0" * 64, (bytes(32),)))
    add(witness, asked(parties, 0))
    grow(forked)
    caught = refused(witness.compare, forked.log.head.note)
    assert (caught.refusal, "has not said how" in caught.detail) == (Refusal.FORK, True)
    assert refused(kept(witness).check, parties.home.keyring.keys).refusal is Refusal.BAD_PROOF


def test_a_ledger_that_is_away_is_no_fork(parties, forked):
    def away(old: int, new: int) -> Consistency:
        raise Refused(Refusal.UNREACHABLE, "away")

    witness = Witness(parties.founded.member("acme"), away)
    add(witness, asked(parties, 0))
    grow(forked)
    assert refused(witness.compare, forked.log.head.note).refusal is Refusal.UNREACHABLE
    assert not witness.home.fork_path.exists()


def test_after_a_fork_nothing_is_signed_until_a_person_has_looked(parties, forked):
    witness = parties.witness("acme")
    add(witness, asked(parties, 0))
    refused(witness.compare, forked.log.head.note)
    size = parties.log.head.size
    grow(parties)
    request = asked(parties, size)
    for again in (witness, parties.witness("acme")):
        assert refused(again.follow, request.head, request.old, request.path).refusal is Refusal.FORK
        assert refused(again.compare, request.head).refusal is Refusal.FORK
        assert add(again, request)[0] == 403
    witness.home.fork_path.unlink()
    assert add(parties.witness("acme"), request)[0] == 200


def test_a_head_that_the_log_did_not_sign_or_of_another_log_proves_nothing(parties):
    witness = parties.witness("acme")
    add(witness, asked(parties, 0))
    head = tlog.unsigned(parties.log.head.note)
    stranger = SigningKey.generate(head.origin)
    assert refused(witness.compare, replace(head, root=bytes(32)).sign(stranger)).refusal is Refusal.UNKNOWN_KEY
    assert not witness.home.fork_path.exists()


def another_root(head: str) -> str:
    """This head with another first letter of its root, under the same signature."""
    origin, size, root, rest = head.split("\n", 3)
    return "\n".join([origin, size, ("B" if root[0] == "A" else "A") + root[1:], rest])


@pytest.mark.parametrize(
    "change",
    [
        lambda fork: replace(fork, other=fork.one),
        lambda fork: replace(fork, root=()),
        lambda fork: replace(fork, root=(tlog.unsigned(fork.one.encode()).root.hex(),)),
        lambda fork: replace(fork, path=fork.path[:-1]),
        lambda fork: replace(fork, other=another_root(fork.other)),
        lambda fork: replace(fork, one=fork.other),
    ],
)
def test_what_is_no_proof_of_a_fork_is_refused(parties, forked, change):
    witness = Witness(parties.founded.member("acme"), forked.consistency)
    add(witness, asked(parties, 0))
    grow(forked)
    refused(witness.compare, forked.log.head.note)
    assert change(kept(witness)) != kept(witness)
    assert not change(kept(witness)).proven(parties.home.keyring.keys)


def test_heads_of_two_logs_are_no_fork(parties, forked):
    keys = [SigningKey.generate(f"{name}.example/log") for name in ("a", "b")]
    heads = [tlog.TreeHead(key.name, 5, hashlib.sha256(key.name.encode()).digest()).sign(key) for key in keys]
    fork = Fork.of(heads[0], heads[1], "", ())
    assert refused(fork.check, note.known(key.verify_key for key in keys)).refusal is Refusal.WRONG_EVIDENCE


# Rotation of the log's key and of its own.


def test_heads_signed_by_a_key_that_was_added_later_are_followed_once_it_was_learned(parties, tmp_path: Path):
    witness, home = parties.witness("acme"), parties.founded.member("acme")
    second = SigningKey.generate(parties.log.key.name)
    head = replace(tlog.unsigned(parties.log.head.note)).sign(second)
    assert add(witness, tlog.AddCheckpoint(0, (), head))[0] == 403
    assert home.keyring.keys
