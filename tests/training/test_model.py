"""The model, the text and the weights: what the price is computed from, and what records name by digest."""

import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path

import mixes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from world import TOY, World

from client import data
from server import outer
from shared_models.lm import corpus, gpt, models, weights
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import attended, flop_per_token, matmul_parameters, round_flop

MIX = replace(TOY, layers=4, heads=4, width=32, context=24, batch=3)
EXPERTS = {"feed": "swiglu", "experts": 4, "experts_per_token": 2}
MIXES = [
    replace(MIX, kv_heads=kv_heads, rank=rank, shared=shared, **feed)
    for kv_heads in (0, 1, 2)
    for rank in (0, 8)
    for shared in (1, 2)
    for feed in ({}, {"feed": "swiglu"}, EXPERTS, EXPERTS | {"experts_per_token": 1})
] + [replace(each, batch=3) for each in mixes.MIXES.values()]


def named(recipe: Recipe) -> str:
    """What of a recipe is not as in `MIX`."""
    return ",".join(f"{name}={value}" for name, value in asdict(recipe).items() if value != getattr(MIX, name))


def test_the_formula_counts_the_model_s_own_matrices():
    recipe = replace(TOY, layers=3, width=32, heads=4)
    model = outer.model(recipe)
    matrices = [each for name, each in model.named_parameters() if each.dim() == 2 and name != "embed.weight"]
    assert sum(each.numel() for each in matrices) == matmul_parameters(recipe)


