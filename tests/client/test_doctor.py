"""The doctor: on a node that can work it finds nothing, and of each thing that is broken the name and what mends it."""

import hashlib
import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace

import pytest
from world import TOY

import client
from client import confine, doctor, policy
from client.data import Sample
from client.doctor import Doctor
from client.home import Home
from client.signer import Signer
from client.speed import Speed, bandwidth, calibrate, kept
from client.witness import Witness
from consortium.cli import main
from consortium.found import PRICE, Founded, found
from ledger.api import serving
from server.launch import propose
from shared_models.bundle import build
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import codecs, gpt
from shared_models.processes import free_port
from shared_models.records import canonical
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.recipes import SMALL


class Health(http.server.BaseHTTPRequestHandler):
    """As Flower's SuperLink answers who asks for its health; tests/test_deployment.py asks a real one."""

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """It reads a body, as slowly as it is told, before it refuses it."""
        began, length = time.monotonic(), int(self.headers["Content-Length"])
        self.rfile.read(length)
        if self.server.bytes_per_s:
            time.sleep(max(0.0, length / self.server.bytes_per_s - (time.monotonic() - began)))
        self.send_response(415)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def node(tmp_path):
    """acme's folder; its ledger serves, and something with the coordinator's certificate answers."""
    port, other = free_port(), free_port()
    founded = found(
        tmp_path / "parties",
        {"acme": 2, "birch": 1},
        ledger_url=f"http://127.0.0.1:{port}",
        superlink=f"127.0.0.1:{other}",
        price=PRICE,
    )
    tls = founded.coordinator.path / "tls"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls / "server.crt", tls / "server.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", other), Health)
    server.socket, server.status = context.wrap_socket(server.socket, server_side=True), 200
    server.bytes_per_s = 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with serving(founded.ledger, port) as ledger:
        ledger.append(founded.charter)
        home = founded.member("acme")
        home.server, home.ledger_url = server, f"http://127.0.0.1:{port}"
        (home.path / "status.json").write_text(json.dumps({"pid": os.getpid(), "phase": "waiting"}))
        yield home
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def wrong(home, **more) -> dict[str, tuple[str, str]]:
    """What is not well, by check: (state, all that is said of it). The folder is read afresh, as a command does."""
    again = type(home)(home.path)
    return {
        each.check: (each.state, f"{each.says} {each.do}")
        for each in Doctor(again, **more).examine()
        if each.state != "ok"
    }


def settings(home, **changes) -> None:
    path = home.path / "member.toml"
    lines = [line for line in path.read_text().splitlines() if line.partition(" ")[0] not in changes]
    path.write_text("\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in changes.items())]) + "\n")


def test_a_node_that_can_work_has_nothing_wrong(node):
    assert wrong(node) == {}


def test_it_says_how_energy_will_be_known(node, monkeypatch, tmp_path):
    def says() -> str:
        return next(each.says for each in Doctor(node).examine() if each.check == "energy")

    monkeypatch.setattr("client.energy.POWERCAP", tmp_path)  # A machine without counters.
    assert says() == f"not known; it is not measured, for no package of a processor in {tmp_path}"
    node.policy_path.write_text("[price]\nwatts = 350\n")
    assert says().startswith("as policy.toml declares: 350 W × 1 × time; it is not measured")
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, value in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "9")):
        (zone / name).write_text(f"{value}\n")
    assert says() == "measured: by the processors' counters (RAPL)"


def unused(node):
    """The address of a port on which nobody listens."""
    return f"127.0.0.1:{free_port()}"


