"""The ledger's commands: serve a log, close a period."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_models.command import ADMIN, RIGHT, Command

if TYPE_CHECKING:
    from ledger.settings import Settings


def _serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, help="the ledger's folder, with log.key in it")
    parser.add_argument("--host", help="default 127.0.0.1")
    parser.add_argument("--port", type=int, help="default 8443")
    parser.epilog = (
        "Settings also come from the environment: CONSORTIUM_LEDGER__DIR, __HOST, __PORT, __DATABASE_URL"
        " (postgresql+psycopg://...; SQLite in the folder by default), __REGISTER_DIR, __WAITING."
    )


def _serve(args: Namespace) -> int:
    from ledger.api import serve

    settings = _settings(dir=args.dir, host=args.host, port=args.port)
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


def _close_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("period", help="a name for it, such as 2026-11")
    parser.add_argument("--ledger", required=True, help="the ledger's address")
    parser.add_argument("--key", type=Path, required=True, help="the consortium administrator's key")
    parser.add_argument("--charter", required=True, help="leaf hash of the charter you signed")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for the quorum of witnesses")


def _close(args: Namespace) -> int:
    """Recompute the whole log, and sign and append the statement of what is not yet billed."""
    from ledger.billing import close
    from shared_models.ledger_http import LedgerHttp
    from shared_models.records.keys import SigningKey

    ledger, key = LedgerHttp(args.ledger), SigningKey.load(args.key)
    proof = close(ledger, args.period, key, args.charter, wait_s=args.wait)
    print(f"statement {args.period} is entry {proof.index}")
    return RIGHT


COMMANDS = (
    Command("serve", ADMIN, "Serve the ledger: a log of signed records.", _serve_arguments, _serve, "ledger"),
    Command("close", ADMIN, "Close a period: recompute the log, sign its statement.", _close_arguments, _close),
)
