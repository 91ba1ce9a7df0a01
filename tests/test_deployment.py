"""The real deployment: processes, TLS, Flower's SuperLink and SuperNodes. Slow; what can be quick is elsewhere."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from client import charter, confine, limits, policy
from consortium.cli import main
from consortium.found import PRICE, Founded, found
from consortium.running import running
from consortium.simulate import simulate
from ledger.billing import close
from server import outer
from server.launch import launch, resume
from server.rounds import Coordinator
from server.superlink import Control
from shared_models import bundle, processes
from shared_models.folder import write_settings
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import codecs, corpus, tokenizer, weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Receipt, RoundClose
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused
from shared_models.relay import Relay
from shared_models.rules.audit import audit
from shared_models.rules.recipes import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # As slow a machine as there has been takes half of it.

ROOT = Path(__file__).parent.parent
TINY = replace(SMALL, layers=1, heads=2, width=32, context=32, batch=4, inner_steps=10)


def alive(folder: Path) -> list[str]:
    """Every process that has this folder in its command line, its environment or as its working folder."""
    found = []
    for process in psutil.process_iter():
        try:
            where = [*process.cmdline(), process.cwd(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(folder) in part for part in where):
            found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
    return found


@pytest.fixture
def home(tmp_path):
    """A folder that no process may know of afterwards."""
    yield tmp_path / "demo"
    assert alive(tmp_path / "demo") == []


@contextmanager
def deployed(
    folder: Path, python: dict[str, Path] | None = None, gateway: bool = False, strait: "Strait | None" = None, **more
):
    """Three members, a coordinator and a ledger, each a process; `python` gives some members another checkout.

    With a gateway, members know no other address; with a strait, acme has that one.
    """
    folder.mkdir(exist_ok=True)
    (folder / "logs").mkdir()
    port, superlink = processes.free_port(), f"127.0.0.1:{processes.free_port()}"
    founded = found(
        folder,
        {"acme": 2, "birch": 1, "cedar": 1},
        ledger_url=f"http://127.0.0.1:{port}",
        superlink=superlink,
        price=PRICE,
        **more,
    )
    if gateway:
        let_in = f"127.0.0.1:{processes.free_port()}"
        for at, name in [
            (founded.coordinator, "gateway"),
            *((founded.member(n), "superlink") for n in founded.members),
        ]:
            path = at.path / ("coordinator.toml" if name == "gateway" else "member.toml")
            write_settings(path, replace(at.settings, **{name: let_in}))
            at.__dict__.pop("settings")
    if strait is not None:
        acme = founded.member("acme")
        write_settings(acme.path / "member.toml", replace(acme.settings, superlink=strait.to(superlink)))
        acme.__dict__.pop("settings")
    with running(folder) as started:
        started.start("serve", "--dir", str(founded.ledger), "--port", str(port), name="ledger", checkout=ROOT)
        started.start("coordinate", "--home", str(founded.coordinator.path), name="coordinator", checkout=ROOT)
        for name in founded.members:
            home = str(founded.member(name).path)
            started.start("up", "--home", home, name=name, checkout=(python or {}).get(name, ROOT))
        wait_for(lambda: all(told(founded.member(name)) for name in founded.members))
        try:
            yield founded, started
        except BaseException:
            for log in (*folder.glob("logs/*"), *folder.glob("*/*.log")):  # Why, pytest shows with the failure.
                print(f"--- {log.relative_to(folder)}", *log.read_text(errors="replace").splitlines()[-12:], sep="\n")
            raise


class Strait(Relay):
    """A way to a SuperLink. While it is `narrow`, nothing large comes back; `stuck` says that something would have."""

    def __init__(self) -> None:
        self.narrow, self.wide, self.stuck = threading.Event(), threading.Event(), threading.Event()
        self._here = socket.create_server(("127.0.0.1", 0))
        super().__init__(self._here, lambda _: self._far())

    def to(self, superlink: str) -> str:
        """Lead there from now on. The address of the way."""
        host, _, port = superlink.rpartition(":")
        self._end = host, int(port)
        self.start()
        return f"127.0.0.1:{self._here.getsockname()[1]}"

    def _far(self) -> socket.socket:
        strait = self

        class Far(socket.socket):
            def recv(self, *sizes: int) -> bytes:
                data = super().recv(*sizes)
                if len(data) > 8_000 and strait.narrow.is_set():
                    strait.stuck.set()
                    strait.wide.wait()
                return data

        far = Far()
        try:
            far.connect(self._end)
        except OSError:
            far.close()
            raise
        return far


def recipe(folder: Path, what=TINY) -> Path:
    path = folder / "recipe.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(what).items()))
    return path


def trained(founded: Founded, what=TINY, **more) -> tuple[str, str]:
    return launch(
        founded.coordinator.path,
        "r1",
        **{"recipe": recipe(founded.folder, what), "rounds": 2, "quorum": 2, "deadline_s": 300, "consents_s": 120}
        | more,
    )


def report(founded: Founded):
    log = fetch(reader(str(founded.ledger / "log")))
    return audit(log.leaves, log.head, log.hashes, charter=leaf_hash(founded.charter).hex())


def told(home) -> dict[str, Any]:
    """What a daemon shows that it does."""
    path = home.path / "status.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def closed(founded: Founded):
    return [turn.closed for turn in report(founded).books.runs["r1"].rounds if turn.closed]


def test_a_member_killed_in_a_round_is_left_out_at_the_deadline_and_the_rest_go_on(home):
    with deployed(home) as (founded, running):

        def kill() -> None:
            status = founded.member("cedar").path / "status.json"
            while json.loads(status.read_text()).get("phase") != "training":
                time.sleep(0.05)
            running.kill("cedar")

        threading.Thread(target=kill, daemon=True).start()
        slow = replace(TINY, inner_steps=150)
        assert trained(founded, slow, deadline_s=75)[0] == "finished:completed"
        assert report(founded).findings == []
        assert [list(turn.excluded) for turn in closed(founded)] in (
            [[("cedar", "late")], [("cedar", "late")]],  # Flower takes a minute to notice that a node is gone.
            [[("cedar", "late")], [("cedar", "dead")]],
            [[("cedar", "dead")], [("cedar", "dead")]],
        )
        assert [len(turn.included) for turn in closed(founded)] == [2, 2]


def test_a_member_that_is_stopped_and_started_again_in_a_round_is_asked_again_and_counts_in_it(home):
    """What it had been asked is lost with its SuperNode, and Flower does not say so. Without it there is no quorum."""
    with deployed(home) as (founded, running):
        member, before = founded.member("cedar"), []

        def restart() -> None:
            while not (said := json.loads((member.path / "status.json").read_text())).get("tokens"):
                time.sleep(0.02)
            running.stop("cedar")
            before.append((said["round"], [entries.peek(leaf).kind for leaf in member.signed()]))
            running.start("up", "--home", str(member.path), name="cedar", checkout=ROOT)

        threading.Thread(target=restart, daemon=True).start()
        slow = replace(TINY, inner_steps=500)
        assert trained(founded, slow, rounds=1, quorum=3)[0] == "finished:completed"
        assert before == [(1, ["run.consent"])]
        assert report(founded).findings == []
        assert [(turn.included, turn.excluded) for turn in closed(founded)] == [(("acme", "birch", "cedar"), ())]


def test_a_coordinator_killed_in_a_round_goes_on_to_the_checkpoints_that_it_would_have_come_to(home, tmp_path):
    """Its ServerApp is killed while two members train and the third is still being sent the round, of which the rest
    never comes: what it is asked anew, it answers. A simulation, where nothing is killed, says where it leads.
    """
    slow = replace(TINY, inner_steps=200, up="int4", down="int8")
    with closing(Strait()) as strait, deployed(home, strait=strait) as (founded, _):
        folder, acme = founded.coordinator.path, founded.member("acme")

        def kill() -> None:
            wait_for(lambda: told(acme).get("phase") == "sending")
            strait.narrow.set()
            acme.policy_path.write_text("[machine]\nshare = 0.1\n")  # Its SuperNode has a minute to get it wrong.
            wait_for(lambda: strait.stuck.is_set() and told(acme).get("phase") == "starting")
            wait_for(lambda: told(founded.member("birch")).get("phase") == "training")
            (app,) = [each for each in alive(folder) if "flwr-serverapp" in each]
            os.kill(int(app.partition(" ")[0]), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        assert trained(founded, slow, deadline_s=600)[0] != "finished:completed"
        assert report(founded).books.runs["r1"].ended is None
        strait.narrow.clear()
        strait.wide.set()
        assert resume(folder, "r1")[0] == "finished:completed"
        assert "its task was given up" in (acme.path.parent / "logs" / "acme.log").read_text()
        said = report(founded)
        assert (said.findings, said.books.runs["r1"].ended.status) == ([], "completed")
        reached = [turn.checkpoint for turn in closed(founded)]
        with pytest.raises(Refused, match="has ended"):
            Coordinator(founded.coordinator, LedgerHttp(founded.coordinator.settings.ledger), None, "r1").train()
    whole = simulate(tmp_path / "whole", {"acme": 2, "birch": 1, "cedar": 1}, rounds=2, recipe=slow)
    assert [turn.closed.checkpoint for turn in whole.report.books.runs["r1"].rounds] == reached


def test_what_an_operator_does_not_want_is_not_trained_and_the_rest_train_without_it(home):
    """One policy refuses the run, and one the hour; a pause ends the training that it finds. One asks for its
    operator's word, who gives it, takes it back between two rounds, and gives it again."""
    with deployed(home) as (founded, _):
        acme, birch, cedar = (founded.member(name) for name in founded.members)
        acme.policy_path.write_text("[runs]\nask = true\n")
        birch.policy_path.write_text('[runs]\nrefuse = ["r*"]\n')
        cedar.policy_path.write_text("[hours]\n")

        with ThreadPoolExecutor() as pool:
            run = pool.submit(
                trained, founded, replace(TINY, inner_steps=200), quorum=1, rounds=4, consents_s=20, deadline_s=150
            )
            wait_for(lambda: "runs.ask: nobody has approved the run r1" in told(acme).get("refused", ""))
            assert main(["runs", "approve", "r1", "--home", str(acme.path)]) == 0
            wait_for(lambda: "no day is named" in told(cedar).get("refused", ""))
            assert not (cedar.path / "clientapp.log").exists()
            cedar.policy_path.unlink()
            wait_for(lambda: told(cedar)["phase"] == "training" and told(acme).get("round", 0) > 1)
            assert main(["runs", "refuse", "r1", "--reason", "a move", "--home", str(acme.path)]) == 0
            policy.pause(cedar.path, "a visit", now=True)
            wait_for(lambda: told(cedar)["phase"] == "waiting")
            policy.resume(cedar.path)
            wait_for(lambda: "refused by this member's operator: a move" in told(acme).get("refused", ""))
            assert main(["runs", "approve", "r1", "--home", str(acme.path)]) == 0
            assert run.result()[0] == "finished:completed"
        found = report(founded)
        assert (found.findings, found.books.runs["r1"].consents) == ([], {"acme", "cedar"})
        assert "runs.refuse = r*: the run r1 is among them" in told(birch)["refused"]
        turns = [(turn.included, dict(turn.excluded)) for turn in closed(founded)]
        assert turns[0] == (("acme",), {"cedar": "policy"})
        assert any(excluded.get("cedar") in ("dead", "failed", "late") for _, excluded in turns)
        assert any(excluded.get("acme") == "policy" for _, excluded in turns[1:])
        assert turns[-1] == (("acme", "cedar"), {})


