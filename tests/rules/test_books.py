"""The rules of the log. Each refusal has its case: an honest log, and one entry that may not come next."""

from dataclasses import replace
from fractions import Fraction

import pytest
from world import CONSORTIUM, TOY, World, charter, counted, digest, key, november, pot, revoked

from shared_models.records import entry as entries
from shared_models.records.kinds import (
    FIRST,
    Excluded,
    Statement,
    StatementLine,
    Transfer,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books, differences


def refuses(world: World, leaf: bytes, refusal: Refusal) -> None:
    """The books refuse this leaf by this name, and nothing of them changes."""
    before = (world.books.tree.size, world.books.tree.root(), dict(world.books.chains))
    with pytest.raises(Refused) as caught:
        world.append(leaf)
    assert caught.value.refusal is refusal, caught.value
    assert (world.books.tree.size, world.books.tree.root(), dict(world.books.chains)) == before


def founded() -> World:
    return World()


def started() -> World:
    world = World()
    world.start()
    return world


def opened() -> World:
    world = started()
    world.say(world.coordinator, world.opened())
    return world


def receipted() -> tuple[World, dict[str, str]]:
    world = opened()
    return world, {member: world.say(f"{member}/compute", world.receipt(member)) for member in world.members}


def test_an_honest_log_is_taken_to_its_end():
    world = november()
    assert world.books.runs["r1"].ended.status == "completed"
    assert [bill.period for bill in world.books.statements] == ["2026-11"]


# The charter.


@pytest.mark.parametrize(
    ("changes", "benefits"),
    [
        ({"price": Fraction(-1)}, {"acme": 1}),
        ({}, {"acme": 0, "birch": 0}),
        ({"pots": (pot("compute", "magic"),)}, {"acme": 1}),
        ({"pots": (pot("services", "equal"),)}, {"acme": 1}),
        ({"pots": (pot("compute", "equal"),) * 2}, {"acme": 1}),
        ({"devices": ()}, {"acme": 1}),
        ({"members": ()}, {"acme": 1}),
        ({"members": charter({"acme": 1, "birch": 1}).members[::-1]}, {"acme": 1}),
    ],
)
def test_a_charter_that_cannot_be_billed_by_is_refused(changes, benefits):
    record = charter(benefits, **changes)
    books = Books()
    signers = [f"{CONSORTIUM}/{role}" for role in ("admin", "coordinator", "log")]
    signers += [f"{member.name}/admin" for member in record.members]
    with pytest.raises(Refused) as caught:
        books.check(books.open(entries.sign(record, CONSORTIUM, map(key, signers))))
    assert caught.value.refusal is Refusal.BAD_FIELD


def test_nothing_comes_before_the_charter_and_no_second_one_after():
    books, world = Books(), founded()
    with pytest.raises(Refused) as caught:
        books.open(world.sign(world.coordinator, world.manifest()))
    assert caught.value.refusal is Refusal.NO_CHARTER
    other = charter({"acme": 5, "birch": 1, "cedar": 1})
    for signers in (world.charter_signers(), world.charter_signers()[::-1]):
        refuses(world, entries.sign(other, CONSORTIUM, map(key, signers)), Refusal.CONFLICT)


# Who may say what.


def test_only_the_role_that_writes_a_kind_may_write_it():
    world = opened()
    for author, record in [
        ("acme/admin", world.receipt("acme")),
        ("acme/compute", world.item("acme", 5)),
        ("acme/compute", world.opened()),
        (f"{CONSORTIUM}/admin", world.opened()),
        (world.coordinator, world.receipt("acme")),
        (world.coordinator, world.statement()),
        (f"{CONSORTIUM}/log", world.statement()),
    ]:
        refuses(world, world.sign(author, record), Refusal.WRONG_ROLE)


def test_a_member_speaks_only_for_itself():
    world = opened()
    refuses(world, world.sign("birch/compute", world.receipt("acme")), Refusal.WRONG_MEMBER)
    refuses(world, world.sign("birch/admin", world.item("acme", 5)), Refusal.WRONG_MEMBER)


def test_each_author_s_entries_are_a_chain():
    world = opened()
    good = world.receipt("acme")
    last = world.books.chains["acme/compute"]

    def signed(**changes):
        return entries.sign(replace(good, **changes), CONSORTIUM, [key("acme/compute")])

    refuses(world, signed(seq=last.seq + 2, prev=last.hash), Refusal.SEQUENCE_GAP)
    refuses(world, signed(seq=0, prev=FIRST), Refusal.SEQUENCE_GAP)
    refuses(world, signed(seq=last.seq + 1, prev=FIRST), Refusal.WRONG_PREV)
    world.append(signed(seq=last.seq + 1, prev=last.hash))


def test_the_same_thing_is_said_once():
    world = opened()
    leaf = world.sign("acme/compute", world.receipt("acme"))
    world.append(leaf)
    assert world.books.said(world.books.open(leaf))
    refuses(world, world.sign("acme/compute", world.receipt("acme", busy_ms=1)), Refusal.CONFLICT)


def test_two_things_said_under_one_name_are_kept_as_evidence():
    world, log = started(), f"{CONSORTIUM}/log"
    world.say(log, world.equivocation(2, manifest=digest("another")))
    refuses(world, world.sign(log, world.equivocation(2, manifest=digest("a third"))), Refusal.CONFLICT)


def test_evidence_must_prove_something():
    world = started()
    good, log = world.equivocation(2, manifest=digest("another")), f"{CONSORTIUM}/log"
    refuses(world, world.sign(world.coordinator, good), Refusal.WRONG_ROLE)
    refuses(world, world.sign("acme/compute", good), Refusal.WRONG_ROLE)
    refuses(world, world.sign(log, replace(good, first=3)), Refusal.WRONG_EVIDENCE)
    refuses(world, world.sign(log, replace(good, first=999)), Refusal.WRONG_EVIDENCE)
    refuses(world, world.sign(log, replace(good, other=good.one)), Refusal.WRONG_EVIDENCE)
    neighbour = world.leaves[3].decode()
    refuses(world, world.sign(log, replace(good, other=neighbour)), Refusal.WRONG_EVIDENCE)
    forged = good.other.replace(digest("another"), digest("something else"))
    refuses(world, world.sign(log, replace(good, other=forged)), Refusal.BAD_SIGNATURE)
    refuses(world, world.sign(log, replace(good, one="no note\n")), Refusal.NOT_A_NOTE)


# Runs and rounds.


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"charter": digest("another")}, Refusal.NO_CHARTER),
        ({"members": ("acme", "dogwood")}, Refusal.WRONG_MEMBER),
        ({"members": ("birch", "acme")}, Refusal.WRONG_MEMBER),
        ({"members": ("acme", "acme")}, Refusal.WRONG_MEMBER),
        ({"quorum": 4}, Refusal.BAD_FIELD),
        ({"flop_per_token": 1}, Refusal.WRONG_FLOP),
        ({"start": digest("given")}, Refusal.WRONG_BASE),
        ({"recipe": replace(TOY, layers=2), "flop_per_token": 44_544}, Refusal.WRONG_FLOP),
        ({"recipe": replace(TOY, up="int2")}, Refusal.UNKNOWN_CODEC),
        ({"recipe": replace(TOY, down="int2")}, Refusal.UNKNOWN_CODEC),
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(changes, refusal):
    world = founded()
    refuses(world, world.sign(world.coordinator, world.manifest(**changes)), refusal)


