"""Pages of a real ledger in a real Chromium: what the browser tests have in common."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from reading import served
from world import TOY, whole

from consortium.found import Founded
from consortium.simulate import simulate
from ledger.api import serving
from ledger.forecast import FEW
from shared_models.processes import free_port
from shared_models.records.kinds import Artefact, Checkpoint

CHROMIUM = Path("/usr/bin/chromium")
MODEL = "ab" * 32


class Real(NamedTuple):
    """A run's ledger, and all its parties' keys."""

    url: str
    founded: Founded


# For no longer than a file: while it runs, so does an event loop in this thread, and other tests could start none.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, started once for a file."""
    if not CHROMIUM.exists():
        if os.environ.get("CONSORTIUM_REQUIRE_CHROMIUM"):
            raise RuntimeError("chromium is not installed")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def real(tmp_path_factory) -> Iterator[Real]:
    """The ledger of a run that three members have trained, which was billed, and of which a model was published."""
    folder = tmp_path_factory.mktemp("run") / "parties"
    # At a price at which so little work costs something.
    result = simulate(folder, {"acme": 2, "birch": 1, "cedar": 1}, recipe=TOY, price=Fraction(10**15))
    coordinator = result.founded.coordinator
    with serving(result.founded.ledger, free_port()) as ledger:
        model = Artefact(
            seq=0,
            prev="0" * 64,
            publisher=coordinator.keyring.agreement.charter.consortium,
            artefact=MODEL,
            size=1_234_567,
            form="safetensors",
            checkpoints=(Checkpoint(run="r1", round=3),),
            parents=(),
            without=(),
        )
        coordinator.say(ledger, coordinator.key, model)
        yield Real(ledger.url, result.founded)


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory) -> Iterator[str]:
    """A log with every kind of entry, in which somebody is waited for, and of whose run a forecast can be made."""
    world, folder, members = whole(), tmp_path_factory.mktemp("whole"), ("birch", "cedar")
    last = {"charter": world.books.agreement.hash, "members": members, "rounds": 2 * FEW, "steps": (1, 3)}
    world.say(world.coordinator, world.manifest("r4", **last))
    world.say("birch/compute", world.consent("birch", "r4"))
    for _ in range(FEW):
        world.round("r4", invited=("birch",))
    world.say(world.coordinator, world.opened("r4", invited=("birch",)))
    with served(world, folder) as ledger:
        yield ledger.url
