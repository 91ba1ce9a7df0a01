"""What the log asks to see of training, answered beside it: `consortium work answer`, at the lowest priority.

A process of its own, now and then, for it recomputes the log, and trains: neither is to keep the daemon from its round.
"""

import logging
import os
import subprocess
import time
from collections.abc import Callable

from client.home import Home
from client.policy import Policy
from shared_models import processes

REST_S = 20.0  # Between the end of one and the next, if the log has grown, and at least
REST = 20  # so many times as long as the last one took;
LONG_REST_S = 600.0  # if it has not, for what was not shown yet, or could not be reached.

log = logging.getLogger(__name__)


class Answers:
    """The answers of one member, of which at most one is at work."""

    def __init__(self, home: Home) -> None:
        self._home, self._size = home, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._ended = -LONG_REST_S  # Long ago.

    def visit(self, size: int, policy: Callable[[], Policy]) -> None:
        """Answer what a log of this size asks for, if it is time and the policy, read only then, does not forbid it.

        Raises `Refused` as that.
        """
        if self._process is not None:
            if self._process.poll() is None:
                return
            if self._process.returncode:
                log.warning("something that the log asks for was not answered as it should be: see answers.log")
            self._process, self._ended = None, time.monotonic()
        took_s = self._ended - self._began
        rest_s = max(REST_S, REST * took_s) if size > self._size else LONG_REST_S
        if not size or time.monotonic() <= self._ended + rest_s:
            return
        self._began = self._ended = time.monotonic()  # Whatever comes of it, the policy is not read again at once.
        if (rules := policy()).answers:
            self._size, self._process = size, self._started(rules)

    def end(self) -> None:
        """End what is at work. It is begun again another time."""
        if self._process is not None:
            processes.end(self._process, grace_s=0)
            self._process = None

    def _started(self, rules: Policy) -> subprocess.Popen[bytes]:
        folder = self._home.path.absolute()
        command = [processes.program("consortium"), "work", "answer", "--home", str(folder)]
        command += [word for text in rules.texts for word in ("--text", str(text))]
        started = processes.start(command, env=os.environ, cwd=folder, log=folder / "answers.log", cores=rules.cores)
        os.setpriority(os.PRIO_PROCESS, started.pid, 19)
        return started
