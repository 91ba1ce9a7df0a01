"""Cooperative games: what each should pay when every coalition has declared what it would cost by itself.

For negotiations, disputes and certificates among few; the rules of `allocation` need no such table. Amounts are minor
units. A game of values, of which each wants much, is the game of its negatives here.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from itertools import product
from math import ceil, comb, factorial, floor, isqrt, lcm, prod
from operator import add, mul, sub
from typing import NamedTuple

from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.allocation import Shares, proportional

Amount = int | Fraction
MOST_PLAYERS = 20  # A million coalitions.
MOST_FOR_NUCLEOLUS = 10  # Half a second; each player more takes three times as long.


@dataclass(frozen=True, slots=True)
class Game:
    """What each coalition costs alone: `costs[mask]` / `parts`, where bit i of a mask stands for `players[i]`.

    Raises `Refused(BAD_FIELD)`, unless there are 1 to 20 players, each once, a cost for each of their 2^n coalitions,
    and the empty one costs nothing.
    """

    players: tuple[str, ...]
    costs: Sequence[int]
    parts: int = 1  # Costs are whole numbers of 1 / parts of a minor unit, so that all sums are of integers.

    def __post_init__(self) -> None:
        if not 1 <= len(set(self.players)) == len(self.players) <= MOST_PLAYERS:
            raise Refused(Refusal.BAD_FIELD, f"{len(self.players)} players: 1 to {MOST_PLAYERS}, each once")
        if len(self.costs) != 1 << len(self.players) or self.costs[0] != 0 or self.parts < 1:
            raise Refused(Refusal.BAD_FIELD, f"{len(self.costs)} costs: one for each of 2^n coalitions, the first zero")

    @classmethod
    def of(cls, costs: Mapping[frozenset[str], Amount]) -> "Game":
        """The game of a table with a cost for every coalition but the empty one. Raises `Refused(BAD_FIELD)`."""
        players = tuple(sorted(frozenset[str]().union(*costs)))
        if len(players) > MOST_PLAYERS:
            raise Refused(Refusal.BAD_FIELD, f"{len(players)} players: at most {MOST_PLAYERS}")
        parts = lcm(*(cost.denominator for cost in costs.values()))
        coalitions = [frozenset[str]()]
        for player in players:
            coalitions += [coalition | {player} for coalition in coalitions]
        known = {frozenset[str](): 0, **costs}
        if missing := next((each for each in coalitions if each not in known), None):
            raise Refused(Refusal.BAD_FIELD, f"the table has no cost for {' '.join(sorted(missing))}")
        return cls(players, [int(known[each] * parts) for each in coalitions], parts)

    @property
    def total(self) -> Fraction:
        """What all together cost."""
        return Fraction(self.costs[-1], self.parts)

    def members(self, mask: int) -> tuple[str, ...]:
        return tuple(player for number, player in enumerate(self.players) if mask >> number & 1)


def shapley(game: Game) -> Shares:
    """The mean over all orders of joining of what each one adds to the cost (Shapley, 1953); exact, in O(2^n).

    i adds c(S) - c(S without i) in (s-1)!(n-s)! of the n! orders. So a coalition's cost counts with that weight for
    each of its members, and with weight -s!(n-s-1)! for everybody else: summed up as if everybody were outside, what
    remains is a sum over the coalitions that hold i. Folding the list in halves gives that sum for every i.
    """
    n = len(game.players)
    outside = [factorial(size) * factorial(n - size - 1) for size in range(n)] + [0]
    either = [0] + [factorial(size - 1) * factorial(n - size) + outside[size] for size in range(1, n + 1)]
    sizes = list(map(int.bit_count, range(1 << n)))
    everybody = sum(map(mul, map(outside.__getitem__, sizes), game.costs))
    sums = list(map(mul, map(either.__getitem__, sizes), game.costs))
    shares = []
    for _ in game.players:
        half = len(sums) // 2
        shares.append(Fraction(sum(sums[half:]) - everybody, factorial(n) * game.parts))
        sums = list(map(add, sums[:half], sums[half:]))
    return dict(zip(game.players, reversed(shares), strict=True))


def shapley_by_class(sizes: Mapping[str, int], cost: Callable[[tuple[int, ...]], Amount]) -> Shares:
    """The Shapley value of one player of each class, where those of a class are alike; exact.

    `cost` takes how many of each class are in a coalition, in the order of `sizes`. It is asked for each such count
    twice a class, so hundreds of players are no trouble if they are of few classes.
    """
    n, shares = sum(sizes.values()), {}
    for number, name in enumerate(sizes):
        others = [size - (place == number) for place, size in enumerate(sizes.values())]
        share = Fraction(0)
        for counts in product(*(range(size + 1) for size in others)):
            joined = tuple(count + (place == number) for place, count in enumerate(counts))
            orders = factorial(sum(counts)) * factorial(n - sum(counts) - 1) * prod(map(comb, others, counts))
            share += orders * Fraction(cost(joined) - cost(counts))
        shares[name] = share / factorial(n)
    return shares


class Block(NamedTuple):
    """Units of a tariff that have one price: those behind the block before it, up to so many; the last has no end."""

    upto: Fraction | None
    price: Fraction


@dataclass(frozen=True, slots=True)
class Tariff:
    """What it costs to buy together: a fixed part, if anything is bought at all, and each unit by the block it is in.

    Amounts are minor units. Raises `Refused(BAD_FIELD)`, unless the blocks end one behind another and the last never.
    """

    fixed: Fraction
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        ends = [each.upto for each in self.blocks[:-1]]
        bounds = [Fraction(0), *(end for end in ends if end is not None)]
        if not self.blocks or self.blocks[-1].upto is not None or None in ends or bounds != sorted(set(bounds)):
            raise Refused(Refusal.BAD_FIELD, "each block of a tariff ends behind the one before it, and the last never")

    def cost(self, units: Amount) -> Fraction:
        """What so many units cost."""
        found, start = self.fixed if units else Fraction(0), Fraction(0)
        for end, price in self.blocks:
            here = Fraction(units if end is None else min(units, end)) - start
            found += price * max(Fraction(0), here)
            start = start if end is None else end
        return found

    def adds(self, units: Amount, others: Amount) -> tuple[Fraction, Fraction]:
        """The least and the most that these units add to any amount from none to that of all `others`.

        Behind the fixed part a cost has no jumps, only kinks: what is added is extreme at the ends, or where one of the
        two amounts is at a kink.
        """
        if not units:
            return Fraction(0), Fraction(0)
        kinks = [end for end, _ in self.blocks if end is not None]
        where = {0, others, *(at for end in kinks for at in (end, end - units) if 0 <= at <= others)}
        added = [self.cost(at + units) - (self.cost(at) if at else self.fixed) for at in where] if others else []
        added.append(self.cost(units))  # To nobody.
        return min(added), max(added)


class Estimate(NamedTuple):
    """A sampled value, and how far from the true one it may be: information, never an amount to be charged."""

    value: Fraction
    bound: Fraction


def sampled_shapley(
    cost: Callable[[frozenset[str]], Amount],
    ranges: Mapping[str, tuple[Amount, Amount]],
    samples: int,
    seed: bytes,
    risk: Fraction = Fraction(1, 20),
) -> dict[str, Estimate]:
    """The Shapley value of games too large to compute, from so many orders of joining, each drawn by hash of the seed.

    Except with probability `risk`, every bound holds at once (Hoeffding, 1963, and a union over players): the mean
    of m values within a range r is off by e or more with probability 2·exp(-2·m·e²/r²) at most. `ranges` says for
    each player between which amounts lies what it adds, whoever is there. Raises `Refused(BAD_FIELD)` where a
    sample shows that it does not, or there is none. Who can choose the seed can choose the outcome: take one that
    nobody knew when the costs were declared. The values sum to the cost of all together.
    """
    if samples < 1 or not 0 < risk < 1 or not ranges:
        raise Refused(Refusal.BAD_FIELD, "one sample at least, of one player at least, at a risk between 0 and 1")
    added = dict.fromkeys(ranges, Fraction(0))
    for sample in range(samples):
        order = sorted(ranges, key=lambda name: hashlib.sha256(b"%b|%d|%b" % (seed, sample, name.encode())).digest())
        before, coalition = Fraction(cost(frozenset())), set[str]()
        for player in order:
            coalition.add(player)
            after = Fraction(cost(frozenset(coalition)))
            low, high = ranges[player]
            if not low <= after - before <= high:
                raise Refused(Refusal.BAD_FIELD, f"{player} adds {after - before}, which is not in its range")
            added[player] += after - before
            before = after
    # Rounded up at each step, so that the bound is never less than it says.
    log = Fraction(Decimal(ceil(2 * len(ranges) / risk)).ln(Context(prec=28)).next_plus(Context(prec=28)))
    root = Fraction(isqrt(floor(log / (2 * samples) * 10**24)) + 1, 10**12)
    return {name: Estimate(added[name] / samples, root * (high - low)) for name, (low, high) in ranges.items()}


def scrb(total: Amount, alone: Mapping[str, Amount], without: Mapping[str, Amount]) -> Shares:
    """Separable costs, remaining benefits: each pays what it adds to all others, and the rest by what it still saves.

    It needs 2n + 1 quotes only: for all together, for each `alone`, and for all `without` it. Practice among water
    authorities since 1958 (Straffin and Heaney, International Journal of Game Theory 10(1), 1981). Coalitions of two
    or more may pay more than alone. Raises `Refused(BAD_FIELD)` if being here saves somebody less than nothing.
    """
    if alone.keys() != without.keys():
        raise Refused(Refusal.BAD_FIELD, "each member needs a quote alone and one without it")
    separable = {member: Fraction(total - cost) for member, cost in without.items()}
    rest = total - sum(separable.values(), Fraction(0))
    if not rest:
        return separable
    saved = {member: alone[member] - cost for member, cost in separable.items()}
    return {member: separable[member] + share for member, share in proportional(rest, saved).items()}


def by_table(rule: str, costs: Mapping[frozenset[str], Amount]) -> Shares:
    """Each player's part of 1, by a rule of `TABLE_RULES` on a declared table of costs.

    Raises `Refused(BAD_FIELD)`: as `Game.of`, as the rule, or if all together cost nothing.
    """
    game = Game.of(costs)
    if not game.total > 0:
        raise Refused(Refusal.BAD_FIELD, "by the table all together cost nothing: there is nothing to divide by")
    return {player: charge / game.total for player, charge in TABLE_RULES[rule](game).items()}


def _scrb_of_game(game: Game) -> Shares:
    everybody = len(game.costs) - 1
    alone = {player: Fraction(game.costs[1 << i], game.parts) for i, player in enumerate(game.players)}
    without = {player: Fraction(game.costs[everybody ^ 1 << i], game.parts) for i, player in enumerate(game.players)}
    return scrb(game.total, alone, without)


class Worst(NamedTuple):
    """The coalition with the least reason to stay: what it would pay alone, less its charges. Below zero, it blocks."""

    coalition: tuple[str, ...]
    slack: Fraction


def worst_coalition(game: Game, charges: Mapping[str, Amount]) -> Worst:
    """The worst of all coalitions but the whole. The charges are in the core if and only if its slack is not below 0.

    Of several the smallest, then the first by name. Raises `Refused(BAD_FIELD)` if these are no charges of this game.
    """
    slacks, parts = _slacks(game, charges)
    if slacks[-1]:
        raise Refused(Refusal.BAD_FIELD, f"the charges do not sum to {game.total}, the cost of all together")
    proper = range(1, max(2, len(slacks) - 1))  # One player alone is a coalition, though it is the whole.
    least = min(slacks[mask] for mask in proper)
    worst = min((mask.bit_count(), game.members(mask)) for mask in proper if slacks[mask] == least)
    return Worst(worst[1], Fraction(least, parts))


class Tight(NamedTuple):
    """A coalition that can be given no more without taking from another of its stage, and its part in showing that."""

    mask: int
    alone: bool  # Not its slack as a coalition is at its limit, but its one member pays what it would alone.
    multiplier: Fraction


Proof = tuple[tuple[Tight, ...], ...]


class Nucleolus(NamedTuple):
    """The charges, and what `certifies` needs to see that they are right without solving anything."""

    charges: Shares
    proof: Proof


def nucleolus(game: Game) -> Nucleolus:
    """The charges under which the worst coalition is as well off as can be, then the next worst, and so on; exact.

    Nobody pays more than alone. It is unique, and in the core if there is one: no other charges are harder to object
    to (Schmeidler, SIAM Journal on Applied Mathematics 17(6), 1969). Successive linear programs propose it (Maschler,
    Peleg and Shapley, 1979): from charges that are possible, move to where the least slack of the coalitions that are
    still free is greatest; those that keep it from rising, as the multipliers tell, are free no more. Raises
    `Refused(INFEASIBLE)` if all together cost more than each alone, `Refused(BAD_FIELD)` beyond 10 players.
    """
    n, whole = len(game.players), len(game.costs) - 1
    if n > MOST_FOR_NUCLEOLUS:
        raise Refused(Refusal.BAD_FIELD, f"{n} players: the nucleolus is computed for at most {MOST_FOR_NUCLEOLUS}")
    singles = [1 << number for number in range(n)]
    saved = sum(game.costs[mask] for mask in singles) - game.costs[whole]
    if saved < 0:
        more = Fraction(-saved, game.parts)
        raise Refused(Refusal.INFEASIBLE, f"all together cost {more} more than each alone")
    charges = {
        player: Fraction(n * game.costs[mask] - saved, n * game.parts)
        for player, mask in zip(game.players, singles, strict=True)
    }
    fixed, held, proof = _Span(), [whole], list[tuple[Tight, ...]]()
    fixed.add(_bits(whole, n))
    while len(fixed.rows) < n:
        slacks, parts = _slacks(game, charges)
        free = [mask for mask in range(1, whole) if _bits(mask, n) not in fixed]
        least = min(slacks[mask] for mask in free)
        # Charges change by z_i - z_n, where z >= 0; the least slack rises by z_(n+1); what is held stays as it is.
        limits = [(mask, 1, 1, slacks[mask] - least) for mask in free]
        limits += [(mask, 1, 0, slacks[mask]) for mask in singles]
        limits += [(mask, sign, 0, 0) for mask in held for sign in (1, -1)]
        rows = [
            [*(sign * bit for bit in _bits(mask, n)), -sign * mask.bit_count(), rises, limit]
            for mask, sign, rises, limit in limits
        ]
        moved, multipliers = _maximise(rows, [0] * (n + 1) + [1])
        for player, change in zip(game.players, moved, strict=False):
            charges[player] += (change - moved[n]) / parts
        stage = tuple(
            Tight(mask, not rises, multiplier)
            for (mask, _, rises, _), multiplier in zip(limits, multipliers, strict=True)
            if multiplier and mask not in held
        )
        for tight in stage:
            fixed.add(_bits(tight.mask, n))
        held += [tight.mask for tight in stage]
        proof.append(stage)
    assert certifies(game, charges, tuple(proof))
    return Nucleolus(charges, tuple(proof))


TABLE_RULES: dict[str, Callable[[Game], Shares]] = {
    "shapley": shapley,
    "scrb": _scrb_of_game,
    "nucleolus": lambda game: dict(nucleolus(game).charges),
}


def certifies(game: Game, charges: Mapping[str, Amount], proof: Proof) -> bool:
    """Whether this proves that the charges are the nucleolus, after Kohlberg (SIAM J. Appl. Math. 20(1), 1971).

    1. The charges sum to the cost of all together, and nobody pays more than alone.
    2. Call a coalition fixed if its charge follows from those of earlier stages, as that of all together does. In each
       stage, each coalition named has the least slack of all that are not fixed, or is one member that pays what it
       would alone.
    3. Its multipliers are above zero, and the coalitions times these sum to something fixed. So of all charges as in 1
       that leave the fixed as they are and no slack below the least, none gives one of them more: another would have
       less. Each that is named is fixed from then on.
    4. After the last stage everybody's charge is fixed.
    """
    slacks, _ = _slacks(game, charges)
    n, whole = len(game.players), len(game.costs) - 1
    if slacks[whole] or any(slacks[1 << number] < 0 for number in range(n)):
        return False
    fixed = _Span()
    fixed.add(_bits(whole, n))
    for stage in proof:
        least = min((slacks[mask] for mask in range(1, whole) if _bits(mask, n) not in fixed), default=0)
        for mask, alone, multiplier in stage:
            if multiplier <= 0 or mask not in range(1, whole) or (alone and mask.bit_count() > 1):
                return False
            if slacks[mask] != (0 if alone else least):
                return False
        if [sum(each.multiplier * (each.mask >> number & 1) for each in stage) for number in range(n)] not in fixed:
            return False
        for mask, _, _ in stage:
            fixed.add(_bits(mask, n))
    return len(fixed.rows) == n


def _slacks(game: Game, charges: Mapping[str, Amount]) -> tuple[list[int], int]:
    """What each coalition would pay alone less its charges, in so many parts of a minor unit.

    Raises `Refused(BAD_FIELD)` if the charges are not those of these players.
    """
    if charges.keys() != set(game.players):
        raise Refused(Refusal.BAD_FIELD, "the charges are not those of the players of this game")
    parts = lcm(game.parts, *(charge.denominator for charge in charges.values()))
    paid = [0]
    for player in game.players:
        charge = int(charges[player] * parts)
        paid += [other + charge for other in paid]
    factor = parts // game.parts
    return list(map(sub, (cost * factor for cost in game.costs), paid)), parts


def _bits(mask: int, n: int) -> list[int]:
    return [mask >> number & 1 for number in range(n)]


class _Span:
    """All vectors that are sums of multiples of those added."""

    def __init__(self) -> None:
        # Each begins with a 1, by whose place it is named, and is zero where earlier ones begin.
        self.rows: dict[int, list[Fraction]] = {}

    def __contains__(self, vector: Iterable[Amount]) -> bool:
        return not any(self._rest(vector))

    def add(self, vector: Iterable[Amount]) -> None:
        rest = self._rest(vector)
        if (place := next((place for place, value in enumerate(rest) if value), None)) is not None:
            self.rows[place] = [value / rest[place] for value in rest]

    def _rest(self, vector: Iterable[Amount]) -> list[Fraction]:
        rest = list(map(Fraction, vector))
        for place, row in self.rows.items():
            if factor := rest[place]:
                rest = [value - factor * other for value, other in zip(rest, row, strict=True)]
        return rest


def _maximise(rows: list[list[int]], gains: Sequence[int]) -> tuple[list[Fraction], list[Fraction]]:
    """The z >= 0 with the greatest gains·z of all where rows·z <= limits, and a multiplier for each row.

    A row ends in its limit, zero or more, so that z = 0 is a start. The simplex method on integers (Edmonds, 1967): a
    tableau over one denominator, which divides exactly; Bland's rule (1977), under which it ends.
    """
    width, over = len(gains), 1
    table = [*rows, [*(-gain for gain in gains), 0]]
    outside, inside = list(range(width)), list(range(width, width + len(rows)))
    while entering := [(name, column) for column, name in enumerate(outside) if table[-1][column] < 0]:
        column = min(entering)[1]
        bounding = [
            (Fraction(row[-1], row[column]), name) for row, name in zip(table, inside, strict=False) if row[column] > 0
        ]
        place = inside.index(min(bounding)[1])
        pivot = table[place][column]
        for number, row in enumerate(table):
            if number != place:
                factor = row[column]
                row[:] = [
                    (value * pivot - factor * other) // over for value, other in zip(row, table[place], strict=True)
                ]
                row[column] = -factor
        table[place][column], over = over, pivot
        outside[column], inside[place] = inside[place], outside[column]
    values = dict.fromkeys(range(width + len(rows)), Fraction(0))
    values |= {name: Fraction(row[-1], over) for name, row in zip(inside, table, strict=False)}
    multipliers = dict.fromkeys(range(width + len(rows)), Fraction(0))
    multipliers |= {name: Fraction(table[-1][column], over) for column, name in enumerate(outside)}
    return [values[name] for name in range(width)], [multipliers[width + number] for number in range(len(rows))]