def test_a_member_without_the_run_s_tokenizer_consents_when_it_has_it_and_one_with_another_does_not(home, tmp_path):
    """Training reads the tokenizer behind what confines it, and keeps its text in tokens where it may write."""
    text, cut, other = (tmp_path / name for name in ("public.txt", "tokenizer.json", "other.json"))
    text.write_bytes(corpus.held_out()[:100_000].tobytes())
    for path, size in ((cut, 300), (other, 301)):
        path.write_bytes(tokenizer.train([text], size))
    keep = ["model", "tokenizer", "--home"]
    with deployed(home) as (founded, _), ThreadPoolExecutor() as pool:
        acme, birch, cedar = (founded.member(name) for name in founded.members)
        tokenizer.keep(cut, acme.tokenizers_path)
        assert main([*keep, str(birch.path), str(other)]) == 0
        run = pool.submit(trained, founded, replace(TINY, vocabulary=300), cut=cut, consents_s=20)
        wait_for(lambda: "and here is none" in told(cedar).get("refused", ""))
        assert main([*keep, str(cedar.path), str(cut)]) == 0
        assert run.result()[0] == "finished:completed"
        found = report(founded)
        assert (found.findings, found.books.runs["r1"].consents) == ([], {"acme", "cedar"})
        assert f"here is {tokenizer.read(other).sha256[:12]}…: " in told(birch)["refused"]
        assert [(turn.included, turn.excluded) for turn in closed(founded)] == [(("acme", "cedar"), ())] * 2
        assert len(list(acme.tokens_path.rglob("*.tokens"))) == 1


