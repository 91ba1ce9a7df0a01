"""Members that do less than they are paid for, against audits of what the log draws: how many are found out.

Each trains, or does not, a tiny model through the real inner loop, signs for states it made up, opens what is drawn,
and is audited by the real re-execution; which receipts and segments are drawn is by the real rule, from many logs.
Beside what was found stands what the formula says: 1 - (1 - p·share)^rounds.
"""

import argparse
import hashlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bench import Figures, report
from client import data
from client.reexecute import Opening, State, replay, write
from client.training import Training, build
from server import outer
from shared_models.lm import codecs, weights
from shared_models.records.kinds import FIRST, Manifest, Receipt, Recipe
from shared_models.rules.challenge import AUDITED, Point, Trajectory, committed, detection, drawn, ends
from shared_models.rules.pricing import flop_per_token, tokens_asked
from shared_models.rules.recipes import SMALL, TOY

RECIPE = replace(TOY, width=32, context=32, batch=4, inner_steps=16, segment=4, inner="muon", inner_rate="0.008")
TEXT, NEIGHBOUR = "python-stdlib:0/3", "python-stdlib:1/3"
SALT = "5a" * 32
ROUNDS = 20  # A period's: within so many a cheat should be found.
LOGS = 20_000  # Whose draws are tried.


class Round(NamedTuple):
    """What a member knows when it begins round `number`."""

    recipe: Recipe
    member: str
    number: int
    base: weights.Weights
    memory: weights.Weights
    old: weights.Weights  # An update of an earlier round.

    def training(self, state: State, step: int, member: str = "", text: str = TEXT) -> Training:
        return Training(
            state[0],
            self.recipe,
            data.load(text),
            state[1],
            member=member or self.member,
            round_=self.number,
            rounds=ROUNDS,
            step=step,
        )


Cheat = Callable[[Round, State, int, int], State]  # From the state at one step to what it says was there at another.


def honest(turn: Round, state: State, start: int, end: int) -> State:
    """Every step, on its own text."""
    training = turn.training(state, start)
    for _ in training.until(end):
        pass
    return training.state()


def skips_steps(turn: Round, state: State, start: int, end: int) -> State:
    """All but the last step of the segment."""
    return honest(turn, state, start, end - 1)


class _Batches:
    """Batches as they come, and what is trained on instead."""

    def __init__(self, real: data.Batches, instead: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]) -> None:
        self._real, self._instead = real, instead

    def draw(self) -> npt.NDArray[np.int64]:
        return self._instead(self._real.draw())


def _fed(turn: Round, state: State, start: int, end: int, instead: Callable[..., npt.NDArray[np.int64]]) -> State:
    training = turn.training(state, start)
    training._batches = _Batches(training._batches, instead)  # type: ignore[assignment]
    for _ in training.until(end):
        pass
    return training.state()


def fewer_tokens(turn: Round, state: State, start: int, end: int) -> State:
    """Every step of the segment on its first batch, which has been read already."""
    first = dict[int, npt.NDArray[np.int64]]()
    return _fed(turn, state, start, end, lambda batch: first.setdefault(0, batch))


def smaller_batch(turn: Round, state: State, start: int, end: int) -> State:
    """Every step, without the last sequence of each batch."""
    return _fed(turn, state, start, end, lambda batch: batch[:-1])


def _moved(turn: Round, state: State, update: weights.Weights, share: float) -> State:
    there = {name: tensor + np.float32(share) * update[name] for name, tensor in state[0].items()}
    memory = state[1] or turn.training(state, 0).state()[1]
    return there, memory


def replays_an_update(turn: Round, state: State, start: int, end: int) -> State:
    """No step: it goes on along an update that it made in an earlier round."""
    return _moved(turn, state, turn.old, (end - start) / turn.recipe.inner_steps)


def copies_a_neighbour(turn: Round, state: State, start: int, end: int) -> State:
    """No step of its own: what a neighbour has trained, from the same weights on the neighbour's text."""
    training = turn.training(state, start, "neighbour", NEIGHBOUR)
    for _ in training.until(end):
        pass
    return training.state()


