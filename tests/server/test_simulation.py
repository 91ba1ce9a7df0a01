"""Whole runs in one process: the real ServerApp and ClientApp, Flower's own bytes, the real ledger, an audited bill."""

import hashlib
import math
import random
import shutil
import threading
import time
from dataclasses import replace

import pytest
from world import TOY, slowness

from client import steps
from consortium.faults import LIES, POISONS, Away, Slow, resigned
from consortium.found import PRICE, found
from consortium.simulate import Result, simulate
from server import outer
from server.launch import propose
from shared_models.bundle import build
from shared_models.lm import codecs, corpus, weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import CODECS, Receipt
from shared_models.records.refusals import Refusal, Refused

THREE = {"acme": 2, "birch": 1, "cedar": 1}

NAMED = {
    "foreign": "unknown_key",
    "inflated": "implausible",
    "miscounted": "implausible",
    "mislabelled": "malformed",
    "not_finite": "not_finite",
    "oversized": "too_large",
    "tampered": "wrong_digest",
    "truncated": "wrong_shape",
    "wrong_base": "wrong_base",
    "wrong_round": "wrong_round",
    "wrong_shape": "wrong_shape",
}


def toy(folder, **more):
    return simulate(folder / "parties", more.pop("benefits", THREE), **{"rounds": 2, "recipe": TOY} | more)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """The first run of a process imports half of what there is: no deadline here is spent on that."""
    toy(tmp_path_factory.mktemp("warm"), rounds=1)


def test_three_members_train_and_each_number_of_the_bill_is_recomputed(tmp_path):
    result = toy(tmp_path)
    assert result.report.findings == []
    assert (result.report.receipts, result.report.accepted, result.excluded) == (6, 6, ())
    assert len(result.losses) == 3
    assert result.losses[2] < result.losses[0]
    assert {line.member for line in result.bill.lines} == set(THREE)


def test_members_train_on_files_of_their_own_and_checkpoints_are_scored_on_another_which_every_step_needs(tmp_path):
    """The texts are of two letters each, the held-out one of all six: the loss says that it was that one."""
    files = {}
    for name, letters in {**dict(zip(THREE, ("ab", "cd", "ef"), strict=True)), "held-out": "abcdef"}.items():
        files[name] = tmp_path / name
        files[name].write_text("".join(random.Random(name).choices(letters, k=3000)))
    held_out = files.pop("held-out")
    recipe = replace(TOY, inner_steps=10)
    result = toy(tmp_path / "run", recipe=recipe, texts=list(files.values()), held_out=held_out)
    assert result.report.findings == []
    assert math.log(3) < result.losses[-1] < result.losses[0] == pytest.approx(math.log(256), abs=1e-3)
    named = "sha256:" + hashlib.sha256(held_out.read_bytes()).hexdigest()
    assert result.manifest.recipe.corpus == named
    kept = result.founded.coordinator.texts_path / named.removeprefix("sha256:")
    assert (kept.read_bytes(), kept.stat().st_mode & 0o77) == (held_out.read_bytes(), 0)

    leaves = fetch(reader(str(result.founded.ledger / "log"))).leaves
    said, files = steps.logged(leaves, "r1"), tmp_path / "copy"
    shutil.copytree(result.founded.coordinator.path, files)
    assert [each.wrong for each in steps.repeat(said, files)] == ["", ""]
    (files / "texts" / kept.name).write_bytes(held_out.read_bytes().replace(b"a", b"b"))
    corpus.scored_on.cache_clear()
    assert all(f"corrupt: {files / 'texts' / kept.name} is sha256:" in each.wrong for each in steps.repeat(said, files))
    (files / "texts" / kept.name).unlink()
    assert all(f"not_found: the text {named}" in each.wrong for each in steps.repeat(said, files))


def test_a_text_that_cannot_be_scored_on_starts_no_run(tmp_path):
    short = tmp_path / "short"
    short.write_text("too short")
    for held_out, refusal, why in (
        (short, Refusal.BAD_FIELD, "has 9 bytes, too few"),
        (tmp_path / "none", Refusal.NOT_FOUND, f"the held-out text {tmp_path / 'none'}: No such file"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            toy(tmp_path / refusal.value, held_out=held_out)
        assert caught.value.refusal is refusal
    with pytest.raises(Refused, match="1 texts for 3 members"):
        toy(tmp_path / "one", texts=[short])


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"kv_heads": 3}, Refusal.BAD_FIELD),
        ({"layers": 0}, Refusal.BAD_FIELD),
        ({"up": "int2"}, Refusal.UNKNOWN_CODEC),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_proposed_to_nobody(tmp_path, changes, refusal):
    """Before its model is made, which for some could not be."""
    with pytest.raises(Refused) as caught:
        toy(tmp_path, recipe=replace(TOY, **changes))
    assert caught.value.refusal is refusal


