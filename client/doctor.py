"""What keeps a member's node from working, what mends it, and what of it a helper may be sent.

Each check looks at the thing itself, as the daemon will: the keys on the disk, the ledger's signed head, the
certificate that the coordinator shows. Nothing is changed; one file is written and removed, to see that the disk takes
it. What is sent to a helper holds no key, and says by name what is in it.
"""

import http.client
import importlib.metadata
import importlib.util
import io
import ipaddress
import json
import os
import platform
import re
import shutil
import socket
import ssl
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import confine, policy, runs, speed
from client.energy import MEASURED, Energy
from client.home import Home
from shared_models import durable
from shared_models.records import tlog
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.refusals import Refusal, Refused

CLOCK_S = 60.0  # A signed request is refused when it is five minutes old; half of the members may err the other way.
LEAST_BYTES, FEW_BYTES = (
    64 << 20,
    1 << 30,
)  # Of disk and of memory: below the one nothing works, below the other little.
EXPIRES_DAYS = 14
WAIT_S = 10.0
LOG_BYTES = 256 << 10  # Of each log, the newest are sent.
LOGS = ("supernode.log", "clientapp.log")
VERSIONS = ("training-consortium", "cryptography", "torch", "flwr", "psutil")
SECRET = re.compile(
    r"PRIVATE\+KEY\+\S+|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?i:token|secret|password|authorization)[\"']?\s*[=:][^\n]+",
    re.DOTALL,
)


class Found(NamedTuple):
    """What one check came to."""

    check: str
    state: str  # `ok`; `warning`: it works, and may not for long; `fail`; `unknown`: it could not be looked at here.
    says: str
    do: str = ""  # What mends it.


class Trouble(Exception):
    """What a check has to say if not all is well."""

    def __init__(self, state: str, says: str, do: str) -> None:
        super().__init__(says)
        self.state, self.do = state, do


