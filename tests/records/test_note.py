"""Signed notes, against the text of C2SP signed-note and a note that Go's documentation signs."""

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import key

from shared_models.records import note
from shared_models.records.keys import VerifyKey
from shared_models.records.refusals import Refusal, Refused

ADA, BOB = key("acme/compute"), key("birch/compute")
KEYS = note.known(each.verify_key for each in (ADA, BOB))
TEXT = "commons.example/receipt@v1\n{}\n"

GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def refused(data: bytes) -> Refusal:
    with pytest.raises(Refused) as caught:
        note.verify(note.parse(data), KEYS)
    return caught.value.refusal


def test_a_note_signed_by_go_verifies():
    peter = VerifyKey.parse(GO_KEY)
    assert note.verify(note.parse(GO_NOTE.encode()), note.known([peter])) == (peter,)


def test_signers_come_in_the_order_of_their_lines():
    data = note.sign(TEXT, [BOB, ADA])
    assert note.verify(note.parse(data), KEYS) == (BOB.verify_key, ADA.verify_key)
    assert note.parse(data).data() == data


def test_the_text_may_hold_empty_lines():
    assert note.parse(note.sign("one\n\ntwo\n", [ADA])).text == "one\n\ntwo\n"


def test_unknown_signatures_are_passed_over_and_a_known_one_that_fails_refuses_the_note():
    good = note.sign(TEXT, [key("dogwood/compute"), ADA])
    assert note.verify(note.parse(good), KEYS) == (ADA.verify_key,)
    both = note.sign(TEXT, [ADA, BOB]).decode()
    line = note.sign("another text\n", [BOB]).decode().splitlines()[-1]
    assert refused("\n".join([*both.splitlines()[:-1], line, ""]).encode()) is Refusal.BAD_SIGNATURE


def test_a_note_that_nobody_known_signed_is_refused():
    assert refused(note.sign(TEXT, [key("dogwood/compute")])) is Refusal.UNKNOWN_KEY


def test_a_key_of_the_same_name_and_another_id_is_unknown():
    data = note.sign(TEXT, [ADA]).decode()
    raw = base64.b64decode(data.split()[-1])
    other = base64.b64encode(b"\0\0\0\0" + raw[4:]).decode()
    assert refused(data.replace(data.split()[-1], other).encode()) is Refusal.UNKNOWN_KEY


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda data: data.replace(b"{}", b"[]"), Refusal.BAD_SIGNATURE),
        (lambda data: data.replace(b"receipt", b"receip\t"), Refusal.NOT_TEXT),
        (lambda data: data.replace(b"receipt", b"receip\0"), Refusal.NOT_TEXT),
        (lambda data: data.replace(b"receipt", b"receip\xff"), Refusal.NOT_TEXT),
        (lambda data: data[:-1], Refusal.NOT_A_NOTE),
        (lambda data: data.replace(b"\n\n", b"\n"), Refusal.NOT_A_NOTE),
        (lambda data: data.splitlines(True)[-1], Refusal.NOT_A_NOTE),
        (lambda data: data.replace("—".encode(), b"-"), Refusal.NOT_A_NOTE),
        (lambda data: data.replace(b"acme/compute", b"acme+compute"), Refusal.NOT_A_NOTE),
        (lambda data: data.replace(b"acme/compute", "acme\u00a0compute".encode()), Refusal.NOT_A_NOTE),
        (lambda data: data.replace(b"acme/compute ", b""), Refusal.NOT_A_NOTE),
        (lambda data: data.replace(b"acme/compute ", b"acme/compute  "), Refusal.NOT_A_NOTE),
        (lambda data: data.replace(b"=\n", b"\n"), Refusal.NOT_A_NOTE),
        (lambda data: data + b"\n", Refusal.NOT_A_NOTE),
        (lambda data: data + data.splitlines(True)[-1] * 200, Refusal.NOT_A_NOTE),
        (lambda data: b"x" * note.MAX_BYTES + data, Refusal.TOO_LARGE),
        (lambda _: b"", Refusal.NOT_A_NOTE),
    ],
)
def test_other_bytes_are_refused(change, refusal):
    assert refused(change(note.sign(TEXT, [ADA]))) is refusal


def test_a_signature_has_one_spelling():
    data = note.sign(TEXT, [ADA])
    twin = data[:-3] + bytes([data[-3] + 1]) + data[-2:]  # The last character holds two bits that decode to nothing.
    assert base64.b64decode(twin.split()[-1]) == base64.b64decode(data.split()[-1])
    assert refused(twin) is Refusal.NOT_A_NOTE


@given(st.binary(max_size=300) | st.text("ab \n—+=/é", max_size=120).map(str.encode))
def test_no_bytes_crash_it(data):
    with suppress(Refused):
        assert note.parse(data).data() == data
