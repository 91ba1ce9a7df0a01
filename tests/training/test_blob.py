"""An update as a file: it gives back what was written, a tensor at a time, and refuses what was cut."""

import numpy as np
import pytest

from shared_models.lm import blob, codecs
from shared_models.lm.blob import Blob
from shared_models.lm.codecs import Decoded
from shared_models.records.kinds import CODECS
from shared_models.records.refusals import Refusal, Refused

UPDATE = {
    "z": np.linspace(-1, 1, 300, dtype=np.float32).reshape(3, 100),
    "a": np.full((5,), 0.25, np.float32),
    "none": np.zeros((0, 4), np.float32),
}
SHAPES = codecs.shapes(UPDATE)


@pytest.mark.parametrize("codec", CODECS)
def test_an_update_comes_back_from_its_file_as_it_was_packed(tmp_path, codec):
    packed = codecs.pack(codec, UPDATE)
    blob.write(tmp_path / "u", packed)
    assert (tmp_path / "u").read_bytes() == b"".join(packed[name].data for name in ("a", "none", "z"))
    found = Blob(tmp_path / "u", codec, SHAPES)
    assert dict(found) == packed
    codecs.check(found, codec, SHAPES)
    assert codecs.nbytes(found) == (tmp_path / "u").stat().st_size
    decoded = Decoded(found)
    assert len(decoded) == 3
    assert all(np.array_equal(decoded[name], tensor) for name, tensor in codecs.unpack(packed, codec, SHAPES).items())


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_that_was_cut_is_refused(tmp_path, codec):
    blob.write(tmp_path / "u", codecs.pack(codec, UPDATE))
    (tmp_path / "u").write_bytes((tmp_path / "u").read_bytes()[:-1])
    found = Decoded(Blob(tmp_path / "u", codec, SHAPES))
    assert np.array_equal(found["a"], codecs.unpack(codecs.pack(codec, UPDATE), codec, SHAPES)["a"])
    with pytest.raises(Refused) as caught:
        _ = found["z"]
    assert caught.value.refusal is Refusal.WRONG_SHAPE


def test_a_file_of_a_codec_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(Refused) as caught:
        Blob(tmp_path / "u", "gzip", SHAPES)
    assert caught.value.refusal is Refusal.UNKNOWN_CODEC


def test_tensors_are_packed_when_they_are_asked_for():
    packed = codecs.Encoded("int8", UPDATE)
    assert dict(packed) == codecs.pack("int8", UPDATE)
    assert (len(packed), codecs.shapes(packed)) == (3, SHAPES)
