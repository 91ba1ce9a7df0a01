"""A checkpoint as a folder that Hugging Face's transformers reads, and whatever else reads such folders.

Each mix of a recipe's options is exactly one of three architectures that transformers (5.22) knows, so that no code
travels with the weights and nothing is approximated:

    feed = "gelu"       arcee      no gates, RMSNorm, rotary positions, no biases
    feed = "swiglu"     llama
    experts             mixtral

What saved training only is undone: two matrices of a rank are multiplied, layers that share weights are written out.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shared_models import durable
from shared_models.lm import gpt, weights
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused

ROTARY_BASE = 10_000.0  # As in `gpt.GPT`.
NORM_EPS = 2.0**-23  # What torch's RMSNorm adds to a mean square if it is told nothing: the eps of float32.
NAMES = {"arcee": "ArceeForCausalLM", "llama": "LlamaForCausalLM", "mixtral": "MixtralForCausalLM"}
BYTES = 256


def export(checkpoint: weights.Tensors, recipe: Recipe, folder: Path, origin: Mapping[str, str]) -> str:
    """Write this folder, whole or not at all; its architecture. `origin`, for the model card, is where it is from.

    Raises `Refused`: BAD_FIELD if something is there already; WRONG_MODEL if the weights are not of this recipe.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise Refused(Refusal.BAD_FIELD, f"--to {folder}: it is there already, and nothing is written over")
    check_weights(checkpoint, recipe)
    config = _config(recipe)
    durable.make_folder(folder.absolute().parent)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside.mkdir()
    try:
        _write_weights(checkpoint, recipe, aside / "model.safetensors")
        files = {"config.json": config}
        if recipe.vocabulary == BYTES:
            files |= {"tokenizer.json": _tokenizer(), "tokenizer_config.json": _tokenizer_config(recipe)}
        for name, content in files.items():
            durable.write(aside / name, (json.dumps(content, indent=2) + "\n").encode())
        durable.write(aside / "README.md", _card(recipe, config["model_type"], origin).encode())
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside)
        raise
    durable.sync_folder(folder.absolute().parent)
    return str(config["model_type"])


