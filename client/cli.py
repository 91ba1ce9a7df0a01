"""A member's commands: run the node, see what it does, bring in a cost, read and verify the bill."""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import allocate
from shared_models import processes
from shared_models.command import ADMIN, MONEY, NODE, RIGHT, START, UNKNOWN, WAITING, WRONG, Command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from client.charter import Said
    from client.home import Home
    from client.runs import Asked
    from client.speed import Speed
    from shared_models.records.keys import SigningKey
    from shared_models.rules.audit import Report
    from shared_models.rules.pace import Paced


def _home(parser: ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, required=True, help="the member's folder")


def _up_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument(
        "--unit", action="store_true", help="print a unit by which systemd runs it, and do nothing else"
    )


def _up(args: Namespace) -> int:
    from client.home import Home
    from shared_models import service

    home = Home(args.home)
    if args.unit:
        command, what = ["up", "--home", str(home.path.resolve())], f"Consortium member {home.settings.member}"
        gpu, makes = home.settings.processor != "cpu", "user net"  # client/confine.py makes these.
        print(service.unit(command, what=what, writes=[home.path], watchdog_s=600, devices=gpu, namespaces=makes))
        return RIGHT
    from client.daemon import Daemon

    service.log_to_stderr(["client"])
    Daemon(home).run()
    return RIGHT


def _status_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument("--watch", action="store_true", help="again when it has changed, until it ends, or Ctrl-C")


def _status(args: Namespace) -> int:
    """What the daemon of this folder is doing: 1, if it has ended. A coordinator's folder has a status too."""
    import time

    path, shown = args.home / "status.json", ""
    if not path.is_file():
        print(f"nothing has run in {args.home} yet", file=sys.stderr)
        return UNKNOWN
    while True:
        said, code = _status_text(json.loads(path.read_text()), as_json=args.json)
        if said != shown:  # On a terminal in place of what stood there.
            print(f"\033[H\033[J{said}" if args.watch and sys.stdout.isatty() and not args.json else said, flush=True)
            shown = said
        if not args.watch or code != RIGHT:
            return code
        time.sleep(0.5)


def _status_text(status: dict[str, Any], *, as_json: bool) -> tuple[str, int]:
    """What is said of it, and the exit code."""
    ended = "pid" in status and not processes.lives(status["pid"])
    if ended and status["phase"] not in ("stopped", "taken away"):
        status |= {"phase": "ended", "detail": f"it was {status['phase']}, and did not say why"}
    lines = "\n".join(f"{name:12} {value}" for name, value in status.items())
    told = json.dumps({"schema": "consortium.status/1", **status}) if as_json else lines
    return told, WRONG if ended else RIGHT


def _doctor_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument("--calibrate", action="store_true", help="measure first how fast this machine trains")
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE", help="also write a .tar.gz for a helper, without secrets"
    )
    parser.epilog = "Exit code 0: it can work; 1: something fails; 2: something could not be looked at."


def _doctor(args: Namespace) -> int:
    """Look at everything that keeps a node from working, and print what mends it. Nothing else is changed."""
    from client.doctor import Doctor, bundle
    from client.home import Home

    home, found = Home(args.home), []
    if args.calibrate:
        _calibrate(home)
    for each in Doctor(home).examine():
        found.append(each)
        if not args.json:
            print(f"{each.state:8} {each.check:12} {each.says}", flush=True)
            if each.do:
                print(f"{'':8} {'do':>12} {each.do}")
    written = bundle(found, home, args.bundle) if args.bundle else []
    states = [each.state for each in found]
    if args.json:
        print(json.dumps({"schema": "consortium.doctor/1", "found": [each._asdict() for each in found]}))
    else:
        for name, size in written:
            print(f"in {args.bundle}: {name}, {size:,} bytes")
        print(f"{len(found)} checks: {states.count('fail')} failed, {states.count('warning')} warnings")
    return WRONG if "fail" in states else UNKNOWN if "unknown" in states else RIGHT


def _calibrate(home: "Home") -> "Speed":
    """Measure how fast this machine trains: the newest run that asks for it, or the small GPT."""
    from client import speed
    from shared_models.rules.recipes import SMALL

    run = speed.newest_run(home, home.ledger(patience_s=0))
    return speed.calibrate(home, SMALL if run is None else run.recipe)


def _policy_explain_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--run", help="what it says of this run, too; the ledger is asked for it")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.epilog = "Exit code 1: no round may begin now."


def _policy_explain(args: Namespace) -> int:
    """Print every line of the policy, and what it says now; if no round may begin, when one first may."""
    import datetime
    import time

    from client import policy
    from client.home import Home
    from shared_models.records import entry as entries
    from shared_models.records.kinds import Manifest
    from shared_models.records.refusals import Refusal, Refused

    home, manifest = Home(args.home), None
    if args.run is not None:
        found = (entries.peek(leaf) for leaf, *_ in home.ledger().runs())
        manifest = next((each for each in found if isinstance(each, Manifest) and each.run == args.run), None)
        if manifest is None:
            raise Refused(Refusal.UNKNOWN_RUN, f"the log holds no manifest of a run {args.run}")
    receipts = home.receipts()
    rules, now_ms = policy.read(home.policy_path), time.time_ns() // 1_000_000
    told = list(rules.told(receipts, now_ms, manifest, home.settings.member))
    pause = policy.paused(home.path)
    may = pause is None and all(each.allows for each in told)
    opens_ms = (
        None if all(each.allows for each in told) else rules.opens_ms(receipts, now_ms, manifest, home.settings.member)
    )
    if args.json:
        says = {
            "schema": "consortium.policy/1",
            "may_begin": may,
            "paused": pause and pause.reason,
            "opens_ms": opens_ms,
        }
        print(json.dumps(says | {"lines": [each._asdict() for each in told]}))
        return RIGHT if may else WRONG
    if pause is not None:
        print(f"{'refuses':8} training is paused{': ' if pause.reason else ''}{pause.reason}")
    for each in told:
        print(f"{'allows' if each.allows else 'refuses':8} line {each.line:3}  {each.rule}: {each.says}")
    if opens_ms is not None:
        opens = datetime.datetime.fromtimestamp(opens_ms / 1000, rules.zone)
        print(f"{'opens':8} {opens:%a %d %b %H:%M} {rules.zone.key}, by what is known now")
    if not told and pause is None:
        where = home.policy_path
        print(f"{where} decides nothing here" if where.exists() else f"there is no {where}: every run is trained")
    return RIGHT if may else WRONG


def _policy_pause_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--reason", default="", help="shown to whoever asks this node to train")
    parser.add_argument("--now", action="store_true", help="end the round that runs, too: its work is lost")


def _policy_pause(args: Namespace) -> int:
    """Let no round begin here until `consortium policy resume`; the daemon keeps running, and witnesses the log."""
    from client import policy
    from client.home import Home

    policy.pause(Home(args.home).path, args.reason, now=args.now)
    print("paused: " + ("the round that runs is ended" if args.now else "the round that runs goes on to its end"))
    return RIGHT


def _policy_resume(args: Namespace) -> int:
    """Let rounds begin again."""
    from client import policy
    from client.home import Home

    print("resumed" if policy.resume(Home(args.home).path) else "it was not paused")
    return RIGHT


def _source(parser: ArgumentParser) -> None:
    parser.add_argument("log", help="a log: a folder, a zip file, or the ledger's address")
    parser.add_argument("--key", type=Path, help="ask by this key, such as keys/compute.key, a ledger for members only")


