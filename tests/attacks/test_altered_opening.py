"""A member that cheated opens something better than it had signed for; or somebody else opens something worse."""

from dataclasses import replace
from functools import cache

import pytest

from bench.cheating import Played, begin, play, skips_steps
from client import begun, reexecute
from shared_models.records import canonical
from shared_models.records.refusals import Refused


@cache
def honest() -> Played:
    return play(begin())


@cache
def cheated() -> Played:
    return play(begin(), skips_steps, 4)


def audit(shown: bytes, of: Played) -> reexecute.Found:
    return reexecute.replay(shown, of.receipt, of.hashed, of.manifest, None)


def test_a_training_that_was_made_afterwards_is_not_the_one_that_was_signed():
    """It trains honestly once it is asked, and shows that under the receipt of what it had sent."""
    shown = reexecute.write(
        replace(honest().opening(1), receipt=cheated().hashed),
        honest().turn.base,
        {},
        *honest().states[1:3],
        honest().states[-1][0],
    )
    with pytest.raises(Refused, match="wrong_opening"):
        audit(shown, cheated())


def test_right_states_under_the_signed_digests_are_refused():
    shown = reexecute.write(
        cheated().opening(1), cheated().turn.base, {}, *honest().states[1:3], cheated().states[-1][0]
    )
    with pytest.raises(Refused, match="wrong_opening"):
        audit(shown, cheated())


def test_another_segment_than_was_asked_for_says_which_it_is():
    """An audit.result names the segment that was repeated, and the log takes the one that it drew."""
    played = play(begin(), skips_steps, 1)
    assert audit(played.shown(3), played).verdict == "matches"
    assert reexecute.read(played.shown(3)).segment == 3


def test_nobody_can_make_an_honest_member_look_like_a_cheat():
    """Every change of an honest opening is refused: it is not held against the member who did not make it."""
    line, groups = begun.split(honest().shown(1))
    said = reexecute.read(honest().shown(1))
    point = replace(said.trajectory.points[1], weights="0" * 64)
    points = (said.trajectory.points[0], point, *said.trajectory.points[2:])
    others = [
        canonical.encode(replace(said, trajectory=replace(said.trajectory, points=points)))
        + b"\n"
        + begun.pack(**groups),
        line + b"\n" + begun.pack(**{**groups, "end": groups["start"]}),
        line + b"\n" + begun.pack(**{**groups, "trained": groups["base"]}),
        canonical.encode(replace(said, text="python-stdlib:2/3")) + b"\n" + begun.pack(**groups),
    ]
    for other in others:
        with pytest.raises(Refused):
            audit(other, honest())
    assert audit(line + b"\n" + begun.pack(**groups), honest()).verdict == "matches"
