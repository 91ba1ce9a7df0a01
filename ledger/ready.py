"""Whether a ledger can do its work, for whoever sends it requests or starts it again: /readyz.

/healthz says that the process answers. This says that it would write.
"""

import threading
import time

from ledger.sequencer import Sequencer
from shared_models.records.refusals import Refusal, Refused

EVERY_S = 1.0  # Looking costs a flush to the disk, so whoever asks more often is told what was found last.
PROBE = ".ready"  # In the published folder; no tile's name.
PROBE_BYTES = 4_096  # A file without bytes fits on a disk that is full.


class Ready:
    """Of one open log."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer, self._log = sequencer, sequencer.log
        self._turn, self._until = threading.Lock(), 0.0
        self._found: Refused | None = None

    def check(self) -> None:
        """Whether all of this holds, now or a second ago. Raises `Refused`, with the cause.

        1. The writer goes on, and no write has failed: STOPPED.
        2. The register is there, and nobody else has moved it on: NOT_SET_UP, BEHIND.
        3. The database answers, and the folder takes a file: STOPPED.
        """
        with self._turn:
            if time.monotonic() >= self._until:
                self._found = self._look()
                self._until = time.monotonic() + EVERY_S
        if self._found is not None:
            raise self._found

    def _look(self) -> Refused | None:
        try:
            if not self._sequencer.open:
                raise Refused(Refusal.STOPPED, "the ledger is closing")
            self._log.check_register()
            self._log.store.find("", "", "")
            self._log.public.put(PROBE, b"\n" * PROBE_BYTES)
        except Refused as refused:
            return refused
        except OSError as error:
            return Refused(Refusal.STOPPED, str(error))
        return None
