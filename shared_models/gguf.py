"""A checkpoint as one file that llama.cpp opens, and whatever is built on it: GGUF, its numbers whole or in few bits.

Its architecture is the one of llama.cpp's that computes the very model (github.com/ggml-org/llama.cpp, src/models); not
every mix has one, and GELU without gates behind RMSNorm has none. The format: github.com/ggml-org/ggml, docs/gguf.md,
version 3; blocks of numbers: src/ggml-quants.c there. The package `gguf` is what tests compare with, to the bit: as a
writer it brings an HTTP client, opens its file by itself and leaves out empty lists, which llama.cpp asks for; and it
says of its rounding to 4 bits that it may change.

The same weights make the same bytes on every machine, for each number is rounded by itself, as IEEE 754 says; but the
product of two matrices of a rank is a sum, and how far positions turn a power: their last bit may be another elsewhere.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared_models import durable, huggingface
from shared_models.lm import corpus, gpt, hygiene, weights
from shared_models.lm.tokenizer import Split, Text, Tokenizer, shown
from shared_models.records.refusals import Refusal, Refused

VERSION, ALIGNMENT, QUANTISATION = 3, 32, 2
BLOCK = 32  # So many numbers of a row have one scale.
HALF_MOST = 65_504.0  # The largest number of float16.
LEAST = np.finfo(np.float32).tiny  # Of a smaller scale the inverse may be infinite; in float16 it is zero anyway.
END = 0xFF  # Readers want a token at which a text ends: UTF-8 never has this byte.
NORMAL, CONTROL, UNUSED = 1, 3, 5  # Kinds of token.
ARCHITECTURES = {  # What llama.cpp calls them, by what transformers does.
    "llama": "llama",
    "mixtral": "llama",
    "olmoe": "olmoe",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
}
NAMES = {  # Of the tensors, by what transformers calls them.
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.w2": "ffn_down_exps",
    "block_sparse_moe.experts.w3": "ffn_up_exps",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
}

WORDS, REST = (  # Llama 3's and Qwen's pattern, but for how many digits are one word.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
SPLITS: Mapping[Split | None, str] = {  # What llama.cpp calls a way to split a text, by src/llama-vocab.cpp there.
    ("", False): "gpt-2",
    (WORDS + "{1,3}" + REST, True): "llama-bpe",
    (WORDS + REST, False): "qwen2",
}
ROPE = "rope_freqs.weight"  # By this tensor llama.cpp divides how far rotary positions turn.

Bytes = npt.NDArray[np.uint8]
Value = bool | int | float | str | list[str] | npt.NDArray[np.int32]


class Dtype(NamedTuple):
    """How numbers stand in a file: `block` of them in `size` bytes."""

    number: int  # ggml's, of a tensor;
    file: int  # and of a file that holds mostly such.
    block: int
    size: int
    most: float  # It holds no larger numbers.
    write: Callable[[weights.Tensor], Bytes]  # (n, block) to (n, size),
    read: Callable[[Bytes], weights.Tensor]  # and back.


def _q8_0(blocks: weights.Tensor) -> Bytes:
    """A scale, the largest number / 127, and each as a multiple of it, rounded, halves away from zero."""
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    times = (blocks * _inverse(scale)).astype(np.float64)
    whole = np.copysign(np.floor(np.abs(times) + 0.5), times).astype(np.int8)
    return np.concatenate([_half(scale), whole.view(np.uint8)], 1)


def _q8_0_read(data: Bytes) -> weights.Tensor:
    return _half_read(data[:, :2]) * data[:, 2:].view(np.int8).astype(np.float32)


def _q4_0(blocks: weights.Tensor) -> Bytes:
    """A scale, the largest number with its sign / -8, and each as a multiple of it from -8 to 7, plus 8.

    The first 16 are the low halves of bytes, the others the high ones. Product and sum are rounded once, as by a fused
    multiply-add; llama.cpp's own depend on its compiler.
    """
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
    scale = largest / np.float32(-8)
    times = blocks.astype(np.float64) * _inverse(scale).astype(np.float64)
    whole = (times + 8.5).astype(np.float32).astype(np.uint8).clip(max=15)
    return np.concatenate([_half(scale), whole[:, : BLOCK // 2] | whole[:, BLOCK // 2 :] << 4], 1)


def _q4_0_read(data: Bytes) -> weights.Tensor:
    whole = np.concatenate([data[:, 2:] & 15, data[:, 2:] >> 4], 1)
    return _half_read(data[:, :2]) * (whole.astype(np.float32) - 8)


def _inverse(scale: weights.Tensor) -> weights.Tensor:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=np.abs(scale) >= LEAST)


def _single(numbers: weights.Tensor) -> Bytes:
    return numbers.astype("<f4").view(np.uint8)


def _single_read(data: Bytes) -> weights.Tensor:
    return data.view("<f4").astype(np.float32, copy=False)


def _half(numbers: weights.Tensor) -> Bytes:
    return numbers.astype("<f2").view(np.uint8)


def _half_read(data: Bytes) -> weights.Tensor:
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


DTYPES = {
    "f32": Dtype(0, 0, 1, 4, float(np.finfo(np.float32).max), _single, _single_read),
    "f16": Dtype(1, 1, 1, 2, HALF_MOST, _half, _half_read),
    "q4_0": Dtype(2, 2, BLOCK, 2 + BLOCK // 2, 8 * HALF_MOST, _q4_0, _q4_0_read),
    "q8_0": Dtype(8, 7, BLOCK, 2 + BLOCK, 127 * HALF_MOST, _q8_0, _q8_0_read),
}


def encode(dtype: str, name: str, tensor: weights.Tensor) -> Bytes:
    """The bytes of a tensor of this name, whose rows are whole blocks, (blocks, size of one).

    Raises `Refused(NOT_FINITE)` if a number is none, or too large.
    """
    found = DTYPES[dtype]
    if not (most := np.abs(tensor).max()) <= found.most:
        raise Refused(Refusal.NOT_FINITE, f"{name} has a number of size {most}, and {dtype} holds up to {found.most:g}")
    return found.write(tensor.reshape(-1, found.block))


def decode(dtype: str, data: Bytes, shape: tuple[int, ...]) -> weights.Tensor:
    """The tensor of this shape that these bytes are."""
    found = DTYPES[dtype]
    return found.read(data.reshape(-1, found.size)).reshape(shape)


def held_as(dtype: str, ours: str, shape: tuple[int, ...]) -> str:
    """The dtype of a tensor of ours in a file that is mostly of another: llama.cpp wants norms and routers in float32,
    and rows that are no whole blocks it holds in float16.
    """
    if len(shape) == 1 or ours.endswith("router.weight"):
        return "f32"
    return "f16" if shape[-1] % DTYPES[dtype].block else dtype


class Rounded(Mapping[str, weights.Tensor]):
    """The weights of a model as a file of this dtype holds them.

    Blocks lie within rows, so that it does not matter in which order, and in which tensor, the file has the rows.
    """

    def __init__(self, whole: huggingface.Whole, dtype: str) -> None:
        self._whole, self._dtype = whole, dtype

    def __getitem__(self, name: str) -> weights.Tensor:
        """Raises KeyError; `Refused` as `encode`."""
        tensor = self._whole[name]
        dtype = held_as(self._dtype, name, tensor.shape)
        return decode(dtype, encode(dtype, name, tensor), tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


class Written(NamedTuple):
    """What came of an export."""

    size: int  # Bytes.
    in_half: list[str]  # The tensors that are in float16 though a file of fewer bits was asked for.
    losses: tuple[float, float] | None  # Held-out, nats per byte: as trained, and as the file holds it.


def export(
    checkpoint: weights.Tensors,
    recipe: huggingface.Model,
    path: Path,
    dtype: str,
    origin: Mapping[str, str],
    text: Text | None = None,
    cut: Tokenizer | None = None,
) -> Written:
    """Write this file, whole or not at all. `origin`, where it is from, stands in it; and how good it is on the text.

    `cut` is the tokenizer whose tokens it was trained on; None: bytes.

    Raises `Refused`: BAD_FIELD if something is there already, or if the architecture has no such model; WRONG_MODEL if
    the weights are not of this recipe; NOT_FINITE if a number has no place in this dtype.
    """
    if path.exists():
        raise Refused(Refusal.BAD_FIELD, f"--to {path}: it is there already, and nothing is written over")
    huggingface.check_ours(recipe)
    architecture(recipe)
    if recipe.vocabulary <= END:
        raise Refused(Refusal.BAD_FIELD, f"vocabulary = {recipe.vocabulary}: llama.cpp wants a token for each byte")
    if cut is not None and cut.split not in SPLITS:
        ways = "as GPT-2 does, nor as Llama 3, nor as Qwen: of other ways llama.cpp is not told here"
        cause = f"the tokenizer {cut.sha256[:12]}… splits a text neither {ways}"
        raise Refused(Refusal.BAD_FIELD, cause)
    whole = huggingface.Whole(checkpoint, recipe)
    losses = None if text is None else measured(whole, dtype, text, cut)
    if losses is not None:
        found = f"{losses[0]:.4f} nats per byte as trained, {losses[1]:.4f} as {dtype}"
        origin = {**origin, "held-out loss": found}
    parts = [Part.of(name, places, whole, dtype) for name, places in _grouped(whole.recipe).items()]
    durable.make_folder(path.absolute().parent)
    with durable.writing(path) as file:
        file.write(_head(_about(whole.recipe, dtype, origin, cut), parts))
        for part in parts:
            file.write(_filled(encode(part.dtype, part.name, part.tensor(whole)).tobytes()))
        size = file.tell()
    return Written(size, [part.name for part in parts if part.dtype == "f16" != dtype], losses)


def architecture(recipe: huggingface.Model) -> str:
    """What llama.cpp calls the architecture that computes the very model of this recipe.

    Raises `Refused(BAD_FIELD)` if it has none: of some options a file says nothing, for its code knows one answer.
    """
    found = ARCHITECTURES.get(huggingface.kind_of(recipe))
    if found is None:
        cause = f'feed = "{recipe.feed}": llama.cpp has no architecture that computes it; train with feed = "swiglu"'
        raise Refused(Refusal.BAD_FIELD, cause)
    has = {
        "rope_factor": recipe.rope_factor,
        "heads × head_dim": recipe.heads * recipe.head_width,
        "kv_heads": recipe.kv_heads or recipe.heads,
        "expert_weights": recipe.expert_weights,
    }
    only: dict[str, dict[str, int | str]] = {
        "llama": {},
        "olmoe": {
            "rope_factor": 0,
            "heads × head_dim": recipe.width,
            "kv_heads": recipe.heads,
            "expert_weights": "softmax",
        },
        "qwen2": {"rope_factor": 0, "heads × head_dim": recipe.width},
        "qwen3": {"rope_factor": 0},
        "qwen3moe": {"rope_factor": 0, "expert_weights": "shares"},
    }
    for name, right in only[found].items():
        if has[name] != right:
            cause = f"{name} = {has[name]}: llama.cpp's {found} computes {right} and nothing else; a folder can hold it"
            raise Refused(Refusal.BAD_FIELD, cause)
    return found


def measured(whole: huggingface.Whole, dtype: str, text: Text, cut: Tokenizer | None = None) -> tuple[float, float]:
    """The loss on a text, in nats per byte: of these weights, and of what a file of this dtype holds of them.

    On the sequences that a run scores its checkpoints on.
    """
    tokens, sizes = corpus.in_tokens(text, whole.recipe.context + 1, cut)
    chosen = hygiene.spread(hygiene.EVALUATED, whole.recipe.context, tokens)
    model = gpt.GPT(gpt.Shape.of(whole.recipe))
    before, after = (hygiene.held_out_loss(model, each, chosen, sizes)(None) for each in (whole, Rounded(whole, dtype)))
    return before, after


class Part(NamedTuple):
    """A tensor of the file."""

    name: str
    places: list[huggingface.Place]  # Of all experts, one each; else one; of ROPE none.
    turned: int  # Of queries and keys, how wide a head is; else 0.
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, places: list[huggingface.Place], whole: huggingface.Whole, dtype: str) -> "Part":
        recipe = whole.recipe
        neighbours = architecture(recipe) == "llama" and ("attn_q" in name or "attn_k" in name)
        turned = recipe.head_width if neighbours else 0
        shape = cls(name, places, turned, dtype, ()).tensor(whole).shape
        return cls(name, places, turned, held_as(dtype, places[0].ours if places else name, shape), shape)

    def tensor(self, whole: huggingface.Whole) -> weights.Tensor:
        """Rotary positions turn neighbours in llama.cpp's `llama`, and here, as in its others, numbers that are half a
        head apart: so of queries and keys the rows of each head are put in that order.
        """
        if not self.places:
            return _slower(whole.recipe)
        found = [place.rows(whole) for place in self.places]
        tensor = found[0] if len(found) == 1 else np.stack(found)
        if self.turned:
            tensor = tensor.reshape(-1, 2, self.turned // 2, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        return tensor


def _grouped(recipe: huggingface.Model) -> dict[str, list[huggingface.Place]]:
    """Every tensor of the file, and where what it holds is in ours."""
    found: dict[str, list[huggingface.Place]] = {}
    for place in huggingface.places_of(recipe):
        theirs, _, what = re.sub(r"(?<=\.experts)\.\d+", "", place.theirs).rpartition(".")
        layer = re.match(r"model\.layers\.(\d+)\.", theirs)
        name = f"blk.{layer[1]}.{NAMES[theirs[layer.end() :]]}" if layer else NAMES[theirs]
        found.setdefault(f"{name}.{what}", []).append(place)
    if architecture(recipe) == "olmoe":
        found.setdefault("output.weight", found["token_embd.weight"])  # It wants two, also if they are one.
    if recipe.rope_factor:
        found[ROPE] = []
    return found


def _slower(recipe: huggingface.Model) -> weights.Tensor:
    """How many times slower rotary positions turn each pair of a head's numbers for the factor, (width / 2)."""
    shape = gpt.Shape.of(recipe)
    factors: weights.Tensor = (gpt.frequencies(replace(shape, rope_factor=0)) / gpt.frequencies(shape)).numpy()
    return factors


