"""What of a recipe goes together: whoever signs a manifest, takes it into the log or consents to it asks the same."""

from dataclasses import replace

import pytest
from world import TOY, World, digest

from shared_models.records.kinds import FIRST
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.recipes import OF_OURS, check_recipe, check_start

RECIPE = replace(TOY, layers=4, heads=4, width=64)
TAUGHT = {"teacher_layers": 6, "teacher_heads": 4, "teacher_width": 96, "temperature": "2", "taught": "0.5"}
EXPERTS = {"feed": "swiglu", "experts": 4, "experts_per_token": 2}
CUT = "sha256:" + 64 * "0"
OWN = {"feed": "swiglu", "member_experts": 3}
THEIRS = {"model": f"sha256:{64 * '7'}:build", "model_flop": 1_000}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        THEIRS,
        THEIRS | {"model_flop_per_position": 7, "shortest": 4, "inner": "muon", "precision": "bf16", "up": "int4"},
        {"kv_heads": 1},
        {"kv_heads": 2},
        {"kv_heads": 4},
        {"feed": "swiglu"},
        {"rank": 51},
        {"rank": 46, "feed": "swiglu"},
        {"shared": 2},
        {"shared": 4},
        {"tokenizer": CUT},
        {"tokenizer": CUT, "vocabulary": 70_000},
        {"tokenizer": CUT, "merge_dropout": "0.1"},
        {"vocabulary": 255},
        EXPERTS,
        EXPERTS | {"experts_per_token": 1},
        EXPERTS | {"experts_per_token": 3},
        EXPERTS | {"kv_heads": 2, "rank": 8, "shared": 2},
        {"adapter": 1},
        {"adapter": 21},
        {"adapter": 4, "feed": "swiglu", "kv_heads": 2, "shared": 2},
        {"member_experts": 1, "feed": "swiglu"},
        {
            "member_experts": 3,
            "feed": "swiglu",
            "kv_heads": 2,
            "shared": 2,
            "inner": "muon",
            "up": "int4",
            "down": "int8",
        },
        TAUGHT,
        TAUGHT | EXPERTS | {"rank": 8, "shared": 2, "shortest": 4},
        TAUGHT | {"temperature": "0.1"},
        TAUGHT | {"temperature": "100"},
        {"feed_dim": 1, "head_dim": 2, "embeddings": "tied", "rope_theta": 1, "rope_factor": 8, "norm_eps": "0.00001"},
        {"head_dim": 10, "heads": 7},
        {"feed": "swiglu", "bias": "qkv", "adapter": 4},
        {"feed": "swiglu", "qk_norm": "head", "head_dim": 32, "inner": "muon", "precision": "bf16"},
        EXPERTS | {"qk_norm": "head", "expert_weights": "softmax"},
        EXPERTS | {"qk_norm": "whole", "expert_weights": "softmax", "head_dim": 16},
        EXPERTS | {"qk_norm": "whole", "kv_heads": 2},
        OWN | {"qk_norm": "head"},
        {"shortest": 1},
        {"shortest": 8},
        {"shortest": 3, "context": 24},
        {"candidates": 2, "shortest": 8, "tokenizer": CUT, "merge_dropout": "0.1"},
        TAUGHT | {"candidates": 64},
        {"adapter": 8, "candidates": 2},
    ],
)
def test_a_recipe_that_can_be_followed(changes):
    check_recipe(replace(RECIPE, **changes))


