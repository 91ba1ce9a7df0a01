"""The proof that a log has shown two histories: two heads that it signed, and why they cannot both be true.

Transferable: whoever holds the charter can check it, and needs to believe nobody.
"""

from dataclasses import dataclass

from shared_models.records import canonical, merkle, note, tlog
from shared_models.records.canonical import Hash
from shared_models.records.kinds import NoteText
from shared_models.records.refusals import Refusal, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Two heads, the older first.

    Of one size they must have one root. Else `path` proves that the newer one continues a tree of the older one's size
    with the root `root`: if that is not the root which the older head has, both are signed and one is a lie.
    """

    one: NoteText
    other: NoteText
    root: tuple[Hash, ...]  # One, or none for heads of the same size.
    path: tuple[Hash, ...]

    @classmethod
    def of(cls, one: bytes, other: bytes, root: str, path: tuple[bytes, ...]) -> "Fork":
        """What two notes of heads, and what the log says of their sizes, come to; it may prove nothing."""
        old, new = sorted((one, other), key=lambda each: tlog.unsigned(each).size)
        same = tlog.unsigned(old).size == tlog.unsigned(new).size
        return cls(
            one=old.decode(),
            other=new.decode(),
            root=() if same or not root else (root,),
            path=() if same else tuple(each.hex() for each in path),
        )

    def data(self) -> bytes:
        return canonical.encode(self)

    @classmethod
    def parse(cls, data: bytes) -> "Fork":
        """Raises `Refused`."""
        return canonical.decode(cls, data)

    def check(self, keys: note.Keys) -> str:
        """What this proves, in a sentence. Raises `Refused`: WRONG_EVIDENCE if it proves nothing, or as `open_head`."""
        old, new = (tlog.open_head(each.encode(), keys) for each in (self.one, self.other))
        if old.origin != new.origin:
            raise Refused(Refusal.WRONG_EVIDENCE, f"heads of two logs, {old.origin[:60]} and {new.origin[:60]}")
        if old.size == new.size:
            if old.root == new.root:
                raise Refused(Refusal.WRONG_EVIDENCE, "the two heads are the same")
            return f"{old.origin} has signed two roots for size {old.size}"
        if len(self.root) != 1 or bytes.fromhex(self.root[0]) == old.root:
            raise Refused(Refusal.WRONG_EVIDENCE, f"nothing says what the newer history is at size {old.size}")
        path = [bytes.fromhex(each) for each in self.path]
        merkle.verify_consistency(old.size, new.size, bytes.fromhex(self.root[0]), new.root, path)
        return (
            f"{old.origin} has signed root {old.root.hex()[:12]}… for size {old.size},"
            f" and size {new.size} of a history in which it is {self.root[0][:12]}…"
        )

    def proven(self, keys: note.Keys) -> bool:
        """Whether `check` finds that it proves something."""
        try:
            self.check(keys)
        except Refused:
            return False
        return True