def test_training_that_takes_more_than_it_may_stops_and_the_rest_train_without_it(home):
    """The coordinator is told by name and at once, in that round and the next. Another one keeps to one core, and to
    half of the time."""
    with deployed(home) as (founded, _):
        birch, cedar = founded.member("birch"), founded.member("cedar")
        birch.policy_path.write_text("[machine]\ncores = 1\nshare = 0.5\n")
        ran = set()

        def look() -> None:
            wait_for(lambda: told(birch)["phase"] == "training")
            (app,) = [each for each in alive(birch.path) if "flwr-clientapp" in each]
            pid = int(app.partition(" ")[0])
            most_mib = int(0.9 * limits.taken(pid) / (1 << 20))
            wait_for(lambda: told(cedar).get("round"))  # It is at work on the first one. So it counts from the next on.
            cedar.policy_path.write_text(f'[machine]\nmemory = "{most_mib} MiB"\n')
            ran.update(
                core for task in Path(f"/proc/{pid}/task").iterdir() for core in os.sched_getaffinity(int(task.name))
            )
            wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
            wait_for(lambda: psutil.Process(pid).status() != psutil.STATUS_STOPPED)

        thread = threading.Thread(target=look)
        thread.start()
        slow = replace(TINY, inner_steps=500)  # Some seconds, in which it stands once.
        assert trained(founded, slow, quorum=2, rounds=3)[0] == "finished:completed"
        thread.join()
        assert ran == {min(os.sched_getaffinity(0))}
        assert "error" not in (birch.path / "answers.log").read_text()  # What the log asks to see is looked for.
        assert report(founded).findings == []
        without = (("acme", "birch"), (("cedar", "policy"),))
        turns = [(turn.included, turn.excluded) for turn in closed(founded)]
        assert turns == [(("acme", "birch", "cedar"), ()), without, without]
        assert re.search(r"policy.toml line 2, machine.memory = \S+ GiB: training took", told(cedar)["refused"])