def _asker(args: Namespace) -> "SigningKey | None":
    """The key by which a log is asked for: the one that was named, or the folder's."""
    from client.home import Home
    from shared_models.records.keys import SigningKey

    if args.key is not None:
        return SigningKey.load(args.key)
    return Home(args.home).ledger().key if getattr(args, "home", None) else None


def _audit_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("--home", type=Path, help="your member's folder: pins your charter, entries and tree head")
    parser.add_argument("--charter", help="leaf hash of the charter you signed, if you have no folder")
    parser.add_argument(
        "--mode",
        choices=("full", "attested", "sampled"),
        default="full",
        help="which signatures to verify: all; all but those that members vouch for; a share of the receipts'",
    )
    parser.add_argument("--share", type=float, default=0.05, help="what share, in mode sampled; default 0.05")
    parser.add_argument("--workers", type=int, help="processes beside this one; as many as cores by default")
    parser.add_argument("--again", action="store_true", help="verify also what an earlier audit of your folder has")
    parser.add_argument(
        "--steps", action="store_true", help="each member's in every run, and what pacing makes of them"
    )
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _audit(args: Namespace) -> int:
    """Recompute everything. 0: all is right; 1: something is not, and it is named; 2: it could not be told."""
    from client.auditor import Auditor, paced
    from client.home import Home
    from shared_models.records.refusals import Refusal, Refused

    if not 0 < args.share <= 1 or (args.workers or 0) < 0:
        raise Refused(Refusal.BAD_FIELD, "--share is above 0 and at most 1, --workers is 0 or more")
    home = Home(args.home) if args.home else None
    report = Auditor(
        charter=home.charter_entry.hash.hex() if home else args.charter,
        mine=home.signed() if home else (),
        witnessed=[home.witnessed()] if home else [],
        mode=args.mode,
        share=args.share,
        workers=args.workers,
        verified_path=home.verified_path if home and not args.again else None,
        key=_asker(args),
        shown=_progress if sys.stderr.isatty() and not args.json else lambda *_: None,
    ).run(args.log)
    steps = list(paced(args.log, report.books, _asker(args))) if args.steps and not report.findings else []
    if args.json:
        findings = [
            {"entry": each.index, "code": each.refusal.value, "detail": each.detail} for each in report.findings
        ]
        names = ("entries", "signatures", "vouched", "cosignatures", "receipts", "accepted", "numbers", "notices")
        found = {name: getattr(report, name) for name in names}
        found |= {"steps": [each._asdict() for each in steps]} if args.steps else {}
        print(json.dumps({"schema": "consortium.audit/1", "mode": args.mode, **found, "findings": findings}))
        return WRONG if findings else RIGHT
    unverified = f" ({report.vouched} {_UNVERIFIED[args.mode]})" if report.vouched else ""
    print(f"entries {report.entries}, signatures {report.signatures}{unverified}, receipts {report.receipts}", end=", ")
    print(f"of them accepted {report.accepted}, amounts {report.numbers}, cosignatures {report.cosignatures}")
    if home is None and args.charter is None:
        print("no charter was pinned: this shows that the log agrees with itself, not whose log it is")
    for notice in report.notices:
        print(f"note  {notice}")
    for each in steps:
        print(f"steps {_steps(each)}")
    for finding in report.findings:
        print(finding)
    if report.findings:
        print(f"audit: {len(report.findings)} finding{'s' if len(report.findings) > 1 else ''}")
        return WRONG
    print("audit: every number recomputed, 0 findings")
    return RIGHT


def _steps(paced: "Paced") -> str:
    """What a run asks of each, and in brackets what its receipts make of that, if it is another number, or none."""
    told = list[str]()
    for member, asked in paced.asked.items():
        found = paced.paced.get(member)
        beside = " (no receipt)" if found is None else f" (paced: {found:,})" if found != asked else ""
        told.append(f"{member} {asked:,}{beside}")
    same = ": as paced by the receipts before it" if paced.paced == paced.asked else ""
    return f"of run {paced.run}, entry {paced.entry}: {', '.join(told)}{same}"


def _verify_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("run", help="whose steps to take again")
    parser.add_argument(
        "--files",
        type=Path,
        required=True,
        help="the coordinator's folder, a copy of its files, or one for what is shown",
    )
    parser.add_argument("--round", type=int, help="only this one")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="of a run whose model is a file's, which you have read; else HOME's",
    )
    parser.add_argument("--home", type=Path, help="your member's folder: pins your charter, and fetches what is shown")
    parser.add_argument("--charter", help="leaf hash of the charter you signed, if you have no folder")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _verify(args: Namespace) -> int:
    """From the log and the updates to the checkpoints. 0: all are as the log says; 1: one is not, or a file is not."""
    from client.home import Home
    from client.steps import logged, repeat
    from shared_models.published import fetch, reader
    from shared_models.rules.audit import audit

    home = Home(args.home) if args.home else None
    charter = home.charter_entry.hash.hex() if home else args.charter
    log = fetch(reader(args.log, _asker(args)))
    findings = audit(log.leaves, log.head, log.hashes, cosigned=log.cosigned, charter=charter).findings
    if findings:
        print(f"the log is not right, and nothing was repeated: {findings[0]}", file=sys.stderr)
        return WRONG

    def bring(round_: int, member: str) -> "BinaryIO":
        assert home is not None
        return home.ledger().update(args.run, round_, member, home.key("compute"))

    read = args.models or (home.models_path if home else Path())
    found = list(repeat(logged(log.leaves, args.run), args.files, args.round, bring if home else None, read))
    if args.json:
        steps = [asdict(each) for each in found]
        print(json.dumps({"schema": "consortium.steps/1", "run": args.run, "steps": steps}))
    else:
        for each in found:
            what = each.wrong or f"{each.updates} updates lead to {each.checkpoint[:16]}…, as the log says"
            print(f"round {each.round}: {what}")
        if charter is None:
            print("no charter was pinned: this shows that the log agrees with itself, not whose log it is")
    return WRONG if any(each.wrong for each in found) else RIGHT


_UNVERIFIED = {
    "full": "more were verified in an earlier audit",
    "attested": "more are vouched for by their members",
    "sampled": "more were left out, by chance",
}


def _progress(done: int, size: int) -> None:
    """A bar on the screen, one line that is written over."""
    width = 40
    filled = width * done // size
    end = "\r\x1b[K" if done == size else ""
    sys.stderr.write(f"\raudit {'█' * filled}{'·' * (width - filled)} {done:,} of {size:,} entries{end}")
    sys.stderr.flush()


def _bill_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("--period", help="which; the newest by default")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--explain", metavar="LINE", help="where a number comes from: MEMBER, or MEMBER/POT")
    ways.add_argument("--diff", metavar="PERIOD", help="what has changed since that period, and why")
    ways.add_argument("--what-if", metavar="POT=RULE", action="append", help="the same work and costs by other rules")
    ways.add_argument("--as", dest="form", choices=("csv", "hledger", "beancount", "focus"), help="of --period, or all")
    parser.add_argument("--date", help="of a journal's entries; by default the last day of the month or year")
    parser.add_argument("--json", action="store_true", help="the same for programs; with --explain, proofs too")


