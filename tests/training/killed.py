"""A training in a process of its own, which can be killed: `python killed.py FOLDER RECIPE [OPERATION]`.

It trains on made-up pictures and publishes FOLDER/model.keras, or goes on with the run that it finds. It prints a line
when it begins, and writes FOLDER/result.json at the end. With OPERATION, it kills itself at that file operation
(1 is the first).
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

SETTINGS = {
    "baseline": {"epochs": 12, "batch_size": 16},
    "fast": {"epochs": 6, "batch_size": 16, "validation_fraction": 0.2},
}


def made_up():
    """48 training and 12 test pictures: red, green or blue."""
    from imgclassify.data.dataset import named_parts

    random, labels = np.random.default_rng(0), np.arange(60) % 3
    pixels = random.integers(0, 90, (60, 32, 32, 3))
    pixels[np.arange(60), :, :, labels] += 120
    pixels = pixels.astype(np.uint8)
    parts = (pixels[:48], labels[:48], pixels[48:], labels[48:])
    return named_parts(parts, name="made-up", source="made-up pictures", class_names=("red", "green", "blue"))


def kill_at(operation: int) -> None:
    """Make the process kill itself just before this operation: a sync, a replacement or a removal of a file."""
    left = operation

    def counted(function):
        def wrapper(*args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return wrapper

    os.fsync = counted(os.fsync)
    Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)


def main(folder: Path, recipe: str, operation: int = 0) -> None:
    os.environ |= {
        "IMGCLASSIFY_ARTIFACTS_DIR": str(folder / "artifacts"),
        "IMGCLASSIFY_CACHE_DIR": str(folder / "cache"),
    }
    from imgclassify import list_runs, train_or_load_model
    from imgclassify.progress import Progress

    if operation:
        kill_at(operation)
    unfinished = [run.name for run in list_runs() if run.manifest.status == "interrupted"]
    options = SETTINGS[recipe] | {"resume": unfinished[0] if unfinished else None, "progress": Progress(enabled=False)}
    print("it trains", flush=True)
    model, history = train_or_load_model(recipe, made_up(), path=folder / "model.keras", replace=True, **options)
    digest = hashlib.sha256(b"".join(each.tobytes() for each in model.network.get_weights())).hexdigest()
    result = {
        "weights": digest,
        "history": history,
        "metrics": dict(model.manifest.metrics),
        "resumed": bool(unfinished),
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
