"""The upload box in JupyterLab: how photos come in, what is shown of them, and what goes wrong."""

import base64
import csv
import io
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

from imgclassify.widgets.dropzone import PIECE_BYTES

pytestmark = pytest.mark.browser_full
SLOW = 180_000  # milliseconds

CELLS = (
    "from imgclassify import load_model\nfrom imgclassify.widgets.upload import UploadClassifier\n"
    "UploadClassifier(load_model())",
    'from imgclassify.widgets.dropzone import DropZone\nDropZone(lambda *_: None, label="Photos of cups", folder=True)',
)

# Remembers the largest message to the kernel; reading a piece of a file can be made slow.
WITNESS = """
window.largest = 0; window.slow = 0;
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  window.largest = Math.max(window.largest, data.byteLength ?? data.length);
  return send.call(this, data);
};
const read = Blob.prototype.arrayBuffer;
Blob.prototype.arrayBuffer = async function () {
  if (this.size < 1e6) await new Promise((resolve) => setTimeout(resolve, window.slow));
  return read.call(this);
};
window.give = (kind, target, files) => {
  const data = new DataTransfer();
  for (const [name, type, base64] of files)
    data.items.add(new File([Uint8Array.from(atob(base64), (each) => each.charCodeAt(0))], name, { type }));
  const options = { bubbles: true, cancelable: true };
  if (kind === "paste") target.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: data }));
  else for (const each of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(each, { ...options, dataTransfer: data }));
};
"""


def photo(side: int = 300, *, noise: float = 0, kind: str = "PNG") -> bytes:
    """A photo, half as high as wide: dark on its left, bright on its right."""
    ramp = np.linspace(20, 230, 2 * side)[np.newaxis, :, np.newaxis]
    pixels = ramp + noise * np.random.default_rng(0).standard_normal((side, 2 * side, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, format=kind, quality=92)
    return file.getvalue()


def as_file(name: str, content: bytes, kind: str = "image/png") -> dict:
    return {"name": name, "mimeType": kind, "buffer": content}


class Box:
    """The upload box on a page, as a person sees it."""

    def __init__(self, page, cell: int = 0):
        self.page = page
        self.root = page.locator(".jp-CodeCell").nth(cell)
        self.zone = self.root.locator(".zone")
        self.status = self.root.locator(".imgclassify-drop .status")

    def choose(self, files, button: str = "Choose photos") -> None:
        with self.page.expect_file_chooser() as chooser:
            self.root.get_by_role("button", name=button).click()
        chooser.value.set_files(files)

    def give(self, kind: str, *files: tuple[str, str, bytes]) -> None:
        """Drop or paste files: name, MIME type and content of each."""
        written = [(name, mime, base64.b64encode(content).decode()) for name, mime, content in files]
        self.zone.locator("button").first.hover()
        arguments = [kind, self.zone.element_handle(), written]
        self.page.evaluate("([kind, target, files]) => window.give(kind, target, files)", arguments)

    def names(self) -> list[str]:
        return self.root.locator(".imgclassify-crop figcaption").all_inner_texts()

    def says(self, text: str) -> None:
        self.status.filter(has_text=text).wait_for(timeout=SLOW)

    def complains(self, text: str) -> None:
        self.root.locator(".problems .error", has_text=text).wait_for(timeout=SLOW)

    def shown(self) -> str:
        """What the model sees of the first photo."""
        return self.root.locator(".seen img").first.get_attribute("src")

    def waits_for_another(self, shown: str) -> str:
        changed = "([root, old]) => root.querySelector('.seen img').src !== old"
        self.page.wait_for_function(changed, arg=[self.root.element_handle(), shown], timeout=SLOW)
        return self.shown()


@pytest.fixture(scope="module")
def page(chromium, jupyterlab, open_notebook, run_all):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, jupyterlab.folder / "photos.ipynb")
    page = chromium.new_page(viewport={"width": 1280, "height": 1400})
    page.add_init_script(WITNESS)
    open_notebook(page, "photos")
    run_all(page)
    page.locator(".zone").first.scroll_into_view_if_needed(timeout=SLOW)
    yield page
    page.close()


@pytest.fixture
def box(page):
    yield Box(page)
    page.evaluate("() => { window.slow = 0; }")


@pytest.fixture
def zone(page):
    yield Box(page, 1)
    page.evaluate("() => { window.slow = 0; }")


