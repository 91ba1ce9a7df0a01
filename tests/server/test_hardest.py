"""A run that trains on the hardest of several sequences: what was picked is committed to, shown and repeated."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from world import TOY

from client import begun, data, half, hardest, reexecute
from client.half import Half
from client.memory import Turn
from client.steps import logged, repeat
from client.team import at_work
from client.train import BrokenOff, train
from client.training import ONE, Machine
from consortium.simulate import Result, simulate
from server import outer
from shared_models.lm import weights
from shared_models.published import fetch, reader
from shared_models.records import canonical, merkle
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, Manifest, Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import committed
from shared_models.rules.pricing import flop_per_token, round_flop, tokens_asked

RECIPE = replace(TOY, width=32, batch=4, inner_steps=6, segment=3, candidates=3)
TURN = {"member": "acme", "round_": 1, "rounds": 2}
TEXT = data.load("python-stdlib:0/3")
torch.set_num_threads(1)


def base(recipe=RECIPE) -> weights.Weights:
    """Weights that do not hold every token as likely."""
    model = outer.model(recipe, 1)
    with torch.no_grad():
        model.head.weight.normal_(0, 1, generator=torch.Generator().manual_seed(2))
    return weights.of(model)


def by_hand(recipe, tokens=TEXT) -> list[np.ndarray]:
    """The candidates of each step, by a recipe that trains on all of them."""
    wide = replace(recipe, candidates=1, batch=recipe.batch * recipe.candidates)
    batches = data.Batches(tokens, wide, **TURN)
    return [batches.draw() for _ in range(recipe.inner_steps)]


def picks(recipe=RECIPE, tokens=TEXT, **changes: object) -> list[tuple[int, ...]]:
    return [rows for rows, _ in hardest.picked(base(recipe), recipe, tokens, **(TURN | changes))]


def test_of_the_candidates_those_are_trained_on_that_the_base_predicts_worst():
    model, rows = outer.model(RECIPE, 1), picks()
    weights.put(base(), model)
    batches = data.Batches(TEXT, RECIPE, rows, **TURN)
    for each, candidates in zip(rows, by_hand(RECIPE), strict=True):
        losses = [model.loss(torch.from_numpy(sequence[None])).item() for sequence in candidates]
        right = sorted(sorted(range(12), key=losses.__getitem__)[-4:])
        assert (len(candidates), [*each]) == (12, right)
        assert (batches.draw() == candidates[right]).all()
    assert picks() == rows


@pytest.mark.parametrize("changes", [{"shortest": 4}, {"precision": "bf16"}, {"feed": "swiglu", "experts": 4}])
def test_any_recipe_picks_as_many_as_it_trains_on(changes):
    recipe = replace(RECIPE, **changes, experts_per_token=2 if "experts" in changes else 0)
    rows = picks(recipe)
    flat = [each for step in rows for each in step]
    assert [*map(tuple, hardest.by_step(flat, recipe, 1, 2))] == rows
    with at_work(base(recipe), recipe, TEXT, {}, picked=rows, **TURN) as training:
        assert len([*training.until(6)]) == 6


def test_what_is_no_choice_of_the_recipe_s_is_none():
    flat = [each for step in picks() for each in step]
    assert hardest.by_step(flat, RECIPE, 1, 2) is not None
    twice, back = [*flat], [*flat]
    twice[1], back[:2] = twice[0], [flat[1], flat[0]]
    for other in (flat[:-1], [*flat, 0], [*flat[:-1], 12], twice, back):
        assert hardest.by_step(other, RECIPE, 1, 2) is None


def test_of_equal_candidates_the_first_are_picked():
    assert hardest.pick(np.float32([1, 2, 2, 0, 2]), 2) == (1, 2)
    assert hardest.pick(np.float32([np.nan, 1, 2]), 1) == (2,)


def test_the_digest_commits_to_what_was_picked():
    rows = picks()
    batches = data.Batches(TEXT, RECIPE, rows, **TURN)
    assert batches.slice.picked == data.digest_of([])
    tokens = batches.draw()
    flat = b"".join(number.to_bytes(8, "little") for number in rows[0])
    assert batches.slice == data.Slice(
        tokens=hashlib.sha256(tokens.astype(np.uint8).tobytes()).hexdigest(),
        sample=FIRST,
        trained=4 * 16,
        synthetic=0,
        picked=hashlib.sha256(flat).hexdigest(),
    )
    assert batches.digest == batches.slice.hash


def test_what_nothing_much_harder_was_left_out_of_is_right_on_any_build():
    rows, about = picks(), (base(), RECIPE, TEXT, ONE)
    assert hardest.left_out(*about, rows, 0, 6, **TURN) == ""
    scores = hardest.Scores(base(), RECIPE, TEXT, **TURN)
    losses = [scores.next() for _ in range(6)]
    easiest = np.argsort(losses[4])[:4]
    bent = [*rows[:4], sorted(easiest.tolist()), rows[5]]
    assert hardest.left_out(*about, bent, 0, 4, **TURN) == ""
    assert hardest.left_out(*about, bent, 5, 6, **TURN) == ""
    said = hardest.left_out(*about, bent, 3, 6, **TURN)
    least, most = losses[4][easiest].min(), losses[4].max()
    assert said == f"step 5 was trained on a sequence of {least:.4f} nats a token, and left one of {most:.4f}"


def test_two_that_are_nearly_equal_may_change_places(monkeypatch):
    losses = np.float32([1.0, 1.00005, 1.00012, 0.5, 0.4, 0.3])
    monkeypatch.setattr(hardest.Scores, "next", lambda _self: losses)
    about = base(), replace(RECIPE, batch=1, candidates=6), TEXT, ONE
    for row, right in ((2, True), (1, True), (0, False)):
        assert (hardest.left_out(*about, [(row,)], 0, 1, **TURN) == "") == right


def broken_off(tmp_path, at: int) -> tuple[Half, list]:
    """A round that is broken off at this report of its progress, kept, and recalled."""
    told = []

    def report(progress) -> None:
        told.append(progress)
        if len(told) == at:
            raise Refused(Refusal.TAKEN_AWAY, "now")

    with pytest.raises(BrokenOff) as caught:
        train(base(), RECIPE, TEXT, {}, **TURN, report=report, report_s=0)
    turn = Turn(manifest="ab" * 32, member="acme", round=1, base="cd" * 32)
    half.keep(tmp_path / "half", turn, "build", caught.value.half)
    found = half.recall(tmp_path / "half", turn, "build")
    assert found is not None
    return found, told


@pytest.mark.parametrize("at", [1, 6, 9])
def test_a_round_that_is_broken_off_ends_in_the_same_bits(tmp_path, at):
    """While it picks it begins anew; later it goes on with what was picked."""
    whole = train(base(), RECIPE, TEXT, {}, **TURN, report=lambda _: None)
    found, told = broken_off(tmp_path, at)
    assert (found.step, len(found.picked)) == (max(0, at - 6), 6 if at > 6 else 0)
    assert [each.tokens for each in told] == [max(0, number - 5) * 64 for number in range(at)]
    again = train(base(), RECIPE, TEXT, {}, **TURN, report=lambda _: None, since=found)
    assert (again.points, again.data) == (whole.points, whole.data)
    assert weights.digest(again.update) == weights.digest(whole.update)
    other = train(base(), RECIPE, TEXT[1000:], {}, **TURN, report=lambda _: None)
    assert train(base(), RECIPE, TEXT[1000:], {}, **TURN, report=lambda _: None, since=found).points == other.points


def test_several_processes_train_on_what_one_has_picked():
    one = train(base(), RECIPE, TEXT, {}, **TURN, report=lambda _: None)
    two = train(base(), RECIPE, TEXT, {}, **TURN, report=lambda _: None, machine=Machine(processes=2))
    assert one.data == two.data


# A run.


TWO = {"acme": 2, "birch": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("run") / "parties"
    return simulate(folder, TWO, rounds=2, recipe=RECIPE, steps={"birch": 4})


def receipt(run: Result, member: str, round_: int) -> tuple[Receipt, str]:
    for leaf in fetch(reader(str(run.founded.ledger / "log"))).leaves:
        record = entries.peek(leaf)
        if isinstance(record, Receipt) and (record.member, record.round) == (member, round_):
            return record, merkle.leaf_hash(leaf).hex()
    raise AssertionError(member)


def shown(run: Result, member: str, segment: int) -> bytes:
    (signed, hashed), home = receipt(run, member, 2), run.founded.member(member)
    kept = begun.recall(home.begun_path, run.report.books.runs["r1"].hash, 2)
    told = {"segment": segment, "text": home.settings.data, "salt": home.salt("r1", 2)}
    return reexecute.show(kept, signed, hashed, run.manifest, **told)


def test_a_run_is_billed_by_what_it_picks_from_and_anyone_comes_to_the_same(run):
    assert (run.report.findings, run.excluded) == ([], ())
    assert run.manifest.flop_per_token == flop_per_token(RECIPE) == _counted()
    assert [each.flop for each in run.bill.balances] == [2 * round_flop(run.manifest, 1, name) for name in TWO]
    assert round_flop(run.manifest, 1, "acme") == tokens_asked(RECIPE) * run.manifest.flop_per_token
    log = fetch(reader(str(run.founded.ledger / "log"))).leaves
    assert [each.wrong for each in repeat(logged(log, "r1"), run.founded.coordinator.path)] == ["", ""]


def _counted() -> int:
    plain = flop_per_token(replace(RECIPE, candidates=1))
    assert plain % 3 == 0  # Of which one part is the way forward.
    return plain + 3 * (plain // 3)


def test_who_repeats_a_segment_picks_the_same(run):
    for member in TWO:
        for segment in (0, 1):
            (signed, hashed), (earlier, _) = receipt(run, member, 2), receipt(run, member, 1)
            found = reexecute.replay(shown(run, member, segment), signed, hashed, run.manifest, earlier)
            assert found == ("matches", 0, "the same bits")


def lied(run: Result, manifest: Manifest | None = None, **changes: object) -> reexecute.Found:
    """What comes of an opening with other words in it, for which its member has signed."""
    data_ = shown(run, "acme", 1)
    opening, (_, groups) = replace(reexecute.read(data_), **changes), begun.split(data_)
    if opening.slice:
        *before, last = opening.trajectory.points
        points = (*before, replace(last, data=opening.slice[0].hash))
        opening = replace(opening, trajectory=replace(opening.trajectory, points=points))
    salted = committed(opening.salt, opening.trajectory.points[-1].data)
    (signed, hashed), (earlier, _) = receipt(run, "acme", 2), receipt(run, "acme", 1)
    made = replace(signed, data=salted, trajectory=opening.trajectory.root)
    whole = canonical.encode(opening) + b"\n" + begun.pack(**groups)
    return reexecute.replay(whole, made, hashed, manifest or run.manifest, earlier)


def test_what_was_picked_is_held_against_who_signed_it(run):
    opening = reexecute.read(shown(run, "acme", 1))
    (said,) = opening.slice
    for bent, why in (
        (opening.picked[:-1], "none of the recipe's candidates"),
        ((*opening.picked[:-1], 12), "none of the recipe's candidates"),
        ((*opening.picked[:-1], 2**62), "none of the recipe's candidates"),
        ((*opening.picked[:-4], *range(4)), "by step 6 it had other tokens"),
    ):
        found = lied(run, picked=bent, slice=(replace(said, picked=data.digest_of(bent)),))
        assert (found.verdict, why in found.why) == ("differs", True), found.why
    plain = replace(run.manifest, recipe=replace(run.manifest.recipe, candidates=1))
    found = lied(run, plain)
    assert (found.verdict, "none of the recipe's candidates" in found.why) == ("differs", True)
    for picked in (FIRST, data.digest_of([])):
        found = lied(run, plain, picked=(), slice=(replace(said, picked=picked),))
        assert (found.verdict, "by its texts and the recipe nothing is" in found.why) == ("differs", True)


def test_what_an_opening_says_was_picked_is_what_the_receipt_was_signed_for(run):
    whole = shown(run, "acme", 1)
    opening, (_, groups) = reexecute.read(whole), begun.split(whole)
    (said,) = opening.slice
    (signed, hashed), (earlier, _) = receipt(run, "acme", 2), receipt(run, "acme", 1)
    for changes, why in (
        ({"picked": (*opening.picked[:-1], 11)}, "what it picked is not"),
        ({"picked": ()}, "what it picked is not"),
        ({"slice": (), "picked": ()}, "it does not say what was picked"),
        ({"slice": ()}, "or neither"),
        ({"slice": (replace(said, picked=FIRST),)}, "or neither"),
    ):
        forged = canonical.encode(replace(opening, **changes)) + b"\n" + begun.pack(**groups)
        with pytest.raises(Refused) as caught:
            reexecute.replay(forged, signed, hashed, run.manifest, earlier)
        assert (caught.value.refusal, why in caught.value.detail) == (Refusal.WRONG_OPENING, True), why
