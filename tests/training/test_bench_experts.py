"""The benchmark of members' experts, as a toy: every figure is measured, by the product's own runs."""

import pytest

from bench import experts

TOY = {"layers": 1, "heads": 2, "width": 16, "context": 16, "batch": 2, "inner_steps": 3, "segment": 2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_figure_is_told_and_the_worths_sum_to_what_all_gain():
    found = experts.found(rounds=2, given_rounds=1, **TOY)
    assert set(experts.told(found)) == set(experts.MEANING)
    losses = found.worth.losses
    assert len(losses) == 8
    everybody, nobody = losses[frozenset(experts.KINDS)], losses[frozenset()]
    assert sum(found.worth.shares().values()) == sum(nobody) - sum(everybody)
    assert 0 < min(found.default) <= max(found.default) < 6
