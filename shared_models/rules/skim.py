"""A receipt read at a glance. Nearly every entry of a log is a receipt, and nearly every receipt is in order.

A receipt is a flat record, signed once; so its canonical leaves are a regular language, and one regular expression
reads one, many times faster than taking it apart and putting it together again for comparison. What is in order is
skimmed. What is not, or is of a form that the expression does not know, is not judged here: it is `None`, and is read
slowly, with a name for what is wrong with it. A test holds the two ways of reading together.
"""

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

from shared_models.records import canonical, note
from shared_models.records.entry import Entry
from shared_models.records.keys import ED25519
from shared_models.records.kinds import Charter, Manifest, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused
from shared_models.rules.pricing import check_time, tokens_asked


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


@dataclass(frozen=True, slots=True)
class Context:
    """What a receipt is held against; it changes when a key is added or a run begins, and with no receipt."""

    charter: Charter
    keys: note.Keys
    runs: Mapping[str, Manifest]
    _leaf: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _groups: tuple[int, ...] = field(init=False, repr=False, compare=False)  # In the order of `_WANTED`.
    _turns: dict[tuple[str, ...], Turn | None] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        leaf = re.compile(rf"{re.escape(self.charter.consortium)}/receipt@v1\n{_RECEIPT}\n{_SIGNATURE}")
        object.__setattr__(self, "_leaf", leaf)
        object.__setattr__(self, "_groups", tuple(leaf.groupindex[name] for name in _WANTED))

    def read(self, leaf: str) -> tuple[str, ...] | None:
        """What is `_WANTED` of the receipt in this leaf; None if it is not of the form."""
        return found.group(*self._groups) if (found := self._leaf.fullmatch(leaf)) is not None else None

    def turn(self, said: tuple[str, ...]) -> Turn | None:
        """What these words, `_OF_TURN`, say; None if there is no such run, or it asks for other work."""
        try:
            return self._turns[said]
        except KeyError:
            if len(self._turns) > MANY:
                self._turns.clear()
            return self._turns.setdefault(said, self._read_turn(*said))

    def _read_turn(
        self, run: str, number: str, opened: str, base: str, size: str, root: str, *claimed: str
    ) -> Turn | None:
        if (manifest := self.runs.get(run)) is None:
            return None
        tokens, steps = tokens_asked(manifest.recipe), manifest.recipe.inner_steps
        flop = tokens * manifest.flop_per_token
        if _whole(*claimed) != [tokens, steps, flop] or not _are_hashes(opened, base, root):
            return None
        of_round, of_head = _whole(number, size)
        return Turn(run, of_round, opened, base, of_head, root, flop)


MANY = 1_000  # Rounds, or what is said of them, that are kept at hand.
# What is wanted of a receipt: what it says of its round and of the work that its run asks for, then of itself.
_OF_TURN = ("run", "round", "opened", "base", "witnessed_size", "witnessed_root", "tokens", "steps", "flop")
_NUMBERS = ("busy_ms", "wall_ms", "started_ms", "ended_ms", "devices", "seq")
_WORDS = ("device", "node", "member", "prev", "update", "data")
_HASHES = ("opened", "base", "witnessed_root", "prev", "update", "data")  # Quicker to check afterwards.
_RECEIPT = canonical.regular(Receipt, (*_OF_TURN, *_NUMBERS, *_WORDS), _HASHES)
# 68 bytes in base64: the last letter has two bits that mean nothing, and are zero in the one right spelling.
_SIGNATURE = r"\n\xe2\x80\x94 (?P=member)/compute (?P<signature>[A-Za-z0-9+/]{90}[AEIMQUYcgkosw048]=)\n"
_WANTED = (*_OF_TURN, *_NUMBERS, *_WORDS, "signature")
_FIRST, _THEN = len(_OF_TURN), len(_OF_TURN) + len(_NUMBERS)


def _whole(*spelled: str) -> list[int]:
    try:
        return list(map(int, spelled))
    except ValueError:  # Beyond 2^53 a number stands in quotes.
        return [int(each.strip('"')) for each in spelled]


def _are_hashes(*texts: str) -> bool:
    """Whether these texts of 64 characters are hexadecimal, in small letters."""
    whole = "".join(texts)
    try:
        return bytes.fromhex(whole).hex() == whole
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
    found = context.read(str(leaf, "latin-1"))  # A character for each byte: an expression of ASCII matches ASCII only.
    if found is None or (turn := context.turn(found[:_FIRST])) is None:
        return None
    busy, wall, started, ended, devices, seq = _whole(*found[_FIRST:_THEN])
    device, node, member, prev, update, data, signature = found[_THEN:]
    if not _are_hashes(prev, update, data):
        return None
    try:
        check_time(context.charter, turn.flop, busy, wall, started, ended, device, devices)
    except Refused:
        return None
    author = f"{member}/compute"
    raw = binascii.a2b_base64(signature)
    key = context.keys.get((author, raw[:4]))
    if key is None or key.kind != ED25519:
        return None
    verify = verify and (vouched is None or index >= vouched.get(author, 0))
    if verify and not key.verifies(raw[4:], leaf[: -len(signature) - len(author) - 7]):
        return None
    return Skimmed(leaf_hash(leaf), author, key.id, seq, prev, member, node, verify, turn)
