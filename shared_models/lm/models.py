"""The model of a recipe: ours (`gpt`), or the one that a Python file builds. No other place builds either.

A recipe names such a file by its SHA-256, and a function in it: `sha256:HEX:build`. Each party keeps it under that name
in `models/` of its folder, where its operator has put it who has read it; who has not does not consent. The function is
given the recipe and returns an `nn.Module`: tokens (batch, length) of int64 in, logits (batch, length, vocabulary) out.
What the module may have beside that:

    objective(tokens)    what training lowers, of (batch, length + 1); without it the mean cross-entropy, in nats
    matrices             the names of the parameters that Muon steps; without it by their shape: `Foreign.matrices`

Whatever it lowers, its checkpoints are scored by cross-entropy, so that losses in nats per byte are comparable.
"""

import ast
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it.
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shared_models import durable
from shared_models.lm import gpt, own, weights
from shared_models.records.refusals import Refusal, Refused

IMPORTS = {"torch", *sys.stdlib_module_names}  # All else is there in some version, which no digest names.
NEAR = Fraction(1, 100)  # What a recipe says of FLOP may be off by no more.
CLOSE = 1e-4  # Logits, where only later tokens differ.
OTHERWISE = "the same tokens give other numbers another time, such as by dropout"
_BUILDING = threading.Lock()  # PyTorch's random numbers are one stream for all threads.


class Recipe(gpt.Sizes, Protocol):
    """What a recipe says of any model: see `records.kinds.Recipe`."""

    @property
    def model(self) -> str: ...
    @property
    def model_flop(self) -> int: ...
    @property
    def model_flop_per_position(self) -> int: ...
    @property
    def ours(self) -> bool: ...
    @property
    def batch(self) -> int: ...
    @property
    def shortest(self) -> int: ...


R = TypeVar("R", bound=Any)


class Foreign(nn.Module):
    """A file's module, in the place of a `gpt.GPT`. Its parameters have the names that they have in that module."""

    def __init__(self, module: nn.Module, vocabulary: int) -> None:
        super().__init__()
        self.module, self._vocabulary = module, vocabulary

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.module(tokens)
        return logits

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters(prefix, recurse, remove_duplicate)

    def loss(self, tokens: Tensor) -> Tensor:
        """As that of `gpt.GPT`."""
        return F.cross_entropy(self(tokens[:, :-1]).float().flatten(0, 1), tokens[:, 1:].flatten())

    def objective(self, tokens: Tensor) -> Tensor:
        """What training lowers."""
        theirs: Callable[[Tensor], Tensor] | None = getattr(self.module, "objective", None)
        return self.loss(tokens) if theirs is None else theirs(tokens)

    def matrices(self) -> set[str]:
        """The names of what Muon steps: what the module says, or parameters of two dimensions that are neither in an
        `nn.Embedding` nor have a row for each token of the vocabulary, as a head has.
        """
        if (said := getattr(self.module, "matrices", None)) is not None:
            return set(said)
        embeddings = {each.weight for each in self.module.modules() if isinstance(each, nn.Embedding)}
        named = self.named_parameters()
        flat = {name: each for name, each in named if each.dim() == 2 and each not in embeddings}
        return {name for name, each in flat.items() if each.shape[0] != self._vocabulary}


Model = gpt.GPT | Foreign


def made(recipe: Recipe, folder: Path, *, recompute: bool = False) -> Model:
    """The recipe's model, to be given weights. `folder` has the file of one that is not ours.

    Raises `Refused`: NOT_SET_UP, CORRUPT, WRONG_MODEL.
    """
    if recipe.ours:
        return gpt.GPT(gpt.Shape.of(recipe), recompute=recompute)
    return Foreign(_built(recipe, folder), recipe.vocabulary)


def begun(recipe: Recipe, folder: Path, given: weights.Tensors | None) -> Model:
    """The model with which a run begins: with weights that were given, or with those that the recipe's seed draws.

    Raises `Refused`, as `made`.
    """
    if recipe.ours:
        shape = gpt.Shape.of(recipe)
        return gpt.fresh(shape, recipe.seed) if given is None else gpt.begun(shape, given)
    model = made(recipe, folder)
    if given is not None:
        weights.put(given, model)
    return model


