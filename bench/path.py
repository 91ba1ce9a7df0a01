"""What one receipt costs on its way, in CPU time, against verifying one signature: the least that anyone must do."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import Figures, cpu_us, report
from consortium.found import Founded
from consortium.simulate import simulate
from ledger.log import open_log
from shared_models.published import Published, fetch, reader
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.keys import SigningKey
from shared_models.rules.audit import audit
from shared_models.rules.books import Books
from shared_models.rules.recipes import TOY

ROUNDS = 30
MEANING = {
    "verify_us": "CPU-µs to verify one Ed25519 signature, strictly: the unit of what follows",
    "sign_ratio": "sign a receipt / verify",
    "open_ratio": "open a leaf: text, signature, fields, canonical form / verify",
    "check_ratio": "keep the rules of the log and take the entry in / verify",
    "append_ratio": "append one by one: check, SQLite commit, tiles, signed head, proof / verify",
    "proof_ratio": "check an offline proof, its tree head's signature included / verify",
    "audit_ratio": "audit a log, for each signature in it / verify",
}


def figures() -> Figures:
    """Measure on the log of a real run of three members."""
    with _run() as (founded, log):
        books = Books()
        opened = []
        for leaf in log.leaves:
            entry = books.open(leaf)
            opened.append(entry)
            books.add(entry)
        consortium, keys = books.charter.consortium, books.keys
        receipt = next(entry for entry in opened if entry.author == "acme/compute" and entry.record.kind == "receipt")
        pen = founded.member("acme").key("compute")
        signature = pen.sign(receipt.text)
        verify = cpu_us(lambda: pen.verify_key.verifies(signature, receipt.text), 200)

        def fold() -> None:
            fresh = Books()
            for entry in opened:
                fresh.check(entry)
                fresh.add(entry)

        def append() -> None:
            with tempfile.TemporaryDirectory() as folder:
                shutil.copy(founded.ledger / "log.key", folder)
                fresh = open_log(Path(folder))
                for leaf in log.leaves:
                    fresh.append(leaf)
                fresh.close()

        def audited() -> None:
            assert not audit(log.leaves, log.head, log.hashes, charter=books.charter_hash).findings

        head = books.tree.size
        log_key = SigningKey.load(founded.ledger / "log.key")
        signed = tlog.TreeHead(log_key.name, head, books.tree.root()).sign(log_key)
        proof = tlog.Proof(7, tuple(books.tree.inclusion(7, head)), signed).data()
        leaf_hash = merkle.leaf_hash(log.leaves[7])
        signatures = sum(len(entry.signers) for entry in opened) + 1
        return {
            "verify_us": verify,
            "sign_ratio": cpu_us(lambda: entries.sign(receipt.record, consortium, [pen]), 100) / verify,
            "open_ratio": cpu_us(lambda: entries.open_leaf(receipt.leaf, consortium, keys), 100) / verify,
            "check_ratio": cpu_us(fold, 1) / len(opened) / verify,
            "append_ratio": cpu_us(append, 1, runs=3) / len(opened) / verify,
            "proof_ratio": cpu_us(lambda: tlog.Proof.parse(proof).verify(leaf_hash, keys), 100) / verify,
            "audit_ratio": cpu_us(audited, 1) / signatures / verify,
        }


@contextmanager
def _run() -> Iterator[tuple[Founded, Published]]:
    with tempfile.TemporaryDirectory() as folder:
        members = {"acme": 2, "birch": 1, "cedar": 1}
        result = simulate(Path(folder) / "parties", members, rounds=ROUNDS, recipe=TOY)
        yield result.founded, fetch(reader(str(result.founded.ledger / "log")))


if __name__ == "__main__":
    report("path", figures(), MEANING)
