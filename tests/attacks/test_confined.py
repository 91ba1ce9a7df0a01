"""Training code that is not what it seems: what it tries to reach is not its own, and the kernel refuses."""

import json
import os
import socketserver
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from client import confine
from client.confine import confined
from client.home import Settings, create
from shared_models import processes
from shared_models.relay import Way

pytestmark = pytest.mark.skipif(
    confine.version() == 0 and not os.environ.get("CONSORTIUM_REQUIRE_LANDLOCK"), reason="this kernel has no Landlock"
)
needs_namespaces = pytest.mark.skipif(
    not confine.offline() and not os.environ.get("CONSORTIUM_REQUIRE_LANDLOCK"), reason="no namespaces for this user"
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


def tried(home, code: str, *arguments: object, way: tuple[int, Path] | None = None) -> dict[str, object]:
    """What this code prints, in JSON, as the executor would start it."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    process = processes.start(
        confined(command, **home.training_files(), way=way),
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


CONNECTS = """
    import json, socket, sys
    said = {}
    for at in sys.argv[1:]:
        host, _, port = at.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=5) as line:
                line.sendall(b"hello?")
                line.shutdown(socket.SHUT_WR)
                said[at] = line.makefile("rb").read().decode()
        except OSError as error:
            said[at] = type(error).__name__
    print(json.dumps(said))
"""


@contextmanager
def echoing(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A server that says what it hears, once the other has ended; its port."""

    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.read())

    with socketserver.ThreadingTCPServer((host, port), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def short():
    """A folder whose path a Unix socket can have."""
    with tempfile.TemporaryDirectory(prefix="consortium-") as folder:
        yield Path(folder)


@needs_namespaces
def test_one_port_leads_out_of_its_network_and_only_to_where_its_daemon_lets_it(home, short):
    with echoing() as runtime, echoing() as other:
        way = Way(short / "way", lambda host, port: (host, port) == ("127.0.0.1", runtime))
        at, beside = f"127.0.0.1:{runtime}", f"127.0.0.1:{other}"
        said = tried(home, CONNECTS, at, beside, "192.0.2.1:80", way=(runtime, way.path))
        assert said == {at: "hello?", beside: "ConnectionRefusedError", "192.0.2.1:80": "OSError"}
        # Whoever speaks to the socket itself gets no further; what is let out is let out whole, both ways.
        through_it = """
            import json, socket, sys
            said = []
            for line in sys.argv[2:]:
                with socket.socket(socket.AF_UNIX) as way:
                    way.connect(sys.argv[1])
                    try:
                        way.sendall(line.encode() + b"\\n" + bytes(3 << 20) if len(line) < 100 else line.encode())
                        way.shutdown(socket.SHUT_WR)
                        said.append(len(way.makefile("rb").read()))
                    except ConnectionError:
                        said.append(0)
            print(json.dumps({"said": said}))
        """
        lines = [at, beside, f"localhost:{runtime}", "127.0.0.1", "127.0.0.1:x", "x" * 400]
        said = tried(home, through_it, way.path, *lines, way=(runtime, way.path))
        assert said["said"] == [3 << 20, 0, 0, 0, 0, 0]
        way.close()
        # It was ended before it had said all, or before it could end that (ENOTCONN, which has no name of its own).
        assert tried(home, CONNECTS, at, way=(runtime, way.path))[at] in ("", "ConnectionResetError", "OSError")


@needs_namespaces
def test_no_datagram_leaves_its_network_and_it_has_no_power_over_it(home, short):
    """Nor over any other: of root it has the name only."""
    way = Way(short / "way", lambda *_: True)
    said = tried(
        home,
        """
        import ctypes, json, os, socket, sys
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
            sent = "done"
        except OSError as error:
            sent = os.strerror(error.errno)
        try:
            socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
            raw = "done"
        except OSError as error:
            raw = type(error).__name__
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        held = int(status["CapEff"], 16) | int(status["CapPrm"], 16)
        out = [libc.setns(os.pidfd_open(pid), 0x40000000) for pid in (1, int(sys.argv[1]))]
        print(json.dumps({"sent": sent, "raw": raw, "held": held, "out": out}))
        """,
        os.getpid(),
        way=(processes.free_port(), way.path),
    )
    way.close()
    assert said.pop("sent") == "Network is unreachable"
    assert said.pop("raw") == "PermissionError"
    assert (said["held"], said["out"]) == (0, [-1, -1])


@needs_namespaces
def test_nor_does_the_process_that_leads_out_outlive_it(home, short):
    way = Way(short / "way", lambda *_: True)
    port = processes.free_port()
    command = confined(
        [sys.executable, "-c", "import time; time.sleep(600)"], **home.training_files(), way=(port, way.path)
    )
    process = processes.start(
        command, env=processes.scrubbed(), cwd=home.path / "work", log=home.path / "clientapp.log"
    )
    until = time.monotonic() + 60
    while not (leads := psutil.Process(process.pid).children()):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()
    while alive(leads[0].pid):
        assert time.monotonic() < until
        time.sleep(0.05)
    way.close()


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


@pytest.mark.parametrize(("times", "runs"), [(2, True), (17, False)])
def test_where_the_kernel_does_not_confine_it_it_does_not_run(home, times, runs):
    """Landlock has at most 16 domains in one another (landlock(7))."""
    command = [sys.executable, "-c", "print('it runs')"]
    for _ in range(times):
        command = confined(command, **home.training_files())
    done = subprocess.run(command, capture_output=True, text=True, cwd=home.path / "work", check=False)
    assert ((done.returncode == 0), ("it runs" in done.stdout)) == (runs, runs)
    assert runs or "not confined" in done.stderr


@needs_namespaces
def test_nor_does_it_where_no_network_of_its_own_is_to_be_had(home, short):
    command = confined([sys.executable, "-c", "print('it runs')"], **home.training_files(), way=(9, short / "way"))
    nought = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    within = ["unshare", "--user", "--map-root-user", "sh", "-c", nought, "sh", *command]
    done = subprocess.run(within, capture_output=True, text=True, cwd=home.path / "work", check=False)
    assert (done.returncode == 0, done.stdout) == (False, "")


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
    until = time.monotonic() + 60
    while not (written.is_file() and written.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    daemon.kill()
    daemon.wait()
    while alive(int(written.read_text())):
        assert time.monotonic() < until
        time.sleep(0.05)
