"""A way between two parties that breaks: TCP is passed on, and cut when so many bytes have gone over a connection."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Cutting:
    """Passes connections on to a port of loopback; each is cut after as many bytes as `budgets` says next."""

    def __init__(self, to: int, budgets: Iterator[int]) -> None:
        self._to, self._budgets = to, budgets
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.cuts, self.moved = 0, 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()

    def _accept(self) -> None:
        with self._listening, suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._both, args=(near,), daemon=True).start()

    def _both(self, near: socket.socket) -> None:
        left = [next(self._budgets, 2**60)]
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as far:
            back = threading.Thread(target=self._pass, args=(far, near, left))
            back.start()
            self._pass(near, far, left)
            back.join()

    def _pass(self, one: socket.socket, other: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while data := one.recv(16_384):
                left[0] -= len(data)
                self.moved += len(data)
                if left[0] < 0:
                    self.cuts += 1
                    break
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(to: int, budgets: Iterator[int]) -> Iterator[Cutting]:
    way = Cutting(to, budgets)
    try:
        yield way
    finally:
        way.close()
