"""A coordinator that is gone for good, its folder and its keys with it: another one goes on with its run."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from foreign import GRU, written
from world import TOY, World

import client.charter
from client.follow import follow
from client.home import Home as Member
from client.steps import logged, repeat
from consortium.cli import main
from consortium.found import coordinating
from consortium.simulate import Result, simulate
from server import outer, takeover, updates
from server.home import Home
from server.journal import Turn
from server.outer import Outer
from server.rounds import Coordinator
from server.takeover import elected, prepare, take_over, tell
from shared_models import invites
from shared_models.invites import Moved
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import models, tokenizer, weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, RoundClose
from shared_models.records.refusals import Refusal, Refused

THREE = {"acme": 2, "birch": 1, "cedar": 1}
RECIPE = replace(TOY, up="int4", down="top64", outer="nesterov", outer_momentum="0.5")
SUPERLINK = "127.0.0.1:9092"


class Killed(BaseException):
    """What nothing catches."""


class Parties:
    """The folders of a simulation that is under way."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.coordinator = folder, folder / "coordinator"

    def member(self, name: str) -> Member:
        return Member(self.folder / name)

    def prepared(self) -> Home:
        settings = coordinating(self.member("acme").settings.ledger, SUPERLINK, "")
        return prepare(self.coordinator, self.member("acme"), settings)

    def elect(self, home: Home) -> None:
        file = self.folder / "charter.toml"
        file.write_text(f'coordinator = "{home.key.verify_key.text()}"\n')
        proposed = client.charter.propose(self.folder / "acme", file, "successor")
        for name in ("acme", "cedar"):
            client.charter.vote(self.folder / name, proposed.hash, "yes")


