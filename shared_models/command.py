"""A command of `consortium`. Each folder lists its own; what a command needs is imported when it runs, not before."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

START, NODE, MONEY, ADMIN, ENGINEER = (
    "Start here",
    "Your node",
    "Money and models",
    "Consortium admin",
    "ML engineers",
)
GROUPS = (START, NODE, MONEY, ADMIN, ENGINEER)

# Exit codes: it is right; it is wrong; it could not be told, or not be done; it waits for the members' votes.
RIGHT, WRONG, UNKNOWN, WAITING = 0, 1, 2, 6


@dataclass(frozen=True, slots=True)
class Command:
    """One verb."""

    name: str  # One word or two, with a space between.
    group: str
    summary: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    extra: str = ""  # The extra of the distribution that brings what it imports; none: the base install has it.
    beside: bool = False  # It is listed on the line of the command before it.
