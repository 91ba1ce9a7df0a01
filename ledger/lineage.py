"""What a model was made from, and what was made from it, as a graph: sources left, what came of them right."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ledger.shown import loss, size
from shared_models.rules.books import Books

MOST = 40  # Things in one picture.
WIDE, HIGH = 190, 44  # Of a box, in CSS pixels,
ACROSS, DOWN = 250, 60  # and from one to the next.
LETTERS = 22  # Of what stands in a box.


class Model(NamedTuple):
    artefact: str


class Checkpoint(NamedTuple):
    run: str
    round: int


class Weights(NamedTuple):
    """With which a run began, and no round of this log has led to."""

    digest: str


Thing = Model | Checkpoint | Weights


def graph(books: Books, artefact: str) -> dict[str, Any]:
    """All that this artefact descends from, and what was made from it, as boxes and lines; at most `MOST` boxes.

    Each stands a column left of everything that was made from it: what is made has a later entry than what it is made
    from, so there is no circle. Raises `Refused(NOT_FOUND)`.
    """
    books.library.held(artefact)
    shown = Model(artefact)
    every: list[Thing] = [
        Model(name) for name, held in books.library.artefacts.items() if artefact in held.record.parents
    ]
    made = every[: MOST // 2]
    depth: dict[Thing, int] = {shown: 0} | dict.fromkeys(made, -1)
    lines, todo, whole = dict[tuple[Thing, Thing], None](), list[Thing](depth), made == every
    while todo:
        thing = todo.pop(0)
        for source in _sources(books, thing):
            if source not in depth and (len(depth) >= MOST or thing in made):
                whole = whole and thing in made  # Where else a child comes from is shown on its own page.
                continue
            lines[source, thing] = None
            if depth.get(source, -1) <= depth[thing]:
                depth[source] = depth[thing] + 1
                todo.append(source)
    left, rows, places = max(depth.values()), dict[int, int](), dict[Thing, tuple[int, int]]()
    for thing, deep in depth.items():
        rows[deep] = rows.get(deep, -1) + 1
        places[thing] = 1 + ACROSS * (left - deep), 1 + DOWN * rows[deep]
    return {
        "boxes": [_box(books, thing, x, y) | {"shown": thing == shown} for thing, (x, y) in places.items()],
        "lines": [_line(*places[source], *places[thing]) for source, thing in lines],
        "wide": max(x for x, _ in places.values()) + WIDE + 1,
        "high": max(y for _, y in places.values()) + HIGH + 1,
        "box": {"wide": WIDE, "high": HIGH},
        "whole": whole,
    }


def _sources(books: Books, thing: Thing) -> Iterator[Thing]:
    """What this was made from."""
    match thing:
        case Model(artefact):
            record = books.library.held(artefact).record
            yield from (Checkpoint(each.run, each.round) for each in record.checkpoints)
            yield from map(Model, record.parents)
        case Checkpoint(run):
            if (began := books.origin(run)) is not None:
                weights, led = began
                yield Weights(weights) if led is None else Checkpoint(*led)


def _box(books: Books, thing: Thing, x: int, y: int) -> dict[str, Any]:
    match thing:
        case Model(artefact):
            record = books.library.held(artefact).record
            said = f"Model {artefact[:8]}…", f"{record.form}, {size(record.size).text}", f"/models/{artefact}"
        case Checkpoint(run, number):
            closed = books.run(run).rounds[number - 1].closed
            assert closed is not None  # The log takes no artefact of a round that is open.
            said = f"Round {number} of {run}", f"loss {loss(closed.loss_unats).text}", f"/runs/{run}/{number}"
        case Weights(digest):
            said = f"Weights {digest[:8]}…", "given", ""
    name, detail, address = said
    cut = [each if len(each) <= LETTERS else f"{each[: LETTERS - 1]}…" for each in (name, detail)]
    return {"x": x, "y": y, "name": cut[0], "detail": cut[1], "address": address, "whole": f"{name}, {detail}"}


def _line(x: int, y: int, to_x: int, to_y: int) -> str:
    """A curve from the right side of one box to the left side of another."""
    x, y, to_y, half = x + WIDE, y + HIGH // 2, to_y + HIGH // 2, (ACROSS - WIDE) // 2
    return f"M{x} {y}C{x + half} {y} {to_x - half} {to_y} {to_x} {to_y}"
