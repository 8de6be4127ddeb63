"""Use one process for long, and see what memory, threads and open files it takes: `python long_forms.py long_use`.

On Linux; some ten minutes on two cores. Each task is done a few times first: what is built once does not count.
"""

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import skimage

PHOTOS = [str(Path(skimage.__file__).parent / "data" / name) for name in ("chelsea.png", "coffee.png")]


def held() -> tuple[float, int, int]:
    """Memory of this process in MiB, its threads of Python, and its open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, threading.active_count(), len([*Path("/proc/self/fd").iterdir()])


def growth(task: Callable[[int], object], times: int, warm: int) -> list[float]:
    """What doing this so many times adds to memory in MiB, to threads and to open files."""
    for number in range(warm):
        task(number)
    before = held()
    for number in range(times):
        task(number)
    return [round(after - start, 1) for after, start in zip(held(), before, strict=True)]


def measure() -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def watch(what: str, *arguments) -> None:
        found[what] = growth(*arguments)
        print(what, *found[what], flush=True)

    with tempfile.TemporaryDirectory() as scratch, mock.patch.dict("os.environ", IMGCLASSIFY_ARTIFACTS_DIR=scratch):
        from imgclassify import load_dataset, load_model, train_model
        from imgclassify.progress import Progress
        from imgclassify.widgets.upload import UploadClassifier

        names = ("baseline", "best", "guided")
        models = [load_model(name) for name in names]
        for model, name in zip(models, names, strict=True):
            times = 2000 if model.input_size == 32 else 200
            pictures = np.random.default_rng(0).integers(0, 256, (50, *model.input_shape), np.uint8)
            watch(f"{times:,} predictions by `{name}`", lambda i, m=model, x=pictures: m.answer(x[i % 50]), times, 100)
        files = [(Path(path).name, Path(path).read_bytes()) for path in PHOTOS]
        box = UploadClassifier(models[1])
        watch("50 uploads of two photos", lambda i: box.classify(files), 50, 5)
        watch("20 loadings of three models in turn", lambda i: load_model(names[i % 3]).predict(PHOTOS[0]), 20, 3)
        data, quiet = load_dataset("digits"), Progress(enabled=False)
        for recipe in ("baseline", "fast"):
            watch(
                f"10 trainings of `{recipe}`",
                lambda i, recipe=recipe: train_model(recipe, data, epochs=1, seed=i, progress=quiet),
                10,
                10,
            )
    return found


def describe(found: dict) -> str:
    memory = ", ".join(f"{mebibytes:+.0f} over {what}" for what, (mebibytes, _, _) in found.items())
    threads, files = (max(each[kind] for each in found.values()) for kind in (1, 2))
    return f"memory in MiB: {memory}; at most {threads:.0f} more threads and {files:.0f} more open files"
