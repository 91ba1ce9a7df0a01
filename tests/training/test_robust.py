"""From weighted updates to one: the sum in member order, and the rules of each coordinate."""

import numpy as np
import pytest

from shared_models.lm import robust
from shared_models.lm.robust import WHOLE, combine


def equal(count: int) -> list[int]:
    return [WHOLE // count] * count


@pytest.mark.parametrize("rule", ["mean", "centred", "krum"])
def test_a_sum_has_these_coefficients(rule):
    tensors = [np.full((2, 3), value, np.float32) for value in (4, 8, 16)]
    total = combine(rule, tensors, [WHOLE // 2, WHOLE // 4, WHOLE // 8])
    assert total.dtype == np.float32
    assert total.tolist() == [[6.0] * 3] * 2


def test_a_sum_reads_one_tensor_at_a_time_and_leaves_them_as_they_were():
    given = [np.full(2, value, np.float32) for value in (1, 2)]
    read = []

    def reading():
        for each in given:
            read.append(len(read))
            yield each

    assert combine("mean", reading(), equal(2)).tolist() == [1.5, 1.5]
    assert (read, [each.tolist() for each in given]) == ([0, 1], [[1, 1], [2, 2]])


@pytest.mark.parametrize(
    ("rule", "values", "result"),
    [
        ("median", [5], 5),
        ("median", [1, 3], 2),
        ("median", [1, 100, 3], 3),
        ("median", [1, 100, 3, -100], 2),
        ("trimmed", [5], 5),
        ("trimmed", [1, 3], 2),
        ("trimmed", [1, 100, 3], 3),
        ("trimmed", [1, 100, 3, -100], 2),
        ("trimmed", [1, 2, 3, 4, 100], 3),
        ("trimmed", [1, 2, 3, 4, 100, 100, -100, -100], 2.5),
    ],
)
def test_each_coordinate_loses_its_ends(rule, values, result):
    assert combine(rule, [np.float32([value]) for value in values], equal(len(values))).tolist() == pytest.approx(
        [result], rel=1e-6
    )


def test_a_shorter_update_is_cut_as_the_shorter_one():
    tensors = [np.float32([9]), np.float32([8]), np.float32([7])]
    assert combine("median", tensors, [WHOLE // 9, WHOLE // 3, WHOLE // 3]).tolist() == pytest.approx([7])


@pytest.mark.parametrize("rule", sorted(robust.COORDINATES))
def test_slices_make_no_difference_and_tensors_may_lie_on_a_disk(rule, tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    tensors = [random.standard_normal((7, 11)).astype(np.float32) for _ in range(5)]
    whole = combine(rule, tensors, equal(5))
    monkeypatch.setattr(robust, "SLICE", 10)
    for number, tensor in enumerate(tensors):
        np.save(tmp_path / f"{number}.npy", tensor)
    mapped = [np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(5)]
    assert combine(rule, mapped, equal(5)).tobytes() == whole.tobytes()
    assert whole.shape == (7, 11)
    ordered = np.sort(np.stack(tensors), axis=0)
    middle = ordered[2] if rule == "median" else ordered[1:4].mean(axis=0)
    assert whole == pytest.approx(middle, rel=1e-5)
