"""Following the coordinator to where it is now: the one setting of a member's that somebody else has to tell."""

from dataclasses import replace
from pathlib import Path

from client.home import Home
from shared_models import durable, invites
from shared_models.folder import write_settings
from shared_models.invites import Moved
from shared_models.records.refusals import Refusal, Refused


def follow(folder: Path, file: Path) -> Moved:
    """Let this member reach the coordinator where this note says; its daemon must be started anew then.

    The ledger is asked whose key counts, not where the coordinator is. Raises `Refused`: NOT_FOUND, as `invites.read`
    and `invites.check_moved`.
    """
    home = Home(folder)
    try:
        moved = invites.read(Moved, file.read_bytes())
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"{file}: {error.strerror}") from None
    home.learn_keys(home.ledger())
    invites.check_moved(moved, home.keyring)
    durable.write(home.path / "ca.crt", moved.says.authority.encode())
    write_settings(home.path / "member.toml", replace(home.settings, superlink=moved.says.superlink))
    return moved.says
