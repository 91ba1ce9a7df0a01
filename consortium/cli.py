"""`consortium`: one command for everybody. It gathers the commands of each folder and imports nothing heavy itself."""

import argparse
import sys
from collections.abc import Sequence

import client.cli
import ledger.cli
import server.cli
from consortium import commands
from shared_models.command import GROUPS, UNKNOWN, Command
from shared_models.records.refusals import Refused

OURS = {"client", "consortium", "ledger", "server", "shared_models"}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, call, print. Exit code 0: right; 1: wrong; 2: it could not be told, or not be done."""
    everything = [*commands.COMMANDS, *client.cli.COMMANDS, *server.cli.COMMANDS, *ledger.cli.COMMANDS]
    parser, subparsers = _parser(everything)
    for command in everything:
        command.arguments(subparsers[command.name])
    words = list(sys.argv[1:] if argv is None else argv)
    if " ".join(words[:2]) in subparsers:  # A command of two words, such as `ledger rebuild`.
        words[:2] = [" ".join(words[:2])]
    args = parser.parse_args(words)
    command = next(each for each in everything if each.name == args.command)
    try:
        return command.run(args)
    except Refused as refused:
        print(f"error {refused}\n  do  {refused.remedy}", file=sys.stderr)
        return UNKNOWN
    except ModuleNotFoundError as error:
        if not command.extra or (error.name or "").partition(".")[0] in OURS:
            raise
        extra = f"pip install 'training-consortium[{command.extra}]'"
        print(f"error `consortium {command.name}` needs {error.name}\n  do  {extra}", file=sys.stderr)
        return UNKNOWN
    except KeyboardInterrupt:
        return 130


def _parser(everything: list[Command]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    listing = "\n\n".join(
        f"{group}\n" + "\n".join(f"  {each.name:16}{each.summary}" for each in everything if each.group == group)
        for group in GROUPS
        if any(each.group == group for each in everything)
    )
    parser = argparse.ArgumentParser(
        prog="consortium",
        usage="consortium COMMAND [--help] ...",
        description="Several organisations train one model; every member can verify the bill, trusting nobody.",
        epilog=listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # The usage says it: a screen is short.
    under = parser.add_subparsers(dest="command", required=True, metavar="", help=argparse.SUPPRESS)
    return parser, {
        each.name: under.add_parser(each.name, description=each.summary, prog=f"consortium {each.name}")
        for each in everything
    }
