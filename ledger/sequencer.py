"""Group commit: many senders, one writer. Everything that waits when a commit ends goes into the next one.

There is no timer: the last flush to the disk is the timer. A sender alone is answered after one commit, a thousand
senders share it.

    submit  →  inbox  →  admit (verify, in threads)  →  queue  →  commit (one thread)  →  done  →  publish, when idle
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ledger.log import Answer, Asked, Log
from shared_models.records.refusals import Refusal, Refused

WAITING = 4_096  # Entries that may wait; who sends more is asked to come again.
IDLE_S = 0.05  # Without a sender for so long, the folder is brought up to date;
BEHIND = 2_048  # under load, when it is so many entries behind.
# Threads that verify beside the writer. Each costs the others time at Python's lock, and pays from three cores on.
VERIFIERS = max(0, min(4, (os.cpu_count() or 1) - 2))

Done = Callable[[list[Answer]], object]


@dataclass(slots=True)
class _Request:
    leaves: Sequence[bytes]
    done: Done
    admitted: list[Asked] = field(default_factory=list)


class Sequencer:
    """The queue in front of a log, and the threads that empty it."""

    def __init__(
        self,
        log: Log,
        *,
        waiting: int = WAITING,
        stopped: Callable[[str], object] | None = None,
        verifiers: int | None = None,
    ) -> None:
        """`stopped` is called, with the reason, when the log has failed to write: only a new start can help then."""
        self.log = log
        self._most, self._stopped = waiting, stopped
        self._turn = threading.Condition()
        self._inbox: deque[_Request] = deque()
        self._queue: deque[_Request] = deque()
        self._waiting = 0  # Entries taken in and not answered yet.
        self._closed = False
        threads = [threading.Thread(target=self._write, name="writer", daemon=True)]
        self._verifiers = VERIFIERS if verifiers is None else verifiers
        for number in range(self._verifiers):
            threads.append(threading.Thread(target=self._verify, name=f"verifier {number}", daemon=True))
        self._threads = threads
        for thread in threads:
            thread.start()

    def submit(self, leaves: Sequence[bytes], done: Done) -> None:
        """Have these leaves appended; `done` gets an answer for each, in a thread of ours.

        Raises `Refused(BUSY)` if too many entries wait already.
        """
        with self._turn:
            if self._closed:
                raise Refused(Refusal.STOPPED, "the ledger is closing")
            if self._waiting and self._waiting + len(leaves) > self._most:
                raise Refused(Refusal.BUSY, f"{self._waiting} entries wait to be written")
            self._waiting += len(leaves)
            (self._inbox if self._verifiers else self._queue).append(_Request(leaves, done))
            self._turn.notify_all()

    def append(self, leaves: Sequence[bytes]) -> list[Answer]:
        """The same, and wait for the answers."""
        answered, got = threading.Event(), list[Answer]()

        def done(answers: list[Answer]) -> None:
            got.extend(answers)
            answered.set()

        self.submit(leaves, done)
        answered.wait()
        return got

    def close(self) -> None:
        """Answer what waits, bring the folder up to date, and end."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join()
        self._publish()

    def _take(self, source: deque[_Request], most: int, idle: Callable[[], object] | None = None) -> list[_Request]:
        """What waits there, at least one request and not many more than `most` entries; nothing when all is over.

        `idle` is called, once, if nothing comes for a while.
        """
        while True:
            with self._turn:
                if not source and not self._over:
                    self._turn.wait(IDLE_S if idle is not None else None)
                if source:
                    taken, count = [source.popleft()], 0
                    while source and (count := count + len(taken[-1].leaves)) + len(source[0].leaves) <= most:
                        taken.append(source.popleft())
                    return taken
                if self._over:
                    return []
            if idle is not None:
                idle()
                idle = None

    @property
    def waiting(self) -> int:
        """Entries taken in and not answered yet."""
        return self._waiting

    @property
    def open(self) -> bool:
        """Whether it takes entries, and all of its threads go on."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    @property
    def _over(self) -> bool:
        return self._closed and not self._waiting

    def _verify(self) -> None:
        while requests := self._take(self._inbox, 32):
            for request in requests:
                self._admit(request)
            with self._turn:
                self._queue.extend(requests)
                self._turn.notify_all()

    def _admit(self, request: _Request) -> None:
        request.admitted = [self.log.admit(leaf) for leaf in request.leaves]

    def _write(self) -> None:
        while requests := self._take(self._queue, WAITING, idle=self._publish):
            for request in requests:
                if not self._verifiers:
                    self._admit(request)
            answers = self.log.commit([request.admitted for request in requests])
            with self._turn:
                self._waiting -= sum(len(request.leaves) for request in requests)
                self._turn.notify_all()
            for request, answer in zip(requests, answers, strict=True):
                request.done(answer)
            if self.log.behind > BEHIND or self.log.stopped is not None:
                self._publish()

    def _publish(self) -> None:
        self.log.publish()
        if self.log.stopped is not None and self._stopped is not None:
            self._stopped(self.log.stopped)
