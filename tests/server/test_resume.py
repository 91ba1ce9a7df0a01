"""A coordinator that is stopped anywhere goes on, to the same checkpoints to the bit; and anyone repeats its steps."""

import json
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from world import TOY

from bench import coordinator
from client.steps import logged, repeat
from consortium.cli import main
from consortium.simulate import Result, simulate
from server.journal import Turn
from server.outer import Outer
from shared_models import durable
from shared_models.ledger_http import LedgerHttp
from shared_models.messages import Answer
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import CODECS, RoundClose
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import round_flop

THREE = {"acme": 2, "birch": 1, "cedar": 1}
RECIPE = replace(TOY, up="int4", down="top64", outer="nesterov", outer_momentum="0.5")


class Killed(BaseException):
    """What nothing catches."""


def toy(folder, **more) -> Result:
    return simulate(folder / "parties", THREE, **{"rounds": 3, "recipe": RECIPE} | more)


def leaves(result: Result) -> list[bytes]:
    return fetch(reader(str(result.founded.ledger / "log"))).leaves


def closes(result: Result) -> list[RoundClose]:
    return [each for leaf in leaves(result) if isinstance(each := entries.peek(leaf), RoundClose)]


def reached(result: Result) -> list[tuple[str, str, int]]:
    return [(close.checkpoint, close.state, close.loss_unats) for close in closes(result)]


class Killer:
    """Stops the coordinator at the n-th thing that it does for good, to a file or to the log: before it, or behind it.

    What other parties do is done on other threads.
    """

    def __init__(self, monkeypatch, at: int, behind: bool) -> None:
        self.at, self.behind, self.done, self.over = at, behind, 0, False
        writing, append, append_all = durable.writing, LedgerHttp.append, LedgerHttp.append_all

        @contextmanager
        def killed_writing(path, *arguments, **more):
            with self._doing(), writing(path, *arguments, **more) as file:
                yield file

        def killed_append(ledger, leaf):
            with self._doing():
                return append(ledger, leaf)

        def killed_append_all(ledger, leaves, keys):
            with self._doing():
                return append_all(ledger, leaves, keys)

        monkeypatch.setattr(durable, "writing", killed_writing)
        monkeypatch.setattr(LedgerHttp, "append", killed_append)
        monkeypatch.setattr(LedgerHttp, "append_all", killed_append_all)
        self.armed = False

    @contextmanager
    def _doing(self):
        here = self.armed and threading.current_thread() is threading.main_thread()
        self.done += here
        if here and self.done == self.at and not self.behind:
            raise Killed
        yield
        if here and self.done == self.at:
            raise Killed

    def __call__(self, coordinate) -> None:
        self.armed = True
        with suppress(Killed):
            coordinate()
            self.over = True
        self.armed = False
        if not self.over:
            try:
                coordinate()
            except Refused as refused:  # It was killed behind its last word.
                if "has ended: completed" not in refused.detail:
                    raise


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Result:
    """The run that nothing stopped."""
    return toy(tmp_path_factory.mktemp("whole"))


def resumes(whole, tmp_path, monkeypatch, at: int, behind: bool) -> Killer:
    """Whatever was stopped, if anything: the run came to the same checkpoints."""
    killer = Killer(monkeypatch, at, behind)
    result = toy(tmp_path, attempt=killer)
    assert reached(result) == reached(whole)
    assert (result.report.findings, result.report.accepted, result.excluded) == ([], 9, ())
    assert result.report.books.runs["r1"].ended.status == "completed"
    return killer


@pytest.mark.parametrize(("at", "behind"), [(4, True), (9, False), (14, True), (20, True), (27, False)])
def test_a_coordinator_that_was_killed_goes_on_to_the_same_checkpoints(whole, tmp_path, monkeypatch, at, behind):
    assert not resumes(whole, tmp_path, monkeypatch, at, behind).over


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("behind", [False, True])
def test_a_coordinator_can_be_killed_anywhere(whole, tmp_path, monkeypatch, behind):
    """Before every tenth thing that it does for good, and behind every tenth."""
    at = 1 + behind
    while True:
        with monkeypatch.context() as patched:
            if resumes(whole, tmp_path / str(at), patched, at, behind).done < at:
                break
        at += 10
    assert at > 50


