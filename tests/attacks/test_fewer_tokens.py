"""A member trains on less than it is paid for, one batch again and again or a part of each, and names the rest."""

import pytest

from bench.cheating import begin, fewer_tokens, play, smaller_batch


@pytest.mark.parametrize("cheat", [fewer_tokens, smaller_batch])
def test_naming_tokens_is_not_training_on_them(cheat):
    """Every point names the tokens that were asked for; the state is one that these do not lead to."""
    played = play(begin(), cheat, 2)
    honest = play(begin())
    assert [each.data for each in played.trajectory.points] == [each.data for each in honest.trajectory.points]
    assert played.contradicted == (True, True, False, False)
