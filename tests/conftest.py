"""What every test has: tests/world.py to import, hypothesis and limits for a slow machine, and an order."""

import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# Two workers and the processes that they start share what cores there are, however many torch would take for each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In seconds since 1970; CI, which has 90 minutes, sets it.
SLOW_UNTIL = float(os.environ.get("CONSORTIUM_SLOW_UNTIL", "inf"))

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest comes first: of several workers, none is then left alone with it at the end."""
    may_take = Counter[Path]()
    for item in items:
        limit = item.get_closest_marker("timeout")
        may_take[item.path] += limit.args[0] if limit else 1
    items.sort(key=lambda item: -may_take[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """No slow test begins when their time is over: a run that is cut off says nothing of the others."""
    if item.get_closest_marker("slow") and time.time() > SLOW_UNTIL:
        pytest.skip(f"{item.nodeid}: the time for slow tests was over")


class Failures:
    """Each failure in a line at once, with how long it took: a run that is cut off has said so much."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = (crash.message if crash else str(report.longrepr)).partition("\n")[0]
            terminal.write_line(f"\n{report.nodeid} failed after {report.duration:.0f} s: {why[:200]}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # Workers report to the process that started them.
        config.pluginmanager.register(Failures(config))