def test_a_machine_that_is_taken_away_in_a_round_goes_on_where_it_stopped_and_counts_in_it(home, tmp_path):
    """One is told by a file and stays away: it is not waited for. One is told by SIGTERM and comes back."""
    slow = replace(TINY, inner_steps=500)  # Some seconds, in which it is told and asks whether it may go on.
    with deployed(home) as (founded, running):
        birch, cedar = founded.member("birch"), founded.member("cedar")
        birch.policy_path.write_text('[spot]\nfile = "gone"\n')
        cedar.policy_path.write_text("[spot]\nnotice = true\nseconds = 8\n")
        said, used = {}, {}

        def take_away() -> None:
            wait_for(lambda: told(birch).get("tokens") and told(birch)["phase"] == "training")
            (birch.path / "gone").touch()
            before = time.monotonic()
            wait_for(lambda: told(birch)["phase"] == "taken away")
            used["birch"], said["birch"] = time.monotonic() - before, told(birch)
            wait_for(lambda: told(cedar).get("round") == 2 and told(cedar)["tokens"])
            running.stop("cedar")
            said["cedar"] = told(cedar)
            used.update(json.loads((cedar.path / "halted.json").read_text()))
            running.start("up", "--home", str(cedar.path), name="cedar", checkout=ROOT)

        thread = threading.Thread(target=take_away)
        thread.start()
        began = time.monotonic()
        assert trained(founded, slow, rounds=2, quorum=2)[0] == "finished:completed"
        assert time.monotonic() - began < 300  # Nobody has waited for a deadline.
        thread.join()
        for name, number in (("birch", 1), ("cedar", 2)):
            assert said[name]["phase"] == "taken away"
            assert re.fullmatch(rf"step [1-9]\d* of round {number} of r1", said[name]["kept"])
        assert used["birch"] < 5
        assert report(founded).findings == []
        turns = closed(founded)
        assert [(turn.included, turn.excluded) for turn in turns] == [(("acme", "cedar"), (("birch", "dead"),))] * 2
        receipts = [each for leaf in cedar.signed() if isinstance(each := entries.peek(leaf), Receipt)]
        assert receipts[1].started_ms == used["started_ms"]
        assert receipts[1].wall_ms > used["wall_ms"]
        assert not (cedar.path / "work" / "half").exists()
        assert not (cedar.path / "halted.json").exists()
    members = {"acme": 2, "birch": 1, "cedar": 1}
    whole = simulate(tmp_path / "whole", members, rounds=2, recipe=slow, misbehave={"birch": "dead"}, quorum=2)
    reached = [turn.closed.checkpoint for turn in whole.report.books.runs["r1"].rounds]
    assert reached == [turn.checkpoint for turn in turns]