def shapes(recipe: Recipe, folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of what is trained of it, by name: those of its checkpoints. Raises `Refused`, as `made`."""
    if recipe.ours:
        return gpt.shapes(gpt.Shape.of(recipe))
    return {name: tuple(weight.shape) for name, weight in weights.trained(made(recipe, folder))}


def sent_shapes(recipe: Recipe, folder: Path) -> dict[str, tuple[int, ...]]:
    """The same of what one member trains, and sends: of members' experts its own. Raises `Refused`, as `made`."""
    return gpt.shapes(own.alone(gpt.Shape.of(recipe))) if recipe.ours else shapes(recipe, folder)


# A file.


def name(given: str) -> str:
    """How a recipe names what FILE:FUNCTION says, whose file is read and not run. Raises `Refused`: NOT_FOUND,
    BAD_FIELD, WRONG_MODEL.
    """
    return _given(given)[0]


def keep(given: str, folder: Path) -> str:
    """Keep a copy of the file in this folder, under its SHA-256; how a recipe names it. Raises `Refused`, as `name`."""
    named, data = _given(given)
    durable.make_folder(folder)
    durable.write(folder / named.split(":")[1], data)
    return named


def _given(given: str) -> tuple[str, bytes]:
    path, _, function = given.rpartition(":")
    if not path or not function.isidentifier():
        raise Refused(Refusal.BAD_FIELD, f"{given} is not FILE:FUNCTION, such as mymodel.py:build")
    data = _bytes(Path(path))
    _compiled(data, function, path)
    return f"sha256:{hashlib.sha256(data).hexdigest()}:{function}", data


def check_held(model: str, folder: Path) -> None:
    """Whether the folder has the file of this model, to the byte; it is not run. Raises `Refused`, as `made`."""
    if model != "gpt":
        _held(model, folder)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"the model {path}: {error.strerror}") from None


def _held(model: str, folder: Path) -> tuple[Any, str]:
    """The code of the file, and the function's name. What is hashed is what runs: the file is read once."""
    _, digest, function = model.split(":")
    path = folder / digest
    if not path.is_file():
        cause = f"the run's model is of a file {digest[:12]}…, which is not in {folder}"
        raise Refused(
            Refusal.NOT_SET_UP, f"{cause}: read it, and `consortium model keep FILE:{function}` puts it there"
        )
    data = _bytes(path)
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise Refused(Refusal.CORRUPT, f"{path} is {found[:12]}…, and its code was not run")
    return _compiled(data, function, f"model {digest[:12]}…"), function


def _compiled(data: bytes, function: str, where: str) -> Any:
    """Raises `Refused(WRONG_MODEL)` for what is no Python, lacks the function, or imports what no digest names."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError) as error:
        raise Refused(Refusal.WRONG_MODEL, f"{where} is no Python: {error}") from None
    for node in ast.walk(tree):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [f"{'.' * node.level}{node.module or ''}"] if isinstance(node, ast.ImportFrom) else []
        if odd := [each for each in names if each.partition(".")[0] not in IMPORTS]:
            raise Refused(
                Refusal.WRONG_MODEL, f"{where} imports {odd[0]}: torch and Python's own library, nothing else"
            )
    if not any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
        raise Refused(Refusal.WRONG_MODEL, f"{where} has no function {function}")
    return compile(tree, where, "exec")


@contextmanager
def _theirs(what: str) -> Iterator[None]:
    """Anything may go wrong in a file's code: it is refused by its own words."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it raises.
        raise Refused(Refusal.WRONG_MODEL, f"{what}: {type(error).__name__}: {str(error)[:300]}") from None


def _built(recipe: Recipe, folder: Path) -> nn.Module:
    """The file's module. Its random numbers are drawn from the recipe's seed each time it is built."""
    code, function = _held(recipe.model, folder)
    what = f"{function}() of the model {recipe.model.split(':')[1][:12]}…"
    with _BUILDING, torch.random.fork_rng(devices=()), _theirs(what):
        torch.manual_seed(recipe.seed)
        file = ModuleType(f"model_{recipe.model.split(':')[1]}")
        sys.modules[file.__name__] = file  # torch.compile asks for it.
        exec(code, vars(file))  # noqa: S102 - what is run was hashed: `_held`.
        module = vars(file)[function](recipe)
    if not isinstance(module, nn.Module):
        raise Refused(Refusal.WRONG_MODEL, f"{what} returns {type(module).__name__}, and no nn.Module")
    for called, each in module.named_parameters():
        if each.dtype != torch.float32 or not each.requires_grad:
            how = f"of {each.dtype}" if each.requires_grad else "frozen"
            raise Refused(Refusal.WRONG_MODEL, f"its parameter {called} is {how}: all are float32, and trained")
    if not any(True for _ in module.parameters()):
        raise Refused(Refusal.WRONG_MODEL, f"{what} returns a module without parameters")
    return module


# What holds of any file's model.


