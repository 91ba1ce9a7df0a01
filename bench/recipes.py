"""What each way to lower the cost of training saves here: time, memory, and what it does to the loss.

`python -m bench.recipes [--json]`. Each row trains the same model on the same tokens in a process of its own, by the
product's own inner loop, and is held against the plain one of the same run. A row that saves nothing says so.

Two figures are no ratios: how far the closed formula for FLOP lies from what PyTorch counts, and how far what
transformers computes from the exported models lies from what ours do, the worst of all rows. An expert of each member
takes a consortium: its figures are those of `bench.experts`. What becomes of a round that is broken off, as on a spot
machine, is asked by `bench.offpeak`.
"""

import argparse
import ctypes
import gc
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from bench import experts, most_memory, offpeak, report
from client import data
from client.sample import START, New, sampled
from client.train import train
from client.training import ONE, Machine, Training
from server import outer
from shared_models import huggingface
from shared_models.lm import codecs, gpt, models, tokenizer, weights
from shared_models.records.kinds import Recipe
from shared_models.rules.pricing import flop_per_token, length_at, tokens_asked
from shared_models.rules.recipes import SMALL, TOY

STEPS = 12
PLAIN = replace(
    TOY, layers=8, heads=4, width=192, context=256, batch=8, inner_steps=STEPS, inner="muon", inner_rate="0.008"
)  # 3.7 M weights.
MODELS: dict[str, dict[str, Any]] = {  # What changes the model; the rest changes how it is trained.
    "kv_heads": {"kv_heads": 1},
    "rank": {"rank": 48},
    "shared": {"shared": 4},
    "swiglu": {"feed": "swiglu"},
    "experts": {"feed": "swiglu", "experts": 8, "experts_per_token": 2},
}
ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "recompute": {"machine": Machine(recompute=True)},
    **MODELS,
    # A run of several rounds, for its sequences grow over all of it; held against one another.
    "whole": {"rounds": 4},
    "curriculum": {"rounds": 4, "shortest": 64},
    # From weights that were given, and held against one another.
    "continued": {"inner": "adamw", "inner_rate": "0.002"},
    "adapter": {"inner": "adamw", "inner_rate": "0.02", "adapter": 8},
}
WARM_STEPS = 40  # By which these are made.
# A student, and its teacher: the small recipe's model, trained longer than the student is.
STUDENT = replace(PLAIN, layers=2, heads=2, width=48, context=128, inner_steps=300)
TEACHER: dict[str, Any] = {"teacher_layers": 4, "teacher_heads": 4, "teacher_width": 96}
TEACHER |= {"temperature": "2", "taught": "0.5"}
TEACHER_STEPS = 900
# The small recipe on bytes, and on tokens learnt from another shard than it trains on.
BYTES, TOKENS = replace(SMALL, inner_steps=400), 2048
# The same, of so little text of one's own, and as much that a model makes up, or that others have.
LITTLE = 1 << 16
MERGES = "0.1"
# The small recipe in rounds, of one member, on the harder half of twice as many sequences.
PICKED = replace(SMALL, outer="mean", outer_momentum="0", candidates=2)
PICKED_ROUNDS = 8
# The small recipe again, by each inner optimiser at three rates, of which the one between is the best or nearly so.
RATES = {
    "adamw": ("0.002", "0.004", "0.008"),
    "muon": ("0.008", "0.016", "0.032"),
    "adafactor": ("0.001", "0.002", "0.004"),
    "lamb": ("0.032", "0.064", "0.128"),
    "lion": ("0.032", "0.064", "0.128"),
    "scion": ("0.008", "0.016", "0.032"),
}
# The small recipe with experts, for so many rounds.
TOUCHED_ROUNDS = 4
COLUMNS = {  # Of each other row, held against one that it names.
    "cpu_ratio": "CPU time of a token",
    "memory_ratio": "most memory of training beyond what the process had",
    "flop_ratio": "FLOP of a token by the formula, and so its money at a charter's price",
    "weights_ratio": "weights to train and to exchange",
    "update_ratio": "bytes of an update, in 4 bits",
    "optimiser_ratio": "bytes that the optimiser remembers",
    "loss_ratio": "held-out loss behind the same tokens",
    "flop_loss_ratio": "held-out loss behind the same FLOP, to the nearest step",
}
AGAINST = {row: "plain" for row in ROWS if row not in ("plain", "whole", "continued")}
AGAINST |= {"curriculum": "whole", "adapter": "continued"}
NAMES = {"plain": "the plain one", "whole": "all of 256, over a whole run", "continued": "all of the given weights"}
MEANING = {
    f"{row}_{what}": f"{row}: {means} / {NAMES[other]}"
    for row, other in AGAINST.items()
    for what, means in COLUMNS.items()
}
MEANING |= {
    "distilled_cpu_ratio": "a student with a teacher: CPU time of a token / the student's alone",
    "distilled_flop_ratio": "a student with a teacher: FLOP of a token by the formula / the student's alone",
    "distilled_teacher_loss_ratio": "held-out loss of the teacher / the student's alone",
    "distilled_loss_ratio": "a student with a teacher: held-out loss behind the same tokens / the student's alone",
    "distilled_flop_loss_ratio": "a student with a teacher: held-out loss behind the same FLOP / the student's alone",
}
MEANING |= {
    "tokenized_flop_ratio": f"{TOKENS} tokens: FLOP of a byte of text by the formula / by bytes",
    "tokenized_cpu_ratio": f"{TOKENS} tokens: CPU time of a byte of text / by bytes",
    "tokenized_bytes_per_token": f"{TOKENS} tokens: how many bytes of the text that is trained on one is, the mean",
    "tokenized_text_loss_ratio": f"{TOKENS} tokens: held-out loss per byte behind as much text / by bytes",
    "tokenized_flop_loss_ratio": f"{TOKENS} tokens: held-out loss per byte behind as many FLOP / by bytes",
}
MEANING |= {
    "dropout_cpu_ratio": f"{TOKENS} tokens, of whose merges {MERGES} are left out: CPU time of a token / without",
    "dropout_loss_ratio": "merges left out: held-out loss per byte behind as many tokens / without",
    "dropout_little_loss_ratio": f"merges left out, of {LITTLE} bytes of text: held-out loss per byte / without",
}
MEANING |= {
    "synthetic_cpu_ratio": "CPU time to sample a token of text that is new / to train one",
    "synthetic_dropped": "of the documents that were sampled, those that repeat the text or one another",
    "synthetic_loss_ratio": f"{LITTLE} bytes, and as many that a model made up: held-out loss / without these",
    "synthetic_real_loss_ratio": f"{LITTLE} bytes, and as many that another wrote: held-out loss / without these",
    "synthetic_model_loss_ratio": f"held-out loss of the model that made them up / of one that has {LITTLE} bytes",
}
MEANING |= {
    "hardest_cpu_ratio": "the harder half of twice as many sequences: CPU time of a token / all of as many",
    "hardest_flop_ratio": "the harder half: FLOP of a token by the formula / without",
    "hardest_loss_ratio": "the harder half: held-out loss behind the same tokens / without",
    "hardest_flop_loss_ratio": "the harder half: held-out loss behind the same FLOP / without",
    "hardest_little_loss_ratio": f"the harder half, of {LITTLE} bytes of text: held-out loss / without",
}
MEANING |= {
    "touched_of_round": "of all layers' experts, those that some token goes through in a round; the least round",
    "touched_of_step": "the same in a step; the least step",
    "touched_least_share": "of a layer's tokens in a round, those of the expert that gets fewest / of each one, evenly",
}
for _inner in RATES:
    MEANING |= {
        f"{_inner}_bytes": f"{_inner}: bytes that it remembers of a weight, small recipe",
        f"{_inner}_tokens_bytes": f"{_inner}: the same where there are {TOKENS} tokens",
    }