def noise(turn: Round, state: State, start: int, end: int) -> State:
    """No step: noise as long as an update is."""
    random = np.random.default_rng(start)
    update = {
        name: (random.standard_normal(each.shape) * each.std()).astype(np.float32) for name, each in turn.old.items()
    }
    return _moved(turn, state, update, (end - start) / turn.recipe.inner_steps)


CHEATS: Mapping[str, Cheat] = {
    each.__name__: each
    for each in (skips_steps, fewer_tokens, smaller_batch, replays_an_update, copies_a_neighbour, noise)
}


@dataclass(frozen=True)
class Played:
    """A round as a member has signed for it: its receipt, and all that it can show."""

    turn: Round
    trajectory: Trajectory
    states: tuple[State, ...]
    receipt: Receipt
    hashed: str
    manifest: Manifest

    def opening(self, segment: int) -> Opening:
        return Opening(
            receipt=self.hashed,
            segment=segment,
            text=TEXT,
            salt=SALT,
            trajectory=self.trajectory,
            before=(),
            sample=(),
            slice=(),
            picked=(),
        )

    def shown(self, segment: int) -> bytes:
        """The opening of a segment."""
        start, end = self.states[segment : segment + 2]
        return write(self.opening(segment), self.turn.base, {}, start, end, self.states[-1][0])

    def audited(self, segment: int) -> tuple[str, int]:
        """(verdict, distance in millionths) of an audit of a segment."""
        found = replay(self.shown(segment), self.receipt, self.hashed, self.manifest, None)
        return found.verdict, found.distance_ppm

    @cached_property
    def contradicted(self) -> tuple[bool, ...]:
        """Of each segment, whether an audit of it says `differs`."""
        return tuple(self.audited(segment)[0] == "differs" for segment in range(len(self.states) - 1))


def begin(number: int = 1, recipe: Recipe = RECIPE) -> Round:
    """A first round at a member that has the update of another run."""
    base = outer.first(replace(recipe, seed=recipe.seed + number))
    before = Round(recipe, "acme", 2, base, {}, {})
    old = weights.minus(honest(before, (base, {}), 0, recipe.inner_steps)[0], base)
    return Round(recipe, "acme", number, base, {}, old)


def play(turn: Round, cheat: Cheat = honest, cheated: int = 0) -> Played:
    """The round, in whose first so many segments this cheat is used. Tokens are named as the recipe asks for them."""
    recipe, state = turn.recipe, (turn.base, turn.memory)
    batches = data.Batches(data.load(TEXT), recipe, member=turn.member, round_=turn.number, rounds=ROUNDS)
    points, states, at = list[Point](), [state], ends(recipe)
    for number, (start, end) in enumerate(pairwise(at)):
        points.append(_point(start, batches.digest, state))
        state = (cheat if number < cheated else honest)(turn, state, start, end)
        states.append(state)
        for _ in range(start, end):
            batches.draw()
    points.append(_point(at[-1], batches.digest, state))
    sent = codecs.send(recipe.up, weights.minus(state[0], turn.base), {})
    trajectory = Trajectory(points=tuple(points), unsent_before=weights.digest({}), unsent=weights.digest(sent.unsent))
    receipt = _receipt(turn, trajectory, weights.digest(sent.values))
    hashed = hashlib.sha256(repr(receipt).encode()).hexdigest()
    return Played(turn, trajectory, tuple(states), receipt, hashed, _manifest(recipe))


def _point(step: int, data_: str, state: State) -> Point:
    return Point(step=step, data=data_, weights=weights.digest(state[0]), memory=weights.digest(state[1]))