@dataclass
class Doctor:
    """The checks of one member's folder."""

    home: Home
    now: Callable[[], float] = time.time  # What this machine takes for the time, in seconds.
    _bytes_per_s: float | None = None  # To the coordinator, once that was measured.

    def examine(self) -> Iterator[Found]:
        """Every check, one after another; only the first, if the folder is none."""
        for name, check in self._checks().items():
            try:
                yield Found(name, "ok", check())
            except Trouble as trouble:
                yield Found(name, trouble.state, str(trouble), trouble.do)
            except Refused as refused:
                yield Found(name, "fail", str(refused), refused.remedy)
                if name == "folder":
                    return
            except OSError as error:
                yield Found(name, "fail", str(error), "let the user that runs the daemon read and write its folder")

    def _checks(self) -> dict[str, Callable[[], str]]:
        return {
            "folder": self._folder,
            "keys": self._keys,
            "node key": self._node_key,
            "disk": self._disk,
            "memory": self._memory,
            "device": self._device,
            "speed": self._speed,
            "energy": self._energy,
            "text": self._text,
            "isolation": self._isolation,
            "policy": self._policy,
            "proxy": self._proxy,
            "ledger": self._ledger,
            "clock": self._clock,
            "history": self._history,
            "outbox": self._outbox,
            "coordinator": self._coordinator,
            "bandwidth": self._bandwidth,
            "rounds": self._rounds,
            "next round": self._next_round,
            "daemon": self._daemon,
        }

    # This machine.

    def _folder(self) -> str:
        settings = self.home.settings
        return f"{settings.member}, node {settings.node}, of {self.home.charter.consortium}: {self.home.path}"

    def _keys(self) -> str:
        folder = self.home.path / "keys"
        _check_private(folder, 0o700)
        for path in sorted(folder.iterdir()):
            if path.suffix != ".pub":
                _check_private(path, 0o600)
        for role in MEMBER_ROLES:
            key = self.home.key(role)
            if key.name != f"{self.home.settings.member}/{role}":
                says = f"{role}.key is {key.name}'s; member.toml says {self.home.settings.member}"
                raise Trouble("fail", says, "put your own key back, or correct `member` in member.toml")
            if not self.home.keyring.counts(key.name, key.verify_key.id):
                says = f"{role}.key, {key.verify_key.id.hex()}, does not count in the charter, nor in what came after"
                raise Trouble("fail", says, f"see `consortium key list --home {self.home.path}`")
        return f"{', '.join(MEMBER_ROLES)}: yours, and they count; nobody else can read them"

    def _node_key(self) -> str:
        path = self.home.path / "keys" / "node.key"
        try:
            key = serialization.load_ssh_private_key(path.read_bytes(), None)
        except ValueError as error:
            raise Trouble("fail", f"{path}: {error}", "put it back from a copy, or ask for another node") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
            raise Trouble("fail", f"{path} is no key on P-384", "Flower takes no other: ask for another node")
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        if path.with_suffix(".pub").read_bytes().split()[:2] != public.split()[:2]:
            raise Trouble("fail", "node.pub is not of node.key", "write it again: ssh-keygen -y -f node.key > node.pub")
        return "P-384, and node.pub is of it"

    def _disk(self) -> str:
        try:
            with tempfile.NamedTemporaryFile(dir=self.home.path, prefix=".doctor-") as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            do = f"make room, or let the daemon's user write there: {self.home.path}"
            raise Trouble("fail", f"{self.home.path} takes no file: {error.strerror}", do) from None
        free = shutil.disk_usage(self.home.path).free
        return _enough("free in your folder", free, "make room: checkpoints of ended runs are in work/kept")

    def _memory(self) -> str:
        free = _available()
        if free is None:
            raise Trouble("unknown", "this system does not tell", "")
        return _enough("available", free, "end other programs, or train with recompute = true in member.toml")

    def _device(self) -> str:
        settings, classes = self.home.settings, [each.name for each in self.home.keyring.charter.devices]
        if settings.device not in classes:
            says = f"member.toml says {settings.device}; the charter has {', '.join(classes)}"
            raise Trouble("fail", says, "correct `device` in member.toml, or have the charter changed")
        missing = [name for name in ("torch", "flwr") if importlib.util.find_spec(name) is None]
        if missing:
            raise Trouble("fail", f"not installed: {', '.join(missing)}", "pip install '.[train]'")
        from client.training import Machine  # Only now: it imports PyTorch.

        machine = Machine.told(self.home.machine())
        try:
            machine.check_here()
        except Refused as refused:
            raise Trouble("fail", refused.detail, "correct it in member.toml") from None
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "flwr"))
        return f"{settings.devices} × {settings.device} of {os.cpu_count()} cores here; {versions}"

    def _speed(self) -> str:
        found = speed.kept(self.home)
        if found is None:
            return f"not measured: consortium doctor --calibrate --home {self.home.path} takes some seconds"
        day, says = time.strftime("%Y-%m-%d", time.gmtime(found.at_ms / 1000)), speed.said(self.home, found)
        if speed.utilisation(self.home, found) > 1:
            do = "propose a charter that gives it more: receipts of work above it are refused"
            raise Trouble("warning", f"on {day}: {says}", do)
        return f"on {day}: {says}"

    def _energy(self) -> str:
        settings, watts = self.home.settings, policy.read(self.home.policy_path).watts
        energy = Energy(settings.processor, watts, settings.devices)
        how = energy.used(0)[1]
        if how in MEASURED:
            return f"measured: {MEASURED[how]}"
        declared = f"as policy.toml declares: {float(watts):g} W × {settings.devices} × time" if watts else "not known"
        return f"{declared}; it is not measured, for {energy.why}"

    def _text(self) -> str:
        try:
            from client import data
        except ImportError as error:
            raise Trouble("unknown", f"{error}", "pip install '.[train]'") from None
        try:
            told = f"{self.home.settings.data}: {data.load(self.home.text).size:,} tokens"
            if self.home.synthetic is None:
                return told
            return f"{told}, and {data.sampled(self.home.synthetic).size:,} bytes of synthetic text"
        except Refused as refused:
            raise Trouble("fail", refused.detail, "correct `data` or `synthetic` in member.toml") from None

    def _isolation(self) -> str:
        if (has := confine.version()) > 0:
            kept = (
                f"Landlock {has}: training may read its text and what is installed, write in work/, and reach neither"
                " your keys, nor other files, nor the daemon's memory"
            )
            if confine.offline():
                return f"{kept}; of the network only its coordinator, through the daemon"
            raise Trouble(
                "warning",
                f"{kept}; but it may use the network: this user may make no namespaces here",
                "Debian: sysctl kernel.unprivileged_userns_clone=1; Ubuntu 24.04:"
                " kernel.apparmor_restrict_unprivileged_userns=0; containers: a seccomp profile that lets unshare pass",
            )
        raise Trouble(
            "warning",
            f"this system has no Landlock: training runs as the daemon's user ({os.getuid()}), and is kept from your"
            " keys by nothing but that you consent to no code but your own build",
            "run the daemon on Linux 5.13 or newer, or as a user that owns nothing else",
        )

    def _policy(self) -> str:
        if (pause := policy.paused(self.home.path)) is not None:
            says = f"training is paused{': ' if pause.reason else ''}{pause.reason}"
            raise Trouble("warning", says, f"consortium policy resume --home {self.home.path}")
        told = list(policy.read(self.home.policy_path).told(self.home.receipts(), round(1000 * self.now())))
        if (no := next((each for each in told if not each.allows), None)) is not None:
            says = f"no round may begin now: line {no.line}, {no.rule}: {no.says}"
            raise Trouble("warning", says, f"consortium policy explain --home {self.home.path}")
        return f"{len(told)} lines let a round begin now" if told else "every run is trained that is right"

    # The way to the others.

    def _proxy(self) -> str:
        hosts = (_host(self.home.settings.ledger), self.home.settings.superlink.rpartition(":")[0])
        for scheme, proxy in urllib.request.getproxies().items():
            for host in hosts:
                if scheme in ("http", "https", "all") and not urllib.request.proxy_bypass(host):
                    by = urllib.parse.urlsplit(proxy).hostname or proxy  # Without a password that may be in it.
                    says = f"what goes to {host} by {scheme} goes by way of the proxy {by}"
                    raise Trouble("warning", says, f"if it should not: export NO_PROXY={host}")
        return "none between you and the others"

    def _ledger(self) -> str:
        url = self.home.settings.ledger
        _check_name(_host(url), "ledger")
        began = time.monotonic()
        head = tlog.open_head(self.home.ledger(patience_s=0).read(tlog.HEAD), self.home.keyring.keys)
        took_ms = 1000 * (time.monotonic() - began)
        if head.size < self.home.head().size:
            says = f"{url} shows a log of {head.size} entries; you have witnessed one of {self.home.head().size}"
            raise Trouble("fail", says, f"hold others' heads against yours: consortium compare --home {self.home.path}")
        if url.startswith("http://") and not _on_loopback(_host(url)):
            says = f"{url} has no TLS: who is between can read what you ask for, and change nothing"
            raise Trouble("warning", says, "put it behind TLS, and write https:// in member.toml")
        return f"{url}: {head.size} entries, signed by its log; {took_ms:.0f} ms"

    def _clock(self) -> str:
        url, before = self.home.settings.ledger.rstrip("/") + "/healthz", self.now()
        try:
            with urllib.request.urlopen(url, timeout=WAIT_S) as reply:  # noqa: S310
                told_s = parsedate_to_datetime(reply.headers.get("Date", "")).timestamp() + 0.5  # Whole seconds.
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise Trouble("unknown", f"the ledger does not tell the time: {error}", "") from None
        ahead = (before + self.now()) / 2 - told_s
        which = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the ledger's"
        if abs(ahead) > CLOCK_S:
            raise Trouble("fail", f"this machine's clock is {which}", "set it: timedatectl set-ntp true")
        return which

    def _history(self) -> str:
        if self.home.fork_path.exists():
            raise Refused(Refusal.FORK, f"{self.home.fork_path} proves two histories of one log")
        size = self.home.head().size
        return f"one, of which you have witnessed {size} entries" if size else "you have witnessed nothing yet"

    def _outbox(self) -> str:
        signed = len(self.home.signed())
        last = self.home.ledger(patience_s=0).last(f"{self.home.settings.member}/compute")
        waiting = signed - (last[0] + 1 if last else 0)
        if waiting < 0:
            says = f"the log has {-waiting} entries of your compute key that are not in {self.home.path / 'entries'}"
            do = "fetch the log and bring them back before you sign: two entries of one number end in a conflict"
            raise Trouble("fail", says, do)
        if waiting:
            says = f"{waiting} of {signed} signed entries are not in the log"
            raise Trouble("warning", says, f"the daemon hands them in: consortium up --home {self.home.path}")
        return f"all {signed} signed entries are in the log"

    def _coordinator(self) -> str:
        address = self.home.settings.superlink
        host, _, port = address.rpartition(":")
        _check_name(host, "superlink")
        context = ssl.create_default_context(cafile=self.home.path / "ca.crt")
        line = http.client.HTTPSConnection(host, int(port), timeout=WAIT_S, context=context)
        try:
            line.connect()
            shown = line.sock.getpeercert() or {}
            line.request("GET", "/health")
            status = line.getresponse().status
        except ssl.SSLCertVerificationError as error:
            do = "get ca.crt again from the coordinator, by a way that you trust"
            raise Trouble("fail", f"{address} is not who ca.crt vouches for: {error.verify_message}", do) from None
        except (OSError, http.client.HTTPException) as error:
            do = "ask whoever runs `consortium coordinate`, or correct `superlink` in member.toml"
            raise Trouble("fail", f"{address}: {error}", do) from None
        finally:
            line.close()
        days = (ssl.cert_time_to_seconds(str(shown["notAfter"])) - self.now()) / 86_400
        if days < EXPIRES_DAYS:
            raise Trouble("warning", f"{address}'s certificate ends in {days:.0f} days", "ask the coordinator for one")
        if status != http.client.OK:
            raise Trouble("fail", f"{address}/health answered {status}", "ask whoever runs `consortium coordinate`")
        return f"{address} is up, and is who ca.crt vouches for, for {days:.0f} days"

    def _bandwidth(self) -> str:
        try:
            self._bytes_per_s = speed.bandwidth(self.home)
        except (OSError, http.client.HTTPException) as error:
            raise Trouble("unknown", f"nothing could be sent to {self.home.settings.superlink}: {error}", "") from None
        return f"{self._bytes_per_s / 1e6:,.1f} MB/s up to {self.home.settings.superlink}"

    def _rounds(self) -> str:
        receipts = self.home.receipts()[-5:]
        if not receipts:
            return "none yet"
        wall_s, busy_s = (sum(getattr(each, name) for each in receipts) / 1000 for name in ("wall_ms", "busy_ms"))
        sent = sum(each.bytes_up for each in receipts) / len(receipts) / 1e6
        each_s, share = wall_s / len(receipts), busy_s / wall_s if wall_s else 0
        return f"the newest {len(receipts)} took {each_s:.0f} s each, {share:.0%} of it training; {sent:.1f} MB up"

    def _next_round(self) -> str:
        asked = runs.asked(self.home, self.home.ledger(patience_s=0))
        going = [each.manifest for each in asked if each.state not in ("ended", "refused")]
        if not going:
            return "no run asks for you now"
        for manifest in going:
            try:
                self.home.check_machine(manifest.recipe)
            except Refused as refused:
                do = f"correct it in member.toml, or: consortium runs refuse {manifest.run} --home {self.home.path}"
                raise Trouble("fail", f"of {manifest.run}: {refused.detail}", do) from None
        manifest = going[-1]
        found = speed.kept(self.home)
        if found is None or self._bytes_per_s is None or importlib.util.find_spec("torch") is None:
            return f"of {manifest.run}: how long it takes here is not known, for its parts were not measured"
        share = policy.read(self.home.policy_path).share
        takes, deadline_s = (
            speed.expected(self.home, manifest, found, self._bytes_per_s, share),
            manifest.deadline_ms / 1000,
        )
        of_time = f" in {float(share):.0%} of the time" if share < 1 else ""
        says = f"of {manifest.run}: about {takes.seconds:,.1f} s here, {takes.train_s:,.1f} s of training{of_time} and"
        says += f" {takes.travel_s:,.1f} s for {takes.bytes / 1e6:,.1f} MB; its deadline is {deadline_s:,.0f} s"
        if takes.seconds > deadline_s:
            do = "ask for a longer deadline or fewer inner steps, or give more devices"
            do += f"{', or more of the time (machine.share)' if share < 1 else ''}: you would miss it every time"
            raise Trouble("warning", says, do)
        return says

    def _daemon(self) -> str:
        path, start = self.home.path / "status.json", f"consortium up --home {self.home.path}"
        if not path.is_file():
            raise Trouble("warning", "it has not run here yet", start)
        status = json.loads(path.read_text())
        try:
            os.kill(status["pid"], 0)
        except ProcessLookupError:
            raise Trouble("warning", f"it does not run; when it last did: {status['phase']}", start) from None
        if "refused" in status:
            raise Trouble("warning", f"it runs; it was last refused {status['refused']}", status["remedy"])
        return f"it runs: {status['phase']}"


