"""What an optimiser remembers from round to round: it comes back whole, to the run it is of, or not at all."""

from dataclasses import replace

import numpy as np
import pytest
from world import digest

from client import memory
from client.memory import Turn
from shared_models.lm import weights
from shared_models.records.refusals import Refusal, Refused

TURN = Turn(manifest=digest("manifest"), member="acme", round=3, base=digest("base"))
NEXT = replace(TURN, round=4, base=digest("next"))
REMEMBERED = {"w/step": np.array(7, np.float32), "w/exp_avg": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def folder(tmp_path):
    memory.keep(tmp_path / "memory", TURN, REMEMBERED)
    return tmp_path / "memory"


def refused(folder, turn: Turn) -> Refused:
    with pytest.raises(Refused) as caught:
        memory.recall(folder, turn)
    return caught.value


def test_the_next_round_begins_with_what_was_kept(folder):
    assert weights.digest(memory.recall(folder, NEXT)) == weights.digest(REMEMBERED)


def test_the_first_round_begins_with_nothing(tmp_path):
    assert memory.recall(tmp_path, replace(TURN, round=1)) == {}


def test_a_member_that_missed_a_round_starts_afresh(folder):
    assert memory.recall(folder, replace(NEXT, round=5)) == {}


def test_another_run_starts_afresh(folder):
    assert memory.recall(folder, replace(NEXT, manifest=digest("other"))) == {}


def test_a_round_that_is_asked_again_begins_as_it_did_before(folder):
    later = {"w/step": np.array(8, np.float32)}
    memory.keep(folder, NEXT, later)
    assert weights.digest(memory.recall(folder, NEXT)) == weights.digest(REMEMBERED)
    memory.keep(folder, replace(NEXT, round=5), later)
    assert sorted(path.name for path in folder.rglob("*.memory")) == ["4.memory", "5.memory"]


def test_a_round_that_is_asked_again_from_another_base_is_refused(folder):
    assert refused(folder, replace(TURN, base=digest("next"))).refusal is Refusal.WRONG_BASE


def moved(folder, **changes) -> None:
    """Put the file of the round before to where another one is looked for."""
    path, other = (folder / turn.manifest / f"{turn.round}.memory" for turn in (TURN, replace(TURN, **changes)))
    other.parent.mkdir(exist_ok=True)
    path.replace(other)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"manifest": digest("other")}, {"manifest": digest("other")}),
        ({}, {"member": "birch"}),
        ({"round": 4}, {"round": 5}),
    ],
)
def test_the_memory_of_another_run_member_or_round_is_refused(folder, changes, asked):
    moved(folder, **changes)
    caught = refused(folder, replace(NEXT, **asked))
    assert (caught.refusal, "is of acme, round 3" in caught.detail) == (Refusal.BAD_MEMORY, True)


def test_a_memory_cut_short_anywhere_or_changed_in_any_byte_is_refused(folder):
    (path,) = folder.rglob("*.memory")
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert refused(folder, NEXT).refusal is Refusal.BAD_MEMORY
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert refused(folder, NEXT).refusal is Refusal.BAD_MEMORY
    path.write_bytes(whole)
    assert memory.recall(folder, NEXT)
