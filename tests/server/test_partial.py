"""A checkpoint without the expert that a member keeps from another: published, refused or fetched, and written out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from world import TOY

from client.steps import logged
from consortium.cli import main
from consortium.simulate import Result, simulate
from ledger.api import serving
from server import partial
from shared_models.lm import own
from shared_models.published import fetch, reader
from shared_models.records.refusals import Refusal, Refused

THREE = {"acme": 1, "birch": 1, "cedar": 1}
PLAIN = replace(TOY, feed="swiglu", inner_rate="0.01")


def newest(result: Result) -> Path:
    last = logged(fetch(reader(str(result.founded.ledger / "log"))).leaves, "r1").closes[-1].checkpoint
    return result.founded.coordinator.path / "checkpoints" / f"{last}.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Result, Path]:
    """A run of three members with an expert each, and the weights beside which these stand."""
    folder = tmp_path_factory.mktemp("runs")
    given = newest(simulate(folder / "anchor", THREE, rounds=1, recipe=PLAIN))
    recipe = replace(PLAIN, member_experts=3)
    return simulate(folder / "parties", THREE, rounds=1, recipe=recipe, start=given), given


def test_what_a_member_keeps_from_another_is_not_handed_out_and_the_rest_is(trained, tmp_path, capsys):
    result, given = trained
    coordinator, whole = result.founded.coordinator.path, newest(result)
    homes = {name: result.founded.member(name).path for name in THREE}
    url = result.founded.member("acme").settings.ledger

    def act(*words: object) -> tuple[int, str]:
        code = main(["model", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    def publish(*words: object) -> str:
        code, said = act("publish", "--home", coordinator, whole, "--checkpoint", "r1/1", *words)
        assert (code, " is published: entry " in said) == (0, True), said
        return said.split()[0]

    with serving(result.founded.ledger, int(url.rpartition(":")[2])):
        code, said = act("grant", "--home", homes["birch"], "r1", "--to", "acme")
        assert (code, said.startswith("your expert of run r1 is for acme: entry ")) == (0, True)
        assert act("grant", "--home", homes["birch"], "r1", "--to", "acme") == (0, said)  # It stands already.
        assert "error wrong_member" in act("grant", "--home", homes["birch"], "r1", "--to", "dogwood")[1]
        assert "error wrong_member" in act("grant", "--home", homes["birch"], "r2")[1]
        all_, rest = publish(), publish("--without", "birch")
        code, said = act("get", "--home", homes["cedar"], all_, "--to", tmp_path / "all")
        assert (code, "birch has not granted cedar its expert of run r1" in said) == (2, True)
        assert not (tmp_path / "all").exists()
        assert act("get", "--home", homes["acme"], all_, "--to", tmp_path / "all")[0] == 0
        assert act("get", "--home", homes["cedar"], rest, "--to", tmp_path / "rest.safetensors")[0] == 0
        assert "run r1 round 1, without the expert of birch" in act("list", url)[1]
        words = ["--log", url, "--base", given]
        code, said = act("export", tmp_path / "rest.safetensors", "--to", tmp_path / "out", *words)
        assert (code, "is a mixtral model" in said) == (0, True), said
        assert act("export", whole, "--to", tmp_path / "same", "--without", "birch", *words)[0] == 0
        code, said = act("export", tmp_path / "rest.safetensors", "--to", tmp_path / "no", "--without", "birch", *words)
        assert "--without birch: there is no expert of that name here" in said
        # What was granted once is taken back for what is fetched from then on.
        assert act("grant", "--home", homes["birch"], "r1")[0] == 0
        assert "birch has not granted acme" in act("get", "--home", homes["acme"], all_, "--to", tmp_path / "again")[1]
    kept = load_file(tmp_path / "rest.safetensors")
    right = own.among(load_file(whole), [0, 2])
    assert kept.keys() == right.keys()
    assert all(np.array_equal(kept[name], right[name]) for name in right)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("out", "same")]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[1])
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "| it came without the experts of | birch |" in readme
    assert "| experts of | acme, cedar |" in readme


def test_what_cannot_be_left_out_is_refused_and_nothing_is_written(trained, tmp_path, capsys):
    result, given = trained
    plain = replace(result.manifest, recipe=PLAIN)
    for manifest, file, left_out, refusal, why in (
        (result.manifest, newest(result), ("dogwood",), Refusal.BAD_FIELD, "run r1 has experts of acme, birch, cedar"),
        (result.manifest, newest(result), tuple(THREE), Refusal.BAD_FIELD, "of whom some are to stay"),
        (plain, given, ("acme",), Refusal.BAD_FIELD, "run r1 has experts of nobody"),
        (result.manifest, given, ("acme",), Refusal.WRONG_MODEL, "has a tensor"),
        (result.manifest, tmp_path / "none", ("acme",), Refusal.NOT_FOUND, "none"),
    ):
        with pytest.raises(Refused) as caught:
            partial.without(manifest, file, left_out, tmp_path / "partial")
        assert (caught.value.refusal, why in caught.value.detail) == (refusal, True), caught.value
    assert not (tmp_path / "partial").exists()
    words = [
        "model",
        "publish",
        "--home",
        str(result.founded.coordinator.path),
        str(newest(result)),
        "--without",
        "acme",
    ]
    assert (main(words), "--without MEMBER: of one checkpoint" in capsys.readouterr().err) == (2, True)