def test_a_training_process_that_stands_still_gives_way_to_the_next_task(home):
    with deployed(home) as (founded, _):

        def stop(name: str, phase: str) -> None:
            member = founded.member(name).path
            while json.loads((member / "status.json").read_text()).get("phase") != phase:
                time.sleep(0.01)
            while not (apps := [each for each in alive(member) if "flwr-clientapp" in each]):
                time.sleep(0.01)  # It is still about to be confined.
            os.kill(int(apps[0].partition(" ")[0]), signal.SIGSTOP)

        for each in (("birch", "starting"), ("cedar", "training")):
            threading.Thread(target=stop, args=each, daemon=True).start()
        assert trained(founded, replace(TINY, inner_steps=100), deadline_s=200)[0] == "finished:completed"
        assert [(turn.included, turn.excluded) for turn in closed(founded)] == [
            (("acme", "birch"), (("cedar", "failed"),)),  # Who had not taken its task is asked for it again.
            (("acme", "birch", "cedar"), ()),
        ]


def test_training_processes_that_start_anew_find_their_checkpoint_and_who_lost_it_is_sent_it_whole(home):
    with deployed(home) as (founded, _):

        def lose() -> None:
            member = founded.member("birch").path
            for phase in ("sending", "waiting"):  # Round 1 is over.
                while json.loads((member / "status.json").read_text()).get("phase") != phase:
                    time.sleep(0.02)
            shutil.rmtree(member / "work" / "kept")

        threading.Thread(target=lose, daemon=True).start()
        small = replace(TINY, up="int4", down="int4")
        assert trained(founded, small, rounds=3)[0] == "finished:completed"
        assert report(founded).findings == []
        leaves = fetch(reader(str(founded.ledger / "log"))).leaves
        said = [record for leaf in leaves if isinstance(record := entries.peek(leaf), Receipt)]
        whole, step = (
            sum(codecs.size(codec, tensor.shape) for tensor in outer.first(small).values())
            for codec in ("fp32", "int4")
        )
        assert {receipt.bytes_up for receipt in said} == {step}
        assert all(50e6 < receipt.memory_bytes < 4e9 for receipt in said)
        assert {receipt.isolation for receipt in said} == {confine.word(confine.version(), confine.offline())}
        assert {name: [each.bytes_down for each in said if each.member == name] for name in founded.members} == {
            "acme": [whole, step, step],
            "birch": [whole, whole, step],
            "cedar": [whole, step, step],
        }


