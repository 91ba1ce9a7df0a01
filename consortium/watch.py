"""Who does what now, who is waited for and since when: read from the status that each party writes."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from consortium.found import Founded


@contextmanager
def watching(founded: Founded, console: Console) -> Iterator[Callable[[], None]]:
    """Show what everybody does: a live table on a terminal, a line for each change elsewhere."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda: live.update(_table(founded))
        return
    said: set[str] = set()

    def look() -> None:
        for what, line in _lines(founded):
            if what not in said:
                said.add(what)
                console.print(line)

    yield look


def _status(folder: Path) -> dict[str, Any]:
    try:
        status: dict[str, Any] = json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return status


def _table(founded: Founded) -> Table:
    run = _status(founded.coordinator.path)
    table = Table(title=_title(run), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in ("member", "doing", "tokens/s", "loss", "answer"):
        table.add_column(column, justify="right" if column in ("tokens/s", "loss") else "left")
    for name in founded.members:
        status = _status(founded.member(name).path)
        answered = run.get("answers", {}).get(str(run.get("round")), {}).get(name)
        rate, loss = status.get("tokens_per_s"), status.get("loss")
        table.add_row(
            name,
            str(status.get("phase", "starting")),
            f"{rate:,}" if rate else "",
            f"{loss:.3f}" if loss else "",
            _answer(answered) if answered else _waited(run, name),
        )
    return table


def _title(run: dict[str, Any]) -> str:
    match run.get("phase"):
        case None:
            return "starting"
        case "gathering":
            return f"gathering: {_waiting(run)}"
        case "training":
            left = max(0, run["deadline_ms"] / 1000 - time.time())
            who = f"waiting for {', '.join(run['waiting'])}, who are left out in {left:.0f} s" if run["waiting"] else ""
            return f"round {run['round']} of {run['rounds']}, held-out loss {run['loss']:.3f}; {who or 'averaging'}"
        case phase:
            return f"{phase}, held-out loss {run['loss']:.3f}"


def _waiting(run: dict[str, Any]) -> str:
    waiting = run.get("waiting", {})
    return ", ".join(f"{name} not online yet" for name in waiting) or "everybody is online"


def _answer(answered: dict[str, Any]) -> str:
    return f"refused: {answered['refused']}" if "refused" in answered else f"{answered['bytes_up']:,} bytes"


def _waited(run: dict[str, Any], name: str) -> str:
    if run.get("phase") != "training" or name not in run.get("waiting", ()):
        return ""
    return f"waited for since {time.time() - run['since_ms'] / 1000:.0f} s"


def _lines(founded: Founded) -> Iterator[tuple[str, str]]:
    """What can be said now, each with a name: under one name something is said once."""
    for name in founded.members:
        if consented := _status(founded.member(name).path).get("consented"):
            line = f"{name} has consented to run {consented}: its code is what {name} would build itself"
            yield f"{name} {consented}", line
    run = _status(founded.coordinator.path)
    for number, answers in run.get("answers", {}).items():
        where = f"round {number} of {run['rounds']}"
        yield where, f"{where}: {', '.join(founded.members)} are asked"
        for name, answered in sorted(answers.items()):
            pace = _status(founded.member(name).path).get("tokens_per_s")
            at = f" at {pace:,} tokens/s" if pace else ""
            yield f"{where} {name}", f"{where}: {name} answered{at}, {_answer(answered)}"
