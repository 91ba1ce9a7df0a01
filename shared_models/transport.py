"""How tensors get from one party to the other: in Flower's message, or beside it, as a blob.

What stands in a message is copied by three processes each way, whole in the memory of each. So what is large goes as a
file (`lm/blob.py`) over one TLS connection, read and written a piece at a time, and only its SHA-256 and its length
stand in the message. The coordinator decides which way, by size, and serves both (server/blobs.py):

    GET|HEAD /v1/blobs/SHA256    the file, or the part of it that `Range` asks for
    PUT      /v1/blobs/SHA256    the piece of it that `Content-Range` names; `bytes */SIZE`: none  {"size": of it here}

Neither end believes the other: what came is hashed, and is as long as the model and the codec make it.
"""

import hashlib
import http.client
import json
import shutil
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

from shared_models import durable, http_answers, relay
from shared_models.lm import blob, codecs
from shared_models.lm.blob import Blob
from shared_models.lm.codecs import Packed
from shared_models.records.canonical import Count, Hash, Line, Range
from shared_models.records.refusals import Refusal, Refused

PIECE_BYTES = 1 << 18  # What is sent of a blob at a time, and taken.
SILENT_S = 60.0  # A connection on which nothing moves for so long is given up, and another one made.
HASHING_S = 600.0  # What the coordinator may take over the last piece: it hashes the whole.

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a message says of a blob."""

    sha256: Hash
    size: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What lets one member at the coordinator's blobs, in one round."""

    port: Annotated[int, Range(1, 65535)]  # Of the host at which the member finds its coordinator: no task names it.
    capability: Line  # Whoever shows it may do what it says: server/blobs.py.
    most: Count  # The bytes of the update, which is to come as a blob; 0 if it is to stand in the answer.


class Carried(NamedTuple):
    """What stands in a message of some tensors: they, or the blob that they are in."""

    packed: Mapping[str, Packed]
    blob: Named | None = None

    @property
    def size(self) -> int:
        """The bytes that travel of the tensors, in either way."""
        return codecs.nbytes(self.packed) if self.blob is None else self.blob.size


class Transport(Protocol):
    """The way to the other party, at either end."""

    def give(self, packed: Mapping[str, Packed], size: int) -> Carried:
        """Put tensors of so many bytes on their way; what the message is to say. Raises `Refused`."""
        ...

    def take(self, carried: Carried, codec: str, shapes: Shapes) -> Mapping[str, Packed]:
        """The tensors that a message speaks of, to be checked as any that came.

        Raises `Refused`: for a blob NOT_FOUND, WRONG_SHAPE if it is not of this codec and these shapes by its length,
        CORRUPT, or as whoever serves it.
        """
        ...

    def forget(self) -> None:
        """What was taken has been read."""
        ...


class Inline:
    """All of it in the message."""

    def give(self, packed: Mapping[str, Packed], size: int) -> Carried:  # noqa: ARG002 - see `Transport`.
        """See `Transport`."""
        return Carried(packed)

    def take(self, carried: Carried, codec: str, shapes: Shapes) -> Mapping[str, Packed]:  # noqa: ARG002
        """See `Transport`. Raises `Refused(MALFORMED)`."""
        if carried.blob is not None:
            raise Refused(Refusal.MALFORMED, "a blob is named where none can be fetched")
        return carried.packed

    def forget(self) -> None:
        """See `Transport`."""


