"""What training may have of a machine: what real processes take, and where they run."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction

import psutil
import pytest
from world import until

from client import limits
from client.limits import Turns, Watch, taken
from client.meter import ProcessMeter
from shared_models import processes

MB = 1 << 20
HOLD = "held = bytearray(b'x') * {size}; print('ready', flush=True); input()"


@contextmanager
def python(code: str):
    """A process that has come to print `ready`, and waits."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_a_process_took_for_itself_counts_and_so_does_what_its_children_took():
    with python(HOLD.format(size=1)) as small, python(HOLD.format(size=100 * MB)) as large:
        assert 100 * MB <= taken(large.pid) - taken(small.pid) <= 110 * MB
    child = HOLD.format(size=60 * MB)
    parent = f"import subprocess, sys, threading; run = lambda: subprocess.run([sys.executable, '-c', {child!r}])\n"
    parent += "threading.Thread(target=run).start(); held = bytearray(b'x') * (40 << 20); threading.Event().wait()"
    with python(parent) as both:  # The child prints that it is ready, and not the thread that started it.
        time.sleep(0.2)
        assert 100 * MB <= taken(both.pid) <= 130 * MB
        for each in psutil.Process(both.pid).children():
            each.kill()


def test_a_file_that_is_read_where_it_lies_does_not_count(tmp_path):
    (tmp_path / "text").write_bytes(bytes(100 * MB))
    read = f"import mmap; f = open({str(tmp_path / 'text')!r}); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)"
    with python(f"{read}; sum(m[::4096]); print('ready', flush=True); input()") as process:
        assert psutil.Process(process.pid).memory_info().rss > 100 * MB > taken(process.pid)


def test_who_has_ended_takes_nothing():
    with python(HOLD.format(size=1)) as process:
        process.kill()
        process.wait()
        assert taken(process.pid) == 0


class Seen:
    def __init__(self) -> None:
        self.told, self.ended = [], threading.Event()


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(limits, "LOOK_S", 0.02)
    seen, watches = Seen(), []

    def begin(pid: int, most: int) -> tuple[Watch, Seen]:
        watches.append(Watch(pid, most, seen.told.append, seen.ended.set))
        return watches[-1], seen

    yield begin
    for each in watches:
        each.stop()


def test_who_takes_too_much_is_told_once_and_ended_only_if_it_does_not_stop(watched, monkeypatch):
    monkeypatch.setattr(limits, "GRACE_S", 0.5)
    with python(HOLD.format(size=100 * MB)) as process:
        took = taken(process.pid)
        watch, seen = watched(process.pid, took - MB)
        until(lambda: seen.told)
        assert took - MB < watch.above == seen.told[0] < took + 10 * MB
        assert not seen.ended.is_set()
        assert seen.ended.wait(20)
        assert len(seen.told) == 1


def test_who_takes_a_quarter_more_is_ended_at_once_and_who_keeps_to_it_is_not(watched):
    with python(HOLD.format(size=100 * MB)) as process:
        _, seen = watched(process.pid, 60 * MB)
        assert seen.ended.wait(5)
    with python(HOLD.format(size=MB)) as process:
        watch, quiet = watched(process.pid, taken(process.pid) + MB)
        quiet.told.clear(), quiet.ended.clear()
        assert not quiet.ended.wait(0.3)
        assert (quiet.told, watch.above) == ([], 0)


def test_the_most_that_it_took_is_known_after_it_has_given_it_back_whether_or_not_it_is_bounded(watched):
    lets_go = "held = bytearray(b'x') * (80 << 20); input(); del held; print('ready', flush=True); input()"
    for most in (None, 1 << 40):
        command = [sys.executable, "-c", lets_go]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            watch, seen = watched(process.pid, most)
            meter = ProcessMeter(process.pid, memory=watch.peak)
            until(lambda watch=watch: watch.peak() > 80 * MB)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"ready\n"
            assert taken(process.pid) < 40 * MB
            assert 80 * MB < meter.read().memory_bytes < 120 * MB
            assert (seen.told, watch.above) == ([], 0)
            process.kill()


def test_a_peak_between_two_readings_is_not_missed(watched):
    """Nobody asks while it is there: the watch has looked by itself."""
    passing = "import time; held = bytearray(b'x') * (80 << 20); time.sleep(1); del held; print('ready', flush=True)"
    passing += "; input()"
    with subprocess.Popen([sys.executable, "-c", passing], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watch, _ = watched(process.pid, None)
        assert process.stdout.readline() == b"ready\n"
        assert watch.peak() > 80 * MB > 2 * taken(process.pid)
        process.kill()


def test_a_process_and_its_children_run_on_the_cores_that_they_were_given(tmp_path):
    """This thread, which started it, runs on all of its own again."""
    before = os.sched_getaffinity(0)
    child = "import os; print(os.sched_getaffinity(0))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    for cores, where in ((1, {min(before)}), (None, before), (4096, before)):
        log = tmp_path / f"{cores}.log"
        process = processes.start(
            [sys.executable, "-c", code], env=processes.scrubbed(), cwd=tmp_path, log=log, cores=cores
        )
        process.wait()
        assert log.read_text() == f"{where}\n"
        assert os.sched_getaffinity(0) == before


@contextmanager
def busy():
    """A process that computes without an end, and a child of it, in a session of its own, that does too."""
    child = "subprocess.Popen([sys.executable, '-c', 'while True: pass'], start_new_session=True)"
    with python(f"import subprocess, sys; {child}; print('ready', flush=True)\nwhile True: pass") as process:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        assert len(family) == 2
        try:
            yield family
        finally:
            family[1].kill()


def shares(family: list[psutil.Process], seconds: float) -> list[float]:
    """How much of the time each of them stood."""
    stood, looks, end = [0] * len(family), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        looks += 1
        stood = [count + (each.status() == psutil.STATUS_STOPPED) for count, each in zip(stood, family, strict=True)]
        time.sleep(0.003)
    return [count / looks for count in stood]


def test_training_works_a_share_of_the_time_and_so_does_what_it_starts(monkeypatch):
    monkeypatch.setattr(limits, "TURN_S", 0.4)
    with busy() as family:
        turns = Turns(family[0].pid, Fraction(1, 4))
        before = sum(sum(each.cpu_times()[:2]) for each in family)
        stood = shares(family, 4)
        took = sum(sum(each.cpu_times()[:2]) for each in family) - before
        assert all(0.6 < each < 0.9 for each in stood), stood
        assert took < 2 * 4 * 0.4  # Of two cores, for so long.
        turns.stop()
        until(lambda: all(each.status() != psutil.STATUS_STOPPED for each in family))
        assert max(shares(family, 1)) == 0


def test_who_may_always_work_never_stands_and_who_stands_can_be_ended(monkeypatch):
    monkeypatch.setattr(limits, "TURN_S", 0.4)
    with busy() as family:
        Turns(family[0].pid, Fraction(1))
        assert max(shares(family, 1)) == 0
    with busy() as family:
        turns = Turns(family[0].pid, Fraction(1, 20))
        until(lambda: family[0].status() == psutil.STATUS_STOPPED)
        family[0].send_signal(signal.SIGTERM)
        until(lambda: family[0].status() == psutil.STATUS_ZOMBIE)
        turns.stop()
