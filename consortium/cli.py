"""`consortium`: one command for everybody. It gathers the commands of each folder and imports nothing heavy itself."""

import argparse
import os
import sys
import textwrap
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import client.cli
import ledger.cli
import server.cli
from consortium import commands
from shared_models.command import GROUPS, RIGHT, UNKNOWN, Command
from shared_models.records.refusals import Refusal, Refused

COMMANDS = [*commands.COMMANDS, *client.cli.COMMANDS, *server.cli.COMMANDS, *ledger.cli.COMMANDS, *commands.LAST]
WIDE = 82  # What a line of help says of its command; with its name it is then no wider than a screen.
OURS = {"client", "consortium", "ledger", "server", "shared_models"}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, call, print. Exit code 0: right; 1: wrong; 2: it could not be told, or not done; 6: it waits for votes."""
    parser, subparsers = parsers()
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--completion"]:
        print(_completion(subparsers, _families(COMMANDS)))
        return RIGHT
    args = parser.parse_args(joined(words, subparsers))
    command = next((each for each in COMMANDS if each.name == args.command), None)
    if command is None:  # A family without its verb.
        subparsers[args.command].print_help(sys.stderr)
        return UNKNOWN
    try:
        code = command.run(args)
        sys.stdout.flush()
        return code
    except Refused as refused:
        return _told(refused)
    except BrokenPipeError:  # Whoever read what it prints has seen enough; Python would still complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNKNOWN
    except OSError as error:
        about = f": {error.filename}" if error.filename else ""
        return _told(Refused(Refusal.OS_ERROR, f"{error.strerror or error}{about}"))
    except ModuleNotFoundError as error:
        if not command.extra or (error.name or "").partition(".")[0] in OURS:
            raise
        extra = f"pip install 'training-consortium[{command.extra}]'"
        print(f"error `consortium {command.name}` needs {error.name}\n  do  {extra}", file=sys.stderr)
        return UNKNOWN
    except KeyboardInterrupt:
        return 130


def _told(refused: Refused) -> int:
    parts = {"do": refused.remedy, "kept": refused.kept, "more": refused.page}
    print(f"error {refused}", *(f"  {name:4}  {said}" for name, said in parts.items()), sep="\n", file=sys.stderr)
    return UNKNOWN


def joined(words: Sequence[str], names: Container[str]) -> list[str]:
    """The words as the parser takes them: a command of two, such as `ledger rebuild`, is one."""
    pair = " ".join(words[:2])
    return [pair, *words[2:]] if pair in names else list(words)


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those under it by name: of each command, and of each family, which are the commands of two words
    that share the first one."""
    groups = {group: [each for each in COMMANDS if each.group == group] for group in GROUPS}
    parser = argparse.ArgumentParser(
        prog="consortium",
        usage="consortium COMMAND [--help] ...",
        description="Several organisations train one model; every member can verify the bill, trusting nobody.",
        epilog="\n\n".join("\n".join([group, *_listing(commands)]) for group, commands in groups.items() if commands),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # The usage says it: a screen is short.
    under = parser.add_subparsers(dest="command", required=True, metavar="", help=argparse.SUPPRESS)
    found = dict[str, argparse.ArgumentParser]()
    for each in COMMANDS:
        found[each.name] = under.add_parser(each.name, description=each.summary, prog=f"consortium {each.name}")
        each.arguments(found[each.name])
    for word, verbs in _families(COMMANDS).items():
        if word not in found:
            width = max(len(each.name) for each in verbs.values())
            found[word] = under.add_parser(
                word,
                prog=f"consortium {word}",
                usage=f"consortium {word} VERB [--help] ...",
                epilog="\n".join(_line(each.name, each.summary, width) for each in verbs.values()),
                formatter_class=argparse.RawDescriptionHelpFormatter,
                add_help=False,
            )
            found[word].add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
            found[word].add_argument("verb", nargs="?", choices=verbs, metavar="VERB", help=argparse.SUPPRESS)
    return parser, found


def _completion(parsers: Mapping[str, argparse.ArgumentParser], families: Mapping[str, Mapping[str, Command]]) -> str:
    """A script by which bash, and zsh after `bashcompinit`, completes commands and their options."""

    def options(name: str) -> str:
        return " ".join(each for action in parsers[name]._actions for each in action.option_strings if each[:2] == "--")

    ones = {name: options(name) for name in parsers if " " not in name}
    ones |= {word: " ".join((*verbs, ones[word])) for word, verbs in families.items()}
    twos = {name: options(name) for name in parsers if " " in name}
    one, two = (
        "".join(f'        "{name}") words="{found}" ;;\n' for name, found in each.items()) for each in (ones, twos)
    )
    return f"""\
# source <(consortium --completion)
_consortium() {{
    local words="" word=${{COMP_WORDS[COMP_CWORD]}}
    if [ "$COMP_CWORD" -gt 2 ]; then
        case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{two}        esac
    fi
    [ "$COMP_CWORD" -gt 1 ] || words="{" ".join(ones)}"
    [ -n "$words" ] || case "${{COMP_WORDS[1]}}" in
{one}    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _consortium consortium"""


def _families(commands: Iterable[Command]) -> dict[str, dict[str, Command]]:
    """{first word: {second word: command}} of the commands of two words."""
    found = dict[str, dict[str, Command]]()
    for each in commands:
        word, _, verb = each.name.partition(" ")
        if verb:
            found.setdefault(word, {})[verb] = each
    return found


def _listing(commands: Iterable[Command]) -> Iterator[str]:
    """A line for each command, with those that go beside it; one for all of a family, where its first one stands."""
    families = _families(commands := list(commands))
    summaries = {each.name: each.summary for each in commands}
    lines = dict[str, list[Command]]()
    for each in commands:
        word = each.name.partition(" ")[0]
        lines.setdefault(list(lines)[-1] if each.beside else word, []).append(each)
    for word, row in lines.items():
        if word in families:
            alone = f"; by itself: {summaries[word]}" if word in summaries else ""
            verbs = textwrap.shorten(", ".join(families[word]) + alone, WIDE, placeholder=" …")
            yield _line(f"{word} ...", verbs)  # `consortium WORD --help` has them all.
        else:
            yield _line(", ".join(each.name for each in row), " ".join(each.summary for each in row))


def _line(name: str, what: str, width: int = 15) -> str:
    return f"  {name:{width}} {what}"
