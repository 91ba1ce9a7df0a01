"""The databases that the ledger is tested on: SQLite files, and a real PostgreSQL server of the tests' own.

The server is started once, in a folder of its own, on a Unix socket; as root it runs as nobody. Every test gets a
database of its own. Where PostgreSQL is not installed its tests are skipped, unless CONSORTIUM_REQUIRE_POSTGRES is set,
as CI does.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

KINDS = ("sqlite", "postgresql")
_numbers = count()


def binaries() -> Path | None:
    """Where PostgreSQL's programs are, the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).parent if path else None


@cache
def server() -> Path:
    """The folder of the socket of a running PostgreSQL server, which ends with this process."""
    where = binaries()
    if where is None:
        if os.environ.get("CONSORTIUM_REQUIRE_POSTGRES"):
            pytest.fail("PostgreSQL is not installed, and CONSORTIUM_REQUIRE_POSTGRES is set")
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    if nobody:
        os.chown(folder, 65534, 65534)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **nobody)

    data = str(folder / "data")
    run(str(where / "initdb"), "-D", data, "-U", "ledger", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
    run(str(where / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")

    def stop() -> None:
        run(str(where / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return folder


def fresh(kind: str) -> str:
    """The URL of an empty database of this kind; nothing for SQLite, whose file lies in the ledger's own folder."""
    if kind == "sqlite":
        return ""
    name = f"ledger{os.getpid()}_{next(_numbers)}"
    engine = sqlalchemy.create_engine(_url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return _url(name)


def _url(name: str) -> str:
    return f"postgresql+psycopg://ledger@/{name}?host={server()}"


def change(url: str, folder: Path, statement: str, **values: object) -> None:
    """Change a ledger's database as somebody could who can do everything to it, the triggers included."""
    engine = sqlalchemy.create_engine(url or f"sqlite:///{folder / 'ledger.db'}")
    with engine.begin() as connection:
        for trigger in ("entry_no_update", "entry_no_delete", "entry_no_change"):
            on = "" if engine.dialect.name == "sqlite" else " ON entry"
            connection.execute(sqlalchemy.text(f"DROP TRIGGER IF EXISTS {trigger}{on}"))
        connection.execute(sqlalchemy.text(statement), values)
    engine.dispose()


def dump(url: str, folder: Path) -> list[tuple[Any, ...]]:
    """Every entry as the database has it."""
    engine = sqlalchemy.create_engine(url or f"sqlite:///{folder / 'ledger.db'}")
    with engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text('SELECT * FROM entry ORDER BY "index"')).all()
    engine.dispose()
    return [tuple(row) for row in rows]
