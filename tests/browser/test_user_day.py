"""A user's day in JupyterLab: upload pictures in notebook 04, train and compare in notebook 02."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

pytestmark = pytest.mark.browser
SLOW = 180_000  # milliseconds


def picture(
    name: str = "green.png", color: tuple[int, int, int] = (40, 160, 60), size: tuple[int, int] = (300, 200)
) -> dict:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format="PNG")
    return {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}


def choose(page, *files: dict) -> None:
    """Choose files as a person does."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose photos").click()
    chooser.value.set_files(list(files))


@pytest.fixture(scope="module")
def upload_page(chromium, open_notebook, run_all):
    """Notebook 04 with all cells run, the upload box in view."""
    page = chromium.new_page(viewport={"width": 1280, "height": 1100})
    open_notebook(page, "04_custom_prediction")
    run_all(page)
    page.get_by_role("button", name="Choose photos").scroll_into_view_if_needed(timeout=SLOW)
    yield page
    page.close()


def test_an_uploaded_picture_is_classified_at_once(upload_page, screenshot):
    photo = Path(skimage.__file__).parent / "data" / "chelsea.png"
    choose(upload_page, {"name": "my_cat.png", "mimeType": "image/png", "buffer": photo.read_bytes()})
    upload_page.locator("figcaption", has_text="my_cat.png").wait_for(timeout=SLOW)
    assert upload_page.get_by_text("what the model sees", exact=True).first.is_visible()
    assert upload_page.get_by_text("It knows only these classes:").is_visible()
    assert upload_page.locator(".widget-dropdown select").input_value() == "cifar10_guided.keras"
    screenshot(upload_page, "04_upload_1280")
    screenshot(
        upload_page.locator(".jp-OutputArea-output", has=upload_page.get_by_role("button", name="Choose photos")),
        "upload",
    )


def test_the_same_file_can_be_uploaded_again(upload_page):
    choose(upload_page, picture("sky.png", (120, 170, 230)))
    upload_page.locator("figcaption", has_text="sky.png").wait_for(timeout=SLOW)
    upload_page.get_by_role("button", name="cat photo").click()
    upload_page.locator("figcaption", has_text="cat photo").wait_for(timeout=SLOW)
    assert upload_page.locator("figcaption", has_text="sky.png").count() == 0
    choose(upload_page, picture("sky.png", (120, 170, 230)))
    upload_page.locator("figcaption", has_text="sky.png").wait_for(timeout=SLOW)


def test_a_broken_file_gives_one_red_sentence_and_the_box_keeps_working(upload_page, screenshot):
    choose(upload_page, {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff\xe0 not really"})
    sentence = upload_page.get_by_text("broken.jpg is", exact=False).first
    sentence.wait_for(timeout=SLOW)
    assert "error" in sentence.get_attribute("class")
    screenshot(upload_page, "04_broken")
    choose(upload_page, picture("after.png"))
    upload_page.locator("figcaption", has_text="after.png").wait_for(timeout=SLOW)
    assert upload_page.get_by_text("broken.jpg is", exact=False).count() == 0


@pytest.mark.browser_full
def test_several_files_are_classified_together_and_the_bad_one_is_named(upload_page, screenshot):
    choose(
        upload_page,
        picture("one.png"),
        {"name": "two.txt", "mimeType": "text/plain", "buffer": b"words"},
        picture("three.png", (200, 40, 40)),
    )
    for name in ("one.png", "three.png"):
        upload_page.locator("figcaption", has_text=name).wait_for(timeout=SLOW)
    assert upload_page.get_by_text("two.txt is not a picture").is_visible()
    screenshot(upload_page, "04_several")


@pytest.mark.browser_full
def test_a_fifteen_megabyte_picture_is_opened_by_its_path(upload_page, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2300, 2300, 3), dtype=np.uint8)
    path = tmp_path / "large.png"
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > 15_000_000
    box = upload_page.get_by_placeholder("path of a picture on this computer")
    box.fill(str(path))
    box.press("Enter")
    upload_page.locator("figcaption", has_text="large.png").wait_for(timeout=SLOW)


@pytest.mark.browser_full
def test_the_upload_box_fits_a_narrow_window(upload_page, screenshot):
    upload_page.set_viewport_size({"width": 800, "height": 1100})
    choose(upload_page, picture("narrow.png"))
    upload_page.locator("figcaption", has_text="narrow.png").wait_for(timeout=SLOW)
    screenshot(upload_page, "04_upload_800")
    upload_page.set_viewport_size({"width": 1280, "height": 1100})


def test_in_the_panel_runs_are_deleted_and_a_training_grows_its_curve_stops_and_is_listed(
    chromium, open_notebook, run_all, screenshot
):
    page = chromium.new_page(viewport={"width": 1280, "height": 1200})
    open_notebook(page, "02_training")
    run_all(page)
    start = page.get_by_role("button", name="Start").first
    start.scroll_into_view_if_needed(timeout=SLOW)
    panel = page.locator(".jp-OutputArea-output", has=start)
    runs = panel.locator("select[multiple]")
    doomed = [run for run in runs.locator("option").all_inner_texts() if run.endswith("fast")]  # of the ablation
    runs.select_option(doomed)
    panel.get_by_role("button", name="Delete...").click()
    panel.get_by_role("button", name="Yes, delete").click()
    runs.locator("option", has_text=doomed[-1]).wait_for(state="detached", timeout=SLOW)
    assert not set(doomed) & set(runs.locator("option").all_inner_texts())
    batch_size = panel.locator(".widget-inline-hbox", has_text="Batch size").locator("input")
    batch_size.fill("1")  # short mode allows three epochs only: small batches make them last
    batch_size.press("Enter")
    start.click()
    curves = panel.locator("img:visible").first
    curves.wait_for(timeout=SLOW)
    first = curves.get_attribute("src")
    page.wait_for_function(
        "([image, source]) => image.src !== source", arg=[curves.element_handle(), first], timeout=SLOW
    )
    screenshot(page, "02_panel_1280")
    screenshot(panel, "training_panel")
    panel.get_by_role("button", name="Stop").click()
    ending = panel.get_by_text("kept as the run")
    ending.wait_for(timeout=SLOW)
    assert start.is_enabled()
    assert ending.inner_text().startswith("Stopped")
    run = re.search(r"the run (\S+)\.", ending.inner_text())[1]
    assert run in runs.locator("option").all_inner_texts()
    assert panel.locator("td", has_text=run).count() == 1
    panel.get_by_role("button", name="Compare").click()
    panel.locator("img:visible").nth(1).wait_for(timeout=SLOW)
    screenshot(page, "02_runs_1280")
    page.set_viewport_size({"width": 800, "height": 1200})
    screenshot(page, "02_panel_800")
    page.close()
