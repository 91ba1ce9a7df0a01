"""The member's daemon: keeps a SuperNode running, starts training only for runs it consented to, meters it, signs.

It never stops for the network's sake: a ledger or a coordinator that is away is waited for, and what was signed
meanwhile is handed in later.
"""

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from client import confine, policy, runs, sharing
from client.answers import Answers
from client.attest import Attester
from client.door import Door
from client.energy import LOOK_S as METER_S
from client.energy import Energy
from client.executor import BEAT_S, HOST, Executor, Task
from client.home import Home
from client.limits import Turns, Watch
from client.meter import ProcessMeter, Usage
from client.signer import Signer
from client.tariff import Fetcher
from client.witness import Witness
from shared_models import durable, processes, service
from shared_models.bundle import build
from shared_models.claims import Begin, Claim, Halted, Progress, Question
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import Consent, Manifest, RoundOpen
from shared_models.records.refusals import Refusal, Refused
from shared_models.relay import Way

LOOK_S = 0.1  # Between looks for a task.
ASK_S = 1.0  # Between looks into the ledger.
OVERDUE_S = 30.0  # What the coordinator has not logged by then, the member hands in itself.
RESTART_S = 5.0
COMPARE_S = 30.0  # Between comparisons with other members' heads.
SEND_S = 3.0  # What a SuperNode needs to send what its training process answered.
ATTEST_S = 60.0  # Between readings of the log to vouch for what is our own in it.

log = logging.getLogger(__name__)


