"""What a member's training process finds again: after a restart, of this run, before this round, and whole."""

import numpy as np

from shared_models.lm import weights
from shared_models.lm.kept import Kept


def some(value: float) -> weights.Weights:
    return {"w": np.full((2, 3), value, np.float32)}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_checkpoint_is_found_again_by_its_digest_and_only_the_newest_is_kept(tmp_path):
    one, other = some(1), some(2)
    Kept(tmp_path, "r").keep_checkpoint(one)
    (tmp_path / "r" / "checkpoint" / ".half.safetensors.1.2").write_bytes(b"not written to its end")
    assert weights.digest(Kept(tmp_path, "r").checkpoint(weights.digest(one))) == weights.digest(one)
    assert Kept(tmp_path, "r").checkpoint(weights.digest(other)) is None
    Kept(tmp_path, "r").keep_checkpoint(other)
    assert Kept(tmp_path, "r").checkpoint(weights.digest(one)) is None
    assert [path.stem for path in files(tmp_path)] == [weights.digest(other)]
    Kept(tmp_path, "r").keep_checkpoint(other)
    assert len(files(tmp_path)) == 1


def test_a_checkpoint_that_is_not_whole_is_not_there(tmp_path):
    Kept(tmp_path, "r").keep_checkpoint(some(1))
    (path,) = files(tmp_path)
    good = path.read_bytes()
    for bad in (good[:-1], good[:5], b"", good[:-1] + b"\1"):
        path.write_bytes(bad)
        assert Kept(tmp_path, "r").checkpoint(path.stem) is None


def test_what_is_kept_of_another_run_is_neither_used_nor_left_lying(tmp_path):
    Kept(tmp_path, "old").keep_checkpoint(some(1))
    Kept(tmp_path, "old").keep_unsent(1, some(2))
    assert Kept(tmp_path, "new").checkpoint(weights.digest(some(1))) is None
    assert Kept(tmp_path, "new").unsent(2) == {}
    Kept(tmp_path, "new").keep_checkpoint(some(3))
    assert [path.stem for path in files(tmp_path)] == [weights.digest(some(3))]


def unsent(folder, round_: int) -> float | None:
    found = Kept(folder, "r").unsent(round_)
    return float(found["w"][0, 0]) if found else None


def test_a_round_sends_what_the_rounds_before_it_left_and_the_same_when_it_is_asked_for_again(tmp_path):
    assert unsent(tmp_path, 1) is None
    Kept(tmp_path, "r").keep_unsent(1, some(1))
    assert (unsent(tmp_path, 1), unsent(tmp_path, 2)) == (None, 1)
    Kept(tmp_path, "r").keep_unsent(2, some(2))
    assert (unsent(tmp_path, 2), unsent(tmp_path, 3)) == (1, 2)
    assert unsent(tmp_path, 9) == 2  # It was away for a while.
    Kept(tmp_path, "r").keep_unsent(9, some(9))
    Kept(tmp_path, "r").keep_unsent(10, some(10))
    assert (unsent(tmp_path, 10), unsent(tmp_path, 11)) == (9, 10)
    assert len(files(tmp_path)) == 2


def test_what_was_left_unsent_and_is_not_whole_is_forgotten_and_not_replaced_by_older(tmp_path):
    Kept(tmp_path, "r").keep_unsent(1, some(1))
    Kept(tmp_path, "r").keep_unsent(2, some(2))
    files(tmp_path)[1].write_bytes(b"x")
    assert unsent(tmp_path, 3) is None


def test_nothing_left_unsent_is_kept_too(tmp_path):
    Kept(tmp_path, "r").keep_unsent(1, some(1))
    Kept(tmp_path, "r").keep_unsent(2, {})
    assert unsent(tmp_path, 3) is None