def succeeded(
    folder: Path, monkeypatch, kill: tuple[type, str, int], then: Callable[[Parties], None], **more
) -> Result:
    """A run whose coordinator is killed at the n-th call of this; what is done then, before it goes on with what lies
    where the coordinator's folder was."""
    cls, name, at = kill
    called, calls = getattr(cls, name), []

    def killing(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            raise Killed
        return called(*arguments)

    def attempt(coordinate) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(cls, name, killing)
            with suppress(Killed):
                coordinate()
        assert len(calls) == at
        then(Parties(folder / "parties"))
        coordinate()

    return simulate(folder / "parties", THREE, **{"rounds": 4, "recipe": RECIPE, "attempt": attempt} | more)


def closes(result: Result) -> list[RoundClose]:
    leaves = fetch(reader(str(result.founded.ledger / "log"))).leaves
    return [each for leaf in leaves if isinstance(each := entries.peek(leaf), RoundClose)]


def files(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, but for what was learned of keys."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if path.parent.name != "keyring"}


def refuses(refusal: Refusal, home: Home, *arguments, **more) -> str:
    before, size = files(home.path), home.ledger().size()
    with pytest.raises(Refused) as caught:
        take_over(home.path, *arguments, **more)
    assert (caught.value.refusal, files(home.path), home.ledger().size()) == (refusal, before, size), caught.value
    return caught.value.detail


SECOND = (Outer, "judge", 2)  # All have answered in round 2, and nothing has come of it.


def test_another_goes_on_from_what_a_member_holds_and_the_open_round_pays_and_takes_no_step(tmp_path, monkeypatch):
    def then(parties: Parties) -> None:
        old = Home(parties.coordinator).key
        shutil.rmtree(parties.coordinator)
        home = parties.prepared()
        member = parties.member("acme").path
        refuses(Refusal.UNKNOWN_KEY, home, "r1", [member])
        parties.elect(home)
        refuses(Refusal.UNKNOWN_RUN, home, "r2", [member])
        refuses(Refusal.WRONG_ROUND, home, "r1", [member], back_to=2)
        refuses(Refusal.WRONG_ROUND, home, "r1", [member], back_to=-1)
        assert refuses(Refusal.NOT_HELD, home, "r1", []).startswith("no ")
        (held,) = (member / "work" / "kept").glob("*/checkpoint/*")
        bent = tmp_path / "bent" / held.name
        bent.parent.mkdir()
        bent.write_bytes(held.read_bytes()[:-1] + b"x")
        assert refuses(Refusal.NOT_HELD, home, "r1", [bent.parent]).endswith("1 files of that name hold others")
        with monkeypatch.context() as patched:
            read = LedgerHttp.read
            patched.setattr(
                LedgerHttp, "read", lambda ledger, name: read(ledger, name).replace(b'"cpu_ms":', b'"cpu_mz":')
            )
            assert "the log is not right" in refuses(Refusal.CORRUPT, home, "r1", [member])
        taken = take_over(home.path, "r1", [bent.parent, member])
        assert (taken.round, taken.checkpoint, taken.remembers) == (2, held.stem, False)
        assert [each.member for each in taken.handed_over.included] == ["acme", "birch", "cedar"]
        assert elected(home)
        again = take_over(home.path, "r1", [member])
        assert (again.round, again.handed_over) == (2, None)
        with pytest.raises(Refused, match="revoked"):
            home.say(home.ledger(), old, replace(taken.handed_over, round=3))

    result = succeeded(tmp_path, monkeypatch, SECOND, then)
    run, (one, two, three, four) = result.report.books.runs["r1"], closes(result)
    assert (result.report.findings, result.report.accepted, run.ended.status) == ([], 12, "completed")
    assert (two.checkpoint, two.loss_unats, two.state, two.seed) == (
        one.checkpoint,
        one.loss_unats,
        weights.NOTHING,
        FIRST,
    )
    assert {(each.weight, each.judged) for each in two.included} == {(0, "lost")}
    assert four.loss_unats < three.loss_unats < two.loss_unats
    assert sum(each.flop for each in result.bill.balances) == 12 * three_flop(result)
    said = logged(fetch(reader(str(result.founded.ledger / "log"))).leaves, "r1")
    first, *found = ((each.updates, each.wrong) for each in repeat(said, result.founded.coordinator.path))
    assert first[1].startswith("not_found: the update of acme")  # They are gone.
    assert found == [(0, ""), (3, ""), (3, "")]
    bent = tuple(replace(each, state=one.state) if each.round == 2 else each for each in said.closes)
    wrong = [each.wrong for each in repeat(replace(said, closes=bent), result.founded.coordinator.path)]
    assert wrong[1] == ""  # It might have had it.
    assert wrong[2] != ""
    bent = tuple(replace(each, state=four.state) if each.round == 2 else each for each in said.closes)
    wrong = next(each.wrong for each in repeat(replace(said, closes=bent), Path(), 2))
    assert wrong == "remembers what no step has left"


def three_flop(result: Result) -> int:
    """Of one receipt."""
    recipe = result.manifest.recipe
    return recipe.batch * recipe.context * recipe.inner_steps * result.manifest.flop_per_token


def test_with_a_whole_copy_of_the_old_folder_it_comes_to_the_same_bits(tmp_path, monkeypatch):
    def then(parties: Parties) -> None:
        shutil.move(parties.coordinator, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy" / "keys")
        home = parties.prepared()
        parties.elect(home)
        taken = take_over(home.path, "r1", [tmp_path / "copy"])
        assert (taken.round, taken.remembers, taken.handed_over) == (1, True, None)

    whole = simulate(tmp_path / "whole", THREE, rounds=4, recipe=RECIPE)
    result = succeeded(tmp_path, monkeypatch, SECOND, then)
    assert (result.report.findings, result.report.accepted) == ([], 12)
    reached = [[(each.checkpoint, each.state, each.loss_unats) for each in closes(one)] for one in (whole, result)]
    assert reached[0] == reached[1]
    said = logged(fetch(reader(str(result.founded.ledger / "log"))).leaves, "r1")
    assert {each.wrong for each in repeat(said, result.founded.coordinator.path, 4)} == {""}


def test_who_has_taken_the_steps_again_from_what_was_shown_loses_neither_checkpoint_nor_momentum(tmp_path, monkeypatch):
    """Between two rounds, when nobody else holds the checkpoint, and with no file of the old folder."""

    def then(parties: Parties) -> None:
        assert {each.round for each in updates.show(parties.coordinator, "r1", since=2)} == {2}
        assert [each.refused for each in updates.show(parties.coordinator, "r1")] == [""] * 6
        shutil.rmtree(parties.coordinator)
        home, birch = parties.prepared(), parties.member("birch")
        parties.elect(home)
        refuses(Refusal.NOT_HELD, home, "r1", [birch.path])
        said = logged(fetch(home.ledger().read).leaves, "r1")
        update = partial(birch.ledger().update, "r1", key=birch.key("compute"))
        assert [each.wrong for each in repeat(said, tmp_path / "shown", bring=update)] == ["", ""]
        taken = take_over(home.path, "r1", [tmp_path / "shown"])
        assert (taken.round, taken.remembers, taken.handed_over) == (2, True, None)

    result = succeeded(tmp_path, monkeypatch, (Coordinator, "_open", 3), then)
    one, two, three, four = closes(result)
    assert (result.report.findings, result.report.accepted) == ([], 12)
    assert (two.base, three.base, four.base) == (one.checkpoint, two.checkpoint, three.checkpoint)
    assert FIRST not in {each.seed for each in closes(result)}


@pytest.mark.parametrize("lost", ["seed", "birch.entries"])
def test_with_a_copy_that_is_not_whole_momentum_goes_on_and_the_open_round_takes_no_step(tmp_path, monkeypatch, lost):
    """The work of whose answer is not there would else not be paid: its round has ended while nobody coordinated."""

    def then(parties: Parties) -> None:
        shutil.move(parties.coordinator, tmp_path / "copy")
        (opened,) = (tmp_path / "copy" / "runs").glob("*/00000002")
        (opened / lost).unlink()
        home = parties.prepared()
        parties.elect(home)
        taken = take_over(home.path, "r1", [tmp_path / "copy"])
        assert (taken.round, taken.remembers, len(taken.handed_over.included)) == (2, True, 3)
        mine, theirs = (Turn(at / "runs" / opened.parent.name, 3) for at in (home.path, tmp_path / "copy"))
        seeds = mine.seed(), theirs.seed()
        take_over(home.path, "r1", [tmp_path / "copy"])
        assert (mine.seed(), theirs.seed()) == seeds  # What is there already is nowhere copied over.

    result = succeeded(tmp_path, monkeypatch, SECOND, then)
    one, two, *_ = closes(result)
    assert (result.report.findings, two.state, two.checkpoint) == ([], one.state, one.checkpoint)
    said = logged(fetch(reader(str(result.founded.ledger / "log"))).leaves, "r1")
    assert {each.wrong for number in (2, 3, 4) for each in repeat(said, result.founded.coordinator.path, number)} == {
        ""
    }


def test_what_nobody_holds_any_more_is_gone_back_behind(tmp_path, monkeypatch):
    """The coordinator is killed between two rounds: of the checkpoint that it came to nobody has heard yet."""

    def then(parties: Parties) -> None:
        shutil.rmtree(parties.coordinator)
        home = parties.prepared()
        parties.elect(home)
        held = [parties.member(name).path for name in THREE]
        refuses(Refusal.NOT_HELD, home, "r1", held)
        taken = take_over(home.path, "r1", held, back_to=1)
        assert (taken.round, taken.remembers, taken.handed_over.included) == (3, False, ())
        assert take_over(home.path, "r1", held, back_to=1).handed_over is None  # That is where it is.
        refuses(Refusal.WRONG_SEED, home, "r1", held, back_to=0)

    result = succeeded(tmp_path, monkeypatch, (Coordinator, "_open", 3), then)
    one, two, three, four = closes(result)
    assert (result.report.findings, result.report.accepted) == ([], 9)
    assert (three.base, three.checkpoint, four.base) == (two.checkpoint, one.checkpoint, one.checkpoint)
    assert [each.member for each in four.included] == [*THREE]


def test_the_weights_that_a_run_was_given_are_asked_for(tmp_path, monkeypatch):
    given = weights.keep(outer.first(RECIPE), tmp_path / "given")

    def then(parties: Parties) -> None:
        shutil.rmtree(parties.coordinator)
        home = parties.prepared()
        parties.elect(home)
        member = parties.member("birch").path
        assert given in refuses(Refusal.NOT_HELD, home, "r1", [member])
        take_over(home.path, "r1", [member, tmp_path / "given"])

    start = tmp_path / "given" / f"{given}.safetensors"
    result = succeeded(tmp_path, monkeypatch, SECOND, then, start=start, rounds=3)
    assert (result.report.findings, result.report.books.runs["r1"].ended.status) == ([], "completed")


def test_the_text_that_checkpoints_are_scored_on_is_asked_for(tmp_path, monkeypatch):
    text = tmp_path / "held-out.txt"
    text.write_bytes(bytes(range(32, 127)) * 400)

    def then(parties: Parties) -> None:
        shutil.rmtree(parties.coordinator)
        home = parties.prepared()
        parties.elect(home)
        member = [parties.member("birch").path]
        assert "--held-out" in refuses(Refusal.NOT_HELD, home, "r1", member)
        refuses(Refusal.NOT_FOUND, home, "r1", member, held_out=tmp_path / "none")
        refuses(Refusal.WRONG_DIGEST, home, "r1", member, held_out=home.path / "coordinator.toml")
        take_over(home.path, "r1", member, held_out=text)

    result = succeeded(tmp_path, monkeypatch, SECOND, then, held_out=text, rounds=3)
    assert result.report.books.runs["r1"].ended.status == "completed"


def test_the_tokenizer_of_a_run_is_asked_for(tmp_path, monkeypatch):
    text, cut = tmp_path / "public.txt", tmp_path / "tokenizer.json"
    text.write_bytes(b"".join(b"line %d of it\n" % number for number in range(500)))
    cut.write_bytes(tokenizer.train([text], 270))

    def then(parties: Parties) -> None:
        shutil.rmtree(parties.coordinator)
        home, birch = parties.prepared(), parties.member("birch")
        parties.elect(home)
        kept = birch.tokenizers_path.rename(tmp_path / "tokenizers")
        assert "cut by a tokenizer" in refuses(Refusal.NOT_HELD, home, "r1", [birch.path])
        kept.rename(birch.tokenizers_path)
        take_over(home.path, "r1", [birch.path])

    result = succeeded(tmp_path, monkeypatch, SECOND, then, cut=cut, rounds=3, recipe=replace(RECIPE, vocabulary=270))
    assert result.report.books.runs["r1"].ended.status == "completed"


def test_the_file_of_a_model_that_is_not_ours_is_never_taken_from_a_copy(tmp_path, monkeypatch):
    given = written(tmp_path, GRU)

    def then(parties: Parties) -> None:
        old = parties.coordinator.rename(tmp_path / "old")
        home, birch = parties.prepared(), parties.member("birch")
        parties.elect(home)
        why = refuses(Refusal.NOT_SET_UP, home, "r1", [birch.path, old])
        assert f"which is not in {home.models_path}" in why
        models.keep(given, home.models_path)
        take_over(home.path, "r1", [birch.path])

    result = succeeded(tmp_path, monkeypatch, SECOND, then, model=given, rounds=3)
    assert result.report.books.runs["r1"].ended.status == "completed"


def test_a_run_whose_last_round_is_closed_only_has_to_end(tmp_path, monkeypatch):
    def then(parties: Parties) -> None:
        checkpoints = tmp_path / "checkpoints"
        shutil.move(parties.coordinator / "checkpoints", checkpoints)
        shutil.rmtree(parties.coordinator)
        home = parties.prepared()
        parties.elect(home)
        refuses(Refusal.NOT_HELD, home, "r1", [])
        refuses(Refusal.WRONG_ROUND, home, "r1", [checkpoints], back_to=0)
        taken = take_over(home.path, "r1", [checkpoints])
        assert (taken.round, taken.handed_over) == (1, None)
        homes.append(home)

    homes: list[Home] = []
    result = succeeded(tmp_path, monkeypatch, (Coordinator, "_end", 1), then, rounds=1)
    assert result.report.books.runs["r1"].ended.status == "completed"
    (home,) = homes
    assert (home.path / "checkpoints" / f"{closes(result)[0].checkpoint}.safetensors").is_file()


def test_a_run_that_has_ended_is_not_taken_over(tmp_path):
    def attempt(coordinate) -> None:
        coordinate()
        parties = Parties(tmp_path / "parties")
        shutil.move(parties.coordinator, tmp_path / "copy")
        home = parties.prepared()
        parties.elect(home)
        assert refuses(Refusal.WRONG_ROUND, home, "r1", [tmp_path / "copy"]) == "run r1 has ended: completed"

    simulate(tmp_path / "parties", THREE, rounds=1, recipe=RECIPE, attempt=attempt)


def test_work_for_earlier_rounds_that_has_not_counted_yet_counts_in_the_round_that_is_handed_over():
    world = World()
    world.start(late=1)
    world.say(world.coordinator, world.opened())
    in_time = {each: world.say(f"{each}/compute", world.receipt(each)) for each in ("acme", "birch")}
    late = world.receipt("cedar")
    world.say(world.coordinator, world.close(in_time))
    hashed = world.say("cedar/compute", late)
    world.say(world.coordinator, world.opened(invited=("acme", "birch")))
    own = world.say("birch/compute", world.receipt("birch"))
    closing = takeover._without_a_step(world.books.runs["r1"])
    assert [(each.member, each.receipt) for each in closing.included] == [("birch", own)]
    assert [(each.member, each.receipt) for each in closing.late] == [("cedar", hashed)]
    assert [(each.member, each.reason) for each in closing.excluded] == [("acme", "not_held")]


# The command, and how members find the new one.


def test_the_command_makes_keys_waits_for_the_votes_then_takes_over_and_members_follow(tmp_path, monkeypatch, capsys):
    lines = []

    def then(parties: Parties) -> None:
        shutil.rmtree(parties.coordinator)
        member = parties.member("acme").path
        words = ["take-over", "r1", "--home", str(parties.coordinator), "--member", str(member)]
        words += ["--superlink", SUPERLINK, "--gateway", "training.example:9443"]
        assert main(words) == 6
        home = Home(parties.coordinator)
        assert f'coordinator = "{home.key.verify_key.text()}"' in capsys.readouterr().out
        assert (main(words), capsys.readouterr().out.count("\n")) == (6, 2)
        assert not elected(home)
        parties.elect(Home(parties.coordinator))
        assert main(words) == 0
        lines.extend(capsys.readouterr().out.splitlines())
        assert main(["follow", str(home.path / "moved.note"), "--home", str(parties.folder / "birch")]) == 0
        assert "the coordinator is at training.example:9443" in capsys.readouterr().out
        birch = parties.member("birch")
        assert birch.settings.superlink == "training.example:9443"
        assert (birch.path / "ca.crt").read_bytes() == (home.path / "tls" / "ca.crt").read_bytes()

    succeeded(tmp_path, monkeypatch, SECOND, then, rounds=3)
    assert lines[0] == "round 2 is closed without a step; 3 receipts count"
    assert lines[1].startswith("run r1 goes on behind round 2 from checkpoint ")
    assert "momentum grows anew" in lines[2]


def test_a_member_follows_nobody_but_the_coordinator_that_counts(tmp_path, monkeypatch):
    def then(parties: Parties) -> None:
        old, note = Home(parties.coordinator), tmp_path / "note"
        shutil.copy(tell(old), note)
        birch = parties.member("birch").path

        def refused(refusal: Refusal, data: bytes = b"") -> None:
            before = {name: (birch / name).read_bytes() for name in ("member.toml", "ca.crt")}
            if data:
                note.write_bytes(data)
            with pytest.raises(Refused) as caught:
                follow(birch, note)
            assert caught.value.refusal is refusal
            assert {name: (birch / name).read_bytes() for name in before} == before

        moved = invites.read(Moved, note.read_bytes()).says
        key, admin = old.key, parties.member("acme").key("admin")
        assert follow(birch, note).superlink == moved.superlink
        shutil.move(parties.coordinator, tmp_path / "copy")
        home = parties.prepared()
        parties.elect(home)
        refused(Refusal.REVOKED)
        refused(Refusal.WRONG_ROLE, invites.sign(moved, [admin]))
        refused(Refusal.UNKNOWN_KEY, invites.sign(moved, [type(key).generate(key.name)]))
        refused(Refusal.WRONG_ORIGIN, invites.sign(replace(moved, consortium="other.example"), [home.key]))
        refused(Refusal.NOT_A_NOTE, b"hello")
        note.unlink()
        refused(Refusal.NOT_FOUND)
        with pytest.raises(Refused, match="locked"):
            parties.prepared()
        os.unlink(home.path / "charter.note")
        shutil.copy(parties.folder / "acme" / "charter.note", home.path)
        take_over(home.path, "r1", [tmp_path / "copy"])

    succeeded(tmp_path, monkeypatch, SECOND, then, rounds=2)
