"""Many members in one process: the ServerApp and ClientApp of a real run, with everything but Flower's sockets.

Each member has its folder, its key and its signer behind a Unix socket; the ledger is the real service; the bill is
audited. What differs from a deployment: nodes are threads, so the meter reads a thread's CPU time and no process
holds the key alone.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from flwr.app import Context, RecordDict

from client import data
from client.app import app as client_app
from client.door import Door
from client.meter import ThreadMeter
from client.notebook import Ledger
from client.signer import Signer
from client.witness import Witness
from consortium import faults, ray_engine
from consortium.found import PRICE, Founded, found
from consortium.grid import COORDINATOR, RUN_ID, Behaviour, InProcessGrid, Node, honest
from ledger.api import serving
from ledger.billing import close
from server import blobs
from server.app import HOME
from server.app import app as server_app
from server.home import Home
from server.launch import keep_text, propose, steps_of, taught
from shared_models import processes
from shared_models.artefacts import publish
from shared_models.bundle import build
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import models, tokenizer
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Checkpoint, Manifest, Recipe, RoundClose, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import Report, audit
from shared_models.rules.recipes import SMALL

RUN, TEACHER, PACE = "r1", "teacher", "pace"
ENGINES = ("threads", "ray")


@dataclass(frozen=True, slots=True)
class Result:
    """What a simulation came to. Everything of it stands in the log."""

    manifest: Manifest
    losses: tuple[float, ...]  # Held-out, in nats per byte: before the first round, then after each.
    excluded: tuple[tuple[int, str, str], ...]  # (round, member, the name of the reason).
    bill: Statement
    report: Report
    founded: Founded
    seconds: float

    def ledger(self) -> Ledger:
        """Its log, read from its folder and audited again: bills by other rules, curves, records."""
        charter = self.founded.coordinator.charter_entry.hash.hex()
        return Ledger.connect(self.founded.ledger / "log", charter=charter)

    def _repr_html_(self) -> str:
        """For a notebook: how it went, and the bill."""
        ledger = self.ledger()
        gone = "".join(f"<li>round {number}: {member}, {why}</li>" for number, member, why in self.excluded)
        return f"{ledger.curve(RUN)._repr_html_()}{ledger.bill()._repr_html_()}<ul>{gone}</ul>"


def simulate(
    folder: Path,
    benefits: Mapping[str, int],
    *,
    rounds: int = 3,
    recipe: Recipe = SMALL,
    deadline_s: float = 60.0,
    quorum: int | None = None,
    misbehave: Mapping[str, faults.How] | None = None,
    wait: str = "all",
    late: int = 0,
    patience: int = 0,
    alpha: float | None = None,
    texts: Sequence[Path] = (),
    held_out: Path | None = None,
    start: Path | None = None,
    price: Fraction = PRICE,
    workers: int = 2,
    inline_bytes: int | None = None,
    engine: str = "threads",
    attempt: Callable[[Callable[[], None]], None] = lambda coordinate: coordinate(),
    teacher_rounds: int = 0,
    cut: Path | None = None,
    model: str | None = None,
    steps: Mapping[str, int] | None = None,
    paced: bool = False,
) -> Result:
    """Train `rounds` rounds with these members (name: what it pays by) in a new folder, bill them, and audit the bill.

    They train on the files `texts`, in order of their names, and checkpoints are scored on the one that is `held_out`;
    on the standard library without. `misbehave` says of members how: `late` (by the deadline and a half), `dead`,
    `forgetful`, a name of `faults.LIES` or `faults.POISONS`, a lie, `faults.Away`, `faults.Slow`, or seconds: so much
    longer it takes. With `alpha` the members' texts are those of `corpus.uneven`, by the recipe's seed. `attempt` is
    given what the coordinator does, from the gathering to the end: it may be stopped anywhere, and is then done again.
    `start` is a file or a folder of weights to begin with. With `inline_bytes`, what has more of them goes beside
    Flower's messages, over TLS on loopback. `engine` is `threads` of this process, or `ray`: processes of Flower's own
    simulation engine, for honest members only. With `teacher_rounds` the recipe's teacher is trained first, in a run
    of so many rounds, and its last checkpoint is published. `cut` is the file of a tokenizer, of which each keeps a
    copy, and so is `model`, FILE:FUNCTION, of what builds the model; FLOP are counted, if the recipe does not say them.
    `steps` says of members how many they train in a round; with `paced` a run of one round, in which all train as many,
    says it first of the others (`launch.steps_of`).
    Raises `Refused` for what a real run would refuse as a whole.
    """
    if engine not in ENGINES:
        raise Refused(Refusal.BAD_FIELD, f"there is no engine {engine}; there are {', '.join(ENGINES)}")
    if engine == "ray" and misbehave:
        raise Refused(Refusal.BAD_FIELD, f"ray simulates honest members only, and not {', '.join(misbehave)}")
    if texts and len(texts) != len(benefits):
        raise Refused(Refusal.BAD_FIELD, f"{len(texts)} texts for {len(benefits)} members")
    began = time.monotonic()
    torch.set_num_threads(1)  # Members are threads; and one thread each is what makes a run repeat bit for bit.
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        alive = [name for name in benefits if (misbehave or {}).get(name) != "dead"]
        quorum_of_witnesses = min(len(benefits) // 2 + 1, len(alive))
        uneven = "" if alpha is None else f",alpha={alpha:.6f},seed={recipe.seed}"
        shards = [f"python-stdlib:{number}/{len(benefits)}{uneven}" for number in range(len(benefits))]
        founded = found(
            folder,
            benefits,
            ledger_url=url,
            superlink="127.0.0.1:0",
            price=price,
            quorum=quorum_of_witnesses,
            data=[f"file:{path.absolute()}" for path in texts] or shards,
            blobs="" if inline_bytes is None else f"127.0.0.1:{processes.free_port()}",
            inline_bytes=inline_bytes or 0,
        )
        ledger = stack.enter_context(serving(founded.ledger, port))
        ledger.append(founded.charter)
        coordinator = founded.coordinator
        stack.enter_context(blobs.serving(coordinator))
        bundle, texts_path = build(), coordinator.texts_path
        if held_out is not None:
            recipe = replace(recipe, corpus=keep_text(held_out, texts_path))
        if cut is not None:
            recipe = replace(recipe, tokenizer=tokenizer.keep(cut, coordinator.tokenizers_path).name)
            for home in map(founded.member, founded.members):  # At once, so that no round waits for that.
                tokenizer.keep(cut, home.tokenizers_path).kept(data.load(home.text), home.tokens_path)
        if model is not None:
            recipe = replace(recipe, model=models.keep(model, coordinator.models_path))
            recipe = models.stated(recipe, coordinator.models_path)
            for name in founded.members:
                models.keep(model, founded.member(name).models_path)
        witnesses = list[Witness]()

        def train(
            run: str, recipe: Recipe, rounds: int, how: Mapping[str, faults.How], teacher: Path | None = None
        ) -> Manifest:
            """One run, from its manifest to its end."""
            agreement, own = coordinator.keyring.agreement, run == RUN
            members = taught(ledger, agreement, teacher) if teacher else agreement.present()
            unequal = steps_of(ledger, members, recipe, steps or {}, paced=paced) if own else ()
            with ExitStack() as stack:
                manifest = propose(
                    agreement,
                    run,
                    recipe,
                    bundle,
                    rounds=rounds,
                    quorum=quorum,
                    deadline_ms=round(1000 * deadline_s),
                    wait=wait,
                    late=late,
                    patience=patience if run == RUN else 0,
                    texts=texts_path,
                    start=start if own else None,
                    checkpoints=coordinator.path / "checkpoints",
                    tokenizers=coordinator.tokenizers_path,
                    files=coordinator.models_path,
                    teacher=teacher,
                    members=members,
                    steps=unequal,
                )
                leaf, _ = coordinator.say(ledger, coordinator.key, manifest)
                sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consortium-")))
                nodes = []
                witnesses.clear()
                for name in founded.members:
                    home = founded.member(name)
                    witnesses.append(Witness(home, ledger.consistency))
                    if name not in manifest.members:
                        continue
                    signer = Signer(home, witnesses[-1])
                    ledger.append(signer.consent(leaf, bundle.sha256))
                    meter = ray_engine.WorkerMeter()
                    door = Door(sockets / name, signer, seen=lambda _: None, may=meter.begin)
                    stack.callback(door.close)
                    if engine == "ray":
                        door.expect(meter, meter.heard)
                    behaves = _behaviour(how.get(name), home.key("compute"), deadline_s)
                    nodes.append(
                        Node(
                            name, home.node_config(door.path), _hosting(door, partial(home.learn_keys, ledger)), behaves
                        )
                    )

                with _environment(HOME, str(coordinator.path)), faults.trained_by(how):
                    if engine == "ray":
                        configs = {node.name: node.config for node in nodes}
                        attempt(lambda: ray_engine.train(server_app, client_app, configs, run, workers))
                    else:
                        grid = InProcessGrid(client_app, nodes, {"run": run}, workers)
                        stack.callback(grid.close)
                        context = Context(
                            run_id=RUN_ID,
                            node_id=COORDINATOR,
                            node_config={},
                            state=RecordDict(),
                            run_config={"run": run},
                        )
                        attempt(lambda: server_app(grid, context))
                return manifest

        teacher = None
        if teacher_rounds:
            if recipe.teacher is None:
                raise Refused(Refusal.BAD_FIELD, f"{teacher_rounds} rounds for a teacher, and teacher_layers are 0")
            train(TEACHER, recipe.teacher, teacher_rounds, {})
            teacher = _published(coordinator, ledger, teacher_rounds)
        if paced:
            train(PACE, recipe, 1, misbehave or {}, teacher)
        manifest = train(RUN, recipe, rounds, misbehave or {}, teacher)

        for name, witness in zip(founded.members, witnesses, strict=True):
            if name in alive:
                witness.visit(ledger)
        charter = coordinator.charter_entry.hash.hex()
        close(ledger, "simulated", SigningKey.load(founded.admin_key), charter, wait_s=0)
        report = _audited(url, founded)
    closed = [turn.closed for turn in report.books.runs[RUN].rounds if turn.closed is not None]
    return Result(
        manifest=manifest,
        losses=(manifest.loss_unats / 1e6, *(each.loss_unats / 1e6 for each in closed)),
        excluded=tuple((number, *who) for number, each in enumerate(closed, 1) for who in each.excluded),
        bill=report.books.statements[-1],
        report=report,
        founded=founded,
        seconds=time.monotonic() - began,
    )


def _published(coordinator: Home, ledger: LedgerHttp, rounds: int) -> Path:
    """The file of the teacher's last checkpoint, an artefact of the log from now on."""
    coordinator.learn_keys(ledger)
    for leaf in fetch(ledger.read).leaves:
        said = entries.peek(leaf)
        if isinstance(said, RoundClose) and (said.run, said.round) == (TEACHER, rounds):
            file = coordinator.path / "checkpoints" / f"{said.checkpoint}.safetensors"
            made = Checkpoint(run=TEACHER, round=rounds)
            publish(coordinator, ledger, coordinator.key, file, form="safetensors", checkpoints=(made,))
            return file
    raise Refused(Refusal.WRONG_ROUND, f"the teacher's run ended before round {rounds}")


