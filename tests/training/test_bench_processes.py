"""The benchmark of several processes inside a member, as a toy: every figure is measured, by the product's own team."""

from dataclasses import replace

import pytest
from world import TOY

from bench import processes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_figure_is_told():
    recipe = replace(TOY, layers=1, context=32, batch=4, inner_steps=6)
    found = processes.figures(recipe, recipe)
    assert set(found) == set(processes.MEANING)
    assert all(value > 0 for value in found.values())
