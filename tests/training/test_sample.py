"""Text that was sampled from a model: what repeats is dropped, and a round says how much of it was trained on."""

import hashlib
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from client import data, sample
from client.sample import New, hashes, sampled
from client.team import at_work
from client.training import Machine
from server import outer
from shared_models.lm import corpus, gpt, tokenizer, weights
from shared_models.records import canonical
from shared_models.records.kinds import FIRST
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.recipes import TOY

RECIPE = replace(TOY, width=32, context=32, layers=2, batch=4, inner_steps=6, segment=3)
torch.set_num_threads(1)
WHOLE = data.load("python-stdlib:0/3")
OWN = WHOLE[:20_000]
MADE = np.frombuffer(bytes(range(256)) * 40, np.uint8)
TURN = {"member": "acme", "round_": 1, "rounds": 2}
BUILD = "2.9.1/AVX2/1/float32/x86_64"


def said(text: bytes, **changes: object) -> data.Sample:
    whole = data.Sample(
        artefact="a5" * 32,
        grant=7,
        prompts=FIRST,
        seed=1,
        temperature="0.9",
        build=BUILD,
        beside="python-stdlib:0/3",
        documents=3,
        repeat_own=1,
        repeat_sampled=2,
        size=len(text),
        text=hashlib.sha256(text).hexdigest(),
    )
    return replace(whole, **changes)


def model(recipe=RECIPE, scale=1.0) -> gpt.GPT:
    """One that does not hold every token as likely."""
    made = outer.model(recipe, 1)
    with torch.no_grad():
        made.head.weight.normal_(0, scale, generator=torch.Generator().manual_seed(2))
    return made


# Sampling.


@pytest.mark.parametrize("changes", [{}, {"kv_heads": 1, "shared": 2}, {"feed": "swiglu", "experts": 4}])
def test_tokens_one_at_a_time_are_what_they_are_together(changes):
    recipe = replace(RECIPE, **changes, experts_per_token=2 if "experts" in changes else 0)
    made, tokens = model(recipe), torch.from_numpy(corpus.windows(OWN, np.array([5, 900]), 32))
    past = [[] for _ in range(made.depth)]
    with torch.no_grad():
        whole = made(tokens)[0]
        found = [made(tokens[:, :9], past)[0], *(made(tokens[:, at : at + 1], past)[0] for at in range(9, 32))]
    assert torch.allclose(torch.cat(found, 1), whole, atol=1e-4)
    assert past[0][0].shape == (2, recipe.kv_heads or recipe.heads, 32, 16)


def draw(seed: int, made=None, temperature: float = 1.0, prompts=MADE) -> list[bytes]:
    random = np.random.Generator(np.random.PCG64(seed))
    return list(sampled(made or model(), prompts, RECIPE.context, temperature, random))


def test_the_same_seed_samples_the_same_text_and_another_one_another():
    one = draw(1)
    assert [len(each) for each in one] == [sample.DOCUMENT] * sample.TOGETHER
    assert (draw(1) == one, draw(2) == one, len(set(one))) == (True, False, sample.TOGETHER)


def test_a_token_is_drawn_by_its_probability(monkeypatch):
    """The first one of many documents."""
    monkeypatch.setattr(sample, "DOCUMENT", 1)
    made = model()
    with torch.no_grad():
        logits = made(torch.tensor([[10]]))[0][0, 0].double() / 0.5
    likely = torch.softmax(logits, -1).numpy()
    firsts = [each[0] for seed in range(40) for each in draw(seed, made, 0.5, np.frombuffer(b"\n", np.uint8))]
    found = np.bincount(firsts, minlength=256) / len(firsts)
    assert np.abs(found - likely).max() < 4 * np.sqrt(likely.max() / len(firsts))
    assert found[likely.argmax()] > 0
    cold = {each[0] for each in draw(1, made, 1e-3, np.frombuffer(b"\n", np.uint8))}
    assert cold == {int(likely.argmax())}


def test_what_is_sampled_in_a_tokenizer_s_tokens_is_text_and_no_token_that_it_has_not(tmp_path):
    (tmp_path / "text").write_bytes(WHOLE[:100_000].tobytes())
    cut = tokenizer.Tokenizer(tokenizer.train([tmp_path / "text"], 300), "learnt")
    made = model(replace(RECIPE, vocabulary=320))  # There is room in it that no text needs.
    prompts = np.concatenate(list(cut.encode(MADE[:64])))
    random = np.random.Generator(np.random.PCG64(1))
    found = list(sampled(made, prompts, RECIPE.context, 1.0, random, cut))
    assert (len(set(found)), min(map(len, found)) >= sample.DOCUMENT) == (sample.TOGETHER, True)


