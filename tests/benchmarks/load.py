"""A load generator for HTTP that costs little: prepared requests over kept connections, in one process."""

import asyncio
import time
from dataclasses import dataclass, field


@dataclass
class Load:
    """What came back."""

    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.statuses.get(200, 0) / self.seconds


def raw(content: bytes, *, key: str | None = None) -> bytes:
    return _post(content, "application/octet-stream", key)


def form(content: bytes) -> bytes:
    part = (
        b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    return _post(part + content + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge", None)


def _post(body: bytes, kind: str, key: str | None) -> bytes:
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return (head + (f"Authorization: Bearer {key}\r\n" if key else "") + "\r\n").encode() + body


class Connection:
    """One kept connection."""

    def __init__(self, port: int):
        self.port, self.streams = port, None

    async def send(self, request: bytes) -> int:
        """Send a request, and read the answer; returns its status."""
        if self.streams is None or self.streams[0].at_eof():  # the server closes connections that were idle for long
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        if b"connection: close" in head:
            self.close()
        return int(head[9:12])

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


async def closed_loop(port: int, request: bytes, *, clients: int, seconds: float, most: int = 10**9) -> Load:
    """As many clients as given, each sends its next request when it has its answer; ends after so many."""
    load, until, sent = Load(), time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal sent
        connection = Connection(port)
        while (begun := time.perf_counter()) < until and sent < most:
            sent += 1
            status = await connection.send(request)
            load.statuses[status] = load.statuses.get(status, 0) + 1
            load.milliseconds.append(1000 * (time.perf_counter() - begun))
        connection.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - begun
    return load


async def open_loop(port: int, request: bytes, *, per_second: float, seconds: float) -> Load:
    """Requests at fixed times, answered or not; the time of each counts from when it was due."""
    load, idle, count = Load(), list[Connection](), int(per_second * seconds)
    begun = time.perf_counter()

    async def one(due: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        status = await connection.send(request)
        load.statuses[status] = load.statuses.get(status, 0) + 1
        load.milliseconds.append(1000 * (time.perf_counter() - due))
        idle.append(connection)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            due = begun + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due))
    load.seconds = time.perf_counter() - begun
    for connection in idle:
        connection.close()
    return load
