"""A checkpoint as a folder that Hugging Face's transformers reads, and whatever else reads such folders; and back.

Each mix of a recipe's options is exactly one of the architectures that transformers (5.23) knows, so that no code
travels with the weights and nothing is approximated (`rules.recipes.ARCHITECTURES`):

    feed = "gelu"                          arcee      no gates, RMSNorm, rotary positions, no biases
    feed = "swiglu"                        llama      of Mistral's sizes too
      bias = "qkv"                         qwen2
      qk_norm = "head"                     qwen3
    experts                                mixtral    members' experts too, with the weights that they stand beside
      qk_norm = "whole"                    olmoe
      qk_norm = "head"                     qwen3_moe

What saved training only is undone: two matrices of a rank are multiplied, layers that share weights are written out.
A run may begin with such a folder: what it says of its shape is what the recipe says (`described`).
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shared_models import durable
from shared_models.lm import codecs, gpt, models, own, weights
from shared_models.lm.tokenizer import Tokenizer, shown
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.recipes import ARCHITECTURES

NORM_EPS = 2.0**-23  # What torch's RMSNorm adds to a mean square if it is told nothing: the eps of float32.
NAMES = {
    "arcee": "ArceeForCausalLM",
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
MADE_OF = {kind: made_of for made_of, kind in ARCHITECTURES.items()}
ALIKE = {"mistral": "llama"}  # Other names of what is computed.
EXPERTS = {"mixtral": "num_local_experts", "olmoe": "num_experts", "qwen3_moe": "num_experts"}  # How many there are.
BYTES = 256
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"  # As transformers names them.
FIXED: dict[str, Any] = {  # What a config may leave out, or say so: of anything else we have no model.
    "attention_bias": False,
    "mlp_bias": False,
    "clip_qkv": None,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "partial_rotary_factor": 1,
}
LLAMA3 = {  # How it stretches rotary positions, but for the factor.
    "low_freq_factor": gpt.LLAMA3_LOW,
    "high_freq_factor": gpt.LLAMA3_HIGH,
    "original_max_position_embeddings": gpt.LLAMA3_CONTEXT,
}
Model = Recipe | gpt.Shape  # What says of a model how large it is, and of what architecture.
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
UNLEARNT = "rotary_emb.inv_freq"  # Old folders hold what follows from rope_theta.


def export(
    checkpoint: weights.Tensors, recipe: Model, folder: Path, origin: Mapping[str, str], cut: Tokenizer | None = None
) -> str:
    """Write this folder, whole or not at all; its architecture. `origin`, for the model card, is where it is from.

    `cut` is the tokenizer whose tokens it was trained on; None: bytes. Raises `Refused`: BAD_FIELD if something is
    there already; WRONG_MODEL if the weights are not of this recipe.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise Refused(Refusal.BAD_FIELD, f"--to {folder}: it is there already, and nothing is written over")
    whole, config = Whole(checkpoint, recipe), _config(recipe)
    durable.make_folder(folder.absolute().parent)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside.mkdir()
    try:
        _write_weights(whole, aside / "model.safetensors")
        files = {"config.json": config}
        if cut is not None or recipe.vocabulary == BYTES:
            files["tokenizer_config.json"] = _tokenizer_config(recipe)
        if cut is None and recipe.vocabulary == BYTES:
            files["tokenizer.json"] = _tokenizer()
        for name, content in files.items():
            durable.write(aside / name, (json.dumps(content, indent=2) + "\n").encode())
        if cut is not None:
            durable.write(aside / "tokenizer.json", cut.data)
        durable.write(aside / "README.md", _card(recipe, config["model_type"], origin, cut).encode())
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside)
        raise
    durable.sync_folder(folder.absolute().parent)
    return str(config["model_type"])


