"""What a receipt commits to, and what the log then asks to see of it."""

import hashlib
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, TOY, World, digest

from shared_models.records import canonical
from shared_models.records.kinds import FIRST, Amendment, AuditResult, Excluded, Vote
from shared_models.records.merkle import leaf_hash, node_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import (
    AUDITED,
    TOLERANCE_PPM,
    Challenge,
    Point,
    Trajectory,
    auditors,
    check_verdict,
    detection,
    drawn,
    ends,
)

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


# What an auditor may say.


@pytest.fixture
def audited() -> tuple[World, Challenge]:
    """Work of birch that was drawn, and is not billed."""
    world = World()
    world.start()
    size, segment = world.drawn("birch")
    (found,) = world.books.challenges(("r1", 1, "birch"))
    assert (found.size, found.segment) == (size, segment) == (world.books.tree.size, segment)
    return world, found


def refused(world: World, author: str, result: AuditResult) -> Refusal:
    leaf, size = world.sign(author, result), world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.append(leaf)
    assert (world.books.tree.size, world.books.results) == (size, [])
    return caught.value.refusal


def test_other_members_and_the_coordinator_say_what_they_found_each_once(audited):
    world, found = audited
    first = world.result(found, "acme", verdict="differs", distance_ppm=999_999)
    said = [first, world.result(found, "cedar"), world.result(found, CONSORTIUM, verdict="unanswered")]
    for author, each in zip(("acme/compute", "cedar/compute", world.coordinator), said, strict=True):
        world.say(author, each)
    assert [each.verdict for _, each in world.books.results] == ["differs", "matches", "unanswered"]
    assert [at for at, _ in world.books.results] == [found.size, found.size + 1, found.size + 2]
    with pytest.raises(Refused, match="conflict"):
        world.say("acme/compute", world.result(found, "acme"))


def test_every_accepted_receipt_is_drawn_or_not_and_all_draw_alike(audited):
    world, found = audited
    every = list(world.books.challenges())
    assert [(each.run, each.round, each.member) for each in every] == [("r1", 1, name) for name in world.members]
    assert found in every
    for each in every:
        assert world.hashes().count(bytes.fromhex(each.receipt)) == 1
        assert each.segment == drawn(world.books.tree.root(each.size), each.receipt, 2)
        others = {*world.members} - {each.member}
        who = auditors(world.books.tree.root(each.size), each.receipt, others) if each.segment is not None else ()
        assert each.auditors == who


def test_two_others_are_drawn_to_repeat_it_each_as_often_as_another():
    others, seeds = [f"m{number}" for number in range(5)], [digest(f"{number}").encode()[:32] for number in range(500)]
    found = [auditors(seed, digest("receipt"), others) for seed in seeds]
    assert all(len({*each}) == 2 for each in found)
    counts = Counter(name for each in found for name in each)
    assert all(150 < counts[name] < 250 for name in others), counts  # 200 each; five standard deviations are 55.
    assert auditors(seeds[0], digest("receipt"), reversed(others)) == found[0]
    assert len({auditors(seeds[0], digest(f"{number}"), others) for number in range(50)}) > 10  # By the receipt, too.
    assert set(auditors(seeds[0], digest("receipt"), ["m1"])) == {"m1"}
    assert auditors(seeds[0], digest("receipt"), ()) == ()


@pytest.mark.parametrize(
    ("author", "auditor", "refusal"),
    [
        ("acme/admin", "acme", Refusal.WRONG_ROLE),
        ("acme/compute", "cedar", Refusal.WRONG_MEMBER),
        ("acme/compute", CONSORTIUM, Refusal.WRONG_ROLE),
        (f"{CONSORTIUM}/coordinator", "acme", Refusal.WRONG_ROLE),
        ("birch/compute", "birch", Refusal.WRONG_MEMBER),
    ],
)
def test_nobody_speaks_for_another_auditor_or_of_its_own_work(audited, author, auditor, refusal):
    world, found = audited
    assert refused(world, author, world.result(found, auditor)) is refusal


def test_only_what_the_log_drew_can_be_audited(audited):
    world, found = audited
    others = [each for each in world.books.challenges() if each.member == "cedar" and each.segment is None]
    lies = [
        {"segment": 1 - (found.segment or 0)},
        {"size": found.size - 1},
        {"receipt": digest("another")},
        {"round": 2},
        {"run": "r2"},
        {"member": "cedar"},
        *({"member": each.member, "receipt": each.receipt} for each in others),
    ]
    for changes in lies:
        assert refused(world, "acme/compute", world.result(found, "acme", **changes)) is Refusal.NOT_DRAWN, changes
    world.say("acme/compute", world.result(found, "acme"))


def test_work_that_does_not_count_is_not_audited():
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    hashes = {name: world.say(f"{name}/compute", world.receipt(name)) for name in world.members}
    late = hashes.pop("birch")
    world.say(world.coordinator, world.close(hashes, excluded=(Excluded(member="birch", reason="late"),)))
    size = world.books.tree.size
    asked = Challenge("r1", 1, "birch", late, size, drawn(world.books.tree.root(), late, 2))
    assert refused(world, "acme/compute", world.result(asked, "acme")) is Refusal.NOT_DRAWN


def test_when_work_can_no_longer_be_disputed_it_is_too_late_to_audit(audited):
    """It is billed, and another statement stands: a dispute would come too late too."""
    world, found = audited
    world.bill("2026-11")
    world.say("cedar/compute", world.result(found, "cedar"))
    world.bill("2026-12")
    assert list(world.books.challenges()) == []
    with pytest.raises(Refused, match="not_drawn"):
        world.say("acme/compute", world.result(found, "acme"))


def test_members_who_agree_that_bills_are_final_at_once_end_audits_of_what_is_billed(audited):
    world, found = audited
    world.bill("2026-11")
    shorter = replace(world.charter, objection=0)
    proposal = Amendment(
        seq=0, prev=FIRST, member="acme", amendment="final", replaces=world.books.agreement.hash, charter=shorter
    )
    hashed = world.say("acme/admin", proposal)
    assert found in list(world.books.challenges())
    for by in ("acme", "cedar"):
        world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice="yes"))
    assert refused(world, "acme/compute", world.result(found, "acme")) is Refusal.NOT_DRAWN


def test_a_verdict_is_what_its_distance_means():
    limit = TOLERANCE_PPM
    for verdict, right, wrong in (
        ("matches", [0], [1]),
        ("close", [1, limit], [0, limit + 1]),
        ("unanswered", [0], [1]),
        ("differs", [0, 1, limit + 1], []),
    ):
        for distance in right:
            check_verdict(verdict, distance)
        for distance in wrong:
            with pytest.raises(Refused, match="bad_field"):
                check_verdict(verdict, distance)


def test_the_log_holds_a_verdict_against_its_distance(audited):
    world, found = audited
    for changes in ({"distance_ppm": 1}, {"verdict": "close"}, {"verdict": "close", "distance_ppm": 100_001}):
        assert refused(world, "acme/compute", world.result(found, "acme", **changes)) is Refusal.BAD_FIELD