def test_tensors_beside_flower_s_messages_survive_a_coordinator_that_is_killed_and_come_to_the_same_bits(
    home, tmp_path
):
    """Every tensor is a blob; in the second round, when the first update is there, all of the coordinator is killed."""
    slow = replace(TINY, inner_steps=100, up="int8", down="int8")
    blobs = f"127.0.0.1:{processes.free_port()}"
    with deployed(home, blobs=blobs, inline_bytes=0) as (founded, running):
        folder = founded.coordinator.path

        def update_is_there() -> bool:
            walk = os.walk(folder / "blobs")  # Which does not mind that the first round's folders go away meanwhile.
            return any("/00000002/" in where and len(name) == 64 for where, _, names in walk for name in names)

        def kill() -> None:
            while not update_is_there():
                time.sleep(0.01)
            running.kill("coordinator")

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        with pytest.raises(Refused, match=r"unreachable: SuperLink at .* --resume goes on"):
            trained(founded, slow)
        killer.join()
        running.start("coordinate", "--home", str(folder), name="coordinator")
        assert resume(folder, "r1")[0] == "finished:completed"
        assert (report(founded).findings, [turn.excluded for turn in closed(founded)]) == ([], [()] * 2)
        assert [path for path in home.glob("*/**/blobs/**/*") if path.is_file()] == []
        reached = [turn.checkpoint for turn in closed(founded)]
    whole = simulate(tmp_path / "whole", {"acme": 2, "birch": 1, "cedar": 1}, rounds=2, recipe=slow)
    assert [turn.closed.checkpoint for turn in whole.report.books.runs["r1"].rounds] == reached


