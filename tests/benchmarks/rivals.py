"""One rival of the benchmark, in a process of its own: `python rivals.py NAME`.

It prints its tasks and versions as one line of JSON. Each line of input then names a task, and the answer is a list of
the seconds that the task took. So the rivals take turns on an otherwise idle machine, and none is handicapped by the
settings of another.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgclassify.data.batches import Batches
from imgclassify.data.loading import load_dataset
from imgclassify.progress import Progress

PICTURES, BATCH = 40_000, 64  # of an epoch of the baseline
SINGLES = 200  # pictures predicted one by one
FAST_STEPS = 36  # of the recipe fast, a third of them at each size of its pictures


def timed(function) -> list[float]:
    started = time.perf_counter()
    function()
    return [time.perf_counter() - started]


def each_timed(function, count: int = SINGLES) -> list[float]:
    """Seconds of `function(i)` for each i, after three for warming up."""
    return [timed(lambda i=i: function(i))[0] for i in range(count + 3)][3:]


def resident() -> int:
    """Bytes of memory that this process holds; on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def plain_keras(data, models: list[str]) -> dict:
    """Plain Keras: `model.fit` of the baseline, and `model.predict` of shipped models; everything at its defaults."""
    import keras
    import tensorflow as tf

    tf.config.list_logical_devices()  # starts TensorFlow with its own number of threads, not ours

    from imgclassify.models.networks import build_model
    from imgclassify.training.publish import find_published

    model = build_model()
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    x, y = data.x_train[:PICTURES].astype(np.float32) / 255, keras.utils.to_categorical(data.y_train[:PICTURES], 10)
    model.fit(x[:6400], y[:6400], batch_size=BATCH, verbose=0)
    tasks = {"training": lambda: timed(lambda: model.fit(x, y, batch_size=BATCH, verbose=0))}
    for name in models:
        network = keras.saving.load_model(find_published(name, "cifar10")[1], compile=False)
        tasks[f"model.predict {name}"] = lambda m=network: each_timed(
            lambda i: m.predict(x[i : i + 1], verbose=0), SINGLES // 4
        )
    return tasks


def ours(precision: str):
    def start(data, _models) -> dict:
        from imgclassify import backend
        from imgclassify.models.networks import build_model
        from imgclassify.recipes import RECIPES
        from imgclassify.training.loop import Loop

        batches = Batches(data.x_train, data.y_train, np.arange(PICTURES), batch_size=BATCH)
        loop = Loop(build_model(), RECIPES["baseline"], batches, backend.choose_precision(precision))
        next(loop.run_epoch(0))
        return {"training": lambda: timed(lambda: list(loop.run_epoch(0)))}

    return start


def steps_of_fast(data, _models) -> dict:
    """All training steps of the recipe fast, estimated from a few, the same number at each size of its pictures."""
    from imgclassify import backend
    from imgclassify.models.networks import build_model
    from imgclassify.recipes import RECIPES
    from imgclassify.training.loop import Loop

    fast = RECIPES["fast"]
    rows = data.validation_split(fast.validation_fraction, 0)[0]
    few = rows[: FAST_STEPS * fast.batch_size]
    options = {"batch_size": fast.batch_size, "augmentation": fast.augmentation}
    batches = Batches(data.x_train, data.y_train, few, **options)
    loop = Loop(build_model("airbench"), replace(fast, epochs=1), batches, backend.default_precision())
    next(loop.run_epoch(0))
    times_more = sum(fast.steps(len(rows))) / FAST_STEPS
    return {"training": lambda: [seconds * times_more for seconds in timed(lambda: list(loop.run_epoch(0)))]}