WRONG = [
    ({"layers": 0}, Refusal.BAD_FIELD, "Recipe.layers is 0, outside"),
    ({"heads": "4"}, Refusal.BAD_FIELD, "Recipe.heads is not an integer"),
    ({"feed": "relu"}, Refusal.BAD_FIELD, "Recipe.feed is 'relu', which is not of the form gelu|swiglu"),
    ({"candidates": 0}, Refusal.BAD_FIELD, "Recipe.candidates is 0, outside"),
    ({"candidates": 65}, Refusal.BAD_FIELD, "candidates = 65, more than 64"),
    ({"up": "int2"}, Refusal.UNKNOWN_CODEC, "int2: none of fp32"),
    ({"down": "int2"}, Refusal.UNKNOWN_CODEC, "int2: none of fp32"),
    ({"heads": 3}, Refusal.BAD_FIELD, "heads = 3: width = 64 is no even number for each"),
    ({"heads": 64}, Refusal.BAD_FIELD, "heads = 64: width = 64 is no even number for each"),
    ({"head_dim": 15}, Refusal.BAD_FIELD, "head_dim = 15 is no even number"),
    (
        EXPERTS | {"qk_norm": "whole", "head_dim": 8},
        Refusal.BAD_FIELD,
        'qk_norm = "whole" is of 64 numbers, and 4 heads',
    ),
    ({"qk_norm": "head"}, Refusal.BAD_FIELD, 'no architecture has feed = "gelu" without experts, qk_norm = "head"'),
    (
        {"bias": "qkv"},
        Refusal.BAD_FIELD,
        'no architecture has feed = "gelu" without experts, qk_norm = "none" and bias',
    ),
    ({"feed": "swiglu", "qk_norm": "whole"}, Refusal.BAD_FIELD, 'feed = "swiglu" without experts, qk_norm = "whole"'),
    (EXPERTS | {"bias": "qkv"}, Refusal.BAD_FIELD, 'feed = "swiglu" with experts, qk_norm = "none" and bias = "qkv"'),
    (OWN | {"bias": "qkv"}, Refusal.BAD_FIELD, 'feed = "swiglu" with experts, qk_norm = "none" and bias = "qkv"'),
    (OWN | {"qk_norm": "whole"}, Refusal.BAD_FIELD, 'feed = "swiglu" without experts, qk_norm = "whole"'),
    (EXPERTS | {"expert_weights": "softmax"}, Refusal.BAD_FIELD, 'expert_weights = "softmax": an architecture with'),
    (OWN | {"qk_norm": "head", "expert_weights": "softmax"}, Refusal.BAD_FIELD, 'expert_weights = "softmax": an arch'),
    ({"kv_heads": 3}, Refusal.BAD_FIELD, "kv_heads = 3 do not divide heads = 4"),
    ({"kv_heads": 8}, Refusal.BAD_FIELD, "kv_heads = 8 do not divide heads = 4"),
    ({"shared": 3}, Refusal.BAD_FIELD, "shared = 3 does not divide layers = 4"),
    ({"shared": 8}, Refusal.BAD_FIELD, "shared = 8 does not divide layers = 4"),
    ({"rank": 52}, Refusal.BAD_FIELD, "rank = 52 saves nothing: up to 51 it does"),  # 64 · 256 / (64 + 256) = 51.2.
    ({"rank": 47, "feed": "swiglu"}, Refusal.BAD_FIELD, "rank = 47 saves nothing: up to 46"),  # 64 · 176 / 240 = 46.9.
    (EXPERTS | {"experts_per_token": 0}, Refusal.BAD_FIELD, "experts_per_token = 0 of 4 experts"),
    (EXPERTS | {"experts_per_token": 4}, Refusal.BAD_FIELD, "experts_per_token = 4 of 4 experts"),
    (EXPERTS | {"experts_per_token": 5}, Refusal.BAD_FIELD, "experts_per_token = 5 of 4 experts"),
    (EXPERTS | {"experts": 1, "experts_per_token": 1}, Refusal.BAD_FIELD, "experts_per_token = 1 of 1 experts"),
    ({"experts_per_token": 1}, Refusal.BAD_FIELD, "experts_per_token = 1, and experts = 0"),
    ({"adapter": 4, "rank": 8}, Refusal.BAD_FIELD, "adapter = 4 stands beside whole matrices, and rank = 8"),
    (EXPERTS | {"adapter": 4}, Refusal.BAD_FIELD, "adapter = 4 stands beside whole matrices, and experts = 4"),
    ({"adapter": 4, "inner": "muon"}, Refusal.BAD_FIELD, 'adapter = 4 is trained by inner = "adamw", and it is muon'),
    ({"adapter": 22}, Refusal.BAD_FIELD, "adapter = 22 saves nothing: to train all weights is less work"),
    (TAUGHT | {"teacher_layers": 0}, Refusal.BAD_FIELD, "are 0 all of them, or none: 0, 4, 96 and 0.5"),
    (TAUGHT | {"teacher_heads": 0}, Refusal.BAD_FIELD, "are 0 all of them, or none: 6, 0, 96 and 0.5"),
    (TAUGHT | {"teacher_width": 0}, Refusal.BAD_FIELD, "are 0 all of them, or none"),
    (TAUGHT | {"taught": "0"}, Refusal.BAD_FIELD, "are 0 all of them, or none"),
    ({"taught": "0.5"}, Refusal.BAD_FIELD, "are 0 all of them, or none"),
    ({"temperature": "1"}, Refusal.BAD_FIELD, "temperature = 1, and nobody teaches"),
    (TAUGHT | {"taught": "1"}, Refusal.BAD_FIELD, "Recipe.taught is '1'"),
    ({"tokenizer": "bpe"}, Refusal.BAD_FIELD, "Recipe.tokenizer is 'bpe'"),
    ({"merge_dropout": "0.1"}, Refusal.BAD_FIELD, "merge_dropout = 0.1: bytes are merged by no tokenizer"),
    ({"merge_dropout": "1", "tokenizer": CUT}, Refusal.BAD_FIELD, "Recipe.merge_dropout is '1'"),
    ({"tokenizer": CUT, "vocabulary": 255}, Refusal.BAD_FIELD, "a token for each byte, 256 at least"),
    (TAUGHT | {"temperature": "0.09"}, Refusal.BAD_FIELD, "temperature = 0.09, not from 1/10 to 100"),
    (TAUGHT | {"temperature": "100.1"}, Refusal.BAD_FIELD, "temperature = 100.1, not from 1/10 to 100"),
    (
        TAUGHT | {"teacher_heads": 5},
        Refusal.BAD_FIELD,
        "the teacher's heads = 5: width = 96 is no even number for each",
    ),
    (TAUGHT | {"kv_heads": 4, "teacher_heads": 6}, Refusal.BAD_FIELD, "the teacher's kv_heads = 4 do not divide"),
    (TAUGHT | {"adapter": 4}, Refusal.BAD_FIELD, "adapter = 4 has no teacher"),
    ({"shortest": 16}, Refusal.BAD_FIELD, "shortest = 16, doubled once or over and over, never is context = 16"),
    ({"shortest": 32}, Refusal.BAD_FIELD, "shortest = 32, doubled"),
    ({"shortest": 3}, Refusal.BAD_FIELD, "shortest = 3, doubled"),
    ({"shortest": 7, "context": 15}, Refusal.BAD_FIELD, "shortest = 7, doubled"),
    (EXPERTS | {"feed": "gelu"}, Refusal.BAD_FIELD, 'experts = 4 need feed = "swiglu"'),
    (
        EXPERTS | {"member_experts": 2},
        Refusal.BAD_FIELD,
        "member_experts = 2 stand beside one whole feed-forward, and exp",
    ),
    (OWN | {"rank": 8}, Refusal.BAD_FIELD, "member_experts = 3 stand beside one whole feed-forward, and rank = 8"),
    (
        OWN | {"adapter": 4},
        Refusal.BAD_FIELD,
        "member_experts = 3 stand beside one whole feed-forward, and adapter = 4",
    ),
    (OWN | TAUGHT, Refusal.BAD_FIELD, "member_experts = 3 stand beside one whole feed-forward, and teacher_layers = 6"),
    (OWN | {"feed": "gelu"}, Refusal.BAD_FIELD, 'member_experts = 3 need feed = "swiglu", and it is gelu'),
    (OWN | {"outer": "nesterov"}, Refusal.BAD_FIELD, 'member_experts = 3 need outer = "mean", and it is nesterov'),
    (OWN | {"outer_rate": "0.5"}, Refusal.BAD_FIELD, 'member_experts = 3 need outer_rate = "1", and it is 0.5'),
    (OWN | {"aggregate": "median"}, Refusal.BAD_FIELD, 'member_experts = 3 need aggregate = "mean", and it is median'),
    ({"model": "llama"}, Refusal.BAD_FIELD, "Recipe.model is 'llama'"),
    (THEIRS | {"model": f"sha256:{64 * '7'}"}, Refusal.BAD_FIELD, "Recipe.model is 'sha256:7777"),
    ({"model_flop": 1}, Refusal.BAD_FIELD, "model_flop = 1, 0 per position, of our own model: 0"),
    ({"model_flop_per_position": 2}, Refusal.BAD_FIELD, "model_flop = 0, 2 per position, of our own model: 0"),
]


