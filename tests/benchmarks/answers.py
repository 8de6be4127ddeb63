"""What explanations and the detector cost beside a prediction, for `make bench`; writes docs/speed.md's table.

`python answers.py`, two minutes on two cores. The tasks take turns, so that whatever slows the machine down slows all.
"""

import datetime as dt
import json
import time
from collections.abc import Callable

import numpy as np
from bench import ARTIFACTS, summary, write_table

from imgclassify import load_model
from imgclassify.data.loading import load_dataset
from imgclassify.evaluation.explain import heat_maps
from imgclassify.models.inference import predict_probabilities
from imgclassify.runs import provenance

ROUNDS = 15
BATCH = 64
MODELS = ("baseline", "best", "guided")


def tasks(name: str, pictures: np.ndarray) -> dict[str, Callable]:
    """What is measured of a model: a function for each task."""
    model = load_model(name)
    x = np.asarray(model.fitting(pictures)[:])
    one, classes = x[:1], [0] * BATCH
    found = {
        "64 predictions": lambda: predict_probabilities(model.network, x),
        "64 maps": lambda: heat_maps(model, x, classes),
        "one prediction": lambda: model.probabilities(one),
        "one with familiarity": lambda: model.with_familiarity(one),
        "one map": lambda: heat_maps(model, one, [0]),
    }
    if model.input_size == 32:
        found["one by RISE"] = lambda: heat_maps(model, one, [0], method="rise")
    return found


def seconds(functions: dict[str, Callable]) -> dict[str, list[float]]:
    """How long each takes in each round, in turns."""
    taken: dict[str, list[float]] = {task: [] for task in functions}
    for function in functions.values():
        function()  # compiled
    for _ in range(ROUNDS):
        for task, function in functions.items():
            function()  # the task before has left the caches to something else
            begun = time.perf_counter()
            function()
            taken[task].append(time.perf_counter() - begun)
    return taken


def table(result: dict) -> str:
    head = "| model | 64 maps, in times of 64 predictions | one map | one by RISE | detector, per picture |"
    lines = [head, "|---|---|---|---|---|"]
    for name, entry in result["measured"].items():
        median = {task: 1000 * values["median"] for task, values in entry.items()}
        rise = f"{median['one by RISE'] / 1000:.2f} s" if "one by RISE" in median else "-"
        detector = f"{median['one with familiarity'] - median['one prediction']:+.2f} ms"
        ratio = f"{median['64 maps'] / median['64 predictions']:.1f}"
        lines.append(f"| `{name}` | {ratio} | {median['one map']:.1f} ms | {rise} | {detector} |")
    machine = result["machine"]
    notes = f"On {machine['cores']} cores of an {machine['processor']}, {result['created'][:10]}"
    return "\n".join(lines) + f"\n\n{notes}; medians of {ROUNDS}.\n"


def main() -> None:
    pictures = load_dataset("cifar10", offline=True).x_train[:BATCH]
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions(),
        "measured": {name: summary(seconds(tasks(name, pictures))) for name in MODELS},
    }
    (ARTIFACTS / "benchmarks_answers.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("answers", table(result))


if __name__ == "__main__":
    main()
