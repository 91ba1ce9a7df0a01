"""What training would cost a member alone, on hardware of its own: the quote that caps its bill.

The amortised cost model of Epoch AI (Cottier et al., arXiv:2405.21015): hardware loses value by a fixed factor a year,
and a run pays what is lost while it lasts; then the network between the servers, and energy. Exact rationals of any
one currency, but for one constant, the natural logarithm of 10, which is taken to 40 digits.
"""

from dataclasses import dataclass, fields
from decimal import Context, Decimal
from fractions import Fraction

from shared_models.records.refusals import Refusal, Refused

_CONTEXT = Context(prec=40)
LN_10 = Fraction(Decimal(10).ln(_CONTEXT))
LOST = Fraction(14, 100)  # Orders of magnitude a year by which the price of the same performance falls.
HOURS_PER_YEAR = 8766
NETWORK = Fraction(19, 100)  # Of what a cluster costs, what connects its servers.
MFU = Fraction(375, 1000)  # Share of the peak that training reaches: the median of published runs.


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One run. Raises `Refused(BAD_FIELD)` where a number is below zero, or a ratio to a part below 1."""

    chip_hours: Fraction
    server_value: Fraction  # Of one chip and its share of the server, on the day that training starts.
    server_overhead: Fraction  # That value / the value of the bare chip: 1.66 for A100, 1.64 for most.
    chip_watt: Fraction  # Rated power (TDP).
    server_power: Fraction  # Rated power of the server / that of its chips: H100 51/28, A100 65/32, other GPUs 1.8.
    load: Fraction  # Power drawn / rated power: 0.75 for GPUs, 0.43 for TPUs.
    pue: Fraction  # Energy of the building / energy of the servers: 1.1 for the largest operators, 1.25 for others.
    price_per_kwh: Fraction

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name in ("server_overhead", "server_power", "pue") else 0
            if (given := getattr(self, field.name)) < least:
                raise Refused(Refusal.BAD_FIELD, f"{field.name} is {given}, below {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a run costs, by part."""

    chips: Fraction
    servers: Fraction  # Without the chips in them.
    network: Fraction
    energy: Fraction

    @property
    def total(self) -> Fraction:
        return self.chips + self.servers + self.network + self.energy


def quote(training: Training) -> Quote:
    """The amortised cost of this run.

    Value falls as 10^(-0.14 · years), so an hour takes 0.14 · ln 10 / 8766 of it.
    """
    hardware = training.server_value * LOST * LN_10 / HOURS_PER_YEAR * training.chip_hours
    chips = hardware / training.server_overhead
    kilowatt = training.chip_watt / 1000 * training.server_power * training.load * training.pue
    return Quote(
        chips=chips,
        servers=hardware - chips,
        network=hardware * NETWORK / (1 - NETWORK),
        energy=kilowatt * training.chip_hours * training.price_per_kwh,
    )


def value_after(price: Fraction, years: Fraction) -> Fraction:
    """What hardware is worth so many years after it was bought at this price; to 39 digits. Raises `Refused`."""
    if years < 0:
        raise Refused(Refusal.BAD_FIELD, f"hardware cannot be used {-years} years before it is bought")
    exponent = -years * LOST * LN_10
    return price * Fraction(_CONTEXT.divide(Decimal(exponent.numerator), Decimal(exponent.denominator)).exp(_CONTEXT))


def chip_hours(flop: Fraction, peak_flops: Fraction, mfu: Fraction = MFU) -> Fraction:
    """How long one chip would need. Raises `Refused(BAD_FIELD)` for what no chip can do."""
    if peak_flops <= 0 or not 0 < mfu <= 1:
        raise Refused(Refusal.BAD_FIELD, f"no chip trains at {mfu} of a peak of {peak_flops} FLOP/s")
    return flop / (peak_flops * mfu) / 3600
