"""A member vouches for its own entries after it has read them, and for nothing else."""

from dataclasses import replace

import pytest
from parties import FakeTime, Parties

from client.attest import Attester
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.kinds import Consent
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused


class FakeLedger:
    """The ledger without HTTP, and perhaps not honest."""

    def __init__(self, parties: Parties) -> None:
        self.log, self.reads = parties.log, []

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return self.log.published(path)

    def run(self, start: int, end: int, size: int) -> list[bytes]:
        return self.log.run(start, end, size)


@pytest.fixture
def parties(tmp_path):
    made = Parties(tmp_path)
    yield made
    made.log.close()


def trained(parties: Parties) -> None:
    """acme and birch have consented; acme has a receipt in the log."""
    parties.consenting("birch")
    signer = parties.consenting("acme")
    signer.begin(parties.begin("acme", *parties.say(parties.opened())))
    for leaf in signer.claim(parties.claim(), FakeTime()):
        parties.log.append(leaf)


def attested(parties: Parties, attester: Attester, ledger=None) -> tuple[tlog.TreeHead, dict[str, int]]:
    note = attester.attest(ledger or FakeLedger(parties), parties.log.head.note)
    return tlog.open_cosigned(note, parties.home.keyring.keys)


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def test_a_member_vouches_for_what_it_has_read_and_signed(parties):
    trained(parties)
    head, times = attested(parties, Attester(parties.founded.member("acme")))
    assert (head.size, set(times)) == (parties.log.head.size, {"acme/attest"})


def test_it_reads_nothing_twice_also_after_a_restart(parties):
    trained(parties)
    home = parties.founded.member("acme")
    attested(parties, Attester(home))
    for attester in (Attester(home), Attester(home)):
        ledger = FakeLedger(parties)
        attested(parties, attester, ledger)
        assert ledger.reads == []
    parties.close()
    ledger = FakeLedger(parties)
    assert attested(parties, Attester(home), ledger)[0].size == parties.log.head.size
    assert ledger.reads != []


def test_an_entry_in_its_name_that_it_did_not_sign_is_named_and_nothing_is_attested(parties):
    """Somebody has the key: the log holds a receipt that this member knows nothing of."""
    trained(parties)
    home = parties.founded.member("acme")
    newest = sorted((home.path / "entries").glob("*.note"))[-1]
    newest.unlink()
    attester = Attester(home)
    with pytest.raises(Refused) as caught:
        attested(parties, attester)
    assert (caught.value.refusal, "bears our name" in caught.value.detail) == (Refusal.WRONG_MEMBER, True)
    assert not (home.path / "attested.json").exists()


def test_its_name_in_another_s_evidence_is_not_its_entry(parties):
    trained(parties)
    signer = parties.signer("acme")
    consent = entries.peek(signer.home.signed()[0])
    assert isinstance(consent, Consent)
    lie = entries.sign(replace(consent, manifest="0" * 64), parties.home.charter.consortium, [signer._key])
    assert refused(parties.log.append, lie) is Refusal.CONFLICT  # The log keeps both as evidence.
    assert attested(parties, Attester(signer.home))[0].size == parties.log.head.size


def test_a_ledger_that_shows_other_entries_than_those_under_the_head_is_refused(parties):
    trained(parties)

    class Lying(FakeLedger):
        def read(self, path: str) -> bytes:
            data = super().read(path)
            if "entries" not in path:
                return data
            leaves = tlog.unpack(data)
            assert leaf_hash(leaves[-1]) == parties.log.books.tree.leaf(len(leaves) - 1)
            return tlog.pack([*leaves[:-1], leaves[-1].replace(b'"tokens":96', b'"tokens":97')])

    home = parties.founded.member("birch")
    assert refused(Attester(home).attest, Lying(parties), parties.log.head.note) is Refusal.BAD_PROOF

    class Hiding(FakeLedger):
        def read(self, path: str) -> bytes:
            data = super().read(path)
            return tlog.pack(tlog.unpack(data)[:-1]) if "entries" in path else data

    assert refused(Attester(home).attest, Hiding(parties), parties.log.head.note) is Refusal.BAD_PROOF
