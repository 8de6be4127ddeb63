"""`make reproduce`: trains anew what is shipped, and the other seeds that its accuracies are means over.

`python reproduce.py [NAME:SEED ...]` trains these only, where NAME is a recipe or "keras", the baseline by plain
Keras. Every training enters artifacts/accuracies.json with one reading of the test data; seed 0 of a recipe becomes
the model that `load_model` finds ("fast" is not committed). All together take about two hours on two cores.
"""

import json
import sys
from pathlib import Path

import numpy as np

from imgclassify import load_dataset, runtime, save_model, train_model
from imgclassify.data import Dataset
from imgclassify.evaluation import evaluate_model
from imgclassify.models import build_model
from imgclassify.persistence import published_name
from imgclassify.recipes import RECIPES
from imgclassify.training import measure

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
    "temperature",
    "mixture",
    "metrics",
    "dataset",
    "versions",
    "machine",
    "commit",
)


def plain_keras(data: Dataset, seed: int) -> dict:
    """The baseline by `model.fit` and nothing of ours but the network's layers and the split."""
    recipe, keras = RECIPES["baseline"], runtime.keras()
    keras.utils.set_random_seed(seed)
    rows, val_rows = data.validation_split(recipe.validation_fraction, seed)
    model = build_model()
    model.compile(keras.optimizers.Adam(recipe.learning_rate), "categorical_crossentropy", metrics=["accuracy"])
    x, y = data.x_train[rows].astype(np.float32) / 255, keras.utils.to_categorical(data.y_train[rows], 10)
    model.fit(x, y, batch_size=recipe.batch_size, epochs=recipe.epochs, verbose=2)
    validation = evaluate_model(model, data.x_train[val_rows], data.y_train[val_rows])
    test = evaluate_model(model, data.x_test, data.y_test)
    return {
        "recipe": {"name": "baseline"},
        "seed": seed,
        "precision": "float32",
        "metrics": {"val_accuracy": validation.accuracy, "test_accuracy": test.accuracy},
        "versions": runtime.describe_versions(),
        "machine": runtime.describe_machine(),
        "commit": runtime.source_commit(),
    }


def ours(data: Dataset, recipe: str, seed: int) -> dict:
    model, _ = train_model(recipe, data, seed=seed)
    if model.manifest["status"] != "complete":
        raise SystemExit("interrupted")
    model.manifest["metrics"] |= measure("test", model, data.x_test, data.y_test)
    if seed == 0:
        save_model(model, ARTIFACTS / published_name(recipe), replace=True)
    return {key: model.manifest[key] for key in KEPT if key in model.manifest}


def main() -> None:
    data = load_dataset("cifar10", offline=True)
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