def _about(recipe: huggingface.Model, dtype: str, origin: Mapping[str, str], cut: Tokenizer | None) -> dict[str, Value]:
    """What stands at the head of the file."""
    arch, head = architecture(recipe), recipe.head_width
    tokens = list(map(shown, range(END + 1))) if cut is None else [*cut.tokens]
    end = tokens.index(shown(END))
    tokens[end] = "<|endoftext|>"
    unused = recipe.vocabulary - len(tokens)
    kinds = np.array([NORMAL] * len(tokens) + [UNUSED] * unused, np.int32)
    kinds[end] = CONTROL
    about: dict[str, Value] = {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": "A model that several organisations have trained together",
        "general.description": "\n".join(f"{name}: {value}" for name, value in origin.items()),
        "general.file_type": DTYPES[dtype].file,
        "general.quantization_version": QUANTISATION,
        "general.alignment": ALIGNMENT,
        f"{arch}.vocab_size": recipe.vocabulary,
        f"{arch}.context_length": recipe.context,
        f"{arch}.embedding_length": recipe.width,
        f"{arch}.block_count": recipe.layers,
        f"{arch}.feed_forward_length": recipe.feed_width,
        f"{arch}.attention.head_count": recipe.heads,
        f"{arch}.attention.head_count_kv": recipe.kv_heads or recipe.heads,
        f"{arch}.attention.key_length": head,
        f"{arch}.attention.value_length": head,
        f"{arch}.attention.layer_norm_rms_epsilon": huggingface.norm_eps(recipe),
        f"{arch}.rope.dimension_count": head,
        f"{arch}.rope.freq_base": float(recipe.rope_theta),
    }
    if recipe.experts:
        about |= {
            f"{arch}.expert_count": recipe.experts,
            f"{arch}.expert_used_count": recipe.experts_per_token,
            f"{arch}.expert_feed_forward_length": recipe.feed_width,
        }
    return about | {  # Byte-level BPE; without merges the number of a token is the byte.
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2" if cut is None else SPLITS[cut.split],
        "tokenizer.ggml.tokens": tokens + [f"[PAD{number}]" for number in range(len(tokens), recipe.vocabulary)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [] if cut is None else cut.merges,
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def _head(about: Mapping[str, Value], parts: list[Part]) -> bytes:
    """All that stands before the numbers."""
    head = b"GGUF" + struct.pack("<IQQ", VERSION, len(parts), len(about))
    head += b"".join(_string(key) + _typed(value) for key, value in about.items())
    at = 0
    for part in parts:
        dtype, shape = DTYPES[part.dtype], part.shape
        head += _string(part.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), dtype.number, at)
        at += -(-math.prod(shape) // dtype.block * dtype.size // ALIGNMENT) * ALIGNMENT
    return _filled(head)


def _filled(data: bytes) -> bytes:
    """These bytes, and zeros up to where the next may begin."""
    return data.ljust(-(-len(data) // ALIGNMENT) * ALIGNMENT, b"\0")


def _typed(value: Value) -> bytes:
    """A value behind the number of its type; a list's is followed by that of what is in it, and by how many."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
        case _:
            return struct.pack("<IIQ", 9, 5, value.size) + value.astype("<i4").tobytes()


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
