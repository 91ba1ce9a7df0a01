"""The inner optimisers: what a rate means to each, what each remembers, and who can train with one of a library."""

import re
from dataclasses import replace
from importlib import metadata
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from foreign import ATTENTIVE, recipe_of
from mixes import INNERS
from parties import BUNDLE, Parties
from world import TOY

from bench.cheating import begin, play
from client import reexecute
from client.calibrate import tokens_per_s
from client.team import at_work
from client.training import Machine, build
from server import outer
from shared_models.lm import borrowed, corpus, models, weights
from shared_models.lm.inner import Inner
from shared_models.records.kinds import Build, Recipe
from shared_models.records.refusals import Refusal, Refused

TURN = {"member": "acme", "round_": 1, "rounds": 2}
SIZES = {
    "adamw": 8,
    "muon": 8,
    "adafactor": 0.2,
    "lamb": 8,
    "lion": 4,
    "scion": 4,
}  # Bytes; of Muon where nothing is a matrix.


def stepped(inner: str, rate: float, times: int) -> tuple[weights.Weights, weights.Weights, Inner]:
    """The weights of a model in which none begins at nought, before and after so many steps."""
    model = outer.model(replace(TOY, width=32), 3)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    before, optimiser = weights.of(model), Inner(model, inner, {})
    for number in range(times):
        model.loss(torch.arange(number, number + 17)[None]).backward()
        optimiser.step(rate)
    return before, weights.of(model), optimiser


def mean(tensor: weights.Tensor) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(tensor, dtype=np.float64))))


@pytest.mark.parametrize(
    ("inner", "least", "most"),
    [
        ("adamw", 0.2, 1.01),
        ("adafactor", 0.5, 1.01),  # Shortened to 1 where it would be longer.
        ("lion", 0.199, 0.201),
    ],
)
def test_a_step_is_in_proportion_to_the_rate_and_weights_decay_by_a_tenth_of_it(inner, least, most):
    rate = 1e-3
    before, after, _ = stepped(inner, rate, 1)
    for name in after.keys() - {"embed.weight"}:  # Of which the text moves a few rows.
        moved = mean(after[name] - (1 - 0.1 * rate) * before[name]) / rate
        assert least < moved < most, name


def test_scion_steps_by_a_spectral_norm_that_a_matrix_s_shape_sets_and_else_as_adamw_does():
    rate = 1e-3
    before, after, _ = stepped("scion", rate, 1)
    for name in after.keys() - {"embed.weight"}:
        moved = (after[name] - (1 - 0.1 * rate) * before[name]) / rate
        if name.startswith("blocks.") and moved.ndim == 2:
            rows, columns = moved.shape
            longest = np.linalg.norm(moved, 2) / (4 * (rows / columns) ** 0.5)
            assert 0.8 < longest < 1.3, name  # As near as the iteration comes to an orthogonal matrix.
        else:
            assert mean(moved) == pytest.approx(0.2, rel=0.01), name


def test_lamb_steps_by_the_rate_s_part_of_how_long_each_parameter_is():
    before, after, _ = stepped("lamb", 0.01, 1)
    for name in after:
        assert np.linalg.norm(after[name] - before[name]) == pytest.approx(
            0.01 * min(10, np.linalg.norm(before[name])), rel=1e-3
        ), name


def test_of_weights_that_begin_at_nought_adafactor_s_first_step_is_as_long_as_of_others():
    model = outer.model(TOY, 3)
    assert not model.head.weight.any()
    model.loss(torch.arange(17)[None]).backward()
    Inner(model, "adafactor", {}).step(0.001)
    assert 0.0005 < mean(model.head.weight.detach().numpy()) < 0.00101


@pytest.mark.parametrize("inner", INNERS)
def test_what_is_remembered_is_float32_counts_its_steps_and_is_of_the_size_that_is_said(inner):
    _, after, optimiser = stepped(inner, 0.01, 3)
    memory = optimiser.memory()
    assert {str(each.dtype) for each in memory.values()} == {"float32"}
    assert {float(value) for name, value in memory.items() if name.endswith("/step")} == {3.0}
    assert optimiser.steps == 3
    assert {name.partition("/")[0] for name in memory} == after.keys()
    vectors = sum(each.nbytes for name, each in memory.items() if name.partition("/")[0].startswith(("embed", "head")))
    size = sum(after[name].size for name in ("embed.weight", "head.weight"))
    assert vectors / size == pytest.approx(SIZES[inner], abs=0.2)


def test_every_word_of_a_recipe_is_tried_and_those_of_the_library_are_known():
    pattern = get_args(get_type_hints(Recipe, include_extras=True)["inner"])[1].regex
    assert tuple(pattern.split("|")) == INNERS
    assert set(borrowed.NAMES) | set(borrowed.SHARED_OUT) < set(INNERS)
    assert [bool(borrowed.version(inner)) for inner in INNERS] == [False, False, False, True, True, True]


@pytest.mark.parametrize("inner", INNERS)
def test_a_file_s_model_is_trained_by_each_and_goes_on_to_the_same_bits(inner, tmp_path):
    recipe = recipe_of(tmp_path, ATTENTIVE, inner=inner)
    start, tokens = weights.of(models.begun(recipe, tmp_path, None)), corpus.shard(0, 3)[:5_000]

    def trained(start, memory, step, end):
        machine = Machine(models=str(tmp_path))
        with at_work(start, recipe, tokens, memory, machine=machine, step=step, **TURN) as training:
            return [*training.until(end)], training.point(), training.state()

    _, whole, _ = trained(start, {}, 0, 4)
    _, _, half = trained(start, {}, 0, 2)
    assert trained(*half, 2, 4)[1] == whole


