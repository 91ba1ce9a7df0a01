"""A bill that the reader's own browser computes again: right if it is, and if one byte is not, named by its place."""

import json
import re
from pathlib import Path

import pytest
from looking import looking
from world import key

from shared_models.published import fetch, reader
from shared_models.records import note, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.merkle import Tree, leaf_hash

VECTORS = Path(__file__).parents[1] / "vectors"
SAID = "#verify output"

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def bill(chromium, real):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{real.url}/bills/simulated")
        yield page
        assert wrong == []


def told(page) -> str:
    """What it says once the button was pressed."""
    page.click("#verify button")
    page.wait_for_selector("#verify button:not([disabled])")
    return page.inner_text(SAID)


def test_an_honest_bill_is_right_and_the_log_s_key_is_shown(bill, real):
    said = told(bill)
    assert said.startswith("Right: 23 entries hash to the root that the log has signed; 14 signatures checked")
    assert "commons.example/log+" in said
    shown = said.partition("Key of the log: ")[2].partition(":")[0]
    bill.fill("#verify input", shown)
    assert f"{shown}, as you gave it" in told(bill)


def test_another_key_of_the_log_than_the_reader_has_is_refused(bill):
    other = json.loads((VECTORS / "c2sp.json").read_text())["vkeys"][0]
    bill.fill("#verify input", other)
    assert "is not signed by commons.example/log+" in told(bill)
    bill.fill("#verify input", other.replace("+0c3cb438+", "+0c3cb439+"))
    assert "does not have the id" in told(bill)


def altered(page, path: str, old: bytes, new: bytes) -> None:
    """From now on this file of the ledger is served with one thing changed."""

    def answer(route) -> None:
        got = route.fetch()
        assert old in got.body()
        route.fulfill(response=got, body=got.body().replace(old, new, 1))

    page.route(path, answer)


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        ("**/tile/entries/**", b'"tokens":96', b'"tokens":97', "Not right: entry 6 is not what the log has published."),
        ("**/tile/entries/**", b'"net":', b'"nez":', "Not right: entry 21 is not what the log has published."),
        (
            "**/checkpoint",
            b"\n23\n",
            b"\n22\n",
            "Not right: the entries do not hash to the root that the log has signed.",
        ),
        (
            "**/checkpoint",
            b"\xe2\x80\x94 commons.example/log ",
            b"\xe2\x80\x94 commons.example/lag ",
            "is not signed by",
        ),
    ],
)
def test_one_byte_that_is_altered_is_named(bill, path, old, new, said):
    altered(bill, path, old, new)
    assert said in told(bill)


def test_a_number_that_only_the_page_shows_is_named(bill):
    bill.evaluate("document.querySelector('tr[data-member=acme] strong').textContent = '-0.01'")
    assert told(bill).startswith("Not right:\n\nthis page shows -0.01 as net of acme; the statement says ")


def answering(body: bytes):
    """What answers every request with this."""

    def answer(route) -> None:
        route.fulfill(body=body)

    return answer


def forged(page, real, change, resign: bool = False) -> None:
    """The operators serve another history: what `change` makes of one entry, under a head that they sign anew.

    `resign`: what was changed is signed by the administrator again; who holds both keys can write any statement.
    """
    read = reader(real.url)
    log = fetch(read)
    leaves, tree = [change(leaf) for leaf in log.leaves], Tree()
    if resign:
        admin = SigningKey.load(real.founded.admin_key)
        leaves = [
            note.sign(note.parse(new).text, [admin]) if new != old else new
            for new, old in zip(leaves, log.leaves, strict=True)
        ]
    assert leaves != log.leaves
    tree.extend(map(leaf_hash, leaves))
    signing = SigningKey.load(real.founded.ledger / "log.key")
    head = tlog.TreeHead(signing.name, tree.size, tree.root()).sign(signing)
    for path, body in (
        ("**/checkpoint", head),
        ("**/tile/entries/**", tlog.pack(leaves)),
        ("**/tile/0/**", tree.hashes(0, 0, tree.size)),
    ):
        page.route(path, answering(body))


def test_who_holds_the_log_s_key_only_cannot_alter_a_receipt(bill, real):
    forged(bill, real, lambda leaf: leaf.replace(b'"energy_mj":0', b'"energy_mj":1') if b'"round":2' in leaf else leaf)
    assert told(bill).startswith("Not right: statement simulated: it covers entries of another root.")