def _receipt(turn: Round, trajectory: Trajectory, update: str) -> Receipt:
    tokens = tokens_asked(turn.recipe)
    return Receipt(
        seq=0,
        prev=FIRST,
        member=turn.member,
        node="1",
        run="r1",
        round=turn.number,
        opened=FIRST,
        base=weights.digest(turn.base),
        update=update,
        data=committed(SALT, trajectory.points[-1].data),
        trajectory=trajectory.root,
        build=build(RECIPE.precision, inner=turn.recipe.inner),
        tokens=tokens,
        steps=turn.recipe.inner_steps,
        flop=tokens * flop_per_token(turn.recipe),
        busy_ms=900,
        wall_ms=1_200,
        cpu_ms=1_000,
        device="cpu-core",
        devices=1,
        energy_mj=0,
        energy_method="none",
        memory_bytes=0,
        isolation="none",
        bytes_down=1_000,
        bytes_up=1_000,
        started_ms=1_000_500,
        ended_ms=1_001_700,
        witnessed_size=1,
        witnessed_root=FIRST,
    )


def _manifest(recipe: Recipe) -> Manifest:
    return Manifest(
        seq=0,
        prev=FIRST,
        run="r1",
        charter=FIRST,
        bundle=FIRST,
        recipe=recipe,
        members=("acme",),
        rounds=ROUNDS,
        deadline_ms=60_000,
        quorum=1,
        wait="all",
        late=0,
        patience=0,
        flop_per_token=flop_per_token(recipe),
        start=FIRST,
        base=FIRST,
        loss_unats=0,
        teacher=FIRST,
        steps=(),
    )


# What is measured.


def found_out(contradicted: tuple[bool, ...], hashed: str, logs: int, rounds: int = ROUNDS) -> float:
    """The share of so many logs that draw a contradicted segment of such a receipt within so many rounds."""
    found = 0
    for log in range(logs):
        for number in range(rounds):
            seed = hashlib.sha256(f"root {log} {number}".encode()).digest()
            receipt = hashlib.sha256(f"{hashed} {number}".encode()).hexdigest()
            segment = drawn(seed, receipt, len(contradicted))
            if segment is not None and contradicted[segment]:
                found += 1
                break
    return found / logs


