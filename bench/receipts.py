"""A consortium of any size whose log can be of any length: entries as its members would sign them, quickly."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_models.records import canonical, merkle, note, tlog
from shared_models.records import entry as entries
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import ED25519, SigningKey
from shared_models.records.kinds import (
    BILLION,
    FIRST,
    Chained,
    Charter,
    Consent,
    Device,
    Included,
    Manifest,
    Member,
    Pot,
    Receipt,
    RoundClose,
    RoundOpen,
    sealed_seed,
)
from shared_models.rules.pricing import flop_per_token, tokens_asked
from shared_models.rules.recipes import TOY

CONSORTIUM = "bench.example"
SEED = "1" * 64  # Of every round: nothing is scored here.


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

    def receipts(self, nodes: int, workers: int = 2) -> Iterator[list[bytes]]:
        """Batches of receipts: for each node, one of every member, in the round that is open. They are chained."""
        share = -(-len(self.members) // workers)
        parts = [self.members[at : at + share] for at in range(0, len(self.members), share)]
        with ProcessPoolExecutor(workers) as pool:
            columns = [
                column
                for part in pool.map(_columns, [self] * len(parts), parts, [nodes] * len(parts))
                for column in part
            ]
        yield from (list(batch) for batch in zip(*columns, strict=True))

    def rounds(self, count: int) -> Iterator[bytes]:
        """Entries of so many whole rounds behind `begin`: in each, a receipt of every member, a close and an open."""
        tree, pens = self.tree(), {name: _Pen(self, name) for name in self.members}
        coordinator, turn = key(f"{CONSORTIUM}/coordinator"), self.opened
        last, seq = merkle.leaf_hash(self.begin[-1]).hex(), turn.seq

        def coordinate(record: Chained) -> bytes:
            nonlocal last, seq
            seq += 1
            leaf = entries.sign(replace(record, seq=seq, prev=last), CONSORTIUM, [coordinator])
            last = merkle.leaf_hash(leaf).hex()
            return leaf

        for number in range(1, count + 1):
            opened, head = last, (tree.size, tree.root().hex())
            leaves = [pens[name].write(number, opened, *head) for name in self.members]
            included = tuple(
                Included(
                    member=name,
                    receipt=merkle.leaf_hash(leaf).hex(),
                    weight=BILLION // len(self.members),
                    gain_unats=0,
                    judged="whole",
                )
                for name, leaf in zip(self.members, leaves, strict=True)
            )
            close = RoundClose(
                seq=0,
                prev=FIRST,
                run=turn.run,
                round=number,
                base=turn.base,
                checkpoint=turn.base,
                included=included,
                excluded=(),
                late=(),
                loss_unats=5_545_177,
                state=FIRST,
                seed=SEED,
            )
            leaves.append(coordinate(close))
            turn = replace(turn, round=number + 1)
            leaves.append(coordinate(turn))
            for leaf in leaves:
                tree.append(merkle.leaf_hash(leaf))
            yield from leaves

    def tree(self) -> merkle.Tree:
        """Of the entries with which the log begins."""
        tree = merkle.Tree()
        for leaf in self.begin:
            tree.append(merkle.leaf_hash(leaf))
        return tree


def vkey(name: str) -> str:
    return key(name).verify_key.text()


def charter(count: int) -> Charter:
    """The charter of so many members."""
    return Charter(
        consortium=CONSORTIUM,
        currency="EUR",
        minor_digits=2,
        price=Fraction(10**14),
        compute_pot="compute",
        pots=(Pot(name="compute", rule="proportional", driver="benefit", table=(), floors=(), caps=()),),
        members=tuple(
            Member(name=name, **{role: vkey(f"{name}/{role}") for role in MEMBER_ROLES}, benefit=1, pledge=0)
            for name in sorted(f"m{number:03}" for number in range(count))
        ),
        devices=(Device(name="cpu-core", peak_flops=200_000_000_000),),
        quorum=0,
        approvals=count // 2 + 1,
        cap="none",
        objection=1,
        accession=Fraction(0),
        worth_share=Fraction(0),
        expert_price=Fraction(0),
        window=3,
        tiers=(),
        admin=vkey(f"{CONSORTIUM}/admin"),
        coordinator=vkey(f"{CONSORTIUM}/coordinator"),
        log=vkey(f"{CONSORTIUM}/log"),
    )


def found(count: int) -> Consortium:
    """A consortium of so many members, ready to train."""
    agreed = charter(count)
    members = tuple(member.name for member in agreed.members)
    signers = [*(f"{CONSORTIUM}/{role}" for role in ("admin", "coordinator", "log")), *(f"{m}/admin" for m in members)]
    leaves = [entries.sign(agreed, CONSORTIUM, map(key, signers))]

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
            rounds=10**9,
            deadline_ms=60_000,
            quorum=1,
            wait="all",
            late=0,
            patience=0,
            flop_per_token=flop_per_token(TOY),
            start=FIRST,
            base="1" * 64,
            loss_unats=5_545_177,
            teacher=FIRST,
            steps=(),
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
        sealed=sealed_seed(SEED),
    )
    say(coordinator, opened, 1, manifest)
    return Consortium(members, tuple(leaves), opened)


def _columns(consortium: Consortium, members: tuple[str, ...], nodes: int) -> list[list[bytes]]:
    """Each of these members' receipts, one behind another."""
    opened, tree = merkle.leaf_hash(consortium.begin[-1]).hex(), consortium.tree()
    pens = [_Pen(consortium, name) for name in members]
    return [[pen.write(1, opened, tree.size, tree.root().hex(), f"n{node}") for node in range(nodes)] for pen in pens]