def test_a_model_that_is_not_ours_has_none_of_our_models_options():
    options = {**EXPERTS, **OWN, **TAUGHT, "adapter": 4, "rank": 8, "shared": 2, "kv_heads": 2, "feed_dim": 8}
    options |= {"head_dim": 8, "qk_norm": "head", "bias": "qkv", "embeddings": "tied", "expert_weights": "softmax"}
    options |= {"rope_theta": 9, "rope_factor": 8, "norm_eps": "0.1", "candidates": 2}
    assert options.keys() == set(OF_OURS)
    for name, value in options.items():
        with pytest.raises(Refused, match=f"{name} = {value} is an option of our model, and this run's is a file's"):
            check_recipe(replace(RECIPE, **THEIRS, **{name: value}))


@pytest.mark.parametrize(("changes", "refusal", "detail"), WRONG)
def test_a_recipe_that_cannot_be_followed_is_refused_by_the_field(changes, refusal, detail):
    with pytest.raises(Refused) as caught:
        check_recipe(replace(RECIPE, **changes))
    assert (caught.value.refusal, detail in caught.value.detail) == (refusal, True)


def test_a_rank_that_is_allowed_has_fewer_weights_and_the_next_one_has_not():
    whole = RECIPE.width * RECIPE.feed_width
    assert 51 * (RECIPE.width + RECIPE.feed_width) < whole <= 52 * (RECIPE.width + RECIPE.feed_width)