for _inner in [*RATES][1:]:
    MEANING |= {
        f"{_inner}_cpu_ratio": f"{_inner}: CPU time of a token / AdamW's",
        f"{_inner}_loss_ratio": f"{_inner}: held-out loss behind the same tokens, the best of three rates / AdamW's",
    }
FORMULA, EXPORT = "flop_formula_rel_error", "llama_export_max_rel_diff"
MEANING |= {
    FORMULA: "FLOP by the formula against PyTorch's counter, masked half of attention included, the worst row",
    EXPORT: "logits of transformers from the exported model against ours / the largest of ours, the worst row",
}
SPOT = "spot_resume_equal"
MEANING |= experts.MEANING | {SPOT: offpeak.MEANING[SPOT]}
OWN = replace(PLAIN, feed="swiglu", member_experts=1)  # What a member trains.


def figures() -> dict[str, float]:
    """Measure every row in a process of its own. Without transformers there is no figure of the export."""
    told = dict[str, float]()
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch) / "given"
        _in_a_process("plain", "--keep", str(given))
        begin = {row: ("--given", str(given)) for row in ("continued", "adapter")}
        found = {row: _in_a_process(row, *begin.get(row, ())) for row in ROWS}
        for row, other in AGAINST.items():
            ratio = {what: found[row][what] / found[other][what] for what in found[row]}
            steps = round(STEPS / ratio["flop"])
            longer = found[row] if steps == STEPS else _in_a_process(row, *begin.get(row, ()), "--steps", str(steps))
            ratio["flop_loss"] = longer["loss"] / found[other]["loss"]
            told |= {f"{row}_{what}_ratio": each for what, each in ratio.items()}
    for row in ALONE:
        told |= _in_a_process(row)
    every = [PLAIN, *(replace(PLAIN, **changes) for changes in MODELS.values())]
    told[FORMULA] = max(
        map(_formula_error, [*every, replace(PLAIN, **ROWS["adapter"]), OWN, replace(STUDENT, **TEACHER)])
    )
    if importlib.util.find_spec("transformers") is None:
        print(f"{EXPORT}: transformers is not installed; the extra hf brings it", file=sys.stderr)
    else:
        told[EXPORT] = max(map(_export_difference, every))
    return told | experts.figures() | {SPOT: offpeak.resumed()}


