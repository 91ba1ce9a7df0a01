"""The training process runs the coordinator's code: what it is given of the member, and what it is not."""

import os
import subprocess
import sys

from shared_models import processes


def test_it_sees_nothing_of_the_daemon_s_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    env = processes.scrubbed(HOME=str(tmp_path))
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import os; print(sorted(os.environ)); print(os.getcwd())"]
    processes.start(command, env=env, cwd=tmp_path, log=log).wait()
    said = log.read_text()
    assert "AWS" not in said
    assert "PYTHONPATH" not in said
    assert str(tmp_path) in said


def test_it_has_a_group_of_its_own_and_what_it_leaves_behind_ends_with_it(tmp_path):
    log = tmp_path / "log"
    stay = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    process = processes.start([sys.executable, "-c", stay], env=processes.scrubbed(), cwd=tmp_path, log=log)
    process.wait()
    left = int(log.read_text())
    assert os.getpgid(left) == process.pid != os.getpgid(0)
    processes.end(process)
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(left)], capture_output=True, text=True).stdout.strip()
    assert state[:1] in ("", "Z")  # ZN where the tests are nice.


def test_it_is_ended_even_if_it_will_not_end(tmp_path):
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    process = processes.start([sys.executable, "-c", stubborn], env=processes.scrubbed(), cwd=tmp_path, log=log)
    while not log.read_text():
        pass
    processes.end(process, grace_s=0.2)
    assert process.poll() == -9
