"""Downloads against a server on this machine that fails in every way that servers fail."""

import re
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import (
    CONTENT,
    FAST,
    OTHER,
    SHA256,
    another_range,
    cut,
    cut_chunked,
    cut_without_length,
    dripping,
    dripping_headers,
    good,
    html,
    other_bytes,
    shorter_file,
    silent,
    stalls_midway,
    status,
    without_range,
)

from imgclassify.data import download
from imgclassify.data.download import DownloadError, Patience, fetch


@pytest.fixture
def destination(tmp_path) -> Path:
    return tmp_path / "folder" / "file.bin"


def part_of(destination: Path) -> Path:
    return destination.with_name("file.bin.part")


def put_part(destination: Path, content: bytes) -> Path:
    part = part_of(destination)
    part.parent.mkdir()
    part.write_bytes(content)
    return part


# --- success ---------------------------------------------------------------------------------------


def test_fetch_gives_the_file_and_leaves_nothing_else_behind(serve, destination):
    server = serve(good)
    assert fetch([server.url], destination, sha256=SHA256, size=len(CONTENT)) == destination
    assert destination.read_bytes() == CONTENT
    assert list(destination.parent.iterdir()) == [destination]
    assert server.ranges == [None]


def test_fetch_needs_no_content_length(serve, destination):
    server = serve(lambda server, request, first: server.answer(request, 200, CONTENT))
    fetch([server.url], destination, sha256=SHA256)
    assert destination.read_bytes() == CONTENT


def test_fetch_follows_redirects(serve, destination):
    target = serve(good)
    server = serve(lambda server, request, first: server.answer(request, 302, Location=target.url))
    fetch([server.url], destination, sha256=SHA256)
    assert destination.read_bytes() == CONTENT


def test_fetch_continues_from_the_part_and_transfers_only_the_rest(serve, destination):
    put_part(destination, CONTENT[:290_000])
    server = serve(good)
    fetch([server.url], destination, sha256=SHA256, size=len(CONTENT))
    assert destination.read_bytes() == CONTENT
    assert server.ranges == ["bytes=290000-"]
    assert server.sent == 10_000
    assert not part_of(destination).exists()


def test_fetch_uses_a_complete_part_without_asking_any_server(serve, destination):
    put_part(destination, CONTENT)
    server = serve(good)
    fetch([server.url], destination, sha256=SHA256)
    assert destination.read_bytes() == CONTENT
    assert server.ranges == []


def test_fetch_continues_even_if_the_server_ignores_range(serve, destination):
    put_part(destination, CONTENT[:290_000])
    server = serve(without_range)
    fetch([server.url], destination, sha256=SHA256, size=len(CONTENT))
    assert destination.read_bytes() == CONTENT
    assert server.ranges == ["bytes=290000-"]


def test_fetch_goes_on_as_long_as_a_server_that_breaks_off_progresses(serve, destination):
    server = serve(lambda server, request, first: good(server, request, first, upto=first + 80_000))
    fetch([server.url], destination, sha256=SHA256, size=len(CONTENT))
    assert destination.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=80000-", "bytes=160000-", "bytes=240000-"]
    assert server.sent == len(CONTENT)


def test_fetch_continues_at_the_next_address_what_the_first_began(serve, destination):
    first, second = serve(cut), serve(good)
    fetch([first.url, second.url], destination, sha256=SHA256, size=len(CONTENT))
    assert destination.read_bytes() == CONTENT
    assert second.ranges == ["bytes=100000-"]
    assert second.sent == 200_000


def test_fetch_takes_the_last_address_when_the_first_ones_fail(serve, destination):
    failing = [serve(behaviour) for behaviour in (status(404), status(500), html, other_bytes, shorter_file)]
    last = serve(good)
    fetch(
        [server.url for server in (*failing, last)],
        destination,
        sha256=SHA256,
        size=len(CONTENT),
        patience=FAST,
    )
    assert destination.read_bytes() == CONTENT
    assert all(server.ranges for server in failing)  # each was asked


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("damaged", [OTHER[:100_000], OTHER, CONTENT + b"more"], ids=["begun", "complete", "too long"])
@pytest.mark.parametrize("behaviour", [good, without_range])
def test_fetch_starts_afresh_when_the_part_was_not_of_this_file(serve, destination, behaviour, damaged, size):
    put_part(destination, damaged)
    fetch([serve(behaviour).url], destination, sha256=SHA256, size=size)
    assert destination.read_bytes() == CONTENT


