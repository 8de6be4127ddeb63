"""How our widgets and tables look in JupyterLab, in both themes and at three widths: readable, whole, reachable."""

import nbformat
import pytest

pytestmark = pytest.mark.browser_full
SLOW = 180_000  # milliseconds
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
WIDTHS = (1280, 800, 390)
CONTRAST = 4.5  # to one, as WCAG 2 requires for text

CELLS = {
    "upload": """
import numpy as np
from imgclassify import compare_runs, evaluate_model, load_dataset, load_model
from imgclassify.widgets.upload import UploadClassifier
model = load_model()
box = UploadClassifier(model)
box.classify([("a photo with quite a long name.png", np.full((300, 500, 3), 90, np.uint8)), ("broken.jpg", b"no")])
box""",
    "panel": """
from imgclassify.widgets.panel import TrainingPanel
panel = TrainingPanel(load_dataset("digits"))
panel.epochs.value = 1
panel.start.click()
assert panel.wait(240)
panel.compare.click()
panel.batch_size.value = -1
panel.start.click()
panel.wait(240)
panel.delete.click()
panel""",
    "camera": """
from imgclassify.widgets.camera import CameraClassifier
CameraClassifier(model, bursts=("cup", "pen"))""",
    "many": """
from imgclassify import build_model
from imgclassify.classifier import Classifier
names = [f"a class with a long name of several words, number {i}" for i in range(1000)]
many = UploadClassifier(Classifier.of(build_model(input_shape=(224, 224, 3), num_classes=1000), names))
many.classify([("tall.png", np.full((900, 300, 3), 90, np.uint8))])
many""",
    "zone": """
from imgclassify.widgets.dropzone import DropZone
DropZone(lambda *_: None, label="Photos of a class with quite a long name", folder=True)""",
    "teach": """
import io
from PIL import Image
from imgclassify.widgets.teach import TeachBox
teach = TeachBox()
for name, color in (("a rather long name", (200, 40, 40)), ("leaf", (40, 160, 60))):
    teach.new_class.value = name
    teach.add.click()
    for i in range(13):
        file = io.BytesIO()
        noise = np.random.default_rng(i).integers(0, 60, (90, 120, 3)) + np.array(color) // 2
        Image.fromarray(noise.astype(np.uint8)).save(file, "JPEG")
        teach.album.add(name, f"{i}.jpg", file.getvalue())
teach._changed()
teach.train.click()
assert teach.wait(240)
teach._on_try("new.jpg", file.getvalue())
teach.cards["leaf"].delete.click()
teach.cards["leaf"].title.value = "a/b"
teach""",
    "card": "model",
    "prediction": "model.answer(np.zeros((32, 32, 3), np.uint8))",
    "table": "compare_runs()",
}

# For each text that is shown: its contrast with its background.
CONTRASTS = """(root) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const over = (colors) => {  // colors one above another, as the browser mixes them
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, 1, 1);
    for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || seen.has(element) || element.closest("style, script, :disabled, .mod-disabled")) continue;
    const box = element.getBoundingClientRect();
    if (!element.checkVisibility() || box.width === 0 || getComputedStyle(element).fontSize === "0px") continue;
    seen.add(element);
    const behind = [];
    for (let each = element; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
    const paper = light(over(behind)), ink = light(over([...behind, getComputedStyle(element).color]));
    found.push([text.slice(0, 40), (Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05)]);
  }
  return found;
}"""

# Texts and controls that stick out of the page, or out of a box that hides what does not fit.
CUT_OFF = """(root) => {
  const page = root.closest(".jp-OutputArea-output").getBoundingClientRect(), found = [];
  for (const element of root.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (!element.checkVisibility() || box.width === 0) continue;
    if (element.closest(".scroll, .said, style, option, pre")) continue;
    const name = `${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 30)}`;
    if (box.right > page.right + 1.5 || box.left < page.left - 1.5) found.push(`${name} sticks out`);
    const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX) && !element.matches(".track");
    if (hides && element.scrollWidth > element.clientWidth + 1) found.push(`${name} is cut`);
  }
  return found;
}"""

CONTROLS = "button:enabled, input:enabled:not([type=file]), select:enabled, summary, a[href], [tabindex='0']"


@pytest.fixture(scope="module")
def page(chromium, jupyterlab, open_notebook, run_all):
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS.values()]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, jupyterlab.folder / "appearance.ipynb")
    page = chromium.new_page(viewport={"width": 1280, "height": 1400})
    open_notebook(page, "appearance")
    run_all(page)
    yield page
    page.close()


@pytest.fixture(
    params=[(theme, width) for theme in THEMES for width in WIDTHS], ids=lambda each: f"{each[0]}-{each[1]}"
)
def shown(page, request):
    theme, width = request.param
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", THEMES[theme])
    light = str(theme == "light").lower()
    page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{light}'", timeout=SLOW)
    page.set_viewport_size({"width": width, "height": 1400})
    page.wait_for_timeout(700)  # the theme's colours fade in
    return page, f"{theme}_{width}"


def roots(page) -> dict:
    cells = page.locator(".jp-CodeCell")
    return {name: cells.nth(i).locator(".imgclassify").first for i, name in enumerate(CELLS)}


@pytest.mark.parametrize("name", list(CELLS))
def test_every_text_is_readable_and_nothing_is_cut_off(shown, screenshot, name):
    page, where = shown
    root = roots(page)[name]
    root.scroll_into_view_if_needed(timeout=SLOW)
    screenshot(root, f"appearance_{name}_{where}")
    contrasts = root.evaluate(CONTRASTS)
    assert contrasts
    assert [each for each in contrasts if each[1] < CONTRAST] == []
    assert root.evaluate(CUT_OFF) == []


# The element with the focus, whether the focus is visible, and a name for it; it is marked as reached.
FOCUS = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  element.dataset.reached = "yes";
  const shows = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  return [shows, `${element.tagName} ${element.className} ${element.textContent.slice(0, 30)}`];
}"""


@pytest.mark.parametrize("name", ["upload", "panel", "camera", "zone", "teach"])
def test_every_control_is_reached_by_keyboard_and_shows_its_focus(page, name):
    root = roots(page)[name]
    root.scroll_into_view_if_needed(timeout=SLOW)
    controls = [each for each in root.locator(CONTROLS).all() if each.is_visible()]
    assert controls
    controls[0].focus()
    for _ in range(len(controls) + 5):
        page.keyboard.press("Tab")
        if not root.evaluate("(root) => root.contains(document.activeElement)"):
            break
        shows, what = page.evaluate(FOCUS)
        assert shows, what
    missed = [each for each in controls[1:] if not each.get_attribute("data-reached")]
    assert [each.evaluate("(element) => element.outerHTML.slice(0, 120)") for each in missed] == []
