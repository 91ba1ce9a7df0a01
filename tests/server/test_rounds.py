"""The coordinator when something it depends on is not there, or lies."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from parties import Parties
from world import TOY, digest

from consortium.found import PRICE, found
from ledger.api import serving
from server import outer, rounds
from server.home import Home
from server.journal import Turn
from server.launch import launch, propose, resume
from server.outer import Outer
from server.rounds import Coordinator
from shared_models.bundle import Bundle
from shared_models.folder import write_settings
from shared_models.ledger_http import Announced
from shared_models.processes import free_port
from shared_models.records import tlog
from shared_models.records.entry import peek
from shared_models.records.kinds import FIRST, Leave
from shared_models.records.refusals import Refusal, Refused


@pytest.fixture
def parties(tmp_path):
    made = Parties(tmp_path)
    yield made
    made.log.close()


class Near:
    """The ledger without HTTP: the same questions, asked of the log itself."""

    def __init__(self, parties: Parties) -> None:
        self._log = parties.log

    def append(self, leaf: bytes) -> tlog.Proof:
        return self._log.append(leaf)[1]

    def last(self, author: str) -> tuple[int, str, int] | None:
        try:
            found = self._log.last(author)
        except Refused:
            return None
        return found.seq, found.hash, found.at

    def keys(self, since: int = 0) -> list[tuple[int, bytes]]:
        return self._log.books.about_keys[since:]

    def read(self, path: str) -> bytes:
        return self._log.published(path)

    def runs(self) -> list[Announced]:
        return [Announced(*each) for each in self._log.runs()]


def refused(act, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value


def test_a_run_without_a_manifest_is_not_trained(parties):
    assert refused(Coordinator, parties.home, Near(parties), None, "r9").refusal is Refusal.UNKNOWN_RUN


def test_a_processor_that_is_not_there_is_refused_before_anything_is_written(parties):
    """As at a member: docs/operating-a-node.md. Who goes on with a run after the GPU was taken out is told so, too."""
    write_settings(parties.home.path / "coordinator.toml", replace(parties.home.settings, processor="cuda:99"))
    home, before = Home(parties.home.path), sorted(parties.home.path.rglob("*"))
    for act in (
        lambda: Coordinator(home, Near(parties), None, "r1"),
        lambda: launch(home.path, "r2", recipe=None, rounds=1, quorum=None, deadline_s=1, consents_s=1),
    ):
        caught = refused(act)
        assert (caught.refusal, "processor = 'cuda:99'" in caught.detail) == (Refusal.NOT_SET_UP, True)
    assert sorted(parties.home.path.rglob("*")) == before


def test_checkpoints_are_scored_on_the_processor_that_is_set_and_else_on_the_one_that_every_machine_has(
    parties, tmp_path
):
    """PyTorch's meta device computes nothing: whatever is scored there says so."""
    places = tmp_path / "checkpoints", tmp_path / "states", tmp_path
    here, there = (Outer(TOY, 1, *places, processor=processor) for processor in ("cpu", "meta"))
    assert here.begin() == there.begin()
    digest_, _ = here.begin()
    assert here.loss(digest_) == outer.held_out_loss(outer.model(TOY), parties.base, TOY)
    for scored in (lambda: there.loss(digest_), lambda: there.judge(digest_, {"acme": parties.base}, 3, "0" * 64, {})):
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            scored()
    agreement, bundle = parties.home.keyring.agreement, Bundle(b"", digest("bundle"))
    told = {"rounds": 1, "quorum": 1, "deadline_ms": 1}
    assert propose(agreement, "r2", TOY, bundle, **told).loss_unats == round(1e6 * here.loss(digest_))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        propose(agreement, "r2", TOY, bundle, **told, processor="meta")


def test_a_run_whose_members_never_come_ends_as_failed_and_says_who(parties, monkeypatch):
    for member in parties.founded.members:
        parties.consenting(member)
    monkeypatch.setattr(rounds, "PATIENCE_S", 0.3)
    monkeypatch.setattr(rounds, "LOOK_S", 0.05)
    nobody = SimpleNamespace(online=set)
    caught = refused(Coordinator(parties.home, Near(parties), nobody, "r1").train)
    assert (caught.refusal, "acme, birch, cedar" in caught.detail) == (Refusal.DEAD, True)
    assert parties.log.books.runs["r1"].ended.status == "failed"


def test_who_has_left_is_not_invited(parties):
    for member in parties.founded.members:
        parties.consenting(member)
    key = parties.founded.member("cedar").key("admin")
    parties.home.say(Near(parties), key, Leave(seq=0, prev=FIRST, member="cedar", reason="no budget"))
    asked, _ = Coordinator(parties.home, Near(parties), None, "r1")._open(1, Turn(parties.home.path / "runs", 1))
    assert asked.opened.invited == ("acme", "birch")


