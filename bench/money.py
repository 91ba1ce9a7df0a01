"""What it takes to divide costs and to settle: CPU time of the rules of money, exact, on the largest cases promised."""

import random
import subprocess
import sys
from fractions import Fraction
from math import comb

import numpy as np
import pandas
from numpy.typing import NDArray

from bench import Figures, cpu_us, report
from bench.period import billed
from shared_models.rules.allocation import airport
from shared_models.rules.games import Game, nucleolus, shapley
from shared_models.rules.netting import net_transfers

MEANING = {
    "statement_1m_s": "CPU-s for the statement of 1,000 members and a million receipts, the log read; limit 5",
    "statement_rss_mb": "peak memory of the process that does that, MB; limit 300",
    "close_120k_s": "CPU-s for that of 12 members and 120,000 receipts; limit 0.5",
    "pandas_ratio": "adding up the million / pandas' groupby and sum of the same rows",
    "netting_1000_ms": "CPU-ms to net 1,000 members into transfers; limit 50",
    "netting_14_ms": "CPU-ms to find the fewest transfers of 14 members",
    "airport_13k_s": "CPU-s to charge 13,000 members by the size each needs, exactly; limit 1",
    "shapley_16_s": "CPU-s for the exact Shapley value of 16 members' cost table; limit 0.2",
    "shapley_20_s": "CPU-s for that of 20 members, a million coalitions; limit 2",
    "shapley_numpy_ratio": "that / the same by numpy in float64, which is not exact",
    "nucleolus_10_s": "CPU-s for the nucleolus of 10 members, proven",
}


def figures() -> Figures:
    """Measure on tables and nets drawn from a fixed seed."""
    draw = random.Random(1)
    many, few = _nets(draw, 1000), _nets(draw, 14)
    sizes = {f"m{number}": Fraction(draw.randint(1, 10**9)) for number in range(13_000)}
    ten, sixteen, twenty = _game(draw, 10), _game(draw, 16), _game(draw, 20)
    costs = np.array(twenty.costs, np.float64)
    assert np.allclose(shapley_by_numpy(costs), [float(share) for share in shapley(twenty).values()])
    exact_us = cpu_us(lambda: shapley(twenty), 1, runs=3)
    seconds, megabytes = subprocess.run(  # By itself, so that its memory is its own.
        [sys.executable, "-m", "bench.period"], check=True, capture_output=True, text=True
    ).stdout.split()
    small, rows = billed(12, 10_000), billed(1_000, 1_000)
    frame = pandas.DataFrame(
        {
            "member": [name for inside, _ in rows.rounds for name in inside],
            "flop": [flop for inside, flop in rows.rounds for _ in inside],
        }
    ).astype({"member": "category"})
    by_pandas = frame.groupby("member", observed=True)["flop"].sum
    assert by_pandas().to_dict() == rows.accounts.flop(rows.end)
    return {
        "statement_1m_s": float(seconds),
        "statement_rss_mb": float(megabytes),
        "close_120k_s": cpu_us(small.statement, 1, runs=3) / 1e6,
        "pandas_ratio": cpu_us(lambda: rows.accounts.flop(rows.end), 1) / cpu_us(by_pandas, 1),
        "netting_1000_ms": cpu_us(lambda: net_transfers(many), 3) / 1e3,
        "netting_14_ms": cpu_us(lambda: net_transfers(few), 3) / 1e3,
        "airport_13k_s": cpu_us(lambda: airport(Fraction(10**12), sizes), 1, runs=3) / 1e6,
        "shapley_16_s": cpu_us(lambda: shapley(sixteen), 1) / 1e6,
        "shapley_20_s": exact_us / 1e6,
        "shapley_numpy_ratio": exact_us / cpu_us(lambda: shapley_by_numpy(costs), 1, runs=3),
        "nucleolus_10_s": cpu_us(lambda: nucleolus(ten), 1, runs=3) / 1e6,
    }


def shapley_by_numpy(costs: NDArray[np.float64]) -> list[float]:
    """The same by the formula of the textbook: what a player adds to each coalition, by the weight of its size."""
    n = costs.size.bit_length() - 1
    sizes = np.zeros(1, np.int64)
    for _ in range(n - 1):
        sizes = np.concatenate([sizes, sizes + 1])
    weights = np.array([1 / (n * comb(n - 1, size)) for size in range(n)])[sizes]
    tables = (costs.reshape(-1, 2, 1 << player) for player in range(n))
    return [float(weights @ (table[:, 1] - table[:, 0]).ravel()) for table in tables]


def _nets(draw: random.Random, parties: int) -> dict[str, int]:
    nets = {f"m{number}": draw.randint(-(10**8), 10**8) for number in range(parties - 1)}
    return nets | {"last": -sum(nets.values())}


def _game(draw: random.Random, players: int) -> Game:
    """A table in which together is cheaper than alone, the more the larger the coalition, but for chance."""
    alone, costs = [draw.randint(10**6, 10**8) for _ in range(players)], [0]
    for cost in alone:
        costs += [cost + other for other in costs]
    return Game(
        tuple(f"m{number:02}" for number in range(players)),
        [cost * draw.randint(90, 100) // (100 + 2 * mask.bit_count()) for mask, cost in enumerate(costs)],
    )


if __name__ == "__main__":
    report("money", figures(), MEANING)
