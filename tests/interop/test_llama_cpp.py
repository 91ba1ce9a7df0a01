"""Our GGUF files in the eyes of llama.cpp itself, which nobody here wrote: it opens them, computes and rounds the same.

By the package llama-cpp-python (0.3.36), which a C++ compiler builds in a few minutes; where it is not installed, these
tests are skipped, and tests/client/test_gguf.py says the same by the packages gguf and transformers.
"""

from dataclasses import replace

import gguf as theirs
import pytest
import splits
import torch
from mixes import HELD, trained

from bench.quantised import logits, opened
from shared_models import gguf
from shared_models.lm import weights

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # It leaves files open.
FILE_KINDS = {"f16": "MOSTLY_F16", "q4_0": "MOSTLY_Q4_0", "q8_0": "MOSTLY_Q8_0"}


@pytest.mark.parametrize("name", HELD)
def test_llama_cpp_computes_the_very_model_of_every_mix(tmp_path, name):
    recipe, model = HELD[name], trained(HELD[name])
    gguf.export(weights.of(model), recipe, tmp_path / "file", "f32", {})
    tokens = torch.randint(0, 256, (1, recipe.context), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mine = model(tokens)[0][0]
    found = torch.from_numpy(logits(opened(tmp_path / "file", recipe.context), tokens[0].tolist()))
    off = ((mine - found).abs().max() / mine.abs().max()).item()
    print(f"{name}: {off:.1e} of the largest")
    assert off < 1e-4


@pytest.mark.parametrize("dtype", FILE_KINDS)
@pytest.mark.parametrize("name", HELD)
def test_llama_cpp_rounds_to_the_same_bits(tmp_path, name, dtype):
    """Of our file in f32 it makes the tensors that ours in this dtype holds, also those that it holds in others."""
    checkpoint = weights.of(trained(HELD[name]))
    for each in ("f32", dtype):
        gguf.export(checkpoint, HELD[name], tmp_path / each, each, {})
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype, asked.pure, asked.nthread = theirs.LlamaFileType[FILE_KINDS[dtype]].value, True, 1
    made = tmp_path / "made"
    assert llama_cpp.llama_model_quantize(str(tmp_path / "f32").encode(), str(made).encode(), asked) == 0
    one, other = (
        {each.name: (each.tensor_type, each.data.tobytes()) for each in theirs.GGUFReader(path).tensors}
        for path in (tmp_path / dtype, made)
    )
    assert one == other


@pytest.mark.parametrize("split", gguf.SPLITS.values())
def test_llama_cpp_splits_a_text_as_the_tokenizer_does(tmp_path, split):
    cut, recipe = splits.learnt(split), replace(HELD["llama"], vocabulary=splits.SIZE)
    gguf.export(weights.of(trained(recipe)), recipe, tmp_path / "file", "q8_0", {}, None, cut)
    model = opened(tmp_path / "file", 24)
    for text in splits.TEXTS:
        assert model.tokenize(text.encode(), add_bos=True, special=True) == splits.numbers(cut, text)


def test_a_token_is_a_byte_and_no_text_ends_too_soon(tmp_path):
    gguf.export(weights.of(trained(HELD["llama"])), HELD["llama"], tmp_path / "file", "q8_0", {})
    model = opened(tmp_path / "file", 24)
    text = "".join(map(chr, range(1, 0x2500))).encode() + "a  b\r\n\tc ☃🙂 <s> [PAD256]".encode()
    assert model.tokenize(text, add_bos=True, special=True) == list(text)
    assert model.detokenize(list(text)) == text
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    assert [token for token in range(256) if llama_cpp.llama_vocab_is_eog(vocabulary, token)] == [0xFF]