def _bill(args: Namespace) -> int:
    """Recompute the log, then show a statement of it. 1 if the log is not right."""
    from client import bill, explain
    from client.auditor import Auditor
    from client.export import FORMS
    from client.focus import as_focus
    from shared_models.published import reader
    from shared_models.records import tlog
    from shared_models.records.kinds import Statement
    from shared_models.records.refusals import Refusal, Refused
    from shared_models.rules import what_if
    from shared_models.rules.books import Books

    if args.json and args.form:
        raise Refused(Refusal.BAD_FIELD, "--as and --json are two forms: choose one")
    newest, opened, at = "", dict[str, explain.Opened](), dict[str, int]()

    def keep(books: Books, stated: Statement) -> None:
        nonlocal newest
        at[stated.period] = books.tree.size
        if newest not in (args.period, args.diff):
            opened.pop(newest, None)
        newest = stated.period
        opened[newest] = explain.Opened.of(books, stated)

    key = _asker(args)
    report = Auditor(billed=keep, key=key).run(args.log)
    books = report.books
    bills = [each for each in books.statements if args.period in (None, each.period)]
    if not bills:
        raise Refused(Refusal.NOT_FOUND, f"the log holds no statement {args.period or ''}".rstrip())
    shown = bills[-1]
    charter, _ = books.agreement.at(shown.start)
    this, that = opened.get(shown.period), opened.get(args.diff or "")
    if (args.explain, args.diff, args.what_if) != (None, None, None) and this is None:
        raise Refused(
            Refusal.WRONG_STATEMENT, f"{shown.period} is not what its entries say: consortium audit {args.log}"
        )
    if args.form == "focus":
        if wrong := [each.period for each in bills if each.period not in at]:
            raise Refused(
                Refusal.WRONG_STATEMENT, f"{wrong[0]} is not what its entries say: consortium audit {args.log}"
            )
        terms = (books.agreement.at(each.start)[0] for each in bills)
        print(
            as_focus(((at[each.period], each, own) for each, own in zip(bills, terms, strict=True)), args.date), end=""
        )
    elif args.form:
        print(FORMS[args.form](bills, charter, args.date), end="")
    elif args.explain is not None and this is not None:
        read = reader(args.log, key)
        head = read(tlog.HEAD)
        number = explain.explain(this, args.explain, read, books.tree.size)
        print(json.dumps(explain.number_json(number, books, head)) if args.json else explain.number_text(number))
    elif args.diff is not None and this is not None:
        if that is None:
            raise Refused(Refusal.NOT_FOUND, f"the log holds no statement {args.diff} that is right")
        changes = explain.changes(that, this)
        print(json.dumps(explain.changes_json(changes)) if args.json else explain.changes_text(changes, that, this))
    elif args.what_if and this is not None:
        other = what_if.under(this.bill, this.facts, what_if.asked(args.what_if))
        told = {"schema": "consortium.what_if/1", **explain.as_json(other, charter)}
        print(json.dumps(told) if args.json else explain.what_if_text(this, other, args.what_if))
    else:
        worths = [each for each in books.worths if shown.start <= each.entry < shown.end]
        served = books.accounts.served.billed.get(shown.period, ())
        told = {"schema": "consortium.bill/1", **explain.as_json(shown, charter), "worth": bill.worth_json(worths)}
        unspent = [*books.accounts.unspent_in(shown.start, shown.end)]
        told |= {"served": bill.served_json(served), "unspent": bill.unspent_json(unspent, shown)}
        said = [bill.text(shown, charter), *bill.unspent_text(unspent, shown, charter)]
        said += [*bill.worth_text(worths), *bill.served_text(served)]
        print(json.dumps(told) if args.json else "\n".join(said))
        disputed = books.accounts.disputed(shown)
        if disputed and not args.json and this is not None:
            print(f"\nin dispute: {', '.join(about for about, _ in disputed)}; without it:")
            try:
                left = what_if.without(this.bill, this.facts, (put for _, put in disputed))
                print(bill.text(left, charter))
            except Refused as refused:  # Floors that the cost reaches with it only.
                print(refused)
    if report.findings:
        print(f"this log is not right, and the numbers above may not be: consortium audit {args.log}", file=sys.stderr)
        return WRONG
    return RIGHT


def _open_pages_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, help="your folder")
    parser.add_argument("--key", type=Path, help="or the key to sign in by, such as the administrator's,")
    parser.add_argument("--ledger", help="and the ledger's address")


def _open_pages(args: Namespace) -> int:
    """Print a link that signs a browser in to the ledger's pages: once, within five minutes, for twelve hours."""
    from client.home import Home
    from shared_models.ledger_http import LedgerHttp
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refusal, Refused

    if (args.home is None) == (args.key is None) or (args.key is None) != (args.ledger is None):
        raise Refused(Refusal.BAD_FIELD, "name your folder, --home, or a key and a ledger, --key and --ledger")
    ledger = Home(args.home).ledger() if args.home else LedgerHttp(args.ledger, key=SigningKey.load(args.key))
    if ledger.key is None:
        raise Refused(Refusal.NOT_SET_UP, f"{args.home} has no key to sign in by")
    print(ledger.link(ledger.key))
    return RIGHT


def _fetch_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("folder", type=Path, help="where to put it")


def _fetch(args: Namespace) -> int:
    from shared_models.published import reader, save

    save(reader(args.log, _asker(args)), args.folder)
    print(f"audit it with: consortium audit {args.folder}")
    return RIGHT


def _cost_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--pot", required=True, help="one of the charter's shared pots")
    parser.add_argument("--period", required=True, help="whose statement divides it, such as 2026-11")
    parser.add_argument("--focus", type=Path, metavar="CSV", help="all of a cloud's bill, in FOCUS form; or one cost:")
    parser.add_argument("--item", help="a name for it, used once")
    parser.add_argument("--amount", help="as on the invoice, such as 12.00")
    parser.add_argument("--currency", help="of the invoice; the charter's by default")
    parser.add_argument("--date", help="of the invoice, YYYY-MM-DD: by this day's rate it is converted")
    parser.add_argument("--category", help="what was bought: compute, storage, network, staff, tax ...; default other")
    parser.add_argument("--invoice", type=Path, help="the evidence; only a salted hash of it leaves")
    parser.add_argument("--dry-run", action="store_true", help="say what would be entered, and enter nothing")


def _cost(args: Namespace) -> int:
    """Enter one cost, or each of a cloud's bill. What is entered already stays as it is."""
    from client import cost, focus
    from client.home import Home
    from shared_models.records.refusals import Refusal, Refused
    from shared_models.rules.currency import amount

    one = {name: getattr(args, name) for name in ("item", "amount", "date", "invoice")}
    if args.focus and any([*one.values(), args.currency, args.category]):
        raise Refused(Refusal.BAD_FIELD, "with --focus, only --pot and --period are named: the file says the rest")
    if not args.focus and not all(one.values()):
        raise Refused(Refusal.BAD_FIELD, "name --item, --amount, --date and --invoice, or a bill by --focus")
    evidence = _read(args.focus or args.invoice)
    if args.focus:
        entered = focus.costs(evidence, args.pot, args.period)
    else:
        entered = [
            cost.Cost(
                item=args.item,
                pot=args.pot,
                period=args.period,
                category=args.category or "other",
                amount=amount(args.amount),
                currency=args.currency or Home(args.home).charter.currency,
                date=args.date,
            )
        ]
    for done, each in enumerate(entered):
        what = f"{each.item}, {each.amount} {each.currency} for {each.category}"
        if args.dry_run:
            print(f"cost item {what}")
            continue
        try:
            print(f"cost item {what}, is entry {cost.append(args.home, each, evidence)}")
        except Refused as refused:
            said = (
                f"{each.item}: {refused.detail}; {done} of {len(entered)} cost items are entered, and once more is safe"
            )
            raise Refused(refused.refusal, said) from None
    return RIGHT


def _quote_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("period", help="one that has not begun, such as 2026-12")
    parser.add_argument(
        "--about",
        choices=("alone", "price"),
        required=True,
        help="what the period would cost you alone; or what an NCU should be worth",
    )
    parser.add_argument(
        "--with", dest="others", metavar="MEMBER", nargs="+", default=[], help="alone, but with these others"
    )


