"""A run whose tokens are a tokenizer's: trained, scored in nats per byte, repeated, audited; and what is refused."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it.
from parties import BUNDLE, Parties
from safetensors.numpy import load_file
from tokenizers import Tokenizer as Library
from world import TOY, World

from client import data, reexecute, steps
from client.worth import measure
from consortium.cli import main
from consortium.simulate import Result, simulate
from ledger.api import serving
from server import outer
from server.launch import propose, read_recipe
from shared_models import gguf
from shared_models.bundle import build
from shared_models.lm import corpus, gpt, hygiene, tokenizer, weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt, RoundOpen
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused

TWO = {"acme": 2, "birch": 1}
SIZE = 512
RECIPE = replace(TOY, vocabulary=SIZE, feed="swiglu", up="int4", inner="muon", outer="nesterov", outer_momentum="0.5")
WORDS = ("import os\n\n\ndef main(argv=None):\n    return 0  # naïve – 東京 🙂\n", " x", "a  b\r\n\tc ", "'s don't")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A tokenizer.json, learnt from a public shard."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "public").write_bytes(corpus.shard(2, 3)[:300_000].tobytes())
    (folder / "tokenizer.json").write_bytes(tokenizer.train([folder / "public"], SIZE))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("texts")
    for number, name in enumerate(TWO):
        (folder / name).write_bytes(corpus.shard(number, 3)[:200_000].tobytes() + b"\xff\n")
    return [folder / name for name in TWO]


@pytest.fixture(scope="module")
def run(tmp_path_factory, file, texts) -> Result:
    folder = tmp_path_factory.mktemp("run") / "parties"
    return simulate(folder, TWO, rounds=3, recipe=RECIPE, texts=texts, cut=file)


def leaves(run: Result) -> list[bytes]:
    return fetch(reader(str(run.founded.ledger / "log"))).leaves


def test_a_run_is_trained_and_scored_in_nats_per_byte(run, file):
    """By hand: the sum over the predicted tokens, by the softmax, over the bytes that the library says they are."""
    assert (run.report.findings, run.excluded, len(run.losses)) == ([], (), 4)
    recipe = run.manifest.recipe
    assert (recipe.tokenizer, recipe.vocabulary) == (tokenizer.read(file).name, SIZE)
    library = Library.from_file(str(file))
    whole = corpus.held_out().tobytes().decode("utf-8", "surrogateescape")
    tokens = tokenizer.read(file)
    numbers = np.concatenate(list(tokens.encode(corpus.held_out())))
    assert abs(len(library.encode(whole.encode(errors="replace").decode()).ids) - numbers.size) < 100
    starts = np.linspace(0, numbers.size - recipe.context - 1, 64).astype(int)
    sequences = np.stack([numbers[start : start + recipe.context + 1] for start in starts]).astype(np.int64)
    stands_for = sum(len(library.id_to_token(number)) for number in sequences[:, 1:].flatten())
    assert stands_for > 1.5 * sequences[:, 1:].size
    for loss, closed in zip(
        run.losses, [None, *(each.closed for each in run.report.books.runs["r1"].rounds)], strict=True
    ):
        if closed is None:
            nats = math.log(SIZE) * sequences[:, 1:].size  # Every token is equally likely at first.
        else:
            model = gpt.GPT(gpt.Shape.of(recipe))
            weights.put(
                load_file(run.founded.coordinator.path / "checkpoints" / f"{closed.checkpoint}.safetensors"), model
            )
            with torch.no_grad():
                logits = model(torch.from_numpy(sequences[:, :-1]))[0]
            right = torch.from_numpy(sequences[:, 1:])
            nats = -F.log_softmax(logits, -1).gather(-1, right[..., None]).sum().item()
        assert loss == pytest.approx(nats / stands_for, abs=2e-5)
    assert run.losses[-1] < run.losses[0] < math.log(SIZE) / 1.5


def test_a_byte_that_is_no_longer_one_token_weighs_what_it_did():
    """The same model, which knows nothing: of tokens of two bytes its loss per byte is half of that per token."""
    recipe = replace(TOY, vocabulary=300)
    model, base = outer.model(recipe), outer.first(recipe)
    sequences = np.tile(np.arange(recipe.context + 1), (16, 1))
    loss = hygiene.held_out_loss(model, base, sequences)(None)
    assert loss == pytest.approx(math.log(300), abs=1e-5)
    sizes = np.full(300, 2)
    assert hygiene.held_out_loss(model, base, sequences, sizes)(None) == pytest.approx(loss / 2, abs=1e-9)
    sizes[0] = 1000  # It is never predicted.
    assert hygiene.held_out_loss(model, base, sequences, sizes)(None) == pytest.approx(loss / 2, abs=1e-9)
    sizes[1] = 18
    assert hygiene.held_out_loss(model, base, sequences, sizes)(None) == pytest.approx(loss / 3, abs=1e-9)
    seed, tokens = bytes(32), np.arange(300, dtype=np.uint16)
    assert hygiene.hidden_loss(model, base, 16, seed, tokens, np.full(300, 4))(None) == pytest.approx(
        loss / 4, abs=1e-9
    )


def test_a_member_s_text_is_cut_once_and_before_any_round_and_each_trains_on_what_it_gave(run, file, texts):
    tokens = tokenizer.read(file)
    began_ms = next(each.opened_ms for each in map(entries.peek, leaves(run)) if isinstance(each, RoundOpen))
    for name, text in zip(TWO, texts, strict=True):
        home = run.founded.member(name)
        (made,) = home.tokens_path.rglob("*.tokens")
        assert made.stat().st_mtime_ns < began_ms * 1_000_000
        numbers = np.concatenate(list(tokens.encode(np.fromfile(text, np.uint8))))
        assert made.read_bytes() == numbers.astype("<u2").tobytes()
        batches = data.Batches(numbers, run.manifest.recipe, member=name, round_=1, rounds=3)
        drawn = [batches.draw() for _ in range(2)]
        assert batches.digest == hashlib.sha256(b"".join(each.astype("<u2").tobytes() for each in drawn)).hexdigest()


def test_who_keeps_a_tokenizer_has_its_text_cut_before_a_round_asks_for_it(run, file, capsys):
    home = run.founded.member("acme")
    (made,) = home.tokens_path.rglob("*.tokens")
    right = made.read_bytes()
    shutil.rmtree(home.tokens_path)
    assert main(["model", "tokenizer", str(file), "--home", str(home.path)]) == 0
    assert f"its text of 200,002 bytes is {len(right) // 2:,} tokens" in capsys.readouterr().out
    assert made.read_bytes() == right


def test_each_step_is_repeated_by_who_has_the_tokenizer(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.founded.coordinator.path, copy)
    said = steps.logged(leaves(run), "r1")
    assert [each.wrong for each in steps.repeat(said, copy)] == ["", "", ""]
    tokenizer.held.cache_clear()
    shutil.rmtree(copy / "tokenizers")
    assert ["not_set_up" in each.wrong and "and here is none" in each.wrong for each in steps.repeat(said, copy)] == [
        True
    ] * 3


def test_work_is_opened_and_repeated_to_the_bit_and_not_without_the_tokenizer(run, texts, tmp_path, capsys):
    hashed = {
        (each.member, each.round): leaf_hash(leaf).hex()
        for leaf in leaves(run)
        if isinstance(each := entries.peek(leaf), Receipt)
    }
    acme, birch = (run.founded.member(name) for name in TWO)
    opening, text = tmp_path / "opening", ["--text", str(texts[0])]

    def work(verb, home, *words) -> tuple[int, str, str]:
        with serving(run.founded.ledger, int(acme.settings.ledger.rpartition(":")[2])):
            code = main(["work", verb, "--home", str(home.path), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    assert work("open", acme, hashed["acme", 3], "--to", str(opening), "--segment", "1")[0] == 0
    code, out, _ = work("replay", birch, str(opening), *text, "--json")
    assert (code, json.loads(out)["verdict"], json.loads(out)["why"]) == (0, "matches", "the same bits")
    assert len(list(birch.tokens_path.rglob("*.tokens"))) == 2
    tokenizer.held.cache_clear()
    kept = birch.tokenizers_path.rename(tmp_path / "tokenizers")
    code, _, err = work("replay", birch, str(opening), *text)
    assert (code, "not_set_up" in err, "consortium model tokenizer FILE" in err) == (2, True, True)
    kept.rename(birch.tokenizers_path)
    (altered,) = acme.tokens_path.rglob("*.tokens")
    altered.write_bytes(altered.read_bytes()[:-2])
    code, _, err = work("open", acme, hashed["acme", 3], "--to", str(tmp_path / "again"), "--segment", "1")
    assert (code, "corrupt" in err, str(altered) in err, (tmp_path / "again").exists()) == (2, True, True, False)


def test_a_run_that_leaves_merges_out_is_repeated_to_the_bit_and_scored_without(file, texts, tmp_path, capsys):
    """What is scored is cut as ever: the first checkpoint, which knows nothing, has the loss that it has without."""
    recipe = replace(RECIPE, merge_dropout="0.2")
    found = simulate(tmp_path / "parties", TWO, rounds=2, recipe=recipe, texts=texts, cut=file)
    assert (found.report.findings, found.excluded) == ([], ())
    plain = simulate(tmp_path / "plain", TWO, rounds=2, recipe=RECIPE, texts=texts, cut=file)
    assert (found.losses[0], found.losses[1] != plain.losses[1]) == (plain.losses[0], True)
    acme, birch = (found.founded.member(name) for name in TWO)
    hashed = next(
        leaf_hash(leaf).hex()
        for leaf in leaves(found)
        if isinstance(each := entries.peek(leaf), Receipt) and (each.member, each.round) == ("acme", 2)
    )
    opening = tmp_path / "opening"
    with serving(found.founded.ledger, int(acme.settings.ledger.rpartition(":")[2])):
        words = ["work", "open", hashed, "--home", str(acme.path), "--to", str(opening), "--segment", "1"]
        assert main(words) == 0
        capsys.readouterr()
        words = ["work", "replay", str(opening), "--home", str(birch.path), "--text", str(texts[0]), "--json"]
        assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["why"] == "the same bits"
    shown = opening.read_bytes()
    manifest = replace(found.manifest, recipe=replace(found.manifest.recipe, merge_dropout="0"))
    receipt, earlier = (
        next(
            each
            for leaf in leaves(found)
            if isinstance(each := entries.peek(leaf), Receipt) and (each.member, each.round) == ("acme", number)
        )
        for number in (2, 1)
    )
    kept = data.Kept(birch.tokenizers_path, birch.tokens_path)
    with pytest.raises(Refused, match="gives none of the tokens that were signed"):
        reexecute.replay(shown, receipt, hashed, manifest, earlier, texts[0], cut=kept)


def test_a_recipe_that_leaves_merges_out_needs_a_tokenizer(file, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(f'vocabulary = {SIZE}\nmerge_dropout = "0.1"\n')
    with pytest.raises(Refused, match="bytes are merged by no tokenizer"):
        read_recipe(path)
    found = read_recipe(path, None, file)
    assert (found.merge_dropout, found.tokenizer) == ("0.1", tokenizer.read(file).name)


@pytest.fixture
def export(run, file, tmp_path, capsys):
    """Run `model export` of the run's last checkpoint: (exit code, what it printed, what it complained)."""
    reached = run.report.books.runs["r1"].checkpoint
    weights = run.founded.coordinator.path / "checkpoints" / f"{reached}.safetensors"

    def command(*words: object) -> tuple[int, str, str]:
        log = run.founded.ledger / "log"
        code = main(["model", "export", str(weights), "--log", str(log), *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_transformers_opens_what_is_written_out_with_its_tokenizer(run, file, export, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    transformers.utils.logging.disable_progress_bar()
    out = tmp_path / "out"
    assert export("--to", out, "--tokenizer", file)[0] == 0
    assert (out / "tokenizer.json").read_bytes() == file.read_bytes()
    assert f"those of tokenizer.json, {tokenizer.read(file).name}" in (out / "README.md").read_text()
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert (len(theirs), theirs.model_max_length, model.config.vocab_size) == (SIZE, RECIPE.context, SIZE)
    for text in WORDS:
        numbers = np.concatenate(list(tokenizer.read(file).encode(np.frombuffer(text.encode(), np.uint8))))
        assert theirs(text)["input_ids"] == list(numbers)
        assert theirs.decode(numbers) == text
    tokens, sizes = corpus.in_tokens(corpus.held_out(), 17, tokenizer.read(file))
    sequences = torch.from_numpy(hygiene.spread(64, RECIPE.context, tokens))
    with torch.no_grad():
        loss = model(sequences, labels=sequences).loss.item()
    stands_for = sizes[sequences[:, 1:]].sum()
    assert loss * sequences[:, 1:].numel() / stands_for == pytest.approx(run.losses[-1], abs=2e-5)


def test_a_file_for_llama_cpp_has_its_tokens_and_merges_and_its_losses_are_per_byte(run, file, export, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    transformers.utils.logging.disable_progress_bar()
    text = tmp_path / "text"
    text.write_bytes(corpus.held_out().tobytes())
    words = ("--to", tmp_path / "file.gguf", "--gguf", "f32", "--tokenizer", file, "--held-out", text)
    code, out, _ = export(*words)
    assert (code, f"{run.losses[-1]:.4f} as trained, {run.losses[-1]:.4f} in f32" in out) == (0, True)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="file.gguf", model_max_length=10**6)
    for text in WORDS:
        numbers = np.concatenate(list(tokenizer.read(file).encode(np.frombuffer(text.encode(), np.uint8))))
        assert theirs(text)["input_ids"] == list(numbers)
        assert theirs.decode(numbers) == text
    assert theirs.eos_token_id == tokenizer.read(file).tokens.index(tokenizer.shown(0xFF))
    changed = json.loads(file.read_bytes())
    changed["pre_tokenizer"]["use_regex"] = False
    odd = tokenizer.Tokenizer(json.dumps(changed).encode(), "odd")
    with pytest.raises(Refused, match="neither as GPT-2 does, nor") as caught:
        gguf.export({}, RECIPE, tmp_path / "odd.gguf", "f32", {}, None, odd)
    assert (caught.value.refusal, (tmp_path / "odd.gguf").exists()) == (Refusal.BAD_FIELD, False)


def test_it_is_not_written_out_without_its_tokenizer_or_with_another(file, export, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps(json.loads(file.read_bytes()), indent=1))
    for words, why in (
        ((), "error not_set_up: --tokenizer FILE: its tokens are those of sha256:"),
        (("--tokenizer", tmp_path / "other.json"), "error bad_field: --tokenizer "),
        (("--tokenizer", tmp_path / "none"), "error not_found: the tokenizer "),
    ):
        code, _, err = export("--to", tmp_path / "out", *words)
        assert (code, err.startswith(why), (tmp_path / "out").exists()) == (2, True, False), err
    with pytest.raises(Refused, match="vocabulary = 300"):
        tokenizer.given(file, tokenizer.read(file).name, 300)
    assert tokenizer.given(None, "bytes", 256) is None
    with pytest.raises(Refused, match="and the recipe has bytes"):
        tokenizer.given(file, "bytes", 256)


def test_what_an_expert_is_worth_is_measured_per_byte(file, tmp_path):
    """Of models that know nothing: each token is as likely as any."""
    plain = replace(TOY, vocabulary=SIZE, feed="swiglu", tokenizer=tokenizer.read(file).name)
    given = outer.first(plain)
    recipe, text = replace(plain, member_experts=2), tmp_path / "text"
    experts = {
        name: tensor.detach().numpy()
        for name, tensor in gpt.begun(gpt.Shape.of(recipe), given).named_parameters()
        if tensor.requires_grad
    }
    manifest = replace(World().manifest(recipe=recipe), members=("acme", "birch"))
    text.write_bytes(corpus.shard(1, 3)[:50_000].tobytes())
    tokens, sizes = corpus.in_tokens(corpus.given(text, 17), 17, tokenizer.read(file))
    right = hygiene.spread(64, recipe.context, tokens)[:, 1:]
    found = measure(experts, given, manifest, [text], tokenizer.read(file))
    nats = math.log(SIZE) * right.size / sizes[right].sum()
    assert [losses for (losses,) in found.losses.values()] == [pytest.approx(1e6 * nats, abs=2)] * 4


def test_who_lacks_the_tokenizer_or_has_another_or_cannot_read_it_does_not_consent(file, tmp_path, monkeypatch):
    named = tokenizer.read(file).name
    parties = Parties(tmp_path, replace(TOY, vocabulary=SIZE, tokenizer=named))
    signer, home = parties.signer("acme"), parties.founded.member("acme")

    def refused() -> Refused:
        with pytest.raises(Refused) as caught:
            signer.consent(parties.manifest_leaf, BUNDLE)
        assert list((home.path / "entries").glob("*.note")) == []
        return caught.value

    why = refused()
    assert (why.refusal, named in why.detail, "and here is none" in why.detail) == (Refusal.NOT_SET_UP, True, True)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(file.read_bytes()), indent=1))
    found = tokenizer.keep(other, home.tokenizers_path)
    why = refused()
    assert (why.refusal, f"here is {found.sha256[:12]}…" in why.detail) == (Refusal.NOT_SET_UP, True)
    tokenizer.keep(file, home.tokenizers_path)
    (home.tokenizers_path / named.removeprefix("sha256:")).write_bytes(other.read_bytes())
    assert refused().refusal is Refusal.CORRUPT
    tokenizer.keep(file, home.tokenizers_path)
    with monkeypatch.context() as without:
        without.setattr(tokenizer.importlib.util, "find_spec", lambda _: None)
        assert "pip install 'training-consortium[text]'" in refused().detail
    assert signer.consent(parties.manifest_leaf, BUNDLE)
    parties.log.close()


def test_a_tokenizer_of_another_size_than_the_vocabulary_starts_no_run_and_no_member_consents_to_one(file, tmp_path):
    with pytest.raises(Refused, match=r"vocabulary = 300, and the tokenizer .* has 512 tokens") as caught:
        simulate(tmp_path / "parties", TWO, recipe=replace(TOY, vocabulary=300), cut=file)
    assert caught.value.refusal is Refusal.BAD_FIELD
    named = tokenizer.read(file).name
    parties = Parties(tmp_path / "other", replace(TOY, vocabulary=300, tokenizer=named))
    home, places = parties.founded.member("acme"), {"tokenizers": parties.home.tokenizers_path}
    for folder in (home.tokenizers_path, places["tokenizers"]):
        tokenizer.keep(file, folder)
    with pytest.raises(Refused, match="vocabulary = 300"):
        parties.signer("acme").consent(parties.manifest_leaf, BUNDLE)
    told = {"rounds": 1, "quorum": 1, "deadline_ms": 1, "checkpoints": tmp_path}
    with pytest.raises(Refused, match="vocabulary = 300"):
        propose(parties.home.keyring.agreement, "r2", parties.manifest.recipe, build(), **told, **places)
    right = replace(parties.manifest.recipe, vocabulary=SIZE)
    manifest = propose(parties.home.keyring.agreement, "r2", right, build(), **told, **places)
    assert manifest.flop_per_token - parties.manifest.flop_per_token == 6 * TOY.width * (SIZE - 300)
    parties.log.close()


def test_what_checkpoints_are_scored_on_is_long_enough_in_tokens(file, tmp_path):
    tokens, text = tokenizer.read(file), tmp_path / "text"
    text.write_bytes(b"import re\n" * 2)
    assert corpus.in_tokens(corpus.given(text, 17), 17, None).tokens.size == 20
    with pytest.raises(Refused, match="tokens, too few to score by: 17") as caught:
        corpus.in_tokens(corpus.given(text, 17), 17, tokens)
    assert caught.value.refusal is Refusal.BAD_FIELD
    assert corpus.in_tokens(corpus.given(text, 17), 2, tokens).sizes is tokens.sizes
