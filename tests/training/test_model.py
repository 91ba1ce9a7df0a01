"""The model, the text and the weights: what the price is computed from, and what records name by digest."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from torch.utils.flop_counter import FlopCounterMode
from world import TOY

from client import data
from server import outer
from shared_models.lm import corpus, weights
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import matmul_parameters


def test_the_formula_counts_the_model_s_own_matrices():
    recipe = replace(TOY, layers=3, width=32, heads=4)
    model = outer.model(recipe)
    matrices = [each for name, each in model.named_parameters() if each.dim() == 2 and name != "embed.weight"]
    assert sum(each.numel() for each in matrices) == matmul_parameters(recipe)


def test_torch_s_own_counter_agrees_on_every_matrix_product():
    recipe = replace(TOY, layers=2, width=32, heads=4, context=24, batch=3)
    model = outer.model(recipe)
    tokens = torch.zeros(recipe.batch, recipe.context + 1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.loss(tokens).backward()
    # The counter does not see attention on a CPU; without it, it must count what the formula counts.
    seen = counter.get_total_flops() - sum(
        count for name, count in counter.get_flop_counts()["Global"].items() if "attention" in str(name)
    )
    assert seen == 6 * matmul_parameters(recipe) * recipe.batch * recipe.context


def test_a_fresh_model_guesses_every_byte_alike():
    recipe = replace(TOY, layers=2)
    assert outer.held_out_loss(outer.model(recipe), outer.first(recipe), recipe) == pytest.approx(5.545177, abs=1e-4)


def test_the_same_seed_gives_the_same_first_weights_and_another_gives_others():
    assert weights.digest(outer.first(TOY)) == weights.digest(outer.first(TOY))
    assert weights.digest(outer.first(TOY)) != weights.digest(outer.first(replace(TOY, seed=8)))


def test_no_token_sees_what_comes_after_it():
    model = outer.model(replace(TOY, layers=2), 3)
    torch.nn.init.normal_(model.head.weight)
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 9] = 200
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :9], after[0, :9])
    assert not torch.equal(before[0, 9:], after[0, 9:])


def test_the_order_of_tokens_matters():
    model = outer.model(replace(TOY, layers=2), 3)
    torch.nn.init.normal_(model.head.weight)
    one, other = torch.tensor([[5, 9, 7]]), torch.tensor([[9, 5, 7]])
    assert not torch.allclose(model(one)[0, -1], model(other)[0, -1])


# Weights.


def test_a_digest_names_names_shapes_and_every_bit():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    named = weights.digest(base)
    assert weights.digest(dict(reversed(base.items()))) == named
    changed = base["a"].copy()
    changed[1, 2] = -0.0
    for other in (
        base | {"a": base["a"].reshape(3, 2)},
        base | {"a": changed},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ):
        assert weights.digest(other) != named


def test_a_checkpoint_comes_back_from_the_disk_or_is_refused(tmp_path):
    first = outer.first(TOY)
    name = weights.keep(first, tmp_path)
    found = weights.stored(tmp_path, name)
    assert weights.digest(found) == name == weights.digest(first)
    assert (len(found), {*found}) == (len(first), {*first})
    with pytest.raises(KeyError, match="another"):
        found["another"]
    path = tmp_path / f"{name}.safetensors"
    good = path.read_bytes()
    for bad in (good[:-1], good[:9], b"", good[:-1] + b"\1", save({"w": np.zeros(1)})):
        path.write_bytes(bad)
        with pytest.raises(Refused) as caught:
            weights.stored(tmp_path, name)
        assert (caught.value.refusal, str(path) in caught.value.detail) == (Refusal.CORRUPT, True)
        assert weights.held(tmp_path, name) is None
    path.unlink()
    with pytest.raises(Refused) as caught:
        weights.stored(tmp_path, name)
    assert caught.value.refusal is Refusal.NO_CHECKPOINT


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.lists(st.integers(0, 3), max_size=3), max_size=6), st.randoms())
def test_what_is_written_tensor_by_tensor_is_what_the_library_writes_at_once(tmp_path_factory, shapes, random):
    folder = tmp_path_factory.mktemp("w")
    found = {name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(shapes.items())}
    names = list(found)
    random.shuffle(names)
    with weights.writing(folder, {name: tensor.shape for name, tensor in found.items()}) as writer:
        for name in names:
            writer.put(name, found[name])
    assert writer.digest == weights.digest(found)
    (path,) = folder.iterdir()
    assert path.name == f"{writer.digest}.safetensors"
    assert path.read_bytes() == save(found)


def test_weights_that_could_not_be_written_to_their_end_leave_nothing(tmp_path):
    with pytest.raises(KeyError), weights.writing(tmp_path, {"w": (1,)}) as writer:
        writer.put("other", np.zeros(1, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_weights_is_of_their_names_in_order():
    hashed = weights.Hash()
    hashed.add("b", np.zeros(1, np.float32))
    with pytest.raises(AssertionError):
        hashed.add("a", np.zeros(1, np.float32))


# Text.


def test_shards_are_of_whole_packages_and_nothing_of_them_is_held_out():
    shards = [corpus.shard(number, 3).tobytes() for number in range(3)]
    held_out = corpus.held_out().tobytes()
    assert all(len(shard) > 10**6 for shard in shards)
    assert len(held_out) > 10**5
    first = held_out[: held_out.index(b"\n", 500)]
    assert not any(first in shard for shard in shards)
    assert sum(b"class BaseEventLoop(" in shard for shard in shards) == 1


def test_uneven_shards_are_all_of_the_text_once_and_the_less_alike_the_smaller_alpha_is():
    whole = sum(corpus.shard(number, 4).size for number in range(4))

    def shards(alpha: float, seed: int = 1) -> list[np.ndarray]:
        return [data.load(f"python-stdlib:{number}/4,alpha={alpha},seed={seed}") for number in range(4)]

    def apart(shards) -> float:
        """How far the members' distributions of bytes lie from the one of all: total variation, the mean."""
        shares = [np.bincount(shard, minlength=256) / shard.size for shard in shards]
        return float(np.mean([np.abs(share - np.mean(shares, 0)).sum() / 2 for share in shares]))

    even, uneven = shards(100), shards(0.05)
    for each in (even, uneven):
        assert abs(sum(shard.size for shard in each) - whole) < 1000  # A newline between files is one between packages.
        assert sum(b"class BaseEventLoop(" in shard.tobytes() for shard in each) == 1
    assert max(shard.size for shard in even) < 1.2 * min(shard.size for shard in even)
    assert apart(uneven) > 2 * apart(even)
    corpus.uneven.cache_clear()
    assert [shard.tobytes() for shard in shards(0.05)] == [shard.tobytes() for shard in uneven]
    assert [shard.size for shard in shards(0.05, seed=2)] != [shard.size for shard in uneven]
    assert shards(0.001)[0].size > 0


