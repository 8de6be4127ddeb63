"""The classifier: a network with its manifest, which prepares pictures and classifies them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import numpy as np

from imgclassify import display
from imgclassify.data.images import Picture, Resized
from imgclassify.models.backbones import BACKBONE, imagenet_class_names
from imgclassify.models.familiarity import Detector
from imgclassify.models.inference import predict_probabilities, predict_with_familiarity
from imgclassify.models.networks import PREPROCESSING, build_model
from imgclassify.prediction import BaseClassifier, Prediction
from imgclassify.runs import files
from imgclassify.runs.detectors import read_detector
from imgclassify.runs.manifest import DataRecord, Manifest, ModelFileError
from imgclassify.runs.names import IMAGENET, find_model, name_of


@dataclass(frozen=True, eq=False)
class Classifier(BaseClassifier):
    """A network and what is known about it."""

    network: Any  # a `keras.Model` from float32 pictures in [0, 1], (N, H, W, C), to probabilities (N, classes)
    manifest: Manifest  # how it was trained; all fields have their defaults if nothing is recorded
    file: Path | None = None  # where it was loaded from or saved to; None if it is only in memory
    detector: Detector | None = None  # what tells other things from its classes, if there is one

    @classmethod
    def of(cls, model, class_names: Sequence[str] | None = None) -> "Classifier":
        """The classifier itself, or one made from a plain Keras model.

        Args:
            model: A `Classifier`, or a Keras model from pictures to probabilities.
            class_names: One name per output; default: the classifier's own, else "0", "1", ...

        Raises:
            ValueError: The number of names differs from the number of outputs.
        """
        network, manifest = (model.network, model.manifest) if isinstance(model, cls) else (model, Manifest())
        outputs = network.output_shape[-1]
        named = () if class_names is None else tuple(map(str, class_names))  # an array has no truth value
        names = named or manifest.class_names or tuple(map(str, range(outputs)))
        if len(names) != outputs:
            raise ValueError(f"The model has {outputs} outputs and needs as many class names. Received: {len(names)}")
        shape = tuple(network.input_shape[1:])
        if isinstance(model, cls) and (names, shape) == (manifest.class_names, manifest.input_shape):
            return model
        manifest = with_changes(manifest, class_names=names, input_shape=shape)
        return with_changes(model, manifest=manifest) if isinstance(model, cls) else cls(network, manifest)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per output."""
        return self.manifest.class_names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return tuple(self.network.input_shape[1:])

    @property
    def crop(self) -> float:
        """Side of the central square that it is shown, as a share of a picture's shorter side."""
        return self.manifest.crop

    @property
    def name(self) -> str:
        """Its name, by which `load_model` finds its file; without a file, the name of its run or network."""
        return name_of(self.file) if self.file is not None else self.manifest.run or self.network.name

    def probabilities(
        self, x: np.ndarray, *, views: int | None = None, on_batch_end: Callable[[], None] | None = None
    ) -> np.ndarray:
        """Class probabilities, float32 (N, classes), of many pictures that are already prepared.

        The arguments are those of `predict_probabilities`. Pictures of another size than the network's are resized. The
        default number of views is that in the manifest; with 1, the saved file alone gives the same.
        """
        views = self.manifest.views if views is None else views
        return predict_probabilities(self.network, self.fitting(x), views=views, on_batch_end=on_batch_end)

    def fitting(self, x: np.ndarray):
        """Prepared pictures (N, H, W, 3) in the network's size: themselves, or resized when they are read."""
        return x if tuple(x.shape[1:]) == self.input_shape else Resized(x, self.input_size)

    def answers(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities, float32 (N, classes), and familiarity, (N,), or None without a detector."""
        return (self.probabilities(x), None) if self.detector is None else self.with_familiarity(x)

    def with_familiarity(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, classes) and familiarity (N,), float32, of prepared pictures.

        Raises:
            ValueError: The model has no detector.
        """
        if self.detector is None:
            raise ValueError(f"{self.name} has no detector of pictures that are none of its classes.")
        return predict_with_familiarity(self.network, self.fitting(x), self.detector, views=self.manifest.views)

    def save(self, path: str | os.PathLike, *, replace: bool = False, half: bool = False) -> "Classifier":
        """Write the network and its manifest (see `write_model`); returns the classifier as written, with its file."""
        manifest = files.write_model(
            self.network, self.manifest, path, detector=self.detector, replace=replace, half=half
        )
        return with_changes(self, manifest=manifest, file=Path(path).expanduser())

    def recorded(self, **changes) -> "Classifier":
        """A copy of the classifier with changed values in its manifest."""
        return with_changes(self, manifest=with_changes(self.manifest, **changes))

    def _facts(self) -> dict[str, str]:
        """What a user should know of it, by heading."""
        manifest, names, (height, width, _) = self.manifest, self.class_names, self.input_shape
        some = f"{', '.join(names[:5])}, ... ({len(names):,} classes)"  # where there are many
        minutes = f", {manifest.wall_time_s / 60:.1f} minutes" if manifest.wall_time_s else ""
        trained = f"by {manifest.recipe.name}, seed {manifest.seed}{minutes}" if manifest.recipe else ""
        return {
            "knows": ", ".join(names) if len(names) <= 20 else some,
            "accuracy": manifest.describe_accuracy(),
            "size": f"{self.network.count_params():,} parameters, {width} x {height} pixels",
            "trained": f"{trained or 'by an unrecorded recipe'}, on {manifest.dataset.source}",
        }

    def __str__(self) -> str:
        knows, accuracy, size, trained = self._facts().values()
        return f"{self.name}: knows {knows}. {accuracy} {size}, trained {trained}."

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = "".join(f"<dt>{key}</dt><dd>{display.escape(value)}</dd>" for key, value in self._facts().items())
        name = display.escape(self.name)
        return display.fragment(f'<div class="card"><div><b>{name}</b><dl>{facts}</dl></div></div>')


def load_model(path_or_name: str | os.PathLike = "best", *, dataset: str = "cifar10") -> Classifier:
    """Load a trained model with its manifest; returns a `Classifier` with a float32 network.

    Args:
        path_or_name: The path of a model, or any name that this package prints; see `find_model`. "imagenet" is the
            backbone with ImageNet's own 1,000 classes, for any photo.
        dataset: Which data set a recipe's name refers to.

    Raises:
        ModelFileError: There is no such model, it is damaged, does not match its manifest, or carries code.
    """
    if path_or_name == IMAGENET:
        names, prepared = imagenet_class_names(), PREPROCESSING[BACKBONE]  # as for its published accuracy
        network = build_model(BACKBONE, input_shape=(prepared.size, prepared.size, 3), num_classes=len(names))
        about = DataRecord("imagenet", "ImageNet (ILSVRC 2012)")
        manifest = Manifest(run=IMAGENET, status="complete", dataset=about, class_names=names, crop=prepared.crop)
        return Classifier.of(Classifier(network, manifest))
    path = find_model(path_or_name, dataset=dataset)
    network, manifest = files.read_model(path)
    try:
        return Classifier.of(Classifier(network, manifest, path, read_detector(path, network)))
    except ValueError as error:  # names that are not as many as the outputs
        raise ModelFileError(f"{path} does not match its manifest: {error}") from error


def save_model(model, path: str | os.PathLike, *, replace: bool = False) -> Path:
    """Write a classifier, or a plain Keras model, and its manifest; returns the path. See `Classifier.save`."""
    Classifier.of(model).save(path, replace=replace)
    return Path(path).expanduser()


def predict_image(model, image: np.ndarray, *, class_names: Sequence[str] | None = None) -> Prediction:
    """Classify one picture that already has the model's input shape; returns a `Prediction`.

    Args:
        model: A `Classifier`, or a Keras model from pictures to probabilities.
        image: uint8, or float in [0, 1], of the model's input shape, for instance (32, 32, 3); RGB.
            For pictures of other sizes, use `classify_custom_image`.
        class_names: One name per output; see `Classifier.of`.

    Raises:
        ImageError: `image` has another shape, type or range.
        ValueError: The number of class names differs from the number of outputs.

    Example:
        >>> from imgclassify import build_model
        >>> prediction = predict_image(build_model(num_classes=2), np.zeros((32, 32, 3), np.uint8))
        >>> sorted(prediction.probabilities)
        ['0', '1']
    """
    return Classifier.of(model, class_names).answer(image)


def classify_custom_image(
    model, picture: Picture, *, class_names: Sequence[str] | None = None, name: str | None = None
) -> Prediction:
    """Classify a picture of any size and kind, prepared as the training data was; returns a `Prediction`.

    Args:
        model: A `Classifier`, or a Keras model from square RGB pictures to probabilities.
        picture: Path, bytes, binary file, Pillow image or array; see `decode_image`.
        class_names: One name per output; see `Classifier.of`.
        name: Name of the picture in messages, if it is not a path.

    Raises:
        ImageError: The picture cannot be used.
        ValueError: The model does not take square RGB pictures, or the number of class names differs from the number
            of outputs.

    Example:
        >>> from imgclassify import build_model
        >>> photo = np.full((300, 500, 3), 90, np.uint8)
        >>> classify_custom_image(build_model(num_classes=2), photo, class_names=("cat", "dog")).image.shape
        (32, 32, 3)
    """
    return Classifier.of(model, class_names).predict(picture, name=name)
