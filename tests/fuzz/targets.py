"""Feed mutated input to what reads files from elsewhere: `python targets.py TARGET [OPTIONS OF LIBFUZZER]`.

The targets are manifest, configuration, picture and detector. The input is mutated towards code that was not reached
before, by libFuzzer through atheris; JSON is also mutated as a tree. A target fails if it raises anything but
the one exception that it promises, returns what it should refuse, takes more than 3 GB or 30 seconds, or if anything
is written outside its folder, started, deleted or connected to. `-max_total_time=600` runs for ten minutes.
"""

import contextlib
import io
import json
import os
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["imgclassify", "PIL"]):
    import numpy as np
    from PIL import Image

    from imgclassify import backend
    from imgclassify.data import images
    from imgclassify.data.download import file_sha256
    from imgclassify.models import familiarity, inference
    from imgclassify.runs import detectors as detectors_of
    from imgclassify.runs import files, manifest, safety

LIMITS = ["-rss_limit_mb=3000", "-timeout=30", "-max_len=20000", "-print_final_stats=1"]
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind")
FORBIDDEN += ("socket.getaddrinfo", "pickle.find_class")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod", "os.chown")
CHANGES += ("os.truncate", "os.utime", "shutil.")
PLAIN = [False, 1, 2, 3, 8, 64, 0.25, [1, 1], [None, 8, 8, 3], "same", "valid", "relu", "softmax", "channels_first"]
PLAIN += ["float16", "mixed_bfloat16", "Dense", "Conv2D", "Flatten", "Reshape", "Concatenate", "Resizing", "Sequential"]
HOSTILE = [None, True, -1, 0, 0.5, 1e9, 2**40, 2**63, -(2**63), float("nan"), "", "x" * 300, [], {}, [[]], "NaN"]
HOSTILE += ["../../etc/passwd", "/tmp/written", "os", "os.path", "builtins", "function", "__lambda__", "__tensor__"]
HOSTILE += ["Lambda", "TFSMLayer", "TorchModuleWrapper", "StringLookup", "plot_image_gallery", "__keras_tensor__"]
HOSTILE += ["keras.visualization", "keras.layers", "keras.utils", "keras.saving", "__numpy__"]
HOSTILE += ["class_name", "config", "module", "registered_name"]


