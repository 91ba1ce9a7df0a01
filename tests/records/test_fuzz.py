"""Every parser of what others send: no bytes get anything out of it but `Refused`, and what it reads it writes again.

Two kinds of bytes are tried: any at all, and valid ones with a bit turned, a piece cut, put in, or said twice. That
every proof holds and none of them with a bit changed, over all sizes up to 130, is in test_merkle.py.
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from world import CONSORTIUM, LONG, key, whole

from shared_models.records import canonical, keys, merkle, note, policy, tlog
from shared_models.records import entry as entries
from shared_models.records.canonical import Count, Pattern, Range, Signed
from shared_models.records.keys import MLDSA44, SigningKey, VerifyKey
from shared_models.records.kinds import KINDS
from shared_models.records.refusals import Refused

WORLD = whole()
LOG = key(f"{CONSORTIUM}/log")
WITNESSES = [key(f"{member}/witness") for member in WORLD.members]
SECOND = SigningKey.generate("acme/second", MLDSA44)
KEYS = WORLD.books.keys
HEAD = WORLD.head()
COSIGNED = note.Note(
    note.parse(HEAD).text,
    note.parse(HEAD).signatures
    + tuple(note.signature(note.parse(HEAD).text, each, 1_700_000_000) for each in WITNESSES),
).data()
SIZE = WORLD.books.tree.size
PATH = tuple(WORLD.books.tree.consistency(5, SIZE))
POLICY = policy.members(
    LOG.verify_key,
    [*((each.name.partition("/")[0], each.verify_key) for each in WITNESSES), ("acme", SECOND.verify_key)],
    2,
)
VKEYS = [each.verify_key for each in (LOG, *WITNESSES, SECOND, key("acme/compute"))]
LEAVES = [*WORLD.leaves]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A small record, so that changes meet its numbers."""

    kind: ClassVar[str] = "share"
    at: Count
    net: Signed
    share: Fraction


class Parser(NamedTuple):
    """One way in, the way back, and valid bytes to begin from."""

    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    valid: list[bytes]


def leaf_read(leaf: bytes) -> entries.Entry:
    return entries.open_leaf(leaf, CONSORTIUM, KEYS)


def leaf_written(entry: entries.Entry) -> bytes:
    """From the record; signatures are the sender's to spell, in the one way there is."""
    text = f"{CONSORTIUM}/{entry.record.kind}@v1\n{canonical.encode(entry.record).decode()}\n"
    return note.Note(text, note.parse(entry.leaf).signatures).data()


SHARES = [Share(at=2**60, net=-7, share=Fraction(6, 7)), Share(at=0, net=2**53, share=Fraction(10, 1))]


def record_parser(kind: str) -> Parser:
    cls: type = KINDS[kind]
    valid = [
        canonical.encode(record)
        for record in map(entries.peek, LEAVES)
        if record is not None and record.kind == kind and len(canonical.encode(record)) < 4_000
    ]
    return Parser(lambda data: canonical.decode(cls, data), canonical.encode, valid)


PARSERS = {
    "note": Parser(note.parse, note.Note.data, [HEAD, COSIGNED, LEAVES[1], note.sign("a\n\nb\n", [LOG])]),
    "head": Parser(
        lambda data: tlog.parse_head(note.parse(data).text),
        lambda head: head.text.encode(),
        [HEAD, COSIGNED],
    ),
    "add-checkpoint": Parser(
        tlog.AddCheckpoint.parse,
        tlog.AddCheckpoint.data,
        [tlog.AddCheckpoint(5, PATH, COSIGNED).data(), tlog.AddCheckpoint(0, (), HEAD).data()],
    ),
    "proof": Parser(
        tlog.Proof.parse,
        tlog.Proof.data,
        [tlog.Proof(7, tuple(WORLD.books.tree.inclusion(7, SIZE)), HEAD, extra).data() for extra in (b"", b"extra")],
    ),
    "bundle": Parser(tlog.unpack, tlog.pack, [tlog.pack(LEAVES[:3]), tlog.pack([b"", b"x"])]),
    "policy": Parser(policy.parse, policy.Policy.data, [POLICY.data(), b"quorum none\n"]),
    "vkey": Parser(
        lambda data: VerifyKey.parse(data.decode("utf-8", "surrogateescape")),
        lambda key: key.text().encode("utf-8", "surrogateescape"),
        [each.text().encode() for each in VKEYS],
    ),
    "leaf": Parser(leaf_read, leaf_written, LEAVES),
    "share": Parser(lambda data: canonical.decode(Share, data), canonical.encode, [*map(canonical.encode, SHARES)]),
} | {kind: record_parser(kind) for kind in KINDS}


def written(name: str, data: bytes, value: Any) -> None:
    """What was read is written in the same bytes; a policy, which has comments and spaces, in the same words."""
    again = PARSERS[name].write(value)
    if name == "head":  # Lines may follow that no field holds.
        assert note.parse(data).text.encode().startswith(again)
    elif name == "policy":
        assert words(again) == sorted(words(data), key=lambda line: ORDER.index(line[0]))
        assert policy.parse(again) == value
    else:
        assert again == data


