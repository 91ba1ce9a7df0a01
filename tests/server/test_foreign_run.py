"""A run whose model is a file's: trained, billed, repeated, audited, written out; and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from foreign import GRU, written
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from world import TOY

from client import steps
from consortium.cli import main
from consortium.simulate import Result, simulate
from ledger.api import serving
from server.launch import read_recipe
from shared_models import huggingface
from shared_models.lm import models, weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused

TWO = {"acme": 2, "birch": 1}
RECIPE = replace(TOY, width=32, inner_steps=40, segment=20, inner_rate="0.01", up="int4")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("run")
    return simulate(folder / "parties", TWO, rounds=3, recipe=RECIPE, model=written(folder, GRU))


def leaves(run: Result) -> list[bytes]:
    return fetch(reader(str(run.founded.ledger / "log"))).leaves


def receipts(run: Result) -> list[Receipt]:
    return [each for leaf in leaves(run) if isinstance(each := entries.peek(leaf), Receipt)]


def test_a_run_of_it_is_trained_and_its_loss_falls(run):
    assert (run.report.findings, run.excluded, len(run.losses)) == ([], (), 4)
    assert run.losses[0] > 5.4
    assert list(run.losses) == sorted(run.losses, reverse=True)
    assert run.losses[-1] < 3.5
    assert run.manifest.recipe.model.endswith(":build")


def test_the_bill_has_the_flop_that_are_counted_and_needs_no_torch_for_it(run):
    """Counted here by hand, over steps of the module as the file's own text makes it."""
    space: dict[str, object] = {}
    exec(GRU, space)  # noqa: S102
    recipe = run.manifest.recipe
    module = space["build"](recipe)
    tokens = torch.randint(0, 256, (recipe.batch, recipe.context + 1))
    with FlopCounterMode(display=False) as counter:
        logits = module(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    counted = counter.get_total_flops() // (recipe.batch * recipe.context)
    assert run.manifest.flop_per_token == recipe.model_flop == counted
    each = recipe.inner_steps * recipe.batch * recipe.context * counted
    assert [one.flop for one in receipts(run)] == [each] * 6
    (acme, birch) = run.bill.balances[:2]
    assert (int(acme.flop), int(birch.flop)) == (3 * each, 3 * each)


def test_each_step_is_repeated_by_who_has_the_file(run, tmp_path):
    """And has put it there: a copy of the coordinator's is not taken."""
    copy, read = tmp_path / "copy", run.founded.member("birch").models_path
    shutil.copytree(run.founded.coordinator.path, copy)
    said = steps.logged(leaves(run), "r1")
    assert [each.wrong for each in steps.repeat(said, copy, read=read)] == ["", "", ""]
    assert ["not_set_up" in each.wrong for each in steps.repeat(said, copy)] == [True] * 3
    words = ["verify-checkpoint", str(run.founded.ledger / "log"), "r1", "--files", str(copy)]
    assert main(words) == 1
    assert main([*words, "--models", str(read)]) == 0
    assert main([*words, "--home", str(run.founded.member("birch").path)]) == 0
    (copy / "checkpoints" / f"{run.manifest.base}.safetensors").unlink()
    assert main([*words, "--home", str(run.founded.member("birch").path)]) == 0  # Drawn from the seed again.


def test_work_is_opened_and_repeated_to_the_bit_and_not_without_the_file(run, tmp_path, capsys):
    hashed = {
        (each.member, each.round): leaf_hash(leaf).hex()
        for leaf in leaves(run)
        if isinstance(each := entries.peek(leaf), Receipt)
    }
    acme, birch = (run.founded.member(name) for name in TWO)
    opening = tmp_path / "opening"

    def work(verb, home, *words) -> tuple[int, str, str]:
        with serving(run.founded.ledger, int(acme.settings.ledger.rpartition(":")[2])):
            code = main(["work", verb, "--home", str(home.path), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    code, _, err = work("open", acme, hashed["acme", 3], "--to", str(opening), "--segment", "1")
    assert (code, err) == (0, "")
    code, out, _ = work("replay", birch, str(opening), "--json")
    assert (code, json.loads(out)["verdict"], json.loads(out)["why"]) == (0, "matches", "the same bits")
    kept = birch.models_path.rename(tmp_path / "models")
    code, _, err = work("replay", birch, str(opening))
    assert (code, "not_set_up" in err, "consortium model keep FILE:build" in err) == (2, True, True)
    kept.rename(birch.models_path)


def test_its_weights_are_written_out_by_the_modules_own_names_and_as_nothing_else(run, tmp_path, capsys):
    reached = run.report.books.runs["r1"].checkpoint
    checkpoint = run.founded.coordinator.path / "checkpoints" / f"{reached}.safetensors"
    words = ["model", "export", str(checkpoint), "--log", str(run.founded.ledger / "log"), "--to"]
    assert main([*words, str(tmp_path / "out.safetensors")]) == 0
    space: dict[str, object] = {}
    exec(GRU, space)  # noqa: S102
    module = space["build"](run.manifest.recipe)
    found = module.load_state_dict(load_file(tmp_path / "out.safetensors"))
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    tokens = torch.randint(0, 256, (1, 16))
    held = models.begun(run.manifest.recipe, run.founded.coordinator.models_path, weights.read(checkpoint)[0])
    with torch.no_grad():
        assert torch.equal(module(tokens), held(tokens))
    capsys.readouterr()
    assert main([*words, str(tmp_path / "out.gguf"), "--gguf", "f32"]) == 2
    assert "wrong_model: the model is what sha256:" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "out.safetensors")]) == 2
    assert "it is there already" in capsys.readouterr().err
    with pytest.raises(Refused, match=r"transformers and llama\.cpp have no code of it"):
        huggingface.export({}, run.manifest.recipe, tmp_path / "folder", {})
    assert not (tmp_path / "out.gguf").exists()
    assert not (tmp_path / "folder").exists()


def test_a_run_goes_on_from_its_checkpoint_in_sequences_that_grow(run, tmp_path):
    reached = run.report.books.runs["r1"].checkpoint
    start = run.founded.coordinator.path / "checkpoints" / f"{reached}.safetensors"
    recipe = replace(RECIPE, shortest=4, inner="muon", inner_rate="0.004", precision="bf16")
    more = simulate(tmp_path / "more", TWO, rounds=1, recipe=recipe, start=start, model=written(tmp_path, GRU))
    assert (more.report.findings, more.manifest.start, more.manifest.base) == ([], reached, reached)
    assert more.losses[0] == run.losses[-1]
    assert more.losses[1] < more.losses[0]


def test_a_recipe_takes_it_by_its_name_or_from_the_command(tmp_path):
    given = written(tmp_path, GRU)
    toml = tmp_path / "recipe.toml"
    toml.write_text("width = 32\nmodel_flop = 5\n")
    recipe = read_recipe(toml, model=given)
    assert (recipe.model, recipe.model_flop) == (models.name(given), 5)
    toml.write_text(f'width = 32\nmodel = "{models.name(given)}"\n')
    assert read_recipe(toml).model == models.name(given)
    toml.write_text("rank = 4\n")
    with pytest.raises(Refused, match="rank = 4 is an option of our model"):
        read_recipe(toml, model=given)
