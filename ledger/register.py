"""The head register: the newest tree head that was ever signed, kept apart from everything that is ever restored.

A database restored from a backup lacks its newest entries; to sign from it would show two histories. The register knows
better, if it was not restored too: so it lies in a folder of its own, marked for backup programs to leave out
(CACHEDIR.TAG), on the machine itself.

Trusted: whoever can set it back, and the database with it, can make us fork. Members' cosignatures show it. Where it is
lost, the newest of the heads that they have witnessed stands in for it (`consortium ledger adopt`).
"""

import fcntl
from pathlib import Path
from typing import Protocol

from shared_models import durable
from shared_models.records.refusals import Refusal, Refused

TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# The head register of a ledger. Do not back it up, and do not restore it: it is what tells an old copy from the newest.
"""


class Register(Protocol):
    """A place for one tree head."""

    def read(self) -> bytes | None:
        """The head's note, or None before the first."""
        ...

    def swap(self, old: bytes | None, new: bytes) -> None:
        """Put `new` there, for good, if `old` is what is there. Raises `Refused(BEHIND)` if it is not, OSError."""
        ...


class FileRegister:
    """The register as a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = folder / "head", folder / "lock"
        if not (folder / "CACHEDIR.TAG").exists():
            durable.write(folder / "CACHEDIR.TAG", TAG)

    def read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def swap(self, old: bytes | None, new: bytes) -> None:
        with open(self._lock, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read() != old:
                raise Refused(Refusal.BEHIND, f"{self._path} was moved on by somebody else: two ledgers write this log")
            durable.write(self._path, new)
