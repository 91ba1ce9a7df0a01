"""What training alone costs: twenty-nine published runs, and what no run can be."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from shared_models.records.refusals import Refused
from shared_models.rules.quote import LN_10, Training, chip_hours, quote, value_after

FACTS = json.loads(
    (Path(__file__).parent.parent / "vectors" / "facts" / "training_costs.json").read_text(), parse_float=Fraction
)
RUNS = [dict(zip(FACTS["fields"], row, strict=True)) for row in FACTS["rows"]]


def training(run: dict[str, Fraction]) -> Training:
    return Training(
        chip_hours=run["chip_hours"],
        server_value=run["server_value_per_chip_at_training_start_usd"],
        server_overhead=run["server_cost_overhead"],
        chip_watt=run["chip_tdp_w"],
        server_power=run["chip_to_server_power"],
        load=run["server_tdp_fraction"],
        pue=run["pue"],
        price_per_kwh=run["electricity_usd_per_kwh"],
    )


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["model"])
def test_a_published_run_costs_what_was_published(run):
    found = quote(training(run))
    for part, published in (
        (found.chips, "cost_ai_chips_usd"),
        (found.servers, "cost_other_server_usd"),
        (found.network, "cost_interconnect_usd"),
        (found.energy, "cost_energy_usd"),
        (found.total, "cost_total_usd"),
    ):
        assert abs(part / run[published] - 1) < Fraction(1, 10**12)  # What a float can hold; asked were 10^-6.


def test_there_are_twenty_nine_of_them():
    assert len(RUNS) == 29


@pytest.mark.parametrize(
    ("flop", "peak", "hours"),
    # Published runs of which nothing but FLOP is known, at the median utilisation: AlphaGo Lee, GPT-3.5.
    [("1.9e21", "6.691e12", "210343.35785494058")],
)
def test_published_chip_hours_from_flop(flop, peak, hours):
    assert abs(chip_hours(Fraction(flop), Fraction(peak)) / Fraction(hours) - 1) < Fraction(1, 10**15)
    assert chip_hours(Fraction(7200), Fraction(4), Fraction(1, 2)) == 1


def test_value_falls_by_a_factor_of_ten_in_a_hundred_fourteenths_of_a_year():
    assert value_after(Fraction(100), Fraction(0)) == 100
    assert abs(value_after(Fraction(1), Fraction(100, 14)) - Fraction(1, 10)) < Fraction(1, 10**38)
    assert abs(value_after(Fraction(1), Fraction(50, 14)) ** 2 - Fraction(1, 10)) < Fraction(1, 10**38)


def test_the_one_constant_that_is_no_fraction_has_forty_digits():
    assert Fraction("2.302585092994045684017991454684364207601") == LN_10


def test_what_no_run_can_be_is_refused():
    run = training(RUNS[0])
    for name in ("chip_hours", "server_value", "chip_watt", "load", "price_per_kwh"):
        assert quote(replace(run, **{name: Fraction(0)})).total >= 0
        with pytest.raises(Refused, match=f"bad_field: {name} is -1, below 0"):
            replace(run, **{name: Fraction(-1)})
    for name in ("server_overhead", "server_power", "pue"):
        assert quote(replace(run, **{name: Fraction(1)})).total > 0
        with pytest.raises(Refused, match=f"bad_field: {name} is 9/10, below 1"):
            replace(run, **{name: Fraction(9, 10)})
    for peak, mfu in ((0, "0.5"), (-1, "0.5"), (1, "0"), (1, "1.01")):
        with pytest.raises(Refused, match="bad_field: no chip trains at"):
            chip_hours(Fraction(1), Fraction(peak), Fraction(mfu))
    assert chip_hours(Fraction(3600), Fraction(1), Fraction(1)) == 1
    with pytest.raises(Refused, match="bad_field: hardware cannot be used 1 years before"):
        value_after(Fraction(1), Fraction(-1))