def figures(*, audits: int = 1_000, logs: int = LOGS, repeats: int = 5) -> Figures:
    """Measure; a few minutes on one core, or seconds with small numbers."""
    torch.set_num_threads(1)
    turn = begin()
    segments = len(ends(turn.recipe)) - 1
    measured = dict[str, float]()
    for cheated in (1, segments // 2, segments):
        share = Fraction(cheated, segments)
        predicted = float(detection(AUDITED, share, ROUNDS))
        measured[f"predicted_{cheated}_of_{segments}"] = predicted
        for name, cheat in CHEATS.items():
            played = play(turn, cheat, cheated)
            # Chance alone moves what is measured this far, once in 15,000 times.
            noise_ = 4 * math.sqrt(predicted * (1 - predicted) / logs)
            measured[f"{name}_{cheated}_of_{segments}"] = found_out(played.contradicted, played.hashed, logs)
            assert abs(measured[f"{name}_{cheated}_of_{segments}"] - predicted) <= noise_, (name, cheated)
    measured |= {"audits": audits, "false_alarms": sum(_alarms(audits))}
    measured |= _across(max(2, audits // 50))
    return measured | {"overhead": overhead(repeats)}


def _alarms(audits: int) -> Iterator[bool]:
    """Of so many audits of honest members, each whether it was an alarm; rounds, segments and optimisers take turns."""
    done = 0
    for number in range(1, audits):
        inner = ("muon", "adamw")[number % 2]
        played = play(begin(number, replace(RECIPE, inner=inner, seed=number)))
        for segment in range(len(played.states) - 1):
            if done == audits:
                return
            done += 1
            yield played.audited(segment)[0] != "matches"


def _across(rounds: int) -> Figures:
    """Honest members and cheats whose machine has another instruction set, by the tolerance."""
    before = os.environ.get("ATEN_CPU_CAPABILITY")
    os.environ["ATEN_CPU_CAPABILITY"] = "default" if torch.backends.cpu.get_cpu_capability() != "DEFAULT" else "avx2"
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            there = pool.map(_elsewhere, range(1, rounds + 1))
    finally:
        if before is None:
            del os.environ["ATEN_CPU_CAPABILITY"]
        else:
            os.environ["ATEN_CPU_CAPABILITY"] = before
    right = [(played, played.audited(at)) for one, _ in there for played in [one] for at in range(len(one.states) - 1)]
    wrong = [played.audited(0) for _, many in there for played in many]
    assert there[0][0].receipt.build != build(RECIPE.precision)
    return {
        "across_audits": len(right),
        "across_false_alarms": sum(verdict == "differs" for _, (verdict, _) in right),
        "across_missed": sum(verdict != "differs" for verdict, _ in wrong),
        "across_cheats": len(wrong),
        **{
            f"across_honest_{inner}_ppm": max(ppm for played, (_, ppm) in right if played.turn.recipe.inner == inner)
            for inner in ("adamw", "muon")
        },
        "across_least_cheat_ppm": min(ppm for _, ppm in wrong),
    }


def _elsewhere(number: int) -> tuple[Played, list[Played]]:
    torch.set_num_threads(1)
    turn = begin(number, replace(RECIPE, inner=("muon", "adamw")[number % 2], seed=number))
    return play(turn), [play(turn, cheat, 1) for cheat in CHEATS.values()]


def overhead(repeats: int, recipe: Recipe = SMALL) -> float:
    """CPU of the points of a round / CPU of its steps, median of some rounds of the small recipe."""
    turn = replace(SMALL, inner_steps=recipe.inner_steps), outer.first(recipe)
    ratios = []
    for number in range(1, repeats + 1):
        training = Round(turn[0], "acme", number, turn[1], {}, {}).training((turn[1], {}), 0)
        steps = points = 0.0
        for end in ends(recipe):
            began = time.process_time()
            for _ in training.until(end):
                pass
            steps += (trained := time.process_time()) - began
            training.point()
            points += time.process_time() - trained
        ratios.append(points / steps)
    return statistics.median(ratios)


_SEGMENTS = len(ends(RECIPE)) - 1
_WHAT = {
    "predicted": "the formula: 1 - (1 - share/20)^20",
    "skips_steps": "found out within 20 rounds: makes all but the last step of a segment",
    "fewer_tokens": "the same: every step of a segment on its first batch",
    "smaller_batch": "the same: three sequences of four in each step",
    "replays_an_update": "the same: goes on along an update of another run",
    "copies_a_neighbour": "the same: a neighbour's training as its own",
    "noise": "the same: noise as long as an update",
}
MEANING = {
    **{
        f"{name}_{cheated}_of_{_SEGMENTS}": f"{what}; in {cheated} of {_SEGMENTS} segments"
        for cheated in (1, _SEGMENTS // 2, _SEGMENTS)
        for name, what in _WHAT.items()
    },
    "audits": "audits of honest members, each a segment done again on the same build",
    "false_alarms": "of these, not the same bits; at most 0",
    "across_audits": "audits of honest members with another instruction set, by the tolerance",
    "across_false_alarms": "of these, called different; at most 0",
    "across_cheats": "cheated segments from there",
    "across_missed": "of these, not called different",
    "across_honest_adamw_ppm": "the largest distance of an honest segment with AdamW inside; 100,000 are tolerated",
    "across_honest_muon_ppm": "and with Muon inside",
    "across_least_cheat_ppm": "the smallest of a cheated one",
    "overhead": "CPU of a receipt's commitments / CPU of the steps, small recipe; at most 0.02",
}


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.cheating", description="cheats, and how they are found out")
    parser.add_argument("--quick", action="store_true", help="few audits and logs, to see that all of it runs")
    parser.add_argument("--json", action="store_true", help="the figures only")
    chosen = parser.parse_args()
    report("cheating", figures(audits=20, logs=500, repeats=1) if chosen.quick else figures(), MEANING)


if __name__ == "__main__":
    main()