# What repeats.


def random_bytes(seed: int, size: int = 512) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def test_every_window_has_its_hash_wherever_it_stands():
    text = np.frombuffer(random_bytes(1, 4000), np.uint8)
    found = hashes(text)
    assert found.size == text.size - 63
    assert len(set(found.tolist())) == found.size
    assert (hashes(text[100:400]) == found[100:337]).all()
    changed = text.copy()
    changed[200] ^= 1
    assert (hashes(changed) == found).nonzero()[0].tolist() == [*range(137), *range(201, found.size)]


def test_a_document_that_repeats_the_text_or_another_is_dropped_also_if_not_to_the_byte():
    own = random_bytes(1, 100_000)
    new = New(np.frombuffer(own, np.uint8))
    fresh, near = random_bytes(2), bytearray(random_bytes(2))
    near[250] ^= 1
    assert new.take(fresh)
    assert not new.take(fresh)
    assert not new.take(bytes(near))
    assert not new.take(own[5_000:5_512])
    assert not new.take(own[7_000:7_250] + random_bytes(3, 262))
    assert new.take(random_bytes(4, 470) + own[9_000:9_042])  # A line that both have.
    assert (new.documents, new.repeat_own, new.repeat_sampled) == (2, 2, 2)


def test_a_text_is_compared_where_its_pieces_meet_too(monkeypatch):
    monkeypatch.setattr(sample, "PIECE_BYTES", 256)
    own = random_bytes(1, 5_000)
    new = New(np.frombuffer(own, np.uint8))
    whole = set(sample.chosen(np.frombuffer(own, np.uint8)).tolist())
    assert set(new._own.tolist()) == whole
    assert New(np.empty(0, np.uint8)).take(b"short")


def test_it_is_given_up_when_hardly_anything_is_new():
    new = New(np.frombuffer(random_bytes(1), np.uint8))
    for _ in range(sample.FRUITLESS * sample.TOGETHER):
        assert not new.take(random_bytes(1))
        assert not new.fruitless
    new.take(random_bytes(1))
    assert new.fruitless


# What is trained on.


def mixed(text=MADE) -> data.Shard:
    return data.Shard(OWN, text, said(text.tobytes()).hash)


def batches(tokens=None, **changes: object) -> data.Batches:
    return data.Batches(mixed() if tokens is None else tokens, RECIPE, **(TURN | changes))


def test_a_sequence_is_of_one_text_and_each_place_of_both_is_as_likely():
    both = data.Shard(np.zeros(3_000, np.uint8), np.ones(1_000, np.uint8), "5a" * 32)
    drawn = data.Batches(both, replace(RECIPE, batch=4_000), **TURN).draw()
    assert drawn.shape == (4_000, 33)
    assert set(drawn.sum(1).tolist()) == {0, 33}
    assert drawn[:, 0].mean() == pytest.approx(967 / (967 + 2_967), abs=0.02)


def test_the_digest_of_a_round_says_how_many_of_its_tokens_are_synthetic():
    found, by_hand, synthetic = batches(), hashlib.sha256(), 0
    assert found.slice == data.Slice(
        tokens=by_hand.hexdigest(), sample=mixed().sample, trained=0, synthetic=0, picked=FIRST
    )
    for step in range(1, 7):
        batch = found.draw()
        by_hand.update(batch.astype(np.uint8).tobytes())
        synthetic += sum(32 for each in batch if each.astype(np.uint8).tobytes() in MADE.tobytes())
        assert (found.slice.trained, found.slice.synthetic) == (step * 4 * 32, synthetic)
    assert 0 < synthetic < 6 * 4 * 32
    assert found.slice.tokens == by_hand.hexdigest()
    line = f'{{"picked":"{FIRST}","sample":"{mixed().sample}","synthetic":{synthetic}'
    line += f',"tokens":"{by_hand.hexdigest()}","trained":768}}'
    assert found.digest == hashlib.sha256(line.encode()).hexdigest()
    assert (batches(OWN).slice, batches(OWN).digest) == (None, hashlib.sha256().hexdigest())


