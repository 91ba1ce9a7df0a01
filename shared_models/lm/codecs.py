"""How tensors travel: exactly as they are or up to 141 times smaller, as bytes that decode to the same bits anywhere.

What was sent is what it decodes to, and digests are of that. What is lost on the way stays with the sender, who adds it
(of `sign2` and `sign1` half of it) to the next thing it sends (error feedback, arXiv:1901.09847). A decoder moves bits,
or multiplies two float32 whose product is neither subnormal nor infinite: there every machine and library agrees.
Nothing here needs PyTorch.

    name    bits/value  a tensor of n values, in C order, all little-endian
    fp32    32          n float32
    bf16    16          n float32 without their lower halves, rounded to nearest, ties to even
    int8    8.125       a float32 scale for each 256 values; then n int8: value = scale × code
    int4    4.25        a float32 scale for each 128 values; then n codes of 4 bits, two's complement, low half first
    sign2   2.0625      two float32 magnitudes for each 1,024 values; then n bits (1: negative), from the lowest up,
                        filled to bytes, and n bits (1: the second magnitude)
    sign1   1.0313      a float32 magnitude for each 1,024 values; then n bits (1: negative)
    top64   0.2266      of each 4,096 values the 64 largest, the others are 0: two bf16 magnitudes, 64 rising indices
                        of 12 bits, 64 codes of 2 bits (1: negative, 2: the second magnitude), bits from the lowest
                        up. Of a last chunk of m values ceil(m / 64), the indices and the codes each filled to bytes
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shared_models.records.refusals import Refusal, Refused

Tensor = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
S = TypeVar("S", bound=np.generic)

# No value is larger in size, and no scale smaller unless it is 0: so sums of updates stay finite, and decoding never
# meets a subnormal number, which some libraries make a processor round to 0.
LARGEST, SMALLEST = np.float32(2.0**100), np.float32(2.0**-100)
INT8_BLOCK, INT4_BLOCK, SIGN_BLOCK = 256, 128, 1024
SPLIT = np.float32(
    1.23
)  # Times the mean size: there two magnitudes part normal values with the least error (Max, 1960).
CACHED = 2**16  # So many values are worked on at a time: they stay in a processor's cache.
CHUNK, ONE_IN = 4096, 64  # SparseLoCo (arXiv:2508.15706) sends 1 to 3 % of chunks of 4,096.


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as it travels."""

    codec: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent, what it decodes to, and what of the rest is to be sent next time (`left`)."""

    packed: dict[str, Packed]
    values: dict[str, Tensor]
    unsent: dict[str, Tensor]


def send(codec: str, meant: Mapping[str, Tensor], unsent: Mapping[str, Tensor]) -> Sent:
    """Encode what is meant now and what was left unsent before (nothing, if that is empty).

    Raises `Refused`: UNKNOWN_CODEC, NOT_FINITE.
    """
    whole = {name: tensor + unsent[name] for name, tensor in meant.items()} if unsent else meant
    packed = pack(codec, whole)
    values = unpack(packed, codec, shapes(whole))
    return Sent(packed, values, {name: left(codec, tensor, values[name]) for name, tensor in whole.items()})


def left(codec: str, meant: Tensor, came: Tensor) -> Tensor:
    """What is added to the next thing that is sent: of what was meant and did not come, the part that this codec keeps.

    A sign is wrong by about as much as it says. Carried whole through a run of ten rounds with momentum, that swings to
    and fro: with half of it the loss ends lower (docs/experiments.md).
    """
    return (meant - came) * np.float32(_codec(codec).keeps)


def pack(codec: str, tensors: Mapping[str, Tensor]) -> dict[str, Packed]:
    """These tensors, encoded. Raises `Refused`: UNKNOWN_CODEC, NOT_FINITE."""
    return dict(Encoded(codec, tensors))


def unpack(packed: Mapping[str, Packed], codec: str, asked: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors in these, if they are the ones asked for, in this codec.

    Raises `Refused`: WRONG_SHAPE for names, shapes and lengths, MALFORMED for another codec, or as `decode`.
    """
    check(packed, codec, asked)
    return dict(Decoded(packed))


def check(packed: Mapping[str, Packed], codec: str, asked: Mapping[str, tuple[int, ...]]) -> None:
    """Whether these are the tensors asked for, in this codec; none of them is decoded.

    Raises `Refused`: WRONG_SHAPE for names and shapes, MALFORMED for another codec.
    """
    if packed.keys() != asked.keys():
        odd = sorted(packed.keys() ^ asked.keys())
        raise Refused(Refusal.WRONG_SHAPE, f"{len(odd)} arrays too many or missing, such as {odd[0][:80]}")
    for name, each in packed.items():
        if each.codec != codec:
            raise Refused(Refusal.MALFORMED, f"{name} came as {each.codec[:40]}, and not as {codec}")
        if each.shape != asked[name]:
            raise Refused(Refusal.WRONG_SHAPE, f"{name} is {each.shape}, the model's is {asked[name]}")


