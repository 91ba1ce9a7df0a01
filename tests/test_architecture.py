"""The house: who may import whom, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("client", "consortium", "ledger", "server", "shared_models")

WEB = ("fastapi", "pydantic", "pydantic_settings", "uvicorn")

# Each floor, the most particular name first, and the roots that its modules may import beyond the standard library.
FLOORS: dict[str, set[str]] = {
    "shared_models.records.keys": {"shared_models.records", "cryptography", "nacl"},
    "shared_models.records": {"shared_models.records", "cryptography"},
    "shared_models.rules": {"shared_models.records", "shared_models.rules"},
    "shared_models.lm.borrowed": {"shared_models.records.refusals"},  # A daemon asks, and needs no PyTorch.
    "shared_models.lm.inner": {"shared_models.lm", "torch", "pytorch_optimizer"},
    "shared_models.lm.codecs": {"shared_models.records.refusals", "numpy"},
    "shared_models.lm.robust": {"numpy"},
    "shared_models.lm.tokenizer": {"shared_models.durable", "shared_models.records.refusals", "numpy", "tokenizers"},
    "shared_models.lm.outer": {
        "shared_models.lm.codecs",
        "shared_models.lm.robust",
        "numpy",
    },  # Who repeats a step needs no PyTorch.
    "shared_models.lm": {
        "shared_models.lm",
        "shared_models.durable",
        "shared_models.records.refusals",
        "torch",
        "numpy",
        "safetensors",
    },
    "shared_models.messages": {"shared_models", "flwr"},
    "shared_models.bundle": {"flwr"},
    "shared_models.gguf": {"shared_models", "numpy"},
    "shared_models.huggingface": {"shared_models", "numpy"},
    "shared_models.shelf": {"shared_models", "obstore"},
    "shared_models": {"shared_models"},
    "client.app": {"client", "shared_models", "flwr"},
    "client.train": {"client", "shared_models", "numpy"},
    "client.calibrate": {"client", "shared_models"},
    "client.training": {"client", "shared_models", "torch", "numpy"},
    "client.parallel": {"shared_models", "torch", "numpy"},
    "client.sharing": {"shared_models.lm.borrowed", "shared_models.records"},  # A daemon asks, and needs no PyTorch.
    "client.team": {"client", "shared_models", "torch", "numpy"},
    "client.data": {"shared_models", "numpy"},
    "client.hardest": {"client", "shared_models", "torch", "numpy"},
    "client.steps": {"shared_models"},
    "client.memory": {"shared_models", "safetensors"},
    "client.begun": {"client", "shared_models", "safetensors"},
    "client.reexecute": {"client", "shared_models", "torch", "numpy"},
    "client.sample": {"client", "shared_models", "torch", "numpy"},
    "client.energy": {"pynvml"},
    "client.executor": {"client", "shared_models", "flwr", "httpx"},
    "client.doctor": {"client", "shared_models", "cryptography"},
    "client.home": {"client", "shared_models", "cryptography"},
    "client": {"client", "shared_models", "psutil"},
    "server.app": {"server", "shared_models", "flwr"},
    "server.superlink": {"server", "shared_models", "flwr", "httpx", "cryptography"},
    "server.outer": {"shared_models"},
    "server.home": {"server", "shared_models", "cryptography"},
    "server": {"server", "shared_models"},
    "ledger.migrations": {"alembic", "sqlalchemy"},
    "ledger": {
        "ledger",
        "shared_models",
        "alembic",
        "fastapi",
        "jinja2",
        "prometheus_client",
        "pydantic",
        "pydantic_settings",
        "sqlmodel",
        "sqlalchemy",
        "starlette",
        "uvicorn",
    },
    "consortium": {*OURS, "flwr", "torch", "numpy", "psutil", "rich"},
}
# Within what a floor may import, these it must not: the ledger knows nothing of training.
NEVER: dict[str, set[str]] = {
    "ledger": {"shared_models.lm", "shared_models.messages", "shared_models.bundle", "shared_models.claims"},
    "shared_models.rules": {"time", "datetime", "random", "os", "pathlib", "socket", "urllib", "subprocess"},
    "shared_models.messages": {"torch", "shared_models.lm.corpus", "shared_models.lm.gpt", "shared_models.lm.weights"},
}
CLOCKLESS = {"open", "print", "input"}  # What a rule must not call either.


def modules() -> dict[str, Path]:
    found = {}
    for part in OURS:
        for path in (ROOT / part).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> set[str]:
    """Every module that this file names in an import, wherever it stands in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(name: str, table: dict[str, set[str]]) -> str | None:
    return next((floor for floor in table if name == floor or name.startswith(floor + ".")), None)


