"""Another coordinator, by the members' votes: from which entry on its key counts, and what it may say of a run that it
takes over without what the one before remembered."""

from dataclasses import replace

import pytest
from world import CONSORTIUM, World, added, counted, digest, key, revoked

from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Amendment, RoundClose, Vote
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit

COORDINATOR = f"{CONSORTIUM}/coordinator"
OLD, NEW, THIRD = (key(COORDINATOR, generation) for generation in (1, 2, 3))


def elect(world: World, new=NEW, name: str = "successor") -> None:
    """Two of three vote for a charter that names this coordinator."""
    world.say("acme/admin", amendment(world, new, name))
    (hashed,) = world.books.agreement.open
    for by in ("acme", "birch"):
        world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice="yes"))


def amendment(world: World, new, name: str = "successor") -> Amendment:
    agreement = world.books.agreement
    other = replace(agreement.charter, coordinator=new.verify_key.text())
    return Amendment(seq=0, prev=FIRST, member="acme", amendment=name, replaces=agreement.hash, charter=other)


def says(world: World, record, by=NEW) -> str:
    return world.append(world.sign(COORDINATOR, record, by))


def refuses(world: World, record, refusal: Refusal, by=NEW, author: str = COORDINATOR) -> None:
    size = world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.append(world.sign(author, record, by))
    assert (caught.value.refusal, world.books.tree.size) == (refusal, size), caught.value


def lost(rounds: int = 1) -> tuple[World, dict[str, str]]:
    """So many rounds were closed, then one was opened, two members have trained for it, and its coordinator is gone."""
    world = World()
    world.start(rounds=9)
    for _ in range(rounds):
        world.round()
    world.say(COORDINATOR, world.opened())
    hashes = {each: world.say(f"{each}/compute", world.receipt(each)) for each in ("acme", "birch")}
    elect(world)
    return world, hashes


def handed_over(world: World, hashes: dict[str, str], **changes) -> RoundClose:
    """The close without a step, which counts these receipts."""
    included = tuple(counted(*each) for each in sorted(hashes.items()))
    base = world.books.runs["r1"].rounds[-1].base
    return replace(world.close(hashes), **{"included": included, "checkpoint": base, "seed": FIRST} | changes)


def test_from_the_entry_on_that_brings_the_votes_the_new_key_counts_and_the_old_one_does_not():
    world = World()
    world.start()
    world.say("acme/admin", amendment(world, NEW))
    (hashed,) = world.books.agreement.open
    world.say("acme/admin", Vote(seq=0, prev=FIRST, member="acme", amendment=hashed, choice="yes"))
    refuses(world, world.opened(), Refusal.UNKNOWN_KEY)
    says(world, world.opened(), OLD)
    world.say("cedar/admin", Vote(seq=0, prev=FIRST, member="cedar", amendment=hashed, choice="yes"))
    receipts = {each: world.say(f"{each}/compute", world.receipt(each)) for each in ("acme", "birch", "cedar")}
    refuses(world, world.close(receipts), Refusal.REVOKED, OLD)
    says(world, world.close(receipts))
    assert audit(world.leaves, world.head(), world.hashes()).findings == []


def test_every_key_of_the_coordinator_before_ends_and_nothing_that_it_signed_is_disputed():
    world = World()
    world.say(COORDINATOR, added(CONSORTIUM, "coordinator", THIRD))
    world.start()
    elect(world)
    ring, at = world.books.keyring, world.books.tree.size - 1
    for gone in (OLD, THIRD):
        standing = ring.standing[COORDINATOR, gone.verify_key.id]
        assert (standing.end, ring.counts(COORDINATOR, gone.verify_key.id)) == (at, False)
        assert not ring.disputes((COORDINATOR, gone.verify_key.id), at - 1, world.books.tree.size)
        refuses(world, world.opened(), Refusal.REVOKED, gone)
    assert ring.standing[COORDINATOR, NEW.verify_key.id].start == at
    assert ring.counts("acme/admin", key("acme/admin").verify_key.id)


