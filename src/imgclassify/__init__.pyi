"""The public names of `imgclassify`, for editors and type checkers; `__init__.py` imports them on first use."""

from imgclassify.backend import set_seed as set_seed
from imgclassify.classifier import (
    Classifier as Classifier,
)
from imgclassify.classifier import (
    classify_custom_image as classify_custom_image,
)
from imgclassify.classifier import (
    load_model as load_model,
)
from imgclassify.classifier import (
    predict_image as predict_image,
)
from imgclassify.classifier import (
    save_model as save_model,
)
from imgclassify.data.dataset import DatasetError as DatasetError
from imgclassify.data.images import (
    ImageError as ImageError,
)
from imgclassify.data.images import (
    decode_image as decode_image,
)
from imgclassify.data.images import (
    prepare_image as prepare_image,
)
from imgclassify.data.loading import load_and_preprocess_data as load_and_preprocess_data
from imgclassify.data.loading import load_dataset as load_dataset
from imgclassify.evaluation.comparison import compare_models as compare_models
from imgclassify.evaluation.explain import explain_image as explain_image
from imgclassify.evaluation.metrics import evaluate_model as evaluate_model
from imgclassify.models.networks import build_model as build_model
from imgclassify.recipes import Recipe as Recipe
from imgclassify.runs.manifest import Manifest as Manifest
from imgclassify.runs.manifest import ModelFileError as ModelFileError
from imgclassify.runs.records import compare_runs as compare_runs
from imgclassify.runs.records import delete_run as delete_run
from imgclassify.runs.records import list_runs as list_runs
from imgclassify.serving.batch import predict_files as predict_files
from imgclassify.serving.export import export_model as export_model
from imgclassify.serving.exported import load_exported as load_exported
from imgclassify.training.finder import find_learning_rate as find_learning_rate
from imgclassify.training.publish import train_or_load_model as train_or_load_model
from imgclassify.training.train import train_model as train_model
from imgclassify.training.workers import LostError as LostError
from imgclassify.training.workers import join_workers as join_workers
from imgclassify.visualization import plot_history as plot_history
from imgclassify.widgets.teach import TeachBox as TeachBox

__all__: list[str]
