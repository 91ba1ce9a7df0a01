"""A charter is changed by one vote each: when it comes into force, what it may change, and who has a say."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, World, added, charter, digest, key, member, pot, revoked, vkey

from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, Amendment, Coalition, Device, Leave, Limit, Tier, Vote
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import Agreement, carried, changes, check_charter
from shared_models.rules.audit import audit
from shared_models.rules.keyring import Keyring

DORA = member("dora", 1)
CHEAP = {"price": Fraction(1)}


def amendment(world: World, by: str = "acme", name: str = "a", **new) -> Amendment:
    whole = replace(world.books.charter, **new)
    return Amendment(seq=0, prev=FIRST, member=by, amendment=name, replaces=world.books.agreement.hash, charter=whole)


def vote(by: str, hashed: str, choice: str = "yes") -> Vote:
    return Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice=choice)


def leave(who: str) -> Leave:
    return Leave(seq=0, prev=FIRST, member=who, reason="no budget")


def proposed(world: World, by: str = "acme", name: str = "a", **new) -> str:
    return world.say(f"{by}/admin", amendment(world, by, name, **new))


def voted(world: World, hashed: str, *members: str, choice: str = "yes") -> None:
    for each in members:
        world.say(f"{each}/admin", vote(each, hashed, choice))


def amended(world: World, **new) -> str:
    hashed = proposed(world, **new)
    voted(world, hashed, "acme", "birch")
    return hashed


def refuses(world: World, author: str, record, refusal: Refusal) -> None:
    size = world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.say(author, record)
    assert (caught.value.refusal, world.books.tree.size) == (refusal, size), caught.value


def with_member(world: World, *new) -> tuple:
    return tuple(sorted((*world.books.charter.members, *new), key=lambda each: each.name))


# When it comes into force.


def test_an_amendment_is_in_force_from_the_entry_on_that_brings_enough_votes_and_not_before():
    world = World()
    founded = world.books.charter, world.books.charter_hash
    hashed = proposed(world, **CHEAP)
    voted(world, hashed, "cedar")
    assert (world.books.charter, world.books.agreement.hash) == founded
    voted(world, hashed, "acme")
    agreement, size = world.books.agreement, world.books.tree.size
    assert (agreement.charter.price, agreement.hash) == (1, hashed)
    assert (world.books.charter_hash, agreement.at(0), agreement.at(size - 1)) == (founded[1], founded, founded)
    assert agreement.at(size) == (agreement.charter, hashed)
    again = amended(world, name="b", price=Fraction(2))
    assert agreement.at(size) == (replace(founded[0], **CHEAP), hashed)
    assert agreement.at(world.books.tree.size) == (agreement.charter, again)


def test_no_is_no_vote_for_it_and_nobody_votes_again():
    world = World()
    hashed = proposed(world, **CHEAP)
    voted(world, hashed, "acme")
    voted(world, hashed, "birch", choice="no")
    refuses(world, "birch/admin", vote("birch", hashed), Refusal.CONFLICT)
    refuses(world, "acme/admin", vote("acme", hashed, "no"), Refusal.CONFLICT)
    assert world.books.charter.price != 1


def test_what_else_was_proposed_lapses_and_what_replaces_another_charter_is_refused():
    world = World()
    founded = world.books.charter_hash
    other = proposed(world, "birch", "other", price=Fraction(5))
    late = amendment(world, name="late", price=Fraction(7))
    amended(world, **CHEAP)
    refuses(world, "cedar/admin", vote("cedar", other), Refusal.WRONG_CHARTER)
    refuses(world, "acme/admin", late, Refusal.WRONG_CHARTER)
    refuses(world, "cedar/admin", vote("cedar", founded), Refusal.WRONG_CHARTER)
    assert world.books.agreement.open == {}


def test_more_approvals_can_be_agreed_and_then_hold_for_the_next():
    world = World()
    amended(world, approvals=3)
    hashed = proposed(world, name="b", **CHEAP)
    voted(world, hashed, "acme", "birch")
    assert world.books.charter.price != 1
    voted(world, hashed, "cedar")
    assert world.books.charter.price == 1


ORDERS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["acme", "birch", "cedar", "dogwood", "elm"]), st.sampled_from(["yes", "no"])),
        st.tuples(st.sampled_from(["acme", "birch", "cedar", "dogwood", "elm"]), st.just("leave")),
    ),
    max_size=12,
)


@given(ORDERS, st.integers(3, 5), st.tuples(*[st.integers(0, 1_000)] * 5))
def test_it_is_in_force_exactly_when_enough_different_members_present_have_said_yes(acts, approvals, gives):
    """Whatever the order, and whatever they give. Who is refused changes nothing."""
    names = ["acme", "birch", "cedar", "dogwood", "elm"]
    founded = charter(dict(zip(names, gives, strict=True)), approvals=approvals)
    agreement = Agreement(founded, digest("founded"))
    new, text = replace(founded, quorum=1), digest("text")
    agreement.add(Amendment(seq=0, prev=FIRST, member="acme", amendment="a", replaces="", charter=new), 1, text)
    said, left, in_force = dict[str, str](), set[str](), False
    for index, (who, what) in enumerate(acts, 2):
        record = leave(who) if what == "leave" else vote(who, text, what)
        wrong = who in left or (what != "leave" and (in_force or who in said))
        try:
            agreement.check(record)
        except Refused:
            assert wrong
            continue
        assert not wrong
        if what == "leave":
            left.add(who)
        else:
            said[who] = what
        present = set(names) - left
        yes = {each for each in present if said.get(each) == "yes"}
        now = not in_force and len(yes) >= min(approvals, max(1, len(present)))
        assert agreement.add(record, index, digest(str(index))) == now
        in_force |= now
        assert (agreement.hash == text, agreement.charter == new, set(agreement.present())) == (
            in_force,
            in_force,
            present,
        )


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_most_is_more_than_half_of_those_present(said, present):
    assert carried(said, present) == (len(said & present) > len(present) / 2)


# What it may change.


FOUNDED = charter({"acme": 2, "birch": 1, "cedar": 1})
ACME, BIRCH, CEDAR = FOUNDED.members
OTHER = {role: vkey(f"other.example/{role}") for role in ("admin", "coordinator", "log")}


@pytest.mark.parametrize(
    "new",
    [
        {},
        {"consortium": "other.example", **OTHER},
        {"currency": "USD"},
        {"currency": "KWD", "minor_digits": 3},
        {"compute_pot": "services"},
        *({role: key(f"{CONSORTIUM}/{role}", 2).verify_key.text()} for role in ("admin", "log")),
        {"members": (ACME, BIRCH)},
        *(
            {"members": (replace(ACME, **{role: key(f"acme/{role}", 2).verify_key.text()}), BIRCH, CEDAR)}
            for role in ("admin", "compute", "witness", "attest")
        ),
        {"pots": (pot("compute", "proportional"),)},
        {"devices": (Device(name="gpu", peak_flops=1),)},
        {"devices": (Device(name="cpu-core", peak_flops=1),)},
    ],
)
def test_what_must_stay_cannot_be_changed(new):
    world = World()
    refuses(world, "acme/admin", amendment(world, **new), Refusal.WRONG_CHARTER)


def test_what_may_change_does():
    world = World()
    first, *rest = world.charter.members
    amended(
        world,
        price=Fraction(1, 3),
        pots=(pot("mail", "airport", "usage"), pot("compute", "equal"), pot("services", "two_part", "usage")),
        members=(replace(first, benefit=9, pledge=4), *rest),
        devices=(*world.charter.devices, Device(name="gpu", peak_flops=10**15)),
        quorum=2,
        cap="alone",
        tiers=(Tier(name="all", share=Fraction(0), right="use", lag=0, quota=1),),
    )
    assert world.books.charter.members[0].benefit == 9
    assert world.books.context.charter is world.books.charter


TIER = Tier(name="a", share=Fraction(1, 2), right="use", lag=0, quota=0)
A, B = Coalition(members=("acme",), cost=6), Coalition(members=("birch",), cost=5)
AB = Coalition(members=("acme", "birch"), cost=9)


def divided(rule: str, *table: Coalition, driver: str = "benefit") -> dict:
    return {"pots": (pot("compute", "proportional"), pot("services", rule, driver, tuple(table)))}


REPAYS = (replace(A, cost=9), replace(B, cost=1), replace(AB, cost=2))  # birch's part is below zero.


def limited(rule: str = "equal", **more) -> dict:
    return {"pots": (pot("compute", "proportional"), pot("services", rule, **more))}


def twice(which: str) -> dict:
    """A pot with two floors, or two caps, of one member."""
    (compute, services) = limited(**{which: {"acme": 1}})["pots"]
    return {"pots": (compute, replace(services, **{which: 2 * getattr(services, which)}))}


@pytest.mark.parametrize(
    ("new", "refusal"),
    [
        ({"approvals": 1}, Refusal.BAD_FIELD),
        ({"approvals": 4}, Refusal.BAD_FIELD),
        ({"quorum": 4}, Refusal.BAD_FIELD),
        ({"price": Fraction(-1)}, Refusal.BAD_FIELD),
        ({"accession": Fraction(-1, 9)}, Refusal.BAD_FIELD),
        ({"accession": Fraction(10, 9)}, Refusal.BAD_FIELD),
        ({"worth_share": Fraction(-1, 9)}, Refusal.BAD_FIELD),
        ({"worth_share": Fraction(10, 9)}, Refusal.BAD_FIELD),
        ({"expert_price": Fraction(-1, 9)}, Refusal.BAD_FIELD),
        ({"pots": (pot("compute", "equal"), pot("worth", "equal"))}, Refusal.BAD_FIELD),
        ({"compute_pot": "nothing"}, Refusal.BAD_FIELD),
        ({"devices": ()}, Refusal.BAD_FIELD),
        ({"members": tuple(member(name, 0) for name in ("acme", "birch", "cedar"))}, Refusal.BAD_FIELD),
        ({"members": tuple(member(name, 1) for name in ("birch", "acme", "cedar"))}, Refusal.BAD_FIELD),
        ({"tiers": (TIER, replace(TIER, name="b"))}, Refusal.BAD_FIELD),
        ({"tiers": (TIER, replace(TIER, share=Fraction(1)))}, Refusal.BAD_FIELD),
        ({"pots": (pot("compute", "equal"), pot("cap", "equal"))}, Refusal.BAD_FIELD),
        ({"pots": (pot("compute", "equal"), pot("accession", "equal"))}, Refusal.BAD_FIELD),
        ({"pots": (pot("compute", "equal"), pot("compute", "equal"))}, Refusal.BAD_FIELD),
        ({"minor_digits": 3}, Refusal.BAD_FIELD),
        (divided("equal", driver="paid"), Refusal.BAD_FIELD),
        (divided("shapley", *(replace(each, cost=0) for each in (A, B, AB))), Refusal.BAD_FIELD),
        ({"tiers": (replace(TIER, share=Fraction(-1)),)}, Refusal.BAD_FIELD),
        (divided("shapley", A, B, AB, driver="usage"), Refusal.BAD_FIELD),
        (divided("wealth"), Refusal.BAD_FIELD),
        (divided("shapley"), Refusal.BAD_FIELD),
        (divided("equal", A, B, AB), Refusal.BAD_FIELD),
        (divided("shapley", A, B, AB, driver="paid"), Refusal.BAD_FIELD),
        (divided("shapley", A, B), Refusal.BAD_FIELD),
        (divided("shapley", A, B, AB, AB), Refusal.BAD_FIELD),
        (divided("shapley", A, B, replace(AB, members=("birch", "acme"))), Refusal.BAD_FIELD),
        (divided("shapley", replace(A, members=("elm",))), Refusal.BAD_FIELD),
        (divided("nucleolus", A, B, replace(AB, cost=12)), Refusal.INFEASIBLE),
        (limited(floors={"elm": 1}), Refusal.BAD_FIELD),
        (limited(caps={"elm": 1}), Refusal.BAD_FIELD),
        (limited(floors={"acme": 2}, caps={"acme": 1}), Refusal.BAD_FIELD),
        (limited(driver="paid", rule="proportional", floors={"acme": 1}), Refusal.BAD_FIELD),
        (limited(driver="paid", rule="proportional", caps={"acme": 1}), Refusal.BAD_FIELD),
        (limited(rule="shapley", table=REPAYS, caps={"acme": 1}), Refusal.BAD_FIELD),
        (twice("floors"), Refusal.BAD_FIELD),
        (twice("caps"), Refusal.BAD_FIELD),
        ({"log": vkey(f"{CONSORTIUM}/admin")}, Refusal.BAD_FIELD),
    ],
)
def test_a_charter_that_cannot_be_kept_to_is_refused_from_the_first_one_on(new, refusal):
    with pytest.raises(Refused) as caught:
        check_charter(replace(FOUNDED, **new))
    assert caught.value.refusal is refusal, caught.value
    world = World()
    refuses(world, "acme/admin", amendment(world, **new), refusal)


def test_a_pot_has_floors_and_caps_whatever_divides_it():
    world = World()
    amended(world, **limited(floors={"acme": 1, "birch": 5}, caps={"acme": 1, "cedar": 0}))
    amended(world, name="b", **limited(rule="shapley", table=(A, B, AB), floors={"acme": 1}))
    assert world.books.charter.pots[1].floors == (Limit(member="acme", amount=1),)


@pytest.mark.parametrize("rule", ["shapley", "scrb", "nucleolus"])
def test_a_cost_table_of_some_members_is_a_rule_too(rule):
    world = World()
    amended(world, **divided(rule, A, B, AB))
    assert world.books.charter.pots[1].rule == rule


def test_the_same_names_in_another_order_are_a_change_and_equal_charters_are_none():
    old = charter({"acme": 1, "birch": 1})
    assert list(changes(old, old)) == []
    assert list(changes(old, replace(old, pots=old.pots[::-1]))) == [
        (("pots",), ("compute", "services"), ("services", "compute"))
    ]
    more = replace(old, pots=(*old.pots, pot("mail", "equal")), price=Fraction(2), members=old.members[:1])
    assert [each.at for each in changes(old, more)] == [("price",), ("pots", "mail"), ("members", "birch")]


# Who comes and who goes.


def test_who_is_brought_in_speaks_and_votes_from_then_on():
    world = World()
    leaf = world.sign("dora/admin", vote("dora", digest("x")))
    with pytest.raises(Refused, match="unknown_key"):
        world.books.open(leaf)
    amended(world, members=with_member(world, DORA), approvals=3)
    assert world.books.agreement.present() == ("acme", "birch", "cedar", "dora")
    assert ("dora", key("dora/compute").verify_key.id) in world.books.context.compute
    hashed = proposed(world, "dora", "d", **CHEAP)
    voted(world, hashed, "acme", "dora", "cedar")
    assert world.books.charter.price == 1


def test_a_key_that_stands_under_another_name_brings_nobody_in():
    world = World()
    new = key("acme/compute", 2)
    world.say("acme/admin", added("acme", "compute", new))
    twin = type(new)("dora/compute", new._private).verify_key.text()
    record = amendment(world, members=with_member(world, replace(DORA, compute=twin)), approvals=3)
    refuses(world, "acme/admin", record, Refusal.WRONG_CHARTER)


def test_nobody_keeps_a_member_out_by_taking_its_key():
    world = World()
    mine = type(key("a/admin"))("acme/compute", key("dora/compute")._private)
    hashed = proposed(world, "birch", members=with_member(world, DORA), approvals=3)
    refuses(world, "acme/admin", added("acme", "compute", mine), Refusal.BAD_FIELD)
    voted(world, hashed, "birch", "cedar")
    assert "dora" in world.books.agreement.present()


def test_a_key_that_was_revoked_does_not_come_back_with_a_charter():
    world = World()
    world.say("cedar/admin", added("cedar", "compute", key("cedar/compute", 2)))
    world.say("cedar/admin", revoked("cedar", "compute", key("cedar/compute")))
    amended(world, members=with_member(world, DORA), approvals=3)
    assert not world.books.keyring.counts("cedar/compute", key("cedar/compute").verify_key.id)
    assert world.books.keyring.counts("cedar/compute", key("cedar/compute", 2).verify_key.id)


def test_who_has_left_has_no_say_and_its_votes_do_not_count():
    world = World({"acme": 1, "birch": 1, "cedar": 1, "dogwood": 1, "elm": 1})
    hashed = proposed(world, **CHEAP)
    voted(world, hashed, "acme", "birch")
    world.say("birch/admin", leave("birch"))
    voted(world, hashed, "cedar")
    assert world.books.charter.price != 1  # Two of three that are needed.
    refuses(world, "birch/admin", leave("birch"), Refusal.CONFLICT)
    refuses(world, "birch/admin", amendment(world, "birch", "b", price=Fraction(2)), Refusal.WRONG_MEMBER)
    other = proposed(world, "cedar", "c", price=Fraction(3))
    refuses(world, "birch/admin", vote("birch", other), Refusal.WRONG_MEMBER)
    voted(world, hashed, "elm")
    assert world.books.charter.price == 1
    world.say("birch/admin", world.item("birch", 100))  # What it is owed it can still say.


def test_those_who_stay_can_always_agree():
    """All three had to; when one of them leaves, both others have to, and have."""
    world = World(approvals=3)
    hashed = proposed(world, **CHEAP)
    voted(world, hashed, "acme", "birch")
    assert world.books.charter.price != 1
    world.say("cedar/admin", leave("cedar"))
    assert (world.books.charter.price, world.books.agreement.hash) == (1, hashed)
    refuses(world, "acme/admin", amendment(world, name="b", approvals=3, price=Fraction(2)), Refusal.BAD_FIELD)
    proposed(world, name="c", approvals=2, price=Fraction(2))


def test_where_everybody_has_left_nothing_changes():
    world = World()
    hashed = proposed(world, **CHEAP)
    for each in world.members:
        world.say(f"{each}/admin", leave(each))
    assert (world.books.agreement.present(), world.books.agreement.hash == hashed) == ((), False)


def test_a_leaver_is_in_no_later_run_and_no_later_round():
    world = World()
    world.start()
    world.round()
    world.say("cedar/admin", leave("cedar"))
    refuses(world, world.coordinator, world.opened(), Refusal.WRONG_MEMBER)
    world.say(world.coordinator, world.opened(invited=("acme", "birch")))
    refuses(world, world.coordinator, world.manifest("r2"), Refusal.WRONG_MEMBER)
    world.say(world.coordinator, world.manifest("r2", members=("acme", "birch")))


def test_a_leaver_does_not_stand_in_for_who_has_lost_its_key():
    world = World({"acme": 1, "birch": 1, "cedar": 1, "dogwood": 1})
    world.say("cedar/admin", leave("cedar"))
    new = added("acme", "admin", key("acme/admin", 2))
    leaf = world.sign("birch/admin", new, key("birch/admin"), key("cedar/admin"))
    with pytest.raises(Refused, match="wrong_role"):
        world.append(leaf)
    world.append(world.sign("birch/admin", new, key("birch/admin"), key("dogwood/admin")))


def test_a_run_cites_the_charter_in_force():
    world = World()
    before = world.books.charter_hash
    hashed = amended(world, **CHEAP)
    refuses(world, world.coordinator, world.manifest(charter=before), Refusal.NO_CHARTER)
    world.say(world.coordinator, world.manifest(charter=hashed))


@pytest.mark.parametrize("author", ["birch/admin", "acme/compute", f"{CONSORTIUM}/admin", f"{CONSORTIUM}/coordinator"])
def test_only_a_member_s_own_admin_speaks_for_it(author):
    world = World()
    hashed = proposed(world, name="first", price=Fraction(9))
    for record in (amendment(world, **CHEAP), vote("acme", hashed), leave("acme")):
        refuses(world, author, record, Refusal.WRONG_ROLE)


# What others make of it.


def history() -> World:
    world = World()
    world.say("cedar/admin", added("cedar", "admin", key("cedar/admin", 2)))
    amended(world, members=with_member(world, DORA), approvals=3)
    world.say("birch/admin", leave("birch"))
    world.say("dora/admin", amendment(world, "dora", "d", approvals=2))
    return world


def test_an_audit_of_a_log_with_an_amendment_finds_nothing_and_says_that_there_is_one():
    world = history()
    report = audit(world.leaves, world.head(), world.hashes(), charter=world.books.charter_hash)
    assert report.findings == []
    assert report.books.agreement.charter == world.books.charter
    assert [each.partition(":")[2] for each in report.notices] == [
        f" from here on another charter is in force, {world.books.agreement.hash}",
        " birch left: no budget",
    ]


def test_an_audit_finds_an_amendment_and_a_vote_that_were_forged():
    world = history()
    for text, other in ((b'"approvals":3', b'"approvals":2'), (b'"choice":"yes"', b'"choice":"no"')):
        at = next(index for index, leaf in enumerate(world.leaves) if text in leaf and index)
        leaves = [*world.leaves[:at], world.leaves[at].replace(text, other), *world.leaves[at + 1 :]]
        found = audit(leaves, world.head(), world.hashes(), charter=world.books.charter_hash).findings
        assert {(at, Refusal.CORRUPT), (at, Refusal.BAD_SIGNATURE)} <= {(each.index, each.refusal) for each in found}


def test_an_audit_finds_what_the_ledger_should_have_refused():
    world = World()
    leaf = world.sign("acme/admin", amendment(world, currency="USD"))
    world.leaves.append(leaf)
    world.books.tree.append(entries.open_leaf(leaf, CONSORTIUM, world.books.keys).hash)
    (finding,) = audit(world.leaves, world.head(), world.hashes(), charter=world.books.charter_hash).findings
    assert (finding.index, finding.refusal) == (1, Refusal.WRONG_CHARTER)


def test_who_is_told_only_of_keys_and_charters_comes_to_the_same_agreement_and_believes_nobody():
    world = history()
    ring = Keyring(world.charter, world.books.charter_hash)
    for index, leaf in world.books.about_keys:
        ring.learn(index, leaf)
    assert (ring.charter, ring.agreement.hash) == (world.books.charter, world.books.agreement.hash)
    assert (ring.agreement.left, ring.counted) == (world.books.agreement.left, world.books.keyring.counted)
    assert ring.agreement.open.keys() == world.books.agreement.open.keys()
    fresh = Keyring(world.charter, world.books.charter_hash)
    for index, leaf in world.books.about_keys[:3]:
        fresh.learn(index, leaf)
    for index, leaf in world.books.about_keys[2:4:2]:  # The same vote again brings nothing.
        with pytest.raises(Refused, match="conflict"):
            fresh.learn(index, leaf)
    (index, lie) = world.books.about_keys[3]
    with pytest.raises(Refused, match="bad_signature"):
        fresh.learn(index, lie.replace(b'"yes"', b'"no"'))
    hashed = next(iter(fresh.agreement.open))
    for record in (world.item("acme", 1), vote("birch", hashed)):  # Not about charters; not acme's to say.
        with pytest.raises(Refused, match="wrong_role"):
            fresh.learn(9, world.sign("acme/admin", record))
