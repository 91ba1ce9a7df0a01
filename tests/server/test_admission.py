"""Which answers count. Each refusal has its answer: an honest one, and one thing changed."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from parties import FakeTime, Parties
from world import TOY, digest

from consortium import faults
from server.admission import Asked, admit
from shared_models.lm import codecs, weights
from shared_models.messages import MAX_ENTRIES, Answer, Task, from_error, to_error
from shared_models.records import entry as entries
from shared_models.records.kinds import CODECS
from shared_models.records.refusals import Refusal, Refused
from shared_models.transport import Named, Pass

LIES = {
    "foreign": Refusal.UNKNOWN_KEY,
    "inflated": Refusal.IMPLAUSIBLE,
    "miscounted": Refusal.IMPLAUSIBLE,
    "mislabelled": Refusal.MALFORMED,
    "not_finite": Refusal.NOT_FINITE,
    "replayed": Refusal.REPLAYED,
    "tampered": Refusal.WRONG_DIGEST,
    "truncated": Refusal.WRONG_SHAPE,
    "wrong_base": Refusal.WRONG_BASE,
    "wrong_round": Refusal.WRONG_ROUND,
    "wrong_shape": Refusal.WRONG_SHAPE,
}


class Round:
    """An open round, and the honest answer of acme to it."""

    def __init__(self, parties: Parties) -> None:
        self.parties = parties
        self.signers = {name: parties.consenting(name) for name in ("acme", "birch")}
        self.leaf, self.proof = parties.say(parties.opened())
        opened = entries.peek(self.leaf)
        keys = entries.charter_keys(parties.home.charter)
        self.asked = Asked(parties.home.charter, keys, parties.manifest, opened, self.leaf, codecs.shapes(parties.base))

    def answer(self, member: str = "acme") -> Answer:
        signer = self.signers[member]
        signer.begin(self.parties.begin(member, self.leaf, self.proof))
        update = {name: np.full_like(tensor, 0.5) for name, tensor in self.parties.base.items()}
        sent = codecs.send(self.asked.manifest.recipe.up, update, {})
        claim = self.parties.claim(update=weights.digest(sent.values), bytes_up=codecs.nbytes(sent.packed))
        return Answer(signer.claim(claim, FakeTime()), sent.packed, signer.cosigned)

    def key(self, member: str = "acme"):
        return self.parties.founded.member(member).key("compute")


@pytest.fixture
def turn(tmp_path, request):
    """An open round of a run whose members send in this codec; fp32 if the test does not say."""
    parties = Parties(tmp_path, replace(TOY, up=getattr(request, "param", "fp32")))
    yield Round(parties)
    parties.log.close()


EVERY_CODEC = pytest.mark.parametrize("turn", CODECS, indirect=True)


def floats(update: dict[str, codecs.Packed]) -> weights.Weights:
    (codec,) = {each.codec for each in update.values()}
    return codecs.unpack(update, codec, codecs.shapes(update))


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


@EVERY_CODEC
def test_an_honest_answer_is_admitted(turn):
    answer = turn.answer()
    work = admit(answer, "acme", turn.asked, set())
    assert (work.member, work.entries) == ("acme", answer.entries)
    assert weights.digest(work.update) == weights.digest(floats(answer.update))


@EVERY_CODEC
@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lie_is_refused_by_name(turn, lie):
    answer = turn.answer()
    seen = {admit(answer, "acme", turn.asked, set()).receipt} if lie == "replayed" else set()
    told = faults.LIES[lie]()(answer, turn.key())
    assert refused(admit, told, "acme", turn.asked, seen) is LIES[lie]


def test_every_lie_that_can_be_simulated_has_its_refusal():
    assert {*LIES, "oversized"} == set(faults.LIES)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"run": "r2"}, Refusal.WRONG_ROUND),
        ({"opened": digest("another")}, Refusal.WRONG_ROUND),
        ({"flop": 1}, Refusal.WRONG_FLOP),
        ({"busy_ms": 10**6}, Refusal.IMPLAUSIBLE),
        ({"update": digest("another")}, Refusal.WRONG_DIGEST),
    ],
)
def test_a_receipt_for_something_else_is_refused(turn, changes, refusal):
    told = faults.resigned(turn.answer(), turn.key(), **changes)
    assert refused(admit, told, "acme", turn.asked, set()) is refusal


def test_a_member_cannot_answer_for_another(turn):
    """Flower would deliver this as the answer of acme: it compares no key with the node that it was pushed for."""
    assert refused(admit, turn.answer("birch"), "acme", turn.asked, set()) is Refusal.WRONG_MEMBER


def test_every_entry_of_an_answer_is_its_member_s_own(turn):
    mixed = replace(turn.answer(), entries=(turn.answer("birch").entries[-1], *turn.answer().entries))
    assert refused(admit, mixed, "acme", turn.asked, set()) is Refusal.WRONG_MEMBER


def test_an_answer_ends_in_a_receipt(turn):
    consent = turn.parties.founded.member("acme").signed()[0]
    told = replace(turn.answer(), entries=(consent,))
    assert refused(admit, told, "acme", turn.asked, set()) is Refusal.MALFORMED


def test_arrays_are_all_there_and_no_others(turn):
    answer = turn.answer()
    more = answer.update | codecs.pack("fp32", {"more": np.zeros(1, np.float32)})
    less = {name: tensor for name, tensor in answer.update.items() if name != "head.weight"}
    for update in (more, less, {}):
        told = faults.resigned(replace(answer, update=update), turn.key(), bytes_up=codecs.nbytes(update))
        assert refused(admit, told, "acme", turn.asked, set()) is Refusal.WRONG_SHAPE


def test_nothing_is_decoded_that_has_not_the_size_of_the_model(turn):
    """Its own shape would be an array of 4 EB, of which the codec would make nothing at all."""
    answer = turn.answer()
    for shape, data in (((10**9, 10**9), b"\0" * 12), ((-3, -1), b"\0" * 12), ((4097,), b"\0" * 12)):
        update = answer.update | {"head.weight": codecs.Packed("fp32", shape, data)}
        told = faults.resigned(replace(answer, update=update), turn.key(), bytes_up=codecs.nbytes(update))
        assert refused(admit, told, "acme", turn.asked, set()) is Refusal.WRONG_SHAPE


# Flower's records.


def test_a_task_and_an_answer_come_back_as_they_were_sent(turn):
    begin = turn.parties.begin("acme", turn.leaf, turn.proof)
    for since in ("", turn.asked.opened.base):
        task = Task(begin, turn.parties.manifest_leaf, since, codecs.pack("int4", turn.parties.base))
        assert Task.from_record(task.to_record()) == task
    answer = turn.answer()
    assert Answer.from_record(answer.to_record(), codecs.nbytes(answer.update)) == answer


def test_what_travels_beside_a_message_is_named_in_it(turn):
    begin, blob = turn.parties.begin("acme", turn.leaf, turn.proof), Named(sha256=digest("blob"), size=2**40)
    granted = Pass(port=9443, capability="a.b.c", most=2**40)
    task = Task(begin, turn.parties.manifest_leaf, "", {}, blob, granted)
    assert Task.from_record(task.to_record()) == task
    answer = replace(turn.answer(), update={}, blob=blob)
    assert Answer.from_record(answer.to_record(), 2**40) == answer
    assert refused(Answer.from_record, answer.to_record(), 2**40 - 1) is Refusal.TOO_LARGE
    twice = replace(turn.answer(), blob=blob)
    assert refused(Answer.from_record, twice.to_record(), 2**41) is Refusal.MALFORMED
    for name, field in (("blob", b"{}"), ("blob", "x"), ("granted", b'{"capability":"a","most":0,"port":0}')):
        told = task.to_record()
        told["task"] = ConfigRecord(dict(told.config_records["task"]) | {name: field})
        assert refused(Task.from_record, told) in (Refusal.BAD_FIELD, Refusal.MALFORMED, Refusal.NOT_CANONICAL)


def record(honest: Answer, **changes: object) -> RecordDict:
    whole = honest.to_record()
    for name, value in changes.items():
        whole[name] = value
    return whole


def test_an_update_larger_than_the_model_is_refused_before_it_is_looked_at(turn):
    answer = faults.oversized(turn.answer(), turn.key())
    assert refused(Answer.from_record, answer.to_record(), weights.size(turn.parties.base)) is Refusal.TOO_LARGE
    exact = turn.answer()
    Answer.from_record(exact.to_record(), weights.size(turn.parties.base))


@pytest.mark.parametrize(
    "array",
    [
        Array(np.zeros(3, np.float32)),
        Array(np.zeros(3, np.float64)),
        Array("float64", (3,), "consortium.fp32", b"\0" * 24),
        Array("float32", (3,), "numpy.ndarray", b"PK\3\4"),
    ],
)
def test_arrays_are_read_in_encodings_that_have_no_header_to_lie_in(turn, array):
    told = record(turn.answer(), update=ArrayRecord({"head.weight": array}))
    assert refused(Answer.from_record, told, 10**6) is Refusal.MALFORMED


def test_a_record_of_another_form_is_malformed(turn):
    answer = turn.answer()
    Answer.from_record(record(answer, answer=ConfigRecord({"entries": [b"x"], "cosigned": b""})), 10**6)
    for told in (
        RecordDict(),
        record(answer, more=MetricRecord({"loss": 1.0})),
        record(answer, answer=ConfigRecord({"cosigned": b""})),
        record(answer, answer=ConfigRecord({"entries": [b"x"]})),
        *(
            record(answer, answer=ConfigRecord({"entries": wrong, "cosigned": b""}))
            for wrong in (b"x", ["x"], [], [b"x"] * (MAX_ENTRIES + 1))
        ),
        record(answer, update=MetricRecord({"loss": 1.0})),
    ):
        assert refused(Answer.from_record, told, 10**6) is Refusal.MALFORMED


def test_a_task_of_another_form_is_malformed(turn):
    begin = turn.parties.begin("acme", turn.leaf, turn.proof)
    task = Task(begin, turn.parties.manifest_leaf, "", {}).to_record()
    good = dict(task.config_records["task"])
    path = b"../" * 20 + b"keys"  # The digest becomes the name of a file.
    for change in ({"manifest": "x"}, {"manifest": b"x" * 70_000}, {"begin": "x"}, {"since": "x"}, {"since": path}):
        task["task"] = ConfigRecord(good | change)
        assert refused(Task.from_record, task) is Refusal.MALFORMED
    task["task"] = ConfigRecord({"begin": good["begin"], "since": b""})
    assert refused(Task.from_record, task) is Refusal.MALFORMED


def test_a_refusal_travels_by_its_name_and_anything_else_is_a_failure():
    refused = Refused(Refusal.FORK, "two histories: here and there")
    came = from_error(to_error(refused))
    assert (came.refusal, came.detail) == (refused.refusal, refused.detail)
    assert from_error(Error(5, "gone")).refusal is Refusal.DEAD
    assert from_error(Error(2, "fork: said by an exception")).refusal is Refusal.FAILED
    assert from_error(Error(1000, "nonsense: x")).refusal is Refusal.FAILED
    assert from_error(Error(1000)).refusal is Refusal.FAILED
