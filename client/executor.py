"""Flower's executor at a member: it takes the tasks of this node's SuperNode and decides whether their code may start.

The only file of `client` that touches Flower's private parts (flwr 1.41; a test holds them still). In `process`
isolation the SuperNode starts no code itself: it waits for an executor that knows a shared secret. This is that
executor.

What a coordinator sends is never what runs. Flower names a bundle by 8 hex digits of its hash when it installs it,
and does not compare the bundle with the hash it was announced under; so the operator's own bundle is installed
beforehand, under that very name, and Flower keeps what is there.
"""

import io
import os
import secrets
import subprocess
import threading
from contextlib import closing, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Message
from flwr.cli.install import install_from_fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client import confine
from client.home import Home
from shared_models import processes
from shared_models.bundle import Bundle
from shared_models.messages import to_error
from shared_models.records.refusals import Refused

HOST = "127.0.0.1"  # Where a SuperNode listens for its executor.
# A task of which nothing is heard for 30 s is up again; once its message was asked for, for 60 s: it has failed.
BEAT_S = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """A task that waits: the bundle it is for, and the token that lets its process fetch it."""

    token: str
    bundle: str


class Executor:
    """The executor of one SuperNode, whose Runtime API listens at this port of `HOST`."""

    def __init__(self, home: Home, port: int, bundle: Bundle, node_config: dict[str, str], way: Path) -> None:
        """`way` is the Unix socket by which the training process finds it, where it has no network."""
        self._home, self._port, self._way = home, port, way
        self._address = f"{HOST}:{port}"
        self._node_config = node_config
        self._secret = home.path / "keys" / "executor.secret"
        self._secret.unlink(missing_ok=True)
        with os.fdopen(os.open(self._secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        self._env = home.training_env()
        with redirect_stdout(io.StringIO()):  # It tells a person where, who did not ask.
            install_from_fab(bundle.data, install_dir=home.path / "flwr", skip_prompt=True)
        self._client = self._connect(
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=self._secret.read_bytes(),
                protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
            ),
        )

    def start_supernode(self) -> subprocess.Popen[bytes]:
        """Flower's SuperNode, in a process group of its own; it connects outwards and starts no code."""
        config = " ".join(f'{name}="{value}"' for name, value in self._node_config.items())
        command = [processes.program("flower-supernode"), "--superlink", self._home.settings.superlink]
        command += ["--root-certificates", str(self._home.path / "ca.crt")]
        command += ["--auth-supernode-private-key", str(self._home.path / "keys" / "node.key")]
        command += ["--node-config", config, "--host", HOST, "--port", str(self._port)]
        command += ["--isolation", "process", "--superexec-auth-secret-file", str(self._secret)]
        return self._start(command, "supernode.log")

    def acquire(self) -> Task | None:
        """The next task, or None: there is none, or the SuperNode is not up yet."""
        try:
            found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"]))
        except (httpx.TransportError, httpx.HTTPStatusError):
            return None
        if not found.HasField("task") or not found.token:
            return None
        return Task(found.token, found.task.fab_hash)

    def launch(self, task: Task, cores: int | None = None) -> subprocess.Popen[bytes]:
        """Start the training process of an approved task: in a process group of its own, without our environment, and
        kept from our files and the network, as far as this system does that (client/confine.py); on so many cores, if
        that is said.
        """
        token = self._home.path / "work" / "token"
        token.unlink(missing_ok=True)
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(task.token)
        command = [processes.program("flwr-clientapp"), "--runtime-api-address", self._address, "--insecure"]
        command += ["--token-file", str(token)]
        if confine.version() == 0:  # Confined, it ends with us, and may not even ask whether we are there.
            command += ["--parent-pid", str(os.getpid())]
        command = confine.confined(command, **self._home.training_files(), way=(self._port, self._way))
        return self._start(command, "clientapp.log", cores)

    def refuse(self, task: Task, refused: Refused) -> None:
        """Answer a task with an error instead of running it: one that nobody answers would hang the SuperNode.

        It waits for the task's message to come whole. If its run has ended meanwhile, that is never: until it is given
        up, which raises `httpx.HTTPStatusError` here.
        """
        over = threading.Event()

        def keep() -> None:
            while not over.wait(BEAT_S):
                self.beat(task)

        keeping = threading.Thread(target=keep, daemon=True)
        keeping.start()
        try:
            with closing(self._runtime(task)) as runtime:
                message, context, _, _ = pull_task_input(runtime)
                push_message(runtime, Message(to_error(refused), reply_to=message), context)
                push_task_output(runtime, context, "failed", str(refused))
        finally:
            over.set()
            keeping.join()

    def beat(self, task: Task) -> None:
        """Say that somebody is at this task; nothing happens if it is finished."""
        with closing(self._runtime(task)) as runtime, suppress(httpx.HTTPError):
            runtime.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    def give_up(self, task: Task) -> None:
        """Finish a task at which nobody is any more, without an answer; nothing happens if it is finished.

        Left, it counts as failed a minute later, and the SuperNode answers in its name. If it then waits for the answer
        of the next task, it takes that one for it, and from then on sends each answer only when yet another task comes.
        """
        with closing(self._runtime(task)) as runtime, suppress(httpx.HTTPError):
            runtime.PushTaskOutput(PushTaskOutputRequest(sub_status="failed", details="given up"))

    def close(self) -> None:
        self._client.close()

    def _start(self, command: list[str], log: str, cores: int | None = None) -> subprocess.Popen[bytes]:
        home = self._home.path
        return processes.start(command, env=self._env, cwd=home / "work", log=home / log, cores=cores)

    def _runtime(self, task: Task) -> RuntimeHttpClient:
        return self._connect(
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), RuntimeTokenHttpInterceptor(task.token)
        )

    def _connect(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._address, insecure=True, root_certificates=None, interceptors=list(interceptors)
        )