def test_an_adapter_with_nothing_to_put_it_beside_is_not_proposed_either(tmp_path):
    """The ledger would refuse it, too; but who proposes it is told before it is signed."""
    parties = found(tmp_path, {"acme": 1}, ledger_url="", superlink="127.0.0.1:0", price=PRICE)
    recipe, agreed = replace(TOY, adapter=2, width=64, heads=2), parties.coordinator.keyring.agreement
    with pytest.raises(Refused) as caught:
        propose(agreed, "r1", recipe, build(), rounds=1, quorum=1, deadline_ms=1_000)
    assert caught.value.refusal is Refusal.WRONG_BASE


def test_the_same_run_twice_gives_the_same_checkpoint_to_the_bit(tmp_path):
    one, other = (toy(tmp_path / name) for name in "ab")
    assert one.losses == other.losses
    checkpoints = {result.report.books.runs["r1"].checkpoint for result in (one, other)}
    assert len(checkpoints) == 1
    weights.stored(one.founded.coordinator.path / "checkpoints", checkpoints.pop())


def test_members_remember_their_optimiser_until_the_last_round(tmp_path):
    home = toy(tmp_path, rounds=4).founded.member("acme")
    assert sorted(path.name for path in home.memory_path.rglob("*.memory")) == ["2.memory", "3.memory"]


def test_who_answers_first_does_not_change_the_checkpoint(tmp_path):
    one = toy(tmp_path / "a", workers=1)
    other = toy(tmp_path / "b", workers=3)
    assert one.report.books.runs["r1"].checkpoint == other.report.books.runs["r1"].checkpoint


def test_it_is_quick_enough_to_be_used_by_the_hundred(tmp_path):
    spent = []
    for n in range(3):
        before = time.process_time()  # Of a machine that does other things too, seconds say less.
        toy(tmp_path / str(n))
        spent.append(time.process_time() - before)
    assert min(spent) < 1.5 * slowness()


def receipts(result: Result) -> list[Receipt]:
    """Every receipt in the log, in its order."""
    leaves = fetch(reader(str(result.founded.ledger / "log"))).leaves
    return [record for leaf in leaves if isinstance(record := entries.peek(leaf), Receipt)]


@pytest.mark.parametrize("lie", sorted(NAMED))
def test_a_liar_is_refused_by_name_and_the_run_goes_on_without_it(tmp_path, lie):
    result = toy(tmp_path, misbehave={"birch": lie})
    assert result.excluded == ((1, "birch", NAMED[lie]), (2, "birch", NAMED[lie]))
    assert result.report.findings == []
    # Nothing of the lie was written: what the log holds of birch is what its own daemon signed.
    signed = {entries.peek(leaf) for leaf in result.founded.member("birch").signed()}
    assert {receipt for receipt in receipts(result) if receipt.member == "birch"} <= signed
    assert receipts(result)
    assert {balance.member: balance.flop > 0 for balance in result.bill.balances} == {
        "acme": True,
        "birch": False,
        "cedar": True,
    }


@pytest.mark.parametrize("lie", ["tampered", "truncated", "wrong_shape"])
def test_a_liar_is_refused_by_name_where_the_head_is_the_embedding_too(tmp_path, lie):
    result = toy(tmp_path, recipe=replace(TOY, embeddings="tied"), misbehave={"birch": lie}, rounds=1)
    assert result.excluded == ((1, "birch", NAMED[lie]),)


def test_an_answer_sent_again_is_refused_as_replayed(tmp_path):
    result = toy(tmp_path, misbehave={"birch": "replayed"}, rounds=3)
    assert result.excluded == ((2, "birch", "replayed"), (3, "birch", "replayed"))
    assert result.report.findings == []


def test_every_lie_is_tried_here():
    assert {*NAMED, "replayed"} == set(LIES)


@pytest.mark.parametrize("poison", sorted(POISONS))
def test_a_poisoner_is_signed_for_and_paid_like_anybody(tmp_path, poison):
    result = toy(tmp_path, misbehave={"birch": poison}, rounds=3)
    assert (result.excluded, result.report.findings) == ((), [])
    assert len({balance.flop for balance in result.bill.balances}) == 1
    assert len({each.update for each in receipts(result) if each.member == "birch"}) == (1 if poison == "zeros" else 3)
    honest = toy(tmp_path / "honest", rounds=3)
    first = {each.member: each.update for each in receipts(honest) if each.round == 1}
    said = {each.member: each.update for each in receipts(result) if each.round == 1}
    assert {name for name in first if first[name] != said[name]} == {"birch"}