def _quote_seal_arguments(parser: ArgumentParser) -> None:
    _quote_arguments(parser)
    parser.add_argument("--amount", required=True, help="in the charter's currency, such as 1200.50")


def _quote_seal(args: Namespace) -> int:
    """Nobody sees the amount, and you cannot change it: it lies in HOME/quotes until you open it."""
    from client.quotes import seal

    index = seal(args.home, args.about, args.period, args.amount, args.others)
    print(f"sealed: entry {index}; open it with: consortium quote open {args.period} --about {args.about}", end=" ")
    print(" ".join(["--home", str(args.home), *(["--with", *args.others] if args.others else [])]))
    return RIGHT


def _quote_open(args: Namespace) -> int:
    from client.quotes import unseal

    print(f"open: entry {unseal(args.home, args.about, args.period, args.others)}")
    return RIGHT


def _challenged_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _challenged(args: Namespace) -> int:
    """Recompute the log, then list what it has drawn: of others for you to repeat, of your own for you to open."""
    from client import work
    from client.auditor import audited
    from client.home import Home

    home = Home(args.home)
    drawn = work.challenged(audited(home), home.settings.member)
    print(json.dumps({"schema": "consortium.challenged/1", "drawn": drawn}) if args.json else work.text(drawn))
    return RIGHT


def _open_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("receipt", help="leaf hash of a receipt of yours: see `consortium work challenged`")
    parser.add_argument("--to", type=Path, required=True, help="the file to be written, for whoever is to repeat it")
    parser.add_argument("--segment", type=int, help="another one than the log drew, from 0: it is your choice to show")


def _open(args: Namespace) -> int:
    """Train that round again, and write down what one segment began and ended with. Your text stays with you."""
    from client.work import show

    if args.segment is not None and args.segment < 0:
        _bad_segment(args.segment)
    print(f"segment {show(args.home, args.receipt, args.segment, args.to)} of {args.receipt} is open in {args.to}")
    return RIGHT


def _bad_segment(segment: int) -> None:
    from shared_models.records.refusals import Refusal, Refused

    raise Refused(Refusal.BAD_FIELD, f"--segment {segment}: the first one is 0")


def _replay_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("file", type=Path, help="what a member has opened")
    parser.add_argument("--text", type=Path, metavar="FILE", help="its text, if that is entrusted to you")
    parser.add_argument("--synthetic", type=Path, metavar="FILE", help="what it sampled from a model, likewise")
    parser.add_argument("--sign", action="store_true", help="say in the log what came of it, once and for all")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _replay(args: Namespace) -> int:
    """Train that segment again. 0: it leads where the member said; 1: it does not; 2: this is no opening of it."""
    from client.work import replay

    told = replay(args.home, _read(args.file), sign=args.sign, text=args.text, synthetic=args.synthetic)
    if args.json:
        print(json.dumps({"schema": "consortium.replay/1", **told}))
    else:
        print(f"{told['member']}, round {told['round']} of {told['run']}, segment {told['segment']}: {told['verdict']}")
        print(f"  {told['why']}; {told['distance_ppm']} ppm" + (f"; entry {told['entry']}" if args.sign else ""))
        if "artefact" in told:
            share = f"{told['synthetic_tokens']:,} of {told['trained_tokens']:,} tokens"
            print(f"  {share} were sampled from artefact {told['artefact']}")
    return WRONG if told["verdict"] == "differs" else RIGHT


def _answer_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument(
        "--text", type=Path, action="append", default=[], metavar="FILE", help="a text that is entrusted to you"
    )
    parser.add_argument("--json", action="store_true", help="the same for programs, a line each")
    parser.epilog = "Exit code 1: something differs, or could not be shown."


def _answer(args: Namespace) -> int:
    """Do all of it by itself: show what was drawn of yours, repeat what you were drawn for, and sign what came of it.

    A daemon does this now and then; by hand it is done at once.
    """
    from client.work import answer

    return print_answers(answer(args.home, args.text), as_json=args.json)


def print_answers(answers: "Iterable[dict[str, Any]]", *, as_json: bool) -> int:
    """Print what came of each thing that the log asked for; the exit code."""
    code = RIGHT
    for each in answers:
        came = each.get("refused", each.get("verdict", "shown"))
        if as_json:
            print(json.dumps({"schema": "consortium.answer/1", **each}), flush=True)
        else:
            where = f"{each['member']}, round {each['round']} of {each['run']}, segment {each['segment']}"
            print(f"{where}: {came}{': ' if 'why' in each else ''}{each.get('why', '')}", flush=True)
        code = WRONG if came not in ("shown", "matches", "close") else code
    return code


def _unanswered_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("receipt", help="leaf hash of a receipt that was drawn, and that you were not shown")


def _unanswered(args: Namespace) -> int:
    from client.work import unanswered

    print(f"{args.receipt} was not opened: entry {unanswered(args.home, args.receipt)}")
    return RIGHT


def _settle_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("period", help="of the statement")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--paid", metavar="PAYEE", default="", help="say that you have paid this member")
    ways.add_argument("--received", metavar="PAYER", default="", help="say that this member has paid you")
    ways.add_argument("--json", action="store_true", help="what is open, for programs")


def _settle(args: Namespace) -> int:
    """What is still to be paid, and who says what of it; a transfer is paid when both have said so."""
    from client.auditor import audited
    from client.home import Home
    from client.settle import settle, shown, text

    if args.paid or args.received:
        print(f"settlement: entry {settle(args.home, args.period, paid=args.paid, received=args.received)}")
        return RIGHT
    books = audited(Home(args.home))
    told = {"schema": "consortium.settle/1", **shown(books, args.period)} if args.json else {}
    print(json.dumps(told) if args.json else text(books, args.period))
    return RIGHT


def _default_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("period", help="of the statement")
    parser.add_argument("member", help="who does not pay what it owes")
    parser.add_argument("--reason", required=True, help="in a line")


def _default(args: Namespace) -> int:
    """When more than half of the others say so too, they bear the debt by their benefit, and settle anew."""
    from client.settle import default

    print(f"default of {args.member}: entry {default(args.home, args.period, args.member, args.reason)}")
    return RIGHT


def _credit_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--item", required=True, help="the cost item of yours, by the name you entered it under")
    parser.add_argument("--amount", required=True, help="what is given back of it, in the invoice's currency")
    parser.add_argument("--period", required=True, help="whose statement takes it in: one that has none yet")
    parser.add_argument("--reason", required=True, help="in a line")


def _credit(args: Namespace) -> int:
    """It gives back at the rate of the invoice; of all credit notes together, no more than the invoice said."""
    from client.objections import credit

    index = credit(args.home, args.item, args.amount, args.period, args.reason)
    print(f"credit note for {args.item}: entry {index}")
    return RIGHT


def _dispute_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("about", help="item/PAYER/ITEM or work/RUN/ROUND/MEMBER")
    parser.add_argument("--reason", required=True, help="in a line")


def _dispute(args: Namespace) -> int:
    """It is not billed until most members have ruled on it; if it is billed already and void, it is taken back."""
    from client.objections import dispute

    print(f"{args.about} is in dispute: entry {dispute(args.home, args.about, args.reason)}")
    return RIGHT


def _rule_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("about", help="what is disputed, as the dispute names it")
    parser.add_argument("outcome", choices=("stands", "void"))
    parser.add_argument("--reason", required=True, help="in a line")