@pytest.mark.parametrize("recipe", MIXES, ids=named)
def test_torch_s_own_counter_agrees_to_the_last_flop(recipe):
    """It sees attention as products of matrices, the half under the mask too, which the formula leaves out."""
    model = outer.model(recipe)
    tokens = torch.arange(recipe.batch * (recipe.context + 1)).view(recipe.batch, -1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.objective(tokens).backward()
    masked = 6 * recipe.layers * recipe.context * attended(recipe)
    assert counter.get_total_flops() == recipe.batch * recipe.context * (flop_per_token(recipe) + masked)


BESIDE = [{"adapter": 3}, {"adapter": 2, "feed": "swiglu", "kv_heads": 1}, {"feed": "swiglu", "member_experts": 1}]


@pytest.mark.parametrize("recipe", [*MIXES, *(replace(TOY, heads=4, width=32, **each) for each in BESIDE)], ids=named)
def test_it_agrees_on_what_a_candidate_costs(recipe):
    model = models.made(recipe, Path())
    tokens = torch.arange(recipe.batch * (recipe.context + 1)).view(recipe.batch, -1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.loss(tokens)
    each = flop_per_token(replace(recipe, candidates=3)) - flop_per_token(replace(recipe, candidates=2))
    masked = 2 * recipe.layers * recipe.context * attended(recipe)
    assert counter.get_total_flops() == recipe.batch * recipe.context * (each + masked)


@pytest.mark.parametrize("changes", [{}, EXPERTS, {"kv_heads": 1, "rank": 8}, {"head_dim": 12}])
def test_of_a_curriculum_it_agrees_too_round_by_round(changes):
    recipe = replace(MIX, shortest=6, inner_steps=4, **changes)
    manifest, tokens = replace(World().manifest(recipe=recipe), rounds=2), data.load("python-stdlib:0/3")
    for round_ in (1, 2):
        batches = data.Batches(tokens, recipe, member="acme", round_=round_, rounds=2)
        counted = masked = 0
        for _ in range(recipe.inner_steps):
            batch = torch.from_numpy(batches.draw())
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                outer.model(recipe).objective(batch).backward()
            counted += counter.get_total_flops()
            masked += 6 * recipe.layers * attended(recipe) * (batch.shape[1] - 1) * batch[:, 1:].numel()
        assert counted == round_flop(manifest, round_, "acme") + masked


@pytest.mark.parametrize("changes", [{}, EXPERTS, {"rank": 8, "shared": 2}, {"head_dim": 12, "embeddings": "tied"}])
def test_with_a_teacher_it_agrees_too(changes):
    recipe = replace(MIX, **changes, teacher_layers=3, teacher_heads=2, teacher_width=48, temperature="2", taught="0.5")
    model, teacher = outer.model(recipe), outer.model(recipe.teacher)
    model.teach(teacher.requires_grad_(False), 2.0, 0.5)
    tokens = torch.arange(recipe.batch * (recipe.context + 1)).view(recipe.batch, -1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.objective(tokens).backward()
    masked = (6 * recipe.layers * attended(recipe) + 2 * 3 * attended(recipe.teacher)) * recipe.context
    assert counter.get_total_flops() == recipe.batch * recipe.context * (flop_per_token(recipe) + masked)


def test_what_is_learnt_of_a_teacher_is_its_predictions_made_even():
    """By hand, of one token and three words; and none of its weights is a part of the model, or learns."""
    logits, right = torch.tensor([[[1.0, 0.0, -1.0]]]), torch.tensor([[[2.0, 2.0, 0.0]]])
    student, teacher = (torch.softmax(each.flatten() / 2, 0) for each in (logits, right))
    by_hand = 4 * (teacher * (teacher / student).log()).sum()
    assert gpt.soft(logits, right, 2.0).item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert gpt.soft(logits.repeat(2, 3, 1), right.repeat(2, 3, 1), 2.0).item() == pytest.approx(
        by_hand.item(), abs=1e-6
    )
    assert gpt.soft(right, right, 2.0).item() == pytest.approx(0, abs=1e-7)
    model, other = outer.model(MIX), outer.model(replace(MIX, layers=2), 5)
    torch.nn.init.normal_(other.head.weight)
    names, tokens = dict(model.named_parameters()).keys(), torch.arange(3 * 25).view(3, 25)
    plain = model.objective(tokens)
    model.teach(other.requires_grad_(False), 2.0, 0.25)
    with torch.no_grad():
        soft = gpt.soft(model(tokens[:, :-1])[0], other(tokens[:, :-1])[0], 2.0)
    assert torch.allclose(model.objective(tokens), 0.75 * plain + 0.25 * soft)
    assert torch.equal(model.loss(tokens), plain)  # Checkpoints are scored by the text alone.
    assert dict(model.named_parameters()).keys() == names
    model.objective(tokens).backward()
    assert all(each.grad is None for each in other.parameters())


def test_what_is_not_chosen_is_the_plain_gpt_to_the_bit():
    """Written down here once more, as it was before there was anything to choose."""
    recipe = replace(MIX, layers=2)
    model, tokens = outer.model(recipe), torch.arange(3 * 25).view(3, 25)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    weight = {name: each.detach().clone().requires_grad_() for name, each in model.named_parameters()}
    rotation = (model.cos[:24], model.sin[:24])
    x = functional.embedding(tokens[:, :-1], weight["embed.weight"])
    for block in ("blocks.0", "blocks.1"):
        normed = functional.rms_norm(x, (32,), weight[f"{block}.norm1.weight"])
        q, k, v = functional.linear(normed, weight[f"{block}.qkv.weight"]).view(3, 24, 3, 4, 8).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in (gpt._rotate(q, rotation), gpt._rotate(k, rotation), v))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(3, 24, 32)
        x = x + functional.linear(attended, weight[f"{block}.out.weight"])
        up = functional.linear(
            functional.rms_norm(x, (32,), weight[f"{block}.norm2.weight"]), weight[f"{block}.up.weight"]
        )
        x = x + functional.linear(functional.gelu(up), weight[f"{block}.down.weight"])
    logits = functional.linear(functional.rms_norm(x, (32,), weight["norm.weight"]), weight["head.weight"])
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    mine = model.objective(tokens)
    mine.backward()
    assert torch.equal(mine, loss)
    assert all(torch.equal(each.grad, weight[name].grad) for name, each in model.named_parameters())


def test_every_weight_of_every_mix_is_trained_and_of_shared_layers_there_is_one():
    for recipe in MIXES:
        model = outer.model(recipe)
        torch.nn.init.normal_(model.head.weight)
        model.objective(torch.arange(3 * 25).view(3, 25)).backward()
        assert all(each.grad is not None for each in model.parameters()), named(recipe)
        assert len(model.blocks) == recipe.layers // recipe.shared
        assert gpt.shapes(gpt.Shape.of(recipe)).keys() == weights.of(model).keys()


def test_layers_that_share_weights_are_those_weights_applied_again():
    shared = outer.model(replace(MIX, shared=2))
    apart = outer.model(MIX)
    torch.nn.init.normal_(shared.head.weight)
    found = weights.of(shared)
    written_out = {
        name: found[name if not name.startswith("blocks.") else f"blocks.{int(name[7]) // 2}{name[8:]}"]
        for name in weights.of(apart)
    }
    weights.put(written_out, apart)
    tokens = torch.arange(24)[None]
    assert torch.equal(shared(tokens)[0], apart(tokens)[0])


def test_heads_that_share_keys_are_heads_with_the_same_keys():
    few, many = outer.model(replace(MIX, kv_heads=2)), outer.model(MIX)
    torch.nn.init.normal_(few.head.weight)
    found = weights.of(few)
    for name in found:
        if name.endswith("qkv.weight"):
            q, k, v = np.split(found[name], [32, 48])
            k, v = (np.repeat(each.reshape(2, 8, 32), 2, 0).reshape(32, 32) for each in (k, v))
            found[name] = np.concatenate([q, k, v])
    weights.put(found, many)
    tokens = torch.arange(24)[None]
    assert torch.allclose(few(tokens)[0], many(tokens)[0], rtol=1e-5, atol=1e-5)


def test_queries_and_keys_are_normed_in_float32_whatever_products_are_computed_in():
    """Otherwise an eps that is not said would be bfloat16's, which is 65,536 times as large."""
    x, recipe = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(1)), replace(MIX, qk_norm="whole")
    for width, dims in ((8, -1), (32, (-2, -1))):
        by_hand = x / (x.square().mean(dims, keepdim=True) + 2.0**-23).sqrt()
        norm = gpt._norm(width, gpt.Shape.of(recipe))
        assert torch.allclose(gpt._normed(x, norm), by_hand, atol=1e-6)
    block = outer.model(replace(recipe, feed="swiglu", experts=4, experts_per_token=2)).blocks[0]
    with torch.autocast("cpu", torch.bfloat16):
        small = torch.full((1, 3, 4, 8), 1e-3, dtype=torch.bfloat16)
        assert torch.allclose(gpt._normed(small, block.norm_q), torch.ones(()), atol=0.07)


def test_what_is_added_to_queries_keys_and_values_begins_as_nothing_and_one_matrix_serves_in_and_out():
    model = outer.model(replace(MIX, feed="swiglu", bias="qkv", embeddings="tied"))
    found = dict(model.named_parameters())
    assert not found["blocks.0.qkv.bias"].any()
    assert model.head.weight is found["embed.weight"]
    assert "head.weight" not in found
    tokens = torch.arange(3 * 25).view(3, 25)
    assert model.loss(tokens).item() == pytest.approx(5.545, abs=0.02)


def test_weights_of_experts_are_shares_or_what_the_router_holds_likely():
    block, shares, _, x = routing(torch.randn(4, 32, generator=torch.Generator().manual_seed(2)))
    block.shares = False
    likely = torch.softmax(x @ block.router.weight.T, -1)
    taken = likely.sort(descending=True)[0][:, :2].sum(-1, keepdim=True)
    assert torch.allclose(block._routed(x.view(2, 8, 32))[0].flatten(0, 1), shares * taken, atol=1e-6)


# Experts.


def routing(router, experts_per_token: int = 2):
    """(a block whose router this is, what its experts make of 2 × 8 tokens, how unevenly they are used, the tokens)."""
    recipe = replace(MIX, **EXPERTS | {"experts_per_token": experts_per_token})
    block = outer.model(recipe, 3).blocks[0]
    with torch.no_grad():
        block.router.weight.copy_(router)
    x = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(1))
    fed, uneven = block._routed(x)
    return block, fed.flatten(0, 1), uneven, x.flatten(0, 1)