def test_fetch_replaces_an_earlier_file_only_by_the_right_one(serve, destination):
    destination.parent.mkdir()
    destination.write_bytes(b"an earlier file")
    with pytest.raises(DownloadError):
        fetch([serve(other_bytes).url], destination, sha256=SHA256)
    assert destination.read_bytes() == b"an earlier file"
    fetch([serve(good).url], destination, sha256=SHA256)
    assert destination.read_bytes() == CONTENT


@pytest.fixture
def planned(serve):
    """A server and its plan: the sizes of the pieces that it sends, and after how many more bytes it breaks off."""
    plan = SimpleNamespace(pieces=[], breaks=[], honours_range=True)

    def follow(server, request, first):
        if first >= len(CONTENT) and plan.honours_range:
            good(server, request, first)
            return
        at = first if plan.honours_range else 0
        end = min(first + plan.breaks.pop(), len(CONTENT)) if plan.breaks else len(CONTENT)
        good(server, request, at, upto=at)  # status and headers
        for size in (*plan.pieces, len(CONTENT)):
            server.send(request, CONTENT[at : min(at + size, end)])
            at = min(at + size, end)

    return serve(follow), plan


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begun=st.integers(0, len(CONTENT)),
    pieces=st.lists(st.integers(1, 60_000), max_size=20),
    breaks=st.lists(st.integers(1, len(CONTENT)), max_size=4),
    honours_range=st.booleans(),
    knows_size=st.booleans(),
)
def test_fetch_gives_the_file_wherever_it_was_cut_and_however_it_is_sent(
    planned, destination, begun, pieces, breaks, honours_range, knows_size
):
    shutil.rmtree(destination.parent, ignore_errors=True)
    put_part(destination, CONTENT[:begun])
    server, plan = planned
    server.sent = 0
    plan.pieces, plan.breaks, plan.honours_range = pieces, list(breaks), honours_range
    fetch([server.url], destination, sha256=SHA256, size=len(CONTENT) if knows_size else None, patience=FAST)
    assert destination.read_bytes() == CONTENT
    assert list(destination.parent.iterdir()) == [destination]
    if honours_range:
        assert server.sent == len(CONTENT) - begun  # nothing twice


# --- failure ---------------------------------------------------------------------------------------

FAILURES = {
    "404": (status(404), "answered 404 Not Found"),
    "500": (status(500), "answered 500 Internal Server Error"),
    "web page": (html, "answered with a web page"),
    "other bytes": (other_bytes, "sent another file (checksum "),
    "silent": (silent, "did not answer within "),
    "dripping headers": (dripping_headers, "did not answer within 1 s"),
    "stalls midway": (stalls_midway, "stopped sending"),
    "drips": (dripping, "sent only "),
    "cut": (cut, "broke off"),
    "cut without length": (cut_without_length, "broke off after 100,000 of 300,000 bytes"),
    "cut in a chunk": (cut_chunked, "broke off"),
    "another range": (another_range, "answered with a range that was not requested"),
    "shorter file": (shorter_file, "offers 5,000 bytes, expected 300,000"),
    "always 416": (status(416), "answered 416"),
}


@pytest.mark.parametrize(("behaviour", "words"), FAILURES.values(), ids=FAILURES)
def test_a_failing_server_is_one_clear_error_and_never_a_file(serve, destination, behaviour, words):
    server = serve(behaviour)
    began = time.monotonic()
    with pytest.raises(DownloadError) as raised:
        fetch([server.url], destination, sha256=SHA256, size=len(CONTENT), patience=FAST)
    assert str(raised.value).startswith(f"{server.address} {words}")
    assert not destination.exists()
    assert time.monotonic() - began < 20  # a hang is a failure too


@pytest.mark.parametrize("name", [name for name in FAILURES if name != "other bytes"])
def test_a_failing_server_costs_nothing_of_what_arrived_before(serve, destination, name):
    behaviour, _ = FAILURES[name]
    part = put_part(destination, CONTENT[:200_000])
    with pytest.raises(DownloadError):
        fetch([serve(behaviour).url], destination, sha256=SHA256, size=len(CONTENT), patience=FAST)
    kept = part.read_bytes()
    assert len(kept) >= 200_000
    assert CONTENT.startswith(kept)
    assert not destination.exists()