def _flop_of_run(recipe: Recipe, rounds: int) -> float:
    """Of a token, the mean over all steps."""
    steps = range(rounds * recipe.inner_steps)
    costs = [flop_per_token(replace(recipe, shortest=0, context=length_at(recipe, rounds, step))) for step in steps]
    return sum(costs) / len(costs)


def _formula_error(recipe: Recipe) -> float:
    """|what PyTorch counts / what the formula says - 1|, of a step on one sequence."""
    tokens = torch.arange(recipe.context + 1)[None] % recipe.vocabulary
    model, masked = outer.model(recipe), 6 * recipe.layers * recipe.context * recipe.width
    if recipe.teacher is not None:
        model.teach(outer.model(recipe.teacher).requires_grad_(False), float(recipe.temperature), float(recipe.taught))
        masked += 2 * recipe.teacher.layers * recipe.context * recipe.teacher.width
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.objective(tokens).backward()  # type: ignore[no-untyped-call]
    # A kernel for attention computes the half that is masked, or not.
    masked -= 4 * recipe.context * recipe.width if recipe.member_experts else 0  # The first layer's goes forward only.
    counted: int = counter.get_total_flops()
    return abs(counted / (recipe.context * (flop_per_token(recipe) + masked)) - 1)


def _export_difference(recipe: Recipe) -> float:
    """The largest difference of a logit / the largest logit, of random weights, on one sequence."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model, random = outer.model(recipe, 1), torch.Generator().manual_seed(1)
    tokens = torch.randint(0, recipe.vocabulary, (1, recipe.context), generator=random)
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        model.head.weight.normal_(generator=random)
        folder = Path(scratch) / "model"
        kind = huggingface.export(weights.of(model), recipe, folder, {})
        one_by_one = {"experts_implementation": "eager"} if kind == "mixtral" else {}
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, **one_by_one)
        mine = model(tokens)[0]
        return float((mine - theirs(tokens).logits).abs().max() / mine.abs().max())


def _in_a_process(row: str, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.recipes", "--row", row, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _keep(path: Path) -> None:
    """Make the weights that are given."""
    torch.set_num_threads(1)
    recipe = replace(PLAIN, inner_steps=WARM_STEPS)
    text = data.load("python-stdlib:1/4")
    training = Training(outer.first(recipe), recipe, text, {}, member="acme", round_=1, rounds=1)
    for _ in training.until(WARM_STEPS):
        pass
    save_file(training.state()[0], path)


def _measured(
    machine: Machine = ONE, given: Path | None = None, rounds: int = 1, steps: int = STEPS, **changes: Any
) -> dict[str, float]:
    """One row, of so many of four rounds: CPU seconds and FLOP of a token, held-out loss in nats per byte, weights that
    are trained; bytes of the most memory, of an update, and of what the optimiser remembers.
    """
    torch.set_num_threads(1)
    recipe = replace(PLAIN, inner_steps=steps, **changes)
    begun = models.begun(recipe, Path(), None if given is None else weights.Stored(given))
    frozen = {} if given is None else dict(weights.Stored(given))
    base, tokens = weights.of(begun), data.load("python-stdlib:0/4")

    def train(rounds: int, steps: int) -> Training:
        state = base, weights.Weights()
        for round_ in range(1, rounds + 1):
            start, memory = frozen | state[0], state[1]
            training = Training(start, recipe, tokens, memory, member="acme", round_=round_, rounds=4, machine=machine)
            for _ in training.until(steps):
                pass
            state = training.state() if round_ < rounds else state
        return training

    train(1, 1)  # What is set up once.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # Else what that has freed is still counted as had, and not as needed again.
    trained, started = list[Training](), time.process_time()
    most = most_memory(lambda: trained.append(train(rounds, steps)))
    cpu = time.process_time() - started
    reached, memory = trained[0].state()
    shapes = codecs.shapes(reached)
    return {
        "cpu": cpu / (rounds * tokens_asked(recipe)),
        "memory": most,
        "flop": _flop_of_run(recipe, rounds),
        "weights": sum(map(math.prod, shapes.values())),
        "update": codecs.total("int4", shapes),
        "optimiser": weights.size(memory),
        "loss": outer.held_out_loss(begun, reached, recipe),
    }


def _trained(
    recipe: Recipe, tokens: tokenizer.Tokens | data.Shard, beside: weights.Tensors | None = None
) -> tuple[weights.Weights, weights.Weights, float]:
    """What all steps of one member's only round come to: weights, the optimiser's memory, and CPU seconds."""
    started = time.process_time()
    start = outer.first(recipe) | dict(beside or {})
    training = Training(start, recipe, tokens, {}, member="acme", round_=1, rounds=1)
    for _ in training.until(recipe.inner_steps):
        pass
    cpu = time.process_time() - started
    return *training.state(), cpu


def _distilled() -> dict[str, float]:
    """A student that learns from a teacher too, held against one that does not: for as many tokens, and as many FLOP.

    What the teacher took to train is not counted: it is there.
    """
    torch.set_num_threads(1)
    tokens, taught = data.load("python-stdlib:0/4"), replace(STUDENT, **TEACHER)

    def train(recipe: Recipe, beside: weights.Weights) -> tuple[weights.Weights, float, float]:
        """Trained weights, their held-out loss, and CPU seconds of a step."""
        reached, _, cpu = _trained(recipe, tokens, beside)
        return reached, outer.held_out_loss(outer.model(recipe), reached, recipe), cpu / recipe.inner_steps

    assert taught.teacher is not None
    teacher, least, _ = train(replace(taught.teacher, inner_steps=TEACHER_STEPS), {})
    _, alone, cpu = train(STUDENT, {})
    _, learnt, slower = train(taught, gpt.beside(gpt.Shape.of(taught), teacher))
    flop = flop_per_token(taught) / flop_per_token(STUDENT)
    _, longer, _ = train(replace(STUDENT, inner_steps=round(flop * STUDENT.inner_steps)), {})
    return {
        "distilled_cpu_ratio": slower / cpu,
        "distilled_flop_ratio": flop,
        "distilled_teacher_loss_ratio": least / alone,
        "distilled_loss_ratio": learnt / alone,
        "distilled_flop_loss_ratio": learnt / longer,
    }


def _tokenized() -> dict[str, float]:
    """A run on a tokenizer's tokens, held against one on bytes: behind as much text, and behind as many FLOP."""
    torch.set_num_threads(1)
    text = data.load("python-stdlib:0/4")
    with tempfile.TemporaryDirectory() as scratch:
        public, made, folder = (Path(scratch) / name for name in ("public", "tokenizer.json", "tokenizers"))
        public.write_bytes(data.load("python-stdlib:1/4").tobytes())
        made.write_bytes(tokenizer.train([public], TOKENS))
        cut = tokenizer.keep(made, folder)

        def train(recipe: Recipe, tokens: tokenizer.Tokens) -> tuple[float, float]:
            """The held-out loss, in nats per byte, and CPU seconds of a step."""
            reached, _, cpu = _trained(recipe, tokens)
            loss = outer.held_out_loss(outer.model(recipe), reached, recipe, tokenizers=folder)
            return loss, cpu / recipe.inner_steps

        tokens = np.concatenate(list(cut.encode(text)))
        longer, recipe = text.size / tokens.size, replace(BYTES, vocabulary=TOKENS, tokenizer=cut.name)
        flop = flop_per_token(recipe) / flop_per_token(BYTES)
        alone, cpu = train(BYTES, text)
        as_much_text, _ = train(replace(recipe, inner_steps=round(BYTES.inner_steps / longer)), tokens)
        as_many_flop, slower = train(replace(recipe, inner_steps=round(BYTES.inner_steps / flop)), tokens)
    return {
        "tokenized_flop_ratio": flop / longer,
        "tokenized_cpu_ratio": slower / cpu / longer,
        "tokenized_bytes_per_token": longer,
        "tokenized_text_loss_ratio": as_much_text / alone,
        "tokenized_flop_loss_ratio": as_many_flop / alone,
    }


