"""A process that the daemon did not start asks for a receipt: another user's, or one that outlived its task."""

import subprocess
import sys
import tempfile
from pathlib import Path

from parties import FakeTime, Parties

from client.daemon import _descends
from client.door import Door

ASK = """
import sys
from shared_models.claims import Claim, Daemon
from shared_models.records.refusals import Refused
told = dict.fromkeys(("update", "data", "trajectory"), "0" * 64) | {"build": "a/b/1/c/d", "tokens": 96, "steps": 3}
claim = Claim(**told, busy_ms=1, loss_unats=1, bytes_down=1, bytes_up=1)
with Daemon(sys.argv[1]) as daemon:
    try:
        print(len(daemon.ask(claim).entries))
    except Refused as refused:
        print(refused)
"""


def test_the_kernel_says_who_is_calling(tmp_path):
    parties = Parties(tmp_path)
    signer = parties.consenting("acme")
    signer.begin(parties.begin("acme", *parties.say(parties.opened())))
    with tempfile.TemporaryDirectory() as folder:
        door = Door(Path(folder) / "door", signer, seen=lambda _: None)
        guest = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        door.expect(FakeTime(), lambda pid: _descends(pid, guest.pid))
        called = subprocess.run([sys.executable, "-c", ASK, door.path], capture_output=True, text=True, check=True)
        assert called.stdout.startswith("no_task: process")
        assert len(signer.home.signed()) == 1  # The consent.
        guest.communicate(b"\n")
        door.close()
    parties.log.close()


def test_the_process_of_the_task_and_its_children_are_heard(tmp_path):
    parties = Parties(tmp_path)
    signer = parties.consenting("acme")
    signer.begin(parties.begin("acme", *parties.say(parties.opened())))
    with tempfile.TemporaryDirectory() as folder:
        door = Door(Path(folder) / "door", signer, seen=lambda _: None)
        wait = "import subprocess, sys; input(); subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
        guest = subprocess.Popen(
            [sys.executable, "-c", wait, ASK, door.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        door.expect(FakeTime(), lambda pid: _descends(pid, guest.pid))
        assert guest.communicate(b"\n")[0].strip() == b"1"
        door.close()
    parties.log.close()
