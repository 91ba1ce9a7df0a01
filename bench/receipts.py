"""A consortium of any size whose log can be of any length: entries as its members would sign them, quickly."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import TOY
from shared_models.records import canonical, merkle, note
from shared_models.records import entry as entries
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import ED25519, SigningKey
from shared_models.records.kinds import (
    FIRST,
    Chained,
    Charter,
    Consent,
    Device,
    Manifest,
    Member,
    Pot,
    Receipt,
    RoundOpen,
)
from shared_models.rules.pricing import flop_per_token, tokens_asked

CONSORTIUM = "bench.example"


def key(name: str) -> SigningKey:
    """The key of this name, the same on every run."""
    kind = MEMBER_ROLES.get(name.rpartition("/")[2], (ED25519,))[0]
    seed = merkle.leaf_hash(f"bench {name}".encode())
    return SigningKey(name, Ed25519PrivateKey.from_private_bytes(seed), kind)


@dataclass(frozen=True, slots=True)
class Consortium:
    """Members, and the entries with which their log begins: charter, manifest, consents, one open round."""

    members: tuple[str, ...]
    begin: tuple[bytes, ...]
    opened: RoundOpen
    root: str  # Of the tree that these make.

    def receipts(self, nodes: int, start: int = 0, workers: int = 2) -> Iterator[list[bytes]]:
        """Batches of receipts: for each node, one of every member, in the round that is open. They are chained."""
        share = -(-len(self.members) // workers)
        parts = [self.members[at : at + share] for at in range(0, len(self.members), share)]
        with ProcessPoolExecutor(workers) as pool:
            columns = [
                column
                for part in pool.map(_columns, [self] * len(parts), parts, [nodes] * len(parts), [start] * len(parts))
                for column in part
            ]
        yield from (list(batch) for batch in zip(*columns, strict=True))


def found(count: int) -> Consortium:
    """A consortium of so many members, ready to train."""
    members = tuple(f"m{number:03}" for number in range(count))

    def vkey(name: str) -> str:
        return key(name).verify_key.text()

    charter = Charter(
        consortium=CONSORTIUM,
        currency="EUR",
        minor_digits=2,
        price=Fraction(10**14),
        compute_pot="compute",
        pots=(Pot(name="compute", rule="proportional"),),
        members=tuple(
            Member(name=name, **{role: vkey(f"{name}/{role}") for role in MEMBER_ROLES}, benefit=1) for name in members
        ),
        devices=(Device(name="cpu-core", peak_flops=200_000_000_000),),
        quorum=0,
        admin=vkey(f"{CONSORTIUM}/admin"),
        coordinator=vkey(f"{CONSORTIUM}/coordinator"),
        log=vkey(f"{CONSORTIUM}/log"),
    )
    signers = [*(f"{CONSORTIUM}/{role}" for role in ("admin", "coordinator", "log")), *(f"{m}/admin" for m in members)]
    leaves = [entries.sign(charter, CONSORTIUM, map(key, signers))]

    def say(author: str, record: Chained, seq: int = 0, prev: str = FIRST) -> str:
        leaves.append(entries.sign(replace(record, seq=seq, prev=prev), CONSORTIUM, [key(author)]))
        return merkle.leaf_hash(leaves[-1]).hex()

    coordinator = f"{CONSORTIUM}/coordinator"
    manifest = say(
        coordinator,
        Manifest(
            seq=0,
            prev=FIRST,
            run="r1",
            charter=merkle.leaf_hash(leaves[0]).hex(),
            bundle="0" * 64,
            recipe=TOY,
            members=members,
            rounds=1,
            deadline_ms=60_000,
            quorum=1,
            flop_per_token=flop_per_token(TOY),
            base="1" * 64,
            loss_unats=5_545_177,
        ),
    )
    for name in members:
        say(f"{name}/compute", Consent(seq=0, prev=FIRST, member=name, run="r1", manifest=manifest))
    opened = RoundOpen(
        seq=1,
        prev=manifest,
        run="r1",
        round=1,
        manifest=manifest,
        base="1" * 64,
        invited=members,
        opened_ms=1_000_000,
        deadline_ms=1_060_000,
    )
    say(coordinator, opened, 1, manifest)
    tree = merkle.Tree()
    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
    return Consortium(members, tuple(leaves), opened, tree.root().hex())


def _columns(consortium: Consortium, members: tuple[str, ...], nodes: int, start: int) -> list[list[bytes]]:
    """Each of these members' receipts, one behind another."""
    return [list(_chain(consortium, name, nodes, start)) for name in members]


def _chain(consortium: Consortium, name: str, nodes: int, start: int) -> Iterator[bytes]:
    tokens = tokens_asked(TOY)
    receipt = Receipt(
        seq=0,
        prev=FIRST,
        member=name,
        node="n0",
        run="r1",
        round=1,
        opened=merkle.leaf_hash(consortium.begin[-1]).hex(),
        base="1" * 64,
        update="2" * 64,
        data="3" * 64,
        tokens=tokens,
        steps=TOY.inner_steps,
        flop=tokens * flop_per_token(TOY),
        busy_ms=900,
        wall_ms=1_200,
        cpu_ms=1_000,
        device="cpu-core",
        devices=1,
        energy_mj=0,
        energy_method="none",
        bytes_down=1_000,
        bytes_up=1_000,
        started_ms=1_000_500,
        ended_ms=1_001_700,
        witnessed_size=len(consortium.begin),
        witnessed_root=consortium.root,
    )
    pen, text = key(f"{name}/compute"), canonical.encode(receipt).decode()
    before, middle, after = _cut(text, '"node":"n0"', f'"prev":"{FIRST}"')
    consent = consortium.begin[2 + consortium.members.index(name)]
    prev = merkle.leaf_hash(consent).hex()
    for number in range(nodes):
        tail = after.replace('"seq":0', f'"seq":{number + 1}')
        line = f'{before}"node":"n{start + number}"{middle}"prev":"{prev}"{tail}'
        leaf = note.sign(f"{CONSORTIUM}/receipt@v1\n{line}\n", [pen])
        prev = merkle.leaf_hash(leaf).hex()
        yield leaf


def _cut(text: str, *holes: str) -> list[str]:
    for hole in holes:
        assert text.count(hole) == 1
        text = text.replace(hole, "@")
    return text.split("@")
