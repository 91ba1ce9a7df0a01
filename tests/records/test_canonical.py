"""Records have one spelling in bytes, and only that one is read."""

import json
import random
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from shared_models.records import canonical
from shared_models.records.canonical import SAFE_INTEGER, Count, Decimal, Hash, Line, Name, Signed, decode, encode
from shared_models.records.refusals import Refusal, Refused

lines = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)
names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    name: Name
    share: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    tokens: Count
    net: Signed
    note: Line
    rate: Decimal
    parts: tuple[Inner, ...]


inners = st.builds(Inner, name=names, share=st.fractions(max_denominator=10**12))
outers = st.builds(
    Outer,
    tokens=st.integers(0, 2**96),
    net=st.integers(-(2**96), 2**96),
    note=lines,
    rate=st.sampled_from(["0", "0.004", "1", "12.5"]),
    parts=st.lists(inners, max_size=4).map(tuple),
)
GOOD = Outer(tokens=7, net=-3, note="", rate="0.5", parts=(Inner(name="acme", share=Fraction(1, 3)),))


@given(outers)
def test_what_is_written_is_read_back_and_written_the_same(record):
    assert decode(Outer, encode(record)) == record


@given(outers)
def test_the_bytes_are_those_of_rfc_8785(record):
    data = encode(record)
    assert rfc8785.dumps(json.loads(data)) == data


def test_the_spelling_in_full():
    assert encode(GOOD) == (b'{"net":-3,"note":"","parts":[{"name":"acme","share":"1/3"}],"rate":"0.5","tokens":7}')


@pytest.mark.parametrize("number", [SAFE_INTEGER - 1, SAFE_INTEGER, -SAFE_INTEGER])
def test_an_integer_that_a_double_cannot_hold_is_a_string(number):
    data = json.loads(encode(Outer(tokens=abs(number), net=number, note="", rate="0", parts=())))
    assert data["net"] == (number if abs(number) < SAFE_INTEGER else str(number))


def spelled(**changes: object) -> bytes:
    """GOOD in bytes, with some fields spelled otherwise."""
    return json.dumps(json.loads(encode(GOOD)) | changes, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (encode(GOOD).replace(b":7", b":7.0"), Refusal.BAD_FIELD),
        (encode(GOOD).replace(b":7", b":NaN"), Refusal.NOT_CANONICAL),
        (encode(GOOD).replace(b":7", b":7e0"), Refusal.NOT_CANONICAL),
        (encode(GOOD).replace(b":7", b": 7"), Refusal.NOT_CANONICAL),
        (encode(GOOD).replace(b'"tokens":7', b'"tokens":9,"tokens":7'), Refusal.NOT_CANONICAL),
        (encode(GOOD).replace(b'{"net"', b'{"note":"","net"').replace(b',"note":""', b"", 1), Refusal.NOT_CANONICAL),
        (encode(GOOD).replace(b'"acme"', b'"\\u0061cme"'), Refusal.NOT_CANONICAL),
        (encode(GOOD).replace(b'"1/3"', b'"2/6"'), Refusal.BAD_FIELD),
        (encode(GOOD) + b" ", Refusal.NOT_CANONICAL),
        (b"", Refusal.NOT_CANONICAL),
        (b"\xff", Refusal.NOT_CANONICAL),
        (b"[" * 200_000, Refusal.NOT_CANONICAL),
        (b"1" * 60_000, Refusal.NOT_CANONICAL),
        (b"[]", Refusal.BAD_FIELD),
        (spelled(tokens=str(SAFE_INTEGER - 1)), Refusal.BAD_FIELD),
        (spelled(tokens=SAFE_INTEGER), Refusal.BAD_FIELD),
        (spelled(tokens="7"), Refusal.BAD_FIELD),
        (spelled(tokens=True), Refusal.BAD_FIELD),
        (spelled(tokens=None), Refusal.BAD_FIELD),
        (spelled(tokens=-1), Refusal.BAD_FIELD),
        (spelled(tokens=str(2**96 + 1)), Refusal.BAD_FIELD),
        (spelled(extra=1), Refusal.BAD_FIELD),
        (encode(GOOD).replace(b',"tokens":7', b""), Refusal.BAD_FIELD),
        (spelled(rate="0.50"), Refusal.BAD_FIELD),
        (spelled(rate=0), Refusal.BAD_FIELD),
        (spelled(note="\ud800"), Refusal.NOT_CANONICAL),
        (spelled(note="a\nb"), Refusal.BAD_FIELD),
        (spelled(parts={}), Refusal.BAD_FIELD),
        (spelled(parts=[{"name": "Acme", "share": "1/3"}]), Refusal.BAD_FIELD),
        (spelled(parts=[{"name": "acme", "share": "1/0"}]), Refusal.BAD_FIELD),
        (spelled(parts=[{"name": "acme", "share": 1}]), Refusal.BAD_FIELD),
        (spelled(parts=["acme"]), Refusal.BAD_FIELD),
    ],
)
def test_every_other_spelling_is_refused(data, refusal):
    with pytest.raises(Refused) as caught:
        decode(Outer, data)
    assert caught.value.refusal is refusal


