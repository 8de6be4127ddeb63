"""Network architectures. Input is float32 in [0, 1]; output is one probability a class."""

import functools
import itertools
import math

import numpy as np

from imgclassify import runtime


def build_model(
    architecture: str = "baseline", *, input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10
):
    """Build an untrained network, not yet compiled.

    "baseline" (122,570 parameters for ten classes): three 3 x 3 convolutions with 32, 64 and 64 filters and
    ReLU, a 2 x 2 max-pooling after each of the first two, then a dense layer of 64, dropout of one half and
    a softmax. It is the network of TensorFlow's CNN tutorial with dropout added.

    "airbench": after the network of airbench94 (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv
    2404.00498, itself after Page's "How to Train Your ResNet" and tysam's hlb-CIFAR10). A fixed convolution of
    2 x 2 pixels that `whiten` fills from the training pictures, then three blocks of 64, 192 and 240 filters:
    convolution, 2 x 2 max-pooling, batch normalisation, convolution, batch normalisation; then the maximum over all
    places and a softmax. The last two blocks have a third convolution, and a shortcut around the second and third,
    as in airbench96. Different here, for the processor's sake: SiLU (Elfwing et al., 2018) in place of GELU, but for
    ReLU after the whitening, and fewer filters.

    Args:
        architecture: "baseline" or "airbench".
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
            layers.Dense(num_classes, activation="softmax"),
        ],
        name="baseline",
    )


AIRBENCH_BLOCKS = ((64, 2), (192, 3), (240, 3))  # filters and convolutions


def _airbench(input_shape: tuple[int, int, int], num_classes: int):
    keras = runtime.keras()
    layers = keras.layers

    def convolution(x, filters):
        return layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)

    def normalised(x):
        # A short memory, for weights that change quickly; the scale is the next convolution's business.
        return layers.BatchNormalization(scale=False, momentum=0.8, epsilon=1e-5)(x)

    def activated(x):
        return layers.Activation("silu")(x)

    inputs = layers.Input(input_shape)
    patch = 2 * 2 * input_shape[-1]
    x = layers.ReLU()(layers.Conv2D(2 * patch, 2, trainable=False, name="whitening")(inputs))
    for filters, convolutions in AIRBENCH_BLOCKS:
        x = start = activated(normalised(layers.MaxPooling2D(2)(convolution(x, filters))))
        x = normalised(convolution(x, filters))
        if convolutions == 3:
            x = layers.Add()([normalised(convolution(activated(x), filters)), start])
        x = activated(x)
    x = layers.Rescaling(1 / 9)(layers.GlobalMaxPooling2D()(x))
    outputs = layers.Dense(num_classes, use_bias=False, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="airbench")


_ARCHITECTURES = {"baseline": _baseline, "airbench": _airbench}


def whiten(model, pictures: np.ndarray) -> None:
    """Fill the layer "whitening", where the model has one, from training pictures.

    Its filters are the principal axes of the pictures' patches, each scaled to variance one, and their negatives, so
    that no part of the picture is lost in the ReLU that follows (Page, 2019; Jordan, 2024).

    Args:
        model: From `build_model`; modified.
        pictures: uint8 (N, H, W, C), of all classes; some thousands are plenty.
    """
    layer = next((layer for layer in model.layers if layer.name == "whitening"), None)
    if layer is None:
        return
    size, channels = layer.kernel_size[0], pictures.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (size, size), axis=(1, 2))[:, ::2, ::2]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * channels).astype(np.float32) / 255
    mean = patches.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    filters = axes / np.sqrt(np.maximum(variances, 0) + 5e-4)  # one a column; the small number tames the noise
    filters = np.concatenate([filters, -filters], axis=1)
    layer.set_weights([filters.reshape(size, size, channels, -1), -mean @ filters])


def training_copy(model, precision: str, *, towers: int = 1):
    """A network of the same function and weights for training: in mixed precision; airbench for pictures of any size.

    Batch normalisation is done by TensorFlow's fused operation, eight times as fast on a processor as the sum of
    parts that Keras 3 builds it from. In bfloat16 the gradients of kernels are computed as convolutions; see
    `_convolve`. Of the baseline's convolutions, those before a max-pooling have their bias and ReLU after it, which
    gives the same with a quarter of the work. The last layer stays float32. `model.set_weights(copy.get_weights())`
    takes what was learned back.

    Args:
        model: From `build_model`.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        towers: Parts that each training batch will be split into. Batch normalisation has each part's own statistics,
            and the moving averages take them all in, so that a step weighs the same whatever their number.
    """
    keras, last = runtime.keras(), model.layers[-1]

    def clone(layer, **changes):
        kind, config = type(layer), layer.get_config() | changes
        trained = kind is keras.layers.Conv2D and layer.trainable
        if trained and precision == "mixed_bfloat16" and layer.input.shape[-1] > 3:  # channels; few make a poor batch
            kind = _convolution()
            config["parts"] = 2 ** max(0, round(math.log2(layer.output.shape[1] / 4)))  # 1 for 4 rows, 8 for 31
        if kind is keras.layers.BatchNormalization:
            kind = _fused_batch_normalization()
            config["momentum"] **= 1 / towers
        return kind.from_config(config | {"dtype": "float32" if layer is last else precision})

    if isinstance(model, keras.Sequential):
        biased_relu = _biased_relu()
        layers = [keras.Input(model.input_shape[1:])]
        for layer, following in itertools.pairwise([*model.layers, None]):
            pooled = isinstance(following, keras.layers.MaxPooling2D)
            layers.append(clone(layer, **{"use_bias": False, "activation": "linear"} if pooled else {}))
            if isinstance(layer, keras.layers.MaxPooling2D):
                layers.append(biased_relu(dtype=precision))
        copy = keras.Sequential(layers)
    else:
        any_size = keras.Input((None, None, model.input_shape[-1]))
        copy = keras.models.clone_model(model, input_tensors=any_size, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


@functools.cache
def _fused_batch_normalization() -> type:
    keras, tf = runtime.keras(), runtime.tensorflow()

    class FusedBatchNormalization(keras.layers.BatchNormalization):
        """Keras' layer without a scale, over the last axis, in one operation for training."""

        def call(self, inputs, training=None, mask=None):
            if not training:
                return super().call(inputs, training=False)
            shift = tf.convert_to_tensor(self.beta)
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, tf.ones_like(shift), shift, epsilon=self.epsilon, is_training=True
            )[:3]
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + now * (1 - self.momentum))
            return outputs

    return FusedBatchNormalization


