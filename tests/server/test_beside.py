"""Whole runs whose tensors travel beside Flower's messages: they come to what they come to in these, to the bit."""

import _thread
import itertools
import shutil
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cutting import cutting
from world import TOY

from consortium.found import Founded
from consortium.simulate import Result, simulate
from server.blobs import Capability
from server.home import Settings
from server.offers import Offers
from shared_models import durable
from shared_models.folder import write_settings
from shared_models.lm import codecs
from shared_models.lm.blob import Blob
from shared_models.messages import Answer, Task
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt, RoundClose
from shared_models.records.refusals import Refusal, Refused
from shared_models.transport import Beside, Carried, Inline, Named, Pass

THREE = {"acme": 2, "birch": 1, "cedar": 1}
RECIPE = replace(TOY, up="int4", down="top64", outer="nesterov", outer_momentum="0.5")


def toy(folder, **more) -> Result:
    return simulate(folder / "parties", THREE, **{"rounds": 3, "recipe": RECIPE, "inline_bytes": 0} | more)


def said(result: Result, kind):
    leaves = fetch(reader(str(result.founded.ledger / "log"))).leaves
    return [record for leaf in leaves if isinstance(record := entries.peek(leaf), kind)]


def reached(result: Result):
    return [(each.checkpoint, each.state, each.loss_unats) for each in said(result, RoundClose)]


def traffic(result: Result):
    told = sorted(said(result, Receipt), key=lambda each: (each.round, each.member))
    return [(each.round, each.member, each.update, each.bytes_down, each.bytes_up) for each in told]


def left(result: Result) -> list[str]:
    """What is left of blobs at anybody's."""
    folder = result.founded.folder
    return [str(path) for each in ("blobs", "work/blobs") for path in folder.glob(f"*/{each}/**/*") if path.is_file()]


@pytest.fixture(scope="module")
def inline(tmp_path_factory) -> Result:
    return toy(tmp_path_factory.mktemp("inline"), inline_bytes=None)


@pytest.fixture
def sent(monkeypatch) -> list[tuple[Task | Answer, int]]:
    """Every message that is made, and the bytes of tensors that stand in it."""
    seen = []
    for cls in (Task, Answer):

        def noted(self, honest=cls.to_record):
            seen.append((self, codecs.nbytes(self.carried.packed)))
            return honest(self)

        monkeypatch.setattr(cls, "to_record", noted)
    return seen


def test_a_run_beside_the_messages_comes_to_the_same_bits_and_receipts_and_leaves_nothing(tmp_path, inline, sent):
    result = toy(tmp_path)
    assert (result.report.findings, result.excluded) == ([], ())
    assert reached(result) == reached(inline)
    assert traffic(result) == traffic(inline)
    assert {size for _, size in sent} == {0}
    assert len([each for each, _ in sent if each.blob is not None]) == 18
    assert left(result) == []


def test_what_is_small_stands_in_the_message_and_what_is_large_does_not(tmp_path, inline, sent):
    """The whole checkpoint has 45,248 bytes, an update 6,020, a step 353."""
    result = toy(tmp_path, inline_bytes=6_019)
    assert reached(result) == reached(inline)
    assert {(type(each), each.carried.size, each.blob is not None) for each, _ in sent} == {
        (Task, 45_248, True),
        (Task, 353, False),
        (Answer, 6_020, True),
    }
    sent.clear()
    toy(tmp_path / "other", inline_bytes=6_020, rounds=1)
    assert {(each.carried.size, each.blob is not None) for each, _ in sent} == {(45_248, True), (6_020, False)}


def test_a_way_that_breaks_again_and_again_loses_nothing(tmp_path):
    whole = replace(RECIPE, up="fp32", down="fp32")
    ways = []

    def broken(coordinate) -> None:
        home = Founded(tmp_path / "parties", tuple(THREE), b"").coordinator
        port = int(home.settings.blobs.rpartition(":")[2])
        with cutting(port, itertools.cycle([25_000, 30_000, 2**60])) as way:
            write_settings(home.path / "coordinator.toml", replace(home.settings, blobs=f"127.0.0.1:{way.port}"))
            ways.append(way)
            coordinate()

    result = toy(tmp_path, recipe=whole, rounds=2, attempt=broken)
    assert ways[0].cuts >= 4
    assert result.excluded == ()
    assert reached(result) == reached(toy(tmp_path / "inline", recipe=whole, rounds=2, inline_bytes=None))


def test_a_coordinator_that_is_stopped_when_answers_come_goes_on_to_the_same_bits(tmp_path, inline):
    asked = 0

    def interrupt(answer: Answer, _) -> Answer:
        nonlocal asked
        asked += 1
        if asked == 2:
            _thread.interrupt_main()
        return answer

    def twice(coordinate) -> None:
        with suppress(KeyboardInterrupt):
            coordinate()
            return
        coordinate()

    result = toy(tmp_path, misbehave={"birch": interrupt}, attempt=twice)
    assert (result.report.findings, result.excluded) == ([], ())
    assert reached(result) == reached(inline)
    assert left(result) == []


def test_who_lost_its_checkpoint_is_offered_the_whole_one(tmp_path, inline, sent):
    def lose(answer: Answer, _) -> Answer:
        (run,) = (tmp_path / "parties" / "birch" / "work" / "kept").iterdir()
        shutil.rmtree(run / "checkpoint")
        return answer

    result = toy(tmp_path, misbehave={"birch": lose})
    assert reached(result) == reached(inline)
    downs = {each.member: [] for each in said(result, Receipt)}
    for each in said(result, Receipt):
        downs[each.member].append(each.bytes_down)
    assert downs == {"acme": [45_248, 353, 353], "birch": [45_248] * 3, "cedar": [45_248, 353, 353]}


