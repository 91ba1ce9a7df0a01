"""Training again: an honest opening matches to the bit, and each thing that an opening must show is looked at."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixes import INNERS
from world import digest

from bench.cheating import RECIPE, TEXT, Played, begin, honest, play
from client import begun, reexecute
from client.memory import Turn
from client.reexecute import FARTHEST_PPM, Found, distance_ppm
from client.training import Machine, build
from shared_models.lm import weights
from shared_models.records import canonical
from shared_models.records.kinds import Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Trajectory, committed

torch.set_num_threads(1)
FIRST_ROUND = play(begin())


def replay(played: Played, shown: bytes, earlier: Receipt | None = None, **changes: object) -> Found:
    """What an auditor finds; of a receipt with these changes, which its member has signed so."""
    return reexecute.replay(shown, replace(played.receipt, **changes), played.hashed, played.manifest, earlier)


def refused(*arguments, **changes) -> Refusal:
    with pytest.raises(Refused) as caught:
        replay(*arguments, **changes)
    return caught.value.refusal


def rewritten(shown: bytes, change=lambda _: None, **said: object) -> bytes:
    """An opening with other words, and its tensors changed."""
    _, groups = begun.split(shown)
    change(groups)
    return canonical.encode(replace(reexecute.read(shown), **said)) + b"\n" + begun.pack(**groups)


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("up", ["fp32", "int4", "sign1", "top64"])
def test_every_segment_of_an_honest_round_leads_to_the_same_bits(inner, up):
    played = play(begin(recipe=replace(RECIPE, inner=inner, up=up, inner_steps=5, segment=2)))
    for segment in range(3):
        assert replay(played, played.shown(segment)) == ("matches", 0, "the same bits")


def test_so_does_each_of_a_curriculum_and_who_trained_long_sequences_instead_cannot_show_it():
    recipe = replace(RECIPE, shortest=RECIPE.context // 4, inner_steps=5, segment=2)
    played = play(begin(recipe=recipe))
    for segment in range(3):
        assert replay(played, played.shown(segment)) == ("matches", 0, "the same bits")
    long = play(begin(recipe=replace(recipe, shortest=0)))
    assert refused(replace(long, manifest=played.manifest), long.shown(0)) is Refusal.WRONG_OPENING


# A member shows what its disk has kept.


def kept(folder, played: Played, memory: weights.Weights, unsent: weights.Weights) -> None:
    turn = Turn(manifest=digest("run"), member="acme", round=played.turn.number, base=played.receipt.base)
    begun.keep(folder, turn, played.trajectory, base=played.turn.base, memory=memory, unsent=unsent)


def shown(folder, played: Played, segment: int = 1, round_: int = 1) -> bytes:
    found = begun.recall(folder, digest("run"), round_)
    where = {"segment": segment, "text": TEXT, "salt": "5a" * 32}
    return reexecute.show(found, played.receipt, played.hashed, played.manifest, **where)


def test_what_a_member_shows_by_training_again_is_what_it_had_signed_for(tmp_path):
    kept(tmp_path, FIRST_ROUND, {}, {})
    for segment in range(4):
        assert begun.split(shown(tmp_path, FIRST_ROUND, segment))[1].keys() >= {"base", "start", "end", "trained"}
        assert shown(tmp_path, FIRST_ROUND, segment) == FIRST_ROUND.shown(segment)


def test_who_cannot_repeat_its_own_round_is_told_so_and_shows_nothing(tmp_path):
    """It had trained otherwise; or what it began from was altered; or it has signed for something else."""
    lazy = play(FIRST_ROUND.turn, lambda *_: FIRST_ROUND.states[1], 2)
    poked = {**FIRST_ROUND.turn.base, "norm.weight": FIRST_ROUND.turn.base["norm.weight"] * np.float32(2)}
    altered = replace(FIRST_ROUND, turn=FIRST_ROUND.turn._replace(base=poked))
    other = replace(FIRST_ROUND, receipt=replace(FIRST_ROUND.receipt, trajectory=digest("another")))
    for number, (played, unsent) in enumerate(((lazy, {}), (altered, {}), (other, {}), (FIRST_ROUND, poked))):
        kept(tmp_path / str(number), played, {}, unsent)
        with pytest.raises(Refused, match="wrong_opening"):
            shown(tmp_path / str(number), played)


def test_two_rounds_are_kept_and_what_the_one_before_each_had_committed_to(tmp_path):
    rounds = [play(begin(number)) for number in (1, 2, 3)]
    for played in rounds:
        kept(tmp_path, played, {}, {})
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["2.begun", "3.begun"]
    for number in (2, 3):
        said, groups = begun.recall(tmp_path, digest("run"), number)
        assert said.before == (rounds[number - 2].trajectory,)
        assert weights.digest(groups["base"]) == rounds[number - 1].receipt.base
    with pytest.raises(Refused, match="too_late"):
        begun.recall(tmp_path, digest("run"), 1)
    kept(tmp_path, rounds[2], {}, {})  # Asked again.
    assert begun.recall(tmp_path, digest("run"), 3)[0].before == (rounds[1].trajectory,)
    with pytest.raises(Refused, match="too_late"):
        begun.recall(tmp_path, digest("another"), 3)


def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path):
    kept(tmp_path, FIRST_ROUND, {}, {})
    (path,) = tmp_path.rglob("*.begun")
    good = path.read_bytes()
    for bad in (b"", good[:50], b"{}\n" + good.partition(b"\n")[2], good.partition(b"\n")[0] + b"\nx"):
        path.write_bytes(bad)
        with pytest.raises(Refused, match="corrupt"):
            begun.recall(tmp_path, digest("run"), 1)
    odd = np.ones(2, np.float64)
    path.write_bytes(good.partition(b"\n")[0] + b"\n" + begun.pack(base={"w": odd}))
    with pytest.raises(Refused, match="float64"):
        begun.recall(tmp_path, digest("run"), 1)


# What was carried over.


def second(memory: weights.Weights | None = None, unsent_before: str = "") -> tuple[Played, Played]:
    """A round of acme, and the next one, that began with what the first had ended with; or with this."""
    first = play(begin(1))
    turn = begin(2)._replace(memory=first.states[-1][1] if memory is None else memory)
    played = play(turn)
    trajectory = replace(
        played.trajectory,
        unsent_before=unsent_before or first.trajectory.unsent,
        unsent=weights.digest({name: np.zeros_like(each) for name, each in turn.base.items()}),
    )
    receipt = replace(played.receipt, trajectory=trajectory.root)
    return first, replace(played, trajectory=trajectory, receipt=receipt)


def carried(first: Played, played: Played, before: tuple[Trajectory, ...] | None = None) -> bytes:
    before = (first.trajectory,) if before is None else before
    opening = replace(played.opening(0), before=before)
    zeros = {name: np.zeros_like(each) for name, each in played.turn.base.items()}
    return reexecute.write(opening, played.turn.base, zeros, *played.states[:2], played.states[-1][0])


def test_a_later_round_begins_with_what_the_one_before_ended_with():
    first, played = second()
    assert replay(played, carried(first, played), first.receipt).verdict == "matches"


def test_who_lost_its_memory_may_begin_afresh():
    played = play(begin(2))
    assert replay(played, played.shown(0), FIRST_ROUND.receipt).verdict == "matches"


def test_what_is_carried_over_must_come_from_the_receipt_before():
    first, played = second()
    shown = carried(first, played)
    other = replace(first.receipt, trajectory=digest("another"))
    for earlier, given in ((None, shown), (other, shown), (first.receipt, carried(first, played, ()))):
        found = replay(played, given, earlier)
        assert (found.verdict, found.why) == (
            "differs",
            "it carried something over, and not from the member's receipt before this one",
        )


def test_a_memory_of_another_round_is_not_carried_over():
    first, played = second()
    found = replay(played, carried(first, played), replace(first.receipt, round=0))
    assert found.why == "its optimiser remembered what it had not ended the round before with"
    late = replace(played, manifest=replace(played.manifest, late=1))  # Rounds may pass in which it is not asked.
    assert replay(late, carried(first, played), replace(first.receipt, round=0)).verdict == "matches"
    poisoned = {name: np.asarray(each * np.float32(3)) for name, each in first.states[-1][1].items()}
    first, played = second(poisoned)
    found = replay(played, carried(first, played), first.receipt)
    assert found.why == "its optimiser remembered what it had not ended the round before with"


def test_a_remainder_that_no_round_had_left_is_not_added():
    first, played = second(
        unsent_before=weights.digest({name: np.zeros_like(each) for name, each in FIRST_ROUND.turn.base.items()})
    )
    made_up = replace(first.trajectory, unsent=digest("another"))
    earlier = replace(first.receipt, trajectory=made_up.root)
    found = replay(played, carried(first, played, (made_up,)), earlier)
    assert found.why == "it added to its update what no round had left unsent"


# What is not the member's word is refused, and says nothing of it.


def test_an_opening_of_something_else_is_refused():
    shown = FIRST_ROUND.shown(1)
    other = play(begin(2))
    assert refused(FIRST_ROUND, other.shown(1)) is Refusal.WRONG_OPENING
    assert refused(FIRST_ROUND, rewritten(shown, receipt=digest("another"))) is Refusal.WRONG_OPENING
    assert refused(FIRST_ROUND, rewritten(shown, trajectory=other.trajectory)) is Refusal.WRONG_OPENING
    assert refused(FIRST_ROUND, rewritten(shown, salt="00" * 32)) is Refusal.WRONG_OPENING
    assert refused(FIRST_ROUND, rewritten(shown, segment=4)) is Refusal.WRONG_OPENING
    assert refused(FIRST_ROUND, rewritten(shown, segment=2)) is Refusal.WRONG_OPENING
    assert refused(FIRST_ROUND, rewritten(shown, text="python-stdlib:1/3")) is Refusal.WRONG_OPENING
    assert refused(FIRST_ROUND, rewritten(shown, text="my-secrets")) is Refusal.MALFORMED
    assert refused(FIRST_ROUND, rewritten(shown, text="python-stdlib:9998/9999")) is Refusal.MALFORMED
    assert refused(FIRST_ROUND, shown.partition(b"\n")[0] + b"\nx") is Refusal.MALFORMED
    assert refused(FIRST_ROUND, b"x\n" + shown.partition(b"\n")[2]) is Refusal.NOT_CANONICAL
    assert replay(FIRST_ROUND, rewritten(shown)).verdict == "matches"


@pytest.mark.parametrize("group", ["base", "start", "start_memory", "end", "end_memory", "trained", "unsent"])
def test_other_tensors_than_were_signed_are_refused(group):
    def change(groups) -> None:
        groups.setdefault(group, {"w": np.ones(2, np.float32)})
        name = next(iter(groups[group]))
        groups[group][name] = np.asarray(groups[group][name] + 1)

    assert refused(FIRST_ROUND, rewritten(FIRST_ROUND.shown(1), change)) is Refusal.WRONG_OPENING


# What was signed, and contradicts itself.


def signed(played: Played, trajectory: Trajectory, **changes: object) -> Played:
    """The same, by a member that signed for this trajectory."""
    return replace(
        played, trajectory=trajectory, receipt=replace(played.receipt, trajectory=trajectory.root, **changes)
    )


def test_points_must_be_where_the_recipe_puts_them():
    points = FIRST_ROUND.trajectory.points
    fewer = signed(FIRST_ROUND, replace(FIRST_ROUND.trajectory, points=(points[0], points[1], points[-1])))
    found = replay(fewer, fewer.shown(0))
    assert (found.verdict, found.why) == ("differs", "its points are not where the recipe puts them")


def test_training_must_begin_from_the_round_s_base():
    found = replay(FIRST_ROUND, FIRST_ROUND.shown(0), base=digest("another"))
    assert (found.verdict, found.why[:13]) == ("differs", "it began from")


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_each_point_must_name_the_tokens_of_the_text(at):
    points = list(FIRST_ROUND.trajectory.points)
    points[at] = replace(points[at], data=digest("fewer"))
    cheated = signed(FIRST_ROUND, replace(FIRST_ROUND.trajectory, points=tuple(points)))
    found = replay(cheated, cheated.shown(0))
    assert (found.verdict, found.why) == ("differs", f"by step {4 * at} it had other tokens than {TEXT} gives")


def test_what_an_opening_calls_its_text_opens_no_file_of_the_auditor_s(tmp_path):
    mine = tmp_path / "mine"
    mine.write_bytes(b"What the auditor trains on. " * 60)
    assert refused(FIRST_ROUND, rewritten(FIRST_ROUND.shown(1), text=f"file:{mine}")) is Refusal.MALFORMED
    assert refused(FIRST_ROUND, rewritten(FIRST_ROUND.shown(1), text=f"sha256:{'0' * 64}")) is Refusal.NOT_FOUND


def test_where_no_token_is_the_same_the_text_may_be_another_and_nobody_is_accused():
    points = [
        replace(each, data=digest(f"{each.step}")) if each.step else each for each in FIRST_ROUND.trajectory.points
    ]
    data = committed("5a" * 32, points[-1].data)
    cheated = signed(FIRST_ROUND, replace(FIRST_ROUND.trajectory, points=tuple(points)), data=data)
    assert refused(cheated, cheated.shown(0)) is Refusal.WRONG_OPENING


def test_the_update_must_be_what_training_came_to():
    found = replay(FIRST_ROUND, FIRST_ROUND.shown(1), update=digest("a better one"))
    assert (found.verdict, found.why) == ("differs", "its update is not what its training came to")
    other = signed(FIRST_ROUND, replace(FIRST_ROUND.trajectory, unsent=digest("less")))
    assert replay(other, other.shown(1)).why == "it left something else unsent than it says"


def test_states_of_another_model_are_none_of_this_one():
    for at in (0, 1):
        state = [dict(each) for each in FIRST_ROUND.states[1]]
        name = "embed.weight" if at == 0 else "embed.weight/exp_avg"
        state[at][name] = state[at][name][:1]
        odd = play(
            FIRST_ROUND.turn,
            lambda turn, _, start, end, odd=tuple(state): (
                odd if start == 0 else honest(turn, FIRST_ROUND.states[1], start, end)
            ),
            2,
        )
        found = replay(odd, odd.shown(1))
        assert found.why == "the state it began the segment with is none of this model"
        assert replay(odd, odd.shown(0)).distance_ppm == FARTHEST_PPM


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("at", "name"), [(0, "norm.weight"), (1, "embed.weight/step")])
def test_nothing_is_trained_from_a_state_that_is_not_finite(at, name, value):
    """A member can sign for any number; that of the steps an optimiser remembers must be one."""
    state = [dict(each) for each in FIRST_ROUND.states[1]]
    state[at][name] = np.full_like(state[at][name], value)
    after = FIRST_ROUND.states[1:3]
    odd = play(FIRST_ROUND.turn, lambda _turn, _state, start, _end: tuple(state) if start == 0 else after[1], 2)
    assert replay(odd, odd.shown(1)).why == "the state it began the segment with is not finite"


def test_weights_of_another_shape_are_no_update():
    states = list(FIRST_ROUND.states)
    cut = {**states[-1][0], "embed.weight": states[-1][0]["embed.weight"][:1]}
    points = (
        *FIRST_ROUND.trajectory.points[:-1],
        replace(FIRST_ROUND.trajectory.points[-1], weights=weights.digest(cut)),
    )
    odd = signed(
        replace(FIRST_ROUND, states=(*states[:-1], (cut, states[-1][1]))),
        replace(FIRST_ROUND.trajectory, points=points),
    )
    assert replay(odd, odd.shown(0)).why == "its weights are not of the model's shapes"


# Bits and distances.


def test_on_the_same_build_another_bit_is_enough_and_on_another_it_takes_more():
    end = FIRST_ROUND.states[2]
    nudged = ({**end[0], "norm.weight": np.nextafter(end[0]["norm.weight"], np.float32(9))}, end[1])
    bent = play(
        FIRST_ROUND.turn,
        lambda turn, state, begin_, end_: nudged if begin_ == 4 else honest(turn, state, begin_, end_),
        2,
    )
    found = replay(bent, bent.shown(1))
    assert (found.verdict, 0 < found.distance_ppm < 1_000) == ("differs", True)
    other = build("fp32").replace("AVX", "QVX").replace("DEFAULT", "QVX")
    found = replay(bent, bent.shown(1), build=other)
    assert (found.verdict, 0 < found.distance_ppm < 1_000) == ("close", True)
    lazy = play(FIRST_ROUND.turn, lambda *_: FIRST_ROUND.states[1], 2)
    found = replay(lazy, lazy.shown(1), build=other)
    assert (found.verdict, found.distance_ppm) == ("differs", 1_000_000)


def test_what_a_gpu_computed_in_bf16_only_a_machine_like_it_can_judge():
    """Honest ones were seen up to 222,628 ppm apart: the tolerance would call them cheats."""
    ours = build("fp32").split("/")
    cuda = {number: "/".join((ours[0], "cuda", ours[2], number, "NVIDIA-H100")) for number in ("float32", "bfloat16")}
    assert refused(FIRST_ROUND, FIRST_ROUND.shown(1), build=cuda["bfloat16"]) is Refusal.OTHER_MACHINE
    for judged in (cuda["float32"], build("bf16").replace("AVX", "QVX").replace("DEFAULT", "QVX")):
        assert replay(FIRST_ROUND, FIRST_ROUND.shown(1), build=judged).verdict == "matches"
    reexecute._check_machines(cuda["bfloat16"], cuda["bfloat16"])
    with pytest.raises(Refused, match="other_machine"):  # Another GPU.
        reexecute._check_machines(cuda["bfloat16"], cuda["bfloat16"].replace("H100", "A100"))


def test_an_auditor_s_machine_computes_as_its_member_says():
    given = FIRST_ROUND.shown(1), FIRST_ROUND.receipt, FIRST_ROUND.hashed, FIRST_ROUND.manifest, None
    assert reexecute.replay(*given, machine=Machine(recompute=True)) == ("matches", 0, "the same bits")
    with pytest.raises(Refused, match="processes = 5 do not divide"):
        reexecute.replay(*given, machine=Machine(processes=5))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_auditor_whose_processes_cut_the_model_finds_an_honest_member_close():
    given = FIRST_ROUND.shown(1), FIRST_ROUND.receipt, FIRST_ROUND.hashed, FIRST_ROUND.manifest, None
    found = reexecute.replay(*given, machine=Machine(processes=2, tensor=True))
    assert (found.verdict, "/2t1/" in found.why) == ("close", True), found


def test_distance_is_the_worst_of_weights_and_of_each_kind_of_memory_in_millionths_of_the_change():
    def state(w: float, m: float, v: float, shape: int = 4):
        one = np.ones(shape, np.float32)
        return {"w": w * one}, {"w/exp_avg": m * one, "w/exp_avg_sq": v * one}

    before, ours = state(1, 0, 0), state(2, 1, 1e-6)
    assert distance_ppm(before, ours, ours) == 1
    assert distance_ppm(before, ours, state(2.5, 1, 1e-6)) == 500_000
    assert distance_ppm(before, ours, state(2, 1.25, 1e-6)) == 250_000
    assert distance_ppm(before, ours, state(2, 1, 3e-6)) == pytest.approx(2_000_000, abs=2)
    assert distance_ppm((before[0], {}), ours, state(2, 1.25, 1e-6)) == 250_000  # No memory is a memory of nothing.
    assert distance_ppm(before, ours, state(float("nan"), 1, 1e-6)) == FARTHEST_PPM
    assert distance_ppm(before, ours, state(float("inf"), 1, 1e-6)) == FARTHEST_PPM
    assert distance_ppm(before, ours, state(2, 1, 1e-6, shape=5)) == FARTHEST_PPM
    assert distance_ppm(before, ours, (ours[0], {})) == FARTHEST_PPM
    assert distance_ppm(ours, ours, state(3, 1, 1e-6)) == FARTHEST_PPM  # A difference where nothing should move.


ELSEWHERE = """
import pickle, sys, torch
from dataclasses import replace
from bench.cheating import RECIPE, begin, play
torch.set_num_threads(1)
sys.stdout.buffer.write(pickle.dumps([play(begin(recipe=replace(RECIPE, inner=each))) for each in sys.argv[1:]]))
"""


def test_an_honest_member_with_another_instruction_set_is_close():
    capability = "default" if torch.backends.cpu.get_cpu_capability() != "DEFAULT" else "avx2"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", ELSEWHERE, *INNERS]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    for inner, there in zip(INNERS, pickle.loads(done.stdout), strict=True):  # noqa: S301 - our own.
        assert there.receipt.build != build("fp32", inner=inner)
        for segment in range(4):
            found = replay(there, there.shown(segment))
            assert found.verdict in ("close", "matches"), (inner, found)


def test_an_auditor_computes_with_as_many_threads_as_the_member_did_and_then_with_its_own():
    fields = build("fp32").split("/")
    with reexecute._threads("/".join([*fields[:2], "2", *fields[3:]])):
        assert torch.get_num_threads() == 2
    for together in ("2x1", "2s1", "2t1"):
        with reexecute._threads("/".join([*fields[:2], together, *fields[3:]])):
            assert torch.get_num_threads() == 2
    for odd in ("0", "many"):
        with reexecute._threads("/".join([*fields[:2], odd, *fields[3:]])):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1
