"""The real deployment on one machine: three organisations train, are billed, and verify; then somebody forges a number.

Every party is a process of its own with a folder of its own, and speaks to the others as it would across the world:
TLS, node keys, signatures. Only the founding is done for them all at once.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from client.bill import text
from client.cost import Cost
from client.cost import append as append_cost
from consortium.found import PRICE, Founded, found
from consortium.running import Running, running
from consortium.watch import watching
from ledger.billing import close
from shared_models import processes
from shared_models.ledger_http import LedgerHttp
from shared_models.published import fetch, reader, save
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Receipt, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import Report, audit
from shared_models.rules.currency import money

BENEFITS = {"acme": 2, "birch": 1, "cedar": 1}
RUN, PERIOD = "r1", "2026-11"
DEADLINE_S = 300.0  # A round takes a tenth of it; on a machine that does much else, half.
LOOK_S = 0.25
WITNESSES_S = 60.0
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
        started = stack.enter_context(running(founded.folder))
        ledger = LedgerHttp(url, patience_s=30)
        started.start("serve", "--dir", str(founded.ledger), "--port", url.rpartition(":")[2], name="ledger")
        started.start("coordinate", "--home", str(founded.coordinator.path), name="coordinator")
        for name in founded.members:
            started.start("up", "--home", str(founded.member(name).path), name=name)
        proof = ledger.append(founded.charter)
        say(f"They signed a charter; it is entry {proof.index} of their log, sha256 {_charter_hash(founded)[:16]}…")

        _train(founded, rounds, console, started)
        invoice = founded.member("birch").path / "invoice.txt"
        invoice.write_text("Hosting of the ledger, November 2026: 12.00 EUR, paid by birch for all.\n")
        hosting = Cost(
            item="hosting-2026-11",
            pot="services",
            period=PERIOD,
            category="network",
            amount="12",
            currency="EUR",
            date="2026-11-30",
        )
        append_cost(founded.member("birch").path, hosting, invoice.read_bytes())
        closed = close(ledger, PERIOD, SigningKey.load(founded.admin_key), _charter_hash(founded), wait_s=WITNESSES_S)
        _witnessed(ledger, founded, closed.index + 1)
        bundle = folder / "bundle"
        save(reader(url), bundle)
        started.end()  # What follows needs nobody.

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


# Training, watched.


def _train(founded: Founded, rounds: int, console: Console, started: Running) -> None:
    """Train, by the command of a coordinator's operator, and show how it goes until it ends. Raises `Refused`."""
    home, deadline = str(founded.coordinator.path), str(DEADLINE_S)
    started.start("run", RUN, "--home", home, "--rounds", str(rounds), "--deadline", deadline, name="run")
    with watching(founded, console) as look:
        while not started.done("run"):
            look()
            time.sleep(LOOK_S)
        look()


def _witnessed(ledger: LedgerHttp, founded: Founded, size: int) -> None:
    """Wait until every member has seen the log of this size, and will take no other one. Raises `Refused`."""
    until, nobody = time.monotonic() + WITNESSES_S, {"size": 0}
    while late := [name for name in founded.members if ledger.witnesses().get(name, nobody)["size"] < size]:
        if time.monotonic() > until:
            raise Refused(Refusal.NO_QUORUM, f"{', '.join(late)} have not witnessed the log of {size} entries")
        time.sleep(LOOK_S)


# What came of it.


def _audited(where: str, founded: Founded) -> Report:
    log = fetch(reader(where))
    report = audit(log.leaves, log.head, log.hashes, cosigned=log.cosigned, charter=_charter_hash(founded))
    if report.findings:
        raise Refused(report.findings[0].refusal, str(report.findings[0]))
    return report


def _show_training(bundle: Path, founded: Founded, say: Callable[..., None]) -> None:
    report = _audited(str(bundle), founded)
    run = report.books.runs[RUN]
    records = [entries.peek(leaf) for leaf in fetch(reader(str(bundle))).leaves]
    losses = [turn.closed.loss_unats / 1e6 for turn in run.rounds if turn.closed is not None]
    say(f"\nHeld-out loss, nats per byte: {run.manifest.loss_unats / 1e6:.3f} before, {losses[-1]:.3f} after", end=" ")
    say(f"{len(losses)} rounds of {run.manifest.recipe.inner_steps} steps at each member.")
    for name in founded.members:
        receipts = [each for each in records if isinstance(each, Receipt) and each.member == name]
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
    """Write these entries over a copied log; with the log's key, hash and sign everything anew.

    What members have cosigned cannot be made again, and is left out.
    """
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
        (folder / "cosigned").unlink()
        for name in ("witness", "attest"):
            shutil.rmtree(folder / name, ignore_errors=True)  # Nobody may have vouched for anything yet.


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
