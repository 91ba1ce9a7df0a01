"""Showing a run's members the updates that its steps were taken from, so that each of them can take the steps again."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from server.home import Home
from server.journal import Turn
from shared_models.records import merkle
from shared_models.records.refusals import Refusal, Refused


class Update(NamedTuple):
    """An update that is kept here, and why it was not shown, if it was not."""

    round: int
    member: str
    size: int  # Bytes.
    refused: str


def show(folder: Path, run: str, since: int = 1) -> Iterator[Update]:
    """Bring every update of a run's closed rounds to the ledger, for those whom its round invited; again is safe.

    `since` is a round: what counts in none from this one on is left out. What does not count, or cannot be disputed any
    more, the ledger does not take. Raises `Refused`: UNKNOWN_RUN, TOO_LARGE, or as `LedgerHttp`.
    """
    home = Home(folder)
    ledger = home.ledger()
    home.learn_keys(ledger)
    manifest, leaf, _ = home.run(ledger, run)
    for path in sorted((home.path / "runs" / merkle.leaf_hash(leaf).hex()).glob("*/*.update")):
        number, member, size, why = int(path.parent.name), path.stem, path.stat().st_size, ""
        if number < since - manifest.late or not Turn(path.parent.parent, number).closed.is_file():
            continue
        with path.open("rb") as file:
            try:
                ledger.show_update(run, number, member, size, file, home.key)
            except Refused as refused:
                if refused.refusal is not Refusal.NOT_FOUND:
                    raise
                why = str(refused)
        yield Update(number, member, size, why)