def predictions(data, models: list[str]) -> dict:
    """`predict_image` for shipped models; many pictures at once."""
    from imgclassify import load_model, predict_image

    tasks = {}
    for name in models:
        model = load_model(name)
        model.probabilities(data.x_test[:600], views=1)
        tasks[f"predict_image {name}"] = lambda m=model: each_timed(lambda i: predict_image(m, data.x_test[i]))
        tasks[f"10,000 pictures {name}"] = lambda m=model: timed(lambda: m.probabilities(data.x_test, views=1))
    model = load_model(models[0])

    def growth() -> list[float]:
        """Growth of the process, in MiB, over 10,000 predictions of single pictures."""
        for i in range(1000):
            predict_image(model, data.x_test[i])
        before = resident()
        for i in range(10_000):
            predict_image(model, data.x_test[i])
        return [(resident() - before) / 2**20]

    return tasks | {"growth": growth}


def torch_eager(data, models: list[str]) -> dict:
    """Eager PyTorch: the same networks, everything at its defaults."""
    import torch
    from torch import nn

    body = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    body += [nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Dropout(0.5)]
    baseline = nn.Sequential(*body, nn.Linear(64, 10))
    optimizer, criterion = torch.optim.Adam(baseline.parameters()), nn.CrossEntropyLoss()
    x, test = (
        torch.from_numpy(part.transpose(0, 3, 1, 2).astype(np.float32) / 255).contiguous()
        for part in (data.x_train[:PICTURES], data.x_test)
    )
    y = torch.from_numpy(data.y_train[:PICTURES].astype(np.int64))

    def train(count: int) -> None:
        baseline.train()
        for rows in torch.randperm(count).split(BATCH):
            optimizer.zero_grad()
            criterion(baseline(x[rows]), y[rows]).backward()
            optimizer.step()

    def single(network) -> list[float]:
        with torch.inference_mode():
            return each_timed(lambda i: torch.softmax(network.eval()(test[i : i + 1]), 1).numpy())

    def many(network) -> list[float]:
        with torch.inference_mode():
            return timed(lambda: [network.eval()(part).numpy() for part in test.split(500)])

    train(6400)
    tasks = {"training": lambda: timed(lambda: train(PICTURES))}
    for name in models:
        network = baseline if name == "baseline" else _airbench(nn)
        many(network)
        tasks[f"one picture {name}"] = lambda n=network: single(n)
        tasks[f"10,000 pictures {name}"] = lambda n=network: many(n)
    return tasks


def _airbench(nn):
    from imgclassify.models.networks import AIRBENCH_BLOCKS

    class Block(nn.Module):
        def __init__(self, channels: int, filters: int, convolutions: int):
            super().__init__()
            more = [nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters)]
            if convolutions == 3:
                more += [nn.SiLU(), nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters)]
            first = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
            self.first = nn.Sequential(first, nn.MaxPool2d(2), nn.BatchNorm2d(filters), nn.SiLU())
            self.more, self.shortcut = nn.Sequential(*more), convolutions == 3

        def forward(self, x):
            start = self.first(x)
            x = self.more(start)
            return nn.functional.silu(x + start if self.shortcut else x)

    parts, channels = [nn.Conv2d(3, 24, 2), nn.ReLU()], 24
    for filters, convolutions in AIRBENCH_BLOCKS:
        parts.append(Block(channels, filters, convolutions))
        channels = filters
    return nn.Sequential(*parts, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 10, bias=False))


RIVALS = {
    "keras": plain_keras,
    "ours": ours("auto"),
    "ours float32": ours("float32"),
    "fast": steps_of_fast,
    "predictions": predictions,
    "torch": torch_eager,
}


def answer(tasks: dict) -> None:
    """Print the versions, then the seconds of each task whose name is read."""
    versions = {name: module.__version__ for name in ("torch",) if (module := sys.modules.get(name))}
    print(json.dumps({"tasks": list(tasks), "versions": versions}), flush=True)
    for line in sys.stdin:
        print(json.dumps(tasks[line.strip()]()), flush=True)


if __name__ == "__main__":
    tasks = RIVALS[sys.argv[1]](load_dataset("cifar10", progress=Progress(enabled=False)), sys.argv[2:])
    answer(tasks)
