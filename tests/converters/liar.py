"""A server that answers with any bytes at all, whatever HTTP asks of it."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def answering(*answers: bytes | Iterable[bytes], pause: float = 0.0) -> Iterator[str]:
    """Gives the address of a server whose connections are answered in turn, the last one for ever.

    An answer may be of pieces, with a `pause` in seconds before each.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        for number in itertools.count():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    if over.is_set():
                        return
                    connection.settimeout(5)
                    connection.recv(1 << 16)
                    answer = answers[min(number, len(answers) - 1)]
                    for piece in [answer] if isinstance(answer, bytes) else answer:
                        time.sleep(pause)
                        if over.is_set():
                            return
                        connection.sendall(piece)
            if over.is_set():
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        with contextlib.suppress(OSError), socket.create_connection(listening.getsockname(), 1):
            pass
        listening.close()
        thread.join(5)
