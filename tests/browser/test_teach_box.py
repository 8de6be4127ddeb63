"""The teach box in JupyterLab at a phone's width: photos of two classes dropped, trained, and a third one tried."""

import base64
import io
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser_full
SLOW = 240_000  # milliseconds

CELL = """
import os
os.environ["IMGCLASSIFY_ARTIFACTS_DIR"] = "artifacts"  # in short mode it would end with the kernel
from imgclassify import TeachBox
TeachBox()"""

GIVE = """([zone, files]) => {
  const data = new DataTransfer();
  const bytes = (base64) => Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  for (const [name, base64] of files) data.items.add(new File([bytes(base64)], name, { type: "image/jpeg" }));
  for (const each of ["dragenter", "dragover", "drop"])
    zone.dispatchEvent(new DragEvent(each, { bubbles: true, cancelable: true, dataTransfer: data }));
}"""


def photo(color: tuple[int, int, int], seed: int, side: int = 200) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 90, (side, side, 3)) + np.array(color)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.fixture(scope="module")
def page(chromium_with_camera, jupyterlab, open_notebook, run_all):
    cell = nbformat.v4.new_code_cell(CELL)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, jupyterlab.folder / "teach.ipynb")
    page = chromium_with_camera.new_page(viewport={"width": 390, "height": 1400})
    open_notebook(page, "teach")
    run_all(page)
    page.locator(".imgclassify-teach").wait_for(timeout=SLOW)
    yield page
    page.close()


def card(page, name: str):
    return page.locator(".imgclassify-teach .class", has=page.get_by_text(f"Drop photos of {name}", exact=True))


def add_class(page, name: str) -> None:
    box = page.get_by_label("Class", exact=True).first
    box.fill(name)
    box.press("Enter")
    card(page, name).wait_for(timeout=SLOW)


def drop(zone, *files: tuple[str, bytes]) -> None:
    written = [(name, base64.b64encode(content).decode()) for name, content in files]
    zone.page.evaluate(GIVE, [zone.element_handle(), written])


def test_photos_of_two_classes_are_dropped_and_shown(page, screenshot):
    for name, color in (("brick", (130, 20, 20)), ("leaf", (20, 130, 20))):
        add_class(page, name)
        drop(card(page, name).locator(".zone"), *((f"{seed}.jpg", photo(color, seed)) for seed in range(4)))
        card(page, name).get_by_text("4 photos sent.").wait_for(timeout=SLOW)
        card(page, name).locator("li").nth(3).wait_for(timeout=SLOW)
    shown = "image => image.complete && image.naturalWidth > 0"
    assert all(image.evaluate(shown) for image in page.locator(".imgclassify-gallery img").all())
    screenshot(page, "teach_390")


def test_a_photo_is_removed_by_keyboard_and_the_focus_stays_in_the_gallery(page):
    leaf = card(page, "leaf")
    first = leaf.get_by_role("button", name="Remove: leaf, photo 1", exact=True)
    first.focus()
    first.press("Enter")
    leaf.locator("li").nth(3).wait_for(state="detached", timeout=SLOW)
    leaf.get_by_text("3 photos", exact=True).wait_for(timeout=SLOW)
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Remove: leaf, photo 1"


def test_it_trains_says_how_good_it_is_and_classifies_another_photo(page, screenshot):
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("Kept as the run").wait_for(timeout=SLOW)
    assert page.get_by_text("Right on 100% of 7 photos").is_visible()
    drop(page.locator(".zone", has=page.get_by_text("Drop the next photo here")), ("new.jpg", photo((20, 130, 20), 99)))
    page.locator(".verdict", has_text="leaf").wait_for(timeout=SLOW)
    assert page.locator(".seen .bars .percent").count() == 2
    tried = page.locator(".imgclassify-teach .card")
    tried.get_by_label("Class").select_option("brick")
    tried.get_by_role("button", name="Add to this class").click()
    tried.get_by_text("Added to brick.").wait_for(timeout=SLOW)
    card(page, "brick").get_by_text("5 photos", exact=True).wait_for(timeout=SLOW)
    card(page, "brick").get_by_role("button", name="Remove: brick, photo 1", exact=True).click()
    card(page, "brick").get_by_text("4 photos", exact=True).wait_for(timeout=SLOW)
    screenshot(page, "teach_tried_390")


