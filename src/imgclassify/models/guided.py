"""Guided: a backbone whose own 1,000 classes vote on the ten of CIFAR-10, for photos of them."""

import numpy as np

from imgclassify import backend
from imgclassify.models.backbones import BACKBONE, FEATURES, build_lite0, imagenet_class_names

GUIDED = f"{BACKBONE}-guided"
# ImageNet's classes that are kinds of CIFAR-10's, in the order of their names: airplane, automobile, bird and so on.
# ImageNet has no deer: antelopes stand for them.
_KINDS = (
    (404, 895),
    (407, 436, 468, 511, 609, 627, 656, 661, 751, 817),
    (*range(7, 25), *range(80, 101), *range(127, 147)),
    range(281, 286),
    range(351, 354),
    range(151, 269),
    range(30, 33),
    (339,),
    (403, 484, 510, 554, 625, 628, 724, 780, 814, 833, 871, 914),
    (555, 569, 675, 717, 864, 867),
)
_WEIGHT = 8.0  # of a vote, in logits; of 2, 4, 6, 8 and 12 the one with the best mean loss on sharp and blurred photos


def build_guided(input_shape: tuple[int, int, int], num_classes: int):
    """The backbone with a last layer that sees its features and, by kinds, the probabilities of ImageNet's classes.

    On a sharp photo, the 1,000 classes are sure, and decide. On a blurred one, or of what ImageNet lacks (deer, most
    horses), their votes add up to little, and the features decide, whose weights are learned from CIFAR-10's pictures.

    Args:
        input_shape: As for `build_lite0`.
        num_classes: 10, CIFAR-10's.

    Returns:
        A `keras.Model` as `build_model` returns it.

    Raises:
        ValueError: The number of classes or the size is not accepted.
    """
    if num_classes != len(_KINDS):
        raise ValueError(f"{GUIDED} knows the ten classes of CIFAR-10. Received: num_classes={num_classes}")
    layers, known = backend.keras().layers, len(imagenet_class_names())
    backbone = build_lite0(input_shape, known)
    features, inside = backbone.get_layer(FEATURES).output, backbone.layers[-1].get_weights()
    imagenet = layers.Dense(known, activation="softmax", trainable=False, name="imagenet")
    votes = layers.Dense(num_classes, use_bias=False, trainable=False, name="votes")
    last = layers.Dense(num_classes, activation="softmax", kernel_initializer="zeros", name="classes")
    outputs = last(layers.Concatenate()([features, votes(imagenet(features))]))
    imagenet.set_weights(inside)
    votes.set_weights([np.stack([np.isin(np.arange(known), list(kinds)) for kinds in _KINDS], axis=1)])
    kernel, bias = last.get_weights()
    kernel[-num_classes:] = _WEIGHT * np.eye(num_classes)
    last.set_weights([kernel, bias])
    return backend.keras().Model(backbone.inputs[0], outputs, name=GUIDED)