def test_a_coordinator_that_is_gone_for_good_is_followed_by_another_that_the_members_elect(home):
    """Killed in the third of four rounds, its folder deleted with its keys. Another member goes on with the run."""
    slow = replace(TINY, inner_steps=200, up="int4", down="top64", outer="nesterov", outer_momentum="0.5")
    with deployed(home) as (founded, running):
        old, new = founded.coordinator.path, home / "successor"
        folders = {name: founded.member(name).path for name in founded.members}

        def kill() -> None:
            status = old / "status.json"
            wait_for(lambda: status.is_file() and json.loads(status.read_text()).get("answers", {}).get("3"))
            running.kill("coordinator")

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        with pytest.raises(Refused, match="unreachable: SuperLink at "):
            trained(founded, slow, rounds=4, show_updates=True)
        killer.join()
        shutil.rmtree(old)
        shown = (
            home / "shown"
        )  # Whose coordinator is gone, a member has taken its steps again: nothing is lost but one.
        words = ["verify-checkpoint", str(founded.ledger / "log"), "r1", "--home", str(folders["birch"])]
        assert main([*words, "--files", str(shown)]) == 0

        superlink = f"127.0.0.1:{processes.free_port()}"
        words = ["take-over", "r1", "--home", str(new), "--member", str(folders["birch"]), "--superlink", superlink]
        words += ["--files", str(shown)]
        assert main(words) == 6
        asked = home / "charter.toml"
        asked.write_text(f'coordinator = "{SigningKey.load(new / "keys" / "coordinator.key").verify_key.text()}"\n')
        proposed = charter.propose(folders["birch"], asked, "successor")
        for name in ("acme", "birch"):
            charter.vote(folders[name], proposed.hash, "yes")
        # Whoever still trained for the old one hands its receipt in by itself.
        wait_for(lambda: len(report(founded).books.runs["r1"].rounds[-1].receipts) == 3)
        assert main(words) == 0
        for name, folder in folders.items():
            running.stop(name)
            assert main(["follow", str(new / "moved.note"), "--home", str(folder)]) == 0
            running.start("up", "--home", str(folder), name=name, checkout=ROOT)
            assert main(["register", "--home", str(new), name, str(folder / "keys" / "node.pub")]) == 0
        running.start("coordinate", "--home", str(new), name="successor", checkout=ROOT)
        assert resume(new, "r1")[0] == "finished:completed"

        found, log = report(founded), str(founded.ledger / "log")
        assert (found.findings, found.accepted, found.books.runs["r1"].ended.status) == ([], 12, "completed")
        leaves = fetch(reader(log)).leaves
        closes = [each for leaf in leaves if isinstance(each := entries.peek(leaf), RoundClose)]
        assert [each.seed == FIRST for each in closes] == [False, False, True, False]
        assert [each.checkpoint == each.base for each in closes] == [False, False, True, False]
        assert [len(each.included) for each in closes] == [3, 3, 3, 3]
        assert closes[2].state == closes[1].state != weights.NOTHING  # Momentum went on.
        assert closes[3].loss_unats < closes[2].loss_unats
        for number in ("3", "4"):
            assert main(["verify-checkpoint", log, "r1", "--files", str(new), "--round", number]) == 0
        ledger = LedgerHttp(founded.member("acme").settings.ledger)
        close(ledger, "2026-11", SigningKey.load(founded.admin_key), leaf_hash(founded.charter).hex(), wait_s=60)
        wait_for(lambda: report(founded).books.statements)  # It is answered before it is published.
        (bill,) = report(founded).books.statements
        receipt = next(each for leaf in leaves if isinstance(each := entries.peek(leaf), Receipt))
        assert {each.member: each.flop for each in bill.balances} == dict.fromkeys(folders, 4 * receipt.flop)
        for folder in folders.values():
            assert main(["audit", log, "--home", str(folder)]) == 0


def test_a_member_with_other_code_does_not_consent_and_the_rest_train_without_it(home, tmp_path):
    copy = tmp_path / "other"
    for part in ("client", "consortium", "ledger", "server", "shared_models"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "client" / "train.py").write_text((copy / "client" / "train.py").read_text() + "# Mine.\n")
    with deployed(home, {"birch": copy}) as (founded, _):
        assert trained(founded, consents_s=20)[0] == "finished:completed"
        assert report(founded).books.runs["r1"].consents == {"acme", "cedar"}
        assert {member for turn in closed(founded) for member in turn.included} == {"acme", "cedar"}
        assert "not_approved" in json.loads((founded.member("birch").path / "status.json").read_text())["refused"]


