"""A member's commands: run the node, see what it does, bring in a cost, read and verify the bill."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from shared_models.command import MONEY, NODE, RIGHT, UNKNOWN, WRONG, Command


def _home(parser: ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, required=True, help="the member's folder")


def _up(args: Namespace) -> int:
    import logging

    from client.daemon import Daemon
    from client.home import Home

    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("client").setLevel(logging.INFO)
    Daemon(Home(args.home)).run()
    return RIGHT


def _status_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _status(args: Namespace) -> int:
    """What the daemon of this folder did last. A coordinator's folder has a status too."""
    path = args.home / "status.json"
    if not path.is_file():
        print(f"nothing has run in {args.home} yet", file=sys.stderr)
        return UNKNOWN
    status = json.loads(path.read_text())
    if args.json:
        print(json.dumps({"schema": "consortium.status/1", **status}))
    else:
        for name, value in status.items():
            print(f"{name:12} {value}")
    return RIGHT


def _source(parser: ArgumentParser) -> None:
    parser.add_argument("log", help="a log: a folder, a zip file, or the ledger's address")


def _audit_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("--home", type=Path, help="your member's folder: pins your charter, entries and tree head")
    parser.add_argument("--charter", help="leaf hash of the charter you signed, if you have no folder")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _audit(args: Namespace) -> int:
    """Recompute everything. 0: all is right; 1: something is not, and it is named; 2: it could not be told."""
    from client.home import Home
    from shared_models.published import fetch, reader
    from shared_models.rules.audit import audit

    home = Home(args.home) if args.home else None
    log = fetch(reader(args.log))
    report = audit(
        log.leaves,
        log.head,
        log.hashes,
        charter=home.charter_entry.hash.hex() if home else args.charter,
        mine=home.signed() if home else (),
        witnessed=[home.witnessed()] if home else [],
    )
    if args.json:
        findings = [
            {"entry": each.index, "code": each.refusal.value, "detail": each.detail} for each in report.findings
        ]
        found = {name: getattr(report, name) for name in ("entries", "signatures", "receipts", "accepted", "numbers")}
        print(json.dumps({"schema": "consortium.audit/1", **found, "findings": findings}))
        return WRONG if findings else RIGHT
    print(f"entries {report.entries}, signatures {report.signatures}, receipts {report.receipts}", end=", ")
    print(f"of them accepted {report.accepted}, amounts {report.numbers}")
    if home is None and args.charter is None:
        print("no charter was pinned: this shows that the log agrees with itself, not whose log it is")
    for finding in report.findings:
        print(finding)
    if report.findings:
        print(f"audit: {len(report.findings)} finding{'s' if len(report.findings) > 1 else ''}")
        return WRONG
    print("audit: every number recomputed, 0 findings")
    return RIGHT


def _bill_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("--period", help="which; the newest by default")


def _bill(args: Namespace) -> int:
    from client.bill import text
    from shared_models.published import fetch, reader
    from shared_models.records.refusals import Refusal, Refused
    from shared_models.rules.audit import audit

    log = fetch(reader(args.log))
    report = audit(log.leaves, log.head, log.hashes)
    bills = [bill for bill in report.books.statements if args.period in (None, bill.period)]
    if not bills:
        raise Refused(Refusal.NOT_FOUND, f"the log holds no statement {args.period or ''}".rstrip())
    print(text(bills[-1], report.books.charter))
    if report.findings:
        print(f"this log is not right, and the numbers above may not be: consortium audit {args.log}", file=sys.stderr)
        return WRONG
    return RIGHT


def _fetch_arguments(parser: ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("folder", type=Path, help="where to put it")


def _fetch(args: Namespace) -> int:
    from shared_models.published import reader, save

    save(reader(args.log), args.folder)
    print(f"audit it with: consortium audit {args.folder}")
    return RIGHT


def _cost_arguments(parser: ArgumentParser) -> None:
    _home(parser)
    parser.add_argument("--item", required=True, help="a name for it, used once")
    parser.add_argument("--pot", required=True, help="one of the charter's shared pots")
    parser.add_argument("--amount", required=True, help="in the charter's currency, such as 12.00")
    parser.add_argument("--invoice", type=Path, required=True, help="the evidence; only a salted hash of it leaves")


def _cost(args: Namespace) -> int:
    from client.cost import append

    index = append(args.home, args.item, args.pot, args.amount, args.invoice)
    print(f"cost item {args.item} is entry {index}")
    return RIGHT


COMMANDS = (
    Command("up", NODE, "Run the member's daemon, in the foreground.", _home, _up, "train"),
    Command("status", NODE, "What a node is doing now.", _status_arguments, _status),
    Command("audit", MONEY, "Recompute a log and its bills, trusting nobody.", _audit_arguments, _audit),
    Command("bill", MONEY, "Print a bill, every line of it.", _bill_arguments, _bill),
    Command("cost", MONEY, "Enter a shared cost that your member paid.", _cost_arguments, _cost),
    Command("fetch", MONEY, "Copy a log, to audit it where there is no network.", _fetch_arguments, _fetch),
)
