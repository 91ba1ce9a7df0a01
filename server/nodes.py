"""The nodes that the SuperLink lets in: of members that joined by what their own key has signed, and by hand."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from server.home import Home, node_pem
from shared_models import durable, invites
from shared_models.invites import Join
from shared_models.ledger_http import LedgerHttp
from shared_models.records import note
from shared_models.records.refusals import Refusal, Refused

LOOK_S = 3.0


def register(home: Home, member: str, public_key: bytes) -> None:
    """Let a member's node in from now on, in place of the one that was registered before; its key in OpenSSH's form.

    The coordinator that runs takes it up, and so does each that is started. Raises `Refused`: WRONG_MEMBER if it is
    none by what is known of the charter here, BAD_FIELD if this is no P-384 key.
    """
    if member not in home.keyring.agreement.present():
        raise Refused(Refusal.WRONG_MEMBER, f"{member[:80]!r} is no member")
    node_pem(member, public_key)
    home.nodes_path.mkdir(exist_ok=True)
    durable.write(home.nodes_path / f"{member}.pub", public_key)


class Nodes:
    """Which of them have been let in since this began. A SuperLink that starts knows none."""

    def __init__(self, folder: Path, let_in: Callable[[str, bytes], None]) -> None:
        """`let_in` is told the member, and its node's P-384 key in OpenSSH's form; it may raise `Refused`."""
        self._folder, self._let_in, self._known = folder, let_in, set[tuple[str, str]]()

    def look(self) -> list[str]:
        """Let in the nodes that are new; the names of their members. Raises `Refused` if the ledger cannot be asked.

        Those that were registered here wait for no ledger. It is not believed about the others: a node is let in if its
        member is present by the charter in force, and if a compute key of it that counts has signed for it.
        """
        home = Home(self._folder)
        new = self._new(_registered(home))
        ledger = home.ledger(patience_s=0.0)
        home.learn_keys(ledger)
        return new + self._new(_signed(home, ledger))

    def _new(self, nodes: Iterable[tuple[str, str]]) -> list[str]:
        new = list[str]()
        for member, node in nodes:
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


def _registered(home: Home) -> Iterator[tuple[str, str]]:
    """(member, its node's key) of each that was registered here and has not left."""
    for member in home.keyring.agreement.present():
        path = home.nodes_path / f"{member}.pub"
        if path.is_file():
            yield member, path.read_text().strip()


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