ORDER = [b"log", b"witness", b"group", b"quorum"]


def words(data: bytes) -> list[list[bytes]]:
    """The lines of a policy that say something, with a group's threshold as a number."""
    found = []
    for line in data.split(b"\n"):
        said = [word for word in line.replace(b"\t", b" ").split(b" ") if word]
        if said and not said[0].startswith(b"#"):
            if said[0] == b"group" and said[2] in (b"all", b"any"):
                said[2] = b"%d" % len(said[3:]) if said[2] == b"all" else b"1"
            found.append(said)
    return found


def reads_or_refuses(name: str, data: bytes) -> bool:
    """Whether it reads these bytes."""
    try:
        value = PARSERS[name].read(data)
    except Refused:
        return False
    written(name, data, value)
    return True


# Valid bytes, changed.

Change = Callable[[bytes, random.Random], bytes]


def bit(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return chance.choice((data[:start], data[start:], data[:start] + data[end:]))


PIECES = [
    b"\n",
    b"\n\n",
    b" ",
    b"\t",
    b"\0",
    b"\r\n",
    b"\xff",
    b"=",
    b"+",
    b"0",
    b"-",
    b"\xc2\xa0",
    b"\xe2\x80\x94",
    b'"',
]
PIECES += [
    b"{}",
    b"1e9",
    b"null",
    b"index 0\n",
    b"old 0\n",
    b"A" * 43 + b"=\n",
    b"9" * 30,
    b"[" * 3_000,
    b"quorum none\n",
]


def put_in(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice([*PIECES, chance.randbytes(3)]) + data[at:]


def line_twice(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(True)
    at = chance.randrange(len(lines))
    return b"".join([*lines[:at], lines[at], *lines[at:]])


def lines_swapped(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(True)
    chance.shuffle(lines)
    return b"".join(lines)


def other_case(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at : at + 1].swapcase() + data[at + 1 :]


def other_number(data: bytes, chance: random.Random) -> bytes:
    found = list(re.finditer(rb"-?[0-9]+", data))
    if not found:
        return data
    at = chance.choice(found)
    value = int(at[0])
    near = (value + 1, -value, 2 * value, 2**53 - 1, 2**53, 2**64, 2**96 + 1)
    spelled = chance.choice([b"0" + at[0], at[0] + b".0", b'"' + at[0] + b'"', *(b"%d" % each for each in near)])
    return data[: at.start()] + spelled + data[at.end() :]


CHANGES: list[Change] = [other_number, bit, cut, put_in, line_twice, lines_swapped, other_case]


def changed(name: str, seed: int) -> bytes:
    """A valid one with up to three changes."""
    chance = random.Random(f"{name} {seed}")
    data = chance.choice(PARSERS[name].valid)
    for _ in range(chance.randrange(1, 4)):
        data = chance.choice(CHANGES)(data, chance) if data else data
    return data


ODD = st.text('ab01 \n\t—+=/é{}[]":,.-\u00a0\ud7ff', max_size=80).map(str.encode)


@pytest.mark.parametrize("name", PARSERS)
def test_valid_bytes_are_read(name):
    assert all(reads_or_refuses(name, data) for data in PARSERS[name].valid)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60)
@given(data=st.binary(max_size=400) | ODD | st.text(max_size=100).map(str.encode))
def test_no_bytes_get_anything_but_a_refusal_out_of_a_parser(name, data):
    reads_or_refuses(name, data)


@pytest.mark.parametrize("name", PARSERS)
def test_no_change_of_valid_bytes_is_read_as_something_else(name):
    for seed in range(200):
        reads_or_refuses(name, changed(name, seed))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PARSERS)
def test_no_change_of_valid_bytes_is_read_as_something_else_in_the_long_run(name):
    for seed in range(1_000, 51_000 if LONG else 4_000):
        reads_or_refuses(name, changed(name, seed))


@pytest.mark.parametrize("name", ["note", "head", "add-checkpoint", "proof", "policy", "vkey", "leaf", "share"])
def test_every_bit_of_a_small_one(name):
    data = min(PARSERS[name].valid, key=len)[:600]
    for at in range(len(data)):
        for turned in range(8):
            reads_or_refuses(name, data[:at] + bytes([data[at] ^ 1 << turned]) + data[at + 1 :])


@pytest.mark.parametrize("data", [b"old 0", b"old 0\n\n", b"old 5\n" + b"A" * 43 + b"="])
def test_a_request_to_a_witness_without_a_head_is_refused(data):
    assert not reads_or_refuses("add-checkpoint", data)


@given(data=st.binary(max_size=300) | ODD)
def test_peeking_never_raises(data):
    entries.peek(data)


def test_peeking_at_changed_leaves_never_raises():
    for seed in range(300):
        entries.peek(changed("leaf", seed))


def test_a_leaf_with_a_changed_bit_is_refused_or_says_the_same():
    """A signature of several can become one of nobody known; the text is signed still."""
    for seed in range(300):
        chance = random.Random(seed)
        leaf = chance.choice(LEAVES)
        other = bit(leaf, chance)
        try:
            assert leaf_read(other).text == leaf_read(leaf).text
        except Refused:
            continue
        assert len(note.parse(leaf).signatures) > 1


# Values made up.

names = st.from_regex(r"[a-z0-9.]{1,20}/[a-z]{1,9}", fullmatch=True) | st.text(max_size=12).filter(
    lambda name: keys.valid_name(name) and not set(map(chr, range(32))) & set(name) and name.isprintable()
)
signatures = st.builds(note.Signature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=100))
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), max_size=200).map(
    lambda text: text + "\n"
)
notes = st.builds(note.Note, texts, st.lists(signatures, min_size=1, max_size=5).map(tuple))
hashes = st.binary(min_size=32, max_size=32)
paths = st.lists(hashes, max_size=63).map(tuple)
numbers = st.integers(0, 10**19 - 1)
heads = st.builds(tlog.TreeHead, st.just(LOG.name), numbers, hashes)


