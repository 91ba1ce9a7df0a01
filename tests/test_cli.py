"""The command line, as people use it: what it prints, and the exit code that a script goes by."""

import json
import os
import subprocess
import sys
import time

import pytest
from cryptography import x509
from world import slowness

import client.home
import server.home
from consortium.cli import main
from consortium.commands import NAMES
from consortium.found import EVERYWHERE
from ledger.api import serving
from shared_models.processes import free_port
from shared_models.published import reader
from shared_models.records import tlog


@pytest.fixture
def run(capsys):
    """Run a command: (exit code, what it printed, what it complained)."""

    def command(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def consortium(tmp_path, run):
    """A founded consortium of two, its ledger serving: (its folder, the ledger's address, the charter's hash)."""
    port = free_port()
    url, folder = f"http://127.0.0.1:{port}", tmp_path / "parties"
    code, out, _ = run(
        "found", folder, "--member", "acme=2", "--member", "birch=1", "--ledger", url, "--superlink", "127.0.0.1:0"
    )
    assert code == 0
    with serving(folder / "ledger", port):
        yield folder, url, out.split()[-1]


def test_founded_behind_a_gateway_members_know_it_by_the_name_that_its_certificate_is_for(run, tmp_path):
    for name in ("ledger", "acme"):  # As where each party's folder is a volume.
        (tmp_path / name).mkdir()
    words = ("--member", "acme=1", "--ledger", "http://ledger:8443", "--superlink", "127.0.0.1:9092")
    assert run("found", tmp_path, *words, "--gateway", "training.example:9443")[0] == 0
    settings = server.home.Home(tmp_path / "coordinator").settings
    assert settings.gateway_address() == (EVERYWHERE, 9443)
    assert client.home.Home(tmp_path / "acme").settings.superlink == "training.example:9443"
    certificate = x509.load_pem_x509_certificate((tmp_path / "coordinator" / "tls" / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "training.example" in names.get_values_for_type(x509.DNSName)
    code, _, err = run("found", tmp_path, *words)
    assert (code, err.startswith("error locked: ")) == (2, True)


def test_help_is_one_screen_in_groups_and_quick(run):
    began = time.process_time()
    code, out, _ = run("--help")
    spent = time.process_time() - began
    assert (code, spent < 0.5 * slowness()) == (0, True)
    assert len(out.splitlines()) < 40
    assert max(map(len, out.splitlines())) <= 100
    for group in ("Start here", "Your node", "Money and models", "Consortium admin", "ML engineers"):
        assert f"\n{group}\n" in out


def test_what_the_system_refuses_is_told_without_a_traceback(run, tmp_path):
    code, out, err = run("found", "/proc/x", "--member", "a=1", "--ledger", "u", "--superlink", "127.0.0.1:1")
    assert (code, out, err.splitlines()[0]) == (2, "", "error os_error: No such file or directory: /proc/x")
    (tmp_path / "status.json").mkdir()
    (tmp_path / "member.toml").mkdir()
    code, out, err = run("up", "--home", tmp_path)
    assert (code, err.splitlines()[0]) == (2, f"error os_error: Is a directory: {tmp_path}/member.toml")


def test_whoever_reads_no_further_is_not_complained_to(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({f"n{number}": "x" * 100 for number in range(10_000)}))
    command = [sys.executable, "-m", "consortium", "status", "--home", str(tmp_path)]
    words = ["bash", "-c", '"$@" | head -n 1', "-", *command]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stderr, done.stdout) == ("", f"n0           {'x' * 100}\n")


def test_an_unknown_command_is_a_usage_error(run):
    assert run("frobnicate")[0] == 2
    assert run()[0] == 2


def test_a_command_can_have_two_words(run):
    code, out, _ = run("ledger", "rebuild", "--help")
    assert (code, out.startswith("usage: consortium ledger rebuild ")) == (0, True)
    assert run("ledger")[0] == run("ledger", "frobnicate")[0] == run("rebuild")[0] == 2


def test_a_family_of_commands_is_one_line_and_lists_itself(run):
    lines = run("--help")[1].splitlines()
    verbs = ("add", "revoke", "affirm", "list", "auditor", "make")
    assert [line for line in lines if line.startswith("  key")] == [f"  key ...         {', '.join(verbs)}"]
    code, listed, _ = run("key", "--help")
    assert (code, listed.splitlines()[0]) == (0, "usage: consortium key VERB [--help] ...")
    assert [line.split()[:2] for line in listed.splitlines()[2:]] == [["key", verb] for verb in verbs]
    assert run("key") == (2, "", listed)
    lines = run("ledger", "--help")[1].splitlines()[2:]
    begins = {line.index(next(filter(str.isupper, line))) for line in lines}
    assert begins == {2 + len("ledger audit-rules") + 1}
    code, out, err = run("key", "frobnicate")
    assert (code, out) == (2, "")
    assert "choose from" in err
    assert "affirm" in err


def test_a_period_from_its_costs_to_its_bill(consortium, run, tmp_path):
    folder, url, charter = consortium
    (tmp_path / "invoice").write_text("30.01 EUR")
    cost = (
        "cost",
        "--home",
        folder / "birch",
        "--item",
        "hosting",
        "--pot",
        "services",
        "--period",
        "2026-11",
        "--date",
        "2026-11-05",
        "--invoice",
        tmp_path / "invoice",
    )
    said = (0, "cost item hosting, 30.01 EUR for other, is entry 1\n", "")
    assert run(*cost, "--amount", "30.01") == said
    close = ("close", "2026-11", "--ledger", url, "--charter", charter)
    code, _, err = run(*close, "--key", folder / "admin" / "admin.key", "--wait", "0")
    assert (code, "no_quorum" in err, "missing after 0 s: acme, birch" in err) == (2, True, True)
    for member in ("acme", "birch"):
        code, out, _ = run("witness", "--home", folder / member, "--once")
        assert (code, out.startswith("witnessed the log of size 2, root ")) == (0, True)
    assert run(*close, "--key", folder / "admin" / "admin.key")[:2] == (0, "statement 2026-11 is entry 2\n")
    code, out, _ = run("bill", url)
    assert code == 0
    assert out.splitlines()[-1] in ("acme pays birch 15.01 EUR", "acme pays birch 15.00 EUR")  # A tie, by hash.
    assert run("fetch", url, tmp_path / "bundle")[0] == 0
    assert run("bill", tmp_path / "bundle", "--period", "2026-12")[0] == 2

    for pinned in (("--home", folder / "acme"), ("--charter", charter)):
        code, out, _ = run("audit", tmp_path / "bundle", *pinned)
        assert (code, out.splitlines()[-1]) == (0, "audit: every number recomputed, 0 findings")
    code, out, _ = run("audit", url)
    assert (code, "whose log it is" in out) == (0, True)

    entries = tmp_path / "bundle" / tlog.tile_path("entries", 0, 3)
    entries.write_bytes(entries.read_bytes().replace(b'"amount":"30.01"', b'"amount":"40.01"'))
    code, out, _ = run("audit", tmp_path / "bundle", "--home", folder / "acme")
    assert (code, out.splitlines()[-1].endswith("findings")) == (1, True)
    assert "entry 1: bad_signature" in out
    code, out, err = run("bill", tmp_path / "bundle")
    assert (code, "not right" in err) == (1, True)
    found = json.loads(run("audit", tmp_path / "bundle", "--json")[1])
    assert found["schema"] == "consortium.audit/1"
    assert found["findings"][0]["entry"] == 1


def test_nothing_is_billed_on_a_log_that_is_not_the_one_that_was_signed(consortium, run):
    folder, url, _ = consortium
    for member in ("acme", "birch"):
        run("witness", "--home", folder / member, "--once")
    code, _, err = run("close", "p", "--ledger", url, "--charter", "0" * 64, "--key", folder / "admin" / "admin.key")
    assert (code, "no_charter" in err) == (2, True)
    assert [line[:8] for line in err.splitlines()] == ["error no", "  do    ", "  kept  ", "  more  "]
    assert err.endswith("  more  docs/errors/no_charter.md\n")
    assert len(reader(url)("checkpoint")) > 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("audit", "nowhere"), "not_found"),
        (("audit", "http://127.0.0.1:1/nothing"), "unreachable"),
        (("bill", "nowhere"), "not_found"),
        (("fork", "nowhere", "--charter", "nowhere"), "not_found"),
        (("simulate", "--members", "2", "--lie", "magic"), "bad_field"),
        (("simulate", "--members", "2", "--dead", "3"), "bad_field"),
        (("simulate", "--members", "2", "--slow", "0.5"), "bad_field"),
        (("simulate", "--members", "2", "--alpha", "0"), "bad_field"),
        (("found", "/proc/x", "--member", "acme", "--ledger", "u", "--superlink", "s"), "bad_field"),
        (
            (
                "found",
                "/proc/x",
                "--member",
                "a=1",
                "--ledger",
                "u",
                "--superlink",
                "127.0.0.1:1",
                "--gateway",
                ":9443",
            ),
            "bad_field",
        ),
        (
            ("found", "/proc/x", "--member", "a=1", "--ledger", "u", "--superlink", "0.0.0.0:1", "--gateway", "a:9443"),
            "bad_field",
        ),
        (("found", "/usr", "--member", "acme=1", "--ledger", "u", "--superlink", "s"), "locked"),
        (("ledger", "adopt", "--dir", "/nonexistent", "--size", "5"), "bad_field"),
        (("ledger", "adopt", "--dir", "/nonexistent", "--cosigned", "/nonexistent"), "bad_field"),
        (("ledger", "rebuild", "--dir", "/nonexistent"), "not_set_up"),
        (("serve", "--dir", "/nonexistent", "--port", "99999"), "bad_field"),
        (("work", "open", "0" * 64, "--home", "/nonexistent", "--to", "/nonexistent", "--segment", "-1"), "bad_field"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_name_and_a_remedy(run, words, code):
    result, out, err = run(*words)
    assert (result, out) == (2, "")
    assert err.startswith(f"error {code}: ")
    assert "\n  do  " in err


def test_a_ledger_without_a_key_does_not_start(run):
    code, _, err = run("serve", "--dir", "/nonexistent")
    assert (code, err.startswith("error not_set_up: ")) == (2, True)


def test_status_says_what_a_node_does_or_that_it_did_nothing_yet(run, tmp_path):
    assert run("status", "--home", tmp_path)[0] == 2
    (tmp_path / "status.json").write_text('{"phase": "training", "round": 2}')
    code, out, _ = run("status", "--home", tmp_path)
    assert (code, out) == (0, "phase        training\nround        2\n")
    assert json.loads(run("status", "--home", tmp_path, "--json")[1])["schema"] == "consortium.status/1"


def test_status_says_that_a_daemon_has_ended(run, tmp_path):
    shown = tmp_path / "status.json"
    shown.write_text(json.dumps({"phase": "training", "pid": os.getpid()}))
    assert run("status", "--home", tmp_path)[:2] == (0, f"phase        training\npid          {os.getpid()}\n")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    shown.write_text(json.dumps({"phase": "training", "pid": gone.pid}))
    code, out, _ = run("status", "--home", tmp_path, "--json")
    told = json.loads(out)
    assert (code, told["phase"], told["detail"]) == (1, "ended", "it was training, and did not say why")
    for phase in ("stopped", "taken away"):
        shown.write_text(json.dumps({"phase": phase, "pid": gone.pid}))
        code, out, _ = run("status", "--home", tmp_path)
        assert (code, f"phase        {phase}" in out) == (1, True)


def test_status_is_watched_until_the_daemon_ends(tmp_path):
    path = tmp_path / "status.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as daemon:
        path.write_text(json.dumps({"phase": "waiting", "pid": daemon.pid}))
        command = [sys.executable, "-m", "consortium", "status", "--watch", "--json", "--home", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            assert json.loads(watching.stdout.readline())["phase"] == "waiting"
            (tmp_path / "new").write_text(json.dumps({"phase": "training", "pid": daemon.pid}))
            (tmp_path / "new").rename(path)
            assert json.loads(watching.stdout.readline())["phase"] == "training"
            daemon.communicate(b"\n")
            assert json.loads(watching.stdout.readline())["phase"] == "ended"
            assert watching.wait(30) == 1


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["fetc"], {"fetch"}),
        (["policy", "p"], {"pause"}),
        (["policy", "explain", "--r"], {"--run"}),
        (["status", "--"], {"--home", "--json", "--watch", "--help"}),
        (["quote", "--"], {"--help", "--mfu", "--json"}),
        (["nothing", "--"], set()),
    ],
)
def test_bash_completes_commands_and_options(run, typed, found):
    code, script, _ = run("--completion")
    asked = f'COMP_WORDS=(consortium {" ".join(typed)}); COMP_CWORD={len(typed)}; _consortium; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert (code, done.stderr) == (0, "")
    assert set(done.stdout.split()) >= found
    assert found or not done.stdout.strip()


