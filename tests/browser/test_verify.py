"""A bill that the reader's own browser computes again: right if it is, and if one byte is not, named by its place."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from lives import life
from looking import looking
from reading import served
from world import CONSORTIUM, World, added, affirmed, digest, key, member, november, revoked, whole

from shared_models.published import fetch, reader
from shared_models.records import note, tlog
from shared_models.records.entry import KINDS, peek
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, Amendment, Consent, Rate, Vote
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


@pytest.fixture(scope="module")
def lived(tmp_path_factory) -> Iterator[str]:
    """The log of the vectors `bills`: costs in three currencies, disputes, charters amended, who joined and left."""
    with served(life(52, 45), tmp_path_factory.mktemp("life")) as ledger:
        yield ledger.url


def told(page) -> str:
    """What it says once the button was pressed."""
    page.click("#verify button")
    page.wait_for_selector("#verify button:not([disabled])")
    return page.inner_text(SAID)


def test_an_honest_bill_is_right_and_the_log_s_key_is_shown(bill, real):
    said = told(bill)
    # The charter has six, of three members and three operators, and every other entry one.
    assert said.startswith("Right: 23 entries hash to the root that the log has signed; 28 signatures checked")
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


def test_one_altered_byte_of_any_kind_of_entry_is_named(chromium, every_kind):
    """As the ledger serves it; and when who holds the log's key has hashed all of it anew, and signed that."""
    log = fetch(reader(every_kind))
    leaves = list(log.leaves)
    first = {type(peek(leaf)).kind: index for index, leaf in reversed(list(enumerate(leaves)))}
    assert first.keys() == KINDS.keys()
    with looking(chromium, 1280, "light") as (page, _):
        page.goto(f"{every_kind}/bills/2026-11")
        assert told(page).startswith("Right: ")
        for kind, index in first.items():
            old, new = (b'"quorum":2', b'"quorum":3') if kind == "charter" else (b'"seq":', b'"seq":1')
            wrong = leaves[index].replace(old, new, 1)
            same_length = wrong if kind == "charter" else leaves[index].replace(b'"', b"'", 1)
            altered(page, "**/tile/entries/**", leaves[index], same_length)
            assert f"Not right: entry {index} is not what the log has published." in told(page)
            page.unroute_all()
            serving(page, [*leaves[:index], wrong, *leaves[index + 1 :]], key(f"{CONSORTIUM}/log"))
            assert f"Not right: entry {index}: it is not signed by a key of " in told(page), kind
            page.unroute_all()


def test_every_number_that_the_page_shows_is_compared_with_the_statement(chromium, real):
    """One digit of each is altered on its way, what is read and what stands in its title; or its name is."""
    with looking(chromium, 1280, "light") as (page, _):
        page.goto(f"{real.url}/bills/simulated")
        found = page.evaluate("[...document.querySelectorAll('[data-shows]')].map(each => each.dataset.shows)")
        names = list(dict.fromkeys(found))
        # Each member's net, credits, charges, carries and work; two lines; the price; two transfers.
        assert (len(names), len(found)) == (
            3 * 6 + 3 * 2 * 2 + 1 + 2,
            3 * 6 + 3 * 2 * 2 + 1 + 2 + 3,
        )  # Each net stands above its lines once more.
        for name in names:
            for change in ("title", "text"):
                page.route("**/bills/simulated", one_digit(name, change))
                page.goto(f"{real.url}/bills/simulated")
                assert re.match(
                    rf"Not right:\s+this page shows .* as {re.escape(name)}; the statement says ", told(page)
                )
                page.unroute_all()
        page.goto(f"{real.url}/bills/simulated")
        page.evaluate("document.querySelector('summary span').textContent = '0.00'")
        assert re.match(r"Not right:\s+this page shows 0.00 .* as net of acme; the statement says ", told(page))
        name = next(each for each in names if each.startswith("transfer "))
        page.route("**/bills/simulated", one_digit(name, "name"))
        page.goto(f"{real.url}/bills/simulated")
        said = told(page)
        assert f"this page does not show: {name}" in said
        assert "the statement says nothing" in said


