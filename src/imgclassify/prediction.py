"""One picture or many -> class and confidence."""

import base64
import html
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imgclassify import runtime
from imgclassify.data import CIFAR10_CLASSES, scale_pixels
from imgclassify.images import ImageError, Picture, decode_image, prepare_image

_tracing = threading.Lock()


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one picture. Unpacks as `label, confidence`.

    A network always answers with one of its classes, also when shown something else: a high confidence
    says that the picture looks more like this class than like the others, not that it is one.

    Attributes:
        label: Name of the most probable class.
        confidence: Its probability, 0 to 1.
        probabilities: All class names with their probabilities, most probable first; they sum to 1.
        image: What the model was given, uint8 (H, W, 3).
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    image: np.ndarray

    def __iter__(self) -> Iterator:
        return iter((self.label, self.confidence))

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, best first."""
        return list(self.probabilities.items())[:k]

    def __str__(self) -> str:
        return ", ".join(f"{label} {probability:.1%}" for label, probability in self.top())

    __repr__ = __str__

    def bars_html(self, k: int = 5) -> str:
        """The `k` most probable classes as bars, for notebooks and widgets."""
        return "".join(
            '<div style="display:grid;grid-template-columns:84px 1fr 52px;gap:8px;align-items:center">'
            f'<span style="text-align:right">{html.escape(label)}</span><span style="background:#e4eaee">'
            f'<span style="display:block;height:14px;width:{100 * probability:.1f}%;'
            f'background:{"#2a6f97" if rank == 0 else "#9db4c0"}"></span></span><span>{probability:.1%}</span></div>'
            for rank, (label, probability) in enumerate(self.top(k))
        )

    def _repr_html_(self) -> str:
        return (
            '<div style="display:flex;gap:16px;align-items:center">'
            f'<img src="{image_data_uri(self.image)}" width="128" height="128" alt="what the model sees" '
            f'style="image-rendering:pixelated"><div style="width:380px;line-height:1.8">{self.bars_html()}</div></div>'
        )


def image_data_uri(image: np.ndarray | Image.Image) -> str:
    """A picture, uint8 (H, W, 3) or of Pillow's, as a `data:` address of a PNG, for HTML."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def predict_image(model, image: np.ndarray, *, class_names: Sequence[str] | None = None) -> Prediction:
    """Classify one exact model input.

    Args:
        model: From `load_model` or `train_model`, or any Keras model from pictures to probabilities.
        image: uint8, or float in [0, 1], of the model's input shape, for instance (32, 32, 3); RGB.
            For pictures of other sizes there is `classify_custom_image`.
        class_names: Needed only where the model has no manifest and not CIFAR-10's ten outputs.

    Returns:
        A `Prediction`.

    Raises:
        ImageError: `image` has another shape, type or range.
        ValueError: The class names are not known, or do not match the model's outputs.
    """
    image = np.asarray(image)
    shape = _input_shape(model)
    if image.shape != shape:
        raise ImageError(
            f"One picture of shape {shape} is expected; other sizes go through classify_custom_image(). "
            f"Received: shape {image.shape}"
        )
    if image.dtype != np.uint8 and not (image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1):
        raise ImageError(
            f"A picture must be uint8 or float in [0, 1]. Received: {image.dtype} from {image.min()} to {image.max()}"
        )
    names = class_names_of(model, class_names)
    values = predict_probabilities(model, image[np.newaxis])[0]
    order = np.argsort(-values, kind="stable")
    probabilities = {names[i]: float(values[i]) for i in order}
    seen = image if image.dtype == np.uint8 else np.round(image * 255).astype(np.uint8)
    return Prediction(names[order[0]], float(values[order[0]]), probabilities, seen)


def classify_custom_image(
    model, picture: Picture, *, class_names: Sequence[str] | None = None, name: str | None = None
) -> Prediction:
    """Classify a picture of any size and kind, prepared exactly as the training data was.

    Args:
        model: As for `predict_image`; its input must be square and RGB.
        picture: Path, bytes, binary file, Pillow image or array; see `decode_image`.
        class_names: As for `predict_image`.
        name: What to call the picture in messages, where it is no path.

    Returns:
        A `Prediction`; its `image` shows what the model saw.

    Raises:
        ImageError: The picture cannot be used.
        ValueError: The class names are not known, or the model takes no square RGB pictures.
    """
    height, width, channels = _input_shape(model)
    if height is None or height != width or channels != 3:
        raise ValueError(f"The model must take square RGB pictures. It takes {(height, width, channels)}")
    return predict_image(
        model, prepare_image(decode_image(picture, name=name), size=height)[0], class_names=class_names
    )