def _rule(args: Namespace) -> int:
    """Each member rules once; what more than half of them say, holds."""
    from client.objections import rule

    ruled = rule(args.home, args.about, args.outcome, args.reason)
    voices = f"{len(ruled.said)} of {ruled.present} members, {', '.join(ruled.said)}"
    print(f"{args.about} {_IS[args.outcome]}, by {voices}: entry {ruled.at}")
    print("so it is ruled" if ruled.decided else f"it takes {ruled.needed} who say so")
    return RIGHT


_IS = {"stands": "stands", "void": "is void"}


def _runs_show_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("run", nargs="?", help="all that it asks of you; by default a line for each")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _runs_show(args: Namespace) -> int:
    """Print which runs ask for this member, and how it stands with each; or all that one asks."""
    from client import runs
    from client.home import Home

    home = Home(args.home)
    ledger = home.ledger()
    found = [runs.one(home, ledger, args.run)] if args.run else list(runs.asked(home, ledger))
    if args.json:
        shown = [
            {"run": each.manifest.run, "state": each.state, "manifest": each.hash, "consented": each.consented}
            | {"refused": each.refused, "word": each.word and asdict(each.word)}
            | {"round_flop": str(each.round_flop), "bundle": each.manifest.bundle, "rounds": each.manifest.rounds}
            for each in found
        ]
        print(json.dumps({"schema": "consortium.runs/1", "runs": shown}))
        return RIGHT
    for each in found:
        word = each.word.reason if each.word is not None else ""
        print(f"{each.manifest.run:16} {each.state:10} {each.refused or word}".rstrip())
    if not found:
        print("no run asks for you")
    if args.run:
        print(*_said_of(home, found[0]), sep="\n")
    return RIGHT


def _said_of(home: "Home", asked: "Asked") -> "Iterator[str]":
    """All that a run asks of this member, a line each."""
    from fractions import Fraction

    from shared_models.records.kinds import FIRST
    from shared_models.rules.currency import money
    from shared_models.rules.pricing import FLOP_PER_NCU

    manifest, agreement = asked.manifest, home.keyring.agreement
    price = agreement.charter.price
    yield f"manifest        {asked.hash}"
    yield f"bundle          {manifest.bundle}: {_build_is(manifest.bundle)}"
    in_force = "" if manifest.charter == agreement.hash else "not "
    yield f"charter         {manifest.charter}: {in_force}the one in force"
    yield f"members         {', '.join(manifest.members)}; {manifest.quorum} of them make a round"
    yield f"rounds          {manifest.rounds:,}, each of {manifest.deadline_ms / 1000:,.0f} s at most"
    work = f"{float(Fraction(asked.round_flop, FLOP_PER_NCU)):.3g} NCU"
    worth = f"{money(asked.round_worth(price), agreement.charter)} {agreement.charter.currency}"
    steps = manifest.recipe_of(asked.member).inner_steps
    yield f"a round         {steps:,} steps, {work} of you, {worth} at the charter's price"
    if manifest.steps:
        others = zip(manifest.members, manifest.steps, strict=True)
        yield f"steps           {', '.join(f'{member} {each:,}' for member, each in others)}"
        yield f"{'':16}against receipts: consortium audit {home.settings.ledger} --home {home.path} --steps"
    yield f"begins with     {'weights that its seed draws' if manifest.start == FIRST else manifest.start}"
    yield f"recipe          {', '.join(f'{name} = {value}' for name, value in asdict(manifest.recipe).items())}"


def _build_is(bundle: str) -> str:
    """Whether this machine would build it: the code of the run is what its operator has."""
    try:
        from shared_models.bundle import build
    except ImportError:
        return "what is installed here cannot build it to compare, without the extra train"
    return "what you would build yourself" if build().sha256 == bundle else "other code than you would build yourself"


def _runs_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("run", help="as `consortium runs show` lists it")


def _runs_refuse_arguments(parser: ArgumentParser) -> None:
    _runs_arguments(parser)
    parser.add_argument("--reason", default="", help="shown to whoever asks this node to train")


def _runs_approve(args: Namespace) -> int:
    """Approve a run, as its manifest stands; where policy.toml says `ask = true`, the daemon consents then."""
    return _runs_said(args, approved=True)


def _runs_refuse(args: Namespace) -> int:
    """Refuse a run: it is not consented to, and if it was, no round of it begins here any more."""
    return _runs_said(args, approved=False)


def _runs_said(args: Namespace, *, approved: bool) -> int:
    from client import runs
    from client.home import Home

    home = Home(args.home)
    found = runs.say(home, home.ledger(), args.run, approved=approved, reason=getattr(args, "reason", ""))
    print(f"{args.run} is {'approved' if approved else 'refused'}, by manifest {found.hash}")
    if found.refused:
        print(f"the policy is against it all the same: {found.refused}")
    elif approved and not found.consented:
        print("the daemon consents to it, once it runs")
    return RIGHT


def _witness_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--once", action="store_true", help="cosign the newest head, compare with the peers, and end")
    parser.add_argument("--listen", metavar="HOST:PORT", help="answer logs and other members (C2SP tlog-witness)")
    parser.add_argument("--attest", action="store_true", help="read the log too, and vouch for your entries in it")


def _witness(args: Namespace) -> int:
    """Follow the log and cosign its heads, without training. 1: it has shown two histories."""
    import time
    from contextlib import ExitStack

    from client.attest import Attester
    from client.home import Home
    from client.witness import Witness
    from client.witness_http import serving
    from shared_models.records.refusals import Refusal, Refused

    home = Home(args.home)
    ledger = home.ledger()
    witness, attester = Witness(home, ledger.consistency), Attester(home)
    with ExitStack() as stack:
        if args.listen:
            print(f"a witness at {stack.enter_context(serving(witness, args.listen))}", flush=True)
        while True:
            try:
                home.learn_keys(ledger)
                witness.visit(ledger)
                witness.compare_with_peers()
                if args.attest and (shown := home.head_note()) is not None:
                    ledger.cosign(attester.attest(ledger, shown))
            except Refused as refused:
                if refused.refusal is Refusal.FORK:
                    print(f"error {refused}\n  do  {refused.remedy}", file=sys.stderr)
                    return WRONG
                if args.once:
                    raise
            if args.once:
                print(f"witnessed the log of size {witness.head.size}, root {witness.head.root.hex()[:16]}…")
                return RIGHT
            time.sleep(1.0)


def _quorum_arguments(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--home", type=Path, help="your folder: its charter and the keys it has learned say who counts")
    source.add_argument("--policy", type=Path, help="a C2SP tlog-policy file, for whoever is no member")
    parser.add_argument("head", nargs="?", type=Path, help="a file with a head and its cosignatures, such as cosigned")


def _quorum(args: Namespace) -> int:
    """Print whose cosignatures are a quorum, or hold a head against that. 0: it is one; 1: it is not."""
    from shared_models.folder import Folder
    from shared_models.records import policy
    from shared_models.records.refusals import Refused

    asked = policy.parse(_read(args.policy)) if args.policy else Folder(args.home).keyring.policy()
    if args.head is None:
        print(asked.data().decode("latin-1"), end="")
        return RIGHT
    data = _read(args.head)
    try:
        head = asked.open(data)
    except Refused as refused:
        print(f"error {refused}\n  do  {refused.remedy}", file=sys.stderr)
        return WRONG
    print(f"the log of size {head.size}, root {head.root.hex()}, is witnessed by {asked.quorum}")
    return RIGHT


def _compare_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("head", nargs="+", help="files with heads, or addresses of other members' witnesses")


def _compare(args: Namespace) -> int:
    """Hold heads that others have seen against this member's own. 1: they are of two histories, and it is proven."""
    from client.home import Home
    from client.witness import Witness, monitored
    from shared_models.records.refusals import Refusal, Refused

    home = Home(args.home)
    witness = Witness(home, home.ledger().consistency)
    for where in args.head:
        shown = monitored(where, witness.head.origin) if "://" in where else _read(Path(where))
        try:
            witness.compare(shown)
        except Refused as refused:
            if refused.refusal is not Refusal.FORK:
                raise
            print(f"{where}: {refused}")
            return WRONG
        print(f"{where}: of the same history as the head of size {witness.head.size} here")
    return RIGHT


def _read(path: Path) -> bytes:
    from shared_models.records.refusals import Refusal, Refused

    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"{path}: {error.strerror}") from None


