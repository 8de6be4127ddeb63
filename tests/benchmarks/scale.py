"""Several workers: pictures per second, bytes and seconds exchanged, for `make bench-scale`; writes docs/scale.md.

`python scale.py`, 15 minutes on two cores. The ways take turns. Where the commands `ip` and `tc` are there and may be
used (as root), two workers also exchange through virtual network cards of a limited rate.
"""

import contextlib
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench import ARTIFACTS, PROJECT, write_table

from imgclassify import backend
from imgclassify.data.batches import Batches
from imgclassify.data.loading import load_dataset
from imgclassify.models.networks import build_model
from imgclassify.recipes import get_recipe
from imgclassify.runs import provenance
from imgclassify.training.loop import Loop
from imgclassify.training.transfer import prepare_job
from imgclassify.training.workers import ALONE, Workers, join_workers

sys.path.insert(0, str(PROJECT / "tests" / "serving"))
from processes import free_port

ROUNDS = 3
PICTURES = {"baseline": 12_800, "fast": 2_560, "photos": 512}
CORES = sorted(os.sched_getaffinity(0))[:2]
WAYS = {"one core": [CORES[:1]], "two cores": [CORES], "two workers": [CORES[:1], CORES[1:]]}  # cores of each process
SUMS = {"baseline": 1, "fast": 2, "photos": 1}  # in each step; the second one is of batch normalisation's averages
FLOATS = (1, 100_000, 1_000_000, 10_000_000)
RATES = {"1 Gbit/s": "1gbit", "100 Mbit/s": "100mbit"}
NETWORKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8}  # bytes per second, for what is calculated
ADDRESSES = ("10.77.0.1", "10.77.0.2")


# --- in a process of its own --------------------------------------------------------------------------


def train(workers: Workers, name: str) -> dict:
    """Seconds per picture: of the frozen layers for each variant, and of a step; the first epoch is not counted."""
    recipe, count = replace(get_recipe(name), epochs=3, hard_fraction=1.0, sizes=(1.0,)), PICTURES[name]
    photos = recipe.size > 32
    data = load_dataset("clothing" if photos else "cifar10", offline=True, **({"size": recipe.size} if photos else {}))
    pictures, labels, rows = data.x_train, data.y_train, np.arange(count)
    network, frozen = build_model(recipe.architecture, input_shape=pictures.shape[1:]), None
    if photos:
        begun = time.perf_counter()
        held = pictures[rows[:8]], labels[:8]
        network, batches, _ = prepare_job(network, recipe, (pictures, labels, rows), held, seed=0, workers=workers)
        frozen = (time.perf_counter() - begun) / (count * recipe.variants)
    else:
        batches = Batches(pictures, labels, rows, batch_size=recipe.batch_size, augmentation=recipe.augmentation)
    loop = Loop(network, recipe, batches, backend.default_precision(), workers=workers)
    loop.restore(workers.share(loop.state()))
    list(loop.run_epoch(0))
    before, begun = sent(), time.perf_counter()
    for epoch in (1, 2):
        list(loop.run_epoch(epoch))
    seconds, steps = time.perf_counter() - begun, 2 * recipe.steps(count)[1]
    values = sum(int(np.prod(each.shape)) for each in loop.network.trainable_variables)
    bytes_per_step = (sent() - before) / steps / workers.count
    return {
        "step": seconds / steps / recipe.batch_size,
        "frozen": frozen,
        "bytes": bytes_per_step,
        "parameters": values,
        "batch": recipe.batch_size,
    }


def sent() -> int:
    """Bytes that this machine has sent to itself."""
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def exchange(workers: Workers, _name: str) -> dict:
    """Median seconds of a sum over all workers, by the number of floats."""
    result = {}
    for floats in FLOATS:
        tensor, times = backend.tensorflow().ones(floats), []
        function = backend.tensorflow().function(lambda tensor=tensor: workers.sum([tensor]), autograph=False)
        function()
        for _ in range(10):
            begun = time.perf_counter()
            function()
            times.append(time.perf_counter() - begun)
        result[floats] = statistics.median(times)
    return result


def work(what: str, name: str, addresses: str, index: str, cores: str, output: str) -> None:
    os.sched_setaffinity(0, json.loads(cores))
    workers = join_workers(addresses.split(","), int(index)) if addresses else ALONE
    Path(output).write_text(json.dumps({"train": train, "exchange": exchange}[what](workers, name)))


# --- all processes ------------------------------------------------------------------------------------


def measure(what: str, name: str, cores: list[list[int]], spaces: tuple[str, ...] = ()) -> dict:
    """What worker 0 has measured, with the others on these cores, each in a network namespace if they are given."""
    hosts = ADDRESSES if spaces else ["127.0.0.1"] * len(cores)
    addresses = ",".join(f"{host}:{free_port()}" for host in hosts) if len(cores) > 1 else ""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, f"{index}.json") for index in range(len(cores))]
        running = []
        for index, output in enumerate(outputs):
            inside = ["ip", "netns", "exec", spaces[index]] if spaces else []
            arguments = [what, name, addresses, str(index), json.dumps(cores[index]), str(output)]
            running.append(subprocess.Popen([*inside, sys.executable, __file__, *arguments]))
        if sum(process.wait() for process in running):
            raise RuntimeError(f"{what} {name} failed")
        return json.loads(outputs[0].read_text())


