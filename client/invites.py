"""Inviting an organisation, and admitting it: what a member does whose admin key is here.

An invite gives no power. It brings the keys of whoever was invited to the members, who vote on a charter that names
them; four words tell by telephone whether they are the right ones.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from client import charter
from client.home import Home
from shared_models import invites
from shared_models.invites import Invite, Join, Opened, Ticket
from shared_models.ledger_http import LedgerHttp
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.kinds import Charter
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import Agreement


class Guest(NamedTuple):
    """Who was invited, verified here; of who has not answered yet there are no words."""

    member: str
    inviter: str
    benefit: int
    expires_s: int
    words: str
    amendment: str  # Leaf hash of the open amendment that names its keys, if there is one.
    join: Opened[Join] | None


def invite(home: Home, member: str, benefit: int, hours: int) -> Ticket:
    """Invite an organisation by this name, for so many hours; what it is to be handed. Raises `Refused`."""
    ledger, now = home.ledger(), int(time.time())
    authority = home.path / "ca.crt"
    if not authority.is_file():
        raise Refused(Refusal.NOT_SET_UP, f"there is no {authority}")
    secret, expires_s = invites.new_secret(), now + 3_600 * hours
    ticket = Ticket(ledger=home.settings.ledger, invite="0" * 64, secret=secret, expires_s=expires_s)
    says = Invite(
        consortium=home.charter.consortium,
        charter=home.charter_entry.hash.hex(),
        log=home.charter.log,
        superlink=home.settings.superlink,
        authority=authority.read_text(),
        inviter=home.settings.member,
        member=member,
        benefit=benefit,
        key=ticket.key(member).verify_key.text(),
        created_s=now,
        expires_s=expires_s,
    )
    signed = invites.sign(says, [home.key("admin")])
    ledger.invite(signed)
    hashed = invites.read(Invite, signed).hash
    return Ticket(ledger=ticket.ledger, invite=hashed, secret=secret, expires_s=expires_s)


def pending(home: Home, ledger: LedgerHttp) -> Iterator[Guest]:
    """Everybody who was invited and is no member. What a ledger shows that is not right, is not shown here.

    Raises `Refused` if it cannot be asked.
    """
    home.learn_keys(ledger)
    agreement = home.keyring.agreement
    members = {member.name for member in agreement.charter.members}
    for invite_note, answer in ledger.invites():
        try:
            guest = _guest(home, agreement, invite_note, answer, members)
        except Refused:
            continue  # Its inviter has left, its key was revoked; or the ledger made it up.
        if guest is not None:
            yield guest


def _guest(
    home: Home, agreement: Agreement, invite_note: bytes, answer: bytes | None, members: set[str]
) -> Guest | None:
    asked = invites.read(Invite, invite_note)
    if asked.says.member in members:
        return None
    invites.check_invite(asked, home.keyring, home.charter_entry.hash.hex())
    says = asked.says
    if answer is None:
        return Guest(says.member, says.inviter, says.benefit, says.expires_s, "", "", None)
    join = invites.read(Join, answer)
    invites.check_join(join, asked)
    return Guest(
        says.member,
        says.inviter,
        says.benefit,
        says.expires_s,
        invites.spoken(join),
        _proposed(agreement, join.says),
        join,
    )


def _proposed(agreement: Agreement, join: Join) -> str:
    for hashed, proposal in agreement.open.items():
        if any(invites.is_of(join, member) for member in proposal.amendment.charter.members):
            return hashed
    return ""


def admit(home: Home, member: str, same: Callable[[Guest], bool]) -> charter.Said:
    """Propose the charter that names this guest's keys, if its words are the same as those that it has said.

    If it is proposed already, that. Raises `Refused`: ALREADY_MEMBER, NOT_FOUND, WRONG_WORDS; as `charter.propose`.
    """
    ledger = home.ledger()
    found = [each for each in pending(home, ledger) if each.member == member and each.join is not None]
    agreement = home.keyring.agreement
    if any(each.name == member for each in agreement.charter.members):
        raise Refused(Refusal.ALREADY_MEMBER, f"{member} is a member")
    if not found:
        raise Refused(Refusal.NOT_FOUND, f"nobody has answered an invite of {member}")
    guest = next((each for each in found if same(each)), None)
    if guest is None or guest.join is None:
        raise Refused(Refusal.WRONG_WORDS, f"the words of {member} are other ones")
    if guest.amendment:
        return charter.proposed(agreement, guest.amendment)
    # A name that is used once: who says another thing under it has equivocated.
    name = f"{member[:30]}-{guest.join.hash[:12]}-{agreement.hash[:12]}"
    return charter.put(home, ledger, _asked(agreement, guest.join.says, guest.benefit), name)


def _asked(agreement: Agreement, join: Join, benefit: int) -> dict[str, Any]:
    """What is to change in the charter: one member more; votes and witnesses stay more than half."""
    now: Charter = agreement.charter
    keys = {role: getattr(join, role) for role in MEMBER_ROLES}
    asked: dict[str, Any] = {"members": {join.member: {**keys, "benefit": benefit}}}
    approvals = (len(agreement.present()) + 1) // 2 + 1
    if now.approvals < approvals:
        asked["approvals"] = approvals
    quorum = (len(now.members) + 1) // 2 + 1
    if len(now.members) < 2 * now.quorum < 2 * quorum:
        asked["quorum"] = quorum
    return asked
