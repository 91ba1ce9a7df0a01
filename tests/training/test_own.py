"""Members' experts beside given weights: what they compute, what of them is trained, and the model without some."""

from dataclasses import asdict, replace

import beside
import numpy as np
import pytest
import torch
from beside import TURN, given, logits, text
from mixes import INNERS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from world import TOY

from client import data
from client.team import at_work
from client.training import ONE, Machine
from server import outer
from shared_models import huggingface
from shared_models.lm import gpt, hygiene, own, weights
from shared_models.lm import outer as steps
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import attended, flop_per_token

PLAIN = replace(TOY, layers=4, heads=4, width=32, context=24, batch=2, inner_rate="0.01", inner_steps=6, feed="swiglu")
MIXES = [
    replace(PLAIN, member_experts=3, kv_heads=kv_heads, shared=shared, layers=layers)
    for kv_heads, shared, layers in ((0, 1, 4), (1, 2, 4), (2, 4, 4), (0, 1, 1))
] + [replace(PLAIN, member_experts=3, qk_norm="head", kv_heads=2, head_dim=16, feed_dim=72, embeddings="tied")]
RECIPE = MIXES[1]


def named(recipe: Recipe) -> str:
    return ",".join(f"{name}={value}" for name, value in asdict(recipe).items() if value != getattr(PLAIN, name))


def moved(recipe: Recipe, seed: int = 5) -> weights.Weights:
    """Experts that do something, each its own."""
    return beside.moved(recipe, 0.3, seed)


def trained(recipe: Recipe, machine: Machine = ONE, steps: int = 6):
    begun = own.taken(moved(recipe), gpt.Shape.of(recipe), 1)
    with at_work({**begun, **given(recipe)}, recipe, data.load("python-stdlib:0/3"), {}, machine=machine, **TURN) as it:
        losses = list(it.until(steps))
        return losses, *it.state()


@pytest.mark.parametrize("recipe", MIXES, ids=named)
def test_torch_s_own_counter_agrees_to_the_last_flop(recipe):
    """Of what a member trains: its own expert beside the given weights, of which the first layer has no gradient."""
    model, tokens = gpt.begun(own.alone(gpt.Shape.of(recipe)), given(recipe)), text(recipe)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.objective(tokens).backward()
    masked = (6 * recipe.layers - 4) * recipe.context * attended(recipe)
    assert counter.get_total_flops() == recipe.batch * recipe.context * (flop_per_token(recipe) + masked)


