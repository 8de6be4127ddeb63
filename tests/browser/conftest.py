"""What browser tests share: Chromium, a JupyterLab of their own, and a few steps in it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 240  # seconds that a server or a kernel may take on a busy machine

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
_IDLE = """() => {
  const session = window.jupyterapp?.shell.currentWidget?.context?.sessionContext;
  return Boolean(session?.isReady && session.session?.kernel?.status === "idle");
}"""


@pytest.fixture(scope="module")
def playwright() -> Iterator:
    """Playwright, for one module: while it is open, other tests cannot run their own event loop."""
    missing = 'no browser tests: playwright is not installed (pip install -e ".[test]")'
    api = pytest.importorskip("playwright.sync_api", reason=missing)
    with api.sync_playwright() as running:
        yield running


def _launch(playwright, *options: str):
    path = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if path is None:
        pytest.skip(f"no browser tests: none of {', '.join(_CHROMIUM)} is installed")
    return playwright.chromium.launch(executable_path=path, args=[*_QUIET, *options])


@pytest.fixture(scope="module")
def chromium(playwright) -> Iterator:
    """The system's Chromium, without a camera."""
    browser = _launch(playwright)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def chromium_with_camera(playwright) -> Iterator:
    """The system's Chromium with a made-up camera (a moving disc on green), which every page may use."""
    browser = _launch(playwright, *_FAKE_CAMERA)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return PROJECT


@pytest.fixture(scope="session")
def kernel_environment() -> Callable[[Path], dict[str, str]]:
    """`kernel_environment(folder)`: short mode, digits, no network, all of Jupyter's folders in `folder`."""
    return _kernel_environment


def _kernel_environment(folder: Path) -> dict[str, str]:
    ours = ("IMGCLASSIFY_", "JUPYTER", "MPLBACKEND", "KERAS_HOME")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython", "IMGCLASSIFY_CACHE_DIR": "cache", "KERAS_HOME": "keras",
    }  # fmt: skip
    return (
        kept
        | {name: str(folder / value) for name, value in folders.items()}
        | {"IMGCLASSIFY_SHORT": "1", "IMGCLASSIFY_OFFLINE": "1", "IMGCLASSIFY_DATASET": "digits"}
    )


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """`free_port()` is an unused port of this machine."""
    return _free_port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def serving() -> Callable:
    """`with serving(command, url, log, ...)` runs a server; the block begins with its first answer."""
    return _serving


@contextmanager
def _serving(command: list[str], url: str, log: Path, **options) -> Iterator[subprocess.Popen]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            written = log.read_text(encoding="utf-8", errors="replace")[-4000:]
            assert process.poll() is None, f"The server ended by itself:\n{written}"
            assert time.monotonic() < end, f"The server did not answer in {PATIENCE} s:\n{written}"
            try:
                urllib.request.urlopen(url, timeout=10).close()
                break
            except OSError:  # not there yet
                time.sleep(0.5)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A JupyterLab of our own on a copy of the notebooks: `url`, `token`, `folder` (the copy) and `log`."""
    missing = 'no browser tests: JupyterLab is not installed (pip install -e ".[notebooks]")'
    pytest.importorskip("jupyterlab", reason=missing)
    home = tmp_path_factory.mktemp("jupyterlab")
    folder, log = home / "notebooks", home / "server.log"
    folder.mkdir()
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, folder)
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    no_news = '{"fetchNews": "false", "checkForUpdates": false}'
    (settings / "notification.jupyterlab-settings").write_text(no_news)
    port, token = _free_port(), os.urandom(12).hex()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with _serving(command, f"{url}/api/status?token={token}", log, cwd=folder, env=_kernel_environment(home)):
        yield SimpleNamespace(url=url, token=token, folder=folder, log=log)


def _ask(server: SimpleNamespace, method: str, path: str):
    headers = {"Authorization": f"token {server.token}"}
    request = urllib.request.Request(f"{server.url}/api/{path}", method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


@pytest.fixture(scope="session")
def open_notebook(jupyterlab) -> Callable:
    """`open_notebook(page, "04_custom_prediction")` opens a notebook and waits for its fresh kernel."""

    def open_notebook(page, name: str) -> None:
        for session in _ask(jupyterlab, "GET", "sessions"):
            for attempt in range(3):  # Jupyter (seen in 2.21) may fail to end a kernel that was restarted
                try:
                    _ask(jupyterlab, "DELETE", f"sessions/{session['id']}")
                    break
                except urllib.error.HTTPError as error:
                    if error.code == 404:  # the failed attempt has ended it
                        break
                    if attempt == 2:
                        raise
                    time.sleep(1)
        workspace = f"{jupyterlab.url}/lab/workspaces/{os.urandom(4).hex()}"
        address = f"{workspace}/tree/{name.removesuffix('.ipynb')}.ipynb?token={jupyterlab.token}"
        page.goto(address, timeout=PATIENCE * 1000)
        page.wait_for_function(_IDLE, timeout=PATIENCE * 1000)
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    return open_notebook


@pytest.fixture(scope="session")
def run_all() -> Callable:
    """`run_all(page)` runs all cells of the open notebook, and checks that none failed."""

    def run_all(page) -> None:
        page.evaluate("""() => {
          window.ranAll = undefined;
          window.jupyterapp.commands.execute("notebook:run-all-cells")
            .then((fine) => Boolean(fine), String).then((result) => { window.ranAll = result; });
        }""")
        page.wait_for_function("() => window.ranAll !== undefined", timeout=PATIENCE * 1000)
        errors = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]')
        assert page.evaluate("() => window.ranAll") is True, errors.all_inner_texts()
        page.wait_for_function(_IDLE, timeout=PATIENCE * 1000)

    return run_all


@pytest.fixture(scope="session")
def screenshot(tmp_path_factory) -> Callable:
    """`screenshot(page, "upload")` saves what is shown, in `IMGCLASSIFY_SCREENSHOTS` or else in tmp."""
    folder = Path(os.environ.get("IMGCLASSIFY_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)

    def screenshot(page, name: str) -> Path:
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        return path

    return screenshot