def test_the_camera_takes_photos_of_a_class_and_answers_live(page):
    page.get_by_role("button", name="Start camera").click()
    page.get_by_text("The camera is on.").wait_for(timeout=SLOW)
    page.get_by_role("button", name="Continuous").click()
    page.locator(".imgclassify-camera .rate", has_text="predictions per second").wait_for(timeout=SLOW)
    page.get_by_role("button", name="Pause").click()
    hold = page.get_by_role("button", name="Hold: brick")
    hold.hover()
    page.mouse.down()
    page.get_by_text(re.compile(r"brick: ([3-9]|\d\d) taken")).wait_for(timeout=SLOW)
    page.mouse.up()
    page.get_by_role("button", name="Stop camera").click()
    card(page, "brick").locator("li").nth(5).wait_for(timeout=SLOW)


def test_large_phone_photos_arrive_together_and_cancel_counts_those_that_have(page, tmp_path):
    files = []
    for seed in range(6):
        noise = np.random.default_rng(seed).integers(0, 90, (3000, 4000, 3), dtype=np.uint8)
        files.append(tmp_path / f"IMG_{seed}.jpg")
        Image.fromarray(noise).save(files[-1], quality=80)
        assert files[-1].stat().st_size > 3_000_000
    add_class(page, "phone")
    phone = card(page, "phone")
    phone.locator("input[type=file]").first.set_input_files(files[:3])
    phone.get_by_text("Sending 3 photos").wait_for(timeout=SLOW)
    phone.get_by_role("button", name="Cancel").click()
    cancelled = phone.get_by_text(re.compile(r"Cancelled: \d of 3 photos had arrived"))
    cancelled.wait_for(timeout=SLOW)
    arrived = int(re.search(r"\d", cancelled.inner_text())[0])
    phone.get_by_text(f"{arrived} photo{'s' * (arrived != 1)}", exact=True).wait_for(timeout=SLOW)
    phone.locator("input[type=file]").first.set_input_files(files)
    said = f"{6 - arrived} of 6 photos could be used." if arrived else "6 photos sent."
    phone.get_by_text(said).wait_for(timeout=SLOW)
    assert phone.get_by_text("is in phone already").count() == arrived
    phone.get_by_text("6 photos", exact=True).wait_for(timeout=SLOW)


def test_a_class_is_deleted_while_its_photos_are_on_their_way(page):
    phone = card(page, "phone")
    drop(phone.locator(".zone"), *((f"{seed}.jpg", photo((20, 20, 130), seed)) for seed in range(100)))
    phone.locator("li").first.wait_for(timeout=SLOW)
    assert phone.get_by_role("button", name="Cancel").is_visible()
    phone.get_by_role("button", name="Delete...").click()
    phone.get_by_role("button", name=re.compile("for good")).click()
    phone.wait_for(state="detached", timeout=SLOW)
    add_class(page, "phone")  # nothing that was on its way comes here
    page.wait_for_timeout(1000)
    assert phone.get_by_text("0 photos", exact=True).is_visible()
    phone.get_by_role("button", name="Delete...").click()
    phone.wait_for(state="detached", timeout=SLOW)


def test_a_reloaded_page_and_a_fresh_kernel_find_the_photos_again(page, open_notebook, run_all):
    open_notebook(page, "teach")
    run_all(page)
    card(page, "leaf").get_by_text("3 photos", exact=True).wait_for(timeout=SLOW)
    assert card(page, "leaf").locator("li").count() in (0, 3)  # thumbnails come a moment later
