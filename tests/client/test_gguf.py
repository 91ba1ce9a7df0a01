"""A checkpoint as a GGUF file: what a reader nobody here wrote finds in it, to the bit; whole or not at all."""

import hashlib
import math
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import gguf as theirs
import numpy as np
import pytest
import splits
import torch
import torch.nn.functional as F  # noqa: N812
from mixes import HELD, MIXES, ODD, trained
from safetensors.numpy import load_file
from world import TOY

from consortium.cli import main
from consortium.simulate import simulate
from server import outer
from shared_models import durable, gguf, huggingface
from shared_models.huggingface import kind_of
from shared_models.lm import corpus, gpt, hygiene, weights
from shared_models.records.refusals import Refusal, Refused

LLAMA = MIXES["llama"]
ARCHITECTURES = {"mixtral": "llama", "qwen3_moe": "qwen3moe"}  # Where llama.cpp's name is not transformers'.
TYPES = {dtype: theirs.GGMLQuantizationType[dtype.upper()] for dtype in gguf.DTYPES}


def refused(act, *arguments) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal, caught.value.detail


def found(path: Path) -> theirs.GGUFReader:
    return theirs.GGUFReader(path)


def told(path: Path) -> dict[str, object]:
    """What stands at the head of a file."""
    return {name: field.contents() for name, field in found(path).fields.items() if not name.startswith("GGUF.")}


# What is in the file.


def architecture(recipe) -> str:
    return ARCHITECTURES.get(kind_of(recipe), kind_of(recipe))


