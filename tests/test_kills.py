"""Every process of a deployment is killed in a round, as by kill -9. The run comes to its end, and no receipt is lost.

CONSORTIUM_LONG=1 kills each of them in each phase of a round; CI, which has less time, each in one.
"""

import signal
import time
from dataclasses import replace

import psutil
import pytest
from test_deployment import TINY, closed, deployed, home, recipe, report, told, wait_for
from world import LONG

from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
__all__ = ["home"]

PHASES = ("starting", "training", "sending")
VICTIMS = {  # By name: whose, and what its command line has.
    "training process": ("acme", "flwr-clientapp"),
    "SuperNode": ("birch", "flower-supernode"),
    "daemon": ("cedar", "consortium up"),
    "ledger": ("ledger", ""),
    "ServerApp": ("coordinator", "flwr-serverapp"),
    "SuperLink": ("coordinator", "flower-superlink"),
}
SOME = (
    ("training process", "sending"),
    ("SuperNode", "training"),
    ("daemon", "sending"),
    ("ledger", "sending"),
    ("ServerApp", "sending"),
    ("SuperLink", "training"),
)
KILLS = tuple((each, phase) for each in VICTIMS for phase in PHASES) if LONG else SOME


class Scene:
    """A deployment in which one run goes on, whatever ends."""

    def __init__(self, founded, running) -> None:
        self.founded, self.running, self.folder = founded, running, str(founded.coordinator.path)

    def begin(self, rounds: int) -> None:
        path = recipe(self.founded.folder, replace(TINY, inner_steps=150))
        words = ("--rounds", str(rounds), "--quorum", "2", "--deadline", "90", "--recipe", str(path))
        self.running.start("run", "r1", "--home", self.folder, *words, name="run")

    def kill(self, what: str, phase: str, after: int) -> int:
        """Kill it in a round after this one, when a member is in this phase; in which round that was."""
        whose, marked = VICTIMS[what]
        seen = self.founded.member(whose if whose in self.founded.members else "acme")
        now = after
        until = time.monotonic() + 400
        while not (now > after and told(seen)["phase"] == phase):
            assert time.monotonic() < until, f"{what} was to be killed, and no round after {after} is {phase}"
            state = told(self.founded.coordinator)
            now = state.get("round", 0) if state.get("phase") == "training" else after
            time.sleep(0.005)
        if what in ("ledger", "daemon"):
            self.running.kill(whose)
        else:
            own = str(self.founded.folder / whose)  # Another test has processes of the same names.
            for process in psutil.process_iter(["cmdline", "environ", "cwd"]):
                told_of = str(process.info["cwd"]), str(process.info["environ"])
                if marked in " ".join(process.info["cmdline"] or ()) and any(own in each for each in told_of):
                    process.send_signal(signal.SIGKILL)
        return now

    def mend(self, what: str) -> None:
        """What its operator, or systemd, does then."""
        start = self.running.start
        if what == "daemon":
            start("up", "--home", str(self.founded.member("cedar").path), name="cedar")
        elif what == "ledger":
            port = self.founded.coordinator.settings.ledger.rpartition(":")[2]
            start("serve", "--dir", str(self.founded.ledger), "--port", port, name="ledger")
        elif what in ("ServerApp", "SuperLink"):
            if what == "SuperLink":
                self.running.ended("coordinator")
                start("coordinate", "--home", self.folder, name="coordinator")
            self.running.ended("run")
            start("run", "r1", "--home", self.folder, "--resume", name="run")


def test_whatever_is_killed_the_run_comes_to_its_end_and_no_receipt_is_lost(home):
    with deployed(home) as (founded, running):
        scene, at = Scene(founded, running), 0
        scene.begin(len(KILLS) + 1)
        for what, phase in KILLS:
            at = scene.kill(what, phase, at)
            scene.mend(what)
        wait_for(lambda: running.done("run"))

        found = report(founded)
        assert (found.findings, found.books.runs["r1"].ended.status) == ([], "completed")
        turns = closed(founded)
        short = [number for number, turn in enumerate(turns) if len(turn.included) < 2]
        # A round's deadline stands in the log: what is left of it may be less than a coordinator takes to come back.
        assert len(short) <= sum(VICTIMS[what][0] == "coordinator" for what, _ in KILLS)
        assert (len(turns), len(turns[-1].included)) == (len(KILLS) + 1, 3)
        assert {why for turn in turns for _, why in turn.excluded} <= {"late", "dead", "failed", "unreachable"}

        def logged() -> set[bytes]:
            return set(fetch(reader(founded.coordinator.settings.ledger)).leaves)

        for name in founded.members:
            signed = founded.member(name).signed()
            assert sum(isinstance(entries.peek(leaf), Receipt) for leaf in signed) >= len(turns) - len(KILLS)
            wait_for(lambda signed=signed: set(signed) <= logged())
