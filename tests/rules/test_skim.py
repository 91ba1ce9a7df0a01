"""Reading a receipt at a glance comes to what reading it slowly comes to, or to nothing."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, TOY, World, digest, key, revoked

from shared_models.records import entry as entries
from shared_models.records import note
from shared_models.records.kinds import Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books, Last
from shared_models.rules.pricing import check_claim
from shared_models.rules.skim import Context, Receipts, Skimmed, skim


def world() -> World:
    made = World()
    made.start()
    made.say(made.coordinator, made.opened())
    return made


WORLD = world()
CONTEXT = WORLD.books.context
HONEST = WORLD.receipt("acme")
LEAF = WORLD.sign("acme/compute", HONEST)


def slowly(leaf: bytes, context: Context = CONTEXT) -> Skimmed | None:
    """What the slow way makes of it: everything that can be told from the receipt itself."""
    try:
        entry = entries.open_leaf(leaf, CONSORTIUM, context.keys)
        receipt = entry.record
        if not isinstance(receipt, Receipt) or entry.author != f"{receipt.member}/compute":
            return None
        if receipt.run not in context.runs:
            return None
        check_claim(receipt, context.runs[receipt.run], context.charter)
    except Refused:
        return None
    return Skimmed.of(entry)


def agree(leaf: bytes) -> None:
    quick = skim(leaf, CONTEXT)
    assert quick is None or quick == slowly(leaf)


def test_an_honest_receipt_is_skimmed():
    assert skim(LEAF, CONTEXT) == slowly(LEAF) == Skimmed.of(WORLD.books.open(LEAF))


edges = st.sampled_from(
    [0, 1, 96, 10**14, 10**15 - 1, 10**15, 2**53 - 1, 2**53, 10**16, 10**17, 2**63 - 1, 10**28 - 1, 10**28, 2**96]
)
values = {
    "seq": edges,
    "round": st.integers(1, 2) | st.just(10**16),
    "node": st.from_regex("[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", fullmatch=True),
    "busy_ms": edges,
    "wall_ms": edges,
    "cpu_ms": edges,
    "energy_mj": edges,
    "memory_bytes": edges,
    "bytes_down": edges,
    "started_ms": edges,
    "ended_ms": edges,
    "witnessed_size": edges,
    "tokens": st.sampled_from([96, 97, 10**16]),
    "steps": st.sampled_from([3, 4]),
    "devices": st.sampled_from([1, 2, 2**53, 10**17, 2**63 - 1]),
    "device": st.sampled_from(["cpu-core", "h100"]),
    "energy_method": st.sampled_from(["none", "nvml_counter"]),
    "isolation": st.sampled_from(["none", "landlock-1", "landlock-7+netns", "landlock-07", "bubblewrap", "none+netns"]),
    "run": st.sampled_from(["r1", "r2"]),
    "member": st.sampled_from(["acme", "birch", "dogwood"]),
    "update": st.just(digest("u")),
}


@given(st.fixed_dictionaries({}, optional=values), st.sampled_from(["acme", "birch", "dogwood"]))
def test_any_receipt_comes_to_the_same_both_ways(changes, signer):
    try:
        leaf = entries.sign(replace(HONEST, **changes), CONSORTIUM, [key(f"{signer}/compute")])
    except Refused:
        return
    agree(leaf)


def test_it_knows_receipts_with_work_beyond_what_a_double_can_count():
    manifest = replace(WORLD.books.runs["r1"].manifest, flop_per_token=10**17)
    context = replace(CONTEXT, runs={"r1": manifest})
    receipt = replace(HONEST, flop=96 * 10**17, wall_ms=10**11, busy_ms=1)
    leaf = entries.sign(receipt, CONSORTIUM, [key("acme/compute")])
    assert b'"flop":"9600000000000000000"' in leaf
    found = skim(leaf, context)
    assert found is not None
    assert found == slowly(leaf, context)


@given(st.integers(0, len(LEAF) - 1), st.integers(1, 255))
def test_any_changed_byte_comes_to_the_same_both_ways(at, flip):
    agree(LEAF[:at] + bytes([LEAF[at] ^ flip]) + LEAF[at + 1 :])


TEXT = LEAF[: LEAF.rindex(b"\n\n") + 1].decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("commons.example", "other.example"),
        TEXT.replace("receipt@v1", "receipt@v2"),
        TEXT.replace('{"base"', '{ "base"'),
        TEXT.replace('"tokens":96', '"tokens":96.0'),
        TEXT.replace('"tokens":96', '"tokens":096'),
        TEXT.replace('"tokens":96', '"tokens":"96"'),
        TEXT.replace('"tokens":96', '"tokens":-0'),
        TEXT.replace('"tokens":96', '"tokens":1e2'),
        TEXT.replace('"tokens":96', '"tokens":95,"tokens":96'),
        TEXT.replace('"wall_ms":1200', f'"wall_ms":{2**53}'),
        TEXT.replace('"wall_ms":1200', f'"wall_ms":"{2**53 - 1}"'),
        TEXT.replace('"wall_ms":1200', f'"wall_ms":"{2**97}"'),
        TEXT.replace('"member":"acme"', '"member":"\\u0061cme"'),
        TEXT.replace('"node":"1"', '"node":"-"'),
        TEXT.replace('"isolation":"none"', '"isolation":"landlock-06"'),
        TEXT.replace('"isolation":"none"', '"isolation":"none+netns"'),
        TEXT.replace('"isolation":"none"', '"isolation":"vm"'),
        TEXT + "more\n",
    ],
)
def test_what_is_signed_but_not_canonical_is_not_skimmed(text):
    assert text != TEXT
    assert skim(note.sign(text, [key("acme/compute")]), CONTEXT) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"busy_ms": HONEST.wall_ms + 1},
        {"ended_ms": HONEST.started_ms - 1},
        {"device": "h100"},
        {"wall_ms": 0, "busy_ms": 0},
    ],
)
def test_what_no_machine_can_have_done_in_that_time_is_not_skimmed(changes):
    leaf = entries.sign(replace(HONEST, **changes), CONSORTIUM, [key("acme/compute")])
    assert skim(leaf, CONTEXT) is None


def test_who_vouches_for_a_signature_saves_its_verification():
    forged = LEAF.replace(b'"busy_ms":900', b'"busy_ms":901')
    assert skim(forged, CONTEXT) is None
    assert skim(forged, CONTEXT, verify=False) is not None


def test_other_entries_and_other_bytes_are_not_skimmed():
    for leaf in [*WORLD.leaves, b"", b"\xff" * 300, LEAF + LEAF, LEAF[:-1], LEAF + LEAF.splitlines(True)[-1]]:
        assert skim(leaf, CONTEXT) is None


def test_every_field_of_a_receipt_is_in_the_expression():
    for field in fields(Receipt):
        assert skim(LEAF.replace(f'"{field.name}"'.encode(), b'"another"'), CONTEXT, verify=False) is None


# The books hold what was skimmed against the same rules.


def skimmed(made: World, leaf: bytes, refusal: Refusal) -> None:
    found = skim(leaf, made.books.context)
    assert found is not None
    with pytest.raises(Refused) as caught:
        made.books.check(found)
    assert caught.value.refusal is refusal


def test_a_revoked_key_a_second_word_and_a_gap_are_refused_at_a_glance_too():
    made = world()
    made.say("acme/compute", made.receipt("acme"))
    skimmed(made, made.sign("acme/compute", made.receipt("acme", busy_ms=1)), Refusal.CONFLICT)
    gap = entries.sign(replace(made.receipt("birch"), seq=7), CONSORTIUM, [key("birch/compute")])
    skimmed(made, gap, Refusal.SEQUENCE_GAP)
    made.say("cedar/admin", revoked("cedar", "compute", key("cedar/compute")))
    skimmed(made, made.sign("cedar/compute", made.receipt("cedar")), Refusal.REVOKED)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"opened": digest("another")}, Refusal.WRONG_ROUND),
        ({"round": 2}, Refusal.WRONG_ROUND),
        ({"base": digest("another")}, Refusal.WRONG_BASE),
        ({"witnessed_root": digest("another")}, Refusal.WRONG_HEAD),
        ({"seq": 9}, Refusal.SEQUENCE_GAP),
        ({"prev": digest("another")}, Refusal.WRONG_PREV),
        ({"node": "1"}, Refusal.CONFLICT),
        ({"member": "cedar"}, Refusal.NOT_INVITED),
        ({"member": "birch"}, Refusal.REVOKED),
        ({}, None),
    ],
)
def test_what_is_taken_at_once_is_what_is_checked_and_added(changes, refusal):
    """One receipt of the round was taken before, so that nothing of what this one says of it is new."""
    made = World()
    made.start()
    made.say(made.coordinator, made.opened(invited=("acme", "birch")))
    made.say("birch/admin", revoked("birch", "compute", key("birch/compute")))
    made.say("acme/compute", made.receipt("acme"))
    member = changes.get("member", "acme")
    last = made.books.chains[f"{member}/compute"]
    receipt = replace(made.receipt(member, node="2"), seq=last.seq + 1, prev=last.hash)
    leaf = entries.sign(replace(receipt, **changes), CONSORTIUM, [key(f"{member}/compute")])
    found = skim(leaf, made.books.context)
    assert found is not None
    size = made.books.tree.size
    if refusal is None:
        assert made.books.take(found) == size
        assert made.books.said(found)
        return
    for act in (made.books.take, made.books.check):
        with pytest.raises(Refused) as caught:
            act(found)
        assert caught.value.refusal is refusal
    assert not made.books.take_all(Receipts.of([found]))
    assert made.books.tree.size == size


def round_of(nodes: int, changes: dict[tuple[int, str], dict[str, object]]) -> tuple[World, list[Skimmed]]:
    """A round in which each member has so many nodes: the world before their receipts, and these, some changed."""
    made = World()
    made.start()
    made.say(made.coordinator, made.opened())
    lasts = {member: made.books.chains[f"{member}/compute"] for member in made.members}
    found = []
    for node in range(nodes):
        for member in made.members:
            author, last = f"{member}/compute", lasts[member]
            receipt = replace(made.receipt(member, node=f"{node}"), seq=last.seq + 1, prev=last.hash)
            receipt = replace(receipt, **changes.get((node, member), {}))
            found.append(skim(entries.sign(receipt, CONSORTIUM, [key(author)]), made.books.context))
            lasts[member] = Last(last.seq + 1, found[-1].hash.hex(), 0)
    return made, found


def state(books: Books) -> tuple[object, ...]:
    turn = books.runs["r1"].rounds[0]
    return books.tree.root(), books.tree.size, dict(books.chains), set(turn.said), dict(turn.receipts)


@pytest.mark.parametrize("nodes", [1, 3])
def test_receipts_taken_together_are_those_taken_one_by_one(nodes):
    made, receipts = round_of(nodes, {})
    other, _ = round_of(nodes, {})
    together = Receipts.of(receipts)
    assert list(together.each()) == receipts
    assert made.books.take_all(together)
    for receipt in receipts:
        other.books.take(receipt)
    assert state(made.books) == state(other.books)
    assert not made.books.take_all(together)


@pytest.mark.parametrize(
    "changes", [{"seq": 9}, {"prev": digest("another")}, {"node": "0"}, {"opened": digest("another")}]
)
def test_of_receipts_taken_together_either_all_are_in_order_or_none_is_taken(changes):
    made, receipts = round_of(2, {(1, "birch"): changes})
    if "opened" in changes:  # What one says of the round is held against it in the name of all.
        receipts = [each._replace(turn=receipts[4].turn) for each in receipts]
    before = state(made.books)
    assert not made.books.take_all(Receipts.of(receipts))
    assert state(made.books) == before


def test_what_comes_after_the_round_closed_is_not_taken_together():
    made, receipts = round_of(1, {})
    made.say(made.coordinator, made.close({}))
    before = state(made.books)
    assert not made.books.take_all(Receipts.of(receipts))
    assert state(made.books) == before
    assert [made.books.take(each) for each in receipts] == [before[1], before[1] + 1, before[1] + 2]


def test_where_members_have_steps_of_their_own_each_claims_its_own():
    made = World()
    made.start(recipe=replace(TOY, inner_steps=4), steps=(4, 1, 4))
    made.say(made.coordinator, made.opened())
    context = made.books.context
    leaves = {member: made.sign(f"{member}/compute", made.receipt(member)) for member in made.members}
    found = {member: skim(leaf, context) for member, leaf in leaves.items()}
    assert found == {member: slowly(leaf, context) for member, leaf in leaves.items()}
    assert None not in found.values()
    assert found["acme"].turn is found["cedar"].turn
    assert found["acme"].turn.flop == 4 * found["birch"].turn.flop
    fast = made.receipt("acme")
    for member, claimed in (("birch", fast), ("acme", made.receipt("birch"))):
        wrong = replace(claimed, member=member)
        assert skim(entries.sign(wrong, CONSORTIUM, [key(f"{member}/compute")]), context) is None
    for member in made.members:
        made.books.take(found[member])
    made.say(made.coordinator, made.close({each: found[each].hash.hex() for each in made.members}))
    assert made.books.runs["r1"].rounds[0].closed.tokens == sum(made.receipt(each).tokens for each in made.members)
