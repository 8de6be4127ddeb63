"""Image classification on CIFAR-10 and your own pictures; see the notebooks.

Names are imported on first use, so that `import imgclassify` loads neither TensorFlow nor numpy. `__init__.pyi` tells
editors and type checkers where to find them.
"""

import importlib

_MODULE_OF = {
    "DatasetError": "data.dataset",
    "load_and_preprocess_data": "data.loading",
    "load_dataset": "data.loading",
    "ImageError": "data.images",
    "decode_image": "data.images",
    "prepare_image": "data.images",
    "build_model": "models.networks",
    "Recipe": "recipes",
    "Classifier": "classifier",
    "classify_custom_image": "classifier",
    "load_model": "classifier",
    "predict_image": "classifier",
    "save_model": "classifier",
    "find_learning_rate": "training.finder",
    "train_model": "training.train",
    "train_or_load_model": "training.publish",
    "Manifest": "runs.manifest",
    "ModelFileError": "runs.manifest",
    "compare_runs": "runs.records",
    "delete_run": "runs.records",
    "list_runs": "runs.records",
    "evaluate_model": "evaluation.metrics",
    "plot_history": "visualization",
    "TeachBox": "widgets.teach",
    "set_seed": "backend",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'imgclassify' has no attribute {name!r}")
    return getattr(importlib.import_module(f"imgclassify.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
