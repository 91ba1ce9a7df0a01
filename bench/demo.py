"""The demonstration against its limit: three real members on two cores, at most 120 s after installation."""

import contextlib
import io
import re
import tempfile
import time
from pathlib import Path

from bench import Figures, report
from consortium.demo import demo

LIMIT_S = 120
MEANING = {
    "demo_s": "wall seconds from start to end",
    "demo_share_of_limit": "the same / 120 s",
    "loss_after_over_before": "held-out loss after three rounds / before",
}


def figures() -> Figures:
    """Measure one whole demonstration, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
        started = time.monotonic()
        assert demo(Path(folder), rounds=3) == 0
        took = time.monotonic() - started
    match = re.search(r"per byte: ([\d.]+) before, ([\d.]+) after", printed.getvalue())
    assert match is not None
    before, after = map(float, match.groups())
    return {"demo_s": took, "demo_share_of_limit": took / LIMIT_S, "loss_after_over_before": after / before}


if __name__ == "__main__":
    report("demo", figures(), MEANING)
