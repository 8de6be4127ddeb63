"""`make reproduce`: trains the shipped models again, and other recipes and seeds for their accuracies.

`python reproduce.py [NAME:SEED ...]` trains only these, where NAME is a recipe or "keras", the baseline trained by
plain Keras. Every training is recorded in artifacts/accuracies.json, with one measurement on the test data, and in the
table of docs/recipes.md; seed 0 of a recipe for CIFAR-10 becomes the model that `load_model` finds ("fast" is not
committed). "photos" and "head" are trained on the clothing photos. Together they take about two and a half hours on two
cores.
"""

import json
import statistics
import sys
from pathlib import Path

from bench import write_table

from imgclassify import backend, build_model, evaluate_model, load_dataset, train_model
from imgclassify.data.dataset import Dataset
from imgclassify.data.images import scale_pixels
from imgclassify.recipes import RECIPES
from imgclassify.runs import provenance
from imgclassify.runs.names import published_name
from imgclassify.training.publish import measured_on_test

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
RECORDS = ARTIFACTS / "accuracies.json"
ALL = [
    *(f"{name}:{seed}" for name in ("baseline", "keras", "fast") for seed in range(3)),
    "best:0",
    "guided:0",
    "head:0",
    *(f"photos:{seed}" for seed in range(3)),
]
CLOTHING = ("head", "photos")  # recipes that are trained on the clothing photos
KEPT = (
    "recipe",
    "seed",
    "precision",
    "wall_time_s",
    "temperatures",
    "metrics",
    "dataset",
    "versions",
    "machine",
    "commit",
)


def plain_keras(data: Dataset, seed: int) -> dict:
    """The baseline trained by `model.fit`; only the network's layers and the split are ours."""
    recipe, keras = RECIPES["baseline"], backend.keras()
    keras.utils.set_random_seed(seed)
    rows, val_rows = data.validation_split(recipe.validation_fraction, seed)
    model = build_model()
    model.compile(keras.optimizers.Adam(recipe.learning_rate), "categorical_crossentropy", metrics=["accuracy"])
    x, y = scale_pixels(data.x_train[rows]), keras.utils.to_categorical(data.y_train[rows], 10)
    model.fit(x, y, batch_size=recipe.batch_size, epochs=recipe.epochs, verbose=2)
    validation = evaluate_model(model, data.x_train[val_rows], data.y_train[val_rows])
    test = evaluate_model(model, data.x_test, data.y_test)
    return {
        "recipe": {"name": "baseline"},
        "seed": seed,
        "precision": "float32",
        "metrics": {"val_accuracy": validation.accuracy, "test_accuracy": test.accuracy},
        "versions": provenance.describe_versions(),
        "machine": provenance.describe_machine(),
        "commit": provenance.source_commit(),
    }


def ours(data: Dataset, recipe: str, seed: int) -> dict:
    model, _ = train_model(recipe, data, seed=seed)
    if model.manifest.status != "complete":
        raise SystemExit("interrupted")
    model = measured_on_test(model, data)
    if seed == 0 and recipe not in CLOTHING:
        model.save(ARTIFACTS / published_name(recipe), replace=True, half=recipe == "guided")
    record = model.manifest.to_dict()
    return {key: record[key] for key in KEPT}


def table(records: list[dict]) -> str:
    lines = ["| recipe | data | seeds | test accuracy (95 % interval of seed 0) | training |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(task.partition(":")[0] for task in ALL):
        found = [record for record in records if record["task"].partition(":")[0] == name]
        if not found:
            continue
        accuracies = [record["metrics"]["test_accuracy"] for record in found]
        low, high = found[0]["metrics"].get("test_interval") or (None, None)
        interval = f" ({low:.1%} to {high:.1%})" if low else ""
        each = f"mean of {', '.join(f'{value:.2%}' for value in accuracies)}: " if len(found) > 1 else ""
        walls = [record["wall_time_s"] for record in found if record.get("wall_time_s")]
        seconds = statistics.median(walls) if walls else 0
        wall = f"{seconds / 60:.1f} min" if seconds > 30 else f"{seconds:.0f} s, with kept features" if seconds else ""
        title = "`baseline` by plain Keras" if name == "keras" else f"`{name}`"
        data = "clothing photos" if name in CLOTHING else "CIFAR-10, JPEG mirror"
        what = f"{each}**{statistics.mean(accuracies):.2%}**{interval}"
        lines.append(f"| {title} | {data} | {len(found)} | {what} | {wall} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    for task in sys.argv[1:] or ALL:
        name, _, seed = task.partition(":")
        data = load_dataset("clothing", size=224) if name in CLOTHING else load_dataset("cifar10")
        print(f"--- {task}", flush=True)
        record = plain_keras(data, int(seed)) if name == "keras" else ours(data, name, int(seed))
        record = {"task": task, "trained_by": "plain Keras" if name == "keras" else "imgclassify"} | record
        print(json.dumps(record["metrics"]), flush=True)
        others = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else []
        others = [other for other in others if other["task"] != task]
        records = sorted([*others, record], key=lambda each: each["task"])
        RECORDS.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        write_table("accuracies", table(records), "recipes.md")


if __name__ == "__main__":
    main()