class _Pen:
    """Writes one member's receipts, one behind another. A text with holes takes a fraction of the time of a record."""

    def __init__(self, consortium: Consortium, member: str) -> None:
        tokens, holes = tokens_asked(TOY), [f"{number:064x}" for number in range(3)]
        self._key = key(f"{member}/compute")
        self._seq = 1
        self._prev = merkle.leaf_hash(consortium.begin[2 + consortium.members.index(member)]).hex()
        receipt = Receipt(
            seq=999_999_999_999,
            prev=holes[0],
            member=member,
            node="n-0",
            run="r1",
            round=999_999_999_998,
            opened=holes[1],
            base=consortium.opened.base,
            update="2" * 64,
            data="3" * 64,
            trajectory="4" * 64,
            build="2.13.0/AVX512/1/float32/x86_64",
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
            memory_bytes=0,
            isolation="none",
            bytes_down=1_000,
            bytes_up=1_000,
            started_ms=1_000_500,
            ended_ms=1_001_700,
            witnessed_size=999_999_999_997,
            witnessed_root=holes[2],
        )
        record = canonical.encode(receipt).decode()
        self._text = f"{CONSORTIUM}/receipt@v1\n{{{record}}}\n"  # In braces that `format` leaves.
        for hole, name in (
            ('"n-0"', '"{node}"'),
            ("999999999999", "{seq}"),
            ("999999999998", "{round}"),
            ("999999999997", "{size}"),
            *zip(holes, ("{prev}", "{opened}", "{root}"), strict=True),
        ):
            assert self._text.count(hole) == 1
            self._text = self._text.replace(hole, name)

    def write(self, number: int, opened: str, size: int, root: str, node: str = "n0") -> bytes:
        """The next one, for this round and with this head witnessed."""
        text = self._text.format(
            seq=self._seq, prev=self._prev, round=number, opened=opened, size=size, root=root, node=node
        )
        leaf = note.sign(text, [self._key])
        self._seq, self._prev = self._seq + 1, merkle.leaf_hash(leaf).hex()
        return leaf


def publish(folder: Path, leaves: Iterable[bytes], log: SigningKey | None = None) -> int:
    """Write a log of these leaves as a ledger with this key publishes it, head last; its size."""
    tree, bundle = merkle.Tree(), list[bytes]()

    def put(path: str, data: bytes) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)

    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
        bundle.append(leaf)
        if len(bundle) == tlog.WIDTH:
            put(tlog.tile_path("entries", tree.size // tlog.WIDTH - 1), tlog.pack(bundle))
            bundle.clear()
    if bundle:
        put(tlog.tile_path("entries", tree.size // tlog.WIDTH, len(bundle)), tlog.pack(bundle))
    for level, number, width in tlog.tiles(tree.size):
        start = number * tlog.WIDTH
        put(tlog.tile_path(level, number, width), tree.hashes(8 * level, start, start + width))
    log = log or key(f"{CONSORTIUM}/log")
    put(tlog.HEAD, tlog.TreeHead(log.name, tree.size, tree.root()).sign(log))
    return tree.size


def attest(folder: Path, members: Iterable[str], key: Callable[[str], SigningKey] = key) -> None:
    """Add what these members say to a published log: that every entry of theirs below its head is theirs."""
    parsed = note.parse((folder / tlog.HEAD).read_bytes())
    (folder / "attest").mkdir()
    for member in members:
        line = note.signature(parsed.text, key(f"{member}/attest"), 1_700_000_000)
        (folder / "attest" / member).write_bytes(note.Note(parsed.text, (*parsed.signatures, line)).data())
