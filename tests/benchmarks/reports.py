"""`make report`: measures the shipped models, writes their cards, and from them the README's table of results."""

import re
from pathlib import Path

from imgclassify.cli import main
from imgclassify.evaluation.report import read_report
from imgclassify.runs.manifest import read_manifest

PROJECT = Path(__file__).resolve().parents[2]
MODELS = ("cifar10_best.keras", "cifar10_guided.keras", "cifar10_model.h5")
_MARKS = ("<!-- results -->\n", "<!-- end of results -->")
_HEAD = (
    "| model | recipe | test accuracy (95 % interval) | with a single view | corrupted | calibration error "
    "| trained on two cores in |\n|---|---|---|---|---|---|---|\n"
)


def table() -> str:
    """The README's table, from the manifests and reports alone."""
    return _HEAD + "".join(_row(PROJECT / "artifacts" / name) for name in MODELS)


def _row(path: Path) -> str:
    manifest, report = read_manifest(path), read_report(path)
    accuracy, low, high = report.accuracy
    thumbnails = " on enlarged thumbnails; it is for photos" if manifest.input_shape[0] > 32 else ""
    single = manifest.metrics.get("test_accuracy_without_tta")
    cells = (
        f"[{path.name}](artifacts/{path.name}) ([card](artifacts/{path.stem}.card.md))",
        f"`{manifest.recipe.name}`",
        f"{100 * accuracy:.2f} % ({100 * low:.1f} to {100 * high:.1f}){thumbnails}",
        f"{100 * single:.2f} %" if single is not None else "the same",
        f"{100 * sum(report.corrupted_means) / len(report.corrupted_means):.1f} %",
        f"{report.calibration_error:.3f}",
        f"{manifest.wall_time_s / 60:.0f} minutes",
    )
    return "| " + " | ".join(cells) + " |\n"


def write_readme() -> None:
    """Replace the table in the README."""
    path, (begin, end) = PROJECT / "README.md", _MARKS
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(f"({begin}).*?({end})", rf"\g<1>{table()}\g<2>", text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    for name in MODELS:
        if code := main(["report", name]):
            raise SystemExit(code)
    write_readme()