def test_six_phone_photos_of_four_megabytes_arrive_in_their_order(box, screenshot):
    content = photo(2000, noise=20, kind="JPEG")
    assert 3_500_000 < len(content) < 6_000_000
    box.page.evaluate("() => { window.largest = 0; }")
    box.choose([as_file(f"IMG_{number}.jpg", content, "image/jpeg") for number in (3, 1, 2, 6, 5, 4)])
    box.root.get_by_role("progressbar").wait_for(timeout=SLOW)
    screenshot(box.page, "upload_progress")
    box.says("6 photos sent.")
    assert box.names() == [f"IMG_{number}.jpg" for number in (3, 1, 2, 6, 5, 4)]
    assert 500_000 < box.page.evaluate("() => window.largest") < 1_000_000
    assert box.root.get_by_role("button", name="Cancel").count() == 0
    screenshot(box.page, "upload_six")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_photos_can_be_dropped_and_pasted(box, kind):
    files = [(f"{kind} {number}.png", "image/png", photo()) for number in (1, 2)]
    box.give(kind, *files)
    box.says("2 photos sent.")
    assert box.names() == [f"{kind} 1.png", f"{kind} 2.png"]


def test_a_bad_file_is_one_sentence_in_its_place(box, screenshot):
    files = ("one.png", photo()), ("words.png", b"words"), ("empty.png", b""), ("two.png", photo())
    box.give("drop", *((name, "image/png", content) for name, content in files))
    box.root.locator("figcaption", has_text="two.png").wait_for(timeout=SLOW)
    assert box.names() == ["one.png", "two.png"]
    assert box.root.get_by_text("words.png is not a picture of a known format").is_visible()
    assert box.root.get_by_text("empty.png is empty").is_visible()
    screenshot(box.page, "upload_bad")


def test_text_in_the_clipboard_and_dropped_text_are_explained(box):
    box.give("paste")
    box.says("The clipboard holds no photo.")
    box.give("drop")
    box.says("This is not a file")


def test_cancel_drops_what_has_not_arrived(box):
    box.page.evaluate("() => { window.slow = 300; }")
    large = photo(2000, noise=20, kind="JPEG")
    box.choose([as_file("small.png", photo()), *(as_file(f"{i}.jpg", large, "image/jpeg") for i in range(3))])
    box.root.locator("figcaption", has_text="small.png").wait_for(timeout=SLOW)
    box.root.get_by_role("button", name="Cancel").click()
    box.says("Cancelled: 1 of 4 photos had arrived.")
    assert box.root.get_by_role("progressbar").count() == 0
    box.page.wait_for_timeout(1500)
    assert box.names() == ["small.png"]
    box.choose([as_file("after.png", photo())])
    box.says("1 photo sent.")
    assert box.names() == ["after.png"]


def test_a_file_that_is_removed_while_it_is_sent_is_named_and_the_next_one_arrives(box, tmp_path):
    gone, kept = tmp_path / "gone.jpg", tmp_path / "kept.jpg"
    for path in (gone, kept):
        path.write_bytes(photo(2000, noise=20, kind="JPEG"))
    box.page.evaluate("() => { window.slow = 400; }")
    box.choose([gone, kept])
    box.says("gone.jpg (1 of 2)")
    gone.unlink()
    box.complains("gone.jpg can no longer be read")
    box.page.evaluate("() => { window.slow = 0; }")
    box.says("1 of 2 photos could be used.")
    assert box.names() == ["kept.jpg"]


def test_a_file_above_the_limit_is_refused_with_its_first_piece(box, tmp_path):
    path = tmp_path / "film.jpg"
    with path.open("wb") as file:
        file.truncate(200_000_001)  # sparse: it takes no space
    box.page.evaluate("() => { window.largest = 0; }")
    box.choose([path])
    box.complains("film.jpg has 200.0 MB: at most 200 MB can be uploaded.")
    assert box.page.evaluate("() => window.largest") < PIECE_BYTES + 10_000


def test_the_square_is_moved_by_mouse_and_by_keys(box, screenshot):
    box.give("drop", ("half.png", "image/png", photo()))
    box.says("1 photo sent.")
    square = box.root.locator(".square")
    place = "(element) => [element.style.left, element.style.width].map(parseFloat)"
    assert square.evaluate(place) == [25, 50]
    first = box.shown()
    at = square.bounding_box()
    middle = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    box.page.mouse.move(*middle)
    box.page.mouse.down()
    box.page.mouse.move(middle[0] + 300, middle[1], steps=5)
    box.page.mouse.up()
    assert square.evaluate(place) == [50, 50]  # at the right edge
    second = box.waits_for_another(first)
    box.page.mouse.move(at["x"] + at["width"] * 1.5 - 6, at["y"] + at["height"] - 6)  # its lower right corner
    box.page.mouse.down()
    box.page.mouse.move(at["x"] + at["width"], at["y"] + at["height"] / 2, steps=5)
    box.page.mouse.up()
    assert square.evaluate(place)[1] < 35
    third = box.waits_for_another(second)
    screenshot(box.page, "upload_moved")
    for key in ("ArrowLeft", "Shift+ArrowLeft", "-", "+", "ArrowDown"):
        before = square.get_attribute("style")
        square.press(key)
        assert square.get_attribute("style") != before
    box.waits_for_another(third)
    square.press("Home")
    assert square.evaluate(place) == [25, 50]
    box.page.wait_for_function(
        "([root, first]) => root.querySelector('.seen img').src === first", arg=[box.root.element_handle(), first]
    )
    assert re.search(r"\d%$", box.root.locator(".said").inner_text())


