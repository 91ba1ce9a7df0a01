"""A model that a file builds: what of it a run can train again, and is refused by name if it cannot."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from foreign import ATTENTIVE, GRU, recipe_of, written
from world import TOY

from client.team import at_work
from client.training import Machine
from shared_models import gguf, huggingface
from shared_models.lm import corpus, gpt, models, weights
from shared_models.lm.inner import Inner
from shared_models.records.refusals import Refusal, Refused


def test_an_objective_and_matrices_of_its_own_are_what_training_takes(tmp_path):
    recipe = recipe_of(tmp_path, ATTENTIVE, inner="muon", shortest=8)
    assert recipe.model_flop_per_position == 12 * recipe.width  # Two products, forward and back, unmasked.
    model = models.begun(recipe, tmp_path, None)
    tokens = torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(1))
    assert model.objective(tokens) > model.loss(tokens)
    assert model.matrices() == {"qkv.weight", "out.weight"}
    optimiser = Inner(model, "muon", {})
    for _ in range(2):
        model.objective(tokens).backward()
        optimiser.step(0.01)
    muon = {name.split("/")[0] for name in optimiser.memory() if name.endswith("/momentum_buffer")}
    assert muon == {"qkv.weight", "out.weight"}
    by_shape = models.made(recipe_of(tmp_path, GRU), tmp_path).matrices()
    assert by_shape == {"cell.weight_ih_l0", "cell.weight_hh_l0"}


COMPILED = pytest.param(
    Machine(compile=True),
    marks=[
        pytest.mark.slow,
        pytest.mark.timeout(900),
        pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile asks for a C++ compiler"),
        pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
    ],
)


@pytest.mark.parametrize("machine", [Machine(processes=2), COMPILED])
def test_it_is_trained_however_the_machine_computes(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # Or it leaves processes behind.
    recipe = recipe_of(tmp_path, ATTENTIVE)
    machine, start = replace(machine, models=str(tmp_path)), weights.of(models.begun(recipe, tmp_path, None))
    turn = {"member": "acme", "round_": 1, "rounds": 2}
    tokens = corpus.shard(0, 3)[:5_000]
    with at_work(start, recipe, tokens, {}, machine=machine, **turn) as training:
        losses, (reached, _) = [*training.until(3)], training.state()
    with at_work(start, recipe, tokens, {}, machine=Machine(models=str(tmp_path)), **turn) as training:
        assert losses == pytest.approx([*training.until(3)], abs=1e-4)
        alone, _ = training.state()
    assert all(abs(reached[name] - tensor).max() < 1e-3 for name, tensor in alone.items())


@pytest.mark.parametrize("name", ["shard", "tensor", "recompute"])
def test_what_is_for_the_layers_of_our_model_only_is_refused(name, tmp_path):
    recipe = recipe_of(tmp_path, GRU)
    machine = Machine(models=str(tmp_path), **{name: True})
    with pytest.raises(Refused, match=f"{name} = true is for the layers of our model") as caught:
        at_work({}, recipe, corpus.shard(0, 3), {}, machine=machine).__enter__()
    assert caught.value.refusal is Refusal.BAD_FIELD


OBJECTIVE = """def objective(self, tokens):
    return {}


Recurrent.objective = objective
Recurrent.loss = lambda self, tokens: self(tokens[:, :-1]).square().mean()


