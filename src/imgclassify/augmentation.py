"""Data augmentation: random variants of the training pictures, computed inside the compiled training step."""

from imgclassify import runtime

AUGMENTATIONS = ("none", "flip", "flip+shift", "flip+shift+cutout")
_SHIFT = 2  # pixels, for pictures of 32; airbench's (Jordan, 2024)
_CUTOUT = 12  # side of the square, in pixels, for pictures of 32; airbench96's


def augment(pictures, augmentation: str, *, mirrored=None, seed: int | None = None):
    """Random variants of pictures, one each.

    "flip" mirrors a picture left to right; "shift" moves it by up to 1/16 of its size along each axis, the border
    reflected; "cutout" greys out a square of three eighths of its size (DeVries and Taylor, 2017).

    Args:
        pictures: uint8 (N, H, W, C), tensor or array.
        augmentation: One of `AUGMENTATIONS`.
        mirrored: Which pictures "flip" mirrors, bool (N,); default: half of them, drawn at random.
        seed: For the same variants again; default: TensorFlow's global one.

    Returns:
        A uint8 tensor of the same shape.

    Raises:
        ValueError: There is no such augmentation.
    """
    check_augmentation(augmentation)
    tf = runtime.tensorflow()
    generator = tf.random.Generator.from_seed(seed) if seed is not None else None
    draw = generator.uniform if generator is not None else tf.random.uniform
    pictures = tf.convert_to_tensor(pictures)
    count, (height, width) = tf.shape(pictures)[0], pictures.shape[1:3]
    rows, columns = tf.range(height)[None, :], tf.range(width)[None, :]
    if augmentation != "none":
        if mirrored is None:
            mirrored = draw((count,)) < 0.5
        columns = tf.where(mirrored[:, None], width - 1 - columns, columns)
    if "shift" in augmentation:
        reach = [max(1, side * _SHIFT // 32) for side in (height, width)]
        # Reflected at the border: -1 is 1, -2 is 2, and likewise beyond the last.
        rows = rows + draw((count, 1), -reach[0], reach[0] + 1, dtype=tf.int32)
        columns = columns + draw((count, 1), -reach[1], reach[1] + 1, dtype=tf.int32)
        rows, columns = (side - 1 - tf.abs(side - 1 - tf.abs(at)) for at, side in ((rows, height), (columns, width)))
        pictures = tf.gather(pictures, rows, axis=1, batch_dims=1)
    if augmentation != "none":
        pictures = tf.gather(pictures, columns, axis=2, batch_dims=1)
    if "cutout" in augmentation:
        inside = []
        for side in (height, width):
            square = side * _CUTOUT // 32
            start = draw((count, 1), 0, side - square + 1, dtype=tf.int32)
            inside.append((tf.range(side) >= start) & (tf.range(side) < start + square))
        hidden = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        pictures = tf.where(hidden, tf.constant(127, pictures.dtype), pictures)
    return pictures


def check_augmentation(augmentation: str) -> None:
    """Raise `ValueError` where there is no such augmentation."""
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}. Received: {augmentation!r}")
