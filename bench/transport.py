"""What it costs to move an update beside Flower's messages, against Flower's own message of it.

`python -m bench.transport [--json]`. One update of 256 MB goes from a member to the coordinator, from tensors that are
packed one at a time to tensors that are read one at a time: through Flower's message, taken apart and put together
again as on its wire, both in one process (its sockets, its TLS and the SuperLink between them are not in it: in a
deployment three processes do this each way); and through our transport, TLS, hashing at both ends and the flush to
the disk included, member and endpoint each in a process. CPU of all of these, also as a multiple of hashing so much.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bench import memory, report
from server import home
from server.blobs import serving
from server.offers import Offers
from shared_models import durable, processes
from shared_models.lm.codecs import Packed
from shared_models.messages import Answer
from shared_models.transport import Beside

TENSORS, VALUES = 32, 1 << 21  # Each 8 MiB of fp32.
RUNS = 3
MEANING = {
    "inline_over_beside_cpu": "CPU of Flower's message in memory alone / CPU beside it, with TLS and disk, both ends",
    "inline_cpu_hashes": "CPU of Flower's message / CPU of SHA-256 of as many bytes",
    "beside_cpu_hashes": "CPU beside it / the same",
    "inline_memory": "most memory of a process that takes a message apart and together / bytes of the update",
    "beside_member_mb": "most memory of a transfer at the member beyond what it had, MB; constant",
    "beside_coordinator_mb": "the same at the coordinator",
}


class Update(Mapping[str, Packed]):
    """An update of so many tensors that is nowhere whole: each is made when it is asked for."""

    def __init__(self, tensors: int) -> None:
        self.tensors, self.size = tensors, 4 * tensors * VALUES

    def __getitem__(self, name: str) -> Packed:
        values = np.full(VALUES, int(name[1:]), np.float32)
        values[:: 1 << 10] = np.random.default_rng(int(name[1:])).standard_normal(VALUES >> 10, np.float32)
        return Packed("fp32", (VALUES,), values.tobytes())

    def __iter__(self) -> Iterator[str]:
        return (f"t{number:02}" for number in range(self.tensors))

    def __len__(self) -> int:
        return self.tensors


RUN = "1" * 64


def figures() -> dict[str, float]:
    """Measure each way in processes of its own, in turn; the median of what each took."""
    hashes, inline, beside = list[float](), list[dict[str, float]](), list[dict[str, float]]()
    for _ in range(RUNS):
        hashes.append(_hash_s(4 * TENSORS * VALUES))
        inline.append(measured("inline"))
        beside.append(measured("beside"))
    hash_s = statistics.median(hashes)
    inline_s, beside_s = (statistics.median(each["cpu_s"] for each in ways) for ways in (inline, beside))
    return {
        "inline_over_beside_cpu": inline_s / beside_s,
        "inline_cpu_hashes": inline_s / hash_s,
        "beside_cpu_hashes": beside_s / hash_s,
        "inline_memory": statistics.median(each["memory"] for each in inline) / (4 * TENSORS * VALUES),
        "beside_member_mb": statistics.median(each["memory"] for each in beside) / 1e6,
        "beside_coordinator_mb": statistics.median(each["coordinator"] for each in beside) / 1e6,
    }


def measured(way: str, tensors: int = TENSORS) -> dict[str, float]:
    """One way, once, of so many tensors: CPU-s, and the most memory at each end beyond what it had, in bytes."""
    command = [sys.executable, "-m", "bench.transport", "--way", way, "--tensors", str(tensors)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _hash_s(size: int) -> float:
    data, began = bytes(1 << 20), time.process_time()
    hashed = hashlib.sha256()
    for _ in range(size >> 20):
        hashed.update(data)
    return time.process_time() - began


def _inline(update: Update) -> dict[str, float]:
    """Through Flower's message, in this process."""
    from flwr.app import Message

    from consortium.grid import InProcessGrid, over_the_wire

    InProcessGrid(None, [], {}).close()  # type: ignore[arg-type] # It gives this process the identity messages ask for.
    before, began = memory("VmHWM"), time.process_time()
    came = over_the_wire(Message(Answer((b"receipt",), update, b"").to_record(), 1, "train"))
    answer = Answer.from_record(came.content, update.size)
    assert sum(len(answer.update[name].data) for name in answer.update) == update.size
    return {"cpu_s": time.process_time() - began, "memory": memory("VmHWM") - before}


def _beside(update: Update) -> dict[str, float]:
    """Beside it: this process is the member's."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), processes.free_port()
        settings = home.Settings(ledger="", superlink="127.0.0.1:0", blobs=f"127.0.0.1:{port}", inline_bytes=0)
        coordinator = home.create(folder / "coordinator", "commons.example", settings)
        offers = Offers(coordinator, RUN)
        offers.begin(1, 0)
        granted = offers.granted(1, "acme", update.size, time.time() + 600)
        assert granted is not None
        command = [sys.executable, "-m", "bench.transport", "--serve", str(coordinator.path)]
        command += ["--tensors", str(update.tensors)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdout.readline()  # It is there.
            way = Beside(granted, "127.0.0.1", coordinator.path / "tls" / "ca.crt", folder / "work", 60.0)
            before, began = memory("VmHWM"), time.process_time()
            carried = way.give(update, update.size)
            took_s, most = time.process_time() - began, memory("VmHWM") - before
            server.stdin.write(json.dumps(carried.blob.sha256 if carried.blob else "") + "\n")
            server.stdin.flush()
            served = json.loads(server.stdout.readline())
    return {"cpu_s": took_s + served["cpu_s"], "memory": most, "coordinator": served["memory"]}


def _serve(path: Path, update: Update) -> None:
    """The coordinator: its endpoint, and what reads the update then, a tensor at a time."""
    from shared_models.transport import Carried, Named

    coordinator = home.Home(path)
    with serving(coordinator):
        before, began = memory("VmHWM"), time.process_time()
        print("ready", flush=True)
        sha256 = json.loads(sys.stdin.readline())
        carried = Carried({}, Named(sha256=sha256, size=update.size))
        came = Offers(coordinator, RUN).way(1, "acme").take(carried, "fp32", dict.fromkeys(update, (VALUES,)))
        durable.link(path / "blobs" / RUN / "00000001" / "acme" / sha256, path / "update")
        assert sum(len(came[name].data) for name in came) == update.size
        print(json.dumps({"cpu_s": time.process_time() - began, "memory": memory("VmHWM") - before}), flush=True)


def main() -> None:
    """Measure; or be a process that is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.transport", description="an update beside Flower's messages")
    parser.add_argument("--way", choices=("inline", "beside"), help="measure this process, in this way")
    parser.add_argument("--serve", type=Path, metavar="HOME", help="be the coordinator with this folder")
    parser.add_argument("--tensors", type=int, default=TENSORS, help="of 8 MiB each")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    if chosen.serve:
        _serve(chosen.serve, Update(chosen.tensors))
    elif chosen.way:
        print(json.dumps({"inline": _inline, "beside": _beside}[chosen.way](Update(chosen.tensors))))
    else:
        report("transport", figures(), MEANING)


if __name__ == "__main__":
    main()
