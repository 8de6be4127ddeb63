"""The camera box of notebook 07 in JupyterLab, with Chromium's made-up camera."""

import re

import nbformat
import pytest

pytestmark = pytest.mark.browser_full
SLOW = 120_000  # milliseconds

# Remembers the camera tracks that the page was given, the large messages that it sent, and the answers.
WITNESS = """
window.given = []; window.sent = 0; window.answers = 0;
const media = navigator.mediaDevices;
window.realCamera = media.getUserMedia.bind(media);
window.camera = window.realCamera;
media.getUserMedia = async (wish) => {
  const stream = await window.camera(wish);
  window.given.push(...stream.getTracks());
  return stream;
};
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  if ((data.byteLength ?? data.length) > 1500) window.sent += 1;
  return send.call(this, data);
};
new MutationObserver((changes) => {
  for (const change of changes) if (change.target.matches(".imgclassify-camera .view")) window.answers += 1;
}).observe(document, { subtree: true, attributeFilter: ["src"] });
"""


# A network of 224 pixels, which takes about as long as a backbone does, and two burst buttons.
LARGE = """
import ipywidgets
from imgclassify import build_model
from imgclassify.classifier import Classifier
from imgclassify.widgets.camera import CameraClassifier
taken, count = [], ipywidgets.Label("none")
def keep(name, content):
    taken.append((name, len(content)))
    count.value = f"{len(taken)} taken, the last of {name} with {len(content) // 1000} kB"
network = Classifier.of(build_model(input_shape=(224, 224, 3), num_classes=2), ("cup", "pen"))
ipywidgets.VBox([CameraClassifier(network, on_frame=keep, bursts=("cup", "pen")), count])
"""


class Box:
    """The camera box on a page, as a person sees it."""

    def __init__(self, page):
        self.page = page
        self.root = page.locator(".imgclassify-camera")
        self.status = self.root.locator(".status")

    def press(self, label: str) -> None:
        self.root.get_by_role("button", name=label, exact=True).click(timeout=SLOW)

    def start(self) -> None:
        self.press("Start camera")
        self.says("The camera is on.")
        playing = "() => document.querySelector('.imgclassify-camera video').videoWidth > 0"
        self.page.wait_for_function(playing, timeout=SLOW)

    def says(self, text: str) -> None:
        self.status.filter(has_text=text).wait_for(timeout=SLOW)

    def is_red(self) -> bool:
        return "error" in self.status.get_attribute("class").split()

    def answers(self) -> int:
        return self.page.evaluate("() => window.answers")

    def wait_for_answers(self, count: int) -> None:
        self.page.wait_for_function("count => window.answers >= count", arg=count, timeout=SLOW)

    def tracks(self) -> set[str]:
        return set(self.page.evaluate("() => window.given.map(track => track.readyState)"))

    def run_cell(self) -> None:
        """Runs the cell again, which takes the old box away."""
        self.page.locator(".jp-CodeCell", has=self.root).locator(".jp-InputArea-editor").click()
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell')")
        self.root.wait_for(timeout=SLOW)


@pytest.fixture(scope="module")
def watched(chromium_with_camera, open_notebook, run_all):
    """`watched(name)` opens a notebook in a page that notes what its camera does, and runs it."""

    def watched(name: str):
        page = chromium_with_camera.new_page(viewport={"width": 1280, "height": 1000})
        page.add_init_script(WITNESS)
        open_notebook(page, name)
        run_all(page)
        return page

    return watched


@pytest.fixture(scope="module")
def page(watched):
    page = watched("07_camera")
    page.locator(".imgclassify-camera").scroll_into_view_if_needed(timeout=SLOW)
    yield page
    page.close()


@pytest.fixture
def box(page):
    """The box with the camera off; what a test changed in the browser is undone afterwards."""
    box = Box(page)
    yield box
    page.evaluate("() => { window.camera = window.realCamera; }")
    if box.root.get_by_role("button", name="Stop camera").count():
        box.press("Stop camera")


def test_nothing_is_sent_before_a_button_is_pressed(box):
    assert box.root.get_by_text("It knows only these classes: airplane, automobile,").is_visible()
    before = box.answers()
    box.start()
    sent = box.page.evaluate("() => window.sent")
    box.page.wait_for_timeout(1500)
    assert box.page.evaluate("() => window.sent") == sent
    assert box.answers() == before


