"""What `member.toml` says of a machine, and a run that it does not go with: told before this member consents to it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from parties import BUNDLE, Parties
from world import TOY

from client import runs, sharing
from client.daemon import Daemon
from client.doctor import Doctor
from client.home import Home, Settings
from consortium.cli import main
from ledger.api import serving
from ledger.log import open_log
from shared_models.folder import write_settings
from shared_models.processes import free_port
from shared_models.records.kinds import FIRST, Recipe, RunEnd
from shared_models.records.refusals import Refusal, Refused

SHARED, CUT = ({"processes": 2, how: True} for how in ("shard", "tensor"))
FOREIGN = {"model": "build:" + "0" * 64, "model_flop": 1}
RECIPE = replace(TOY, batch=4, layers=1)
UNFIT = {
    "an optimiser of whole parameters": (SHARED, {"inner": "adafactor"}, "shard = true does with adamw, muon, lion"),
    "the same, cut": (CUT, {"inner": "adafactor"}, "tensor = true does with adamw, muon, lion"),
    "a file's model": (SHARED, FOREIGN, "shard = true is for the layers of our model"),
    "the same, computed again": ({"recompute": True}, FOREIGN, "recompute = true is for the layers of our model"),
    "an odd batch": ({"processes": 2}, {"batch": 3}, "processes = 2 do not divide the run's batch of 3"),
    "odd heads": (CUT, {"heads": 1}, "processes = 2 do not divide the run's heads = 1"),
    "one head of keys": (CUT, {"heads": 2, "kv_heads": 1}, "do not divide the run's kv_heads = 1"),
    "an odd width": (CUT, {"feed_dim": 63}, "do not divide the run's feed_width = 63; take as many as do, or shard"),
    "experts": (CUT, {"feed": "swiglu", "experts": 4}, "does not cut a model with experts: shard = true does"),
    "an adapter": (CUT, {"adapter": 2}, "does not cut a model with adapter"),
    "both": (CUT | {"shard": True}, {}, "tensor = true does not go with shard = true"),
    "compiled": (CUT | {"compile": True}, {}, "tensor = true does not go with compile = true"),
}


def chosen(home: Home, **how: object) -> Home:
    """The folder, as a command reads it afresh, with this in its member.toml."""
    write_settings(home.path / "member.toml", replace(home.settings, **how))
    return Home(home.path)


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_go_with_a_recipe_is_refused_by_the_setting(what):
    how, changes, why = UNFIT[what]
    settings = Settings(member="acme", ledger="", superlink="", data="", device="", devices=1)
    recipe = replace(RECIPE, **changes)
    sharing.check(settings, recipe)
    with pytest.raises(Refused) as caught:
        sharing.check(replace(settings, **how), recipe)
    assert (caught.value.refusal, why in caught.value.detail) == (Refusal.BAD_FIELD, True), caught.value.detail


@pytest.mark.parametrize("how", [{"processes": 2}, {"processes": 4}, SHARED, CUT, {"recompute": True, "compile": True}])
def test_what_goes_with_it_is_not(how):
    settings = Settings(member="acme", ledger="", superlink="", data="", device="", devices=1)
    sharing.check(replace(settings, **how), RECIPE)
    sharing.check_alone(replace(settings, **how))


def test_processes_that_cut_a_model_need_not_divide_the_batch():
    settings = Settings(member="acme", ledger="", superlink="", data="", device="", devices=1)
    assert [sharing.shares(replace(settings, **how)) for how in ({}, {"processes": 2}, SHARED, CUT)] == [1, 2, 2, 1]
    sharing.check(replace(settings, **CUT), replace(RECIPE, batch=3))


@pytest.mark.parametrize("recipe", [replace(RECIPE, heads=1), replace(RECIPE, inner="adafactor")])
def test_who_could_not_train_it_does_not_consent_and_is_told_why(tmp_path, recipe: Recipe):
    parties, port = Parties(tmp_path, recipe), free_port()
    parties.log.close()
    home = chosen(parties.founded.member("acme"), ledger=f"http://127.0.0.1:{port}", **CUT)
    with pytest.raises(Refused, match="tensor = true") as caught:
        parties.signer("acme").consent(parties.manifest_leaf, BUNDLE)
    assert (caught.value.refusal, list((home.path / "entries").glob("*.note"))) == (Refusal.BAD_FIELD, [])

    with serving(parties.founded.ledger, port):
        assert "bad_field: tensor = true" in refused(home)
        (found,) = [each for each in Doctor(home).examine() if each.check == "next round"]
    assert (found.state, found.says.startswith("of r1: tensor = true")) == ("fail", True)
    assert "in member.toml, or: consortium runs refuse r1" in found.do


def refused(home: Home) -> str:
    """What a daemon that is started anew tells of the runs in its ledger."""
    daemon = Daemon(Home(home.path))
    daemon._visit_ledger()
    daemon._show()
    shutil.rmtree(daemon._rendezvous)
    return str(json.loads(Path(home.path, "status.json").read_bytes()).get("refused", ""))


def test_a_consent_of_before_the_setting_was_changed_is_looked_at_when_the_daemon_starts(tmp_path):
    parties, port = Parties(tmp_path, replace(RECIPE, heads=1)), free_port()
    parties.consenting("acme")
    parties.log.close()
    home = chosen(parties.founded.member("acme"), ledger=f"http://127.0.0.1:{port}")
    with serving(parties.founded.ledger, port):
        assert refused(home) == ""
        assert "do not divide the run's heads = 1" in refused(chosen(home, **CUT))


def test_each_run_that_goes_on_is_looked_at_and_none_that_is_refused_or_has_ended(tmp_path, caplog):
    parties, port = Parties(tmp_path, replace(RECIPE, heads=1)), free_port()
    parties.consenting("acme")
    parties.say(replace(parties.manifest, run="r2", recipe=replace(RECIPE, heads=2)))  # Which it goes with.
    home = chosen(parties.founded.member("acme"), ledger=f"http://127.0.0.1:{port}", **CUT)

    parties.log.close()

    def told(*command: str) -> tuple[list[str], str, list[str]]:
        """Of a daemon that is started anew, doctor, and who asks how each run stands."""
        caplog.clear()
        with serving(parties.founded.ledger, port):
            assert not command or main([*command, "--home", str(home.path)]) == 0
            refused(home)
            (found,) = [each for each in Doctor(home).examine() if each.check == "next round"]
            states = [each.state for each in runs.asked(home, home.ledger())]
        return [each.getMessage() for each in caplog.records], f"{found.state}: {found.says}", states

    other = "refused not_approved: run r2 is for bundle"
    said, found, states = told()
    assert [each.startswith(other) for each in said] == [False, True]
    assert "tensor = true: processes = 2 do not divide the run's heads = 1" in said[0]
    assert (found[:17], states) == ("fail: of r1: tens", ["consented", "asks"])

    said, found, states = told("runs", "refuse", "r1", "--reason", "a move")
    assert [each.startswith(other) for each in said] == [False, True]
    assert "a move" in said[0]
    assert (found[:15], states) == ("ok: of r2: how ", ["refused", "asks"])

    parties.log = open_log(parties.founded.ledger)
    for run in ("r1", "r2"):
        checkpoint = parties.log.books.runs[run].checkpoint
        parties.say(RunEnd(seq=0, prev=FIRST, run=run, checkpoint=checkpoint, status="failed", reason=""))
    parties.log.close()
    assert told() == ([], "ok: no run asks for you now", ["ended", "ended"])


def test_a_daemon_does_not_start_with_what_does_not_go_together(tmp_path, capsys):
    parties = Parties(tmp_path)
    parties.log.close()
    home = chosen(parties.founded.member("acme"), **CUT, shard=True)
    assert main(["up", "--home", str(home.path)]) == 2
    assert "bad_field: tensor = true does not go with shard = true" in capsys.readouterr().err
    assert not (home.path / "status.json").exists()
