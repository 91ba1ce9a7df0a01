"""An adapter beside given weights: what it computes, what of it is trained, and what it leaves when it is merged."""

from dataclasses import asdict, replace

import beside
import numpy as np
import pytest
import torch
from beside import TURN, given, logits, text
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from world import TOY

from client import data
from client.team import at_work
from client.training import ONE, Machine
from server import outer
from shared_models import huggingface
from shared_models.lm import gpt, hygiene, weights
from shared_models.lm.inner import Inner
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import attended, flop_per_token

PLAIN = replace(TOY, layers=4, heads=4, width=32, context=24, batch=2, inner_rate="0.05", inner_steps=6)
MIXES = [
    replace(PLAIN, adapter=adapter, kv_heads=kv_heads, shared=shared, feed=feed)
    for adapter in (1, 3)
    for kv_heads in (0, 1)
    for shared in (1, 2)
    for feed in ("gelu", "swiglu")
] + [
    replace(PLAIN, adapter=2, feed="swiglu", bias="qkv", embeddings="tied", head_dim=12, norm_eps="0.000001"),
    replace(PLAIN, adapter=3, feed="swiglu", qk_norm="head", kv_heads=2, head_dim=16, feed_dim=72, shared=2),
]


def named(recipe: Recipe) -> str:
    return ",".join(f"{name}={value}" for name, value in asdict(recipe).items() if value != getattr(PLAIN, name))


def moved(recipe: Recipe, seed: int = 5) -> weights.Weights:
    """An adapter that does something."""
    return beside.moved(recipe, 0.1, seed)


def trained(recipe: Recipe, machine: Machine = ONE, steps: int = 6):
    start = {**moved(recipe), **given(recipe)}
    with at_work(start, recipe, data.load("python-stdlib:0/3"), {}, machine=machine, **TURN) as training:
        losses = list(training.until(steps))
        return losses, *training.state()


@pytest.mark.parametrize("recipe", MIXES, ids=named)
def test_torch_s_own_counter_agrees_to_the_last_flop(recipe):
    """Frozen weights have no gradient, and what comes before the first of them needs none."""
    model, tokens = gpt.begun(gpt.Shape.of(recipe), given(recipe)), text(recipe)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.objective(tokens).backward()
    masked = 6 * recipe.layers * recipe.context * attended(recipe)
    assert counter.get_total_flops() == recipe.batch * recipe.context * (flop_per_token(recipe) + masked)


