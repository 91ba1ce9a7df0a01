"""What waiting for cheap or clean hours saves, and how much longer a run takes: a week, by the policy's own code.

`python -m bench.offpeak [--json]`. The prices are made up in the shape of a day-ahead market with much sun: dear in the
morning and more so in the evening, cheap at night and at noon, cheaper at the weekend, with a draw of each hour's own;
carbon follows. A run of 42 rounds of one hour, on one device of 350 W, begins on Monday at 8 o'clock: at once, and by
each rule. Money is electricity only; energy is the same whenever it is used.
"""

import datetime
import json
import random
import tempfile
from fractions import Fraction
from pathlib import Path

from bench import Figures, report
from client import policy

HOUR_MS, DAYS, ROUNDS, WATTS = 3_600_000, 14, 42, 350
WEEK = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)  # A Monday.
START_H = 8
SHAPE = (8, 7, 7, 7, 8, 10, 14, 20, 21, 17, 12, 9, 7, 6, 7, 10, 16, 24, 29, 27, 21, 15, 11, 9)  # Cents a kWh.
RULES = {"below": 'kwh_below = "0.10"', "cheapest": "cheapest_hours = 8", "clean": "carbon_below = 250"}
MEANING = {
    **{f"{name}_money": f"money for electricity with `{rule}` / at once" for name, rule in RULES.items()},
    **{f"{name}_carbon": f"CO2 equivalent with `{rule}` / at once" for name, rule in RULES.items()},
    **{f"{name}_time": f"hours from start to end with `{rule}` / at once" for name, rule in RULES.items()},
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


def train(rules: str, signal: bytes) -> tuple[Fraction, Fraction, int]:
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


def figures() -> Figures:
    """Ratios to training at once."""
    signal = week()
    money, grams, hours = train("", signal)
    found: dict[str, float] = {}
    for name, rule in RULES.items():
        its_money, its_grams, its_hours = train(rule, signal)
        found |= {f"{name}_money": float(its_money / money), f"{name}_carbon": float(its_grams / grams)}
        found[f"{name}_time"] = its_hours / hours
    return found


if __name__ == "__main__":
    report("offpeak", figures(), MEANING)
