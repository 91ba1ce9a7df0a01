"""Keys come and go: added by their holder or by most members, revoked from an index on, disputed until affirmed."""

from dataclasses import replace

import pytest
from world import CONSORTIUM, World, added, affirmed, charter, key, revoked, whole

from shared_models.records import entry as entries
from shared_models.records import note
from shared_models.records.keys import COSIGNATURE, MLDSA44, SigningKey
from shared_models.records.kinds import FIRST
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.keyring import Keyring

TWICE = SigningKey("acme/witness", key("acme/admin")._private, COSIGNATURE)  # One key under two names.


def refuses(world: World, leaf: bytes, refusal: Refusal) -> None:
    size = world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.append(leaf)
    assert caught.value.refusal is refusal, caught.value
    assert world.books.tree.size == size


def by_all(world: World, record, *names: str) -> bytes:
    """The leaf of this record in the chain of the first of these, signed by all of them."""
    return world.sign(names[0], record, *map(key, names))


def test_a_key_is_rotated_by_the_old_one_and_its_chain_goes_on():
    world = World()
    world.start()
    old, new = key("acme/compute"), key("acme/compute", 2)
    world.say("acme/compute", added("acme", "compute", new))
    world.say("acme/admin", revoked("acme", "compute", old, suspect_from=world.books.tree.size))
    world.say(world.coordinator, world.opened())
    refuses(world, world.sign("acme/compute", world.receipt("acme")), Refusal.REVOKED)
    hashed = world.append(world.sign("acme/compute", world.receipt("acme"), new))
    assert world.books.chains["acme/compute"].hash == hashed


def test_until_it_is_revoked_an_old_key_counts_beside_the_new_one():
    world = World()
    world.start()
    world.say("acme/admin", added("acme", "compute", key("acme/compute", 2)))
    world.say(world.coordinator, world.opened())
    world.say("acme/compute", world.receipt("acme"))


@pytest.mark.parametrize(
    ("author", "holder", "role", "new", "refusal"),
    [
        ("birch/admin", "acme", "compute", key("acme/compute", 2), Refusal.WRONG_ROLE),
        ("birch/compute", "acme", "compute", key("acme/compute", 2), Refusal.WRONG_ROLE),
        ("acme/compute", "acme", "admin", key("acme/admin", 2), Refusal.WRONG_ROLE),
        ("acme/compute", "acme", "witness", key("acme/witness", 2), Refusal.WRONG_ROLE),
        (f"{CONSORTIUM}/admin", "acme", "compute", key("acme/compute", 2), Refusal.WRONG_ROLE),
        ("acme/admin", CONSORTIUM, "admin", key(f"{CONSORTIUM}/admin", 2), Refusal.WRONG_ROLE),
        ("acme/admin", "acme", "compute", key("birch/compute", 2), Refusal.BAD_FIELD),
        ("acme/admin", "acme", "compute", key("acme/compute"), Refusal.BAD_FIELD),
        ("acme/admin", "acme", "witness", TWICE, Refusal.BAD_FIELD),
        ("acme/admin", "acme", "witness", SigningKey.generate("acme/witness"), Refusal.BAD_FIELD),
        ("acme/admin", "acme", "log", SigningKey.generate("acme/log"), Refusal.BAD_FIELD),
        ("acme/admin", "acme", "compute", SigningKey.generate("acme/compute", MLDSA44), Refusal.BAD_FIELD),
    ],
)
def test_a_key_that_may_not_be_added_is_refused(author, holder, role, new, refusal):
    world = World()
    refuses(world, world.sign(author, added(holder, role, new)), refusal)