BREAKS = {
    "a key that others can read": (
        lambda node: (node.path / "keys" / "compute.key").chmod(0o640),
        ("keys", "fail", "chmod 600"),
    ),
    "a folder of keys that others can enter": (
        lambda node: (node.path / "keys").chmod(0o755),
        ("keys", "fail", "chmod 700"),
    ),
    "no key": (lambda node: (node.path / "keys" / "witness.key").unlink(), ("keys", "fail", "there is no key")),
    "a key of another name": (
        lambda node: settings(node, member="birch"),
        ("keys", "fail", "admin.key is acme/admin's"),
    ),
    "another key of this name": (
        lambda node: (
            (node.path / "keys" / "compute.key").unlink(),
            SigningKey.create(node.path / "keys" / "compute.key", "acme/compute"),
        ),
        ("keys", "fail", "does not count"),
    ),
    "a damaged node key": (
        lambda node: (node.path / "keys" / "node.key").write_text("-"),
        ("node key", "fail", "node.key"),
    ),
    "a public node key of another": (
        lambda node: (node.path / "keys" / "node.pub").write_text("ecdsa-sha2-nistp384 AAAA\n"),
        ("node key", "fail", "ssh-keygen -y"),
    ),
    "a device that the charter does not have": (
        lambda node: settings(node, device="h100"),
        ("device", "fail", "the charter has cpu-core"),
    ),
    "a processor that is not there": (
        lambda node: settings(node, processor="moon"),
        ("device", "fail", "correct it in member.toml"),
    ),
    "a text that is none": (lambda node: settings(node, data="books"), ("text", "fail", "correct `data`")),
    "a synthetic text that is none": (
        lambda node: settings(node, synthetic="made"),
        ("text", "fail", "correct `data` or `synthetic`"),
    ),
    "training is paused": (
        lambda node: policy.pause(node.path, "a fair", now=False),
        ("policy", "warning", "paused: a fair consortium policy resume"),
    ),
    "a policy with no hours": (
        lambda node: (node.path / "policy.toml").write_text("[budget]\nhours_a_day = 0\n"),
        ("policy", "warning", "line 2"),
    ),
    "a policy that cannot be read": (
        lambda node: (node.path / "policy.toml").write_text("[budgets]\nhours_a_day = 1\n"),
        ("policy", "fail", "budgets"),
    ),
    "a ledger without an address": (
        lambda node: settings(node, ledger="http://ledger.invalid:1"),
        ("ledger", "fail", "correct `ledger` in member.toml"),
    ),
    "a ledger that is not there": (
        lambda node: settings(node, ledger=f"http://{unused(node)}"),
        ("ledger", "fail", "check that the service runs"),
    ),
    "a history that is shorter than what was witnessed": (
        lambda node: (node.path / "head.note").write_bytes(longer(node)),
        ("ledger", "fail", "consortium compare"),
    ),
    "two histories": (lambda node: (node.path / "fork.json").write_text("{}"), ("history", "fail", "two histories")),
    "what was signed is not in the log": (
        lambda node: (node.path / "entries" / "00000000.note").write_bytes(b"note"),
        ("outbox", "warning", "1 of 1 signed entries"),
    ),
    "a coordinator that is not there": (
        lambda node: settings(node, superlink=unused(node)),
        ("coordinator", "fail", "correct `superlink`"),
    ),
    "another authority": (
        lambda node: (node.path / "ca.crt").write_bytes(foreign(node)),
        ("coordinator", "fail", "get ca.crt again"),
    ),
    "a coordinator that is ill": (lambda node: setattr(node.server, "status", 503), ("coordinator", "fail", "503")),
    "a coordinator without an address": (
        lambda node: settings(node, superlink="fleet.invalid:9092"),
        ("coordinator", "fail", "no address is known of 'fleet.invalid'"),
    ),
    "no keys at all": (
        lambda node: (node.path / "keys").rename(node.path / "keys-gone"),
        ("keys", "fail", "No such file or directory"),
    ),
    "a daemon that ended": (
        lambda node: (node.path / "status.json").write_text('{"pid": 4194305, "phase": "stopped"}'),
        ("daemon", "warning", "consortium up"),
    ),
    "a daemon that never ran": (
        lambda node: (node.path / "status.json").unlink(),
        ("daemon", "warning", "consortium up"),
    ),
    "a daemon that was refused": (
        lambda node: (node.path / "status.json").write_text(
            json.dumps({"pid": os.getpid(), "phase": "waiting", "refused": "late: x", "remedy": "be quick"})
        ),
        ("daemon", "warning", "late: x be quick"),
    ),
}


def longer(node) -> bytes:
    """A head of more entries than the ledger has."""
    origin, _, root = LedgerHttp(node.ledger_url).read("checkpoint").split(b"\n", 2)
    return b"\n".join((origin, b"100", root))


def foreign(node) -> bytes:
    """The authority of another consortium."""
    path = node.path.parent.parent / "other"
    other = found(path, {"acme": 1}, ledger_url="", superlink="127.0.0.1:0", price=PRICE)
    return (other.coordinator.path / "tls" / "ca.crt").read_bytes()


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_is_named_with_what_mends_it(node, what):
    break_, (check, state, says) = BREAKS[what]
    break_(node)
    broken = wrong(node)
    assert broken[check][0] == state
    assert says in broken[check][1]


