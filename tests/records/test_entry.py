"""An entry is a record signed as a note; what is not signed is not parsed, and what is not canonical is not read."""

from dataclasses import replace

import pytest
from world import CONSORTIUM, World, charter, key

from shared_models.records import entry as entries
from shared_models.records import merkle, note
from shared_models.records.keys import COSIGNATURE, ED25519, SigningKey
from shared_models.records.kinds import KINDS
from shared_models.records.refusals import REMEDY, Refusal, Refused

KEYS = note.known(key(name).verify_key for name in ("acme/compute", "birch/compute"))


@pytest.fixture(scope="module")
def world():
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    return world


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def signed(text: str, *names: str) -> bytes:
    return note.sign(text, map(key, names or ("acme/compute",)))


def test_a_leaf_says_who_said_what(world):
    leaf = world.sign("acme/compute", world.receipt("acme"))
    entry = entries.open_leaf(leaf, CONSORTIUM, KEYS)
    assert (entry.author, entry.record.kind, entry.hash) == ("acme/compute", "receipt", merkle.leaf_hash(leaf))
    assert leaf.startswith(entry.text + b"\n\xe2\x80\x94 acme/compute ")


def test_the_leaf_hash_commits_to_the_signature_too(world):
    record = world.receipt("acme")
    one, other = (entries.sign(record, CONSORTIUM, [key(name)]) for name in ("acme/compute", "birch/compute"))
    assert one.split(b"\n\n")[0] == other.split(b"\n\n")[0]
    assert merkle.leaf_hash(one) != merkle.leaf_hash(other)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("other.example/receipt@v1\n{}\n", Refusal.WRONG_ORIGIN),
        ("commons.example/deep/receipt@v1\n{}\n", Refusal.WRONG_ORIGIN),
        ("commons.examples/receipt@v1\n{}\n", Refusal.WRONG_ORIGIN),
        ("commons.example/receipt@v2\n{}\n", Refusal.UNKNOWN_KIND),
        ("commons.example/receipt\n{}\n", Refusal.UNKNOWN_KIND),
        ("commons.example/receipts@v1\n{}\n", Refusal.UNKNOWN_KIND),
        ("commons.example/receipt@v1\n{}\n{}\n", Refusal.NOT_CANONICAL),
        ("commons.example/receipt@v1\n", Refusal.NOT_CANONICAL),
        ("commons.example/receipt@v1\n{ }\n", Refusal.NOT_CANONICAL),
        ("commons.example/receipt@v1\n{}\n", Refusal.BAD_FIELD),
    ],
)
def test_another_text_is_refused(text, refusal):
    assert refused(entries.open_leaf, signed(text), CONSORTIUM, KEYS) is refusal


def test_what_is_not_signed_is_not_parsed():
    unsigned = signed("commons.example/receipt@v1\nnot json\n", "dogwood/compute")
    assert refused(entries.open_leaf, unsigned, CONSORTIUM, KEYS) is Refusal.UNKNOWN_KEY
    broken = signed("commons.example/receipt@v1\nnot json\n").replace(b"not", b"nor")
    assert refused(entries.open_leaf, broken, CONSORTIUM, KEYS) is Refusal.BAD_SIGNATURE


def test_an_entry_that_no_log_would_take_is_not_signed():
    benefits = {f"member-{number:03}": 1 for number in range(400)}
    assert refused(entries.sign, charter(benefits), CONSORTIUM, [key("x/admin")]) is Refusal.TOO_LARGE


def test_a_charter_brings_its_own_keys_and_needs_everybody_s_signature(world):
    assert entries.open_charter(world.leaves[0]).record == world.charter
    signers = world.charter_signers()
    for missing in signers:
        leaf = entries.sign(world.charter, CONSORTIUM, [key(name) for name in signers if name != missing])
        assert refused(entries.open_charter, leaf) is Refusal.BAD_SIGNATURE


def test_a_charter_under_another_name_is_refused(world):
    leaf = entries.sign(world.charter, "other.example", map(key, world.charter_signers()))
    assert refused(entries.open_charter, leaf) is Refusal.WRONG_ORIGIN


def test_a_key_in_the_charter_bears_the_name_of_its_role():
    swapped = charter({"acme": 1}, admin=key("acme/admin").verify_key.text())
    leaf = entries.sign(swapped, CONSORTIUM, [key("acme/admin")])
    assert refused(entries.open_charter, leaf) is Refusal.BAD_FIELD


def test_the_first_entry_is_a_charter(world):
    assert refused(entries.open_charter, world.leaves[1]) is Refusal.NO_CHARTER


def test_peeking_believes_nothing_and_never_fails(world):
    leaf = world.leaves[-1]
    assert entries.peek(leaf) == entries.peek(leaf.replace(b"coordinator ", b"nobody ")) != None  # noqa: E711
    for wrong in (b"", leaf[:-1], leaf.replace(b"{", b"["), b"\xff"):
        assert entries.peek(wrong) is None


def test_kinds_are_named_once_and_every_refusal_has_a_remedy():
    assert all(cls.kind == kind for kind, cls in KINDS.items())
    assert REMEDY.keys() == set(Refusal)


# The keys of a charter.


def vkey(name: str, kind: bytes = ED25519) -> str:
    return SigningKey(name, key(name)._private, kind).verify_key.text()


@pytest.mark.parametrize(
    "change",
    [
        {"admin": vkey("birch/admin")},
        {"admin": vkey("acme/compute")},
        {"admin": vkey("acme/admin", COSIGNATURE)},
        {"witness": vkey("acme/witness")},
        {"attest": vkey("acme/witness", COSIGNATURE)},
        {"name": "dogwood"},
    ],
)
def test_every_key_in_a_charter_is_that_of_its_holder_s_role(change):
    good = charter({"acme": 1})
    entries.charter_keys(good)
    wrong = replace(good, members=(replace(good.members[0], **change),))
    assert refused(entries.charter_keys, wrong) is Refusal.BAD_FIELD


def test_no_name_stands_for_two_keys():
    good = charter({"acme": 1})
    assert refused(entries.charter_keys, replace(good, members=good.members * 2)) is Refusal.BAD_FIELD


def test_a_charter_in_which_one_key_stands_under_two_names_is_refused():
    agreed = charter({"acme": 1, "birch": 1})
    twin = SigningKey("birch/admin", key("acme/admin")._private).verify_key.text()
    acme, birch = agreed.members
    with pytest.raises(Refused, match="bad_field: one key stands under two names"):
        entries.charter_keys(replace(agreed, members=(acme, replace(birch, admin=twin))))