def check(recipe: Recipe, folder: Path) -> None:
    """Whether a run can train this model, and what its recipe says of FLOP is what is counted. Ours it can.

    1. Two that are built by the same seed are the same, and give the same numbers for the same tokens, again too: no
       dropout, and nothing that a step leaves behind which no checkpoint holds, such as the means of a BatchNorm.
    2. Logits are (batch, length, vocabulary), and none depends on a later token, as far as its first weights show.
    3. What it lowers is one finite number.
    4. FLOP counted over the way forward and back are what the recipe says, to 1 %: of a batch as in the run, in
       sequences of each of its lengths.

    Raises `Refused`: as `made`; WRONG_MODEL; WRONG_FLOP, with both numbers.
    """
    if recipe.ours:
        return
    for length, counted in _counted(recipe, folder).items():
        said = recipe.model_flop + recipe.model_flop_per_position * length
        if abs(said - counted) > NEAR * counted:
            cause = (
                f"the recipe says {said:,} FLOP per token in sequences of {length}, and {round(counted):,} are counted"
            )
            raise Refused(Refusal.WRONG_FLOP, cause)


def stated(recipe: R, folder: Path) -> R:
    """The recipe with FLOP as they are counted, if it says none. Raises `Refused`, as `check`."""
    if recipe.ours or recipe.model_flop:
        return recipe
    counted = _counted(recipe, folder)
    (short, least), (long, most) = min(counted.items()), max(counted.items())
    slope = (most - least) / (long - short) if long > short else Fraction(0)
    per_position = max(0, round(slope))
    return replace(recipe, model_flop=round(most - per_position * long), model_flop_per_position=per_position)


def _counted(recipe: Recipe, folder: Path) -> dict[int, Fraction]:
    """FLOP per token, as PyTorch counts products, by each length of the run's sequences, from the shortest."""
    one, other = made(recipe, folder), made(recipe, folder)
    assert isinstance(one, Foreign)
    assert isinstance(other, Foreign)
    if weights.digest(weights.of(one)) != weights.digest(weights.of(other)):
        raise Refused(Refusal.WRONG_MODEL, f"two models by seed {recipe.seed} begin with other weights")
    if alien := one.matrices() - {each for each, weight in one.named_parameters() if weight.dim() == 2}:
        raise Refused(Refusal.WRONG_MODEL, f"its matrices name {min(alien)}, which is no parameter of two dimensions")
    found, lengths = {}, [recipe.shortest or recipe.context]
    while lengths[-1] < recipe.context:
        lengths.append(2 * lengths[-1])
    for length in lengths:
        random = torch.Generator().manual_seed(recipe.seed)
        tokens = torch.randint(0, recipe.vocabulary, (recipe.batch, length + 1), generator=random)
        _check_logits(one, recipe, tokens[:, :-1])
        before = _state(one)
        with FlopCounterMode(display=False) as counter:
            first = _stepped(one, tokens)
        found[length] = Fraction(counter.get_total_flops(), recipe.batch * length)
        if moved := [each for each, there in _state(one).items() if not torch.equal(there, before[each])]:
            raise Refused(Refusal.WRONG_MODEL, f"a step changes its buffer {moved[0]}, which no checkpoint holds")
        for again in (_stepped(one, tokens), _stepped(other, tokens)):
            if odd := [each for each in first if not torch.equal(first[each], again[each])]:
                raise Refused(Refusal.WRONG_MODEL, f"{OTHERWISE}: {odd[0] or 'what it lowers'}")
    return found


def _check_logits(model: Foreign, recipe: Recipe, tokens: Tensor) -> None:
    right = (*tokens.shape, recipe.vocabulary)
    later = tokens.clone()
    later[:, -1] = (later[:, -1] + 1) % recipe.vocabulary
    with torch.no_grad(), _theirs("its forward"):
        logits, again, others = model(tokens), model(tokens), model(later)
        if not isinstance(logits, Tensor) or logits.shape != right:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise Refused(Refusal.WRONG_MODEL, f"of tokens {tuple(tokens.shape)} it makes {found}, and not {right}")
        if not torch.equal(logits, again):
            raise Refused(Refusal.WRONG_MODEL, OTHERWISE)
        if not torch.allclose(logits[:, :-1], others[:, :-1], CLOSE, CLOSE):
            raise Refused(
                Refusal.WRONG_MODEL, "its logits depend on tokens that are behind them, which they are to predict"
            )


def _state(model: Foreign) -> dict[str, Tensor]:
    return {each: buffer.clone() for each, buffer in model.module.named_buffers()}


def _stepped(model: Foreign, tokens: Tensor) -> dict[str, Tensor]:
    """What it lowers, by no name, and the gradient of each parameter that has one."""
    with _theirs("what it lowers"):
        lowered = model.objective(tokens)
        if lowered.dim() or not lowered.isfinite():
            raise Refused(Refusal.WRONG_MODEL, f"what it lowers is no finite number: {lowered!r}"[:200])
        lowered.backward()  # type: ignore[no-untyped-call]
    found = {"": lowered.detach()}
    for each, weight in model.named_parameters():
        if weight.grad is not None:
            found[each], weight.grad = weight.grad, None
    return found
