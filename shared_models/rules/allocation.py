"""How a pot of cost is divided. A rule takes a cost and each member's driver and says who is charged what, exactly.

A rule is one pure function: the cost in minor units and the drivers by member, in; the charges by member, out. They
sum to the cost; a driver of zero is charged nothing; the order of members does not matter; what is given back (a cost
below zero) is divided as a cost would be. A new rule is one function and a test. A rule raises `Refused(BAD_FIELD)`
where a driver is below zero, or none is above it.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction

from shared_models.records.refusals import Refusal, Refused

Drivers = Mapping[str, Fraction]
Shares = dict[str, Fraction]


def proportional(cost: Fraction, drivers: Drivers) -> Shares:
    """Each pays in proportion to its driver: neutral to splitting one member into several. A refund divides so too."""
    total = sum(_payers(drivers).values())
    return {member: cost * driver / total for member, driver in drivers.items()}


def equal(cost: Fraction, drivers: Drivers) -> Shares:
    """Each member with a driver above zero pays the same. A refund divides so too."""
    payers = _payers(drivers)
    return {member: cost / len(payers) if member in payers else Fraction(0) for member in drivers}


def two_part(cost: Fraction, drivers: Drivers) -> Shares:
    """A quarter is paid equally by all who use it, the rest in proportion: being there costs something too."""
    fixed, metered = equal(cost / 4, drivers), proportional(cost * 3 / 4, drivers)
    return {member: fixed[member] + metered[member] for member in drivers}


def airport(cost: Fraction, drivers: Drivers) -> Shares:
    """Each step in size is paid equally by those who need at least that size; a driver is the size that one needs.

    For what must be as large as the largest user needs, and whose cost grows with it. This is the Shapley value of
    that game, and no coalition pays more than it would alone (Littlechild and Owen, Management Science 20(3), 1973).
    """
    payers = _payers(drivers)
    price = cost / max(payers.values())
    charges = dict.fromkeys(drivers, Fraction(0))
    charge = below = Fraction(0)
    for smaller, member in enumerate(sorted(payers, key=payers.__getitem__)):
        charge += price * (payers[member] - below) / (len(payers) - smaller)
        charges[member], below = charge, payers[member]
    return charges


RULES: dict[str, Callable[[Fraction, Drivers], Shares]] = {
    "proportional": proportional,
    "equal": equal,
    "two_part": two_part,
    "airport": airport,
}


def bounded(cost: Fraction, weights: Drivers, floors: Drivers, caps: Drivers) -> Shares:
    """Charges in proportion to the weights, but none below its floor or above its cap; exact water-filling.

    The weights may be another rule's charges. There is one level t with charge = clamp(weight · t, floor, cap) for
    every member such that the charges sum to the cost: each charge rises with t, so the level is found by going up
    through the points where one leaves its floor or meets its cap. Who has no floor named has zero; who has no cap
    named has none; who has no weight stays at its floor. Raises `Refused(INFEASIBLE)`, by how much, where the floors
    sum to more than the cost or the caps to less.
    """
    _check_cost(cost)
    payers = _above_zero(weights)
    if unknown := (floors.keys() | caps.keys()) - weights.keys():
        raise Refused(Refusal.BAD_FIELD, f"a floor or a cap is for {min(unknown)}, who has no weight")
    charges = {member: floors.get(member, Fraction(0)) for member in weights}
    for member, floor in charges.items():
        if not 0 <= floor <= caps.get(member, floor):
            raise Refused(Refusal.BAD_FIELD, f"the floor of {member}, {floor}, is below zero or above its cap")
    total = sum(charges.values(), Fraction(0))
    if total > cost:
        raise Refused(Refusal.INFEASIBLE, f"the floors sum to {total}, {total - cost} more than the cost")
    if payers.keys() <= caps.keys():
        most = total + sum(caps[member] - charges[member] for member in payers)
        if most < cost:
            raise Refused(Refusal.INFEASIBLE, f"the caps sum to {most}, {cost - most} less than the cost")
    turns = [(charges[member] / weight, weight) for member, weight in payers.items()]
    turns += [(caps[member] / weight, -weight) for member, weight in payers.items() if member in caps]
    level = slope = Fraction(0)  # At this level the charges sum to `total`, and rise by `slope` for each unit of level.
    for turn, change in sorted(turns):
        if total + slope * (turn - level) >= cost:
            break
        total, level, slope = total + slope * (turn - level), turn, slope + change
    if slope:
        level += (cost - total) / slope
    for member, weight in payers.items():
        charge = max(charges[member], weight * level)
        charges[member] = min(charge, caps.get(member, charge))
    return charges


def _payers(drivers: Drivers) -> Shares:
    """Those with a driver above zero. Raises `Refused(BAD_FIELD)` if there are none, or a driver is below zero."""
    if not (payers := _above_zero(drivers)):
        raise Refused(Refusal.BAD_FIELD, "nobody has a driver above zero: there is nobody to charge")
    return payers


def _above_zero(drivers: Drivers) -> Shares:
    for member, driver in drivers.items():
        if driver < 0:
            raise Refused(Refusal.BAD_FIELD, f"the driver of {member} is {driver}, below zero")
    return {member: driver for member, driver in drivers.items() if driver}


def _check_cost(cost: Fraction) -> None:
    if cost < 0:
        raise Refused(Refusal.BAD_FIELD, f"the cost is {cost}, below zero")
