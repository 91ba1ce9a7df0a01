"""The same work is put into the log twice."""

from world import CONSORTIUM, key, november

from shared_models.records import merkle, tlog
from shared_models.records.refusals import Refusal
from shared_models.rules.audit import audit


def test_the_audit_finds_the_second_one_even_if_the_log_was_built_with_it():
    world = november()
    index = next(i for i, leaf in enumerate(world.leaves) if b"/receipt@v1" in leaf)
    leaves = [*world.leaves, world.leaves[index]]
    tree = merkle.Tree()
    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
    head = tlog.TreeHead(f"{CONSORTIUM}/log", tree.size, tree.root()).sign(key(f"{CONSORTIUM}/log"))
    (finding,) = audit(leaves, head, [merkle.leaf_hash(leaf) for leaf in leaves]).findings
    assert (finding.index, finding.refusal) == (len(leaves) - 1, Refusal.CONFLICT)