def test_a_charter_that_its_parties_have_not_signed_is_none(bill, real):
    forged(bill, real, lambda leaf: leaf.replace(b'"benefit":2', b'"benefit":3'))
    assert told(bill).startswith("Not right: entry 0: the charter is not signed by commons.example/admin.")


def test_a_head_by_a_key_that_the_charter_does_not_name_is_no_head_of_this_log(bill, real):
    log, other = fetch(reader(real.url)), key("commons.example/log")
    bill.route("**/checkpoint", answering(tlog.unsigned(log.head).sign(other)))
    assert "is not signed by commons.example/log+" in told(bill)
    bill.fill("#verify input", other.verify_key.text())
    assert told(bill).startswith("Not right: the charter names another key of the log.")


def test_a_statement_that_the_log_does_not_hold_is_named(bill):
    said = bill.evaluate(
        """async () => {""" + IN_JS + """ return v.verify('never', '').catch(error => error.message) }"""
    )
    assert said == "the log holds no statement never"


def test_operators_who_sign_another_number_are_told_by_the_line(bill, real):
    def cheaper(leaf: bytes) -> bytes:
        return re.sub(rb'("member":"acme","net":-?)(\d+)', lambda found: found[1] + b"1", leaf)

    forged(bill, real, cheaper)
    assert "Not right: entry 21 is not signed by a key of commons.example/admin." in told(bill)
    bill.unroute_all()
    forged(bill, real, cheaper, resign=True)
    assert re.search(r"Not right:\s+statement simulated, balance acme: net stated -1, recomputed -\d+", told(bill))


IN_JS = "const v = await import('/static/verify.js');"


def test_it_reckons_the_work_of_a_round_as_the_log_does(bill):
    cases = json.loads((VECTORS / "curriculum.json").read_text())
    assert len(cases) > 2
    for case in cases:
        said = {"manifest": {"recipe": case, "rounds": case["rounds"], "flop_per_token": case["flop_per_token"]}}
        for number, flop in enumerate(case["round_flop"], 1):
            said["receipt"] = {"round": number, "tokens": case["inner_steps"] * case["batch"] * case["context"]}
            found = "async (s) => {" + IN_JS + " return String(v.workOf(s.manifest, s.receipt)) }"
            assert bill.evaluate(found, said) == str(flop)


def test_each_number_that_is_not_right_is_named(bill):
    """Each number of a statement, altered by one, with everything around it as it was."""
    found = bill.evaluate(
        """async () => {"""
        + IN_JS
        + """
        const get = async path => new Uint8Array(await (await fetch(path)).arrayBuffer())
        const size = Number(new TextDecoder().decode(await get('/checkpoint')).split('\\n')[1])
        const bundle = await get(v.tilePath('entries', 0, size))
        const entries = []
        for (let at = 0; entries.length < size;) {
            const length = bundle[at] * 256 + bundle[at + 1]
            const leaf = bundle.slice(at + 2, at + 2 + length)
            entries.push(await v.readEntry(leaf, entries.length, v.hex(await v.leafHash(leaf))))
            at += 2 + length
        }
        const stated = entries.find(each => each.kind === 'statement')
        const right = await v.recomputed(entries, stated, entries[0].record)
        const told = {right: v.differences(stated.record, right)}
        const wrong = (name, change) => {
            const bill = structuredClone(stated.record)
            change(bill)
            told[name] = v.differences(bill, right)
        }
        wrong('credit', bill => { bill.lines[0].credit = '1/3' })
        wrong('charge', bill => { bill.lines[4].charge = '7/1' })
        wrong('net', bill => { bill.balances[0].net += 1 })
        wrong('carry', bill => { bill.balances[1].carry = '1/2' })
        wrong('work', bill => { bill.balances[2].flop += 1 })
        wrong('transfers', bill => { bill.transfers[0].amount += 1 })
        wrong('missing', bill => { bill.lines.pop() })
        wrong('unbalanced', bill => { bill.balances.pop() })
        const cheat = structuredClone(entries)
        cheat.find(each => each.kind === 'receipt').record.tokens += 1
        try { await v.recomputed(cheat, stated, entries[0].record) } catch (error) { told.receipt = [error.message] }
        const twice = structuredClone(entries)
        const [first] = twice.filter(each => each.kind === 'round.close')
        first.record.included.push(first.record.included[0])
        try { await v.recomputed(twice, stated, entries[0].record) } catch (error) { told.twice = [error.message] }
        const later = structuredClone(stated)
        later.record.start = 1
        try { await v.recomputed(entries, later, entries[0].record) } catch (error) { told.later = [error.message] }
        told.authors = entries.map(each => [v.authorOf(each, 'commons.example'), each.author, each.kind])
        const item = {kind: 'cost.item', record: {payer: 'acme'}}
        told.payer = v.authorOf(item, 'commons.example')
        return told
        }"""
    )
    assert found.pop("right") == []
    assert found["twice"] == ["entry 9 counts a receipt of acme that is not there, or has counted"]
    assert found["later"] == ["the statement begins at entry 1; the one before ended at 0"]
    judged = [each for each in found["authors"] if each[2] in ("receipt", "round.close", "run.manifest", "statement")]
    assert len(judged) == 14
    assert all(due == author for due, author, _ in judged)
    assert found["payer"] == "acme/admin"
    assert found["credit"][0].startswith("statement simulated, line compute acme: credit stated 1/3, recomputed ")
    assert found["charge"][0].startswith("statement simulated, line services birch: charge stated 7/1, recomputed ")
    assert found["net"][0].startswith("statement simulated, balance acme: net stated ")
    assert found["carry"][0].startswith("statement simulated, balance birch: carry stated 1/2, recomputed ")
    assert found["work"][0].startswith("statement simulated, balance cedar: work stated ")
    assert "the transfers move" in found["transfers"][0]
    assert found["unbalanced"] == ["statement simulated: a balance is missing"]
    assert found["missing"] == ["statement simulated: 5 lines, recomputed 6"]
    assert found["receipt"][0].startswith("entry 6: 97 tokens are not ")


