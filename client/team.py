"""Training in several processes of one machine: torchrun starts them, and they share every batch, or every matrix.

Each process has a `Training` and does what the others do; the first of them is told what, over a Unix socket, and
answers. They end when the socket does, so that they outlive nobody who was killed.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from client import begun
from client.data import Picked, Shard
from client.training import ONE, Machine, Training
from shared_models.lm import tokenizer
from shared_models.lm.tokenizer import Tokens
from shared_models.lm.weights import Weights
from shared_models.records import canonical
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Point

START_S = 120.0  # Importing PyTorch as often as there are processes takes a while.


@contextmanager
def at_work(
    start: Weights, recipe: Recipe, tokens: Tokens | Shard, memory: Weights, *, machine: Machine = ONE, **turn: Any
) -> Iterator["Training | Team"]:
    """A `Training`, or where the machine has several processes a `Team`, which answers as one.

    Raises `Refused`: as `Machine.check`; FAILED, there and later, if one of the processes ends.
    """
    machine.check(recipe)
    if machine.processes == 1:
        yield Training(start, recipe, tokens, memory, machine=machine, **turn)
        return
    with tempfile.TemporaryDirectory(prefix="team-") as folder:
        team = Team(Path(folder), start, recipe, tokens, memory, machine, **turn)
        try:
            yield team
        finally:
            team.close()


class Team:
    """Several processes in the place of one `Training`; see there what the calls do."""

    def __init__(
        self,
        folder: Path,
        start: Weights,
        recipe: Recipe,
        tokens: Tokens | Shard,
        memory: Weights,
        machine: Machine,
        *,
        member: str,
        round_: int,
        rounds: int,
        step: int = 0,
        picked: Picked = (),
    ) -> None:
        turn = {"member": member, "round_": round_, "rounds": rounds, "step": step, "picked": [*map(list, picked)]}
        how = {name: getattr(machine, name) for name in Machine.__slots__}
        shard = tokens if isinstance(tokens, Shard) else Shard(tokens)
        said = {"recipe": canonical.encode(recipe).decode(), "turn": turn, "machine": how, "sample": shard.sample}
        order = json.dumps(said)
        (folder / "order").write_bytes(order.encode() + b"\n" + begun.pack(start=start, memory=memory))
        np.save(folder / "tokens.npy", shard.own)
        if shard.synthetic is not None:
            np.save(folder / "synthetic.npy", shard.synthetic)
        if shard.cut is not None:
            (folder / "tokenizer.json").write_bytes(shard.cut.data)
        self._folder = folder
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(folder / "door"))
            door.listen()
            door.settimeout(0.5)
            self._process = self._started(machine)
            self._connection = self._first_of_them(door)
        self._answers = self._connection.makefile("rb")

    def _started(self, machine: Machine) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(machine.processes), "-m", "client.team", str(self._folder)]
        paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]  # This very code.
        env = os.environ | {
            "OMP_NUM_THREADS": str(machine.threads()),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        with open(self._folder / "log", "wb") as log:
            return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _first_of_them(self, door: socket.socket) -> socket.socket:
        for _ in range(int(START_S / 0.5)):
            try:
                connection, _ = door.accept()
            except TimeoutError:
                if self._process.poll() is not None:
                    break
                continue
            connection.settimeout(None)
            return connection
        self._end()
        raise self._failed()

    def until(self, step: int) -> Iterator[float]:
        self._tell("until", step)
        while "loss" in (told := self._hear()):
            yield told["loss"]

    def state(self) -> tuple[Weights, Weights]:
        self._tell("state")
        path = Path(self._hear()["path"])
        _, groups = begun.split(path.read_bytes())
        path.unlink()
        return groups["weights"], groups["memory"]

    def point(self) -> Point:
        self._tell("point")
        return canonical.decode(Point, self._hear()["point"].encode())

    @property
    def data(self) -> str:
        self._tell("data")
        return str(self._hear()["data"])

    def close(self) -> None:
        """End the processes, and wait for them: what they have used is counted with them."""
        self._answers.close()
        self._connection.close()
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.terminate()  # It ends those that it started.
            self._process.wait()

    def _tell(self, what: str, step: int = 0) -> None:
        with suppress(OSError):  # Who is gone does not answer either.
            self._connection.sendall(json.dumps([what, step]).encode() + b"\n")

    def _hear(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise self._failed()
        told: dict[str, Any] = json.loads(line)
        return told

    def _failed(self) -> Refused:
        said = (self._folder / "log").read_text(errors="replace")
        errors = re.findall(r"^(?:\[rank\d+\]: )?(\w*Error: .*)", said, re.MULTILINE)
        why = errors[0][:200] if errors else "it was killed"
        return Refused(Refusal.FAILED, f"a process of the training ended: {why}")


class _Seat:
    """The place of one process in a team."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._rank = folder, distributed.get_rank()
        line, groups = begun.split((folder / "order").read_bytes())
        order = json.loads(line)
        machine = Machine(**order["machine"])
        own = np.load(folder / "tokens.npy", mmap_mode="r")
        synthetic = np.load(folder / "synthetic.npy", mmap_mode="r") if order["sample"] else None
        cut = tokenizer.read(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
        self._training = Training(
            groups["start"],
            canonical.decode(Recipe, order["recipe"].encode()),
            Shard(own, synthetic, order["sample"], cut),
            groups.get("memory", {}),
            machine=machine,
            rank=self._rank,
            **order["turn"],
        )
        self._connection: socket.socket | None = None
        if self._rank == 0:
            self._connection = socket.socket(socket.AF_UNIX)
            self._connection.connect(str(folder / "door"))

    def work(self) -> None:
        """Do what the first process is told, in all of them at once, until nothing more is said."""
        lines = self._connection.makefile("rb") if self._connection is not None else None
        while True:
            said = [lines.readline() if lines is not None else b""]
            distributed.broadcast_object_list(said, src=0)
            if not said[0]:
                return
            what, step = json.loads(said[0])
            self._do(what, step)

    def _do(self, what: str, step: int) -> None:
        match what:
            case "until":
                for loss in self._training.until(step):
                    self._say(loss=loss)
                self._say(done=True)
            case "state":
                reached, memory = self._training.state()
                path = self._folder / "state"
                if self._rank == 0:
                    path.write_bytes(b"\n" + begun.pack(weights=reached, memory=memory))
                self._say(path=str(path))
            case "point":
                self._say(point=canonical.encode(self._training.point()).decode())
            case "data":
                self._say(data=self._training.data)

    def _say(self, **told: Any) -> None:
        if self._connection is not None:
            self._connection.sendall(json.dumps(told).encode() + b"\n")


def main(folder: Path) -> None:
    """What torchrun runs, as often as there are processes."""
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        _Seat(folder).work()
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