def test_the_square_is_moved_by_a_finger(box):
    box.give("drop", ("touch.png", "image/png", photo()))
    box.says("1 photo sent.")
    first, square = box.shown(), box.root.locator(".square")
    square.scroll_into_view_if_needed()
    at = square.bounding_box()
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    session = box.page.context.new_cdp_session(box.page)
    for kind, points in (("Start", [x]), ("Move", [x - 30]), ("Move", [x - 60]), ("End", [])):
        touches = [{"x": each, "y": y} for each in points]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})
    box.waits_for_another(first)
    assert at["x"] - square.bounding_box()["x"] == pytest.approx(60, abs=2)


def test_keys_in_the_box_are_no_commands_of_jupyterlab(box):
    box.root.locator(".square").focus()
    for key in ("a", "d", "d", "x"):
        box.page.keyboard.press(key)
    assert box.page.locator(".jp-CodeCell").count() == len(CELLS)


def test_the_results_are_downloaded_as_a_table(box, tmp_path):
    files = ('=cmd("x"), y.png', photo()), ("Größe.png", photo()), ("bad.png", b"no picture")
    box.give("drop", *((name, "image/png", content) for name, content in files))
    box.root.get_by_text("bad.png is not a picture").wait_for(timeout=SLOW)
    with box.page.expect_download() as download:
        box.root.get_by_role("link", name="Download table (CSV)").click()
    assert download.value.suggested_filename == "predictions.csv"
    download.value.save_as(tmp_path / "table.csv")
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [row["file"] for row in rows] == ['\'=cmd("x"), y.png', "Größe.png", "bad.png"]
    assert [bool(row["class"]) for row in rows] == [True, True, False]
    assert 0 < float(rows[0]["confidence"]) <= 1
    assert "not a picture" in rows[2]["problem"]


def test_the_box_fits_a_phone(box, screenshot):
    box.page.set_viewport_size({"width": 390, "height": 1400})
    box.give("drop", ("a photo with quite a long name from a phone.png", "image/png", photo()))
    box.says("1 photo sent.")
    frame = box.root.locator(".frame").bounding_box()
    assert frame["x"] >= 0
    assert frame["x"] + frame["width"] <= 390
    box.zone.scroll_into_view_if_needed()
    screenshot(box.page, "upload_390")
    box.page.set_viewport_size({"width": 1280, "height": 1400})


@pytest.mark.parametrize("width", [1280, 390])
def test_the_switch_shows_what_speaks_for_the_answer(box, screenshot, width):
    box.page.set_viewport_size({"width": width, "height": 1400})
    box.give("drop", ("one.png", "image/png", photo()), ("two.png", "image/png", photo(noise=40)))
    box.says("2 photos sent.")
    why = box.root.get_by_role("button", name="Why?")
    why.click()
    box.root.get_by_text(re.compile("what speaks for|nothing that speaks for")).nth(1).wait_for(timeout=SLOW)
    image = box.root.locator(".seen img").nth(1)
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [224, 224]
    right = image.bounding_box()
    assert right["x"] + right["width"] <= width
    box.zone.scroll_into_view_if_needed()
    screenshot(box.page, f"upload_why_{width}")
    why.click()
    box.page.wait_for_function("root => root.querySelectorAll('.seen img').length === 2", arg=box.root.element_handle())
    box.page.set_viewport_size({"width": 1280, "height": 1400})


def test_a_folder_is_sent_without_its_other_files(zone, tmp_path, screenshot):
    folder = tmp_path / "cups"
    (folder / "more").mkdir(parents=True)
    for name in ("10.png", "9.png", "more/1.jpg", "notes.txt", ".hidden.png"):
        (folder / name).write_bytes(photo())
    zone.choose(str(folder), "Choose folder")
    zone.says("3 photos sent.")
    screenshot(zone.root, "dropzone")


def test_a_kernel_that_is_restarted_is_explained(box):
    box.page.evaluate("() => { window.slow = 500; }")
    box.choose([as_file("large.jpg", photo(2000, noise=20, kind="JPEG"), "image/jpeg")])
    box.root.get_by_role("progressbar").wait_for(timeout=SLOW)
    box.page.evaluate(
        "() => { window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart(); }"
    )
    box.complains("The kernel was restarted or has ended")
    assert box.root.get_by_role("progressbar").count() == 0
    box.give("drop", ("late.png", "image/png", photo()))
    box.complains("run this cell again")
