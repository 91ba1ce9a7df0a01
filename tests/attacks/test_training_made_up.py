"""A member trains nothing: it sends an old update again, a neighbour's, or noise, and signs for states between."""

from dataclasses import replace

import pytest

from bench.cheating import begin, copies_a_neighbour, noise, play, replays_an_update
from client import reexecute
from shared_models.lm import weights


@pytest.mark.parametrize("cheat", [replays_an_update, copies_a_neighbour, noise])
def test_states_that_no_step_led_to_are_found_in_every_segment(cheat):
    played = play(begin(), cheat, 4)
    assert played.contradicted == (True,) * 4


def test_who_trained_honestly_and_sent_something_else_is_found_in_every_audit():
    """It shows a training that was right; what it sent is an old update."""
    played = play(begin())
    receipt = replace(played.receipt, update=weights.digest(played.turn.old))
    for segment in range(4):
        found = reexecute.replay(played.shown(segment), receipt, played.hashed, played.manifest, None)
        assert (found.verdict, found.why) == ("differs", "its update is not what its training came to")