def test_a_synthetic_text_is_as_long_as_a_sequence_too():
    for short in (mixed()._replace(synthetic=MADE[:33]), mixed()._replace(own=OWN[:33])):
        with pytest.raises(Refused, match="the text holds 33 tokens; a sequence takes 33"):
            batches(short)
    batches(mixed()._replace(synthetic=MADE[:34])).draw()


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> tokenizer.Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "text").write_bytes(WHOLE[:100_000].tobytes())
    (folder / "file").write_bytes(tokenizer.train([folder / "text"], 400))
    return tokenizer.keep(folder / "file", folder)


def dropping(cut: tokenizer.Tokenizer, dropout: str, **changes: object):
    """Batches of a recipe that leaves merges out, and what it is."""
    recipe = replace(RECIPE, vocabulary=400, tokenizer=cut.name, merge_dropout=dropout)
    own = np.concatenate(list(cut.encode(OWN)))
    shard = data.Shard(own, cut=cut if dropout != "0" else None)
    return data.Batches(shard, recipe, **(TURN | changes)), recipe, shard


def test_sequences_are_cut_anew_each_round_otherwise_and_the_same_when_they_are_drawn_again(cut):
    plain, found, again = (dropping(cut, dropout)[0] for dropout in ("0", "0.3", "0.3"))
    other = dropping(cut, "0.3", round_=2)[0]
    differ = 0
    for _ in range(6):
        before, now = plain.draw(), found.draw()
        assert (now == again.draw()).all()
        assert now.shape == before.shape
        for one, two in zip(before.tolist(), now.tolist(), strict=True):
            assert cut.text(one).startswith(cut.text(two)) or one == two
            differ += one != two
        other.draw()
    assert differ > 20
    assert (found.digest, found.digest != other.digest) == (again.digest, True)


def test_a_sequence_of_which_too_few_tokens_would_come_stays_as_it_was(cut):
    """One that begins within a word: what is cut by itself may be fewer."""
    batches, *_ = dropping(cut, "0.000001")
    alone = cut.cut_anew(b"import importlib, itertools, inspect", 0.999999, Random(1))
    assert len(cut.cut_anew(cut.text(alone), 0.000001, Random(1))) < len(alone)
    assert batches._anew(np.array(alone), cut).tolist() == alone


def test_several_processes_leave_the_same_merges_out(cut):
    right, recipe, shard = dropping(cut, "0.3")
    with at_work(outer.first(recipe), recipe, shard, {}, machine=Machine(processes=2), **TURN) as training:
        list(training.until(2))
        found = training.data
    for _ in range(2):
        right.draw()
    assert found == right.digest


def test_several_processes_say_the_same_of_what_they_trained_on():
    found = []
    for machine in (Machine(), Machine(processes=2)):
        with at_work(outer.first(RECIPE), RECIPE, mixed(), weights.Weights(), machine=machine, **TURN) as training:
            assert len(list(training.until(3))) == 3
            found.append(training.data)
    right = batches()
    for _ in range(3):
        right.draw()
    assert found == [right.digest] * 2


def test_what_stands_beside_a_synthetic_text_tells_of_it_or_nothing_is_trained(tmp_path):
    file = tmp_path / "made"
    spec = {"recipe": RECIPE, "kept": data.NOWHERE}
    assert np.array_equal(data.shard("python-stdlib:0/3", None, **spec).own, WHOLE)
    with pytest.raises(Refused) as caught:
        data.shard("python-stdlib:0/3", file, **spec)
    assert caught.value.refusal is Refusal.NO_TEXT
    assert "made.json: No such file or directory; `consortium model sample` writes both" in caught.value.detail
    data.beside(file).write_bytes(canonical.encode(said(MADE.tobytes())) + b"\n")
    with pytest.raises(Refused, match="no_text"):
        data.sampled(file)
    file.write_bytes(MADE.tobytes())
    found = data.shard("python-stdlib:0/3", file, **spec)
    assert np.array_equal(found.own, WHOLE)
    assert (found.synthetic.tobytes(), found.sample) == (MADE.tobytes(), mixed().sample)
    file.write_bytes(MADE.tobytes()[:-1])
    with pytest.raises(Refused, match=r"corrupt: .*made is not the text of which .*made\.json tells"):
        data.sampled(file)
    data.beside(file).write_bytes(b"{}")
    with pytest.raises(Refused, match="corrupt"):
        data.sampled(file)
