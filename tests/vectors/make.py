"""The golden bytes: what other parties and other implementations rely on, written out from fixed keys.

`python tests/vectors/make.py` writes the files anew; a difference in them is a change of the protocol, and is
reviewed as one.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import curve  # noqa: E402
import numpy as np  # noqa: E402
from lives import life  # noqa: E402
from world import BUILD, CONSORTIUM, TOY, World, key, whole  # noqa: E402

from shared_models import claims  # noqa: E402
from shared_models.lm import codecs, weights  # noqa: E402
from shared_models.records import canonical, entry, merkle, note, policy, tlog  # noqa: E402
from shared_models.records.kinds import CODECS  # noqa: E402
from shared_models.records.refusals import Refused  # noqa: E402
from shared_models.rules.allocation import RULES  # noqa: E402
from shared_models.rules.audit import audit  # noqa: E402
from shared_models.rules.books import Books  # noqa: E402
from shared_models.rules.netting import net_transfers  # noqa: E402
from shared_models.rules.pricing import flop_per_token, matmul_parameters, round_flop  # noqa: E402
from shared_models.rules.statement import settle  # noqa: E402


def vectors() -> dict[str, Any]:
    """Every file by name."""
    world = whole()
    return {
        "keys": keys(world),
        "entries": list(log(world)),
        "refused": list(refused(world)),
        "merkle": trees(),
        "published": published(world),
        "c2sp": c2sp(),
        "ed25519": list(signatures()),
        "rounding": list(rounding()),
        "shares": list(shares()),
        "transfers": list(transfers()),
        "bills": [leaf.decode() for leaf in life(52, 45).leaves],
        "flop": list(flop()),
        "curriculum": list(curriculum()),
        "claims": said(),
        "weights": digests(),
        "codecs": payloads(),
    }


def keys(world: World) -> list[dict[str, str]]:
    """Each key: its name, its id and public key as they stand before signatures and in the charter."""
    names = [f"{holder}/{role}" for holder, role, _ in entry.roles(world.charter)]
    return [{"name": name, "id": key(name).verify_key.id.hex(), "vkey": key(name).verify_key.text()} for name in names]


def log(world: World) -> Iterator[dict[str, Any]]:
    """A whole log: each leaf as text, its hash, its author, kind and what it is about."""
    books = Books()
    for index, leaf in enumerate(world.leaves):
        opened = books.open(leaf)
        books.check(opened)
        books.add(opened)
        author, kind, idem = opened.about
        yield {
            "index": index,
            "author": author,
            "kind": kind,
            "idem": idem,
            "leaf": leaf.decode(),
            "leaf_hash": opened.hash.hex(),
            "root": books.tree.root().hex(),
        }


def refused(world: World) -> Iterator[dict[str, str]]:
    """Leaves that are refused by the keys of the charter, and the names they are refused by."""
    good = next(leaf for leaf in world.leaves if b"/receipt@v1" in leaf).decode()
    text = good[: good.rindex("\n\n") + 1]
    author = key("acme/compute")

    def signed(changed: str) -> str:
        return note.sign(changed, [author]).decode()

    for leaf in (
        good.replace('"tokens":96', '"tokens":97'),
        good.replace("acme/compute ", "dogwood/compute "),
        good[:-1],
        good.replace("\n\n", "\n"),
        good.replace("—", "-"),
        good.replace("run", "ru\t"),
        signed(text.replace("commons.example", "other.example")),
        signed(text.replace("receipt@v1", "receipt@v2")),
        signed(text.replace("receipt@v1", "invoice@v1")),
        signed(text.replace('{"base"', '{ "base"')),
        signed(text.replace('"tokens":96', '"tokens":96.0')),
        signed(text.replace('"tokens":96', '"tokens":95,"tokens":96')),
        signed(text.replace('"tokens":96', '"tokens":-96')),
        signed(text.replace('"tokens":96', '"tokens":null')),
        signed(text.replace('"tokens":96,', "")),
        signed(text.replace('"member":"acme"', '"member":"Acme"')),
        signed(text.replace('"member":"acme"', '"member":"\\u0061cme"')),
    ):
        try:
            entry.open_leaf(leaf.encode(), CONSORTIUM, world.books.keys)
        except Refused as caught:
            yield {"leaf": leaf, "refusal": caught.refusal.value}


def trees() -> dict[str, Any]:
    """Trees whose leaf i is the decimal of i: roots, inclusion and consistency proofs."""
    tree, roots = merkle.Tree(), {"0": merkle.EMPTY_ROOT.hex()}
    for index in range(300):
        tree.append(merkle.leaf_hash(str(index).encode()))
        if index + 1 in (1, 2, 3, 7, 8, 255, 256, 257, 300):
            roots[str(index + 1)] = tree.root().hex()
    return {
        "roots": roots,
        "inclusion": [
            {"index": index, "size": size, "path": [each.hex() for each in tree.inclusion(index, size)]}
            for index, size in ((0, 1), (0, 2), (2, 3), (5, 7), (255, 256), (256, 257), (100, 300))
        ],
        "consistency": [
            {"old": old, "new": new, "path": [each.hex() for each in tree.consistency(old, new)]}
            for old, new in ((0, 7), (1, 2), (3, 7), (4, 7), (7, 7), (255, 257), (256, 300))
        ],
    }


def published(world: World) -> dict[str, Any]:
    """What a log with these entries publishes, byte for byte, and what an audit of it counts."""
    tree = world.books.tree
    files = {tlog.HEAD: world.head().decode()}
    for level, number, width in tlog.tiles(tree.size):
        files[tlog.tile_path(level, number, width)] = tree.hashes(8 * level, 0, width).hex()
        if level == 0:
            files[tlog.tile_path("entries", number, width)] = tlog.pack(world.leaves).hex()
    report = audit(world.leaves, world.head(), world.hashes(), charter=world.books.charter_hash)
    assert report.findings == []
    proof = tlog.Proof(3, tuple(tree.inclusion(3, tree.size)), world.head())
    return {
        "files": files,
        "tlog_proof_of_entry_3": proof.data().decode(),
        "audit": {name: getattr(report, name) for name in ("entries", "signatures", "receipts", "accepted", "numbers")},
        "tile_paths": {str(number): tlog.tile_path(0, number) for number in (0, 999, 1000, 1234067)},
    }


def c2sp() -> dict[str, Any]:
    """A tree head with cosignatures, the request that a witness gets, a proof, and policies that it meets or not."""
    tree = merkle.Tree()
    for index in range(9):
        tree.append(merkle.leaf_hash(str(index).encode()))
    log, witnesses = key(f"{CONSORTIUM}/log"), [key(f"{name}/witness") for name in ("acme", "birch", "cedar")]
    head = tlog.TreeHead(log.name, 9, tree.root())
    signed = note.parse(head.sign(log))
    lines = tuple(note.signature(head.text, each, 1_700_000_000 + number) for number, each in enumerate(witnesses[:2]))
    cosigned = note.Note(signed.text, signed.signatures + lines).data()
    asked = tlog.AddCheckpoint(5, tuple(tree.consistency(5, 9)), cosigned)
    proof = tlog.Proof(3, tuple(tree.inclusion(3, 9)), cosigned, extra=b"age")
    named = [(each.name.partition("/")[0], each.verify_key) for each in witnesses]
    policies = [policy.members(log.verify_key, named, threshold).data().decode() for threshold in (0, 2, 3)]
    return {
        "leaves": "the decimal of its index",
        "vkeys": [each.verify_key.text() for each in (log, *witnesses)],
        "head": head.sign(log).decode(),
        "cosigned": cosigned.decode(),
        "times": tlog.open_cosigned(cosigned, note.known(each.verify_key for each in (log, *witnesses)))[1],
        "add_checkpoint": asked.data().decode(),
        "proof_of_leaf_3": proof.data().decode(),
        "met": policies[:2],
        "not_met": policies[2:],
    }


def signatures() -> Iterator[dict[str, Any]]:
    """Ed25519 at its edges, made from the definition: keys and nonces of small and mixed order, S beyond the order.

    `strict` is the verdict of this project, `cofactored` whether the equation holds when both sides are taken times 8:
    where the two differ, or an encoding is not canonical, libraries come to different verdicts.
    """
    secret, nonce = 2**250 + 12345, 2**249 + 6789
    torsion = curve.small()
    points = [curve.IDENTITY, *(point for point in torsion if point != curve.IDENTITY)]
    for a_name, r_name, a_twist, r_twist in (
        ("right", "right", curve.IDENTITY, curve.IDENTITY),
        *(("mixed order", "right", twist, curve.IDENTITY) for twist in points[1:]),
        *(("right", "mixed order", curve.IDENTITY, twist) for twist in points[1:]),
    ):
        for message in (b"one", b"two", b"three"):
            a = curve.encode(curve.add(curve.times(secret, curve.BASE), a_twist))
            r = curve.encode(curve.add(curve.times(nonce, curve.BASE), r_twist))
            s = (nonce + curve.challenge(r, a, message) * secret) % curve.L
            yield _edge(f"A {a_name}, R {r_name}", a, r, s, message)
            if a_name == r_name:
                yield _edge("S with the order added", a, r, s + curve.L, message)
    right = curve.encode(curve.times(secret, curve.BASE))
    for point in points:
        small = curve.encode(point)
        yield _edge("A of small order", small, curve.encode(curve.times(nonce, curve.BASE)), nonce, b"one")
        s = curve.challenge(small, right, b"one") * secret % curve.L
        yield _edge("R of small order", right, small, s, b"one")
    for y in (curve.P, curve.P + 1, 2**255 - 1, curve.P + 3):
        odd = y.to_bytes(32, "little")
        s = curve.challenge(odd, right, b"one") * secret % curve.L
        yield _edge("R not canonical", right, odd, s, b"one")
        yield _edge("A not canonical", odd, curve.encode(curve.times(nonce, curve.BASE)), nonce, b"one")
    yield _edge("all zero", bytes(32), bytes(32), 0, b"one")


def _edge(what: str, a: bytes, r: bytes, s: int, message: bytes) -> dict[str, Any]:
    signature = r + s.to_bytes(32, "little")
    return {
        "what": what,
        "public": a.hex(),
        "signature": signature.hex(),
        "message": message.hex(),
        "cofactored": curve.loosely_right(a, signature, message),
        "strict": curve.strictly_right(a, signature, message),
    }


def rounding() -> Iterator[dict[str, Any]]:
    """Exact nets and carries before, whole nets and carries after."""
    for period, exact, carries in (
        ("2026-11", {"a": "1/3", "b": "1/3", "c": "-2/3"}, {}),
        ("2026-12", {"a": "1/3", "b": "1/3", "c": "-2/3"}, {}),
        ("2026-12", {"a": "1/3", "b": "1/3", "c": "-2/3"}, {"a": "-2/3", "b": "1/3", "c": "1/3"}),
        ("p", {"a": "5", "b": "-5", "c": "0"}, {}),
        ("p", {"a": "-161/50", "b": "61/50", "c": "2"}, {"a": "1/2", "b": "-1/2", "c": "0"}),
    ):
        nets, left = settle(
            {name: Fraction(amount) for name, amount in exact.items()},
            {name: Fraction(amount) for name, amount in carries.items()},
            period,
        )
        after = {name: str(amount) for name, amount in left.items()}
        yield {"period": period, "exact": exact, "carries": carries, "nets": nets, "left": after}


def shares() -> Iterator[dict[str, Any]]:
    """A cost and the drivers of it, and what each rule charges whom."""
    for cost, drivers in (
        ("100", {"acme": "2", "birch": "1", "cedar": "1"}),
        ("1000/7", {"acme": "0", "birch": "5/2", "cedar": "1/3", "dora": "5/2"}),
        ("-31", {"acme": "1", "birch": "0"}),
        ("40", {"a": "8", "b": "11", "c": "13", "d": "18"}),
    ):
        by = {member: Fraction(driver) for member, driver in drivers.items()}
        charges = {name: rule(Fraction(cost), by) for name, rule in RULES.items()}
        said = {name: {member: str(charge) for member, charge in each.items()} for name, each in charges.items()}
        yield {"cost": cost, "drivers": drivers, "charges": said}


def transfers() -> Iterator[dict[str, Any]]:
    """Whole nets, and the transfers that settle them: in groups, with ties, and of more than 14 parties."""
    for nets in (
        {"a": -10, "b": -20, "c": 10, "d": 20},
        {"a": -5, "b": -5, "c": -6, "d": 8, "e": 8},
        {"a": 3, "b": -3, "c": 3, "d": -3, "e": 0},
        {"a": -7, "b": 2, "c": 5, "d": -4, "e": 1, "f": 3},
        {f"m{number:02}": number * (-1) ** number for number in range(1, 17)} | {"n": -8},
        {},
    ):
        yield {"nets": nets, "transfers": [[each.payer, each.payee, each.amount] for each in net_transfers(nets)]}


SIZES = ("vocabulary", "layers", "heads", "kv_heads", "width", "context")
CHOICES = (
    "feed",
    "rank",
    "shared",
    "experts",
    "experts_per_token",
    "adapter",
    "member_experts",
    "feed_dim",
    "head_dim",
)


def flop() -> Iterator[dict[str, int | str]]:
    """Shapes, and what a token of them costs."""
    large = {"vocabulary": 32000, "layers": 8, "heads": 8, "width": 512, "context": 512}
    for changes in (
        {},
        {"layers": 4, "heads": 4, "width": 96, "context": 128},
        large,
        large | {"kv_heads": 2},
        large | {"rank": 128},
        large | {"shared": 4},
        large | {"feed": "swiglu"},
        large | {"adapter": 8},
        large | {"adapter": 16, "feed": "swiglu", "kv_heads": 2, "shared": 2},
        large | {"member_experts": 4, "feed": "swiglu", "kv_heads": 2, "shared": 2},
        large | {"feed": "swiglu", "experts": 8, "experts_per_token": 2},
        large | {"feed": "swiglu", "experts": 8, "experts_per_token": 3, "kv_heads": 1, "rank": 64, "shared": 2},
        large | {"feed": "swiglu", "feed_dim": 1536, "head_dim": 128, "kv_heads": 4},
        large | {"feed": "swiglu", "feed_dim": 1536, "head_dim": 128, "kv_heads": 4, "adapter": 8},
        large | {"feed": "swiglu", "feed_dim": 192, "head_dim": 96, "experts": 16, "experts_per_token": 4},
    ):
        recipe = replace(TOY, **changes)
        yield {
            **{name: getattr(recipe, name) for name in (*SIZES, *CHOICES)},
            "matmul_parameters": matmul_parameters(recipe),
            "flop_per_token": flop_per_token(recipe),
        }


def curriculum() -> Iterator[dict[str, int | list[int]]]:
    """What each round of a run costs its first member: its sequences grow from the shortest to the context."""
    names = ("layers", "width", "context", "batch", "inner_steps", "shortest", "teacher_layers", "teacher_width")
    names += ("model", "model_flop", "model_flop_per_position", "candidates")
    teacher = {"teacher_layers": 3, "teacher_heads": 2, "teacher_width": 24, "temperature": "2", "taught": "0.5"}
    cases = (({}, 2), ({"shortest": 8}, 3), ({"shortest": 2, "inner_steps": 7}, 5), (teacher | {"shortest": 4}, 4))
    theirs = {"model": f"sha256:{64 * '7'}:build", "model_flop": 12_345, "model_flop_per_position": 67}
    cases += (
        (theirs | {"shortest": 4}, 3),
        ({"shortest": 4, "steps": (1, 3, 2)}, 2),
        ({"steps": (2, 3, 3)}, 1),
        ({"shortest": 4, "candidates": 3}, 3),
    )
    for changes, rounds in cases:
        steps = changes.pop("steps", ())
        recipe = replace(TOY, **changes)
        manifest = replace(World().manifest(recipe=recipe), rounds=rounds, steps=steps)
        yield {
            **{name: getattr(recipe, name) for name in names},
            "rounds": rounds,
            "steps": steps,
            "flop_per_token": manifest.flop_per_token,
            "round_flop": [round_flop(manifest, number, manifest.members[0]) for number in range(1, rounds + 1)],
        }


def said() -> dict[str, str]:
    """What a training process and its daemon say to each other."""
    begin = claims.Begin(
        opened="o",
        proof="p",
        since=3,
        consistency=("0" * 64,),
        logged_seq=-1,
        logged_index=0,
        logged_path=(),
        cosigned=(),
    )
    claim = claims.Claim(
        update="1" * 64,
        data="2" * 64,
        trajectory="3" * 64,
        build=BUILD,
        tokens=96,
        steps=3,
        busy_ms=5,
        loss_unats=1,
        bytes_down=8,
        bytes_up=9,
    )
    progress = claims.Progress(tokens=32, loss_unats=5_545_177, busy_ms=7)
    said = (begin, progress, claim, claims.Halted(step=2))
    lines = {word: claims.say(each).decode() for word, each in zip(claims.QUESTIONS, said, strict=True)}
    return lines | {
        "reply": canonical.encode(claims.Reply(entries=("a\n",))).decode(),
        "refusal": canonical.encode(claims.Reply(code="no_task", detail="no task has begun")).decode(),
    }


def digests() -> list[dict[str, Any]]:
    """Tensors and the digest that names them."""
    cases = [
        {"w": np.zeros((2, 3), np.float32)},
        {"b": np.array([1.0, -0.0], np.float32), "a": np.array([[0.5]], np.float32)},
    ]
    return [
        {
            "tensors": {name: {"shape": list(t.shape), "hex": t.tobytes().hex()} for name, t in case.items()},
            "digest": weights.digest(case),
        }
        for case in cases
    ]


def payloads() -> dict[str, Any]:
    """What each codec makes of a tensor, the digest of what that decodes to, as a tensor `w`; and what is refused."""

    def tensor(count: int) -> codecs.Tensor:
        return np.array([(7919 * n % 2001 - 1000) / 1024 for n in range(count)], np.float32)

    def encoded(codec: str, count: int) -> dict[str, Any]:
        data = codecs.encode(codec, tensor(count))
        came = codecs.decode(codec, data, (count,))
        return {"codec": codec, "count": count, "data": data.hex(), "decoded": weights.digest({"w": came})}

    def refused(codec: str, count: int, data: bytes) -> dict[str, Any]:
        try:
            codecs.decode(codec, data, (count,))
        except Refused as caught:
            return {"codec": codec, "count": count, "data": data.hex(), "refusal": caught.refusal.value}
        raise AssertionError(codec)

    small = {codec: codecs.encode(codec, tensor(5)) for codec in CODECS}
    return {
        "tensor": "value n is (7919 n mod 2001 - 1000) / 1024",
        "encoded": [encoded(codec, count) for codec in CODECS for count in (0, 1, 5, 300)] + [encoded("top64", 8401)],
        "refused": [
            *(refused(codec, 5, data[:-1]) for codec, data in small.items()),
            *(refused(codec, 5, b"\xff" * 4 + data[4:]) for codec, data in small.items()),
            refused("top64", 5, small["top64"][:4] + b"\5\0" + small["top64"][6:]),
            refused("int2", 5, b"\0\0"),
        ],
    }


if __name__ == "__main__":
    for name, content in vectors().items():
        (HERE / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
