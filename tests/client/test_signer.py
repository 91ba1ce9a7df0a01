"""What a member signs, and what nothing and nobody makes it sign."""

from dataclasses import replace

import pytest
from parties import BUNDLE, FakeTime, Parties
from world import TOY, digest, key

from client.signer import Signer
from shared_models.claims import Begin
from shared_models.messages import MAX_ENTRIES
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Consent, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused


@pytest.fixture
def parties(tmp_path):
    made = Parties(tmp_path)
    yield made
    made.log.close()


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def asked(parties: Parties, member: str = "acme") -> tuple[Signer, Begin]:
    """A member that consented, and the task of an open round."""
    signer = parties.consenting(member)
    return signer, parties.begin(member, *parties.say(parties.opened()))


# Consent.


def test_consent_is_signed_once_and_the_log_takes_it(parties):
    signer = parties.signer("acme")
    leaf = signer.consent(parties.manifest_leaf, BUNDLE)
    parties.log.append(leaf)
    assert parties.log.books.runs["r1"].consents == {"acme"}
    assert signer.consent(parties.manifest_leaf, BUNDLE) == leaf
    assert parties.signer("acme").consent(parties.manifest_leaf, BUNDLE) == leaf  # After a restart too.


def test_consent_is_refused_to_other_code_than_the_member_s_own(parties):
    assert refused(parties.signer("acme").consent, parties.manifest_leaf, digest("other")) is Refusal.NOT_APPROVED


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"charter": digest("another")}, Refusal.NO_CHARTER),
        ({"members": ("birch", "cedar")}, Refusal.NOT_INVITED),
        ({"flop_per_token": 1}, Refusal.WRONG_FLOP),
        ({"start": digest("given")}, Refusal.WRONG_BASE),
        ({"recipe": replace(TOY, up="int2")}, Refusal.UNKNOWN_CODEC),
        ({"recipe": replace(TOY, down="int2")}, Refusal.UNKNOWN_CODEC),
        ({"recipe": replace(TOY, kv_heads=3)}, Refusal.BAD_FIELD),
        ({"bundle": digest("another")}, Refusal.NOT_APPROVED),
    ],
)
def test_consent_is_refused_to_a_manifest_that_does_not_hold(parties, changes, refusal):
    leaf = parties.signed(replace(parties.manifest, run="r2", **changes))
    assert refused(parties.signer("acme").consent, leaf, BUNDLE) is refusal


def test_consent_is_given_to_the_coordinator_s_manifest_only(parties):
    consortium = parties.home.charter.consortium
    own = entries.sign(parties.manifest, consortium, [parties.founded.member("acme").key("compute")])
    assert refused(parties.signer("acme").consent, own, BUNDLE) is Refusal.WRONG_ROLE
    strange = entries.sign(parties.manifest, consortium, [key(f"{consortium}/coordinator")])
    assert refused(parties.signer("acme").consent, strange, BUNDLE) is Refusal.UNKNOWN_KEY
    opened = parties.signed(parties.opened(invited=("acme",)))
    assert refused(parties.signer("acme").consent, opened, BUNDLE) is Refusal.WRONG_ROLE


def test_consent_is_given_to_one_manifest_of_a_run(parties):
    signer = parties.consenting("acme")
    other = parties.signed(replace(parties.manifest, rounds=9))
    assert refused(signer.consent, other, BUNDLE) is Refusal.CONFLICT


# A receipt.


def test_a_receipt_says_what_was_claimed_measured_and_witnessed(parties):
    signer, begin = asked(parties)
    assert signer.begin(begin) == ()
    (leaf,) = signer.claim(parties.claim(), FakeTime(wall_ms=1_234, cpu_ms=987))
    receipt = entries.open_leaf(leaf, parties.home.charter.consortium, signer.home.keyring.keys).record
    head = tlog.open_head(tlog.Proof.parse(begin.proof.encode()).head, signer.home.keyring.keys)
    assert (receipt.tokens, receipt.wall_ms, receipt.cpu_ms, receipt.busy_ms) == (96, 1_234, 987, 800)
    assert (receipt.witnessed_size, receipt.witnessed_root) == (head.size, head.root.hex())
    assert receipt.flop == 96 * parties.manifest.flop_per_token
    parties.log.append(leaf)  # The rules of the log take it.


