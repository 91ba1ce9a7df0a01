"""A run's members are shown the updates of its steps, and each takes the steps again, with no other file."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import IncompleteRead

import pytest
from world import TOY

from client.steps import logged, repeat
from consortium.cli import main
from consortium.simulate import Result, simulate
from ledger.api import serving
from shared_models.published import fetch, reader

MEMBERS = {"acme": 2, "birch": 1, "cedar": 1}


@contextmanager
def trained(folder, **more) -> Iterator[Result]:
    """A run whose ledger serves."""
    recipe = replace(TOY, up="int4", outer="nesterov", outer_momentum="0.5")
    result = simulate(folder / "parties", MEMBERS, **{"recipe": recipe, "rounds": 3} | more)
    assert result.report.findings == []
    port = int(result.founded.member("acme").settings.ledger.rpartition(":")[2])
    with serving(result.founded.ledger, port):
        yield result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with trained(tmp_path_factory.mktemp("run")) as result:
        yield result


def shown(result: Result) -> int:
    return main(["show-updates", "r1", "--home", str(result.founded.coordinator.path)])


def verified(result: Result, files, capsys, *more: str) -> tuple[int, dict[int, str]]:
    """The exit code when birch takes the steps again, and what of each is wrong."""
    home = result.founded.member("birch")
    where = [home.settings.ledger, "r1", "--files", str(files), "--home", str(home.path)]
    code = main(["verify-checkpoint", *where, "--json", *more])
    return code, {each["round"]: each["wrong"] for each in json.loads(capsys.readouterr().out)["steps"]}


def test_a_member_takes_every_step_again_from_what_it_is_shown(run, tmp_path, capsys):
    code, wrong = verified(run, tmp_path / "before", capsys)
    assert (code, set(wrong)) == (1, {1, 2, 3})
    assert wrong[1].startswith("not_found: nothing was shown yet of acme in round 1 of r1")
    assert shown(run) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9
    assert verified(run, tmp_path, capsys) == (0, {1: "", 2: "", 3: ""})
    held = {path.stem for path in (tmp_path / "checkpoints").iterdir()}
    assert held == {run.manifest.base, *(turn.closed.checkpoint for turn in run.report.books.runs["r1"].rounds)}
    assert shown(run) == 0  # Again is safe,
    capsys.readouterr()
    assert verified(run, tmp_path, capsys, "--round", "3") == (0, {3: ""})  # and what was made is gone on from.


@pytest.mark.parametrize("what", ["longer", "shorter", "another"])
def test_an_update_that_is_another_one_is_named_and_not_kept(run, tmp_path, capsys, what):
    assert shown(run) == 0
    capsys.readouterr()
    (asked,) = run.report.books.challenges(("r1", 2, "cedar"))
    path = run.founded.ledger / "updates" / asked.receipt
    right = path.read_bytes()
    bent = {"longer": right + b"x", "shorter": right[:-1], "another": right[:-1] + bytes([right[-1] ^ 1])}
    path.write_bytes(bent[what])
    try:
        code, wrong = verified(run, tmp_path, capsys)
    finally:
        path.write_bytes(right)
    assert (code, wrong[1]) == (1, "")
    assert wrong[2].startswith(
        "wrong_digest: cedar sent" if what == "another" else "wrong_shape: what is shown of cedar"
    )
    assert wrong[3].startswith("no_checkpoint")
    assert verified(run, tmp_path, capsys) == (0, {1: "", 2: "", 3: ""})


def test_a_ledger_that_breaks_off_leaves_nothing_half_written(run, tmp_path):
    class Cut(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell():
                raise IncompleteRead(b"")
            return super().read(10)

    said = logged(fetch(reader(str(run.founded.ledger / "log"))).leaves, "r1")
    found = list(repeat(said, tmp_path, bring=lambda _number, _member: Cut(bytes(1000))))
    assert found[0].wrong.startswith("unreachable: the update of acme")
    assert not list(tmp_path.rglob("*update*"))


def test_what_does_not_count_is_not_shown(run, capsys):
    """Such as the answer of a member that was late, which the coordinator has kept."""
    (path,) = run.founded.coordinator.path.glob("runs/*/00000002/acme.update")
    late = path.with_name("dora.update")
    late.write_bytes(path.read_bytes())
    assert shown(run) == 0
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "dora" in line)
    assert "bytes: not_found: no work of dora's in round 2 of r1 counts" in said
    late.unlink()


def test_nothing_to_show_is_the_exit_code(run, capsys):
    assert main(["show-updates", "r2", "--home", str(run.founded.coordinator.path)]) == 2
    assert "unknown_run" in capsys.readouterr().err