@pytest.mark.parametrize(("off_s", "which"), [(94, "ahead of"), (-94, "behind")])
def test_a_clock_that_is_94_seconds_off_is_named(node, off_s, which):
    broken = wrong(node, now=lambda: time.time() + off_s)
    assert broken["clock"][0] == "fail"
    assert re.search(rf"9[345] s {which} the ledger's", broken["clock"][1])
    assert "timedatectl" in broken["clock"][1]
    assert "clock" not in wrong(node, now=lambda: time.time() + off_s / 3)


def test_a_certificate_that_soon_ends_is_a_warning(node):
    ten_days_before = time.time() + 86_400 * (365 * 10 - 10)
    told = wrong(node, now=lambda: ten_days_before)["coordinator"]
    assert told[0] == "warning"
    assert "ends in" in told[1]


def test_a_proxy_between_is_named_without_its_password(node, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("https_proxy", "http://user:hunter2@proxy.example:3128")
    assert "proxy" not in wrong(node)
    settings(node, superlink="fleet.example:9092")
    told = wrong(node)["proxy"]
    assert told[0] == "warning"
    assert "proxy.example" in told[1]
    assert "hunter2" not in told[1]


def test_what_is_not_installed_or_not_told_here_is_named(node, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    monkeypatch.delattr(client, "data", raising=False)
    monkeypatch.setitem(sys.modules, "client.data", None)
    monkeypatch.setattr(doctor, "_available", lambda: None)
    broken = wrong(node)
    assert broken["device"] == ("fail", "not installed: torch, flwr pip install '.[train]'")
    assert (broken["text"][0], broken["memory"][0]) == ("unknown", "unknown")


def test_a_ledger_without_tls_is_a_warning_but_on_loopback(node, monkeypatch):
    assert doctor._on_loopback("127.0.0.1")
    assert not doctor._on_loopback("192.0.2.1")
    monkeypatch.setattr(doctor, "_on_loopback", lambda _: False)
    assert wrong(node)["ledger"][0] == "warning"


def test_a_full_disk_and_too_little_memory_are_named(node, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable:   2097152 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    assert doctor._available(tmp_path / "meminfo", group) == 2 << 30
    (group / "memory.max").write_text("1073741824\n")
    (group / "memory.current").write_text("1073741000\n")
    assert doctor._available(tmp_path / "meminfo", group) == 824
    assert doctor._available(tmp_path / "none", group) is None
    for free, state in ((1 << 20, "fail"), (100 << 20, "warning")):
        with pytest.raises(doctor.Trouble) as caught:
            doctor._enough("free", free, "make room")
        assert (caught.value.state, caught.value.do) == (state, "make room")
    small = tmp_path / "file"
    small.write_text("")
    object.__setattr__(node, "path", small)  # A folder that takes no file.
    with pytest.raises(doctor.Trouble, match="takes no file"):
        Doctor(node)._disk()


def test_a_folder_that_is_none_ends_the_visit(tmp_path, node):
    found = list(Doctor(type(node)(tmp_path / "nothing")).examine())
    assert [(each.check, each.state) for each in found] == [("folder", "fail")]
    assert "there is no" in found[0].says


def test_what_was_signed_is_held_against_what_the_log_has(node):
    ledger = LedgerHttp(node.ledger_url)
    coordinator, bundle = Founded(node.path.parent, ("acme", "birch"), b"").coordinator, build()
    manifest = propose(coordinator.keyring.agreement, "r1", TOY, bundle, rounds=1, quorum=1, deadline_ms=1_000)
    leaf, _ = coordinator.say(ledger, coordinator.key, manifest)
    ledger.append(Signer(node, Witness(node, ledger.consistency)).consent(leaf, bundle.sha256))
    assert "outbox" not in wrong(node)
    (entry,) = (node.path / "entries").glob("*.note")
    entry.unlink()
    state, says = wrong(node)["outbox"]
    assert state == "fail"
    assert "the log has 1 entries of your compute key" in says


def test_the_command_prints_what_to_do_and_its_code_says_whether_it_can_work(node, capsys):
    assert main(["doctor", "--home", str(node.path)]) == 0
    assert "21 checks: 0 failed, 0 warnings" in capsys.readouterr().out
    policy.pause(node.path, "", now=False)
    assert main(["doctor", "--home", str(node.path)]) == 0
    assert f"do consortium policy resume --home {node.path}" in capsys.readouterr().out
    (node.path / "keys").chmod(0o755)
    assert main(["doctor", "--home", str(node.path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "consortium.doctor/1"
    assert {each["check"]: each["state"] for each in told["found"]}["keys"] == "fail"
    settings(node, ledger=f"http://{unused(node)}")
    (node.path / "keys").chmod(0o700)
    assert main(["doctor", "--home", str(node.path), "--json"]) == 1


def says(node, check: str) -> tuple[str, str]:
    found = next(each for each in Doctor(type(node)(node.path)).examine() if each.check == check)
    return found.state, f"{found.says} {found.do}"


def test_how_fast_the_coordinator_is_reached_is_measured(node):
    node.server.bytes_per_s = 4_000_000
    assert 1e6 < bandwidth(node) < 5e6  # A machine that does much else is slower than the way.
    node.server.bytes_per_s = 0
    assert bandwidth(node) > 6e6
    settings(node, superlink=unused(node))
    assert says(node, "bandwidth")[0] == "unknown"


def test_how_long_a_round_takes_here_is_told_before_it_begins(node):
    """And whether that is longer than it may take: the speed and the way are measured, the rest is the run's."""
    assert says(node, "next round") == ("ok", "no run asks for you now ")
    assert says(node, "speed")[1].startswith("not measured")
    ledger = LedgerHttp(node.ledger_url)
    coordinator, bundle = Founded(node.path.parent, ("acme", "birch"), b"").coordinator, build()
    recipe, agreed = replace(SMALL, inner_steps=200, up="int8", down="int4"), coordinator.keyring.agreement
    slow = propose(agreed, "r1", recipe, bundle, rounds=1, quorum=1, deadline_ms=1_000)
    coordinator.say(ledger, coordinator.key, slow)
    assert "not measured" in says(node, "next round")[1]
    assert main(["doctor", "--home", str(node.path), "--calibrate"]) == 0
    found = kept(node)
    assert found.flop_per_s == found.tokens_per_s * slow.flop_per_token
    node.server.bytes_per_s = 2_000_000
    state, told = says(node, "next round")
    takes_s = 200 * recipe.batch * recipe.context / found.tokens_per_s
    size = sum(codecs.total(codec, gpt.shapes(gpt.Shape.of(recipe))) for codec in ("int8", "int4"))
    numbers = re.search(r"of r1: about ([\d.]+) s here, ([\d.]+) s of training and ([\d.]+) s for ([\d.]+) MB", told)
    whole, train, travel, sent = map(float, numbers.groups())
    assert (state, train, sent) == ("warning", pytest.approx(takes_s, abs=0.06), pytest.approx(size / 1e6, abs=0.06))
    assert 0.7 * size / 2e6 < travel + 0.06 < 4 * size / 2e6 + 0.12
    assert whole == pytest.approx(train + travel, abs=0.11)
    assert "its deadline is 1 s" in told
    node.policy_path.write_text("[machine]\nshare = 0.5\n")
    state, told = says(node, "next round")
    half_s = float(re.search(r"([\d.]+) s of training in 50% of the time", told)[1])
    assert (half_s, "machine.share" in told) == (pytest.approx(2 * train, abs=0.11), True)
    node.policy_path.unlink()
    coordinator.say(
        ledger, coordinator.key, propose(agreed, "r2", recipe, bundle, rounds=1, quorum=1, deadline_ms=10**7)
    )
    assert says(node, "next round")[0] == "ok"
    settings(node, devices=2)  # What was measured was another machine.
    assert "not measured" in says(node, "next round")[1]


def test_a_machine_that_is_faster_than_its_class_can_be_is_told_before_its_work_is_refused(node):
    peak = next(each.peak_flops for each in node.charter.devices if each.name == node.settings.device)
    fast = Speed(
        tokens_per_s=1,
        flop_per_s=peak + 1,
        device=node.settings.device,
        devices=1,
        build="2.13.0/AVX512/1/float32/x86_64",
        at_ms=0,
    )
    node.speed_path.write_bytes(canonical.encode(fast))
    state, told = says(node, "speed")
    assert (state, "propose a charter" in told) == ("warning", True)
    node.speed_path.write_bytes(canonical.encode(replace(fast, flop_per_s=peak)))
    assert says(node, "speed")[0] == "ok"
    node.speed_path.write_bytes(b"spoilt")
    assert says(node, "speed")[1].startswith("not measured")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"data": "file:nowhere"}, Refusal.NO_TEXT),
        ({"processor": "cuda:99"}, Refusal.NOT_SET_UP),
        ({"processes": 3}, Refusal.BAD_FIELD),
    ],
)
def test_what_keeps_it_from_being_measured_is_named_and_nothing_is_kept(node, changes, refusal):
    settings(node, **changes)
    with pytest.raises(Refused) as refused:
        calibrate(type(node)(node.path), SMALL)
    assert refused.value.refusal is refusal
    assert kept(node) is None


def test_what_a_helper_is_sent_holds_no_secret_and_is_listed(node, tmp_path, capsys):
    secret = (node.path / "keys" / "compute.key").read_text().strip()
    pem = (node.path / "keys" / "node.key").read_text()
    settings(node, data="python-stdlib:0/2")
    (node.path / "supernode.log").write_text(
        f"started in {node.path}\n{secret}\n{pem}\nAuthorization: Bearer borne-by-hand\ntoken=told-to-nobody\nthe end\n"
    )
    (node.path / "clientapp.log").write_text("x" * (doctor.LOG_BYTES + 5) + "\nlast line\n")
    file = tmp_path / "for-a-helper.tar.gz"
    assert main(["doctor", "--home", str(node.path), "--bundle", str(file)]) == 0
    out = capsys.readouterr().out
    with tarfile.open(file) as archive:
        held = {each.name: archive.extractfile(each).read().decode() for each in archive.getmembers()}
    assert sorted(held) == ["clientapp.log", "doctor.json", "member.toml", "status.json", "supernode.log"]
    for name, text in held.items():
        assert f"in {file}: {name}, {len(text.encode()):,} bytes" in out
    everything = "".join(held.values())
    secrets = [secret.split("+", 4)[4], pem.splitlines()[2], "borne-by-hand", "told-to-nobody"]
    assert [each for each in [*secrets, "python-stdlib:0", str(node.path)] if each in everything] == []
    assert "started in HOME" in held["supernode.log"]
    assert "the end" in held["supernode.log"]
    assert held["clientapp.log"].endswith("last line\n")
    assert len(held["clientapp.log"]) == doctor.LOG_BYTES
    assert json.loads(held["doctor.json"])["versions"]["training-consortium"]
    assert file.stat().st_mode & 0o077 == 0
    assert main(["doctor", "--home", str(node.path), "--bundle", str(file)]) == 2
    assert "nothing is written over" in capsys.readouterr().err
    with pytest.raises(Refused) as caught:
        doctor.bundle([], node, file)
    assert caught.value.refusal is Refusal.BAD_FIELD


def test_a_node_that_is_not_on_p384_is_named(tmp_path, node):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    (node.path / "keys" / "node.key").write_bytes(key)
    assert "P-384" in wrong(node)["node key"][1]


def test_a_system_that_keeps_training_from_nothing_is_a_warning(node, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")  # Which has no Landlock.
    with pytest.raises(doctor.Trouble, match="no Landlock") as caught:
        Doctor(node)._isolation()
    assert caught.value.state == "warning"


@pytest.mark.skipif(not confine.offline(), reason="no namespaces for this user")
def test_so_is_one_that_leaves_it_the_network(node):
    """Whose user may make no namespaces: one that is in a namespace where the kernel's limit of them is nought."""
    assert "of the network only its coordinator" in Doctor(node)._isolation()
    asks = "import sys; from client.doctor import *; print(*Doctor(Home(Path(sys.argv[1]))).examine(), sep=chr(10))"
    nought = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", nought, "sh", sys.executable, "-c", asks, node.path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (found,) = (line for line in said.splitlines() if "check='isolation'" in line)
    assert "state='warning'" in found
    assert "it may use the network" in found


def test_a_synthetic_text_is_counted_and_a_helper_is_not_told_where_it_lies(node):
    made, text = node.path / "made-up", b"words " * 40
    made.write_bytes(text)
    about = Sample(
        artefact="a5" * 32,
        grant=1,
        prompts=FIRST,
        seed=1,
        temperature="1",
        build="2/AVX2/1/float32/x86_64",
        beside="x",
        documents=1,
        repeat_own=0,
        repeat_sampled=0,
        size=len(text),
        text=hashlib.sha256(text).hexdigest(),
    )
    made.with_name("made-up.json").write_bytes(canonical.encode(about) + b"\n")
    settings(node, synthetic="made-up")
    told = Home(node.path)
    assert Doctor(told)._text().endswith(" tokens, and 240 bytes of synthetic text")
    assert "made-up" not in doctor.redacted(f"made-up {made} {(node.path / 'member.toml').read_text()}", told)
