"""The invites that are open, and what came as an answer: kept beside the log, for members to look at.

    POST /v1/invites         an invite (shared_models/invites.py)
    GET  /v1/invites         all that are open, or were answered
    GET  /v1/invites/HASH    one
    POST /v1/invites/HASH    the answer to it

Nothing here is trusted or secret. Whoever can change the table can lose an invite or an answer; to answer one it takes
the secret that only its ticket holds, and who reads an answer verifies it again.
"""

import time
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, Row, Table
from sqlmodel import SQLModel

from ledger import tables
from ledger.log import Log
from shared_models import invites
from shared_models.invites import Invite, Join, Opened
from shared_models.records.keys import VerifyKey
from shared_models.records.refusals import Refusal, Refused

OPEN = 16  # Of one member, at a time.
FRESH_S = 300  # How old an invite may be when it comes: clocks differ.
KEPT_S = 30 * 86_400  # So long an answer waits for the votes, behind its invite's end.

_TABLE: Table = SQLModel.metadata.tables[str(tables.Invite.__tablename__)]


class Invites:
    """The invites of one open log, in its database. May be used from several threads."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.time) -> None:
        self._log, self._clock = log, clock

    def take(self, data: bytes) -> str:
        """Take in an invite; its hash. The same again changes nothing.

        1. A present member's admin has signed it, to this log.
        2. Nobody of its name is a member yet.
        3. It was made now, and ends soon.
        4. Its inviter has not too many that are open. Those that ended are forgotten here.

        Raises `Refused`: as `invites.read` and `invites.check_invite`; ALREADY_MEMBER, STALE, EXPIRED, BAD_FIELD,
        TOO_MANY_INVITES.
        """
        invite, now = invites.read(Invite, data), int(self._clock())
        self._check(invite, now)
        says = invite.says
        with self._log.store.turn, self._begin() as connection:
            self._forget(connection, now)
            found = connection.execute(_TABLE.select().where(_TABLE.c.inviter == says.inviter)).all()
            if invite.hash in {row.hash for row in found}:
                return invite.hash
            unanswered = [row for row in found if row.expires_s > now and row.member not in self._members()]
            if len(unanswered) >= OPEN:
                raise Refused(Refusal.TOO_MANY_INVITES, f"{says.inviter} has {len(unanswered)} that are open")
            values = {"hash": invite.hash, "inviter": says.inviter, "member": says.member}
            connection.execute(_TABLE.insert(), values | {"expires_s": says.expires_s, "invite": data, "answer": None})
        return invite.hash

    def answer(self, hashed: str, data: bytes) -> None:
        """Take in the answer to an invite, once; the same again changes nothing.

        Raises `Refused`: NOT_FOUND, EXPIRED, INVITE_USED, as `invites.read` and `invites.check_join`.
        """
        join = invites.read(Join, data)
        with self._log.store.turn, self._begin() as connection:
            row = self._row(connection, hashed)
            invites.check_join(join, invites.read(Invite, bytes(row.invite)))
            if row.answer is not None:
                if invites.read(Join, bytes(row.answer)).hash != join.hash:
                    raise Refused(Refusal.INVITE_USED, f"{row.member} has joined by it, with other keys")
                return
            if row.expires_s <= self._clock():
                raise Refused(Refusal.EXPIRED, f"the invite of {row.member} ended at {row.expires_s}")
            connection.execute(_TABLE.update().where(_TABLE.c.hash == hashed), {"answer": data})

    def one(self, hashed: str) -> dict[str, str | None]:
        """An invite and its answer. Raises `Refused(NOT_FOUND)`."""
        with self._begin() as connection:
            return _told(self._row(connection, hashed))

    def all(self) -> list[dict[str, str | None]]:
        """Every invite that is open or was answered, with its answer, by name and age."""
        with self._begin() as connection:
            rows = connection.execute(_TABLE.select().order_by(_TABLE.c.member, _TABLE.c.expires_s)).all()
        return [_told(row) for row in rows if row.answer is not None or row.expires_s > self._clock()]

    def key(self, name: str, key_id: bytes) -> VerifyKey | None:
        """The key of an invite that is open or was answered, by its name, MEMBER/invite, and its id."""
        for each in self.all():
            found = VerifyKey.parse(invites.read(Invite, str(each["invite"]).encode()).says.key)
            if (found.name, found.id) == (name, key_id):
                return found
        return None

    def waiting(self, members: Collection[str], start: int, most: int) -> list[tuple[bytes, bytes | None]]:
        """(invite, its answer) of those that are open or were answered, and make nobody a member that is one already.

        By name and age, so many from that place on.
        """
        columns = _TABLE.c
        now = int(self._clock())
        wanted = columns.member.not_in(members), columns.answer.is_not(None) | (columns.expires_s > now)
        asked = _TABLE.select().where(*wanted).order_by(columns.member, columns.expires_s, columns.hash)
        with self._begin() as connection:
            rows = connection.execute(asked.offset(start).limit(most)).all()
        return [(bytes(row.invite), None if row.answer is None else bytes(row.answer)) for row in rows]

    def _check(self, invite: Opened[Invite], now: int) -> None:
        says, books = invite.says, self._log.books
        invites.check_invite(invite, books.keyring, books.charter_hash)
        if says.member in self._members():
            raise Refused(Refusal.ALREADY_MEMBER, f"{says.member} is a member")
        if abs(now - says.created_s) > FRESH_S:
            raise Refused(Refusal.STALE, f"made at {says.created_s}, it is {now}")
        if not now < says.expires_s <= now + invites.MAX_DAYS * 86_400 + FRESH_S:
            raise Refused(Refusal.BAD_FIELD, f"an invite is open for at most {invites.MAX_DAYS} days")

    def _forget(self, connection: Connection, now: int) -> None:
        """Those that ended without an answer; and those whose answer nobody has voted in for long."""
        ended, late = _TABLE.c.expires_s <= now, _TABLE.c.expires_s <= now - KEPT_S
        stays = _TABLE.c.member.in_(self._members())
        connection.execute(_TABLE.delete().where(ended, _TABLE.c.answer.is_(None)))
        connection.execute(_TABLE.delete().where(late, ~stays))

    def _members(self) -> set[str]:
        return {member.name for member in self._log.books.charter.members}

    def _row(self, connection: Connection, hashed: str) -> "Row[Any]":
        row = connection.execute(_TABLE.select().where(_TABLE.c.hash == hashed)).first()
        if row is None:
            raise Refused(Refusal.NOT_FOUND, f"no invite {hashed[:12]}… is here: it ended, or never came")
        return row

    def _begin(self) -> Any:
        return self._log.store.engine.begin()


def _told(row: "Row[Any]") -> dict[str, str | None]:
    return {"invite": bytes(row.invite).decode(), "answer": None if row.answer is None else bytes(row.answer).decode()}
