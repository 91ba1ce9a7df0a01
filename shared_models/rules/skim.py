"""A receipt read at a glance. Nearly every entry of a log is a receipt, and nearly every receipt is in order.

A receipt is a flat record, signed once; so its canonical leaves are a regular language, and one regular expression
reads one, many times faster than taking it apart and putting it together again for comparison. What is in order is
skimmed. What is not, or is of a form that the expression does not know, is not judged here: it is `None`, and is read
slowly, with a name for what is wrong with it. A test holds the two ways of reading together.
"""

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shared_models.records import canonical, note
from shared_models.records.entry import MAX_BYTES, Entry, digest_of
from shared_models.records.keys import ED25519
from shared_models.records.kinds import Charter, Manifest, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused
from shared_models.rules.pricing import Claimed, check_claim


class Skimmed(NamedTuple):
    """What the books need to know of a receipt. Everything that can be told from the receipt itself is right."""

    hash: bytes  # Of its leaf.
    author: str
    key_id: bytes
    about: bytes  # `entry.digest_of` what it is about.
    seq: int
    prev: str
    run: str
    round: int
    opened: str
    base: str
    member: str
    flop: int
    witnessed_size: int
    witnessed_root: str
    idem: str

    @classmethod
    def of(cls, entry: Entry) -> "Skimmed":
        """The same, of a receipt that was opened slowly."""
        receipt = entry.record
        assert isinstance(receipt, Receipt)
        return cls(
            entry.hash,
            entry.author,
            entry.signers[0].id,
            digest_of(*entry.about),
            receipt.seq,
            receipt.prev,
            receipt.run,
            receipt.round,
            receipt.opened,
            receipt.base,
            receipt.member,
            receipt.flop,
            receipt.witnessed_size,
            receipt.witnessed_root,
            receipt.idem,
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What a receipt is held against; it changes when a key is added or a run begins, and with no receipt."""

    charter: Charter
    keys: note.Keys
    runs: Mapping[str, Manifest]


_LEAF = re.compile(
    rf"(?P<origin>[^\n]{{1,64}})/receipt@v1\n{canonical.regular(Receipt)}\n\n"
    # 68 bytes of id and signature are 91 characters and one `=`; the last one holds two bits of nothing.
    r"— (?P=member)/compute (?P<signature>[A-Za-z0-9+/]{90}[AEIMQUYcgkosw048]=)\n"
)
_CLAIM = ("tokens", "steps", "flop", "busy_ms", "wall_ms", "started_ms", "ended_ms", "devices")
_NUMBERS = (*_CLAIM, "seq", "round", "witnessed_size")
_STRINGS = ("device", "run", "node", "opened", "base", "member", "prev", "witnessed_root", "origin", "signature")
_GROUPS = tuple(_LEAF.groupindex[name] for name in (*_NUMBERS, *_STRINGS))


def skim(leaf: bytes, context: Context, verify: bool = True) -> Skimmed | None:
    """The receipt in this leaf if everything about it is right that can be told from itself; None if it needs a look.

    1. It is canonical, of this consortium, and its fields are in their domains.
    2. It is signed by a compute key of the member it speaks for. `verify` may be False where somebody vouches for that.
    3. No law of nature or of its run's manifest is broken (`pricing.check_claim`).
    """
    try:
        match = _LEAF.fullmatch(leaf.decode())
    except UnicodeDecodeError:
        return None
    if match is None or len(leaf) > MAX_BYTES:
        return None
    groups = match.group(*_GROUPS)
    device, run, node, opened, base, member, prev, root, origin, encoded = groups[len(_NUMBERS) :]
    manifest = context.runs.get(run)
    if origin != context.charter.consortium or manifest is None:
        return None
    try:
        numbers = list(map(int, groups[: len(_NUMBERS)]))
    except ValueError:  # Some are beyond 2^53, and stand in quotes.
        numbers = [int(spelled.strip('"')) for spelled in groups[: len(_NUMBERS)]]
    tokens, steps, flop, busy_ms, wall_ms, started_ms, ended_ms, devices, seq, number, size = numbers
    claimed = Claimed(tokens, steps, flop, busy_ms, wall_ms, started_ms, ended_ms, device, devices)
    try:
        check_claim(claimed, manifest, context.charter)
    except Refused:
        return None
    author, signature = f"{member}/compute", binascii.a2b_base64(encoded)
    key = context.keys.get((author, signature[:4]))
    if key is None or key.kind != ED25519:
        return None
    if verify and not key.verifies(signature[4:], leaf[: leaf.rindex(b"\n\n") + 1]):
        return None
    idem = f"{run}/{number}/{node}"
    about = digest_of(author, "receipt", idem)
    return Skimmed(
        leaf_hash(leaf), author, key.id, about, seq, prev, run, number, opened, base, member, flop, size, root, idem
    )
