"""Whose cosignatures make a tree head good enough: the policy file of C2SP tlog-policy, read, asked and written.

    log commons.example/log+…
    witness acme acme/witness+…
    witness birch birch/witness+…
    group members 2 acme birch
    quorum members

Names are opaque octets; here each octet above ASCII stands as the code point of the same number (latin-1), so that what
was read is written again as it was.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared_models.records import note, tlog
from shared_models.records.keys import COSIGNATURE, ED25519, MLDSA44, VerifyKey
from shared_models.records.refusals import Refusal, Refused

NONE = "none"  # The quorum that asks for nobody.
MAX_BYTES = 1_000_000

_ALLOWED = re.compile(rb"[\t\n\x20-\x7e\x80-\xff]*")
_COUNT = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class Log:
    """A log whose heads are accepted."""

    key: VerifyKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness, by the name that it has in this file."""

    name: str
    key: VerifyKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """It witnesses what at least `threshold` of its members, witnesses or groups, witness."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as parsed or made; `parse(policy.data()) == policy`."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str

    @property
    def keys(self) -> note.Keys:
        return note.known([*(log.key for log in self.logs), *(witness.key for witness in self.witnesses)])

    def met(self, signed: Collection[VerifyKey]) -> bool:
        """Whether these keys' cosignatures are a quorum."""
        yes = {witness.name for witness in self.witnesses if witness.key in signed} | {NONE}
        for group in self.groups:  # Groups name only what stands before them.
            if sum(member in yes for member in group.members) >= group.threshold:
                yes.add(group.name)
        return self.quorum in yes

    def open(self, data: bytes) -> tlog.TreeHead:
        """The head in this note, signed by one of the logs and cosigned by a quorum.

        Raises `Refused`: as `tlog.open_head`, NO_QUORUM if too few witnesses cosigned.
        """
        head = tlog.open_head(data, self.keys)
        parsed = note.parse(data, tlog.HEAD_BYTES)
        if not self.met(note.verify(parsed, self.keys)):
            raise Refused(Refusal.NO_QUORUM, f"the head of size {head.size} lacks cosignatures for {self.quorum}")
        return head

    def data(self) -> bytes:
        """The file, each thing on its line."""
        lines = [["log", _octets(log.key.text()), log.url] for log in self.logs]
        lines += [["witness", each.name, _octets(each.key.text()), each.url] for each in self.witnesses]
        lines += [["group", each.name, str(each.threshold), *each.members] for each in self.groups]
        lines += [["quorum", self.quorum]]
        return "".join(" ".join(word for word in line if word) + "\n" for line in lines).encode("latin-1")


def members(log: VerifyKey, witnesses: Iterable[tuple[str, VerifyKey]], threshold: int) -> Policy:
    """The policy of a consortium: so many of its members, each with one or more keys, must have cosigned."""
    found, own, groups = list[Witness](), list[Group](), list[str]()
    by_member: dict[str, list[VerifyKey]] = {}
    for member, key in witnesses:
        by_member.setdefault(member, []).append(key)
    for member, keys in by_member.items():
        names = [member] if len(keys) == 1 else [f"{member}-{key.id.hex()}" for key in keys]
        found += [Witness(name, key) for name, key in zip(names, keys, strict=True)]
        if len(keys) > 1:
            own.append(Group(member, 1, tuple(names)))
        groups.append(member)
    if threshold == 0:
        return Policy((Log(log),), tuple(found), tuple(own), NONE)
    return Policy((Log(log),), tuple(found), (*own, Group("members", threshold, tuple(groups))), "members")


def parse(data: bytes) -> Policy:
    """The policy in these bytes. Raises `Refused(BAD_POLICY)`, naming the line."""
    if len(data) > MAX_BYTES or not _ALLOWED.fullmatch(data) or (data and not data.endswith(b"\n")):
        raise Refused(Refusal.BAD_POLICY, f"not lines of text, or more than {MAX_BYTES} bytes")
    reading = _Reading()
    for number, line in enumerate(data.decode("latin-1").split("\n"), 1):
        words = [word for word in re.split("[ \t]+", line) if word]
        if words and not words[0].startswith("#"):
            try:
                reading.line(words)
            except Refused as refused:
                raise Refused(Refusal.BAD_POLICY, f"line {number}: {refused.detail}") from None
    if reading.quorum is None:
        raise Refused(Refusal.BAD_POLICY, "there is no quorum line")
    return Policy(tuple(reading.logs), tuple(reading.witnesses), tuple(reading.groups), reading.quorum)


class _Reading:
    """A policy while its lines are read. Methods raise `Refused`."""

    def __init__(self) -> None:
        self.logs: list[Log] = []
        self.witnesses: list[Witness] = []
        self.groups: list[Group] = []
        self.quorum: str | None = None
        self._names = {NONE}
        self._grouped: set[str] = set()

    def line(self, words: list[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                key = _key(vkey, (ED25519, MLDSA44), [log.key for log in self.logs])
                self.logs.append(Log(key, *url))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                key = _key(vkey, (COSIGNATURE, MLDSA44), [witness.key for witness in self.witnesses])
                self._name(name)
                self.witnesses.append(Witness(name, key, *url))
            case ["group", name, count, *names] if names:
                self._members(names)
                threshold = {"all": len(names), "any": 1}.get(count, 0)
                if not threshold and _COUNT.fullmatch(count):
                    threshold = int(count)
                if not 1 <= threshold <= len(names):
                    raise _bad(f"{count[:20]} is not all, any, or a number from 1 to {len(names)}")
                self._name(name)
                self.groups.append(Group(name, threshold, tuple(names)))
            case ["quorum", name]:
                if self.quorum is not None:
                    raise _bad("a second quorum")
                if name not in self._names:
                    raise _bad(f"nothing before this line is called {name[:60]}")
                self.quorum = name
            case _:
                raise _bad(f"{' '.join(words)[:60]!r} defines nothing")

    def _name(self, name: str) -> None:
        if name in self._names:
            raise _bad(f"a second {name[:60]}")
        self._names.add(name)

    def _members(self, names: list[str]) -> None:
        for name in names:
            if name not in self._names or name == NONE:
                raise _bad(f"nothing before this line is called {name[:60]}")
            if name in self._grouped:
                raise _bad(f"{name[:60]} is in a group already")
            self._grouped.add(name)


def _key(text: str, kinds: Collection[bytes], before: Iterable[VerifyKey]) -> VerifyKey:
    try:
        key = VerifyKey.parse(text.encode("latin-1").decode())  # A key's name is text, and UTF-8.
    except UnicodeDecodeError:
        raise _bad("a key's name is not UTF-8") from None
    if key.kind not in kinds:
        raise _bad(f"a key of type {key.kind.hex()} cannot sign what it is named for")
    if any(key.public == other.public for other in before):
        raise _bad(f"the key of {key.name[:60]} stands here twice")
    return key


def _octets(text: str) -> str:
    return text.encode().decode("latin-1")


def _bad(why: str) -> Refused:
    return Refused(Refusal.BAD_POLICY, why)
