"""Whose cosignatures are enough: the policy files of C2SP tlog-policy."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, key

from shared_models.records import note, policy, tlog
from shared_models.records.keys import MLDSA44, SigningKey
from shared_models.records.merkle import EMPTY_ROOT
from shared_models.records.refusals import Refusal, Refused

LOG = key(f"{CONSORTIUM}/log")
NAMES = ("X1", "X2", "X3", "Y1", "Y2", "Y3")
WITNESSES = {name: key(f"{name}/witness") for name in NAMES}

# The example of the specification, with keys.
EXAMPLE = f"""log {LOG.verify_key.text()}

{"".join(f"witness {name} {WITNESSES[name].verify_key.text()}" + chr(10) for name in NAMES[:3])}
group X-witnesses 2 X1 X2 X3

{"".join(f"witness {name} {WITNESSES[name].verify_key.text()}" + chr(10) for name in NAMES[3:])}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def signed(*names: str) -> bytes:
    head = tlog.TreeHead(LOG.name, 0, EMPTY_ROOT)
    lines = tuple(note.signature(head.text, WITNESSES[name], 1) for name in names)
    return note.Note(head.text, note.parse(head.sign(LOG)).signatures + lines).data()


@pytest.mark.parametrize(
    ("names", "enough"),
    [
        (("X1", "X2", "Y1"), True),
        (("X3", "X2", "Y3", "Y1"), True),
        (NAMES, True),
        (("X1", "Y1", "Y2", "Y3"), False),
        (("X1", "X2", "X3"), False),
        (("X1", "X1", "Y1"), False),
        ((), False),
    ],
)
def test_the_example_of_the_specification(names, enough):
    rule = policy.parse(EXAMPLE.encode())
    if enough:
        assert rule.open(signed(*names)).size == 0
        return
    with pytest.raises(Refused) as caught:
        rule.open(signed(*names))
    assert caught.value.refusal is Refusal.NO_QUORUM


def test_a_log_of_another_key_is_not_accepted_whoever_cosigned():
    other = SigningKey.generate(LOG.name)
    rule = policy.parse(EXAMPLE.replace(LOG.verify_key.text(), other.verify_key.text()).encode())
    with pytest.raises(Refused) as caught:
        rule.open(signed(*NAMES))
    assert caught.value.refusal is Refusal.UNKNOWN_KEY


def test_a_policy_that_asks_for_nobody():
    assert policy.parse(f"log {LOG.verify_key.text()}\nquorum none\n".encode()).open(signed()).size == 0
    assert policy.parse(b"quorum none\n") == policy.Policy((), (), (), "none")


def test_space_comments_and_urls():
    witness = WITNESSES["X1"].verify_key.text()
    text = f"\t# a comment\n \t\nlog  {LOG.verify_key.text()}\thttps://log.example/ \n"
    text += f"witness \tX1 {witness}\nquorum\tX1\n"
    rule = policy.parse(text.encode())
    assert (rule.logs[0].url, rule.quorum) == ("https://log.example/", "X1")
    assert policy.parse(rule.data()) == rule


def test_names_are_octets_and_keys_are_named_in_text():
    name, kelvin = "é/witness", b"\xe2\x84\xaa"
    vkey = SigningKey.generate(name).verify_key
    witness = WITNESSES["X1"].verify_key.text()
    data = b"log %s\nwitness %s %s\nquorum %s\n" % (vkey.text().encode(), kelvin, witness.encode(), kelvin)
    rule = policy.parse(data)
    assert rule.logs[0].key.name == name
    assert rule.data() == data
    with pytest.raises(Refused):
        policy.parse(data.replace(b"quorum " + kelvin, b"quorum K"))