def predict_probabilities(
    model,
    x: np.ndarray,
    *,
    tta: int | None = None,
    batch_size: int = 256,
    on_batch: Callable[[], None] | None = None,
) -> np.ndarray:
    """Class probabilities of many pictures, by one function compiled once a model, whatever their number.

    With test-time augmentation (TTA) the logits of several views of each picture are averaged: at level 1 of the
    picture and its mirror image; at level 2 also of both moved by a pixel up and to the left, and by a pixel down and
    to the right, the border reflected, which is six times the work of no augmentation. The views are those of airbench
    (Jordan, 2024), which gives double weight to the unmoved ones. A model that `calibrate` gave more than one
    temperature answers with the mean over them.

    Args:
        model: A Keras model from pictures to probabilities.
        x: uint8, or float in [0, 1], (N, H, W, C).
        tta: Level of test-time augmentation, 0 for none; default: what the model's manifest says, else 0.
        batch_size: Pictures computed at a time on a core; bounds the memory used.
        on_batch: Called after every batch, where there are several; may raise to stop.

    Returns:
        float32, (N, number of classes).

    Raises:
        ValueError: There is no such level.
    """
    manifest = getattr(model, "manifest", None) or {}
    tta = manifest.get("recipe", {}).get("tta", 0) if tta is None else tta  # older manifests: False is 0, True 1
    if tta not in (0, 1, 2):
        raise ValueError(f"tta must be 0, 1 or 2. Received: tta={tta}")
    compiled, mixture = _compiled(model, tta), manifest.get("mixture")

    def predict(x: np.ndarray) -> np.ndarray:
        probabilities = compiled(runtime.tensorflow().constant(scale_pixels(x))).numpy()
        return at_temperatures(probabilities, mixture) if mixture else probabilities

    if len(x) <= batch_size:  # no thread for a single picture
        return predict(x) if len(x) else np.empty((0, model.output_shape[-1]), np.float32)
    with ThreadPoolExecutor(min(runtime.cores(), 8)) as pool:
        waiting = [pool.submit(predict, x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        try:
            results = []
            for each in waiting:
                results.append(each.result())
                if on_batch is not None:
                    on_batch()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return np.concatenate(results)


def at_temperatures(probabilities: np.ndarray, temperatures: Sequence[float]) -> np.ndarray:
    """Mean of the probabilities (N, classes) that the same logits give at each of these temperatures, same dtype."""
    powers = [probabilities ** (1 / temperature) for temperature in temperatures]
    return sum(power / power.sum(axis=1, keepdims=True) for power in powers) / len(powers)


def class_names_of(model, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the model's outputs: those given, else its manifest's, else CIFAR-10's for ten outputs.

    Raises:
        ValueError: None of these, or their number is not that of the outputs.
    """
    outputs = model.output_shape[-1]
    names = class_names or (getattr(model, "manifest", None) or {}).get("class_names") or CIFAR10_CLASSES
    if len(names) != outputs:
        known = "given" if class_names else "known"
        raise ValueError(
            f"The model has {outputs} outputs, but {len(names)} class names are {known}: pass class_names=[...]."
        )
    return tuple(names)


def _input_shape(model) -> tuple[int, int, int]:
    return tuple(model.input_shape[1:])


def _compiled(model, tta: int):
    """The model as one TensorFlow function for any number of pictures; kept with the model."""
    with _tracing:
        functions = model.__dict__.setdefault("_compiled_predictions", {})
        if tta not in functions:
            tf = runtime.tensorflow()

            def probabilities(x):
                if tta == 0:
                    return tf.cast(model(x, training=False), tf.float32)
                views = [x]
                if tta == 2:
                    wider = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
                    views += [wider[:, 2:, 2:], wider[:, :-2, :-2]]
                views += [view[:, :, ::-1] for view in views]
                # A call each rather than one of all the views: they run side by side.
                logits = [tf.math.log(tf.maximum(model(view, training=False), 1e-30)) for view in views]
                return tf.nn.softmax(tf.add_n(logits) / len(views))

            # Concrete: traced here, under the lock, and never again.
            functions[tta] = tf.function(
                probabilities,
                autograph=False,  # nothing to rewrite, and it would write temporary files
            ).get_concrete_function(tf.TensorSpec((None, *_input_shape(model)), tf.float32))
        return functions[tta]