def test_a_dead_member_ends_no_round_but_its_own_part_of_it_and_nobody_waits_for_it(tmp_path):
    result = toy(tmp_path, misbehave={"cedar": "dead"}, deadline_s=60.0, rounds=3)
    assert result.excluded == ((1, "cedar", "dead"), (2, "cedar", "dead"), (3, "cedar", "dead"))
    assert result.report.findings == []
    assert result.seconds < 20


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_member_that_goes_offline_in_a_round_and_comes_back_counts_in_it_once(tmp_path, heard, seconds):
    """Started anew, it has lost its task; not heard for a while, it is asked again while it still answers."""
    away = Away(round=2, seconds=seconds, heard=heard)
    result = toy(tmp_path, misbehave={"cedar": away}, quorum=3, rounds=3)
    assert (result.excluded, result.report.findings) == ((), [])
    assert (result.report.receipts, result.report.accepted) == (9, 9)
    never = toy(tmp_path / "never", rounds=3)
    assert result.report.books.runs["r1"].checkpoint == never.report.books.runs["r1"].checkpoint


def test_a_slow_member_takes_so_many_times_as_long_and_a_quorum_does_not_wait_for_it(tmp_path):
    result = toy(tmp_path, misbehave={"cedar": Slow(50.0)}, wait="quorum", quorum=2, rounds=1)
    assert result.excluded == ((1, "cedar", "late"),)
    signed = [entries.peek(leaf) for leaf in result.founded.member("cedar").signed()]
    (took_ms,) = [each.busy_ms for each in signed if isinstance(each, Receipt)]
    assert result.seconds > 0.98 * took_ms / 1000  # It is slept to the end.


def test_members_whose_texts_are_unlike_train_on_those_and_on_the_same_each_time(tmp_path):
    one, other = (toy(tmp_path / name, alpha=0.1, rounds=1) for name in "ab")
    alike = toy(tmp_path / "c", alpha=100.0, rounds=1)
    assert one.founded.member("birch").settings.data == f"python-stdlib:1/3,alpha=0.100000,seed={TOY.seed}"
    assert [each.report.findings for each in (one, other, alike)] == [[], [], []]
    assert one.losses == other.losses != alike.losses


def test_a_late_member_is_left_out_and_the_run_goes_on(tmp_path):
    result = toy(tmp_path, misbehave={"cedar": "late"}, deadline_s=2.0, rounds=2)
    assert [(member, reason) for _, member, reason in result.excluded] == [("cedar", "late")] * 2
    assert result.report.findings == []


def test_a_member_that_failed_once_hands_in_its_receipt_with_the_next(tmp_path):
    lies = iter([LIES["not_finite"]()])

    def once(answer, key):
        lie = next(lies, None)
        return lie(answer, key) if lie else answer

    result = toy(tmp_path, misbehave={"birch": once}, rounds=2)
    assert result.excluded == ((1, "birch", "not_finite"),)
    assert [receipt.round for receipt in receipts(result) if receipt.member == "birch"] == [1, 2]
    assert result.report.accepted == 5


def test_without_a_quorum_a_round_changes_nothing(tmp_path):
    result = toy(tmp_path, misbehave={"birch": "tampered", "cedar": "not_finite"})
    assert result.report.books.runs["r1"].checkpoint == result.manifest.base
    assert len(set(result.losses)) == 1
    assert {balance.member for balance in result.bill.balances if balance.flop} == {"acme"}


def test_a_lying_member_changes_nothing_for_the_others(tmp_path):
    """The checkpoint is the one that the honest two would have reached alone."""
    with_liar = toy(tmp_path / "a", misbehave={"cedar": "tampered"}, rounds=1)
    without = toy(tmp_path / "b", misbehave={"cedar": "dead"}, rounds=1, deadline_s=3.0)
    assert with_liar.report.books.runs["r1"].checkpoint == without.report.books.runs["r1"].checkpoint


def test_a_receipt_that_the_ledger_does_not_take_counts_for_nothing(tmp_path):
    """All that the coordinator itself checks is right; only the ledger knows the chain that it does not continue."""
    result = toy(tmp_path, misbehave={"cedar": lambda answer, key: resigned(answer, key, prev="0" * 64)}, rounds=1)
    assert result.excluded == ((1, "cedar", "wrong_prev"),)
    assert result.report.findings == []


def test_a_copy_of_another_member_s_answer_is_refused(tmp_path):
    """cedar sends what acme sent: Flower delivers it, the signatures inside say whose it is."""
    stolen, there = [], threading.Event()

    def take(answer, key):
        stolen.append(answer)
        there.set()
        return answer

    def copy(answer, key):
        there.wait()
        return stolen[-1]

    result = toy(tmp_path, misbehave={"acme": take, "cedar": copy}, rounds=1)
    assert result.excluded == ((1, "cedar", "wrong_member"),)


