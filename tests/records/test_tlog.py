"""Tree heads, proofs and tiles, against the text and the examples of C2SP."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, key

from shared_models.records import keys, note, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.merkle import EMPTY_ROOT, Tree, leaf_hash
from shared_models.records.refusals import Refusal, Refused

LOG = key(f"{CONSORTIUM}/log")
KEYS = note.known([LOG.verify_key])


def grown(size: int) -> Tree:
    tree = Tree()
    for index in range(size):
        tree.append(leaf_hash(str(index).encode()))
    return tree


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def test_a_head_is_three_lines_and_the_log_s_signature():
    head = tlog.TreeHead(LOG.name, 0, EMPTY_ROOT)
    data = head.sign(LOG)
    assert data.startswith(b"commons.example/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n")
    assert tlog.open_head(data, KEYS) == head


@pytest.mark.parametrize(
    "text",
    [
        f"{LOG.name}\n0\n",
        f"{LOG.name}\n00\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        f"{LOG.name}\n-1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        f"{LOG.name}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n",
        f"{LOG.name}\n0\n47DEQpj8HBSa\n",
        f"{LOG.name}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\nmore\n",
    ],
)
def test_a_signed_text_that_is_no_head_is_refused(text):
    assert refused(tlog.open_head, note.sign(text, [LOG]), KEYS) is Refusal.BAD_PROOF


def test_a_head_must_be_signed_by_the_log_it_names():
    other = note.sign("other.example/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", [LOG])
    assert refused(tlog.open_head, other, KEYS) is Refusal.UNKNOWN_KEY


def test_extension_lines_are_allowed():
    tlog.open_head(note.sign(f"{LOG.name}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nmore\n", [LOG]), KEYS)


# Cosignatures.


def cosigned(*witnesses: SigningKey, size: int = 7, time_s: int = 1_700_000_000) -> bytes:
    head = tlog.TreeHead(LOG.name, size, grown(size).root())
    signed = note.parse(head.sign(LOG))
    more = tuple(note.signature(head.text, each, time_s) for each in witnesses)
    return note.Note(signed.text, signed.signatures + more).data()


def test_who_cosigned_a_head_and_when():
    acme, birch = key("acme/witness"), key("birch/witness")
    known = note.known(each.verify_key for each in (LOG, acme, birch))
    head, times = tlog.open_cosigned(cosigned(acme, birch, key("dogwood/witness")), known)
    assert (head.size, times) == (7, {"acme/witness": 1_700_000_000, "birch/witness": 1_700_000_000})
    early, late = note.parse(cosigned(acme)), note.parse(cosigned(acme, time_s=1_800_000_000))
    both = note.Note(early.text, (*late.signatures, early.signatures[-1])).data()
    assert tlog.open_cosigned(both, known)[1] == {"acme/witness": 1_800_000_000}


def test_a_cosignature_that_fails_refuses_the_head():
    acme = key("acme/witness")
    known = note.known(each.verify_key for each in (LOG, acme))
    of_another = cosigned(acme, size=6).splitlines(True)[-1]
    assert refused(tlog.open_cosigned, cosigned() + of_another, known) is Refusal.BAD_SIGNATURE


def test_witnesses_alone_make_no_head():
    acme = key("acme/witness")
    head = tlog.TreeHead(LOG.name, 7, grown(7).root())
    data = note.Note(head.text, (note.signature(head.text, acme, 1),)).data()
    assert refused(tlog.open_cosigned, data, note.known([LOG.verify_key, acme.verify_key])) is Refusal.UNKNOWN_KEY
    pretender = SigningKey(LOG.name, acme._private, keys.COSIGNATURE)
    data = note.Note(head.text, (note.signature(head.text, pretender, 1),)).data()
    assert refused(tlog.open_cosigned, data, note.known([pretender.verify_key])) is Refusal.UNKNOWN_KEY


def test_a_head_can_carry_a_signature_that_outlives_ed25519():
    second = SigningKey.generate(LOG.name, keys.MLDSA44)
    head = tlog.TreeHead(LOG.name, 7, grown(7).root())
    data = head.sign(LOG, second, time_s=1_700_000_000)
    for known in ([LOG], [second], [LOG, second]):
        assert tlog.open_cosigned(data, note.known(each.verify_key for each in known)) == (head, {})


def test_64_witnesses_with_two_signatures_each_fit():
    kinds = (keys.COSIGNATURE, keys.MLDSA44)
    witnesses = [SigningKey.generate(f"m{number:02}/witness", kind) for number in range(64) for kind in kinds]
    known = note.known(each.verify_key for each in (LOG, *witnesses))
    assert len(tlog.open_cosigned(cosigned(*witnesses), known)[1]) == 64


# What a witness is asked.


def asked(old: int = 5, size: int = 9) -> tlog.AddCheckpoint:
    return tlog.AddCheckpoint(old, tuple(grown(size).consistency(old, size)), cosigned(size=size))


def test_a_request_to_a_witness_is_as_the_specification_has_it():
    data = asked().data()
    assert data.startswith(b"old 5\n")
    assert data.count(b"\n\n") == 2
    assert tlog.AddCheckpoint.parse(data) == asked()
    empty = tlog.AddCheckpoint(0, (), cosigned(size=9))
    assert tlog.AddCheckpoint.parse(empty.data()) == empty


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"old 5", b"old 05"),
        lambda data: data.replace(b"old 5", b"new 5"),
        lambda data: data.replace(b"old 5\n", b""),
        lambda data: data.replace(b"=\n", b"\n", 1),
        lambda data: data.replace(b"old 5\n", b"old 5\n" + (b"A" * 43 + b"=\n") * 64),
        lambda data: b"\xff" + data,
        lambda _: b"",
    ],
)
def test_other_requests_are_refused(change):
    assert refused(tlog.AddCheckpoint.parse, change(asked().data())) is Refusal.BAD_PROOF


def proven(index: int, size: int) -> tlog.Proof:
    tree = grown(size)
    return tlog.Proof(index, tuple(tree.inclusion(index, size)), tlog.TreeHead(LOG.name, size, tree.root()).sign(LOG))


def test_a_proof_carries_everything_that_its_verification_needs():
    proof = proven(4, 11)
    again = tlog.Proof.parse(proof.data())
    assert again == proof
    assert again.verify(leaf_hash(b"4"), KEYS).size == 11
    assert refused(again.verify, leaf_hash(b"5"), KEYS) is Refusal.BAD_PROOF


def test_extra_data_in_a_proof_is_kept_and_vouched_for_by_nobody():
    data = proven(4, 11).data().replace(b"index", b"extra YWdl\nindex")
    assert tlog.Proof.parse(data) == replace(proven(4, 11), extra=b"age")
    assert tlog.Proof.parse(data).data() == data
    assert tlog.Proof.parse(data).verify(leaf_hash(b"4"), KEYS).size == 11


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"@v1", b"@v2"),
        lambda data: data.replace(b"index 4", b"index 04"),
        lambda data: data.replace(b"index 4", b"index -4"),
        lambda data: data.replace(b"index 4\n", b""),
        lambda data: data.partition(b"\n\n")[0],
        lambda data: data.replace(b"=\n", b"\n", 1),
        lambda data: data.replace(b"index 4\n", b"index 4\n" + b"A" * 43 + b"=\n" * 1 + (b"A" * 43 + b"=\n") * 63),
        lambda data: b"\xff" + data,
        lambda data: data.replace(b"index", b"extra \nindex"),
        lambda data: data.replace(b"index", b"extra YWdm=\nindex"),
    ],
)
def test_other_proofs_are_refused(change):
    assert refused(tlog.Proof.parse, change(proven(4, 11).data())) is Refusal.BAD_PROOF


def test_tile_paths_are_those_of_the_specification():
    assert tlog.tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tlog.tile_path(1, 0, 17) == "tile/1/000.p/17"
    assert tlog.tile_path("entries", 5, 1) == "tile/entries/005.p/1"


def test_the_specification_s_example_of_70000_entries():
    tiles = list(tlog.tiles(70_000))
    assert len([tile for tile in tiles if tile[0] == 0 and tile[2] == 256]) == 273
    assert [tile for tile in tiles if tile[2] < 256] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert list(tlog.tiles(256)) == [(0, 0, 256), (1, 0, 1)]
    assert list(tlog.tiles(0)) == []


@given(st.integers(0, 140_000), st.integers(0, 600))
def test_what_a_log_writes_as_it_grows_is_what_it_has_in_the_end(size, more):
    def whole(n: int) -> dict[tuple[int, int], int]:
        return {(level, number): width for level, number, width in tlog.tiles(n)}

    grown_by = {(level, number): width for level, number, width in tlog.tiles(size + more, size)}
    assert whole(size) | grown_by == whole(size + more)
    assert all(whole(size).get(tile) != width for tile, width in grown_by.items())


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_bundles_hold_what_was_packed(entries):
    assert tlog.unpack(tlog.pack(entries)) == entries


def test_a_cut_bundle_is_refused():
    data = tlog.pack([b"one", b"two"])
    for end in range(1, len(data)):
        if end != 5:
            assert refused(tlog.unpack, data[:end]) is Refusal.CORRUPT


@given(st.binary(max_size=200))
def test_no_bytes_crash_it(data):
    for parse in (tlog.Proof.parse, tlog.unpack, lambda data: tlog.open_head(data, KEYS)):
        with suppress(Refused):
            parse(data)
