"""A witness over HTTP (C2SP tlog-witness): for logs that ask, for members that compare. Standard library only.

POST /add-checkpoint               a head and a consistency proof → our cosignatures
GET  /<origin hash>/checkpoint     the newest head that we cosigned
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client.witness import TEXT, TIMEOUT_S, Answer, Witness
from shared_models.records import tlog

MAX_BODY = tlog.HEAD_BYTES + 8_192
MAX_DROPPED = 4_000_000  # Of a body that is too large.


@contextmanager
def serving(witness: Witness, listen: str) -> Iterator[str]:
    """Serve this witness at HOST:PORT (port 0: any that is free), from threads, for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = TIMEOUT_S

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > MAX_BODY:
                self.close_connection = True
                if length.isdigit():  # Most senders look for the answer only when all is sent.
                    self.rfile.read(min(int(length), MAX_DROPPED))
                self._tell(Answer(413, TEXT, f"a body of at most {MAX_BODY} bytes, and its length, please\n".encode()))
                return
            body = self.rfile.read(int(length))
            if self.path != "/add-checkpoint":
                self._tell(Answer(404, TEXT, b"heads are added at /add-checkpoint\n"))
                return
            self._tell(witness.add_checkpoint(body))

        def do_GET(self) -> None:
            origin, _, rest = self.path.removeprefix("/").partition("/")
            known = rest == "checkpoint"
            self._tell(witness.monitored(origin) if known else Answer(404, TEXT, b"no such page\n"))

        def _tell(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Nothing: who asks a witness is nobody's business."""

    host, _, port = listen.rpartition(":")
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
