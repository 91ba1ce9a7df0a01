"""What a run leaves on the coordinator's disk: enough to go on after a crash, and for anyone to repeat its steps.

runs/<manifest>/state/<digest>.safetensors      what the outer step remembers
runs/<manifest>/end.note                        how the run ended
runs/<manifest>/<round>/seed                    not secret any more when the round is closed
runs/<manifest>/<round>/open.note, close.note   what was said of the round; written before it is appended to the log
runs/<manifest>/<round>/<member>.update         what a member sent, as `shared_models.lm.blob` writes it
runs/<manifest>/<round>/<member>.entries        and its entries, as tlog-tiles packs them; written last
runs/<manifest>/<round>/step                    what was sent of the step to members that hold the round's base

Nothing here is believed when it is read again: the log has the digests, and an answer is judged as when it came.
"""

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from shared_models import durable
from shared_models.lm import blob
from shared_models.lm.blob import Blob
from shared_models.messages import Answer
from shared_models.records import tlog
from shared_models.records.kinds import sealed_seed

Shapes = Mapping[str, tuple[int, ...]]


class Turn:
    """One round's part of it."""

    def __init__(self, run: Path, number: int) -> None:
        self.folder = run / f"{number:08}"
        self.opened, self.closed, self.step = (self.folder / each for each in ("open.note", "close.note", "step"))

    def seed(self) -> str:
        """The round's seed, in hex: made once, so that it is the one that was sealed."""
        path = self.folder / "seed"
        if not path.is_file():
            durable.make_folder(self.folder)
            durable.write(path, secrets.token_hex(32).encode(), mode=0o600)
        return path.read_text()

    def whole(self, sealed: str, answered: Iterable[str]) -> bool:
        """Whether the seed that the round's opening has sealed so is here, and what these members have answered."""
        seed = (self.folder / "seed").is_file() and sealed_seed(self.seed()) == sealed
        return seed and all(self._entries(member).is_file() for member in answered)

    def keep(self, member: str, answer: Answer) -> None:
        """Keep what a member answered. An update that lies in a file already is not copied."""
        path = self.folder / f"{member}.update"
        if isinstance(answer.update, Blob):
            durable.link(answer.update.path, path)
        else:
            blob.write(path, answer.update)
        durable.write(self._entries(member), tlog.pack(answer.entries))

    def update(self, member: str, codec: str, shapes: Shapes) -> Blob:
        """The update that was kept of this member."""
        return Blob(self.folder / f"{member}.update", codec, shapes)

    def answer(self, member: str, codec: str, shapes: Shapes) -> Answer | None:
        """What was kept of this member's answer, if anything was."""
        path = self._entries(member)
        if not path.is_file():
            return None
        return Answer(tuple(tlog.unpack(path.read_bytes())), self.update(member, codec, shapes), b"")

    def _entries(self, member: str) -> Path:
        return self.folder / f"{member}.entries"
