"""A server on this machine that can fail in every way that servers fail, and these ways."""

import hashlib
import http.server
import threading

import numpy as np

from imgclassify.data.download import Patience

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]  # of the right length
FAST = Patience(answer=1, stall=0.4)


class Server:
    """Answers every request on 127.0.0.1 by `behaviour(server, request, first_byte_asked_for)`."""

    def __init__(self, behaviour):
        self.ranges: list[str | None] = []  # one for each request
        self.sent = 0  # bytes of content
        self.closing = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                try:
                    behaviour(outer, self, int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0)
                except OSError:  # the client has left
                    self.close_connection = True

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_port}"
        self.url = f"http://{self.address}/file.bin"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request, status=200, body=b"", **headers):
        """Send status and headers (`Content_Length=3`), then `body`."""
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), str(value))
        request.end_headers()
        self.send(request, body)

    def send(self, request, body):
        self.sent += len(body)  # before the client can have it
        request.wfile.write(body)

    def close(self):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


# --- behaviours ------------------------------------------------------------------------------------


def status(code):
    return lambda server, request, first: server.answer(request, code, b"nothing here", Content_Type="text/plain")


def good(server, request, first, content=CONTENT, upto=None):
    """The file; `Range` is honoured."""
    if first >= len(content):
        server.answer(request, 416, Content_Range=f"bytes */{len(content)}")
        return
    span = {"Content_Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
    server.answer(request, 206 if first else 200, content[first:upto], Content_Length=len(content) - first, **span)


def without_range(server, request, first, content=CONTENT):
    server.answer(request, 200, content, Content_Length=len(content))


def other_bytes(server, request, first):
    good(server, request, first, OTHER)


def html(server, request, first):
    server.answer(request, 200, b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")


def silent(server, request, first):
    server.closing.wait(5)


def dripping_headers(server, request, first):
    request.wfile.write(b"HTTP/1.0 200 OK\r\n")
    while not server.closing.wait(0.05):
        request.wfile.write(b"X-Header: 1\r\n")


def stalls_midway(server, request, first):
    server.answer(request, 200, CONTENT[:100_000], Content_Length=len(CONTENT))
    server.closing.wait(5)


def dripping(server, request, first):
    server.answer(request, 200, Content_Length=len(CONTENT))
    for i in range(first, len(CONTENT)):
        server.send(request, CONTENT[i : i + 1])
        if server.closing.wait(0.02):
            break


def cut(server, request, first):
    server.answer(request, 200, CONTENT[:100_000], Content_Length=len(CONTENT))


def cut_without_length(server, request, first):
    server.answer(request, 200, CONTENT[:100_000])


def cut_chunked(server, request, first):
    request.protocol_version = "HTTP/1.1"
    request.close_connection = True
    server.answer(request, 200, b"100\r\n" + CONTENT[:256] + b"\r\n", Transfer_Encoding="chunked")


def another_range(server, request, first):
    span = f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"
    server.answer(request, 206, CONTENT[7:], Content_Length=len(CONTENT) - 7, Content_Range=span)


def shorter_file(server, request, first):
    server.answer(request, 200, CONTENT[:5000], Content_Length=5000)


# What a user can meet, and the words of the message.
BAD_SERVERS = {
    "404": (status(404), "answered 404 Not Found"),
    "500": (status(500), "answered 500"),
    "web page": (html, "answered with a web page"),
    "silent": (silent, "did not answer within"),
    "other bytes": (
        lambda server, request, first: good(server, request, first, b"x" * 1000),
        "sent another file",
    ),
}
