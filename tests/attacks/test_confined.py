"""Training code that is not what it seems: what it tries to reach is not its own, and the kernel refuses."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from client import confine
from client.confine import confined
from client.home import Settings, create
from shared_models import processes

pytestmark = pytest.mark.skipif(
    confine.version() == 0 and not os.environ.get("CONSORTIUM_REQUIRE_LANDLOCK"), reason="this kernel has no Landlock"
)


@pytest.fixture
def home(tmp_path):
    """A member's folder beside another one's, with a text of its own elsewhere."""
    (tmp_path / "text").write_text("what it trains on")
    settings = Settings(member="acme", ledger="", superlink="", data="file:../text", device="cpu-core", devices=1)
    create(tmp_path / "birch", settings)
    home = create(tmp_path / "acme", settings)
    (home.path / "flwr" / "app.py").write_text("the code that was consented to")
    (home.path / "ca.crt").write_text("an authority")
    return home


def tried(home, code: str, *arguments: object) -> dict[str, object]:
    """What this code prints, in JSON, as the executor would start it."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    process = processes.start(
        confined(command, **home.training_files()),
        env=processes.scrubbed(HOME=str(home.path / "work"), PYTHONPATH=os.environ.get("PYTHONPATH", "")),
        cwd=home.path / "work",
        log=home.path / "clientapp.log",
    )
    assert process.wait(60) == 0, (home.path / "clientapp.log").read_text()
    return json.loads((home.path / "clientapp.log").read_text().splitlines()[-1])


READS = """
    import json, sys
    from pathlib import Path
    said = {}
    for path in map(Path, sys.argv[1:]):
        try:
            said[str(path)] = "a folder" if path.is_dir() and list(path.iterdir()) is not None else path.read_text()[:9]
        except OSError as error:
            said[str(path)] = type(error).__name__
    print(json.dumps(said))
"""


def test_no_key_no_other_member_and_no_file_of_the_user_is_read(home, tmp_path):
    outside = tmp_path / "letters"
    outside.write_text("of the user")
    (home.path / "work" / "link").symlink_to(home.path / "keys" / "admin.key")
    keys = sorted((home.path / "keys").iterdir())
    assert len(keys) > 5
    paths = [
        *keys,
        home.path / "work" / "link",
        home.path / "work" / ".." / "keys" / "salt",
        home.path / "member.toml",
        home.path / "keys",
        tmp_path / "birch",
        tmp_path / "birch" / "work",
        tmp_path / "birch" / "member.toml",
        outside,
        Path(f"/proc/{os.getpid()}/environ"),
        Path(f"/proc/{os.getpid()}/mem"),
        "/etc/shadow",
    ]
    said = tried(home, READS, *paths)
    assert said == dict.fromkeys(map(str, paths), "PermissionError")


def test_what_training_needs_is_read(home, tmp_path):
    (home.path / "work" / "kept").write_text("its own")
    paths = [tmp_path / "text", home.path / "ca.crt", home.path / "flwr" / "app.py", home.path / "work" / "kept"]
    paths += [Path(confine.__file__), Path("/proc/cpuinfo")]
    said = tried(home, READS, *paths, "/usr")
    assert "PermissionError" not in said.values()
    assert (said[str(tmp_path / "text")], said["/usr"]) == ("what it t", "a folder")


def test_debian_s_python_is_read_where_it_lies(home):
    """Parts of its library are links into /etc: the text to try things out with holds all of it."""
    here = f"/etc/python3.{sys.version_info.minor}"
    assert here in confine.SYSTEM
    links = list(Path(here).glob("*.py"))
    assert "PermissionError" not in tried(home, READS, *links, here if links else "/usr").values()


WRITES = """
    import json, os, sys
    from pathlib import Path
    said = {}
    for path in map(Path, sys.argv[1:]):
        said[str(path)] = []
        for what in (lambda: path.write_text("x"), lambda: os.truncate(path, 0), lambda: path.unlink(),
                     lambda: path.rename("here"), lambda: os.link(path, "here"), lambda: path.chmod(0o777)):
            try:
                what()
                said[str(path)].append("done")
            except OSError as error:
                said[str(path)].append(type(error).__name__)
    print(json.dumps(said))
"""