def test_a_token_goes_through_the_experts_that_its_router_puts_first():
    block, fed, _, x = routing(torch.randn(4, 32, generator=torch.Generator().manual_seed(2)))
    for token in range(16):
        likely = torch.softmax(block.router.weight @ x[token], 0)
        first, second = sorted(range(4), key=lambda number: -likely[number].item())[:2]
        own, other = likely[first], likely[second]
        by_hand = (own * block.experts[first](x[token]) + other * block.experts[second](x[token])) / (own + other)
        assert torch.allclose(fed[token], by_hand, atol=1e-6)


def test_of_experts_that_are_equally_likely_the_first_ones_are_taken():
    block, fed, _, x = routing(torch.zeros(4, 32))
    assert torch.equal(fed, 0.5 * block.experts[0](x) + 0.5 * block.experts[1](x))


def test_an_expert_that_nobody_wants_has_a_gradient_of_zero_and_its_memory():
    """Otherwise an optimiser would leave it out, and processes that share a batch would wait for it for ever."""
    block, fed, _, _ = routing(torch.zeros(4, 32))
    fed.sum().backward()
    assert all(each.grad.abs().sum() > 0 for each in block.experts[1].parameters())
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in block.experts[3].parameters())


def test_the_more_unevenly_experts_are_used_the_more_it_costs():
    assert routing(torch.zeros(4, 32))[2].item() == pytest.approx(1.0)  # All are as likely, whichever are taken.
    router = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    _, _, uneven, x = routing(router, 1)
    by_hand = []
    for sequence in x.view(2, 8, 32):
        likely = torch.softmax(sequence @ router.T, -1)
        share = torch.bincount(likely.argmax(-1), minlength=4) / 8
        by_hand.append(4 * (share * likely.mean(0)).sum().item())
    assert uneven.item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    assert uneven.item() > 1.1


