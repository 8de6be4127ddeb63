"""`make reproduce`: trains the shipped models again, and the other seeds for their mean accuracies.

`python reproduce.py [NAME:SEED ...]` trains only these, where NAME is a recipe or "keras", the baseline trained by
plain Keras. Every training is recorded in artifacts/accuracies.json with one measurement on the test data; seed 0 of a
recipe becomes the model that `load_model` finds ("fast" is not committed). Together they take about two hours on two
cores.
"""

import json
import sys
from pathlib import Path

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
]
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
    if seed == 0:
        model.save(ARTIFACTS / published_name(recipe), replace=True)
    record = model.manifest.to_dict()
    return {key: record[key] for key in KEPT}


def main() -> None:
    data = load_dataset("cifar10")
    for task in sys.argv[1:] or ALL:
        name, _, seed = task.partition(":")
        print(f"--- {task}", flush=True)
        record = plain_keras(data, int(seed)) if name == "keras" else ours(data, name, int(seed))
        record = {"task": task, "trained_by": "plain Keras" if name == "keras" else "imgclassify"} | record
        print(json.dumps(record["metrics"]), flush=True)
        others = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else []
        others = [other for other in others if other["task"] != task]
        records = sorted([*others, record], key=lambda each: each["task"])
        RECORDS.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
