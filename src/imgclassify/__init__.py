"""Image classification on CIFAR-10 and your own pictures; see the notebooks.

Names are imported on first use, so that `import imgclassify` loads neither TensorFlow nor numpy.
"""

import importlib

_MODULE_OF = {
    "DatasetError": "data", "load_and_preprocess_data": "data", "load_dataset": "data",
    "ImageError": "images", "decode_image": "images", "prepare_image": "images",
    "build_model": "models",
    "Recipe": "recipes", "train_model": "training", "train_or_load_model": "training",
    "ModelFileError": "persistence", "load_model": "persistence", "save_model": "persistence",
    "compare_runs": "experiments", "delete_run": "experiments", "list_runs": "experiments",
    "evaluate_model": "evaluation",
    "classify_custom_image": "prediction", "predict_image": "prediction",
    "plot_history": "visualization",
    "set_seed": "runtime",
}  # fmt: skip

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'imgclassify' has no attribute {name!r}")
    return getattr(importlib.import_module(f"imgclassify.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