def by_hand(folder: Path, recipe) -> dict[str, np.ndarray]:
    """Every tensor as llama.cpp's own converter would make it of transformers' folder of the same model."""
    (arch,) = (arch for arch, name in theirs.MODEL_ARCH_NAMES.items() if name == architecture(recipe))
    names, made = theirs.get_tensor_name_map(arch, recipe.layers), {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        heads = {"q": recipe.heads, "k": recipe.kv_heads or recipe.heads}
        which = re.search(r"self_attn\.([qk])_proj", name)
        if which and arch == theirs.MODEL_ARCH.LLAMA:
            turned = tensor.reshape(heads[which[1]], 2, -1, tensor.shape[1])  # LlamaModel.permute.
            tensor = turned.swapaxes(1, 2).reshape(tensor.shape)
        base, _, what = re.sub(r"experts\.\d+\.", "experts.", name).rpartition(".")
        made.setdefault(f"{names.get_name(base)}.{what}", []).append(tensor)
    if arch == theirs.MODEL_ARCH.OLMOE:
        made.setdefault("output.weight", made["token_embd.weight"])  # llama.cpp's olmoe does not open without it.
    if recipe.rope_factor:
        made["rope_freqs.weight"] = [np.array(slower(recipe), np.float32)]
    return {name: np.stack(each) if "_exps" in name else each[0] for name, each in made.items()}


def slower(recipe) -> list[float]:
    """LlamaModel.generate_extra_tensors, of Llama 3.1."""
    factors = []
    for pair in range(recipe.head_width // 2):
        often = 8192 / (2 * math.pi * recipe.rope_theta ** (2 * pair / recipe.head_width))
        smooth = (often - 1) / (4 - 1)
        between = 1 / ((1 - smooth) / recipe.rope_factor + smooth)
        factors.append(1 if often > 4 else recipe.rope_factor if often < 1 else between)
    return factors


@pytest.mark.parametrize("dtype", gguf.DTYPES)
@pytest.mark.parametrize("name", HELD)
def test_another_reader_finds_every_tensor_of_every_mix_to_the_bit(tmp_path, name, dtype):
    """Names from llama.cpp's table, rounding by its package; norms, routers and odd rows as llama.cpp holds them."""
    recipe, checkpoint = HELD[name], weights.of(trained(HELD[name]))
    huggingface.export(checkpoint, recipe, tmp_path / "folder", {})
    written = gguf.export(checkpoint, recipe, tmp_path / "file", dtype, {})
    wanted, read = by_hand(tmp_path / "folder", recipe), found(tmp_path / "file").tensors
    assert sorted(tensor.name for tensor in read) == sorted(wanted)
    for tensor in read:
        right = wanted[tensor.name]
        held = "f16" if right.shape[-1] % gguf.DTYPES[dtype].block else dtype
        if right.ndim == 1 or "ffn_gate_inp" in tensor.name:
            held = "f32"
        assert (tensor.tensor_type, tuple(tensor.shape)) == (TYPES[held], right.shape[::-1]), tensor.name
        if tensor.name == "rope_freqs.weight":  # A power, and rounded otherwise there.
            assert tensor.data == pytest.approx(right, rel=1e-6)
        else:
            assert tensor.data.tobytes() == theirs.quantize(right, TYPES[held]).tobytes(), tensor.name
        assert tensor.data_offset % 32 == 0
        assert (tensor.name in written.in_half) == (held == "f16" != dtype)
    assert (tmp_path / "file").stat().st_size == written.size


@pytest.mark.parametrize("name", HELD)
def test_what_stands_at_the_head_is_of_this_model(tmp_path, name):
    recipe = HELD[name]
    gguf.export(weights.of(trained(recipe)), recipe, tmp_path / "file", "q8_0", {"run": "r1", "round": "2"})
    head = told(tmp_path / "file")
    arch, experts = architecture(recipe), {}
    if recipe.experts:
        experts = {"count": 4, "used_count": recipe.experts_per_token, "feed_forward_length": recipe.feed_width}
    for key, value in {
        "general.architecture": arch,
        "general.file_type": theirs.LlamaFileType.MOSTLY_Q8_0,
        "general.quantization_version": theirs.GGML_QUANT_VERSION,
        "general.alignment": theirs.GGUF_DEFAULT_ALIGNMENT,
        "general.description": "run: r1\nround: 2",
        f"{arch}.vocab_size": 256,
        f"{arch}.context_length": 24,
        f"{arch}.embedding_length": 32,
        f"{arch}.block_count": 4,
        f"{arch}.feed_forward_length": recipe.feed_width,
        f"{arch}.attention.head_count": 4,
        f"{arch}.attention.head_count_kv": recipe.kv_heads or 4,
        f"{arch}.attention.key_length": recipe.head_width,
        f"{arch}.attention.value_length": recipe.head_width,
        f"{arch}.attention.layer_norm_rms_epsilon": pytest.approx(float(recipe.norm_eps) or 2.0**-23),  # As a float32.
        f"{arch}.rope.dimension_count": recipe.head_width,
        f"{arch}.rope.freq_base": float(recipe.rope_theta),
        **{f"{arch}.expert_{what}": number for what, number in experts.items()},
    }.items():
        assert head[key] == value, key
    assert (f"{arch}.expert_count" in head) == bool(recipe.experts)
    assert {key for key in head if not key.startswith("tokenizer.")} <= {
        value.replace("{arch}", arch)
        for group in vars(theirs.Keys).values()
        if isinstance(group, type)
        for value in vars(group).values()
        if isinstance(value, str)
    }


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("f32", "ALL_F32"), ("f16", "MOSTLY_F16"), ("q4_0", "MOSTLY_Q4_0"), ("q8_0", "MOSTLY_Q8_0")],
)
def test_a_file_says_of_what_dtype_most_of_it_is(tmp_path, dtype, kind):
    gguf.export(weights.of(trained(LLAMA)), LLAMA, tmp_path / "file", dtype, {})
    assert told(tmp_path / "file")["general.file_type"] == theirs.LlamaFileType[kind]


def test_a_model_of_more_tokens_than_bytes_says_that_the_others_are_unused(tmp_path):
    recipe = replace(LLAMA, vocabulary=259)
    gguf.export(weights.of(trained(recipe)), recipe, tmp_path / "file", "f32", {})
    head = told(tmp_path / "file")
    assert head["tokenizer.ggml.tokens"][-4:] == ["<|endoftext|>", "[PAD256]", "[PAD257]", "[PAD258]"]
    kinds = theirs.TokenType
    assert head["tokenizer.ggml.token_type"] == [kinds.NORMAL] * 255 + [kinds.CONTROL] + [kinds.UNUSED] * 3


