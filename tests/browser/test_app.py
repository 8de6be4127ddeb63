"""The app without code: Voila as `make app` starts it."""

import io
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser_full
SLOW = 180_000  # milliseconds


@pytest.fixture(scope="module")
def command(project) -> list[str]:
    """Voila's command line from the Makefile."""
    if shutil.which("make") is None:
        pytest.skip("no test of the app: make is not installed")
    dry_run = subprocess.run(["make", "-n", "app"], cwd=project, capture_output=True, text=True, check=True)
    lines = dry_run.stdout.replace("\\\n", " ").splitlines()
    (line,) = (line for line in lines if "/voila " in line)
    return shlex.split(line)


@pytest.fixture(scope="module")
def app(command, project, serving, free_port, kernel_environment, tmp_path_factory):
    missing = 'no test of the app: voila is not installed (pip install -e ".[notebooks]")'
    pytest.importorskip("voila", reason=missing)
    home, port = tmp_path_factory.mktemp("voila"), free_port()
    url, log = f"http://127.0.0.1:{port}", home / "log"
    quicker = [re.sub(r"(cull_\w+)=\d+", r"\1=5", word) for word in command[1:]]
    started = [sys.executable, "-m", "voila", *quicker, f"--port={port}", "--no-browser"]
    with serving(started, f"{url}/voila/static/voila.js", log, cwd=project, env=kernel_environment(home)):
        yield SimpleNamespace(url=url, port=port, log=log)


@pytest.fixture(scope="module")
def page(chromium_with_camera, app):
    page = chromium_with_camera.new_page(viewport={"width": 1280, "height": 1250})
    page.goto(app.url, timeout=SLOW)
    page.get_by_role("button", name="Start camera").wait_for(timeout=SLOW)
    page.wait_for_load_state("networkidle")
    yield page
    page.close()


def noise(side: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format=kind, quality=95)
    return file.getvalue()


def upload(page, *files) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose photos").click()
    chooser.value.set_files(list(files))


def png(name: str, content: bytes) -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def test_make_app_listens_on_this_computer_only(command):
    assert "--Voila.ip=127.0.0.1" in command


def test_the_app_is_reached_at_no_other_address_of_this_computer(app):
    """All of 127.0.0.0/8 is this computer: a server that listens on every address would answer at 127.0.0.2 too."""
    socket.create_connection(("127.0.0.1", app.port), timeout=10).close()
    with pytest.raises(OSError, match=r"refused|assign"):
        socket.create_connection(("127.0.0.2", app.port), timeout=10)


def test_no_code_and_no_path_box_are_shown(page, screenshot):
    assert page.title() == "What is in your picture?"
    assert page.locator(".jp-InputArea-editor, .jp-CodeMirrorEditor, .highlight pre").count() == 0
    for word in ("import", "load_model", "UploadClassifier", "assert"):
        assert word not in page.inner_text("body")
    assert page.get_by_placeholder("path of a picture").count() == 0
    assert page.get_by_text("test pictures of CIFAR-10").is_visible()
    screenshot(page, "app_1280")
    page.set_viewport_size({"width": 800, "height": 1250})
    screenshot(page, "app_800")
    page.set_viewport_size({"width": 1280, "height": 1250})


def test_an_uploaded_picture_is_classified(page, screenshot):
    upload(page, png("small.png", noise(200)))
    page.locator("figcaption", has_text="small.png").wait_for(timeout=SLOW)
    screenshot(page, "app_upload_1280")


def test_six_phone_photos_of_four_megabytes_arrive_in_their_order(page, screenshot):
    content = noise(1850, "JPEG")
    assert 3_500_000 < len(content) < 6_000_000
    names = [f"IMG_{number}.jpg" for number in (3, 1, 2, 6, 5, 4)]
    upload(page, *({"name": name, "mimeType": "image/jpeg", "buffer": content} for name in names))
    page.get_by_text("6 photos sent.").wait_for(timeout=SLOW)
    assert page.locator(".imgclassify-crop figcaption").all_inner_texts() == names
    screenshot(page, "app_six_1280")


def test_a_fifteen_megabyte_picture_can_be_uploaded(page):
    content = noise(2300)
    assert 15_000_000 < len(content) < 20_000_000
    upload(page, png("large.png", content))
    page.locator("figcaption", has_text="large.png").wait_for(timeout=SLOW)


def test_a_picture_above_the_limit_gives_one_sentence(page, tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(200_000_001)  # sparse: it takes no space
    upload(page, path)
    page.get_by_text("at most 200 MB can be uploaded").wait_for(timeout=SLOW)
    upload(page, png("after.png", noise(50)))
    page.locator("figcaption", has_text="after.png").wait_for(timeout=SLOW)


def test_the_square_on_a_photo_is_moved_by_keys(page):
    upload(page, png("move.png", noise(200)))
    page.get_by_text("1 photo sent.").wait_for(timeout=SLOW)
    seen = page.locator(".seen img")
    before = seen.get_attribute("src")
    page.locator(".square").press("-")
    changed = "before => document.querySelector('.seen img').src !== before"
    page.wait_for_function(changed, arg=before, timeout=SLOW)


def test_the_camera_classifies(page, screenshot):
    page.get_by_role("button", name="Start camera").click()
    page.get_by_text("The camera is on.").wait_for(timeout=SLOW)
    page.get_by_role("button", name="Continuous").click()
    page.locator(".imgclassify-camera .rate", has_text="predictions per second").wait_for(timeout=SLOW)
    screenshot(page, "app_camera_1280")
    page.get_by_role("button", name="Stop camera").click()
    page.get_by_text("The camera is off.").first.wait_for(timeout=SLOW)


def test_own_classes_are_taught_without_code_and_without_paths_of_this_computer(page, screenshot):
    title = page.get_by_text("Teach your own classes")
    title.click()
    box = page.locator(".imgclassify-teach")
    box.get_by_label("Class", exact=True).first.fill("cup")
    box.get_by_role("button", name="Add class").click()
    box.get_by_text("Drop photos of cup", exact=True).wait_for(timeout=SLOW)
    assert box.get_by_label("Folder", exact=True).count() == 0
    assert box.get_by_role("button", name="Train", exact=True).is_disabled()
    assert box.get_by_text("two classes with at least two photos each").is_visible()
    box.scroll_into_view_if_needed()
    screenshot(page, "app_teach_1280")
    title.click()
    box.wait_for(state="hidden", timeout=SLOW)


def test_a_computer_without_a_camera_is_told_so(chromium, app, screenshot):
    """No fake camera here: this Chromium has no camera, or nobody allows its use."""
    page = chromium.new_page(viewport={"width": 1280, "height": 1250})
    page.goto(app.url, timeout=SLOW)
    page.get_by_role("button", name="Start camera").click(timeout=SLOW)
    page.get_by_text(re.compile("No camera was found|Access to the camera was denied")).wait_for(timeout=SLOW)
    screenshot(page, "app_no_camera_1280")
    page.close()


def test_the_python_process_of_a_closed_page_ends(chromium, app):
    page = chromium.new_page()
    page.goto(app.url, timeout=SLOW)
    page.get_by_role("button", name="Start camera").wait_for(timeout=SLOW)
    kernel = re.findall(r"Kernel started: (\S+)", app.log.read_text())[-1]
    page.close()
    end = time.monotonic() + SLOW / 1000
    while f"Kernel shutdown: {kernel}" not in app.log.read_text():
        assert time.monotonic() < end, "the process of the closed page is still there"
        time.sleep(1)
