"""The coordinator's commands: keep a SuperLink running, let nodes in, run a training."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from shared_models.command import ADMIN, MONEY, RIGHT, WRONG, Command

if TYPE_CHECKING:
    from threading import Event

    from server.home import Home
    from server.superlink import Control


def _home(parser: ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, required=True, help="the coordinator's folder")


def _coordinate_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument(
        "--unit", action="store_true", help="print a unit by which systemd runs it, and do nothing else"
    )


def _coordinate(args: Namespace) -> int:
    """Run the SuperLink, its executor, the blobs and the gateway until SIGTERM, or until one of the first two ends.

    Nodes of members that joined by an invite, and those that were registered, are let in meanwhile.
    """
    import logging
    import signal
    import threading

    from server.home import Home
    from shared_models import processes, service

    home = Home(args.home)
    if args.unit:
        command = ["coordinate", "--home", str(home.path.resolve())]
        print(service.unit(command, what="Consortium coordinator", writes=[home.path], watchdog_s=120))
        return RIGHT
    from server import blobs, gateway
    from server.superlink import start

    service.log_to_stderr(["server"])
    log = logging.getLogger("server.coordinate")
    stopped = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stopped.set())
    with gateway.serving(home), blobs.serving(home):
        running = start(home)
        threading.Thread(target=_let_in, args=(home, stopped), daemon=True).start()
        try:
            while not stopped.wait(0.2):
                service.tell(WATCHDOG="1")
                for process in running:
                    if process.poll() is not None:
                        log.error("%r ended with code %s", process.args, process.returncode)
                        return WRONG
            return RIGHT
        finally:
            service.tell(STOPPING="1")
            for process in reversed(running):
                processes.end(process)


def _let_in(home: "Home", stopped: "Event") -> None:
    """Let in the nodes of who has joined, again and again; what keeps it from that is said once."""
    import logging

    from server.nodes import LOOK_S, Nodes
    from server.superlink import Control
    from shared_models import service
    from shared_models.records.refusals import Refused

    log, said = logging.getLogger("server.coordinate"), ""
    while not stopped.is_set():
        try:
            with Control(home) as control:
                service.tell(READY="1")
                nodes = Nodes(home.path, lambda member, key: _welcome(control, member, key))
                while True:
                    nodes.look()
                    said = ""
                    if stopped.wait(LOOK_S):
                        return
        except Refused as refused:
            if str(refused) != said:
                log.warning("nodes of who has joined are not let in: %s", refused)
            said = str(refused)
        stopped.wait(LOOK_S)


def _welcome(control: "Control", member: str, key: bytes) -> None:
    import logging

    control.let_in(member, key)
    logging.getLogger("server.coordinate").info("the node of %s may connect", member)


def _register_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("member", help="a member of the charter")
    parser.add_argument("key", type=Path, help="the node.pub of its node")


def _register(args: Namespace) -> int:
    """Let a member's node connect: to the coordinator that runs, and after each start of it."""
    from server.home import Home
    from server.nodes import register

    home = Home(args.home)
    home.learn_keys(home.ledger())
    register(home, args.member, args.key.read_bytes())
    print(f"the node of {args.member} may connect")
    return RIGHT


def _run_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("run", help="a name for it, used once")
    parser.add_argument(
        "--recipe", type=Path, help="TOML file with the fields of a recipe; else the small GPT's, or the folder's"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quorum", type=int, help="accepted answers a round needs; more than half by default")
    parser.add_argument("--deadline", type=float, default=120.0, help="seconds a round waits for the last answer")
    parser.add_argument("--consents", type=float, default=60.0, help="seconds to wait for the members' consents")
    parser.add_argument(
        "--wait", choices=("all", "quorum"), default="all", help="for whom a round waits; quorum: for no more than that"
    )
    parser.add_argument(
        "--late-for", type=int, default=0, metavar="ROUNDS", help="an answer still counts so many rounds behind its own"
    )
    parser.add_argument("--patience", type=int, default=0, help="stop when the loss was no lower for so many rounds")
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="a text of yours to score checkpoints on")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="what cuts text into tokens, which every member keeps; else bytes",
    )
    parser.add_argument("--model", metavar="FILE:FUNCTION", help="what builds the model, which every member keeps")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="a published checkpoint that the run is taught by")
    parser.add_argument(
        "--steps", default="", metavar="MEMBER=N,...", help="so many steps in a round, and not the recipe's inner_steps"
    )
    parser.add_argument(
        "--paced", action="store_true", help="fewer steps for who is slower, by its last receipts: all end together"
    )
    parser.add_argument("--show-updates", action="store_true", help="of each round, as consortium show-updates does")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--from", dest="start", type=Path, metavar="PATH", help="begin with these weights: a checkpoint, or a folder"
    )
    ways.add_argument("--resume", action="store_true", help="go on with a run whose coordinator was stopped")


