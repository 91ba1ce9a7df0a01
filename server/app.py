"""The ServerApp: Flower's messages on one side, the coordinator's rounds on the other."""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from server.home import Home
from server.rounds import Coordinator
from shared_models.messages import Answer, Task, from_error
from shared_models.records.refusals import Refusal, Refused

HOME = "CONSORTIUM_COORDINATOR"  # Where this process finds the coordinator's folder. Members never learn it.
LOOK_S = 0.1, 1.0  # Between looks for an answer, at first and at last,
NODES_S = 1.0  # and for who is online.
SILENT_S = 5.0  # So long before Flower would call a node offline, nothing is asked for that it may be about to send.
TIMES = 4  # So often a node is asked the same: who has lost it more often than that will lose it again.
DAY_S = 86_400.0  # How much longer than its round Flower keeps a task whose answer may be late.

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the run that `flwr run` was started for."""
    home = Home(Path(os.environ[HOME]))
    ledger = home.ledger(patience_s=60)
    Coordinator(home, ledger, FlowerExchange(grid), str(context.run_config["run"])).train()


class _Node(NamedTuple):
    """A node that is online. Flower's SuperLink runs on this machine, so its clock is ours."""

    number: int  # Flower's.
    life: str  # When it was activated.
    until: float  # When Flower calls it offline if it is not heard.


@dataclass(slots=True, eq=False)
class _Question:
    """A task that a member was asked, and may still answer."""

    task: Task
    until: float  # As long as Flower keeps it, by the monotonic clock.
    max_bytes: int
    over: threading.Event = field(default_factory=threading.Event)  # Set when nobody waits for it any more.
    times: int = 0  # How often its node was asked.
    life: str | None = None  # Which life of its node was asked last; None if that is known to be lost.
    pulling: set[int] = field(default_factory=set)  # The times whose answer is being fetched now.


class FlowerExchange:
    """The way to the members through Flower's Grid.

    Flower's node ids and names only route. Who wrote an answer is known by the signatures inside it.

    **Who is offline.** A node that is stopped says so; one that was killed, or that nobody hears, is offline when it
    has been silent for a minute. What it had been asked is lost with its process, and nobody says so; or it is still
    at work behind a network that failed. When it is back the two look alike from here: it was activated since. So it
    is asked the same again, and whichever answer comes first counts; who is asked twice answers the same twice. Who is
    offline holds nobody up: a round ends when nobody who is online has still to answer, if it counts as it is. Who is
    offline then is dead, and is waited for no more, be it for an answer to an earlier round: what it is asked when it
    is back shall be what the next round needs.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._came: queue.Queue[tuple[str, _Question, int, Answer | Refused]] = queue.Queue()
        self._asked: dict[str, _Question] = {}  # Whose answer may still come.
        self._nodes: dict[str, _Node] = {}  # As of the last look, by member.

    def online(self) -> set[str]:
        self._nodes = {
            node.name: _Node(node.node_id, node.last_activated_at, node.online_until)
            for node in self._grid.get_nodes()
            if node.status == "online"
        }
        return set(self._nodes)

    def ask(
        self,
        tasks: Mapping[str, Task],
        until: float,
        max_bytes: int,
        instead: Callable[[str, Refused], Task | None],
        enough: Callable[[bool], bool],
        keep: bool,
    ) -> Iterator[tuple[str, Answer | Refused]]:
        """See `Exchange`. A thread for each question, for a reply can be seen before all of it has arrived."""
        lasts = until + (DAY_S if keep else 0)
        for member, task in tasks.items():
            self._asked[member] = _Question(task, lasts, max_bytes)
        waiting, found = set(tasks), False
        looked, online = float("-inf"), set[str]()
        while (waiting if tasks else not found) and (left := until - time.monotonic()) > 0:
            if time.monotonic() - looked > NODES_S:
                looked, online = time.monotonic(), self._look()
            alone = not any(self._at_work(each, online) for each in (waiting if tasks else self._asked))
            if enough(alone and self._came.empty()):
                break
            try:
                member, question, number, answer = self._came.get(timeout=min(left, NODES_S))
            except queue.Empty:
                continue
            if self._asked.get(member) is not question:
                continue  # Nobody waits for it any more.
            if isinstance(answer, Refused):
                if number < question.times:
                    continue  # It was asked again since.
                if answer.refusal is Refusal.DEAD and question.times < TIMES:
                    question.life, looked = None, float("-inf")
                    continue
                if (other := instead(member, answer)) is not None:
                    question.over.set()
                    self._asked[member], looked = _Question(other, lasts, max_bytes), float("-inf")
                    continue
            self.drop(member)
            waiting.discard(member)
            found = True
            yield member, answer
        online = self.online()
        for member in sorted(self._asked):
            if not self._at_work(member, online):
                self.drop(member)
                yield member, Refused(Refusal.DEAD, f"{member} was offline when the round ended")
            elif member in waiting:
                if not keep:
                    self.drop(member)
                yield member, Refused(Refusal.LATE, f"{member} had not answered when the round ended")

    def drop(self, member: str) -> None:
        """See `Exchange`."""
        self._asked.pop(member).over.set()

    def _look(self) -> set[str]:
        """Who is online now. Who has lost what it was asked, or was not there to be asked, is asked now."""
        online = self.online()
        for member, question in self._asked.items():
            if member in online and question.life != self._nodes[member].life:
                self._push(member, question, self._nodes[member])
        return online

    def _push(self, member: str, question: _Question, node: _Node) -> None:
        if question.times == TIMES:
            refused = Refused(Refusal.DEAD, f"{member} was asked {TIMES} times, and started anew each time")
            self._came.put((member, question, TIMES, refused))
            return
        lasts_s = max(1.0, question.until - time.monotonic())
        message = Message(question.task.to_record(), node.number, "train", ttl=lasts_s)
        question.times, question.life = question.times + 1, node.life
        (message_id,) = self._grid.push_messages([message])
        if not message_id:  # So says Flower, if it would not take a message.
            refused = Refused(Refusal.FAILED, f"Flower did not take the task for {member}")
            self._came.put((member, question, question.times, refused))
            return
        threading.Thread(target=self._await, args=(member, question, question.times, message_id), daemon=True).start()

    def _at_work(self, member: str, online: set[str]) -> bool:
        """Whether an answer may come from this member as things are."""
        return member in online or bool(self._asked[member].pulling)

    def _await(self, member: str, question: _Question, number: int, message_id: str) -> None:
        """Fetch the answer to one message, when it is there.

        Whose node is offline is not asked for it: Flower would say that there is none, and refuse it when it comes.
        """
        pause_s, longest_s = LOOK_S  # Every look is a request that the SuperLink decrypts and answers.
        while not question.over.is_set():
            node = self._nodes.get(member)
            if node is not None and time.time() < node.until - SILENT_S:
                question.pulling.add(number)
                for reply in self._grid.pull_messages([message_id]):
                    self._came.put((member, question, number, _read(reply, question.max_bytes)))
                    question.pulling.discard(number)
                    return
                question.pulling.discard(number)
            question.over.wait(pause_s)
            pause_s = min(1.1 * pause_s, longest_s)


def _read(reply: Message, max_bytes: int) -> Answer | Refused:
    if reply.has_error():
        return from_error(reply.error)
    try:
        return Answer.from_record(reply.content, max_bytes)
    except Refused as refused:
        return refused
