"""What is shipped: the wheel, the Flower bundle, and what each extra brings along."""

import ast
import io
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from world import whole

from shared_models import bundle
from shared_models.records import tlog
from shared_models.release import RELEASE

ROOT = Path(__file__).parent.parent
PACKAGES = ("client", "consortium", "ledger", "server", "shared_models")
BUNDLE = [
    ".info/CONTENT",
    "client/__init__.py",
    "client/app.py",
    "client/begun.py",
    "client/data.py",
    "client/half.py",
    "client/hardest.py",
    "client/memory.py",
    "client/parallel.py",
    "client/sharing.py",
    "client/team.py",
    "client/train.py",
    "client/training.py",
    "pyproject.toml",
    "server/__init__.py",
    "server/admission.py",
    "server/app.py",
    "server/blobs.py",
    "server/cli.py",
    "server/gateway.py",
    "server/home.py",
    "server/https.py",
    "server/journal.py",
    "server/launch.py",
    "server/nodes.py",
    "server/offers.py",
    "server/outer.py",
    "server/partial.py",
    "server/rounds.py",
    "server/superlink.py",
    "server/takeover.py",
    "server/updates.py",
    "shared_models/__init__.py",
    "shared_models/artefacts.py",
    "shared_models/bundle.py",
    "shared_models/claims.py",
    "shared_models/command.py",
    "shared_models/durable.py",
    "shared_models/folder.py",
    "shared_models/gguf.py",
    "shared_models/http_answers.py",
    "shared_models/http_signatures.py",
    "shared_models/huggingface.py",
    "shared_models/invites.py",
    "shared_models/ledger_http.py",
    "shared_models/messages.py",
    "shared_models/processes.py",
    "shared_models/relay.py",
    "shared_models/published.py",
    "shared_models/release.py",
    "shared_models/service.py",
    "shared_models/shelf.py",
    "shared_models/transport.py",
    "shared_models/words.py",
    "shared_models/lm/__init__.py",
    "shared_models/lm/blob.py",
    "shared_models/lm/borrowed.py",
    "shared_models/lm/codecs.py",
    "shared_models/lm/corpus.py",
    "shared_models/lm/gpt.py",
    "shared_models/lm/kept.py",
    "shared_models/lm/models.py",
    "shared_models/lm/hygiene.py",
    "shared_models/lm/inner.py",
    "shared_models/lm/outer.py",
    "shared_models/lm/own.py",
    "shared_models/lm/robust.py",
    "shared_models/lm/tokenizer.py",
    "shared_models/lm/weights.py",
    "shared_models/records/__init__.py",
    "shared_models/records/canonical.py",
    "shared_models/records/entry.py",
    "shared_models/records/keys.py",
    "shared_models/records/kinds.py",
    "shared_models/records/merkle.py",
    "shared_models/records/note.py",
    "shared_models/records/policy.py",
    "shared_models/records/refusals.py",
    "shared_models/records/tlog.py",
    "shared_models/rules/__init__.py",
    "shared_models/rules/access.py",
    "shared_models/rules/accounts.py",
    "shared_models/rules/agreement.py",
    "shared_models/rules/allocation.py",
    "shared_models/rules/audit.py",
    "shared_models/rules/books.py",
    "shared_models/rules/challenge.py",
    "shared_models/rules/currency.py",
    "shared_models/rules/fork.py",
    "shared_models/rules/games.py",
    "shared_models/rules/keyring.py",
    "shared_models/rules/netting.py",
    "shared_models/rules/pace.py",
    "shared_models/rules/pricing.py",
    "shared_models/rules/quote.py",
    "shared_models/rules/quotes.py",
    "shared_models/rules/recipes.py",
    "shared_models/rules/served.py",
    "shared_models/rules/settlement.py",
    "shared_models/rules/skim.py",
    "shared_models/rules/statement.py",
    "shared_models/rules/stopping.py",
    "shared_models/rules/tricks.py",
    "shared_models/rules/what_if.py",
    "shared_models/rules/wording.py",
    "shared_models/rules/worth.py",
]


def sources() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for part in PACKAGES for path in (ROOT / part).rglob("*.py")}


def of_the_ledger() -> set[str]:
    """What it shows and is watched by, beside its code."""
    folders = (ROOT / "ledger" / "templates", ROOT / "ledger" / "static")
    shown = {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.iterdir()}
    return shown | {"ledger/alerts.yml", "ledger/grafana.json", "ledger/prometheus.yml"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_our_packages_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if name.startswith("training_consortium-")}
    assert names - info == sources() | of_the_ledger() | {"shared_models/pyproject.toml"}
    assert {name.partition("/")[2] for name in info} == {"METADATA", "WHEEL", "RECORD", "entry_points.txt"}


def test_the_release_that_programs_name_is_that_of_the_project():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == RELEASE


def test_the_base_install_needs_cryptography_and_nothing_else(wheel):
    metadata = zipfile.ZipFile(wheel).read("training_consortium-0.1.0.dist-info/METADATA").decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert needed == ["Requires-Dist: cryptography>=50"]
    ledger = [line for line in metadata.splitlines() if "extra == 'ledger'" in line]
    assert not any(name in line for line in ledger for name in ("flwr", "torch"))


