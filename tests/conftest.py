"""What every test has: tests/world.py to import, hypothesis set so that a slow machine is no failure, and an order."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest comes first: of several workers, none is then left alone with it at the end."""
    may_take = Counter[Path]()
    for item in items:
        limit = item.get_closest_marker("timeout")
        may_take[item.path] += limit.args[0] if limit else 1
    items.sort(key=lambda item: -may_take[item.path])
