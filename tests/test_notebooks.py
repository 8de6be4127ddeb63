"""The notebooks: run under nbval in short mode, and fit to be read on a web page."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.name[0].isdigit()]  # all but the app's

# What this test run has set for itself and the kernels must not see.
OURS = ("IMGCLASSIFY_", "KERAS_HOME", "MPLBACKEND")


def cells(path: Path, kind: str = "code") -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def outputs(path: Path) -> list[dict]:
    return [output for cell in cells(path) for output in cell["outputs"]]


def tree_state() -> str:
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False).stdout


def run_under_nbval(**settings: str) -> None:
    before = tree_state()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=300",
        "-q",
        "notebooks",
    ]
    run = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment | {"IMGCLASSIFY_SHORT": "1", "IMGCLASSIFY_OFFLINE": "1"} | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert tree_state() == before


def test_all_notebooks_run_on_digits_without_any_network(tmp_path):
    run_under_nbval(IMGCLASSIFY_DATASET="digits", IMGCLASSIFY_CACHE_DIR=str(tmp_path), KERAS_HOME=str(tmp_path))


@pytest.mark.real_data
def test_all_notebooks_run_on_cifar10(cifar10_settings):
    run_under_nbval(IMGCLASSIFY_DATASET="cifar10", **cifar10_settings)


def test_the_numbered_notebooks_are_there():
    assert [path.stem for path in NUMBERED] == [
        "01_data_exploration",
        "02_training",
        "03_evaluation",
        "04_custom_prediction",
        "05_explainability",
        "06_your_own_classes",
        "07_camera",
        "08_deployment",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCommittedNotebook:
    def test_was_run_from_top_to_bottom(self, path):
        counts = [cell["execution_count"] for cell in cells(path)]
        assert counts == list(range(1, len(counts) + 1))

    def test_holds_no_error_no_stderr_and_no_empty_output(self, path):
        for output in outputs(path):
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output["text"]
            assert output.get("text") or output.get("data")

    def test_holds_no_widget_state_and_no_widget_views(self, path):
        assert "widgets" not in json.loads(path.read_text(encoding="utf-8"))["metadata"]
        assert not any("widget" in mime for output in outputs(path) for mime in output.get("data", {}))

    def test_shows_no_absolute_paths(self, path):
        texts = [
            json.dumps(
                {
                    key: value
                    for key, value in output.get("data", {"text": output.get("text")}).items()
                    if not key.startswith("image/")
                }
            )
            for output in outputs(path)
        ]
        found = [
            re.search(r"(?<![\w.:/<])/(?:home|root|tmp|work|Users|usr|var|mnt)/|[A-Z]:\\\\", text) for text in texts
        ]
        assert not any(found), found

    def test_uses_no_magics_and_no_shell_lines(self, path):
        lines = [line for cell in cells(path) for line in "".join(cell["source"]).splitlines()]
        assert not [line for line in lines if line.lstrip().startswith(("%", "!"))]

    def test_stores_the_kernel_name_python3(self, path):
        assert json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3"

    def test_is_light_enough_for_a_web_page(self, path):
        assert path.stat().st_size < 1_500_000

    def test_checks_its_meaning(self, path):
        assert any("assert " in "".join(cell["source"]) for cell in cells(path))


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
class TestNumberedNotebook:
    def test_has_a_caption_for_every_figure(self, path):
        figures = sum("image/png" in output.get("data", {}) for output in outputs(path))
        captions = re.findall(
            rf"\*Figure {int(path.stem[:2])}\.(\d+)\.",
            "\n".join("".join(cell["source"]) for cell in cells(path, "markdown")),
        )
        assert captions == [str(number) for number in range(1, figures + 1)]

    def test_was_run_at_full_settings_on_the_real_data(self, path):
        shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs(path)]
        texts = "".join("".join(text) for text in shown)
        assert ("Clothing photos" if path.stem == "06_your_own_classes" else "CIFAR-10") in texts
        assert "2,000 training" not in texts
