"""Network architectures. Input is float32 in [0, 1]; output is one probability a class."""

from imgclassify import runtime


def build_model(
    architecture: str = "baseline", *, input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10
):
    """Build an untrained network, not yet compiled.

    "baseline" (122,570 parameters for ten classes): three 3 x 3 convolutions with 32, 64 and 64 filters and
    ReLU, a 2 x 2 max-pooling after each of the first two, then a dense layer of 64, dropout of one half and
    a softmax. It is the network of TensorFlow's CNN tutorial with dropout added.

    Args:
        architecture: "baseline".
        input_shape: Height, width and channels of a picture, in pixels; at least 18 x 18.
        num_classes: Number of classes, at least 2.

    Returns:
        A `keras.Model` from float32 pictures (N, *input_shape) in [0, 1] to probabilities (N, num_classes).

    Raises:
        ValueError: An argument is none of these.
    """
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"Unknown architecture: use one of {sorted(_ARCHITECTURES)}. Received: architecture={architecture!r}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Received: num_classes={num_classes}")
    if len(input_shape) != 3 or min(input_shape[:2]) < 18 or input_shape[2] < 1:
        raise ValueError(
            "input_shape must be (height, width, channels), at least 18 x 18 pixels. "
            f"Received: input_shape={input_shape}"
        )
    return _ARCHITECTURES[architecture](tuple(input_shape), num_classes)


def _baseline(input_shape: tuple[int, int, int], num_classes: int):
    keras = runtime.keras()
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax", dtype="float32"),  # stable also in half precision
        ],
        name="baseline",
    )


_ARCHITECTURES = {"baseline": _baseline}
