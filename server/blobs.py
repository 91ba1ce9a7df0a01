"""The coordinator's blobs: what it offers to the members of a round, and what they bring; served while it coordinates.

    GET|HEAD /v1/blobs/SHA256    the file, or the part of it that `Range` asks for
    PUT      /v1/blobs/SHA256    the piece of it that `Content-Range` names; `bytes */SIZE`: none  {"size": of it here}

    blobs/<manifest>/<round>/<sha256>                  offered to every member of the round
    blobs/<manifest>/<round>/<member>/<sha256>         what this member brought, whole: it hashes to its name
    blobs/<manifest>/<round>/<member>/<sha256>.part    what has come of it; whoever was cut off asks how much

Members have no key here that their training process could sign with. Each is given a capability in its task, inside
Flower's TLS, and shows it: `MANIFEST.ROUND.MEMBER.BYTES.EXPIRES.MAC`, an HMAC with a secret that never leaves
the coordinator. It is for one round and one member, who may fetch what is offered there, and bring one blob of at most
so many bytes. The folder of the round is made by who runs it, and deleted with all that is in it when it is over: so
no capability, however old, fills the disk.
"""

import hashlib
import hmac
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from server import https
from server.home import Home
from server.https import PIECE_BYTES
from shared_models import durable, http_answers
from shared_models.records.refusals import Refusal, Refused

_CAPABILITY = re.compile(r"([0-9a-f]{64})\.([0-9]{1,9})\.([a-z0-9.-]{1,63})\.([0-9]{1,18})\.([0-9]{1,12})")
_PATH = re.compile(r"/v1/blobs/([0-9a-f]{64})")
_TEXT = b"consortium blob capability v1\n"


@dataclass(frozen=True, slots=True)
class Capability:
    """What its bearer may do."""

    manifest: str  # Leaf hash.
    round: int
    member: str
    most: int  # Bytes that it may bring.
    expires_s: int  # Unix time.

    def sealed(self, secret: bytes) -> str:
        """How it travels."""
        text = f"{self.manifest}.{self.round}.{self.member}.{self.most}.{self.expires_s}"
        return f"{text}.{_mac(secret, text)}"

    @classmethod
    def opened(cls, sealed: str, secret: bytes, now_s: float) -> "Capability":
        """Raises `Refused`: BAD_SIGNATURE if it was not sealed with this secret, LATE when it has expired."""
        text, _, mac = sealed.rpartition(".")
        found = _CAPABILITY.fullmatch(text)
        if found is None or not hmac.compare_digest(mac.encode(), _mac(secret, text).encode()):
            raise Refused(Refusal.BAD_SIGNATURE, "this is no capability that the coordinator gave")
        if now_s > int(found[5]):
            raise Refused(Refusal.LATE, f"the capability was good for round {found[2]}, and until {found[5]}")
        return cls(found[1], int(found[2]), found[3], int(found[4]), int(found[5]))


def _mac(secret: bytes, text: str) -> str:
    return hmac.digest(secret, _TEXT + text.encode(), "sha256").hex()


class Blobs:
    """The folder of them, used by two processes: who coordinates, and who runs a round. What is whole is renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock, self._slots = threading.Lock(), dict[Path, _Slot]()

    def round(self, manifest: str, number: int) -> Path:
        """The folder of a round."""
        return self._folder / manifest / f"{number:08}"

    def open(self, shown: Capability, sha256: str) -> BinaryIO:
        """A blob that is offered to this member, or that it brought. Raises `Refused(NOT_FOUND)`."""
        folder = self.round(shown.manifest, shown.round)
        for path in (folder / sha256, folder / shown.member / sha256):
            with suppress(FileNotFoundError):
                return path.open("rb")
        raise Refused(Refusal.NOT_FOUND, f"round {shown.round} has no blob {sha256[:12]}… for {shown.member}")

    def put(
        self, shown: Capability, sha256: str, start: int, size: int, length: int, read: Callable[[memoryview], int]
    ) -> int:
        """Take in a piece of so many bytes, as they are read; how many bytes of the blob are here then.

        1. It is no longer than the capability says, in whole, and there is room for it twice over.
        2. Its round goes on, and the member has not brought another one.
        3. No gap is before the piece.
        4. The whole has the SHA-256 that is its name, or nothing of it is kept.

        Whoever comes later at the same member's blob goes on, and who was at it before ends: he was cut off, without
        having noticed it. Raises `Refused`: TOO_LARGE, NOT_FOUND, CONFLICT, BAD_RANGE, CORRUPT; BUSY to who was before.
        """
        if size > shown.most:
            raise Refused(Refusal.TOO_LARGE, f"a blob of {size:,} bytes; {shown.member} may bring {shown.most:,}")
        folder = self.round(shown.manifest, shown.round) / shown.member
        try:
            with self._turn(folder) as turn:
                return self._put(turn, folder, sha256, start, size, length, read)
        except FileNotFoundError:  # The folder of the round, which is not made here.
            raise Refused(Refusal.NOT_FOUND, f"round {shown.round} is over, or has not begun") from None

    def _put(
        self,
        turn: "_Turn",
        folder: Path,
        sha256: str,
        start: int,
        size: int,
        length: int,
        read: Callable[[memoryview], int],
    ) -> int:
        whole, part = folder / sha256, folder / f"{sha256}.part"
        with turn:
            folder.mkdir(exist_ok=True)
            if whole.is_file():
                return whole.stat().st_size
            for other in folder.iterdir():
                if not other.name.endswith(".part"):
                    raise Refused(Refusal.CONFLICT, f"{other.name[:12]}… was brought before, and stands")
                if other != part:
                    other.unlink()
            here = part.stat().st_size if part.exists() else 0
            if start > here:
                raise Refused(Refusal.BAD_RANGE, f"{here:,} bytes are here, the piece begins behind {start:,}")
            room = shutil.disk_usage(folder).free // 2
            if size - here > room:
                raise Refused(Refusal.TOO_LARGE, f"{size - here:,} bytes are to come, there is room for {room:,}")
        if length:
            file = os.open(part, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                _write(turn, file, start, length, read)
            finally:
                os.close(file)
        with turn:
            here = part.stat().st_size if part.exists() else 0
            if here == size:
                _finish(part, whole, sha256)
            return here

    @contextmanager
    def _turn(self, folder: Path) -> Iterator["_Turn"]:
        with self._lock:
            slot = self._slots.setdefault(folder, _Slot())
            slot.last += 1
            turn = _Turn(slot, slot.last)
        try:
            yield turn
        finally:
            with self._lock:
                if turn.number == slot.last:
                    self._slots.pop(folder, None)


@dataclass(slots=True)
class _Slot:
    """Who is at a member's blob."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    last: int = 0


