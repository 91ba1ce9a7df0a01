"""Keys keep their form on disk and on the wire, and verification is strict."""

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from world import key

from shared_models.records import keys
from shared_models.records.keys import SigningKey, VerifyKey, strict
from shared_models.records.refusals import Refusal, Refused

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ADA = key("acme/compute")


def on_curve(y: int) -> int | None:
    """An x for this y, from the curve's equation -x² + y² = 1 + d·x²·y²; None if there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return None if (x * x - square) % P else x


def add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def times(scalar: int, point: tuple[int, int]) -> tuple[int, int]:
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def test_the_points_of_small_order_are_those_that_the_curve_has():
    found, y = set(), 2
    while len(found) < 8:
        if (x := on_curve(y)) is not None:
            found |= {times(n, times(L, (x, y))) for n in range(8)}
        y += 1
    assert {y for _, y in found} == keys._SMALL_Y


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
    larger = int.from_bytes(signature[32:], "little") + L
    assert not strict(ADA.verify_key.public, signature[:32] + larger.to_bytes(32, "little"))


@pytest.mark.parametrize("y", [*sorted(keys._SMALL_Y), P, P + 1, 2**255 - 1])
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
