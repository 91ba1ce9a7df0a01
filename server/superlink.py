"""Flower's SuperLink, run and administered. The only file of `server` that touches Flower's private parts.

Its one port serves members (Fleet) and administrators (Control, Runtime) alike, and Flower has no authentication for
the latter: who reaches it can start code at every member. So it is bound to loopback.
"""

import subprocess
import time

import httpx
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from server.app import HOME
from server.home import Home, node_pem
from shared_models import processes
from shared_models.bundle import Bundle
from shared_models.records.refusals import Refusal, Refused

START_S = 60.0


def start(home: Home) -> list[subprocess.Popen[bytes]]:
    """Start a SuperLink for this coordinator, and the executor that starts its ServerApp.

    The ServerApp finds the coordinator's folder, and with it the key, in the executor's environment: it never travels.
    """
    host, _, port = home.settings.superlink.rpartition(":")
    env = processes.scrubbed(
        HOME=str(home.path),
        FLWR_HOME=str(home.path / "flwr"),
        OMP_NUM_THREADS="1",
        **{HOME: str(home.path)},
    )
    tls, secret = home.path / "tls", str(home.path / "keys" / "executor.secret")
    superlink = [processes.program("flower-superlink"), "--host", host, "--port", port, "--enable-supernode-auth"]
    superlink += ["--ssl-ca-certfile", str(tls / "ca.crt"), "--ssl-certfile", str(tls / "server.crt")]
    superlink += ["--ssl-keyfile", str(tls / "server.key"), "--disable-runtime-dependency-installation"]
    superlink += ["--isolation", "process", "--superexec-auth-secret-file", secret]
    superexec = [processes.program("flower-superexec"), "--runtime-api-address", home.settings.superlink]
    superexec += ["--root-certificates", str(tls / "ca.crt"), "--superexec-auth-secret-file", secret]
    return [
        processes.start(command, env=env, cwd=home.path, log=home.path / log)
        for command, log in ((superlink, "superlink.log"), (superexec, "superexec.log"))
    ]


class Control:
    """The SuperLink's administration, from its own machine. Use as a context manager."""

    def __init__(self, home: Home) -> None:
        """Wait until the SuperLink answers. Raises `Refused(UNREACHABLE)`."""
        self._address = home.settings.superlink
        authority = (home.path / "tls" / "ca.crt").read_bytes()
        self._client = ControlHttpClient.from_server_address(
            self._address,
            insecure=False,
            root_certificates=authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        until = time.monotonic() + START_S
        while True:
            try:
                self._client.ListRuns(ListRunsRequest(limit=1))
                return
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if time.monotonic() > until:
                    self._client.close()
                    raise Refused(Refusal.UNREACHABLE, f"SuperLink at {self._address}: {error}") from None
                time.sleep(0.1)

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def let_in(self, member: str, public_key: bytes) -> None:
        """Let the SuperNode with this P-384 key in, under the name of its member, which routes and proves nothing.

        Raises `Refused`: BAD_FIELD if it is no such key; CONFLICT if the SuperLink does not, as when it is in already.
        """
        request = RegisterNodeRequest(public_key=node_pem(member, public_key), name=member)
        try:
            self._client.RegisterNode(request)
        except httpx.TransportError as error:
            raise Refused(Refusal.UNREACHABLE, f"SuperLink at {self._address}: {error}") from None
        except httpx.HTTPStatusError as error:
            raise Refused(Refusal.CONFLICT, f"SuperLink did not register {member}: {error}") from None

    def start_run(self, bundle: Bundle, run: str) -> int:
        """Start the ServerApp of this bundle for a run; Flower's number for it."""
        request = StartRunRequest(
            fab=Fab(hash_str=bundle.sha256, content=bundle.data), override_config={"run": Scalar(string=run)}
        )
        try:
            return self._client.StartRun(request).run_id
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            raise Refused(Refusal.UNREACHABLE, f"SuperLink did not start run {run}: {error}") from None

    def status(self, number: int) -> tuple[str, str]:
        """(`pending`, `starting`, `running` or `finished:...`, details) of a run. Raises `Refused(UNREACHABLE)`."""
        try:
            status = self._client.ListRuns(ListRunsRequest(run_id=number)).run_dict[number].status
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            begun = "once it is up again, consortium run --resume goes on with what it had begun"
            raise Refused(Refusal.UNREACHABLE, f"SuperLink at {self._address}: {error}; {begun}") from None
        return f"{status.status}:{status.sub_status}".rstrip(":"), status.details
