import hashlib
import importlib.util
import json
import re
import socket
from pathlib import Path

import httpx2 as httpx
import pytest
from onnx_files import write_colours
from processes import free_port
from starlette.testclient import TestClient
from test_batching import COLOURS, png

from imgclassify.cli import main
from imgclassify.serving import service
from imgclassify.serving.access import Keys
from imgclassify.serving.exported import load_exported
from imgclassify.serving.service import Limits, create_app

RED, GREEN, BLUE = map(png, COLOURS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_exported(write_colours(tmp_path_factory.mktemp("model") / "colours.onnx"))


@pytest.fixture
def start(model):
    """`start(limits=..., ...)` gives a client of a service in this process."""
    clients = []

    def begin(**options) -> httpx.Client:
        clients.append(TestClient(create_app(model, **options), raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield begin
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def keys(tmp_path) -> Path:
    path = tmp_path / "keys"
    path.write_text("".join(f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in KEYS.items()))
    return path


KEYS = {"anna": "first-secret", "ben": "second-secret"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def error_of(response: httpx.Response) -> str:
    """The sentence of a refusal, which is all that there is."""
    assert response.headers["content-type"] == "application/json"
    sentence = response.json()["error"]
    assert re.fullmatch(r"\S.+[.)]", sentence), sentence
    return sentence


# --- answers ---------------------------------------------------------------------------------------


def test_a_raw_body_is_answered_as_the_model_answers(start, model):
    answer = start().post("/v1/predict", content=RED)
    assert answer.status_code == 200
    (picture,) = answer.json()["pictures"]
    wanted = model.predict(RED)
    assert (picture["file"], picture["index"], picture["label"], picture["known"]) == (None, 0, "red", True)
    assert picture["confidence"] == pytest.approx(wanted.confidence)
    assert picture["familiarity"] == pytest.approx(wanted.familiarity)
    assert picture["probabilities"] == pytest.approx(wanted.probabilities)
    assert (answer.json()["model"], answer.json()["refused"]) == ("colours.onnx", [])


def test_the_names_are_those_of_the_command_line(start, model, tmp_path, capsys):
    photo = tmp_path / "a.png"
    photo.write_bytes(RED)
    assert main(["predict", "--json", "--model", str(model.file), str(photo)]) == 0
    printed = json.loads(capsys.readouterr().out)
    served = start().post("/v1/predict", files={"files": ("a.png", RED)}).json()
    assert set(served) == set(printed)
    assert set(served["pictures"][0]) == {*printed["pictures"][0], "index"}


def test_many_files_are_answered_in_order_and_those_that_are_no_pictures_refused(start):
    names = ("a.png", "b.txt", "c.png", "a.png")
    files = [("any", (name, content)) for name, content in zip(names, (RED, b"text", BLUE, GREEN), strict=True)]
    answer = start().post("/v1/predict", files=files)
    assert answer.status_code == 200
    found = answer.json()
    place = [(each["index"], each["file"], each["label"]) for each in found["pictures"]]
    assert place == [(0, "a.png", "red"), (2, "c.png", "blue"), (3, "a.png", "green")]
    (refused,) = found["refused"]
    assert (refused["index"], refused["file"], refused["status"]) == (1, "b.txt", 422)
    assert refused["error"].startswith("b.txt is not a picture of a known format")


def test_content_decides_what_is_a_picture_not_its_name_or_type(start):
    client = start()
    assert client.post("/v1/predict", content=RED, headers={"Content-Type": "text/plain"}).status_code == 200
    assert client.post("/v1/predict", files={"f": ("virus.exe", RED, "text/html")}).status_code == 200
    lie = client.post("/v1/predict", files={"f": ("photo.jpg", b"<svg onload=alert(1)>", "image/jpeg")})
    assert lie.status_code == 422
    assert "photo.jpg is not a picture" in error_of(lie)


def test_only_so_many_classes_are_named_as_asked_for(start):
    client = start()
    answer = client.post("/v1/predict?top=1", content=RED).json()
    assert list(answer["pictures"][0]["probabilities"]) == ["red"]
    for top in ("0", "x", "-1"):
        wrong = client.post(f"/v1/predict?top={top}", content=RED)
        assert wrong.status_code == 422
        assert "top" in error_of(wrong)


def test_paths_and_addresses_of_a_client_are_never_opened(start, tmp_path):
    (tmp_path / "photo.png").write_bytes(RED)
    client = start()
    for text in (f"{tmp_path}/photo.png", "http://127.0.0.1:1/photo.png", "file:///etc/passwd"):
        assert client.post("/v1/predict", content=text.encode()).status_code == 422
        named = client.post("/v1/predict", files={"f": (text, b"no picture")})
        assert "not a picture" in error_of(named)
        assert client.post("/v1/predict", data={"files": text}).status_code in (400, 422)
    assert client.get("/../../etc/passwd").status_code == 404


def test_the_whole_hostile_corpus_is_answered_or_refused(start):
    path = Path(__file__).parents[1] / "data" / "test_images.py"
    spec = importlib.util.spec_from_file_location("hostile", path)
    corpus = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpus)
    cut = [content[: int(len(content) * share)] for content in corpus.REAL_FILES.values() for share in (0.1, 0.5, 0.9)]
    bombs = [corpus.bomb(side, side) for side in (7_100, 9_000, 20_000, 60_000)]  # the first is above 50 million only
    files = [*corpus.REAL_FILES.values(), *corpus.SIGNATURES, *cut, *bombs, corpus.bomb(0, 0), b"\xff" * 5000]
    client, statuses = start(), []
    for content in files:
        response = client.post("/v1/predict", content=content)
        statuses.append(response.status_code)
        assert response.status_code in (200, 422)
        assert response.status_code == 200 or error_of(response).startswith("The picture ")
    assert statuses[: len(corpus.REAL_FILES)] == [200] * len(corpus.REAL_FILES)
    assert "at most 50 million" in error_of(client.post("/v1/predict", content=bombs[0]))
    together = client.post("/v1/predict", files=[("f", (f"{i}", each)) for i, each in enumerate(files[:32])]).json()
    assert len(together["pictures"]) + len(together["refused"]) == 32


# --- what it says of itself ------------------------------------------------------------------------


def test_models_health_ready_and_metrics(start, model):
    client = start()
    (said,) = client.get("/v1/models").json()["models"]
    assert (said["name"], said["class_names"], said["input_shape"]) == (
        "colours.onnx",
        ["red", "green", "blue"],
        [32] * 2 + [3],
    )
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    client.post("/v1/predict", files=[("f", ("a", RED)), ("f", ("b", b"x"))])
    client.get("/nothing")
    counted = client.get("/metrics").text
    assert 'imgclassify_pictures_total{outcome="answered"} 1.0' in counted
    assert 'imgclassify_pictures_total{outcome="refused"} 1.0' in counted
    assert 'imgclassify_requests_total{status="404"} 1.0' in counted
    assert "imgclassify_answer_seconds_count 1.0" in counted
    assert "imgclassify_batch_pictures_count 1.0" in counted


def test_the_front_page_says_what_it_knows_and_loads_nothing(start, keys):
    page = start().get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "red, green, blue" in page.text
    assert "curl --data-binary" in page.text
    assert "http" not in page.text.replace("http://testserver/v1/predict", "")
    assert "Authorization: Bearer KEY" in start(keys=Keys(keys)).get("/").text
    assert "<script" not in start().get("/", headers={"Host": "<script>"}).text


def test_a_static_page_is_served_at_the_root_and_nothing_beside_it(start, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>my page</h1>")
    (folder / "secret").symlink_to(tmp_path)
    client = start(page=folder)
    assert client.get("/").text == "<h1>my page</h1>"
    assert client.post("/v1/predict", content=RED).status_code == 200
    (tmp_path / "keys").write_text("x")
    for path in ("/nothing.js", "/../keys", "/%2e%2e/keys", "/secret/keys"):
        assert client.get(path).status_code == 404
        error_of(client.get(path))


def test_every_answer_has_the_headers_that_protect_a_browser(start):
    client = start()
    for answer in (
        client.get("/"),
        client.get("/nothing"),
        client.post("/v1/predict", content=b""),
        client.get("/health"),
    ):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe-eval'" not in answer.headers["content-security-policy"].replace("wasm-unsafe-eval", "")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    assert client.get("/v1/models").headers["cache-control"] == "no-store"


def test_unknown_paths_and_methods_are_a_sentence(start):
    client = start()
    assert error_of(client.get("/v2")) == "There is nothing here: see /openapi.json."
    wrong = client.get("/v1/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    error_of(wrong)


def test_a_fault_of_the_service_is_a_sentence_without_its_innards(start, monkeypatch):
    async def broken(*arguments):
        raise RuntimeError("/home/someone/secret")

    client = start()
    monkeypatch.setattr(service, "_files", broken)
    answer = client.post("/v1/predict", content=RED)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in error_of(answer)
    assert "secret" not in answer.text


# --- limits ----------------------------------------------------------------------------------------


def test_a_body_above_the_cap_is_refused_whether_or_not_it_says_its_length(start):
    client = start(limits=Limits(bytes=1000))
    fits = RED + bytes(1000 - len(RED))
    assert client.post("/v1/predict", content=fits).status_code == 200
    many = [("f", (str(number), bytes(200))) for number in range(5)]  # below, but for the form around it
    for sent in ({"content": fits + b"x"}, {"content": iter([fits, b"x"])}, {"files": many}):
        refused = client.post("/v1/predict", **sent)
        assert refused.status_code == 413
        assert error_of(refused) == "A request may have at most 0.001 MB."
    assert client.post("/v1/predict", content=fits, headers={"Content-Length": "99999999999"}).status_code == 413


def test_bodies_of_all_requests_together_are_limited_and_forgotten_afterwards(start):
    client = start(limits=Limits(bytes=1000, bytes_of_all=900))
    for _ in range(5):
        assert client.post("/v1/predict", content=bytes(800)).status_code == 422
    full = client.post("/v1/predict", content=bytes(950))
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    error_of(full)
    assert client.post("/v1/predict", content=RED).status_code == 200


def test_more_files_than_allowed_and_forms_without_files_are_refused(start):
    client = start(limits=Limits(files=2))
    answer = client.post("/v1/predict", files=[("f", ("a", RED))] * 3)
    assert (answer.status_code, error_of(answer)) == (413, "A request may have at most 2 files.")
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    text = b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\nhello\r\n--edge--\r\n'
    for body in (b"", b"--edge--\r\n", text, b"nonsense", text.replace(b'name="a"', b"")):
        wrong = client.post("/v1/predict", content=body, headers=kind)
        assert wrong.status_code == 400, body
        error_of(wrong)
    assert client.post("/v1/predict", content=RED, headers={"Content-Type": "multipart/form-data"}).status_code == 400


def test_no_file_of_a_form_is_written_to_the_disk(start, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a temporary file")

    monkeypatch.setattr("tempfile._TemporaryFileArgs", refuse, raising=False)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    large = RED + bytes(5_000_000)
    assert start().post("/v1/predict", files={"f": ("a.png", large)}).status_code == 200


def test_a_rate_is_kept_for_each_key(start, keys):
    client = start(keys=Keys(keys), limits=Limits(rate=3))
    statuses = [client.post("/v1/predict", content=RED, headers=bearer("first-secret")).status_code for _ in range(8)]
    assert statuses[:3] == [200] * 3
    assert 429 in statuses
    refused = client.post("/v1/predict", content=RED, headers=bearer("first-secret"))
    assert refused.headers["retry-after"] == "1"
    assert "The rate is 3 pictures per second" in error_of(refused)
    many = [("f", ("a", RED))] * 9
    assert client.post("/v1/predict", files=many, headers=bearer("second-secret")).status_code == 200
    assert int(client.post("/v1/predict", content=RED, headers=bearer("second-secret")).headers["retry-after"]) == 3


# --- keys and logs ---------------------------------------------------------------------------------


def test_without_a_key_only_health_ready_and_the_page_are_answered(start, keys):
    client = start(keys=Keys(keys))
    for path in ("/", "/health", "/ready", "/openapi.json"):
        assert client.get(path).status_code == 200
    wrong = [
        {},
        bearer("third"),
        bearer(""),
        {"Authorization": "Basic first-secret"},
        {"Authorization": "first-secret"},
    ]
    for headers in [*wrong, bearer("first-secret "[:-2]), bearer("é")]:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        for answer in (client.post("/v1/predict", content=RED, headers=raw), client.get("/v1/models", headers=raw)):
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            error_of(answer)
        assert client.get("/metrics", headers=raw).status_code == 401
    assert client.post("/v1/predict", content=RED, headers=bearer("second-secret")).status_code == 200
    assert client.get("/metrics", headers=bearer("first-secret")).status_code == 200


def test_a_key_is_checked_before_the_body_is_read(model, keys):
    read = []

    def body():
        read.append(1)
        yield RED

    with TestClient(create_app(model, keys=Keys(keys), limits=Limits(bytes=10))) as client:
        assert client.post("/v1/predict", content=body()).status_code == 401  # not 413


def test_a_key_is_revoked_while_the_service_runs_and_a_lost_file_is_said(start, keys):
    client = start(keys=Keys(keys))
    assert client.get("/v1/models", headers=bearer("first-secret")).status_code == 200
    text = keys.read_text()
    keys.write_text(text.splitlines()[1] + "\n")
    assert client.get("/v1/models", headers=bearer("first-secret")).status_code == 401
    assert client.get("/v1/models", headers=bearer("second-secret")).status_code == 200
    keys.unlink()
    for answer in (client.get("/v1/models", headers=bearer("second-secret")), client.get("/ready")):
        assert answer.status_code == 503
        assert "file of keys" in error_of(answer)
        assert str(keys) not in answer.text
    keys.write_text(text)
    assert client.get("/v1/models", headers=bearer("first-secret")).status_code == 200


def test_the_log_of_answers_has_a_line_per_picture_and_no_picture_file_name_or_key(start, keys, tmp_path):
    log = tmp_path / "answers.jsonl"
    client = start(keys=Keys(keys), answers=log)
    files = [("f", ("holiday.png", RED)), ("f", ("x.txt", b"x")), ("f", ("b.png", BLUE))]
    answer = client.post("/v1/predict", files=files, headers=bearer("second-secret"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["label"] for line in lines] == ["red", "blue"]
    for line in lines:
        wanted = ["time", "request", "key", "model", "label", "confidence", "familiarity", "known", "milliseconds"]
        assert list(line) == wanted
        assert (line["key"], line["model"], line["known"]) == ("ben", "colours.keras", True)
        assert line["request"] == answer.headers["x-request-id"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
        assert 0 < line["milliseconds"] < 10_000
    assert not re.search("holiday|secret|x.txt", log.read_text())


def test_a_log_that_cannot_be_written_is_said_and_does_not_stop_answers(start, tmp_path, caplog):
    client = start(answers=tmp_path / "missing" / "answers.jsonl")
    assert client.post("/v1/predict", content=RED).status_code == 200
    assert "The log of answers cannot be written: No such file" in caplog.text


def test_each_request_is_a_line_of_the_log_without_pictures_paths_or_keys(start, keys, caplog):
    caplog.set_level("INFO", "imgclassify.service")
    client = start(keys=Keys(keys))
    client.post("/v1/predict?top=2", files={"f": ("holiday.png", RED)}, headers=bearer("first-secret"))
    client.get("/secret%0a", headers=bearer("third-secret"))
    client.get("/v1/models", headers=bearer("third-secret"))
    formatter = service.JsonLines()
    lines = [json.loads(formatter.format(record)) for record in caplog.records if record.name == "imgclassify.service"]
    first, second, third = lines
    assert {"route": "/v1/predict", "status": 200, "key": "anna", "pictures": 1}.items() <= first.items()
    assert (second["route"], second["status"]) == (None, 404)
    assert (third["status"], third.get("key")) == (401, None)
    assert "secret" not in str(lines)
    assert "holiday" not in str(lines)


# --- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", ""])
def test_without_keys_only_this_computer_is_served(model, host, capsys):
    assert main(["serve", str(model.file), "--host", host]) == 2
    assert "Without --keys, only this computer is served" in capsys.readouterr().err


def test_with_keys_any_address_is_served(model, keys, monkeypatch, tmp_path):
    served = {}
    monkeypatch.setattr(
        service, "serve", lambda app, bound, limits: served.update(address=bound.getsockname(), limits=limits)
    )
    port = free_port()
    arguments = [
        "--host",
        "0.0.0.0",
        "--port",
        str(port),
        "--keys",
        str(keys),
        "--rate",
        "5",
        "--log",
        str(tmp_path / "log"),
    ]
    assert main(["serve", str(model.file), *arguments]) == 0
    assert (served["address"], served["limits"].rate) == (("0.0.0.0", port), 5.0)
    keys.write_text("anna first-secret")
    assert main(["serve", str(model.file), *arguments]) == 1


def test_an_address_in_use_is_a_sentence_and_port_0_is_any_free_one(model, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(model.file), "--port", str(port)]) == 1
        assert f"127.0.0.1:{port} cannot be listened on: " in capsys.readouterr().err
    monkeypatch.setattr(service, "serve", lambda app, bound, limits: served.append(bound.getsockname()[1]))
    served: list[int] = []
    assert main(["serve", str(model.file), "--port", "0"]) == 0
    assert f"is served at http://127.0.0.1:{served[0]}, until Ctrl+C." in capsys.readouterr().err


def test_an_address_of_ipv6_is_listened_on():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this computer has no IPv6")
    with service.listening("::1", 0) as (address, bound):
        assert address == f"http://[::1]:{bound.getsockname()[1]}"


def test_a_missing_model_or_page_is_a_sentence(tmp_path, model, capsys, monkeypatch):
    assert main(["serve", str(tmp_path / "none.onnx")]) == 1
    assert "There is no exported model" in capsys.readouterr().err
    monkeypatch.setattr(service, "serve", lambda app, bound, limits: None)
    assert main(["serve", str(model.file), "--page", str(tmp_path / "none")]) == 1
    assert "There is no index.html in" in capsys.readouterr().err


def test_the_openapi_document_has_examples_and_every_refusal(start):
    document = start().get("/openapi.json").json()
    post = document["paths"]["/v1/predict"]["post"]
    assert {"200", "400", "401", "408", "413", "422", "429", "503"} == set(post["responses"])
    assert {"multipart/form-data", "image/jpeg", "application/octet-stream"} == set(post["requestBody"]["content"])
    answer = document["components"]["schemas"]["Answer"]["properties"]
    assert all("examples" in each for each in answer.values())
    assert document["components"]["securitySchemes"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