def test_simulate_prints_who_lies_what_is_refused_and_an_audited_bill(run, tmp_path):
    recipe = tmp_path / "toy.toml"
    recipe.write_text("layers = 1\nheads = 2\nwidth = 16\ncontext = 16\nbatch = 2\ninner_steps = 3\n")
    words = ("--members", 4, "--rounds", 2, "--lie", "tampered", "--slow", 2, "--alpha", 0.1)
    code, out, _ = run("simulate", *words, "--recipe", recipe)
    assert code == 0
    assert out.startswith(f"{NAMES[2]} is 2 times as slow\n{NAMES[3]} is tampered\n")
    assert "audit: every number recomputed, 0 findings" in out
    recipe.write_text(f'{recipe.read_text()}outer = "mean"\nouter_momentum = "0"\nouter_rate = "0.000000001"\n')
    code, out, _ = run("simulate", "--members", 2, "--rounds", 9, "--patience", 1, "--recipe", recipe)
    assert (code, "round 2 of 9" in out) == (0, False)  # The loss stays as it is.
    assert "not spent, as runs stopped early: " in out
    code, _, err = run("simulate", "--members", 2, "--rounds", 2, "--patience", 2, "--recipe", recipe)
    assert (code, "it would never stop early" in err) == (2, True)
    recipe.write_text("depth = 1\n")
    code, _, err = run("simulate", "--members", 2, "--recipe", recipe)
    assert (code, "a recipe has no depth" in err) == (2, True)
    recipe.write_text("layers = 0\n")
    code, _, err = run("simulate", "--members", 2, "--recipe", recipe)
    assert (code, "Recipe.layers is 0" in err) == (2, True)


def test_the_modes_of_an_audit(consortium, run):
    folder, url, charter = consortium
    for member in ("acme", "birch"):
        run("witness", "--home", folder / member, "--once")
    for mode in ("attested", "sampled", "full"):
        code, out, err = run("audit", url, "--home", folder / "acme", "--mode", mode, "--workers", "1")
        assert (code, out.splitlines()[-1], err) == (0, "audit: every number recomputed, 0 findings", "")
    assert json.loads((folder / "acme" / "verified.json").read_text())["size"] == 1
    code, out, _ = run("audit", url, "--charter", charter, "--mode", "sampled", "--share", "1", "--json")
    found = json.loads(out)
    assert (code, found["mode"], found["vouched"], found["entries"]) == (0, "sampled", 0, 1)
    for wrong in (("--share", "0"), ("--share", "1.1"), ("--workers", "-1")):
        code, _, err = run("audit", url, *wrong)
        assert (code, "bad_field" in err) == (2, True)
