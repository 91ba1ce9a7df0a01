"""Our logs in the eyes of a verifier that nobody here wrote: Go's x/mod/sumdb, as Debian has it, driven by verify.go.

It is built without a network. Where golang-go or golang-golang-x-mod-dev is not installed these tests are skipped,
unless CONSORTIUM_REQUIRE_GO is set, as CI does.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from ledger_service import write_key
from world import CONSORTIUM, World, key

from bench import receipts
from ledger.log import Log, open_log
from ledger.public import PublicFolder
from ledger.register import FileRegister
from ledger.store import SqlStore
from ledger.witnesses import INLINE, Witnesses
from shared_models.records import merkle, note, tlog
from shared_models.records.entry import charter_keys, peek
from shared_models.records.keys import MLDSA44, SigningKey, VerifyKey
from shared_models.records.note import Note

LIBRARY = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb")
OFFLINE = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOPROXY": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
LOG, TIME_S = f"{CONSORTIUM}/log", 1_700_000_000


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """verify.go, built."""
    if shutil.which("go") is None or not LIBRARY.is_dir():
        if os.environ.get("CONSORTIUM_REQUIRE_GO"):
            pytest.fail("golang-go or golang-golang-x-mod-dev is not installed, and CONSORTIUM_REQUIRE_GO is set")
        pytest.skip("golang-go or golang-golang-x-mod-dev is not installed")
    folder = tmp_path_factory.mktemp("go")
    build = ["go", "build", "-o", folder / "verify", Path(__file__).with_name("verify.go")]
    subprocess.run(build, check=True, env={**os.environ, **OFFLINE, "GOCACHE": str(folder / "cache")})
    return folder / "verify"


@pytest.fixture
def go(program):
    """Go's verdict on a log and what was kept of it: what it has counted, or the first thing wrong."""

    def verdict(log: Path, beside: Path) -> dict[str, int] | str:
        done = subprocess.run([program, log, beside], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stderr if done.returncode else json.loads(done.stdout)

    return verdict


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def vkeys(keys: Iterable[VerifyKey]) -> dict[str, bytes]:
    return {"vkeys": "".join(f"{each.text()}\n" for each in keys).encode()}


def requests(tree: merkle.Tree, sizes: Iterable[int], head: bytes) -> dict[str, bytes]:
    """What a witness that cosigned each of these sizes before would be asked."""
    size = tlog.unsigned(head).size
    return {
        f"requests/{old}": tlog.AddCheckpoint(old, tuple(tree.consistency(old, size)), head).data() for old in sizes
    }


def cosigned(head: bytes, *names: str) -> bytes:
    """This head with cosignatures by keys of these names."""
    parsed = note.parse(head)
    lines = (note.signature(parsed.text, key(name), TIME_S) for name in names)
    return Note(parsed.text, (*parsed.signatures, *lines)).data()


# A log as the ledger writes it, entry by entry.

GROWN = {0: 0, 1: 5, 2: 8, 255: 9, 256: 8, 257: 9}  # Cosignatures that are published at each size.


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """`<size>/log`, one log as it was at each of these sizes; `<size>/beside`, what somebody had kept of it till then.

    That is every head that it signed, the proof it gave for every entry, and a request from every size.
    """
    folder = tmp_path_factory.mktemp("grown")
    world = World(quorum=2)
    world.start(rounds=99)
    while len(world.leaves) < max(GROWN):
        world.round()
    write_key(folder)
    kept = vkeys(world.books.keys.values())
    with closing(open_log(folder)) as log:
        for size in range(max(GROWN) + 1):
            if size:
                _, proof = log.append(world.leaves[size - 1])
                kept[f"proofs/{size - 1}"] = proof.data()
            kept[f"heads/{size}"] = log.head.note
            if size in GROWN:
                if size:  # Before the charter there are no members.
                    # One witness alone is no quorum: then `cosigned` stays what it was.
                    witnesses = [f"{name}/witness" for name in world.members[: 1 + size % 3]]
                    attests = f"{world.members[size % 3]}/attest"
                    Witnesses(log).accept(cosigned(log.head.note, *witnesses, attests))
                shutil.copytree(folder / "log", folder / f"{size}/log")
                put(folder / f"{size}/beside", kept | requests(log.books.tree, range(size + 1), log.head.note))
    return folder


@pytest.mark.parametrize("size", GROWN)
def test_go_accepts_every_file_of_a_log_every_proof_and_every_head_it_had_before(go, grown, size):
    assert go(grown / f"{size}/log", grown / f"{size}/beside") == {
        "size": size,
        "tiles": len(list(tlog.tiles(size))),
        "entries": size,
        "left": 2 * (size - 1) if 0 < size < tlog.WIDTH else 0,
        "heads": size + 1,
        "requests": size + 1,
        "proofs": size,
        "cosignatures": GROWN[size],
        "unknown": 0,
    }


def test_go_opens_a_head_with_the_most_cosignatures_and_all_members_own(go, tmp_path):
    world = World({f"m{number:02}": 1 for number in range(70)}, quorum=3)
    write_key(tmp_path)
    with closing(open_log(tmp_path)) as log:
        log.append(world.leaves[0])
        everybody = cosigned(log.head.note, *(f"{name}/witness" for name in world.members))
        Witnesses(log).accept(everybody)
    beside = put(tmp_path / "beside", vkeys(world.books.keys.values()))
    assert go(tmp_path / "log", beside)["cosignatures"] == INLINE + 70
    parsed = note.parse(everybody)
    put(tmp_path / "log", {"cosigned": Note(parsed.text, parsed.signatures * 2).data()})  # More than Go reads.
    assert go(tmp_path / "log", beside) == "cosigned: malformed note\n"


def test_go_passes_over_the_signature_of_a_type_that_it_does_not_know(go, tmp_path):
    write_key(tmp_path)
    second = SigningKey.create(tmp_path / "log-mldsa.key", LOG, MLDSA44)
    open_log(tmp_path).close()
    beside = put(tmp_path / "beside", vkeys([key(LOG).verify_key, second.verify_key]))
    assert go(tmp_path / "log", beside)["unknown"] == 1


# What is not as it was.


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def forged(data: bytes, at: int = 40) -> bytes:
    """This note with a bit of its last signature changed."""
    parsed = note.parse(data)
    *others, last = parsed.signatures
    return Note(parsed.text, (*others, replace(last, raw=flip(last.raw, at)))).data()


def bundle(change: Callable[[list[bytes]], Iterable[bytes]]) -> Callable[[bytes], bytes]:
    return lambda data: tlog.pack(change(tlog.unpack(data)))


def other(size: int) -> Callable[[bytes], bytes]:
    """A head of this size that the log has signed and never had."""
    return lambda _: tlog.TreeHead(LOG, size, bytes(32)).sign(key(LOG))


def signed_by(name: str, old: str = "", new: str = "") -> Callable[[bytes], bytes]:
    """This head, signed by this key alone; in its text is `new` where `old` was."""
    return lambda data: note.sign(note.parse(data).text.replace(old, new, 1), [key(name)])


def put_in(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("path", "change", "wrong"),
    [
        ("log/checkpoint", forged, "checkpoint: invalid signature for key commons.example/log+"),
        ("log/checkpoint", other(257), "tile/0/001.p/1 or tile/1/000.p/1: downloaded inconsistent tile"),
        ("log/checkpoint", signed_by("acme/compute"), "checkpoint: commons.example/log has not signed it"),
        ("log/tile/0/000", lambda data: flip(data, 7 * 32), "tile/0/000: downloaded inconsistent tile"),
        ("log/tile/0/000", lambda data: data[:-32], "tile/0/000: TileReader returned bad result"),
        ("log/tile/1/000.p/1", lambda data: flip(data, 31), "tile/0/001.p/1 or tile/1/000.p/1: downloaded"),
        ("log/tile/0/000.p/3", lambda _: bytes(96), "tile/0/000.p/3: not what it is in the tree"),
        (
            "log/tile/entries/000",
            bundle(lambda leaves: [*leaves[:7], flip(leaves[7], 99), *leaves[8:]]),
            "entry 7 in tile/entries/000: invalid transparency proof",
        ),
        (
            "log/tile/entries/000",
            bundle(lambda leaves: leaves[:7] + leaves[8:]),
            "entry 7 in tile/entries/000: invalid transparency proof",
        ),
        ("log/tile/entries/000", bundle(lambda leaves: leaves[:-1]), "entry 255 in tile/entries/000: missing"),
        ("log/tile/entries/000", lambda data: data[:-1], "entry 255 in tile/entries/000: cut"),
        ("log/tile/entries/000", bundle(lambda leaves: leaves * 2), "tile/entries/000: more than 256 entries"),
        ("log/cosigned", forged, "cosigned: invalid signature for key cedar/witness+"),
        ("log/cosigned", other(256), "cosigned: invalid transparency proof"),
        ("log/cosigned", signed_by(LOG), "cosigned: nobody has cosigned it"),
        ("log/witness/birch", lambda data: forged(data, 7), "witness/birch: invalid signature for key birch/witness+"),
        ("log/witness/birch", lambda data: cosigned(data, "acme/witness"), "witness/birch: cosigned by acme/witness"),
        ("log/attest/birch", forged, "attest/birch: invalid signature for key birch/attest+"),
        ("beside/heads/0", other(0), "heads/0: not the root of an empty tree"),
        ("beside/heads/100", other(100), "heads/100: invalid transparency proof"),
        ("beside/heads/100", signed_by(LOG, "100", "0100"), 'heads/100: bad number "0100"'),
        ("beside/heads/100", signed_by(LOG, "100\n", "100\nmore\n"), "heads/100: a head has three lines, this has 4"),
        (
            "beside/requests/0",
            put_in(b"old 0\n", b"old 0\n" + b"A" * 43 + b"=\n"),
            "requests/0: from nothing to something",
        ),
        ("beside/requests/100", put_in(b"old 100", b"old 300"), "requests/100: there is no head of size 300"),
        ("beside/requests/100", lambda data: data[:8] + data[8 + 45 :], "requests/100: invalid transparency proof"),
        ("beside/proofs/100", put_in(b"index 100", b"index 99"), "proofs/100: invalid transparency proof"),
        ("beside/proofs/100", put_in(b"@v1", b"@v2"), "proofs/100: not a proof"),
        ("beside/vkeys", put_in(b"acme/witness", b"oak/witness"), "oak/witness+"),
        ("beside/vkeys", put_in(b"acme/compute", b"oak/compute"), "oak/compute+"),
    ],
)
def test_go_refuses_by_name_what_is_not_as_it_was(go, grown, tmp_path, path, change, wrong):
    shutil.copytree(grown / "257", tmp_path, dirs_exist_ok=True)
    changed = tmp_path / path
    put(tmp_path, {path: change(changed.read_bytes() if changed.exists() else b"")})
    assert str(go(tmp_path / "log", tmp_path / "beside")).startswith(wrong)


def test_go_refuses_an_entry_that_nobody_signed_though_it_stands_in_the_tree(go, tmp_path):
    consortium = receipts.found(2)
    receipts.publish(tmp_path / "log", [*consortium.begin[:2], forged(consortium.begin[2])])
    beside = put(tmp_path / "beside", vkeys(charter_keys(peek(consortium.begin[0])).values()))
    wrong = "entry 2 in tile/entries/000.p/3: invalid signature for key m000/compute+"
    assert str(go(tmp_path / "log", beside)).startswith(wrong)


# Long logs, written in bulk.

LONG = (65_535, 65_536, 65_537, 70_000)


@pytest.fixture(scope="module")
def long():
    """(members, as many leaves as the longest log has)"""
    consortium = receipts.found(48)
    leaves = [*consortium.begin, *consortium.rounds(max(LONG) // 50)]
    return consortium.members, leaves[: max(LONG)]


@pytest.mark.slow
@pytest.mark.parametrize("size", LONG)
def test_go_accepts_a_long_log(go, long, tmp_path, size):
    members, leaves = long
    receipts.publish(tmp_path / "log", leaves[:size])
    receipts.attest(tmp_path / "log", members)
    tree, signs, head = merkle.Tree(), f"{receipts.CONSORTIUM}/log", (tmp_path / "log" / tlog.HEAD).read_bytes()
    for leaf in leaves[:size]:
        tree.append(merkle.leaf_hash(leaf))
    old = sorted({*GROWN, *(each for each in LONG if each <= size), *range(0, size, 997), size - 1})
    heads = {f"heads/{each}": tlog.TreeHead(signs, each, tree.root(each)).sign(receipts.key(signs)) for each in old}
    places = {0, 1, 255, 256, 65_534, size - 1}
    proofs = {f"proofs/{at}": tlog.Proof(at, tuple(tree.inclusion(at, size)), head).data() for at in places}
    keys = vkeys(charter_keys(peek(leaves[0])).values())
    put(tmp_path / "beside", keys | heads | requests(tree, old, head) | proofs)
    assert go(tmp_path / "log", tmp_path / "beside") == {
        "size": size,
        "tiles": len(list(tlog.tiles(size))),
        "entries": size,
        "left": 0,
        "heads": len(old),
        "requests": len(old),
        "proofs": len(places),
        "cosignatures": len(members),
        "unknown": 0,
    }


@pytest.mark.slow
def test_what_is_written_in_bulk_is_byte_for_byte_what_the_ledger_writes(long, tmp_path):
    _, leaves = long
    receipts.publish(tmp_path / "bulk", leaves)
    signs = [receipts.key(f"{receipts.CONSORTIUM}/log")]
    store = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)
    register, public = FileRegister(tmp_path / "register"), PublicFolder(tmp_path / "log")
    with closing(Log(signs, store, register, public)) as log:
        for at in range(0, len(leaves), 1_000):
            log.commit([[log.admit(leaf) for leaf in leaves[at : at + 1_000]]])
    assert files(tmp_path / "log") == files(tmp_path / "bulk")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
