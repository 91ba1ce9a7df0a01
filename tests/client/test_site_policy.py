"""A member's policy: what it lets be trained, when, and for how much; and that no code starts against it."""

import datetime
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import BUNDLE, FakeTime, Parties, worked
from world import TOY

from client import policy, runs
from client.door import Door
from client.home import write_settings
from consortium.cli import main
from ledger.api import serving
from shared_models.claims import Daemon
from shared_models.processes import free_port
from shared_models.records import merkle
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.currency import money
from shared_models.rules.pricing import flop_per_token, tokens_asked, value

BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(1000 * datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


WEDNESDAY = ms("2026-11-25T12:00")


@pytest.fixture
def read(tmp_path):
    def written(text: str) -> policy.Policy:
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return policy.read(path)

    return written


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run's manifest, and acme's receipt for its first round: half an hour on one device."""
    manifest, receipt = worked(tmp_path_factory.mktemp("done"))
    started = ms("2026-11-25T08:00")
    return manifest, replace(receipt, wall_ms=1_800_000, devices=1, started_ms=started, energy_method="none")


def why(act, *arguments) -> str:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    assert caught.value.refusal is Refusal.POLICY
    return caught.value.detail


def test_without_a_file_everything_may_be_trained(tmp_path, done):
    found = policy.read(tmp_path / "policy.toml")
    found.check_run(done[0], "acme")
    found.check_now([done[1]] * 1000, WEDNESDAY, done[0])
    assert list(found.told([done[1]], WEDNESDAY, done[0])) == []


# Which runs.


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        ('allow = ["r*"]', ""),
        ('allow = ["pilot-*", "r1"]', ""),
        ('allow = ["R1"]', "line 2, runs.allow = R1: the run r1 is not among them"),
        ("allow = []", "line 2, runs.allow = : the run r1 is not among them"),
        ('allow = ["r*"]\nrefuse = ["x", "?1"]', "line 3, runs.refuse = x, ?1: the run r1 is among them"),
        ("rounds = 2", ""),
        ("rounds = 1", "line 2, runs.rounds = 1: the run r1 has 2 rounds"),
        (f"tokens = {TOY.inner_steps * TOY.batch * TOY.context}", ""),
        (
            f"tokens = {TOY.inner_steps * TOY.batch * TOY.context - 1}",
            "line 2, runs.tokens = 95: the run r1 has 96 tokens",
        ),
    ],
)
def test_a_run_is_named_and_bounded(read, done, rules, refused):
    manifest = replace(done[0], rounds=2)
    found = read(f"[runs]\n{rules}\n")
    if not refused:
        found.check_run(manifest, "acme")
        found.check_now([], WEDNESDAY, manifest)
    else:
        assert refused in why(found.check_run, manifest, "acme")
        assert refused in why(found.check_now, [], WEDNESDAY, manifest)
        found.check_now([], WEDNESDAY)  # Of no run in particular.


def test_what_a_member_is_asked_for_are_its_own_steps(read, done):
    manifest = replace(done[0], steps=(3, 1, 3))
    found = read("[runs]\ntokens = 32\n")
    found.check_run(manifest, "birch")
    found.check_now([], WEDNESDAY, manifest, "birch")
    refused = "runs.tokens = 32: the run r1 has 96 tokens a round"
    assert refused in why(found.check_run, manifest, "acme")
    assert refused in why(found.check_now, [], WEDNESDAY, manifest, "acme")
    asked = [
        runs.Asked(each, manifest, "", consented=False, word=None, refused="", ended="") for each in manifest.members
    ]
    assert [each.round_flop for each in asked] == [steps * 32 * manifest.flop_per_token for steps in (3, 1, 3)]


# When.

HOURS = """zone = "Europe/Berlin"
[hours]
mon-fri = "20:00-06:00"
sat = ["00:00-08:30", "12:00-24:00"]
"""


@pytest.mark.parametrize(
    ("when", "refused"),
    [
        ("2026-11-25T20:00", ""),
        ("2026-11-26T05:59", ""),
        ("2026-11-25T19:59", "line 3, hours: it is Wed 19:59 Europe/Berlin; from Wed 20:00"),
        ("2026-11-26T06:00", "it is Thu 06:00 Europe/Berlin; from Thu 20:00"),
        ("2026-11-28T05:00", ""),  # Saturday, and Friday's night.
        ("2026-11-28T08:30", "line 4, hours: it is Sat 08:30 Europe/Berlin; from Sat 12:00"),
        ("2026-11-28T23:59", ""),
        ("2026-11-29T00:00", "it is Sun 00:00 Europe/Berlin; from Mon 20:00"),
        ("2026-11-30T05:00", "it is Mon 05:00 Europe/Berlin; from Mon 20:00"),  # No night before it.
    ],
)
def test_a_round_begins_in_its_hours(read, when, refused):
    found = read(HOURS)
    (told,) = found.told([], ms(when))
    assert told.allows is not bool(refused)
    if refused:
        assert refused in why(found.check_now, [], ms(when))
    else:
        found.check_now([], ms(when))


def test_a_night_from_sunday_goes_on_into_the_new_week_and_days_may_wrap(read):
    found = read('[hours]\nsat-mon = "22:00-02:00"')
    for day, may in (("2026-11-29T23:00", True), ("2026-11-30T01:59", True), ("2026-11-30T02:00", False)):
        if may:
            found.check_now([], ms(day, ZoneInfo("UTC")))
        else:
            assert "it is Mon 02:00 UTC; from Mon 22:00" in why(found.check_now, [], ms(day, ZoneInfo("UTC")))
    assert "no day is named" in why(read("[hours]").check_now, [], WEDNESDAY)


@given(st.integers(0, 6), st.integers(0, 1439), st.integers(1, 1440), st.integers(0, 7 * 1440 - 1))
def test_a_window_holds_what_a_walk_through_the_week_finds(day, begin, end, minute):
    if begin == end:
        return
    (window,) = policy._windows(
        Path("p"), 1, policy.DAYS[day], f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    )
    length = (end - begin) % 1440 or 1440
    walked = {(day * 1440 + begin + step) % (7 * 1440) for step in range(length)}
    assert window.holds(minute) is (minute in walked)


# For how much.


@pytest.mark.parametrize(
    ("rules", "count", "refused"),
    [
        ("hours_a_day = 2", 3, ""),  # The next one makes it two.
        ("hours_a_day = 2", 4, "line 2, budget.hours_a_day = 2: 2 used this day, a round takes 0.5"),
        ('hours_a_day = "1.9"', 3, "budget.hours_a_day = 1.9: 1.5 used this day, a round takes 0.5"),
        ("hours_a_day = 0", 0, "budget.hours_a_day = 0: 0 used this day"),
        ("kwh_a_day = 1\n[price]\nwatts = 800", 1, ""),
        ("kwh_a_day = 1\n[price]\nwatts = 800", 2, "budget.kwh_a_day = 1: 0.8 used this day, a round takes 0.4"),
        ("kwh_a_day = 1", 99, ""),  # Nobody has said what it takes.
        ('money_a_month = 2\n[price]\nhour = "1.20"\nkwh = "0.5"\nwatts = 1000', 1, ""),
        (
            'money_a_month = 2\n[price]\nhour = "1.20"\nkwh = "0.5"\nwatts = 1000',
            2,
            "1.7 used this month, a round takes 0.85",
        ),
    ],
)
def test_a_budget_holds_what_is_used_and_the_next_round(read, done, rules, count, refused):
    found = read(f"[budget]\n{rules}\n")
    receipts = [done[1]] * count
    if refused:
        assert refused in why(found.check_now, receipts, WEDNESDAY, done[0])
    else:
        found.check_now(receipts, WEDNESDAY, done[0])


def test_days_and_months_are_those_of_the_zone_and_energy_is_as_measured(read, done):
    _, receipt = done
    late = replace(receipt, started_ms=ms("2026-11-25T00:30"))  # The day before, in UTC.
    there = read('zone = "Europe/Berlin"\n[budget]\nhours_a_day = "0.5"')
    assert "line 3" in why(there.check_now, [late], WEDNESDAY)
    read('[budget]\nhours_a_day = "0.5"').check_now([late], WEDNESDAY)
    before = replace(receipt, started_ms=ms("2026-10-25T12:00"))
    read('[budget]\nhours_a_month = "0.5"\nhours_a_day = "0.5"').check_now([before], WEDNESDAY)
    measured = replace(receipt, energy_mj=2 * 3_600_000_000, energy_method="nvml", devices=3)
    (told,) = read("[price]\nwatts = 1\n[budget]\nkwh_a_month = 3").told([measured], WEDNESDAY)
    assert (told.says, told.allows) == ("2 used this month", True)
    (told,) = read("[budget]\nhours_a_month = 3").told([measured], WEDNESDAY)
    assert told.says == "1.5 used this month"
    assert policy.Spent(Fraction(1), Fraction(2), Fraction(3)).plus(policy.NOTHING) == (1, 2, 3)


def test_the_page_for_operators_shows_a_policy(read, done):
    page = (Path(__file__).parents[2] / "docs" / "operating-a-node.md").read_text()
    found = read(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    named = {f"{section}.{key}" if section else key for section, keys in policy.KINDS.items() for key in keys}
    left_out = {"budget.hours_a_month", "budget.kwh_a_month", "budget.money_a_day", "signal.url"}
    assert found.rules.keys() == named - left_out | {"hours"}
    assert "runs.allow = pilot-*" in why(found.check_run, done[0], "acme")
    found.check_run(replace(done[0], run="pilot-1"), "acme")


# What is no policy.


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("[runs]\nallow = 'r1'", "line 2: runs.allow = r1; it is a list of names"),
        ("[runs]\n\nrounds = 0", "line 3: runs.rounds = 0; it is a whole number above 0"),
        ("[runs]\ntokens = true", "line 2: runs.tokens = True; it is a whole number above 0"),
        ("[runs]\nmoney = 1", "line 2: runs.money is none of a policy's rules"),
        ("colour = 1", "line 1: colour is none of a policy's rules"),
        ("runs = 1", "line 1: runs is none of a policy's rules"),
        ("hours = 1", "line 1: hours are a section"),
        ("zone = 'Mars/Olympus'", "line 1: no time zone is called Mars/Olympus"),
        ("zone = '../../etc/passwd'", "line 1: no time zone is called"),
        ("zone = 1", "line 1: zone = 1; it is a name"),
        ("[hours]\nmonday = '00:00-24:00'", "line 2: monday is no day"),
        ("[hours]\nmon-friday = '00:00-24:00'", "line 2: mon-friday is no day"),
        ("[hours]\nmon = '9-17'", "line 2: mon = 9-17; it is from when to when"),
        ("[hours]\nmon = '24:00-06:00'", "line 2: mon = 24:00-06:00; it is from"),
        ("[hours]\nmon = '00:00-24:30'", "line 2: mon = 00:00-24:30; it is from"),
        ("[hours]\nmon = '08:00-08:00'", "line 2: mon = 08:00-08:00; it is from"),
        ("[hours]\nmon = ['08:00-09:00', 5]", "line 2: mon = 5; it is from"),
        ("[budget]\nhours_a_day = -1", "line 2: budget.hours_a_day = -1; it is a number"),
        ("[budget]\nhours_a_week = 1", "line 2: budget.hours_a_week is none of a policy's rules"),
        ("[price]\nhour = '1,20'", "line 2: price.hour = 1,20; it is a number"),
        ("[spot]\nnotice = 1", "line 2: spot.notice = 1; it is true or false"),
        ("[spot]\nfile = 1", "line 2: spot.file = 1; it is a name"),
        ("[spot]\nseconds = 0", "line 2: spot.seconds = 0; it is a whole number above 0"),
        ("[spot]\nurl = 'x'", "line 2: spot.url is none of a policy's rules"),
        ("[machine]\nmemory = '8 GB'", "line 2: machine.memory = 8 GB; it is a size, such as 8 GiB"),
        ("[machine]\nmemory = '0 GiB'", "line 2: machine.memory = 0 GiB; it is a size"),
        ("[machine]\nmemory = 8", "line 2: machine.memory = 8; it is a size"),
        ("[machine]\ncores = 0", "line 2: machine.cores = 0; it is a whole number above 0"),
        ("[machine]\nshare = 0.04", "line 2: machine.share = 0.04; it is a number from 0.05 to 1, such as 0.5"),
        ("[machine]\nshare = 1.01", "line 2: machine.share = 1.01; it is a number from 0.05 to 1"),
        ("[machine]\nshare = true", "line 2: machine.share = True; it is a number from 0.05 to 1"),
        ("[machine]\ngpu_share = '0.5'", "line 2: machine.gpu_share is none of a policy's rules"),
        ("[runs\nallow", "policy.toml: "),
    ],
)
def test_what_is_no_rule_refuses_everything_by_its_line(read, text, refused):
    with pytest.raises(Refused) as caught:
        read(text)
    assert (caught.value.refusal, refused in caught.value.detail) == (Refusal.BAD_FIELD, True), caught.value.detail


def test_a_number_may_be_written_either_way(read):
    for spelled in ("1.5", '"1.5"'):
        assert read(f"[budget]\nhours_a_day = {spelled}").rules["budget.hours_a_day"] == (2, Fraction(3, 2))


def test_what_training_may_have_is_read_in_bytes_cores_and_time_and_refused_by_its_line(read):
    found = read('[machine]\nmemory = "1536 MiB"\ncores = 3\nshare = 0.35\n')
    assert (found.memory, found.cores, found.share) == (3 << 29, 3, Fraction(7, 20))
    assert str(found.too_much(1 << 31)) == "policy: policy.toml line 2, machine.memory = 1.5 GiB: training took 2 GiB"
    assert (read("").memory, read("").cores, read("").share) == (None, None, 1)
    assert [read(f"[machine]\nshare = {share}").share for share in ("1", "0.05")] == [1, Fraction(1, 20)]


def test_what_the_log_asks_is_answered_unless_it_says_otherwise(read, tmp_path):
    assert (read("").answers, read("").texts) == (True, [])
    found = read('[audits]\nanswer = false\ntexts = ["a.txt", "/b"]')
    assert (found.answers, found.texts) == (False, [tmp_path / "a.txt", Path("/b")])


def test_how_a_machine_is_told_that_it_is_taken_away(read, tmp_path):
    assert read("").spot == policy.Spot(notice=False, file=None, seconds=25)
    assert read("[spot]\nnotice = true\nseconds = 90").spot == policy.Spot(notice=True, file=None, seconds=90)
    assert read('[spot]\nfile = "gone"').spot.file == tmp_path / "gone"
    assert read('[spot]\nfile = "/run/gone"').spot.file == Path("/run/gone")


def test_a_file_that_cannot_be_read_refuses_everything(tmp_path):
    (tmp_path / "policy.toml").write_bytes(b"\xff")
    with pytest.raises(Refused, match=r"policy\.toml"):
        policy.read(tmp_path / "policy.toml")


# What follows.


def test_a_round_against_the_policy_gets_no_signature(tmp_path):
    parties = Parties(tmp_path)
    signer = parties.consenting("acme")

    def may(begin) -> None:
        raise Refused(Refusal.POLICY, "not now")

    begin = parties.begin("acme", *parties.say(parties.opened()))
    door = Door(tmp_path / "d", signer, lambda _: None, may)
    door.expect(FakeTime(), lambda _: True)
    with Daemon(str(door.path)) as daemon:
        with pytest.raises(Refused, match="not now"):
            daemon.ask(begin)
        with pytest.raises(Refused, match="no task has begun"):
            daemon.ask(parties.claim())
    door.close()
    parties.log.close()


def test_the_operator_is_shown_each_line_and_pauses_and_resumes(tmp_path, capsys):
    parties = Parties(tmp_path)
    parties.log.close()
    home = str(parties.founded.member("acme").path)

    def run(*words: str) -> tuple[int, str]:
        code = main([*words, "--home", home])
        return code, capsys.readouterr().out

    assert run("policy", "explain") == (0, f"there is no {home}/policy.toml: every run is trained\n")
    Path(home, "policy.toml").write_text("[budget]\nhours_a_day = 1\nkwh_a_day = 0\n")
    assert run("policy", "explain") == (
        1,
        "allows   line   2  budget.hours_a_day = 1: 0 used this day\n"
        "refuses  line   3  budget.kwh_a_day = 0: 0 used this day\n",
    )
    code, out = run("policy", "explain", "--json")
    told = json.loads(out)
    assert (code, told["may_begin"], told["paused"]) == (1, False, None)
    assert [each["allows"] for each in told["lines"]] == [True, False]
    Path(home, "policy.toml").write_text("# Nothing.\n")
    assert run("policy", "explain") == (0, f"{home}/policy.toml decides nothing here\n")
    assert run("policy", "pause", "--reason", "a visit")[0] == 0
    assert policy.paused(Path(home)) == policy.Pause(reason="a visit", now=False)
    assert run("policy", "explain") == (1, "refuses  training is paused: a visit\n")
    assert json.loads(run("policy", "explain", "--json")[1])["paused"] == "a visit"
    assert run("policy", "pause", "--now")[0] == 0
    assert policy.paused(Path(home)) == policy.Pause(reason="", now=True)
    Path(home, "paused").write_text("{")
    assert policy.paused(Path(home)) == policy.Pause(reason="", now=False)
    assert run("policy", "resume") == (0, "resumed\n")
    assert run("policy", "resume") == (0, "it was not paused\n")
    assert policy.paused(Path(home)) is None


def test_the_operator_approves_and_refuses_runs_by_hand(tmp_path, capsys):
    parties = Parties(tmp_path, steps=(3, 1, 3))
    parties.log.close()
    home, port = parties.founded.member("acme"), free_port()
    write_settings(home.path / "member.toml", replace(home.settings, ledger=f"http://127.0.0.1:{port}"))
    hashed = merkle.leaf_hash(parties.manifest_leaf).hex()

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["runs", *words, "--home", str(home.path)])
        said = capsys.readouterr()
        return code, said.out, said.err

    with serving(parties.founded.ledger, port):
        assert run("show")[:2] == (0, f"{'r1':16} asks\n")
        code, out, _ = run("show", "r1")
        assert code == 0
        for each in (
            hashed,
            BUNDLE,
            "other code than you would build",
            "acme, birch, cedar; 2 of them",
            "inner_steps = ",
            "a round         3 steps, ",
            "steps           acme 3, birch 1, cedar 3",
        ):
            assert each in out
        command = out.partition("against receipts: consortium ")[2].partition("\n")[0]
        assert main(command.split()) == 0
        assert "of run r1, entry 1: acme 3 (no receipt), birch 1 (no receipt)" in capsys.readouterr().out
        worth = value(tokens_asked(TOY) * flop_per_token(TOY), home.charter.price)
        assert f"{money(worth, home.charter)} EUR at the charter's price" in out
        code, out, _ = run("refuse", "r1", "--reason", "not this month")
        assert (code, out) == (0, f"r1 is refused, by manifest {hashed}\n")
        assert run("show")[1] == f"{'r1':16} refused    not this month\n"
        code, out, _ = run("approve", "r1")
        assert out == f"r1 is approved, by manifest {hashed}\nthe daemon consents to it, once it runs\n"
        home.policy_path.write_text("[runs]\nrounds = 1\n")
        assert "the policy is against it all the same" in run("approve", "r1")[1]
        (told,) = json.loads(run("show", "--json")[1])["runs"]
        assert (told["state"], told["word"]["approved"], told["manifest"]) == ("refused", True, hashed)
        assert "runs.rounds = 1" in told["refused"]
        before = (home.path / runs.FILE).read_bytes()
        code, _, err = run("approve", "r2")
        assert (code, "no run r2 in the log asks for acme" in err) == (2, True)
        assert (home.path / runs.FILE).read_bytes() == before
        (home.path / runs.FILE).write_bytes(before[:-2])
        code, _, err = run("refuse", "r1")
        assert (code, "is not as it was written" in err) == (2, True)
        assert (home.path / runs.FILE).read_bytes() == before[:-2]


def test_what_the_operator_has_said_counts_for_one_manifest_and_a_spoilt_word_for_none(tmp_path):
    parties = Parties(tmp_path)
    parties.log.close()
    home, hashed = parties.founded.member("acme"), merkle.leaf_hash(parties.manifest_leaf).hex()

    def refusal(of: str = hashed) -> str:
        try:
            runs.check(home, policy.read(home.policy_path), parties.manifest, of)
        except Refused as refused:
            return str(refused)
        return ""

    assert refusal() == ""  # Whatever the policy allows.
    home.policy_path.write_text("[runs]\nask = true\n")
    assert "policy: policy.toml line 2, runs.ask: nobody has approved the run r1 yet" in refusal()
    word = {"run": "r1", "approved": True, "reason": "", "at_ms": 1}
    (home.path / runs.FILE).write_text(json.dumps({hashed: word}))
    assert (refusal(), "nobody has approved" in refusal("0" * 64)) == ("", True)
    (home.path / runs.FILE).write_text(json.dumps({hashed: word | {"approved": False, "reason": "no"}}))
    home.policy_path.unlink()
    assert refusal() == "policy: the run r1 was refused by this member's operator: no"
    for spoilt in ("{", "[]", '{"x": 1}', '{"x": {"run": "r1"}}'):
        (home.path / runs.FILE).write_text(spoilt)
        assert "is not as it was written" in refusal()


def test_the_operator_asks_about_a_run_that_the_ledger_has(tmp_path, capsys):
    parties = Parties(tmp_path)
    parties.log.close()
    home, port = parties.founded.member("acme"), free_port()
    write_settings(home.path / "member.toml", replace(home.settings, ledger=f"http://127.0.0.1:{port}"))
    home.policy_path.write_text("[runs]\nrounds = 1\n")
    with serving(parties.founded.ledger, port):
        assert main(["policy", "explain", "--home", str(home.path), "--run", "r1"]) == 1
        assert capsys.readouterr().out == "refuses  line   2  runs.rounds = 1: the run r1 has 3 rounds\n"
        assert main(["policy", "explain", "--home", str(home.path), "--run", "r2"]) == 2
        assert "the log holds no manifest of a run r2" in capsys.readouterr().err