def test_consent_is_to_the_manifest_that_is_logged_and_by_a_member_it_names():
    world = founded()
    world.say(world.coordinator, world.manifest(members=("acme", "birch")))
    wrong = world.consent("acme", manifest=digest("another"))
    refuses(world, world.sign("acme/compute", wrong), Refusal.WRONG_MANIFEST)
    refuses(world, world.sign("cedar/compute", world.consent("cedar")), Refusal.NOT_INVITED)
    unknown = replace(world.consent("acme"), run="r2")
    refuses(world, world.sign("acme/compute", unknown), Refusal.UNKNOWN_RUN)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"manifest": digest("another")}, Refusal.WRONG_MANIFEST),
        ({"round": 2}, Refusal.WRONG_ROUND),
        ({"base": digest("another")}, Refusal.WRONG_BASE),
        ({"invited": ()}, Refusal.NO_CONSENT),
        ({"invited": ("birch", "acme")}, Refusal.NO_CONSENT),
        ({"invited": ("acme", "acme")}, Refusal.NO_CONSENT),
        ({"invited": ("acme", "dogwood")}, Refusal.NO_CONSENT),
        ({"run": "r2"}, Refusal.UNKNOWN_RUN),
    ],
)
def test_a_round_that_does_not_follow_is_not_opened(changes, refusal):
    world = started()
    refuses(world, world.sign(world.coordinator, replace(world.opened(), **changes)), refusal)


