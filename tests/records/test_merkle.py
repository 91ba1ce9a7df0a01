"""The tree against RFC 9162's own definition, written down naively here, and against published roots."""

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import LONG

from shared_models.records import merkle
from shared_models.records.merkle import EMPTY_ROOT, Tree, leaf_hash, verify_consistency, verify_inclusion, verify_run
from shared_models.records.refusals import Refusal, Refused

N = 130
LEAVES = [f"leaf {i}".encode() for i in range(N)]

# The eight leaves and the roots of sizes 1 to 8 that Certificate Transparency's implementations test themselves with.
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def mth(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


@pytest.fixture(scope="module")
def tree():
    grown = Tree()
    for leaf in LEAVES:
        grown.append(leaf_hash(leaf))
    return grown


def test_published_roots():
    grown = Tree()
    assert grown.root() == EMPTY_ROOT == mth([])
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        grown.append(leaf_hash(bytes.fromhex(leaf)))
        assert grown.root().hex() == root


def test_the_root_of_every_size_it_ever_had(tree):
    for size in range(N + 1):
        assert tree.root(size) == mth(LEAVES[:size])


def test_every_inclusion_proof(tree):
    for size in range(1, N + 1):
        for index in range(size):
            verify_inclusion(leaf_hash(LEAVES[index]), index, size, tree.root(size), tree.inclusion(index, size))


def test_every_consistency_proof(tree):
    for new in range(N + 1):
        for old in range(new + 1):
            verify_consistency(old, new, tree.root(old), tree.root(new), tree.consistency(old, new))


def flip(hashed: bytes, bit: int) -> bytes:
    return (int.from_bytes(hashed, "big") ^ 1 << bit).to_bytes(32, "big")


def refuses(check, *arguments) -> None:
    with pytest.raises(Refused) as caught:
        check(*arguments)
    assert caught.value.refusal is Refusal.BAD_PROOF


@given(st.integers(1, N), st.data())
def test_an_inclusion_proof_proves_nothing_else(tree, size, data):
    index = data.draw(st.integers(0, size - 1))
    leaf, root, path = tree.leaf(index), tree.root(size), tree.inclusion(index, size)
    bit = data.draw(st.integers(0, 255))
    refuses(verify_inclusion, flip(leaf, bit), index, size, root, path)
    refuses(verify_inclusion, leaf, index, size, flip(root, bit), path)
    refuses(verify_inclusion, leaf, index, size, root, [*path, bytes(32)])
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        refuses(verify_inclusion, leaf, index, size, root, [*path[:at], flip(path[at], bit), *path[at + 1 :]])
        refuses(verify_inclusion, leaf, index, size, root, path[:-1])
    other = data.draw(st.integers(-1, N))
    if other != index:
        refuses(verify_inclusion, leaf, other, size, root, path)


@given(st.integers(2, N), st.data())
def test_a_consistency_proof_proves_nothing_else(tree, new, data):
    old = data.draw(st.integers(1, new - 1))
    roots, path = (tree.root(old), tree.root(new)), tree.consistency(old, new)
    bit = data.draw(st.integers(0, 255))
    refuses(verify_consistency, old, new, flip(roots[0], bit), roots[1], path)
    refuses(verify_consistency, old, new, roots[0], flip(roots[1], bit), path)
    refuses(verify_consistency, old, new, *roots, [*path, bytes(32)])
    refuses(verify_consistency, old, new, *roots, path[:-1])
    refuses(verify_consistency, old, new, *roots, [])
    at = data.draw(st.integers(0, len(path) - 1))
    refuses(verify_consistency, old, new, *roots, [*path[:at], flip(path[at], bit), *path[at + 1 :]])
    refuses(verify_consistency, new, old, *reversed(roots), path)


def test_consistency_with_nothing_and_with_itself(tree):
    verify_consistency(0, 7, EMPTY_ROOT, tree.root(7), [])
    verify_consistency(7, 7, tree.root(7), tree.root(7), [])
    refuses(verify_consistency, 0, 7, tree.root(1), tree.root(7), [])
    refuses(verify_consistency, 0, 7, EMPTY_ROOT, tree.root(7), [bytes(32)])
    refuses(verify_consistency, 7, 7, tree.root(7), tree.root(8), [])
    refuses(verify_consistency, 7, 7, tree.root(7), tree.root(7), [bytes(32)])
    refuses(verify_consistency, -1, 7, EMPTY_ROOT, tree.root(7), [])
    refuses(verify_consistency, 8, 4, tree.root(8), tree.root(8), [])


def test_a_leaf_is_no_node():
    assert leaf_hash(bytes(64)) != merkle.node_hash(bytes(32), bytes(32))


# Many leaves in a row.


def test_every_run_of_leaves_in_small_trees(tree):
    for size in range(1, 20):
        for start in range(size):
            for end in range(start + 1, size + 1):
                leaves = [tree.leaf(index) for index in range(start, end)]
                verify_run(leaves, start, size, tree.root(size), tree.run(start, end, size))


def test_a_run_of_one_is_an_inclusion_proof_in_another_order(tree):
    assert sorted(tree.run(5, 6, 11)) == sorted(tree.inclusion(5, 11))


@given(st.integers(1, N), st.data())
def test_the_proof_of_a_run_proves_nothing_else(tree, size, data):
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    leaves, root, path = [tree.leaf(index) for index in range(start, end)], tree.root(size), tree.run(start, end, size)
    verify_run(leaves, start, size, root, path)
    bit, at = data.draw(st.integers(0, 255)), data.draw(st.integers(0, end - start - 1))
    refuses(verify_run, [*leaves[:at], flip(leaves[at], bit), *leaves[at + 1 :]], start, size, root, path)
    refuses(verify_run, leaves, start, size, flip(root, bit), path)
    refuses(verify_run, leaves, start, size, root, [*path, bytes(32)])
    refuses(verify_run, leaves[:-1], start, size, root, path)
    refuses(verify_run, leaves, start + 1, size, root, path)
    refuses(verify_run, leaves, start, end - 1, root, path)
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        refuses(verify_run, leaves, start, size, root, [*path[:at], flip(path[at], bit), *path[at + 1 :]])
        refuses(verify_run, leaves, start, size, root, path[:-1])


def test_a_run_is_not_empty_and_reaches_beyond_neither_end(tree):
    root = tree.root(11)
    refuses(verify_run, [], 0, 11, root, [root])
    refuses(verify_run, [leaf_hash(b"forged"), tree.leaf(0)], -1, 11, root, tree.run(0, 1, 11))
    refuses(verify_run, [tree.leaf(10), leaf_hash(b"forged")], 10, 11, root, tree.run(10, 11, 11))


# Every bit of every proof. Minutes.


def flips(path: list[bytes]) -> Iterator[list[bytes]]:
    for at, hashed in enumerate(path):
        for bit in range(256):
            yield [*path[:at], flip(hashed, bit), *path[at + 1 :]]


def holds(check, *arguments) -> bool:
    try:
        check(*arguments)
    except Refused:
        return False
    return True


def count_of_forged_proofs_that_hold(each: int) -> tuple[int, int]:
    """(proofs that held though one bit was changed, proofs tried), over old ≤ new ≤ 66, new a multiple of `each`."""
    grown = Tree()
    for leaf in LEAVES:
        grown.append(leaf_hash(leaf))
    held = tried = 0
    for new in range(each, 67, each):
        for old in range(new):
            leaf, root = grown.leaf(old), grown.root(new)
            for path in flips(grown.inclusion(old, new)):
                held += holds(verify_inclusion, leaf, old, new, root, path)
                tried += 1
            for path in flips(grown.consistency(old, new)):
                held += holds(verify_consistency, old, new, grown.root(old), root, path)
                tried += 1
    return held, tried


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_proof_of_any_size_up_to_66_holds_with_a_single_bit_changed():
    each = 1 if LONG else 11
    held, tried = count_of_forged_proofs_that_hold(each)
    assert held == 0
    assert tried > 3_000_000 // each