def _run(args: Namespace) -> int:
    """Sign a manifest, wait for the members' consents, start the run and wait for its end; or go on with one."""
    import logging

    from server.launch import launch, resume

    logging.basicConfig(format="%(message)s")
    logging.getLogger("server").setLevel(logging.INFO)
    if args.resume:
        status, details = resume(args.home, args.run, show_updates=args.show_updates)
    else:
        status, details = launch(
            args.home,
            args.run,
            recipe=args.recipe,
            rounds=args.rounds,
            quorum=args.quorum,
            deadline_s=args.deadline,
            consents_s=args.consents,
            wait=args.wait,
            late=args.late_for,
            patience=args.patience,
            held_out=args.held_out,
            start=args.start,
            teacher=args.teacher,
            cut=args.tokenizer,
            model=args.model,
            show_updates=args.show_updates,
            steps=args.steps,
            paced=args.paced,
        )
    print(f"run {args.run}: {status} {details}".rstrip())
    return RIGHT if status == "finished:completed" else WRONG


def _show_updates_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("run", help="whose")


def _show_updates(args: Namespace) -> int:
    """Bring the updates of a run to the ledger, for the members of its rounds. 1: the ledger has taken none of them."""
    from server.updates import show

    shown = 0
    for each in show(args.home, args.run):
        shown += not each.refused
        print(f"round {each.round}: {each.member}, {each.size:,} bytes{each.refused and f': {each.refused}'}")
    return RIGHT if shown else WRONG


def _publish_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("file", type=Path, help="the model, such as checkpoints/DIGEST.safetensors in your folder")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="RUN/ROUND", help="it is from; repeatable")
    parser.add_argument(
        "--parent", action="append", default=[], metavar="SHA256", help="it is derived from; repeatable"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="MEMBER", help="leave its expert out; may be repeated"
    )
    parser.add_argument("--form", default="safetensors", help="of the file; default %(default)s")
    parser.add_argument("--shelf", help="put it there and upload nothing: artefacts/ in the ledger's folder, s3://...")


def _publish(args: Namespace) -> int:
    from server.home import Home
    from server.partial import without
    from shared_models.artefacts import publish
    from shared_models.records.kinds import Checkpoint
    from shared_models.records.refusals import Refusal, Refused
    from shared_models.shelf import open_shelf

    checkpoints = []
    for each in args.checkpoint:
        run, _, number = each.rpartition("/")
        if not number.isdecimal():
            raise Refused(Refusal.BAD_FIELD, f"--checkpoint {each} is not of the form RUN/ROUND")
        checkpoints.append(Checkpoint(run=run, round=int(number)))
    home = Home(args.home)
    shelf = open_shelf(args.shelf, home.path / "uploads") if args.shelf else None
    ledger, file, left_out = home.ledger(), args.file, tuple(sorted(set(args.without)))
    if left_out:
        if len(checkpoints) != 1:
            raise Refused(Refusal.BAD_FIELD, "--without MEMBER: of one checkpoint, named by --checkpoint RUN/ROUND")
        manifest, _, _ = home.run(ledger, checkpoints[0].run)
        file = without(manifest, file, left_out, home.path / "partial")
    made = publish(
        home,
        ledger,
        home.key,
        file,
        form=args.form,
        checkpoints=tuple(checkpoints),
        parents=tuple(args.parent),
        without=left_out,
        shelf=shelf,
    )
    print(f"{made.sha256} is published: entry {made.at}")
    return RIGHT


COMMANDS = (
    Command("coordinate", ADMIN, "Run the coordinator.", _coordinate_arguments, _coordinate, "train"),
    Command("register", ADMIN, "Let a node in.", _register_arguments, _register, "train", beside=True),
    Command(
        "show-updates",
        ADMIN,
        "Show members updates.",
        _show_updates_arguments,
        _show_updates,
        "train",
        beside=True,
    ),
    Command("model publish", MONEY, "Publish a model to the members.", _publish_arguments, _publish, "train"),
    Command("run", ADMIN, "Train: manifest, consents, rounds, checkpoint.", _run_arguments, _run, "train"),
)