def one_digit(name: str, change: str):
    """Serve the page with another digit in this number's text or title, or another letter in its name."""

    def answer(route) -> None:
        got = route.fetch()
        found = re.search(
            rf'<(?:td|span)[^>]*title="([^"]*)" data-shows="({re.escape(name)})">(?:<strong>)?([^<]*)', got.text()
        )
        start, end = found.span({"title": 1, "name": 2, "text": 3}[change])
        old = got.text()[start:end]
        new = (
            old.replace(" ", "  ", 1)
            if change == "name"
            else re.sub(r"\d", lambda digit: str(9 - int(digit[0])), old, count=1)
        )
        assert new != old
        route.fulfill(response=got, body=got.text()[:start] + new + got.text()[end:])

    return answer


def answering(body: bytes):
    """What answers every request with this."""

    def answer(route) -> None:
        route.fulfill(body=body)

    return answer


def forged(page, real, change, resign: bool = False) -> None:
    """The operators serve another history: what `change` makes of one entry, under a head that they sign anew.

    `resign`: what was changed is signed by the administrator again; who holds both keys can write any statement.
    """
    log = fetch(reader(real.url))
    leaves = [change(leaf) for leaf in log.leaves]
    if resign:
        admin = SigningKey.load(real.founded.admin_key)
        leaves = [
            note.sign(note.parse(new).text, [admin]) if new != old else new
            for new, old in zip(leaves, log.leaves, strict=True)
        ]
    assert leaves != log.leaves
    serving(page, leaves, SigningKey.load(real.founded.ledger / "log.key"))


def serving(page, leaves: list[bytes], signing: SigningKey) -> None:
    """From now on the log has these entries."""
    tree = Tree()
    tree.extend(map(leaf_hash, leaves))
    head = tlog.TreeHead(signing.name, tree.size, tree.root()).sign(signing)
    for path, body in (
        ("**/checkpoint", head),
        ("**/tile/entries/**", tlog.pack(leaves)),
        ("**/tile/0/**", tree.hashes(0, 0, tree.size)),
    ):
        page.route(path, answering(body))


def test_who_holds_the_log_s_key_only_cannot_alter_a_receipt(bill, real):
    forged(bill, real, lambda leaf: leaf.replace(b'"energy_mj":0', b'"energy_mj":1') if b'"round":2' in leaf else leaf)
    assert re.match(r"Not right: entry \d+: it is not signed by a key of (acme|birch|cedar)/compute\.", told(bill))


def test_a_charter_that_its_parties_have_not_signed_is_none(bill, real):
    forged(bill, real, lambda leaf: leaf.replace(b'"benefit":2', b'"benefit":3'))
    assert told(bill).startswith("Not right: entry 0: it is not signed by a key of commons.example/admin.")


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
    assert "Not right: entry 21: it is not signed by a key of commons.example/admin." in told(bill)
    bill.unroute_all()
    forged(bill, real, cheaper, resign=True)
    assert re.search(r"Not right:\s+statement simulated, balance acme: net stated -1, recomputed -\d+", told(bill))


def test_operators_who_sign_another_root_are_told(bill, real):
    forged(bill, real, lambda leaf: re.sub(rb'"root":"..', b'"root":"zz', leaf), resign=True)
    assert re.search(r"Not right:\s+statement simulated: root stated zz[0-9a-f]+, recomputed [0-9a-f]+", told(bill))


IN_JS = "const v = await import('/static/verify.js');"


def test_it_reckons_the_work_of_a_round_as_the_log_does(bill):
    cases = json.loads((VECTORS / "curriculum.json").read_text())
    assert len(cases) > 2
    for case in cases:
        said = {"manifest": {name: case[name] for name in ("rounds", "flop_per_token", "steps")}}
        said["manifest"] |= {"recipe": case, "members": ["acme", "birch", "cedar"]}
        for number, flop in enumerate(case["round_flop"], 1):
            found = "async (s) => {" + IN_JS + " return Object.values(v.workOf(s.manifest, 'acme', s.n)).map(String) }"
            tokens = (case["steps"] or [case["inner_steps"]])[0] * case["batch"] * case["context"]
            assert bill.evaluate(found, said | {"n": number}) == [str(tokens), str(flop)]