def _dropout() -> dict[str, float]:
    """Merges left out of what is trained on, or not: on a whole shard, and on little text, for as many tokens."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        public, made, folder = (Path(scratch) / name for name in ("public", "tokenizer.json", "tokenizers"))
        public.write_bytes(data.load("python-stdlib:1/4").tobytes())
        made.write_bytes(tokenizer.train([public], TOKENS))
        cut = tokenizer.keep(made, folder)

        def train(text: tokenizer.Text, dropout: str) -> tuple[float, float]:
            """The held-out loss, in nats per byte, and CPU seconds of all steps."""
            recipe = replace(BYTES, vocabulary=TOKENS, tokenizer=cut.name, merge_dropout=dropout)
            shard = data.Shard(np.concatenate(list(cut.encode(text))), cut=cut if dropout != "0" else None)
            reached, _, cpu = _trained(recipe, shard)
            return outer.held_out_loss(outer.model(recipe), reached, recipe, tokenizers=folder), cpu

        text = data.load("python-stdlib:0/4")
        (whole, cpu), (left_out, slower) = train(text, "0"), train(text, MERGES)
        (little, _), (little_left_out, _) = train(text[:LITTLE], "0"), train(text[:LITTLE], MERGES)
    return {
        "dropout_cpu_ratio": slower / cpu,
        "dropout_loss_ratio": left_out / whole,
        "dropout_little_loss_ratio": little_left_out / little,
    }


def _synthetic() -> dict[str, float]:
    """A member that has little text, with and without as much that a model of another's text makes up, for as many
    steps; and with as much of that other's own text.
    """
    torch.set_num_threads(1)
    other, own = data.load("python-stdlib:1/4"), data.load("python-stdlib:0/4")[:LITTLE]

    def train(tokens: tokenizer.Tokens | data.Shard) -> tuple[gpt.GPT, float, float]:
        """The model, its held-out loss, and CPU seconds of a token."""
        reached, _, cpu = _trained(BYTES, tokens)
        model = outer.model(BYTES)
        loss = outer.held_out_loss(model, reached, BYTES)
        weights.put(reached, model)
        return model, loss, cpu / (BYTES.inner_steps * BYTES.batch * BYTES.context)

    model, best, _ = train(other)
    new, made, started = New(own), b"", time.process_time()
    random = np.random.Generator(np.random.PCG64(1))
    start = np.frombuffer(START, np.uint8)
    while len(made) < LITTLE:
        made += b"".join(each for each in sampled(model, start, BYTES.context, 1.0, random) if new.take(each))
    sampling = (time.process_time() - started) / len(made)
    _, alone, cpu = train(own)
    _, mixed, _ = train(data.Shard(own, np.frombuffer(made[:LITTLE], np.uint8), "0" * 64))
    _, real, _ = train(data.Shard(own, other[:LITTLE], "0" * 64))
    dropped = new.repeat_own + new.repeat_sampled
    return {
        "synthetic_cpu_ratio": sampling / cpu,
        "synthetic_dropped": dropped / (dropped + new.documents),
        "synthetic_loss_ratio": mixed / alone,
        "synthetic_real_loss_ratio": real / alone,
        "synthetic_model_loss_ratio": best / alone,
    }


def _hardest() -> dict[str, float]:
    """The sequences that each round's base predicts worst, or all: behind as many tokens, and behind as many FLOP."""
    torch.set_num_threads(1)
    text, plain = data.load("python-stdlib:0/4"), replace(PICKED, candidates=1)

    def run(recipe: Recipe, tokens: tokenizer.Tokens, rounds: int = PICKED_ROUNDS) -> tuple[float, float]:
        """The held-out loss, in nats per byte, and CPU seconds of all steps."""
        base, memory = outer.first(recipe), weights.Weights()
        started = time.process_time()
        for number in range(1, rounds + 1):
            turn: dict[str, Any] = {"member": "acme", "round_": number, "rounds": rounds}
            trained = train(base, recipe, tokens, memory, report=lambda _: None, **turn)
            base, memory = weights.plus(base, trained.update), trained.memory
        cpu = time.process_time() - started
        return outer.held_out_loss(outer.model(recipe), base, recipe), cpu

    (alone, cpu), (harder, slower) = run(plain, text), run(PICKED, text)
    flop = flop_per_token(PICKED) / flop_per_token(plain)
    longer, _ = run(plain, text, round(flop * PICKED_ROUNDS))
    (little, _), (little_harder, _) = run(plain, text[:LITTLE]), run(PICKED, text[:LITTLE])
    return {
        "hardest_cpu_ratio": slower / cpu,
        "hardest_flop_ratio": flop,
        "hardest_loss_ratio": harder / alone,
        "hardest_flop_loss_ratio": harder / longer,
        "hardest_little_loss_ratio": little_harder / little,
    }


