"""What is shown to a round's members, so that they can repeat it: members' training, where the log asked to see it, and
the updates that its step was taken from.

    PUT      /v1/openings/RUN/ROUND/MEMBER    by that member: the piece that `Content-Range` names; `bytes */SIZE`: none
    GET|HEAD /v1/openings/RUN/ROUND/MEMBER    the file, or the part of it that `Range` asks for
    PUT      /v1/updates/RUN/ROUND/MEMBER     by the coordinator: the same of the update that this member sent
    GET|HEAD /v1/updates/RUN/ROUND/MEMBER     the same

Both tell what a member trained on, more or less: they are for those who were invited to that round. An opening is for
the coordinator too, which has every update. They are kept for as long as that work can be disputed. This place is not
trusted: whoever repeats one holds it against the receipt.
"""

from fastapi import Request, Response

from ledger.access import Intake, placed, response, signed_by
from ledger.log import Log
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import FolderShelf


class Shown:
    """Files of one open log, each called as the receipt that it is of: its work can be disputed, or the file goes."""

    def __init__(self, log: Log, shelf: FolderShelf, *, updates: bool = False) -> None:
        """Openings of what the log has drawn, by who trained it; or all the updates, by the coordinator."""
        self._log, self._shelf, self._intake, self._updates = log, shelf, Intake(shelf), updates

    def answer(self, request: Request, run: str, round_: int, member: str) -> Response:
        """A file, if all of this holds.

        1. The request is signed, not long ago, by a compute key that counts; for an opening, or by the coordinator's.
        2. That work can be disputed, and of an opening: the log has drawn it.
        3. Its round invited who asks, or that is the coordinator.
        4. It was shown.

        Raises `Refused`: BAD_SIGNATURE, STALE, UNKNOWN_KEY, REVOKED, NOT_DRAWN, WRONG_MEMBER, NOT_FOUND.
        """
        asks = signed_by(self._log, request, "compute" if self._updates else "compute coordinator", "range")
        receipt, invited = self._log.shown(run, round_, member, drawn=not self._updates)
        if asks not in (*invited, self._log.books.charter.consortium):
            raise Refused(Refusal.WRONG_MEMBER, f"round {round_} of {run} did not invite {asks}")
        size = self._shelf.size(receipt)
        if size is None:
            raise Refused(Refusal.NOT_FOUND, f"nothing was shown yet of {member} in round {round_} of {run}")
        return response(request, self._shelf, receipt, size)

    def upload(self, request: Request, run: str, round_: int, member: str, piece: bytes) -> int:
        """Take in a piece of a file; how many bytes of it are here then. The first one that is whole stands.

        Raises `Refused`: BAD_SIGNATURE, STALE, UNKNOWN_KEY, REVOKED, NOT_DRAWN, NOT_FOUND, WRONG_MEMBER unless who is
        to show it has signed it, or as `Intake.take`.
        """
        role = "coordinator" if self._updates else "compute"
        asks = signed_by(self._log, request, role, "content-range", "content-digest")
        receipt, _ = self._log.shown(run, round_, member, drawn=not self._updates)
        if asks != member and not self._updates:
            raise Refused(Refusal.WRONG_MEMBER, f"the work is {member}'s, and not {asks}'s")
        start, size = placed(request, piece)
        if (there := self._shelf.size(receipt)) is not None:
            return there
        self._forget_the_old()
        return self._intake.take(receipt, start, size, piece)

    def _forget_the_old(self) -> None:
        """Remove what was shown, or begun to be, of work that cannot be disputed any more."""
        if self._shelf.spool.is_dir():
            kept = self._log.all_shown(drawn=not self._updates)
            for path in self._shelf.spool.iterdir():
                if path.name.removeprefix(".").removesuffix(".part") not in kept:
                    path.unlink(missing_ok=True)
