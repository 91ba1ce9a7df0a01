"""Training: the inner steps of a member and what it remembers of them, the outer step and how it grows."""

import platform
import re
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixes import INNERS
from world import TOY

from client import data
from client import half as halves
from client.half import Half
from client.memory import Turn
from client.train import BrokenOff, Trained, train
from client.training import Machine, Training, _processor, build
from server import outer
from shared_models.lm import codecs, gpt, hygiene, weights
from shared_models.lm import outer as steps
from shared_models.lm.inner import Inner, Stacked
from shared_models.records import canonical
from shared_models.records.kinds import BILLION, CODECS, Build, Recipe
from shared_models.records.refusals import Refusal, Refused


def trained(recipe: Recipe, memory=None, base=None, member="acme", round_=1, rounds=1) -> Trained:
    torch.set_num_threads(1)
    base = outer.first(recipe) if base is None else base
    tokens = data.load("python-stdlib:0/3")
    return train(base, recipe, tokens, memory or {}, member=member, round_=round_, rounds=rounds, report=lambda _: None)


@pytest.mark.parametrize("inner", INNERS)
def test_training_repeats_bit_for_bit_and_lowers_the_loss(inner):
    rate = {"lamb": "0.1", "lion": "0.02", "scion": "0.02"}.get(inner, TOY.inner_rate)  # By which they learn as fast.
    recipe = replace(TOY, width=32, context=32, batch=8, inner_steps=40, inner=inner, inner_rate=rate)
    base = outer.first(recipe)
    one, same, other = trained(recipe), trained(recipe), trained(recipe, member="birch")
    assert weights.digest(one.update) == weights.digest(same.update) != weights.digest(other.update)
    assert weights.digest(one.memory) == weights.digest(same.memory)
    assert (one.data, one.tokens, one.steps) == (same.data, 40 * 8 * 32, 40)
    after = {each.name: each.checkpoint for each in moved(recipe, [one.update, other.update], base=base)}
    model = outer.model(recipe)
    assert outer.held_out_loss(model, after, recipe) < 0.85 * outer.held_out_loss(model, base, recipe)


