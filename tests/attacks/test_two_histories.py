"""The log's operator shows one member one history, and another member another."""

import shutil

import pytest
from parties import Parties

import ledger.log
from client.witness import Witness, monitored
from client.witness_http import serving
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.fork import Fork


@pytest.fixture
def histories(tmp_path):
    """A log up to the consents of its members, and then two of it: in each another round is opened."""
    one = Parties(tmp_path)
    signers = {name: one.consenting(name) for name in one.founded.members}
    one.log.close()
    shutil.copytree(one.founded.ledger, tmp_path / "other")
    one.log = ledger.log.open_log(one.founded.ledger)
    other = Parties.__new__(Parties)
    other.__dict__ |= one.__dict__
    other.log = ledger.log.open_log(tmp_path / "other")
    yield one, other, signers
    one.log.close()
    other.log.close()


def test_it_is_found_in_the_very_next_round_by_what_members_have_cosigned(histories):
    """acme sees the one history and birch the other. A round later each is shown what the others cosigned."""
    one, other, signers = histories
    signers["acme"].begin(one.begin("acme", *one.say(one.opened())))
    signers["birch"].begin(other.begin("birch", *other.say(other.opened(opened_ms=2_000_000))))
    other.close()
    seen_by_acme = signers["acme"].cosigned.decode()
    signers["birch"].witness = Witness(signers["birch"].home, other.consistency)
    task = other.begin(
        "birch",
        *other.say(other.opened()),
        since=signers["birch"].witness.head.size,
        cosigned=(seen_by_acme,),
    )
    with pytest.raises(Refused) as caught:
        signers["birch"].begin(task)
    assert caught.value.refusal is Refusal.FORK
    # cedar, who has seen neither, needs nothing but the charter to be convinced.
    proof = Fork.parse(signers["birch"].home.fork_path.read_bytes())
    assert "commons.example/log has signed" in proof.check(one.founded.member("cedar").keyring.keys)
    # And birch signs nothing any more.
    with pytest.raises(Refused) as caught:
        signers["birch"].begin(task)
    assert caught.value.refusal is Refusal.FORK


def test_it_is_found_by_two_members_alone_whatever_the_operators_hide(histories):
    """Coordinator and ledger are one, and show nobody's cosignatures: the members ask each other."""
    one, other, signers = histories
    signers["acme"].begin(one.begin("acme", *one.say(one.opened())))
    signers["birch"].begin(other.begin("birch", *other.say(other.opened(opened_ms=2_000_000))))
    with serving(signers["acme"].witness, "127.0.0.1:0") as acme:
        shown = monitored(acme, one.log.key.name)
    with pytest.raises(Refused) as caught:
        signers["birch"].witness.compare(shown)
    assert caught.value.refusal is Refusal.FORK
    Fork.parse(signers["birch"].home.fork_path.read_bytes()).check(one.founded.member("cedar").keyring.keys)


def test_members_who_saw_the_same_history_agree_at_any_sizes(histories):
    one, _, signers = histories
    signers["acme"].begin(one.begin("acme", *one.say(one.opened())))
    one.close()
    signers["birch"].begin(one.begin("birch", *one.say(one.opened()), cosigned=(signers["acme"].cosigned.decode(),)))
    signers["acme"].witness.compare(signers["birch"].cosigned)
    assert not signers["acme"].home.fork_path.exists()
    assert not signers["birch"].home.fork_path.exists()