class Watch:
    """Notes what Python does to the world outside `folder`, from `arm` on. What C libraries do is not seen."""

    def __init__(self, folder: Path):
        self.folder, self.seen, self.armed = folder.resolve(), [], False
        sys.addaudithook(self._note)

    def _note(self, event: str, values: tuple) -> None:
        if not self.armed:
            return
        if event == "open":
            path, mode, flags = values
            writes = (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            outside = writes and not isinstance(path, int) and self._outside(path)
        else:
            paths = [each for each in values if isinstance(each, (str, bytes, os.PathLike))]
            outside = event.startswith(FORBIDDEN) or (event.startswith(CHANGES) and any(map(self._outside, paths)))
        if outside:
            self.seen.append((event, str(values)[:200]))

    def _outside(self, path) -> bool:
        return not Path(os.path.realpath(os.fsdecode(path))).is_relative_to(self.folder)

    def check(self) -> None:
        if self.seen:
            raise AssertionError(f"The input did this: {self.seen}")


def manifests(folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    """Manifests: of this version, of an older one, and an empty one."""
    shipped = (path.read_bytes() for path in sorted(Path(__file__).parents[2].glob("artifacts/cifar10_*.json")))
    old = {"temperature": 1.2, "mixture": [1.0, 0.5], "recipe": {"name": "fast", "tta": 2, "growing": 1}, "metrics": {}}
    model = folder / "model.keras"

    def read(content: bytes) -> None:
        model.with_suffix(".json").write_bytes(content)
        try:
            found = manifest.read_manifest(model)
        except manifest.ModelFileError:
            return
        json.loads(manifest.strict_json(found), parse_constant=refuse)
        found.describe_accuracy()

    return [*shipped, json.dumps(old).encode(), b"{}"], read


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def configurations(folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    """Configurations of `.keras` files: a plain network, one with branches, one inside another."""
    layers, keras, path = backend.keras().layers, backend.keras(), folder / "model.keras"
    plain = [layers.Input((8, 8, 3)), layers.Conv2D(2, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    network = keras.Sequential([*plain, layers.Dense(3, activation="softmax")])
    taken = layers.Input((8, 8, 3))
    branches = layers.Concatenate()([layers.ReLU(max_value=6)(taken), layers.Rescaling(1 / 255)(taken)])
    answers = layers.Dense(3, "softmax", kernel_regularizer="l2")(layers.Flatten()(layers.Dropout(0.5)(branches)))
    nested = keras.Sequential([keras.Model(taken, answers), layers.Softmax()])
    seeds = []
    for each in (network, keras.Model(taken, answers), nested):
        each.save(path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        seeds.append(members.pop("config.json"))

    def read(content: bytes) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in (members | {"config.json": content}).items():
                archive.writestr(name, member)
        try:
            found, _ = files.read_model(path)
        except manifest.ModelFileError:
            return
        safety.check_network(found)
        kinds = {type(layer).__name__ for layer in found._flatten_layers()}
        assert kinds <= safety._LAYERS | safety._MODELS, kinds

    return seeds, read


def detectors(folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    """Detector files, from a description in JSON of what is in them; what is no description is the file itself."""
    layers, path = backend.keras().layers, folder / "model.keras"
    plain = [
        layers.Input((8, 8, 3)),
        layers.Conv2D(4, 3, activation="relu", name="maps"),
        layers.GlobalAveragePooling2D(),
    ]
    network = backend.keras().Sequential([*plain, layers.Dense(3, activation="softmax")])
    path.write_bytes(b"a model")
    about = {"model": file_sha256(path), "kind": "neighbours", "layers": ["maps", familiarity.LAST]}
    arrays = {f"reference{number}": ["float16", [20, 4]] for number in range(2)}
    arrays |= {f"known{number}": ["float32", [30]] for number in range(3)}
    bounds = {"reference0": ["float32", [4, 5]], "known0": ["float32", [30]], "known1": ["float32", [30]]}
    other = about | {"kind": "boundaries", "layers": [familiarity.LAST]}
    seeds = [{"about": about, "arrays": arrays}, {"about": other, "arrays": bounds}]

    def write(content: bytes) -> None:
        try:
            described = json.loads(content)
            chance, made = np.random.default_rng(0), {}
            for name, (dtype, shape) in described["arrays"].items():
                if np.prod(shape, dtype=float) > 1e6:
                    continue
                values = chance.normal(size=shape).astype(dtype)
                made[name] = np.sort(values) if values.ndim == 1 else values
            np.savez(detectors_of.detector_path(path), about=json.dumps(described["about"]), **made)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError):
            detectors_of.detector_path(path).write_bytes(content)

    def read(content: bytes) -> None:
        write(content)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            detector = detectors_of.read_detector(path, network)
        if detector is not None:
            x = np.zeros((2, 8, 8, 3), np.uint8)
            probabilities, familiar = inference.predict_with_familiarity(network, x, detector)
            assert probabilities.shape == (2, 3)
            assert ((familiar > 0) & (familiar <= 1)).all(), familiar

    return [json.dumps(seed).encode() for seed in seeds], read


def pictures(_folder: Path) -> tuple[list[bytes], Callable[[bytes], None]]:
    """Pictures of all formats and several modes, some of them rotated by EXIF or animated."""
    values = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"):
            image = Image.fromarray(values)
            image = Image.new(mode, (12, 9)) if mode == "I;16" else image.convert("RGB").convert(mode)
            more = {"save_all": True, "append_images": [image]} if kind in ("GIF", "TIFF", "PNG") else {"exif": exif}
            try:
                image.save(content := io.BytesIO(), kind, **({} if kind == "BMP" else more))
            except (OSError, ValueError):  # formats lack modes
                continue
            seeds.append(content.getvalue())

    def read(content: bytes) -> None:
        try:
            image = images.decode_image(content)
        except images.ImageError:
            return
        assert image.mode == "RGB"
        prepared = images.prepare_image(image, size=32)
        assert prepared.shape == (32, 32, 3)
        assert prepared.dtype == np.uint8

    return seeds, read


def places(tree: object) -> Iterator[tuple[dict | list, str | int]]:
    """Every value of a JSON tree, as its container and its key."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield tree, key
        yield from places(value)


def mutate_tree(content: bytes, max_size: int, seed: int) -> bytes:
    """The same JSON with a few values replaced, moved or removed; now and then, libFuzzer's own mutation of bytes."""
    chance = random.Random(seed)
    try:
        spots = list(places(tree := json.loads(content)))
    except (ValueError, RecursionError):
        return atheris.Mutate(content, max_size)
    if chance.random() < 0.2 or not spots:
        return atheris.Mutate(content, max_size)
    for _ in range(chance.randint(1, 3)):
        (container, key), (source, other) = chance.choice(spots), chance.choice(spots)
        change = chance.random()
        try:
            if change < 0.5:
                container[key] = chance.choice(chance.choice((PLAIN, HOSTILE)))
            elif change < 0.8:
                container[key] = json.loads(json.dumps(source[other]))
            elif isinstance(container, dict) and change < 0.9:
                container[str(chance.choice(HOSTILE))] = container.pop(key)
            else:
                del container[key]
        except (KeyError, IndexError):  # an earlier change removed it
            continue
    changed = json.dumps(tree).encode()
    return changed if len(changed) <= max_size else content


TARGETS = {"manifest": manifests, "configuration": configurations, "picture": pictures, "detector": detectors}


def main() -> None:
    name, options = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as scratch:
        work, corpus = Path(scratch, "work"), Path(scratch, "corpus")
        for folder in (work, corpus):
            folder.mkdir()
        seeds, read = TARGETS[name](work)
        watch = Watch(work)
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
            read(seed)  # what is imported late is imported here

        def run(content: bytes) -> None:
            watch.armed = True
            read(content)
            watch.armed = False
            watch.check()

        own_mutator = {} if name == "picture" else {"custom_mutator": mutate_tree}
        found = (
            f"-artifact_prefix={tempfile.gettempdir()}/imgclassify-{name}-"  # stays, and is named where it is written
        )
        atheris.Setup([sys.argv[0], *LIMITS, found, *options, str(corpus)], run, **own_mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
