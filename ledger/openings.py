"""What members have shown of their training, where the log asked to see it: from them, to the round's other members.

    PUT      /v1/openings/RUN/ROUND/MEMBER    the piece of it that `Content-Range` names; `bytes */SIZE`: none
    GET|HEAD /v1/openings/RUN/ROUND/MEMBER    the file, or the part of it that `Range` asks for

An opening holds checkpoints: it is for those who were invited to that round, and so had them. It is kept for as long as
its work can be disputed. This place is not trusted: whoever repeats an opening holds it against the receipt.
"""

from fastapi import Request, Response

from ledger.access import Intake, placed, response, signed_by
from ledger.log import Log
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import FolderShelf


class Openings:
    """The openings of one open log, in files that are called as the receipt that they are of."""

    def __init__(self, log: Log, shelf: FolderShelf) -> None:
        self._log, self._shelf, self._intake = log, shelf, Intake(shelf)

    def answer(self, request: Request, run: str, round_: int, member: str) -> Response:
        """An opening, if all of this holds.

        1. The request is signed, not long ago, by a compute key that counts.
        2. The log has drawn that work, and it can be disputed.
        3. Its round invited who asks.
        4. The member has shown it.

        Raises `Refused`: BAD_SIGNATURE, STALE, UNKNOWN_KEY, REVOKED, NOT_DRAWN, WRONG_MEMBER, NOT_FOUND.
        """
        asks = signed_by(self._log, request, "compute", "range")
        drawn, invited = self._log.drawn(run, round_, member)
        if asks not in invited:
            raise Refused(Refusal.WRONG_MEMBER, f"round {round_} of {run} did not invite {asks}")
        size = self._shelf.size(drawn.receipt)
        if size is None:
            raise Refused(Refusal.NOT_FOUND, f"{member} has not shown segment {drawn.segment} of that round")
        return response(request, self._shelf, drawn.receipt, size)

    def upload(self, request: Request, run: str, round_: int, member: str, piece: bytes) -> int:
        """Take in a piece of an opening; how many bytes of it are here then. The first one that is whole stands.

        Raises `Refused`: BAD_SIGNATURE, STALE, UNKNOWN_KEY, REVOKED, NOT_DRAWN, WRONG_MEMBER unless that member's
        compute key has signed it, or as `Intake.take`.
        """
        asks = signed_by(self._log, request, "compute", "content-range", "content-digest")
        drawn, _ = self._log.drawn(run, round_, member)
        if asks != member:
            raise Refused(Refusal.WRONG_MEMBER, f"the work is {member}'s, and not {asks}'s")
        start, size = placed(request, piece)
        if (there := self._shelf.size(drawn.receipt)) is not None:
            return there
        self._forget_the_old()
        return self._intake.take(drawn.receipt, start, size, piece)

    def _forget_the_old(self) -> None:
        """Remove what was shown, or begun to be, of work that cannot be disputed any more."""
        if self._shelf.spool.is_dir():
            kept = self._log.all_drawn()
            for path in self._shelf.spool.iterdir():
                if path.name.removeprefix(".").removesuffix(".part") not in kept:
                    path.unlink(missing_ok=True)