@pytest.fixture(scope="module")
def transformers():
    """The library, without its hub: it reads GGUF by code of its own."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    library = pytest.importorskip("transformers", reason="the extra hf is not installed")
    library.utils.logging.disable_progress_bar()
    return library


def opened(transformers, folder: Path, recipe):
    """What transformers builds of a file, told what 5.23 does not look for there, or not in each architecture."""
    config = transformers.AutoConfig.from_pretrained(folder, gguf_file="file.gguf")
    assert config.model_type == kind_of(recipe)
    config.head_dim = recipe.head_width
    if recipe.experts:
        config.moe_intermediate_size = recipe.feed_width
    if recipe.rope_factor:
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        config.rope_parameters |= {**llama3, "original_max_position_embeddings": 8192}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="file.gguf", config=config)


@pytest.mark.parametrize("dtype", gguf.DTYPES)
@pytest.mark.parametrize("name", [name for name, each in HELD.items() if kind_of(each) not in ("mixtral", "olmoe")])
def test_what_the_loss_is_measured_of_is_what_transformers_reads(transformers, tmp_path, name, dtype):
    """But for experts in a file of the architecture llama, which transformers 5.23 does not look for, and OLMoE's."""
    recipe, model = HELD[name], trained(HELD[name])
    checkpoint = weights.of(model)
    gguf.export(checkpoint, recipe, tmp_path / "file.gguf", dtype, {})
    read = opened(transformers, tmp_path, recipe)
    whole = huggingface.Whole(checkpoint, recipe)
    mine = outer.model(whole.recipe)
    weights.put(gguf.Rounded(whole, dtype), mine)
    tokens = torch.randint(0, 256, (3, recipe.context), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        right = read(tokens).logits
        assert (mine(tokens)[0] - right).abs().max() < 1e-4 * right.abs().max()
        if dtype == "f32":
            assert (model(tokens)[0] - right).abs().max() < 1e-4 * right.abs().max()


def test_a_token_is_a_byte(transformers, tmp_path):
    gguf.export(weights.of(trained(LLAMA)), LLAMA, tmp_path / "file.gguf", "f16", {})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="file.gguf", model_max_length=10**6)
    every_letter = "".join(map(chr, range(0x2500)))
    for text in (every_letter, "a  b\r\n\tc ", "☃🙂", " x"):
        assert tokenizer(text)["input_ids"] == list(text.encode())
        assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0xFF


@pytest.mark.parametrize(("split", "name"), [("gpt-2", "llama"), ("llama-bpe", "llama-3"), ("qwen2", "qwen2")])
def test_a_text_is_split_by_the_tokenizer_s_own_way(transformers, tmp_path, split, name):
    cut = splits.learnt(split)
    recipe = replace(HELD[name], vocabulary=splits.SIZE)
    gguf.export(weights.of(trained(recipe)), recipe, tmp_path / "file.gguf", "f16", {}, None, cut)
    assert told(tmp_path / "file.gguf")["tokenizer.ggml.pre"] == split
    read = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="file.gguf", model_max_length=10**6)
    read.backend_tokenizer.model.ignore_merges = split == "llama-bpe"  # As llama.cpp has it, and transformers forgets.
    for text in splits.TEXTS:
        assert read(text)["input_ids"] == splits.numbers(cut, text)


def test_an_adapter_is_written_out_with_what_it_stands_beside(tmp_path):
    base, recipe = weights.of(trained(LLAMA)), replace(LLAMA, adapter=2)
    adapter = {name: np.zeros(shape, np.float32) for name, shape in gpt.shapes(gpt.Shape.of(recipe)).items()}
    gguf.export(base, LLAMA, tmp_path / "base", "q4_0", {})
    gguf.export(huggingface.Merged(adapter, base, recipe), LLAMA, tmp_path / "merged", "q4_0", {})
    assert (tmp_path / "base").read_bytes() == (tmp_path / "merged").read_bytes()


# Rounding.

