"""A coordinator announces the bundle that a member approved, and sends another one.

Flower's node does not compare what it was sent with the hash it was announced under, and names what it installs by 8
hex digits of a hash: 32 bits, which anyone can match. So the member installs its own bundle first, and Flower keeps
what is there.
"""

import sys

from flwr.cli.build import build_fab_from_files
from flwr.cli.install import install_from_fab
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.config import get_project_dir

from shared_models import bundle

EVIL = b"raise SystemExit('the coordinator runs what it likes')\napp = None\n"


def evil() -> bytes:
    """The member's own bundle, with another ClientApp in it."""
    root = bundle._HERE.parent
    files = {
        path.relative_to(root).as_posix(): path
        for part in ("client", "server", "shared_models")
        for path in (root / part).rglob("*.py")
    }
    files |= {"pyproject.toml": root / "pyproject.toml", "client/app.py": EVIL}
    return build_fab_from_files(files)[0]


def test_what_runs_is_what_the_member_installed_whatever_was_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    own = bundle.build()
    installed = install_from_fab(own.data, install_dir=tmp_path, skip_prompt=True)
    digits = installed.name.rpartition(".")[2]
    assert own.sha256.startswith(digits)
    assert len(digits) == 8

    # The attacker has found a bundle whose hash begins alike: the folder that Flower would put it in is taken.
    monkeypatch.setattr("hashlib.sha256", _colliding(own.sha256))
    assert install_from_fab(evil(), skip_prompt=True) == installed
    monkeypatch.undo()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))

    assert b"SystemExit" not in (installed / "client" / "app.py").read_bytes()
    assert get_project_dir("consortium/training-consortium", "0.1.0", own.sha256) == installed
    before = list(sys.path)
    load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    assert load("consortium/training-consortium", "0.1.0", own.sha256) is not None
    sys.path[:] = before


def test_without_it_flower_would_have_run_the_other_one(tmp_path, monkeypatch):
    """The reason for all this, shown: on an empty home the announced hash finds what was sent under a colliding one."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    own = bundle.build()
    monkeypatch.setattr("hashlib.sha256", _colliding(own.sha256))
    installed = install_from_fab(evil(), skip_prompt=True)
    monkeypatch.undo()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    assert get_project_dir("consortium/training-consortium", "0.1.0", own.sha256) == installed
    assert (installed / "client" / "app.py").read_bytes() == EVIL


def _colliding(prefix: str):
    """SHA-256 with its first 32 bits given: what 2^32 tries would find."""
    import hashlib

    honest = hashlib.sha256

    class Hash:
        def __init__(self, data: bytes = b"") -> None:
            self._hash, self._whole = honest(data), data[:2] == b"PK"

        def update(self, data: bytes) -> None:
            self._hash.update(data)

        def hexdigest(self) -> str:
            found = self._hash.hexdigest()
            return prefix[:8] + found[8:] if self._whole else found

        def digest(self) -> bytes:
            return self._hash.digest()

    return Hash
