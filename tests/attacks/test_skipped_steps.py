"""A member is paid for every step, and makes fewer: all but the last of a segment, in one segment or in all."""

from dataclasses import replace

import pytest

from bench.cheating import begin, play, skips_steps
from client import reexecute


@pytest.mark.parametrize("cheated", [1, 4])
def test_whoever_repeats_such_a_segment_comes_elsewhere_and_the_others_are_not_accused(cheated):
    played = play(begin(), skips_steps, cheated)
    assert played.contradicted == tuple(segment < cheated for segment in range(4))


def test_fewer_points_do_not_hide_it():
    """It says that there was one segment, and shows that one: but the recipe says how many there are."""
    played = play(begin(), skips_steps, 4)
    first, *_, last = played.trajectory.points
    trajectory = replace(played.trajectory, points=(first, last))
    receipt = replace(played.receipt, trajectory=trajectory.root)
    opening = replace(played.opening(0), trajectory=trajectory)
    ends = played.states[0], played.states[-1]
    shown = reexecute.write(opening, played.turn.base, {}, *ends, played.states[-1][0])
    assert reexecute.replay(shown, receipt, played.hashed, played.manifest, None).verdict == "differs"
