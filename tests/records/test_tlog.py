"""Tree heads, proofs and tiles, against the text and the examples of C2SP."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, key

from shared_models.records import note, tlog
from shared_models.records.merkle import EMPTY_ROOT, Tree, leaf_hash
from shared_models.records.refusals import Refusal, Refused

LOG = key(f"{CONSORTIUM}/log")
KEYS = {LOG.name: LOG.verify_key}


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


def proven(index: int, size: int) -> tlog.Proof:
    tree = grown(size)
    return tlog.Proof(index, tuple(tree.inclusion(index, size)), tlog.TreeHead(LOG.name, size, tree.root()).sign(LOG))


def test_a_proof_carries_everything_that_its_verification_needs():
    proof = proven(4, 11)
    again = tlog.Proof.parse(proof.data())
    assert again == proof
    assert again.verify(leaf_hash(b"4"), KEYS).size == 11
    assert refused(again.verify, leaf_hash(b"5"), KEYS) is Refusal.BAD_PROOF


def test_extra_data_in_a_proof_is_dropped():
    data = proven(4, 11).data().replace(b"index", b"extra YWdl\nindex")
    assert tlog.Proof.parse(data) == proven(4, 11)


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
