"""How a pot of cost is divided. A rule takes a cost and each member's driver and says who is charged what, exactly.

A rule is one pure function: the cost in minor units and the drivers by member, in; the charges by member, out. They
sum to the cost; a driver of zero is charged nothing; the order of members does not matter. A new rule is one function
and a test.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction

Drivers = Mapping[str, Fraction]
Shares = dict[str, Fraction]


def proportional(cost: Fraction, drivers: Drivers) -> Shares:
    """Each pays in proportion to its driver: neutral to splitting one member into several."""
    total = sum(drivers.values())
    assert total > 0
    return {member: cost * driver / total for member, driver in drivers.items()}


def equal(cost: Fraction, drivers: Drivers) -> Shares:
    """Each member with a driver above zero pays the same."""
    payers = [member for member, driver in drivers.items() if driver > 0]
    assert payers
    return {member: cost / len(payers) if member in payers else Fraction(0) for member in drivers}


RULES: dict[str, Callable[[Fraction, Drivers], Shares]] = {"proportional": proportional, "equal": equal}
