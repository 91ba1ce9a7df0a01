"""How a member's machine trains: several processes, parts of a model, another device, compiled code."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import pytest
import torch
from world import LONG, TOY

from client import data
from client.half import Half
from client.reexecute import distance_ppm
from client.team import at_work
from client.train import BrokenOff, train
from client.training import Machine, build
from server import outer
from shared_models.lm import gpt
from shared_models.lm.inner import Inner
from shared_models.records.kinds import Build
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import TOLERANCE_PPM

ROOT = Path(__file__).parent.parent.parent
RECIPE = replace(TOY, layers=2, width=32, context=32, batch=8, inner_steps=4, inner="muon")  # AdamW beside Muon.
TURN = {"member": "acme", "round_": 1, "rounds": 2}


EXPERTS = replace(RECIPE, feed="swiglu", experts=4, experts_per_token=2)
LION, *WHOLE = (replace(RECIPE, inner=inner) for inner in ("lion", "adafactor", "lamb", "scion"))
TIED = replace(RECIPE, feed="swiglu", qk_norm="head", head_dim=24, embeddings="tied")  # As Qwen3.
ODD = {"vocabulary": 257, "heads": 4, "kv_heads": 2, "rank": 4, "shared": 2, "shortest": 8}
ODD = replace(RECIPE, feed="swiglu", bias="qkv", **ODD)
TAUGHT = {"teacher_layers": 1, "teacher_heads": 1, "teacher_width": 16, "temperature": "2", "taught": "0.5"}
TAUGHT = replace(RECIPE, inner="adamw", **TAUGHT)
DDP, FSDP, TENSOR = (Machine(processes=2, **how) for how in ({}, {"shard": True}, {"tensor": True}))


def trained(machine: Machine, *steps: int, start=None, memory=None, step: int = 0, recipe=RECIPE):
    """(losses, the point reached, the state after each of these steps) by this machine."""
    torch.set_num_threads(1)
    start, tokens = outer.first(recipe) if start is None else start, data.load("python-stdlib:0/3")
    if recipe.teacher is not None:
        start = start | gpt.beside(gpt.Shape.of(recipe), outer.first(recipe.teacher))
    with at_work(start, recipe, tokens, memory or {}, machine=machine, step=step, **TURN) as training:
        losses, states = [], []
        for each in steps:
            losses += training.until(each)
            states.append(training.state())
        assert training.data == training.point().data
        return losses, training.point(), *states


def refused(machine: Machine, recipe=RECIPE) -> Refused:
    with pytest.raises(Refused) as caught:
        machine.check(recipe)
    return caught.value


def test_what_a_machine_cannot_do_is_refused_by_the_setting(monkeypatch):
    Machine(processes=2, shard=True, recompute=True).check(RECIPE)
    assert refused(Machine(processes=3)).refusal is Refusal.BAD_FIELD
    for processor in ("cuda:99", "moon"):
        caught = refused(Machine(processor=processor))
        assert (caught.refusal, f"processor = '{processor}'" in caught.detail) == (Refusal.NOT_SET_UP, True)
    monkeypatch.setenv("PATH", "")
    assert (refused(Machine(compile=True)).refusal) is Refusal.NOT_SET_UP


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"heads": 3}, r"processes = 2 do not divide the run's heads = 3; take as many as do, or shard = true"),
        ({"heads": 4, "kv_heads": 1}, "kv_heads = 1"),
        ({"feed_dim": 63}, "feed_width = 63"),
        ({"experts": 4}, "does not cut a model with experts: shard = true does"),
        ({"member_experts": 3}, "member_experts"),
        ({"adapter": 2}, "adapter"),
    ],
)
def test_a_model_that_cannot_be_cut_into_equal_parts_is_refused_by_what_it_has(changes, cause):
    caught = refused(TENSOR, replace(RECIPE, **changes))
    assert (caught.refusal, bool(re.search(cause, caught.detail))) == (Refusal.BAD_FIELD, True), caught.detail
    FSDP.check(replace(RECIPE, **changes))


@pytest.mark.parametrize("other", ["shard", "compile"])
def test_a_model_is_cut_in_one_way(other):
    machine = replace(TENSOR, **{other: True})
    assert f"tensor = true does not go with {other} = true" in refused(machine).detail
    with pytest.raises(Refused, match="tensor = true does not go with"):
        machine.check_here()


def test_processes_that_cut_the_model_train_on_the_whole_batch_so_that_they_need_not_divide_it():
    TENSOR.check(replace(RECIPE, batch=7))
    assert "do not divide the run's batch of 7" in refused(FSDP, replace(RECIPE, batch=7)).detail


def test_a_setting_that_cannot_be_is_refused_before_training_begins():
    with pytest.raises(Refused, match="do not divide"):
        trained(Machine(processes=3), 1)


def test_a_build_says_how_many_processes_share_the_work_and_whether_it_was_compiled():
    torch.set_num_threads(1)
    parts = build("fp32").split("/")
    for machine, third, fourth in (
        (Machine(processes=2), "2x1", "float32"),
        (Machine(processes=4, shard=True), "4s1", "float32"),
        (Machine(processes=4, tensor=True), "4t1", "float32"),
        (Machine(compile=True), "1", "float32-compiled"),
        (Machine(recompute=True), "1", "float32"),  # The same bits.
    ):
        said = build("fp32", machine)
        assert said.split("/") == [*parts[:2], third, fourth, parts[4]]
        assert re.fullmatch(get_args(Build)[1].regex, said)


def test_a_model_and_what_its_optimiser_remembers_are_where_they_are_told_to_be():
    """PyTorch's device meta computes no numbers, and mixes with no other one: that is all it takes."""
    model = gpt.GPT(gpt.Shape.of(RECIPE)).to("meta")
    tokens = torch.zeros((2, 33), dtype=torch.long, device="meta")
    assert model.loss(tokens).device.type == "meta"
    _, _, (_, memory) = trained(Machine(), 1)
    held = [tensor for state in Inner(model, "muon", memory)._of.values() for tensor in state.state.values()]
    assert {each.device.type for one in held for each in one.values()} == {"meta"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("two", "recipe"),
    [
        *((DDP, recipe) for recipe in (RECIPE, EXPERTS)),
        *((DDP, recipe) for recipe in (TIED, LION, *WHOLE) if LONG),  # There each process has all of the model.
        *((FSDP, recipe) for recipe in (RECIPE, EXPERTS, TIED, LION)),
        *((TENSOR, recipe) for recipe in (RECIPE, TIED, ODD, TAUGHT, LION, replace(RECIPE, precision="bf16"))),
        (replace(TENSOR, recompute=True), replace(TIED, batch=7)),
    ],
)
def test_two_processes_come_to_what_one_does_and_go_on_from_a_state_to_the_bit(two, recipe):
    """By torchrun, over gloo: each holds the model (DDP), or a part of it (FSDP2), or of every matrix (tensor)."""
    one = Machine()
    losses, point, reached = trained(one, 4, recipe=recipe)
    theirs, their_point, (weights, memory), their_state = trained(two, 2, 4, recipe=recipe)
    assert theirs == pytest.approx(losses, rel=0.01)
    assert (their_point.data, their_point.step) == (point.data, 4)
    assert their_point != point  # Sums in another order.
    assert distance_ppm((outer.first(recipe), {}), reached, their_state) < TOLERANCE_PPM
    if LONG or recipe in (RECIPE, EXPERTS, ODD):
        again = trained(two, 4, start=weights, memory=memory, step=2, recipe=recipe)
        assert again[:2] == (theirs[2:], their_point)


