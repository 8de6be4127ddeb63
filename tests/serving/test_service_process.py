"""The service in a process of its own: real sockets, signals, slow clients and dying connections."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from onnx_files import write_colours
from processes import Process, answer, free_port, post, status
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance
from test_batching import png

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and /proc of Unix")
RED = png("red")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture(scope="module")
def served(file):
    """A service with small limits, which the tests share: 1 MB, bodies within half a second."""
    with Process.slow(file, bytes=1_000_000, body_seconds=0.5) as process:
        yield process


def lines(process: Process) -> list[dict]:
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def test_the_command_serves_without_tensorflow_and_scipy_stats(file, tmp_path):
    port, log = free_port(), tmp_path / "log.jsonl"
    program = (
        "import atexit, sys\n"
        "from imgclassify.cli import main\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy.stats', 'matplotlib', 'pandas', 'requests'}\n"
        "atexit.register(lambda: print('imported:', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ("-c", program, "serve", str(file), "--port", str(port), "--log", str(log))
    with Process(*arguments, port=port, log=tmp_path / "stderr") as process:
        assert status(process.ask(post(RED))) == 200
        process.process.send_signal(signal.SIGINT)  # as Ctrl+C; by SIGTERM, no exit function would be called
        assert process.process.wait(20) == 0
        said = process.log.read_text()
    assert "imported: []" in said
    assert f"colours.onnx is served at http://127.0.0.1:{port}" in said
    assert "Traceback" not in said
    assert json.loads(log.read_text())["label"] == "red"


def test_onnx_runtime_reports_nothing_to_its_maker(file, tmp_path):
    """It would leave an identifier of this device and a file of events in the home folder, and send them."""
    program = "import sys; from imgclassify.serving.exported import load_exported\n"
    program += "load_exported(sys.argv[1]).predict(sys.argv[2])"
    (tmp_path / "red.png").write_bytes(RED)
    (home := tmp_path / "home").mkdir()
    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "LANG")
    }  # no CI, no XDG
    command = [sys.executable, "-c", program, str(file), str(tmp_path / "red.png")]
    subprocess.run(command, env=kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}, check=True)
    assert list(home.iterdir()) == []


def test_a_port_in_use_is_said(served, file, tmp_path):
    with pytest.raises(AssertionError, match="cannot be listened on: Address already in use"):
        Process(
            "-m", "imgclassify.cli", "serve", str(file), "--port", str(served.port), port=1, log=tmp_path / "stderr"
        )


# --- bodies ----------------------------------------------------------------------------------------


def chunks(*parts: bytes) -> bytes:
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


def test_chunked_bodies_are_answered_and_counted(served):
    assert status(served.ask(post(chunks(RED[:50], RED[50:]), "Transfer-Encoding: chunked"))) == 200
    refused = served.ask(post(chunks(*[bytes(50_000)] * 21), "Transfer-Encoding: chunked"))
    assert status(refused) == 413
    assert b'{"error":"A request may have at most 1 MB."}' in refused


def test_a_body_of_20_mb_is_refused_and_its_client_reads_why(served):
    before = served.resident()
    for headers in ((), ("Content-Type: multipart/form-data; boundary=edge",), ("Transfer-Encoding: chunked",)):
        with served.connect() as connection, ThreadPoolExecutor(1) as threads:
            body = bytes(20_000_000)
            request = post(chunks(body) if headers[:1] == ("Transfer-Encoding: chunked",) else body, *headers)

            def send(connection=connection, request=request) -> None:
                with contextlib.suppress(OSError):  # it is closed in the middle
                    connection.sendall(request)

            sending = threads.submit(send)
            assert status(answer(connection)) == 413
            connection.close()
            sending.result()
    assert served.resident() < before + 30


def test_a_client_that_waits_for_leave_sends_no_large_body(served):
    head = post(b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 5000000")
    begun = time.monotonic()
    assert status(served.ask(head)) == 413
    assert time.monotonic() - begun < 1.5


def test_a_small_upload_after_a_refusal_is_answered_on_the_same_connection(served):
    with served.connect() as connection:
        connection.sendall(post(bytes(1_200_000)))
        assert status(answer(connection)) == 413
        connection.sendall(post(RED))
        assert status(answer(connection)) == 200


def test_a_body_that_does_not_arrive_in_time_is_given_up_and_others_are_answered_meanwhile(served):
    with served.connect() as slow:
        slow.sendall(post(RED)[:-10])
        assert status(served.ask(post(RED))) == 200
        found = answer(slow)
    assert status(found) == 408
    assert b"The body did not arrive within 0.5 s." in found


def test_a_body_that_trickles_is_given_up_too(served):
    with served.connect() as slow:
        slow.sendall(post(bytes(1000))[:-1000])
        begun, found = time.monotonic(), b""
        slow.settimeout(0.05)
        while not found and time.monotonic() - begun < 5:
            with contextlib.suppress(ConnectionError):
                slow.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                found = slow.recv(1000)
    assert status(found) == 408


def test_clients_that_hang_up_leave_nothing_behind(served):
    before = len(os.listdir(f"/proc/{served.process.pid}/fd"))  # noqa: PTH208
    for cut in (5, 60, 150, len(post(RED)) - 5, None):
        for _ in range(5):
            with served.connect() as connection:
                connection.sendall(post(RED)[:cut])
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # by a reset
    assert status(served.ask(post(RED))) == 200
    until = time.monotonic() + 5
    while (after := len(os.listdir(f"/proc/{served.process.pid}/fd"))) > before + 2 and time.monotonic() < until:  # noqa: PTH208
        time.sleep(0.05)
    assert after <= before + 2
    assert not [line for line in lines(served) if line["level"] == "error" or line.get("status") == 500]


def test_bytes_that_are_no_http_are_refused(served):
    assert status(served.ask(b"\x16\x03\x01nonsense\r\n\r\n")) == 400
    assert status(served.ask(post(RED).replace(b"Content-Length: ", b"Content-Length: -"))) == 400
    assert status(served.ask(post(RED))) == 200


# --- load ------------------------------------------------------------------------------------------


def test_beyond_the_queue_requests_are_refused_with_a_time_and_nothing_is_lost(file):
    with Process.slow(file, 0.1, waiting=4) as process, ThreadPoolExecutor(24) as clients:
        found = list(clients.map(process.ask, [post(RED)] * 120))
        assert status(process.ask(post(RED))) == 200
    statuses = [status(each) for each in found]
    assert set(statuses) == {200, 429}
    refused = next(each for each in found if status(each) == 429)
    assert b"retry-after: 1" in refused
    assert b"Too many pictures are waiting: try again in 1 s." in refused


def test_an_answer_that_takes_too_long_is_given_up(file):
    with Process.slow(file, 1.0, answer_seconds=0.2) as process:
        late = process.ask(post(RED))
    assert status(late) == 503
    assert b"There was no answer within 0.2 s" in late
    assert b"retry-after: 1" in late


def test_requests_under_way_are_answered_before_sigterm_ends_the_service(file):
    with Process.slow(file, 0.4) as process, ThreadPoolExecutor(12) as clients:
        idle = process.connect()
        asked = [clients.submit(process.ask, post(RED)) for _ in range(12)]
        time.sleep(0.3)
        assert process.stop() == -signal.SIGTERM
        assert [status(each.result()) for each in asked] == [200] * 12
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            process.ask(post(RED))
        assert "Traceback" not in process.log.read_text()


def test_a_client_that_retries_gets_every_answer_though_the_service_is_killed(file):
    wanted, found, stopped = 60, [], threading.Event()
    service = [Process.slow(file, 0.02)]

    def client() -> int:
        """How many answers it got; what fails is sent again, as Retry-After and closed connections ask for."""
        count = 0
        while count < wanted and not stopped.is_set():
            try:
                response = service[0].ask(post(RED))
            except OSError:
                response = b""
            if status(response) == 200:
                assert b'"label":"red"' in response
                count += 1
            else:
                found.append(status(response))
                time.sleep(0.05)
        return count

    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(client) for _ in range(4)]
        try:
            for _ in range(2):
                time.sleep(0.2)
                with service[0]:  # which ends it by SIGKILL
                    pass
                service[0] = Process.slow(file, 0.02)
            assert [each.result(30) for each in asked] == [wanted] * 4
        finally:
            stopped.set()
            service[0].__exit__()
    assert set(found) == {0}  # broken connections, and no answer but 200


def test_a_thousand_requests_over_the_limit_leave_memory_flat(file):
    with Process.slow(file, 0.0, rate=1, bytes=100_000) as process:
        sizes, statuses = [], set()
        for _ in range(3):
            with process.connect() as connection:
                for _ in range(400):
                    connection.sendall(post(RED))
                    statuses.add(status(answer(connection)))
            sizes.append(process.resident())
    assert statuses == {200, 429}
    assert sizes[-1] - sizes[0] < 5


# --- its own description ---------------------------------------------------------------------------


KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def protected(file, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"anna {hashlib.sha256(b'secret').hexdigest()}")
    with Process.slow(file, keys=keys) as process:
        yield process


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_it_answers_as_its_openapi_document_says(protected, mode):
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{protected.port}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert {each.path for each in operations} == {"/v1/predict", "/v1/models", "/metrics", "/health", "/ready"}
    for operation in operations:

        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            # Bytes that are no picture fit the document, and are refused: whether they are one cannot be said there.
            # Every request has the key here, also those whose fault would be that they have none: see test_service.py.
            excluded = [positive_data_acceptance, negative_data_rejection, ignored_auth]
            case.call_and_validate(excluded_checks=excluded, headers=KEY)

        with contextlib.suppress(Unsatisfiable):  # nothing of it can be wrong
            check()