def _fork_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("proof", type=Path, help="a fork.json")
    parser.add_argument("--charter", type=Path, required=True, help="the charter.note you signed")


def _fork(args: Namespace) -> int:
    """Check the proof that a log has shown two histories. 0: it proves that; 2: it proves nothing."""
    from shared_models.records import entry as entries
    from shared_models.records.kinds import Charter
    from shared_models.rules.fork import Fork

    charter = entries.open_charter(_read(args.charter)).record
    assert isinstance(charter, Charter)
    print(Fork.parse(_read(args.proof)).check(entries.charter_keys(charter)))
    return RIGHT


def _key(parser: ArgumentParser) -> None:
    parser.add_argument("role", help="admin, compute, witness or attest; coordinator in a coordinator's folder")
    parser.add_argument("--home", type=Path, required=True, help="your folder, with the charter in it")
    parser.add_argument("--key", type=Path, help="the key's file; HOME/keys/ROLE.key by default")
    parser.add_argument("--signer", type=Path, help="the key that signs for it; HOME/keys/admin.key, or the key itself")
    parser.add_argument("--ledger", default="", help="the ledger's address; that of your folder by default")


def _key_add_arguments(parser: ArgumentParser) -> None:
    _key(parser)
    parser.add_argument(
        "--ml-dsa-44",
        action="store_true",
        help="a second key of a witness or a log, which quantum computers do not break",
    )


def _key_add(args: Namespace) -> int:
    """Put a new key into the log and in the place of the old one, which counts until it is revoked."""
    from client.keys import add, holder

    new, old, index = add(holder(args.home, args.role, args.key, args.signer, args.ledger), args.ml_dsa_44)
    print(f"{new.name} has key {new.verify_key.id.hex()}, which counts from entry {index}; restart what signs with it")
    if old:
        print(f"key {old} counts too, until: consortium key revoke {args.role} {old} --home {args.home}")
    return RIGHT


def _key_auditor_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="what `consortium key make` has printed for the auditor")
    _home(parser)
    parser.add_argument("--end", action="store_true", help="it reads no more, from now on")


def _key_auditor(args: Namespace) -> int:
    """Let an auditor read what members read, by a key that signs nothing else; or no more."""
    from client.keys import auditor, holder

    held = holder(args.home, "admin")
    index = auditor(held, args.key, end=args.end)
    if args.end:
        print(f"it reads no more: entry {index}")
        return RIGHT
    print(f"it reads, from entry {index} on; the auditor signs in, and audits, by:")
    print(f"  consortium open --ledger {held.ledger.url} --key FILE")
    print(f"  consortium audit {held.ledger.url} --key FILE --charter {held.folder.charter_entry.hash.hex()}")
    return RIGHT


def _key_make_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="MEMBER/auditor", help="the member that lets you read, and what you are to it")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="where to put the key, for you alone")


def _key_make(args: Namespace) -> int:
    """Make a key by which an auditor reads a ledger for members, and print what the member is to be given of it."""
    from shared_models.records.entry import READER_ROLES
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refusal, Refused

    if args.name.rpartition("/")[2] not in READER_ROLES:
        raise Refused(Refusal.BAD_FIELD, f"{args.name}: only auditors make keys here, MEMBER/auditor")
    if args.to.exists():
        raise Refused(Refusal.LOCKED, f"{args.to} is there; keys are never overwritten")
    print(SigningKey.create(args.to, args.name).verify_key.text())
    return RIGHT


def _key_revoke_arguments(parser: ArgumentParser) -> None:
    _key(parser)
    parser.add_argument("id", help="of the key, eight hex digits: see `consortium key list`")
    parser.add_argument(
        "--suspect-from", type=int, metavar="INDEX", help="dispute what it signed from this entry on: it was stolen"
    )


def _key_revoke(args: Namespace) -> int:
    from client.keys import holder, revoke

    held = holder(args.home, args.role, args.key, args.signer, args.ledger)
    index = revoke(held, args.id, args.suspect_from)
    print(f"key {args.id} signs nothing any more: entry {index}")
    if args.suspect_from is not None:
        print(f"what it signed from entry {args.suspect_from} on is billed only once you stand by it:")
        print(f"  consortium key affirm {args.role} {args.id} START END --home {args.home}")
    return RIGHT


def _key_affirm_arguments(parser: ArgumentParser) -> None:
    _key(parser)
    parser.add_argument("id", help="of the revoked key")
    parser.add_argument("start", type=int, help="the first entry that is yours")
    parser.add_argument("end", type=int, help="the entry behind the last one")


def _key_affirm(args: Namespace) -> int:
    from client.keys import affirm, holder

    held = holder(args.home, args.role, args.key, args.signer, args.ledger)
    index = affirm(held, args.id, args.start, args.end)
    print(f"what key {args.id} signed from entry {args.start} up to {args.end} counts again: entry {index}")
    return RIGHT


def _key_list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, required=True, help="your folder, with the charter in it")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _key_list(args: Namespace) -> int:
    """Every key that this folder has learned of; a daemon that runs asks the ledger for them every second."""
    from client.keys import listed
    from shared_models.folder import Folder

    keys = list(listed(Folder(args.home)))
    if args.json:
        print(json.dumps({"schema": "consortium.keys/1", "keys": [each._asdict() for each in keys]}))
        return RIGHT
    for each in keys:
        line = f"{each.name:32}{each.id}  from entry {each.start}"
        if each.end is not None:
            line += f" to {each.end}, suspect from {each.suspect_from}"
            line += "".join(f", but {start} to {end} affirmed" for start, end in each.affirmed)
        print(line)
    return RIGHT


def _charter_show_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _charter_show(args: Namespace) -> int:
    """Recompute the log, then show what its members have agreed. 1 if the log is not right."""
    from client import charter
    from client.auditor import Auditor

    report = Auditor(key=_asker(args)).run(args.log)
    agreement = report.books.agreement
    if args.json:
        print(json.dumps({"schema": "consortium.charter/1", **charter.as_json(agreement)}))
    else:
        print(charter.text(agreement))
    return _if_right(report, args.log)


def _model_list_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("--member", help="say whether this member may have each, and why")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _model_list(args: Namespace) -> int:
    """Recompute the log, then say what models it has and who may have them. 1 if the log is not right."""
    from client import models
    from client.auditor import Auditor

    report = Auditor(key=_asker(args)).run(args.log)
    found = list(models.listed(report.books, args.member))
    if args.json:
        print(json.dumps({"schema": "consortium.models/1", "size": report.books.tree.size, "models": found}))
    else:
        for each in found:
            print(f"{each['artefact']}  {each['form']}, {each['size']:,} bytes, from {models.sources(each)}")
            if args.member is not None:
                print(models.verdict_text(args.member, each["access"]))
        if not found:
            print("the log has no models yet")
    return _if_right(report, args.log)


