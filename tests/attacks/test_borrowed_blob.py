"""A member sends what is not its update: another's blob, other bytes than it named or signed for, more, or less."""

import hashlib
import re
from dataclasses import replace

import pytest
from world import TOY

from consortium.simulate import simulate
from shared_models.lm.blob import pieces
from shared_models.lm.codecs import Packed
from shared_models.messages import Task
from shared_models.transport import Beside, Carried, Named, Pass

THREE = {"acme": 2, "birch": 1, "cedar": 1}


class Member:
    """birch, whose training process does as it likes on the way out; what it could have learned of acme, it knows."""

    def __init__(self, monkeypatch, how) -> None:
        self.seen: dict[str, Named] = {}  # What each member has brought.
        self.granted: dict[str, Pass] = {}  # What each was given.
        self.refused: list[str] = []
        honest, to_record = Beside.give, Task.to_record

        def task(this: Task):
            assert this.granted is not None
            self.granted[re.search(r"\.(acme|birch|cedar)\.", this.granted.capability)[1]] = this.granted
            return to_record(this)

        def give(this: Beside, packed, size) -> Carried:
            member = this._folder.parts[-3]
            if member == "birch":
                return how(self, this, packed, size, honest)
            carried = honest(this, packed, size)
            self.seen[member] = carried.blob
            return carried

        monkeypatch.setattr(Task, "to_record", task)
        monkeypatch.setattr(Beside, "give", give)


def names_anothers(birch, this, packed, size, honest):
    """acme, who was quicker, has brought its update: birch calls it its own, and trains nothing."""
    return Carried({}, birch.seen["acme"])


def fetches_anothers(birch, this, packed, size, honest):
    this._folder.mkdir(parents=True, exist_ok=True)
    this._blobs.get(birch.seen["acme"], this._folder)
    return honest(this, packed, size)


def brings_in_anothers_name(birch, this, packed, size, honest):
    """acme's capability was for it: with acme's name in its own birch gets no further."""
    forged = birch.granted["birch"].capability.replace(".birch.", ".acme.")
    this._blobs = replace(this._blobs, capability=forged)
    return honest(this, packed, size)


def brings_more(birch, this, packed, size, honest):
    last = max(packed)
    more = replace(packed[last], data=packed[last].data + b"x")
    return honest(this, {**packed, last: more}, size + 1)


def brings_less(birch, this, packed, size, honest):
    last = max(packed)
    less = replace(packed[last], data=packed[last].data[:-1])
    return honest(this, {**packed, last: less}, size - 1)


def breaks_off(birch, this, packed, size, honest):
    """It names the whole, and brings the half of it."""
    data = b"".join(packed[name].data for name in sorted(packed))
    named = Named(sha256=hashlib.sha256(data).hexdigest(), size=size)
    this._blobs._put(named, f"0-{size // 2 - 1}/{size}", size // 2, iter([data[: size // 2]]), 5.0)
    return Carried({}, named)


def names_other_bytes(birch, this, packed, size, honest):
    """It brings one thing under the name of another."""
    named = Named(sha256="0" * 64, size=size)
    this._blobs.put(named, lambda start: pieces(packed, start))
    return Carried({}, named)


def brings_other_values(birch, this, packed, size, honest):
    """A blob that is what it is called, and not what the receipt was signed for."""
    name = "head.weight"
    bent = Packed("int8", packed[name].shape, packed[name].data[:-1] + b"\x07")
    return honest(this, {**packed, name: bent}, size)


def brings_rubbish(birch, this, packed, size, honest):
    return honest(this, {name: replace(each, data=b"\xff" * len(each.data)) for name, each in packed.items()}, size)


def says_it_twice(birch, this, packed, size, honest):
    return Carried(packed, honest(this, packed, size).blob)


LIES = {
    names_anothers: "not_found",
    fetches_anothers: "not_found",
    brings_in_anothers_name: "bad_signature",
    brings_more: "too_large",
    brings_less: "wrong_shape",
    breaks_off: "not_found",
    names_other_bytes: "corrupt",
    brings_other_values: "wrong_digest",
    brings_rubbish: "not_finite",
    says_it_twice: "malformed",
}


RECIPE = replace(TOY, up="int8", down="int8")


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> tuple[float, ...]:
    """The losses of a round in which birch does not count."""
    folder = tmp_path_factory.mktemp("without") / "p"
    return simulate(folder, THREE, rounds=1, recipe=RECIPE, misbehave={"birch": "foreign"}).losses


@pytest.mark.parametrize("how", LIES, ids=lambda how: how.__name__)
def test_it_is_left_out_by_name_and_nothing_of_the_others_is_lost(tmp_path, monkeypatch, without, how):
    birch = Member(monkeypatch, how)
    result = simulate(tmp_path / "p", THREE, rounds=1, recipe=RECIPE, inline_bytes=0, workers=1)
    assert result.excluded == ((1, "birch", LIES[how]),)
    assert result.report.findings == []
    assert set(birch.seen) == {"acme", "cedar"}
    assert result.losses == without
    blobs = result.founded.coordinator.path / "blobs"
    assert [path for path in blobs.rglob("*") if path.is_file()] == []
