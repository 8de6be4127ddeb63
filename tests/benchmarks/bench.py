"""`make bench`: compares with plain Keras and PyTorch; writes artifacts/benchmarks.json and docs/speed.md's table.

The rivals run in processes of their own (see rivals.py) and take turns, task by task, so that whatever slows the
machine down slows all of them. Nothing else should run meanwhile. Takes nine to twelve minutes on two cores.
"""

import datetime as dt
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from imgclassify import backend
from imgclassify.data.loading import load_dataset
from imgclassify.runs import provenance
from imgclassify.runs.manifest import read_manifest
from imgclassify.runs.names import list_models

PROJECT = Path(__file__).resolve().parents[2]
ARTIFACTS = PROJECT / "artifacts"
ROUNDS = 5
FAST = "all training steps of fast, measured on 36 of them"


class Rival:
    """A process of rivals.py that waits for its turn."""

    def __init__(self, name: str, *words: str, script: str = "rivals.py"):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), name, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.versions = self._answer()["versions"]

    def measure(self, task: str) -> list[float]:
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A rival has died; run rivals.py by hand to see why.")
        return json.loads(line)


def take_turns(tasks: list[tuple[Rival, str, str]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each task, `(rival, task, label)`, over some rounds in which each has its turn."""
    times: dict[str, list[float]] = {label: [] for *_, label in tasks}
    for number in range(rounds):
        for rival, task, label in tasks:
            times[label] += rival.measure(task)
            print(f"round {number + 1}: {label}: {statistics.median(times[label]):.4g}", flush=True)
    return times


def training(with_torch: bool) -> tuple[dict, dict]:
    rivals = {"Keras `fit`": Rival("keras"), "ours": Rival("ours"), "ours, float32": Rival("ours float32")}
    if with_torch:
        rivals["eager PyTorch"] = Rival("torch")
    rivals[FAST] = Rival("fast")
    times = take_turns([(rival, "training", label) for label, rival in rivals.items()])
    for rival in rivals.values():
        rival.close()
    return times, rivals["eager PyTorch"].versions if with_torch else {}


def prediction(models: list[str], with_torch: bool) -> dict[str, list[float]]:
    mine, keras = Rival("predictions", *models), Rival("keras", *models)
    tasks = []
    for name in models:
        tasks += [
            (mine, f"predict_image {name}", f"`predict_image`, {name}"),
            (keras, f"model.predict {name}", f"`model.predict`, {name}"),
            (mine, f"10,000 pictures {name}", f"10,000 pictures, ours, {name}"),
        ]
    other = Rival("torch", *models) if with_torch else None
    if other:
        for name in models:
            tasks += [
                (other, f"one picture {name}", f"one picture, eager PyTorch, {name}"),
                (other, f"10,000 pictures {name}", f"10,000 pictures, eager PyTorch, {name}"),
            ]
    times = take_turns(tasks)
    times["growth of memory (MiB)"] = mine.measure("growth")
    for rival in filter(None, (mine, keras, other)):
        rival.close()
    return times


def start_up() -> dict[str, list[float]]:
    python = [sys.executable, "-c"]
    commands = {
        "`import imgclassify`": [*python, "import imgclassify"],
        "`imgclassify --help`": [sys.executable, "-m", "imgclassify.cli", "--help"],
        "`import tensorflow`": [*python, "import tensorflow"],
    }
    times: dict[str, list[float]] = {label: [] for label in commands}
    for _ in range(5):
        for label, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[label].append(time.perf_counter() - started)
    return times


def summary(times: dict[str, list[float]]) -> dict[str, dict]:
    return {
        label: {"median": statistics.median(each), "lowest": min(each), "highest": max(each), "measured": len(each)}
        for label, each in times.items()
    }


def table(result: dict) -> str:
    train, predict, start = result["training"], result["prediction"], result["start_up"]
    fit = train["Keras `fit`"]

    def seconds(entry: dict) -> str:
        low, middle, high = entry["lowest"], entry["median"], entry["highest"]
        if middle >= 1:
            return f"{middle:.1f} s ({low:.1f} to {high:.1f})"
        return f"{middle * 1000:.2g} ms" if middle < 0.1 else f"{middle * 1000:.0f} ms"

    lines = ["| what | median (spread) | ratio (of the lowest) |", "|---|---|---|"]
    for label, entry in train.items():
        detail = f", {result['precision']}" if label == "ours" else ""
        what = label if label == FAST else f"an epoch of the baseline, {label}{detail}"
        usual, lowest = (entry[key] / fit[key] for key in ("median", "lowest"))
        lines.append(f"| {what} | {seconds(entry)} | {usual:.2f} ({lowest:.2f}) |")
    for recipe, walls in result["wall_times_s"].items():
        count = f"{len(walls)} manifest{'s' * (len(walls) > 1)}"
        lines.append(f"| the whole recipe {recipe}, from {count} | {statistics.median(walls) / 60:.1f} min | |")
    for name in result["models"]:
        slow = predict[f"`model.predict`, {name}"]["median"]
        for label in (f"`model.predict`, {name}", f"`predict_image`, {name}", f"one picture, eager PyTorch, {name}"):
            if label in predict:
                lines.append(f"| {label} | {seconds(predict[label])} | {predict[label]['median'] / slow:.4f} |")
        ours = predict[f"10,000 pictures, ours, {name}"]["median"]
        for label in (f"10,000 pictures, ours, {name}", f"10,000 pictures, eager PyTorch, {name}"):
            if label in predict:
                lines.append(f"| {label} | {seconds(predict[label])} | {predict[label]['median'] / ours:.2f} |")
    slow = start["`import tensorflow`"]["median"]
    lines += [f"| {label} | {seconds(entry)} | {entry['median'] / slow:.3f} |" for label, entry in start.items()]
    machine, versions = result["machine"], result["versions"]
    growth = predict["growth of memory (MiB)"]["median"]
    notes = [
        f"On {machine['cores']} cores of an {machine['processor']}, {result['data']}, {result['created'][:10]}:",
        "medians with lowest and highest, rivals taking turns.",
        "Epochs and steps are without validation; the whole recipes are with it, and were trained at other hours, when",
        "the machine was quicker or slower.",
        "One picture through `predict_image` includes test-time augmentation where the model has it; all else is",
        "without.",
        f"Growth of memory over 10,000 predictions: {growth:.1f} MiB.",
        *([] if "torch" in versions else ["PyTorch was not installed."]),
        ", ".join(f"{name} {version}" for name, version in versions.items() if name != "imgclassify") + ".",
    ]
    return "\n".join(lines) + "\n\n" + " ".join(notes) + "\n"


def write_table(name: str, text: str, page: str = "speed.md") -> None:
    """Print a table, and replace the one of this name in a page of docs/."""
    print(text)
    path, mark = PROJECT / "docs" / page, rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    old = path.read_text(encoding="utf-8")
    path.write_text(re.sub(mark, lambda found: found[1] + text + found[2], old, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    data = load_dataset("cifar10", offline=True)
    with_torch = importlib.util.find_spec("torch") is not None
    print("PyTorch is included." if with_torch else "PyTorch is not installed, so it is left out.", flush=True)
    os.environ.pop("IMGCLASSIFY_ARTIFACTS_DIR", None)  # the shipped models are measured
    recipes = {read_manifest(path).recipe.name for path in list_models()}
    models = ["baseline", *sorted(recipes & {"best"})]
    records = (
        json.loads((ARTIFACTS / "accuracies.json").read_text()) if (ARTIFACTS / "accuracies.json").exists() else []
    )
    walls: dict[str, list[float]] = {}
    for record in records:
        if record["trained_by"] == "imgclassify":
            walls.setdefault(record["recipe"]["name"], []).append(record["wall_time_s"])
    train, torch_versions = training(with_torch)
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "data": data.source,
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions() | torch_versions,
        "precision": backend.default_precision(),
        "models": models,
        "training": summary(train),
        "prediction": summary(prediction(models, with_torch)),
        "start_up": summary(start_up()),
        "wall_times_s": walls,
    }
    (ARTIFACTS / "benchmarks.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("benchmarks", table(result))


if __name__ == "__main__":
    main()
