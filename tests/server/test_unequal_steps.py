"""Members with steps of their own: a run from its manifest to its bill, audited, repeated, taken again."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from world import TOY

from client import auditor, begun, reexecute
from client.steps import logged, repeat
from consortium.cli import main
from consortium.faults import Slow
from consortium.simulate import Result, simulate
from server.launch import read_steps
from shared_models.lm import hygiene
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import Manifest, Receipt, RoundClose
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import pace
from shared_models.rules.pricing import round_flop, tokens_asked

MEMBERS = {"acme": 1, "birch": 1, "cedar": 1}
STEPS = {"acme": 8, "birch": 2, "cedar": 5}
RECIPE = replace(TOY, inner_steps=8, segment=2, shortest=8, inner="muon", up="int8")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("unequal") / "parties"
    return simulate(folder, MEMBERS, rounds=3, recipe=RECIPE, steps=STEPS)


def leaves(run: Result) -> list[bytes]:
    return fetch(reader(str(run.founded.ledger / "log"))).leaves


def receipts(run: Result) -> list[tuple[Receipt, str]]:
    found = ((entries.peek(leaf), merkle.leaf_hash(leaf).hex()) for leaf in leaves(run))
    return [(record, hashed) for record, hashed in found if isinstance(record, Receipt)]


def test_each_trains_and_is_paid_for_its_own_steps_and_anyone_comes_to_the_same_checkpoints(run):
    assert (run.report.findings, run.excluded) == ([], ())
    assert run.manifest.steps == tuple(STEPS.values())
    assert {(each.member, each.steps) for each, _ in receipts(run)} == set(STEPS.items())
    closes = [each for leaf in leaves(run) if isinstance(each := entries.peek(leaf), RoundClose)]
    assert {each.judged for close in closes for each in close.included} == {"whole"}
    assert {each.weight for close in closes for each in close.included} == {10**9 // 3}
    work = {each: sum(round_flop(run.manifest, number, each) for number in (1, 2, 3)) for each in MEMBERS}
    assert {each.member: each.flop for each in run.bill.balances} == work
    assert work["acme"] > work["cedar"] > work["birch"]
    found = list(repeat(logged(leaves(run), "r1"), run.founded.coordinator.path))
    assert [each.wrong for each in found] == ["", "", ""]


def test_tokens_are_those_of_each(run):
    asked = sum(tokens_asked(run.manifest.recipe_of(each)) for each in MEMBERS)
    assert asked == 15 * RECIPE.batch * RECIPE.context
    assert [each.tokens for each in run.ledger().curve("r1")] == [0, asked, 2 * asked, 3 * asked]


@pytest.mark.parametrize("member", MEMBERS)
def test_who_repeats_a_segment_of_anybody_comes_to_the_same_bits(run, member):
    mine = [each for each in receipts(run) if each[0].member == member]
    (earlier, _), (receipt, hashed) = mine[1:]
    home = run.founded.member(member)
    kept = begun.recall(home.begun_path, run.report.books.runs["r1"].hash, receipt.round)
    last = (STEPS[member] - 1) // RECIPE.segment
    told = {"segment": last, "text": home.settings.data, "salt": home.salt("r1", receipt.round)}
    shown = reexecute.show(kept, receipt, hashed, run.manifest, **told)
    assert reexecute.replay(shown, receipt, hashed, run.manifest, earlier) == ("matches", 0, "the same bits")
    as_many = replace(run.manifest, steps=())
    if member == "acme":
        assert reexecute.replay(shown, receipt, hashed, as_many, earlier).verdict == "matches"
    else:
        found = reexecute.replay(shown, receipt, hashed, as_many, earlier)
        assert (found.verdict, found.why) == ("differs", "its points are not where the recipe puts them")


def test_every_segment_that_there_is_can_be_drawn_and_no_other(run):
    drawn = {each.segment for each in run.report.books.challenges(("r1", 3, "birch"))}
    assert drawn <= {None, 0}


def test_who_repeats_a_step_judges_by_the_steps(run, monkeypatch):
    """Else the update of a fast member among slow ones would be found to count less than the log says."""
    told = []
    judge = hygiene.judge
    monkeypatch.setattr(hygiene, "judge", lambda *what: told.append(what[-1]) or judge(*what))
    list(repeat(logged(leaves(run), "r1"), run.founded.coordinator.path, only=2))
    assert [sorted(each.values()) for each in told] == [[2, 5, 8]]


@pytest.mark.usefixtures("run")  # So that nobody's time goes to imports.
def test_a_slow_member_is_paced_by_its_receipts_and_every_member_comes_to_the_same(tmp_path, capsys):
    recipe, slow = replace(TOY, inner_steps=24), {"cedar": Slow(60.0)}
    result = simulate(tmp_path / "p", MEMBERS, rounds=1, recipe=recipe, misbehave=slow, paced=True)
    assert (result.report.findings, result.excluded) == ([], ())
    first = [each for each, _ in receipts(result) if each.run == "pace"]
    assert {each.steps for each in first} == {24}
    assert result.manifest.steps == pace.steps(tuple(MEMBERS), 24, {}, pace.speeds(first))
    fast, own = max(result.manifest.steps), dict(zip(MEMBERS, result.manifest.steps, strict=True))
    assert (fast, own["cedar"] <= 6) == (24, True)

    copy = tmp_path / "copy"
    shutil.copytree(result.founded.ledger / "log", copy)
    assert main(["audit", str(copy), "--home", str(result.founded.member("birch").path), "--steps"]) == 0
    one, two = [line for line in capsys.readouterr().out.splitlines() if line.startswith("steps")]
    assert one.endswith("acme 24 (no receipt), birch 24 (no receipt), cedar 24 (no receipt)")
    asked = ", ".join(f"{member} {number}" for member, number in own.items())
    assert two.endswith(f": {asked}: as paced by the receipts before it")


@pytest.mark.usefixtures("run")
def test_steps_named_by_hand_are_told_from_paced_ones_and_are_no_finding(tmp_path, capsys):
    recipe, named = replace(TOY, inner_steps=24), {"acme": 24, "birch": 1, "cedar": 1}  # They are nearly as fast.
    result = simulate(tmp_path / "p", MEMBERS, rounds=1, recipe=recipe, steps=named, paced=True)
    log = str(result.founded.ledger / "log")
    assert main(["audit", log, "--steps"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^steps of run r1, entry \d+: .* 1 \(paced: \d+\)", told, re.MULTILINE)
    assert "as paced" not in told
    assert "0 findings" in told


def test_programs_are_told_too_if_they_ask(run, capsys):
    log = str(run.founded.ledger / "log")
    assert main(["audit", log, "--json", "--steps"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["steps"]
    assert (said["run"], said["asked"], said["paced"]) == ("r1", STEPS, {})
    assert isinstance(entries.peek(leaves(run)[said["entry"]]), Manifest)
    assert main(["audit", log, "--json"]) == 0
    assert "steps" not in json.loads(capsys.readouterr().out)


def test_nothing_is_said_of_steps_by_another_log_than_was_audited(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run.founded.ledger / "log", copy)
    for packed in (copy / "tile" / "entries").rglob("000.p/*"):
        packed.write_bytes(packed.read_bytes().replace(b'"busy_ms":', b'"busy_mz":', 1))
    with pytest.raises(Refused, match="is not the one that was audited") as caught:
        list(auditor.paced(str(copy), run.report.books))
    assert caught.value.refusal is Refusal.CORRUPT
    assert main(["audit", str(copy), "--steps"]) == 1
    assert "\nsteps" not in capsys.readouterr().out


def test_who_was_never_heard_of_is_named_by_hand(tmp_path):
    with pytest.raises(Refused, match="how fast cedar is: name its steps, --steps cedar=N") as caught:
        simulate(tmp_path / "a", MEMBERS, recipe=TOY, misbehave={"cedar": "dead"}, paced=True, quorum=2, deadline_s=5)
    assert caught.value.refusal is Refusal.INFEASIBLE
    with pytest.raises(Refused, match="steps of dogwood") as caught:
        simulate(tmp_path / "b", MEMBERS, recipe=TOY, steps={"dogwood": 1})
    assert caught.value.refusal is Refusal.WRONG_MEMBER
    with pytest.raises(Refused, match="the most are not inner_steps = 3"):
        simulate(tmp_path / "c", MEMBERS, recipe=TOY, steps={"acme": 4})
    for each in "abc":
        log = tmp_path / each / "ledger" / "log"
        said = map(entries.peek, fetch(reader(str(log))).leaves)
        assert [one.run for one in said if isinstance(one, Manifest)] == (["pace"] if each == "a" else [])


def test_steps_are_named_in_one_form():
    assert (read_steps(""), read_steps("acme=40,birch-2=1")) == ({}, {"acme": 40, "birch-2": 1})
    for wrong in ("acme", "acme=", "acme=0", "acme=-1", "acme=1.5", "acme=1,acme=2", "=,"):
        with pytest.raises(Refused, match=r"is not of the form MEMBER=STEPS") as caught:
            read_steps(wrong)
        assert caught.value.refusal is Refusal.BAD_FIELD


def test_the_command_says_who_is_asked_for_what(capsys, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        "layers = 1\nheads = 2\nwidth = 16\ncontext = 16\nbatch = 2\ninner_steps = 3\nsegment = 2\n"
    )
    words = ["--members", "2", "--rounds", "1", "--recipe", str(tmp_path / "recipe.toml")]
    assert main(["simulate", *words, "--steps", "acme=3,birch=1", "--keep", str(tmp_path / "kept")]) == 0
    assert "0 findings" in capsys.readouterr().out
    assert main(["simulate", *words, "--steps", "acme=0"]) == 2
    assert "bad_field: --steps acme=0" in capsys.readouterr().err
