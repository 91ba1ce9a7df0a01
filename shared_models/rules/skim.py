"""A receipt read at a glance. Nearly every entry of a log is a receipt, and nearly every receipt is in order.

A receipt is a flat record, signed once; so its canonical leaves are a regular language, and one regular expression
reads one, many times faster than taking it apart and putting it together again for comparison. What is in order is
skimmed. What is not, or is of a form that the expression does not know, is not judged here: it is `None`, and is read
slowly, with a name for what is wrong with it. A test holds the two ways of reading together.
"""

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import repeat
from typing import NamedTuple

from shared_models.records import canonical, note
from shared_models.records.entry import Entry
from shared_models.records.keys import ED25519, VerifyKey
from shared_models.records.kinds import Charter, Manifest, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused
from shared_models.rules.pricing import check_time, round_flop, tokens_asked


class Turn(NamedTuple):
    """What receipts of one round say of it, and of the work it was. Most say the same."""

    run: str
    round: int
    opened: str
    base: str
    witnessed_size: int
    witnessed_root: str
    flop: int


class Skimmed(NamedTuple):
    """What the books need to know of a receipt. Everything that can be told from the receipt itself is right."""

    hash: bytes  # Of its leaf.
    author: str
    key_id: bytes
    seq: int
    prev: str
    member: str
    node: str
    verified: bool  # Whether the signature was; else somebody vouches for it.
    turn: Turn

    @property
    def idem(self) -> str:
        """What it is about, as `Receipt.idem` spells it."""
        return f"{self.turn.run}/{self.turn.round}/{self.node}"

    @classmethod
    def of(cls, entry: Entry) -> "Skimmed":
        """The same, of a receipt that was opened slowly."""
        receipt = entry.record
        assert isinstance(receipt, Receipt)
        turn = Turn(
            receipt.run,
            receipt.round,
            receipt.opened,
            receipt.base,
            receipt.witnessed_size,
            receipt.witnessed_root,
            receipt.flop,
        )
        return cls(
            entry.hash,
            entry.author,
            entry.signers[0].id,
            receipt.seq,
            receipt.prev,
            receipt.member,
            receipt.node,
            True,
            turn,
        )


class Receipts(NamedTuple):
    """Receipts that stand one behind another and say the same of their round: `Skimmed`, column by column."""

    hashes: tuple[bytes, ...]
    authors: tuple[str, ...]
    key_ids: tuple[bytes, ...]
    seqs: tuple[int, ...]
    prevs: tuple[str, ...]
    members: tuple[str, ...]
    nodes: tuple[str, ...]
    verified: tuple[bool, ...]
    turn: Turn

    @classmethod
    def of(cls, receipts: Iterable[Skimmed]) -> "Receipts":
        """These, of which there is one at least."""
        *columns, turns = zip(*receipts, strict=True)
        return cls._make((*columns, turns[0]))

    def each(self) -> Iterator[Skimmed]:
        """One by one."""
        return map(Skimmed, *self[:-1], repeat(self.turn))


# 68 bytes in base64: the last letter has two bits that mean nothing, and are zero in the one right spelling.
_SIGNATURE = r"\n\xe2\x80\x94 (?P=member)/compute ([A-Za-z0-9+/]{90}[AEIMQUYcgkosw048]=)\n"
_HASHES = ("base", "data", "opened", "prev", "trajectory", "update", "witnessed_root")  # Quicker to check afterwards.
_UNUSED = (
    "build",
    "bytes_down",
    "bytes_up",
    "cpu_ms",
    "energy_method",
    "energy_mj",
    "isolation",
    "memory_bytes",
)  # To be in their domains is enough.
_RECEIPT = canonical.regular(Receipt, {each.name for each in fields(Receipt)}.difference(_UNUSED), _HASHES)
MANY = 1_000  # Rounds, or what is said of them, that are kept at hand.