RANDOM = np.random.Generator(np.random.PCG64(1))
BLOCKS = {
    "normal": RANDOM.standard_normal((500, 32)),
    "of any size": RANDOM.standard_normal((500, 32)) * 2.0 ** RANDOM.integers(-100, 18, (500, 1)),
    "one number": np.eye(32) * RANDOM.standard_normal((32, 1)),
    "zeros": np.zeros((2, 32)),
    "halves": np.concatenate([np.arange(-15.5, 16), [127.0, -127.0] * 16, np.full(32, -8.0)]).reshape(3, 32),
    "two as large": np.tile([-1.0, 1.0, 0.5, 0.25], 16).reshape(2, 32),
}


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_llama_cpp_s_package_there_and_back(dtype, name):
    blocks = BLOCKS[name].astype(np.float32)
    data = gguf.encode(dtype, name, blocks)
    assert np.array_equal(data, theirs.quantize(blocks, TYPES[dtype]))
    assert np.array_equal(gguf.decode(dtype, data, blocks.shape), theirs.dequantize(data, TYPES[dtype]))


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_what_is_too_small_for_a_scale_is_zero(dtype):
    """Where the inverse of a scale is infinite, and what comes of it would be the machine's choice."""
    blocks = np.full((1, 32), 2.0**-140, np.float32) * np.arange(32, dtype=np.float32)
    assert not gguf.decode(dtype, gguf.encode(dtype, "x", blocks), blocks.shape).any()


@pytest.mark.parametrize(("dtype", "steps", "at_most"), [("q8_0", 127, 0.57), ("q4_0", 8, 1.01)])
def test_no_number_is_farther_off_than_its_block_s_scale_allows(dtype, steps, at_most):
    """Half a scale, which itself is rounded to 11 bits; in 4 bits the largest size has but one sign: a whole one."""
    blocks = BLOCKS["normal"].astype(np.float32)
    off = np.abs(gguf.decode(dtype, gguf.encode(dtype, "x", blocks), blocks.shape) - blocks)
    assert (off <= at_most * np.abs(blocks).max(1, keepdims=True) / steps).all()


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [
        ("f32", "075f0b8278ea9667919fc7aa3e097fca480dbb7d458b1f316eaf0920c73ae124"),
        ("f16", "cd8673af1c7f96eafcbc9792935d5f95feb6e699e0f71b0aabb3021586be2868"),
        ("q8_0", "fb8aef0702941c9247d1218e945911e59ae1fa2d1aa182f938bc549b04ed4a8e"),
        ("q4_0", "903bbbdaf8c0990f09300e57a33ed8fc6cbb90eb3269da15c5af5a01d1dc6d96"),
    ],
)
def test_the_same_weights_make_the_same_file_everywhere(tmp_path, dtype, digest):
    checkpoint = {}
    for name, shape in gpt.shapes(gpt.Shape.of(LLAMA)).items():
        count = int(np.prod(shape))
        drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * count), "<i2")
        checkpoint[name] = (drawn / np.float32(2**17)).astype(np.float32).reshape(shape)
    gguf.export(checkpoint, LLAMA, tmp_path / "file", dtype, {"run": "r1"})
    assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == digest


# What is refused.


@pytest.mark.parametrize("name", ODD)
def test_a_model_that_llama_cpp_has_no_architecture_for_is_refused_by_its_option(tmp_path, name):
    refusal, detail = refused(gguf.export, weights.of(trained(MIXES[name])), MIXES[name], tmp_path / "file", "f32", {})
    assert (refusal, detail.partition(":")[0]) == (Refusal.BAD_FIELD, ODD[name][0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "instead", "option"),
    [
        ("olmoe", {"expert_weights": "shares"}, "expert_weights = shares"),
        ("olmoe", {"head_dim": 6}, "heads × head_dim = 24"),
    ],
)
def test_what_no_mix_differs_in_alone_is_refused_too(tmp_path, name, instead, option):
    recipe = replace(MIXES[name], **instead)
    refusal, detail = refused(gguf.export, weights.of(trained(recipe)), recipe, tmp_path / "file", "f32", {})
    assert (refusal, detail.partition(":")[0]) == (Refusal.BAD_FIELD, option)


