"""Whose key counts, and since when: the charter's keys, and what was added, revoked and affirmed after it.

It follows the agreement, too: the keys of who joins count from the entry on that brings the new charter into force. If
that names another coordinator, no key of the one before counts any more from there on; what it had signed stands.

Time is counted in indices of the log. A revoked key may have been a thief's for a while: what it signed since then is
disputed until its holder affirms it.
"""

from dataclasses import dataclass, field

from shared_models.records import entry as entries
from shared_models.records import note
from shared_models.records.entry import Entry
from shared_models.records.keys import ED25519, VerifyKey
from shared_models.records.kinds import Amendment, Charter, KeyAdd, KeyAffirm, KeyRevoke, Leave, Vote
from shared_models.records.policy import Policy, members
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import Agreement, carried, newcomers

AboutKeys = KeyAdd | KeyRevoke | KeyAffirm | Amendment | Vote | Leave  # What a keyring follows from.


@dataclass(slots=True)
class Standing:
    """From when to when a key counts, in indices of the log."""

    start: int
    end: int | None = None  # The index of its revocation.
    suspect_from: int = 0
    affirmed: list[tuple[int, int, int]] = field(default_factory=list)  # (index of the key.affirm, start, end).

    def disputes(self, index: int, size: int) -> bool:
        """Whether, as the log of this size has it, what the key signed at this index may be a thief's."""
        if self.end is None or not self.end < size or index < self.suspect_from:
            return False
        return not any(at < size and start <= index < end for at, start, end in self.affirmed)


