"""The nodes of members that joined by an invite: let in by what their own key has signed, and by nobody's hand."""

from collections.abc import Callable, Iterator
from pathlib import Path

from server.home import Home
from shared_models import invites
from shared_models.invites import Join
from shared_models.ledger_http import LedgerHttp
from shared_models.records import note
from shared_models.records.refusals import Refusal, Refused

LOOK_S = 3.0


class Nodes:
    """Which of them have been let in since this began. A SuperLink that starts knows none."""

    def __init__(self, folder: Path, let_in: Callable[[str, bytes], None]) -> None:
        """`let_in` is told the member, and its node's P-384 key in OpenSSH's form; it may raise `Refused`."""
        self._folder, self._let_in, self._known = folder, let_in, set[tuple[str, str]]()

    def look(self) -> list[str]:
        """Let in the nodes that are new; the names of their members. Raises `Refused` if the ledger cannot be asked.

        The ledger is not believed: a node is let in if its member is present by the charter in force, and if a compute
        key of it that counts has signed for it.
        """
        home = Home(self._folder)
        ledger = LedgerHttp(home.settings.ledger, patience_s=0.0)
        home.learn_keys(ledger)
        new = list[str]()
        for member, node in _signed(home, ledger):
            if (member, node) in self._known:
                continue
            try:
                self._let_in(member, node.encode())
            except Refused as refused:
                if refused.refusal is Refusal.UNREACHABLE:  # Else it was let in by hand, or is no key.
                    raise
            else:
                new.append(member)
            self._known.add((member, node))
        return new


def _signed(home: Home, ledger: LedgerHttp) -> Iterator[tuple[str, str]]:
    """(member, its node's key) of each answer to an invite that a member has signed for."""
    ring, present = home.keyring, home.keyring.agreement.present()
    for _, answer in ledger.invites():
        if answer is None:
            continue
        try:
            join = invites.read(Join, answer)
            signers = note.verify(join.note, ring.keys)
        except Refused:
            continue  # Not a member yet, or nothing that one would have signed.
        by = {key.name for key in signers if ring.counts(key.name, key.id)}
        if join.says.member in present and f"{join.says.member}/compute" in by:
            yield join.says.member, join.says.node