def test_a_byte_without_a_token_is_refused(tmp_path):
    recipe = replace(LLAMA, vocabulary=255)
    refusal, detail = refused(gguf.export, weights.of(trained(recipe)), recipe, tmp_path / "file", "f32", {})
    assert (refusal, detail.partition(":")[0]) == (Refusal.BAD_FIELD, "vocabulary = 255")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "arch"), [("llama", b"llama"), ("qwen3", b"qwen3moe")])
def test_members_experts_are_written_out_as_the_mixture_that_they_are(tmp_path, name, arch):
    given = MIXES[name]
    recipe = replace(given, member_experts=3)
    base, shapes = weights.of(trained(given)), gpt.shapes(gpt.Shape.of(recipe))
    experts = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    mixture = huggingface.Mixture(experts, base, recipe, [0, 2])
    assert gguf.export(mixture, mixture.shape, tmp_path / "some", "f32", {}).size > 0
    header = (tmp_path / "some").read_bytes()[:4096]
    for key, value in ((arch + b".expert_count", 3), (arch + b".expert_used_count", 2)):
        at = header.index(key) + len(key)
        assert struct.unpack("<II", header[at : at + 8]) == (4, value)
    none = huggingface.Mixture(experts, base, recipe, [])
    gguf.export(none, none.shape, tmp_path / "none", "f32", {})
    gguf.export(base, given, tmp_path / "base", "f32", {})
    assert (tmp_path / "none").read_bytes() == (tmp_path / "base").read_bytes()


def test_weights_of_another_model_and_an_adapter_alone_are_refused(tmp_path):
    for checkpoint, recipe, why in (
        (weights.of(trained(LLAMA)), replace(LLAMA, layers=5), "only the recipe's model has a tensor blocks.4.down"),
        (weights.of(trained(replace(LLAMA, adapter=2))), replace(LLAMA, adapter=2), "adapter = 2: merge it"),
    ):
        refusal, detail = refused(gguf.export, checkpoint, recipe, tmp_path / "file", "f32", {})
        assert (refusal, why in detail) == (Refusal.WRONG_MODEL, True), detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("f32", "inf"), ("f32", "nan"), ("f16", 65_505), ("q8_0", "nan"), ("q8_0", 128 * 65_504), ("q4_0", 9 * 65_504)],
)
def test_a_number_that_has_no_place_in_the_dtype_is_refused_and_nothing_is_written(tmp_path, dtype, number):
    checkpoint = weights.of(trained(LLAMA))
    checkpoint["blocks.2.out.weight"][3, 5] = number
    refusal, detail = refused(gguf.export, checkpoint, LLAMA, tmp_path / "file", dtype, {})
    assert (refusal, f"and {dtype} holds up to" in detail) == (Refusal.NOT_FINITE, True)
    assert detail.startswith("blk.2.attn_output.weight has a number of size ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dtype", "most"), [("f16", 65_504), ("q8_0", 127 * 65_504), ("q4_0", -8 * 65_504)])
def test_the_largest_number_of_a_dtype_has_its_place(tmp_path, dtype, most):
    tensor = np.zeros((2, 32), np.float32)
    tensor[1, 3] = most
    assert np.array_equal(gguf.decode(dtype, gguf.encode(dtype, "x", tensor), tensor.shape), tensor)


