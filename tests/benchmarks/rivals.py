"""One rival of the benchmark, in a process of its own: `python rivals.py NAME`.

It prints the tasks that it knows and its versions as one line of JSON, and then answers each line of input, which
names a task, by the seconds that the task took, a list. So the rivals take turns on an otherwise idle machine, and
none is handicapped by the settings of another.
"""

import json
import resource
import sys
import time

import numpy as np

from imgclassify.data import load_dataset

PICTURES, BATCH = 40_000, 64  # of an epoch of the baseline
SINGLES = 200  # pictures predicted one by one


def timed(function) -> list[float]:
    started = time.perf_counter()
    function()
    return [time.perf_counter() - started]


def each_timed(function, count: int = SINGLES) -> list[float]:
    """Seconds of `function(i)` for each i, after three for warming up."""
    return [timed(lambda i=i: function(i))[0] for i in range(count + 3)][3:]


def keras_fit(data, _models) -> dict:
    """Plain Keras: `model.fit` and `model.predict`, everything at its defaults."""
    import keras

    from imgclassify.models import build_model

    model = build_model()
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    x, y = data.x_train[:PICTURES].astype(np.float32) / 255, keras.utils.to_categorical(data.y_train[:PICTURES], 10)
    model.fit(x[:6400], y[:6400], batch_size=BATCH, verbose=0)
    return {"epoch": lambda: timed(lambda: model.fit(x, y, batch_size=BATCH, verbose=0))}


def ours(precision: str):
    def start(data, _models) -> dict:
        from imgclassify import runtime
        from imgclassify.models import build_model, training_copy
        from imgclassify.recipes import RECIPES
        from imgclassify.training import Loop

        chosen = runtime.default_precision() if precision == "auto" else precision
        network = training_copy(build_model(), chosen)
        loop = Loop(network, RECIPES["baseline"], chosen, data.x_train[:PICTURES], data.y_train[:PICTURES], seed=0)
        next(loop.run_epoch(0))
        return {"epoch": lambda: timed(lambda: list(loop.run_epoch(0)))}

    return start


def predictions(data, models: list[str]) -> dict:
    """`predict_image`, and `model.predict` of one picture, for shipped models; many pictures at once."""
    from imgclassify import load_model, predict_image
    from imgclassify.prediction import predict_probabilities

    tasks = {}
    for name in models:
        model = load_model(name)
        scaled = data.x_test[:SINGLES].astype(np.float32) / 255
        predict_probabilities(model, data.x_test[:600], tta=False)
        tasks[f"predict_image {name}"] = lambda m=model: each_timed(lambda i: predict_image(m, data.x_test[i]))
        tasks[f"model.predict {name}"] = lambda m=model, x=scaled: each_timed(
            lambda i: m.predict(x[i : i + 1], verbose=0), SINGLES // 4
        )
        tasks[f"10,000 pictures {name}"] = lambda m=model: timed(
            lambda: predict_probabilities(m, data.x_test, tta=False)
        )
    model = load_model(models[0])

    def growth() -> list[float]:
        """Mebibytes that the process grows by over 10,000 predictions of single pictures."""
        for i in range(1000):
            predict_image(model, data.x_test[i])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for i in range(10_000):
            predict_image(model, data.x_test[i])
        return [(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]

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
    tasks = {"epoch": lambda: timed(lambda: train(PICTURES))}
    for name in models:
        network = baseline if name == "baseline" else _airbench(nn, name)
        many(network)
        tasks[f"one picture {name}"] = lambda n=network: single(n)
        tasks[f"10,000 pictures {name}"] = lambda n=network: many(n)
    return tasks


def _airbench(nn, recipe: str):
    from imgclassify.models import build_model
    from imgclassify.recipes import RECIPES

    convolutions = [
        layer for layer in build_model(RECIPES[recipe].architecture).layers if type(layer).__name__ == "Conv2D"
    ]
    layers, channels = [nn.Conv2d(3, convolutions[0].filters, 2), nn.ReLU()], convolutions[0].filters
    for number, layer in enumerate(convolutions[1:]):
        layers.append(nn.Conv2d(channels, layer.filters, 3, padding=1, bias=False))
        channels = layer.filters
        layers += [nn.MaxPool2d(2)] * (number % 2 == 0) + [nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 10, bias=False))


RIVALS = {
    "keras": keras_fit,
    "ours": ours("auto"),
    "ours float32": ours("float32"),
    "predictions": predictions,
    "torch": torch_eager,
}

if __name__ == "__main__":
    tasks = RIVALS[sys.argv[1]](load_dataset("cifar10", show_progress=False), sys.argv[2:])
    versions = {name: module.__version__ for name in ("torch",) if (module := sys.modules.get(name))}
    print(json.dumps({"tasks": list(tasks), "versions": versions}), flush=True)
    for line in sys.stdin:
        print(json.dumps(tasks[line.strip()]()), flush=True)