def build("""
SWAPS = [
    ("return Recurrent(", "return (", "build() of the model", "tuple, and no nn.Module"),
    ("return Recurrent(", "return nn.Identity(", "returns a module without parameters", ""),
    ("return Recurrent(", "return 1 / 0, (", "ZeroDivisionError", ""),
    ("return self.head(self.norm(read))", "return self.norm(read)", "it makes (2, 16, 16), and not (2, 16, 256)", ""),
    ("return self.head(self.norm(read))", "return None", "it makes NoneType", ""),
    ("recipe.layers)", "recipe.layers).double()", "its parameter embed.weight is of torch.float64", ""),
    ("recipe.layers)", "recipe.layers).requires_grad_(False)", "its parameter embed.weight is frozen", ""),
    ("self.norm(read)", "self.norm(read[:, torch.arange(-1, read.shape[1] - 1)])", "tokens that are behind them", ""),
    ("self.norm(read)", "nn.functional.dropout(read)", "the same tokens give other numbers another time", ""),
    ("def build(", OBJECTIVE.format("self.loss(tokens) * torch.rand(())"), "another time, such as by dropout: w", ""),
    ("def build(", OBJECTIVE.format("tokens.float()"), "what it lowers is no finite number", ""),
    ("def build(", OBJECTIVE.format("self.loss(tokens) * float('nan')"), "what it lowers is no finite number", ""),
    ("super().__init__()\n", "super().__init__()\n        torch.seed()\n", "begin with other weights", ""),
    (
        "self.norm = nn.LayerNorm(width)",
        "self.norm = type('N', (nn.BatchNorm1d,), {'forward': lambda s, x: (s.running_mean.add_(1), x)[1]})(width)",
        "a step changes its buffer norm.running_mean",
        "",
    ),
    ("(nn.Module):", "(nn.Module):\n    matrices = ('head',)\n", "its matrices name head", ""),
    ("import torch\n", "import numpy\n", "imports numpy: torch and Python's own library", ""),
    ("import torch\n", "from . import other\n", "imports .", ""),
    ("def build(", "def make(", "has no function build", ""),
    ("def build(", "def build", "is no Python", ""),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "why", "more"), SWAPS, ids=[each[2][:40] for each in SWAPS])
def test_a_file_that_a_run_could_not_train_again_is_refused_by_what_is_wrong(old, new, why, more, tmp_path):
    assert old in GRU
    with pytest.raises(Refused) as caught:
        models.check(recipe_of(tmp_path, GRU.replace(old, new), model_flop=33_504), tmp_path)
    assert (caught.value.refusal, why in caught.value.detail, more in caught.value.detail) == (
        Refusal.WRONG_MODEL, True, True,
    ), caught.value.detail  # fmt: skip


def test_what_is_no_file_with_a_function_is_refused(tmp_path):
    for given, refusal in (
        ("mymodel.py", "BAD_FIELD"),
        (f"{tmp_path}/none.py:build", "NOT_FOUND"),
        ("a:b c", "BAD_FIELD"),
    ):
        with pytest.raises(Refused) as caught:
            models.keep(given, tmp_path / "models")
        assert caught.value.refusal is Refusal[refusal]
    assert not (tmp_path / "models").exists()


def test_flop_are_counted_in_each_length_that_the_run_has(tmp_path):
    """Right at both ends, and dear between them."""
    dear = ATTENTIVE.replace(
        "q, k, v =", "for _ in range(9 * (length == 8)):\n            x = x + 0 * self.out(x)\n        q, k, v ="
    )
    recipe = recipe_of(tmp_path, ATTENTIVE, shortest=4)
    with pytest.raises(Refused, match="in sequences of 8") as caught:
        models.check(replace(recipe, model=models.keep(written(tmp_path, dear), tmp_path)), tmp_path)
    assert caught.value.refusal is Refusal.WRONG_FLOP


def test_our_own_model_is_made_as_ever(tmp_path):
    assert models.stated(TOY, tmp_path) is TOY
    models.check(TOY, tmp_path)
    models.check_held("gpt", tmp_path)
    assert models.shapes(TOY, tmp_path) == models.sent_shapes(TOY, tmp_path) == gpt.shapes(gpt.Shape.of(TOY))


def test_the_example_of_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "writing-a-recipe.md").read_text()
    (example,) = re.findall(r"```python\n(.+?)```", page, re.S)
    recipe = recipe_of(tmp_path, example)
    models.check(recipe, tmp_path)
    assert models.shapes(recipe, tmp_path) == models.shapes(recipe_of(tmp_path, GRU), tmp_path)


def test_what_is_not_the_file_that_is_named_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    recipe = recipe_of(tmp_path, GRU)
    digest = recipe.model.split(":")[1]
    for do in (models.made, models.check, models.shapes):
        with pytest.raises(Refused, match="which is not in") as caught:
            do(recipe, tmp_path / "none")
        assert caught.value.refusal is Refusal.NOT_SET_UP
    (tmp_path / digest).write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{GRU}")
    for do in (models.made, models.check, models.shapes):
        with pytest.raises(Refused, match="and its code was not run") as caught:
            do(recipe, tmp_path)
        assert caught.value.refusal is Refusal.CORRUPT
    with pytest.raises(Refused, match="and its code was not run"):
        models.check_held(recipe.model, tmp_path)
    assert not ran.exists()


def test_no_other_program_has_its_code(tmp_path):
    recipe = recipe_of(tmp_path, GRU)
    held, theirs = weights.of(models.begun(recipe, tmp_path, None)), tmp_path / "theirs"
    theirs.mkdir()
    for act in (
        lambda: huggingface.export(held, recipe, tmp_path / "out", {}),
        lambda: gguf.export(held, recipe, tmp_path / "out", "f32", {}),
        lambda: huggingface.keep(theirs, recipe, tmp_path / "out", tmp_path),
    ):
        with pytest.raises(Refused, match="of no architecture that others know") as caught:
            act()
        assert (caught.value.refusal, (tmp_path / "out").exists()) == (Refusal.WRONG_MODEL, False)
    file = tmp_path / f"{weights.keep(held, tmp_path)}.safetensors"
    assert huggingface.keep(file, recipe, tmp_path / "out", tmp_path) == weights.digest(held)
    wider = replace(recipe, width=32)
    with pytest.raises(Refused, match="in the recipe's model"):
        huggingface.keep(file, wider, tmp_path / "wider", tmp_path)