def test_an_auditor_s_key_is_given_by_its_member_s_admin_and_by_nobody_else():
    world, first, second = World(), key("acme/auditor"), key("acme/auditor", 2)
    for author in ("acme/compute", "acme/auditor", "birch/admin", f"{CONSORTIUM}/admin"):
        leaf = world.sign(author, added("acme", "auditor", first))
        refuses(world, leaf, Refusal.UNKNOWN_KEY if author == "acme/auditor" else Refusal.WRONG_ROLE)
    refuses(world, world.sign("acme/admin", added("acme", "auditor", key("birch/auditor"))), Refusal.BAD_FIELD)
    world.say("acme/admin", added("acme", "auditor", first))
    refuses(world, world.sign("acme/auditor", added("acme", "auditor", second)), Refusal.WRONG_ROLE)
    refuses(world, world.sign("acme/auditor", revoked("acme", "auditor", first)), Refusal.WRONG_ROLE)
    world.say("acme/admin", added("acme", "auditor", second))  # Several may read.
    world.say("acme/admin", revoked("acme", "auditor", first))
    assert [world.books.keyring.counts(each.name, each.verify_key.id) for each in (first, second)] == [False, True]


def test_the_consortium_has_no_auditor_and_no_charter_names_one():
    world = World()
    new = key(f"{CONSORTIUM}/auditor")
    refuses(world, by_all(world, added(CONSORTIUM, "auditor", new), "acme/admin", "birch/admin"), Refusal.BAD_FIELD)
    assert not {role for _, role, _ in entries.roles(charter({"acme": 1}))} & set(entries.READER_ROLES)


def test_an_auditor_writes_no_record_of_any_kind():
    world, kinds = whole(), set[str]()
    world.say("acme/admin", added("acme", "auditor", key("acme/auditor")))
    for leaf in world.leaves[1:]:
        record = replace(entries.peek(leaf), seq=0, prev=FIRST)
        kinds.add(record.kind)
        leaf = entries.sign(record, CONSORTIUM, [key("acme/auditor")])
        refuses(world, leaf, Refusal.WRONG_ROLE)
    assert len(kinds) > 15


def test_a_witness_key_signs_no_entries():
    world = World()
    record = added("acme", "witness", key("acme/witness", 2))
    text = entries.sign(record, CONSORTIUM, [key("acme/admin")]).decode().partition("\n\n")[0] + "\n"
    leaf = note.Note(text, (note.signature(text, key("acme/witness"), 1),)).data()
    refuses(world, leaf, Refusal.WRONG_ROLE)


def test_more_than_half_of_the_members_stand_in_for_one_that_has_lost_its_admin_key():
    world = World()
    new = added("acme", "admin", key("acme/admin", 2))
    refuses(world, by_all(world, new, "birch/admin"), Refusal.WRONG_ROLE)
    refuses(world, by_all(world, new, "birch/admin", "birch/admin"), Refusal.WRONG_ROLE)
    refuses(world, by_all(world, new, "birch/admin", "birch/compute"), Refusal.WRONG_ROLE)
    refuses(world, by_all(world, new, "birch/compute", "birch/admin", "cedar/admin"), Refusal.WRONG_ROLE)
    refuses(world, by_all(world, new, "birch/admin", f"{CONSORTIUM}/admin"), Refusal.WRONG_ROLE)
    world.append(by_all(world, new, "birch/admin", "cedar/admin"))
    world.append(by_all(world, revoked("acme", "admin", key("acme/admin")), "birch/admin", "cedar/admin"))
    refuses(world, world.sign("acme/admin", world.item("acme", 5)), Refusal.REVOKED)
    world.append(world.sign("acme/admin", world.item("acme", 5), key("acme/admin", 2)))


def test_a_revoked_admin_has_no_say_for_others_either():
    world = World()
    world.append(by_all(world, revoked("cedar", "admin", key("cedar/admin")), "cedar/admin"))
    new = added("acme", "admin", key("acme/admin", 2))
    refuses(world, by_all(world, new, "birch/admin", "cedar/admin"), Refusal.WRONG_ROLE)


def test_only_what_is_there_is_revoked_and_only_by_its_holder():
    world = World()
    refuses(world, world.sign("birch/admin", revoked("acme", "compute", key("acme/compute"))), Refusal.WRONG_ROLE)
    refuses(world, world.sign("acme/compute", revoked("acme", "compute", key("acme/compute"))), Refusal.WRONG_ROLE)
    refuses(world, world.sign("acme/admin", revoked("acme", "compute", key("acme/compute", 2))), Refusal.UNKNOWN_KEY)
    later = revoked("acme", "compute", key("acme/compute"), suspect_from=9)
    refuses(world, world.sign("acme/admin", later), Refusal.BAD_FIELD)
    world.say("acme/admin", revoked("acme", "compute", key("acme/compute")))
    again = revoked("acme", "compute", key("acme/compute"), suspect_from=1)
    refuses(world, world.sign("acme/admin", again), Refusal.CONFLICT)


