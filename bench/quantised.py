"""What a model's numbers lose in a file for llama.cpp, and what the file saves.

`python -m bench.quantised [--json]`. Two small models are trained here by the product's own inner loop, and written out
in each dtype. Where the package llama-cpp-python is installed (a C++ compiler makes it: it is in no extra), llama.cpp
opens these files, and its own loss on the same sequences stands beside ours.
"""

import importlib.util
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench import report
from client import data
from client.training import Training
from server import outer
from shared_models import gguf
from shared_models.lm import corpus, hygiene, tokenizer, weights
from shared_models.records.kinds import Recipe
from shared_models.rules.recipes import SMALL

STEPS = 1000
DENSE = replace(SMALL, feed="swiglu", inner_steps=STEPS)
ROWS = {"dense": DENSE, "experts": replace(DENSE, experts=8, experts_per_token=2)}
DTYPES = tuple(gguf.DTYPES)  # The first is whole.
MEANING = {
    f"{row}_{what}": f"{row}: {means}"
    for row in ROWS
    for what, means in (
        {"loss": "held-out loss as trained, nats per byte"}
        | {f"{dtype}_bytes_ratio": f"bytes of the file in {dtype} / four of each weight" for dtype in DTYPES}
        | {f"{dtype}_added": f"what {dtype} adds to the loss" for dtype in DTYPES}
        | {
            f"{dtype}_llama_cpp_added": f"the same, as llama.cpp computes it from the file in {dtype}"
            for dtype in DTYPES
        }
    ).items()
}


def figures() -> dict[str, float]:
    """Train, write out and measure."""
    torch.set_num_threads(1)
    told: dict[str, float] = {}
    for row, recipe in ROWS.items():
        training = Training(
            outer.first(recipe), recipe, data.load("python-stdlib:0/4"), {}, member="acme", round_=1, rounds=1
        )
        for _ in training.until(STEPS):
            pass
        with tempfile.TemporaryDirectory() as scratch:
            told |= {f"{row}_{what}": value for what, value in _measured(training.state()[0], recipe, Path(scratch))}
    return told


def _measured(checkpoint: weights.Tensors, recipe: Recipe, scratch: Path) -> Iterator[tuple[str, float]]:
    text = corpus.held_out()
    for dtype in DTYPES:
        file = scratch / dtype
        written = gguf.export(checkpoint, recipe, file, dtype, {}, text)
        assert written.losses is not None
        assert not written.in_half
        before, after = written.losses
        if dtype == DTYPES[0]:
            yield "loss", before
        yield f"{dtype}_bytes_ratio", written.size / weights.size(checkpoint)
        yield f"{dtype}_added", after - before
        if importlib.util.find_spec("llama_cpp") is not None:
            yield f"{dtype}_llama_cpp_added", _llama_cpp_loss(file, recipe, text) - before


def _llama_cpp_loss(file: Path, recipe: Recipe, text: tokenizer.Text) -> float:
    losses, model = [], opened(file, recipe.context)
    for sequence in hygiene.spread(hygiene.EVALUATED, recipe.context, text):
        likely = torch.from_numpy(logits(model, sequence[:-1].tolist())).log_softmax(-1)
        losses.append(-likely[torch.arange(recipe.context), torch.from_numpy(sequence[1:])].mean().item())
    return math.fsum(losses) / len(losses)


def opened(file: Path, context: int) -> Any:
    """llama.cpp with this file; what it remembers of keys and values is not rounded."""
    from llama_cpp import GGML_TYPE_F32, Llama

    plain = {"type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32, "flash_attn": False}
    return Llama(str(file), n_ctx=context, n_batch=context, logits_all=True, n_threads_batch=1, verbose=False, **plain)


def logits(model: Any, tokens: list[int]) -> weights.Tensor:
    """What it computes, (length, vocabulary)."""
    model.reset()
    model.eval(tokens)
    found: weights.Tensor = model.scores[: len(tokens)].copy()
    return found


if __name__ == "__main__":
    report("quantised", figures(), MEANING)
