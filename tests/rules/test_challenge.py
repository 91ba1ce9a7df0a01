"""What a receipt commits to, and what the log then asks to see of it."""

import hashlib
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import TOY, digest

from shared_models.records import canonical
from shared_models.records.merkle import leaf_hash, node_hash
from shared_models.rules.challenge import AUDITED, Point, Trajectory, detection, drawn, ends

ZERO = "0" * 64
hashes = st.binary(min_size=32, max_size=32)


def point(step: int, **changes: str) -> Point:
    return Point(**{"step": step, "data": digest("d"), "weights": digest("w"), "memory": digest("m")} | changes)


TRAJECTORY = Trajectory(points=(point(0), point(2), point(3)), unsent_before=digest("b"), unsent=digest("u"))


def test_there_is_a_point_at_the_beginning_at_the_end_and_at_each_segment_between():
    assert ends(replace(TOY, inner_steps=3, segment=2)) == (0, 2, 3)
    assert ends(replace(TOY, inner_steps=4, segment=2)) == (0, 2, 4)
    assert ends(replace(TOY, inner_steps=3, segment=9)) == (0, 3)


def test_the_root_is_that_of_rfc_9162_over_each_point_and_the_remainders():
    a, b, c = (leaf_hash(canonical.encode(each)) for each in TRAJECTORY.points)
    d = leaf_hash(f"{digest('b')} {digest('u')}".encode())
    assert TRAJECTORY.root == node_hash(node_hash(a, b), node_hash(c, d)).hex()


@pytest.mark.parametrize("field", ["data", "weights", "memory"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_everything_in_a_point_is_bound(field, at):
    changed = list(TRAJECTORY.points)
    changed[at] = replace(changed[at], **{field: ZERO})
    assert replace(TRAJECTORY, points=tuple(changed)).root != TRAJECTORY.root


def test_the_remainders_and_the_order_of_points_are_bound():
    a, b, c = TRAJECTORY.points
    others = [
        replace(TRAJECTORY, unsent=ZERO),
        replace(TRAJECTORY, unsent_before=ZERO),
        replace(TRAJECTORY, points=(b, a, c)),
        replace(TRAJECTORY, points=(a, b)),
        replace(TRAJECTORY, points=(a, b, replace(c, step=4))),
    ]
    assert len({TRAJECTORY.root, *(each.root for each in others)}) == 6


# The draw.


@given(hashes, hashes, st.integers(1, 50))
def test_whoever_has_seed_and_receipt_draws_the_same_segment(seed, receipt, segments):
    found = drawn(seed, receipt.hex(), segments)
    assert found == drawn(seed, receipt.hex(), segments)
    assert found is None or 0 <= found < segments


def test_one_in_twenty_is_drawn_and_each_segment_as_often_as_another():
    """40,000 draws: 2,000 are expected, 500 of each segment; five standard deviations are 218 and 110."""
    found = [drawn(bytes(32), hashlib.sha256(b"%d" % each).hexdigest(), 4) for each in range(40_000)]
    asked = [each for each in found if each is not None]
    assert abs(len(asked) - 40_000 * AUDITED) < 218
    assert all(abs(asked.count(segment) - 500) < 110 for segment in range(4))


@given(hashes, st.integers(1, 9))
def test_all_are_drawn_at_one_none_at_zero_and_more_at_more(receipt, segments):
    seed = hashlib.sha256(receipt).digest()
    assert drawn(seed, receipt.hex(), segments, Fraction(1)) is not None
    assert drawn(seed, receipt.hex(), segments, Fraction(0)) is None
    if (found := drawn(seed, receipt.hex(), segments, Fraction(1, 3))) is not None:
        assert found == drawn(seed, receipt.hex(), segments, Fraction(1, 2))


def test_another_seed_draws_others():
    """What is drawn now says nothing of what another head would have drawn."""
    receipts = [digest(f"receipt {each}") for each in range(2_000)]
    one, other = ([drawn(digest(by).encode()[:32], each, 4) is not None for each in receipts] for by in "ab")
    assert abs(sum(map(all, zip(one, other, strict=True))) - 5) <= 12  # 1/400 of them, by chance.


def test_detection_is_the_chance_that_one_of_many_draws_hits():
    assert detection(Fraction(1, 20), Fraction(1), 1) == Fraction(1, 20)
    assert detection(Fraction(1, 2), Fraction(1, 2), 2) == Fraction(7, 16)
    assert detection(Fraction(1, 20), Fraction(0), 100) == 0