def test_training_lowers_the_balance_too_and_scoring_does_not_see_it():
    recipe = replace(MIX, **EXPERTS)
    model, tokens = outer.model(recipe), torch.arange(3 * 25).view(3, 25)
    logits, uneven = model(tokens[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert model.loss(tokens).item() == pytest.approx(loss.item())
    assert (model.objective(tokens) - model.loss(tokens)).item() == pytest.approx(0.01 * uneven.item(), rel=1e-3)
    assert uneven.item() >= 0.99 * recipe.layers  # A layer's is 1 at the least, but for what its tokens differ in.


def test_a_fresh_model_guesses_every_byte_alike():
    recipe = replace(TOY, layers=2)
    assert outer.held_out_loss(outer.model(recipe), outer.first(recipe), recipe) == pytest.approx(5.545177, abs=1e-4)


def test_the_same_seed_gives_the_same_first_weights_and_another_gives_others():
    assert weights.digest(outer.first(TOY)) == weights.digest(outer.first(TOY))
    assert weights.digest(outer.first(TOY)) != weights.digest(outer.first(replace(TOY, seed=8)))


def test_no_token_sees_what_comes_after_it():
    model = outer.model(replace(TOY, layers=2), 3)
    torch.nn.init.normal_(model.head.weight)
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 9] = 200
    before, after = (model(each)[0] for each in (tokens, changed))
    assert torch.equal(before[0, :9], after[0, :9])
    assert not torch.equal(before[0, 9:], after[0, 9:])


def test_the_order_of_tokens_matters():
    model = outer.model(replace(TOY, layers=2), 3)
    torch.nn.init.normal_(model.head.weight)
    one, other = torch.tensor([[5, 9, 7]]), torch.tensor([[9, 5, 7]])
    assert not torch.allclose(model(one)[0][0, -1], model(other)[0][0, -1])


# Weights.


def test_a_digest_names_names_shapes_and_every_bit():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    named = weights.digest(base)
    assert weights.digest(dict(reversed(base.items()))) == named
    changed = base["a"].copy()
    changed[1, 2] = -0.0
    for other in (
        base | {"a": base["a"].reshape(3, 2)},
        base | {"a": changed},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ):
        assert weights.digest(other) != named


def test_a_checkpoint_comes_back_from_the_disk_or_is_refused(tmp_path):
    first = outer.first(TOY)
    name = weights.keep(first, tmp_path)
    found = weights.stored(tmp_path, name)
    assert weights.digest(found) == name == weights.digest(first)
    assert (len(found), {*found}) == (len(first), {*first})
    path = tmp_path / f"{name}.safetensors"
    for each in (found, weights.widened(path)):
        with pytest.raises(KeyError, match="another"):
            each["another"]
    good = path.read_bytes()
    for bad in (good[:-1], good[:9], b"", good[:-1] + b"\1", save({"w": np.zeros(1)})):
        path.write_bytes(bad)
        with pytest.raises(Refused) as caught:
            weights.stored(tmp_path, name)
        assert (caught.value.refusal, str(path) in caught.value.detail) == (Refusal.CORRUPT, True)
        assert weights.held(tmp_path, name) is None
    path.unlink()
    with pytest.raises(Refused) as caught:
        weights.stored(tmp_path, name)
    assert caught.value.refusal is Refusal.NO_CHECKPOINT


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.lists(st.integers(0, 3), max_size=3), max_size=6), st.randoms())
def test_what_is_written_tensor_by_tensor_is_what_the_library_writes_at_once(tmp_path_factory, shapes, random):
    folder = tmp_path_factory.mktemp("w")
    found = {name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(shapes.items())}
    names = list(found)
    random.shuffle(names)
    with weights.writing(folder, {name: tensor.shape for name, tensor in found.items()}) as writer:
        for name in names:
            writer.put(name, found[name])
    assert writer.digest == weights.digest(found)
    (path,) = folder.iterdir()
    assert path.name == f"{writer.digest}.safetensors"
    assert path.read_bytes() == save(found)


