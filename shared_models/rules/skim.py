"""A receipt read at a glance. Nearly every entry of a log is a receipt, and nearly every receipt is in order.

A receipt is a flat record, signed once; so its canonical leaves are a regular language, and one regular expression
reads one, many times faster than taking it apart and putting it together again for comparison. What is in order is
skimmed. What is not, or is of a form that the expression does not know, is not judged here: it is `None`, and is read
slowly, with a name for what is wrong with it. A test holds the two ways of reading together.
"""

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shared_models.records import canonical, note
from shared_models.records.entry import Entry
from shared_models.records.keys import ED25519
from shared_models.records.kinds import Charter, Manifest, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused
from shared_models.rules.pricing import check_time, tokens_asked


class Turn(NamedTuple):
    """What receipts of one round say of it. Most say the same."""

    run: str
    round: int
    opened: str
    base: str
    witnessed_size: int
    witnessed_root: str


class Skimmed(NamedTuple):
    """What the books need to know of a receipt. Everything that can be told from the receipt itself is right."""

    hash: bytes  # Of its leaf.
    author: str
    key_id: bytes
    seq: int
    prev: str
    member: str
    node: str
    flop: int
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
        )
        return cls(
            entry.hash,
            entry.author,
            entry.signers[0].id,
            receipt.seq,
            receipt.prev,
            receipt.member,
            receipt.node,
            receipt.flop,
            True,
            turn,
        )


class Asked(NamedTuple):
    """What a run asks for: its receipts have leaves like that, and so much work in them."""

    leaf: re.Pattern[str]
    groups: tuple[int, ...]  # Of what is wanted.
    flop: int


@dataclass(frozen=True, slots=True)
class Context:
    """What a receipt is held against; it changes when a key is added or a run begins, and with no receipt."""

    charter: Charter
    keys: note.Keys
    runs: Mapping[str, Manifest]
    _asked: dict[str, Asked] = field(default_factory=dict, init=False, repr=False, compare=False)

    def asked(self, run: str) -> Asked | None:
        """None if there is no such run."""
        if run not in self._asked:
            if run not in self.runs:
                return None
            self._asked[run] = _asked(self.charter.consortium, self.runs[run])
        return self._asked[run]


# What is wanted of a receipt: numbers, then words.
_NUMBERS = ("busy_ms", "wall_ms", "started_ms", "ended_ms", "devices", "seq", "round", "witnessed_size")
_WORDS = ("device", "node", "opened", "base", "member", "prev", "witnessed_root")
# 68 bytes in base64: the last letter has two bits that mean nothing, and are zero in the one right spelling.
_SIGNATURE = r"\n\xe2\x80\x94 (?P=member)/compute (?P<signature>[A-Za-z0-9+/]{90}[AEIMQUYcgkosw048]=)\n"


def _asked(consortium: str, manifest: Manifest) -> Asked:
    recipe = manifest.recipe
    tokens = tokens_asked(recipe)
    flop = tokens * manifest.flop_per_token
    given = {"run": manifest.run, "tokens": tokens, "steps": recipe.inner_steps, "flop": flop}
    wanted = (*_NUMBERS, *_WORDS)
    record = canonical.regular(Receipt, wanted, given)
    leaf = re.compile(rf"{re.escape(consortium)}/receipt@v1\n{record}\n{_SIGNATURE}")
    return Asked(leaf, tuple(leaf.groupindex[name] for name in (*wanted, "signature")), flop)


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
    text = str(leaf, "latin-1")  # One character for each byte: an expression of ASCII matches ASCII only.
    at = text.rfind('"run":"') + 7
    run = text[at : text.find('"', at)]
    asked = context.asked(run)
    match = asked.leaf.fullmatch(text) if asked is not None else None
    if asked is None or match is None:
        return None
    groups = match.group(*asked.groups)
    device, node, opened, base, member, prev, root, signature = groups[len(_NUMBERS) :]
    try:
        numbers = list(map(int, groups[: len(_NUMBERS)]))
    except ValueError:  # Some are beyond 2^53, and stand in quotes.
        numbers = [int(spelled.strip('"')) for spelled in groups[: len(_NUMBERS)]]
    busy, wall, started, ended, devices, seq, number, size = numbers
    try:
        check_time(context.charter, asked.flop, busy, wall, started, ended, device, devices)
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
    turn = Turn(run, number, opened, base, size, root)
    return Skimmed(leaf_hash(leaf), author, key.id, seq, prev, member, node, asked.flop, verify, turn)