class Decoded(Mapping[str, Tensor]):
    """Packed tensors as what they decode to: each is decoded when it is asked for, and not kept."""

    def __init__(self, packed: Mapping[str, Packed]) -> None:
        self._packed = packed

    def __getitem__(self, name: str) -> Tensor:
        """Raises `Refused` as `decode`."""
        each = self._packed[name]
        return decode(each.codec, each.data, each.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


class Encoded(Mapping[str, Packed]):
    """Tensors as they travel in one codec: each is encoded when it is asked for, and not kept."""

    def __init__(self, codec: str, tensors: Mapping[str, Tensor]) -> None:
        self._codec, self._tensors = codec, tensors

    def __getitem__(self, name: str) -> Packed:
        """Raises `Refused` as `encode`."""
        tensor = self._tensors[name]
        return Packed(self._codec, tensor.shape, encode(self._codec, tensor))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def shapes(tensors: Mapping[str, Tensor] | Mapping[str, Packed]) -> dict[str, tuple[int, ...]]:
    return {name: each.shape for name, each in tensors.items()}


def nbytes(packed: Mapping[str, Packed]) -> int:
    """The payload: what travels, without Flower's wrapping."""
    return sum(len(each.data) for each in packed.values())


def size(codec: str, shape: tuple[int, ...]) -> int:
    """The exact bytes of a tensor of this shape. Raises `Refused`: UNKNOWN_CODEC; WRONG_SHAPE below zero."""
    if min(shape, default=0) < 0:
        raise Refused(Refusal.WRONG_SHAPE, f"a shape of {shape}")
    return _codec(codec).size(math.prod(shape))


def total(codec: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The exact bytes of tensors of these shapes. Raises `Refused` as `size`."""
    return sum(size(codec, shape) for shape in shapes.values())


def encode(codec: str, tensor: Tensor) -> bytes:
    """A tensor's bytes. Raises `Refused`: UNKNOWN_CODEC; NOT_FINITE for NaN, infinity, or more than 2^100 in size."""
    found, values = _codec(codec), np.ascontiguousarray(tensor, np.float32).reshape(-1)
    _check_finite(values)
    return found.encode(values)


def decode(codec: str, data: bytes, shape: tuple[int, ...]) -> Tensor:
    """The tensor of this shape that the bytes spell, the same bits on every machine.

    Raises `Refused`: UNKNOWN_CODEC, WRONG_SHAPE for another length, NOT_FINITE for a value or a scale outside its
    bounds, MALFORMED for indices that do not rise or point outside.
    """
    if len(data) != size(codec, shape):
        raise Refused(Refusal.WRONG_SHAPE, f"{len(data)} bytes are not {shape} in {codec}: {size(codec, shape)}")
    return _codec(codec).decode(np.frombuffer(data, np.uint8), math.prod(shape)).reshape(shape)


@dataclass(frozen=True, slots=True)
class _Codec:
    size: Callable[[int], int]
    encode: Callable[[Tensor], bytes]
    decode: Callable[[Bytes, int], Tensor]  # Of so many bytes as `size` says.
    keeps: float = 1.0  # The part of what did not come that is sent next time.


def _codec(name: str) -> _Codec:
    if name not in CODECS:
        raise Refused(Refusal.UNKNOWN_CODEC, f"{name[:40]!r} is none of {', '.join(CODECS)}")
    return CODECS[name]


def _check_finite(values: Tensor) -> None:
    if values.size and not (values.min() >= -LARGEST and values.max() <= LARGEST):  # A NaN is on no side of anything.
        raise Refused(Refusal.NOT_FINITE, "a value is NaN, infinite, or larger than 2^100")


def _check_scales(scales: Tensor) -> None:
    if not ((scales == 0) | (scales >= SMALLEST) & (scales <= LARGEST)).all():
        raise Refused(Refusal.NOT_FINITE, "a scale is neither 0 nor from 2^-100 to 2^100")


def _rows(values: npt.NDArray[S], length: int) -> Iterator[npt.NDArray[S]]:
    """Views of these values in rows of this length, many at a time; what is left over is a row of its own."""
    whole, many = values.size // length * length, CACHED // length * length
    for at in range(0, whole, many):
        yield values[at : min(at + many, whole)].reshape(-1, length)
    if whole < values.size:
        yield values[whole:].reshape(1, -1)


# fp32 and bf16.


def _encode_fp32(values: Tensor) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _decode_fp32(data: Bytes, _: int) -> Tensor:
    values = data.view("<f4").astype(np.float32)
    _check_finite(values)
    return values


def _to_bf16(values: Tensor) -> npt.NDArray[np.uint16]:
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype("<u2")


def _from_bf16(halves: npt.NDArray[np.uint16]) -> Tensor:
    return (halves.astype(np.uint32) << 16).view(np.float32)


def _encode_bf16(values: Tensor) -> bytes:
    return _to_bf16(values).tobytes()


def _decode_bf16(data: Bytes, _: int) -> Tensor:
    values = _from_bf16(data.view("<u2"))
    _check_finite(values)
    return values


# int8 and int4: blocks with a scale.


def _blockwise(bits: int, block: int) -> _Codec:
    highest = np.float32(2 ** (bits - 1) - 1)

    def size(count: int) -> int:
        return 4 * -(-count // block) + -(-count * bits // 8)

    def encode(values: Tensor) -> bytes:
        scales, codes = np.empty(-(-values.size // block), np.float32), np.empty(values.size, np.int8)
        at = 0
        for rows, spelled in zip(_rows(values, block), _rows(codes, block), strict=True):
            scale = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / highest
            scale[scale < SMALLEST] = 0
            scales[at : at + len(scale)] = scale
            at += len(scale)
            inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
            exact = rows * inverse[:, None]
            spelled[:] = np.rint(exact, out=exact)
        return scales.astype("<f4", copy=False).tobytes() + (codes if bits == 8 else _to_nibbles(codes)).tobytes()

    def decode(data: Bytes, count: int) -> Tensor:
        split = 4 * -(-count // block)
        scales = data[:split].view("<f4").astype(np.float32)
        _check_scales(scales)
        codes = data[split:].view(np.int8) if bits == 8 else _from_nibbles(data[split:], count)
        values = codes.astype(np.float32)
        at = 0
        for rows in _rows(values, block):
            rows *= scales[at : at + len(rows), None]
            at += len(rows)
        return values

    return _Codec(size, encode, decode)


def _to_nibbles(codes: npt.NDArray[np.int8]) -> Bytes:
    halves = np.zeros(codes.size + codes.size % 2, np.uint8)
    halves[: codes.size] = codes.view(np.uint8) & 15
    halves[1::2] <<= 4
    return halves[::2] | halves[1::2]


def _from_nibbles(data: Bytes, count: int) -> npt.NDArray[np.int8]:
    codes = np.empty(2 * data.size, np.int8)
    codes[::2] = data.view(np.int8) << 4
    codes[1::2] = data.view(np.int8)
    codes >>= 4  # Of a signed integer: it keeps the sign.
    return codes[:count]


# sign2 and sign1: every value's sign, with the mean size of those in its block that are of its kind.


def _signs(kinds: int) -> _Codec:
    def size(count: int) -> int:
        return kinds * (4 * -(-count // SIGN_BLOCK) + -(-count // 8))

    def encode(values: Tensor) -> bytes:
        means, planes = (
            np.empty((-(-values.size // SIGN_BLOCK), kinds), np.float32),
            np.empty((kinds, values.size), bool),
        )
        block = start = 0
        for rows in _rows(values, SIGN_BLOCK):
            sizes, said = np.abs(rows), planes[:, start : start + rows.size].reshape(kinds, *rows.shape)
            found, length = means[block : block + len(rows)], np.float32(rows.shape[1])
            np.less(rows, 0, out=said[0])
            found[:, 0] = _sums(sizes) / length
            if kinds == 2:
                large = np.greater(sizes, SPLIT * found[:, :1], out=said[1])
                many = np.count_nonzero(large, axis=1).astype(
                    np.float32
                )  # Never all: some are no larger than the mean.
                found[:, 0] = _sums(np.where(large, 0, sizes)) / (length - many)
                found[:, 1] = _sums(np.where(large, sizes, 0)) / np.maximum(many, 1)
            block, start = block + len(rows), start + rows.size
        means[means < SMALLEST] = 0
        return means.astype("<f4", copy=False).tobytes() + np.packbits(planes, axis=1, bitorder="little").tobytes()

    def decode(data: Bytes, count: int) -> Tensor:
        split = 4 * kinds * -(-count // SIGN_BLOCK)
        means = data[:split].view("<f4").astype(np.float32).reshape(-1, kinds)
        _check_scales(means)
        planes = np.unpackbits(data[split:].reshape(kinds, -1), axis=1, count=count, bitorder="little")
        values, block, start = np.empty(count, np.float32), 0, 0
        for rows in _rows(values, SIGN_BLOCK):
            found, said = (
                means[block : block + len(rows)],
                planes[:, start : start + rows.size].reshape(kinds, *rows.shape),
            )
            rows[:] = np.where(said[1], found[:, 1:], found[:, :1]) if kinds == 2 else found
            rows.view(np.uint32)[:] |= said[0].astype(np.uint32) << 31  # The sign of a float32.
            block, start = block + len(rows), start + rows.size
        return values

    return _Codec(size, encode, decode, keeps=0.5)


def _sums(rows: Tensor) -> Tensor:
    """The sum of each row, added up in the same order on every machine."""
    width = 1 << (rows.shape[1] - 1).bit_length()
    halves = np.zeros((len(rows), width), np.float32)
    halves[:, : rows.shape[1]] = rows
    while width > 1:
        width //= 2
        halves = halves[:, :width] + halves[:, width:]
    return halves[:, 0]


# top64: of each chunk the largest, with two magnitudes.


def _kept(length: int) -> int:
    """How many values of a chunk of this length are sent."""
    return -(-length // ONE_IN)


def _chunk_size(length: int) -> int:
    return 4 + -(-12 * _kept(length) // 8) + -(-2 * _kept(length) // 8)


def _size_top(count: int) -> int:
    whole, rest = divmod(count, CHUNK)
    return whole * _chunk_size(CHUNK) + (_chunk_size(rest) if rest else 0)


def _encode_top(values: Tensor) -> bytes:
    return b"".join(_encode_chunks(rows).tobytes() for rows in _rows(values, CHUNK))


def _encode_chunks(rows: Tensor) -> Bytes:
    count, length = rows.shape
    keep, sizes = _kept(length), np.abs(rows)
    least = np.partition(sizes, length - keep, axis=1)[:, length - keep, None]
    chosen = sizes >= least
    for row in np.flatnonzero(np.count_nonzero(chosen, axis=1) > keep):
        equal = np.flatnonzero(sizes[row] == least[row])
        chosen[row, equal[keep - np.count_nonzero(chosen[row]) :]] = False  # Of equals the first.
    at = np.nonzero(chosen)[1].reshape(count, keep)
    sent = np.take_along_axis(rows, at, axis=1)
    ranked = np.sort(np.abs(sent), axis=1)
    # Each half is sent as its median: about the best two levels for a tail that falls, and without a sum. But no value
    # is sent as more than twice itself, a 0 least of all: what is then unsent would be more than was meant.
    magnitudes = _to_bf16(np.stack([np.minimum(ranked[:, keep // 4], 2 * ranked[:, 0]), ranked[:, 3 * keep // 4]], 1))
    levels = _from_bf16(magnitudes)
    magnitudes[levels < SMALLEST] = 0
    codes = (sent < 0) | (2 * np.abs(sent) > levels.sum(axis=1, keepdims=True)) << 1
    return np.concatenate([magnitudes.view(np.uint8), _to_bits(at, 12), _to_bits(codes, 2)], axis=1)


def _decode_top(data: Bytes, count: int) -> Tensor:
    values, start = np.zeros(count, np.float32), 0
    for rows in _rows(values, CHUNK):
        end = start + len(rows) * _chunk_size(rows.shape[1])
        _decode_chunks(data[start:end].reshape(len(rows), -1), rows)
        start = end
    return values


def _decode_chunks(data: Bytes, rows: Tensor) -> None:
    length, keep = rows.shape[1], _kept(rows.shape[1])
    split = 4 + -(-12 * keep // 8)
    levels = _from_bf16(np.ascontiguousarray(data[:, :4]).view("<u2"))
    _check_scales(levels)
    at, codes = _from_bits(data[:, 4:split], 12, keep), _from_bits(data[:, split:], 2, keep)
    if (at[:, 1:] <= at[:, :-1]).any() or (at[:, -1] >= length).any():
        raise Refused(Refusal.MALFORMED, f"the indices of a chunk of {length} values do not rise, or point outside")
    sent = np.take_along_axis(levels, codes >> 1, axis=1)
    np.put_along_axis(rows, at, np.where(codes & 1, -sent, sent), axis=1)


def _to_bits(numbers: npt.NDArray[np.integer], width: int) -> Bytes:
    """Each row of numbers as so many bits each, from the lowest up, filled to bytes."""
    bits = (numbers[..., None] >> np.arange(width) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(len(numbers), -1), axis=1, bitorder="little")


def _from_bits(data: Bytes, width: int, count: int) -> npt.NDArray[np.int64]:
    bits = np.unpackbits(data, axis=1, count=width * count, bitorder="little").reshape(len(data), count, width)
    return bits @ (1 << np.arange(width))


CODECS: Mapping[str, _Codec] = {
    "fp32": _Codec(lambda count: 4 * count, _encode_fp32, _decode_fp32),
    "bf16": _Codec(lambda count: 2 * count, _encode_bf16, _decode_bf16),
    "int8": _blockwise(8, INT8_BLOCK),
    "int4": _blockwise(4, INT4_BLOCK),
    "sign2": _signs(2),
    "sign1": _signs(1),
    "top64": _Codec(_size_top, _encode_top, _decode_top),
}