def test_nothing_is_written_but_in_its_own_folder(home, tmp_path):
    """Not the code that it was started from either, which the next round runs."""
    targets = [home.path / "flwr" / "app.py", home.path / "keys" / "salt", home.path / "member.toml", tmp_path / "text"]
    before = [path.read_bytes() for path in targets]
    said = tried(home, WRITES, *targets)
    for path in targets:
        assert set(said[str(path)][:5]) <= {"PermissionError", "OSError"}, path  # OSError: not across a border.
    assert [path.read_bytes() for path in targets] == before
    own = tried(
        home, 'import json, os; os.makedirs("a/b"); open("a/b/c", "w").write("x"); print(json.dumps({"ok": 1}))'
    )
    assert own == {"ok": 1}


def test_no_process_but_its_own_is_signalled_or_traced(home):
    if confine.version() < 6:
        pytest.skip("signals are kept in from Landlock 6 on")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        said = tried(
            home,
            """
            import ctypes, json, os, signal, subprocess, sys
            libc, pid = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
            try:
                os.kill(pid, signal.SIGKILL)
                killed = "done"
            except OSError as error:
                killed = type(error).__name__
            traced = libc.ptrace(16, pid, None, None)  # PTRACE_ATTACH
            own = subprocess.Popen(["sleep", "60"])
            own.kill()
            print(json.dumps({"killed": killed, "traced": traced, "own": own.wait()}))
            """,
            bystander.pid,
        )
        assert said == {"killed": "PermissionError", "traced": -1, "own": -9}
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_what_one_process_leaves_behind_is_not_run_unconfined_for_the_next(home):
    """It plants modules where Python would look for them while the next one is not confined yet."""
    work, version = home.path / "work", f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (work / "client", work / ".local" / "lib" / version / "site-packages"):
        folder.mkdir(parents=True)
        for name in ("__init__", "confine", "usercustomize", "sitecustomize"):
            (folder / f"{name}.py").write_text(f"open({str(home.path / 'planted')!r}, 'w')\n")
    for name in ("json", "ctypes", "usercustomize"):
        (work / f"{name}.py").write_text(f"open({str(home.path / 'planted')!r}, 'w')\n")
    tried(home, "print(1)")
    assert not (home.path / "planted").exists()


def test_a_confined_process_cannot_let_itself_out_again(home):
    code = "import sys, subprocess; sys.exit(subprocess.call([sys.executable, '-m', *sys.argv[1:]]))"
    wide = json.dumps({"see": [], "read": ["/"], "write": []})
    command = [sys.executable, "-c", code, "client.confine", wide, "/bin/cat", str(home.path / "keys" / "salt")]
    process = processes.start(
        confined(command, **home.training_files()),
        env=processes.scrubbed(HOME=str(home.path / "work")),
        cwd=home.path / "work",
        log=home.path / "clientapp.log",
    )
    assert process.wait(60) != 0
    assert (home.path / "keys" / "salt").read_bytes() not in (home.path / "clientapp.log").read_bytes()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_does_not_outlive_who_started_it(home):
    """The daemon is killed, and has no time to end anything; the code shrugs off what it is asked."""
    code = """
        import os, signal, time
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        open("pid", "w").write(str(os.getpid()))
        time.sleep(600)
    """
    command = confined([sys.executable, "-c", textwrap.dedent(code)], **home.training_files())
    starts = "import json, subprocess, sys, time; subprocess.Popen(json.loads(sys.argv[1])); time.sleep(600)"
    daemon = subprocess.Popen([sys.executable, "-c", starts, json.dumps(command)], cwd=home.path / "work")
    written = home.path / "work" / "pid"
    until = time.monotonic() + 30
    while not (written.is_file() and written.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    daemon.kill()
    daemon.wait()
    while alive(int(written.read_text())):
        assert time.monotonic() < until
        time.sleep(0.05)
