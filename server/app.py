"""The ServerApp: Flower's messages on one side, the coordinator's rounds on the other."""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from server.home import Home
from server.rounds import Coordinator
from shared_models.ledger_http import LedgerHttp
from shared_models.messages import Answer, Task, from_error
from shared_models.records.refusals import Refusal, Refused

HOME = "CONSORTIUM_COORDINATOR"  # Where this process finds the coordinator's folder. Members never learn it.
LOOK_S = 0.1
DAY_S = 86_400.0  # How much longer than its round Flower keeps a task whose answer may be late.

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the run that `flwr run` was started for."""
    home = Home(Path(os.environ[HOME]))
    ledger = LedgerHttp(home.settings.ledger, patience_s=60)
    Coordinator(home, ledger, FlowerExchange(grid), str(context.run_config["run"])).train()


class FlowerExchange:
    """The way to the members through Flower's Grid.

    Flower's node ids and names only route. Who wrote an answer is known by the signatures inside it.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._came: queue.Queue[tuple[str, threading.Event, Answer | Refused]] = queue.Queue()
        self._asked: dict[str, threading.Event] = {}  # Whose answer may still come; set when nobody waits for it.

    def online(self) -> set[str]:
        return {node.name for node in self._grid.get_nodes() if node.status == "online"}

    def ask(
        self,
        tasks: Mapping[str, Task],
        until: float,
        max_bytes: int,
        instead: Callable[[str, Refused], Task | None],
        enough: Callable[[], bool],
        keep: bool,
    ) -> Iterator[tuple[str, Answer | Refused]]:
        """See `Exchange`. A thread for each member, for a reply can be seen before all of it has arrived."""
        nodes = {node.name: node.node_id for node in self._grid.get_nodes() if node.status == "online"}
        waiting = set(tasks)
        lasts_s = (DAY_S if keep else 0) + until - time.monotonic()

        def push(member: str, task: Task) -> None:
            over = self._asked[member] = threading.Event()
            if member not in nodes:
                refused = Refused(Refusal.DEAD, f"{member} was not online when the round opened")
                self._came.put((member, over, refused))
                return
            message = Message(task.to_record(), nodes[member], "train", ttl=max(1.0, lasts_s))
            (message_id,) = self._grid.push_messages([message])
            if not message_id:  # So says Flower, if it would not take a message.
                self._came.put((member, over, Refused(Refusal.FAILED, f"Flower did not take the task for {member}")))
                return
            threading.Thread(target=self._await, args=(member, message_id, max_bytes, over), daemon=True).start()

        for member, task in tasks.items():
            push(member, task)
        found = False
        while (waiting if tasks else not found) and not enough() and (left := until - time.monotonic()) > 0:
            try:
                member, over, answer = self._came.get(timeout=left)
            except queue.Empty:
                break
            if self._asked.get(member) is not over:
                continue  # Nobody waits for it any more.
            if isinstance(answer, Refused) and (other := instead(member, answer)) is not None:
                push(member, other)
                continue
            del self._asked[member]
            waiting.discard(member)
            found = True
            yield member, answer
        alive = self.online() if waiting else set()
        for member in sorted(waiting):
            if member not in alive or not keep:
                self.drop(member)
            if member in alive:
                yield member, Refused(Refusal.LATE, f"{member} had not answered when the round ended")
            else:
                yield member, Refused(Refusal.DEAD, f"{member} went offline during the round")

    def drop(self, member: str) -> None:
        """See `Exchange`."""
        self._asked.pop(member).set()

    def _await(self, member: str, message_id: str, max_bytes: int, over: threading.Event) -> None:
        while not over.is_set():
            for reply in self._grid.pull_messages([message_id]):
                self._came.put((member, over, _read(reply, max_bytes)))
                return
            over.wait(LOOK_S)


def _read(reply: Message, max_bytes: int) -> Answer | Refused:
    if reply.has_error():
        return from_error(reply.error)
    try:
        return Answer.from_record(reply.content, max_bytes)
    except Refused as refused:
        return refused
