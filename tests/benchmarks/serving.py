"""The service's speed, memory and endurance, for `make bench-serve`; writes the tables of docs/deployment.md.

`python serving.py [--litserve PYTHON]`, twelve minutes on two cores, which the load generator shares. PYTHON is that of
an environment with litserve; without it, LitServe is left out. The servers take turns, so that whatever slows the
machine down slows all.
"""

import argparse
import asyncio
import datetime as dt
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from bench import ARTIFACTS, PROJECT, write_table
from load import Load, closed_loop, form, open_loop, raw
from PIL import Image

from imgclassify import load_model
from imgclassify.data.loading import load_dataset
from imgclassify.runs import provenance
from imgclassify.serving.export import export_model

sys.path.insert(0, str(PROJECT / "tests" / "serving"))
from processes import Process, free_port, post, status

ROUNDS, STARTS, SECONDS = 3, 5, 6
KILLS, FLOOD = 10, 10_000
LIBRARIES = ("onnxruntime", "fastapi")
ROUNDED = "best in eight bits"
TARGETS = {"baseline": 300, "best": 300, ROUNDED: 300, "guided": 40}  # per second; p99 is measured at 80 % of them


def pictures() -> dict[str, bytes]:
    """A JPEG of a CIFAR-10 test picture for each model: as it is, and as large as a photo, with a photo's grain."""
    tile = load_dataset("cifar10", offline=True).x_test[0]
    large = np.asarray(Image.fromarray(tile).resize((533, 400), Image.Resampling.BICUBIC), np.float32)
    large = np.clip(large + np.random.default_rng(0).normal(0, 5, large.shape), 0, 255).astype(np.uint8)
    found = {}
    for name in TARGETS:
        file = io.BytesIO()
        Image.fromarray(large if name == "guided" else tile).save(file, "JPEG", quality=90)
        found[name] = file.getvalue()
    return found


def ours(model: Path, *options: str) -> Process:
    port = free_port()
    arguments = ("-m", "imgclassify.cli", "serve", str(model), "--port", str(port), *options)
    return Process(*arguments, port=port, log=model.with_name(f"{port}.log"))


def rival(script: str, python: str, model: Path | str) -> Process:
    """A rival's process, which may run in another environment."""
    port, path = free_port(), Path(__file__).with_name(script)
    launcher = f"import os; os.execv({python!r}, {[python, str(path), str(model), str(port)]!r})"
    return Process("-c", launcher, port=port, log=Path(tempfile.gettempdir(), f"{path.stem}-{port}.log"))


def peak(process: Process) -> float:
    """The most memory that a process has had, in MB."""
    text = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1000


def start_up(model: Path) -> dict:
    """Seconds until the service is ready, and its memory then."""
    seconds, memory = [], []
    for _ in range(STARTS):
        begun = time.perf_counter()
        with ours(model) as process:
            seconds.append(time.perf_counter() - begun)
            memory.append(process.resident())
    return {"seconds": seconds, "megabytes": memory}


def measured(load: Load) -> dict:
    found = {f"p{share}": float(np.percentile(load.milliseconds, share)) for share in (50, 99)}
    return found | {"per_second": load.per_second, "statuses": load.statuses}


def loads(process: Process, picture: bytes, target: int) -> dict:
    """One client; sixteen; and clients who come at 80 % of the target, whether or not others are answered."""
    run, request = asyncio.run, raw(picture)
    run(closed_loop(process.port, request, clients=4, seconds=1))
    return {
        "one": measured(run(closed_loop(process.port, request, clients=1, seconds=SECONDS))),
        "sixteen": measured(run(closed_loop(process.port, request, clients=16, seconds=SECONDS))),
        "open": measured(run(open_loop(process.port, request, per_second=0.8 * target, seconds=2 * SECONDS))),
    }


def against(servers: dict[str, Callable[[], Process]], picture: bytes) -> dict:
    """Pictures per second for sixteen clients, and milliseconds for one, of each server in turn; sent as forms.

    Each is started for its turn, and ended after it: LitServe uses a tenth of a core per process while it waits.
    """
    taken: dict[str, dict[str, list[float]]] = {name: {"per_second": [], "p50": []} for name in servers}
    request = form(picture)
    for _ in range(ROUNDS):
        for name, start in servers.items():
            with start() as process:
                asyncio.run(closed_loop(process.port, request, clients=4, seconds=2))
                one = asyncio.run(closed_loop(process.port, request, clients=1, seconds=SECONDS / 2))
                many = asyncio.run(closed_loop(process.port, request, clients=16, seconds=SECONDS))
            taken[name]["per_second"].append(many.per_second)
            taken[name]["p50"].append(float(np.median(one.milliseconds)))
    return taken


