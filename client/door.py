"""The daemon's door: a Unix socket on which the training process claims its work and gets its receipt.

Only the process that the daemon itself started for a task is heard: the kernel says who is calling.
"""

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from client.meter import Meter
from client.signer import Signer
from shared_models.claims import MAX_LINE, Begin, Claim, Halted, Progress, Question, Reply, hear
from shared_models.records import canonical
from shared_models.records.refusals import Refusal, Refused


class Door:
    """A listening socket in front of a signer. `expect` opens it for one task, `forget` shuts it again."""

    def __init__(
        self,
        path: Path,
        signer: Signer,
        seen: Callable[[Question | Refused], None],
        may: Callable[[Begin], None] = lambda _: None,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        """`seen` is told of everything that was asked, and of every refusal, for whoever watches.

        `may` raises `Refused` for a round that may not begin here, `go_on` if training that reports may not go on.
        """
        self.path, self._may, self._go_on = path, may, go_on
        self._signer, self._seen = signer, seen
        self._guest: tuple[Meter, Callable[[int], bool]] | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen()
        threading.Thread(target=self._serve, name=f"door {path.name}", daemon=True).start()

    def expect(self, meter: Meter, is_guest: Callable[[int], bool]) -> None:
        """From now on hear the processes for which `is_guest(pid)` holds, and measure the task with this meter."""
        self._guest = (meter, is_guest)

    def forget(self) -> None:
        """From now on hear nobody."""
        self._guest = None

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # Closed.
            threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            while line := lines.readline(MAX_LINE):
                try:
                    entries = tuple(each.decode() for each in self._answer(pid, line))
                    reply = Reply(entries=entries, cosigned=self._signer.cosigned.decode())
                except (Refused, OSError) as error:
                    refused = error if isinstance(error, Refused) else Refused(Refusal.STOPPED, f"{error}")
                    self._seen(refused)
                    reply = Reply(code=refused.refusal.value, detail=refused.detail)
                try:
                    connection.sendall(canonical.encode(reply) + b"\n")
                except OSError:
                    return  # The training process died; the daemon sees that for itself.

    def _answer(self, pid: int, line: bytes) -> tuple[bytes, ...]:
        guest = self._guest
        if guest is None or not guest[1](pid):
            raise Refused(Refusal.NO_TASK, f"process {pid} has no task here")
        question = hear(line)
        match question:
            case Begin():
                self._may(question)
                entries = self._signer.begin(question)
            case Claim():
                entries = self._signer.claim(question, guest[0])
            case Progress():
                self._go_on()
                entries = ()
            case Halted():
                entries = ()
        self._seen(question)
        return entries
