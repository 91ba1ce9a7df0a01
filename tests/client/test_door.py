"""The daemon's door: it hears the process that has the task, and nobody else."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from parties import FakeTime, Parties

from client.door import Door
from client.meter import ProcessMeter, ThreadMeter, Usage
from shared_models.claims import Daemon, Progress, hear, say
from shared_models.records import canonical
from shared_models.records.refusals import Refusal, Refused

PROGRESS = Progress(tokens=7, loss_unats=5, busy_ms=3)


@pytest.fixture
def door(tmp_path):
    parties = Parties(tmp_path)
    signer = parties.consenting("acme")
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        made = Door(Path(folder) / "door", signer, seen.append)
        made.parties, made.seen = parties, seen
        yield made
        made.close()
    parties.log.close()


def anybody(_pid: int) -> bool:
    return True


def test_a_task_from_its_beginning_to_its_receipt(door):
    door.expect(FakeTime(), lambda pid: pid == os.getpid())
    begin = door.parties.begin("acme", *door.parties.say(door.parties.opened()))
    with Daemon(str(door.path)) as daemon:
        assert daemon.ask(begin).entries == ()
        assert daemon.ask(PROGRESS).entries == ()
        reply = daemon.ask(door.parties.claim())
    (leaf,) = reply.entries
    door.parties.log.append(leaf.encode())
    assert reply.cosigned.encode() == door.parties.founded.member("acme").head_note()
    assert door.seen == [begin, PROGRESS, door.parties.claim()]


def test_training_that_may_not_go_on_is_told_so_when_it_reports(door):
    door.expect(FakeTime(), anybody)
    begin = door.parties.begin("acme", *door.parties.say(door.parties.opened()))

    def stop() -> None:
        raise Refused(Refusal.POLICY, "too much")

    with Daemon(str(door.path)) as daemon:
        daemon.ask(begin)
        daemon.ask(PROGRESS)
        door._go_on = stop
        with pytest.raises(Refused, match="policy: too much"):
            daemon.ask(PROGRESS)
    assert [str(each) for each in door.seen] == [str(begin), str(PROGRESS), "policy: too much"]


def test_a_refusal_arrives_with_its_name(door):
    door.expect(FakeTime(), anybody)
    with Daemon(str(door.path)) as daemon, pytest.raises(Refused) as caught:
        daemon.ask(door.parties.claim())
    assert caught.value.refusal is Refusal.NO_TASK
    assert [str(each) for each in door.seen] == ["no_task: no task has begun"]


def test_nobody_is_heard_before_a_task_and_after_it(door):
    with Daemon(str(door.path)) as daemon:
        for open_it in (lambda: None, door.forget):
            open_it()
            with pytest.raises(Refused) as caught:
                daemon.ask(PROGRESS)
            assert caught.value.refusal is Refusal.NO_TASK
        door.expect(FakeTime(), anybody)
        daemon.ask(PROGRESS)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"hello\n", "malformed"),
        (b"sign {}\n", "malformed"),
        (b"progress {}\n", "bad_field"),
        (b"progress nonsense\n", "not_canonical"),
        (b"\xff\xff {}\n", "malformed"),
    ],
)
def test_nonsense_is_refused_by_name_and_the_door_stays_open(door, line, code):
    door.expect(FakeTime(), anybody)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(door.path))
        caller.sendall(line + say(PROGRESS))
        with caller.makefile("rb") as lines:
            assert f'"code":"{code}"'.encode() in lines.readline()
            assert b'"code":""' in lines.readline()


def test_a_disk_that_is_full_is_a_refusal_with_a_name_and_nothing_is_signed(door, monkeypatch):
    door.expect(FakeTime(), anybody)
    begin = door.parties.begin("acme", *door.parties.say(door.parties.opened()))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with Daemon(str(door.path)) as daemon:
        daemon.ask(begin)
        with monkeypatch.context() as disk:
            disk.setattr("client.signer.durable.write", full)
            with pytest.raises(Refused) as caught:
                daemon.ask(door.parties.claim())
        assert (caught.value.refusal, "No space" in caught.value.detail) == (Refusal.STOPPED, True)
        (leaf,) = daemon.ask(door.parties.claim()).entries  # The disk has room again: the same claim is signed, once.
    door.parties.log.append(leaf.encode())


def test_questions_are_read_as_they_were_written():
    assert hear(say(PROGRESS)) == PROGRESS
    assert say(PROGRESS) == b"progress " + canonical.encode(PROGRESS) + b"\n"


def test_the_door_is_its_owner_s(door):
    assert door.path.stat().st_mode & 0o077 == 0


BUSY = """
import time
end = time.process_time() + 0.3
while time.process_time() < end: pass
print('done', flush=True)
input()
"""


def test_a_process_is_measured_from_outside_with_its_children():
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}]); "
    parent += "print('it has ended', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        meter = ProcessMeter(process.pid)
        assert process.stdout.readline() == b"done\n"
        usage = meter.read()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"it has ended\n"
        later = meter.read()
        process.communicate(b"\n")
    assert 270 <= usage.cpu_ms <= later.cpu_ms  # That of a child that ended too; in ticks of 10 ms.
    assert usage.ended_ms - usage.started_ms == usage.wall_ms


def test_what_a_round_used_before_it_was_broken_off_counts_with_what_it_used_after():
    before = Usage(1_000, 900, 5_000, 6_000, 70, "rapl")
    after = Usage(500, 400, 60_000, 60_500, 30, "rapl")
    assert before.plus(after) == Usage(1_500, 1_300, 5_000, 60_500, 100, "rapl")
    unknown = replace(after, energy_mj=0, energy_method="none")
    assert before.plus(unknown) == Usage(1_500, 1_300, 5_000, 60_500, 0, "none")
    more = replace(before, memory_bytes=9).plus(replace(after, memory_bytes=5))
    assert more.memory_bytes == 9  # They were not there at a time.
    two, six = replace(before, landlock=2), replace(after, landlock=6, offline=True)
    assert [two.plus(six).landlock, six.plus(two).landlock, two.plus(after).landlock] == [2, 2, 0]  # In all of it.
    assert [six.plus(six).offline, six.plus(two).offline, two.plus(six).offline] == [True, False, False]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        meter = ProcessMeter(process.pid)
        meter.before = before
        usage = meter.read()
        process.communicate(b"\n")
    assert (usage.started_ms, usage.wall_ms >= 1_000, usage.cpu_ms >= 900) == (5_000, True, True)
    assert usage.ended_ms > 10**12


def test_a_thread_is_measured_from_another_one():
    begun, enough = threading.Event(), threading.Event()
    meters = []

    def work():
        meters.append(ThreadMeter(threading.get_ident()))
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
        begun.set()
        enough.wait()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    usage = meters[0].read()
    enough.set()
    thread.join()
    assert 195 <= usage.cpu_ms <= usage.wall_ms + 5