def work(world: World) -> dict[str, int]:
    return {each.member: each.flop for each in world.statement().balances}


def test_what_a_stolen_key_signed_is_not_billed_until_its_holder_affirms_it():
    world = World()
    world.start()
    world.round()
    one = work(world)["acme"]
    suspect_from = world.books.tree.size
    world.round()
    world.say("acme/admin", revoked("acme", "compute", key("acme/compute"), suspect_from))
    assert work(world) == {"acme": one, "birch": 2 * one, "cedar": 2 * one}
    world.bill("p1")
    assert work(world) == {"acme": 0, "birch": 0, "cedar": 0}
    old = key("acme/compute")
    end = world.books.keyring.standing[old.name, old.verify_key.id].end
    world.say("acme/admin", affirmed("acme", "compute", old, suspect_from, end))
    assert work(world) == {"acme": one, "birch": 0, "cedar": 0}
    world.bill("p2")
    assert work(world) == {"acme": 0, "birch": 0, "cedar": 0}


def test_a_cost_that_a_stolen_key_entered_is_not_billed_either():
    world = World()
    world.say("acme/admin", world.item("acme", 500))
    world.say("acme/admin", added("acme", "admin", key("acme/admin", 2)))
    before = world.statement()
    world.append(world.sign("acme/admin", revoked("acme", "admin", key("acme/admin")), key("acme/admin", 2)))
    assert sum(line.credit for line in before.lines) == 500
    assert sum(line.credit for line in world.statement().lines) == 0


def test_a_statement_sees_revocations_as_of_its_end_and_not_later_ones():
    world = World()
    world.start()
    world.round()
    end, whole = world.books.tree.size, work(world)
    world.say("acme/admin", revoked("acme", "compute", key("acme/compute")))
    bill = world.books.statement("p", end, seq=0, prev=FIRST)
    assert {each.member: each.flop for each in bill.balances} == whole


@pytest.mark.parametrize(("start", "end"), [(0, 9), (9, 99), (9, 9), (10, 9)])
def test_only_what_is_disputed_is_affirmed(start, end):
    world = World()
    world.start()
    world.round()
    world.say("acme/admin", revoked("acme", "compute", key("acme/compute"), 5))
    record = affirmed("acme", "compute", key("acme/compute"), start, end)
    refuses(world, world.sign("acme/admin", record), Refusal.BAD_FIELD)
    other = affirmed("birch", "compute", key("birch/compute"), 5, 6)
    refuses(world, world.sign("birch/admin", other), Refusal.UNKNOWN_KEY)
    mine = affirmed("acme", "compute", key("acme/compute"), 5, 6)
    refuses(world, world.sign("birch/admin", mine), Refusal.WRONG_ROLE)
    world.say("acme/admin", mine)


# A keyring by itself, as a member keeps it.


def test_it_believes_no_entry_that_a_revoked_key_signed():
    world = World()
    ring = Keyring(world.charter, world.books.charter_hash)
    first = world.books.open(world.sign("acme/admin", revoked("acme", "admin", key("acme/admin"))))
    ring.check_author(first)
    ring.add(first.record, 5, first.hash.hex())
    second = world.books.open(world.sign("acme/admin", added("acme", "compute", key("acme/compute", 2))))
    with pytest.raises(Refused) as caught:
        ring.check_author(second)
    assert caught.value.refusal is Refusal.REVOKED


def test_no_key_stands_under_two_names():
    good = charter({"acme": 1})
    twin = SigningKey("acme/compute", key("acme/admin")._private).verify_key.text()
    with pytest.raises(Refused) as caught:
        Keyring(replace(good, members=(replace(good.members[0], compute=twin),)), "")
    assert caught.value.refusal is Refusal.BAD_FIELD
