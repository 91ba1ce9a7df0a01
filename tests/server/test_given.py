"""A run that begins with weights that were given: its manifest pins them, and all that holds of a run holds of it."""

import json
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, replace

import pytest
from parties import three
from world import TOY, World, digest

from client import models
from client.steps import logged, repeat
from consortium.cli import main
from consortium.simulate import Result, simulate
from server.journal import Turn
from shared_models import huggingface
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.recipes import SMALL

TWO = {"acme": 2, "birch": 1}
RECIPE = replace(TOY, up="int4", outer="nesterov", outer_momentum="0.5")


class Killed(BaseException):
    """What nothing catches."""


def toy(folder, **more) -> Result:
    return simulate(folder / "parties", TWO, **{"rounds": 2, "recipe": RECIPE} | more)


def reached(result: Result) -> list[tuple[str, int]]:
    return [(turn.closed.checkpoint, turn.closed.loss_unats) for turn in result.report.books.runs["r1"].rounds]


def kept(result: Result, name: str):
    """The file of a checkpoint, in the coordinator's folder."""
    return result.founded.coordinator.path / "checkpoints" / f"{name}.safetensors"


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Result:
    """The run that the weights are from."""
    return toy(tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def after(before, tmp_path_factory) -> Result:
    """One that goes on from there."""
    return toy(tmp_path_factory.mktemp("after"), start=kept(before, reached(before)[-1][0]))


def test_a_run_goes_on_from_the_very_weights_that_another_came_to(before, after):
    last, loss_unats = reached(before)[-1]
    manifest = after.manifest
    assert (manifest.start, manifest.base, manifest.loss_unats) == (last, last, loss_unats)
    assert after.report.books.runs["r1"].rounds[0].base == last
    assert (after.report.findings, after.excluded) == ([], ())
    assert before.manifest.start == FIRST
    # It is billed as any other.
    assert [each.flop for each in after.bill.balances] == [each.flop for each in before.bill.balances]


def test_anyone_repeats_its_steps(after, capsys):
    said = logged(fetch(reader(str(after.founded.ledger / "log"))).leaves, "r1")
    found = list(repeat(said, after.founded.coordinator.path))
    assert [(each.round, each.wrong) for each in found] == [(1, ""), (2, "")]
    where = ["verify-checkpoint", str(after.founded.ledger / "log"), "r1", "--files"]
    assert main([*where, str(after.founded.coordinator.path)]) == 0
    capsys.readouterr()


def test_a_coordinator_that_was_killed_goes_on_to_the_same_checkpoints(before, after, tmp_path, monkeypatch):
    keep, killed = Turn.keep, []

    def kill(turn, member, answer):
        keep(turn, member, answer)
        if not killed and turn.folder.name == f"{2:08}" and threading.current_thread() is threading.main_thread():
            killed.append(member)
            raise Killed

    def attempt(coordinate):
        with suppress(Killed):
            coordinate()
        coordinate()

    monkeypatch.setattr(Turn, "keep", kill)
    again = toy(tmp_path, start=kept(before, after.manifest.start), attempt=attempt)
    assert (len(killed), reached(again)) == (1, reached(after))


def test_a_coordinator_that_has_lost_or_changed_them_trains_nothing(before, after, tmp_path):
    """What stands in the manifest is looked for under its name, and hashed."""

    def altered(change):
        def attempt(coordinate):
            (path,) = (tmp_path / change / "parties" / "coordinator" / "checkpoints").iterdir()
            if change == "lost":
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-1] + b"\1")
            with pytest.raises(Refused) as caught:
                coordinate()
            assert caught.value.refusal is {"lost": Refusal.NO_CHECKPOINT, "other": Refusal.CORRUPT}[change]

        return attempt

    for change in ("lost", "other"):
        result = toy(tmp_path / change, start=kept(before, after.manifest.start), attempt=altered(change))
        assert (result.report.books.runs["r1"].ended.status, reached(result)) == ("failed", [])