def under(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def violations(name: str, names: set[str]) -> list[str]:
    allowed = FLOORS[floor_of(name, FLOORS)]
    tops = {each.partition(".")[0] for each in names}
    known = {each for each in names if each.partition(".")[0] in sys.stdlib_module_names}
    wrong = []
    for each in sorted(names - known):
        top = each.partition(".")[0]
        # `from shared_models import durable` names the folder and the module: what is named last counts.
        whole = each if top in OURS else top
        if not under(whole, allowed) and not any(other.startswith(each + ".") for other in names):
            wrong.append(f"{name} imports {each}")
    never = NEVER.get(floor_of(name, NEVER) or "", set())
    wrong += [f"{name} imports {each}" for each in sorted(names) if under(each, never)]
    assert tops
    return wrong


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_floor_imports_what_it_may(name):
    names = imported(modules()[name])
    assert names == set() or violations(name, names) == []


def test_the_table_forbids_something():
    """A check of the check: each of these is what the table is for."""
    for name, names in [
        ("shared_models.records.note", {"pydantic"}),
        ("shared_models.rules.audit", {"time"}),
        ("shared_models.rules.audit", {"shared_models.lm.gpt"}),
        ("shared_models.lm.gpt", {"shared_models.records.kinds"}),
        ("client.daemon", {"server.rounds"}),
        ("client.signer", {"flwr.app"}),
        ("server.rounds", {"flwr.app"}),
        ("server.rounds", {"client.app"}),
        ("ledger.log", {"torch"}),
        ("ledger.billing", {"shared_models.messages"}),
        ("ledger.api", {"flwr"}),
    ]:
        assert violations(name, names), (name, names)


def test_nobody_imports_the_folder_that_imports_everybody():
    for name, path in modules().items():
        if not name.startswith("consortium"):
            assert not under("consortium", {each.partition(".")[0] for each in imported(path)}), name


def test_a_rule_touches_no_file_and_no_screen():
    for path in (ROOT / "shared_models" / "rules").glob("*.py"):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & CLOCKLESS, path


def test_nothing_is_computed_in_floats_where_money_is_computed():
    for part in ("records", "rules"):
        for path in (ROOT / "shared_models" / part).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), path
                called = node.func if isinstance(node, ast.Call) else None
                assert not (isinstance(called, ast.Name) and called.id in ("float", "round")), path


def test_flower_s_private_parts_are_touched_in_five_files():
    public = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}
    private = {
        name
        for name, path in modules().items()
        if any(each.startswith("flwr.") and not under(each, public) for each in imported(path))
    }
    assert private == {
        "client.executor",
        "server.superlink",
        "consortium.grid",
        "consortium.ray_engine",
        "shared_models.bundle",
    }


HEAVY = ["torch", "flwr", "numpy", "fastapi", "sqlmodel", "httpx", "rich", "psutil", "pydantic"]
LOADED = """
import sys
from consortium.cli import main
try:
    main({argv})
except SystemExit:
    pass
print([name for name in {names} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "command", ["--help", "status --home .", "audit nowhere", "bill nowhere", "run --help", "demo -h"]
)
def test_light_commands_load_nothing_heavy(command):
    code = LOADED.format(argv=command.split(), names=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_does_nothing(tmp_path):
    """No file, no process, no thread, no settings read: importing every module leaves no trace."""
    code = (
        "import sys, threading, importlib, os; before = set(os.listdir('.'))\n"
        f"for name in {sorted(modules())!r}:\n"
        "    if name not in ('consortium.__main__', 'ledger.migrations.env'): importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert set(os.listdir('.')) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