def test_nothing_is_written_over_and_nothing_by_halves(tmp_path, monkeypatch):
    checkpoint = weights.of(trained(LLAMA))
    (tmp_path / "mine").write_text("mine")
    refusal, detail = refused(gguf.export, checkpoint, LLAMA, tmp_path / "mine", "f32", {})
    assert (refusal, "is there already" in detail) == (Refusal.BAD_FIELD, True)
    assert (tmp_path / "mine").read_text() == "mine"

    class Full(OSError):
        """No space left on device."""

    def fails(descriptor):
        raise Full

    monkeypatch.setattr(durable.os, "fsync", fails)
    with pytest.raises(Full):
        gguf.export(checkpoint, LLAMA, tmp_path / "broken", "f32", {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# How good it is, before and after.


def test_the_losses_are_of_the_weights_and_of_what_is_read_from_the_file(transformers, tmp_path):
    recipe, text = HELD["llama-all"], corpus.held_out()
    checkpoint = weights.of(trained(recipe))
    before, after = gguf.export(checkpoint, recipe, tmp_path / "file.gguf", "q4_0", {"run": "r1"}, text).losses
    assert before == pytest.approx(outer.held_out_loss(outer.model(recipe), checkpoint, recipe), rel=1e-5)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="file.gguf")
    tokens = torch.from_numpy(hygiene.spread(64, recipe.context, text))
    with torch.no_grad():
        assert after == pytest.approx(F.cross_entropy(read(tokens[:, :-1]).logits.mT, tokens[:, 1:]).item(), rel=1e-5)
    assert abs(after - before) > 0.001
    said = told(tmp_path / "file.gguf")["general.description"]
    assert said == f"run: r1\nheld-out loss: {before:.4f} nats per byte as trained, {after:.4f} as q4_0"
    assert gguf.export(checkpoint, recipe, tmp_path / "exact", "f32", {}, text).losses == (before, before)


# The command.


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    """A run of SwiGLU, and the file of the checkpoint that it came to."""
    folder = tmp_path_factory.mktemp("run") / "parties"
    result = simulate(folder, {"acme": 1, "birch": 1}, rounds=1, recipe=replace(TOY, feed="swiglu"))
    assert result.report.findings == []
    reached = result.report.books.runs["r1"].checkpoint
    return folder, folder / "coordinator" / "checkpoints" / f"{reached}.safetensors"


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_checkpoint_is_written_out_with_its_losses_as_the_log_says_that_it_was_trained(consortium, tmp_path, capsys):
    folder, file = consortium
    text = tmp_path / "text"
    text.write_bytes(corpus.held_out()[:5000].tobytes())
    export = ("model", "export", file, "--log", folder / "ledger" / "log", "--gguf", "q8_0")
    code, said, _ = run(capsys, *export, "--to", tmp_path / "model", "--held-out", text)
    before, after = re.search(
        r"held-out loss, nats per byte: (\d\.\d{4}) as trained, (\d\.\d{4}) in q8_0\n", said
    ).groups()
    assert (code, f"{tmp_path / 'model'} has {(tmp_path / 'model').stat().st_size:,} bytes" in said) == (0, True)
    assert "in f16, for their rows are no whole blocks of 32: token_embd.weight, output.weight, blk.0.attn_q" in said
    about = told(tmp_path / "model")["general.description"].splitlines()
    for line in (
        f"digest of the weights: {file.stem}",
        "run: r1",
        "trained by: acme, birch",
        f"held-out text: sha256:{hashlib.sha256(text.read_bytes()).hexdigest()}",
        f"held-out loss: {before} nats per byte as trained, {after} as q8_0",
    ):
        assert line in about
    code, said, _ = run(capsys, *export, "--to", tmp_path / "other")
    assert (code, "held-out loss: not measured, for no text was given: --held-out FILE\n" in said) == (0, True)
    code, _, err = run(capsys, *export, "--to", tmp_path / "other")
    assert (code, "is there already" in err) == (2, True)


def test_a_text_that_nothing_can_be_scored_on_writes_nothing(consortium, tmp_path, capsys):
    folder, file = consortium
    (tmp_path / "short").write_bytes(b"text")
    export = ("model", "export", file, "--log", folder / "ledger" / "log", "--to", tmp_path / "model")
    for words, why in (
        (("--gguf", "f16", "--held-out", tmp_path / "short"), "error bad_field: the text "),
        (("--gguf", "f16", "--held-out", tmp_path / "none"), "error not_found: the text "),
        (("--held-out", tmp_path / "short"), "error bad_field: --held-out FILE: "),
    ):
        code, _, err = run(capsys, *export, *words)
        assert (code, err.startswith(why)) == (2, True), err
    assert not (tmp_path / "model").exists()


def test_the_command_offers_every_dtype(capsys):
    with pytest.raises(SystemExit):
        main(["model", "export", "--help"])
    assert f"--gguf {{{','.join(('f32', 'f16', 'q8_0', 'q4_0'))}}}" in capsys.readouterr().out
    assert {"f32", "f16", "q8_0", "q4_0"} == set(gguf.DTYPES)
