"""A member hands in what it did not train, honestly signed for: to spoil the model, to steer it, to save the work."""

from dataclasses import replace

import numpy as np
import pytest
from world import TOY

from client.steps import logged, repeat
from client.train import train
from consortium.faults import POISONS
from consortium.simulate import simulate
from server import outer
from shared_models.lm import corpus, hygiene, robust
from shared_models.published import fetch, reader

MEMBERS = ("acme", "birch", "cedar", "dogwood")
RECIPE = replace(TOY, inner="muon", inner_rate="0.008", batch=4, inner_steps=10)
SEED = b"\7" * 32
NOTES = {"flipped": "harmful", "noise": "harmful", "scaled": "clipped", "zeros": "empty"}


@pytest.fixture(scope="module")
def turn():
    """A base that has left its random weights behind, and what four honest members make of it on text of their own."""
    base, memory = outer.first(RECIPE), {}
    for round_ in (1, 2):
        updates = {}
        for number, member in enumerate(MEMBERS):
            trained = train(
                base,
                RECIPE,
                corpus.shard(number, len(MEMBERS)),
                memory.get(member, {}),
                member=member,
                round_=round_,
                rounds=8,
                report=lambda _: None,
            )
            memory[member], updates[member] = trained.memory, trained.update
        if round_ == 1:
            base = {name: tensor + sum(each[name] for each in updates.values()) / 4 for name, tensor in base.items()}
    return base, updates


def judged(base, updates):
    loss = hygiene.held_out_loss(outer.model(RECIPE), base, hygiene.hidden(SEED, 32, RECIPE.context, corpus.held_out()))
    return hygiene.judge(updates, RECIPE, len(MEMBERS), SEED, loss), loss


def step(updates, found):
    """What the round comes to."""
    counted = {member: each.weight for member, each in found.items() if each.weight}
    weights = list(counted.values())
    return {
        name: robust.combine("mean", (updates[member][name] for member in counted), weights) for name in updates["acme"]
    }


def test_nobody_honest_is_touched(turn):
    found, _ = judged(*turn)
    assert {(each.note, each.weight) for each in found.values()} == {("whole", robust.WHOLE // 4)}


@pytest.mark.parametrize("liar", MEMBERS)
@pytest.mark.parametrize("poison", sorted(POISONS))
def test_a_poison_hits_neither_the_model_nor_those_beside_it(turn, poison, liar):
    base, honest = turn
    told = {name: tensor.copy() for name, tensor in honest[liar].items()}
    POISONS[poison](told)
    updates = {**honest, liar: told}
    found, loss = judged(base, updates)
    assert found[liar].note == NOTES[poison]
    assert {each.note for member, each in found.items() if member != liar} == {"whole"}
    gained = loss(None) - loss(step(honest, judged(base, honest)[0]))
    assert loss(None) - loss(step(updates, found)) > 0.7 * gained > 0


@pytest.mark.parametrize("thief", MEMBERS[1:])
def test_who_hands_in_anothers_update_adds_nothing_to_its_weight(turn, thief):
    base, honest = turn
    stolen = {name: np.float32(1.1) * tensor for name, tensor in honest["acme"].items()}
    found, _ = judged(base, {**honest, thief: stolen})
    assert {member for member, each in found.items() if each.note == "copied"} == {"acme", thief}
    assert found["acme"].weight == found[thief].weight == robust.WHOLE // 6


def test_all_kinds_of_poison_are_tried_here():
    assert set(NOTES) == set(POISONS)


@pytest.mark.parametrize("poison", sorted(POISONS))
def test_in_a_whole_run_a_poison_stands_in_the_log_by_name_and_is_paid_for_like_any_other(tmp_path, poison):
    """Who judges again comes to the same: the coordinator cannot say of an update what is not so."""
    benefits = dict.fromkeys(MEMBERS, 1)
    result = simulate(tmp_path / "p", benefits, rounds=2, recipe=RECIPE, misbehave={"birch": poison})
    assert (result.report.findings, result.excluded) == ([], ())
    leaves = fetch(reader(str(result.founded.ledger / "log"))).leaves
    said = logged(leaves, "r1")
    for close in said.closes:
        found = {each.member: each for each in close.included}
        assert {each.judged for member, each in found.items() if member != "birch"} == {"whole"}
        assert found["birch"].weight < found["acme"].weight
    assert found["birch"].judged == NOTES[poison]
    assert len({balance.flop for balance in result.bill.balances}) == 1
    files = result.founded.coordinator.path
    assert [each.wrong for each in repeat(said, files)] == ["", ""]
    last = said.closes[1]
    for changes, wrong in (
        ({"judged": "capped"}, "birch counts"),
        ({"gain_unats": found["birch"].gain_unats + 1000}, "birch gains"),
    ):
        bent = tuple(replace(each, **changes) if each.member == "birch" else each for each in last.included)
        forged = replace(said, closes=(said.closes[0], replace(last, included=bent)))
        assert next(each.wrong for each in repeat(forged, files, only=2)).startswith(wrong)
