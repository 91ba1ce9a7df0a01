"""A Flower Grid whose nodes are threads of this process: the same ServerApp and ClientApp, the same bytes between them.

Every message is taken apart and put together again as on the real wire (Flower's own deflate and inflate), so what does
not serialise fails here too. Flower's private parts (flwr 1.41) are touched in this file only; a test holds them still.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN_ID, COORDINATOR = 1, 1
Answer = Callable[[Message], Message]
LEASE_S = 1.0  # What Flower's minute is here: so long a node that nobody hears still counts as online.
FOR_GOOD_S = 1e9


@dataclass(frozen=True, slots=True)
class Offline:
    """What a node does instead of answering: it is offline for so long.

    It is stopped then, and started again; what it had been asked is lost. With a `reply` it was only not heard, and
    that comes when it is back.
    """

    seconds: float = FOR_GOOD_S
    reply: Message | None = None


Behaviour = Callable[[Message, Answer], Message | Offline]


def honest(message: Message, answer: Answer) -> Message | Offline:
    """Answer as asked."""
    return answer(message)


@dataclass(frozen=True, slots=True)
class Node:
    """A member as the grid sees it: its name, what `--node-config` would give it, and how it behaves."""

    name: str
    config: Mapping[str, str]
    hosting: Callable[[], AbstractContextManager[object]]  # Held while its ClientApp runs, by the thread that runs it.
    behaviour: Behaviour = honest


@dataclass(slots=True)
class _State:
    node: Node
    number: int
    context: Context
    life: float = field(default_factory=time.time)  # When it was activated; all by the clock, in seconds.
    offline_from: float = math.inf
    back: float = math.inf
    busy: threading.Lock = field(default_factory=threading.Lock)  # A node does one task after another.

    def online(self) -> bool:
        return not self.offline_from <= time.time() < self.back

    def leave(self, offline: Offline) -> None:
        """Be offline for so long: at once if it is stopped, else from when it has not been heard for long enough."""
        self.life = self._alive_since()
        self.offline_from = time.time() + (LEASE_S if offline.reply is not None else 0.0)
        self.back = self.offline_from + offline.seconds

    def info(self) -> NodeInfo:
        until = self.offline_from if time.time() < self.offline_from else math.inf
        activated = datetime.fromtimestamp(self._alive_since(), UTC).isoformat()
        return NodeInfo(
            node_id=self.number,
            status="online" if self.online() else "offline",
            name=self.node.name,
            last_activated_at=activated,
            online_until=until,
        )

    def _alive_since(self) -> float:
        return self.back if time.time() >= self.back else self.life


class InProcessGrid(Grid):
    """A Grid without sockets. `workers` nodes train at the same time; the others wait."""

    def __init__(self, app: ClientApp, nodes: Iterable[Node], run_config: Mapping[str, str], workers: int = 2) -> None:
        self._app = app
        # Process-global, and `Message` refuses to be built without it.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, COORDINATOR, 1
        self._states: dict[int, _State] = {}
        for number, node in enumerate(nodes, 1000):
            context = Context(
                run_id=RUN_ID,
                node_id=number,
                node_config=dict(node.config),
                state=RecordDict(),
                run_config=dict(run_config),
            )
            self._states[number] = _State(node, number, context)
        self._pool = ThreadPoolExecutor(max(1, len(self._states)))
        self._at_work = threading.Semaphore(workers)
        self._sent: dict[str, tuple[Message, Future[Message | None]]] = {}  # By the message's id, with the reply.
        self._run: Run | None = None

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    # What Grid asks of a subclass.

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online; Flower too names no others."""
        return [info for state in self._states.values() if (info := state.info()).status == "online"]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        numbers = []
        for message in messages:
            sent = over_the_wire(message)
            self._sent[sent.metadata.message_id] = sent, self._pool.submit(self._serve, sent)
            numbers.append(sent.metadata.message_id)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there. A reply is gone after its first pull, as at the SuperLink.

        So is one whose node is offline just then, whether it has come or comes later: it is given as an error.
        """
        replies = []
        for message_id in message_ids:
            if message_id not in self._sent:
                continue
            sent, future = self._sent[message_id]
            if not self._states[sent.metadata.dst_node_id].online():
                del self._sent[message_id]
                replies.append(Message(Error(ErrorCode.NODE_UNAVAILABLE, "it is offline"), reply_to=sent))
            elif future.done():
                del self._sent[message_id]
                if (reply := future.result()) is not None:
                    replies.append(reply)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting, replies = list(self.push_messages(messages)), list[Message]()
        until = None if timeout is None else time.monotonic() + timeout
        while len(replies) < len(waiting) and (until is None or time.monotonic() < until):
            replies += self.pull_messages(waiting)
            time.sleep(0.002)
        return replies

    def _serve(self, message: Message) -> Message | None:
        state = self._states[message.metadata.dst_node_id]
        reply = state.node.behaviour(message, lambda asked: self._answer(state, asked))
        if isinstance(reply, Offline):
            state.leave(reply)
            if reply.reply is None:
                return None
            time.sleep(max(0.0, state.back - time.time()))
            reply = reply.reply
        return over_the_wire(reply)

    def _answer(self, state: _State, message: Message) -> Message:
        with state.busy, self._at_work, state.node.hosting():
            try:
                return self._app(message=message, context=state.context)
            except Exception as error:  # noqa: BLE001 - what a real ClientApp's exception becomes.
                reason = f"{type(error)}:<'{error}'>"
                return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def over_the_wire(message: Message) -> Message:
    """The message as its receiver gets it: from bytes alone."""
    message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    came = inflate_object_from_contents(message.object_id, parts)
    assert isinstance(came, Message)
    came.metadata.__dict__["_message_id"] = message.object_id
    return came
