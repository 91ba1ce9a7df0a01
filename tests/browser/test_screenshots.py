"""Pictures of the main pages, of a run that trains and of what it came to; `make screenshots` keeps them, for docs.

Else they are taken all the same, and thrown away. Somebody has to look at them; a test only sees that they are there.
"""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from looking import looking
from safetensors.numpy import load_file, save_file
from world import TOY

import client.cost
from client.home import Home
from consortium.found import Founded
from consortium.simulate import simulate
from ledger.api import serving
from shared_models.artefacts import publish
from shared_models.processes import free_port
from shared_models.records.kinds import Checkpoint
from shared_models.records.refusals import Refused

DOCS = Path(__file__).parents[2] / "docs"
RECIPE = replace(TOY, width=32, context=32, batch=4, inner_steps=30)
ROUNDS = 12
SHOWN = 8  # The round that is open in the first picture.

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(900)]


class Camera:
    """Takes pictures of pages into a folder."""

    def __init__(self, folder: Path, chromium: Any) -> None:
        self._folder, self._chromium = folder, chromium
        folder.mkdir(exist_ok=True)

    @contextmanager
    def on(self, name: str, until: str, width: int = 800, scheme: str = "light") -> Iterator[Any]:
        """A page of this width; as it is then, its picture is taken, from the top to the end of what `until` finds."""
        with looking(self._chromium, width, scheme) as (page, wrong):
            yield page
            page.mouse.move(0, 0)
            page.evaluate("scrollTo(0, 0)")
            end = page.locator(until).first.bounding_box()
            size = {"x": 0, "y": 0, "width": width, "height": end["y"] + end["height"] + 4}
            page.screenshot(path=self._folder / f"{name}.png", full_page=True, clip=size)
            assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
            assert wrong == []


def founded_at(folder: Path) -> str:
    """The address of the ledger that a simulation serves, once it has a charter."""
    while True:
        try:
            home = Home(folder / "acme")
            home.ledger().size()
            return home.settings.ledger
        except (OSError, Refused):
            time.sleep(0.1)


def test_pictures_of_the_main_pages(chromium, tmp_path):
    folder = DOCS / "screenshots" if os.environ.get("CONSORTIUM_SCREENSHOTS") else tmp_path / "screenshots"
    camera, parties = Camera(folder, chromium), tmp_path / "parties"
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(
            simulate,
            parties,
            {"acme": 2, "birch": 1, "cedar": 1},
            rounds=ROUNDS,
            recipe=RECIPE,
            price=Fraction(10**12),
            misbehave={"cedar": 3.0},
        )
        url = founded_at(parties)
        hosting = client.cost.Cost(
            item="hosting-11",
            pot="services",
            period="simulated",
            category="network",
            amount="12",
            currency="EUR",
            date="2026-11-05",
        )
        client.cost.append(parties / "birch", hosting, b"The invoice of November.\n")
        with camera.on("overview", until="[aria-label=Forecast]", width=880) as page:
            page.goto(f"{url}/overview")
            page.get_by_text(re.compile(rf"Round {SHOWN} of")).wait_for(timeout=300_000)
            page.get_by_text("Waited for: cedar").wait_for(timeout=120_000)
        founded = training.result().founded
    with serving(founded.ledger, free_port()) as ledger:
        model = published(founded, ledger)
        with camera.on("bill", until="details") as page:
            page.goto(f"{ledger.url}/bills/simulated")
            page.click("#verify button")
            page.get_by_text("Right: ").wait_for()
            page.click("details summary >> nth=0")
        with camera.on("what-if", until=".forms") as page:
            page.goto(f"{ledger.url}/bills/simulated/what-if?rule=compute=equal")
        with camera.on("model", until="tbody tr") as page:
            page.goto(f"{ledger.url}/models/{model}")
        with camera.on("log", until="tr:nth-of-type(4)") as page:
            page.goto(f"{ledger.url}/log")
        with camera.on("run-dark", until="details", scheme="dark") as page:
            page.goto(f"{ledger.url}/runs/r1?against=cost")
        with camera.on("bill-390", until=".forms", width=390) as page:
            page.goto(f"{ledger.url}/bills/simulated")
    assert {f"screenshots/{each.name}" for each in folder.iterdir()} == shown()


def shown() -> set[str]:
    """The pictures that the documentation shows."""
    return set(re.findall(r"\]\((screenshots/[^)]+)\)", (DOCS / "dashboard.md").read_text()))


def published(founded: Founded, ledger: Any) -> str:
    """The hash of the model that the last round has led to; it is published, and so is half of it, as made from it."""
    home = founded.coordinator
    newest = max((home.path / "checkpoints").iterdir(), key=lambda each: each.stat().st_mtime)
    last = Checkpoint(run="r1", round=ROUNDS)
    model = publish(home, ledger, home.key, newest, form="safetensors", checkpoints=(last,)).sha256
    small = founded.folder / "half.safetensors"
    save_file({name: tensor.astype("float16") for name, tensor in load_file(newest).items()}, small)
    publish(home, ledger, home.key, small, form="safetensors", parents=(model,))
    return model
