"""Use one process for long, and see that memory, threads and open files stay as they are: `python long_use.py`.

On Linux; some five minutes on two cores. Each task is done a few times first: what is built once does not count.
"""

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage

PHOTOS = [str(Path(skimage.__file__).parent / "data" / name) for name in ("chelsea.png", "coffee.png")]


def held() -> tuple[float, int, int]:
    """Memory of this process in MiB, its threads of Python, and its open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, threading.active_count(), len([*Path("/proc/self/fd").iterdir()])


def watch(what: str, task: Callable[[int], object], times: int, warm: int) -> None:
    for number in range(warm):
        task(number)
    before = held()
    for number in range(times):
        task(number)
    memory, threads, files = (after - start for after, start in zip(held(), before, strict=True))
    print(f"{what}: {memory:+.1f} MiB, {threads:+d} threads, {files:+d} open files", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["IMGCLASSIFY_ARTIFACTS_DIR"] = scratch
        from imgclassify import load_dataset, load_model, train_model
        from imgclassify.progress import Progress
        from imgclassify.widgets.upload import UploadClassifier

        models = [load_model(name) for name in ("baseline", "best", "guided")]
        for model in models:
            times = 2000 if model.input_size == 32 else 200
            pictures = np.random.default_rng(0).integers(0, 256, (50, *model.input_shape), np.uint8)
            watch(
                f"{times:,} predictions, {model.name}", lambda i, m=model, x=pictures: m.answer(x[i % 50]), times, 100
            )
        files = [(Path(path).name, Path(path).read_bytes()) for path in PHOTOS]
        box = UploadClassifier(models[1])
        watch("50 uploads of two photos", lambda i: box.classify(files), 50, 5)
        names = ("baseline", "best", "guided")
        watch("20 models loaded", lambda i: load_model(names[i % 3]).predict(PHOTOS[0]), 20, 3)
        digits, quiet = load_dataset("digits"), Progress(enabled=False)
        watch("10 trainings", lambda i: train_model("baseline", digits, epochs=1, seed=i, progress=quiet), 10, 3)


if __name__ == "__main__":
    main()