def check_weights(checkpoint: weights.Tensors, recipe: Recipe) -> None:
    """Whether these are the tensors of a model of this recipe, by name and shape. Raises `Refused(WRONG_MODEL)`."""
    wanted = gpt.shapes(gpt.Shape.of(recipe))
    if odd := sorted(wanted.keys() ^ checkpoint.keys()):
        where = "the recipe's model" if odd[0] in wanted else "the file"
        raise Refused(Refusal.WRONG_MODEL, f"only {where} has a tensor {odd[0]}, and {len(odd) - 1} more do not match")
    for name, shape in wanted.items():
        if checkpoint[name].shape != shape:
            cause = f"{name} is {_by(checkpoint[name].shape)}, and {_by(shape)} in the recipe's model"
            raise Refused(Refusal.WRONG_MODEL, cause)


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _config(recipe: Recipe) -> dict[str, Any]:
    """What transformers builds the model from."""
    kind = "mixtral" if recipe.experts else "arcee" if recipe.feed == "gelu" else "llama"
    config = {
        "architectures": [NAMES[kind]],
        "model_type": kind,
        "dtype": "float32",
        "vocab_size": recipe.vocabulary,
        "hidden_size": recipe.width,
        "intermediate_size": recipe.feed_width,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads or recipe.heads,
        "head_dim": recipe.width // recipe.heads,
        "hidden_act": "gelu" if recipe.feed == "gelu" else "silu",
        "max_position_embeddings": recipe.context,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROTARY_BASE,  # Where readers older than transformers 5 look.
        "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE},
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if not recipe.experts:
        return config | {"mlp_bias": False}
    return config | {
        "num_local_experts": recipe.experts,
        "num_experts_per_tok": recipe.experts_per_token,
        "router_aux_loss_coef": gpt.BALANCE,
    }


def _write_weights(checkpoint: weights.Tensors, recipe: Recipe, path: Path) -> None:
    """One tensor at a time, so that memory holds no second model: first their shapes, then they."""
    made = dict(_tensors(checkpoint, recipe))
    with durable.writing(path) as file:
        shapes = {name: make().shape for name, make in made.items()}
        writer = weights.Writer(file, shapes, {"format": "pt"})  # Without it, transformers 4 reads nothing.
        for name, make in made.items():
            writer.put(name, make())


Make = Callable[[], weights.Tensor]


def _tensors(checkpoint: weights.Tensors, recipe: Recipe) -> Iterator[tuple[str, Make]]:
    """The name of each tensor in transformers' files, and how it is made."""

    def rows(name: str, start: int, end: int) -> Make:
        return lambda: checkpoint[name][start:end]

    def matrix(name: str) -> Make:
        if f"{name}.weight" in checkpoint:
            return lambda: checkpoint[f"{name}.weight"]
        return lambda: _product(checkpoint[f"{name}.1.weight"], checkpoint[f"{name}.0.weight"])

    yield "model.embed_tokens.weight", matrix("embed")
    yield "model.norm.weight", matrix("norm")
    yield "lm_head.weight", matrix("head")
    width = recipe.width
    keys = (recipe.kv_heads or recipe.heads) * (width // recipe.heads)
    for layer in range(recipe.layers):
        to, block = f"model.layers.{layer}", f"blocks.{layer // recipe.shared}"
        yield f"{to}.input_layernorm.weight", matrix(f"{block}.norm1")
        yield f"{to}.post_attention_layernorm.weight", matrix(f"{block}.norm2")
        yield f"{to}.self_attn.q_proj.weight", rows(f"{block}.qkv.weight", 0, width)
        yield f"{to}.self_attn.k_proj.weight", rows(f"{block}.qkv.weight", width, width + keys)
        yield f"{to}.self_attn.v_proj.weight", rows(f"{block}.qkv.weight", width + keys, width + 2 * keys)
        yield f"{to}.self_attn.o_proj.weight", matrix(f"{block}.out")
        parts = ("gate", "up", "down") if recipe.feed == "swiglu" else ("up", "down")
        for part in () if recipe.experts else parts:
            yield f"{to}.mlp.{part}_proj.weight", matrix(f"{block}.{part}")
        if recipe.experts:
            yield f"{to}.block_sparse_moe.gate.weight", matrix(f"{block}.router")
        for expert in range(recipe.experts):
            for part, name in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                yield (
                    f"{to}.block_sparse_moe.experts.{expert}.{name}.weight",
                    matrix(f"{block}.experts.{expert}.{part}"),
                )


def _product(left: weights.Tensor, right: weights.Tensor) -> weights.Tensor:
    return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)


def _tokenizer() -> dict[str, Any]:
    """For the library tokenizers: the number of a token is the byte, in any text. Byte-level BPE without merges."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "vocab": {_shown(byte): byte for byte in range(BYTES)}, "merges": []},
    }


def _shown(byte: int) -> str:
    """The letter that stands for a byte in GPT-2's alphabet: itself if it can be printed, else one from 256 on."""
    printed = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    if byte in printed:
        return chr(byte)
    return chr(BYTES + sum(other not in printed for other in range(byte)))


def _tokenizer_config(recipe: Recipe) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": recipe.context,
        "clean_up_tokenization_spaces": False,
    }


def _card(recipe: Recipe, kind: str, origin: Mapping[str, str]) -> str:
    """The model card, README.md of the folder."""
    text = "The number of a token is the byte of UTF-8 text"
    text += "." if recipe.vocabulary == BYTES else f"; of {recipe.vocabulary} numbers only the first 256 are used."
    recipe_lines = [f"{name} = {json.dumps(value)}" for name, value in asdict(recipe).items()]
    return "\n".join(
        (
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "---",
            "",
            f"# A {NAMES[kind]} that several organisations have trained together",
            "",
            f"{text} It has seen no more than {recipe.context} of them in a row.",
            "",
            "| where it is from | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in origin.items()),
            "",
            "The recipe of the run:",
            "",
            "```toml",
            *recipe_lines,
            "```",
            "",
        )
    )