def bundle(found: Iterable[Found], home: Home, file: Path) -> list[tuple[str, int]]:
    """Write what a helper needs into a new .tar.gz, for its owner only; (name, bytes) of each file in it.

    No key, text or invoice; settings and logs are `redacted`. Raises `Refused(BAD_FIELD)` over a file that is there.
    """
    if file.exists():
        raise Refused(Refusal.BAD_FIELD, f"--bundle {file}: it is there already, and nothing is written over")
    parts = {"member.toml": (home.path / "member.toml").read_text()}
    versions = {
        name: importlib.metadata.version(name)
        for name in VERSIONS
        if importlib.util.find_spec(name) or name == VERSIONS[0]
    }
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    parts["doctor.json"] = json.dumps({"found": [each._asdict() for each in found], **machine, "versions": versions})
    for name in ("status.json", *LOGS):
        if (path := home.path / name).is_file():
            parts[name] = path.read_bytes()[-LOG_BYTES:].decode(errors="replace")
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        sizes = []
        for name, text in sorted(parts.items()):
            data = redacted(text, home).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            sizes.append((name, len(data)))
    durable.write(file, written.getvalue(), mode=0o600)
    return sizes


def redacted(text: str, home: Home) -> str:
    """The text without what looks like a secret, this machine's name, where the folder lies, and what text it has."""
    hidden = {each.removeprefix("file:"): "(not shown)" for each in (home.text, home.settings.data)}
    if home.synthetic is not None:
        hidden |= {str(home.synthetic): "(not shown)", home.settings.synthetic: "(not shown)"}
    hidden |= {str(home.path): "HOME", socket.gethostname(): "HOST"}
    text = SECRET.sub("(redacted)", text)
    for each, shown in hidden.items():
        text = text.replace(each, shown)
    return text


def _check_private(path: Path, mode: int) -> None:
    if (is_ := path.stat().st_mode & 0o777) & 0o077:
        raise Trouble("fail", f"others than its owner may use {path}: mode {is_:o}", f"chmod {mode:o} {path}")


def _enough(what: str, free: int, do: str) -> str:
    says = f"{free / 1e9:.1f} GB {what}"
    if free < FEW_BYTES:
        raise Trouble("fail" if free < LEAST_BYTES else "warning", says, do)
    return says


def _available(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that a program could have here, in bytes: of the machine, and of the control group that it runs in."""
    if not meminfo.is_file():
        return None
    (line,) = (line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    free = 1024 * int(line.split()[1])
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free


def _check_name(host: str, setting: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        do = f"correct `{setting}` in member.toml, or what this machine asks for names"
        raise Trouble("fail", f"no address is known of {host!r}: {error.strerror}", do) from None


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


def _on_loopback(host: str) -> bool:
    return all(ipaddress.ip_address(each[4][0]).is_loopback for each in socket.getaddrinfo(host, None))