READ = """
class Trusting extends v.Books { async signed() {} } // So that a test need not sign what it alters.
const read = leaves => Promise.all(leaves.map(async (leaf, index) => {
    const bytes = new TextEncoder().encode(leaf)
    return v.readEntry(bytes, index, v.hex(await v.leafHash(bytes)))
}))
const taken = async (entries, Books = Trusting) => {
    const books = new Books()
    try { for (const each of entries) await books.take(each) } catch (error) { return [error.message] }
    return [...books.wrong, ...books.beyond]
}
"""


def impossible(case: str) -> tuple[list[bytes], str]:
    """A log whose last entry cannot be there, and what is said of it."""
    world, rogue, admin = november(), key("birch/admin"), key(f"{CONSORTIUM}/admin")
    rate = Rate(seq=0, prev=FIRST, currency="USD", date="2026-11-05", rate=Fraction(1), source="", replaces=FIRST)
    extra = added("acme", "compute", key("acme/compute", 2))
    match case:
        case "not for it to say":
            last, said = world.sign("birch/admin", rate), f"not signed by a key of {CONSORTIUM}/admin"
        case "signed by another":
            last, said = world.sign(f"{CONSORTIUM}/admin", rate, rogue), f"not signed by a key of {CONSORTIUM}/admin"
        case "out of order":
            text = note.parse(world.sign(f"{CONSORTIUM}/admin", rate)).text.replace('"seq":1', '"seq":2')
            last, said = note.sign(text, [admin]), f"does not follow the last one of {CONSORTIUM}/admin"
        case "of another log":
            text = note.parse(world.sign(f"{CONSORTIUM}/admin", rate)).text.replace(CONSORTIUM, "other.example", 1)
            last, said = note.sign(text, [admin]), "of another log"
        case "by a revoked key":
            consent = Consent(seq=0, prev=FIRST, member="cedar", run="r1", manifest=digest("m"))
            last, said = world.sign("cedar/compute", consent), "not signed by a key of cedar/compute"
        case "a key for another":
            last, said = world.sign("birch/admin", extra), "not signed by a key of acme/admin"
        case _:
            last, said = world.sign("birch/admin", extra, rogue, key("cedar/admin")), ""
    return [*world.leaves, last], said


@pytest.mark.parametrize(
    "case",
    [
        *("not for it to say", "signed by another", "out of order", "of another log", "by a revoked key"),
        *("a key for another", "a key for another by most admins, which can be"),
    ],
)
def test_an_entry_that_cannot_be_there_is_named(bill, case):
    leaves, said = impossible(case)
    script = "async leaves => {" + IN_JS + READ + " return taken(await read(leaves), v.Books) }"
    found = bill.evaluate(script, [leaf.decode() for leaf in leaves])
    assert [each.endswith(said) and f"entry {len(leaves) - 1}: it " in each for each in found] == (
        [True] if said else []
    )


LIVES = (52, 5, 10, 15, 3)
# What each kind of entry says that bills follow from: altered, no matter which entry of its kind, a line is named.
DATA = {
    "charter": ["price", "members.0.benefit", "pots.1.rule=proportional", "minor_digits"],
    "run.manifest": ["flop_per_token", "recipe.batch"],
    "receipt": ["tokens", "flop", "member", "round"],
    "round.close": ["included.0", "included.0.receipt", "included.0.member", "included.0=twice", "late.0"],
    "run.end": ["status=completed"],
    "rate": ["rate=7/3", "currency=CHF", "date=2026-11-09"],
    "usage": ["quantity", "member", "pot", "period"],
    "cost.item": ["amount", "currency=EUR", "payer", "pot=services", "period=2027-01"],
    "credit.note": ["amount", "item", "period=2027-01"],
    "dispute": ["about"],
    "resolution": ["about", "outcome=stands", "outcome=void"],
    "amendment": ["charter.price", "charter.members.0.benefit", "charter.accession=1/7"],
    "vote": ["choice=no", "amendment"],
    "member.leave": ["member"],
    "key.add": ["key"],
    "key.revoke": ["suspect_from=9999", "id"],
    "key.affirm": ["end=0", "start=9999"],
    "statement": [
        *(
            "start",
            "end",
            "charter",
            "price=1/9",
            "period",
            "lines.0",
            "lines.0.credit",
            "lines.1.charge",
            "lines.0.pot",
        ),
        *("balances.0", "balances.0.flop", "balances.0.net", "balances.0.carry", "balances.1.member", "lines.1.member"),
        *("transfers.0", "transfers.0.amount", "transfers.0.payer", "transfers.0.payee", "unspent_flop"),
    ],
}