def test_a_folder_that_was_written_out_leads_where_the_checkpoint_does(before, after, tmp_path):
    last = after.manifest.start
    huggingface.export(weights.read(kept(before, last))[0], RECIPE, tmp_path / "model", {})
    again = toy(tmp_path, start=tmp_path / "model")
    assert (again.manifest.start, reached(again)) == (last, reached(after))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_so_it_does_in_flower_s_own_engine(before, after, tmp_path):
    """By the command, in a process of its own: Ray leaves much behind."""
    changed = {name: value for name, value in asdict(RECIPE).items() if value != getattr(SMALL, name)}
    (tmp_path / "recipe.toml").write_text("".join(f"{name} = {json.dumps(each)}\n" for name, each in changed.items()))
    words = ["simulate", "--engine", "ray", "--members", 2, "--rounds", 2, "--deadline", 200, "--keep", tmp_path]
    words += ["--recipe", tmp_path / "recipe.toml", "--from", kept(before, after.manifest.start)]
    command = [sys.executable, "-m", "consortium", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = logged(fetch(reader(str(tmp_path / "parties" / "ledger" / "log"))).leaves, "r1")
    assert [(each.checkpoint, each.loss_unats) for each in said.closes] == reached(after)


def test_what_it_cannot_begin_with_is_refused_before_anything_is_signed(before, tmp_path):
    file = kept(before, reached(before)[-1][0])
    adapted = dict(weights.read(file)[0])
    adapted["norm.weight"] = adapted["norm.weight"] * float("nan")
    broken = tmp_path / "broken" / f"{weights.keep(adapted, tmp_path / 'broken')}.safetensors"
    for given, recipe, refusal, why in (
        (
            file,
            replace(RECIPE, width=32),
            Refusal.WRONG_MODEL,
            "embed.weight is 256 × 16, and 256 × 32 in the recipe's model",
        ),
        (file, replace(RECIPE, layers=2), Refusal.WRONG_MODEL, "only the recipe's model has a tensor blocks.1."),
        (file, replace(RECIPE, feed="swiglu"), Refusal.WRONG_MODEL, "has a tensor blocks.0.gate.weight"),
        (broken, RECIPE, Refusal.NOT_FINITE, "norm.weight in "),
        (tmp_path / "none", RECIPE, Refusal.NOT_FOUND, "none: "),
        (tmp_path, RECIPE, Refusal.NOT_FOUND, "config.json: "),
    ):
        with pytest.raises(Refused) as caught:
            toy(tmp_path / "new", start=given, recipe=recipe)
        assert (caught.value.refusal, why in caught.value.detail) == (refusal, True), caught.value
        assert b"run.manifest" not in b"".join(fetch(reader(str(tmp_path / "new/parties/ledger/log"))).leaves)
        shutil.rmtree(tmp_path / "new")


def test_the_command_begins_with_a_file(before, tmp_path, capsys):
    sizes = "layers = 1\nheads = 2\nwidth = 16\ncontext = 16\nbatch = 2\ninner_steps = 3\nsegment = 2\n"
    (tmp_path / "recipe.toml").write_text(sizes)
    file = kept(before, reached(before)[-1][0])
    words = ["simulate", "--members", "2", "--rounds", "1", "--recipe", tmp_path / "recipe.toml", "--from", file]
    assert main([*map(str, words), "--keep", str(tmp_path)]) == 0
    assert f"nats per byte: {before.losses[-1]:.3f} " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", "r1", "--home", str(tmp_path), "--from", str(file), "--resume"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_run_of_several_machines_begins_with_it_too(before, tmp_path, capsys):
    """Up to where members would consent: here is nobody who does. A folder says its shape itself."""
    file, settings = kept(before, reached(before)[-1][0]), tmp_path / "recipe.toml"
    huggingface.export(weights.read(file)[0], RECIPE, tmp_path / "model", {})
    settings.write_text("layers = 1\nheads = 2\nwidth = 16\ncontext = 16\n")
    with three(tmp_path) as founded:
        coordinator, words = founded.coordinator, ["--recipe", settings, "--consents", 0, "--from"]
        LedgerHttp(coordinator.settings.ledger).append(founded.charter)
        for given, code in ((tmp_path / "none", "not_found"), (file, "no_consent")):
            assert main([*map(str, ["run", "r1", "--home", coordinator.path, *words, given])]) == 2
            assert f"error {code}" in capsys.readouterr().err
        main([*map(str, ["run", "r2", "--home", coordinator.path, "--consents", 0, "--from", tmp_path / "model"])])
        manifests = [entries.peek(leaf) for leaf, *_ in LedgerHttp(coordinator.settings.ledger).runs()]
    assert [(each.start, each.base) for each in manifests] == [(file.stem, file.stem)] * 2
    assert [(each.recipe.width, each.recipe.context) for each in manifests] == [(16, 16), (16, SMALL.context)]
    assert (coordinator.path / "checkpoints" / file.name).is_file()


# What the log takes, and what it says of where weights are from.


def test_the_log_takes_no_manifest_that_begins_with_others_than_it_was_given():
    world = World()
    wrong = world.sign(world.coordinator, world.manifest(start=digest("given")))
    with pytest.raises(Refused, match="given are the weights") as caught:
        world.books.check(world.books.open(wrong))
    assert caught.value.refusal is Refusal.WRONG_BASE
    world.say(world.coordinator, world.manifest(start=digest("base")))


def shown(world: World, run: str) -> str:
    """What `consortium model show` says of a model of this run's first round, or of none."""
    made = {"checkpoint": "c", "round": 1, "run": run, "entry": 1, "receipts": [], "bundle": "b", "manifest": "m"}
    made |= {"manifest_entry": 0, "began": models.begun(world.books, run)}
    artefact = {"artefact": "a", "form": "f", "size": 1, "entry": 2, "publisher": "p", "checkpoints": [made]}
    return models.lineage_text([artefact | {"parents": [], "without": []}])


def test_where_given_weights_are_from_is_told_back_to_the_first_run():
    world, one, two = World(), digest("checkpoint 1"), digest("checkpoint 2")
    world.start("r1")
    world.round("r1")
    world.start("r2", start=one, base=one)
    world.round("r2")
    world.round("r2")
    world.start("r3", start=two, base=two)
    world.start("r4", start=digest("elsewhere"), base=digest("elsewhere"))
    found = [world.books.origin(f"r{number}") for number in (1, 2, 3, 4)]
    assert found == [None, (one, ("r1", 1)), (two, ("r2", 2)), (digest("elsewhere"), None)]
    told = [(each["run"], each["round"], each["weights"]) for each in models.begun(world.books, "r3")]
    assert told == [("r2", 2, two), ("r1", 1, one)]
    assert "begun with the weights" not in shown(world, "r1")
    assert f"    <- begun with the weights {one[:16]}…, from round 1 of run r1" in shown(world, "r2")
    assert f"{digest('elsewhere')[:16]}…, from no round of this log: given" in shown(world, "r4")
    assert models.begun(world.books, "r4") == [{"run": None, "round": None, "weights": digest("elsewhere")}]


def test_a_round_that_moved_nothing_is_not_where_weights_are_from():
    world, given = World(), digest("given")
    for run in ("r1", "r2"):
        world.start(run, start=given, base=given)
        world.round(run, members=())
        assert world.books.runs[run].rounds[0].closed.checkpoint == given
    assert world.books.origin("r2") == (given, None)