def test_a_coordinator_that_runs_other_code_than_its_manifest_says_runs_none(home, tmp_path, monkeypatch):
    """The manifest names the right bundle and the members consent; then another one is started."""
    mark = tmp_path / "it-ran"
    root = bundle._HERE.parent
    files: dict[str, bytes | Path] = {
        path.relative_to(root).as_posix(): path
        for part in ("client", "server", "shared_models")
        for path in (root / part).rglob("*.py")
    }
    evil = f"open({str(mark)!r}, 'w')\n".encode() + (root / "client" / "app.py").read_bytes()
    files |= {"pyproject.toml": root / "pyproject.toml", "client/app.py": evil}
    data, _ = build_fab_from_files(files)
    sent = bundle.Bundle(data, hashlib.sha256(data).hexdigest())
    honest = Control.start_run
    monkeypatch.setattr(Control, "start_run", lambda self, _, run: honest(self, sent, run))
    with deployed(home) as (founded, _):
        assert trained(founded)[0] == "finished:completed"
        reasons = {each for turn in closed(founded) for each in turn.excluded}
        refusals = {(member, "not_approved") for member in founded.members}
        # Once, on a busy machine, a node was offline at a round's end too; what ran there is looked at below.
        assert refusals <= reasons <= refusals | {(member, "dead") for member in founded.members}
        assert report(founded).receipts == 0
        assert not mark.exists()


@pytest.mark.timeout(1800)
def test_the_page_that_does_it_by_hand(home):
    """Every block of docs/by-hand.md, as one shell script; only the ports are this machine's."""
    page = (ROOT / "docs" / "by-hand.md").read_text()
    script = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.S))
    for port in ("8443", "9092"):
        script = script.replace(port, str(processes.free_port()))
    home.mkdir()
    done = subprocess.run(
        ["bash", "-euc", "trap 'kill $(jobs -p); wait' EXIT\n" + script],
        cwd=home,
        env=processes.scrubbed(HOME=str(home)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run r1: finished:completed" in done.stdout
    assert "audit: every number recomputed, 0 findings" in done.stdout
    assert any(line.endswith(" EUR") for line in done.stdout.splitlines())
    assert "round 2 of 2" in done.stderr
    assert "run further: finished:completed" in done.stdout
    assert "it begins with the weights" in done.stderr
    assert len(re.findall(r"round [12]: 3 updates lead to [0-9a-f]{16}…, as the log says", done.stdout)) == 2
    assert "run taught: finished:completed" in done.stdout
    assert "run r2: finished:completed" in done.stdout
    assert "dogwood has consented" in done.stderr
    assert done.stdout.splitlines()[-1] == "audit: every number recomputed, 0 findings"


def test_ctrl_c_leaves_no_process_and_no_lock_and_a_folder_in_which_the_next_begins_anew(home):
    (home / "bundle").mkdir(parents=True)  # What one leaves that has come to its end.
    for after_s in (0.0, 3.0, 12.0, 25.0):
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "consortium", "demo", "--dir", str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout.readline().startswith(b"Three organisations")
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert alive(home) == []
    assert not (home / "bundle").exists()


def test_members_train_through_the_gateway_and_reach_nothing_else_of_the_superlink_by_it(home):
    """The same bytes, at the SuperLink's own port, are answered: Flower does not ask an administrator who he is."""
    with deployed(home, gateway=True) as (founded, _):
        settings = founded.coordinator.settings
        assert {founded.member(name).settings.superlink for name in founded.members} == {settings.gateway}
        assert trained(founded)[0] == "finished:completed"
        assert report(founded).findings == []
        assert [turn.included for turn in closed(founded)] == [("acme", "birch", "cedar")] * 2
        trust = ssl.create_default_context(cafile=founded.member("acme").path / "ca.crt")
        kind = {"Content-Type": "application/protobuf"}
        with httpx.Client(verify=trust, headers=kind) as client:
            said = {
                where: {
                    path: client.post(f"https://{where}{path}", content=b"").status_code
                    for _, path in PROTOBUF_REQUEST_TYPES
                    if not path.startswith("/v1/fleet/") and "/stream-" not in path
                }
                for where in (settings.superlink, settings.gateway)
            }
        assert set(said[settings.gateway].values()) == {403}
        assert said[settings.superlink]["/v1/control/list-runs"] == 200
