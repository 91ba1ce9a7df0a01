"""Where files stand: in a folder, or as objects; the slow test has a real S3 service."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from ledger_service import write_key
from test_artefacts import DATA, NAME, Served, peak_mb, registered
from world import CONSORTIUM, digest, key

from ledger.settings import Settings
from shared_models import shelf as shelves
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records.refusals import Refusal, Refused
from shared_models.shelf import FolderShelf, ObjectShelf, open_shelf


@pytest.fixture(params=["folder", "objects"])
def shelf(request, tmp_path):
    folder, spool = tmp_path / "artefacts", tmp_path / "uploads"
    folder.mkdir()
    spool.mkdir()
    return open_shelf(str(folder) if request.param == "folder" else f"file://{folder}", spool)


def put(shelf, name: str, data: bytes) -> Path:
    aside = shelf.spool / ".aside"
    aside.write_bytes(data)
    shelf.take(name, aside)
    return aside


def refused(act, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value


def test_what_was_taken_stands_there_and_any_part_of_it_is_read(shelf, monkeypatch):
    monkeypatch.setattr(shelves, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(shelves, "OBJECT_BYTES", 1_000)
    data = os.urandom(4_321)
    assert shelf.size(NAME) is None
    assert not put(shelf, NAME, data).exists()
    assert shelf.size(NAME) == 4_321
    for start, stop in ((0, 4_321), (0, 1), (999, 1_001), (1_000, 2_000), (4_320, 4_321), (5, 5)):
        pieces = list(shelf.read(NAME, start, stop))
        assert b"".join(pieces) == data[start:stop]
        assert max(map(len, pieces), default=0) <= 1_000
    put(shelf, NAME, data[:9])
    assert b"".join(shelf.read(NAME, 3, 4_321)) == data[3:9]  # It was cut off meanwhile.


def test_a_url_names_objects_and_anything_else_a_folder(tmp_path, monkeypatch):
    assert isinstance(open_shelf(str(tmp_path / "nothing"), tmp_path), FolderShelf)
    assert isinstance(open_shelf("memory:///", tmp_path), ObjectShelf)
    assert refused(open_shelf, "gopher://bucket", tmp_path).refusal is Refusal.BAD_FIELD
    assert Settings(dir=tmp_path).shelf().spool == tmp_path / "artefacts"
    assert Settings(dir=tmp_path, artefacts=str(tmp_path / "b")).shelf().spool == tmp_path / "b"
    assert Settings(dir=tmp_path, artefacts="memory:///").shelf().spool == tmp_path / "uploads"
    monkeypatch.setitem(sys.modules, "obstore", None)
    why = refused(open_shelf, "s3://bucket/models", tmp_path)
    assert (why.refusal, "training-consortium[s3]" in why.detail) == (Refusal.NOT_SET_UP, True)


def test_a_service_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shelves, "RETRY", {"max_retries": 0})
    for name, value in environment_of(free_port()).items():
        monkeypatch.setenv(name, value)
    shelf = open_shelf("s3://bucket/models", tmp_path)
    assert refused(shelf.size, NAME).refusal is Refusal.UNREACHABLE
    (tmp_path / ".aside").write_bytes(b"what is to be put")
    assert refused(shelf.take, NAME, tmp_path / ".aside").refusal is Refusal.UNREACHABLE
    assert (tmp_path / ".aside").exists()
    assert list(shelf.read(NAME, 0, 5)) == []


def environment_of(port: int) -> dict[str, str]:
    """What the library reads, and tells nobody in the address of a shelf."""
    endpoint = f"http://127.0.0.1:{port}"
    named = {"ENDPOINT_URL": endpoint, "ALLOW_HTTP": "true", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
    return {f"AWS_{name}": value for name, value in named.items()} | {"AWS_REGION": "eu-central-1"}


# A real service: moto, which answers as S3 does, in a process of its own.


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    """The port of an S3 service with a bucket. Its many dependencies stay in a virtual environment of its own."""
    found = shutil.which("moto_server")
    if found is None:
        folder = tmp_path_factory.mktemp("moto")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin" / "pip"), "install", "--quiet", "moto[s3]", "flask", "flask-cors"]
        subprocess.run(install, check=True, capture_output=True)
        found = str(folder / "bin" / "moto_server")
    port = free_port()
    process = subprocess.Popen([found, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", b"", method="PUT")
        for _ in range(200):
            try:
                urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_files_are_put_into_s3_and_served_from_there(moto, tmp_path, monkeypatch):
    """A file of several parts, so that it is put in parts; the ledger serves it in little memory."""
    for name, value in environment_of(moto).items():
        monkeypatch.setenv(name, value)
    size, port = 100 << 20, free_port()
    monkeypatch.setenv("CONSORTIUM_LEDGER__ARTEFACTS", "s3://bucket/models")
    shelf = open_shelf("s3://bucket/models", tmp_path / "uploads")
    shelf.spool.mkdir()
    hashed, aside = hashlib.sha256(), shelf.spool / ".aside"
    with aside.open("wb") as file:
        for number in range(size >> 20):
            piece = number.to_bytes(4, "big") * (1 << 18)
            hashed.update(piece)
            file.write(piece)
    large = hashed.hexdigest()
    assert shelf.size(large) is None
    shelf.take(large, aside)
    assert (shelf.size(large), aside.exists()) == (size, False)
    put(shelf, NAME, DATA)
    write_key(tmp_path)
    serve = [sys.executable, "-m", "consortium", "serve", "--dir", str(tmp_path), "--port", str(port)]
    process = subprocess.Popen(serve, stdout=subprocess.DEVNULL)
    try:
        served = Served(LedgerHttp(f"http://127.0.0.1:{port}", patience_s=30), tmp_path, large, size)
        at, before = served.grant(), peak_mb(process.pid)
        hashed = hashlib.sha256()
        with served.ledger.artefact(large, at, key("acme/compute")) as reply:
            while piece := reply.read(1 << 20):
                hashed.update(piece)
        grown = peak_mb(process.pid) - before
        print(f"{before} MB before and {grown} MB more at the peak")
        assert (hashed.hexdigest(), grown < 64) == (large, True)
        start, stop = (37 << 20) - 2, (37 << 20) + 2
        status, headers, body = served.ask(at, headers={"Range": f"bytes={start}-{stop - 1}"})
        assert (status, headers["Content-Range"]) == (206, f"bytes {start}-{stop - 1}/{size}")
        assert body == b"\0\x24\0\0"
        other = served.grant(artefact=digest("never put on the shelf"))
        assert served.refusal(other, path=f"/v1/artefacts/{digest('never put on the shelf')}") == (503, "not_set_up")
        mine = os.urandom(20 << 20)  # What a publisher uploads gets there too.
        name = hashlib.sha256(mine).hexdigest()
        served.say(f"{CONSORTIUM}/coordinator", registered(name, len(mine)))
        served.ledger.upload(name, len(mine), io.BytesIO(mine), key(f"{CONSORTIUM}/coordinator"))
        assert (shelf.size(name), list((tmp_path / "uploads").iterdir())) == (len(mine), [])
        assert served.ask(served.grant(artefact=name), path=f"/v1/artefacts/{name}")[2] == mine
        put(shelf, large, DATA)
        assert served.refusal(at) == (500, "corrupt")
        assert json.loads(served.ledger.read("healthz"))["status"] == "ok"
    finally:
        process.terminate()
        process.wait()