def test_the_error_names_the_problem_of_each_address(serve, destination):
    servers = [serve(behaviour) for behaviour in (status(404), html, other_bytes)]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        closed = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DownloadError) as raised:
            fetch(
                [*(server.url for server in servers), f"http://{closed}/"],
                destination,
                sha256=SHA256,
                patience=FAST,
            )
    reasons = str(raised.value).split("; ")
    assert reasons[0] == f"{servers[0].address} answered 404 Not Found"
    assert reasons[1] == f"{servers[1].address} answered with a web page"
    assert reasons[2].startswith(f"{servers[2].address} sent another file")
    assert reasons[3] == f"{closed} refused the connection"
    assert len(reasons) == 4


@pytest.mark.parametrize("url", ["/home/me/file.bin", "file:///home/me/file.bin"])
def test_something_other_than_a_web_address_is_named_in_the_error(destination, url):
    with pytest.raises(DownloadError, match=f"{url} is not a web address"):
        fetch([url], destination, sha256=SHA256)


@pytest.mark.parametrize("begun", [0, 200_000])
def test_a_server_that_sends_more_than_the_file_is_abandoned_early(serve, destination, begun):
    def sends_on(server, request, first):
        server.answer(request, 200)
        for _ in range(100):  # bounded: a failure of this test must not fill the disk
            server.send(request, bytes(50_000))

    part = put_part(destination, CONTENT[:begun])
    with pytest.raises(DownloadError, match="sends more than the expected 300,000 bytes"):
        fetch([serve(sends_on).url], destination, sha256=SHA256, size=len(CONTENT), patience=FAST)
    assert part.read_bytes() == CONTENT[:begun]
    assert not destination.exists()


def test_all_addresses_share_the_time_to_answer(serve, destination):
    servers = [serve(silent) for _ in range(2)]
    began = time.monotonic()
    with pytest.raises(DownloadError) as raised:
        fetch(
            [server.url for server in servers],
            destination,
            sha256=SHA256,
            patience=Patience(answer=2, stall=5),
        )
    assert re.fullmatch(r"127\.0\.0\.1:\d+, 127\.0\.0\.1:\d+ did not answer within 1 s", str(raised.value))
    assert time.monotonic() - began < 10


def test_a_slow_download_is_abandoned_when_it_would_take_longer_than_the_total(serve, destination, monkeypatch):
    def slow(server, request, first):
        server.answer(request, 200, Content_Length=len(CONTENT))
        for i in range(0, 100_000, 2_000):
            server.send(request, CONTENT[i : i + 2_000])
            if server.closing.wait(0.02):
                break

    real = time.monotonic
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: 20 * real()))  # hours pass quickly
    with pytest.raises(DownloadError, match=r"is slow: \d+ kB/s, .+ left"):
        fetch([serve(slow).url], destination, sha256=SHA256, patience=Patience(answer=60, stall=60, total=10))
    assert CONTENT.startswith(part_of(destination).read_bytes())
    assert part_of(destination).stat().st_size > 0  # for `imgclassify data --download` to go on from


def test_a_slow_download_goes_on_without_a_total(serve, destination, monkeypatch):
    def slow(server, request, first):
        server.answer(request, 200, Content_Length=len(CONTENT))
        for i in range(0, len(CONTENT), 10_000):
            server.send(request, CONTENT[i : i + 10_000])
            server.closing.wait(0.01)

    real = time.monotonic
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: 20 * real()))
    fetch([serve(slow).url], destination, sha256=SHA256, patience=Patience(answer=60, stall=60))
    assert destination.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_not_called_a_network_problem(serve, tmp_path):
    (tmp_path / "folder").write_text("a file is in the way")
    with pytest.raises(OSError, match="folder"):
        fetch([serve(good).url], tmp_path / "folder" / "file.bin", sha256=SHA256)


def test_progress_shows_a_bar_size_share_speed_and_time_left(serve, destination):
    lines = []
    server = serve(good)
    fetch([server.url], destination, sha256=SHA256, progress=SimpleNamespace(update=lines.append))
    assert lines[-1].startswith(f"{server.address}: 0.3 MB of 0.3 MB [{'=' * 20}] 100%, ")
    assert lines[-1].endswith(" MB/s, 0 s left")


def test_file_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert download.file_sha256(tmp_path / "a") == SHA256
