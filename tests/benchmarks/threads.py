"""How far the number of threads changes a training: `python long_forms.py threads`, five minutes on two cores.

The baseline is trained on a quarter of CIFAR-10 with seed 0, each time in a new process, as on machines with 1, 2 and 4
cores; with 2, it is trained twice.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

CORES = (1, 2, 2, 4)


def train(cores: int, weights: str) -> None:
    from imgclassify import backend

    with mock.patch.object(backend, "cores", return_value=cores):
        from imgclassify import train_model

        model, _ = train_model("baseline", seed=0, share=0.25)
        np.savez(weights, *model.network.get_weights())
        print(json.dumps([model.manifest.machine["threads"], model.manifest.metrics["val_accuracy"]]))


def measure() -> list[dict]:
    """Per training: cores, threads, validation accuracy, and how far its weights are from those of one core.

    The last is a share of the weights' length. The second training with 2 cores is compared with the first.
    """
    found, weights = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, cores in enumerate(CORES):
            file = Path(scratch, f"{number}.npz")
            command = [sys.executable, __file__, str(cores), str(file)]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            threads, accuracy = json.loads(ended.stdout.splitlines()[-1])
            with np.load(file) as each:
                weights.append(np.concatenate([each[name].ravel() for name in each.files]))
            other = CORES.index(cores) if cores in CORES[:number] else 0
            apart = float(np.linalg.norm(weights[-1] - weights[other]) / np.linalg.norm(weights[0]))
            found.append({"cores": cores, "threads": threads, "val_accuracy": accuracy, "weights_apart": apart})
            print(found[-1], flush=True)
    return found


def describe(found: list[dict]) -> str:
    one, two, again, four = found
    same = "the same bits" if again["weights_apart"] == 0 else "other weights"
    accuracies = ", ".join(f"{each['val_accuracy']:.1%}" for each in (one, two, four))
    apart = ", ".join(f"{each['weights_apart']:.1f}" for each in (two, four))
    return (
        f"1, 2 and 4 threads: {accuracies} on validation; with 2 and 4, the weights are {apart} of their length from "
        f"those with 1; 2 threads twice: {same}"
    )


if __name__ == "__main__":
    train(int(sys.argv[1]), sys.argv[2])