@functools.cache
def _biased_relu() -> type:
    keras = runtime.keras()

    class BiasedReLU(keras.layers.Layer):
        """The bias and ReLU of the convolution before."""

        def build(self, input_shape):
            self.bias = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="bias")

        def call(self, inputs):
            return keras.activations.relu(inputs + self.bias)

    return BiasedReLU


@functools.cache
def _convolution() -> type:
    keras, tf = runtime.keras(), runtime.tensorflow()

    class Convolution(keras.layers.Conv2D):
        """Keras' layer, with a stride of one, by `_convolve`."""

        def __init__(self, *, parts: int, **config):
            super().__init__(**config)
            self.parts = parts

        def convolution_op(self, inputs, kernel):
            return _convolve(inputs, tf.convert_to_tensor(kernel), self.padding.upper(), self.parts)

    return Convolution


def _convolve(x, kernel, padding: str, parts: int):
    """A convolution with a stride of one, whose kernel's gradient is computed by convolutions forward.

    It is a convolution itself, of `x` with the gradient from above as its kernel, where pictures and channels change
    places. In bfloat16 oneDNN's own operation for it takes up to twice the time (AMD EPYC; in float32 it is the quicker
    one). The batch is split into `parts` of equal size, fewer where it does not divide and one where its size is not
    known beforehand, so that such a kernel fits into the cache of a core.
    """
    tf = runtime.tensorflow()

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradients(above):
            border = [((side - 1) // 2, side // 2) if padding == "SAME" else (0, 0) for side in kernel.shape[:2]]
            count = math.gcd(parts, x.shape[0] or 1)
            inputs = [tf.transpose(part, (3, 1, 2, 0)) for part in tf.split(x, count)]
            filters = [tf.transpose(part, (1, 2, 0, 3)) for part in tf.split(above, count)]
            sums = [tf.nn.conv2d(*pair, 1, [(0, 0), *border, (0, 0)]) for pair in zip(inputs, filters, strict=True)]
            below = tf.nn.conv2d_transpose(above, kernel, tf.shape(x), 1, padding)
            return below, tf.transpose(tf.add_n(sums), (1, 2, 0, 3))

        return tf.nn.conv2d(x, kernel, 1, padding), gradients

    return convolve(x, kernel)


def fold_temperature(model, temperature: float) -> None:
    """Divide the logits by `temperature` for good: the last layer's kernel and bias are; the model is modified."""
    last = model.layers[-1]
    last.set_weights([weights / np.float32(temperature) for weights in last.get_weights()])
