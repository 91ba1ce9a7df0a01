"""What moving a model's file through the ledger costs, against copying and hashing it on the same disk in the same run.

`python -m bench.models [--gib N] [--json]`. A process of its own is the ledger. The coordinator publishes the file, in
signed pieces; then a member that has access fetches it and hashes what comes. Neither figure should grow with the file.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import most_memory, report
from client.models import get
from consortium.simulate import RUN, simulate
from shared_models import processes
from shared_models.artefacts import publish
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records.kinds import Checkpoint
from shared_models.rules.recipes import TOY

PIECE_BYTES = 1 << 20
MEANING = {
    "models_gib": "size of the file",
    "upload_over_copy": "seconds to publish it, hashed by both sides / to copy and hash it",
    "download_over_copy": "seconds to fetch it, hashed / to copy and hash it",
    "upload_memory_mb": "most memory of the ledger meanwhile, beyond what it had, MB",
    "download_memory_mb": "the same while it serves",
}


def figures(gib: float = 1.0) -> dict[str, float]:
    """Measure one file of so many GiB."""
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        founded = simulate(folder / "parties", {"acme": 2, "birch": 1}, rounds=1, recipe=TOY).founded
        file, size = folder / "model", int(gib * (1 << 30))
        _write(file, size)
        copied_s, _ = _measured(lambda: _copy(file, folder / "copy"), os.getpid())
        (folder / "copy").unlink()
        port = free_port()
        command = [sys.executable, "-m", "consortium", "serve", "--dir", str(founded.ledger), "--port", str(port)]
        served = processes.start(command, env=processes.scrubbed(), cwd=folder, log=folder / "ledger.log")
        try:
            ledger = LedgerHttp(f"http://127.0.0.1:{port}", patience_s=60)
            coordinator, made, names = founded.coordinator, (Checkpoint(run=RUN, round=1),), list[str]()

            def up() -> None:
                done = publish(coordinator, ledger, coordinator.key, file, form="safetensors", checkpoints=made)
                names.append(done.sha256)

            ledger.size()
            up_s, up_bytes = _measured(up, served.pid)
            down_s, down_bytes = _measured(
                lambda: get(founded.member("acme"), ledger, names[0], folder / "came"), served.pid
            )
        finally:
            processes.end(served)
        assert (folder / "came").stat().st_size == size
        return {
            "models_gib": gib,
            "upload_over_copy": up_s / copied_s,
            "download_over_copy": down_s / copied_s,
            "upload_memory_mb": up_bytes / 1e6,
            "download_memory_mb": down_bytes / 1e6,
        }


def _write(file: Path, size: int) -> None:
    """A file of this size in which no piece is like another."""
    block = os.urandom(PIECE_BYTES)
    with file.open("wb") as out:
        for at in range(0, size, PIECE_BYTES):
            out.write((at.to_bytes(8) + block[8:])[: size - at])


def _copy(file: Path, to: Path) -> None:
    """As whoever has a file on its own disk would: copied, on the disk, and hashed."""
    hashed = hashlib.sha256()
    with file.open("rb") as source, to.open("wb") as out:
        while piece := source.read(PIECE_BYTES):
            hashed.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())


def _measured(work: Callable[[], object], pid: int) -> tuple[float, int]:
    """(seconds, the most memory of this process meanwhile beyond what it had, in bytes)."""
    started = time.monotonic()
    most = most_memory(work, pid)
    return time.monotonic() - started, most


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.models", description="a model's file through the ledger")
    parser.add_argument("--gib", type=float, default=1.0, help="its size")
    parser.add_argument("--json", action="store_true", help="the figures only")
    report("models", figures(parser.parse_args().gib), MEANING)