def moved(recipe: Recipe, updates, state=None, base=None, round_=1, rounds=1) -> list[steps.Moved]:
    """The step along the plain mean of these updates."""
    weighted = [(BILLION // len(updates), update) for update in updates]
    rule = steps.rule(recipe, round_, rounds)
    return list(steps.step(BASE if base is None else base, weighted, state or {}, rule))


# A machine that is taken away.

TAKEN_AWAY = Refused(Refusal.TAKEN_AWAY, "this machine is taken away")


def broken_off(recipe: Recipe, at: int, memory, base, since=None, tokens=None) -> Half:
    """The second of two rounds of acme's, up to where it is told, before inner step `at`."""
    torch.set_num_threads(1)

    def report(said) -> None:
        if said.tokens == at * recipe.batch * recipe.context:
            raise TAKEN_AWAY

    tokens = data.load("python-stdlib:0/3") if tokens is None else tokens
    with pytest.raises(BrokenOff, match="this machine is taken away") as caught:
        train(base, recipe, tokens, memory, member="acme", round_=2, rounds=2, report=report, report_s=0, since=since)
    return caught.value.half


@pytest.mark.parametrize("changes", [*({"inner": each} for each in INNERS), {"adapter": 2}, {"shortest": 2}])
def test_a_round_that_is_broken_off_and_gone_on_with_comes_to_the_same_bits(changes, tmp_path):
    """After each step, twice in a row too, by way of the disk: no receipt tells the difference."""
    recipe = replace(TOY, inner_steps=5, segment=2, **changes)
    base, tokens = outer.first(recipe), data.load("python-stdlib:0/3")
    if recipe.adapter:  # And what is frozen beside it.
        base |= weights.of(outer.model(replace(recipe, adapter=0), 3))
    turn = {"member": "acme", "round_": 2, "rounds": 2}
    before = trained(recipe, base=base, rounds=2).memory
    whole = trained(recipe, before, base, round_=2, rounds=2)
    path = tmp_path / "half"
    whose = Turn(manifest="0" * 64, member="acme", round=2, base=weights.digest(base))

    def kept(half: Half) -> Half:
        halves.keep(path, whose, "build", half)
        return halves.recall(path, whose, "build")

    for at in range(1, 5):
        half = kept(broken_off(recipe, at, before, base))
        assert (half.step, len(half.points)) == (at, (at + 1) // 2)
        if at < 4:
            half = kept(broken_off(recipe, at + 1, before, base, since=half))
        steps: list = []
        again = train(base, recipe, tokens, before, **turn, report=steps.append, report_s=0, since=half)
        assert len(steps) == 5 - half.step
        assert (again.data, again.tokens, again.steps) == (whole.data, whole.tokens, whole.steps)
        assert (again.points, again.loss) == (whole.points, whole.loss)
        assert weights.digest(again.update) == weights.digest(whole.update)
        assert weights.digest(again.memory) == weights.digest(whole.memory)
        assert again.busy_ms >= half.busy_ms


def test_who_is_told_after_the_last_step_has_nothing_left_to_break_off():
    recipe = replace(TOY, inner_steps=3)
    base, tokens = outer.first(recipe), data.load("python-stdlib:0/3")

    def report(said) -> None:
        if said.tokens == 3 * recipe.batch * recipe.context:
            raise TAKEN_AWAY

    found = train(base, recipe, tokens, {}, member="acme", round_=1, rounds=1, report=report, report_s=0)
    assert weights.digest(found.update) == weights.digest(trained(recipe, base=base).update)


def test_what_was_broken_off_on_another_text_or_is_not_as_it_was_kept_is_not_gone_on_with(tmp_path):
    recipe = replace(TOY, inner_steps=3)
    base, other = outer.first(recipe), data.load("python-stdlib:1/3")
    half = broken_off(recipe, 2, {}, base, tokens=other)
    mine = train(
        base,
        recipe,
        data.load("python-stdlib:0/3"),
        {},
        member="acme",
        round_=2,
        rounds=2,
        report=lambda _: None,
        since=half,
    )
    assert weights.digest(mine.update) == weights.digest(trained(recipe, base=base, round_=2, rounds=2).update)
    path = tmp_path / "half"
    turn = Turn(manifest="0" * 64, member="acme", round=2, base=weights.digest(base))
    assert halves.recall(path, turn, "build") is None
    halves.keep(path, turn, "build", half)
    assert halves.recall(path, turn, "build").step == 2
    for change in ({"manifest": "1" * 64}, {"member": "birch"}, {"round": 3}, {"base": "2" * 64}):
        assert halves.recall(path, replace(turn, **change), "build") is None
    assert halves.recall(path, turn, "another") is None
    whole = bytearray(path.read_bytes())
    for at in (0, 70, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert halves.recall(path, turn, "build") is None
    halves.forget(path)
    halves.forget(path)
    assert not path.exists()


def test_other_refusals_than_that_end_the_round_and_keep_nothing():
    recipe = replace(TOY, inner_steps=3)

    def report(_) -> None:
        raise Refused(Refusal.POLICY, "too much")

    tokens = data.load("python-stdlib:0/3")
    with pytest.raises(Refused, match="policy: too much"):
        train(outer.first(recipe), recipe, tokens, {}, member="acme", round_=1, rounds=1, report=report, report_s=0)


# What a receipt commits to.

EXPERTS = {"feed": "swiglu", "experts": 4, "experts_per_token": 2}
EVERYTHING = EXPERTS | {"inner": "muon", "heads": 4, "kv_heads": 1, "rank": 4, "layers": 4, "shared": 2}


@pytest.mark.parametrize("changes", [*({"inner": each} for each in INNERS), EVERYTHING, {"shortest": 2}])
def test_training_notes_its_state_at_each_segment_and_goes_on_from_there_to_the_bit(changes):
    recipe = replace(TOY, inner_steps=5, segment=2, **changes)
    base, tokens = outer.first(recipe), data.load("python-stdlib:0/3")
    before = trained(recipe, rounds=2).memory
    whole = trained(recipe, before, base, round_=2, rounds=2)
    assert [each.step for each in whole.points] == [0, 2, 4, 5]
    assert whole.points[0].weights == weights.digest(base)
    assert whole.points[0].memory == weights.digest(before)
    assert whole.points[-1].memory == weights.digest(whole.memory)
    assert whole.points[-1].data == whole.data
    state = base, before
    for one, other in pairwise(whole.points):
        training = Training(state[0], recipe, tokens, state[1], member="acme", round_=2, rounds=2, step=one.step)
        assert training.point() == one
        assert len(list(training.until(other.step))) == other.step - one.step
        assert training.point() == other
        state = training.state()
    assert weights.digest(weights.minus(state[0], base)) == weights.digest(whole.update)


def test_a_build_is_as_a_receipt_can_say_it(tmp_path):
    library, capability, threads, dtype, _ = build("fp32").split("/")
    assert (library, threads, dtype) == (torch.__version__, str(torch.get_num_threads()), "float32")
    assert capability == torch.backends.cpu.get_cpu_capability()
    assert build("bf16") == build("fp32").replace("float32", "bfloat16")
    assert re.fullmatch(get_args(Build)[1].regex, build("bf16"))
    (told := tmp_path / "cpuinfo").write_text("vendor_id\t: X y\ncpu family\t: 6\nmodel\t\t: 143\n\nmodel\t: 9\n")
    machine = platform.machine()
    assert _processor(told) == f"{machine}-X-y-6-143"
    assert _processor(tmp_path / "none") == machine


def length(update: weights.Weights) -> float:
    return float(np.sqrt(sum(np.sum(tensor**2) for tensor in update.values())))


# How a member computes.


QWEN3 = {"feed": "swiglu", "qk_norm": "head", "head_dim": 16, "embeddings": "tied", "inner": "muon"}
OLMOE = EVERYTHING | {"qk_norm": "whole", "expert_weights": "softmax", "feed_dim": 12}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("changes", [{}, EVERYTHING, QWEN3, OLMOE, {"feed": "swiglu", "bias": "qkv"}])
def test_what_is_computed_again_instead_of_kept_leads_to_the_same_bits(changes, precision):
    recipe = replace(TOY, **{"layers": 2, "precision": precision} | changes)
    torch.set_num_threads(1)
    base, tokens = outer.first(recipe), data.load("python-stdlib:0/3")
    kept, again = (
        Training(base, recipe, tokens, {}, member="acme", round_=1, rounds=1, machine=Machine(recompute=recompute))
        for recompute in (False, True)
    )
    assert list(kept.until(3)) == list(again.until(3))
    assert kept.point() == again.point()


def test_blocks_are_computed_again_when_it_is_asked_for():
    def calls(recompute: bool) -> int:
        model, called = gpt.GPT(gpt.Shape.of(replace(TOY, layers=2)), recompute=recompute), []
        for block in model.blocks:
            block.register_forward_pre_hook(lambda *_: called.append(1))
        model.loss(torch.arange(17)[None]).backward()
        return len(called)

    assert (calls(recompute=False), calls(recompute=True)) == (2, 4)


def test_bf16_is_of_matrix_products_alone_and_learns_as_much():
    recipe = replace(TOY, width=32, context=32, batch=8, inner_steps=40)
    fine, coarse = trained(recipe), trained(replace(recipe, precision="bf16"))
    assert {str(tensor.dtype) for tensor in (*coarse.update.values(), *coarse.memory.values())} == {"float32"}
    assert weights.digest(fine.update) != weights.digest(coarse.update)
    assert coarse.loss == pytest.approx(fine.loss, rel=0.01)
    assert fine.data == coarse.data


# The inner optimisers.


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else():
    memory = trained(replace(TOY, inner="muon")).memory
    orthogonal = {name for name in memory if name.endswith("/momentum_buffer")}
    assert orthogonal == {f"blocks.0.{name}.weight/momentum_buffer" for name in ("qkv", "out", "up", "down")}
    rest = {name.partition("/")[0] for name in memory.keys() - orthogonal}
    assert rest == {"embed.weight", "head.weight", "norm.weight", "blocks.0.norm1.weight", "blocks.0.norm2.weight"}
    assert not any(name.endswith("/momentum_buffer") for name in trained(TOY).memory)


@pytest.mark.parametrize("inner", INNERS)
def test_an_optimiser_goes_on_from_its_memory_as_if_it_had_never_stopped(inner):
    def stepped(times: int, cut: int | None) -> weights.Weights:
        model = outer.model(TOY, 3)
        optimiser = Inner(model, inner, {})
        for number in range(times):
            if number == cut:
                optimiser = Inner(model, inner, optimiser.memory())
            model.loss(torch.arange(number, number + 17)[None]).backward()
            optimiser.step(0.01)
        assert optimiser.steps == times
        return weights.of(model)

    assert weights.digest(stepped(4, cut=2)) == weights.digest(stepped(4, cut=None))


def test_a_memory_is_a_copy():
    optimiser = Inner(model := outer.model(TOY), "muon", {})
    before = optimiser.memory()
    assert before == {}
    assert optimiser.steps == 0
    model.loss(torch.arange(17)[None]).backward()
    optimiser.step(0.01)
    kept = optimiser.memory()
    digest = weights.digest(kept)
    model.loss(torch.arange(17)[None]).backward()
    optimiser.step(0.01)
    assert weights.digest(kept) == digest != weights.digest(optimiser.memory())


def test_one_rate_serves_both_halves_of_muon():
    """Its matrices move by about as much a step as AdamW moves the rest: 0.2 of the rate, in root mean square."""
    model = outer.model(replace(TOY, width=32), 3)
    torch.nn.init.normal_(model.head.weight)
    before = weights.of(model)
    optimiser = Inner(model, "muon", {})
    model.loss(torch.arange(17)[None]).backward()
    optimiser.step(0.01)
    for name, weight in weights.of(model).items():
        if name.startswith("blocks.") and weight.ndim == 2:
            moved = np.sqrt(np.mean((weight - (1 - 0.001) * before[name]) ** 2))
            assert 0.5 * 0.002 < moved < 1.5 * 0.002, name


def test_a_long_gradient_is_shortened_to_one():
    model = outer.model(TOY)
    optimiser = Inner(model, "adamw", {})
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    optimiser.step(0.01)
    seen = [value for name, value in optimiser.memory().items() if name.endswith("/exp_avg")]
    assert sum(float(np.sum(value**2)) for value in seen) == pytest.approx(0.01, rel=1e-3)  # (1 - β1)² × 1².


def test_an_optimiser_without_memory_is_warmed_up_again_in_the_middle_of_a_run():
    recipe = replace(TOY, inner_steps=4)
    rounds = 40  # A twentieth of 160 steps are 8.
    first = trained(recipe, rounds=rounds)
    second = trained(recipe, first.memory, round_=2, rounds=rounds)
    third = trained(recipe, second.memory, round_=3, rounds=rounds)
    afresh = trained(recipe, round_=3, rounds=rounds)

    assert length(first.update) < length(second.update)
    assert length(afresh.update) < 0.7 * length(third.update)


def test_the_rate_falls_to_a_tenth_over_the_run():
    recipe = replace(TOY, inner_steps=1)
    memory = trained(recipe).memory  # The same before each, so that the rate is all that differs.
    early, late = (trained(recipe, memory, round_=round_, rounds=1000) for round_ in (1, 1000))
    assert 0.05 < length(late.update) / length(early.update) < 0.2


# The outer step.

BASE = {"w": np.array([1.0, 2.0], np.float32)}
UPDATES = [{"w": np.array([0.5, 0.0], np.float32)}, {"w": np.array([1.5, 1.0], np.float32)}]  # Their mean: 1, 0.5.


def stepped(memory=(), round_=1, rounds=1, updates=UPDATES, **changes: str):
    recipe = replace(TOY, **changes)
    words = steps.MEMORY[recipe.outer]
    state = {f"w/{word}": np.array(tensor, np.float32) for word, tensor in zip(words, memory, strict=False)}
    (found,) = moved(recipe, updates, state, None, round_, rounds)
    return found.checkpoint.tolist(), [found.state[f"w/{word}"].tolist() for word in words]


def test_plain_averaging_takes_the_mean_of_the_members_weights_and_remembers_nothing():
    assert stepped(outer="mean", outer_rate="1", outer_momentum="0.5") == ([2.0, 2.5], [])
    assert stepped(outer="mean", outer_rate="0.5") == ([1.5, 2.25], [])


def test_nesterov_looks_ahead_along_its_momentum():
    after, momentum = stepped([[2.0, 0.0]], outer="nesterov", outer_rate="0.5", outer_momentum="0.5")
    assert momentum == [[2.0, 0.5]]  # 0.5 × 2 + 1, 0.5 × 0 + 0.5
    assert after == [2.0, 2.375]  # 1 + 0.5 × (1 + 0.5 × 2), 2 + 0.5 × (0.5 + 0.5 × 0.5)


def test_adam_goes_by_the_mean_over_its_root_mean_square():
    memory = [[2.0, 0.0], [4.0, 0.0]]
    after, (momentum, square) = stepped(memory, outer="adam", outer_rate="0.5", outer_momentum="0.5")
    assert momentum == [1.5, 0.25]
    assert square == pytest.approx([0.99 * 4 + 0.01, 0.0025])
    assert after == pytest.approx([1 + 0.5 * 1.5 / (3.97**0.5 + 0.001), 2 + 0.5 * 0.25 / (0.05 + 0.001)], rel=1e-6)


def test_an_update_moves_the_checkpoint_by_its_weight():
    weighted = [(250_000_000, UPDATES[0]), (500_000_000, UPDATES[1]), (0, {"w": np.full(2, 1e30, np.float32)})]
    (found,) = steps.step(BASE, weighted, {}, steps.rule(replace(TOY, outer="mean", outer_rate="1"), 1, 1))
    assert found.checkpoint.tolist() == [1 + 0.125 + 0.75, 2.5]


@pytest.mark.parametrize("outer_rule", sorted(steps.RULES))
@pytest.mark.parametrize("down", CODECS)
def test_the_outer_step_stays_in_float32_and_changes_nothing_it_was_given(outer_rule, down):
    base, recipe = outer.first(TOY), replace(TOY, outer=outer_rule, outer_momentum="0.9", down=down)
    before = weights.digest(base)
    state = {each: tensor for found in moved(recipe, [base, base], base=base) for each, tensor in found.state.items()}
    kept = weights.digest(state)
    after = moved(recipe, [base, base], state, base, 2, 3)
    tensors = [tensor for each in after for tensor in (each.checkpoint, *each.state.values())]
    assert {tensor.dtype for tensor in tensors} == {np.dtype(np.float32)}
    assert weights.digest(base) == before != weights.digest({each.name: each.checkpoint for each in after})
    assert weights.digest(state) == kept
    shapes = {name: tensor.shape for each in after for name, tensor in each.state.items()}
    assert shapes == steps.state_shapes(codecs.shapes(base), steps.rule(recipe, 2, 3))


@pytest.mark.parametrize("down", CODECS)
def test_a_step_leads_where_what_was_sent_of_it_leads_and_the_rest_goes_with_the_next(down):
    base, recipe = outer.first(TOY), replace(TOY, outer="mean", outer_rate="1", down=down)
    update = {name: tensor * np.float32(0.37) for name, tensor in base.items()}
    for each in moved(recipe, [update], base=base):
        came = codecs.decode(down, each.sent.data, each.sent.shape)
        assert np.array_equal(each.checkpoint, base[each.name] + came)
        assert (
            each.state == {}
            if down == "fp32"
            else np.array_equal(each.state[f"{each.name}/unsent"], codecs.left(down, update[each.name], came))
        )
        again = moved(recipe, [{each.name: np.zeros_like(came)}], each.state, {each.name: each.checkpoint})[0]
        rest = each.state.get(f"{each.name}/unsent", np.zeros_like(came))
        assert again.sent.data == codecs.encode(down, rest)


@given(st.integers(1, 1000), st.sampled_from(["0", "0.6", "0.9"]))
def test_momentum_grows_from_round_to_round_and_is_all_there_at_half_of_them(rounds, whole):
    grown = [steps.momentum(whole, round_, rounds) for round_ in range(1, rounds + 1)]
    assert grown == sorted(grown)
    assert grown[0] == pytest.approx(float(whole) * min(1, 2 / rounds))
    assert {each for round_, each in enumerate(grown, 1) if 2 * round_ >= rounds} == {np.float32(whole)}


def test_a_step_is_taken_with_the_momentum_of_its_round():
    memory = [[2.0, 0.0]]
    changes = {"outer": "nesterov", "outer_momentum": "0.5"}
    assert stepped(memory, round_=1, rounds=4, **changes)[1] == [[1.5, 0.5]]  # 0.25 × 2 + 1, 0.25 × 0 + 0.5
    assert stepped(memory, round_=2, rounds=4, **changes)[1] == [[2.0, 0.5]]


# The recipe.


@pytest.mark.parametrize("name", ["inner", "outer", "outer_momentum", "aggregate", "influence"])
@pytest.mark.parametrize("value", ["", "sgd", "soap", "Muon", "adamw ", "1", "1.5", "0.90", "-0.5"])
def test_a_recipe_says_only_what_can_be_done(name, value):
    with pytest.raises(Refused) as caught:
        canonical.encode(replace(TOY, **{name: value}))
    assert (caught.value.refusal, f"Recipe.{name} " in caught.value.detail) == (Refusal.BAD_FIELD, True)


@pytest.mark.parametrize("aggregate", sorted(hygiene.RULES))
@pytest.mark.parametrize("outer_rule", sorted(steps.RULES))
@pytest.mark.parametrize("inner", INNERS)
def test_every_word_of_a_recipe_is_one_that_can_be_done(inner, outer_rule, aggregate):
    recipe = replace(TOY, inner=inner, outer=outer_rule, outer_momentum="0.9", aggregate=aggregate)
    assert canonical.decode(Recipe, canonical.encode(recipe)) == recipe


def test_muon_of_many_matrices_at_once_is_muon_of_each():
    """Wide and tall ones, over several steps: so far apart as bfloat16 is from itself in another order of sums."""
    random = torch.Generator().manual_seed(1)
    shapes = [(24, 8), (8, 24), (16, 16), (24, 8), (8, 24)]
    ones, others = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in "12")
    for kind, parameters in ((torch.optim.Muon, ones), (Stacked, others)):
        random.manual_seed(1)
        muon = kind(parameters, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for _ in range(4):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=random)
            muon.step()
    for one, other in zip(ones, others, strict=True):
        moved = (one - 1).norm()
        assert (one - other).norm() < 0.02 * moved
        assert moved > 0.1 * one.numel() ** 0.5 * 0.1