def flood(model: Path, picture: bytes) -> dict:
    """Ten thousand requests, nearly all above the rate: what is answered, and the memory before and after."""
    with ours(model, "--rate", "10") as process:
        statuses: dict[int, int] = {}
        before = 0.0
        for _ in range(10):
            load = asyncio.run(closed_loop(process.port, raw(picture), clients=16, seconds=1e6, most=FLOOD // 10))
            statuses = {each: statuses.get(each, 0) + load.statuses.get(each, 0) for each in statuses | load.statuses}
            before = before or process.resident()
        return {"statuses": statuses, "megabytes": [before, process.resident()], "peak": peak(process)}


def hostile_sizes(model: Path) -> dict:
    """Pictures of 25 and 49 million pixels, and bodies of 20 and 30 MB, eight at a time: what memory they take."""
    files = []
    for mode, size in (("RGBA", (5000, 5000)), ("RGB", (7000, 7000))):
        file = io.BytesIO()
        Image.new(mode, size).save(file, "PNG")
        files.append(file.getvalue())
    with ours(model) as process:
        before, statuses = process.resident(), set()
        for body in (*files, bytes(19_999_000), bytes(30_000_000)):
            found = asyncio.run(closed_loop(process.port, raw(body), clients=8, seconds=1e6, most=24))
            statuses |= set(found.statuses)
        return {"statuses": sorted(statuses), "megabytes": [before, process.resident()], "peak": peak(process)}


def kills(model: Path, picture: bytes) -> dict:
    """A client that retries, while the service is killed and started again."""
    answered = broken = wrong = 0
    process, request = ours(model), post(picture)
    for _ in range(KILLS):
        until = time.perf_counter() + 0.5
        killer = subprocess.Popen(
            [sys.executable, "-c", f"import os, time; time.sleep(0.4); os.kill({process.process.pid}, 9)"]
        )
        while time.perf_counter() < until:
            try:
                found = status(process.ask(request))
            except OSError:
                found = 0
                time.sleep(0.02)
            answered, broken, wrong = answered + (found == 200), broken + (found == 0), wrong + (found not in (0, 200))
        killer.wait()
        process.process.wait()
        process = ours(model)
        answered += status(process.ask(request)) == 200
    process.stop()
    return {"kills": KILLS, "answered": answered, "broken": broken, "other": wrong}


def table(result: dict) -> str:
    lines = [
        "| model | ready after | memory then | at most | one client, median | 16 clients | p99 at 80 % of the target |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name, entry in result["measured"].items():
        ready, memory = (statistics.median(entry["start_up"][each]) for each in ("seconds", "megabytes"))
        load, aim = entry["loads"], TARGETS[name]
        one, many, late = load["one"]["p50"], load["sixteen"]["per_second"], load["open"]["p99"]
        row = [f"`{name}`, {entry['pixels']}", f"{ready:.2f} s", f"{memory:.0f} MB", f"{entry['peak']:.0f} MB"]
        row += [
            f"{one:.1f} ms",
            f"{many:.0f} per second (target: {aim})",
            f"{late:.0f} ms at {0.8 * aim:.0f} per second",
        ]
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", "| model | server | one client, median | 16 clients | relative to ours |", "|---|---|---|---|---|"]
    for name, entry in result["measured"].items():
        own = statistics.median(entry["against"]["ours"]["per_second"])
        for server, taken in entry["against"].items():
            many, one = statistics.median(taken["per_second"]), statistics.median(taken["p50"])
            lines.append(f"| `{name}` | {server} | {one:.1f} ms | {many:.0f} per second | {many / own:.2f} |")
    machine, busy = result["machine"], result["busy"]
    note = f"On {machine['cores']} cores of an {machine['processor']}, shared with the load generator, "
    note += f"{result['created'][:10]}; load average {busy:.1f} when it began. "
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in LIBRARIES)
    return "\n".join(lines) + f"\n\n{note}{versions}.\n"


def endurance(result: dict) -> str:
    flooded, large, killed = result["flood"], result["large"], result["kills"]
    counts = ", ".join(f"{count:,} times {each}" for each, count in sorted(flooded["statuses"].items()))
    flat = [round(each) for each in (*flooded["megabytes"], *large["megabytes"], large["peak"])]
    return (
        f"- {FLOOD:,} requests at a rate of 10 per second: {counts}. Memory: {flat[0]} MB after the first thousand, "
        f"{flat[1]} MB at the end.\n"
        f"- Pictures of 25 and 49 million pixels, bodies of 20 and 30 MB, from eight clients: answered by "
        f"{', '.join(map(str, large['statuses']))}. "
        f"Memory: {flat[2]} MB before, at most {flat[4]} MB, {flat[3]} MB afterwards.\n"
        f"- {killed['kills']} times `kill -9` under load: {killed['answered']:,} answers, {killed['broken']:,} broken "
        f"connections, after which the client tried again, {killed['other']} other answers.\n"
    )


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--litserve", help="a Python with litserve")
    python, busy = arguments.parse_args().litserve, os.getloadavg()[0]
    given, results = pictures(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, target in TARGETS.items():
            recipe, to = name.split()[0], "onnx-int8" if name == ROUNDED else "onnx"
            model = replace(load_model(recipe), file=None)  # its manifest stays as it is
            file = export_model(model, to, Path(folder, f"{name}.onnx")).path
            pixels = " x ".join(map(str, Image.open(io.BytesIO(given[name])).size[::-1]))
            entry = {"pixels": pixels, "start_up": start_up(file)}
            with ours(file) as process:
                entry |= {"loads": loads(process, given[name], target), "peak": peak(process)}
            servers: dict[str, Callable[[], Process]] = {"ours": partial(ours, file)}
            servers["FastAPI with `model.predict`"] = partial(rival, "serving_keras.py", sys.executable, recipe)
            if python:
                servers["LitServe"] = partial(rival, "serving_litserve.py", python, file)
            entry["against"] = against(servers, given[name])
            results[name] = entry
            print(json.dumps(entry, indent=1), flush=True)
        best = Path(folder, "best.onnx")
        trials = {
            "flood": flood(best, given["best"]),
            "large": hostile_sizes(best),
            "kills": kills(best, given["best"]),
        }
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "busy": busy,
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions() | {name: version(name) for name in LIBRARIES},
        "measured": results,
    } | trials
    (ARTIFACTS / "benchmarks_serving.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("serving", table(result), "deployment.md")
    write_table("endurance", endurance(result), "deployment.md")


if __name__ == "__main__":
    main()