@pytest.mark.timeout(900)
def test_each_datum_that_a_bill_follows_from_is_named_if_it_is_altered(bill):
    """What is altered is another number or another word, or is left out; everything around it is as it was."""
    found = bill.evaluate(
        """async ({lives, data}) => {"""
        + IN_JS
        + READ
        + """
        const logs = await Promise.all(lives.map(read))
        const alter = (record, path, to) => {
            const steps = path.split('.'), last = steps.pop()
            const holder = steps.reduce((one, step) => one?.[step], record)
            const old = holder?.[last]
            if (old === undefined || old === to) return false
            if (to === 'twice') holder.push(old)
            else if (to !== undefined) holder[last] = to
            else if (Array.isArray(holder)) holder.splice(Number(last), 1)
            else if (typeof old === 'number') holder[last] = old + 1
            else holder[last] = /\\d$/.test(old) ? old.slice(0, -1) + (9 - Number(old.at(-1))) : old + 'x'
            return true
        }
        const named = async (kind, path, to) => {
            for (const entries of logs) for (const index of entries.keys()) {
                if (entries[index].kind !== kind) continue
                const changed = structuredClone(entries)
                if (!alter(changed[index].record, path, to)) continue
                const wrong = await taken(changed)
                if (wrong.length) return wrong[0]
            }
            return 'nothing'
        }
        const told = {honest: (await Promise.all(logs.map(each => taken(each)))).flat()}
        for (const [kind, paths] of Object.entries(data)) for (const each of paths) {
            told[`${kind} ${each}`] = await named(kind, ...each.split('='))
        }
        return told
        }""",
        {"lives": [[leaf.decode() for leaf in life(seed, 60).leaves] for seed in LIVES], "data": DATA},
    )
    assert found.pop("honest") == []
    for altered_, said in found.items():
        assert re.match(r"entry \d+: |statement [0-9-]+(x|, (line|balance|transfer) [a-z]+|: )", said), (altered_, said)


def test_bills_with_amendments_disputes_and_other_currencies_are_right(chromium, lived):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{lived}/bills")
        bills = page.evaluate("[...document.querySelectorAll('th a[href^=\"/bills/\"]')].map(each => each.pathname)")
        assert len(bills) == 5
        for each in bills:
            page.goto(lived + each)
            said = told(page)
            assert said.startswith("Right: 111 entries hash to the root that the log has signed; "), said
        assert wrong == []


def test_it_bills_any_life_of_a_consortium_as_python_does(bill):
    for seed in range(20):
        world = life(seed, 80)
        found = "async leaves => {" + IN_JS + READ + " return taken(await read(leaves), v.Books) }"
        assert bill.evaluate(found, [leaf.decode() for leaf in world.leaves]) == [], seed


def test_what_a_newcomer_does_before_its_first_period_is_billed_in_that(bill):
    world = World()
    bigger = replace(world.charter, members=(*world.charter.members, member("dogwood", 1)), approvals=3)
    said = Amendment(
        seq=0, prev=FIRST, member="acme", amendment="dogwood", replaces=world.books.agreement.hash, charter=bigger
    )
    hashed = world.say("acme/admin", said)
    for by in ("acme", "birch"):
        world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice="yes"))
    world.members.append("dogwood")
    world.start(charter=world.books.agreement.hash)
    world.round()
    for period in ("2026-11", "2026-12"):
        world.bill(period)
    found = "async leaves => {" + IN_JS + READ + " return taken(await read(leaves), v.Books) }"
    assert bill.evaluate(found, [leaf.decode() for leaf in world.leaves]) == []


