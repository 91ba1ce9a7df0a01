"""Which answers of a round count. Pure: it reads its arguments, decides, and says why."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared_models.lm import codecs, weights
from shared_models.lm.codecs import Decoded
from shared_models.messages import Answer
from shared_models.records import entry as entries
from shared_models.records import merkle, note
from shared_models.records.entry import Entry
from shared_models.records.kinds import Charter, Manifest, Receipt, RoundOpen
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import check_claim


@dataclass(frozen=True, slots=True)
class Asked:
    """What a round asked for, and what is needed to judge an answer to it."""

    charter: Charter
    keys: note.Keys
    manifest: Manifest
    opened: RoundOpen
    leaf: bytes  # Of `opened`.
    shapes: Mapping[str, tuple[int, ...]]  # Of an update: the model's, or of members' experts those of one.


@dataclass(frozen=True, slots=True)
class Admitted:
    """An answer that counts, once the ledger has taken its entries."""

    member: str
    entries: tuple[bytes, ...]
    receipt: str  # Leaf hash.
    witnessed_size: int
    update: Decoded


def admit(answer: Answer, member: str, asked: Asked, seen: set[str]) -> Admitted:
    """The work in this member's answer, if all of this holds. `seen` are the receipts answered with before.

    1. Every entry it carries is canonical and signed by this member's own key: Flower would let one member answer for
       another, so authorship comes from here and nowhere else.
    2. The last one is a receipt that was not used before, for this round of this run, from its base.
    3. It claims what can be true.
    4. The update has the shapes that were asked for in the recipe's codec and as many bytes as the receipt says, before
       any of it is decoded; it decodes to finite values, and to those that the receipt was signed for.

    Raises `Refused` with the first that does not.
    """
    opened = [_by(member, leaf, asked) for leaf in answer.entries]
    receipt, hashed = opened[-1].record, opened[-1].hash.hex()
    if not isinstance(receipt, Receipt):
        raise Refused(Refusal.MALFORMED, f"the answer of {member} ends in a {receipt.kind}, not in a receipt")
    if hashed in seen:
        raise Refused(Refusal.REPLAYED, f"{member} answered with receipt {hashed[:12]}… before")
    opening = merkle.leaf_hash(asked.leaf).hex()
    if receipt.run != asked.opened.run or receipt.round != asked.opened.round or receipt.opened != opening:
        raise Refused(
            Refusal.WRONG_ROUND,
            f"the receipt is for {receipt.run} round {receipt.round}, this is {asked.opened.run} round"
            f" {asked.opened.round}",
        )
    if receipt.base != asked.opened.base:
        raise Refused(Refusal.WRONG_BASE, f"trained from {receipt.base[:12]}…, asked from {asked.opened.base[:12]}…")
    check_claim(receipt, asked.manifest, asked.charter)
    if codecs.nbytes(answer.update) != receipt.bytes_up:
        raise Refused(
            Refusal.IMPLAUSIBLE, f"{codecs.nbytes(answer.update)} bytes came, the receipt says {receipt.bytes_up}"
        )
    codecs.check(answer.update, asked.manifest.recipe.up, asked.shapes)
    update = Decoded(answer.update)
    if weights.digest(update) != receipt.update:
        raise Refused(Refusal.WRONG_DIGEST, f"the update is not {receipt.update[:12]}…, which {member} signed for")
    return Admitted(member, answer.entries, hashed, receipt.witnessed_size, update)


def _by(member: str, leaf: bytes, asked: Asked) -> Entry:
    entry = entries.open_leaf(leaf, asked.charter.consortium, asked.keys)
    if entry.author != f"{member}/compute":
        raise Refused(Refusal.WRONG_MEMBER, f"{entry.author} signed what came as the answer of {member}")
    return entry
