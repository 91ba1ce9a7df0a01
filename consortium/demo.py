"""The real deployment on one machine: three organisations train, are billed, and verify; then somebody forges a number.

Every party is a process of its own with a folder of its own, and speaks to the others as it would across the world:
TLS, node keys, signatures. Only the founding is done for them all at once.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table

from client.bill import money, text
from client.cost import append as append_cost
from consortium.found import PRICE, Founded, found
from ledger.billing import close
from shared_models import processes
from shared_models.ledger_http import LedgerHttp
from shared_models.published import fetch, reader, save
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import Report, audit

BENEFITS = {"acme": 2, "birch": 1, "cedar": 1}
RUN, PERIOD = "r1", "2026-11"
DEADLINE_S = 45.0
LOOK_S = 0.25
MARK = "made-by-consortium-demo"


def demo(folder: Path, *, rounds: int) -> int:
    """Run the demonstration in this folder, made anew. Ends with no process left, however it ends."""
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT too: a shell's background jobs ignore it.
        signal.signal(each, lambda *_: _interrupt())
    with ExitStack() as stack:
        folder = _fresh(folder.resolve(), stack)
        say = console.print
        say(f"Three organisations, {', '.join(BENEFITS)}, train one model; each has its keys and folder in {folder}")
        url, superlink = (f"{scheme}127.0.0.1:{processes.free_port()}" for scheme in ("http://", ""))
        founded = found(folder, BENEFITS, ledger_url=url, superlink=superlink, price=PRICE)
        running = stack.enter_context(_processes(founded))
        ledger = LedgerHttp(url, patience_s=30)
        running.start("serve", "--dir", str(founded.ledger), "--port", url.rpartition(":")[2], name="ledger")
        running.start("coordinate", "--home", str(founded.coordinator.path), name="coordinator")
        for name in founded.members:
            running.start("up", "--home", str(founded.member(name).path), name=name)
        proof = ledger.append(founded.charter)
        say(f"They signed a charter; it is entry {proof.index} of their log, sha256 {_charter_hash(founded)[:16]}…")

        status = _train(founded, rounds, console, running)
        if status[0] != "finished:completed":
            raise Refused(Refusal.FAILED, f"run {RUN} ended as {status[0]} {status[1]}; see {founded.coordinator.path}")
        invoice = founded.member("birch").path / "invoice.txt"
        invoice.write_text("Hosting of the ledger, November 2026: 12.00 EUR, paid by birch for all.\n")
        append_cost(founded.member("birch").path, "hosting-2026-11", "services", "12.00", invoice)
        report = _audited(url, founded)
        ledger.append(close(report.books, PERIOD, SigningKey.load(founded.admin_key)))
        bundle = folder / "bundle"
        save(reader(url), bundle)
        running.end()  # What follows needs nobody.

        _show_training(bundle, founded, say)
        report = _audited(str(bundle), founded)
        say("\n" + text(report.books.statements[-1], report.books.charter))
        price = money(report.books.charter.price.numerator, report.books.charter)
        say(f"(At a toy price of {price} EUR for an NCU, 10^18 FLOP, so that a minute of a laptop costs something.)")
        say("\nEach member verifies it on its own, with nothing but the log and its own folder:")
        for name in founded.members:
            say(f"  {name}: {_audit(bundle, founded.member(name).path)[1].splitlines()[-1]}")
        _forge(bundle, founded, say)
        _look_next(folder, bundle, say)
        say(f"\nDone in {time.monotonic() - began:.0f} s; no process is left running.")
    return 0


def _interrupt() -> None:
    raise KeyboardInterrupt


def _charter_hash(founded: Founded) -> str:
    return merkle.leaf_hash(founded.charter).hex()


def _fresh(folder: Path, stack: ExitStack) -> Path:
    """An empty folder that nobody else uses. Only what a demo made is ever removed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = stack.enter_context((folder / MARK).open("a"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(Refusal.LOCKED, f"another demo runs in {folder}") from None
    known = {MARK, "ledger", "coordinator", "admin", "bundle", "forged", "logs", *BENEFITS}
    strange = [path.name for path in folder.iterdir() if path.name not in known]
    if strange:
        raise Refused(Refusal.LOCKED, f"{folder} holds {', '.join(sorted(strange))[:120]}, which no demo put there")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    (folder / "logs").mkdir()
    return folder


class Running:
    """The processes of a consortium on one machine, each `consortium COMMAND` with a log of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *command: str, name: str, checkout: Path | None = None) -> None:
        """Start one of them; from another checkout of this code, if one is named."""
        self._all[name] = processes.start(
            [sys.executable, "-m", "consortium", *command],
            env=processes.scrubbed(HOME=str(self._folder)),
            cwd=checkout or self._folder,
            log=self._folder / "logs" / f"{name}.log",
        )

    def check(self) -> None:
        """Raises `Refused(FAILED)` if one of them has ended."""
        for name, process in self._all.items():
            if process.poll() is not None:
                log = self._folder / "logs" / f"{name}.log"
                last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
                raise Refused(Refusal.FAILED, f"{name} ended with code {process.returncode}: {last[:300]} (see {log})")

    def end(self) -> None:
        """End them all and whatever they started, members first, the ledger last. A second Ctrl-C does not stop it."""
        before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
        started = psutil.Process().children(recursive=True)
        asked = [process for name, process in reversed(self._all.items())]
        for process in asked:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in asked:
            processes.end(process)
        self._all.clear()
        for each in psutil.wait_procs(started, timeout=3)[1]:
            each.kill()
        for number, handler in before.items():
            signal.signal(number, handler)

    def kill(self, name: str) -> None:
        """Kill one of them, and its children, as a power cut would."""
        process = self._all.pop(name)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


@contextmanager
def _processes(founded: Founded) -> Iterator[Running]:
    running = Running(founded.folder)
    try:
        yield running
    except KeyboardInterrupt:
        print("\nInterrupted; every process that was started is ended.", file=sys.stderr)
        raise
    finally:
        running.end()


# Training, watched.


def _train(founded: Founded, rounds: int, console: Console, running: Running) -> tuple[str, str]:
    """Launch the run and show how it goes, until it ends: (Flower's status, details)."""
    came: list[tuple[str, str] | BaseException] = []

    def work() -> None:
        try:
            from server.launch import launch  # Torch and Flower take seconds to import: something is shown meanwhile.
            from server.superlink import Control

            with Control(founded.coordinator) as control:
                for name in founded.members:
                    control.register(name, founded.member(name).path / "keys" / "node.pub")
            status = launch(
                founded.coordinator.path,
                RUN,
                recipe=None,
                rounds=rounds,
                quorum=None,
                deadline_s=DEADLINE_S,
                consents_s=60.0,
            )
            came.append(status)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits.
            came.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with _watch(founded, console) as look:
        while thread.is_alive():
            look()
            running.check()
            thread.join(LOOK_S)
        look()
    if isinstance(came[0], BaseException):
        raise came[0]
    return came[0]


@contextmanager
def _watch(founded: Founded, console: Console) -> Iterator[Callable[[], None]]:
    """Show what everybody does: a live table on a terminal, a line for each change elsewhere."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda: live.update(_table(founded))
        return
    said: set[str] = set()

    def look() -> None:
        for line in _lines(founded):
            if line not in said:
                said.add(line)
                console.print(line)

    yield look


def _status(folder: Path) -> dict[str, Any]:
    try:
        status: dict[str, Any] = json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return status


def _table(founded: Founded) -> Table:
    run = _status(founded.coordinator.path)
    table = Table(title=_title(run), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in ("member", "doing", "tokens/s", "loss", "answer"):
        table.add_column(column, justify="right" if column in ("tokens/s", "loss") else "left")
    for name in founded.members:
        status = _status(founded.member(name).path)
        answered = run.get("answered", {}).get(name)
        rate, loss = status.get("tokens_per_s"), status.get("loss")
        table.add_row(
            name,
            str(status.get("phase", "starting")),
            f"{rate:,}" if rate else "",
            f"{loss:.3f}" if loss else "",
            _answer(answered) if answered else _waited(run, name),
        )
    return table


def _title(run: dict[str, Any]) -> str:
    match run.get("phase"):
        case None:
            return "starting"
        case "gathering":
            return f"gathering: {_waiting(run)}"
        case "training":
            left = max(0, run["deadline_ms"] / 1000 - time.time())
            who = f"waiting for {', '.join(run['waiting'])}, who are left out in {left:.0f} s" if run["waiting"] else ""
            return f"round {run['round']} of {run['rounds']}, held-out loss {run['loss']:.3f}; {who or 'averaging'}"
        case phase:
            return f"{phase}, held-out loss {run['loss']:.3f}"


def _waiting(run: dict[str, Any]) -> str:
    waiting = run.get("waiting", {})
    return ", ".join(f"{name} not online yet" for name in waiting) or "everybody is online"


def _answer(answered: dict[str, Any]) -> str:
    return f"refused: {answered['refused']}" if "refused" in answered else f"{answered['bytes_up']:,} bytes"


def _waited(run: dict[str, Any], name: str) -> str:
    if run.get("phase") != "training" or name not in run.get("waiting", ()):
        return ""
    return f"waited for since {time.time() - run['since_ms'] / 1000:.0f} s"


def _lines(founded: Founded) -> Iterator[str]:
    """What can be said now; each line is printed once."""
    for name in founded.members:
        if consented := _status(founded.member(name).path).get("consented"):
            yield f"{name} has consented to run {consented}: its code is what {name} would build itself"
    run = _status(founded.coordinator.path)
    if run.get("phase") in ("training", "completed"):
        number, rounds = run["round"], run["rounds"]
        yield f"round {number} of {rounds}: {', '.join(founded.members)} are asked"
        for name, answered in sorted(run["answered"].items()):
            status = _status(founded.member(name).path)
            pace = f" at {status['tokens_per_s']:,} tokens/s" if "tokens_per_s" in status else ""
            yield (
                f"round {number} of {rounds}: {name} answered, {_answer(answered)}"
                if not pace
                else (f"round {number} of {rounds}: {name} answered{pace}, {_answer(answered)}")
            )


# What came of it.


def _audited(where: str, founded: Founded) -> Report:
    log = fetch(reader(where))
    report = audit(log.leaves, log.head, log.hashes, charter=_charter_hash(founded))
    if report.findings:
        raise Refused(report.findings[0].refusal, str(report.findings[0]))
    return report


def _show_training(bundle: Path, founded: Founded, say: Callable[..., None]) -> None:
    report = _audited(str(bundle), founded)
    run = report.books.runs[RUN]
    losses = [turn.closed.loss_unats / 1e6 for turn in run.rounds if turn.closed is not None]
    say(f"\nHeld-out loss, nats per byte: {run.manifest.loss_unats / 1e6:.3f} before, {losses[-1]:.3f} after", end=" ")
    say(f"{len(losses)} rounds of {run.manifest.recipe.inner_steps} steps at each member.")
    for name in founded.members:
        receipts = [each for turn in run.rounds for each in turn.receipts.values() if each.member == name]
        say(
            f"  {name:6} trained {sum(each.tokens for each in receipts):,} tokens"
            f" in {sum(each.cpu_ms for each in receipts) / 1000:.1f} CPU-s,"
            f" sent {sum(each.bytes_up for each in receipts):,} bytes",
        )


def _audit(bundle: Path, home: Path) -> tuple[int, str]:
    """`consortium audit`, as the member runs it: (exit code, what it prints)."""
    done = subprocess.run(
        [sys.executable, "-m", "consortium", "audit", str(bundle), "--home", str(home)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise Refused(
            Refusal.FAILED, f"consortium audit ended with code {done.returncode}: {done.stderr.strip()[-300:]}"
        )
    return done.returncode, done.stdout.strip()


# The lie.


def _forge(bundle: Path, founded: Founded, say: Callable[..., None]) -> None:
    """Change one number of the bill in a copy and see the audit name it: as a stranger, then as the operators."""
    leaves = fetch(reader(str(bundle))).leaves
    bill = entries.peek(leaves[-1])
    assert isinstance(bill, Statement)
    victim = min(bill.balances, key=lambda balance: balance.net)
    worse = replace(victim, net=victim.net - 100)
    charter = entries.open_charter(founded.charter).record
    say(
        f"\nNow somebody forges one number in a copy of the log: {victim.member} owes"
        f" {money(-worse.net, charter)} instead of {money(-victim.net, charter)}. The audit says:",  # type: ignore[arg-type]
    )
    forged = founded.folder / "forged"
    shutil.copytree(bundle, forged)
    old, new = (f'"member":"{each.member}","net":{each.net}'.encode() for each in (victim, worse))
    _rewrite(forged, [*leaves[:-1], leaves[-1].replace(old, new)])
    _show_findings(forged, founded, victim.member, say)

    say("\nNow the operators forge it, who hold the log's key and the administrator's, and sign everything again:")
    lie = replace(bill, balances=tuple(worse if each == victim else each for each in bill.balances))
    leaf = entries.sign(lie, founded.coordinator.charter.consortium, [SigningKey.load(founded.admin_key)])
    _rewrite(forged, [*leaves[:-1], leaf], sign=SigningKey.load(founded.ledger / "log.key"))
    _show_findings(forged, founded, victim.member, say)


def _rewrite(folder: Path, leaves: list[bytes], sign: SigningKey | None = None) -> None:
    """Write these entries over a copied log; with the log's key, hash and sign everything anew."""
    tree = merkle.Tree()
    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
    for level, number, width in tlog.tiles(tree.size):
        start = number * tlog.WIDTH
        if level == 0:
            path = folder / tlog.tile_path("entries", number, width)
            path.write_bytes(tlog.pack(leaves[start : start + width]))
        if sign is not None:
            (folder / tlog.tile_path(level, number, width)).write_bytes(tree.hashes(8 * level, start, start + width))
    if sign is not None:
        (folder / tlog.HEAD).write_bytes(tlog.TreeHead(sign.name, tree.size, tree.root()).sign(sign))


def _show_findings(forged: Path, founded: Founded, member: str, say: Callable[..., None]) -> None:
    code, printed = _audit(forged, founded.member(member).path)
    if code != 1:
        raise Refused(Refusal.FAILED, "the audit did not find the forged number")
    for line in printed.splitlines()[1:]:
        say(f"  {line}")


def _look_next(folder: Path, bundle: Path, say: Callable[..., None]) -> None:
    shown, acme = os.path.relpath(bundle), os.path.relpath(folder / "acme")
    own = processes.program("consortium")
    run = "consortium" if shutil.which("consortium") == own else os.path.relpath(own)
    say("\nWhere to look next:")
    for command, what in (
        (f"{run} bill {shown}", "the bill again"),
        (f"{run} audit {shown} --home {acme}", "verify it as acme"),
        (f"{run} simulate --dead 1 --lie inflated --deadline 20", "eight members, two not good"),
        ("docs/path-of-a-receipt.md", "how a number gets into a bill"),
    ):
        say(f"  {what:30} {command}")
