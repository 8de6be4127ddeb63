"""Services in processes of their own, on real sockets."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SLOW = str(Path(__file__).with_name("slow_service.py"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def post(body: bytes, *headers: str) -> bytes:
    """A request as it is sent; without a Content-Length if another header says how the body ends."""
    length = [] if any(each.startswith("Transfer-Encoding") for each in headers) else [f"Content-Length: {len(body)}"]
    return "\r\n".join(["POST /v1/predict HTTP/1.1", "Host: localhost", *length, *headers, "", ""]).encode() + body


class Process:
    """A running service; `error` has what it has written to standard error."""

    def __init__(self, *arguments: str, port: int, log: Path):
        self.port, self.log = port, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
            )
        self.wait_until_ready()

    @classmethod
    def slow(cls, model: Path, seconds: float = 0.0, *, keys: Path | None = None, **limits: float) -> "Process":
        """A service in which each batch takes so many seconds."""
        port = free_port()
        return cls(
            SLOW, str(model), str(port), str(seconds), json.dumps(limits), port=port, log=model.with_suffix(".log")
        )

    def wait_until_ready(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.ask(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200"):
                    return
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def connect(self, seconds: float = 20.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def ask(self, request: bytes) -> bytes:
        """Send a request, and read until the answer is complete, or the connection closed."""
        with self.connect() as connection:
            connection.sendall(request)
            return answer(connection)

    def resident(self) -> float:
        """Memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1000

    def stop(self, patience: float = 30.0) -> int:
        """End it by SIGTERM; returns its exit code."""
        self.process.terminate()
        return self.process.wait(patience)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)  # with the processes that it has started
        self.process.wait()


def answer(connection: socket.socket) -> bytes:
    """One response: its head and its body."""
    found = b""
    while True:
        head, end, body = found.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and length and len(body) >= int(length):
            return found
        part = connection.recv(65536)
        if not part:
            return found
        found += part


def status(response: bytes) -> int:
    """Of a response; 0 if there is none."""
    return int(response[9:12] or 0)