@given(notes)
def test_any_note_is_read_as_it_was_made(value):
    assert note.parse(value.data()) == value


@given(heads, st.integers(0, 2**63 - 1))
def test_any_head_is_read_as_it_was_signed(value, time_s):
    signed = value.sign(LOG)
    assert tlog.open_head(signed, KEYS) == tlog.unsigned(signed) == value
    if value.size < 2**64:
        line = note.signature(value.text, WITNESSES[0], time_s).line()
        assert tlog.open_cosigned(signed + line.encode(), KEYS) == (value, {WITNESSES[0].name: time_s})


@given(numbers, paths, notes)
def test_any_request_to_a_witness_is_read_as_it_was_made(old, path, head):
    value = tlog.AddCheckpoint(old, path, head.data())
    assert tlog.AddCheckpoint.parse(value.data()) == value


@given(numbers, paths, notes, st.binary(max_size=50))
def test_any_proof_is_read_as_it_was_made(index, path, head, extra):
    value = tlog.Proof(index, path, head.data(), extra)
    assert tlog.Proof.parse(value.data()) == value


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bundle_is_read_as_it_was_packed(leaves):
    assert tlog.unpack(tlog.pack(leaves)) == leaves


@given(names, st.sampled_from(VKEYS))
def test_any_key_is_read_as_it_was_written(name, other):
    value = VerifyKey(name, other.public, other.kind)
    assert VerifyKey.parse(value.text()) == value


@st.composite
def policies(draw: st.DrawFn) -> policy.Policy:
    """Witnesses, and groups of what stands before them, each in one group at most."""
    octets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=8)
    wanted = octets.filter(lambda name: name not in ("", policy.NONE))
    free = draw(st.lists(wanted, unique=True, min_size=1, max_size=6))
    urls = st.sampled_from(["", "https://witness.example/é"])
    found = tuple(
        policy.Witness(
            name, VerifyKey(f"w{at}/witness", key(f"w{at}/witness").verify_key.public, keys.COSIGNATURE), draw(urls)
        )
        for at, name in enumerate(free)
    )
    groups = list[policy.Group]()
    for name in draw(st.lists(wanted, unique=True, max_size=3)):
        if not free or name in {each.name for each in found}:
            continue
        members = draw(st.lists(st.sampled_from(free), unique=True, min_size=1))
        groups.append(policy.Group(name, draw(st.integers(1, len(members))), tuple(members)))
        free = [each for each in free if each not in members] + [name]
    quorum = draw(st.sampled_from([policy.NONE, *(each.name for each in found), *(each.name for each in groups)]))
    return policy.Policy((policy.Log(LOG.verify_key, draw(urls)),), found, tuple(groups), quorum)


@given(policies())
def test_any_policy_is_read_as_it_was_made(value):
    assert policy.parse(value.data()) == value


def strategy(annotation: Any) -> SearchStrategy[Any]:
    """Values of a field, from the domain that its annotation names."""
    if get_origin(annotation) is Annotated:
        kind, domain = get_args(annotation)
        if isinstance(domain, Range):
            return st.integers(domain.low, domain.high)
        assert isinstance(domain, Pattern)
        assert kind is str
        return st.from_regex(domain.regex, fullmatch=True).filter(utf8)
    if get_origin(annotation) is tuple:
        return st.lists(strategy(get_args(annotation)[0]), max_size=2).map(tuple)
    if annotation is Fraction:
        return st.fractions()
    return record(annotation)


def utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def record(cls: Any) -> SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{each.name: strategy(hints[each.name]) for each in fields(cls)})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(data=st.data())
def test_any_record_is_read_as_it_was_written_and_is_a_leaf(kind, data):
    made = data.draw(record(KINDS[kind]))
    spelled = canonical.encode(made)
    assert canonical.decode(KINDS[kind], spelled) == made
    assert (
        json.dumps(json.loads(spelled), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == spelled
    )
    if len(spelled) < entries.MAX_BYTES - 1_000:
        leaf = entries.sign(made, CONSORTIUM, [key("acme/compute")])
        opened = leaf_read(leaf)
        assert (opened.record, opened.hash, leaf_written(opened)) == (made, merkle.leaf_hash(leaf), leaf)
        assert entries.peek(leaf) == made
