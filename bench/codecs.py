"""What each codec makes of an update: its bytes, what it loses, and its speed against copying the tensor."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from bench import Figures, report
from shared_models.lm import codecs
from shared_models.records.kinds import CODECS

COUNT = 2**22  # Values of one tensor: 16 MiB.
RUNS = 7
MEANING = {
    f"{codec}_{figure}": meaning
    for codec in CODECS
    for figure, meaning in (
        ("bytes", "bytes for a parameter"),
        ("reduction", "times smaller than float32"),
        ("error", "length of what is lost / length of the update, whose values are Gaussian"),
        ("encode_copies", "time to encode / time of np.copy of the same tensor, to new memory"),
        ("decode_copies", "time to decode / the same"),
    )
}


def figures() -> Figures:
    """Measure, on one tensor; a copy is timed beside each codec, for the machine's speed drifts."""
    update = (1e-3 * np.random.default_rng(1).standard_normal(COUNT)).astype(np.float32)
    found: dict[str, float] = {}
    for codec in CODECS:
        data = codecs.encode(codec, update)
        came = codecs.decode(codec, data, update.shape)
        copy, encode, decode = _medians(
            update.copy,
            lambda codec=codec: codecs.encode(codec, update),  # type: ignore[misc]
            lambda codec=codec, data=data: codecs.decode(codec, data, update.shape),  # type: ignore[misc]
        )
        found |= {
            f"{codec}_bytes": len(data) / COUNT,
            f"{codec}_reduction": update.nbytes / len(data),
            f"{codec}_error": float(np.linalg.norm(update - came) / np.linalg.norm(update)),
            f"{codec}_encode_copies": encode / copy,
            f"{codec}_decode_copies": decode / copy,
        }
    return found


def _medians(*works: Callable[[], object]) -> list[float]:
    """The median wall time of each, in seconds; they take turns."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(RUNS):
        for times, work in zip(taken, works, strict=True):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]


if __name__ == "__main__":
    report("codecs", figures(), MEANING)
