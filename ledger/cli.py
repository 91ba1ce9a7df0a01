"""The ledger's commands: serve a log, close a period, and put right what a machine has lost."""

import json
from argparse import ArgumentParser, Namespace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_models.command import ADMIN, RIGHT, WRONG, Command

if TYPE_CHECKING:
    from ledger.settings import Settings

SHOWN = 10  # Differences of one table; `--json` has them all.


def _dir(parser: ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, help="the ledger's folder, with log.key in it")
    parser.epilog = "Settings also come from the environment: see `consortium serve --help`."


def _serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, help="the ledger's folder, with log.key in it")
    parser.add_argument("--host", help="default 127.0.0.1")
    parser.add_argument("--port", type=int, help="default 8443")
    parser.add_argument(
        "--members-only", action="store_true", default=None, help="answer nobody else: see docs/dashboard.md"
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help="answer Prometheus there: see docs/the-log.md")
    parser.add_argument(
        "--unit", action="store_true", help="print a unit by which systemd runs it, and do nothing else"
    )
    parser.epilog = (
        "Settings also come from the environment: CONSORTIUM_LEDGER__DIR, __HOST, __PORT, __DATABASE_URL"
        " (postgresql+psycopg://...; SQLite in the folder by default), __REGISTER_DIR, __ARTEFACTS"
        " (a folder or s3://...; artefacts/ in the folder by default), __MEMBERS_ONLY, __METRICS, __REQUESTS,"
        " __WAITING."
    )


def _serve(args: Namespace) -> int:
    from ledger.api import serve
    from shared_models import service

    settings = _settings(
        dir=args.dir, host=args.host, port=args.port, members_only=args.members_only, metrics=args.metrics
    )
    if args.unit:
        command = ["serve", "--dir", str(settings.dir.resolve()), "--host", settings.host, "--port", str(settings.port)]
        command += ["--metrics", settings.metrics] * bool(settings.metrics)
        command += ["--members-only"] * settings.members_only
        print(service.unit(command, what="Consortium ledger", writes=[settings.dir], watchdog_s=120))
        return RIGHT
    print(f"serving {settings.dir} at http://{settings.host}:{settings.port}", flush=True)
    serve(settings)
    return RIGHT