def test_a_process_that_is_killed_ends_the_training_by_its_name_and_all_others():
    tokens = data.load("python-stdlib:0/3")
    with at_work(outer.first(RECIPE), RECIPE, tokens, {}, machine=Machine(processes=2), **TURN) as team:
        list(team.until(1))
        workers = psutil.Process(team._process.pid).children()
        assert len(workers) == 2
        os.kill(workers[1].pid, signal.SIGKILL)
        for _ in range(2):  # Who answered no more, and who is not there to be asked.
            with pytest.raises(Refused, match="a process of the training ended") as caught:
                list(team.until(4))
            assert caught.value.refusal is Refusal.FAILED
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers)


def test_what_a_process_could_not_begin_with_is_named():
    """It has other memory than its model."""
    with pytest.raises(Refused, match=r"a process of the training ended: KeyError: 'blocks\.9'"):
        trained(Machine(processes=2), 1, memory={"blocks.9/exp_avg": np.zeros(1, np.float32)})


OUTLIVED = """
import sys, time
from test_machine import *
tokens = data.load("python-stdlib:0/3")
with at_work(outer.first(RECIPE), RECIPE, tokens, {}, machine=Machine(processes=2), **TURN) as team:
    list(team.until(1))
    print(team._process.pid, *(each.pid for each in psutil.Process(team._process.pid).children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_process_outlives_one_that_is_killed():
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "training")))
    command = [sys.executable, "-c", OUTLIVED]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE) as parent:
        pids = [int(each) for each in parent.stdout.readline().split()]
        parent.kill()
    until = time.monotonic() + 60
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert (len(pids), [pid for pid in pids if psutil.pid_exists(pid)]) == (3, [])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile asks for a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiled_training_comes_close_enough(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # Or it leaves processes behind.
    losses, _, reached = trained(Machine(), 3)
    theirs, _, their_state = trained(Machine(compile=True), 3)
    assert theirs == pytest.approx(losses, rel=0.01)
    assert distance_ppm((outer.first(RECIPE), {}), reached, their_state) < TOLERANCE_PPM
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("machine", [DDP, TENSOR])
def test_several_processes_that_are_broken_off_go_on_to_the_end_of_a_segment_and_come_to_the_same_bits(machine):
    torch.set_num_threads(1)
    recipe, said = replace(RECIPE, inner_steps=4, segment=2), []
    base, tokens = outer.first(recipe), data.load("python-stdlib:0/3")

    def ask(since: Half | None = None):
        def report(each) -> None:
            said.append(each)
            if len(said) == 1:
                raise Refused(Refusal.TAKEN_AWAY, "this machine is taken away")

        return train(base, recipe, tokens, {}, **TURN, report=report, report_s=0, machine=machine, since=since)

    with pytest.raises(BrokenOff) as caught:
        ask()
    assert (caught.value.half.step, len(said)) == (2, 1)
    again, whole = ask(caught.value.half), ask()
    assert (again.points, again.data, again.loss) == (whole.points, whole.data, whole.loss)
