"""A checkpoint as a folder of transformers: the very model that was trained, whole or not at all, and its origin."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixes import EXPERTS, MIX, MIXES, trained
from safetensors.numpy import load_file, save_file
from world import TOY

from client.auditor import Auditor
from consortium.cli import main
from consortium.simulate import simulate
from server import outer
from shared_models import durable, huggingface
from shared_models.lm import corpus, gpt, own, tokenizer, weights
from shared_models.lm.inner import Inner
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import matmul_parameters
from shared_models.rules.recipes import check_recipe


def refused(act, *arguments) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal, caught.value.detail


@pytest.fixture(scope="module")
def transformers():
    """The library, without its hub: what it needs is in the folder."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    found = pytest.importorskip("transformers", reason="the extra hf is not installed")
    found.utils.logging.disable_progress_bar()
    return found


def read(transformers, folder, **how):
    """The model of this folder, its experts one after another: what is fused may take gigabytes."""
    config = json.loads((folder / "config.json").read_text())
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **one_by_one(config), **how)


def one_by_one(config) -> dict[str, str]:
    return {"experts_implementation": "eager"} if "num_experts_per_tok" in config else {}


@pytest.mark.parametrize("name", MIXES)
def test_transformers_reads_the_very_model_of_every_mix(transformers, tmp_path, name):
    recipe, model = MIXES[name], trained(MIXES[name])
    kind = huggingface.export(weights.of(model), recipe, tmp_path / "out", {})
    theirs = read(transformers, tmp_path / "out")
    assert (kind, theirs.config.model_type) == (name.partition("-")[0],) * 2
    tokens = torch.randint(0, 256, (3, recipe.context), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mine = model(tokens)[0]
        assert (mine - theirs(tokens).logits).abs().max() < 1e-4 * mine.abs().max()
        said = tokens[:, :4]
        while said.shape[1] < recipe.context:
            said = torch.cat((said, model(said)[0][:, -1:].argmax(-1)), 1)
    cached = theirs.generate(tokens[:, :4], max_new_tokens=recipe.context - 4, do_sample=False, use_cache=True)
    assert torch.equal(cached, said)
    assert theirs.generate(tokens[:, :4], max_new_tokens=1, do_sample=False).dtype == torch.int64


@pytest.mark.parametrize(("changes", "kind"), [({}, "mixtral"), ({"qk_norm": "head", "head_dim": 12}, "qwen3_moe")])
def test_transformers_reads_members_experts_as_the_mixture_that_they_are(transformers, tmp_path, changes, kind):
    recipe = replace(MIX, feed="swiglu", member_experts=3, kv_heads=2, shared=2, **changes)
    shape, random = gpt.Shape.of(recipe), np.random.default_rng(5)
    given = weights.of(trained(replace(recipe, member_experts=0)))
    experts = {name: random.normal(0, 0.3, size).astype(np.float32) for name, size in gpt.shapes(shape).items()}
    model = gpt.GPT(replace(shape, member_experts=2))
    weights.put(own.among(experts, [0, 2]) | given, model)
    mixture = huggingface.Mixture(experts, given, recipe, [0, 2])
    assert huggingface.export(mixture, mixture.shape, tmp_path / "out", {}) == kind
    theirs = read(transformers, tmp_path / "out")
    tokens = torch.randint(0, 256, (3, recipe.context), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mine = model(tokens)[0]
        assert (mine - theirs(tokens).logits).abs().max() < 1e-4 * mine.abs().max()
    assert "Its sizes:" in (tmp_path / "out" / "README.md").read_text()


def test_a_token_is_a_byte_in_transformers_too(transformers, tmp_path):
    huggingface.export(weights.of(trained(MIX)), MIX, tmp_path / "out", {})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", model_max_length=10**6)
    every_letter = "".join(map(chr, range(0x2500)))
    for text in (every_letter, "a  b\r\n\tc ", "☃🙂", " x", ""):
        assert tokenizer(text)["input_ids"] == list(text.encode())
        assert tokenizer.decode(list(text.encode())) == text
    assert (len(tokenizer), transformers.AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length) == (256, 24)


def test_a_model_of_other_tokens_than_bytes_has_no_tokenizer(tmp_path):
    recipe = replace(MIX, vocabulary=300)
    huggingface.export(weights.of(trained(recipe)), recipe, tmp_path / "out", {})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert "of 300 numbers only the first 256 are used" in (tmp_path / "out" / "README.md").read_text()


WHOLE = {"model.embed_tokens.weight": (256, 32), "model.norm.weight": (32,), "lm_head.weight": (256, 32)}
LAYER = {
    "input_layernorm.weight": (32,),
    "post_attention_layernorm.weight": (32,),
    "self_attn.q_proj.weight": (32, 32),
    "self_attn.k_proj.weight": (16, 32),
    "self_attn.v_proj.weight": (16, 32),
    "self_attn.o_proj.weight": (32, 32),
}
GATED = {"mlp.gate_proj.weight": (88, 32), "mlp.up_proj.weight": (88, 32), "mlp.down_proj.weight": (32, 88)}
ROUTED = {"mlp.gate.weight": (4, 32)} | {
    f"mlp.experts.{expert}.{name}_proj.weight": shape
    for expert in range(4)
    for name, shape in (("gate", (48, 32)), ("up", (48, 32)), ("down", (32, 48)))
}
OF_KINDS = {
    "arcee": {"mlp.up_proj.weight": (128, 32), "mlp.down_proj.weight": (32, 128)},
    "llama": GATED,
    "qwen2": GATED | {f"self_attn.{name}_proj.bias": (size,) for name, size in (("q", 32), ("k", 16), ("v", 16))},
    "qwen3": GATED | {f"self_attn.{name}_norm.weight": (8,) for name in "qk"},
    "mixtral": {"block_sparse_moe.gate.weight": (4, 32)}
    | {
        f"block_sparse_moe.experts.{expert}.{name}.weight": shape
        for expert in range(4)
        for name, shape in (("w1", (48, 32)), ("w2", (32, 48)), ("w3", (48, 32)))
    },
    "olmoe": ROUTED | {"self_attn.q_norm.weight": (32,), "self_attn.k_norm.weight": (16,)},
    "qwen3_moe": ROUTED | {f"self_attn.{name}_norm.weight": (8,) for name in "qk"},
}


@pytest.mark.parametrize("kind", OF_KINDS)
def test_tensors_have_the_names_and_shapes_of_the_architecture(tmp_path, kind):
    """Written down from transformers 5.23, so that it is asked where that is not installed, too."""
    recipe = replace(MIXES[kind], kv_heads=2)
    huggingface.export(weights.of(trained(recipe)), recipe, tmp_path / "out", {})
    written = load_file(tmp_path / "out" / "model.safetensors")
    layers = {f"model.layers.{n}.{name}": shape for n in range(4) for name, shape in (LAYER | OF_KINDS[kind]).items()}
    assert {name: each.shape for name, each in written.items()} == WHOLE | layers
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["num_key_value_heads"], config["head_dim"]) == (kind, 2, 8)


def test_what_shared_or_factored_is_written_out_whole(tmp_path):
    recipe = replace(MIX, rank=8, shared=2)
    found = weights.of(trained(recipe))
    huggingface.export(found, recipe, tmp_path / "out", {})
    written = load_file(tmp_path / "out" / "model.safetensors")
    up = found["blocks.1.up.1.weight"] @ found["blocks.1.up.0.weight"]
    for layer in (2, 3):
        assert np.allclose(written[f"model.layers.{layer}.mlp.up_proj.weight"], up, atol=1e-5)
        qkv = [written[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkv"]
        assert np.array_equal(np.concatenate(qkv), found["blocks.1.qkv.weight"])
    assert {each.dtype for each in written.values()} == {np.dtype("float32")}


def test_weights_of_another_architecture_are_refused_by_a_tensor_s_name(tmp_path):
    found = weights.of(trained(MIX))
    for other, why in (
        (replace(MIX, layers=5), "only the recipe's model has a tensor blocks.4.down.weight, and 5 more"),
        (replace(MIX, layers=3), "only the file has a tensor blocks.3.down.weight, and 5 more"),
        (replace(MIX, feed="swiglu"), "only the recipe's model has a tensor blocks.0.gate.weight, and 3 more"),
        (replace(MIX, kv_heads=2), "blocks.0.qkv.weight is 96 × 32, and 64 × 32 in the recipe's model"),
    ):
        refusal, detail = refused(huggingface.export, found, other, tmp_path / "out", {})
        assert (refusal, why in detail) == (Refusal.WRONG_MODEL, True), detail
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_alone_is_no_model(tmp_path):
    recipe = replace(MIX, adapter=2)
    refusal, detail = refused(huggingface.export, weights.of(trained(recipe)), recipe, tmp_path / "out", {})
    assert (refusal, "adapter = 2: merge it" in detail) == (Refusal.WRONG_MODEL, True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_and_nothing_by_halves(tmp_path, monkeypatch):
    found = weights.of(trained(MIX))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for taken in ("full", "full/mine"):
        refusal, detail = refused(huggingface.export, found, MIX, tmp_path / taken, {})
        assert (refusal, "is there already" in detail) == (Refusal.BAD_FIELD, True)
    (tmp_path / "empty").mkdir()
    huggingface.export(found, MIX, tmp_path / "empty", {})
    assert (tmp_path / "empty" / "config.json").is_file()

    class Full(OSError):
        """No space left on device."""

    def fails(path, data):
        raise Full

    monkeypatch.setattr(durable, "write", fails)  # Behind the weights.
    with pytest.raises(Full):
        huggingface.export(found, MIX, tmp_path / "broken", {})
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "full"}


# And back.

UNFACTORED = [name for name, recipe in MIXES.items() if not recipe.rank]


def kept(given, recipe, folder) -> tuple[str, weights.Weights]:
    name = huggingface.keep(given, recipe, folder)
    return name, dict(weights.stored(folder, name))


@pytest.mark.parametrize("name", UNFACTORED)
def test_what_was_written_out_is_read_back_to_the_bit(tmp_path, name):
    recipe = MIXES[name]
    mine = weights.of(trained(recipe))
    huggingface.export(mine, recipe, tmp_path / "out", {})
    assert kept(tmp_path / "out", recipe, tmp_path / "kept")[0] == weights.digest(mine)


SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3 |= {"rope_type": "llama3", "factor": 32.0, "rope_theta": 500_000.0}
ROUTER = {"num_experts": 6, "num_experts_per_tok": 3}
THEIRS = {  # As each is published, but for the size.
    "arcee": SIZES | {"hidden_act": "gelu", "rms_norm_eps": 1e-5},
    "llama": SIZES | {"rms_norm_eps": 1e-5, "rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 16},
    "mistral": SIZES | {"sliding_window": None, "rms_norm_eps": 1e-5},
    "mixtral": SIZES | {"num_local_experts": 6, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5},
    "olmoe": SIZES | ROUTER | {"num_key_value_heads": 4},
    "olmoe-kv": SIZES
    | ROUTER
    | {"norm_topk_prob": True, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "qwen2": SIZES | {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen3": SIZES | {"head_dim": 32, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
    "qwen3_moe": SIZES | ROUTER | {"head_dim": 16, "moe_intermediate_size": 24, "norm_topk_prob": True},
}


def made(transformers, name):
    """A model of transformers' own that nobody has written out: weights as it draws them, but none as it is drawn."""
    config = transformers.AutoConfig.for_model(name.partition("-")[0], **THEIRS[name])
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, **one_by_one(config.to_dict()))
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn(each.shape))
    return model


@pytest.mark.parametrize("name", THEIRS)
def test_a_model_that_transformers_made_is_ours_is_trained_and_goes_back(transformers, tmp_path, name):
    """In several files, and in half the bits too; no size of it is typed by hand."""
    theirs = made(transformers, name)
    tokens = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(2))
    for kind in (torch.float32, torch.bfloat16):
        folder = tmp_path / str(kind)
        theirs.to(kind).save_pretrained(folder, max_shard_size="60KB")
        assert len([*folder.glob("*.safetensors")]) > 1
        recipe = replace(MIX, **huggingface.described(folder))
        check_recipe(recipe)
        mine = outer.model(recipe)
        weights.put(kept(folder, recipe, tmp_path / "kept")[1], mine)
        assert sum(each.numel() for each in mine.parameters()) == theirs.num_parameters()
        with torch.no_grad():
            right = read(transformers, folder, dtype=torch.float32)(tokens).logits
            assert (mine(tokens)[0] - right).abs().max() < 1e-4 * right.abs().max()
    loss = mine.objective(tokens)
    loss.backward()
    Inner(mine, "adamw", {}).step(0.01)
    found = huggingface.export(weights.of(mine), recipe, tmp_path / "out", {})
    back = read(transformers, tmp_path / "out")
    assert back.config.model_type == found == {"mistral": "llama"}.get(name, name.partition("-")[0])
    with torch.no_grad():
        reached = mine(tokens)[0]
        assert (reached - back(tokens).logits).abs().max() < 1e-4 * reached.abs().max()
        assert mine.objective(tokens) < loss
        assert (reached - right).abs().max() > 1e-2 * right.abs().max()


def config(kind, vocabulary, width, inner, layers, heads, kv_heads, eps, theta, **more):
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": eps,
        "rope_theta": theta,
        **more,
    }


TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False, "attention_bias": False}
LLAMA32 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"}
LLAMA32 = {"rope_scaling": LLAMA32 | {"original_max_position_embeddings": 8192}}
WINDOW = {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21}
QWEN_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}
PUBLISHED = {  # Their config.json, as old as they are, and how many weights they are said to have.
    "Llama-3.2-1B": (
        config("llama", 128256, 2048, 8192, 16, 32, 8, 1e-5, 500000.0, head_dim=64, mlp_bias=False, **TIED, **LLAMA32),
        1_235_814_400,
    ),
    "Mistral-7B-v0.3": (
        config("mistral", 32768, 4096, 14336, 32, 32, 8, 1e-5, 1000000.0, sliding_window=None, **UNTIED),
        7_248_023_552,
    ),
    "Mixtral-8x7B-v0.1": (
        config("mixtral", 32000, 4096, 14336, 32, 32, 8, 1e-5, 1e6, num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
    ),
    "Qwen2.5-0.5B": (config("qwen2", 151936, 896, 4864, 24, 14, 2, 1e-6, 1e6, **WINDOW, **TIED), 494_032_768),
    "Qwen3-0.6B": (
        config("qwen3", 151936, 1024, 3072, 28, 16, 8, 1e-6, 1000000, head_dim=128, rope_scaling=None, **TIED),
        596_049_920,
    ),
    "Qwen3-30B-A3B": (
        config(
            *("qwen3_moe", 151936, 2048, 6144, 48, 32, 4, 1e-6, 1e6),
            **{"head_dim": 128, "decoder_sparse_step": 1, "mlp_only_layers": [], **QWEN_EXPERTS, **UNTIED},
        ),
        30_532_122_624,
    ),
    "OLMoE-1B-7B-0924": (
        config(
            *("olmoe", 50304, 2048, 1024, 16, 16, 16, 1e-5, 10000.0),
            **{"clip_qkv": None, "norm_topk_prob": False, "num_experts": 64, "num_experts_per_tok": 8, **UNTIED},
        ),
        6_919_161_856,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_of_a_size_that_a_recipe_says_and_prices(tmp_path, name):
    said, size = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(said))
    recipe = replace(MIX, **huggingface.described(tmp_path))
    check_recipe(recipe)
    shapes = {name: (len(shape), math.prod(shape)) for name, shape in gpt.shapes(gpt.Shape.of(recipe)).items()}
    assert sum(count for _, count in shapes.values()) == size
    matrices = {name: count for name, (dims, count) in shapes.items() if dims == 2}
    routed = sum(count for name, count in matrices.items() if ".experts." in name)
    unused = routed - routed * recipe.experts_per_token // max(1, recipe.experts)
    embedding = matrices["embed.weight"] if recipe.embeddings == "apart" else 0
    assert sum(matrices.values()) - unused - embedding == matmul_parameters(recipe)


def test_slow_rotations_are_stretched_as_llama_3_s_are(transformers):
    config = transformers.AutoConfig.for_model("llama", **THEIRS["llama"] | {"head_dim": 128})
    recipe = replace(MIX, head_dim=128, rope_theta=500_000, rope_factor=32)
    right = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config).inv_freq
    mine, plain = (gpt.frequencies(gpt.Shape.of(each)) for each in (recipe, replace(recipe, rope_factor=0)))
    assert torch.allclose(mine, right, rtol=1e-5, atol=0)
    kept, between, slow = (mine == plain).sum(), (mine < plain).sum(), (mine < 0.04 * plain).sum()
    assert (kept + between, slow < between) == (64, True)


def test_one_matrix_for_tokens_in_and_out_becomes_two(tmp_path):
    recipe, found = MIXES["llama"], weights.of(trained(MIXES["llama"]))
    found["head.weight"] = found["embed.weight"]
    huggingface.export(found, recipe, tmp_path / "out", {})
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    bend(tmp_path / "out", tie_word_embeddings=True)
    assert kept(tmp_path / "out", recipe, tmp_path / "kept")[0] == weights.digest(found)
    tied = kept(tmp_path / "out", replace(recipe, embeddings="tied"), tmp_path / "kept")[1]
    assert weights.digest(tied) == weights.digest({name: found[name] for name in found if name != "head.weight"})
    bend(tmp_path / "out", tie_word_embeddings=False)
    refusal, detail = refused(huggingface.keep, tmp_path / "out", recipe, tmp_path / "other")
    assert (refusal, "only the recipe's model has lm_head.weight" in detail) == (Refusal.WRONG_MODEL, True)


def test_a_model_with_one_matrix_for_tokens_does_not_begin_with_two(tmp_path):
    """Old folders hold it twice, and that is one."""
    apart, tied = MIXES["llama"], replace(MIXES["llama"], embeddings="tied")
    found = weights.of(trained(apart))
    for head, why in (
        (found["embed.weight"], ""),
        (found["head.weight"], "lm_head.weight differ, and in the recipe's"),
    ):
        out = tmp_path / (why[:7] or "same")
        huggingface.export(found | {"head.weight": head}, apart, out, {})
        assert "tie_word_embeddings = False" in refused(huggingface.keep, out, tied, tmp_path / "kept")[1]
        bend(out, tie_word_embeddings=True)
        if why:
            refusal, detail = refused(huggingface.keep, out, tied, tmp_path / "kept")
            assert (refusal, why in detail) == (Refusal.WRONG_MODEL, True)
        else:
            assert "head.weight" not in kept(out, tied, tmp_path / "kept")[1]


def bend(folder, **changes) -> None:
    """Another config; what is None is left out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: each for name, each in config.items() if each is not None}))


OTHER = [
    ({"model_type": "qwen2"}, "model_type = qwen2, and the recipe's model llama"),
    ({"vocab_size": 32000}, "vocab_size = 32000"),
    ({"hidden_size": 64}, "hidden_size = 64"),
    ({"intermediate_size": 96}, "intermediate_size = 96"),
    ({"num_hidden_layers": 8}, "num_hidden_layers = 8"),
    ({"num_attention_heads": 2}, "num_attention_heads = 2"),
    ({"num_key_value_heads": 1}, "num_key_value_heads = 1"),
    ({"num_key_value_heads": None, "num_attention_heads": 8}, "num_attention_heads = 8"),
    ({"head_dim": 16}, "head_dim = 16"),
    ({"hidden_act": "gelu"}, "hidden_act = gelu"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta = 500000.0"),
    ({"rope_parameters": None, "rope_theta": 5e5}, "rope_theta = 500000.0"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type = yarn"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "rope_type = linear"),
    ({"attention_bias": True}, "attention_bias = True"),
    ({"mlp_bias": True}, "mlp_bias = True"),
    ({"sliding_window": 8}, "sliding_window = 8"),
    ({"rms_norm_eps": 1e-4}, "rms_norm_eps = 0.0001"),
    ({"rms_norm_eps": 1e-13}, "rms_norm_eps = 1e-13, and a recipe's is from"),
    ({"rms_norm_eps": 1}, "rms_norm_eps = 1, and a recipe's is from"),
    ({"rms_norm_eps": 1.23456789e-5}, "rms_norm_eps = 1.23456789e-05, of which a recipe holds 0.000012345679"),
    ({"rms_norm_eps": None}, "rms_norm_eps = None"),
    ({"rope_parameters": None, "rope_theta": 10_000.5}, "rope_theta = 10000.5, and a recipe a whole number"),
    ({"rope_parameters": None, "rope_theta": "1e4"}, "rope_theta = 1e4, and a recipe a whole number"),
    ({"rope_parameters": LLAMA3 | {"factor": 1.5}}, "rope_factor = 1.5, and a recipe a whole number"),
    ({"rope_parameters": LLAMA3 | {"low_freq_factor": 2.0}}, "low_freq_factor = 2.0: a recipe's rotary"),
    ({"rope_parameters": LLAMA3 | {"rope_theta": 1e4}}, "rope_parameters = {'rope_type': 'llama3'"),
    (
        {"model_type": "gpt2"},
        "model_type = gpt2, and here there are arcee, llama, mistral, mixtral, olmoe, qwen2, qwen3",
    ),
    ({"rope_parameters": LLAMA3 | {"factor": 0.0}}, "rope_factor = 0.0, and a recipe a whole number above 0"),
    ({"rope_parameters": LLAMA3 | {"factor": None}}, "rope_factor = None, and a recipe a whole number above 0"),
    ({"rope_parameters": None, "rope_theta": float("inf")}, "rope_theta = inf, and a recipe a whole number above 0"),
    ({"clip_qkv": 8.0}, "clip_qkv = 8.0, and a recipe's model None"),
    ({"decoder_sparse_step": 2}, "decoder_sparse_step = 2, and a recipe's model 1"),
    ({"mlp_only_layers": [0]}, "mlp_only_layers = [0], and a recipe's model []"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5, and a recipe's model 1"),
    ({"model_type": None}, "model_type = None, and here there are"),
    ({"model_type": "mistral", "sliding_window": 23}, "sliding_window = 23, and the recipe's model looks back"),
    ({"num_hidden_layers": 0}, "num_hidden_layers = 0, and not a whole number above 0"),
    ({"num_hidden_layers": "4"}, "num_hidden_layers = 4, and not a whole number above 0"),
    ({"hidden_size": None}, "hidden_size = None, and not a whole number above 0"),
]


@pytest.mark.parametrize(("changes", "why"), OTHER)
def test_a_folder_from_which_transformers_would_compute_something_else_is_refused(tmp_path, changes, why):
    recipe = MIXES["llama"]
    huggingface.export(weights.of(trained(recipe)), recipe, tmp_path / "out", {})
    bend(tmp_path / "out", sliding_window=24, head_dim=None, mlp_bias=None)
    huggingface.keep(tmp_path / "out", recipe, tmp_path / "kept")
    bend(tmp_path / "out", **changes)
    refusal, detail = refused(huggingface.keep, tmp_path / "out", recipe, tmp_path / "kept")
    assert (refusal, why in detail) == (Refusal.WRONG_MODEL, True), detail


def test_rotary_positions_that_are_no_object_are_refused(tmp_path):
    huggingface.export(weights.of(trained(MIXES["llama"])), MIXES["llama"], tmp_path / "out", {})
    for name in ("rope_scaling", "rope_parameters"):
        bend(tmp_path / "out", **{"rope_scaling": None, "rope_parameters": None, name: [1]})
        refusal, detail = refused(huggingface.described, tmp_path / "out")
        assert (refusal, f"{name} = [1], which is no JSON object" in detail) == (Refusal.CORRUPT, True)


def test_weights_of_experts_that_are_no_shares_are_not_taken_for_such(tmp_path):
    recipe = MIXES["olmoe"]
    huggingface.export(weights.of(trained(recipe)), recipe, tmp_path / "out", {})
    bend(tmp_path / "out", norm_topk_prob=True)
    assert "norm_topk_prob = True" in refused(huggingface.keep, tmp_path / "out", recipe, tmp_path / "kept")[1]
    kept(tmp_path / "out", replace(recipe, expert_weights="shares"), tmp_path / "kept")


def test_other_experts_than_the_recipe_s_are_refused(tmp_path):
    recipe = MIXES["mixtral"]
    huggingface.export(weights.of(trained(recipe)), recipe, tmp_path / "out", {})
    for name, why in (("num_local_experts", 8), ("num_experts_per_tok", 1)):
        bend(tmp_path / "out", **{name: why})
        assert f"{name} = {why}" in refused(huggingface.keep, tmp_path / "out", recipe, tmp_path / "kept")[1]
        bend(tmp_path / "out", **{name: json.loads(json.dumps(huggingface._config(recipe)))[name]})


def broken(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


Q, K = "model.layers.2.self_attn.q_proj.weight", "model.layers.2.self_attn.k_proj.weight"
BENT = [
    (lambda found: found.pop(Q), Refusal.WRONG_MODEL, f"only the recipe's model has {Q}, and 0 more"),
    (lambda found: found.update({"a.bias": np.zeros(3, np.float32)}), Refusal.WRONG_MODEL, "has a.bias, and 0 more"),
    (lambda found: found.update({K: found[K][:8]}), Refusal.WRONG_MODEL, f"{K} is 8 × 32, and 32 × 32 in the recipe's"),
    (lambda found: found.update({Q: found[Q].astype(np.int32)}), Refusal.WRONG_MODEL, f"{Q} in "),
    (lambda found: found.update({Q: found[Q] * np.float32("inf")}), Refusal.NOT_FINITE, "blocks.2.qkv.weight in "),
    (lambda found: found.update({Q: found[Q] + np.float32(2e30)}), Refusal.NOT_FINITE, "blocks.2.qkv.weight in "),
]


@pytest.mark.parametrize(("change", "refusal", "why"), BENT)
def test_tensors_that_are_not_of_the_recipe_s_model_are_refused_by_name_and_nothing_is_kept(
    tmp_path, change, refusal, why
):
    recipe = MIXES["llama"]
    huggingface.export(weights.of(trained(recipe)), recipe, tmp_path / "out", {})
    broken(tmp_path / "out", change)
    found, detail = refused(huggingface.keep, tmp_path / "out", recipe, tmp_path / "kept")
    assert (found, why in detail) == (refusal, True), detail
    assert [*(tmp_path / "kept").glob("*")] == []


def test_a_checkpoint_of_another_recipe_is_nothing_to_begin_with(tmp_path):
    name = weights.keep(weights.of(trained(MIX)), tmp_path)
    file = tmp_path / f"{name}.safetensors"
    assert kept(file, MIX, tmp_path / "kept")[0] == name
    for other in (replace(MIX, kv_heads=2), replace(MIX, layers=5), replace(MIX, rank=8)):
        assert refused(huggingface.keep, file, other, tmp_path / "other")[0] is Refusal.WRONG_MODEL
    assert not (tmp_path / "other").exists()


def test_layers_that_the_recipe_shares_must_be_the_same_and_matrices_of_a_rank_are_not_to_be_had(tmp_path):
    apart = MIXES["llama"]
    huggingface.export(weights.of(trained(apart)), apart, tmp_path / "out", {})
    refusal, detail = refused(huggingface.keep, tmp_path / "out", replace(apart, shared=2), tmp_path / "kept")
    assert (refusal, "differ, and in the recipe's model they are one" in detail) == (Refusal.WRONG_MODEL, True)
    refusal, detail = refused(huggingface.keep, tmp_path / "out", replace(apart, rank=5), tmp_path / "kept")
    assert (refusal, "begin with a checkpoint, or rank = 0" in detail) == (Refusal.WRONG_MODEL, True)


def test_what_old_folders_hold_beside_the_weights_is_passed_over(tmp_path):
    recipe, mine = MIXES["llama"], weights.of(trained(MIXES["llama"]))
    huggingface.export(mine, recipe, tmp_path / "out", {})
    unlearnt = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}
    broken(tmp_path / "out", lambda found: found.update(unlearnt))
    bend(tmp_path / "out", rope_parameters=None)
    assert kept(tmp_path / "out", recipe, tmp_path / "kept")[0] == weights.digest(mine)


def test_a_folder_that_holds_no_model_is_refused_by_what_is_missing(tmp_path):
    recipe = MIXES["llama"]
    huggingface.export(weights.of(trained(recipe)), recipe, tmp_path / "out", {})

    def why() -> tuple[Refusal, str]:
        return refused(huggingface.keep, tmp_path / "out", recipe, tmp_path / "kept")

    (tmp_path / "out" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    assert (why()[0], "which is no file of this folder" in why()[1]) == (Refusal.CORRUPT, True)
    (tmp_path / "out" / "model.safetensors.index.json").unlink()
    (tmp_path / "out" / "model.safetensors").write_text("none")
    assert why()[0] is Refusal.CORRUPT
    (tmp_path / "out" / "model.safetensors").unlink()
    assert (why()[0], "model.safetensors: " in why()[1]) == (Refusal.NOT_FOUND, True)
    (tmp_path / "out" / "config.json").write_text("[]")
    assert (why()[0], "is no JSON object" in why()[1]) == (Refusal.CORRUPT, True)
    (tmp_path / "out" / "config.json").write_text("{")
    assert why()[0] is Refusal.CORRUPT
    (tmp_path / "out" / "config.json").unlink()
    assert (why()[0], "config.json: " in why()[1]) == (Refusal.NOT_FOUND, True)
    (tmp_path / "out" / "adapter_config.json").touch()
    assert (why()[0], "merge it with its base" in why()[1]) == (Refusal.WRONG_MODEL, True)


# The command.


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    """A run of experts, and the file of the checkpoint that it came to."""
    folder = tmp_path_factory.mktemp("run") / "parties"
    result = simulate(folder, {"acme": 1, "birch": 1}, rounds=1, recipe=replace(TOY, **EXPERTS, kv_heads=1))
    assert result.report.findings == []
    reached = result.report.books.runs["r1"].checkpoint
    return folder, folder / "coordinator" / "checkpoints" / f"{reached}.safetensors"


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_checkpoint_is_written_out_as_the_log_says_that_it_was_trained(consortium, tmp_path, capsys):
    folder, file = consortium
    out = tmp_path / "model"
    code, said, _ = run(capsys, "model", "export", file, "--to", out, "--log", folder / "ledger" / "log")
    assert (code, f"{out} is a mixtral model" in said) == (0, True)
    card = (out / "README.md").read_text()
    entries = json.loads(run(capsys, "audit", folder / "ledger" / "log", "--json")[1])["entries"]
    for line in (
        f"| digest of the weights | {file.stem} |",
        "| run | r1 |",
        "| trained by | acme, birch |",
        f"| tree head | {entries} entries, root ",
        "experts_per_token = 2",
    ):
        assert line in card
    assert load_file(out / "model.safetensors")["model.layers.0.block_sparse_moe.experts.3.w1.weight"].shape == (24, 16)
    code, _, err = run(capsys, "model", "export", file, "--to", out, "--log", folder / "ledger" / "log")
    assert (code, "is there already" in err) == (2, True)


def test_a_checkpoint_is_written_out_by_a_recipe_where_there_is_no_log(consortium, tmp_path, capsys):
    _, file = consortium
    recipe = tmp_path / "recipe.toml"
    sizes = "layers = 1\nheads = 2\nkv_heads = 1\nwidth = 16\ncontext = 16\n"
    recipe.write_text(sizes + 'feed = "swiglu"\nexperts = 4\nexperts_per_token = 2\n')
    assert run(capsys, "model", "export", file, "--to", tmp_path / "model", "--recipe", recipe)[0] == 0
    assert "the recipe was given by hand, and no log was asked" in (tmp_path / "model" / "README.md").read_text()
    for text, why in ((sizes, "wrong_model"), (sizes + "shared = 2\n", "bad_field"), ("layers = 0", "bad_field")):
        recipe.write_text(text)
        code, _, err = run(capsys, "model", "export", file, "--to", tmp_path / "other", "--recipe", recipe)
        assert (code, f"error {why}" in err) == (2, True)


ADAPTER = 'inner = "adamw"\nadapter = 2'
OWN = 'outer = "mean"\nouter_momentum = "0"\nmember_experts = 2'


def published(folder) -> list[str]:
    """The words that name a tokenizer of 290 tokens and some special ones, put into this folder beside a model."""
    from tokenizers import Tokenizer as Library
    from tokenizers import normalizers

    (folder / "text").write_bytes(corpus.held_out()[:50_000].tobytes())
    library = Library.from_str(tokenizer.train([folder / "text"], 290).decode())
    library.normalizer = normalizers.NFC()
    library.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    library.save(str(folder / "tokenizer.json"))
    return ["--tokenizer", str(folder / "tokenizer.json")]


@pytest.mark.parametrize(
    ("name", "how", "kind", "cut"),
    [
        ("qwen2", ADAPTER, "qwen2", False),
        ("qwen3", ADAPTER, "qwen3", True),
        ("qwen3", OWN, "qwen3_moe", False),
        ("olmoe", 'inner = "muon"', "olmoe", True),
    ],
)
def test_a_run_goes_on_from_a_folder_of_which_nobody_types_the_shape(
    transformers, tmp_path, capsys, name, how, kind, cut
):
    """In bfloat16 by each, some in the tokens of its tokenizer; then what was trained is written out, with what it
    stands beside."""
    theirs = made(transformers, name)
    theirs.save_pretrained(tmp_path / "given", max_shard_size="60KB")
    named = published(tmp_path / "given") if cut else []
    settings = f'context = 16\nbatch = 2\ninner_steps = 3\nsegment = 2\nprecision = "bf16"\n{how}\n'
    (tmp_path / "recipe.toml").write_text(settings)
    words = [
        "simulate",
        "--members",
        2,
        "--rounds",
        1,
        "--recipe",
        tmp_path / "recipe.toml",
        "--from",
        tmp_path / "given",
    ]
    code, said, err = run(capsys, *words, "--keep", tmp_path, *named)
    assert (code, "0 findings" in said) == (0, True), err
    checkpoints, log = tmp_path / "parties" / "coordinator" / "checkpoints", tmp_path / "parties" / "ledger" / "log"
    manifest = Auditor().run(str(log)).books.runs["r1"]
    assert (manifest.manifest.recipe.vocabulary, manifest.manifest.recipe.width) == (300, 48)
    words = [
        "model",
        "export",
        checkpoints / f"{manifest.checkpoint}.safetensors",
        "--to",
        tmp_path / "out",
        "--log",
        log,
    ]
    words += named
    code, said, err = run(capsys, *words, "--base", checkpoints / f"{manifest.manifest.start}.safetensors")
    assert (code, f"is a {kind} model" in said) == (0, True), err
    tokens, back = torch.arange(48).view(2, 24), read(transformers, tmp_path / "out")
    assert back.config.model_type == kind
    with torch.no_grad():
        before, after = (each(tokens).logits for each in (theirs, back))
    assert 1e-4 < (before - after).abs().max() / before.abs().max() < 1
    if cut:
        asked = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
        assert "<|im_end|>" in asked.get_vocab()
        (numbers,) = tokenizer.read(tmp_path / "given" / "tokenizer.json").encode(corpus.held_out()[:500])
        text = corpus.held_out()[:500].tobytes().decode()
        assert asked(text, add_special_tokens=False).input_ids == list(numbers)
    (tmp_path / "recipe.toml").write_text(settings + "layers = 4\n")
    words = ["simulate", "--members", 1, "--recipe", tmp_path / "recipe.toml", "--from", tmp_path / "given"]
    code, _, err = run(capsys, *words)
    assert (code, "num_hidden_layers = 3, and the recipe's model 4" in err) == (2, True), err


def test_what_no_round_led_to_and_what_is_no_checkpoint_is_not_written_out(consortium, tmp_path, capsys):
    folder, _ = consortium
    other = weights.keep(outer.first(TOY), tmp_path / "mine")
    (tmp_path / "text.safetensors").write_text("none")
    for file, why in (
        (tmp_path / "mine" / f"{other}.safetensors", "error not_found: no round of this log has led to the weights"),
        (tmp_path / "nothing", f"error not_found: {tmp_path / 'nothing'}: "),
        (tmp_path, f"error not_found: {tmp_path}: "),
        (tmp_path / "text.safetensors", "error corrupt: "),
    ):
        code, _, err = run(
            capsys, "model", "export", file, "--to", tmp_path / "out", "--log", folder / "ledger" / "log"
        )
        assert (code, err.startswith(why)) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_out_by_a_log_that_is_not_right(consortium, tmp_path, capsys):
    folder, file = consortium
    log = tmp_path / "log"
    assert run(capsys, "fetch", folder / "ledger" / "log", log)[0] == 0
    (entries,) = (path for path in (log / "tile" / "entries").rglob("*") if path.is_file())
    entries.write_bytes(entries.read_bytes().replace(b'"tokens":96', b'"tokens":97', 1))
    code, _, err = run(capsys, "model", "export", file, "--to", tmp_path / "out", "--log", log)
    assert (code, "this log is not right, and nothing was written: entry" in err) == (1, True)
    assert not (tmp_path / "out").exists()