@pytest.mark.parametrize("recipe", MIXES, ids=named)
def test_at_first_they_do_nothing_and_then_what_is_trained_is_one_alone(recipe):
    begun, shape = given(recipe), gpt.Shape.of(recipe)
    plain = gpt.begun(replace(shape, member_experts=0), begun)
    for of in (shape, own.alone(shape)):
        model = gpt.begun(of, begun)
        with torch.no_grad():
            tokens = text(recipe)[:, :-1]
            assert torch.allclose(model(tokens)[0], plain(tokens)[0], atol=1e-5)
    model.objective(text(recipe)).backward()
    moving = {name for name, each in model.named_parameters() if each.grad is not None}
    parts = ("gate.weight", "up.weight", "down.weight", "row")
    wanted = {f"blocks.{block}.own.0.{part}" for block in range(recipe.layers // recipe.shared) for part in parts}
    assert moving == wanted == gpt.shapes(own.alone(shape)).keys() == weights.of(model).keys()
    assert gpt.frozen(shape) == {name: tensor.shape for name, tensor in begun.items()}
    assert len(gpt.shapes(shape)) == 3 * len(wanted)


@pytest.mark.parametrize("inner", INNERS)
def test_training_moves_one_expert_and_remembers_of_it_only(inner):
    recipe = replace(RECIPE, inner=inner)
    losses, reached, memory = trained(recipe)
    before = own.taken(moved(recipe), gpt.Shape.of(recipe), 1)
    assert min(losses[1:]) < losses[0]
    assert reached.keys() == before.keys()
    assert all(np.abs(reached[name] - before[name]).max() > 1e-3 for name in reached)
    assert {name.partition("/")[0] for name in memory} == reached.keys()


def test_a_token_goes_through_the_two_that_the_rows_put_first():
    """By hand: of the given feed-forward, whose score is 0, and each expert, whose score is its row times the token."""
    recipe = replace(RECIPE, layers=1, shared=1)
    block = gpt.begun(gpt.Shape.of(recipe), given(recipe)).blocks[0]
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for each in block.own.parameters():
            each.add_(0.5 * torch.randn(each.shape, generator=random))
        x = torch.randn(2, 5, recipe.width, generator=random)
        found, _ = block._routed(x)
        feeds, seen = [lambda token: gpt._fed(token, block.gate, block.up, block.down), *block.own], set()
        for place in np.ndindex(2, 5):
            scores = [0.0, *(float(each.row @ x[place]) for each in block.own)]
            first, second = sorted(range(4), key=lambda number: -scores[number])[:2]
            part = torch.softmax(torch.tensor([scores[first], scores[second]]), 0)
            meant = part[0] * feeds[first](x[place]) + part[1] * feeds[second](x[place])
            assert torch.allclose(found[place], meant, atol=1e-5)
            seen |= {first, second}
        assert seen == {0, 1, 2, 3}


def test_a_checkpoint_without_a_member_is_the_one_that_its_others_would_have_alone():
    shape, experts = gpt.Shape.of(RECIPE), moved(RECIPE)
    one = [own.taken(experts, shape, number) for number in range(3)]
    assert weights.digest(own.among(experts, [0, 1, 2])) == weights.digest(experts)
    assert own.among(experts, []) == {}
    two = own.among(experts, [0, 2])
    assert two.keys() == gpt.shapes(replace(shape, member_experts=2)).keys()
    assert all(np.array_equal(two[own._numbered(name, 1)], tensor) for name, tensor in one[2].items())
    # Without any it is the model that was given.
    alone = logits(replace(RECIPE, member_experts=0), given(RECIPE) | own.among(experts, []))
    plain = outer.model(replace(RECIPE, member_experts=0))
    weights.put(given(RECIPE), plain)
    with torch.no_grad():
        assert torch.equal(alone, plain(text(RECIPE)[:, :-1])[0])


def test_an_update_is_placed_by_its_names_and_moves_nobody_else_s():
    shape, base = gpt.Shape.of(RECIPE), moved(RECIPE)
    updates = [own.taken(moved(RECIPE, seed), shape, 0) for seed in (6, 7)]
    rule = steps.rule(RECIPE, 1, 2)
    given_ = [(10**9, own.placed(update, shape, number)) for number, update in zip((0, 2), updates, strict=True)]
    after = {each.name: each.checkpoint for each in steps.step(base, given_, {}, rule)}
    for number, update in ((0, updates[0]), (2, updates[1])):
        was, now = (own.taken(each, shape, number) for each in (base, after))
        assert all(np.array_equal(now[name], was[name] + update[name]) for name in was)
    assert weights.digest(own.among(after, [1])) == weights.digest(own.among(base, [1]))
    # In a run without such experts everything is everybody's.
    plain = gpt.Shape.of(PLAIN)
    assert own.taken(base, plain, 1) is base
    assert own.placed(base, plain, 1) is base
    assert own.alone(plain) == plain


def test_an_update_counts_whole_or_not_at_all():
    updates = {name: {"x": np.full(3, size, np.float32)} for name, size in {"a": 1, "b": 0, "c": 9, "d": 7}.items()}
    loss = {None: 2.0, 1.0: 1.75, 9.0: 2.5 + 1e-6, 7.0: 2.5}

    def scored(update):
        return loss[None if update is None else float(update["x"][0])]

    found = hygiene.judge(updates, RECIPE, 4, bytes(32), scored, {"a": 1})
    assert {name: (each.weight, each.note) for name, each in found.items()} == {
        "a": (10**9, "whole"),
        "b": (0, "empty"),
        "c": (0, "harmful"),
        "d": (10**9, "whole"),
    }
    assert [each.gain_unats for each in found.values()] == [250_000, 0, -500_001, -500_000]


@pytest.mark.parametrize("machine", [Machine(recompute=True), Machine(processes=2), Machine(processes=2, shard=True)])
@pytest.mark.timeout(900)
def test_however_a_member_s_machine_trains_it_comes_to_the_same(machine):
    losses, reached, _ = trained(RECIPE, steps=3)
    theirs, their_state, memory = trained(RECIPE, machine, steps=3)
    assert theirs == pytest.approx(losses, rel=0.01)
    assert their_state.keys() == reached.keys() == {name.partition("/")[0] for name in memory}
    for name, tensor in reached.items():
        assert np.allclose(their_state[name], tensor, atol=2e-2), name
    if machine.processes == 1:
        assert weights.digest(their_state) == weights.digest(reached)


@pytest.mark.parametrize("recipe", MIXES, ids=named)
@pytest.mark.parametrize("numbers", [(), (1,), (0, 2), (0, 1, 2)])
def test_as_a_mixture_of_experts_it_computes_what_it_did(recipe, numbers):
    experts, begun, some = moved(recipe), given(recipe), replace(recipe, member_experts=len(numbers))
    mixture = huggingface.Mixture(experts, begun, recipe, numbers)
    model = gpt.GPT(mixture.shape)
    weights.put(mixture, model)
    with torch.no_grad():
        beside, alone = logits(some, own.among(experts, numbers) | begun), model(text(recipe)[:, :-1])[0]
    assert (beside - alone).abs().max() < 1e-5 * beside.abs().max()
    assert mixture.keys() == gpt.shapes(mixture.shape).keys()
    assert mixture.shape.experts == (len(numbers) + 1 if numbers else 0)


def test_what_are_no_experts_of_this_recipe_or_no_base_of_it_are_no_mixture():
    for experts, begun in (
        (moved(replace(RECIPE, member_experts=2)), given(RECIPE)),
        (moved(RECIPE), given(replace(RECIPE, width=48))),
        (given(RECIPE), given(RECIPE)),
    ):
        with pytest.raises(Refused) as caught:
            huggingface.Mixture(experts, begun, RECIPE, [0])
        assert caught.value.refusal is Refusal.WRONG_MODEL
    with pytest.raises(Refused, match="member_experts = 3 alone are no model"):
        huggingface.Whole(moved(RECIPE), RECIPE)


def test_how_often_a_token_goes_through_each_is_counted_in_every_layer():
    recipe = replace(RECIPE, layers=2, shared=2)
    mixture = huggingface.Mixture(moved(recipe), given(recipe), recipe, [0, 1, 2])
    model, seen = gpt.GPT(mixture.shape), [0, 0, 0, 0]
    weights.put(mixture, model)
    found = own.routed(model, text(recipe).numpy())
    assert sum(found) == recipe.batch * recipe.context * recipe.layers * gpt.OWN_PER_TOKEN
    # Counted as they are called: each expert is given the tokens that go through it.
    for number, expert in enumerate(model.blocks[0].experts):
        expert.register_forward_hook(lambda _, inputs, __, at=number: seen.__setitem__(at, seen[at] + len(inputs[0])))
    with torch.no_grad():
        model(text(recipe)[:, :-1])
    assert found == seen
    assert own.routed(model, text(recipe).numpy()) == found
