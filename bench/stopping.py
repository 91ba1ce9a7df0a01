"""Early stopping: what share of a run's work is not spent, and what that does to the loss.

`python -m bench.stopping [--json]`. Two members train the small recipe, in rounds of half the steps: once on so little
text that it is soon learnt by heart, once on a shard each. A run's rounds are the same up to the one that it stops
behind, for its learning rate falls until the end that was planned: so one whole run, of a simulation, says for every
patience where it would have stopped (`rules.stopping`).
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import report
from client import data
from consortium.simulate import Result, simulate
from shared_models.rules.recipes import SMALL
from shared_models.rules.stopping import plateau, unspent

ROUNDS = 24
RECIPE = replace(SMALL, inner_steps=20)
LITTLE = 1 << 15  # Bytes of each member's text.
MEMBERS = ("acme", "birch")
PATIENCE = (1, 2, 3)
MEANING = {
    f"{text}_patience{patience}_{what}": f"{where}, patience {patience}: {means}"
    for text, where in (("little", f"{LITTLE} bytes of text each"), ("shard", "half of the library each"))
    for patience in PATIENCE
    for what, means in (
        ("unspent", "of the whole run's FLOP, not spent"),
        ("loss_ratio", "held-out loss where it stops / the whole run's last"),
        ("least_ratio", "held-out loss where it stops / the whole run's lowest"),
    )
}


def figures() -> dict[str, float]:
    """Measure."""
    return {f"{text}_{name}": figure for text, run in runs().items() for name, figure in told(run).items()}


def runs() -> dict[str, Result]:
    """Both runs, to their ends."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, little = Path(scratch), list[Path]()
        for number, name in enumerate(MEMBERS):
            little.append(folder / f"{name}.txt")
            little[-1].write_bytes(data.load(f"python-stdlib:{number}/{len(MEMBERS)}")[:LITTLE].tobytes())
        members = dict.fromkeys(MEMBERS, 1)
        found = {
            name: simulate(folder / name, members, rounds=ROUNDS, recipe=RECIPE, texts=texts, deadline_s=3600)
            for name, texts in (("little", little), ("shard", []))
        }
    for run in found.values():
        assert (run.report.findings, run.excluded) == ([], ())
    return found


def told(result: Result) -> dict[str, float]:
    """The figures of one run, for each patience."""
    manifest, figures_ = result.report.books.runs["r1"].manifest, dict[str, float]()
    losses = [round(1e6 * loss) for loss in result.losses]
    for patience in PATIENCE:
        behind = next((number for number in range(1, ROUNDS) if plateau(losses[: number + 1], patience)), ROUNDS)
        left, whole = (unspent(0, manifest, trained, manifest.members).flop for trained in (behind, 0))
        figures_ |= {
            f"patience{patience}_unspent": left / whole,
            f"patience{patience}_loss_ratio": losses[behind] / losses[-1],
            f"patience{patience}_least_ratio": losses[behind] / min(losses),
        }
    return figures_


def main() -> None:
    """Measure and print; for a reader the losses themselves, too."""
    came = runs()
    if "--json" not in sys.argv:
        for name, run in came.items():
            print(f"{name:8}", *(f"{loss:.3f}" for loss in run.losses))
    told_ = {f"{text}_{name}": figure for text, run in came.items() for name, figure in told(run).items()}
    report("stopping", told_, MEANING)


if __name__ == "__main__":
    main()