def test_who_has_not_consented_is_not_invited():
    world = founded()
    world.say(world.coordinator, world.manifest())
    world.say("acme/compute", world.consent("acme"))
    refuses(world, world.sign(world.coordinator, world.opened(invited=("acme", "birch"))), Refusal.NO_CONSENT)
    world.say(world.coordinator, world.opened(invited=("acme",)))


def test_rounds_open_one_at_a_time_and_not_beyond_the_manifest():
    world = opened()
    refuses(world, world.sign(world.coordinator, replace(world.opened(), round=2)), Refusal.WRONG_ROUND)
    world = started()
    for _ in range(3):
        world.round()
    refuses(world, world.sign(world.coordinator, world.opened()), Refusal.WRONG_ROUND)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"run": "r2"}, Refusal.UNKNOWN_RUN),
        ({"round": 2}, Refusal.WRONG_ROUND),
        ({"opened": digest("another")}, Refusal.WRONG_ROUND),
        ({"base": digest("another")}, Refusal.WRONG_BASE),
        ({"flop": 1}, Refusal.WRONG_FLOP),
        ({"busy_ms": 10**6}, Refusal.IMPLAUSIBLE),
        ({"witnessed_root": digest("another")}, Refusal.WRONG_HEAD),
        ({"witnessed_size": 10**6}, Refusal.WRONG_HEAD),
        ({"witnessed_size": 1}, Refusal.WRONG_HEAD),
    ],
)
def test_a_receipt_that_does_not_hold_is_refused(changes, refusal):
    world = opened()
    refuses(world, world.sign("acme/compute", replace(world.receipt("acme"), **changes)), refusal)


def test_who_is_not_invited_has_no_receipt():
    world = started()
    world.say(world.coordinator, world.opened(invited=("acme", "birch")))
    refuses(world, world.sign("cedar/compute", world.receipt("cedar")), Refusal.NOT_INVITED)


def test_a_receipt_that_comes_after_its_round_is_logged_and_earns_nothing():
    world = opened()
    late = world.receipt("cedar")
    hashes = {member: world.say(f"{member}/compute", world.receipt(member)) for member in ("acme", "birch")}
    world.say(world.coordinator, world.close(hashes))
    world.say("cedar/compute", late)
    assert {balance.member: balance.flop > 0 for balance in world.statement().balances} == {
        "acme": True,
        "birch": True,
        "cedar": False,
    }


def test_a_round_closes_once_with_everybody_it_invited():
    world, hashes = receipted()
    good = world.close(hashes)
    some = good.included[:2]
    for changes, refusal in [
        ({"run": "r2"}, Refusal.UNKNOWN_RUN),
        ({"round": 2}, Refusal.WRONG_ROUND),
        ({"base": digest("another")}, Refusal.WRONG_BASE),
        ({"included": some}, Refusal.NOT_INVITED),
        ({"included": good.included[::-1]}, Refusal.NOT_INVITED),
        ({"included": (*some, some[1])}, Refusal.NOT_INVITED),
        ({"excluded": (Excluded(member="cedar", reason="late"),)}, Refusal.NOT_INVITED),
        ({"included": (*some, counted("cedar", hashes["acme"]))}, Refusal.WRONG_RECEIPT),
        ({"included": (*some, counted("cedar", digest("none")))}, Refusal.WRONG_RECEIPT),
        ({"included": (*some, counted("cedar", hashes["cedar"], 10**9))}, Refusal.BAD_FIELD),
        ({"seed": digest("another")}, Refusal.WRONG_SEED),
    ]:
        refuses(world, world.sign(world.coordinator, replace(good, **changes)), refusal)
    world.say(world.coordinator, good)
    refuses(world, world.sign(world.coordinator, replace(good, loss_unats=1)), Refusal.CONFLICT)