def test_a_file_is_text_byte_by_byte_and_read_where_it_is_drawn_from(tmp_path):
    path = tmp_path / "a text"
    with path.open("wb") as file:
        file.truncate(10**12)  # A hole: more than this machine's memory, and nothing of its disk.
        file.seek(10**12 - 3)
        file.write(b"end")
    tokens = data.load(f"file:{path}")
    assert (tokens.size, tokens[-3:].tobytes(), tokens.dtype) == (10**12, b"end", np.uint8)
    batches = data.Batches(tokens, 17, seed=1, member="acme", round_=1)
    assert batches.draw(4).shape == (4, 17)
    path.write_bytes(b"abc")
    assert data.named(f"file:{path}") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert data.named("python-stdlib:0/3") == "python-stdlib:0/3"


@pytest.mark.parametrize(
    ("what", "why"), [("missing", "No such file"), ("empty", "cannot mmap an empty file"), ("folder", "Is a directory")]
)
def test_a_file_that_is_no_text_is_named(tmp_path, what, why):
    path = tmp_path / what
    if what == "empty":
        path.touch()
    elif what == "folder":
        path.mkdir()
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}'?: {why}"):
        data.load(f"file:{path}")
    if what != "empty":
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}'?: {why}"):
            data.named(f"file:{path}")


def test_the_same_seed_draws_the_same_batches_and_says_what_it_drew():
    tokens = data.load("python-stdlib:1/3")

    def drawn(**changes):
        batches = data.Batches(tokens, 17, **{"seed": 1, "member": "acme", "round_": 1} | changes)
        return batches.draw(4), batches.digest

    (one, digest), (same, again) = drawn(), drawn()
    assert np.array_equal(one, same)
    assert digest == again
    for change in ({"seed": 2}, {"member": "birch"}, {"round_": 2}):
        other, named = drawn(**change)
        assert not np.array_equal(one, other)
        assert named != digest


@pytest.mark.parametrize(
    "spec",
    [
        "python-stdlib",
        "python-stdlib:3/3",
        "python-stdlib:-1/3",
        "web:0/3",
        "",
        "python-stdlib:0/3,alpha=0.0,seed=1",
        "python-stdlib:0/3,alpha=-1,seed=1",
        "python-stdlib:0/3,alpha=1",
    ],
)
def test_data_that_is_not_there_is_refused(spec):
    with pytest.raises(ValueError, match="is not of the form"):
        data.load(spec)


def test_a_shard_shorter_than_a_sequence_is_refused():
    with pytest.raises(ValueError, match="a sequence takes 17"):
        data.Batches(np.zeros(17, np.uint8), 17, seed=1, member="acme", round_=1)