@contextlib.contextmanager
def network(rate: str) -> Iterator[tuple[str, ...]]:
    """Names of two network namespaces, connected at this rate; none where that cannot be had."""
    spaces = ("imgclassify-0", "imgclassify-1")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    with contextlib.ExitStack() as at_the_end:
        try:
            for space in spaces:
                run("ip", "netns", "add", space)
                at_the_end.callback(run, "ip", "netns", "delete", space)
            first, second = (["name", "card", "netns", space] for space in spaces)
            run("ip", "link", "add", *first, "type", "veth", "peer", *second)
            for space, address in zip(spaces, ADDRESSES, strict=True):
                run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "card")
                for device in ("card", "lo"):
                    run("ip", "-n", space, "link", "set", device, "up")
                limit = ("root", "tbf", "rate", rate, "burst", "256kb", "latency", "100ms")
                run("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", "card", *limit)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"No virtual network ({error}), so nothing is measured at {rate}.")
            spaces = ()
        yield spaces


def table(result: dict) -> str:
    """What was measured of trainings and of exchanges, and what that means for more workers."""
    machine = result["machine"]
    about = (
        f"{machine['cores']} cores of an {machine['processor']}, {result['created'][:10]}; medians of {ROUNDS} turns."
    )
    parts = [*_trainings(result["training"]), "", *_exchanges(result["exchange"]), "", about, "", *_calculated(result)]
    return "\n".join(parts) + "\n"


def _trainings(training: dict) -> list[str]:
    head = "| pictures per second | " + " | ".join(training) + " |"
    lines = [head, "|---" * (len(training) + 1) + "|"]
    for way, cores in WAYS.items():
        cells = []
        for each in training.values():
            ratio = statistics.median(a["step"] / b["step"] for a, b in zip(each["one core"], each[way], strict=True))
            rate = 1 / statistics.median(one["step"] for one in each[way])
            cells.append(f"{rate:,.0f}" + (f" ({ratio:.2f} times)" if way != "one core" else ""))
        label = "two workers, a core each" if len(cores) > 1 else f"one process, {way}"
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    pairs = [each["two workers"][0] for each in training.values()]
    lines.append("| learned parameters | " + " | ".join(f"{pair['parameters']:,}" for pair in pairs) + " |")
    lines.append(
        "| sent by a worker per step | " + " | ".join(f"{pair['bytes'] / 1e6:.1f} MB" for pair in pairs) + " |"
    )
    if photos := training.get("photos"):
        rates = [f"{1 / statistics.median(one['frozen'] for one in each):,.0f}" for each in photos.values()]
        lines += ["", f"`photos` prepares {rates[0]}, {rates[1]} and {rates[2]} pictures per second for that, once."]
    return lines


def _size(count: int) -> str:
    return f"{count / 1e6:g} MB" if count > 1000 else f"{count} bytes"


def _exchanges(exchange: dict) -> list[str]:
    lines = ["| a sum over all workers | " + " | ".join(_size(4 * floats) for floats in FLOATS) + " |"]
    lines.append("|---" * (len(FLOATS) + 1) + "|")
    for way, times in exchange.items():
        lines.append(f"| {way} | " + " | ".join(f"{1000 * seconds:,.1f} ms" for seconds in times.values()) + " |")
    return lines


def _calculated(result: dict) -> list[str]:
    """The share of its time that a worker computes, by the number of workers, recipe and network."""
    small = {int(way.split()[0]): times["1"] for way, times in result["exchange"].items() if "machine" in way}
    latency, _ = np.polyfit([2 * (count - 1) for count in small], list(small.values()), 1)
    lines = [
        f"Each of a sum's 2 (n - 1) messages takes {1000 * latency:.1f} ms here, where processes share two cores.",
        "**Calculated** with that, with the sums of a step (two for `fast`) and with the time to send 2 (n - 1) / n of",
        "their bytes, and not measured: the share of its time that a worker computes, if each takes the recipe's whole",
        "batch in every step.",
        "",
    ]
    lines += ["| workers | " + " | ".join(f"{name}, {rate}" for name in result["training"] for rate in NETWORKS) + " |"]
    lines.append("|---" * (1 + len(result["training"]) * len(NETWORKS)) + "|")
    for count in (2, 8, 64, 1000):
        cells = []
        for name, each in result["training"].items():
            one = statistics.median(run["step"] for run in each["one core"]) * each["one core"][0]["batch"]
            sent = 2 * (count - 1) / count * 4 * each["one core"][0]["parameters"]
            for rate in NETWORKS.values():
                waited = SUMS[name] * 2 * (count - 1) * latency + sent / rate
                cells.append(f"{100 * one / (one + waited):.0f} %")
        lines.append(f"| {count:,} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    training: dict[str, dict[str, list]] = {}
    for name in PICTURES:
        try:
            load_dataset("clothing" if name == "photos" else "cifar10", offline=True)
        except ValueError as error:
            print(f"{name} is left out: {error}")
            continue
        training[name] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, cores in WAYS.items():
                training[name][way].append(measure("train", name, cores))
                print(name, way, training[name][way][-1], flush=True)
    exchanged = {}
    for count in (2, 4, 8):
        exchanged[f"{count} on one machine"] = measure("exchange", "", [[CORES[i % len(CORES)]] for i in range(count)])
        print(count, exchanged, flush=True)
    for text, rate in RATES.items():
        with network(rate) as spaces:
            if spaces:
                exchanged[f"2 at {text}"] = measure("exchange", "", WAYS["two workers"], spaces)
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "training": training,
        "exchange": exchanged,
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions(),
    }
    (ARTIFACTS / "benchmarks_scale.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("scale", table(result), "scale.md")


if __name__ == "__main__":
    work(*sys.argv[1:]) if len(sys.argv) > 1 else main()