def test_a_round_whose_end_passed_while_the_coordinator_was_away_closes_with_what_had_come(tmp_path, monkeypatch):
    """Two answers were kept; the third member is not asked again, and the next round has all three."""
    deadline_s = 6.0

    class Away(Killer):
        def __call__(self, coordinate) -> None:
            def late() -> None:
                time.sleep(deadline_s + 0.2)
                coordinate()

            self.armed = True
            with suppress(Killed):
                coordinate()
            self.armed = False
            late()

    killer = Away(monkeypatch, 0, behind=True)
    kept = Turn.keep

    def keep(turn, member, answer):
        kept(turn, member, answer)
        if killer.armed and len(list(turn.folder.glob("*.entries"))) == 2:
            raise Killed

    monkeypatch.setattr(Turn, "keep", keep)
    result = toy(tmp_path, attempt=killer, deadline_s=deadline_s, rounds=2)
    assert [(round_, reason) for round_, _, reason in result.excluded] == [(1, "late")]
    assert (result.report.findings, result.report.accepted) == ([], 5)


def test_a_round_whose_answers_had_all_come_waits_for_nothing(whole, tmp_path, monkeypatch):
    """The coordinator was killed behind the last of them."""
    judge, killed = Outer.judge, []

    def kill(*arguments):
        if not killed:
            killed.append(arguments)
            raise Killed
        return judge(*arguments)

    def twice(coordinate) -> None:
        with pytest.raises(Killed):
            coordinate()
        coordinate()

    monkeypatch.setattr(Outer, "judge", kill)
    result = toy(tmp_path, attempt=twice)
    assert reached(result) == reached(whole)
    assert result.seconds < 30


def test_a_run_stops_early_when_the_loss_is_no_lower_for_as_long_as_it_says(tmp_path):
    still = replace(TOY, outer_rate="0.000000001", outer="mean")  # Other bits, and the same loss to the millionth.
    result = toy(tmp_path, recipe=still, rounds=9, patience=2)
    run = result.report.books.runs["r1"]
    assert (len(run.rounds), run.ended.status) == (2, "stopped")
    assert run.ended.reason == "the held-out loss was no lower for 2 rounds"
    members = len(run.manifest.members)
    assert result.bill.unspent_flop == members * 7 * round_flop(run.manifest, 1, "acme") > 0
    unhurried = toy(tmp_path / "b", recipe=still, patience=0)
    assert len(unhurried.report.books.runs["r1"].rounds) == 3
    assert unhurried.bill.unspent_flop == 0


def test_rounds_that_take_no_step_do_not_stop_a_run(tmp_path):
    result = toy(tmp_path, rounds=2, patience=1, quorum=3, misbehave={"cedar": "tampered"})
    run = result.report.books.runs["r1"]
    assert (run.checkpoint, run.ended.status) == (run.manifest.base, "completed")


def test_a_run_that_would_stop_behind_its_last_round_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(Outer, "loss", lambda *_: 1.0)  # Lower than at first, and then the same again.
    result = toy(tmp_path, rounds=2, patience=1)
    assert result.report.books.runs["r1"].ended.status == "completed"
    assert (result.report.findings, result.bill.unspent_flop) == ([], 0)


def test_a_coordinator_whose_disk_lacks_a_round_that_the_log_has_says_nothing(tmp_path, monkeypatch):
    """It would say a second thing about that round, and the log would keep both as evidence against it."""
    lost, keep = [], Turn.keep

    def dies(turn: Turn, member: str, answer: Answer) -> None:
        if turn.folder.name == "00000002":
            raise Killed
        keep(turn, member, answer)

    def without(coordinate) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Turn, "keep", dies)
            with pytest.raises(Killed):
                coordinate()
        (folder,) = tmp_path.glob("parties/coordinator/runs/*")
        shutil.rmtree(folder / "00000001")
        with pytest.raises(Refused) as caught:
            coordinate()
        lost.append(caught.value.refusal)

    result = toy(tmp_path, attempt=without)
    assert lost == [Refusal.NO_JOURNAL]
    assert result.report.findings == []
    assert result.report.notices == []
    assert result.report.books.runs["r1"].ended is None


def test_a_run_whose_ledger_does_not_answer_has_not_ended(whole, tmp_path, monkeypatch):
    append, calls = LedgerHttp.append, []

    def away(ledger, leaf):
        if threading.current_thread() is threading.main_thread() and b"/round.close@" in leaf:
            calls.append(leaf)
            if len(calls) == 2:
                raise Refused(Refusal.UNREACHABLE, "gone")
        return append(ledger, leaf)

    def twice(coordinate) -> None:
        with pytest.raises(Refused, match="gone"):
            coordinate()
        coordinate()

    monkeypatch.setattr(LedgerHttp, "append", away)
    result = toy(tmp_path, attempt=twice)
    assert reached(result) == reached(whole)
    assert result.report.books.runs["r1"].ended.status == "completed"