def test_no_round_closes_before_one_opened():
    world, hashes = receipted()
    good = world.close(hashes)
    refuses(started(), started().sign(world.coordinator, good), Refusal.WRONG_ROUND)


def test_without_a_quorum_the_checkpoint_stays():
    world = opened()
    hashes = {"acme": world.say("acme/compute", world.receipt("acme"))}
    moved = world.close(hashes, checkpoint=digest("moved"))
    refuses(world, world.sign(world.coordinator, moved), Refusal.WRONG_CHECKPOINT)
    world.say(world.coordinator, world.close(hashes))
    assert world.books.runs["r1"].checkpoint == digest("base")


def test_a_run_ends_once_where_it_is():
    world = started()
    world.round()
    wrong = world.end(checkpoint=digest("another"))
    refuses(world, world.sign(world.coordinator, wrong), Refusal.WRONG_CHECKPOINT)
    world.say(world.coordinator, world.end())
    refuses(world, world.sign(world.coordinator, world.opened()), Refusal.WRONG_ROUND)
    refuses(world, world.sign(world.coordinator, world.end(reason="again")), Refusal.CONFLICT)


# Money.


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"pot": "compute"}, Refusal.WRONG_ITEM),
        ({"pot": "magic"}, Refusal.WRONG_ITEM),
        ({"amount": "0"}, Refusal.WRONG_ITEM),
        ({"currency": "USD"}, Refusal.NO_RATE),
        ({"currency": "XXX"}, Refusal.UNKNOWN_CURRENCY),
    ],
)
def test_a_cost_item_is_of_something_in_a_shared_pot_and_a_known_currency(changes, refusal):
    world = founded()
    refuses(world, world.sign("acme/admin", replace(world.item("acme", 5), **changes)), refusal)


def billed() -> tuple[World, str]:
    world = started()
    world.round()
    world.say("birch/admin", world.item("birch", 1_000))
    return world, f"{CONSORTIUM}/admin"


def test_a_statement_is_what_its_entries_say_and_nothing_else():
    world, admin = billed()
    good = world.statement()
    line, balance, pay = good.lines[0], good.balances[0], good.transfers[0]
    for changes in [
        {"lines": (replace(line, credit=line.credit + 1), *good.lines[1:])},
        {"lines": (replace(line, charge=line.charge - Fraction(1, 10**9)), *good.lines[1:])},
        {"lines": good.lines[1:]},
        {"lines": good.lines[::-1]},
        {"lines": (*good.lines, StatementLine(pot="x", member="acme", credit=Fraction(1), charge=Fraction(1)))},
        {"balances": (replace(balance, net=balance.net + 1), *good.balances[1:])},
        {"balances": (replace(balance, carry=Fraction(1, 7)), *good.balances[1:])},
        {"balances": (replace(balance, flop=balance.flop + 1), *good.balances[1:])},
        {"transfers": (replace(pay, amount=pay.amount + 1), *good.transfers[1:])},
        {"transfers": (*good.transfers, Transfer(payer="birch", payee="acme", amount=1))},
        {"transfers": ()},
        {"root": digest("another")},
    ]:
        refuses(world, world.sign(admin, replace(good, **changes)), Refusal.WRONG_STATEMENT)
    for changes in [{"start": 1}, {"end": 10**6}]:
        refuses(world, world.sign(admin, replace(good, **changes)), Refusal.WRONG_PERIOD)
    world.say(admin, good)