class Keyring:
    """Every key there ever was, and whether it counts.

    Use `check_author`, `check`, then `add`, with entries of `AboutKeys` in their order; or `learn`, which does all.
    """

    def __init__(self, charter: Charter, hashed: str) -> None:
        """The keys of the charter with this leaf hash. Raises `Refused`: BAD_KEY, BAD_FIELD, as `charter_keys`."""
        self.agreement = Agreement(charter, hashed)
        self.keys: note.Keys = entries.charter_keys(charter)  # Another object whenever one is added.
        self.standing = {named: Standing(0) for named in self.keys}
        self.counted = set(self.standing)  # Those that can sign now.
        self.revoked = False  # Whether one ever was.

    @property
    def charter(self) -> Charter:
        """The charter in force."""
        return self.agreement.charter

    def counts(self, name: str, key_id: bytes) -> bool:
        """Whether this key can sign now."""
        return (name, key_id) in self.counted

    def check_counts(self, name: str, key_id: bytes) -> None:
        """Raises `Refused(REVOKED)` if this key was revoked."""
        if not self.counts(name, key_id):
            end = self.standing[name, key_id].end
            raise Refused(Refusal.REVOKED, f"key {key_id.hex()} of {name} was revoked at entry {end}")

    def disputes(self, key: tuple[str, bytes], index: int, size: int) -> bool:
        """Whether, as the log of this size has it, what this key signed at this index may be a thief's."""
        return self.standing[key].disputes(index, size)

    def policy(self) -> Policy:
        """Whose cosignatures make a head good enough now: the charter's quorum of members, by keys that count.

        Who has left may go on as a witness: until it is settled, it is its money too. C2SP tlog-policy has one key for
        each log; it is the charter's.
        """
        names = {f"{member.name}/witness": member.name for member in self.charter.members}
        found = [(names[key.name], key) for key in self.keys.values() if key.name in names]
        counted = sorted((each for each in found if self.counts(each[1].name, each[1].id)), key=lambda each: each[0])
        return members(VerifyKey.parse(self.charter.log), counted, self.charter.quorum)

    def check_author(self, entry: Entry) -> None:
        """Whether an entry of `AboutKeys` is signed by who may write it. Raises `Refused`: REVOKED, WRONG_ROLE."""
        record = entry.record
        assert isinstance(record, AboutKeys)
        self.check_counts(entry.author, entry.signers[0].id)
        if isinstance(record, Amendment | Vote | Leave):
            if entry.author != f"{record.member}/admin":
                raise Refused(
                    Refusal.WRONG_ROLE,
                    f"{entry.author} wrote a {record.kind} of {record.member}; that is for its admin",
                )
            return
        own = {"admin"}
        if isinstance(record, KeyAdd) and record.role not in entries.READER_ROLES:
            own.add(record.role)
        speaker, _, role = entry.author.rpartition("/")
        if speaker == record.holder and role in own and entry.signers[0].kind == ED25519:
            return
        present = self.agreement.present()
        signed = {key.name.rpartition("/") for key in entry.signers if self.counts(key.name, key.id)}
        admins = {holder for holder, _, role in signed if role == "admin"}.intersection(present)
        if role == "admin" and carried(admins, present):
            return
        raise Refused(
            Refusal.WRONG_ROLE,
            f"{entry.author} wrote a {record.kind} for {record.holder}; that is for its {' or '.join(sorted(own))},"
            f" or for more than half of the {len(present)} members' admins, of whom {len(admins)} signed",
        )

    def check(self, record: AboutKeys, size: int) -> None:
        """Whether this may come next in a log of this size, its author aside. Raises `Refused`."""
        match record:
            case KeyAdd():
                key = entries.role_key(self.charter, record.holder, record.role, record.key)
                if key.public in self._public() | {other.public for other in self.agreement.awaited().values()}:
                    raise Refused(Refusal.BAD_FIELD, f"{record.key[:80]} is a key that stands here already")
            case KeyRevoke():
                if not self.counts(*_named(record)):
                    raise Refused(
                        Refusal.UNKNOWN_KEY, f"{record.holder}/{record.role} has no key {record.id} to revoke"
                    )
                if record.suspect_from > size:
                    raise Refused(
                        Refusal.BAD_FIELD, f"suspect from entry {record.suspect_from}, which is still to come"
                    )
            case KeyAffirm():
                standing = self.standing.get(_named(record))
                if standing is None or standing.end is None:
                    raise Refused(Refusal.UNKNOWN_KEY, f"{record.holder}/{record.role} has no revoked key {record.id}")
                if not standing.suspect_from <= record.start < record.end <= standing.end:
                    raise Refused(
                        Refusal.BAD_FIELD,
                        f"entries {record.start} to {record.end};"
                        f" suspect are {standing.suspect_from} to {standing.end}",
                    )
            case Amendment():
                self.agreement.check(record)
                new = newcomers(self.charter, record.charter).values()
                if taken := [key.name for key in new if key.public in self._public()]:
                    raise Refused(
                        Refusal.WRONG_CHARTER, f"the key of {', '.join(taken)} is or was one of this log already"
                    )
            case Vote() | Leave():
                self.agreement.check(record)

    def _public(self) -> set[bytes]:
        return {key.public for key in self.keys.values()}

    def add(self, record: AboutKeys, index: int, hashed: str) -> None:
        """Take in what was checked, from this index of the log; `hashed` is the entry's leaf hash."""
        match record:
            case KeyAdd():
                self._add(VerifyKey.parse(record.key), index)
            case KeyRevoke():
                self._revoke(_named(record), index, record.suspect_from)
            case KeyAffirm():
                self.standing[_named(record)].affirmed.append((index, record.start, record.end))
            case Amendment() | Vote() | Leave():
                before = self.charter
                if self.agreement.add(record, index, hashed):
                    if self.charter.coordinator != before.coordinator:
                        self._end(VerifyKey.parse(before.coordinator).name, index)
                    for key in newcomers(before, self.charter).values():
                        self._add(key, index)

    def _revoke(self, named: tuple[str, bytes], index: int, suspect_from: int) -> None:
        standing = self.standing[named]
        standing.end, standing.suspect_from = index, suspect_from
        self.counted.discard(named)
        self.revoked = True

    def _end(self, name: str, index: int) -> None:
        """Let no key of this name count any more. What they signed is not disputed by that."""
        for named in [each for each in self.counted if each[0] == name]:
            self._revoke(named, index, suspect_from=index)

    def _add(self, key: VerifyKey, index: int) -> None:
        self.keys = {**self.keys, (key.name, key.id): key}
        self.standing[key.name, key.id] = Standing(index)
        self.counted.add((key.name, key.id))

    def learn(self, index: int, leaf: bytes) -> None:
        """Take in an entry that somebody says stands there in the log. Raises `Refused` unless who may has signed it,
        and it can be."""
        entry = entries.open_leaf(leaf, self.charter.consortium, self.keys)
        if not isinstance(entry.record, AboutKeys):
            raise Refused(Refusal.WRONG_ROLE, f"a {entry.record.kind} where entries about keys were asked for")
        self.check_author(entry)
        self.check(entry.record, index)
        self.add(entry.record, index, entry.hash.hex())


def _named(record: KeyRevoke | KeyAffirm) -> tuple[str, bytes]:
    return f"{record.holder}/{record.role}", bytes.fromhex(record.id)
