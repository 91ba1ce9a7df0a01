"""A run whose model is a file's: trained, billed, repeated, audited, written out; and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from foreign import GRU, recipe_of, written
from parties import BUNDLE, Parties
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from world import TOY

from client import aside, confine, steps
from consortium.cli import main
from consortium.simulate import Result, simulate
from ledger.api import serving
from server.launch import propose, read_recipe
from shared_models import huggingface
from shared_models.bundle import build
from shared_models.lm import models, weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused

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


def test_flop_that_are_not_those_counted_are_refused_before_anything_is_signed(tmp_path):
    right = recipe_of(tmp_path, GRU)
    off = right.model_flop // 100
    for said in (right.model_flop - off, right.model_flop + off):
        models.check(replace(right, model_flop=said), tmp_path)
    parties = Parties(tmp_path / "parties")
    told = {"rounds": 1, "quorum": 1, "deadline_ms": 1, "checkpoints": tmp_path / "none", "files": tmp_path}
    for said in (right.model_flop - off - 1, right.model_flop + off + 1, 0):
        with pytest.raises(Refused, match=rf"says {said:,} FLOP per token .* and {right.model_flop:,} are") as caught:
            propose(parties.home.keyring.agreement, "r2", replace(right, model_flop=said), build(), **told)
        assert (caught.value.refusal, (tmp_path / "none").exists()) == (Refusal.WRONG_FLOP, False)
    parties.log.close()


def consenting(parties: Parties) -> Refused | None:
    """Why acme does not consent; nothing was signed then."""
    home = parties.founded.member("acme")
    try:
        parties.signer("acme").consent(parties.manifest_leaf, BUNDLE)
    except Refused as refused:
        assert list((home.path / "entries").glob("*.note")) == []
        return refused
    return None


def test_who_lacks_the_file_or_has_another_does_not_consent_and_none_of_it_runs(tmp_path):
    ran = tmp_path / "ran"
    text = GRU.replace("import torch\n", f"import pathlib\nimport torch\npathlib.Path({str(ran)!r}).touch()\n")
    recipe = replace(TOY, model=models.keep(written(tmp_path, GRU), tmp_path), model_flop=33_504)
    parties = Parties(tmp_path / "parties", recipe)
    home, digest = parties.founded.member("acme"), recipe.model.split(":")[1]
    why = consenting(parties)
    assert (why.refusal, digest[:12] in why.detail, "model keep" in why.detail) == (Refusal.NOT_SET_UP, True, True)
    home.models_path.mkdir()
    (home.models_path / digest).write_text(text)
    assert consenting(parties).refusal is Refusal.CORRUPT
    for do in (models.made, models.check, models.shapes, models.check_held):
        with pytest.raises(Refused, match="its code was not run"):
            do(recipe.model if do is models.check_held else recipe, home.models_path)
    assert main(["model", "keep", f"{written(tmp_path / 'other', text)}", "--home", str(home.path)]) == 0
    assert not ran.exists()  # Not when it is kept, either.
    shutil.copy(tmp_path / digest, home.models_path)
    assert consenting(parties) is None
    parties.log.close()


def test_who_is_asked_for_other_flop_than_its_own_machine_counts_does_not_consent(tmp_path):
    recipe = recipe_of(tmp_path, GRU)
    parties = Parties(tmp_path / "parties", replace(recipe, model_flop=2 * recipe.model_flop))
    shutil.copytree(tmp_path, parties.founded.member("acme").models_path, ignore=shutil.ignore_patterns("parties"))
    why = consenting(parties)
    assert (why.refusal, f"{recipe.model_flop:,} are counted" in why.detail) == (Refusal.WRONG_FLOP, True)
    parties.log.close()


@pytest.mark.skipif(not confine.version(), reason="this kernel has no Landlock")
def test_before_consent_its_code_reaches_no_key_of_the_members(tmp_path):
    parties = Parties(tmp_path / "parties")
    home = parties.founded.member("acme")
    key = home.path / "keys" / "compute.key"
    reads = GRU.replace("    return Recurrent(", f"    open({str(key)!r}).read()\n    return Recurrent(")
    recipe = replace(TOY, model=models.keep(written(tmp_path, reads), home.models_path), model_flop=33_504)
    with pytest.raises(Refused, match="PermissionError"):
        aside.check(home, recipe)
    ends = GRU.replace("    return Recurrent(", "    raise SystemExit(3)\n    return Recurrent(")
    with pytest.raises(Refused, match="to check what a file's model does ended with") as caught:
        aside.check(home, replace(recipe, model=models.keep(written(tmp_path, ends), home.models_path)))
    assert caught.value.refusal is Refusal.FAILED
    speaks = GRU.replace("    return Recurrent(", "    print('{}')\n    return Recurrent(")
    recipe = replace(recipe, model=models.keep(written(tmp_path, speaks), home.models_path))
    aside.check(home, recipe)
    assert aside.shapes(home, recipe)["head.weight"] == (256, 16)
    parties.log.close()


def test_a_recipe_takes_it_by_its_name_or_from_the_command(tmp_path):
    given = written(tmp_path, GRU)
    toml = tmp_path / "recipe.toml"
    toml.write_text("width = 32\nmodel_flop = 5\n")
    recipe = read_recipe(toml, None, given)
    assert (recipe.model, recipe.model_flop) == (models.name(given), 5)
    toml.write_text(f'width = 32\nmodel = "{models.name(given)}"\n')
    assert read_recipe(toml).model == models.name(given)
    toml.write_text("rank = 4\n")
    with pytest.raises(Refused, match="rank = 4 is an option of our model"):
        read_recipe(toml, None, given)
