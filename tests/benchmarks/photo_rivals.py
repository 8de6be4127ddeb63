"""One rival of the photos' benchmark, in a process of its own: `python photo_rivals.py NAME`; see rivals.py."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rivals import answer, each_timed, timed

SIZE, TRAINED = 224, 320
PICTURES = np.random.default_rng(0).integers(0, 256, (TRAINED, SIZE, SIZE, 3), np.uint8)  # only speed is measured
LABELS = np.arange(TRAINED) % 10
MANY = 256


def backbone():
    from imgclassify import build_model

    return build_model("efficientnet-lite0", input_shape=(SIZE, SIZE, 3), num_classes=10)


def ours(_words: list[str]) -> dict:
    from imgclassify.classifier import Classifier

    model = Classifier.of(backbone())
    model.probabilities(PICTURES[:64])
    model.answer(PICTURES[0])
    return {
        "256 photos": lambda: timed(lambda: model.probabilities(PICTURES[:MANY])),
        "one photo": lambda: each_timed(lambda i: model.probabilities(PICTURES[i : i + 1]), 50),
    }


def plain_keras(_words: list[str]) -> dict:
    """Plain Keras: `predict`, and `fit` of the whole network; everything at its defaults."""
    import keras
    import tensorflow as tf

    tf.config.list_logical_devices()  # starts TensorFlow with its own number of threads, not ours
    model, floats = backbone(), PICTURES.astype(np.float32) / 255
    targets = keras.utils.to_categorical(LABELS, 10)
    model.compile("adam", "categorical_crossentropy")
    model.predict(floats[:64], verbose=0)
    model.fit(floats[:64], targets[:64], batch_size=32, verbose=0)
    return {
        "256 photos": lambda: timed(lambda: model.predict(floats[:MANY], verbose=0)),
        "one photo": lambda: each_timed(lambda i: model.predict(floats[i : i + 1], verbose=0), 20),
        "training": lambda: timed(lambda: model.fit(floats, targets, batch_size=32, verbose=0)),
    }


def onnx(_words: list[str]) -> dict:
    """ONNX Runtime on the same network, at its defaults."""
    import onnxruntime

    network = backbone()
    network(np.zeros((1, SIZE, SIZE, 3), np.float32))  # Keras exports only what has been called
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        network.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(str(path))
    floats, name = PICTURES.astype(np.float32) / 255, session.get_inputs()[0].name

    def run(start: int, end: int) -> np.ndarray:
        return session.run(None, {name: floats[start:end]})[0]

    run(0, 32)
    return {
        "256 photos": lambda: timed(lambda: [run(start, start + 32) for start in range(0, MANY, 32)]),
        "one photo": lambda: each_timed(lambda i: run(i, i + 1), 50),
    }


def photos(_words: list[str]) -> dict:
    """The steps of the recipe `photos`, from activations that are there."""
    from imgclassify import backend
    from imgclassify.recipes import get_recipe
    from imgclassify.training.loop import Loop
    from imgclassify.training.transfer import prepare_job

    recipe = get_recipe("photos", variants=1, epochs=2)
    data, rows = (PICTURES, LABELS), np.arange(TRAINED)
    job = prepare_job(backbone(), recipe, (*data, rows), (PICTURES[:1], LABELS[:1]), seed=0)
    loop = Loop(job.network, recipe, job.training, backend.default_precision())
    list(loop.run_epoch(0))
    return {"training": lambda: timed(lambda: list(loop.run_epoch(1)))}


def whole(words: list[str]) -> dict:
    """Whole trainings of a recipe on a folder of photos; what they write goes into a scratch folder."""
    name, folder, scratch = words
    os.environ |= {f"IMGCLASSIFY_{part}_DIR": f"{scratch}/{part}" for part in ("CACHE", "ARTIFACTS")}
    from imgclassify import train_model
    from imgclassify.progress import Progress

    def train() -> None:
        train_model(name, folder, progress=Progress(enabled=False))

    def add_and_train() -> list[float]:
        for number, source in enumerate(sorted(Path(folder, "train").glob("*/*.jpg"))[:2000:100]):
            with Image.open(source) as image:  # mirrored, so that it is a new photo
                ImageOps.mirror(image.convert("RGB")).save(source.with_name(f"added-{number}.jpg"))
        return timed(train)

    return {"train": lambda: timed(train), "add and train": add_and_train}


RIVALS = {"ours": ours, "keras": plain_keras, "onnx": onnx, "photos": photos, "whole": whole}

if __name__ == "__main__":
    answer(RIVALS[sys.argv[1]](sys.argv[2:]))