@pytest.mark.parametrize(
    "record",
    [
        Outer(tokens=-1, net=0, note="", rate="0", parts=()),
        Outer(tokens=1.0, net=0, note="", rate="0", parts=()),
        Outer(tokens=True, net=0, note="", rate="0", parts=()),
        Outer(tokens=1, net=0, note=b"", rate="0", parts=()),
        Outer(tokens=1, net=0, note="", rate="0", parts=[]),
        Outer(tokens=1, net=0, note="", rate="0", parts=(Inner(name="a", share=0.5),)),
        Outer(tokens=1, net=0, note="", rate="0", parts=("a",)),
    ],
)
def test_what_would_be_refused_is_not_written(record):
    with pytest.raises(Refused) as caught:
        encode(record)
    assert caught.value.refusal is Refusal.BAD_FIELD


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_crash_it(data):
    with suppress(Refused):
        assert encode(decode(Outer, data)) == data


# Reading quickly: what is read in one step is what is read slowly, and everything that is not is left to that.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    name: Name
    count: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    base: Hash
    count: Count
    pairs: tuple[Pair, ...]
    names: tuple[Name, ...]
    counts: tuple[Count, ...]


counts = st.one_of(st.integers(0, 2**96), st.sampled_from([0, SAFE_INTEGER - 1, SAFE_INTEGER, 10**16, 2**96]))
flats = st.builds(
    Flat,
    base=st.just("0f" * 32),
    count=counts,
    pairs=st.lists(st.builds(Pair, name=names, count=counts), max_size=3).map(tuple),
    names=st.lists(names, max_size=3).map(tuple),
    counts=st.lists(counts, max_size=3).map(tuple),
)
FLAT = Flat(base="0f" * 32, count=5, pairs=(Pair(name="a", count=1),), names=("a", "b"), counts=(1, 2**60))


def both_ways(cls: type, data: bytes) -> tuple[object, object]:
    """What it is quickly, and slowly; a refusal by its name."""
    quickly, found = canonical._quick(cls), []
    for quick in (quickly, lambda _: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(canonical, "_quick", lambda _, quick=quick: quick)
            try:
                found.append(decode(cls, data))
            except Refused as refused:
                found.append(refused.refusal)
    return found[0], found[1]


def test_a_flat_record_is_read_in_one_step_and_others_are_not():
    assert canonical._quick(Flat)(encode(FLAT).decode()) == FLAT
    assert canonical._quick(Outer)(encode(GOOD).decode()) is None  # It holds rationals, and lines with quotes.


@given(flats, st.randoms(use_true_random=False))
def test_both_ways_of_reading_agree(record, chance: random.Random):
    data = encode(record)
    assert both_ways(Flat, data) == (record, record)
    at = chance.randrange(len(data))
    for changed in (
        data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :],
        data[:at] + data[at + 1 :],
        data[:at] + data[at : at + 1] + data[at:],
        data.replace(b"},{", b"}, {", 1),
        data.replace(b'"count":', b'"count":0', 1),
    ):
        quickly, slowly = both_ways(Flat, changed)
        assert quickly == slowly
