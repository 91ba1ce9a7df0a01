"""Flower's own simulation engine under the same ServerApp and ClientApp: members train in Ray's worker processes.

That takes a simulation past one process, and past one machine where Ray spans more. A node of this engine never goes
offline and is never late by itself, so what members may do wrong is for the other engine (`consortium.grid`).
"""

import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from client.meter import ProcessMeter, Usage
from shared_models.records.refusals import Refusal, Refused

PARTITION = "partition-id"  # Flower's number of a simulated node: its place among those given here.
ASK_S = 120.0  # Ray starts a worker, and it imports PyTorch, before the first answer.


class WorkerMeter:
    """The CPU time of the worker process that trains for a member, from where it began the round."""

    def __init__(self) -> None:
        self._pid, self._before_ms = 0, 0
        self._meter: ProcessMeter | None = None

    def heard(self, pid: int) -> bool:
        """Whether a process is of those that this one started, however far down; if so, it is the one to measure."""
        self._pid = pid
        return any(each.pid == os.getpid() for each in psutil.Process(pid).parents())

    def begin(self, _: object) -> None:
        """What was heard last begins a round. Nothing was, where a thread trains, and another meter runs."""
        if self._pid:
            self._meter = ProcessMeter(self._pid)
            self._before_ms = self._meter.read().cpu_ms

    def read(self) -> Usage:
        assert self._meter is not None, "no round has begun"
        used = self._meter.read()
        return Usage(used.wall_ms, used.cpu_ms - self._before_ms, used.started_ms, used.ended_ms)


def train(server: ServerApp, client: ClientApp, nodes: Mapping[str, Mapping[str, str]], run: str, workers: int) -> None:
    """Run both apps until the ServerApp is done; `nodes` is the node-config of each member.

    Raises `Refused(NOT_SET_UP)` without Ray, and whatever the ServerApp raises.
    """
    if importlib.util.find_spec("ray") is None:
        raise Refused(Refusal.NOT_SET_UP, "this engine needs Ray: pip install 'training-consortium[sim]'")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Or it warns.
    from flwr.simulation import run_simulation

    names, configs = list(nodes), [dict(each) for each in nodes.values()]
    outer, inner = ServerApp(), ClientApp()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        server(_Named(grid, names), _context(context, context.node_config, {"run": run}))

    @inner.query()
    def who(message: Message, context: Context) -> Message:
        told = ConfigRecord({PARTITION: context.node_config[PARTITION]})
        return Message(RecordDict({"node": told}), reply_to=message)

    @inner.train()
    def answer(message: Message, context: Context) -> Message:
        import torch

        torch.set_num_threads(1)  # As in the other engine: each member's bits are the same in both.
        config = configs[int(context.node_config[PARTITION])]
        return client(message=message, context=_context(context, config, {"run": run}))

    with tempfile.TemporaryDirectory(prefix="ray-") as scratch, _hushed():
        ray: dict[str, Any] = {"num_cpus": workers, "_temp_dir": scratch}
        ray |= {"include_dashboard": False, "log_to_driver": False}
        task = {"num_cpus": 1, "num_gpus": 0}
        config: dict[str, Any] = {"client_resources": task, "init_args": ray}
        run_simulation(outer, inner, num_supernodes=len(names), backend_config=config)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without Flower's advice to start simulations from its own command: there the parties have no folders."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _context(context: Context, node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Context:
    return Context(context.run_id, context.node_id, dict(node_config), context.state, dict(run_config))


class _Named(Grid):
    """Flower's grid, whose nodes here have the names of members; each is asked once which it is."""

    def __init__(self, grid: Grid, names: Sequence[str]) -> None:
        self._grid = grid
        while len(numbers := list(grid.get_node_ids())) < len(names):
            time.sleep(0.1)  # Flower starts the ServerApp before it has made the nodes.
        asked = [Message(RecordDict(), number, "query") for number in numbers]
        self._names = {
            reply.metadata.src_node_id: names[int(str(reply.content["node"][PARTITION]))]
            for reply in grid.send_and_receive(asked, timeout=ASK_S)
        }

    def get_nodes(self) -> Iterable[Any]:
        found = list(self._grid.get_nodes())
        for node in found:
            node.name = self._names[node.node_id]
        return found

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)