def _model_show_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("sha256", help="of the artefact: see `consortium model list`")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _model_show(args: Namespace) -> int:
    """Recompute the log, then show what a model was made from. 1, and nothing is shown, if the log is not right."""
    from client import models
    from client.auditor import Auditor
    from shared_models.published import reader

    key = _asker(args)
    report = Auditor(key=key).run(args.log)
    if report.findings:
        return _if_right(report, args.log)
    found = models.lineage(report.books, reader(args.log, key), args.sha256)
    if args.json:
        print(json.dumps({"schema": "consortium.model/1", "size": report.books.tree.size, "lineage": found}))
    else:
        print(models.lineage_text(found))
    return RIGHT


def _if_right(report: "Report", log: str) -> int:
    if report.findings:
        print(f"this log is not right, nor may be what it says of models: consortium audit {log}", file=sys.stderr)
        return WRONG
    return RIGHT


def _model_get_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("sha256", help="of the artefact: see `consortium model list`")
    parser.add_argument("--to", type=Path, required=True, help="the file to be written; FILE.part until it is whole")


def _model_get(args: Namespace) -> int:
    from client.home import Home
    from client.models import get

    home = Home(args.home)
    fetched = get(home, home.ledger(), args.sha256, args.to)
    print(f"{args.to} is {args.sha256}, {fetched:,} bytes of it fetched now")
    return RIGHT


def _model_grant_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("run", help="in which your member trains an expert of its own")
    parser.add_argument(
        "--to", action="append", default=[], metavar="MEMBER", help="may have it; repeatable; without any, nobody may"
    )


def _model_grant(args: Namespace) -> int:
    """Say who else may fetch models that hold your member's expert, and who no longer."""
    from client.models import grant

    at = grant(args.home, args.run, args.to)
    print(f"your expert of run {args.run} is for {', '.join(sorted(set(args.to))) or 'nobody else'}: entry {at}")
    return RIGHT


def _model_derive_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("file", type=Path, help="what your member has made from other models")
    parser.add_argument(
        "--parent", action="append", required=True, metavar="SHA256", help="it is derived from; repeatable"
    )
    parser.add_argument("--form", default="safetensors", help="of the file; default %(default)s")


def _model_derive(args: Namespace) -> int:
    """Register a file under the models it descends from, and upload it. The same command goes on if it broke off."""
    from client.home import Home
    from shared_models.artefacts import publish

    home = Home(args.home)
    ledger, key = home.ledger(), home.key("admin")
    made = publish(home, ledger, key, args.file, form=args.form, parents=tuple(args.parent))
    print(f"{made.sha256} is published by {home.settings.member}: entry {made.at}")
    return RIGHT


def _charter_propose_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("file", type=Path, help="TOML or JSON: the fields that change; members, pots, tiers by name")
    parser.add_argument("--name", help="of the amendment, used once; that of the file by default")


def _charter_propose(args: Namespace) -> int:
    from client import charter

    return _said(args, charter.propose(args.home, args.file, args.name or args.file.stem))


def _said(args: Namespace, proposed: "Said") -> int:
    from client import charter

    print("\n".join(charter.lines(proposed.changes)))
    print(f"amendment {proposed.hash} is entry {proposed.at}; it takes {proposed.needed} votes, yours too:")
    print(f"  consortium charter vote --home {args.home} {proposed.hash} yes")
    return RIGHT


def _charter_vote_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("hash", help="of the amendment: see `consortium charter show`")
    parser.add_argument("choice", choices=("yes", "no"))


def _charter_vote(args: Namespace) -> int:
    from client import charter, invites
    from client.home import Home

    home = Home(args.home)
    guests = [each for each in invites.pending(home, home.ledger()) if each.amendment == args.hash]
    voted = charter.vote(args.home, args.hash, args.choice)
    print("\n".join(charter.lines(voted.changes)))
    for guest in guests:
        print(f"  words of {guest.member}: {guest.words}")
    print(f"your vote, {args.choice}, is entry {voted.at}; {voted.missing}")
    return RIGHT


def _leave_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--reason", required=True, help="a line that stands in the log")


def _leave(args: Namespace) -> int:
    from client.charter import leave

    index = leave(args.home, args.reason)
    print(f"you have left: entry {index}; you are billed for the period that runs, and can still settle and dispute")
    return RIGHT


def _join_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("invite", help="the string that a member has handed to you; - reads it from standard input")
    parser.add_argument("--dir", type=Path, required=True, help="your member's folder, made here")
    parser.add_argument("--data", default="python-stdlib:0/1", help="text to train on, file:PATH; default %(default)s")
    parser.add_argument("--device", help="a device class of the charter; its first one by default")
    parser.add_argument("--devices", type=int, default=1, help="how many of them; default %(default)s")
    parser.add_argument("--yes", action="store_true", help="accept the charter without being asked")
    parser.add_argument("--wait", action="store_true", help="wait here until the members have voted")
    parser.epilog = "Exit code 0: you are a member; 6: the members have not voted yet, the same command goes on."


def _join(args: Namespace) -> int:
    """Make keys, which never leave, and answer an invite with their public halves; or see whether it was voted on."""
    import time

    from client import charter, speed
    from client.join import join
    from shared_models.invites import Invite
    from shared_models.rules.agreement import Agreement

    def agrees(says: Invite, agreement: Agreement) -> bool:
        print(charter.text(agreement))
        print(
            f"{says.inviter} invites you to {says.consortium} as {says.member}, to be charged by benefit {says.benefit}"
        )
        return args.yes or _asked("Do you accept this charter, and make keys?")

    text = sys.stdin.readline().strip() if args.invite == "-" else args.invite
    told, new = False, not args.dir.exists()
    while True:
        joined = join(text, args.dir, agrees, data=args.data, device=args.device, devices=args.devices)
        if joined is None:
            print("nothing was made, and nothing was sent")
            return UNKNOWN
        member = joined.home.settings.member
        if joined.at is not None:
            print("changed in the charter since you accepted it:", *charter.lines(list(joined.changed)), sep="\n")
            print(f"{member} is a member: entry {joined.at}, proven in the log; the charter names your keys")
            if speed.kept(joined.home) is None:
                print(_calibrated(joined.home))
            print(f"start its node: consortium up --home {args.dir}")
            return RIGHT
        if not told:
            if new:
                print(f"your keys are made, in {joined.home.path / 'keys'}; they never leave it")
            print(f"read these words to the members by telephone: {joined.words}")
            print(f"they vote on {member} now" + ("" if args.wait else "; run the same command again, to go on"))
            told = True
        if not args.wait:
            return WAITING
        sys.stdout.flush()
        time.sleep(2.0)


def _calibrated(home: "Home") -> str:
    """How fast it trains, said; what keeps that from being measured keeps nobody from being a member."""
    from client import speed
    from shared_models.records.refusals import Refused

    try:
        return f"this machine trains {speed.said(home, _calibrate(home))}"
    except Refused as refused:
        return f"how fast this machine trains was not measured: {refused}; {refused.remedy}"


