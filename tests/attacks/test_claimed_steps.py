"""A slow member is asked for few steps, and says that it has trained as many as a fast one: these would be paid."""

import pytest
from parties import FakeTime, Parties
from world import TOY, World

from consortium.faults import resigned
from consortium.simulate import simulate
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import round_flop, tokens_asked

MEMBERS = {"acme": 1, "birch": 1, "cedar": 1}
STEPS = {"birch": 1}


def claims_as_many(answer, key):
    receipt = entries.peek(answer.entries[-1])
    assert isinstance(receipt, Receipt)
    assert receipt.steps == 1
    return resigned(answer, key, steps=3, tokens=3 * receipt.tokens, flop=3 * receipt.flop)


def test_the_coordinator_refuses_it_and_nothing_is_paid(tmp_path):
    result = simulate(
        tmp_path / "p", MEMBERS, rounds=2, recipe=TOY, steps=STEPS, misbehave={"birch": claims_as_many}, quorum=2
    )
    assert result.report.findings == []
    assert result.excluded == ((1, "birch", "implausible"), (2, "birch", "implausible"))
    work = {each.member: each.flop for each in result.bill.balances}
    assert work == dict.fromkeys(MEMBERS, 2 * round_flop(result.manifest, 1, "acme")) | {"birch": 0}


@pytest.mark.parametrize(("member", "claimed"), [("birch", "acme"), ("acme", "birch")])
def test_so_does_the_log_be_it_more_or_fewer(member, claimed):
    world = World()
    world.start(steps=(3, 1, 3))
    world.say(world.coordinator, world.opened())
    before = world.books.tree.size
    other = world.receipt(claimed)
    lie = world.receipt(member, steps=other.steps, tokens=other.tokens, flop=other.flop)
    with pytest.raises(Refused, match="asked for") as caught:
        world.say(f"{member}/compute", lie)
    assert (caught.value.refusal, world.books.tree.size) == (Refusal.IMPLAUSIBLE, before)
    world.say(f"{member}/compute", world.receipt(member))


def test_so_does_its_own_daemon(tmp_path):
    parties = Parties(tmp_path, steps=(3, 1, 3))
    signer, own = parties.consenting("birch"), parties.manifest.recipe_of("birch")
    signer.begin(parties.begin("birch", *parties.say(parties.opened())))
    with pytest.raises(Refused, match="96 tokens in 3 steps, asked for 32 in 1") as caught:
        signer.claim(parties.claim(), FakeTime())
    assert caught.value.refusal is Refusal.IMPLAUSIBLE
    signer.claim(parties.claim(steps=1, tokens=tokens_asked(own)), FakeTime())
    (receipt,) = signer.receipts()
    assert receipt.flop == round_flop(parties.manifest, 1, "birch") == round_flop(parties.manifest, 1, "acme") // 3
    parties.log.close()