@pytest.mark.parametrize(
    ("taken", "refusal"),
    [
        (OLD, Refusal.WRONG_CHARTER),
        (THIRD, Refusal.WRONG_CHARTER),
        (SigningKey(COORDINATOR, key("birch/admin")._private), Refusal.BAD_FIELD),
    ],
)
def test_nobody_is_elected_by_a_key_that_is_or_was_one_of_the_log(taken, refusal):
    world = World()
    world.say(COORDINATOR, added(CONSORTIUM, "coordinator", THIRD))
    elect(world)
    refuses(world, amendment(world, taken, "back"), refusal, key("acme/admin"), "acme/admin")


def test_nobody_else_takes_a_key_that_is_proposed():
    world = World()
    world.say("acme/admin", amendment(world, NEW))
    refuses(world, added(CONSORTIUM, "coordinator", NEW), Refusal.BAD_FIELD, OLD)
    world.say(f"{CONSORTIUM}/admin", revoked(CONSORTIUM, "coordinator", OLD))  # As before: by its administrator.


def test_an_open_round_is_closed_without_a_step_and_pays_the_work_that_is_receipted():
    world, hashes = lost()
    before = world.books.runs["r1"].checkpoint
    says(world, handed_over(world, hashes))
    run = world.books.runs["r1"]
    assert (run.checkpoint, run.rounds[-1].closed.included) == (before, ("acme", "birch"))
    assert run.rounds[-1].closed.excluded == (("cedar", "late"),)
    says(world, world.opened())
    report = audit(world.leaves, world.head(), world.hashes())
    assert (report.findings, report.accepted) == ([], 5)
    assert "round 2 of r1 was handed over to another coordinator: it has no step" in report.notices[-1]
    assert len(report.notices) == 2  # The charter before it.


def test_it_may_go_back_to_where_the_run_was_once_and_nowhere_else():
    world, hashes = lost(2)
    for where in ("checkpoint 1", "base"):
        bent = handed_over(world, hashes, checkpoint=digest(where))
        world.books.check(world.books.open(world.sign(COORDINATOR, bent, NEW)))
    refuses(world, handed_over(world, hashes, checkpoint=digest("elsewhere")), Refusal.WRONG_CHECKPOINT)
    says(world, handed_over(world, hashes, checkpoint=digest("checkpoint 1")))
    refuses(world, world.opened(base=digest("checkpoint 2")), Refusal.WRONG_BASE)
    says(world, world.opened(base=digest("checkpoint 1")))


def test_no_update_counts_in_it_and_every_other_rule_of_a_close_holds():
    world, hashes = lost()
    good = handed_over(world, hashes)
    heavier = (good.included[0], replace(good.included[1], weight=1))
    refuses(world, replace(good, included=heavier), Refusal.BAD_FIELD)
    late = (replace(good.included[0], weight=1),)
    refuses(world, replace(good, late=late), Refusal.WRONG_RECEIPT)
    refuses(world, replace(good, included=good.included[:1]), Refusal.NOT_INVITED)
    refuses(world, replace(good, base=digest("another")), Refusal.WRONG_BASE)
    refuses(world, replace(good, seed=digest("guessed")), Refusal.WRONG_SEED)


def test_a_coordinator_hands_nothing_over_to_itself():
    """Else it could throw away a round whose outcome it does not like, or go back behind it."""
    world = World()
    world.start()
    for hand_over in (OLD, NEW):
        if hand_over is NEW:
            elect(world)
        says(world, world.opened(), hand_over)
        hashes = {each: world.say(f"{each}/compute", world.receipt(each)) for each in world.members}
        if hand_over is NEW:  # Once it may: nobody was there to close the round before.
            world.books.check(world.books.open(world.sign(COORDINATOR, handed_over(world, hashes), NEW)))
            says(world, world.close(hashes))
            says(world, world.opened())
            hashes = {each: world.say(f"{each}/compute", world.receipt(each)) for each in world.members}
        refuses(world, handed_over(world, hashes), Refusal.WRONG_SEED, hand_over)
        says(world, world.close(hashes), hand_over)


def test_the_role_passes_on_again():
    world, hashes = lost()
    says(world, handed_over(world, hashes))
    says(world, world.opened())
    elect(world, THIRD, "next")
    refuses(world, handed_over(world, {}), Refusal.REVOKED)
    says(world, handed_over(world, {}), THIRD)
    assert audit(world.leaves, world.head(), world.hashes()).findings == []
