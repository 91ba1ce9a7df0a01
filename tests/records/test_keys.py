"""Keys keep their form on disk and on the wire, and verification is strict."""

import stat
import subprocess
import sys

import curve
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from world import key

from shared_models.records import keys
from shared_models.records.keys import COSIGNATURE, ED25519, MLDSA44, SigningKey, VerifyKey, ed25519, strict, time_of
from shared_models.records.refusals import Refusal, Refused

ADA = key("acme/compute")
BACKENDS = ("cryptography", "nacl")


def test_the_points_of_small_order_are_those_that_the_curve_has():
    assert {y for _, y in curve.small()} == keys._SMALL_Y


def test_a_signature_holds_for_its_text_and_no_other():
    signature = ADA.sign(b"text")
    assert ADA.verify_key.verifies(signature, b"text")
    assert not ADA.verify_key.verifies(signature, b"Text")
    assert not key("birch/compute").verify_key.verifies(signature, b"text")


@pytest.mark.parametrize("bit", range(0, 512, 37))
def test_every_changed_bit_is_seen(bit):
    signature = bytearray(ADA.sign(b"text"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not ADA.verify_key.verifies(bytes(signature), b"text")


def test_s_above_the_order_is_refused_though_it_fulfils_the_equation():
    signature = ADA.sign(b"text")
    larger = int.from_bytes(signature[32:], "little") + curve.L
    assert not strict(ADA.verify_key.public, signature[:32] + larger.to_bytes(32, "little"))


@pytest.mark.parametrize("y", [*sorted(keys._SMALL_Y), curve.P, curve.P + 1, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1])
def test_keys_and_nonces_that_libraries_disagree_on_are_refused(y, sign):
    point = (y | sign << 255).to_bytes(32, "little")
    assert not strict(point, ADA.sign(b"text"))
    assert not strict(ADA.verify_key.public, point + ADA.sign(b"text")[32:])
    with pytest.raises(Refused) as caught:
        VerifyKey.parse(VerifyKey("acme/compute", point).text())
    assert caught.value.refusal is Refusal.BAD_KEY


def test_a_forgery_with_a_small_order_key_verifies_loosely_and_is_refused_here():
    identity = (1).to_bytes(32, "little")
    signature = identity + bytes(32)  # R is the identity and S is 0: right for every text under the key A = identity.
    Ed25519PublicKey.from_public_bytes(identity).verify(signature, b"any text")
    assert not VerifyKey("acme/compute", identity).verifies(signature, b"any text")


def test_a_public_key_has_one_spelling():
    text = ADA.verify_key.text()
    assert VerifyKey.parse(text) == ADA.verify_key
    for wrong in (text[:-1], text + "=", text.replace("acme", "acmf"), text.replace("+", " ", 1), "", "a+b+c"):
        with pytest.raises(Refused) as caught:
            VerifyKey.parse(wrong)
        assert caught.value.refusal is Refusal.BAD_KEY


def test_a_private_key_is_readable_by_its_owner_only_and_never_overwritten(tmp_path):
    path = tmp_path / "compute.key"
    made = SigningKey.create(path, "acme/compute")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.load(path).verify_key == made.verify_key
    with pytest.raises(FileExistsError):
        SigningKey.create(path, "acme/compute")
    assert "PRIVATE" not in repr(made)


def test_a_damaged_or_missing_private_key_is_refused_by_name(tmp_path):
    path = tmp_path / "compute.key"
    with pytest.raises(Refused) as caught:
        SigningKey.load(path)
    assert caught.value.refusal is Refusal.NOT_SET_UP
    SigningKey.create(path, "acme/compute")
    whole = path.read_text()
    for wrong in (whole.replace("acme", "birch"), whole[:-8], whole.replace("PRIVATE", "PUBLIC"), "", whole[::-1]):
        path.write_text(wrong)
        with pytest.raises(Refused) as caught:
            SigningKey.load(path)
        assert caught.value.refusal is Refusal.BAD_KEY


# Both back-ends, one verdict.


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64), st.binary(max_size=40))
def test_no_bytes_tell_the_back_ends_apart(public, signature, message):
    assert len({ed25519(public, backend)(signature, message) for backend in BACKENDS}) == 1


