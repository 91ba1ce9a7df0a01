"""The commands with which members ask for one another's training, show their own, and say what came of it."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import psutil
import pytest
from world import TOY

from client import answers, begun, policy, reexecute, work
from client.auditor import audited
from client.begun import Begun
from consortium.cli import main
from consortium.faults import resigned
from consortium.found import Founded
from consortium.simulate import Result, simulate
from ledger.api import serving
from shared_models.lm import weights
from shared_models.messages import Answer
from shared_models.published import fetch, reader
from shared_models.records import canonical, tlog
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import AuditResult, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused
from shared_models.rules.challenge import Challenge, Trajectory
from shared_models.shelf import FolderShelf

MEMBERS = {f"m{number}": 1 for number in range(6)}

LIAR = "m5"


def forgets(folder: Path, answer: Answer, key: SigningKey) -> Answer:
    """In the last round it signs that its optimiser ended with no memory at all."""
    receipt = entries.peek(answer.entries[-1])
    if receipt.round < 4:
        return answer
    return resigned(answer, key, trajectory=forgotten(folder).root)


def forgotten(folder: Path) -> Trajectory:
    (path,) = (folder / LIAR / "work" / "begun").rglob("4.begun")
    right = canonical.decode(Begun, path.read_bytes().partition(b"\n")[0]).trajectory
    *points, last = right.points
    return replace(right, points=(*points, replace(last, memory=weights.digest({}))))


def asked(result: Result) -> Iterator[Challenge]:
    """What the log has drawn of honest work that can still be shown."""
    drawn = (each for each in result.report.books.challenges() if each.segment is not None)
    return (each for each in drawn if each.round > 2 and each.member != LIAR)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Result:
    """A run in whose last two rounds the log has drawn work of somebody: it takes a run or two until there is one."""
    for number in count():
        folder = tmp_path_factory.mktemp(f"run{number}")
        recipe = replace(TOY, seed=number, up="int4", inner="muon")
        result = simulate(
            folder / "parties", MEMBERS, rounds=4, recipe=recipe, misbehave={LIAR: partial(forgets, folder / "parties")}
        )
        assert (result.report.findings, result.excluded) == ([], ())
        if list(asked(result)):
            shutil.copytree(folder / "parties", folder / "untouched")
            return result
    raise AssertionError


@pytest.fixture
def run(trained, capsys):
    """Run a member's command: (exit code, what it printed, what it complained). The ledger is there again."""
    url = trained.founded.member("m0").settings.ledger

    def command(verb: str, member: str, *words: object) -> tuple[int, str, str]:
        home = trained.founded.member(member).path
        with serving(trained.founded.ledger, int(url.rpartition(":")[2])):
            code = main(["work", verb, "--home", str(home), *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def receipts(trained: Result) -> dict[str, Receipt]:
    """Each receipt of the log, by its hash."""
    leaves = fetch(reader(str(trained.founded.ledger / "log"))).leaves
    return {leaf_hash(leaf).hex(): said for leaf in leaves if isinstance(said := entries.peek(leaf), Receipt)}


def of(trained: Result, member: str, round_: int) -> str:
    (found,) = [name for name, each in receipts(trained).items() if (each.member, each.round) == (member, round_)]
    return found


def test_what_was_drawn_is_opened_repeated_and_said_in_the_log(trained, run, tmp_path):
    drawn = json.loads(run("challenged", "m0", "--json")[1])["drawn"]
    challenge = next(asked(trained))
    mine, hashed, segment = challenge.member, challenge.receipt, challenge.segment
    who = {"auditors": list(challenge.auditors), "for_you": "m0" in challenge.auditors}
    told = {**challenge._asdict(), "yours": mine == "m0", "results": [], **who}
    assert told in drawn
    assert [each["receipt"] for each in drawn if each["round"] > 2 and each["member"] != LIAR] == [
        each.receipt for each in asked(trained)
    ]
    auditor, third = [name for name in MEMBERS if name != mine][:2]
    code, out, _ = run("challenged", mine)
    line = f"{hashed}  segment {segment} of round {challenge.round} of r1, yours"
    assert (code, line in out.splitlines()) == (0, True)
    code, out, _ = run("open", mine, hashed, "--to", tmp_path / "opening")
    assert (code, out.split()[1]) == (0, str(segment))
    code, out, _ = run("replay", auditor, tmp_path / "opening", "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["segment"], "entry" in told) == (0, "matches", segment, False)
    code, out, _ = run("replay", auditor, tmp_path / "opening", "--sign")
    assert (code, "matches" in out, "the same bits; 0 ppm; entry " in out) == (0, True, True)
    code, _, err = run("replay", auditor, tmp_path / "opening", "--sign")
    assert (code, "conflict" in err) == (2, True)
    code, _, err = run("replay", mine, tmp_path / "opening", "--sign")
    assert (code, "wrong_member" in err) == (2, True)
    code, out, _ = run("unanswered", third, hashed)
    assert code == 0
    out = run("challenged", auditor)[1]
    assert f"{auditor} said matches: entry" in out
    assert f"{third} said unanswered: entry" in out
    with logged(trained) as said:
        assert [(each.auditor, each.verdict) for each in said] == [(auditor, "matches"), (third, "unanswered")]


def test_work_is_found_with_what_its_member_signed_before_and_the_log_is_read_once_for_all_of_it(trained):
    read, books, asked = reader(str(trained.founded.ledger / "log")), trained.report.books, list[str]()
    every = receipts(trained)

    def counted(path: str) -> bytes:
        asked.append(path)
        return read(path)

    found = work.works(counted, books, {*every, books.charter_hash, "0" * 64})
    assert (sorted(asked), found.keys()) == (sorted({*asked}), every.keys())
    rounds = {(each.member, each.round): each for each in every.values()}
    for hashed, each in found.items():
        assert (each.receipt, each.hash, each.challenge) == (every[hashed], hashed, None)
        assert each.earlier == rounds.get((each.receipt.member, each.receipt.round - 1))
        assert each.manifest_hash == books.run("r1").hash
    assert work.works(counted, books, ()) == {}
    assert sorted(asked) == sorted({*asked})


def test_no_work_is_found_in_a_log_that_does_not_read_as_it_was_audited(trained):
    """Who hides the receipt before one makes what it carried over look invented, and honest work differ."""
    read, books = reader(str(trained.founded.ledger / "log")), trained.report.books
    hashed = next(name for name, each in receipts(trained).items() if each.round > 1)

    def other(path: str) -> bytes:
        return read(path).replace(b'"round":1,', b'"round":9,', 1)

    def fewer(path: str) -> bytes:
        shown = read(path)
        return tlog.pack(tlog.unpack(shown)[:-1]) if "entries" in path else shown

    for changed in (other, fewer):
        with pytest.raises(Refused, match="corrupt"):
            work.works(changed, books, {hashed})


@contextmanager
def logged(trained: Result):
    """What auditors have said, in a log that is recomputed and right."""
    home = trained.founded.member("m0")
    with serving(trained.founded.ledger, int(home.settings.ledger.rpartition(":")[2])):
        books = audited(home)
    said: list[AuditResult] = [each for _, each in books.results]
    yield said


@pytest.mark.parametrize("round_", [3, 4])
@pytest.mark.parametrize("segment", [0, 1])
def test_a_member_may_show_any_segment_of_its_newest_rounds_and_it_is_repeated_to_the_bit(
    trained, run, tmp_path, round_, segment
):
    """With an optimiser that remembers, and a codec that leaves something unsent."""
    hashed = of(trained, "m1", round_)
    assert run("open", "m1", hashed, "--to", tmp_path / "opening", "--segment", segment)[0] == 0
    code, out, _ = run("replay", "m2", tmp_path / "opening", "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["member"], told["round"]) == (0, "matches", "m1", round_)


def test_what_was_not_drawn_is_not_said_in_the_log(trained, run, tmp_path):
    asked = {each.receipt for each in trained.report.books.challenges() if each.segment is not None}
    hashed, said = next(
        (name, each) for name, each in receipts(trained).items() if name not in asked and each.round > 2
    )
    code, _, err = run("open", said.member, hashed, "--to", tmp_path / "opening")
    assert (code, "not_drawn" in err) == (2, True)
    assert run("open", said.member, hashed, "--to", tmp_path / "opening", "--segment", 1)[0] == 0
    auditor = next(name for name in MEMBERS if name != said.member)
    code, _, err = run("replay", auditor, tmp_path / "opening", "--sign")
    assert (code, "not_drawn" in err) == (2, True)
    code, _, err = run("unanswered", auditor, hashed)
    assert (code, "not_drawn" in err) == (2, True)


def test_what_cannot_be_shown_says_why(trained, run, tmp_path):
    to, hashed = tmp_path / "opening", of(trained, "m1", 4)
    for words, why in (
        (("m2", hashed, "--to", to, "--segment", 0), "wrong_member"),
        (("m1", hashed, "--to", to, "--segment", 2), "bad_field"),
        (("m1", hashed, "--to", to, "--segment", -1), "bad_field"),
        (("m1", "0" * 64, "--to", to), "not_found"),
        (("m1", trained.report.books.runs["r1"].hash, "--to", to), "not_found"),
        (("m1", of(trained, "m1", 1), "--to", to, "--segment", 0), "too_late"),
    ):
        code, _, err = run("open", *words)
        assert (code, why in err, to.exists()) == (2, True, False), words
    to.write_bytes(b"mine")
    code, _, err = run("open", "m1", hashed, "--to", to, "--segment", 0)
    assert (code, "bad_field" in err, to.read_bytes()) == (2, True, b"mine")
    code, _, err = run("replay", "m2", to)
    assert (code, "error " in err) == (2, True)


def test_who_can_no_longer_repeat_its_round_shows_nothing(trained, run, tmp_path):
    """Its disk was altered after it had signed."""
    hashed = of(trained, "m1", 4)
    (path,) = trained.founded.member("m1").begun_path.rglob("4.begun")
    good = path.read_bytes()
    for at in (-1, len(good) // 2):  # In what was unsent, and in what it trained from.
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 or len(good) :])
        code, _, err = run("open", "m1", hashed, "--to", tmp_path / "opening", "--segment", 0)
        assert (code, "wrong_opening" in err) == (2, True)
    path.write_bytes(good)


def test_what_was_signed_and_is_not_so_is_named_and_the_exit_code_says_it(trained, run, tmp_path):
    """The liar shows what it has signed: the right weights, and that no memory was left."""
    hashed, folder = of(trained, LIAR, 4), trained.founded.folder
    assert run("open", LIAR, hashed, "--to", tmp_path / "opening", "--segment", 1)[0] == 2
    home, receipt = trained.founded.member(LIAR), receipts(trained)[hashed]
    kept = begun.recall(home.begun_path, trained.report.books.runs["r1"].hash, 4)
    honest = replace(receipt, trajectory=kept[0].trajectory.root)
    words = {"segment": 1, "text": home.settings.data, "salt": home.salt("r1", 4)}
    shown = reexecute.show(kept, honest, hashed, trained.manifest, **words)
    _, groups = begun.split(shown)
    line = canonical.encode(replace(reexecute.read(shown), trajectory=forgotten(folder)))
    (tmp_path / "opening").write_bytes(line + b"\n" + begun.pack(**{**groups, "end_memory": {}}))
    code, out, _ = run("replay", "m1", tmp_path / "opening")
    assert (code, f"{LIAR}, round 4 of r1, segment 1: differs" in out) == (1, True)
    assert "steps 2 to 3 lead elsewhere: the same build, other bits" in out


# All of it by itself.


@pytest.fixture
def apart(trained, tmp_path):
    """The same consortium in a folder of its own, whose log nobody has answered yet; its ledger serves."""
    copy = tmp_path / "parties"
    shutil.copytree(trained.founded.folder.with_name("untouched"), copy)
    founded = replace(trained.founded, folder=copy)
    with serving(founded.ledger, int(founded.member("m0").settings.ledger.rpartition(":")[2])):
        yield founded


def answered(founded: Founded, member: str, *texts: Path) -> dict[tuple[str, int], str]:
    """What came of each (member, round) that this member answered."""
    found = list(work.answer(founded.member(member).path, texts))
    assert len({each["receipt"] for each in found}) == len(found)
    return {(each["member"], each["round"]): each.get("refused", each.get("verdict", "shown")) for each in found}


def drawn(founded: Founded) -> list[Challenge]:
    return [each for each in audited(founded.member("m0")).challenges() if each.segment is not None]


def test_each_shows_its_own_and_repeats_what_it_was_drawn_for_once(apart):
    every = [each for each in drawn(apart) if each.member != LIAR]
    fresh = [each for each in every if each.round > 2]
    auditor = fresh[0].auditors[0]
    assert (fresh[0].member, fresh[0].round) not in answered(apart, auditor)  # It is not shown yet.
    right = {(each.member, each.round): "shown" if each in fresh else "too_late" for each in every}
    said = {at: came for name in MEMBERS if name != LIAR for at, came in answered(apart, name).items() if at[0] == name}
    told = {
        (each.member, each.round): json.loads((apart.member(each.member).path / "answered.json").read_text())[
            each.receipt
        ]
        for each in every
    }
    assert told == right
    assert {at: right[at] for at in said} == said
    for each in fresh:
        for name in each.auditors:
            if name != LIAR:
                answered(apart, name)
    books = audited(apart.member("m0"))
    for each in fresh:
        came = sorted((said.auditor, said.verdict) for _, said in books.results if said.receipt == each.receipt)
        assert came == sorted((name, "matches") for name in each.auditors if name != LIAR)
    size = books.tree.size
    assert [answered(apart, name) for name in MEMBERS if name != LIAR] == [{}] * 5
    assert audited(apart.member("m0")).tree.size == size


def test_what_was_shown_and_is_another_s_word_is_refused_and_not_tried_again(apart):
    """It was uploaded by the member, and is no opening of its receipt: that says nothing of its training."""
    asked = next(each for each in drawn(apart) if each.round > 2 and each.member != LIAR)
    home, auditor = apart.member(asked.member), next(each for each in asked.auditors if each != LIAR)
    answered(apart, asked.member)
    (shown,) = (path for path in (apart.ledger / "openings").iterdir() if path.name == asked.receipt)
    data = bytearray(shown.read_bytes())
    data[-1] ^= 1
    shown.write_bytes(data)
    assert answered(apart, auditor)[home.settings.member, asked.round] == "wrong_opening"
    assert (home.settings.member, asked.round) not in answered(apart, auditor)
    other = next(name for name in MEMBERS if name not in (asked.member, LIAR, *asked.auditors))
    at = home.settings.member, asked.round
    assert at not in answered(apart, other)  # It was not drawn for that,
    text = apart.folder / "text"
    text.write_bytes(b"another")
    assert at not in answered(apart, other, text)  # and has not its text either.


def test_the_command_says_what_came_of_each_and_its_exit_code_that_nothing_is_wrong(apart, capsys):
    asked = next(each for each in drawn(apart) if each.round > 2 and each.member != LIAR)
    mine = [each for each in drawn(apart) if each.member == asked.member]
    home = str(apart.member(asked.member).path)
    code = main(["work", "answer", "--home", home])
    out = capsys.readouterr().out
    assert f"{asked.member}, round {asked.round} of r1, segment {asked.segment}: shown\n" in out
    assert code == (0 if all(each.round > 2 for each in mine) else 1)
    auditor = next(each for each in asked.auditors if each != LIAR)
    main(["work", "answer", "--home", str(apart.member(auditor).path), "--json"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = [each for each in told if each["receipt"] == asked.receipt]
    assert (found["schema"], found["verdict"], found["why"]) == ("consortium.answer/1", "matches", "the same bits")
    assert found["entry"] in [at for at, _ in audited(apart.member("m0")).results]


def audits(founded: Founded, capsys, *words: object) -> tuple[int, dict[tuple[str, int], dict[str, object]]]:
    """The coordinator's command: its exit code, and what came of each (member, round)."""
    capsys.readouterr()
    code = main(["work", "audit", "--home", str(founded.coordinator.path), "--json", *map(str, words)])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {(each["member"], each["round"]): each for each in told}


def test_the_coordinator_repeats_what_members_show_and_says_it_in_its_own_name_once(apart, capsys):
    assert audits(apart, capsys) == (0, {})  # Nothing is shown yet.
    fresh = [each for each in drawn(apart) if each.round > 2 and each.member != LIAR]
    for name in {each.member for each in fresh}:
        answered(apart, name)
    code, came = audits(apart, capsys)
    assert (code, came.keys()) == (0, {(each.member, each.round) for each in fresh})
    assert {(each["verdict"], each["why"]) for each in came.values()} == {("matches", "the same bits")}
    books = audited(apart.member("m0"))
    said = {at: (each.auditor, each.receipt, each.segment) for at, each in books.results}
    assert [said[each["entry"]] for each in came.values()] == [
        (books.charter.consortium, each["receipt"], each["segment"]) for each in came.values()
    ]
    assert audits(apart, capsys) == (0, {})
    (apart.coordinator.path / "answered.json").unlink()
    assert audits(apart, capsys) == (0, {})  # The log says that it was done.
    assert audited(apart.member("m0")).tree.size == books.tree.size


def test_the_coordinator_is_no_reader_of_texts_and_finds_out_who_has_signed_for_what_was_not(apart, capsys):
    asked = next(each for each in drawn(apart) if each.round > 2 and each.member != LIAR)
    answered(apart, asked.member)
    shown, text = apart.ledger / "openings" / asked.receipt, apart.folder / "text"
    right = shown.read_bytes()
    named = reexecute.read(right).text
    assert named.startswith("python-stdlib:")
    shown.write_bytes(right.replace(named.encode(), b"sha256:" + b"0" * 64, 1))
    text.write_bytes(b"another")
    at = asked.member, asked.round
    assert at not in audits(apart, capsys)[1]  # The member's own text, which nobody has entrusted to it;
    assert at not in audits(apart, capsys, "--text", text)[1]  # nor is it this one.
    shown.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    code, came = audits(apart, capsys)
    assert (code, came[at]["refused"]) == (1, "wrong_opening")


def answering() -> list[psutil.Process]:
    alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in alive if "answer" in each.cmdline()]


def after(what, at_work: answers.Answers, size: int, rules: policy.Policy) -> None:
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end
        at_work.visit(size, lambda: rules)
        time.sleep(0.05)


def test_a_daemon_has_it_done_in_processes_of_the_lowest_priority(apart, monkeypatch):
    """Who trained it shows it, and who was drawn repeats it, with nobody at a keyboard."""
    monkeypatch.setattr(answers, "REST_S", 0.1)
    monkeypatch.setattr(answers, "REST", 0)
    asked = next(each for each in drawn(apart) if each.round > 2 and each.member != LIAR)
    homes = [apart.member(name) for name in (asked.member, next(each for each in asked.auditors if each != LIAR))]
    size, rules = audited(homes[0]).tree.size, policy.read(homes[0].policy_path)
    for home in homes:
        at_work = answers.Answers(home)
        at_work.visit(size, lambda: replace(rules, rules={"audits.answer": (1, False)}))
        assert not (home.path / "answers.log").exists()
        after(answering, at_work, size, rules)
        (process,) = answering()
        assert process.nice() == 19
        kept = home.path / "answered.json"
        after(lambda kept=kept: kept.exists() and asked.receipt in json.loads(kept.read_text()), at_work, size, rules)
        assert len(answering()) <= 1
        at_work.end()
    said = [each for _, each in audited(homes[0]).results if each.receipt == asked.receipt]
    assert [(each.auditor, each.verdict) for each in said] == [(homes[1].settings.member, "matches")]


def test_it_is_not_done_again_before_the_log_has_grown_and_ends_with_the_daemon(apart, monkeypatch):
    monkeypatch.setattr(answers, "REST_S", 0.0)
    monkeypatch.setattr(answers, "REST", 0)
    home, rules = apart.member("m0"), policy.read(apart.folder / "none")
    found = answers.Answers(home)
    found.visit(0, lambda: rules)
    assert answering() == []  # No head was seen yet.
    found.visit(1, lambda: rules)
    (first,) = answering()
    first.wait(120)
    for _ in range(20):
        found.visit(1, lambda: rules)
        time.sleep(0.05)
        assert answering() == []
    after(answering, found, 2, rules)
    assert len(answering()) == 1
    found.end()
    assert answering() == []


def test_what_does_not_come_whole_is_asked_for_again(apart, monkeypatch):
    asked = next(each for each in drawn(apart) if each.round > 2 and each.member != LIAR)
    auditor, at = next(each for each in asked.auditors if each != LIAR), (asked.member, asked.round)
    answered(apart, asked.member)
    read = FolderShelf.read
    monkeypatch.setattr(FolderShelf, "read", lambda *where: iter([next(read(*where))[:9_000]]))
    assert answered(apart, auditor)[at] == "unreachable"
    monkeypatch.undo()
    assert answered(apart, auditor)[at] == "matches"