@dataclass(frozen=True, slots=True)
class Context:
    """What a receipt is held against; it changes when a key is added or a run begins, and with no receipt."""

    charter: Charter
    keys: note.Keys
    runs: Mapping[str, Manifest]
    leaf: re.Pattern[str] = field(init=False, repr=False, compare=False)  # Of a receipt.
    compute: Mapping[tuple[str, bytes], VerifyKey] = field(init=False, repr=False, compare=False)  # By member and id.
    steps: Mapping[str, Mapping[str, int]] = field(init=False, repr=False, compare=False)  # Of members, if by name.
    _turns: dict[tuple[str, ...], Turn | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        leaf = re.compile(rf"{re.escape(self.charter.consortium)}/receipt@v1\n{_RECEIPT}\n{_SIGNATURE}")
        found = [(*key.name.rpartition("/"), key) for key in self.keys.values() if key.kind == ED25519]
        compute = {(member, key.id): key for member, _, role, key in found if role == "compute"}
        object.__setattr__(self, "leaf", leaf)
        object.__setattr__(self, "compute", compute)
        own = {name: dict(zip(run.members, run.steps, strict=True)) for name, run in self.runs.items() if run.steps}
        object.__setattr__(self, "steps", own)

    def turn(self, member: str, *said: str) -> Turn | None:
        """What a receipt of this member says of its round and its work, if there is such a run, and that is what it
        asks for. Members of whom it asks for as many steps say the same.
        """
        run, steps = said[0], said[-2]
        if run in self.steps and [self.steps[run].get(member)] != _whole(steps):
            return None
        try:
            return self._turns[said]
        except KeyError:
            if len(self._turns) > MANY:
                self._turns.clear()
            return self._turns.setdefault(said, self._turn(member, *said))

    def _turn(
        self,
        member: str,
        run: str,
        number: str,
        opened: str,
        base: str,
        size: str,
        root: str,
        tokens: str,
        steps: str,
        flop: str,
    ) -> Turn | None:
        if (manifest := self.runs.get(run)) is None:
            return None
        recipe = manifest.recipe_of(member)
        of_round, of_head = _whole(number, size)
        work = tokens_asked(recipe), recipe.inner_steps, round_flop(manifest, of_round, member)
        if tuple(_whole(tokens, steps, flop)) != work or not _is_hex(opened + base + root):
            return None
        return Turn(run, of_round, opened, base, of_head, root, work[-1])


def _whole(*spelled: str) -> list[int]:
    try:
        return list(map(int, spelled))
    except ValueError:  # Beyond 2^53 a number stands in quotes.
        return [int(each.strip('"')) for each in spelled]


def _is_hex(text: str) -> bool:
    """Whether this is hexadecimal, in small letters."""
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False


def skim(
    leaf: bytes, context: Context, verify: bool = True, index: int = 0, vouched: Mapping[str, int] | None = None
) -> Skimmed | None:
    """The receipt in this leaf if everything about it is right that can be told from itself; None if it needs a look.

    1. It is canonical, of this consortium and one of its runs, and its fields are in their domains.
    2. It bears the signature of a compute key of the member it speaks for, and that is verified: unless `verify` is
       False, or its author is `vouched` for below an index that is beyond this one.
    3. It claims the work that the run's manifest asks for, to the letter, and breaks no law of nature
       (`pricing.check_time`).
    """
    found = context.leaf.fullmatch(str(leaf, "latin-1"))  # A character for each byte: the expression is ASCII.
    if found is None:
        return None
    # Canonical records are in alphabetical order.
    base, busy, data, device, devices, ended, flop, member, node, opened, prev, number, run, seq, *more = found.groups()
    started, steps, tokens, trajectory, update, wall, root, size, signature = more
    turn = context.turn(member, run, number, opened, base, size, root, tokens, steps, flop)
    key = context.compute.get((member, binascii.a2b_base64(signature[:8])[:4]))
    if turn is None or key is None or not _is_hex(prev + update + data + trajectory):
        return None
    busy_ms, wall_ms, started_ms, ended_ms, count, place = _whole(busy, wall, started, ended, devices, seq)
    try:
        check_time(context.charter, turn.flop, busy_ms, wall_ms, started_ms, ended_ms, device, count)
    except Refused:
        return None
    verify = verify and (vouched is None or index >= vouched.get(key.name, 0))
    if verify and not key.verifies(binascii.a2b_base64(signature)[4:], leaf[: leaf.rindex(b"\n\n") + 1]):
        return None
    # Not Skimmed(...), which takes twice as long: this is done once for every entry of a log.
    return tuple.__new__(Skimmed, (leaf_hash(leaf), key.name, key.id, place, prev, member, node, verify, turn))