@given(
    text=st.binary(max_size=60),
    half=st.sampled_from(["whole", "r", "s", "bit", "short"]),
    bit=st.integers(0, 511),
    point=st.sampled_from([curve.encode(each) for each in curve.small()]),
)
def test_what_nearly_is_a_signature_does_not_tell_them_apart_either(text, half, bit, point):
    signature = bytearray(ADA.sign(text))
    match half:
        case "r":
            signature[:32] = point
        case "s":
            signature[32:] = (int.from_bytes(signature[32:], "little") + curve.L).to_bytes(32, "little")
        case "bit":
            signature[bit // 8] ^= 1 << bit % 8
        case "short":
            del signature[-1]
    verdicts = {ed25519(ADA.verify_key.public, backend)(bytes(signature), text) for backend in BACKENDS}
    assert verdicts == {half == "whole"}


@pytest.mark.parametrize("named", [*BACKENDS, "", "another"])
def test_the_environment_can_name_a_back_end_and_the_faster_one_is_taken_where_it_is(named):
    code = "from shared_models.records.keys import backend; print(backend())"
    environment = {"CONSORTIUM_ED25519": named}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (named if named in BACKENDS else "nacl")


def test_without_the_extra_there_is_cryptography():
    code = "import sys; sys.modules['nacl'] = None; from shared_models.records.keys import backend; print(backend())"
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cryptography"


# Keys that cosign tree heads.

HEAD = b"commons.example/log\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


@pytest.mark.parametrize("kind", [COSIGNATURE, MLDSA44])
def test_a_cosignature_holds_for_its_head_and_its_time(kind, tmp_path):
    made = SigningKey.create(tmp_path / "witness.key", "acme/witness", kind)
    assert SigningKey.load(tmp_path / "witness.key").verify_key == made.verify_key
    assert VerifyKey.parse(made.verify_key.text()) == made.verify_key
    signature = made.sign(HEAD, 1_700_000_000)
    assert time_of(signature) == 1_700_000_000
    assert made.verify_key.verifies(signature, HEAD)
    assert not made.verify_key.verifies(signature, HEAD.replace(b"\n1\n", b"\n2\n"))
    later = (1_700_000_001).to_bytes(8, "big") + signature[8:]
    assert not made.verify_key.verifies(later, HEAD)
    assert not made.verify_key.verifies(signature[:8], HEAD)
    assert not made.verify_key.verifies((2**63).to_bytes(8, "big") + signature[8:], HEAD)
    renamed = VerifyKey("birch/witness", made.verify_key.public, kind)
    assert renamed.verifies(signature, HEAD) == (kind == COSIGNATURE)  # ML-DSA-44 commits to the name too.


@pytest.mark.parametrize(
    "text",
    [
        b"commons.example/log\n1\n",
        b"commons.example/log\nx\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        b"commons.example/log\n1\n47DEQpj8HBSa\n",
        b"x" * 256 + b"\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        b"commons.example/log\n18446744073709551616\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
    ],
)
def test_ml_dsa_signs_tree_heads_and_nothing_else(text):
    witness = SigningKey.generate("acme/witness", MLDSA44)
    assert not witness.verify_key.verifies(witness.sign(HEAD, 1), text)


def test_the_same_key_has_another_id_for_another_type():
    public = ADA.verify_key.public
    assert len({VerifyKey(ADA.name, public, kind).id for kind in (ED25519, COSIGNATURE, MLDSA44)}) == 3
    for wrong in (b"\x02", b"\x06"):
        with pytest.raises(Refused):
            VerifyKey.parse(VerifyKey(ADA.name, public, wrong).text())
