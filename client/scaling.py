"""How the loss of a run falls with its tokens: a power law with a rest that no number of tokens takes away.

L(D) = E + B · D^-β (Hoffmann et al., arXiv:2203.15556, equation 2, for a model of one size). Fitted, as there, with a
Huber loss of a small delta on the deviations of log L; here these are taken as L' / L - 1, which is the same to first
order and makes E and B a linear least squares for each β. Then β alone is searched, on a grid, twice: the answer is
always the same, and needs neither a start nor a library. Floats: it is an estimate, and nobody is billed by it.
"""

from collections.abc import Sequence
from itertools import product
from math import exp, log
from typing import NamedTuple

from shared_models.records.refusals import Refusal, Refused

FEW = 12  # Rounds: from so many on, the shortest stretch that is fitted has as many points as the law has numbers.
WARM = 1 / 4  # Of a run, left out: weights are still near where they were drawn, and the rate is warmed up.
STARTS, ENDS = (1 / 8, 1 / 4, 3 / 8, 1 / 2), (3 / 4, 7 / 8, 1)  # Stretches of the run that the band is fitted to.
MANY = 200  # Points that are fitted, at most: of more, every second one, or third.
DELTA = 0.01  # A deviation beyond this counts by its size and not by its square: here 1 % of the loss.
TURNS = 12  # Of reweighting.

Points = Sequence[tuple[int, float]]  # (tokens so far, loss) after each round.


class Law(NamedTuple):
    """E, B and β of L(D) = E + B · (D / unit)^-β."""

    rest: float
    falls: float
    exponent: float
    unit: float  # Tokens.

    def loss(self, tokens: float) -> float:
        return self.rest + self.falls * exp(-self.exponent * log(tokens / self.unit))

    def tokens(self, loss: float) -> float | None:
        """How many it takes to come to this loss, up to e^600 times the unit; None: it never does."""
        if loss <= self.rest or self.falls <= 0:
            return None
        return self.unit * exp(max(-600.0, min(600.0, log(self.falls / (loss - self.rest)) / self.exponent)))


def fit(points: Points, *, rest: bool = True) -> Law:
    """The law of these points, three or more; without `rest`, that with E = 0."""
    unit = float(points[-1][0])
    scaled = [(tokens / unit, loss) for tokens, loss in points]
    coarse = min((_fitted(scaled, step / 20, rest) for step in range(1, 31)), key=lambda each: each[0])
    near = round(coarse[1].exponent * 20)
    fine = (_fitted(scaled, (10 * near + step) / 200, rest) for step in range(-9, 10))
    law = min((coarse, *fine), key=lambda each: each[0])[1]
    return law._replace(unit=unit)


def laws(run: str, points: Points) -> tuple[Law, tuple[Law, ...]]:
    """(what is expected, those of twelve stretches of the run, each with a rest and without).

    Raises `Refused(INFEASIBLE)` where there is no law: too few rounds, or a loss that does not fall.
    """
    if len(points) < FEW:
        raise Refused(Refusal.INFEASIBLE, f"{run} has closed {len(points)} rounds, {FEW - len(points)} too few")
    points = points[:: -(-len(points) // MANY)]
    many = len(points)
    expected = fit(points[int(WARM * many) :])
    stretches = tuple(
        fit(points[int(start * many) : int(end * many)], rest=rest)
        for start, end, rest in product(STARTS, ENDS, (True, False))
    )
    if expected.falls <= 0:
        raise Refused(Refusal.INFEASIBLE, f"the loss of {run} does not fall with its tokens: no law can be fitted")
    return expected, stretches


def _fitted(points: Sequence[tuple[float, float]], exponent: float, with_rest: bool) -> tuple[float, Law]:
    """(how far it is from the points, the best law with this exponent), by iteratively reweighted least squares."""
    known = [(tokens**-exponent, loss) for tokens, loss in points]
    weights, off = [1.0] * len(known), [0.0] * len(known)
    rest = falls = 0.0
    for _ in range(TURNS):
        one = x = xx = y = xy = 0.0
        for (power, loss), weight in zip(known, weights, strict=True):
            each = weight / loss**2
            one, x, xx = one + each, x + each * power, xx + each * power**2
            y, xy = y + each * loss, xy + each * power * loss
        rest, falls = (xx * y - x * xy) / (one * xx - x * x), (one * xy - x * y) / (one * xx - x * x)
        if rest < 0 or not with_rest:  # No loss is below zero.
            rest, falls = 0.0, xy / xx
        off = [abs((rest + falls * power) / loss - 1) for power, loss in known]
        weights = [min(1.0, DELTA / each) if each else 1.0 for each in off]
    cost = sum(each**2 / 2 if each <= DELTA else DELTA * (each - DELTA / 2) for each in off)
    return cost, Law(rest, falls, exponent, 1.0)
