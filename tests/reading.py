"""Reading the ledger's pages as a browser would, without one."""

import html
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from ledger_service import serving, write_key
from world import World

from ledger.log import Placed, open_log
from shared_models.ledger_http import LedgerHttp


@contextmanager
def served(world: World, folder: Path, **settings: object) -> Iterator[LedgerHttp]:
    """The real ledger of this log, so set."""
    write_key(folder)
    log = open_log(folder)
    for leaves in (world.leaves[:1], world.leaves[1:]):
        (answers,) = log.commit([[log.admit(leaf) for leaf in leaves]])
        assert all(isinstance(each, Placed) for each in answers)
    log.close()
    with serving(folder, **settings) as ledger:
        yield ledger


def get(ledger: LedgerHttp, path: str) -> tuple[int, Message, str]:
    try:
        with urllib.request.urlopen(ledger.url + path) as reply:  # noqa: S310
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value or "" for name, value in attrs if name in ("href", "src")}


def links(page: str) -> set[str]:
    parser = Links()
    parser.feed(page)
    return {link for link in parser.found if not link.startswith("#")}


def text(page: str) -> str:
    """What it says, without tags, spaces in a row as one."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page.replace('<span class="cut">', ""))))


def rows(page: str) -> list[list[str]]:
    """The cells of each row of each table."""
    return [
        [text(cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S)
    ]


def tables(page: str) -> list[str]:
    """Each table, with the links to its CSV and JSON."""
    return re.findall(r"<table>.*?</table>\s*</div>(?:\s*<p class=\"forms\">.*?</p>)?", page, re.S)