class Daemon:
    """One running member."""

    def __init__(self, home: Home) -> None:
        """Raises `Refused(BAD_FIELD)` where member.toml says of the machine what does not go together."""
        sharing.check_alone(home.settings)
        self.home = home
        self._ledger = home.ledger(patience_s=0)
        self._bundle = build()
        self._witness = Witness(home, self._ledger.consistency)
        self._signer = Signer(home, self._witness)
        self._attester, self._attested = Attester(home), 0.0
        self._status: dict[str, Any] = {"member": home.settings.member, "phase": "starting", "pid": os.getpid()}
        # A socket's path is at most 107 bytes, and a home may lie deep.
        self._rendezvous = Path(tempfile.mkdtemp(prefix="consortium-"))
        self._door = Door(self._rendezvous / "door", self._signer, self._seen, self._may_begin, self._may_go_on)
        self._runtime = processes.free_port()  # At which the SuperNode has its tasks.
        self._way = Way(self._rendezvous / "way", self._lets_out)
        config = home.node_config(self._door.path, self._way.path if confine.offline() else None)
        self._executor = Executor(home, self._runtime, self._bundle, config, self._way.path)
        self._signal = Fetcher(home.path, self._signal_url, lambda why: self._show(signal=why))
        self._answers = Answers(home)
        self._consented: set[bytes] = set()
        self._unwanted: dict[bytes, str] = {}  # Manifests that there is something against, and what.
        self._unlogged_since: tuple[int, float] = (0, time.monotonic())
        self._energy: tuple[Energy, float] | None = None  # Of the task at work, and when its counters were last read.
        self._watch: tuple[Watch, policy.Policy] | None = None  # Of its memory, and the policy that may bound it;
        self._turns: Turns | None = None  # and of the time, which it may too.
        self._outgrown: dict[str, int] = {}  # How many bytes each run took that was stopped for that.
        self._compared = 0.0  # When other members' heads were last looked at.
        self._frozen = False
        self._stop = False
        self._task: Task | None = None  # What was taken up last, unless it is finished;
        self._child: subprocess.Popen[bytes] | None = None  # the training process,
        self._meter: ProcessMeter | None = None  # and its meter;
        self._beat: tuple[float, int | None] = 0.0, None  # when its CPU time was last read, and that;
        self._opened = ""  # the round that it works on, by the leaf hash of its opening.
        self._spot = policy.Spot(), -1  # How this machine is told that it is taken away, as of this time of the policy.
        self._asked_to_end = False  # By SIGTERM, which may say so.
        self._leave_by: float | None = None  # Once it was told.
        self._claimed = False  # Whether the round has its receipt,
        self._sent_by = 0.0  # and until when the SuperNode may be sending what was answered last.
        self._showing = threading.Lock()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or until this machine is taken away; then leave no child behind."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stopped)
        supernode = self._executor.start_supernode()
        asked = 0.0
        self._show(phase="waiting")
        service.tell(READY="1")
        try:
            while not self._stop:
                self._look_for_notice()
                if supernode.poll() is not None and self._leave_by is None:
                    # Code 0 is ambiguous: this node was removed, or the SuperLink has lost its state. So try again.
                    self._show(phase="reconnecting", detail=f"flower-supernode ended with code {supernode.returncode}")
                    self._wait(RESTART_S)
                    supernode = self._executor.start_supernode()
                if self._child is not None and self._to_end_now():
                    log.warning("the training process is ended: training is paused")
                    self._end_child()
                if self._child is not None and self._child.poll() is not None:
                    self._door.forget()
                    processes.end(self._child)  # Whatever it left behind.
                    if self._child.returncode < 0 and self._claimed and self._leave_by is None:
                        # Killed while it sent its answer, of which its SuperNode would wait for the rest for ever.
                        log.warning("the training process was killed while it sent: the SuperNode is started anew")
                        processes.end(supernode)
                    if self._child.returncode == 0:
                        self._task = None
                    self._sent_by = time.monotonic() + SEND_S if self._claimed else 0.0
                    self._forget_child()
                    self._show(phase="waiting")
                self._look_at_counters()
                self._say_that_it_works()
                due = time.monotonic() - asked > ASK_S
                if self._leave_by is not None:
                    if self._left():
                        break
                elif (self._child is None or due) and (task := self._executor.acquire()) is not None:
                    # The SuperNode has one task at a time. Whoever is still at one has been given up: the run has ended
                    # while its message came, so that the rest never will; or it has not been heard of for a minute.
                    if self._child is not None:
                        log.warning("the training process is ended: its task was given up, and another one came")
                        self._door.forget()
                        self._end_child()
                        self._forget_child()
                    before, self._task = self._task, task
                    if before is not None:
                        self._executor.give_up(before)
                    self._child = self._begin(task)
                if due and self._leave_by is None:
                    service.tell(WATCHDOG="1")
                    self._signal.visit()
                    self._visit_ledger()
                    self._answer()
                    asked = time.monotonic()
                self._wait(LOOK_S)
        finally:
            service.tell(STOPPING="1")
            self._show(phase="stopped" if self._leave_by is None else "taken away")
            self._door.close()
            self._way.close()
            self._rendezvous.rmdir()
            self._answers.end()
            self._executor.close()
            if self._child is not None:
                processes.end(self._child, processes.GRACE_S if self._leave_by is None else 0)
            processes.end(supernode)

    def _stopped(self, number: int, _: object) -> None:
        """A first SIGTERM may say that this machine is taken away; anything else ends the daemon at once."""
        if number == signal.SIGTERM and not self._asked_to_end:
            self._asked_to_end = True
        else:
            self._stop = True

    def _end_child(self) -> None:
        """End the training process unasked: asked, it says goodbye to its SuperNode, which then waits for ever."""
        if self._child is not None:
            processes.end(self._child, grace_s=0)

    def _forget_child(self) -> None:
        """What was of a training process that has ended."""
        self._watch_no_more()
        self._child = self._meter = self._energy = None
        self._opened, self._claimed = "", False

    # A machine that is taken away.

    def _said_of_spot(self) -> policy.Spot:
        """What the policy says of that now; it is asked often, and read when it changes."""
        path = self.home.policy_path
        changed = path.stat().st_mtime_ns if path.exists() else 0
        if changed != self._spot[1]:
            found = policy.Spot()
            with suppress(Refused):
                found = policy.read(path).spot
            self._spot = found, changed
        return self._spot[0]

    def _look_for_notice(self) -> None:
        if self._leave_by is not None:
            return
        spot = self._said_of_spot()
        if self._asked_to_end and not spot.notice:
            self._stop = True
        elif self._asked_to_end or (spot.file is not None and spot.file.exists()):
            why = "SIGTERM" if self._asked_to_end else f"{spot.file} is there"
            self._leave_by = time.monotonic() + spot.seconds
            self._show(phase="leaving", detail=f"this machine is taken away: {why}")

    def _left(self) -> bool:
        """Whether nothing is left to wait for. No task is taken any more; what is at work keeps how far it came.

        The SuperNode, when it ends then, tells the coordinator that we are gone, and nobody waits for us.
        """
        assert self._leave_by is not None
        if self._child is None:
            return time.monotonic() > min(self._leave_by, self._sent_by)
        if not self._opened or time.monotonic() > self._leave_by:
            self._end_child()  # It has begun nothing; or it did not come to the end of a step.
        return False

    def _halted(self, halted: Halted) -> None:
        """Training has kept how far it came: so is what it used for that. Then it is ended, before it can answer."""
        if self._meter is None or self._leave_by is None:
            return
        used = asdict(self._meter.read()) | {"opened": self._opened}
        durable.write(self._halted_path, json.dumps(used).encode())
        self._show(kept=f"step {halted.step} of round {self._status['round']} of {self._status['run']}")
        self._end_child()

    def _go_on(self, opened: str) -> None:
        """Count with what this round uses now what it used before it was broken off."""
        self._opened = opened
        try:
            before = json.loads(self._halted_path.read_bytes())
        except (FileNotFoundError, ValueError):
            return
        if before.pop("opened") == opened and self._meter is not None:
            self._meter.before = Usage(**before)

    @property
    def _halted_path(self) -> Path:
        return self.home.path / "halted.json"

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stop and not (self._asked_to_end and self._leave_by is None) and time.monotonic() < until:
            time.sleep(min(LOOK_S, seconds))

    def _begin(self, task: Task) -> subprocess.Popen[bytes] | None:
        """Start the training process, if its bundle is ours and a round may begin here now; else refuse it by name."""
        try:
            if task.bundle != self._bundle.sha256:
                ours = self._bundle.sha256[:12]
                raise Refused(Refusal.NOT_APPROVED, f"bundle {task.bundle[:12]}…; here is {ours}…")
            rules = self._check_policy()
        except Refused as refused:
            self._seen(refused)
            threading.Thread(target=self._refuse, args=(task, refused), daemon=True).start()
            return None
        child = self._executor.launch(task, rules.cores)
        settings = self.home.settings
        energy = Energy(settings.processor, rules.watts, settings.devices)
        self._energy = energy, time.monotonic()

        def end() -> None:
            log.warning("the training process is ended: it took too much memory")
            processes.end(child, grace_s=0)

        watch = Watch(child.pid, rules.memory, lambda taken: self._seen(rules.too_much(taken)), end)
        self._watch, self._turns = (watch, rules), Turns(child.pid, rules.share)
        landlock, offline = confine.version(), confine.offline()
        self._meter = ProcessMeter(child.pid, energy, landlock, offline=offline, memory=watch.peak)
        self._beat = time.monotonic(), None
        self._opened, self._claimed = "", False
        self._door.expect(self._meter, lambda pid: _descends(pid, child.pid))
        self._show(phase="starting", since_ms=_now_ms())
        return child

    def _lets_out(self, host: str, port: int) -> bool:
        """Whether the training process may connect there: to its SuperNode, and to the host of its coordinator, of
        which tensors are fetched at a port that the round's task names.
        """
        coordinator = self.home.settings.superlink.rpartition(":")[0].strip("[]")
        return host == coordinator or (host, port) == (HOST, self._runtime)

    def _watch_no_more(self) -> None:
        if self._watch is not None and self._turns is not None:
            self._watch[0].stop()
            self._turns.stop()
        self._watch = self._turns = None

    def _may_go_on(self) -> None:
        """Raises `Refused`: POLICY if training has taken too much, so it ends, and tells the coordinator why;
        TAKEN_AWAY, so that it keeps how far it came.
        """
        if self._watch is not None and (taken := self._watch[0].above):
            self._outgrown[self._status["run"]] = taken
            raise self._watch[1].too_much(taken)
        if self._leave_by is not None:
            raise Refused(Refusal.TAKEN_AWAY, "this machine is taken away")

    def _look_at_counters(self) -> None:
        if self._energy is not None and time.monotonic() - self._energy[1] > METER_S:
            self._energy[0].look()
            self._energy = self._energy[0], time.monotonic()

    def _say_that_it_works(self) -> None:
        """Keep the task of a training process that works: it may take longer to start than its SuperNode waits for its
        first word, and with a small share of the time any word of its own is late. What does nothing is soon given up.
        """
        if self._task is None or self._meter is None or time.monotonic() - self._beat[0] < BEAT_S:
            return
        before, cpu_ms = self._beat[1], self._meter.read().cpu_ms
        if before is not None and cpu_ms > before:
            self._executor.beat(self._task)
        self._beat = time.monotonic(), cpu_ms

    def _refuse(self, task: Task, refused: Refused) -> None:
        try:
            self._executor.refuse(task, refused)
        except Exception:
            if self._task is task:  # Else it was given up meanwhile.
                log.exception("a task could not be refused")

    # The operator's word.

    def _check_policy(self, manifest: Manifest | None = None) -> policy.Policy:
        """The policy, if a round, of this run, may begin here now. Raises `Refused`: POLICY, BAD_FIELD."""
        if (pause := policy.paused(self.home.path)) is not None:
            raise Refused(Refusal.POLICY, f"training is paused{': ' if pause.reason else ''}{pause.reason}")
        found = policy.read(self.home.policy_path)
        found.check_now(self._signer.receipts(), _now_ms(), manifest, self.home.settings.member)
        taken = self._outgrown.get(manifest.run, 0) if manifest is not None else 0
        if found.memory is not None and taken > found.memory:
            raise found.too_much(taken)
        return found

    def _signal_url(self) -> str | None:
        with suppress(Refused):  # Whoever asks for a round is told what is wrong with it.
            return policy.read(self.home.policy_path).url
        return None

    def _may_begin(self, begin: Begin) -> None:
        """The same of a round that the training process asks for. The signer looks at the rest."""
        opened = entries.peek(begin.opened.encode())
        if isinstance(opened, RoundOpen):
            self._status["run"] = opened.run
            if self._leave_by is not None:
                self._end_child()  # So that it says nothing, and is asked again when we are back.
            self._may_go_on()
            manifest = self._signer.manifest(opened)
            runs.check(self.home, self._check_policy(manifest), manifest, opened.manifest)

    def _to_end_now(self) -> bool:
        return (pause := policy.paused(self.home.path)) is not None and pause.now

    def _visit_ledger(self) -> None:
        """Consent to new runs that are right, witness the log, and hand in what the coordinator has left out."""
        with suppress(Refused):  # The ledger is away, or refuses: it is asked again in a second.
            self.home.learn_keys(self._ledger)
            self._witness_log()
            for manifest, consents, ended in self._ledger.runs():
                if ended or manifest in self._consented:
                    continue
                wanted = self._wanted(manifest)
                if self.home.settings.member not in consents:
                    if not wanted:
                        continue  # It is looked at again: a policy may change.
                    self._consent(manifest)
                self._consented.add(manifest)  # Or it was, before this daemon was started: what is wrong now was told.
        waiting = self._signer.unlogged()
        if len(waiting) != self._unlogged_since[0]:
            self._unlogged_since = (len(waiting), time.monotonic())
        if waiting and time.monotonic() - self._unlogged_since[1] > OVERDUE_S:
            self._hand_in(waiting)

    def _answer(self) -> None:
        """What the log asks to see of training; not while that is paused, or of a log that has shown two histories."""
        if self._frozen or policy.paused(self.home.path) is not None:
            self._answers.end()
            return
        with suppress(Refused):  # Whoever asks for a round is told what is wrong with the policy.
            self._answers.visit(self._witness.head.size, lambda: policy.read(self.home.policy_path))

    def _witness_log(self) -> None:
        try:
            self._witness.visit(self._ledger)
            if time.monotonic() - self._compared > COMPARE_S:
                self._compared = time.monotonic()
                self._witness.compare_with_peers()
            if time.monotonic() - self._attested > ATTEST_S and (shown := self.home.head_note()) is not None:
                self._ledger.cosign(self._attester.attest(self._ledger, shown))
                self._attested = time.monotonic()
        except Refused as refused:
            if refused.refusal is not Refusal.FORK:
                raise
            if not self._frozen:
                self._seen(refused)
            self._frozen = True

    def _wanted(self, leaf: bytes) -> bool:
        """Whether this member's policy and machine let it take part in a run. What is against it is told once."""
        try:
            manifest = entries.peek(leaf)
            if isinstance(manifest, Manifest):
                rules = policy.read(self.home.policy_path)
                rules.check_run(manifest, self.home.settings.member)
                runs.check(self.home, rules, manifest, merkle.leaf_hash(leaf).hex())
                self.home.check_tokenizer(manifest.recipe)
                self.home.check_model(manifest.recipe)
                self.home.check_machine(manifest.recipe)
        except Refused as refused:
            if self._unwanted.get(leaf) != str(refused):
                self._unwanted[leaf] = str(refused)
                self._seen(refused)
            return False
        return True

    def _consent(self, manifest: bytes) -> None:
        try:
            leaf = self._signer.consent(manifest, self._bundle.sha256)
        except Refused as refused:
            self._seen(refused)
            return
        self._hand_in(self._signer.unlogged())
        consent = entries.peek(leaf)
        assert isinstance(consent, Consent)
        log.info("consented to run %s", consent.run)
        self._show(consented=consent.run)

    def _hand_in(self, leaves: tuple[bytes, ...]) -> None:
        with suppress(Refused):
            for leaf in leaves:
                self._signer.logged(leaf, self._ledger.append(leaf))

    # What people see.

    def _seen(self, what: Question | Refused) -> None:
        match what:
            case Begin():
                opened = entries.peek(what.opened.encode())
                assert isinstance(opened, RoundOpen)
                self._go_on(merkle.leaf_hash(what.opened.encode()).hex())
                self._show(phase="training", run=opened.run, round=opened.round, since_ms=_now_ms(), tokens=0)
            case (
                Progress(tokens=tokens, busy_ms=busy_ms, loss_unats=loss)
                | Claim(tokens=tokens, busy_ms=busy_ms, loss_unats=loss)
            ):
                rate = round(1000 * tokens / busy_ms) if busy_ms else 0
                sent = {"phase": "sending", "bytes_up": what.bytes_up} if isinstance(what, Claim) else {}
                self._show(tokens=tokens, tokens_per_s=rate, loss=loss / 1e6, **sent)
                if isinstance(what, Claim):
                    self._claimed = True
                    if (turns := self._turns) is not None:
                        turns.stop()  # What is left is sending, which the round waits for.
                    self._halted_path.unlink(missing_ok=True)
            case Halted():
                self._halted(what)
            case Refused():
                log.warning("refused %s", what)
                self._show(refused=str(what), remedy=what.remedy)

    def _show(self, **what: Any) -> None:
        if self._leave_by is not None and what.get("phase") in ("training", "sending", "waiting"):
            del what["phase"]  # That it is leaving is what there is to see.
        if what.get("phase", self._status["phase"]) != self._status["phase"]:
            of = f" round {what['round']} of {what['run']}" if "round" in what else ""
            doing = f"{what['phase']}{of}"
            log.info("%s", doing)
            service.tell(STATUS=doing)
        with self._showing:  # The door's threads have something to show too.
            self._status |= what | {"at_ms": _now_ms()}
            durable.show(self.home.path / "status.json", self._status)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _descends(pid: int, ancestor: int) -> bool:
    """Whether a process is this one or a child of its children."""
    try:
        return pid == ancestor or any(parent.pid == ancestor for parent in psutil.Process(pid).parents())
    except psutil.NoSuchProcess:
        return False