def test_the_log_takes_no_manifest_of_such_a_recipe():
    world = World()
    manifest = world.manifest(recipe=RECIPE)
    world.books.check(world.books.open(world.sign(world.coordinator, manifest)))
    wrong = world.sign(world.coordinator, replace(manifest, recipe=replace(RECIPE, kv_heads=3)))
    with pytest.raises(Refused, match="kv_heads = 3 do not divide"):
        world.books.check(world.books.open(wrong))


def test_a_run_begins_with_what_it_was_given_and_an_adapter_beside_it():
    given, other, adapted = digest("given"), digest("other"), replace(RECIPE, adapter=4)
    manifest = World().manifest(recipe=RECIPE)
    for right in ({}, {"start": given, "base": given}, {"start": given, "base": other, "recipe": adapted}):
        check_start(replace(manifest, **right))
    for wrong, why in (
        ({"start": given, "base": other}, "given are the weights"),
        ({"teacher": given}, "teacher_layers = 0, and the teacher is"),
        ({"start": FIRST, "recipe": adapted}, "adapter = 4 stands beside weights that are given"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            check_start(replace(manifest, **wrong))
        assert caught.value.refusal is Refusal.WRONG_BASE


def test_members_experts_are_one_for_each_beside_what_was_given():
    manifest = replace(World().manifest(recipe=replace(RECIPE, **OWN)), start=digest("given"))
    check_start(manifest)
    for wrong, refusal, why in (
        ({"start": FIRST}, Refusal.WRONG_BASE, "member_experts = 3 stands beside weights that are given"),
        ({"members": manifest.members[:2]}, Refusal.BAD_FIELD, "member_experts = 3, and the run has 2 members"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            check_start(replace(manifest, **wrong))
        assert caught.value.refusal is refusal


def test_steps_are_one_for_each_member_and_the_most_are_the_recipes():
    manifest = World().manifest(recipe=replace(RECIPE, inner_steps=8))
    for right in ((), (8, 2, 1), (1, 8, 8)):
        check_start(replace(manifest, steps=right))
    for wrong, why in (
        ((8, 2), "steps = 8, 2, and the run has 3 members"),
        ((8, 2, 1, 1), "steps = 8, 2, 1, 1, and the run has 3 members"),
        ((8, 9, 1), "the most are not inner_steps = 8"),
        ((7, 2, 1), "the most are not inner_steps = 8"),
        ((8, 8, 8), "or all are"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            check_start(replace(manifest, steps=wrong))
        assert caught.value.refusal is Refusal.BAD_FIELD


@pytest.mark.parametrize("aggregate", ["median", "trimmed"])
def test_values_of_members_with_other_steps_are_not_sorted(aggregate):
    manifest = World().manifest(recipe=replace(RECIPE, inner_steps=8, aggregate=aggregate))
    check_start(manifest)
    with pytest.raises(Refused, match=f'aggregate = "{aggregate}" sorts values') as caught:
        check_start(replace(manifest, steps=(8, 2, 1)))
    assert caught.value.refusal is Refusal.BAD_FIELD


def test_a_member_trains_by_the_recipe_with_its_own_steps():
    manifest = World().manifest(recipe=replace(RECIPE, inner_steps=8))
    assert manifest.recipe_of("acme") == manifest.recipe
    unequal = replace(manifest, steps=(8, 2, 1))
    assert [unequal.recipe_of(each) for each in unequal.members] == [
        replace(manifest.recipe, inner_steps=steps) for steps in (8, 2, 1)
    ]
    with pytest.raises(Refused, match="dogwood is no member of run r1") as caught:
        unequal.recipe_of("dogwood")
    assert caught.value.refusal is Refusal.NOT_INVITED


def test_steps_of_none_cannot_be_said():
    with pytest.raises(Refused, match="steps"):
        World().sign("commons.example/coordinator", World().manifest(steps=(3, 0, 1)))