def test_each_receipt_cites_a_head_that_its_signer_had_verified(tmp_path):
    result = toy(tmp_path)
    cited = [(receipt.round, receipt.witnessed_size) for receipt in receipts(result)]
    assert len({size for round_, size in cited if round_ == 1}) == 1  # The head behind which the round was opened.
    assert min(size for round_, size in cited if round_ == 2) > max(size for round_, size in cited if round_ == 1) > 0
    assert result.founded.member("acme").witnessed().size > max(size for _, size in cited)


# What travels. Nothing is late here, and nothing is lost that is not said.


def payload(codec: str) -> int:
    return sum(codecs.size(codec, tensor.shape) for tensor in outer.first(TOY).values())


def came(result: Result, member: str) -> list[int]:
    """The bytes that came with each task of this member, by its receipts."""
    return [receipt.bytes_down for receipt in receipts(result) if receipt.member == member]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_trains_both_ways_and_is_metered_to_the_byte(tmp_path, codec):
    recipe = replace(TOY, up=codec, down=codec, inner_steps=10, batch=4)
    result = toy(tmp_path, recipe=recipe, rounds=4)
    assert (result.report.findings, result.report.accepted, result.excluded) == ([], 12, ())
    assert result.losses[-1] < result.losses[0] - (0.005 if codec == "top64" else 0.1)
    for member in THREE:
        assert came(result, member) == [payload("fp32"), *[payload(codec)] * 3]
    assert {receipt.bytes_up for receipt in receipts(result)} == {payload(codec)}


def test_small_codecs_repeat_to_the_bit_too(tmp_path):
    recipe = replace(TOY, up="top64", down="int4")
    one, other = (toy(tmp_path / name, recipe=recipe, rounds=3, workers=number) for number, name in enumerate("ab", 1))
    assert one.losses == other.losses


def test_who_did_not_count_in_the_last_round_is_sent_the_whole_checkpoint(tmp_path):
    lies = iter([LIES["not_finite"]()])

    def once(answer, key):
        lie = next(lies, None)
        return lie(answer, key) if lie else answer

    result = toy(tmp_path, misbehave={"birch": once}, recipe=replace(TOY, down="int8"), rounds=3)
    assert result.excluded == ((1, "birch", "not_finite"),)
    assert came(result, "acme") == [payload("fp32"), payload("int8"), payload("int8")]
    assert came(result, "birch") == [payload("fp32"), payload("fp32"), payload("int8")]


def test_who_lost_its_checkpoint_is_sent_it_whole_in_the_same_round(tmp_path):
    rounds = iter(range(1, 4))

    def lose(answer, key):
        if next(rounds) == 1:
            (kept,) = [folder for folder in tmp_path.rglob("kept") if "birch" in folder.parts]
            shutil.rmtree(kept)
        return answer

    result = toy(tmp_path, misbehave={"birch": lose}, recipe=replace(TOY, down="int8"), rounds=3)
    assert (result.excluded, result.report.findings) == ((), [])
    assert came(result, "birch") == [payload("fp32"), payload("fp32"), payload("int8")]
    untouched = toy(tmp_path / "b", recipe=replace(TOY, down="int8"), rounds=3)
    assert result.losses == untouched.losses


def test_who_says_it_has_no_checkpoint_whatever_it_is_sent_is_asked_once_more_and_left_out(tmp_path):
    result = toy(tmp_path, misbehave={"birch": "forgetful"}, rounds=3, deadline_s=20.0)
    assert result.excluded == ((2, "birch", "no_checkpoint"), (3, "birch", "no_checkpoint"))
    assert result.seconds < 20


def test_after_a_round_that_changed_nothing_nothing_is_sent(tmp_path):
    result = toy(tmp_path, misbehave={"birch": "tampered", "cedar": "not_finite"}, rounds=3)
    assert came(result, "acme") == [payload("fp32"), 0, 0]
    assert result.report.findings == []


def test_eight_members(tmp_path):
    result = toy(tmp_path, benefits={f"m{n}": n + 1 for n in range(8)}, rounds=5)
    assert result.report.accepted == 40
    assert result.report.findings == []


def test_a_run_whose_first_weights_are_not_those_of_its_manifest_ends_as_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("consortium.simulate.propose", lambda *a, **k: replace(propose(*a, **k), base="0" * 64))
    with pytest.raises(Refused) as caught:
        toy(tmp_path)
    assert caught.value.refusal is Refusal.WRONG_BASE
    log = (tmp_path / "parties" / "ledger" / "log" / "tile" / "entries").rglob("*")
    newest = max((path for path in log if path.is_file()), key=lambda path: int(path.name))
    assert b'"status":"failed"' in newest.read_bytes()
    assert b"wrong_base" in newest.read_bytes()