def test_a_snapshot_is_answered_once(box):
    box.start()
    before = box.answers()
    box.press("Snapshot")
    box.wait_for_answers(before + 1)
    box.page.wait_for_timeout(1500)
    assert box.answers() == before + 1
    assert box.root.locator(".label").count() == 3
    shares = [float(text.removesuffix("%")) for text in box.root.locator(".percent").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.2
    view = box.root.locator(".view")
    assert view.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]


def test_the_switch_shows_what_speaks_for_the_snapshot_that_is_shown(box, screenshot):
    box.start()
    before = box.answers()
    box.press("Snapshot")
    box.wait_for_answers(before + 1)
    view, labels = box.root.locator(".view"), box.root.locator(".label")
    seen, said = view.get_attribute("src"), labels.all_inner_texts()
    box.press("Why?")
    box.wait_for_answers(before + 2)
    assert view.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [224, 224]
    assert labels.all_inner_texts() == said
    assert box.root.get_by_text(re.compile("what speaks for|nothing that speaks for")).is_visible()
    screenshot(box.page, "07_camera_why")
    box.press("Why?")
    box.wait_for_answers(before + 3)
    assert view.get_attribute("src") == seen  # the same frame again, not a new one
    assert box.root.get_by_text("The model's view").is_visible()


def test_continuous_mode_reaches_five_predictions_a_second_without_flooding(box, screenshot):
    box.start()
    box.press("Continuous")
    box.wait_for_answers(box.answers() + 5)
    shown = "() => parseFloat(document.querySelector('.imgclassify-camera .rate').textContent) >= 5"
    box.page.wait_for_function(shown, timeout=SLOW)  # a busy machine may need a while
    measure = "() => [performance.now(), window.sent, window.answers]"
    started, sent, answers = box.page.evaluate(measure)
    box.page.wait_for_timeout(6000)
    ended, sent_now, answers_now = box.page.evaluate(measure)
    seconds = (ended - started) / 1000
    print(f"\n{(answers_now - answers) / seconds:.1f} predictions per second over {seconds:.1f} s")
    assert sent_now - sent <= answers_now - answers + 1
    screenshot(box.page, "07_camera_1280")
    box.page.set_viewport_size({"width": 800, "height": 1000})
    box.root.scroll_into_view_if_needed()
    box.wait_for_answers(box.answers() + 1)
    screenshot(box.page, "07_camera_800")
    box.page.set_viewport_size({"width": 1280, "height": 1000})
    box.press("Pause")
    box.page.wait_for_timeout(1000)
    paused = box.answers()
    box.page.wait_for_timeout(1000)
    assert box.answers() == paused


def test_the_preview_is_mirrored_and_the_input_is_not(box):
    box.page.evaluate("""() => { window.camera = async () => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 480 });
      const draw = () => {
        const context = canvas.getContext("2d");
        context.fillStyle = "black"; context.fillRect(0, 0, 640, 480);
        context.fillStyle = "white"; context.fillRect(0, 0, 320, 480);
      };
      draw(); setInterval(draw, 50);
      return canvas.captureStream(20);
    }; }""")
    box.start()
    before = box.answers()
    box.press("Snapshot")
    box.wait_for_answers(before + 1)
    left, right = box.root.locator(".view").evaluate("""async image => {
      await image.decode();
      const context = document.createElement("canvas").getContext("2d");
      context.drawImage(image, 0, 0);
      return [4, 27].map(x => context.getImageData(x, 16, 1, 1).data[0]);
    }""")
    assert left > 240
    assert right < 15
    transform = box.root.locator("video").evaluate("video => getComputedStyle(video).transform")
    assert transform == "matrix(-1, 0, 0, 1, 0, 0)"


def test_stop_gives_the_camera_back(box):
    box.start()
    assert "live" in box.tracks()
    box.press("Continuous")
    box.press("Stop camera")
    assert box.tracks() == {"ended"}
    assert box.root.get_by_role("button", name="Snapshot").is_disabled()
    box.says("The camera is off.")


def test_a_hidden_page_gives_the_camera_back(box):
    box.start()
    box.page.evaluate("""() => {
      Object.defineProperty(document, "hidden", { get: () => true, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
      delete document.hidden;
    }""")
    assert box.tracks() == {"ended"}
    box.says("switched off while the page was hidden")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("NotAllowedError", "Access to the camera was denied"),
        ("NotFoundError", "No camera was found"),
        ("NotReadableError", "The camera is busy"),
        ("AbortError", "The camera cannot be used (made up)"),
    ],
)
def test_each_reason_to_have_no_camera_is_explained(box, screenshot, error, sentence):
    refuse = "name => { window.camera = async () => { throw new DOMException('made up', name); }; }"
    box.page.evaluate(refuse, error)
    box.press("Start camera")
    box.says(sentence)
    assert "upload box" in box.status.inner_text()
    assert box.is_red()
    screenshot(box.page, f"07_{error}")