def test_what_was_billed_is_not_billed_again_and_carries_go_on():
    world, _ = billed()
    first = world.bill("a")
    world.round()
    second = world.bill("b")
    assert second.start == first.end
    assert {balance.flop for balance in second.balances} == {balance.flop for balance in first.balances}
    assert sum(line.credit for line in second.lines if line.pot == "services") == 0
    due = {balance.member: balance.carry for balance in first.balances}
    for line in second.lines:
        due[line.member] += line.credit - line.charge
    assert due == {balance.member: balance.net + balance.carry for balance in second.balances}


def test_a_period_may_end_before_the_log_does_and_the_rest_is_billed_next():
    world = started()
    world.round()
    end = world.books.tree.size
    world.round()
    admin = f"{CONSORTIUM}/admin"
    world.say(admin, world.books.statement("a", end, seq=0, prev=FIRST))
    second = world.bill("b")
    assert {balance.flop for balance in second.balances} == {
        balance.flop for balance in world.books.statements[0].balances
    }


def test_a_period_is_billed_once():
    world, admin = billed()
    world.bill("a")
    world.round()
    refuses(world, world.sign(admin, world.statement("a")), Refusal.CONFLICT)


def test_differences_name_the_line_and_both_numbers():
    good = november().books.statements[0]
    lie = replace(good, balances=(replace(good.balances[0], net=5), *good.balances[1:]))
    assert differences(lie, good) == [
        f"statement 2026-11, balance acme: net stated 5, recomputed {good.balances[0].net}"
    ]
    assert differences(good, good) == []


def test_an_empty_log_has_no_charter():
    with pytest.raises(Refused) as caught:
        _ = Books().charter
    assert caught.value.refusal is Refusal.NO_CHARTER


# Who has witnessed what a statement covers.


def witnessed(world: World, *names: str) -> Statement:
    """A statement whose tree head these key names have cosigned."""
    return world.cosigned(world.statement(), *names)


def test_a_statement_needs_the_charter_s_quorum_of_witnesses():
    world = World(quorum=2)
    admin = f"{CONSORTIUM}/admin"
    for names in ((), ("acme/witness",), ("acme/witness", "acme/witness")):
        refuses(world, world.sign(admin, witnessed(world, *names)), Refusal.NO_QUORUM)
    refuses(world, world.sign(admin, witnessed(world, "acme/witness", "birch/attest")), Refusal.UNKNOWN_KEY)
    refuses(world, world.sign(admin, witnessed(world, "acme/witness", "dogwood/witness")), Refusal.UNKNOWN_KEY)
    good = witnessed(world, "acme/witness", "birch/witness")
    other = World(quorum=2, price=Fraction(1))
    swapped = replace(good, cosignatures=(good.cosignatures[0], witnessed(other, "birch/witness").cosignatures[0]))
    refuses(world, world.sign(admin, swapped), Refusal.BAD_SIGNATURE)
    world.say(admin, good)


def test_a_witness_whose_key_was_revoked_does_not_count():
    world = World(quorum=1)
    world.say("acme/admin", revoked("acme", "witness", key("acme/witness")))
    refuses(world, world.sign(f"{CONSORTIUM}/admin", witnessed(world, "acme/witness")), Refusal.UNKNOWN_KEY)
    world.say(f"{CONSORTIUM}/admin", witnessed(world, "birch/witness"))


def test_a_quorum_of_more_than_all_is_refused():
    with pytest.raises(Refused) as caught:
        World(quorum=4)
    assert caught.value.refusal is Refusal.BAD_FIELD


def test_a_receipt_that_comes_late_is_said_once_too():
    world = World()
    world.start()
    world.round(members=["acme", "cedar"])
    late = world.receipt("birch")
    world.say("birch/compute", late)
    for again in (world.receipt("birch", busy_ms=1), world.receipt("acme", busy_ms=1)):
        with pytest.raises(Refused) as caught:
            world.say(f"{again.member}/compute", again)
        assert caught.value.refusal is Refusal.CONFLICT
    assert [each.credit for each in world.statement().lines if each.member == "birch"] == [0, 0]


def test_an_empty_log_has_no_accounts():
    with pytest.raises(Refused, match="no_charter"):
        Books().statement("2026-11", 0, seq=0, prev=FIRST)
