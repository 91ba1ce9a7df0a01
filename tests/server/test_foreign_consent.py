"""Who signs for a run whose model is a file's: the coordinator, and each member, when its own machine has counted."""

import shutil
from dataclasses import replace

import pytest
from foreign import GRU, recipe_of, written
from parties import BUNDLE, Parties
from world import TOY

from client import aside, confine
from consortium.cli import main
from server.launch import propose
from shared_models.bundle import build
from shared_models.lm import models
from shared_models.records.refusals import Refusal, Refused


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
