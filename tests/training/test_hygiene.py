"""What an update counts: each way to count less, and who must not be hit by it."""

import hashlib
import weakref
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from world import TOY

from server import outer
from shared_models.lm import codecs, corpus, hygiene, weights
from shared_models.lm.hygiene import Judged, gram, judge
from shared_models.lm.robust import WHOLE

SEED = bytes(32)
SHAPES = {"a": (3, 4096), "b": (500,)}
RANDOM = np.random.default_rng(100)
TOWARDS = {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def update(number: int, noise: float = 1.5) -> dict[str, np.ndarray]:
    """One that leads towards the best point, and by chance elsewhere too; each number has its own chance."""
    random = np.random.default_rng(number)
    return {
        name: (0.1 * (tensor + noise * random.standard_normal(tensor.shape))).astype(np.float32)
        for name, tensor in TOWARDS.items()
    }


def harmless(cosines: np.ndarray, gains: np.ndarray, live: np.ndarray) -> list[int]:
    """As all trained as many steps."""
    return hygiene.harmless(cosines, gains, live, np.ones(len(gains)))


def copies(cosines: np.ndarray, shared: np.ndarray) -> list[list[int]]:
    return hygiene.copies(cosines, shared, np.ones(len(cosines)))


def loss(change: Mapping[str, np.ndarray] | None) -> float:
    """The mean square of how far it is to the best point."""
    left = [TOWARDS[name] - (0 if change is None else change[name]) for name in TOWARDS]
    return float(sum((each.astype(np.float64) ** 2).sum() for each in left) / sum(each.size for each in left))


def times(factor: float, what: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.float32(factor) * tensor for name, tensor in what.items()}


def four(**changed: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    return {name: changed.get(name, update(number)) for number, name in enumerate("abcd")}


def judged(updates, invited: int = 4, **changes: str) -> dict[str, Judged]:
    return judge(updates, replace(TOY, **changes), invited, SEED, loss)


def counts(found: Mapping[str, Judged]) -> list[tuple[str, int]]:
    return [(each.note, each.weight) for each in found.values()]


def test_honest_updates_count_alike_and_each_is_scored():
    found = judged(four())
    assert counts(found) == [("whole", WHOLE // 4)] * 4
    assert [each.gain_unats for each in found.values()] == [
        round(1e6 * (loss(None) - loss(update(n)))) for n in range(4)
    ]
    assert min(each.gain_unats for each in found.values()) > 0


def test_what_is_too_long_counts_as_one_and_a_half_times_the_median():
    found = judged(four(b=times(10, update(1))))
    middle = float(np.median(np.sqrt(gram(four()).diagonal())[[0, 2, 3]]))
    assert counts(found)[0] == ("whole", WHOLE // 4)
    assert found["b"].note == "clipped"
    length = 10 * np.sqrt(gram(four())[1, 1])
    assert found["b"].weight * length / (WHOLE / 4) == pytest.approx(1.5 * middle, rel=0.01)


def test_of_two_the_shorter_one_is_the_scale():
    found = judged({"a": update(0), "b": times(10, update(1))})
    assert counts(found) == [("whole", WHOLE // 2), ("clipped", pytest.approx(0.15 * WHOLE / 2, rel=0.02))]


@pytest.mark.parametrize("factor", [-3, -1, -0.5])
@pytest.mark.parametrize("liar", "abcd")
def test_what_is_turned_around_is_set_aside_and_nobody_else(liar, factor):
    found = judged(four(**{liar: times(factor, four()[liar])}))
    assert {name: (each.note, each.weight) for name, each in found.items()} == {
        name: ("harmful", 0) if name == liar else ("whole", WHOLE // 3) for name in "abcd"
    }
    assert found[liar].gain_unats < 0


def test_a_long_way_elsewhere_is_set_aside():
    found = judged(four(a={name: _noise(shape) for name, shape in SHAPES.items()}))
    assert found["a"].note == "harmful"
    assert counts(found)[1:] == [("whole", WHOLE // 3)] * 3


def test_who_has_text_like_nobody_elses_is_not_against_the_others():
    apart = np.array([[1, 0.5, 0.5, 0.06], [0.5, 1, 0.5, 0.06], [0.5, 0.5, 1, 0.06], [0.06, 0.06, 0.06, 1]])
    assert harmless(apart, np.array([0.3, 0.3, 0.3, 0.1]), np.arange(4)) == [0, 1, 2, 3]


def test_two_who_agree_on_everything_do_not_make_the_others_look_opposed():
    # As updates in `top64` are: honest ones nearly at right angles, and a copy.
    cosines = np.full((4, 4), 0.04) + 0.96 * np.eye(4)
    cosines[0, 1] = cosines[1, 0] = 1
    assert harmless(cosines, np.array([0.3, 0.3, 0.2, 0.1]), np.arange(4)) == [0, 1, 2, 3]


def test_what_is_worse_by_far_is_set_aside_wherever_it_points():
    cosines = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    everybody = np.arange(4)
    assert harmless(cosines, np.array([0.1, -0.3, 0.1, 0.1]), everybody) == [0, 1, 2, 3]
    assert harmless(cosines, np.array([0.1, -0.5, 0.1, 0.1]), everybody) == [0, 2, 3]


def test_what_points_elsewhere_and_helps_stays_and_so_does_what_is_worse_and_points_along():
    against = np.array([[1, -0.2, -0.2], [-0.2, 1, 0.4], [-0.2, 0.4, 1]])
    everybody = np.arange(3)
    assert harmless(against, np.array([0.29, 0.3, 0.3]), everybody) == [0, 1, 2]
    assert harmless(against, np.array([0.27, 0.3, 0.3]), everybody) == [1, 2]
    assert harmless(abs(against), np.array([0.0, 0.3, 0.3]), everybody) == [0, 1, 2]


def test_who_looks_opposed_only_beside_a_liar_stays():
    # Two honest ones, and one that is the first turned around: together they are against the second's neighbour.
    cosines = np.array([[1, 0.1, -1], [0.1, 1, -0.1], [-1, -0.1, 1]])
    assert harmless(cosines, np.array([0.05, 0.1, -0.4]), np.arange(3)) == [0, 1]


def test_agreement_is_the_cosine_with_the_sum_of_the_others():
    vectors = np.random.default_rng(1).standard_normal((3, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    others = vectors.sum(axis=0) - vectors
    expected = (vectors * others).sum(axis=1) / np.linalg.norm(others, axis=1)
    assert hygiene.agreement(vectors @ vectors.T) == pytest.approx(expected)
    assert np.isfinite(hygiene.agreement(np.array([[1.0, 0, 0], [0, 1, -1], [0, -1, 1]]))).all()  # Two that cancel.


def test_the_most_opposed_goes_first_and_the_others_are_looked_at_again():
    # The last is the first turned around, whose own gain is the least of the honest ones.
    cosines = np.array([[1, 0.3, 0.3, -1], [0.3, 1, 0.6, -0.3], [0.3, 0.6, 1, -0.3], [-1, -0.3, -0.3, 1]])
    assert harmless(cosines, np.array([0.05, 0.1, 0.1, -0.4]), np.arange(4)) == [0, 1, 2]


def test_in_a_round_of_harm_the_better_half_stays():
    opposed = 2 * np.eye(4) - np.ones((4, 4))
    stay = harmless(opposed, np.array([-9.0, -8.0, -7.0, -6.0]), np.arange(4))
    assert {2, 3} <= set(stay)


def test_a_loss_that_is_no_number_is_a_harm():
    broken = four()["b"]["a"][0, 0]
    found = judge(four(), TOY, 4, SEED, lambda each: np.nan if each is not None and each["a"][0, 0] == broken else 1.0)
    assert (found["b"].note, found["b"].gain_unats) == ("harmful", -1_000_000_000)


@pytest.mark.parametrize("huge", [1e9, np.inf])
def test_a_gain_has_its_bounds(huge):
    found = judge({"a": update(0)}, TOY, 1, SEED, lambda each: 0.0 if each is None else huge)
    assert found["a"].gain_unats == -1_000_000_000


def test_nothing_counts_nothing_and_slows_nobody_down():
    found = judged(four(c=times(0, update(2))))
    assert counts(found) == [("whole", WHOLE // 3)] * 2 + [("empty", 0)] + [("whole", WHOLE // 3)]
    assert counts(judged({name: times(0, update(0)) for name in "ab"})) == [("empty", 0)] * 2


@pytest.mark.parametrize(
    "disguise",
    [
        lambda each: each,
        lambda each: times(1.2, each),
        lambda each: {name: np.float32(factor) * each[name] for name, factor in (("a", 0.3), ("b", 1.2))},
        lambda each: codecs.send("int4", each, {}).values,
        lambda each: {name: tensor + 0.25 * tensor.std() * _noise(tensor.shape) for name, tensor in each.items()},
        lambda each: codecs.send("top64", each, {}).values,
    ],
)
def test_a_copy_and_its_original_count_as_one(disguise):
    found = judged(four(d=disguise(update(1))))
    assert [each.note for each in found.values()] == ["whole", "copied", "whole", "copied"]
    assert [each.weight for each in found.values()] == pytest.approx(
        [WHOLE / 3, WHOLE / 6, WHOLE / 3, WHOLE / 6], abs=1
    )


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def test_three_copies_share_one_share():
    found = judged({**four(), **{name: update(0) for name in "xy"}})
    assert [each.weight for each in found.values()] == [WHOLE // 12, *3 * [WHOLE // 4], *2 * [WHOLE // 12]]


def test_a_copy_turned_around_takes_nothing_from_its_original():
    found = judged(four(d=times(-1, update(1))))
    assert [each.note for each in found.values()] == ["whole", "whole", "whole", "harmful"]


def test_a_round_in_which_all_are_nearly_parallel_has_no_copies():
    close = {name: update(number, noise=0.1) for number, name in enumerate("abcd")}
    products = gram(close)
    lengths = np.sqrt(products.diagonal())
    assert (products / np.outer(lengths, lengths)).min() > 0.98
    assert counts(judged(close)) == [("whole", WHOLE // 4)] * 4


def test_of_two_updates_only_the_same_one_is_a_copy():
    cosines = np.array([[1, 0.95], [0.95, 1]])
    assert copies(cosines, np.eye(2)) == [[0], [1]]
    assert copies(np.full((2, 2), 1 - 1e-9), np.eye(2)) == [[0, 1]]


def test_where_all_are_nearly_parallel_a_little_nearer_is_no_copy():
    cosines = np.full((4, 4), 0.9) + 0.1 * np.eye(4)
    cosines[0, 1] = cosines[1, 0] = 0.95
    assert copies(cosines, np.eye(4)) == [[0], [1], [2], [3]]
    cosines[0, 1] = cosines[1, 0] = 0.98
    assert copies(cosines, np.eye(4)) == [[0, 1], [2], [3]]


def test_two_members_with_the_same_kind_of_text_are_no_copies():
    cosines = np.eye(4)
    cosines[0, 1] = cosines[1, 0] = 0.85
    assert copies(cosines, np.eye(4)) == [[0], [1], [2], [3]]


def test_what_is_compared_is_where_the_largest_values_are_and_their_signs():
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    assert hygiene.largest(zeros, SEED).size == 0
    marks = {*hygiene.largest(update(0), SEED).tolist()}
    assert len(marks) == 3 * 64 + 8  # One in 64 of three whole chunks, and of 500 values.
    assert marks == {*hygiene.largest(times(5, update(0)), SEED).tolist()}
    assert not marks & {*hygiene.largest(times(-1, update(0)), SEED).tolist()}
    value = min(abs(update(0)["b"][at // 2 - 3 * 4096]) for at in marks if at >= 2 * 3 * 4096)
    assert value == np.sort(abs(update(0)["b"]))[-8]


def test_only_some_chunks_are_looked_at_and_the_seed_says_which():
    large = {"x": update(0)["a"].reshape(-1).repeat(10)}
    looked = [{at // 2 // 4096 for at in hygiene.largest(large, seed)} for seed in (SEED, b"\1" * 32)]
    assert [len(each) for each in looked] == [4, 4]
    assert looked[0] != looked[1]


def test_a_copy_of_a_copy_is_in_their_group():
    shared, cosines = np.eye(4), np.eye(4)
    for one, other in ((0, 3), (3, 2)):
        shared[one, other] = shared[other, one] = 0.8
    assert copies(cosines, shared) == [[0, 2, 3], [1]]


def test_no_update_counts_more_than_its_cap():
    alone = {"a": update(0)}
    assert counts(judged(alone)) == [("capped", WHOLE // 2)]
    assert counts(judged(alone, influence="0.3")) == [("capped", 3 * WHOLE // 10)]
    assert counts(judged(alone, influence="0.1")) == [("capped", WHOLE // 4)]  # An equal share of four.
    assert counts(judged(alone, invited=1)) == [("whole", WHOLE)]
    assert counts(judged(alone, aggregate="krum")) == [("whole", WHOLE)]


def test_krum_takes_the_one_in_the_middle_and_no_pair_of_copies():
    places = np.array([0.0, 3, 5, 6, 6])
    products = np.outer(places, places)
    assert hygiene.krum(products, [[0], [1], [2], [3, 4]]).tolist() == [0, 0, 1, 0, 0]
    assert hygiene.krum(products, [[each] for each in range(5)]).tolist() == [
        0,
        0,
        0,
        1,
        0,
    ]  # Each vouched for by the other.
    assert hygiene.krum(products[2:, 2:], [[0], [1, 2]]).tolist() == [1, 0, 0]
    honest = {name: update(number, noise=0.5 + number) for number, name in enumerate("abcde")}
    found = judged(honest, invited=5, aggregate="krum")
    assert counts(found) == [("whole", WHOLE)] + [("outlier", 0)] * 4


def test_centred_clipping_is_what_it_is_in_the_space_of_the_updates():
    vectors = [np.concatenate([each.ravel() for each in update(number).values()]) for number in range(4)]
    vectors[3] = vectors[3] * -2
    shares = hygiene.centred(
        gram({str(number): {"x": each} for number, each in enumerate(vectors)}), [[0], [1], [2], [3]]
    )
    centre = np.zeros_like(vectors[0], np.float64)
    for _ in range(hygiene.CENTRINGS):
        apart = [each - centre for each in vectors]
        far = [np.linalg.norm(each) for each in apart]
        centre = (
            centre + sum(each * min(1, np.median(far) / length) for each, length in zip(apart, far, strict=True)) / 4
        )
    assert sum(share * each for share, each in zip(shares, vectors, strict=True)) == pytest.approx(
        centre, rel=1e-3, abs=1e-5
    )
    assert (shares > 0).all()
    assert 0.9 < shares.sum() <= 1
    assert shares[3] < 0.8 * shares[0]


def test_centred_clipping_goes_on_from_what_is_clipped_to_the_scale_of_the_round():
    long = judged(four(b=times(10, update(1))), aggregate="centred")
    scale = 1.5 * float(np.sqrt(np.sort(gram(four()).diagonal()[[0, 2, 3]])[1] / gram(four())[1, 1]))
    cut = judged(four(b=times(scale, update(1))), aggregate="centred")
    assert 10 * long["b"].weight == pytest.approx(scale * cut["b"].weight, rel=1e-3)
    assert [long[name].weight for name in "acd"] == pytest.approx([cut[name].weight for name in "acd"], rel=1e-3)


@pytest.mark.parametrize("rule", sorted(hygiene.RULES))
def test_weights_add_up_to_at_most_one(rule):
    for updates in (four(), four(a=times(100, update(0))), four(b=update(0)), four(d=times(0, update(0)))):
        found = judged(updates, aggregate=rule)
        assert 0 < sum(each.weight for each in found.values()) <= WHOLE
        assert list(found) == list(updates)


class Lazy(Mapping[str, np.ndarray]):
    """An update on a disk: a new tensor each time that it is read; how many there are at a time is noted."""

    alive = most = 0

    def __init__(self, update: dict[str, np.ndarray]) -> None:
        self._update = update

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._update[name].copy()
        Lazy.alive += 1
        Lazy.most = max(Lazy.most, Lazy.alive)
        weakref.finalize(tensor, Lazy._gone)
        return tensor

    @classmethod
    def _gone(cls) -> None:
        cls.alive -= 1

    def __iter__(self):
        return iter(self._update)

    def __len__(self) -> int:
        return len(self._update)


def test_however_many_there_are_two_tensors_are_held():
    many = {f"m{number}": update(number) for number in range(12)}
    lazily = {name: Lazy(each) for name, each in many.items()}
    assert judged(lazily, invited=12) == judged(many, invited=12)
    assert Lazy.most <= 2


def test_the_gram_matrix_is_every_product():
    vectors = np.stack([np.concatenate([each.ravel() for each in made.values()]) for made in four().values()])
    assert gram(four()) == pytest.approx(vectors.astype(np.float64) @ vectors.T.astype(np.float64))
    assert gram({}).shape == (0, 0)


# The hidden text.


def test_a_seed_draws_held_out_text_and_another_one_other_text():
    drawn = hygiene.hidden(SEED, 5, 16, corpus.held_out())
    assert (drawn.shape, drawn.dtype) == ((5, 17), np.int64)
    assert (drawn == hygiene.hidden(SEED, 5, 16, corpus.held_out())).all()
    assert (drawn != hygiene.hidden(b"\1" * 32, 5, 16, corpus.held_out())).any()
    tokens = corpus.held_out()
    start = int.from_bytes(hashlib.sha256(SEED + b"held out").digest()[:16], "big")  # As docs/protocol.md says.
    places = np.random.Generator(np.random.PCG64(start)).integers(0, tokens.size - 16, 5)
    assert [row.tolist() for row in drawn] == [tokens[place : place + 17].tolist() for place in places]


def test_the_loss_is_that_of_base_and_update_together():
    model, base = outer.model(TOY), outer.first(TOY)
    change = {name: 0.01 * _noise(tensor.shape) for name, tensor in base.items()}
    scored = hygiene.held_out_loss(model, base, hygiene.hidden(SEED, 20, TOY.context, corpus.held_out()))
    before, after = scored(None), scored(change)
    assert before == pytest.approx(np.log(256))  # A zero head.
    weights.put({name: base[name] + change[name] for name in base}, model)
    assert (scored(None), scored(change)) == (before, after)
    assert before != after


# Members with other steps.


def trained(steps: int, number: int, noise: float = 0.3) -> dict[str, np.ndarray]:
    """What so many steps come to, each a little towards the best point and by chance elsewhere."""
    random = np.random.default_rng(number)
    return {
        name: (0.01 * (steps * tensor + noise * steps**0.5 * random.standard_normal(tensor.shape))).astype(np.float32)
        for name, tensor in TOWARDS.items()
    }


@pytest.mark.parametrize("noise", [0.1, 0.3, 3, 30])
@pytest.mark.parametrize("aggregate", ["mean", "centred"])
@pytest.mark.parametrize("steps", [(20, 20, 20, 5), (20, 5, 5, 5), (64, 64, 4, 4), (50, 50, 50, 50, 1, 1, 1, 1)])
def test_who_trains_fewer_steps_or_more_is_whole(steps, aggregate, noise):
    updates = {f"m{number}": trained(each, number, noise) for number, each in enumerate(steps)}
    told = dict(zip(updates, steps, strict=True))
    found = judge(updates, replace(TOY, aggregate=aggregate), len(steps), SEED, loss, steps=told)
    assert {each.note for each in found.values()} == {"whole"}
    if aggregate == "mean":
        assert {each.weight for each in found.values()} == {WHOLE // len(steps)}


def test_without_that_the_fast_one_among_slow_ones_would_be_clipped():
    updates = {f"m{number}": trained(each, number) for number, each in enumerate((20, 5, 5, 5))}
    assert judge(updates, TOY, 4, SEED, loss)["m0"].note == "clipped"


def test_who_trains_few_steps_and_hands_in_what_is_as_long_as_many_is_clipped_to_what_few_can_be():
    steps = {"a": 16, "b": 16, "c": 16, "d": 4}
    updates = {name: trained(each, number) for number, (name, each) in enumerate(steps.items())}
    loud = judge({**updates, "d": times(16, updates["d"])}, TOY, 4, SEED, loss, steps=steps)
    assert loud["d"].note == "clipped"
    lengths = np.sqrt(gram({**updates, "d": times(16, updates["d"])}).diagonal())
    usual = sorted(lengths[:3])[1]  # Of four the lower median, with its own beside them: it says nothing for itself.
    assert loud["d"].weight == pytest.approx(WHOLE / 4 * 1.5 * usual / 2 / lengths[3], rel=1e-3)


@pytest.mark.parametrize("more", [1, 4, 25])
def test_how_long_an_update_may_be_lies_between_the_root_of_the_steps_and_the_steps(more):
    lengths, steps, live = np.array([2.0, 2.0, 2.0, 0.0]), np.array([1, 1, 1, more]), np.arange(3)
    assert hygiene.usual_lengths(lengths, steps, live).tolist() == [2, 2, 2, 2 * more]
    steps = np.array([more, more, more, 1])
    assert hygiene.usual_lengths(lengths, steps, live).tolist() == [2, 2, 2, 2 / more**0.5]


def test_a_quarter_of_the_steps_may_gain_a_quarter_and_four_times_as_many_may_harm_as_much():
    live, everybody = np.arange(3), np.eye(4)
    few, many = np.array([8.0, 8, 8, 2]), np.array([2.0, 2, 2, 8])
    gained, harmed = np.array([2.0, 2, 2, 0]), np.array([-0.2, -0.2, -0.2, 0])
    assert hygiene.usual_gains(gained, few, live).tolist() == [2, 2, 2, 0.5]
    assert hygiene.usual_gains(gained, many, live).tolist() == [2, 2, 2, 2]
    assert hygiene.usual_gains(harmed, few, live) == pytest.approx([-0.2] * 4)
    assert hygiene.usual_gains(harmed, many, live) == pytest.approx([-0.2, -0.2, -0.2, -0.8])
    assert hygiene.harmless(everybody, np.array([2.0, 2, 2, 0.1]), np.arange(4), few) == [0, 1, 2, 3]
    assert hygiene.harmless(everybody, np.array([2.0, 2, 2, -0.1]), np.arange(4), few) == [0, 1, 2]


def test_two_that_trained_longer_are_nearer_and_no_copies_and_a_copy_still_is_one():
    """As far apart as the noise of 1/steps is: of the first two much less than of the others."""
    steps = np.array([64.0, 64, 4, 4])
    apart = 0.2 * (1 / steps[:, None] + 1 / steps)
    cosines = 1 - apart * (1 - np.eye(4))
    assert hygiene.copies(cosines, cosines, np.ones(4)) == [[0, 1], [2], [3]]
    assert hygiene.copies(cosines, cosines, steps) == [[0], [1], [2], [3]]
    alike = np.full((4, 4), 0.95) + 0.05 * np.eye(4)  # Two that trained less may be no nearer than others.
    assert hygiene.copies(alike, alike, steps) == [[0], [1], [2], [3]]
    for one, other in ((0, 1), (2, 3), (0, 3)):
        stolen = cosines.copy()
        stolen[one, other] = stolen[other, one] = 0.9999
        assert [one, other] in hygiene.copies(stolen, stolen, steps)


def test_krum_takes_no_update_for_being_short():
    """A short one is near to all."""
    steps = {"a": 16, "b": 16, "c": 16, "d": 2}
    updates = {name: trained(each, number, 9) for number, (name, each) in enumerate(steps.items())}
    short = judge(updates, replace(TOY, aggregate="krum"), 4, SEED, loss)
    found = judge(updates, replace(TOY, aggregate="krum"), 4, SEED, loss, steps=steps)
    assert short["d"].weight == WHOLE
    assert (found["d"].note, sum(each.weight for each in found.values())) == ("outlier", WHOLE)
