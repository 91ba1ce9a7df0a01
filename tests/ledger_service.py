"""The real ledger service for a test, with the key of the test's world."""

import base64
import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from world import CONSORTIUM, key

from ledger import api
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port


def send(
    ledger: LedgerHttp, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """The answer to a request as it stands: (status, headers, body)."""
    where = urlsplit(ledger.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.request(method, target, body, dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def write_key(folder: Path) -> None:
    """The log's key as the world has it, so that its charter names it."""
    signing = key(f"{CONSORTIUM}/log")
    seed = base64.b64encode(b"\x01" + signing._private.private_bytes_raw()).decode()
    (folder / "log.key").write_text(f"PRIVATE+KEY+{signing.name}+{signing.verify_key.id.hex()}+{seed}\n")


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[LedgerHttp]:
    write_key(folder)
    with api.serving(folder, free_port(), **settings) as ledger:
        yield ledger