def _behaviour(how: faults.How | None, key: SigningKey, deadline_s: float) -> Behaviour:
    if isinstance(how, float):
        return faults.late(how)
    if isinstance(how, faults.Away):
        return how.behaviour()
    if how is None or isinstance(how, faults.Slow) or how in faults.POISONS:
        return honest
    if how == "dead":
        return faults.dead
    if how == "forgetful":
        return faults.forgetful()
    if how == "late":
        return faults.late(1.5 * deadline_s)
    return faults.lying(faults.LIES[how]() if isinstance(how, str) else how, key)


def _hosting(door: Door, learn: Callable[[], object]) -> Callable[[], AbstractContextManager[None]]:
    """Where a deployment starts a process and meters it, this lets in and meters the thread of the ClientApp.

    Where a daemon learns every second whose keys count, this learns before each task.
    """

    @contextmanager
    def host() -> Iterator[None]:
        learn()
        door.expect(ThreadMeter(threading.get_ident()), lambda pid: pid == os.getpid())
        try:
            yield
        finally:
            door.forget()

    return host


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """The ServerApp finds its folder in the environment; Flower too allows one run in a process at a time."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _audited(url: str, founded: Founded) -> Report:
    log = fetch(reader(url))
    charter = founded.coordinator.charter_entry.hash.hex()
    return audit(log.leaves, log.head, log.hashes, cosigned=log.cosigned, charter=charter)
