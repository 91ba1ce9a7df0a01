"""What waiting for cheap or clean hours saves and takes, by the policy's own code; and what a spot machine loses.

`python -m bench.offpeak [--json]`. The prices are made up in the shape of a day-ahead market with much sun: dear in the
morning and more so in the evening, cheap at night and at noon, cheaper at the weekend, with a draw of each hour's own;
carbon follows. A run of 42 rounds of one hour, on one device of 350 W, begins on Monday at 8 o'clock: at once, and by
each rule. Money is electricity only; energy is the same whenever it is used.

A machine that is taken away: a round is broken off after each of its steps but the last, kept on a disk, and gone on
with; its update, its trajectory and its memory should be those of a round that nobody broke off.
"""

import datetime
import json
import random
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from bench import Figures, report
from client import data, half, policy
from client.memory import Turn
from client.train import BrokenOff, Trained, train
from server import outer
from shared_models.claims import Progress
from shared_models.lm import weights
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.recipes import SMALL

HOUR_MS, DAYS, ROUNDS, WATTS = 3_600_000, 14, 42, 350
WEEK = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)  # A Monday.
START_H = 8
SHAPE = (8, 7, 7, 7, 8, 10, 14, 20, 21, 17, 12, 9, 7, 6, 7, 10, 16, 24, 29, 27, 21, 15, 11, 9)  # Cents a kWh.
RULES = {"below": 'kwh_below = "0.10"', "cheapest": "cheapest_hours = 8", "clean": "carbon_below = 250"}
MEANING = {
    **{f"{name}_money": f"money for electricity with `{rule}` / at once" for name, rule in RULES.items()},
    **{f"{name}_carbon": f"CO2 equivalent with `{rule}` / at once" for name, rule in RULES.items()},
    **{f"{name}_time": f"hours from start to end with `{rule}` / at once" for name, rule in RULES.items()},
    "spot_resume_equal": "rounds broken off and gone on with that end in the same bits / all of them",
}


def week() -> bytes:
    """The signal: two weeks of hours."""
    draw, said = random.Random(7), []
    for hour in range(24 * DAYS):
        begin = WEEK + datetime.timedelta(hours=hour)
        cents = SHAPE[begin.hour] * (0.75 if begin.weekday() >= 5 else 1) * draw.uniform(0.85, 1.15)
        span = {"from": begin.isoformat(), "to": (begin + datetime.timedelta(hours=1)).isoformat()}
        said.append({**span, "kwh": f"{cents / 100:.4f}", "carbon": round(120 + 15 * cents)})
    return json.dumps({"hours": said}).encode()


def shifted(rules: str, signal: bytes) -> tuple[Fraction, Fraction, int]:
    """(money, grams, hours until its end) of the run by this policy: each round as soon as its lines let it begin."""
    with tempfile.TemporaryDirectory() as there:
        (Path(there) / "prices.json").write_bytes(signal)
        path = Path(there) / "policy.toml"
        path.write_text(f'[signal]\nfile = "prices.json"\n{rules}\n')
        found = policy.read(path)
    start_ms = round((WEEK + datetime.timedelta(hours=START_H)).timestamp() * 1000)
    now_ms, money, grams = start_ms, Fraction(0), Fraction(0)
    for _ in range(ROUNDS):
        if not all(each.allows for each in found.told([], now_ms)):
            opens_ms = found.opens_ms([], now_ms)
            assert opens_ms is not None, "the run does not end in two weeks"
            now_ms = opens_ms
        slot = found.tariff.at(now_ms)
        assert slot is not None
        assert slot.kwh is not None
        assert slot.carbon is not None
        money += slot.kwh * WATTS / 1000
        grams += slot.carbon * WATTS / 1000
        now_ms += HOUR_MS
    return money, grams, (now_ms - start_ms) // HOUR_MS


def resumed() -> float:
    """The share of rounds, each broken off after another step, that come to what the whole one does, to the bit."""
    recipe = replace(SMALL, inner_steps=12, segment=4)
    base, tokens = outer.first(recipe), data.load("python-stdlib:0/3")
    turn = Turn(manifest="0" * 64, member="acme", round=1, base=weights.digest(base))

    def round_(stop: int = 0, since: half.Half | None = None) -> Trained:
        def told(said: Progress) -> None:
            if said.tokens == stop * recipe.batch * recipe.context:
                raise Refused(Refusal.TAKEN_AWAY, "")

        return train(base, recipe, tokens, {}, member="acme", round_=1, rounds=2, report=told, report_s=0, since=since)

    whole, equal = round_(), 0
    with tempfile.TemporaryDirectory() as there:
        for stop in range(1, recipe.inner_steps):
            try:
                round_(stop)
            except BrokenOff as broken:
                half.keep(Path(there) / "half", turn, "", broken.half)
            since = half.recall(Path(there) / "half", turn, "")
            assert since is not None
            assert since.step == stop
            again = round_(since=since)
            equal += (again.points, again.data) == (whole.points, whole.data) and all(
                weights.digest(one) == weights.digest(other)
                for one, other in ((again.update, whole.update), (again.memory, whole.memory))
            )
    return equal / (recipe.inner_steps - 1)


def figures() -> Figures:
    """Ratios to training at once, and how often a round that was broken off comes to the same."""
    return {**waiting(), "spot_resume_equal": resumed()}


def waiting() -> Figures:
    """Ratios to training at once."""
    signal = week()
    money, grams, hours = shifted("", signal)
    found: dict[str, float] = {}
    for name, rule in RULES.items():
        its_money, its_grams, its_hours = shifted(rule, signal)
        found |= {f"{name}_money": float(its_money / money), f"{name}_carbon": float(its_grams / grams)}
        found[f"{name}_time"] = its_hours / hours
    return found


if __name__ == "__main__":
    report("offpeak", figures(), MEANING)