def _settings(**named: Any) -> "Settings":
    """The settings from the environment, with what was named on the command line. Raises `Refused(BAD_FIELD)`."""
    from pydantic import ValidationError

    from ledger.settings import Settings
    from shared_models.records.refusals import Refusal, Refused

    try:
        return Settings(**{name: value for name, value in named.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise Refused(Refusal.BAD_FIELD, f"ledger setting {where}: {first['msg']}") from None


def _admin_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--ledger", required=True, help="the ledger's address")
    parser.add_argument("--key", type=Path, required=True, help="the consortium administrator's key")
    parser.add_argument("--charter", required=True, help="leaf hash of the charter you signed")


def _period_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("period", help="a name for it, such as 2026-11")
    _admin_arguments(parser)


def _price(args: Namespace) -> int:
    """The median of the members' opened quotes, for a period whose work has not begun. Everybody can recompute it."""
    from ledger.billing import price
    from shared_models.ledger_http import LedgerHttp
    from shared_models.records.keys import SigningKey

    key = SigningKey.load(args.key)
    record, proof = price(LedgerHttp(args.ledger, key=key), args.period, key, args.charter)
    print(f"an NCU is worth {record.price} minor units in {args.period}, by {len(record.quotes)} quotes", end=": ")
    print(f"entry {proof.index}")
    return RIGHT


def _close_arguments(parser: ArgumentParser) -> None:
    _period_arguments(parser)
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for the quorum of witnesses")


def _close(args: Namespace) -> int:
    """Recompute the whole log, and sign and append the statement of what is not yet billed."""
    from ledger.billing import close
    from shared_models.ledger_http import LedgerHttp
    from shared_models.records.keys import SigningKey

    key = SigningKey.load(args.key)
    ledger = LedgerHttp(args.ledger, key=key)
    proof = close(ledger, args.period, key, args.charter, wait_s=args.wait)
    print(f"statement {args.period} is entry {proof.index}")
    return RIGHT


def _rate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("currency", help="three letters of ISO 4217, such as USD")
    parser.add_argument("date", help="the day of the invoices, YYYY-MM-DD")
    parser.add_argument("rate", help="units of the charter's currency for one of this one, such as 0.9 or 9/10")
    parser.add_argument("--source", required=True, help="who says so, such as European Central Bank")
    parser.add_argument("--correct", action="store_true", help="instead of the rate that stands, if nothing is billed")
    _admin_arguments(parser)


def _rate(args: Namespace) -> int:
    """No payer chooses the rate: an invoice in this currency and of this day is converted by it, once."""
    from ledger.billing import rate
    from shared_models.ledger_http import LedgerHttp
    from shared_models.records.keys import SigningKey

    key = SigningKey.load(args.key)
    ledger = LedgerHttp(args.ledger, key=key)
    record, proof = rate(
        ledger, args.currency, args.date, args.rate, args.source, key, args.charter, correct=args.correct
    )
    print(f"1 {record.currency} is worth {record.rate} on {record.date}: entry {proof.index}")
    return RIGHT


def _usage_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("pot", help="one whose driver is usage")
    _period_arguments(parser)
    parser.add_argument("csv", nargs="?", type=Path, metavar="FILE.csv", help="rows of member,quantity; or one:")
    parser.add_argument("--member", help="who has used it,")
    parser.add_argument("--quantity", help="and how much, such as 12.5")
    parser.add_argument("--source", required=True, help="by what meter, and in what unit: bucket metrics, GB-days")
    parser.add_argument("--correct", action="store_true", help="instead of what stands, where that is another quantity")


def _usage(args: Namespace) -> int:
    """What members have used of a pot in a period: what it is divided by. It can be corrected until the close."""
    from ledger.billing import quantities, usage
    from shared_models.ledger_http import LedgerHttp
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refusal, Refused

    if (args.csv is None) == (args.member is None) or (args.member is None) != (args.quantity is None):
        raise Refused(Refusal.BAD_FIELD, "name a file of member,quantity rows, or --member and --quantity")
    try:
        rows = args.csv.read_text() if args.csv else f"{args.member},{args.quantity}"
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Refusal.NOT_FOUND, f"{args.csv} cannot be read: {error}") from None
    used, key = quantities(rows), SigningKey.load(args.key)
    ledger = LedgerHttp(args.ledger, key=key)
    said = usage(ledger, args.period, args.pot, used, args.source, key, args.charter, correct=args.correct)
    for member, quantity in used.items():
        where = f"entry {said[member].index}" if member in said else "in the log before"
        print(f"{member} has used {quantity} of {args.pot} in {args.period}: {where}")
    return RIGHT


def _rebuild_arguments(parser: ArgumentParser) -> None:
    _dir(parser)
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _rebuild(args: Namespace) -> int:
    """Build every table but the entries anew. 0: nothing was different; 1: something was, and is put right."""
    from ledger.log import open_log
    from ledger.projections import Projector

    settings = _settings(dir=args.dir)
    log = open_log(settings.dir, database=settings.database_url, register=settings.register_dir)
    try:
        found, head = Projector(log).rebuild(), log.head
    finally:
        log.close()
    if args.json:
        told = [each._asdict() | {"differences": [one._asdict() for one in each.differences]} for each in found]
        schema = "consortium.rebuild/1"
        print(json.dumps({"schema": schema, "size": head.size, "root": head.root.hex(), "tables": told}))
    else:
        for table in found:
            wrong = len({each.key for each in table.differences})
            said = f"{wrong} row{'s' if wrong > 1 else ''} differed" if wrong else "as it was"
            print(f"{table.table:14}{table.rows:>9,} rows  {table.digest[:16]}…  {said}")
            for each in islice(table.differences, SHOWN):
                where = f"{each.key} {each.column}".rstrip()
                print(f"  {where}: was {each.was or 'missing'}, is {each.now or 'removed'}")
            if len(table.differences) > SHOWN:
                print(f"  and {len(table.differences) - SHOWN:,} more")
        print(f"size {head.size}, root {head.root.hex()}")
    return WRONG if any(each.differences for each in found) else RIGHT


def _adopt_arguments(parser: ArgumentParser) -> None:
    _dir(parser)
    parser.add_argument("--size", type=int, help="of the newest tree head that any member has witnessed,")
    parser.add_argument("--root", help="and its root, in hex: on your word")
    parser.add_argument("--cosigned", type=Path, help="or that head as a file, cosigned by a quorum of members")
    parser.epilog = (
        "For a ledger whose head register is lost. Ask every member for the newest head it has witnessed (head.note in"
        " its folder) and name the largest: what the log has signed beyond it and the database lacks would be a fork."
    )


def _adopt(args: Namespace) -> int:
    """Write the lost register from a head that the database goes beyond, signed anew."""
    from ledger.log import open_log
    from shared_models.records import tlog
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refusal, Refused

    settings = _settings(dir=args.dir)
    named = (args.size is not None, args.root is not None, args.cosigned is not None)
    adopted: tlog.TreeHead | bytes
    try:
        if named == (True, True, False) and args.size > 0:
            origin = SigningKey.load(settings.dir / "log.key").name
            adopted = tlog.TreeHead(origin, args.size, bytes.fromhex(args.root))
        elif named == (False, False, True):
            adopted = args.cosigned.read_bytes()
        else:
            raise Refused(Refusal.BAD_FIELD, "name a size above 0 and its root, or a cosigned head")
    except (ValueError, OSError) as error:
        raise Refused(Refusal.BAD_FIELD, f"no tree head can be read from this: {error}") from None
    log = open_log(settings.dir, database=settings.database_url, register=settings.register_dir, adopted=adopted)
    head = log.head
    log.close()
    print(f"the register is at size {head.size}, root {head.root.hex()}")
    return RIGHT


def _audit_rules_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _audit_rules(args: Namespace) -> int:
    """Play each trick by the real rules, honestly and not. 0: none gains anything; 1: one does."""
    from shared_models.rules.tricks import table

    rows = table()
    if args.json:
        told = [each._asdict() | {"gain": str(each.gain), "gain_elsewhere": str(each.gain_elsewhere)} for each in rows]
        print(json.dumps({"schema": "consortium.audit_rules/1", "tricks": told}))
    else:
        print("what would cheating gain me? In minor units, exact: here, and by another rule")
        for each in rows:
            print(f"{each.trick:58}{each.gain!s:>9}{each.gain_elsewhere!s:>16}  {each.elsewhere}")
            print(f"    {each.stopped_by}; {each.test}")
    return WRONG if any(each.gain > 0 for each in rows) else RIGHT


COMMANDS = (
    Command("serve", ADMIN, "Serve the ledger, a signed log.", _serve_arguments, _serve, "ledger", beside=True),
    Command("price", ADMIN, "Price a period to come by sealed quotes.", _period_arguments, _price),
    Command("close", ADMIN, "Close a period: sign its statement.", _close_arguments, _close, beside=True),
    Command("rate", ADMIN, "Enter a currency's rate of a day.", _rate_arguments, _rate),
    Command("usage", ADMIN, "Enter what members have used of a pot.", _usage_arguments, _usage, beside=True),
    Command(
        "ledger rebuild", ADMIN, "Build the ledger's tables anew from its log.", _rebuild_arguments, _rebuild, "ledger"
    ),
    Command("ledger audit-rules", ADMIN, "What would cheating gain?", _audit_rules_arguments, _audit_rules),
    Command("ledger adopt", ADMIN, "Recover a ledger that lost its head register.", _adopt_arguments, _adopt, "ledger"),
)