def _optimisers() -> dict[str, float]:
    """Each inner optimiser at three rates, for as many steps; the losses of all go to stderr."""
    torch.set_num_threads(1)
    text = data.load("python-stdlib:0/4")

    def train(recipe: Recipe) -> tuple[float, float, float]:
        """The held-out loss, CPU seconds of all steps, and bytes of memory for each weight."""
        reached, memory, cpu = _trained(recipe, text)
        loss = outer.held_out_loss(outer.model(recipe), reached, recipe)
        return loss, cpu, weights.size(memory) / (weights.size(reached) / 4)

    told, losses, cpu = dict[str, float](), dict[str, float](), dict[str, float]()
    train(replace(BYTES, inner_steps=1))  # What is set up once.
    for inner, rates in RATES.items():
        found = [train(replace(BYTES, inner=inner, inner_rate=rate)) for rate in rates]
        print(inner, {rate: loss for rate, (loss, _, _) in zip(rates, found, strict=True)}, file=sys.stderr, flush=True)
        losses[inner], cpu[inner] = min(loss for loss, _, _ in found), min(seconds for _, seconds, _ in found)
        told[f"{inner}_bytes"] = found[0][2]
        told[f"{inner}_tokens_bytes"] = train(replace(BYTES, inner=inner, vocabulary=TOKENS, inner_steps=1))[2]
    for inner in [*RATES][1:]:
        told[f"{inner}_cpu_ratio"] = cpu[inner] / cpu["adamw"]
        told[f"{inner}_loss_ratio"] = losses[inner] / losses["adamw"]
    return told


