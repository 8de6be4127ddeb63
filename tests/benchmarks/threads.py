"""How far the number of threads changes a training: `python threads.py`, some five minutes on two cores.

The baseline is trained on a quarter of CIFAR-10 with seed 0, each time in a new process, as on machines with 1, 2 and 4
cores; with 2, it is trained twice. Prints the validation accuracy of each and how far the weights are apart.
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


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found = []
        for number, cores in enumerate(CORES):
            weights = Path(scratch, f"{number}.npz")
            command = [sys.executable, __file__, str(cores), str(weights)]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            threads, accuracy = json.loads(ended.stdout.splitlines()[-1])
            with np.load(weights) as each:
                found.append(np.concatenate([each[name].ravel() for name in each.files]))
            apart = np.linalg.norm(found[-1] - found[1 if number > 1 else 0]) / np.linalg.norm(found[0])
            print(f"{cores} cores ({threads}): {accuracy:.2%}, weights apart by {apart:.3f}", flush=True)


if __name__ == "__main__":
    train(int(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 1 else main()