def test_it_agrees_with_python_on_the_vectors(bill):
    """Canonical JSON, leaf hashes, roots, keys, the signature of a head, fractions, and rounding with carry."""
    vectors = {
        name: json.loads((VECTORS / f"{name}.json").read_text()) for name in ("entries", "merkle", "c2sp", "rounding")
    }
    found = bill.evaluate(
        """async vectors => {"""
        + IN_JS
        + """
        const bytes = text => new TextEncoder().encode(text)
        const wrong = []
        for (const each of vectors.entries) {
            const hash = v.hex(await v.leafHash(bytes(each.leaf)))
            const entry = await v.readEntry(bytes(each.leaf), each.index, hash)
            const right = hash === each.leaf_hash && entry.kind === each.kind && entry.author === each.author
            if (!right) wrong.push(each.index)
        }
        const hashes = []
        for (let at = 0; at < 300; at++) hashes.push(await v.leafHash(bytes(`${at}`)))
        for (const [size, root] of Object.entries(vectors.merkle.roots)) {
            if (v.hex(await v.rootOf(hashes.slice(0, Number(size)))) !== root) wrong.push(`root ${size}`)
        }
        const key = await v.readKey(vectors.c2sp.vkeys[0])
        const head = v.readNote(bytes(vectors.c2sp.head))
        if (!await v.signedBy(head, key)) wrong.push('head')
        if (await v.signedBy({...head, text: head.text.replace('9', '8')}, key)) wrong.push('altered head')
        for (const each of vectors.rounding) {
            const [exact, carries] = [each.exact, each.carries].map(said =>
                Object.fromEntries(Object.entries(said).map(([who, value]) => [who, v.Exact.of(value)])))
            const {nets, left} = await v.settle(exact, carries, each.period)
            for (const who of Object.keys(each.nets)) {
                if (Number(nets[who]) !== each.nets[who] || `${left[who]}` !== each.left[who]) wrong.push(each)
            }
        }
        const refused = []
        const refuses = async read => { try { await read() } catch (error) { refused.push(error.message) } }
        await refuses(() => v.readKey('x'))
        await refuses(() => v.readNote(bytes('hello')))
        await refuses(() => v.readNote(bytes('hello\\n\\n- acme aaaa\\n')))
        await refuses(() => v.readEntry(bytes(vectors.entries[1].leaf.replace('{"', '{ "')), 1, ''))
        return {wrong, refused, checked: vectors.entries.length + vectors.rounding.length}
        }""",
        vectors,
    )
    assert found["wrong"] == []
    assert found["checked"] > 60
    assert found["refused"] == [
        "x is not a key",
        "not a signed note",
        "not a signature line",
        "entry 1 is not spelled in its one way",
    ]


def test_what_it_does_not_recompute_it_says(chromium, every_kind):
    with looking(chromium, 390, "dark") as (page, wrong):
        page.goto(f"{every_kind}/bills/2026-11")
        said = told(page)
        assert "Not recomputed here: " in said
        assert "a key.revoke in entry " in said
        assert "Right" not in said
        assert wrong == []
