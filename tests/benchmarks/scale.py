"""Several workers: pictures per second, bytes and seconds exchanged, for `make bench-scale`; writes docs/scale.md.

`python scale.py`, ten minutes on two cores. The ways take turns. Where the commands `ip` and `tc` are there and may be
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
WAYS = {"one core": [[0]], "two cores": [[0, 1]], "two workers": [[0], [1]]}  # cores of each process
FLOATS = (1, 100_000, 1_000_000, 10_000_000)
RATES = {"1 Gbit/s": "1gbit", "100 Mbit/s": "100mbit"}
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
    loop = Loop(network, recipe, batches, backend.default_precision(), workers)
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


def training_table(result: dict) -> str:
    lines = [
        "| recipe | one core | two cores | two workers, a core each | sent per step and worker | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name, ways in result["training"].items():
        cells = [name]
        for way, each in ways.items():
            ratio = statistics.median(a["step"] / b["step"] for a, b in zip(ways["one core"], each, strict=True))
            rate = 1 / statistics.median(one["step"] for one in each)
            cells.append(f"{rate:,.0f}" + ("" if way == "one core" else f" ({ratio:.2f} x)"))
        pair = ways["two workers"][0]
        cells += [f"{pair['bytes'] / 1e6:.1f} MB", f"{pair['parameters']:,}"]
        lines.append("| " + " | ".join(cells) + " |")
    frozen = result["training"].get("photos")
    notes = ""
    if frozen:
        rates = [f"{1 / statistics.median(one['frozen'] for one in each):,.0f}" for each in frozen.values()]
        notes = f"\nThe frozen layers of `photos` see {', '.join(rates[:-1])} and {rates[-1]} pictures per second.\n"
    machine = result["machine"]
    about = f"\nPictures per second; {machine['cores']} cores of an {machine['processor']}, {result['created'][:10]}; "
    return "\n".join(lines) + f"\n{notes}{about}medians of {ROUNDS} turns.\n"


def exchange_table(result: dict) -> str:
    head = ["workers", *(f"{4 * floats / 1e6:g} MB" for floats in FLOATS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for way, times in result["exchange"].items():
        lines.append(f"| {way} | " + " | ".join(f"{1000 * seconds:,.1f} ms" for seconds in times.values()) + " |")
    return "\n".join(lines) + "\n"


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
    cores = sorted(os.sched_getaffinity(0))
    exchanged = {}
    for count in (2, 4, 8):
        exchanged[f"{count} on one machine"] = measure("exchange", "", [[cores[i % len(cores)]] for i in range(count)])
        print(count, exchanged, flush=True)
    for text, rate in RATES.items():
        with network(rate) as spaces:
            if spaces:
                exchanged[f"2 at {text}"] = measure("exchange", "", [[0], [1]], spaces)
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "training": training,
        "exchange": exchanged,
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions(),
    }
    (ARTIFACTS / "benchmarks_scale.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("training", training_table(result), "scale.md")
    write_table("exchange", exchange_table(result), "scale.md")


if __name__ == "__main__":
    work(*sys.argv[1:]) if len(sys.argv) > 1 else main()