# The library.


@pytest.fixture
def without(monkeypatch):
    """A machine that has not the library."""
    monkeypatch.setattr(borrowed, "LIBRARY", "a-library-that-is-not-installed")


def refusal(act, *arguments, **named) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments, **named)
    return caught.value


def test_a_build_says_the_release_of_the_library_and_of_no_other_optimiser_anything(without):
    plain = build("fp32").split("/")
    for inner in ("adamw", "muon", "adafactor"):
        assert build("fp32", inner=inner) == build("fp32")
    assert refusal(build, "fp32", inner="lion").refusal is Refusal.NOT_SET_UP
    borrowed.LIBRARY = "pytorch_optimizer"
    for inner in borrowed.NAMES:
        said = build("fp32", inner=inner)
        release = f"float32-optimizer-{metadata.version('pytorch_optimizer')}"
        assert said.split("/") == [*plain[:3], release, plain[4]]
        assert re.fullmatch(get_args(Build)[1].regex, build("bf16", Machine(compile=True), inner))


@pytest.mark.parametrize("inner", borrowed.NAMES)
def test_who_lacks_the_library_does_not_consent_nor_begin_and_is_told_what_to_install(inner, tmp_path, without):
    recipe = replace(TOY, inner=inner)
    parties = Parties(tmp_path, recipe)
    parties.log.close()
    signer, home = parties.signer("acme"), parties.founded.member("acme")
    tokens = corpus.shard(0, 3)[:5_000]
    for act in (
        lambda: signer.consent(parties.manifest_leaf, BUNDLE),
        lambda: at_work(outer.first(recipe), recipe, tokens, {}, **TURN).__enter__(),
        lambda: at_work(outer.first(recipe), recipe, tokens, {}, machine=Machine(processes=2), **TURN).__enter__(),
        lambda: tokens_per_s(recipe, tokens, Machine(), 0.1),
        lambda: Inner(outer.model(recipe), inner, {}),
    ):
        why = refusal(act)
        assert (why.refusal, f'inner = "{inner}"' in why.detail) == (Refusal.NOT_SET_UP, True)
        assert "pip install 'training-consortium[optim]'" in why.detail
    assert list((home.path / "entries").glob("*.note")) == []
    borrowed.LIBRARY = "pytorch_optimizer"
    signer.consent(parties.manifest_leaf, BUNDLE)


def test_who_lacks_the_library_does_not_judge_work_that_was_done_with_it(monkeypatch):
    recipe = replace(TOY, inner="lion")
    played = play(begin(recipe=recipe))
    asked = played.shown(0), played.receipt, played.hashed, played.manifest, None
    assert reexecute.replay(*asked).verdict == "matches"
    monkeypatch.setattr(borrowed, "LIBRARY", "a-library-that-is-not-installed")
    assert refusal(reexecute.replay, *asked).refusal is Refusal.NOT_SET_UP


def test_on_another_release_of_the_library_it_takes_more_than_a_bit_to_be_held_against_a_member():
    played = play(begin(recipe=replace(TOY, inner="lion")))
    other = re.sub(r"optimizer-[0-9.]+", "optimizer-3.0.0", played.receipt.build)
    assert other != played.receipt.build
    end = played.states[1]
    nudged = ({**end[0], "norm.weight": np.nextafter(end[0]["norm.weight"], np.float32(9))}, end[1])
    bent = play(played.turn, lambda *_: nudged, 1)
    for receipt, verdict in ((bent.receipt, "differs"), (replace(bent.receipt, build=other), "close")):
        assert reexecute.replay(bent.shown(0), receipt, bent.hashed, bent.manifest, None).verdict == verdict


# Parts of a model in several processes.


@pytest.mark.parametrize("how", ["shard", "tensor"])
@pytest.mark.parametrize("inner", INNERS)
def test_weights_are_shared_out_with_optimisers_that_need_no_whole_parameter_or_it_is_refused(inner, how, tmp_path):
    parties = Parties(tmp_path, replace(TOY, inner=inner))
    parties.log.close()
    home = parties.founded.member("acme")
    settings, recipe = home.path / "member.toml", replace(TOY, inner=inner)
    plain = settings.read_text().replace("processes = 1", "processes = 2")
    settings.write_text(plain.replace(f"{how} = false", f"{how} = true"))
    assert getattr(home.settings, how)
    machine = Machine(processes=2, **{how: True})
    Machine(processes=2).check(recipe)
    if inner in borrowed.SHARED_OUT:
        machine.check(recipe)
        parties.signer("acme").consent(parties.manifest_leaf, BUNDLE)
    else:
        for act in (
            lambda: machine.check(recipe),
            lambda: parties.signer("acme").consent(parties.manifest_leaf, BUNDLE),
        ):
            why = refusal(act)
            assert (why.refusal, f"{how} = true does with adamw, muon, lion, and this run's inner is {inner}") == (
                Refusal.BAD_FIELD,
                why.detail,
            )
