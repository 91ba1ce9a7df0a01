"""Codecs: what bytes say is the same everywhere, nearly what was meant, and refused by name where it says nothing."""

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_models.lm import codecs
from shared_models.lm.codecs import Packed, decode, encode
from shared_models.records.kinds import CODECS
from shared_models.records.refusals import Refusal, Refused

BITS = {"fp32": 32, "bf16": 16, "int8": 8 + 1 / 8, "int4": 4 + 1 / 4}
BITS |= {"sign2": 2 + 64 / 1024, "sign1": 1 + 32 / 1024, "top64": 8 * 116 / 4096}
every_codec = pytest.mark.parametrize("codec", CODECS)
HALVED = ("sign2", "sign1")  # Half of what these lose is sent the next time.
lossy = pytest.mark.parametrize("codec", CODECS[1:])


def noise(count: int, seed: int = 0, scale: float = 1e-3) -> codecs.Tensor:
    return (scale * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


tensors = st.builds(
    lambda count, seed, exponent, holes: noise(count, seed, 10.0**exponent) * (noise(count, seed + 1) > holes),
    st.one_of(st.integers(0, 300), st.sampled_from([4095, 4096, 4097, 4161, 8192 + 65])),
    st.integers(0, 1000),
    st.integers(-40, 29),
    st.sampled_from([-math.inf, 0.0, 2e-3, math.inf]),
)


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def test_the_records_name_the_codecs_that_there_are():
    assert tuple(codecs.CODECS) == CODECS


@every_codec
def test_large_tensors_take_the_bits_that_the_table_says(codec):
    assert 8 * codecs.size(codec, (1024, 4096)) / 2**22 == BITS[codec]


@every_codec
@given(tensor=tensors)
def test_what_is_encoded_has_exactly_its_size_and_is_decoded_again(codec, tensor):
    data = encode(codec, tensor)
    assert len(data) == codecs.size(codec, tensor.shape)
    came = decode(codec, data, tensor.shape)
    assert (came.dtype, came.shape) == (np.float32, tensor.shape)
    assert np.isfinite(came).all()


@given(tensor=tensors)
def test_errors_are_within_the_bounds_of_each_codec(tensor):
    assert np.array_equal(decode("fp32", encode("fp32", tensor), tensor.shape), tensor)
    sizes = np.abs(tensor)
    assert (np.abs(decode("bf16", encode("bf16", tensor), tensor.shape) - tensor) <= sizes * 2**-8 + 1e-38).all()
    for codec, block, levels in (("int8", 256, 127), ("int4", 128, 7)):
        error = np.abs(decode(codec, encode(codec, tensor), tensor.shape) - tensor)
        for at in range(0, tensor.size, block):
            step = sizes[at : at + block].max() / levels
            assert (error[at : at + block] <= 0.5001 * step + levels * 2.0**-100).all()


@given(tensor=tensors)
def test_top64_keeps_signs_and_the_largest_and_nothing_else(tensor):
    came = decode("top64", encode("top64", tensor), tensor.shape)
    for at in range(0, tensor.size, 4096):
        meant, sent = tensor[at : at + 4096], came[at : at + 4096]
        kept = np.flatnonzero(sent)
        assert len(kept) <= math.ceil(len(meant) / 64)
        assert (np.sign(sent[kept]) == np.sign(meant[kept])).all()
        if len(kept):
            assert np.abs(meant[kept]).min() >= np.delete(np.abs(meant), kept).max(initial=0)
            assert (np.abs(meant - sent) <= 1.01 * np.abs(meant)).all()
        assert len(set(np.abs(sent[kept]).tolist())) <= 2


@given(tensor=tensors)
def test_signs_come_and_each_size_is_the_mean_of_its_kind(tensor):
    for codec, kinds in (("sign1", 1), ("sign2", 2)):
        came = decode(codec, encode(codec, tensor), tensor.shape)
        for at in range(0, tensor.size, 1024):
            meant, sent = tensor[at : at + 1024].astype(float), came[at : at + 1024]
            assert (np.sign(sent) == np.sign(meant))[np.abs(meant) > 2.0**-80].all()  # Of less the mean may be none.
            assert len(set(np.abs(sent).tolist())) <= kinds
            for size in set(np.abs(sent[sent != 0]).tolist()):
                assert np.abs(meant[np.abs(sent) == size]).mean() == pytest.approx(size, rel=1e-5)
            assert np.linalg.norm(meant - sent) <= np.linalg.norm(meant) * (1 + 1e-6)


def test_two_magnitudes_say_more_than_one_and_lose_of_normal_values_what_theory_says():
    """Max (1960), table I: 0.3634 and 0.1175 of the variance."""
    meant = noise(2**18, scale=1.0)
    for codec, least in (("sign1", 0.3634), ("sign2", 0.1175)):
        lost = np.mean((meant - decode(codec, encode(codec, meant), meant.shape)) ** 2)
        assert lost == pytest.approx(least, rel=0.02)


def test_of_equals_top64_sends_the_first():
    tensor = np.ones(4096, np.float32)
    tensor[4000] = 2
    assert np.flatnonzero(decode("top64", encode("top64", tensor), (4096,))).tolist() == [*range(63), 4000]


def test_a_value_in_c_order_and_a_column_are_not_mixed_up():
    tensor = np.arange(600, dtype=np.float32).reshape(20, 30).T
    for codec in CODECS[:3]:
        assert np.abs(decode(codec, encode(codec, tensor), tensor.shape) - tensor).max() <= 3


@every_codec
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**101, -(2.0**101)])
def test_what_is_not_finite_or_out_of_bounds_is_not_sent(codec, bad):
    tensor = noise(300)
    tensor[299] = bad
    assert refused(encode, codec, tensor) is Refusal.NOT_FINITE