@dataclass(slots=True)
class _Turn:
    """One request's turn at it: what is done within, is done alone. Raises `Refused(BUSY)` once another has come."""

    slot: _Slot
    number: int

    def __enter__(self) -> None:
        self.slot.lock.acquire()
        if self.number != self.slot.last:
            self.slot.lock.release()
            raise Refused(Refusal.BUSY, "another request goes on with this blob")

    def __exit__(self, *_: object) -> None:
        self.slot.lock.release()


def _write(turn: _Turn, file: int, at: int, length: int, read: Callable[[memoryview], int]) -> None:
    """What has come is kept, however it ends. TLS gives 16 KiB at a time: writing these one by one costs more."""
    piece, filled, came = memoryview(bytearray(PIECE_BYTES)), 0, 1
    try:
        while length and came:
            came = read(piece[filled : filled + length])
            filled, length = filled + came, length - came
            if filled == PIECE_BYTES:
                at, filled = at + _keep(turn, file, piece, at), 0
    finally:
        _keep(turn, file, piece[:filled], at)


def _keep(turn: _Turn, file: int, piece: memoryview, at: int) -> int:
    with turn:
        return os.pwrite(file, piece, at)


def _finish(part: Path, whole: Path, sha256: str) -> None:
    with part.open("rb+") as file:
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    if hashed != sha256:
        part.unlink()
        raise Refused(Refusal.CORRUPT, f"what came as {sha256[:12]}… hashes to {hashed[:12]}…")
    part.replace(whole)
    durable.sync_folder(whole.parent)


# Over HTTP.


class _Handler(https.Handler):
    blobs: Blobs  # Set by `serving`,
    secret: bytes  # as this is.

    def act(self) -> None:
        """Give a blob or a part of it, or take a piece of one, if a capability for that is shown."""
        found = _PATH.fullmatch(self.path)
        if found is None or self.command == "POST":
            raise Refused(Refusal.NOT_FOUND, "blobs are at /v1/blobs/SHA256")
        shown = Capability.opened(
            self.headers.get("Authorization", "").removeprefix("Bearer "), self.secret, time.time()
        )
        (self._put if self.command == "PUT" else self._get)(shown, found[1])

    def _get(self, shown: Capability, sha256: str) -> None:
        with self.blobs.open(shown, sha256) as file:
            size = os.fstat(file.fileno()).st_size
            part = http_answers.wanted(self.headers.get("Range", ""), size) if self.command == "GET" else None
            start, end = part or (0, size)
            if part and start >= end:
                raise Refused(Refusal.BAD_RANGE, f"{self.headers['Range']} of {size:,} bytes")
            headers = {"Accept-Ranges": "bytes", "ETag": f'"{sha256}"', "Content-Type": "application/octet-stream"}
            if part:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self.begin(206 if part else 200, end - start, headers)
            if self.command == "HEAD":
                return
            file.seek(start)
            while start < end and (piece := file.read(min(PIECE_BYTES, end - start))):
                self.wfile.write(piece)
                start += len(piece)

    def _put(self, shown: Capability, sha256: str) -> None:
        length = self.unread
        start, size = http_answers.piece(self.headers.get("Content-Range", ""), length)
        here = self.blobs.put(shown, sha256, start, size, length, self.read)
        self.drop()
        self.tell(200, {"size": here}, "application/json")


@contextmanager
def serving(home: Home) -> Iterator[None]:
    """Serve this coordinator's blobs where its settings say, if they do, for as long as the context lasts."""
    address = home.settings.blobs_address()
    if address is None:
        yield
        return
    known = {"blobs": Blobs(home.blobs_path), "secret": home.blobs_secret()}
    with https.serving(address, type("Handler", (_Handler,), known), home.path / "tls"):
        yield