def _asked(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _follow_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("note", type=Path, help="the moved.note of the coordinator that the members have elected")


def _follow(args: Namespace) -> int:
    """Reach the coordinator where its note says, if its key is the one that counts in the log."""
    from client.follow import follow

    moved = follow(args.home, args.note)
    print(f"the coordinator is at {moved.superlink}; start the daemon anew")
    print(f"if you did not join by an invite, it lets you in by {args.home / 'keys' / 'node.pub'}: consortium register")
    return RIGHT


def _invite_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("member", nargs="?", help="what the new member is to be called")
    ways.add_argument("--pending", action="store_true", help="list who was invited, and the words of who has answered")
    ways.add_argument("--admit", metavar="MEMBER", help="propose the charter that names the keys of who has answered")
    parser.add_argument("--benefit", type=int, default=1, help="what it is to be charged by; default %(default)s")
    parser.add_argument("--expires", type=int, default=72, metavar="HOURS", help="default %(default)s")
    parser.add_argument("--words", help="what you have heard by telephone; without it you are asked")
    parser.add_argument("--json", action="store_true", help="with --pending, the same for programs")


def _invite(args: Namespace) -> int:
    """Print one string to be handed to a new organisation. It gives no power: the members vote on who comes in."""
    from client import invites
    from client.home import Home

    home = Home(args.home)
    if args.pending:
        return _pending(args)
    if args.admit:
        return _admit(args)
    print(invites.invite(home, args.member, args.benefit, args.expires).text())
    print(
        f"hand it to {args.member} alone: whoever has it can answer, once, within {args.expires} hours:\n"
        f"  consortium join INVITE --dir {args.member}\n"
        f"then compare words by telephone: consortium invite --admit {args.member} --home {args.home}",
        file=sys.stderr,
    )
    return RIGHT


def _pending(args: Namespace) -> int:
    import time

    from client import invites
    from client.home import Home

    home = Home(args.home)
    guests = list(invites.pending(home, home.ledger()))
    if args.json:
        found = [dict(zip(each._fields[:-1], each[:-1], strict=True)) for each in guests]
        print(json.dumps({"schema": "consortium.invites/1", "invites": found}))
        return RIGHT
    for each in guests:
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(each.expires_s))
        print(f"{each.member}, invited by {each.inviter}: " + (each.words or f"no answer yet; open until {until}"))
        if each.amendment:
            print(f"  proposed: consortium charter vote --home {args.home} {each.amendment} yes")
        elif each.words:
            print(f"  the same by telephone? consortium invite --home {args.home} --admit {each.member}")
    if not guests:
        print("nobody is invited")
    return RIGHT


def _admit(args: Namespace) -> int:
    from client import invites
    from client.home import Home

    def same(guest: invites.Guest) -> bool:
        if args.words is not None:
            return bool(args.words.lower().split() == guest.words.split())
        print(f"{guest.member} was invited by {guest.inviter}, and its words are: {guest.words}")
        return _asked("Has it read the same four words to you by telephone?")

    return _said(args, invites.admit(Home(args.home), args.admit, same))


COMMANDS = (
    Command("join", START, "Join with an invite.", _join_arguments, _join, beside=True),
    Command("invite", ADMIN, "Invite one more.", _invite_arguments, _invite, beside=True),
    Command("up", NODE, "Run the member's daemon, in the foreground.", _up_arguments, _up, "train"),
    Command("follow", NODE, "Reach a coordinator that moved.", _follow_arguments, _follow, beside=True),
    Command("status", NODE, "What a node is doing now.", _status_arguments, _status),
    Command("doctor", NODE, "What keeps a node from working.", _doctor_arguments, _doctor, beside=True),
    Command("policy explain", NODE, "What may be trained here now.", _policy_explain_arguments, _policy_explain),
    Command("policy pause", NODE, "Train nothing for now.", _policy_pause_arguments, _policy_pause),
    Command("policy resume", NODE, "Train again.", _home, _policy_resume),
    Command("runs show", NODE, "Which runs ask for you.", _runs_show_arguments, _runs_show),
    Command("runs approve", NODE, "Take part in a run.", _runs_arguments, _runs_approve),
    Command("runs refuse", NODE, "Take no part in it.", _runs_refuse_arguments, _runs_refuse),
    Command("witness", NODE, "Cosign the log's heads, without training.", _witness_arguments, _witness),
    Command("quorum", NODE, "Who must witness a head, and who has.", _quorum_arguments, _quorum, beside=True),
    Command("compare", NODE, "Hold another member's view of the log against yours.", _compare_arguments, _compare),
    Command("fork", NODE, "Check the proof of a fork.", _fork_arguments, _fork, beside=True),
    Command("key add", NODE, "Give a role of yours a new key, and put it into the log.", _key_add_arguments, _key_add),
    Command("key revoke", NODE, "End a key, from this entry of the log on.", _key_revoke_arguments, _key_revoke),
    Command("key affirm", NODE, "Stand by what a revoked key had signed.", _key_affirm_arguments, _key_affirm),
    Command("key list", NODE, "Which keys count, from which entry to which.", _key_list_arguments, _key_list),
    Command("key auditor", NODE, "Let an auditor read, or no more.", _key_auditor_arguments, _key_auditor),
    Command("key make", NODE, "Make a key to read by, as an auditor.", _key_make_arguments, _key_make),
    Command("work challenged", NODE, "What the log asks to see.", _challenged_arguments, _challenged, "train"),
    Command("work open", NODE, "Show how you trained a part of a round.", _open_arguments, _open, "train"),
    Command("work replay", NODE, "Train what another has shown again.", _replay_arguments, _replay, "train"),
    Command("work answer", NODE, "Show and repeat what the log asks for.", _answer_arguments, _answer, "train"),
    Command("work unanswered", NODE, "Say that it was not shown.", _unanswered_arguments, _unanswered, "train"),
    Command("audit", MONEY, "Recompute a log and its bills, trusting nobody.", _audit_arguments, _audit),
    Command("open", MONEY, "Sign in to the ledger's pages.", _open_pages_arguments, _open_pages, beside=True),
    Command("verify-checkpoint", MONEY, "Repeat the steps of a run.", _verify_arguments, _verify, "train"),
    Command("bill", MONEY, "Print a bill, every line of it.", _bill_arguments, _bill),
    Command("fetch", MONEY, "Copy a log, to audit it offline.", _fetch_arguments, _fetch, beside=True),
    Command("cost", MONEY, "Enter a shared cost that your member paid.", _cost_arguments, _cost),
    Command("credit", MONEY, "Give back a part of a cost.", _credit_arguments, _credit, beside=True),
    Command("quote seal", MONEY, "Quote for a period to come, sealed.", _quote_seal_arguments, _quote_seal),
    Command("quote open", MONEY, "Open what you sealed.", _quote_arguments, _quote_open),
    Command("settle", MONEY, "What is to be paid, and saying that it was.", _settle_arguments, _settle),
    Command("default", MONEY, "Say that a member does not pay.", _default_arguments, _default, beside=True),
    Command("dispute", MONEY, "Object to what is billed.", _dispute_arguments, _dispute),
    Command("rule", MONEY, "Rule on what is disputed.", _rule_arguments, _rule, beside=True),
    Command("model list", MONEY, "Which models there are, and who may have them.", _model_list_arguments, _model_list),
    Command("model show", MONEY, "What a model was made from.", _model_show_arguments, _model_show),
    Command("model get", MONEY, "Fetch a model that your member may have.", _model_get_arguments, _model_get),
    Command("model grant", MONEY, "Who else may have your member's expert.", _model_grant_arguments, _model_grant),
    Command("model derive", MONEY, "Publish what was made from a model.", _model_derive_arguments, _model_derive),
    Command("charter show", MONEY, "What is agreed, and what is proposed.", _charter_show_arguments, _charter_show),
    Command("charter propose", MONEY, "Propose another charter.", _charter_propose_arguments, _charter_propose),
    Command("charter vote", MONEY, "Vote on what is proposed.", _charter_vote_arguments, _charter_vote),
    Command("leave", MONEY, "Leave the consortium.", _leave_arguments, _leave),
    *allocate.COMMANDS,
)
