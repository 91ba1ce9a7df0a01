"""The golden bytes of tests/vectors are what this code writes, and it reads them back as it should."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest
from world import CONSORTIUM, whole

from shared_models.records import entry, note, policy, tlog
from shared_models.records.keys import VerifyKey, ed25519
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refused
from shared_models.rules.audit import audit

HERE = Path(__file__).parent / "vectors"
spec = importlib.util.spec_from_file_location("make", HERE / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
written = cache(make.vectors)


def stored(name: str):
    return json.loads((HERE / f"{name}.json").read_text())


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.json")))
def test_the_bytes_have_not_changed(name):
    assert json.loads(json.dumps(written()[name])) == stored(name)


def test_there_is_a_file_of_each_that_is_written():
    assert {path.stem for path in HERE.glob("*.json")} == set(written())


def test_a_stored_log_is_audited_from_its_published_files_alone():
    files = stored("published")["files"]
    size = tlog.parse_head(files[tlog.HEAD].partition("\n\n")[0] + "\n").size
    leaves = tlog.unpack(bytes.fromhex(files[tlog.tile_path("entries", 0, size)]))
    hashes = bytes.fromhex(files[tlog.tile_path(0, 0, size)])
    report = audit(leaves, files[tlog.HEAD].encode(), [hashes[at : at + 32] for at in range(0, len(hashes), 32)])
    assert report.findings == []
    assert [leaf.decode() for leaf in leaves] == [each["leaf"] for each in stored("entries")]


def test_every_kind_is_among_the_stored_entries():
    assert {each["kind"] for each in stored("entries")} == set(entry.KINDS)


def test_stored_leaves_are_refused_by_their_stored_names():
    keys = whole().books.keys
    names = set()
    for case in stored("refused"):
        with pytest.raises(Refused) as caught:
            entry.open_leaf(case["leaf"].encode(), CONSORTIUM, keys)
        assert caught.value.refusal.value == case["refusal"]
        names.add(case["refusal"])
    assert len(stored("refused")) == 17
    assert len(names) == 8


def test_a_stored_proof_holds_by_itself():
    proof = tlog.Proof.parse(stored("published")["tlog_proof_of_entry_3"].encode())
    keys = note.known(VerifyKey.parse(each["vkey"]) for each in stored("keys"))
    proof.verify(leaf_hash(stored("entries")[3]["leaf"].encode()), keys)


@pytest.mark.parametrize("backend", ["cryptography", "nacl"])
def test_every_back_end_comes_to_the_verdict_of_the_definition(backend):
    seen = set()
    for case in stored("ed25519"):
        public, signature, message = (bytes.fromhex(case[name]) for name in ("public", "signature", "message"))
        assert ed25519(public, backend)(signature, message) is case["strict"], case
        seen.add((case["cofactored"], case["strict"]))
    assert seen == {(True, True), (True, False), (False, False)}


def test_stored_policies_are_met_by_the_stored_head_or_not():
    data = stored("c2sp")["cosigned"].encode()
    for text in stored("c2sp")["met"]:
        assert policy.parse(text.encode()).open(data).size == 9
    for text in stored("c2sp")["not_met"]:
        with pytest.raises(Refused):
            policy.parse(text.encode()).open(data)