def line(name: str) -> str:
    return f"witness {name} {WITNESSES[name].verify_key.text()}\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no quorum"),
        ("quorum none\nquorum none\n", "line 2: a second quorum"),
        ("quorum X1\n" + line("X1"), "line 1: nothing before"),
        ("group g all X1\n" + line("X1") + "quorum none\n", "line 1: nothing before"),
        ("group g all g\nquorum none\n", "line 1: nothing before"),
        ("group g all none\nquorum none\n", "line 1: nothing before"),
        (line("X1") + "group g all X1 X1\nquorum g\n", "line 2: X1 is in a group already"),
        (line("X1") + "group g all X1\ngroup h all X1\nquorum h\n", "line 3: X1 is in a group already"),
        (line("X1") + "group g 2 X1\nquorum g\n", "line 2: 2 is not"),
        (line("X1") + "group g 0 X1\nquorum g\n", "line 2: 0 is not"),
        (line("X1") + "group g 01 X1\nquorum g\n", "line 2: 01 is not"),
        (line("X1") + "group g some X1\nquorum g\n", "line 2: some is not"),
        (line("X1") + "group g all\nquorum g\n", "line 2: 'group g all' defines nothing"),
        (line("X1") + line("X1") + "quorum X1\n", "line 2: the key of X1/witness stands here twice"),
        (line("X1") + f"witness X1 {WITNESSES['X2'].verify_key.text()}\nquorum X1\n", "line 2: a second X1"),
        (f"witness none {WITNESSES['X2'].verify_key.text()}\nquorum none\n", "line 1: a second none"),
        (f"witness X1 {LOG.verify_key.text()}\nquorum X1\n", "line 1: a key of type 01"),
        (f"log {WITNESSES['X1'].verify_key.text()}\nquorum none\n", "line 1: a key of type 04"),
        (f"log {LOG.verify_key.text()}\nlog {LOG.verify_key.text()}\nquorum none\n", "line 2: the key of"),
        (f"log {LOG.verify_key.text()} one two\nquorum none\n", "line 1: 'log "),
        (f"log {LOG.verify_key.text()[:-2]}\nquorum none\n", "line 1: "),
        ("log caf\u00e9\nquorum none\n", "line 1: "),
        ("witness X1\nquorum none\n", "line 1: 'witness X1' defines nothing"),
        ("quorum\n", "line 1: 'quorum' defines nothing"),
        ("Quorum none\n", "line 1: 'Quorum none' defines nothing"),
        ("quorum none", "not lines of text"),
        ("quorum none\r\n", "not lines of text"),
        ("quorum none\n\x7f\n", "not lines of text"),
    ],
)
def test_other_files_are_refused_with_their_line(text, what):
    with pytest.raises(Refused) as caught:
        policy.parse(text.encode("latin-1", "replace"))
    assert caught.value.refusal is Refusal.BAD_POLICY
    assert what in caught.value.detail, caught.value.detail


def test_a_file_without_end_is_refused():
    with pytest.raises(Refused) as caught:
        policy.parse(b"#\n" * 10**6)
    assert caught.value.refusal is Refusal.BAD_POLICY


def test_the_policy_of_a_consortium_counts_members_not_keys():
    acme, birch, cedar = (key(f"{name}/witness") for name in ("acme", "birch", "cedar"))
    second = SigningKey.generate("acme/witness", MLDSA44)
    named = [("acme", acme), ("acme", second), ("birch", birch), ("cedar", cedar)]
    rule = policy.members(LOG.verify_key, [(name, each.verify_key) for name, each in named], 2)
    assert policy.parse(rule.data()) == rule
    assert not rule.met([acme.verify_key, second.verify_key])
    assert rule.met([second.verify_key, cedar.verify_key])
    assert policy.members(LOG.verify_key, [("acme", acme.verify_key)], 0).met([])


def test_32_of_everything():
    witnesses = [key(f"m{number}/witness").verify_key for number in range(32)]
    logs = [key(f"l{number}/log").verify_key for number in range(32)]
    groups = tuple(policy.Group(f"g{n}", 1, (f"m{n}",) if n == 0 else (f"g{n - 1}", f"m{n}")) for n in range(32))
    rule = policy.Policy(
        tuple(policy.Log(each) for each in logs),
        tuple(policy.Witness(f"m{number}", each) for number, each in enumerate(witnesses)),
        groups,
        "g31",
    )
    assert policy.parse(rule.data()) == rule
    assert rule.met([witnesses[0]])


@given(st.binary(max_size=300) | st.text("log witness group quorum none X1\n\t2", max_size=120).map(str.encode))
def test_no_bytes_crash_it_and_what_it_reads_it_writes(data):
    with suppress(Refused):
        rule = policy.parse(data)
        assert policy.parse(rule.data()) == rule
