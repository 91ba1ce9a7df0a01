"""Joining a consortium by an invite. The keys are made here and stay here; the members vote on their public halves.

The same command goes on where it was: it asks whether the charter in force names this member yet, and by these keys.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from client import home as homes
from client.home import Home, Settings
from shared_models import durable, invites
from shared_models.folder import KEYRING
from shared_models.invites import Invite, Join, Opened, Ticket
from shared_models.ledger_http import LedgerHttp
from shared_models.published import leaf_at
from shared_models.records import note, tlog
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import VerifyKey
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import Agreement, Change, changes

ANSWER = "join.note"  # In the member's folder: the answer as it was signed.


class Joined(NamedTuple):
    """How far it is: the words of the answer, and the entry that made this member one; None before it came.

    Then, what has changed in the charter since the answer accepted it: the new member, and perhaps more.
    """

    home: Home
    words: str
    at: int | None = None
    changed: tuple[Change, ...] = ()


def join(
    text: str,
    folder: Path,
    agrees: Callable[[Invite, Agreement], bool],
    *,
    data: str,
    device: str | None = None,
    devices: int = 1,
) -> Joined | None:
    """Answer this ticket with keys made in a new folder, or go on with the answer that is there.

    `agrees` is shown who invites, and the charter in force; None, and nothing was made or sent, if it does not.
    Raises `Refused`: BAD_INVITE, EXPIRED, LOCKED if the folder holds something else, CONFLICT if it answers another
    invite, INVITE_USED, ALREADY_MEMBER; as `LedgerHttp`.
    """
    ticket, folder = Ticket.parse(text), folder.resolve()
    ledger = LedgerHttp(ticket.ledger)  # It knows the key of the invite, and lets who has it read what it joins.
    if not (folder / ANSWER).is_file() and not _begin(ticket, folder, ledger, agrees, data, device, devices):
        return None
    home, answer = Home(folder), (folder / ANSWER).read_bytes()
    said = invites.read(Join, answer)
    if said.says.invite != ticket.invite:
        raise Refused(Refusal.CONFLICT, f"{folder} has answered invite {said.says.invite[:12]}…, this is another one")
    ledger = replace(ledger, key=ticket.key(said.says.member))
    home.learn_keys(ledger)
    member = next((each for each in home.keyring.charter.members if each.name == said.says.member), None)
    if member is not None and not invites.is_of(said.says, member):
        raise Refused(Refusal.ALREADY_MEMBER, f"{member.name} is a member, by keys that are not yours")
    if member is not None:
        agreement = home.keyring.agreement
        accepted = agreement.of(said.says.accepts) or home.charter
        at, changed = _proven(home, ledger), tuple(changes(accepted, agreement.charter))
        return Joined(home, invites.spoken(said), at, changed)
    try:
        ledger.answer(ticket.invite, answer)
    except Refused as refused:
        if refused.refusal is Refusal.NOT_FOUND:
            raise Refused(Refusal.EXPIRED, f"{refused.detail}; nobody was admitted by it") from None
        raise
    return Joined(home, invites.spoken(said))


def _begin(
    ticket: Ticket,
    folder: Path,
    ledger: LedgerHttp,
    agrees: Callable[[Invite, Agreement], bool],
    data: str,
    device: str | None,
    devices: int,
) -> bool:
    """Make the member's folder, with its answer in it: all of it, or nothing. False if the operator does not agree.

    1. The ticket is fresh, and the folder is empty.
    2. The invite is the one that the ticket names, and the ticket's secret is the seed of its key.
    3. The log is that of the invite: its head is signed by that key, and it begins with that charter.
    4. A member that is present has signed the invite; by what the log says of keys since.
    5. Whoever joins has seen the charter in force.
    """
    if ticket.expires_s <= time.time():
        raise Refused(
            Refusal.EXPIRED, f"it ended at {_when(ticket.expires_s)}; by this machine's clock it is {_when()}"
        )
    if folder.exists() and any(folder.iterdir()):
        raise Refused(Refusal.LOCKED, f"{folder} is not empty; keys are never overwritten")
    invite = _invite(ticket, ledger)
    says = invite.says
    ledger = replace(ledger, key=ticket.key(says.member))
    charter = _charter(says, ledger)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".joining-") as scratch:
        making = Path(scratch) / "home"
        making.mkdir()
        durable.write(making / "charter.note", charter)
        home = Home(making)
        home.learn_keys(ledger)
        invites.check_invite(invite, home.keyring, says.charter)
        agreement = home.keyring.agreement
        if any(each.name == says.member for each in agreement.charter.members):
            raise Refused(Refusal.ALREADY_MEMBER, f"{says.member} is a member")
        classes = [each.name for each in agreement.charter.devices]
        if (device or classes[0]) not in classes or devices < 1:
            raise Refused(Refusal.BAD_FIELD, f"{devices} of {device}; the charter has {', '.join(classes)}")
        if not agrees(says, agreement):
            return False
        homes.create(
            making,
            Settings(
                member=says.member,
                ledger=ticket.ledger,
                superlink=says.superlink,
                data=data,
                device=device or classes[0],
                devices=devices,
            ),
        )
        durable.write(making / "ca.crt", says.authority.encode())
        keys = {role: home.key(role) for role in MEMBER_ROLES}
        answer = Join(
            consortium=says.consortium,
            log=says.log,
            invite=invite.hash,
            accepts=agreement.hash,
            member=says.member,
            **{role: key.verify_key.text() for role, key in keys.items()},
            node=(making / "keys" / "node.pub").read_text().strip(),
        )
        durable.write(making / ANSWER, invites.sign(answer, [ticket.key(says.member), *keys.values()]))
        os.rename(making, folder)
        durable.sync_folder(folder.parent)
    return True


def _invite(ticket: Ticket, ledger: LedgerHttp) -> Opened[Invite]:
    try:
        data = ledger.invited(ticket.invite)
    except Refused as refused:
        if refused.refusal is Refusal.NOT_FOUND:
            raise Refused(Refusal.EXPIRED, f"{ticket.ledger} does not know it") from None
        raise
    invite = invites.read(Invite, data)
    if invite.hash != ticket.invite or ticket.key(invite.says.member).verify_key.text() != invite.says.key:
        raise Refused(Refusal.BAD_INVITE, f"{ticket.ledger} shows another invite than this one")
    return invite


def _charter(says: Invite, ledger: LedgerHttp) -> bytes:
    """The charter that this log began with. Raises `Refused(WRONG_ORIGIN)` if it is not the invite's."""
    keys = note.known([VerifyKey.parse(says.log)])
    head = tlog.open_head(ledger.read(tlog.HEAD), keys)
    leaf = leaf_at(ledger.read, 0, head.size)
    if leaf_hash(leaf).hex() != says.charter:
        raise Refused(Refusal.WRONG_ORIGIN, f"the log at {ledger.url} does not begin with charter {says.charter[:12]}…")
    ledger.proof(0).verify(leaf_hash(leaf), keys)
    return leaf


def _proven(home: Home, ledger: LedgerHttp) -> int:
    """The entry that has put the charter into force; that it stands in the log, and what it was about, is proven.

    Raises `Refused(BAD_PROOF)`.
    """
    agreement = home.keyring.agreement
    for index in (agreement.entries[agreement.hash], agreement.since - 1):
        leaf = (home.path / KEYRING / f"{index:012}.note").read_bytes()
        ledger.proof(index).verify(leaf_hash(leaf), home.keyring.keys)
    return agreement.since - 1


def _when(time_s: float | None = None) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