def contents(fab: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(fab)).namelist())


def test_the_flower_bundle_holds_exactly_this():
    assert contents(bundle.build().data) == set(BUNDLE)


def test_the_bundle_holds_all_that_its_own_files_import():
    """What is missing there is found at a member only, where its own is."""
    mine = [each for each in BUNDLE if each.startswith("client/")]
    for path in mine:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "client":
                module = node.module.replace(".", "/")
                wanted = [f"{module}/{each.name}.py" for each in node.names] if module == "client" else [f"{module}.py"]
                assert set(wanted) <= set(mine), (path, wanted)


def test_flower_builds_the_same_bytes_from_the_checkout(tmp_path):
    copy = checkout(tmp_path)
    assert build_fab_from_disk(copy) == bundle.build().data


def checkout(folder: Path) -> Path:
    """A copy of the project as Flower would find it."""
    copy = folder / "main"
    for part in PACKAGES:
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def test_who_installed_the_wheel_builds_the_same_bytes_too(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from shared_models.bundle import build; print(build().sha256)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == bundle.build().sha256


def test_no_stray_file_gets_into_the_bundle(tmp_path):
    copy = checkout(tmp_path)
    for stray in (
        "keys/acme.key",
        "keys/acme.json",
        "client/keys.json",
        "client/evil.py",
        "secrets.py",
        "ledger/more.py",
    ):
        (copy / stray).parent.mkdir(exist_ok=True)
        (copy / stray).write_text("{}")
    assert contents(build_fab_from_disk(copy)) == set(BUNDLE)


def test_a_member_with_other_code_builds_another_bundle(tmp_path):
    copy = checkout(tmp_path)
    (copy / "client" / "train.py").write_text((copy / "client" / "train.py").read_text() + "\n")
    assert build_fab_from_disk(copy) != bundle.build().data


# What each extra brings. Slow: each is a virtual environment of its own.


def environment(folder: Path, *what: str) -> Path:
    """A fresh virtual environment with this in it; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *what], check=True, capture_output=True)
    return python


def installed(python: Path) -> dict[str, str]:
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True)
    return {each["name"].lower(): each["version"] for each in json.loads(listed.stdout)}


def published(folder: Path) -> Path:
    """A whole run's log in a folder, as any ledger publishes it."""
    world = whole()
    tree = world.books.tree
    for level, number, width in tlog.tiles(tree.size):
        path = folder / tlog.tile_path(level, number, width)
        path.parent.mkdir(parents=True)
        path.write_bytes(tree.hashes(8 * level, 0, width))
    entries = folder / tlog.tile_path("entries", 0, tree.size)
    entries.parent.mkdir(parents=True)
    entries.write_bytes(tlog.pack(world.leaves))
    (folder / tlog.HEAD).write_bytes(world.head())
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pip_install_gives_the_auditor(wheel, tmp_path):
    python = environment(tmp_path / "venv", str(wheel))
    assert set(installed(python)) == {"cffi", "cryptography", "pip", "pycparser", "setuptools", "training-consortium"}
    log = published(tmp_path / "log")
    run = [str(python.parent / "consortium"), "audit", str(log)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "audit: every number recomputed, 0 findings")
    entries = next(path for path in (log / "tile" / "entries").rglob("*") if path.is_file())
    entries.write_bytes(entries.read_bytes().replace(b'"tokens":96', b'"tokens":97', 1))
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, "bad_signature" in done.stdout) == (1, True)
    done = subprocess.run([*run[:-1], str(tmp_path / "nothing")], capture_output=True, text=True, check=False)
    assert (done.returncode, "not_found" in done.stderr) == (2, True)
    done = subprocess.run([run[0], "demo"], capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'training-consortium[train]'" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ledger_runs_on_the_newest_web_stack_without_flower_and_torch(wheel, tmp_path):
    tools = ("pytest", "pytest-timeout", "hypothesis", "rfc8785", "pynacl")
    python = environment(tmp_path / "venv", f"{wheel}[ledger,postgres,s3]", *tools)
    found = installed(python)
    assert not {"flwr", "torch"} & set(found)
    newest = tuple(map(int, found["fastapi"].split(".")[:2]))
    assert newest > (0, 138), "this is the stack that Flower pins: the test would show nothing new"
    # What these test is the database, and that is run by the same libraries here, if no newer ones are out.
    stored = ("faulty_disk", "log", "projections", "sequencer", "shelf")
    as_here = all(found[each] == version(each) for each in ("alembic", "psycopg", "sqlalchemy", "sqlmodel"))
    tests = tmp_path / "tests"
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "-m",
        "not slow",
        "-c",
        str(tmp_path / "none.ini"),
        "--rootdir",
        str(tmp_path),
        *(f"--ignore={tests / 'ledger' / f'test_{each}.py'}" for each in stored if as_here),
    ]
    (tmp_path / "none.ini").write_text("[pytest]\nmarkers = slow\n")
    done = subprocess.run(
        [str(python), "-m", "pytest", str(tests / "ledger"), *options],  # What records are knows no web.
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
