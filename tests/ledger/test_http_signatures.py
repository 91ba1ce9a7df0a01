"""HTTP Message Signatures, by the RFC's own example, and what is no signature."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from world import key

from shared_models.http_signatures import LABEL, Signature, parse, sign
from shared_models.records.keys import SigningKey
from shared_models.records.refusals import Refusal, Refused

# RFC 9421, B.1.4 and B.2.6.
SEED = base64.b64decode("n4Ni+HpISpVObnQMW0wOhCKROaIKqKtW/2ZYb2p9KcU=")
PUBLIC = base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
COVERED = '("date" "@method" "@path" "@authority" "content-type" "content-length")'
DESCRIBED = f'sig-b26={COVERED};created=1618884473;keyid="test-key-ed25519"'
SIGNED = "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:"
PARTS = {
    "date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "@method": "POST",
    "@path": "/foo",
    "@authority": "example.com",
    "content-type": "application/json",
    "content-length": "18",
}


@pytest.fixture
def rfc():
    return SigningKey("test", Ed25519PrivateKey.from_private_bytes(SEED))


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def test_the_example_of_the_rfc(rfc):
    assert rfc.verify_key.public == PUBLIC
    found = parse(DESCRIBED, SIGNED)
    assert found.covered == tuple(PARTS)
    assert found.parameters == {"created": "1618884473", "keyid": "test-key-ed25519"}
    assert found.base(PARTS).decode().splitlines() == [
        '"date": Tue, 20 Apr 2021 02:07:55 GMT',
        '"@method": POST',
        '"@path": /foo',
        '"@authority": example.com',
        '"content-type": application/json',
        '"content-length": 18',
        f'"@signature-params": {DESCRIBED.removeprefix("sig-b26=")}',
    ]
    found.check(PARTS, rfc.verify_key)
    assert rfc.sign(found.base(PARTS)) == found.raw


@pytest.mark.parametrize("part", PARTS)
def test_every_part_that_is_covered_counts(rfc, part):
    found = parse(DESCRIBED, SIGNED)
    assert refused(found.check, {**PARTS, part: "another"}, rfc.verify_key) is Refusal.BAD_SIGNATURE
    less = {name: value for name, value in PARTS.items() if name != part}
    assert refused(found.check, less, rfc.verify_key) is Refusal.BAD_SIGNATURE


def test_the_parameters_count_and_so_does_the_key(rfc):
    later = parse(DESCRIBED.replace("1618884473", "1618884474"), SIGNED)
    assert refused(later.check, PARTS, rfc.verify_key) is Refusal.BAD_SIGNATURE
    assert refused(parse(DESCRIBED, SIGNED).check, PARTS, key("acme/compute").verify_key) is Refusal.BAD_SIGNATURE


def test_what_is_signed_here_is_read_here():
    acme, parts = key("acme/compute"), {"@method": "GET", "@path": "/x", "@query": "?access=3"}
    headers = sign(parts, acme, 1_700_000_000)
    found = parse(headers["Signature-Input"], headers["Signature"])
    found.check(parts, acme.verify_key)
    assert found.covered == ("@method", "@path", "@query")
    name = f"acme/compute+{acme.verify_key.id.hex()}"
    assert found.parameters == {"created": "1700000000", "keyid": name}


@pytest.mark.parametrize(
    ("described", "signed"),
    [
        ("", ""),
        (DESCRIBED, ""),
        ("", SIGNED),
        (DESCRIBED, SIGNED.replace("sig-b26", LABEL)),
        (f"{DESCRIBED}, {DESCRIBED}", f"{SIGNED}, {SIGNED}"),
        (DESCRIBED.replace('"@path"', '"@path";req'), SIGNED),
        (DESCRIBED.replace('"@path"', '"@path"\n'), SIGNED),
        (DESCRIBED.replace('"@path"', "@path"), SIGNED),
        (DESCRIBED.replace("created=", "created=-"), SIGNED),
        (DESCRIBED, "sig-b26=:wqcA=:"),
        (DESCRIBED, "sig-b26=wqcA"),
    ],
)
def test_what_is_of_another_form_is_no_signature(described, signed):
    assert refused(parse, described, signed) is Refusal.BAD_SIGNATURE


def test_a_part_that_is_covered_twice_is_refused():
    twice = Signature(("@path", "@path"), {}, '("@path" "@path")', b"")
    assert refused(twice.base, {"@path": "/"}) is Refusal.BAD_SIGNATURE
