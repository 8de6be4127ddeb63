"""Exported files and pages of the shipped models, for `make bench-export`; writes docs/deployment.md's tables.

`python exports.py`, eight minutes on two cores. The files stay in artifacts/, where git ignores them; their records go
to the models' manifests. The pages are opened in Chromium, with a made-up camera.
"""

import base64
import contextlib
import datetime as dt
import functools
import http.server
import io
import json
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bench import ARTIFACTS, write_table
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from imgclassify import ModelFileError, export_model, load_dataset, load_model
from imgclassify.runs import provenance
from imgclassify.runs.manifest import read_manifest
from imgclassify.serving.export import FORMATS
from imgclassify.serving.page import write_page

MODELS = ("baseline", "best", "guided")
ROUNDS = 7
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
TIMES = """async ([content, rounds]) => {
  const { load } = await import("./classifier.js");
  const model = await load(), times = [];
  const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
  for (let round = 0; round < rounds; round++) {
    const begun = performance.now();
    await model.classify(new File([bytes], "a.jpg"));
    times.push(performance.now() - begun);
  }
  return times;
}"""


def exports(name: str) -> tuple[dict, dict]:
    """Records of the formats that a model can be exported to, and why not to the others."""
    data, refused = load_dataset("cifar10", offline=True), {}
    for to in FORMATS:
        try:
            print(export_model(load_model(name), to, data=data, replace=True), flush=True)
        except ModelFileError as error:
            refused[to] = str(error)
            print(error, flush=True)
    records = read_manifest(load_model(name).file).exports
    return {
        to: {"megabytes": each.megabytes, "milliseconds": each.milliseconds} for to, each in records.items()
    }, refused


@contextlib.contextmanager
def served(folder: Path):
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def page(browser: Browser, name: str) -> dict[str, float]:
    """What a page costs: its bytes, and medians of its times."""
    chance, photos = np.random.default_rng(0), {}
    for label, size in (("thumbnail", (32, 32)), ("photo", (4000, 3000))):
        file, small = io.BytesIO(), chance.integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(small).resize(size).save(file, "JPEG", quality=90)
        photos[label] = base64.b64encode(file.getvalue()).decode()
    with tempfile.TemporaryDirectory() as folder:
        written = write_page(load_model(name), Path(folder) / "page").parent
        megabytes = sum(path.stat().st_size for path in written.iterdir()) / 1e6
        with served(written) as address:
            starts = []
            for _ in range(ROUNDS):
                with browser.new_context() as context:
                    begun, opened = time.perf_counter(), context.new_page()
                    opened.goto(address)
                    opened.get_by_text("Ready. Your pictures").wait_for()
                    buffer = base64.b64decode(photos["thumbnail"])
                    opened.set_input_files("#input", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": buffer}])
                    opened.locator("#results .verdict").wait_for()
                    starts.append(time.perf_counter() - begun)
            with browser.new_context() as context:
                opened = context.new_page()
                opened.goto(address)
                times = {each: opened.evaluate(TIMES, [content, ROUNDS]) for each, content in photos.items()}
                opened.get_by_text("Ready. Your pictures").wait_for()
                opened.click("#camera")
                opened.wait_for_timeout(8000)
                rate = float(opened.locator("#live .name").inner_text().split()[1])
    found = {each: statistics.median(values) for each, values in times.items()}
    return {"megabytes": megabytes, "first answer": statistics.median(starts), **found, "camera": rate}


def table(result: dict) -> str:
    files = ["| model | format | size | one picture |", "|---|---|---|---|"]
    head = "| page of | size | first answer | one thumbnail | one photo of 12 megapixels | camera |"
    pages = [head, "|---|---|---|---|---|---|"]
    for name, found in result["exports"].items():
        for to in FORMATS:
            row = found.get(to)
            cells = f"{row['megabytes']:.1f} MB | {row['milliseconds']:.1f} ms" if row else "refused | -"
            files.append(f"| `{name}` | {to} | {cells} |")
        row = result["pages"][name]
        cells = f"{row['megabytes']:.1f} MB | {row['first answer']:.1f} s | {row['thumbnail']:.0f} ms"
        pages.append(f"| `{name}` | {cells} | {row['photo']:.0f} ms | {row['camera']:.0f} per second |")
    machine = result["machine"]
    notes = f"On {machine['cores']} cores of an {machine['processor']}, {result['created'][:10]}; medians."
    return "\n".join([*files, "", *pages, "", notes, ""])


def main() -> None:
    result: dict = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions(),
        "exports": {},
        "refused": {},
        "pages": {},
    }
    path = next(filter(None, map(shutil.which, CHROMIUM)))
    for name in MODELS:
        result["exports"][name], result["refused"][name] = exports(name)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=OPTIONS) as browser:
        for name in MODELS:
            result["pages"][name] = page(browser, name)
            print(name, result["pages"][name], flush=True)
    (ARTIFACTS / "benchmarks_exports.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("exports", table(result), "deployment.md")


if __name__ == "__main__":
    main()
