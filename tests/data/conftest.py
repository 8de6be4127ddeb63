"""What the tests of data share: a server, small batches like CIFAR-10's."""

from pathlib import Path

import pytest
from cifar_files import make_archive, read_straight
from servers import Server, good

from imgclassify.data import download


@pytest.fixture
def serve(monkeypatch):
    """`serve(behaviour)` starts a server."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(behaviour) -> Server:
        servers.append(Server(behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def batches(tmp_path, write_batches, monkeypatch) -> Path:
    """A folder of small batches that IMGCLASSIFY_DATA_DIR points to."""
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path / "data"))
    return write_batches(tmp_path / "data")


@pytest.fixture
def cache(tmp_path) -> Path:
    """Where the converted copies of CIFAR-10 go."""
    return tmp_path / "cache" / "cifar10"


@pytest.fixture
def archive(tmp_path, write_batches) -> tuple[bytes, str, tuple]:
    """A small CIFAR-10 archive: its bytes, its SHA-256, and the arrays in it."""
    source = write_batches(tmp_path / "packed", rows=30)
    digest = make_archive(source, tmp_path / "packed" / "a.tar.gz")
    return (tmp_path / "packed" / "a.tar.gz").read_bytes(), digest, read_straight(source)


@pytest.fixture
def online(monkeypatch, serve, archive):
    """`online(behaviour)`: a server as CIFAR-10's only address; by default it sends the small archive."""
    content, digest, _ = archive

    def start(behaviour=lambda server, request, first: good(server, request, first, content)) -> Server:
        server = serve(behaviour)
        monkeypatch.delenv("IMGCLASSIFY_OFFLINE", raising=False)
        monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://{server.address}/cifar-10-python.tar.gz#sha256={digest}")
        return server

    monkeypatch.setattr(download, "PATIENT", download.Patience(answer=1, stall=0.5))
    monkeypatch.setattr(download, "QUICK", download.Patience(answer=1, stall=0.5, total=60))
    return start
