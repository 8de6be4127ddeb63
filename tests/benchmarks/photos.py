"""The photos' part of `make bench`: backbone, trainings on photos; writes their table into docs/speed.md.

`python photos.py`. The whole trainings need the clothing photos (see docs/data.md), and ONNX Runtime needs `pip install
onnxruntime onnx tf2onnx`. What is missing is left out, and said. Takes about fifteen minutes on two cores.
"""

import datetime as dt
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from bench import ARTIFACTS, Rival, summary, take_turns, write_table

from imgclassify.data.dataset import DatasetError
from imgclassify.data.loading import load_dataset
from imgclassify.progress import Progress
from imgclassify.runs import provenance

RIVALS = "photo_rivals.py"
MANY, SINGLE = "256 photos", "one photo"
ROUNDS = 3  # of whole trainings


def forward(with_onnx: bool) -> dict[str, list[float]]:
    rivals = {"ours": Rival("ours", script=RIVALS), "Keras `predict`": Rival("keras", script=RIVALS)}
    rivals |= {"ONNX Runtime": Rival("onnx", script=RIVALS)} if with_onnx else {}
    tasks = [(rival, task, f"backbone, {task}, {label}") for task in (MANY, SINGLE) for label, rival in rivals.items()]
    times = take_turns(tasks)
    for rival in rivals.values():
        rival.close()
    return times


def steps() -> dict[str, list[float]]:
    rivals = {
        "Keras `fit` of the whole network": Rival("keras", script=RIVALS),
        "`photos`": Rival("photos", script=RIVALS),
    }
    tasks = [(rival, "training", f"training on 320 photos, {label}") for label, rival in rivals.items()]
    times = take_turns(tasks)
    for rival in rivals.values():
        rival.close()
    return times


def whole_trainings(folder: Path) -> dict[str, list[float]]:
    """Seconds of trainings on a copy of the clothing photos, each in a new process with an empty cache."""
    times: dict[str, list[float]] = {}
    for name, rounds in (("head", ROUNDS), ("photos", 1)):
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(shutil.copytree(folder, Path(scratch) / "clothing"))
                rival = Rival("whole", name, str(copy), scratch, script=RIVALS)
                times.setdefault(f"`{name}`, nothing kept", []).extend(rival.measure("train"))
                if name == "head":
                    times.setdefault("`head`, again", []).extend(rival.measure("train"))
                    times.setdefault("`head`, 20 photos added", []).extend(rival.measure("add and train"))
                rival.close()
            print(name, {label: statistics.median(each) for label, each in times.items()}, flush=True)
    return times


def table(result: dict) -> str:
    lines = ["| what | median (spread) | ratio |", "|---|---|---|"]
    for title, entries in result["measured"].items():
        firsts: dict[str, float] = {}  # of each task
        for label, entry in entries.items():
            low, middle, high = entry["lowest"], entry["median"], entry["highest"]
            spread = f" ({low:.3g} to {high:.3g})" if entry["measured"] > 1 else ""
            first = firsts.setdefault(label.rpartition(", ")[0], middle)
            ratio = f"{middle / first:.2f}" if title != "whole" else ""
            lines.append(f"| {label} | {middle:.3g} s{spread} | {ratio} |")
    machine, versions = result["machine"], result["versions"]
    notes = [
        f"On {machine['cores']} cores of an {machine['processor']}, {result['created'][:10]}: medians with lowest and",
        "highest, rivals taking turns; photos of 224 x 224 pixels. The trainings on 320 photos are without validation;",
        "`photos` has its activations computed already. The last rows are whole trainings on the 3,781 clothing photos",
        "in a new process with an empty cache: decoding, features or activations, training, and calibration.",
        *([] if "onnxruntime" in versions else ["ONNX Runtime was not installed."]),
        ", ".join(f"{name} {version}" for name, version in versions.items() if name != "imgclassify") + ".",
    ]
    return "\n".join(lines) + "\n\n" + " ".join(notes) + "\n"


def main() -> None:
    with_onnx = all(map(importlib.util.find_spec, ("onnxruntime", "onnx", "tf2onnx")))
    print("ONNX Runtime is included." if with_onnx else "ONNX Runtime is left out: it is not installed.", flush=True)
    versions = provenance.describe_versions()
    if with_onnx:
        import onnxruntime

        versions |= {"onnxruntime": onnxruntime.__version__}
    measured = {"forward": summary(forward(with_onnx)), "steps": summary(steps())}
    try:
        photos = load_dataset("clothing", size=224, offline=True, progress=Progress(enabled=False)).x_train.photos
        measured["whole"] = summary(whole_trainings(Path(photos[0].path).parents[2]))
    except DatasetError as error:
        print(f"Whole trainings are left out: {error}", file=sys.stderr, flush=True)
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": provenance.describe_machine(),
        "versions": versions,
        "measured": measured,
    }
    (ARTIFACTS / "benchmarks_photos.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("photos", table(result))


if __name__ == "__main__":
    main()
