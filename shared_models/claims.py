"""How a training process speaks to the daemon that started it: one line of canonical JSON each way, over a Unix socket.

The training process is the coordinator's code on the member's machine. It may claim; the daemon checks, measures and
signs.
"""

import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, TypeVar

from shared_models.records import canonical
from shared_models.records.canonical import Count, Hash, Range
from shared_models.records.kinds import Build
from shared_models.records.refusals import Refusal, Refused

MAX_LINE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The task as it came: the signed opening of the round, and proofs that it and the member's entries are logged."""

    opened: str  # A leaf: the round.open.
    proof: str  # C2SP tlog-proof of `opened`, with the newest tree head.
    since: Count  # The size that the member is thought to have witnessed,
    consistency: tuple[Hash, ...]  # and the proof from there to the head.
    logged_seq: Annotated[int, Range(-1, 2**63)]  # The member's newest entry in the log (-1: none),
    logged_index: Count  # where it stands,
    logged_path: tuple[Hash, ...]  # and its path to the head's root.
    cosigned: tuple[str, ...]  # Heads that other members have cosigned: notes. At most one, so far.


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far training is. Shown, never signed."""

    tokens: Count
    loss_unats: Count
    busy_ms: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the training process says it did."""

    update: Hash
    data: Hash  # Digest of every token trained on; the daemon salts it.
    trajectory: Hash  # Of the states that training went through, and what was carried over: rules.challenge.
    build: Build  # What it was computed with.
    tokens: Count
    steps: Count
    busy_ms: Count
    loss_unats: Count  # Shown, not signed.
    bytes_down: Count
    bytes_up: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted:
    """Training has kept how far it came, for it was told that the machine is about to be taken away."""

    step: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The daemon's answer: a refusal (`code` not empty), or the member's entries that the log lacks, oldest first."""

    code: str = ""
    detail: str = ""
    entries: tuple[str, ...] = ()
    cosigned: str = ""  # The head that came with the task, with the member's cosignature.


Question = Begin | Progress | Claim | Halted
QUESTIONS: dict[str, type[Begin] | type[Progress] | type[Claim] | type[Halted]] = {
    "begin": Begin,
    "progress": Progress,
    "claim": Claim,
    "halted": Halted,
}
T = TypeVar("T")


def say(question: Question) -> bytes:
    """The line that asks this."""
    word = next(word for word, cls in QUESTIONS.items() if type(question) is cls)
    return f"{word} ".encode() + canonical.encode(question) + b"\n"


def hear(line: bytes) -> Question:
    """The question in this line. Raises `Refused(MALFORMED)`, or what `canonical.decode` raises."""
    word, _, body = line.rstrip(b"\n").partition(b" ")
    cls = QUESTIONS.get(word.decode("ascii", "replace"))
    if cls is None:
        raise Refused(Refusal.MALFORMED, f"{word[:40]!r} is not a question to a daemon")
    return canonical.decode(cls, body)


class Daemon:
    """The way from a training process to its daemon. Use as a context manager."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, question: Question) -> Reply:
        """Ask, and wait for the answer. Raises `Refused` with the daemon's reason."""
        line = b""
        with suppress(ConnectionError):
            self._socket.sendall(say(question))
            line = self._lines.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise Refused(Refusal.NO_TASK, "the daemon closed the connection")
        reply = canonical.decode(Reply, line[:-1])
        if reply.code:
            raise Refused(Refusal(reply.code), reply.detail)
        return reply