class Beside:
    """A member's end of the other way. Its folder holds what is under way, and nothing that is worth keeping."""

    def __init__(
        self,
        granted: Pass,
        host: str,
        authority: Path,
        folder: Path,
        patience_s: float,
        way: Path | None = None,
    ) -> None:
        """`authority` is the certificate by which the coordinator's host is known; see `BlobsHttp` for the rest."""
        self._most, self._folder = granted.most, folder
        self._blobs = BlobsHttp(host, granted.port, authority, granted.capability, patience_s, way)

    def give(self, packed: Mapping[str, Packed], size: int) -> Carried:
        """See `Transport`."""
        if not self._most:
            return Carried(packed)
        named = Named(sha256=blob.sha256(packed), size=size)
        self._blobs.put(named, partial(blob.pieces, packed))
        return Carried({}, named)

    def take(self, carried: Carried, codec: str, shapes: Shapes) -> Mapping[str, Packed]:
        """See `Transport`."""
        if carried.blob is None:
            return carried.packed
        check_size(carried.blob, codec, shapes)
        durable.make_folder(self._folder)
        return Blob(self._blobs.get(carried.blob, self._folder), codec, shapes)

    def forget(self) -> None:
        """See `Transport`."""
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class BlobsHttp:
    """The coordinator's blobs, for who has a capability. Every method raises `Refused`: its reason, or UNREACHABLE."""

    host: str
    port: int
    authority: Path
    capability: str
    patience_s: float  # A transfer of which not one byte more gets through for so long is given up.
    way: Path | None = None  # The Unix socket that leads there, where no network does: relay.py.

    def put(self, named: Named, pieces: Callable[[int], Iterator[bytes]]) -> None:
        """Bring this blob there, which `pieces` are from a byte on. When it is cut, what is there is not sent again.

        Raises `Refused(CORRUPT)` too, if twice the bytes that are there do not hash to the name.
        """

        def rest(reached: Callable[[int], None]) -> None:
            here = self._put(named, f"*/{named.size}", 0, iter(()), SILENT_S)
            reached(here)
            if here < named.size:
                where = f"{here}-{named.size - 1}/{named.size}"
                reached(self._put(named, where, named.size - here, pieces(here), HASHING_S))

        try:
            self._finish(named, rest)
        except Refused as refused:  # What lay there was not ours, or a crash has altered it: it is there no more.
            if refused.refusal is not Refusal.CORRUPT:
                raise
            self._finish(named, rest)

    def get(self, named: Named, folder: Path) -> Path:
        """Fetch this blob into a folder, and go on with what is there of it; its path.

        Raises `Refused(CORRUPT)` for other bytes, of which nothing is kept.
        """
        path = folder / named.sha256
        before = path.stat().st_size if path.exists() else 0
        if not self._fetched(named, path):
            path.unlink()
            if not before or not self._fetched(named, path):
                path.unlink(missing_ok=True)
                raise Refused(Refusal.CORRUPT, f"what came as {named.sha256[:12]}… hashes to something else")
        return path

    def _fetched(self, named: Named, path: Path) -> bool:
        """Whether these are the bytes, hashed as they come."""
        with path.open("a+b") as file:
            file.seek(0)
            hashed = hashlib.file_digest(file, "sha256")

            def rest(reached: Callable[[int], None]) -> None:
                reached(file.tell())
                if file.tell() >= named.size:
                    return
                with self._asked("GET", named, SILENT_S, {"Range": f"bytes={file.tell()}-"}) as reply:
                    while more := reply.read(min(PIECE_BYTES, named.size - file.tell())):
                        hashed.update(more)
                        file.write(more)
                reached(file.tell())

            self._finish(named, rest)
            return file.tell() == named.size and hashed.hexdigest() == named.sha256

    def _finish(self, named: Named, rest: Callable[[Callable[[int], None]], None]) -> None:
        """Do the rest of a transfer until all has `reached` the other side, while something more gets through."""
        most, since, pause_s = -1, time.monotonic(), 0.05

        def reached(here: int) -> None:
            nonlocal most, since, pause_s
            if here > most:
                most, since, pause_s = here, time.monotonic(), 0.05

        while True:
            try:
                rest(reached)
                why = f"{most:,} bytes of {named.size:,} are there"
            except Refused as refused:
                if refused.refusal is not Refusal.BUSY:
                    raise
                why = refused.detail
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise Refused(Refusal.UNREACHABLE, f"{self.host}:{self.port}: {why}") from None
            if most >= named.size:
                return
            if time.monotonic() + pause_s > since + self.patience_s:
                raise Refused(Refusal.UNREACHABLE, f"{self.host}:{self.port}: {why}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

    def _put(self, named: Named, where: str, length: int, body: Iterator[bytes], answer_s: float) -> int:
        headers = {"Content-Range": f"bytes {where}", "Content-Length": str(length)}
        cut = (memoryview(data)[at : at + PIECE_BYTES] for data in body for at in range(0, len(data), PIECE_BYTES))
        with self._asked("PUT", named, answer_s, headers, cut) as reply:
            return int(json.loads(reply.read(PIECE_BYTES))["size"])

    @contextmanager
    def _asked(
        self,
        method: str,
        named: Named,
        answer_s: float,
        headers: Mapping[str, str],
        body: Iterator[memoryview] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, unless it is a refusal; the connection is closed behind it."""
        context = ssl.create_default_context(cafile=str(self.authority))  # By this authority, and by no other.
        connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(self.host, self.port, timeout=SILENT_S, context=context)
            if self.way is None
            else _ByWay(self.host, self.port, self.way, context)
        )
        try:
            shown = {"Authorization": f"Bearer {self.capability}", **headers}
            connection.request(method, f"/v1/blobs/{named.sha256}", body, shown)
            connection.sock.settimeout(answer_s)
            reply = connection.getresponse()
            if reply.status >= 300:
                raise _refused(reply)
            yield reply
        finally:
            connection.close()


class _ByWay(http.client.HTTPConnection):
    """A connection by TLS through a relay."""

    def __init__(self, host: str, port: int, way: Path, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=SILENT_S)
        self._way, self._tls = way, context

    def connect(self) -> None:
        plain = relay.through(self._way, self.host, self.port)
        plain.settimeout(SILENT_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def check_size(named: Named, codec: str, shapes: Shapes) -> None:
    """Whether a blob is as long as these tensors in this codec. Raises `Refused`: WRONG_SHAPE, UNKNOWN_CODEC."""
    size = codecs.total(codec, shapes)
    if named.size != size:
        raise Refused(Refusal.WRONG_SHAPE, f"a blob of {named.size:,} bytes; the model in {codec} takes {size:,}")


def _refused(reply: http.client.HTTPResponse) -> Exception:
    body = reply.read(65_536)
    try:
        return http_answers.refused(json.loads(body))
    except (ValueError, KeyError, TypeError):
        return http.client.HTTPException(f"{reply.status}: {body[:200]!r}")
