"""Many pictures: pictures per second and memory of `predict_files`, beside a plain loop; writes docs/speed.md's table.

`python many.py`, ten minutes on two cores; with Ray where it is installed. The ways take turns, each in a process of
its own. 100,000 JPEG files are made of CIFAR-10's pictures; the shipped baseline, the fastest model, answers.
"""

import csv
import datetime as dt
import hashlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench import ARTIFACTS, write_table
from PIL import Image

from imgclassify import ImageError, export_model, load_exported, load_model
from imgclassify.data.loading import load_dataset
from imgclassify.prediction import COLUMNS, csv_row, table_row
from imgclassify.progress import Progress
from imgclassify.runs import provenance
from imgclassify.serving.batch import find_pictures, predict_files

COUNT, PART, ROUNDS = 100_000, 10_000, 3
WAYS = {"a plain loop": "loop", "1 worker": "local 1", "2 workers": "local 2", "Ray, 2 workers": "ray 2"}


def plain_loop(model, files: list[str], output: Path) -> None:
    """What one would write without this package's help: one picture after the other."""
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name in files:
            try:
                writer.writerow(csv_row(table_row(name, model.predict(name))))
            except ImageError as error:
                writer.writerow(csv_row(table_row(name, None, str(error))))


def work(way: str, model: str, folder: str, output: str) -> None:
    """What the measured process does."""
    files, _ = find_pictures(folder)
    if way == "loop":
        plain_loop(load_exported(model, threads=1), files, Path(output))
        return
    engine, workers = way.split()
    options = {"engine": engine, "workers": int(workers), "progress": Progress(enabled=False)}
    predict_files(load_exported(model, threads=1), files, output, **options)


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [pid, *(each for child in children.read_text().split() for each in family(int(child)))]
    except OSError:
        return []


def megabytes(pid: int) -> float:
    """Memory of a process and all that it has started, shared pages counted once."""
    total = 0
    for each in family(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:
            continue
    return total / 1000


def measure(way: str, model: Path, folder: Path, output: Path) -> tuple[float, float]:
    """Seconds, and the largest memory in megabytes."""
    begun, most = time.perf_counter(), 0.0
    command = [sys.executable, __file__, WAYS[way], str(model), str(folder), str(output)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while running.poll() is None:
        most = max(most, megabytes(running.pid))
        time.sleep(0.3)
    if running.returncode:
        raise RuntimeError(f"{way} failed")
    return time.perf_counter() - begun, most


def make_pictures(folder: Path) -> None:
    """`PART` files in one folder, and all of the `COUNT` files in another."""
    data = load_dataset("cifar10", offline=True)
    x = np.concatenate([data.x_train, data.x_test])
    (folder / "part").mkdir()
    (folder / "all").mkdir()
    for number in range(COUNT):
        path = folder / "all" / f"{number:06}.jpg"
        Image.fromarray(x[number % len(x)]).save(path, quality=95)
        if number < PART:
            (folder / "part" / path.name).hardlink_to(path)


def table(result: dict) -> str:
    parts, whole = result["part"], result["all"]
    head = f"| | pictures per second | times the plain loop | memory, {PART:,} files | {COUNT:,} files |"
    lines = [head, "|---|---|---|---|---|"]
    for way, seconds in parts["seconds"].items():
        ratio = statistics.median(a / b for a, b in zip(parts["seconds"]["a plain loop"], seconds, strict=True))
        speed = f"{COUNT / whole['seconds'][way][0]:,.0f}"
        memory = [f"{statistics.median(each['megabytes'][way]):,.0f} MB" for each in (parts, whole)]
        lines.append(f"| {way} | {speed} | {ratio:.2f} | {memory[0]} | {memory[1]} |")
    machine = result["machine"]
    notes = (
        f"On {machine['cores']} shared cores of an {machine['processor']}, {result['created'][:10]}, starting included."
    )
    notes += f" {COUNT:,} files once; ratios and the memory for fewer are medians of {ROUNDS} turns of {PART:,} files."
    return "\n".join(lines) + f"\n\n{notes}\n"


def main() -> None:
    ways = [way for way in WAYS if "Ray" not in way or importlib.util.find_spec("ray")]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_pictures(folder)
        model = export_model(
            replace(load_model("baseline"), file=None), path=folder / "model.onnx", data=load_dataset("digits")
        ).path
        result, tables = {}, {}
        for part, rounds in (("part", ROUNDS), ("all", 1)):
            seconds, memory = ({way: [] for way in ways} for _ in range(2))
            for _ in range(rounds):
                for way in ways:
                    took, most = measure(way, model, folder / part, folder / f"{way}.csv")
                    seconds[way].append(took)
                    memory[way].append(most)
                    print(part, way, f"{took:.1f} s, {most:.0f} MB", flush=True)
            result[part] = {"seconds": seconds, "megabytes": memory}
            tables = {way: hashlib.sha256((folder / f"{way}.csv").read_bytes()).hexdigest() for way in ways[1:]}
            assert len(set(tables.values())) == 1  # byte for byte
    result |= {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "pictures": {"part": PART, "all": COUNT},
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions(),
    }
    (ARTIFACTS / "benchmarks_many.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("many", table(result))


if __name__ == "__main__":
    work(*sys.argv[1:]) if len(sys.argv) > 1 else main()