def test_what_a_revoked_key_signed_is_affirmed_for_the_statement_behind_that(bill):
    world, old = World(), key("cedar/compute")
    world.start()
    world.round()
    world.say("cedar/admin", revoked("cedar", "compute", old))
    size = world.books.tree.size
    world.say("cedar/admin", affirmed("cedar", "compute", old, 0, size - 1))
    first = world.books.statement("2026-11", size, seq=0, prev=FIRST)
    world.say(f"{CONSORTIUM}/admin", first)
    second = world.bill("2026-12")
    assert [each.flop > 0 for each in first.balances] == [True, True, False]
    assert [each.flop > 0 for each in second.balances] == [False, False, True]
    found = "async leaves => {" + IN_JS + READ + " return taken(await read(leaves), v.Books) }"
    assert bill.evaluate(found, [leaf.decode() for leaf in world.leaves]) == []


def test_a_kind_that_it_does_not_know_is_followed_and_no_bill_behind_it_is_recomputed(bill):
    leaves = [leaf.decode() for leaf in whole().leaves]
    found = bill.evaluate(
        "async leaves => {"
        + IN_JS
        + READ
        + """
        const entries = await read(leaves.map(leaf => leaf.replaceAll('/run.end@v1', '/run.halt@v1')))
        for (const [index, leaf] of leaves.entries()) entries[index].hash = (await read([leaf]))[0].hash
        return taken(entries)
        }""",
        leaves,
    )
    ended = next(index for index, leaf in enumerate(leaves) if "/run.end@v1" in leaf)
    assert found[0] == f"a run.halt in entry {ended}"


def test_it_agrees_with_python_on_the_vectors(bill):
    """Canonical JSON, leaf hashes, roots, keys, the signature of a head, fractions, and rounding with carry."""
    vectors = {
        name: json.loads((VECTORS / f"{name}.json").read_text())
        for name in ("entries", "merkle", "c2sp", "rounding", "shares", "transfers")
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
        const exact = said => Object.fromEntries(Object.entries(said).map(([who, value]) => [who, v.Exact.of(value)]))
        for (const each of vectors.shares) for (const [rule, charges] of Object.entries(each.charges)) {
            const found = v.RULES[rule](v.Exact.of(each.cost), exact(each.drivers))
            for (const who of Object.keys(charges)) if (`${found[who]}` !== charges[who]) wrong.push([rule, each])
        }
        for (const {nets, transfers} of vectors.transfers) {
            const whole = Object.entries(nets).map(([who, net]) => [who, BigInt(net)])
            const found = v.transfersOf(Object.fromEntries(whole))
            const said = found.map(each => [each.payer, each.payee, Number(each.amount)])
            if (JSON.stringify(said) !== JSON.stringify(transfers)) wrong.push([nets, said])
        }
        const refused = []
        const refuses = async read => { try { await read() } catch (error) { refused.push(error.message) } }
        await refuses(() => v.readKey('x'))
        await refuses(() => v.readNote(bytes('hello')))
        await refuses(() => v.readNote(bytes('hello\\n\\n- acme aaaa\\n')))
        await refuses(() => v.readEntry(bytes(vectors.entries[1].leaf.replace('{"', '{ "')), 1, ''))
        const second = await v.readEntry(bytes(vectors.entries[1].leaf), 0, '')
        await refuses(() => new v.Books().take(second))
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
        "entry 0: it is no charter",
    ]


def test_what_it_does_not_recompute_it_says(chromium, every_kind):
    with looking(chromium, 390, "dark") as (page, wrong):
        page.goto(f"{every_kind}/bills/2026-12")
        said = told(page)
        assert re.search(r"Not recomputed here: a default in entry \d+, .*a price in entry \d+\.", said)
        assert f"Offline: consortium audit {every_kind}" in said
        assert "Right" not in said
        assert wrong == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "nucleolus"}, "the pot services, by nucleolus"),
        ({"floors": [{"member": "acme", "amount": 1}]}, "the pot services, by equal with floors or caps"),
        ({"cap": "alone"}, "a cap by quotes"),
    ],
)
def test_a_rule_that_it_cannot_repeat_is_named(bill, changes, said):
    leaves = [leaf.decode() for leaf in november().leaves]
    found = bill.evaluate(
        "async ({leaves, changes}) => {"
        + IN_JS
        + READ
        + """
        const entries = await read(leaves), charter = entries[0].record
        Object.assign('cap' in changes ? charter : charter.pots[1], changes)
        return taken(entries)
        }""",
        {"leaves": leaves, "changes": changes},
    )
    assert found == [said]
