"""What work is: the closed formula, and what no honest machine can claim."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import TOY, World

from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import (
    check_claim,
    flop_per_token,
    length_at,
    matmul_parameters,
    round_flop,
    tokens_asked,
    value,
)

# Shapes and counts measured with torch's own counter: vocabulary, width, layers, context, batch, matmul parameters, and
# the FLOP of forward and backward without attention, which the counter does not see on a CPU.
MEASURED = [
    (256, 128, 4, 128, 8, 819_200, 5_033_164_800),
    (8192, 256, 6, 256, 4, 6_815_744, None),
    (32000, 512, 8, 512, 2, 41_549_824, None),
]


@pytest.mark.parametrize(("vocabulary", "width", "layers", "context", "batch", "matmul", "counted"), MEASURED)
def test_the_published_table(vocabulary, width, layers, context, batch, matmul, counted):
    recipe = replace(TOY, vocabulary=vocabulary, width=width, layers=layers, context=context, batch=batch)
    assert matmul_parameters(recipe) == matmul
    if counted is not None:
        assert 6 * matmul * batch * context == counted
    assert flop_per_token(recipe) == 6 * matmul + 6 * layers * context * width


# One layer of width 32 with 4 heads of 8, and 256 bytes: 4·32² = 4096 of attention, 8·32² = 8192 of the feed-forward,
# 8192 of the head. By hand:
CHOSEN = [
    ({}, 4096 + 8192),
    ({"kv_heads": 4}, 4096 + 8192),
    ({"kv_heads": 1}, 2 * 32 * 32 + 2 * 32 * 8 + 8192),
    ({"feed": "swiglu"}, 4096 + 3 * 32 * 88),  # 88 is 8/3 · 32 = 85.3, to the next multiple of 8.
    ({"rank": 5}, 4096 + 2 * 5 * (32 + 128)),
    ({"feed": "swiglu", "rank": 5}, 4096 + 3 * 5 * (32 + 88)),
    ({"feed": "swiglu", "experts": 8, "experts_per_token": 2}, 4096 + 2 * 3 * 32 * 48 + 32 * 8),  # 42.7, so 48.
    ({"feed": "swiglu", "experts": 8, "experts_per_token": 1, "rank": 5}, 4096 + 3 * 5 * (32 + 88) + 32 * 8),
    ({"feed_dim": 20}, 4096 + 2 * 32 * 20),
    ({"feed": "swiglu", "feed_dim": 20, "experts": 8, "experts_per_token": 2}, 4096 + 2 * 3 * 32 * 20 + 32 * 8),
    ({"head_dim": 10}, 4 * 32 * 40 + 8192),
    ({"head_dim": 10, "kv_heads": 1}, 2 * 32 * 40 + 2 * 32 * 10 + 8192),
    ({"feed": "swiglu", "bias": "qkv", "embeddings": "tied", "rope_factor": 8, "norm_eps": "0.1"}, 4096 + 3 * 32 * 88),
    ({"feed": "swiglu", "qk_norm": "head"}, 4096 + 3 * 32 * 88),
]


@pytest.mark.parametrize(("changes", "layer"), CHOSEN)
def test_what_a_layer_multiplies_a_token_with(changes, layer):
    recipe = replace(TOY, layers=1, heads=4, width=32, **changes)
    assert matmul_parameters(recipe) == layer + 32 * 256
    assert matmul_parameters(replace(recipe, layers=6)) == 6 * layer + 32 * 256
    assert flop_per_token(recipe) == 6 * (layer + 32 * 256) + 6 * recipe.context * 4 * recipe.head_width


# The same layer beside an adapter of rank 3: into its matrices go 32 + 32 + 32 + 128 numbers, out of them come 96 + 32
# + 128 + 32; with keys and values of one head and a gate, 32 + 32 + 2·32 + 88 and 48 + 32 + 2·88 + 32.
ADAPTED = [
    ({}, 4096 + 8192, 224, 288, 96),
    ({"kv_heads": 1, "feed": "swiglu"}, 2 * 32 * 32 + 2 * 32 * 8 + 3 * 32 * 88, 216, 288, 48),
    ({"head_dim": 10, "feed_dim": 20}, 4 * 32 * 40 + 2 * 32 * 20, 32 + 40 + 32 + 20, 120 + 32 + 20 + 32, 120),
]


@pytest.mark.parametrize(("changes", "layer", "inside", "outside", "projected"), ADAPTED)
def test_frozen_weights_cost_two_thirds_and_the_first_of_them_less(changes, layer, inside, outside, projected):
    recipe = replace(TOY, layers=1, heads=4, width=32, adapter=3, **changes)
    attention = 6 * recipe.context * 4 * recipe.head_width
    beside = 4 * 3 * inside + 6 * 3 * outside
    first = 2 * 32 * projected + 2 * 3 * 32 + 2 * 3 * projected
    assert flop_per_token(recipe) == 4 * (layer + 32 * 256) + beside - first + attention
    six = 4 * (6 * layer + 32 * 256) + 6 * beside - first + 6 * attention
    assert flop_per_token(replace(recipe, layers=6)) == six


# The same layer, with a gate, and beside its feed-forward a member's own, 3·32·88 = 8448, with a row of 32. By hand:
# what is frozen of the first layer goes forward only, 2 a weight and 2·T·d of attention; no gradient goes back into
# what the expert's gate, up and row are multiplied with, 4; its down has both, 6.
@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({}, 4096),
        ({"kv_heads": 1}, 2 * 32 * 32 + 2 * 32 * 8),
        ({"head_dim": 10, "qk_norm": "head"}, 4 * 32 * 40),
    ],
)
def test_a_member_s_expert_costs_what_is_trained_and_what_is_gone_through(changes, attention):
    recipe = replace(TOY, layers=1, heads=4, width=32, feed="swiglu", member_experts=3, **changes)
    looked = recipe.context * 4 * recipe.head_width
    first = 2 * (attention + 8448) + 4 * 2 * 32 * 88 + 6 * 32 * 88 + 4 * 32 + 2 * looked
    then = 4 * (attention + 8448) + 6 * 8448 + 6 * 32 + 6 * looked
    assert flop_per_token(recipe) == first + 4 * 32 * 256
    assert flop_per_token(replace(recipe, layers=6)) == first + 5 * then + 4 * 32 * 256
    assert flop_per_token(replace(recipe, member_experts=1)) == flop_per_token(recipe)


def test_a_teacher_costs_its_way_forward():
    recipe = replace(TOY, layers=1, heads=4, width=32, rank=5)
    taught = replace(recipe, teacher_layers=3, teacher_heads=2, teacher_width=64, temperature="2", taught="0.5")
    forward = 2 * (3 * 12 * 64 * 64 + 64 * 256) + 2 * 3 * recipe.context * 64
    assert flop_per_token(taught) == flop_per_token(recipe) + forward


def test_candidates_cost_their_way_forward_each():
    recipe = replace(TOY, layers=2, heads=4, width=32, feed="swiglu")
    layer, looked = 4 * 32 * 32 + 3 * 32 * 88, 2 * 2 * recipe.context * 32
    forward = 2 * (2 * layer + 32 * 256) + looked
    for changes, more in (
        ({}, 0),
        ({"adapter": 3}, 2 * 2 * 3 * (32 + 32 + 2 * 32 + 88 + 96 + 32 + 2 * 88 + 32)),
        ({"member_experts": 3}, 2 * 2 * (3 * 32 * 88 + 32)),
        (TAUGHT, 0),
    ):
        one = replace(recipe, **changes)
        assert flop_per_token(replace(one, candidates=5)) == flop_per_token(one) + 5 * (forward + more)


def test_layers_that_share_weights_cost_what_they_cost_apart():
    recipe = replace(TOY, layers=6, heads=4, width=32)
    assert flop_per_token(replace(recipe, shared=3)) == flop_per_token(recipe)


def test_attention_costs_what_its_two_products_cost_under_a_causal_mask():
    recipe = replace(TOY, layers=1, width=8, context=5)
    pairs = recipe.context**2 / 2  # Half of all pairs of positions, counting the diagonal by half.
    forward = 2 * 2 * pairs * recipe.width  # Two products, 2 FLOP for each multiply-add.
    assert (flop_per_token(recipe) - 6 * matmul_parameters(recipe)) * recipe.context == 3 * forward


TAUGHT = {"teacher_layers": 3, "teacher_heads": 2, "teacher_width": 24}


THEIRS = {"model": f"sha256:{64 * '7'}:build", "model_flop": 1_000, "model_flop_per_position": 30}


def test_a_model_that_is_not_ours_costs_what_its_recipe_says():
    recipe = replace(TOY, **THEIRS)
    assert flop_per_token(recipe) == 1_000 + 16 * 30
    assert flop_per_token(replace(recipe, layers=9, width=64)) == flop_per_token(recipe)
    assert flop_per_token(replace(TOY, model_flop=1_000)) == flop_per_token(TOY)  # Which nobody can sign.


@pytest.mark.parametrize("teacher", [{}, TAUGHT, TAUGHT | {"head_dim": 10}, {"candidates": 3}, THEIRS])
@pytest.mark.parametrize(
    ("shortest", "rounds", "steps"), [(0, 3, 7), (8, 3, 7), (2, 3, 7), (1, 1, 3), (1, 5, 1), (4, 2, 6)]
)
def test_a_round_of_a_curriculum_costs_what_its_steps_cost_each_by_its_length(shortest, rounds, steps, teacher):
    recipe = replace(TOY, layers=2, inner_steps=steps, shortest=shortest, **teacher)
    manifest = replace(World().manifest(recipe=recipe), rounds=rounds)
    costs = []
    for round_ in range(1, rounds + 1):
        at = range((round_ - 1) * steps, round_ * steps)
        each = [flop_per_token(replace(recipe, context=length_at(recipe, rounds, step))) for step in at]
        costs.append(round_flop(manifest, round_, "acme"))
        assert costs[-1] == recipe.batch * recipe.context * sum(each)
    assert costs == sorted(costs)
    assert (costs[0] < tokens_asked(recipe) * manifest.flop_per_token) == (shortest > 0)


def test_who_claims_a_round_of_shorter_sequences_as_one_of_long_ones_is_refused():
    world = World()
    world.start(rounds=2, recipe=replace(TOY, shortest=8))
    world.say(world.coordinator, world.opened())
    manifest, honest = world.books.runs["r1"].manifest, world.receipt("acme")
    assert honest.flop == round_flop(manifest, 1, "acme") < round_flop(manifest, 2, "acme")
    check_claim(honest, manifest, world.charter)
    with pytest.raises(Refused, match=f"in round 1: it is {honest.flop}") as caught:
        check_claim(replace(honest, flop=honest.tokens * manifest.flop_per_token), manifest, world.charter)
    assert caught.value.refusal is Refusal.WRONG_FLOP


@given(
    st.tuples(*3 * [st.integers(1, 9)]),
    st.integers(1, 5),
    st.sampled_from([0, 2, 4, 8]),
)
def test_over_a_run_each_member_is_asked_its_own_steps_tokens_and_each_costs_what_it_takes(steps, rounds, shortest):
    recipe = replace(TOY, layers=2, inner_steps=max(steps), shortest=shortest)
    manifest = replace(World().manifest(recipe=recipe), rounds=rounds, steps=steps)
    for member, own in zip(manifest.members, steps, strict=True):
        mine = manifest.recipe_of(member)
        assert tokens_asked(mine) == own * recipe.batch * recipe.context
        spans = [length_at(mine, rounds, step) for step in range(rounds * own)]
        each = [recipe.batch * recipe.context * flop_per_token(replace(recipe, context=length)) for length in spans]
        work = [round_flop(manifest, number, member) for number in range(1, rounds + 1)]
        assert work == [sum(each[number * own : (number + 1) * own]) for number in range(rounds)]
        if not shortest:
            assert sum(work) == rounds * tokens_asked(mine) * manifest.flop_per_token


def test_who_claims_the_steps_of_another_member_is_refused():
    world = World()
    world.start(rounds=2, recipe=replace(TOY, shortest=8, inner_steps=6), steps=(6, 2, 3))
    world.say(world.coordinator, world.opened())
    manifest = world.books.runs["r1"].manifest
    fast, slow = world.receipt("acme"), world.receipt("birch")
    for honest in (fast, slow):
        check_claim(honest, manifest, world.charter)
    assert (fast.steps, slow.steps, fast.tokens) == (6, 2, 3 * slow.tokens)
    for wrong, refusal, why in (
        (replace(slow, steps=6, tokens=fast.tokens, flop=fast.flop), Refusal.IMPLAUSIBLE, "asked for 64 in 2"),
        (replace(slow, flop=fast.flop), Refusal.WRONG_FLOP, f"it is {slow.flop}"),
        (replace(fast, member="dogwood"), Refusal.NOT_INVITED, "dogwood is no member"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            check_claim(wrong, manifest, world.charter)
        assert caught.value.refusal is refusal


def test_value_is_exact():
    charter = replace(World().charter, price=Fraction(1, 3))
    assert value(10**18 + 1, charter.price) == Fraction(10**18 + 1, 3 * 10**18)


@pytest.fixture(scope="module")
def world():
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    return world


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"flop": 1}, Refusal.WRONG_FLOP),
        ({"tokens": 95, "flop": 95 * 44_544}, Refusal.IMPLAUSIBLE),
        ({"tokens": 97, "flop": 97 * 44_544}, Refusal.IMPLAUSIBLE),
        ({"steps": 2}, Refusal.IMPLAUSIBLE),
        ({"busy_ms": 1_201}, Refusal.IMPLAUSIBLE),
        ({"started_ms": 2_000_000}, Refusal.IMPLAUSIBLE),
        ({"device": "gpu"}, Refusal.IMPLAUSIBLE),
        ({"wall_ms": 0, "busy_ms": 0}, Refusal.IMPLAUSIBLE),
    ],
)
def test_an_impossible_claim_is_refused(world, changes, refusal):
    manifest = world.books.runs["r1"].manifest
    with pytest.raises(Refused) as caught:
        check_claim(world.receipt("acme", **changes), manifest, world.charter)
    assert caught.value.refusal is refusal


def test_the_peak_of_the_device_is_the_limit_to_the_millisecond(world):
    manifest, honest = world.books.runs["r1"].manifest, world.receipt("acme")
    slow = replace(world.charter, devices=(replace(world.charter.devices[0], peak_flops=honest.flop),))
    check_claim(replace(honest, wall_ms=1_000), manifest, slow)
    check_claim(replace(honest, wall_ms=500, busy_ms=500, devices=2), manifest, slow)
    with pytest.raises(Refused) as caught:
        check_claim(replace(honest, wall_ms=999), manifest, slow)
    assert caught.value.refusal is Refusal.IMPLAUSIBLE


def test_tokens_asked_are_what_the_recipe_says():
    assert tokens_asked(TOY) == 3 * 2 * 16