@every_codec
def test_the_largest_and_the_smallest_values_travel(codec):
    for size in (2.0**100, 2.0**-90):
        tensor = np.array([size, -size], np.float32)
        assert decode(codec, encode(codec, tensor), (2,))[0] == pytest.approx(size, rel=1e-6)


@every_codec
def test_what_is_too_small_to_travel_travels_as_nothing(codec):
    came = decode(codec, encode(codec, np.full(5, 2.0**-120, np.float32)), (5,))
    assert came.tolist() == [0.0 if codec not in ("fp32", "bf16") else 2.0**-120] * 5


# Bytes that somebody made up.


@every_codec
@pytest.mark.parametrize("count", [1, 64, 4096, 5000])
def test_another_length_is_refused(codec, count):
    data = encode(codec, noise(count))
    for wrong in (data[:-1], data + b"\0", b"", 2 * data):
        assert refused(decode, codec, wrong, (count,)) is Refusal.WRONG_SHAPE
    assert refused(decode, codec, data, (-count, -1)) is Refusal.WRONG_SHAPE


@every_codec
def test_a_value_or_a_scale_that_is_not_finite_is_refused(codec):
    data = encode(codec, noise(5000))
    bits = 4 if codec not in ("bf16", "top64") else 2
    wrong = [math.nan, math.inf, -math.inf, 2.0**101] + ([-1.0, 2.0**-101] if codec not in ("fp32", "bf16") else [])
    for each in wrong:
        bent = np.array([each], "<f4").tobytes()[4 - bits :] + data[bits:]
        assert refused(decode, codec, bent, (5000,)) is Refusal.NOT_FINITE


