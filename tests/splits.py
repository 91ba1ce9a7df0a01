"""Tokenizers that split a text in each of the ways that have a name in a file for llama.cpp, and texts that tell."""

import json
from functools import cache

import numpy as np

from shared_models import gguf
from shared_models.lm import corpus
from shared_models.lm.tokenizer import Tokenizer

SIZE = 2000
TEXTS = (
    "import os\n\n\ndef main(argv=None):\n    return 0  # naïve – 東京 🙂\n",
    "a  b\r\n\tc   \n\n  x \u00a0y",
    " x's I'M don't WE'LL we’ll __self__ (self) 's",
    "1 12 123 1234 1000000 x1y22 ٣٤٥ ½²",
    corpus.held_out()[300_000:340_000].tobytes().decode(),
)


@cache
def learnt(name: str) -> Tokenizer:
    """Learnt by the library from a public text that is split as GPT-2 does, so that it has tokens of some digits. Of a
    frequent word's merge it knows nothing, though its token is there: so it shows whether words that are tokens stay
    whole.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    ((pattern, whole),) = (split for split, each in gguf.SPLITS.items() if each == name)
    library = Library(models.BPE(ignore_merges=whole))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([corpus.held_out()[:300_000].tobytes().decode()], trainer)
    if pattern:
        words = pre_tokenizers.Split(Regex(pattern), "isolated")
        library.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    found = json.loads(library.to_str())
    found["model"]["merges"].remove(next(each for each in found["model"]["merges"] if "".join(each) == "Ġself"))
    return Tokenizer(json.dumps(found).encode(), name)


def numbers(tokenizer: Tokenizer, text: str) -> list[int]:
    return [int(each) for part in tokenizer.encode(np.frombuffer(text.encode(), np.uint8)) for each in part]