@pytest.mark.parametrize("recipe", MIXES, ids=named)
def test_at_first_it_does_nothing_and_then_what_is_trained_is_b_alone(recipe):
    begun, shape = given(recipe), gpt.Shape.of(recipe)
    model = gpt.begun(shape, begun)
    plain = gpt.begun(replace(shape, adapter=0), begun)
    with torch.no_grad():
        tokens = text(recipe)[:, :-1]
        assert torch.equal(model(tokens)[0], plain(tokens)[0])
    assert all(not tensor.any() for tensor in weights.of(model).values())
    model.objective(text(recipe)).backward()
    moving = {name for name, each in model.named_parameters() if each.grad is not None}
    matrices = ("qkv", "out", "up", "down") + (("gate",) if recipe.feed == "swiglu" else ())
    wanted = {f"blocks.{block}.{name}.b" for block in range(recipe.layers // recipe.shared) for name in matrices}
    assert moving == wanted == gpt.shapes(shape).keys() == weights.of(model).keys()
    assert gpt.frozen(shape) == {name: tensor.shape for name, tensor in begun.items()}
    assert gpt.frozen(replace(shape, adapter=0)) == {}


def test_training_moves_b_and_remembers_of_b_only():
    recipe = MIXES[-1]
    losses, reached, memory = trained(recipe, steps=6)
    assert np.mean(losses[-2:]) < losses[0]
    before = moved(recipe)
    assert reached.keys() == before.keys()
    assert all(np.abs(reached[name] - before[name]).max() > 1e-3 for name in reached)
    assert {name.partition("/")[0] for name in memory} == reached.keys()
    both = {name.partition("/")[2] for name in memory}
    assert (both, Inner(gpt.GPT(gpt.Shape.of(recipe)), "adamw", memory).steps) == ({"exp_avg", "exp_avg_sq", "step"}, 6)


def test_the_mean_of_what_members_trained_is_what_the_mean_of_them_computes():
    """So it is for one matrix, to the last bits; had they trained A too, it would not be."""
    random = torch.Generator().manual_seed(4)
    part = gpt.Adapted(32, 48, 3).requires_grad_(False)
    part.a = torch.from_numpy(gpt.drawn(1, "blocks.0.up", 3, 32))
    x = torch.randn(5, 32, generator=random)
    members = [torch.randn(48, 3, generator=random) for _ in range(4)]

    def of(b: torch.Tensor) -> torch.Tensor:
        part.b.copy_(b)
        return part(x)

    mean = torch.stack([of(b) for b in members]).mean(0)
    assert torch.allclose(of(torch.stack(members).mean(0)), mean, atol=1e-5)
    others = [torch.randn(3, 32, generator=random) for _ in range(4)]
    both = torch.stack([x @ a.T @ b.T for a, b in zip(others, members, strict=True)]).mean(0)
    means = x @ torch.stack(others).mean(0).T @ torch.stack(members).mean(0).T
    assert not torch.allclose(means, both, atol=1.0)


def test_a_is_drawn_by_the_seed_and_the_matrix_s_name_and_is_the_same_everywhere():
    """Written down here: bits of SHAKE256, the first of a byte first; 0 is plus."""
    found = gpt.drawn(1, "blocks.0.qkv", 2, 16)
    assert found.dtype == np.float32
    assert [int(each) for each in (found < 0).reshape(-1)] == [int(bit) for bit in f"{int(SIGNS, 16):032b}"]
    assert np.array_equal(np.abs(found), np.full((2, 16), np.float32(0.25)))
    assert np.abs(gpt.drawn(1, "a", 1, 3)).tolist() == [[float(np.float32(1) / np.float32(3**0.5))] * 3]
    model = gpt.GPT(gpt.Shape.of(replace(MIXES[0], adapter=2, seed=1)))
    assert np.array_equal(model.blocks[0].qkv.a.numpy(), gpt.drawn(1, "blocks.0.qkv", 2, 32))
    for seed, name in ((2, "blocks.0.qkv"), (1, "blocks.1.qkv")):
        assert not np.array_equal(gpt.drawn(seed, name, 2, 16), found)


SIGNS = "227af32a"


def test_a_checkpoint_is_scored_beside_what_is_frozen():
    recipe = MIXES[-1]
    model, plain = gpt.begun(gpt.Shape.of(recipe), given(recipe)), outer.model(replace(recipe, adapter=0))
    adapter = moved(recipe)
    merged = dict(huggingface.Merged(adapter, given(recipe), recipe))
    sequences = text(recipe).numpy()
    loss = hygiene.held_out_loss(model, adapter, sequences)
    assert loss(None) == pytest.approx(hygiene.held_out_loss(plain, merged, sequences)(None), abs=1e-5)
    assert loss(None) != pytest.approx(loss({name: -tensor for name, tensor in adapter.items()}), abs=1e-3)


@pytest.mark.parametrize("recipe", MIXES, ids=named)
def test_merged_it_computes_what_it_did_beside(recipe):
    adapter, begun = moved(recipe), given(recipe)
    merged = dict(huggingface.Merged(adapter, begun, recipe))
    beside, alone = logits(recipe, adapter | begun), logits(replace(recipe, adapter=0), merged)
    assert (beside - alone).abs().max() < 1e-4 * beside.abs().max()
    assert (beside - logits(replace(recipe, adapter=0), begun)).abs().max() > 1e-2 * beside.abs().max()


def test_what_is_no_adapter_of_this_recipe_or_no_base_of_it_is_not_merged():
    recipe = MIXES[0]
    for adapter, begun in (
        (moved(replace(recipe, adapter=2)), given(recipe)),
        (moved(recipe), given(replace(recipe, width=48))),
        (given(recipe), given(recipe)),
    ):
        with pytest.raises(Refused) as caught:
            huggingface.Merged(adapter, begun, recipe)
        assert caught.value.refusal is Refusal.WRONG_MODEL


@pytest.mark.parametrize("machine", [Machine(recompute=True), Machine(processes=2), Machine(processes=2, shard=True)])
@pytest.mark.timeout(900)
def test_however_a_member_s_machine_trains_it_comes_to_the_same(machine):
    recipe = MIXES[-1]
    losses, reached, _ = trained(recipe, steps=3)
    theirs, their_state, memory = trained(recipe, machine, steps=3)
    assert theirs == pytest.approx(losses, rel=0.01)
    assert their_state.keys() == reached.keys() == {name.partition("/")[0] for name in memory}
    for name, tensor in reached.items():
        assert np.allclose(their_state[name], tensor, atol=2e-2), name
    if machine.processes == 1:
        assert weights.digest(their_state) == weights.digest(reached)