# Repeating the steps.


@pytest.mark.parametrize("down", CODECS)
def test_anyone_repeats_every_step_from_the_log_and_the_files(tmp_path, down):
    result = toy(tmp_path, recipe=replace(RECIPE, down=down, outer="adam"))
    found = list(repeat(logged(leaves(result), "r1"), result.founded.coordinator.path))
    assert [(each.round, each.updates, each.wrong) for each in found] == [(1, 3, ""), (2, 3, ""), (3, 3, "")]
    assert [each.checkpoint for each in found] == [checkpoint for checkpoint, _, _ in reached(result)]


def steps(result: Result, **changes) -> list[str]:
    """What is wrong in each round, if its close said something else."""
    said = logged(leaves(result), "r1")
    bent = tuple(replace(close, **changes) if close.round == 2 else close for close in said.closes)
    return [each.wrong for each in repeat(replace(said, closes=bent), result.founded.coordinator.path)]


def test_a_step_that_does_not_follow_from_the_updates_is_named(whole):
    assert steps(whole) == ["", "", ""]
    one, two, three = steps(whole, checkpoint="1" * 64)
    assert (one, three) == ("", "")
    assert two.startswith("the log has checkpoint 111111111111…, the updates lead to")
    assert steps(whole, state="1" * 64)[1].startswith("the log has state 111111111111…")
    heavier = tuple(replace(each, weight=each.weight + 1000) for each in closes(whole)[1].included)
    assert "the updates lead to" in steps(whole, included=heavier)[1]
    assert steps(whole, included=closes(whole)[1].included[:1])[1] == "a step without a quorum"


def files(result: Result, folder):
    return shutil.copytree(result.founded.coordinator.path, folder / "copy")


def test_a_file_that_is_missing_or_another_is_named(whole, tmp_path):
    copy, said = files(whole, tmp_path), logged(leaves(whole), "r1")
    turn = copy / "runs" / said.hash / "00000002"

    def wrong() -> str:
        return [each.wrong for each in repeat(said, copy)][1]

    good = (turn / "birch.update").read_bytes()
    (turn / "birch.update").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert wrong().startswith("wrong_digest: birch sent ")
    (turn / "birch.update").unlink()
    assert wrong().startswith("not_found: the update of birch")
    (turn / "birch.update").write_bytes(good)
    assert wrong() == ""
    (copy / "runs" / said.hash / "state" / f"{said.closes[0].state}.safetensors").write_bytes(b"")
    assert wrong().startswith("corrupt: ")
    (copy / "checkpoints" / f"{said.closes[1].base}.safetensors").unlink()
    assert wrong().startswith("no_checkpoint: ")


def test_the_command_says_what_it_repeated(whole, tmp_path, capsys):
    log, charter = str(whole.founded.ledger / "log"), whole.founded.coordinator.charter_entry.hash.hex()
    where = ["verify-checkpoint", log, "r1", "--files", str(whole.founded.coordinator.path)]
    assert main([*where, "--charter", charter]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == f"round 3: 3 updates lead to {closes(whole)[2].checkpoint[:16]}…, as the log says"
    assert len(lines) == 3
    assert main([*where, "--round", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], [each["round"] for each in said["steps"]]) == ("consortium.steps/1", [2])
    copy = files(whole, tmp_path)
    for path in (copy / "checkpoints").iterdir():
        path.write_bytes(b"x")
    assert main([*where[:-1], str(copy)]) == 1
    assert main([*where, "--charter", "1" * 64]) == 1
    assert "nothing was repeated" in capsys.readouterr().err
    for more, refusal in ((["--round", "9"], "wrong_round"), (["--round", "0"], "wrong_round")):
        assert main([*where, *more]) == 2
        assert refusal in capsys.readouterr().err
    assert main(["verify-checkpoint", log, "r9", *where[3:]]) == 2
    assert "unknown_run" in capsys.readouterr().err


def test_the_benchmark_stops_a_coordinator_too_and_measures_a_round():
    assert coordinator._reached(stop=True) == coordinator._reached(stop=False)
    assert 1 < coordinator._over_model(3, replace(coordinator.LARGE, width=192)) < 4
