"""Signed notes, to the letter of C2SP signed-note: text, a blank line, and one line for each signature.

Receipts, statements and tree heads are all notes, so there is one parser and one verifier for everything we sign.
"""

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shared_models.records.keys import SigningKey, VerifyKey, valid_name
from shared_models.records.refusals import Refusal, Refused

MAX_BYTES = 65_535  # An entry bundle of tlog-tiles prefixes each entry with its length in 16 bits.
MAX_SIGNATURES = 200  # A charter is signed by every member: the bytes run out before this does.

_CONTROL = bytes(set(range(0x20)) - {0x0A})  # In UTF-8, no other character has one of these bytes.

Keys = Mapping[tuple[str, bytes], VerifyKey]  # By name and id, which together name a key.


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: a key's name, its four-byte id, and the raw signature."""

    name: str
    id: bytes
    raw: bytes

    def line(self) -> str:
        return f"— {self.name} {base64.b64encode(self.id + self.raw).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as parsed: nothing of it may be believed before `verify`."""

    text: str  # Ends in a newline.
    signatures: tuple[Signature, ...]

    def data(self) -> bytes:
        return (self.text + "\n" + "".join(each.line() for each in self.signatures)).encode()


def known(keys: Iterable[VerifyKey]) -> Keys:
    """These keys, as `verify` looks them up."""
    return {(key.name, key.id): key for key in keys}


def sign(text: str, keys: Iterable[SigningKey]) -> bytes:
    """The note of this text, signed by each of these keys in turn."""
    return Note(text, tuple(signature(text, key) for key in keys)).data()


def signature(text: str, key: SigningKey, time_s: int | None = None) -> Signature:
    """The signature of this text by this key; a key that cosigns tree heads signs the time with it."""
    assert text.endswith("\n")
    return Signature(key.name, key.verify_key.id, key.sign(text.encode(), time_s))


def parse(data: bytes, most: int = MAX_BYTES) -> Note:
    """The note in these bytes, unverified; `parse(data).data() == data`. Entries hold at most MAX_BYTES.

    Raises `Refused`: TOO_LARGE, NOT_TEXT, NOT_A_NOTE.
    """
    if len(data) > most:
        raise Refused(Refusal.TOO_LARGE, f"a note of {len(data)} bytes; at most {most}")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise Refused(Refusal.NOT_TEXT, f"not UTF-8 at byte {error.start}") from None
    if len(data.translate(None, _CONTROL)) != len(data):
        raise Refused(Refusal.NOT_TEXT, "a control character other than newline")
    text, separator, block = whole.rpartition("\n\n")
    if not separator or not block.endswith("\n"):
        raise Refused(Refusal.NOT_A_NOTE, "no blank line followed by signature lines")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise Refused(Refusal.NOT_A_NOTE, f"{len(lines)} signatures; at most {MAX_SIGNATURES}")
    return Note(text + "\n", tuple(parse_signature(line) for line in lines))


def parse_signature(line: str) -> Signature:
    """The signature that this line spells, without its newline. Raises `Refused(NOT_A_NOTE)`."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    signature = Signature(name, raw[:4], raw[4:])
    # Writing it again and comparing refuses every second spelling: padding, spaces, an empty name.
    if dash != "—" or not valid_name(name) or len(raw) < 5 or signature.line() != line + "\n":
        raise Refused(Refusal.NOT_A_NOTE, f"{line[:80]!r} is not a signature line")
    return signature


def verify(note: Note, keys: Keys, vouched: Collection[str] = ()) -> tuple[VerifyKey, ...]:
    """The known keys that signed this note, in the order of their lines, each once.

    Signatures of unknown keys are passed over, as the specification asks; one that claims a known key and does not
    verify refuses the whole note. Those by `vouched` names are taken for good: whoever gives them answers for them.
    Raises `Refused`: BAD_SIGNATURE, or UNKNOWN_KEY if no known key signed.
    """
    signers: list[VerifyKey] = []
    message = note.text.encode()
    for signature in note.signatures:
        key = keys.get((signature.name, signature.id))
        if key is None:
            continue
        if key.name not in vouched and not key.verifies(signature.raw, message):
            raise Refused(Refusal.BAD_SIGNATURE, f"the signature of {signature.name} is not for this text")
        if key not in signers:
            signers.append(key)
    if not signers:
        unknown = ", ".join(signature.name for signature in note.signatures)
        raise Refused(Refusal.UNKNOWN_KEY, f"signed by {unknown[:160]}, of whom no key is known")
    return tuple(signers)