def _touched() -> dict[str, float]:
    """Which experts tokens go through in one member's rounds: an update of the others would not have to be sent."""
    torch.set_num_threads(1)
    recipe = replace(SMALL, **MODELS["experts"])
    step = Counter[torch.nn.Module]()  # Tokens by expert.

    def count(module: torch.nn.Module, given: tuple[torch.Tensor], _: object) -> None:
        if isinstance(module, gpt.Expert):
            step[module] += len(given[0])

    state, text = (outer.first(recipe), weights.Weights()), data.load("python-stdlib:0/4")
    every = recipe.layers * recipe.experts
    even = recipe.inner_steps * recipe.batch * recipe.context * recipe.experts_per_token / recipe.experts
    touched, rounds, least = list[float](), list[float](), list[float]()
    with register_module_forward_hook(count):
        for round_ in range(1, TOUCHED_ROUNDS + 1):
            whole, (start, memory) = Counter[torch.nn.Module](), state
            training = Training(start, recipe, text, memory, member="acme", round_=round_, rounds=TOUCHED_ROUNDS)
            for _ in training.until(recipe.inner_steps):
                touched.append(len(+step) / every)
                whole.update(step)
                step.clear()
            rounds.append(len(+whole) / every)
            least.append(min(whole.values()) / even)
            state = training.state()
    return {"touched_of_round": min(rounds), "touched_of_step": min(touched), "touched_least_share": min(least)}


ALONE = {  # Rows held against what they measure beside.
    "distilled": _distilled,
    "tokenized": _tokenized,
    "dropout": _dropout,
    "synthetic": _synthetic,
    "hardest": _hardest,
    "optimisers": _optimisers,
    "touched": _touched,
}


def main() -> None:
    """Measure; or be the process that is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.recipes", description="ways to lower the cost of training")
    parser.add_argument("--row", choices=(*ROWS, *ALONE), help="measure this one in this process")
    parser.add_argument("--keep", type=Path, help="make the weights that rows begin with, and keep them here")
    parser.add_argument("--given", type=Path, help="begin with these")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a round; default %(default)s")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    if chosen.keep:
        _keep(chosen.keep)
        print("{}")
    elif chosen.row in ALONE:
        print(json.dumps(ALONE[chosen.row]()))
    elif chosen.row:
        print(json.dumps(_measured(given=chosen.given, steps=chosen.steps, **ROWS[chosen.row])))
    else:
        report("recipes", figures(), MEANING)


if __name__ == "__main__":
    main()
