"""The coordinator's end of both ways to the members, and the one place that decides which way something goes: by size.

What it gives is offered under its SHA-256, as a file of its own disk; what it takes has been brought, and hashed, to
the same disk (server/blobs.py). So no blob is ever whole in memory here, and none is copied.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from server.blobs import Blobs, Capability
from server.home import Home
from shared_models import durable
from shared_models.lm import blob
from shared_models.lm.blob import Blob
from shared_models.lm.codecs import Packed
from shared_models.records.refusals import Refusal, Refused
from shared_models.transport import Carried, Inline, Named, Pass, Shapes, Transport, check_size


class Offers:
    """One run's."""

    def __init__(self, home: Home, manifest: str) -> None:
        """`manifest` is the leaf hash of the run's."""
        self._home, self._manifest, self._blobs = home, manifest, Blobs(home.blobs_path)

    def begin(self, number: int, late: int) -> None:
        """Let blobs of this round come, and no more those of rounds to which no answer counts any more."""
        if self._home.settings.blobs:
            durable.make_folder(folder := self._blobs.round(self._manifest, number))
            for before in folder.parent.iterdir():
                if before.name < self._blobs.round(self._manifest, max(0, number - late)).name:
                    shutil.rmtree(before)

    def end(self) -> None:
        """The run is over: no blob of it comes or goes any more."""
        shutil.rmtree(self._blobs.round(self._manifest, 0).parent, ignore_errors=True)

    def granted(self, number: int, member: str, update_bytes: int, until_s: float) -> Pass | None:
        """What lets this member at the blobs of this round until then (Unix time): its update may be one, if large."""
        if (address := self._home.settings.blobs_address()) is None:
            return None
        most = update_bytes if update_bytes > self._home.settings.inline_bytes else 0
        capability = Capability(self._manifest, number, member, most, int(until_s) + 1)
        return Pass(port=address[1], capability=capability.sealed(self._home.blobs_secret()), most=most)

    def way(self, number: int, member: str) -> Transport:
        """To this member, in this round; what is given is offered to all members of the round."""
        settings = self._home.settings
        if not settings.blobs:
            return Inline()
        return _Beside(self._blobs.round(self._manifest, number), member, settings.inline_bytes)


class _Beside:
    def __init__(self, round_: Path, member: str, inline_bytes: int) -> None:
        self._round, self._member, self._inline_bytes = round_, member, inline_bytes

    def give(self, packed: Mapping[str, Packed], size: int) -> Carried:
        if size <= self._inline_bytes:
            return Carried(packed)
        named = Named(sha256=blob.sha256(packed), size=size)
        if isinstance(packed, Blob):
            durable.link(packed.path, self._round / named.sha256)
        else:
            blob.write(self._round / named.sha256, packed)
        return Carried({}, named)

    def take(self, carried: Carried, codec: str, shapes: Shapes) -> Mapping[str, Packed]:
        if carried.blob is None:
            return carried.packed
        check_size(carried.blob, codec, shapes)
        path = self._round / self._member / carried.blob.sha256
        if not path.is_file() or path.stat().st_size != carried.blob.size:
            raise Refused(
                Refusal.NOT_FOUND, f"{self._member} has not brought {carried.blob.sha256[:12]}…, which it names"
            )
        return Blob(path, codec, shapes)

    def forget(self) -> None:
        """It goes with its round."""