def chunk(indices: list[int], count: int = 4096) -> bytes:
    bits = sum(index << 12 * n for n, index in enumerate(indices))
    return b"\x80\x3f\x80\x3f" + bits.to_bytes(math.ceil(12 * len(indices) / 8), "little") + b"\0" * (-(-count // 256))


def test_indices_rise_and_point_inside():
    rising = [60 * n for n in range(64)]
    assert np.flatnonzero(decode("top64", chunk(rising), (4096,))).tolist() == rising
    twice, falling = [*rising[:-1], rising[-2]], [*rising[:-2], rising[-1], rising[-2]]
    for wrong in (twice, falling):
        assert refused(decode, "top64", chunk(wrong), (4096,)) is Refusal.MALFORMED
    assert refused(decode, "top64", chunk([64], 64), (64,)) is Refusal.MALFORMED
    assert decode("top64", chunk([63], 64), (64,))[63] == 1


@every_codec
@settings(max_examples=200)
@given(data=st.data())
def test_any_corruption_is_refused_or_decodes_to_something_finite(codec, data):
    count = data.draw(st.sampled_from([1, 63, 65, 129, 300, 4200]))
    good = bytearray(encode(codec, noise(count)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(good) - 1, 30)) | st.integers(0, len(good) - 1))
        good[at] ^= data.draw(st.integers(1, 255))
    with suppress(Refused):
        came = decode(codec, bytes(good), (count,))
        assert np.isfinite(came).all()
        subnormal = (came != 0) & (np.abs(came) < np.finfo(np.float32).tiny)
        assert not subnormal.any() or codec in ("fp32", "bf16")


def test_an_unknown_codec_is_refused_by_name():
    for act, arguments in ((encode, (noise(1),)), (decode, (b"", (0,))), (codecs.size, ((1,),))):
        assert refused(act, "int2", *arguments) is Refusal.UNKNOWN_CODEC


def test_only_what_was_asked_for_is_unpacked():
    tensor = noise(6).reshape(2, 3)
    packed, asked = codecs.pack("bf16", {"w": tensor}), {"w": (2, 3)}
    assert codecs.nbytes(packed) == 12
    assert codecs.unpack(packed, "bf16", asked)["w"].shape == (2, 3)
    for told, refusal in (
        ({}, Refusal.WRONG_SHAPE),
        (packed | {"v": packed["w"]}, Refusal.WRONG_SHAPE),
        ({"v": packed["w"]}, Refusal.WRONG_SHAPE),
        ({"w": Packed("bf16", (3, 2), packed["w"].data)}, Refusal.WRONG_SHAPE),
        ({"w": Packed("fp32", (2, 3), bytes(24))}, Refusal.MALFORMED),
    ):
        assert refused(codecs.unpack, told, "bf16", asked) is refusal


# Error feedback.


@lossy
def test_what_was_sent_adds_up_to_what_was_meant(codec):
    """What is missing after any number of rounds is what one round leaves; it does not grow with the rounds."""
    meant, sent, unsent, missing = np.zeros(9000), np.zeros(9000), {}, []
    for round_ in range(300):
        update = noise(9000, round_) + np.float32(1e-3) * noise(9000, 10**6, 1.0)
        done = codecs.send(codec, {"w": update}, unsent)
        unsent = done.unsent
        meant, sent = meant + update, sent + done.values["w"]
        missing.append(np.linalg.norm(meant - sent) / np.linalg.norm(meant))
        if codec not in HALVED:
            assert np.allclose(meant - sent, unsent["w"], atol=1e-5)
    assert missing[-1] < 0.25 * missing[20] or missing[-1] < 1e-4 or codec in HALVED
    assert missing[-1] < {"top64": 0.3, "sign2": 0.2, "sign1": 0.5}.get(codec, 0.002)


@every_codec
def test_what_is_sent_is_what_the_bytes_decode_to(codec):
    done = codecs.send(codec, {"w": noise(5000)}, {"w": noise(5000, 1)})
    whole = noise(5000) + noise(5000, 1)
    assert done.values["w"].tobytes() == decode(codec, encode(codec, whole), (5000,)).tobytes()
    missing = whole - done.values["w"]
    assert np.array_equal(done.unsent["w"], missing * np.float32(0.5) if codec in HALVED else missing)
    assert done.unsent["w"].any() == (codec != "fp32")