def test_a_frame_that_cannot_be_used_gives_one_red_sentence_and_the_box_keeps_working(box, screenshot):
    box.start()
    box.page.evaluate("""() => {
      const real = HTMLCanvasElement.prototype.toBlob;
      HTMLCanvasElement.prototype.toBlob = function (use) {
        HTMLCanvasElement.prototype.toBlob = real;
        use(new Blob(["no picture"]));
      };
    }""")
    box.press("Continuous")
    box.says("The frame is not a picture")
    assert box.is_red()
    screenshot(box.page, "07_bad_frame")
    before = box.answers()
    box.press("Continuous")
    box.wait_for_answers(before + 2)
    assert not box.is_red()


def test_a_page_that_is_not_secure_says_so(box):
    nothing = "{ value: undefined, configurable: true }"
    insecure = f"() => Object.defineProperty(navigator, 'mediaDevices', {nothing})"
    box.page.evaluate(insecure)
    box.run_cell()
    box.says("only on https:// or on localhost. Use the upload box instead.")
    assert box.is_red()
    assert box.root.get_by_role("button", name="Start camera").is_disabled()
    box.page.evaluate("() => delete navigator.mediaDevices")
    box.run_cell()
    box.says("The camera is off.")


def test_taking_the_box_away_gives_the_camera_back(box):
    box.start()
    assert "live" in box.tracks()
    box.run_cell()
    box.says("The camera is off.")
    assert box.tracks() == {"ended"}


def test_closing_the_notebook_gives_the_camera_back(box):
    box.start()
    box.press("Continuous")
    box.page.evaluate("""async () => {
      await window.jupyterapp.commands.execute("docmanager:save");
      window.jupyterapp.shell.currentWidget.close();
    }""")
    given_back = "() => window.given.every(track => track.readyState === 'ended')"
    box.page.wait_for_function(given_back, timeout=SLOW)


@pytest.fixture(scope="module")
def large_page(jupyterlab, watched):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell(LARGE.strip())
    nbformat.write(
        nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), jupyterlab.folder / "large.ipynb"
    )
    page = watched("large")
    yield page
    page.close()


@pytest.fixture
def large(large_page):
    box = Box(large_page)
    yield box
    if box.root.get_by_role("button", name="Stop camera").count():
        box.press("Stop camera")


def test_a_model_of_224_pixels_gets_frames_of_its_size_five_times_a_second(large, screenshot):
    large.start()
    large.press("Continuous")
    shown = "() => parseFloat(document.querySelector('.imgclassify-camera .rate').textContent) >= 5"
    large.page.wait_for_function(shown, timeout=SLOW)  # a busy machine may need a while
    screenshot(large.page, "camera_224")
    print(f"\n{large.root.locator('.rate').inner_text()}")
    large.press("Pause")
    view = large.root.locator(".view")
    assert view.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [224, 224]


@pytest.mark.parametrize("way", ["mouse", "key"])
def test_a_burst_lasts_as_long_as_its_button_is_held(large, way):
    large.start()
    button = large.root.get_by_role("button", name="Hold: pen")
    count = large.page.locator(".widget-label", has_text="the last of pen with")
    button.scroll_into_view_if_needed()
    button.hover()
    if way == "mouse":
        large.page.mouse.down()
    else:
        button.focus()
        large.page.keyboard.down(" ")
    number = "() => parseInt(document.querySelector('.imgclassify-camera .status').textContent.slice(5))"
    large.page.wait_for_function(f"least => ({number})() >= least", arg=1, timeout=SLOW)
    started, first = large.page.evaluate(f"() => [performance.now(), ({number})()]")
    large.page.wait_for_function(f"least => ({number})() >= least", arg=first + 10, timeout=SLOW)
    ended, last = large.page.evaluate(f"() => [performance.now(), ({number})()]")
    if way == "mouse":
        large.page.mouse.up()
    else:
        large.page.keyboard.up(" ")
    rate = 1000 * (last - first) / (ended - started)
    print(f"\n{rate:.1f} frames per second")
    assert 0.5 < rate < 6.5
    large.page.wait_for_timeout(500)
    said = large.status.inner_text()
    large.page.wait_for_timeout(800)
    assert large.status.inner_text() == said
    assert 5 <= int(count.inner_text().split(" with ")[1].split()[0]) <= 200  # kilobytes
