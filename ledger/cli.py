"""The ledger's commands: serve a log, close a period."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from shared_models.command import ADMIN, RIGHT, Command


def _serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, required=True, help="the ledger's folder, with log.key in it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8443)


def _serve(args: Namespace) -> int:
    from ledger.api import serve

    print(f"serving {args.dir} at http://{args.host}:{args.port}", flush=True)
    serve(args.dir, args.host, args.port)
    return RIGHT


def _close_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("period", help="a name for it, such as 2026-11")
    parser.add_argument("--ledger", required=True, help="the ledger's address")
    parser.add_argument("--key", type=Path, required=True, help="the consortium administrator's key")
    parser.add_argument("--charter", required=True, help="leaf hash of the charter you signed")


def _close(args: Namespace) -> int:
    """Recompute the whole log, and sign and append the statement of what is not yet billed."""
    from ledger.billing import close
    from shared_models.ledger_http import LedgerHttp
    from shared_models.published import fetch, reader
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refused
    from shared_models.rules.audit import audit

    log = fetch(reader(args.ledger))
    report = audit(log.leaves, log.head, log.hashes, charter=args.charter)
    if report.findings:
        first = report.findings[0]
        raise Refused(first.refusal, f"{first}; nothing is billed on a log that is not right")
    proof = LedgerHttp(args.ledger).append(close(report.books, args.period, SigningKey.load(args.key)))
    print(f"statement {args.period} is entry {proof.index}")
    return RIGHT


COMMANDS = (
    Command("serve", ADMIN, "Serve the ledger: a log of signed records.", _serve_arguments, _serve, "ledger"),
    Command("close", ADMIN, "Close a period: recompute the log, sign its statement.", _close_arguments, _close),
)
