"""The page that `imgclassify page` writes, in a real browser: it answers as Python does, and sends nothing."""

import base64
import contextlib
import functools
import gzip
import http.server
import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclassify import load_model
from imgclassify.evaluation.unknown import detector_from
from imgclassify.serving.lookup import kept_export
from imgclassify.serving.page import write_page

pytestmark = pytest.mark.browser
PATIENCE = 60_000  # milliseconds
CLASSIFY = """async (files) => {
  const { load } = await import("./classifier.js");
  window.loaded ??= await load();
  const answers = [];
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const { label, confidence, known, input } = await window.loaded.classify(new File([bytes], name));
    answers.push({ label, confidence, known, input: Array.from(input) });
  }
  return answers;
}"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; with `unpacked`, gzip files arrive unpacked, as from some servers."""

    unpacked = False

    def log_message(self, *_) -> None:
        pass

    def end_headers(self) -> None:
        if self.unpacked and self.path.endswith(".gz"):
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()


@contextlib.contextmanager
def serving(folder: Path, **options):
    handler = type("Handler", (_Handler,), options)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def written(tiny, tiny_run, tmp_path_factory):
    """A page of a model of three colours, with the model's own file: its folder and the exported model."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    detector = detector_from(tiny_run.model.network, "baseline", tiny.x_train[:20], tiny.x_train[20:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(artifacts))
        patch.setenv("IMGCLASSIFY_CACHE_DIR", str(artifacts))
        saved = load_model(replace(tiny_run.model, detector=detector).save(artifacts / "colours.keras").file)
        folder = write_page(saved, artifacts / "page", data=tiny).parent
        return folder, kept_export(saved, "onnx-int8")


@pytest.fixture(scope="module")
def address(written):
    with serving(written[0]) as found:
        yield found


@pytest.fixture
def opened(chromium, address):
    page = chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(address)
    page.get_by_text("Ready. Your pictures").wait_for(timeout=PATIENCE)
    yield page
    page.close()
    assert problems == []


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    """Files of many kinds, by name."""
    chance = np.random.default_rng(0)

    def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
        small = chance.integers(0, 256, (9, 9, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
        return Image.fromarray(np.squeeze(small), mode if mode != "P" else None).resize((width, height))

    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "small.png": file_of(Image.fromarray(chance.integers(0, 256, (32, 32, 3), np.uint8))),
        "tiny.png": file_of(photo(5, 7)),
        "wide.png": file_of(photo(400, 90)),
        "tall.png": file_of(photo(90, 400)),
        "odd.bmp": file_of(photo(101, 77), "BMP"),
        "grey.png": file_of(photo(64, 48, "L")),
        "turned.jpg": file_of(photo(300, 200), "JPEG", quality=92, exif=turned),
        "photo.jpg": file_of(photo(640, 480), "JPEG", quality=80),
        "large.jpg": file_of(photo(3000, 2000), "JPEG", quality=85),
        "web.webp": file_of(photo(200, 150), "WEBP", lossless=True),
        "still.gif": file_of(photo(60, 60).quantize(32), "GIF"),
        "clear.png": file_of(photo(120, 90, "RGBA")),
    }
    palette = photo(50, 50).quantize(16)
    files["palette.png"] = file_of(palette, transparency=3)
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    files["deep.png"] = file_of(Image.fromarray(deep))
    return files


def encoded(files: dict[str, bytes]) -> list[list[str]]:
    return [[name, base64.b64encode(content).decode()] for name, content in files.items()]


# Where the browser decodes or blends by itself: levels of 255 by which a pixel may differ, and on average.
NEARLY = {"large.jpg": (6, 0.5), "clear.png": (2, 0.6), "palette.png": (1, 0.1), "deep.png": (1, 0.6)}


def test_pictures_of_all_kinds_are_prepared_and_answered_as_in_python(opened, written):
    files, model = pictures(), written[1]
    for (name, content), found in zip(files.items(), opened.evaluate(CLASSIFY, encoded(files)), strict=True):
        wanted = model.predict(content)
        difference = np.abs(np.reshape(found["input"], wanted.image.shape).astype(int) - wanted.image)
        most, mean = NEARLY.get(name, (0, 0))
        assert difference.max() <= most, name
        assert difference.mean() <= mean, name
        assert found["label"] == wanted.label, name
        assert found["confidence"] == pytest.approx(wanted.confidence, abs=0.01), name
        assert found["known"] == wanted.known, name


def test_chosen_files_get_cards_with_verdict_and_bars(opened, written, tiny):
    upload = [
        {"name": f"{label}.png", "mimeType": "image/png", "buffer": file_of(Image.fromarray(tiny.x_test[label]))}
        for label in range(3)
    ]
    opened.set_input_files("#input", upload)
    cards = opened.locator("#results .card")
    cards.nth(2).wait_for()
    for place, label in enumerate((2, 1, 0)):  # the newest is first
        wanted = written[1].predict(upload[label]["buffer"])
        assert cards.nth(place).locator(".name").inner_text() == f"{label}.png"
        verdict = wanted.label if wanted.known else "none of its classes"
        assert cards.nth(place).locator(".verdict").inner_text() == verdict
        assert cards.nth(place).locator(".percent").first.inner_text() == f"{wanted.confidence:.1%}"
        assert cards.nth(place).locator(".label").count() == 3
    opened.set_input_files("#input", upload[:1])  # the same file again
    cards.nth(3).wait_for()


def test_pictures_below_the_threshold_are_none_of_its_classes(chromium, address, written, tiny):
    page = chromium.new_page()
    about = json.loads((written[0] / "about.json").read_text(encoding="utf-8")) | {"unfamiliar_below": 1.5}
    page.route("**/about.json", lambda route: route.fulfill(json=about))
    page.goto(address)
    page.get_by_text("Ready. Your pictures").wait_for(timeout=PATIENCE)
    buffer = file_of(Image.fromarray(tiny.x_test[0]))
    page.set_input_files("#input", [{"name": "a.png", "mimeType": "image/png", "buffer": buffer}])
    card = page.locator("#results .card")
    card.wait_for()
    assert card.locator(".verdict").inner_text() == "none of its classes"
    assert f"nearest: {written[1].predict(buffer).label}" in card.inner_text()
    page.close()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.png", b"", "empty.png is empty: expected a picture file."),
        ("notes.txt", b"no picture", "notes.txt is damaged, or not a picture that this browser can read"),
        ("cut.png", pictures()["wide.png"][:60], "cut.png is damaged, or not a picture"),
        ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(40), "phone.heic is a HEIC photo: export it as JPEG."),
        ("<b>x</b>.png", b"x", "<b>x</b>.png is damaged"),
    ],
)
def test_bad_files_are_said_and_the_others_answered(opened, tiny, name, content, sentence):
    good = file_of(Image.fromarray(tiny.x_test[0]))
    files = [(name, content), ("good.png", good)]
    opened.set_input_files(
        "#input", [{"name": each, "mimeType": "image/png", "buffer": buffer} for each, buffer in files]
    )
    opened.locator("#results .verdict").wait_for()
    assert sentence in opened.locator("#results .error").inner_text()
    assert opened.locator("#results .card").count() == 2


def test_dropped_and_pasted_files_are_answered(opened, tiny):
    script = """([event, name, content]) => {
      const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], name, { type: "image/png" }));
      const made = event === "drop"
        ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.getElementById("zone").dispatchEvent(made);
    }"""
    content = base64.b64encode(file_of(Image.fromarray(tiny.x_test[0]))).decode()
    for count, event in enumerate(("drop", "paste"), start=1):
        opened.evaluate(script, [event, f"{event}.png", content])
        opened.locator("#results .verdict").nth(count - 1).wait_for()
        assert opened.locator("#results .name").first.inner_text() == f"{event}.png"


def test_nothing_is_sent_and_nothing_is_loaded_from_elsewhere(chromium, address, tiny):
    page, asked = chromium.new_page(), []
    page.on("request", lambda request: asked.append((request.method, request.url, request.post_data)))
    page.goto(address)
    page.get_by_text("Ready. Your pictures").wait_for(timeout=PATIENCE)
    loaded = len(asked)
    buffer = file_of(Image.fromarray(tiny.x_test[0]))
    page.set_input_files("#input", [{"name": "a.png", "mimeType": "image/png", "buffer": buffer}])
    page.locator("#results .verdict").wait_for()
    assert len(asked) == loaded
    assert all(method == "GET" and body is None for method, _, body in asked)
    assert all(url.startswith((address, "data:")) for _, url, _ in asked)
    with serving(Path(__file__).parent) as elsewhere:  # another origin: the policy of the page forbids it
        blocked = "(url) => fetch(url, { mode: 'no-cors' }).then(() => 'sent', () => 'blocked')"
        assert page.evaluate(blocked, elsewhere) == "blocked"
    page.close()


def test_the_camera_is_classified_and_given_back(chromium_with_camera, address):
    page = chromium_with_camera.new_page()
    page.goto(address)
    page.get_by_text("Ready. Your pictures").wait_for(timeout=PATIENCE)
    page.click("#camera")
    page.get_by_text("answers per second").wait_for(timeout=PATIENCE)
    assert page.locator("#live .verdict").inner_text() in ("green", "none of its classes")  # a disc on green
    buffer = file_of(Image.new("RGB", (50, 50), "blue"))
    for count in range(1, 4):  # while the camera goes on
        page.set_input_files("#input", [{"name": "blue.png", "mimeType": "image/png", "buffer": buffer}])
        page.locator("#results .verdict").nth(count - 1).wait_for()
    assert page.locator("#results .error").count() == 0
    assert page.locator("#status").inner_text() == "Classifying what the camera sees, on this device."
    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.click("#camera")
    page.get_by_text("The camera is off.").wait_for()
    assert page.evaluate("window.track.readyState") == "ended"
    assert page.locator("#live").is_hidden()
    page.close()


def test_a_camera_that_is_refused_is_said(opened):
    opened.click("#camera")
    opened.locator("#status.error").wait_for()
    assert "camera" in opened.locator("#status").inner_text()
    assert opened.locator("#camera").inner_text() == "Start camera"


def test_the_keyboard_is_enough(opened):
    opened.on("filechooser", lambda chooser: None)  # from now on, and not only once a key may have been pressed already
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.id") == "choose"
    with opened.expect_file_chooser() as chooser:
        opened.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.id") == "camera"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_follows_the_scheme(chromium, address, tiny, scheme, width):
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(address)
    page.get_by_text("Ready. Your pictures").wait_for(timeout=PATIENCE)
    buffer, name = file_of(Image.fromarray(tiny.x_test[0])), f"{'a' * 60}.png"
    page.set_input_files("#input", [{"name": name, "mimeType": "image/png", "buffer": buffer}])
    page.locator("#results .verdict").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('h1')).color]"
        ".map((color) => Number(color.match(/\\d+/)[0]))"
    )
    assert (background < 60 < 180 < ink) if scheme == "dark" else (ink < 60 < 180 < background)
    assert all(box["height"] >= 44 for box in (page.locator(each).bounding_box() for each in ("#choose", "#camera")))
    page.close()


def test_servers_that_unpack_gzip_are_fine(chromium, written):
    with serving(written[0], unpacked=True) as address:
        page = chromium.new_page()
        page.goto(address)
        page.get_by_text("Ready. Your pictures").wait_for(timeout=PATIENCE)
        page.close()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_model_that_cannot_be_loaded_is_said(chromium, written, tmp_path, damage):
    for path in written[0].iterdir():
        if path.name != "model.onnx.gz":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    if damage == "cut":
        content = gzip.decompress((written[0] / "model.onnx.gz").read_bytes())
        (tmp_path / "model.onnx.gz").write_bytes(gzip.compress(content[: len(content) // 2]))
    with serving(tmp_path) as address:
        page = chromium.new_page()
        page.goto(address)
        page.get_by_text("The model cannot be loaded").wait_for(timeout=PATIENCE)
        page.close()


def test_a_page_that_was_opened_as_a_file_says_what_it_needs(chromium, written):
    page = chromium.new_page()
    page.goto((written[0] / "index.html").as_uri())
    assert "python -m http.server" in page.locator("#status").inner_text()
    page.close()


@pytest.mark.browser_full
@pytest.mark.real_data
def test_500_real_pictures_get_the_same_answer(chromium, cifar10, tmp_path, monkeypatch):
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    best = load_model("best")
    best = best.save(tmp_path / "best.keras")
    folder = write_page(best, tmp_path / "page", data=cifar10).parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000
    model = kept_export(best, "onnx-int8")
    files = {f"{row}.png": file_of(Image.fromarray(np.asarray(cifar10.x_test[row]))) for row in range(500)}
    with serving(folder) as address:
        page = chromium.new_page()
        page.goto(address)
        page.get_by_text("Ready. Your pictures").wait_for(timeout=PATIENCE)
        found = page.evaluate(CLASSIFY, encoded(files))
        page.close()
    wanted = [model.predict(content) for content in files.values()]
    assert [each["label"] for each in found] == [each.label for each in wanted]
    assert [each["known"] for each in found] == [each.known for each in wanted]
