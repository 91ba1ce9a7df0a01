"""The Flower bundle (FAB) of this very code. Who has the same version builds the same bytes."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flwr.cli.build import build_fab_from_files

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle and its SHA-256, by which manifests name it."""

    data: bytes
    sha256: str


@cache
def build() -> Bundle:
    """The bundle of the code that is running: client, server and shared_models, as pyproject.toml lists them.

    In a checkout pyproject.toml lies beside the packages, in a wheel inside this one.
    """
    root = _HERE.parent
    project = root / "pyproject.toml"
    if not project.is_file():
        project = _HERE / "pyproject.toml"
    sources = [path for part in ("client", "server", "shared_models") for path in (root / part).rglob("*.py")]
    files: dict[str, bytes | Path] = {path.relative_to(root).as_posix(): path for path in sources}
    files["pyproject.toml"] = project
    data, _ = build_fab_from_files(files)
    return Bundle(data, hashlib.sha256(data).hexdigest())