class Whole(Mapping[str, weights.Tensor]):
    """The same model without what saved training only: two matrices of a rank are multiplied, layers that share weights
    have each its own. Each is put together when it is asked for; a product in float64, and rounded once.
    """

    def __init__(self, checkpoint: weights.Tensors, recipe: Model) -> None:
        """Raises `Refused(WRONG_MODEL)` if the weights are not of this recipe, or an adapter, which is no model."""
        if recipe.adapter:
            raise Refused(Refusal.WRONG_MODEL, f"adapter = {recipe.adapter}: merge it with what it stands beside")
        if recipe.member_experts:
            cause = f"member_experts = {recipe.member_experts} alone are no model: they stand beside given weights"
            raise Refused(Refusal.WRONG_MODEL, cause)
        check_weights(checkpoint, recipe)
        self.recipe = replace(recipe, rank=0, shared=1)  # That of what this holds.
        self._checkpoint, self._shared = checkpoint, recipe.shared
        self._names = gpt.shapes(gpt.Shape.of(self.recipe))

    def __getitem__(self, name: str) -> weights.Tensor:
        """Raises KeyError."""
        held = re.sub(r"(?<=^blocks\.)\d+", lambda layer: str(int(layer[0]) // self._shared), name)
        if held in self._checkpoint:
            return self._checkpoint[held]
        first, then = (self._checkpoint[f"{held.removesuffix('weight')}{each}.weight"] for each in (0, 1))
        product: weights.Tensor = (then.astype(np.float64) @ first.astype(np.float64)).astype(np.float32)
        return product

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Merged(Mapping[str, weights.Tensor]):
    """The weights of the model that a recipe's adapter and what is frozen beside it are together: W + B·A.

    Each is put together when it is asked for, in float64, and rounded once.
    """

    def __init__(self, adapter: weights.Tensors, frozen: weights.Tensors, recipe: Recipe) -> None:
        """Raises `Refused(WRONG_MODEL)` if either is not of this recipe."""
        check_weights(adapter, recipe)
        check_weights(frozen, replace(recipe, adapter=0))
        self._adapter, self._frozen, self._seed = adapter, frozen, recipe.seed

    def __getitem__(self, name: str) -> weights.Tensor:
        """Raises KeyError."""
        matrix, beside = self._frozen[name], name.removesuffix("weight") + "b"
        if beside not in self._adapter:
            return matrix
        b = self._adapter[beside].astype(np.float64)
        a = gpt.drawn(self._seed, name.removesuffix(".weight"), b.shape[1], matrix.shape[1])
        merged: weights.Tensor = (matrix + b @ a.astype(np.float64)).astype(np.float32)
        return merged

    def __iter__(self) -> Iterator[str]:
        return iter(self._frozen)

    def __len__(self) -> int:
        return len(self._frozen)


class Mixture(Mapping[str, weights.Tensor]):
    """The weights of the mixture of experts that members' experts and what is frozen beside them are together: expert 0
    is the given feed-forward, whose row of the router is zeros. Nothing is computed, only named otherwise.
    """

    def __init__(
        self, experts: weights.Tensors, frozen: weights.Tensors, recipe: Recipe, numbers: Sequence[int]
    ) -> None:
        """Of the experts with these numbers; of none, it is the weights that were given. Raises `Refused(WRONG_MODEL)`
        if either is not of this recipe.
        """
        plain = replace(recipe, member_experts=0)
        check_weights(experts, recipe)
        check_weights(frozen, plain)
        self.shape = gpt.Shape.of(plain)
        if numbers:
            self.shape = replace(self.shape, experts=len(numbers) + 1, experts_per_token=gpt.OWN_PER_TOKEN)
        self._experts, self._frozen = own.among(experts, numbers), frozen
        self._names = gpt.shapes(self.shape)

    def __getitem__(self, name: str) -> weights.Tensor:
        """Raises KeyError."""
        if name.endswith(".router.weight"):
            block = name.removesuffix("router.weight")
            rows = [self._experts[f"{block}own.{number}.row"] for number in range(self.shape.experts - 1)]
            return np.stack([np.zeros_like(rows[0]), *rows])
        if (found := re.fullmatch(r"(.+\.)experts\.(\d+)\.(.+)", name)) is None:
            return self._frozen[name]
        block, number, part = found[1], int(found[2]), found[3]
        return self._experts[f"{block}own.{number - 1}.{part}"] if number else self._frozen[block + part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_weights(checkpoint: weights.Tensors, recipe: Model) -> None:
    """Whether these are the tensors of our model of this recipe, by name and shape. Raises `Refused(WRONG_MODEL)`."""
    check_ours(recipe)
    _check_shapes(checkpoint, gpt.shapes(gpt.Shape.of(recipe)))


def check_ours(recipe: Model) -> None:
    """Whether it is our model, of which alone there are architectures of others. Raises `Refused(WRONG_MODEL)`."""
    if isinstance(recipe, Recipe) and not recipe.ours:
        cause = f"the model is what {recipe.model[:19]}… builds, and of no architecture that others know"
        raise Refused(Refusal.WRONG_MODEL, f"{cause}: transformers and llama.cpp have no code of it")


def _check_shapes(checkpoint: weights.Tensors, wanted: Mapping[str, tuple[int, ...]]) -> None:
    if odd := sorted(wanted.keys() ^ checkpoint.keys()):
        where = "the recipe's model" if odd[0] in wanted else "the file"
        raise Refused(Refusal.WRONG_MODEL, f"only {where} has a tensor {odd[0]}, and {len(odd) - 1} more do not match")
    for name, shape in wanted.items():
        if checkpoint[name].shape != shape:
            cause = f"{name} is {_by(checkpoint[name].shape)}, and {_by(shape)} in the recipe's model"
            raise Refused(Refusal.WRONG_MODEL, cause)


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def kind_of(recipe: Model) -> str:
    """Its architecture, as transformers calls it."""
    return ARCHITECTURES[recipe.feed, recipe.experts > 0, recipe.qk_norm, recipe.bias]


def norm_eps(recipe: Model) -> float:
    """What its norms add to a mean square."""
    return float(recipe.norm_eps) or NORM_EPS


def _config(recipe: Model) -> dict[str, Any]:
    """What transformers builds the model from."""
    kind, theta = kind_of(recipe), float(recipe.rope_theta)
    rotary: dict[str, Any] = {"rope_type": "default"}
    if recipe.rope_factor:
        rotary = {"rope_type": "llama3", "factor": float(recipe.rope_factor), **LLAMA3}
    config = {
        "model_type": kind,
        "architectures": [NAMES[kind]],
        "dtype": "float32",
        "vocab_size": recipe.vocabulary,
        "hidden_size": recipe.width,
        "intermediate_size": recipe.feed_width,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads or recipe.heads,
        "head_dim": recipe.head_width,
        "hidden_act": "gelu" if recipe.feed == "gelu" else "silu",
        "max_position_embeddings": recipe.context,
        "rms_norm_eps": norm_eps(recipe),
        "rope_theta": theta,  # Where readers older than transformers 5 look.
        "rope_parameters": rotary | {"rope_theta": theta},
        "attention_bias": False,
        "tie_word_embeddings": recipe.embeddings == "tied",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if recipe.rope_factor:
        config["rope_scaling"] = rotary  # There, too.
    if kind == "qwen2":
        del config["attention_bias"]  # It has no choice.
    if not recipe.experts:
        return config | {"mlp_bias": False}
    if kind == "qwen3_moe":
        config["moe_intermediate_size"] = recipe.feed_width
    if kind != "mixtral":
        config["norm_topk_prob"] = recipe.expert_weights == "shares"
    return config | {
        EXPERTS[kind]: recipe.experts,
        "num_experts_per_tok": recipe.experts_per_token,
        "router_aux_loss_coef": gpt.BALANCE,
    }


class Place(NamedTuple):
    """Where a tensor of transformers' files is in ours."""

    theirs: str  # Its name there.
    ours: str  # That of the tensor here.
    start: int = 0  # It is these rows of it.
    end: int | None = None

    def rows(self, found: weights.Tensors) -> weights.Tensor:
        return found[self.ours][self.start : self.end]


def places_of(recipe: Model) -> Iterator[Place]:
    """Every tensor of transformers' files. Layers that share weights have several, all at one place."""
    yield Place(EMBED, "embed.weight")
    yield Place("model.norm.weight", "norm.weight")
    if recipe.embeddings == "apart":
        yield Place(HEAD, "head.weight")
    queries, keys = (heads * recipe.head_width for heads in (recipe.heads, recipe.kv_heads or recipe.heads))
    ends = (0, queries, queries + keys, queries + 2 * keys)
    routed, named = "mlp", [(part, f"{part}_proj") for part in ("gate", "down", "up")]
    if recipe.experts and kind_of(recipe) == "mixtral":
        routed, named = "block_sparse_moe", [("gate", "w1"), ("down", "w2"), ("up", "w3")]
    for layer in range(recipe.layers):
        to, block = f"model.layers.{layer}", f"blocks.{layer // recipe.shared}"
        yield Place(f"{to}.input_layernorm.weight", f"{block}.norm1.weight")
        yield Place(f"{to}.post_attention_layernorm.weight", f"{block}.norm2.weight")
        for part, start, end in zip("qkv", ends, ends[1:], strict=False):
            for what in ("weight", "bias") if recipe.bias == "qkv" else ("weight",):
                yield Place(f"{to}.self_attn.{part}_proj.{what}", f"{block}.qkv.{what}", start, end)
        yield Place(f"{to}.self_attn.o_proj.weight", f"{block}.out.weight")
        for part in "qk" if recipe.qk_norm != "none" else "":
            yield Place(f"{to}.self_attn.{part}_norm.weight", f"{block}.norm_{part}.weight")
        parts = ("gate", "up", "down") if recipe.feed == "swiglu" else ("up", "down")
        for part in () if recipe.experts else parts:
            yield Place(f"{to}.mlp.{part}_proj.weight", f"{block}.{part}.weight")
        if recipe.experts:
            yield Place(f"{to}.{routed}.gate.weight", f"{block}.router.weight")
        for expert in range(recipe.experts):
            for part, name in named:
                there = f"{to}.{routed}.experts.{expert}.{name}.weight"
                yield Place(there, f"{block}.experts.{expert}.{part}.weight")


def _write_weights(whole: Whole, path: Path) -> None:
    """One tensor at a time, so that memory holds no second model: first their shapes, then they."""
    places = {place.theirs: place for place in places_of(whole.recipe)}
    with durable.writing(path) as file:
        shapes = {name: place.rows(whole).shape for name, place in places.items()}
        writer = weights.Writer(file, shapes, {"format": "pt"})  # Without it, transformers 4 reads nothing.
        for name, place in places.items():
            writer.put(name, place.rows(whole))


# Back.


def keep(given: Path, recipe: Recipe, folder: Path, files: Path = Path()) -> str:
    """Keep a copy of weights that a run of this recipe is to begin with in this folder, under their digest: it.

    They are given as a file of a checkpoint, or as a folder of transformers'; an adapter is put beside them, and is no
    part of them. `files` has the file of a model that is not ours, of which no other's folder is one. Raises `Refused`:
    NOT_FOUND, CORRUPT, WRONG_MODEL if they are not of this recipe's model, NOT_FINITE; as `models.shapes`.
    """
    recipe = replace(recipe, adapter=0, member_experts=0)
    if given.is_dir():
        check_ours(recipe)
    found = Folder(given, recipe) if given.is_dir() else weights.read(given)[0]
    if all(name.endswith(".b") for name in found):
        raise Refused(Refusal.WRONG_MODEL, f"{given} holds an adapter: merge it, `consortium model export --base`")
    wanted = models.shapes(recipe, files)
    _check_shapes(found, wanted)
    with weights.writing(folder, wanted) as writer:
        for name, tensor in found.items():
            try:
                codecs.encode("fp32", tensor)  # So it will travel to members, who take nothing else.
            except Refused as refused:
                raise Refused(refused.refusal, f"{name} in {given}: {refused.detail}") from None
            writer.put(name, tensor)
    return writer.digest


class Folder(Mapping[str, weights.Tensor]):
    """The weights of our model in a folder of transformers', put together when they are asked for, and not kept."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """Raises `Refused`: NOT_FOUND; CORRUPT; WRONG_MODEL if what the folder says of itself, or the names and shapes
        that it holds, are not those of this recipe's model.
        """
        self._files, self._folder = _files(folder, recipe), folder
        self._places: dict[str, list[Place]] = {}
        for place in places_of(recipe):
            self._places.setdefault(place.ours, []).append(place)
        if recipe.embeddings == "tied" and HEAD in self._files:
            self._places["embed.weight"].append(Place(HEAD, "embed.weight"))
        wanted = gpt.shapes(gpt.Shape.of(recipe))
        if odd := sorted(wanted.keys() ^ self._places.keys()):
            cause = (
                f"the recipe's model has {odd[0]}, and a folder whole matrices: begin with a checkpoint, or rank = 0"
            )
            raise Refused(Refusal.WRONG_MODEL, cause)
        theirs = {place.theirs for places in self._places.values() for place in places}
        if odd := sorted(theirs ^ {name for name in self._files if not name.endswith(UNLEARNT)}):
            where = "the recipe's model" if odd[0] in theirs else str(folder)
            raise Refused(Refusal.WRONG_MODEL, f"only {where} has {odd[0]}, and {len(odd) - 1} more do not match")
        for ours, places in self._places.items():
            for place in places:
                rows, *rest = wanted[ours]
                right, found = ((place.end or rows) - place.start, *rest), self._shape(place.theirs)
                if found != right:
                    cause = f"{place.theirs} is {_by(found)}, and {_by(right)} in the recipe's model"
                    raise Refused(Refusal.WRONG_MODEL, cause)

    def __getitem__(self, name: str) -> weights.Tensor:
        """Raises KeyError; `Refused(WRONG_MODEL)` if what shares it in the recipe's model differs here."""
        parts: dict[int, tuple[Place, weights.Tensor]] = {}
        for place in self._places[name]:
            tensor = self._read(place.theirs)
            first, held = parts.setdefault(place.start, (place, tensor))
            if not np.array_equal(held, tensor, equal_nan=True):
                cause = f"{first.theirs} and {place.theirs} differ, and in the recipe's model they are one"
                raise Refused(Refusal.WRONG_MODEL, cause)
        return np.concatenate([parts[start][1] for start in sorted(parts)])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._places))

    def __len__(self) -> int:
        return len(self._places)

    def _shape(self, name: str) -> tuple[int, ...]:
        file, there = self._files[name]
        return file.shape(there)

    def _read(self, name: str) -> weights.Tensor:
        file, there = self._files[name]
        try:
            return file[there]
        except ValueError as error:
            raise Refused(Refusal.WRONG_MODEL, str(error)) from None


def _files(folder: Path, recipe: Recipe) -> dict[str, tuple[weights.Widened, str]]:
    """By the name of each tensor, the file that it is in, and its name there."""
    if (folder / "adapter_config.json").is_file():
        raise Refused(Refusal.WRONG_MODEL, f"{folder} holds an adapter: merge it with its base, and begin with that")
    config = _json(folder / "config.json")
    _check_config(config, recipe)
    names = {ONE_FILE}
    if (folder / INDEX).is_file():
        names = set(map(str, _json(folder / INDEX).get("weight_map", {}).values()))
    found: dict[str, tuple[weights.Widened, str]] = {}
    for each in sorted(names):
        if Path(each).name != each:
            raise Refused(Refusal.CORRUPT, f"{folder / INDEX} names {each}, which is no file of this folder")
        file = weights.widened(folder / each)
        found |= {name: (file, name) for name in file}
    if config.get("tie_word_embeddings") and EMBED in found and recipe.embeddings == "apart":
        found.setdefault(HEAD, found[EMBED])  # One matrix for both; from here on they are two.
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Refused(Refusal.CORRUPT, f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise Refused(Refusal.CORRUPT, f"{path} is no JSON object")
    return found


def _check_config(found: Mapping[str, Any], recipe: Recipe) -> None:
    """Whether transformers would compute from this config what our model of the recipe does. Raises
    `Refused(WRONG_MODEL)`.
    """
    told, asked = _config(replace(recipe, **_described(found))), _config(recipe)
    if recipe.embeddings == "apart":
        told["tie_word_embeddings"] = False  # What is one there can be two here.
    for name, right in asked.items():
        if told.get(name) != right:
            raise Refused(
                Refusal.WRONG_MODEL, f"its config has {name} = {told.get(name)}, and the recipe's model {right}"
            )
    qwen = str(found["model_type"]).startswith("qwen")
    window = found.get("sliding_window") if found.get("use_sliding_window", not qwen) else None
    if window is not None and not (isinstance(window, int) and window >= recipe.context):
        cause = (
            f"its config has sliding_window = {window}, and the recipe's model looks back context = {recipe.context}"
        )
        raise Refused(Refusal.WRONG_MODEL, cause)


def described(folder: Path) -> dict[str, Any]:
    """What the config of a folder of transformers' says in a recipe's words: the fields that its shape is.

    Raises `Refused`: NOT_FOUND, CORRUPT, WRONG_MODEL if transformers would compute from it what no recipe's model does.
    """
    return _described(_json(folder / "config.json"))


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config may leave out is what transformers then takes."""
    said = str(config.get("model_type"))
    kind = ALIKE.get(said, said)
    if kind not in MADE_OF:
        known = ", ".join(sorted({*MADE_OF, *ALIKE}))
        raise Refused(Refusal.WRONG_MODEL, f"its config has model_type = {said}, and here there are {known}")
    feed, routed, qk_norm, bias = MADE_OF[kind]
    for name, right in {**FIXED, "hidden_act": "gelu" if feed == "gelu" else "silu"}.items():
        if (found := config.get(name)) not in (None, right):
            raise Refused(Refusal.WRONG_MODEL, f"its config has {name} = {found}, and a recipe's model {right}")

    def count(name: str) -> int:
        found = config.get(name)
        if not isinstance(found, int) or found < 1:
            raise Refused(Refusal.WRONG_MODEL, f"its config has {name} = {found}, and not a whole number above 0")
        return found

    experts: dict[str, Any] = {"experts": 0, "experts_per_token": 0, "expert_weights": "shares"}
    if routed:
        number = EXPERTS[kind] if EXPERTS[kind] in config else "num_local_experts"  # transformers 5 may write that.
        shares = kind == "mixtral" or config.get("norm_topk_prob", False)
        experts = {
            "experts": count(number),
            "experts_per_token": count("num_experts_per_tok"),
            "expert_weights": "shares" if shares else "softmax",
        }
    return {
        "vocabulary": count("vocab_size"),
        "layers": count("num_hidden_layers"),
        "heads": count("num_attention_heads"),
        "kv_heads": count("num_key_value_heads") if config.get("num_key_value_heads") else 0,
        "width": count("hidden_size"),
        "head_dim": count("head_dim") if config.get("head_dim") else 0,
        "feed": feed,
        "feed_dim": count("moe_intermediate_size" if kind == "qwen3_moe" else "intermediate_size"),
        "qk_norm": qk_norm,
        "bias": bias,
        "embeddings": "tied" if config.get("tie_word_embeddings") else "apart",
        "norm_eps": _eps(config.get("rms_norm_eps")),
        **experts,
        **_rotary(config, 1e6 if kind == "mixtral" else 1e4),
    }


def _eps(found: Any) -> str:
    """A recipe's `norm_eps`, which is the very number."""
    if found == NORM_EPS:
        return "0"
    if not isinstance(found, float) or not 1e-12 <= found < 1:
        raise Refused(Refusal.WRONG_MODEL, f"its config has rms_norm_eps = {found}, and a recipe's is from 1e-12 to 1")
    text = f"{found:.12f}".rstrip("0")
    if float(text) != found:
        raise Refused(Refusal.WRONG_MODEL, f"its config has rms_norm_eps = {found}, of which a recipe holds {text}")
    return text


def _rotary(config: Mapping[str, Any], theta: float) -> dict[str, int]:
    """A recipe's `rope_theta`, which is this one if the config says none, and `rope_factor`."""
    said: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):  # Where transformers 4 looks, and 5.
        if not isinstance(found := config.get(name) or {}, dict):
            raise Refused(Refusal.CORRUPT, f"its config has {name} = {found}, which is no JSON object")
        said |= found
    numbers = {"rope_theta": said.get("rope_theta", config.get("rope_theta", theta))}
    kind = said.get("rope_type") or said.get("type") or "default"
    wrong = [name for name, right in LLAMA3.items() if said.get(name) != right] if kind == "llama3" else []
    if kind not in ("default", "llama3") or wrong:
        cause = f"{wrong[0]} = {said.get(wrong[0])}" if wrong else f"rope_type = {kind}"
        raise Refused(
            Refusal.WRONG_MODEL, f"its config has {cause}: a recipe's rotary positions are default or Llama 3's"
        )
    if kind == "llama3":
        numbers["rope_factor"] = said.get("factor")
    for name, number in numbers.items():
        if not isinstance(number, int | float) or number < 1 or not float(number).is_integer():
            raise Refused(Refusal.WRONG_MODEL, f"its config has {name} = {number}, and a recipe a whole number above 0")
    return {"rope_factor": 0} | {name: int(number) for name, number in numbers.items()}


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
        "model": {"type": "BPE", "vocab": {shown(byte): byte for byte in range(BYTES)}, "merges": []},
    }


def _tokenizer_config(recipe: Model) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": recipe.context,
        "clean_up_tokenization_spaces": False,
    }


def _card(recipe: Model, kind: str, origin: Mapping[str, str], cut: Tokenizer | None) -> str:
    """The model card, README.md of the folder."""
    text = "The number of a token is the byte of UTF-8 text"
    text += "." if recipe.vocabulary == BYTES else f"; of {recipe.vocabulary} numbers only the first 256 are used."
    if cut is not None:
        text = f"Its tokens are those of tokenizer.json, {cut.name}."
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
            "The recipe of the run:" if isinstance(recipe, Recipe) else "Its sizes:",
            "",
            "```toml",
            *recipe_lines,
            "```",
            "",
        )
    )
