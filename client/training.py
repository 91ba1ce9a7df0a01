"""A member's training at work: inner steps from a shared checkpoint on its own text. Read it top to bottom."""

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from client import sharing
from client.data import Batches, Picked, Shard
from shared_models.lm import borrowed, gpt, models, weights
from shared_models.lm.inner import Inner
from shared_models.lm.tokenizer import Tokens
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Point

NUMBERS = {"bf16": "bfloat16", "fp32": "float32"}  # What a build calls them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How a member's machine computes. A recipe is the same for all of them; the build that a receipt names says it."""

    processor: str = "cpu"  # PyTorch's name of it, such as cuda or cuda:1.
    processes: int = 1  # So many share every batch; each holds the whole model,
    shard: bool = False  # or a part of the weights, the gradients and what the optimiser remembers;
    tensor: bool = False  # or computes with its part of every matrix, on the whole batch: `client.parallel`.
    compile: bool = False  # By torch.compile: minutes before the first step, and faster ones.
    recompute: bool = False  # Less memory, more time: see `gpt.GPT`.
    models: str = ""  # The folder with the files of models that are not ours: `lm.models`.

    @classmethod
    def told(cls, config: Mapping[str, Any]) -> "Machine":
        """As `client.home.Home.machine` says it."""
        flags = {name: name in config for name in ("shard", "tensor", "compile", "recompute")}
        processor, processes = str(config.get("processor", "cpu")), int(config.get("processes", 1))
        return cls(processor=processor, processes=processes, models=str(config.get("models", "")), **flags)

    def threads(self) -> int:
        """Of each process, when this thread's are shared among them."""
        return max(1, torch.get_num_threads() // self.processes)

    def check(self, recipe: Recipe) -> None:
        """Whether it can train this recipe here. Raises `Refused`, as `sharing.check` and `check_here`."""
        sharing.check(self, recipe)
        self.check_here()

    def check_here(self) -> None:
        """Whether it can train anything here. Raises `Refused`: BAD_FIELD, NOT_SET_UP."""
        sharing.check_alone(self)
        if self.compile and not any(map(shutil.which, ("g++", "clang++", os.environ.get("CXX", "g++")))):
            raise Refused(Refusal.NOT_SET_UP, "compile = true needs a C++ compiler, and there is none")
        gpt.check_processor(self.processor)


ONE = Machine()  # One process, on the processor that every machine has.


class Loss(nn.Module):
    """A model whose output is what training lowers: to compile it or to share it out, PyTorch wraps a module's call."""

    def __init__(self, model: models.Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.objective(tokens)


class Training:
    """One member's part of a round, at work. All state is here: the model, the optimiser, the batches.

    An auditor begins where a segment does, with the state that was there, and goes the same way: there is no other.
    """

    def __init__(
        self,
        start: weights.Weights,
        recipe: Recipe,
        tokens: Tokens | Shard,
        memory: weights.Weights,
        *,
        member: str,
        round_: int,
        rounds: int,
        step: int = 0,
        picked: Picked = (),
        machine: Machine = ONE,
        rank: int = 0,
    ) -> None:
        """Before inner step `step`, whose weights and optimiser's memory these are: what is frozen beside them included
        (`gpt.beside`), and of members' experts the one that is trained.

        With several processes each has one of these, by its rank, and they call the same in the same order.
        """
        if machine.processor.startswith("cuda"):
            _same_bits()
        alone = replace(recipe, member_experts=min(1, recipe.member_experts))
        model = models.made(alone, Path(machine.models), recompute=machine.recompute)
        weights.put(start, model)
        model.to(machine.processor)
        if recipe.teacher is not None:
            teacher = gpt.GPT(gpt.Shape.of(recipe.teacher))
            weights.put({name: start[f"{gpt.TEACHER}{name}"] for name in weights.views(teacher)}, teacher)
            teacher.requires_grad_(False)
            assert isinstance(model, gpt.GPT)
            model.teach(teacher.to(machine.processor), float(recipe.temperature), float(recipe.taught))
        if machine.processes > 1 and machine.shard:
            from torch.distributed.fsdp import fully_shard  # Heavy.

            assert isinstance(model, gpt.GPT)  # `Machine.check`.
            for block in (*model.blocks, model):  # Each layer's are together only while it computes (FSDP2).
                fully_shard(block)
        self._rows: npt.NDArray[np.int64] | None = None
        if machine.processes > 1 and machine.tensor:
            from client import parallel  # Heavy.

            assert isinstance(model, gpt.GPT)  # `Machine.check`.
            self._rows = parallel.share_out(model, machine.processor, machine.processes)
            memory = parallel.in_order(memory, self._rows)
        self._model = model
        self._loss: Callable[[Tensor], Tensor] = Loss(model)
        if machine.processes > 1 and not (machine.shard or machine.tensor):
            self._loss = DistributedDataParallel(Loss(model))
        if machine.compile:
            self._loss = torch.compile(self._loss)
        self._optimiser = Inner(self._model, recipe.inner, memory)
        self._batches = Batches(tokens, recipe, picked, member=member, round_=round_, rounds=rounds)
        self._recipe, self._before, self._whole = recipe, (round_ - 1) * recipe.inner_steps, rounds * recipe.inner_steps
        self._machine, self._rank, self._step = machine, rank, step
        for _ in range(step):
            self._batches.draw()

    def until(self, step: int) -> Iterator[float]:
        """Train up to before this inner step; the loss of each step as it is made, in nats per token.

        The rate falls linearly to a tenth over the whole run, by the same law within every member, so that nobody
        needs to be told it. Until the optimiser has made a twentieth of the run's steps it is warmed up: at the run's
        beginning, and wherever it had to start afresh.
        """
        warm, processor = max(1, self._whole // 20), torch.device(self._machine.processor)
        shares = sharing.shares(self._machine)
        while self._step < step:
            done = (self._before + self._step) / self._whole
            warmth = min(1.0, (self._optimiser.steps + 1) / warm)
            batch = self._batches.draw()[self._rank % shares :: shares]
            with torch.autocast(processor.type, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
                loss = self._loss(torch.from_numpy(batch).to(processor))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step(float(self._recipe.inner_rate) * (1 - 0.9 * done) * warmth)
            self._step += 1
            if shares > 1:
                distributed.all_reduce(loss := loss.detach() / shares)
            yield loss.item()

    def state(self) -> tuple[weights.Weights, weights.Weights]:
        """Copies of the weights, and of what the optimiser remembers."""
        reached, memory = weights.of(self._model), self._optimiser.memory()
        if self._rows is None:
            return reached, memory
        from client import parallel

        return parallel.in_order(reached, self._rows.argsort()), parallel.in_order(memory, self._rows.argsort())

    @property
    def data(self) -> str:
        """The digest of every token trained on so far: `Batches.digest`."""
        return self._batches.digest

    def point(self) -> Point:
        """What a receipt commits to here."""
        reached, memory = self.state()
        return Point(step=self._step, data=self.data, weights=weights.digest(reached), memory=weights.digest(memory))


def _same_bits() -> None:
    """Of CUDA's kernels, have PyTorch take those that come to the same bits each time: an audit asks for them.

    Otherwise attention adds up gradients in the order in which its blocks happen to end. cuBLAS reads its variable when
    it is first called, and then has one workspace for each stream (NVIDIA cuBLAS, results reproducibility).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # Nothing reads what nobody wrote.


def build(precision: str, machine: Machine = ONE, inner: str = "adamw") -> str:
    """What this thread computes with, as a receipt says it: where two say the same, the same steps give the same bits.

    PyTorch's version / the instruction set that its kernels use / processes, where they are several, and threads of
    each / the number format of matrix products, by the recipe's precision, whether it was compiled, and the release of
    the library that the recipe's optimiser is of, if it is not PyTorch's / the model of processor, by which libraries
    under PyTorch choose kernels of their own. Raises `Refused`, as `borrowed.version`.
    """
    kernels, model = torch.backends.cpu.get_cpu_capability(), _processor()
    if machine.processor != "cpu":
        kernels, model = machine.processor.partition(":")[0], _plain(torch.cuda.get_device_name(machine.processor))
    how = "s" if machine.shard else "t" if machine.tensor else "x"
    together = f"{machine.processes}{how}" if machine.processes > 1 else ""
    threads = f"{together}{machine.threads()}"
    numbers = NUMBERS[precision] + ("-compiled" if machine.compile else "")
    numbers += f"-optimizer-{release}" if (release := borrowed.version(inner)) else ""
    return "/".join((torch.__version__, kernels, threads, numbers, model))


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """Such as x86_64-AuthenticAMD-25-17; where the system does not tell, the architecture alone."""
    told = dict[str, str]()
    if path.is_file():
        for line in path.read_text().partition("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            told[name.strip()] = value.strip()
    parts = (platform.machine(), *(told.get(name, "") for name in ("vendor_id", "cpu family", "model")))
    return _plain("-".join(filter(None, parts)))


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "-", text)[:40]
