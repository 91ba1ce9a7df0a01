"""Text in tokens of more than a byte: what may be a tokenizer, what a text's tokens are, and the files they are in."""

import hashlib
import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from consortium.cli import main
from shared_models.lm import corpus, tokenizer
from shared_models.lm.tokenizer import PIECE_BYTES, TOGETHER, Tokenizer
from shared_models.records.refusals import Refusal, Refused

LETTERS = {tokenizer.shown(byte): byte for byte in range(256)}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A text to learn from."""
    path = tmp_path_factory.mktemp("words") / "text"
    path.write_bytes(corpus.held_out()[:200_000].tobytes())
    return path


@pytest.fixture(scope="module")
def learnt(words):
    return Tokenizer(tokenizer.train([words], 600), "learnt")


def text(data):
    return np.frombuffer(data, np.uint8)


def together(found, numbers):
    return bytes(LETTERS[letter] for number in numbers for letter in found.tokens[number])


def test_the_same_texts_make_the_same_tokenizer_whatever_the_threads(words, learnt, tmp_path):
    code = "from pathlib import Path; from shared_models.lm import tokenizer as t; import sys\n"
    code += f"sys.stdout.buffer.write(t.train([Path({str(words)!r})], 600))"
    for threads in ("1", "3"):
        env = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
        assert hashlib.sha256(done.stdout).hexdigest() == learnt.sha256
    other = tmp_path / "other"
    other.write_bytes(words.read_bytes()[1000:])
    assert tokenizer.train([other], 600) != learnt.data


def test_tokens_put_together_are_the_text_again_whatever_it_holds_and_each_stands_for_its_bytes(learnt):
    noise = random.Random(1).randbytes(3000)
    for data in (
        b"",
        b"a",
        b"\xff",
        "naïve – 東京\n".encode(),
        b"\xe2\x80" + b"ab\xed\xb2\x80cd\xc3",
        noise,
        bytes(range(256)),
    ):
        numbers = np.concatenate([np.zeros(0, int), *learnt.encode(text(data))])
        assert together(learnt, numbers) == learnt.text(numbers) == data
        assert learnt.sizes[numbers].sum() == len(data)
    assert [len(LETTERS), learnt.sizes.min(), len(learnt.sizes)] == [256, 1, 600]
    assert learnt.sizes.max() > 4


def test_a_text_is_cut_anew_by_fewer_merges_and_stays_the_text(learnt):
    data = corpus.held_out()[300_000:303_000].tobytes() + "naïve – 東京\n".encode() + b"\xe2\x80 \xff\n"
    whole = np.concatenate(list(learnt.encode(text(data)))).tolist()
    assert learnt.cut_anew(data, 0.0, random.Random(1)) == whole
    found = {dropout: learnt.cut_anew(data, dropout, random.Random(1)) for dropout in (0.1, 0.5, 0.999)}
    assert [learnt.text(each) for each in found.values()] == [data] * 3
    assert len(whole) < len(found[0.1]) < len(found[0.5]) < len(found[0.999]) <= len(data)
    assert len(found[0.999]) > 0.98 * len(data)
    assert learnt.cut_anew(data, 0.5, random.Random(1)) == found[0.5]
    assert learnt.cut_anew(data, 0.5, random.Random(2)) != found[0.5]


def test_a_merge_is_left_out_as_often_as_is_said_and_the_best_of_the_others_made(words):
    """By hand: of two letters one merge makes one token; of three, what is left of two merges decides."""
    merges = [["a", "b"], ["b", "c"], ["ab", "c"]]
    made = json.loads(tokenizer.train([words], 260))
    made["model"]["vocab"] = {tokenizer.shown(byte): byte for byte in range(256)} | {"ab": 256, "bc": 257, "abc": 258}
    made["model"]["merges"] = merges
    found, drawn = Tokenizer(json.dumps(made).encode(), "made"), random.Random(7)

    def often(data: bytes) -> dict[tuple[int, ...], float]:
        counts = Counter(tuple(found.cut_anew(data, 0.25, drawn)) for _ in range(20_000))
        return {tokens: count / 20_000 for tokens, count in counts.items()}

    near = lambda share: pytest.approx(share, abs=0.015)  # noqa: E731
    assert often(b"ab") == {(256,): near(0.75), (97, 98): near(0.25)}
    by_hand = {(258,): 0.75 * 0.75, (256, 99): 0.75 * 0.25, (97, 257): 0.25 * 0.75, (97, 98, 99): 0.25 * 0.25}
    assert often(b"abc") == {tokens: near(share) for tokens, share in by_hand.items()}


def test_a_text_s_tokens_are_those_of_its_pieces_and_these_are_bounded(learnt):
    lines = b"".join(b"%d = %s\n" % (number, b"x" * (number % 97)) for number in range(9000))
    long = lines + b"y" * 2 * PIECE_BYTES + b"\n" + lines
    found = list(tokenizer.pieces(text(long)))
    assert b"".join(found) == long
    assert max(map(len, found)) == PIECE_BYTES
    assert len(found) > TOGETHER / 8
    for piece, after in itertools.pairwise(found):
        if b"\n" in long[:PIECE_BYTES] and b"y" not in piece + after:
            assert piece.endswith(b"\n")
            assert len(piece) + after.index(b"\n") + 1 > PIECE_BYTES  # Another line had not fitted in.
    alone = [number for piece in found for part in learnt.encode(text(piece)) for number in part]
    assert [number for part in learnt.encode(text(long)) for number in part] == alone
    many = text(lines * 12)  # More pieces than are in memory at a time.
    assert len(list(learnt.encode(many))) == -(-len(list(tokenizer.pieces(many))) // TOGETHER) > 1


def test_tokens_are_made_once_and_found_again_and_a_file_that_was_altered_is_refused(learnt, tmp_path, monkeypatch):
    data = text(b"for number in range(10):\n    print(number)\n" * 50)
    first = learnt.kept(data, tmp_path).copy()
    assert together(learnt, first) == data.tobytes()
    assert (first.dtype, learnt.dtype.str) == (np.uint16, "<u2")
    path = tmp_path / learnt.sha256 / f"{hashlib.sha256(data).hexdigest()}.tokens"
    index = path.with_suffix(".json")
    assert {each.name for each in path.parent.iterdir()} == {path.name, index.name}
    assert path.stat().st_mode & 0o77 == index.stat().st_mode & 0o77 == 0
    right, said = path.read_bytes(), index.read_bytes()
    assert json.loads(said)["tokens"] == first.size

    with monkeypatch.context() as never:
        never.setattr(Tokenizer, "encode", None)
        assert (learnt.kept(data, tmp_path) == first).all()
        for wrong, beside in [
            (right[:-2], said),  # Half-written.
            (right[:-2] + b"zz", said),
            (right, b"{"),
            (right, b"{}"),
            *((right, said.replace(json.dumps(value).encode(), b'"other"')) for value in json.loads(said).values()),
        ]:
            path.write_bytes(wrong)
            index.write_bytes(beside)
            with pytest.raises(Refused, match="is not what was made of the text") as caught:
                learnt.kept(data, tmp_path)
            assert (caught.value.refusal, str(path) in caught.value.detail) == (Refusal.CORRUPT, True)
    path.write_bytes(b"what was not finished")
    index.unlink()
    assert (learnt.kept(data, tmp_path) == first).all()
    assert path.read_bytes() == right


def test_an_index_is_written_last(learnt, tmp_path, monkeypatch):
    data = text(b"one two three\n" * 30)

    def stopped(self, text):
        yield np.zeros(3, "<u2")
        raise KeyboardInterrupt

    monkeypatch.setattr(Tokenizer, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        learnt.kept(data, tmp_path)
    assert list((tmp_path / learnt.sha256).iterdir()) == []


def test_what_may_be_a_tokenizer(learnt):
    right = json.loads(learnt.data)
    split = {"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated", "invert": False}
    level = right["pre_tokenizer"]
    good = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "post_processor": level}
    assert Tokenizer(json.dumps(right | good).encode(), "x").tokens == learnt.tokens
    assert (
        Tokenizer(json.dumps(right | {"added_tokens": [{"id": 600, "content": "<s>"}]}).encode(), "x").sizes.size == 600
    )

    def model(**changes):
        return right | {"model": right["model"] | changes}

    vocab = right["model"]["vocab"]
    for wrong, cause in [
        ([], "it is no byte-level BPE"),
        ({}, "it is no byte-level BPE"),
        (right | {"pre_tokenizer": None}, "it is no byte-level BPE"),
        (model(type="Unigram"), "its model is Unigram, and not BPE"),
        (right | {"decoder": {"type": "WordPiece"}}, "its decoder is WordPiece, and not ByteLevel"),
        (right | {"pre_tokenizer": split}, "its pre_tokenizer is Split, and not ByteLevel"),
        (model(dropout=0.1), "it has dropout"),
        (right | {"pre_tokenizer": level | {"add_prefix_space": True}}, "its pre_tokenizer adds to the text"),
        (right | {"pre_tokenizer": good["pre_tokenizer"] | {"pretokenizers": [{"type": "Digits"}, level]}}, "adds to"),
        (
            right | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split | {"behavior": "Removed"}, level]}},
            "or leaves out of it",
        ),
        (model(vocab={token: number + 1 for token, number in vocab.items()}), "is not numbered from 0"),
        (
            model(vocab={token: number for token, number in vocab.items() if number}, merges=[]),
            "is not numbered from 0",
        ),
        (
            model(vocab={"" if token == "a" else token: number for token, number in vocab.items()}, merges=[]),
            "a byte is no token",
        ),
        (model(vocab=vocab | {"": 600}), "a token is not of bytes"),
        (model(merges=[["a", "東"]]), "a merge is not of two tokens, or makes none"),
        (model(merges=["a b c"]), "a merge is not of two tokens, or makes none"),
        (model(merges=[["Ā", "Ā"]]), "a merge is not of two tokens, or makes none"),
        (model(vocab=vocab | {"東": 600}), "a token is not of bytes"),
    ]:
        with pytest.raises(Refused, match=cause) as caught:
            Tokenizer(json.dumps(wrong).encode(), "here.json")
        assert (caught.value.refusal, "here.json: " in caught.value.detail) == (Refusal.BAD_FIELD, True)
    with pytest.raises(Refused, match="it is no byte-level BPE"):
        Tokenizer(b"\xff", "here.json")


def test_how_a_text_is_split_is_known_if_it_is_by_one_pattern(learnt):
    right = json.loads(learnt.data)
    level, own = right["pre_tokenizer"], right["pre_tokenizer"] | {"use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated", "invert": False}
    assert learnt.split == ("", False)
    for steps, known in [
        ([level], ("", False)),
        ([split, own], ("\\d", False)),
        ([split, level], None),
        ([own], None),
        ([split, split, own], None),
        ([split | {"invert": True}, own], None),
        ([split | {"behavior": "MergedWithNext"}, own], None),
        ([split | {"pattern": {"String": "d"}}, own], None),
    ]:
        found = right | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
        assert Tokenizer(json.dumps(found).encode(), "x").split == known
    found = right | {"model": right["model"] | {"ignore_merges": True}}
    assert Tokenizer(json.dumps(found).encode(), "x").split == ("", True)


def test_a_published_tokenizer_cuts_a_text_as_it_does_but_for_what_it_would_change_of_it(learnt):
    """As Llama 3's and Qwen's: split by a pattern, letters made one, special tokens in a text and around it."""
    from tokenizers import Regex, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Library

    library = Library.from_str(learnt.data.decode())
    words = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+|[^\s]"), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    library.normalizer = normalizers.NFC()
    library.add_special_tokens(["<|begin|>", "<|end|>"])
    library.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 600)])
    found = Tokenizer(library.to_str().encode(), "published")
    plain, theirs = "def f(x): return 12345 + x  # Ä\n", "<|end|> A\u0308\n"
    assert library.encode(plain).ids[0] == 600
    (numbers,) = found.encode(text(plain.encode()))
    assert (
        list(numbers)
        == library.encode(plain, add_special_tokens=False).ids
        != list(*learnt.encode(text(plain.encode())))
    )
    (numbers,) = found.encode(text(theirs.encode()))
    assert (
        max(numbers) < 600 == library.encode(theirs).ids[0] < max(library.encode(theirs, add_special_tokens=False).ids)
    )
    assert together(found, numbers) == theirs.encode()


def test_a_recipe_s_tokenizer_is_that_of_its_digest_and_of_its_vocabulary(learnt, tmp_path, monkeypatch):
    given = tmp_path / "tokenizer.json"
    given.write_bytes(learnt.data)
    assert tokenizer.held("bytes", 256, tmp_path / "none") is None
    folder = tmp_path / "kept"
    with pytest.raises(Refused, match="and here is none") as caught:
        tokenizer.held(learnt.name, 600, folder)
    assert caught.value.refusal is Refusal.NOT_SET_UP
    other = Tokenizer(json.dumps(json.loads(learnt.data), indent=1).encode(), "x")
    (tmp_path / "other").write_bytes(other.data)
    tokenizer.keep(tmp_path / "other", folder)
    with pytest.raises(Refused, match=f"tokens of {learnt.name}, and here is {other.sha256[:12]}…") as caught:
        tokenizer.held(learnt.name, 600, folder)
    assert caught.value.refusal is Refusal.NOT_SET_UP
    assert tokenizer.keep(given, folder).name == learnt.name
    with pytest.raises(Refused, match=r"vocabulary = 256, and the tokenizer .* has 600 tokens") as caught:
        tokenizer.held(learnt.name, 256, folder)
    assert caught.value.refusal is Refusal.BAD_FIELD
    assert tokenizer.held(learnt.name, 601, folder).data == learnt.data  # One that no text has.
    (folder / learnt.sha256).write_bytes(other.data)
    with pytest.raises(Refused, match=other.name) as caught:
        tokenizer.held(learnt.name, 600, folder)
    assert caught.value.refusal is Refusal.CORRUPT
    tokenizer.keep(given, folder)
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(Refused, match=r"pip install 'training-consortium\[text\]'") as caught:
            tokenizer.held(learnt.name, 600, folder)
        assert caught.value.refusal is Refusal.NOT_SET_UP
        with pytest.raises(Refused, match="pip install"):
            next(learnt.encode(text(b"a")))
    assert tokenizer.held(learnt.name, 600, folder).data == learnt.data


def test_what_cannot_be_learnt_or_read_is_refused_by_name(words, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"ab ab")
    for paths, size, refusal, cause in [
        ([tmp_path / "short"], 300, Refusal.BAD_FIELD, "of 300 tokens these texts make 2"),
        ([words], 256, None, ""),
        ([words], 255, Refusal.BAD_FIELD, "each byte is a token"),
        ([tmp_path / "empty"], 300, Refusal.BAD_FIELD, "empty"),
        ([tmp_path / "none"], 300, Refusal.NOT_FOUND, "No such file"),
    ]:
        if refusal is None:
            assert len(Tokenizer(tokenizer.train(paths, size), "x").tokens) == size
            continue
        with pytest.raises(Refused, match=cause) as caught:
            tokenizer.train(paths, size)
        assert caught.value.refusal is refusal
    with pytest.raises(Refused, match="No such file") as caught:
        tokenizer.read(tmp_path / "none")
    assert caught.value.refusal is Refusal.NOT_FOUND


def test_who_trains_on_bytes_loads_no_library_for_it():
    code = "import client.app, server.app, sys; sys.exit('tokenizers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_how_wide_a_token_is():
    assert [tokenizer.dtype(*each).str for each in [("bytes", 256), ("sha256:0", 2**16), ("sha256:0", 2**16 + 1)]] == [
        "|u1",
        "<u2",
        "<u4",
    ]


def test_a_tokenizer_is_learnt_and_kept_by_one_command(words, learnt, tmp_path, capsys):
    file, home = tmp_path / "tokenizer.json", tmp_path / "acme"
    home.mkdir()
    learn = ["model", "tokenizer", str(file), "--text", str(words), "--vocabulary", "600"]
    assert main([*learn, "--home", str(home)]) == 0
    assert capsys.readouterr().out.startswith(f"{learnt.name}, 600 tokens\nkept in {home}: ")
    assert (file.read_bytes(), (home / "tokenizers" / learnt.sha256).read_bytes()) == 2 * (learnt.data,)
    assert (main(learn), "is there already, and nothing is written over" in capsys.readouterr().err) == (2, True)
    assert (main(["model", "tokenizer", str(file)]), capsys.readouterr().out) == (0, f"{learnt.name}, 600 tokens\n")
    nowhere = ["model", "tokenizer", str(file), "--home", str(tmp_path / "none")]
    assert (main(nowhere), "not_set_up" in capsys.readouterr().err) == (2, True)