def test_the_data_commitment_is_salted_and_differs_between_members_and_rounds(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    first = entries.peek(signer.claim(parties.claim(), FakeTime())[-1])
    parties.close()
    signer.begin(parties.begin("acme", *parties.say(parties.opened()), since=first.witnessed_size))
    second = entries.peek(signer.claim(parties.claim(), FakeTime())[-1])
    assert len({first.data, second.data, digest("data")}) == 3


def test_the_same_claim_gets_the_same_receipt_also_after_a_restart(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    leaves = signer.claim(parties.claim(), FakeTime())
    assert signer.claim(parties.claim(), FakeTime(wall_ms=5_000)) == leaves
    again = parties.signer("acme")
    again.begin(begin)
    assert again.claim(parties.claim(), FakeTime())[-1] == leaves[-1]


def test_another_update_for_the_same_round_is_never_signed(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    signer.claim(parties.claim(), FakeTime())
    assert refused(signer.claim, parties.claim(update=digest("better")), FakeTime()) is Refusal.CONFLICT
    again = parties.signer("acme")
    again.begin(begin)
    assert refused(again.claim, parties.claim(update=digest("better")), FakeTime()) is Refusal.CONFLICT


def test_nothing_is_signed_without_a_task(parties):
    assert refused(parties.signer("acme").claim, parties.claim(), FakeTime()) is Refusal.NO_TASK
    signer, begin = asked(parties)
    signer.begin(begin)
    assert refused(signer.begin, replace(begin, proof="x")) is Refusal.BAD_PROOF
    assert refused(signer.claim, parties.claim(), FakeTime()) is Refusal.NO_TASK  # A refused task ends the one before.


@pytest.mark.parametrize("changes", [{"tokens": 960}, {"steps": 30}, {"busy_ms": 10**6}, {"tokens": 0, "steps": 0}])
def test_a_claim_that_cannot_be_true_is_not_signed(parties, changes):
    signer, begin = asked(parties)
    signer.begin(begin)
    assert refused(signer.claim, parties.claim(**changes), FakeTime()) is Refusal.IMPLAUSIBLE
    assert len(list((parties.founded.member("acme").path / "entries").glob("*.note"))) == 1  # The consent.


def test_a_claim_is_checked_against_the_meter_and_not_against_itself(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    assert refused(signer.claim, parties.claim(busy_ms=800), FakeTime(wall_ms=799)) is Refusal.IMPLAUSIBLE


def test_what_is_signed_is_on_the_disk_before_it_leaves(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    leaves = signer.claim(parties.claim(), FakeTime())
    assert parties.founded.member("acme").signed()[-1] == leaves[-1]


# A task.


def test_a_round_without_consent_is_refused(parties):
    parties.consenting("acme")
    leaf, proof = parties.say(parties.opened())
    birch = parties.signer("birch")
    assert refused(birch.begin, parties.begin("birch", leaf, proof)) is Refusal.NOT_INVITED
    other = parties.signed(parties.opened(invited=("birch",)))
    assert (
        refused(birch.begin, replace(parties.begin("birch", leaf, proof), opened=other.decode()))
        is Refusal.NOT_APPROVED
    )


def test_a_round_of_a_manifest_that_was_not_the_one_consented_to_is_refused(parties):
    signer, begin = asked(parties)
    other = parties.signed(parties.opened(manifest=digest("another")))
    assert refused(signer.begin, replace(begin, opened=other.decode())) is Refusal.NOT_APPROVED


def test_a_round_that_the_coordinator_did_not_sign_is_refused(parties):
    signer, begin = asked(parties)
    assert (
        refused(signer.begin, replace(begin, opened=begin.opened.replace('"round":1', '"round":2')))
        is Refusal.BAD_SIGNATURE
    )
    assert refused(signer.begin, replace(begin, opened=parties.manifest_leaf.decode())) is Refusal.WRONG_ROLE


def test_a_round_that_is_not_in_the_log_is_refused(parties):
    signer, begin = asked(parties)
    other = parties.signed(parties.opened(round=2, invited=("acme",)))
    assert refused(signer.begin, replace(begin, opened=other.decode())) is Refusal.BAD_PROOF


def test_a_head_of_another_log_is_refused(parties):
    signer, begin = asked(parties)
    proof = tlog.Proof.parse(begin.proof.encode())
    stranger = SigningKey.generate("commons.example/log")
    head = tlog.open_head(proof.head, signer.home.keyring.keys).sign(stranger)
    assert refused(signer.begin, replace(begin, proof=replace(proof, head=head).data().decode())) is Refusal.UNKNOWN_KEY


def test_the_log_must_continue_the_history_that_was_witnessed(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    size = signer.home.witnessed().size
    parties.close()
    leaf, proof = parties.say(parties.opened())
    honest = parties.begin("acme", leaf, proof, since=size)
    assert signer.home.witnessed().size == size
    signer.begin(honest)
    assert signer.home.witnessed().size > size


def test_a_coordinator_that_brings_a_wrong_proof_makes_nobody_believe_in_a_fork(parties):
    """The log itself is asked then, and it knows better."""
    signer, begin = asked(parties)
    signer.begin(begin)
    size = signer.home.witnessed().size
    parties.close()
    honest = parties.begin("acme", *parties.say(parties.opened()), since=size)
    signer.begin(replace(honest, consistency=(digest("another"), *honest.consistency[1:])))
    assert signer.home.witnessed().size > size
    assert not signer.home.fork_path.exists()


def test_a_proof_from_another_size_is_fetched_from_the_ledger_instead(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    parties.close()
    signer.begin(parties.begin("acme", *parties.say(parties.opened()), since=0))


def test_a_task_whose_head_was_overtaken_is_taken_and_its_receipt_cites_the_newest_that_was_witnessed(parties):
    """The others were quicker: their receipts are in the log, and the daemon has witnessed that meanwhile."""
    signer, begin = asked(parties)
    parties.say(replace(parties.manifest, run="another"))
    newest = parties.log.head
    signer.witness.follow(newest.note, 0, ())
    signer.begin(begin)
    receipt = entries.peek(signer.claim(parties.claim(), FakeTime())[-1])
    assert (receipt.round, receipt.witnessed_size, receipt.witnessed_root) == (1, newest.size, newest.root.hex())


def test_a_manifest_that_was_swapped_in_the_member_s_folder_is_not_trained_by(parties):
    signer, begin = asked(parties)
    (path,) = (signer.home.path / "entries").glob("*.manifest")
    path.write_bytes(parties.signed(replace(parties.manifest, rounds=9)))
    assert refused(signer.begin, begin) is Refusal.CORRUPT


def test_what_is_said_to_be_logged_must_be(parties):
    signer, begin = asked(parties)
    assert refused(signer.begin, replace(begin, logged_index=0)) is Refusal.BAD_PROOF
    assert refused(signer.begin, replace(begin, logged_seq=5)) is Refusal.CONFLICT


# The outbox.


def test_what_the_log_lacks_is_handed_in_with_the_next_receipt(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    (lost,) = signer.claim(parties.claim(), FakeTime())
    parties.close()
    again = parties.signer("acme")  # After a restart it does not know what was logged, until the coordinator proves it.
    again.begin(parties.begin("acme", *parties.say(parties.opened()), since=again.home.witnessed().size))
    leaves = again.claim(parties.claim(update=digest("second")), FakeTime())
    assert leaves[0] == lost
    assert [entries.peek(leaf).round for leaf in leaves] == [1, 2]
    for leaf in leaves:
        parties.log.append(leaf)
    assert again.unlogged() == leaves
    again.logged(leaves[-1], parties.log.append(leaves[-1])[1])
    assert again.unlogged() == ()


def test_an_entry_is_not_taken_for_logged_on_somebody_s_word(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    (leaf,) = signer.claim(parties.claim(), FakeTime())
    wrong = tlog.Proof.parse(begin.proof.encode())
    assert refused(signer.logged, leaf, wrong) is Refusal.BAD_PROOF
    assert signer.unlogged() == (leaf,)


def test_an_answer_carries_at_most_so_many_entries_the_oldest_first(parties, monkeypatch):
    signer, begin = asked(parties)
    signer.begin(begin)
    signer._signed += [b"x"] * MAX_ENTRIES
    signer._records += [signer._records[0]] * MAX_ENTRIES
    assert len(signer._outbox()) == MAX_ENTRIES
    assert signer._outbox()[0] == b"x"


def test_every_entry_of_a_member_is_one_chain(parties):
    signer, begin = asked(parties)
    signer.begin(begin)
    signer.claim(parties.claim(), FakeTime())
    records = [entries.peek(leaf) for leaf in signer.home.signed()]
    assert [type(record) for record in records] == [Consent, Receipt]
    assert [record.seq for record in records] == [0, 1]
    assert records[1].prev == leaf_hash(signer.home.signed()[0]).hex()