def test_weights_that_could_not_be_written_to_their_end_leave_nothing(tmp_path):
    with pytest.raises(KeyError), weights.writing(tmp_path, {"w": (1,)}) as writer:
        writer.put("other", np.zeros(1, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_weights_is_of_their_names_in_order():
    hashed = weights.Hash()
    hashed.put("b", np.zeros(1, np.float32))
    with pytest.raises(AssertionError):
        hashed.put("a", np.zeros(1, np.float32))


# Text.


def test_shards_are_of_whole_packages_and_nothing_of_them_is_held_out():
    shards = [corpus.shard(number, 3).tobytes() for number in range(3)]
    held_out = corpus.held_out().tobytes()
    assert all(len(shard) > 10**6 for shard in shards)
    assert len(held_out) > 10**5
    first = held_out[: held_out.index(b"\n", 500)]
    assert not any(first in shard for shard in shards)
    assert sum(b"class BaseEventLoop(" in shard for shard in shards) == 1


def test_uneven_shards_are_all_of_the_text_once_and_the_less_alike_the_smaller_alpha_is():
    whole = sum(corpus.shard(number, 4).size for number in range(4))

    def shards(alpha: float, seed: int = 1) -> list[np.ndarray]:
        return [data.load(f"python-stdlib:{number}/4,alpha={alpha},seed={seed}") for number in range(4)]

    def apart(shards) -> float:
        """How far the members' distributions of bytes lie from the one of all: total variation, the mean."""
        shares = [np.bincount(shard, minlength=256) / shard.size for shard in shards]
        return float(np.mean([np.abs(share - np.mean(shares, 0)).sum() / 2 for share in shares]))

    even, uneven = shards(100), shards(0.05)
    for each in (even, uneven):
        assert abs(sum(shard.size for shard in each) - whole) < 1000  # A newline between files is one between packages.
        assert sum(b"class BaseEventLoop(" in shard.tobytes() for shard in each) == 1
    assert max(shard.size for shard in even) < 1.2 * min(shard.size for shard in even)
    assert apart(uneven) > 2 * apart(even)
    corpus.uneven.cache_clear()
    assert [shard.tobytes() for shard in shards(0.05)] == [shard.tobytes() for shard in uneven]
    assert [shard.size for shard in shards(0.05, seed=2)] != [shard.size for shard in uneven]
    assert shards(0.001)[0].size > 0


def test_a_file_is_text_byte_by_byte_and_read_where_it_is_drawn_from(tmp_path):
    path = tmp_path / "a text"
    with path.open("wb") as file:
        file.truncate(10**12)  # A hole: more than this machine's memory, and nothing of its disk.
        file.seek(10**12 - 3)
        file.write(b"end")
    tokens = data.load(f"file:{path}")
    assert (tokens.size, tokens[-3:].tobytes(), tokens.dtype) == (10**12, b"end", np.uint8)
    batches = data.Batches(tokens, replace(TOY, batch=4), member="acme", round_=1, rounds=1)
    assert batches.draw().shape == (4, 17)
    path.write_bytes(b"abc")
    assert data.named(f"file:{path}") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert data.named("python-stdlib:0/3") == "python-stdlib:0/3"


@pytest.mark.parametrize(
    ("what", "why"), [("missing", "No such file"), ("empty", "cannot mmap an empty file"), ("folder", "Is a directory")]
)
def test_a_file_that_is_no_text_is_named(tmp_path, what, why):
    path = tmp_path / what
    if what == "empty":
        path.touch()
    elif what == "folder":
        path.mkdir()
    with pytest.raises(Refused, match=f"no_text: .*{re.escape(str(path))}'?: {why}"):
        data.load(f"file:{path}")
    if what != "empty":
        with pytest.raises(Refused, match=f"no_text: .*{re.escape(str(path))}'?: {why}"):
            data.named(f"file:{path}")


def test_a_file_of_the_library_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "one.py").symlink_to("nowhere")
    (tmp_path / "two.py").write_text("pass")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    corpus._files.cache_clear()
    corpus.shard.cache_clear()  # Another test of this process may have drawn from the same shard.
    try:
        with pytest.raises(Refused, match=r"no_text: data 'python-stdlib:0/1': No such file or directory: .*one\.py"):
            data.load("python-stdlib:0/1")
    finally:
        corpus._files.cache_clear()


def test_the_same_seed_draws_the_same_batches_and_says_what_it_drew():
    tokens = data.load("python-stdlib:1/3")

    def drawn(seed=1, **changes):
        turn = {"member": "acme", "round_": 1, "rounds": 2} | changes
        batches = data.Batches(tokens, replace(TOY, seed=seed), **turn)
        return batches.draw(), batches.digest

    (one, digest), (same, again) = drawn(), drawn()
    assert np.array_equal(one, same)
    assert digest == again
    for change in ({"seed": 2}, {"member": "birch"}, {"round_": 2}):
        other, named = drawn(**change)
        assert not np.array_equal(one, other)
        assert named != digest


@pytest.mark.parametrize(
    "spec",
    [
        "python-stdlib",
        "python-stdlib:3/3",
        "python-stdlib:-1/3",
        "web:0/3",
        "",
        "python-stdlib:0/3,alpha=0.0,seed=1",
        "python-stdlib:0/3,alpha=-1,seed=1",
        "python-stdlib:0/3,alpha=1",
    ],
)
def test_data_that_is_not_there_is_refused(spec):
    with pytest.raises(Refused, match=r"no_text: .* is not of the form"):
        data.load(spec)


def test_a_shard_shorter_than_a_sequence_is_refused():
    with pytest.raises(Refused, match=r"no_text: .*a sequence takes 17"):
        data.Batches(np.zeros(17, np.uint8), TOY, member="acme", round_=1, rounds=1)


def test_in_a_curriculum_sequences_grow_over_the_run_and_every_step_has_as_many_tokens():
    """Seven steps of a round, of three rounds, in four lengths: parts of five or six steps, whatever rounds begin."""
    recipe, tokens = replace(TOY, context=32, batch=3, inner_steps=7, shortest=4), data.load("python-stdlib:1/3")
    found = []
    for round_ in (1, 2, 3):
        batches = data.Batches(tokens, recipe, member="acme", round_=round_, rounds=3)
        found += [batches.draw().shape for _ in range(7)]
    assert found == [(24, 5)] * 6 + [(12, 9)] * 5 + [(6, 17)] * 5 + [(3, 33)] * 5