def test_an_update_that_was_brought_to_a_round_before_counts_late(tmp_path):
    four = {**THREE, "dogwood": 1}
    more = {"late": 3, "wait": "quorum", "quorum": 3, "rounds": 6, "deadline_s": 20.0, "misbehave": {"dogwood": 0.4}}
    result = simulate(tmp_path / "parties", four, recipe=RECIPE, inline_bytes=0, **more)
    assert result.report.findings == []
    assert "dogwood" in {each.member for close in said(result, RoundClose) for each in close.late}
    assert left(result) == []


def test_no_update_is_copied_on_the_coordinator_s_side(tmp_path, monkeypatch):
    brought, honest = {}, durable.link

    def link(file, path) -> None:
        brought[path] = file.stat().st_ino
        honest(file, path)

    monkeypatch.setattr(durable, "link", link)
    toy(tmp_path, rounds=1)
    assert sorted(path.name for path in brought) == ["acme.update", "birch.update", "cedar.update"]
    assert {path: path.stat().st_ino for path in brought} == brought


# The parts on their own.


def test_a_blob_is_named_to_nobody_who_could_not_fetch_it():
    named = Carried({}, Named(sha256="0" * 64, size=5))
    with pytest.raises(Refused) as caught:
        Inline().take(named, "fp32", {})
    assert caught.value.refusal is Refusal.MALFORMED
    assert Inline().give({}, 0) == Carried({})


def test_a_member_asks_for_no_blob_that_is_not_as_long_as_the_model(tmp_path):
    way = Beside(Pass(port=1, capability="c", most=0), "127.0.0.1", tmp_path / "ca.crt", tmp_path / "blobs", 1.0)
    with pytest.raises(Refused) as caught:
        way.take(Carried({}, Named(sha256="0" * 64, size=23)), "fp32", {"a": (2, 3)})
    assert caught.value.refusal is Refusal.WRONG_SHAPE
    assert not (tmp_path / "blobs").exists()


@pytest.fixture
def offers(tmp_path):
    """A coordinator's, of a run whose third round has begun."""
    settings = Settings(ledger="", superlink="", blobs="127.0.0.1:1", inline_bytes=10)
    home = SimpleNamespace(settings=settings, blobs_path=tmp_path / "blobs", blobs_secret=lambda: b"secret")
    offers = Offers(home, "1" * 64)
    for number in (1, 2, 3):
        offers.begin(number, late=1)
    return offers


@pytest.mark.parametrize(("size", "most"), [(10, 0), (11, 11)])
def test_a_member_may_bring_an_update_that_is_too_large_for_the_message_and_no_other(offers, size, most):
    granted = offers.granted(3, "acme", size, 1_000.5)
    assert (granted.port, granted.most) == (1, most)
    assert Capability.opened(granted.capability, b"secret", 1_001) == Capability("1" * 64, 3, "acme", most, 1_001)


@pytest.mark.parametrize("blobs", ["9443", ":9443", "host:", "host:x", "host:0", "host:65536"])
def test_an_address_that_is_none_is_refused(blobs):
    with pytest.raises(Refused, match="bad_field"):
        Settings(ledger="", superlink="", blobs=blobs).blobs_address()


def test_an_address_may_be_of_either_kind():
    found = [Settings(ledger="", superlink="", blobs=each).blobs_address() for each in ("", "h:1", "[::1]:2")]
    assert found == [None, ("h", 1), ("::1", 2)]


def test_blobs_go_when_no_answer_of_their_round_counts_any_more(offers, tmp_path):
    assert sorted(path.name for path in (tmp_path / "blobs" / ("1" * 64)).iterdir()) == ["00000002", "00000003"]
    offers.end()
    assert list((tmp_path / "blobs").iterdir()) == []
    offers.end()


@pytest.mark.parametrize(
    ("size", "there", "refusal"),
    [(24, b"x" * 24, None), (24, None, "not_found"), (24, b"x" * 23, "not_found"), (23, b"x" * 23, "wrong_shape")],
)
def test_what_a_member_names_is_what_it_has_brought(offers, tmp_path, size, there, refusal):
    folder = tmp_path / "blobs" / ("1" * 64) / "00000003" / "acme"
    folder.mkdir()
    if there is not None:
        (folder / ("2" * 64)).write_bytes(there)
    carried = Carried({}, Named(sha256="2" * 64, size=size))
    take = (carried, "fp32", {"a": (2, 3)})
    if refusal is None:
        assert offers.way(3, "acme").take(*take)["a"].data == there
    else:
        with pytest.raises(Refused, match=refusal):
            offers.way(3, "acme").take(*take)
    with pytest.raises(Refused):
        offers.way(3, "birch").take(*take)


def test_what_is_offered_is_linked_if_it_is_a_file_and_written_once_if_it_is_not(offers, tmp_path):
    folder = tmp_path / "blobs" / ("1" * 64) / "00000003"
    (tmp_path / "step").write_bytes(b"0123456789ab")
    given = offers.way(3, "").give(Blob(tmp_path / "step", "fp32", {"a": (3,)}), 12)
    assert given.blob.size == given.size == 12
    assert (folder / given.blob.sha256).stat().st_ino == (tmp_path / "step").stat().st_ino
    encoded = {"a": codecs.Packed("fp32", (2,), b"01234567"), "b": codecs.Packed("fp32", (1,), b"89ab")}
    assert offers.way(3, "").give(encoded, 12) == given
    assert offers.way(3, "").give(encoded, 10) == Carried(encoded)


def test_a_link_replaces_what_was_there_and_may_be_made_twice(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    for _ in range(2):
        durable.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