def test_what_a_member_says_while_a_round_opens_does_not_stop_it(parties):
    """Such as that it takes a model: its newest entry then stands behind the head that everybody is shown."""
    for member in ("birch", "cedar"):
        parties.consenting(member)
    near = Near(parties)
    near.consistency, near.inclusion = parties.consistency, parties.log.inclusion
    coordinator = Coordinator(parties.home, near, None, "r1")
    asked, proof = coordinator._open(1, Turn(parties.home.path / "runs", 1))
    parties.consenting("acme")
    begins = {member: coordinator._begin(member, asked, proof, ()) for member in ("acme", "birch")}
    assert (begins["acme"].logged_seq, begins["birch"].logged_seq) == (-1, 0)


def test_a_ledger_that_only_says_it_has_logged_it_is_not_believed(parties):
    near = Near(parties)
    _, first = parties.log.append(parties.founded.charter)
    near.append = lambda _: first
    say = parties.home.say
    assert refused(say, near, parties.home.key, parties.manifest).refusal is Refusal.BAD_PROOF


def test_the_coordinator_signs_behind_nothing_that_it_has_not_signed(parties):
    """What it cites it stands for: a ledger could slip it anything."""
    near, home, key = Near(parties), parties.home, parties.home.key
    parties.consenting("acme")
    theirs = parties.log.last("acme/compute")
    for claimed in ((theirs.seq, theirs.hash, theirs.at), (0, "0" * 64, parties.log.last(key.name).at)):
        near.last = lambda _, claimed=claimed: claimed
        caught = refused(home.say, near, key, parties.opened())
        assert caught.refusal is Refusal.BAD_PROOF
        assert f"entry {claimed[2]} as the last of {key.name}" in caught.detail


@pytest.fixture
def served(tmp_path):
    """A consortium of two, and the way to its ledger, which serves. There is no SuperLink."""
    port = free_port()
    founded = found(
        tmp_path / "parties",
        {"acme": 1, "birch": 1},
        ledger_url=f"http://127.0.0.1:{port}",
        superlink="127.0.0.1:1",
        price=PRICE,
    )
    with serving(founded.ledger, port) as ledger:
        yield founded, ledger


def test_a_run_without_a_quorum_of_consents_is_not_started(served):
    founded, _ = served
    with pytest.raises(Refused) as caught:
        launch(founded.coordinator.path, "r1", recipe=None, rounds=1, quorum=None, deadline_s=1, consents_s=0.2)
    assert (caught.value.refusal, "quorum of run r1 is 2" in caught.value.detail) == (Refusal.NO_CONSENT, True)


def test_a_launched_run_says_how_many_steps_each_member_trains(served, tmp_path):
    founded, ledger = served
    ledger.append(founded.charter)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("layers = 1\nheads = 2\nwidth = 16\ncontext = 16\nbatch = 2\ninner_steps = 3\nsegment = 2\n")
    asked = {"recipe": recipe, "rounds": 1, "quorum": None, "deadline_s": 1, "consents_s": 0.1}

    def launched(run: str, **how: object) -> Refusal:
        with pytest.raises(Refused) as caught:
            launch(founded.coordinator.path, run, **asked, **how)
        return caught.value.refusal

    assert launched("r1", steps="birch=1") is Refusal.NO_CONSENT  # Nobody is there; the manifest is.
    assert launched("r2", steps="birch=1", paced=True) is Refusal.INFEASIBLE
    assert launched("r3", steps="dogwood=1") is Refusal.WRONG_MEMBER
    assert launched("r4", steps="birch") is Refusal.BAD_FIELD
    said = [peek(leaf) for leaf, *_ in ledger.runs()]
    assert [(each.run, each.members, each.steps) for each in said] == [("r1", ("acme", "birch"), (3, 1))]


def test_a_run_s_first_checkpoint_is_scored_where_the_settings_say(served):
    founded, ledger = served
    ledger.append(founded.charter)
    home = founded.coordinator
    write_settings(home.path / "coordinator.toml", replace(home.settings, processor="meta"))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        launch(home.path, "r1", recipe=None, rounds=1, quorum=None, deadline_s=1, consents_s=1)
    assert ledger.size() == 1


def test_a_run_goes_on_with_the_code_that_its_members_consented_to_only(served):
    founded, ledger = served
    home = founded.coordinator
    ledger.append(founded.charter)
    other = Bundle(b"", digest("another bundle"))
    agreement = home.keyring.agreement
    manifest = propose(agreement, "r1", replace(TOY, inner_steps=1), other, rounds=1, quorum=1, deadline_ms=1)
    home.say(ledger, home.key, manifest)
    with pytest.raises(Refused, match=f"of bundle {other.sha256[:12]}") as caught:
        resume(home.path, "r1")
    assert caught.value.refusal is Refusal.NOT_APPROVED
