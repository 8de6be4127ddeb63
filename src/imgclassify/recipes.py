"""Recipes: everything that decides how a network is trained, except the data and the seed. The file to edit."""

import math
import re
from dataclasses import asdict, dataclass, replace

from imgclassify.data.augmentation import check_augmentation
from imgclassify.models.backbones import BACKBONE, BACKBONES, FEATURES, GUIDED
from imgclassify.models.inference import VIEWS

OPTIMIZERS = ("adam", "adamw", "muon", "logistic")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Recipe:
    """How to train a network.

    Attributes:
        name: Used in file names.
        architecture: See `build_model`.
        size: Side of the square pictures that a backbone takes, in pixels; other pictures are resized. The other
            networks take pictures of any size as they are.
        frozen: The layers of a backbone up to this one keep ImageNet's weights, and what they compute is computed only
            once for each variant of each picture: "stage2" to "stage6" ("stage4" for "vgg16" and "resnet50v2"), or
            "features" for all layers but the last; "" to train all layers.
        variants: With `frozen`, the number of random variants of each picture; every epoch takes another one of them.
        epochs: The first goes through all training pictures, the others through `hard_fraction` of them.
        hard_fraction: Share of the training pictures that each epoch after the first trains on, in whole batches:
            the pictures whose class the network was least sure of when it last trained on them. The others return
            once they are among the least certain. Based on "online batch selection" (Loshchilov and Hutter, 2015),
            which draws by rank; a later version of airbench96 (Jordan) uses a separate small network to decide which
            half is hard. Pictures with a wrong label stay hard, so they are trained on most often. 1 for all pictures.
        patience: The training ends early when the validation loss has not fallen for this many epochs, and the weights
            of the epoch with the lowest are kept, as with Keras' `EarlyStopping`. The schedule is that of all epochs. 0
            to train them all and keep the last weights.
        batch_size: Pictures per step.
        optimizer: "adam" (Kingma and Ba, 2015), "adamw" (Loshchilov and Hutter, 2019), or "muon" (Jordan et al., 2024)
            for the convolutions and Adam for the rest; see `build_optimizer`. "logistic" fits the last layer only,
            by logistic regression; the fields about steps then have no meaning.
        learning_rate: The optimizer's, at the start.
        weight_decay: The optimizer's, for "adamw"; see `build_optimizer`.
        schedule: "constant", "linear" for a learning rate that falls to zero in equal steps, or "cosine" for one that
            rises for a tenth of the steps and then falls to zero along a cosine (Loshchilov and Hutter, 2017).
        augmentation: Random variants of the training pictures; see `draw_variations`.
        label_smoothing: Share of the target probability that is spread over all classes (Szegedy et al., 2016).
        sizes: Picture sizes to train on, as shares of the full size, each for the same number of steps (progressive
            resizing; Howard, 2018): smaller pictures are faster. (1.0,) means the full size throughout, which the
            baseline needs.
        views: How many views of a picture are averaged at prediction (test-time augmentation): 1, 2 or 6; see
            `predict_probabilities`.
        validation_fraction: Share of the training data that is held out for validation.
    """

    name: str
    architecture: str = "baseline"
    size: int = 32
    frozen: str = ""
    variants: int = 1
    epochs: int = 20
    patience: int = 0
    hard_fraction: float = 1.0
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    augmentation: str = "none"
    label_smoothing: float = 0.0
    sizes: tuple[float, ...] = (1.0,)
    views: int = 1
    validation_fraction: float = 0.2

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))  # JSON gives a list
        check_name(self.name)
        check_augmentation(self.augmentation)
        cuts, logistic = (*BACKBONES.get(self.architecture, ()), FEATURES), self.optimizer == "logistic"
        for field, valid, bound in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("patience", self.patience >= 0, "at least 0"),
            ("hard_fraction", 0 < self.hard_fraction <= 1, "above 0 and at most 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            # Muon rescales kernels, which does no harm only if batch normalisation follows.
            ("optimizer", (self.optimizer, self.architecture) != ("muon", "baseline"), "adam for the baseline network"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("weight_decay", 0 <= self.weight_decay < 1, "at least 0 and below 1"),
            ("size", 18 <= self.size <= 1024, "from 18 to 1024 pixels"),
            ("frozen", not self.frozen or self.architecture in BACKBONES, f"empty, except for {', '.join(BACKBONES)}"),
            ("frozen", self.frozen in ("", *cuts), f"one of {', '.join(cuts)} for {self.architecture}, or empty"),
            ("frozen", self.frozen != FEATURES or logistic, "empty or a stage, except for logistic"),
            ("variants", 1 <= self.variants <= 100, "from 1 to 100"),
            ("optimizer", not logistic or self.frozen == FEATURES, 'adamw, unless frozen="features"'),
            ("epochs", not logistic or self.epochs == 1, "1 for logistic regression"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            ("sizes", self.sizes and all(0.5 < size <= 1 for size in self.sizes), "shares above 0.5 and at most 1"),
            ("sizes", self.architecture != "baseline" or set(self.sizes) == {1.0}, "(1.0,) for the baseline network"),
            ("views", self.views in VIEWS, f"one of {', '.join(map(str, VIEWS))}"),
            ("validation_fraction", 0 < self.validation_fraction < 1, "between 0 and 1"),
        ):
            if not valid:
                raise ValueError(f"{field} must be {bound}. Received: {field}={getattr(self, field)}")

    def steps(self, pictures: int) -> list[int]:
        """Number of steps in each epoch, given the number of training pictures."""
        counts = [pictures] + [max(1, round(self.hard_fraction * pictures))] * (self.epochs - 1)
        return [-(-count // min(self.batch_size, pictures)) for count in counts]


def check_name(name: str) -> None:
    """Raise `ValueError` for a name that is not safe in file names on every system.

    Example:
        >>> check_name("first-try.2")
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"A name must consist of letters, digits, '-', '_' and '.'. Received: name={name!r}")


_FAST = Recipe(
    "fast",
    architecture="airbench",
    epochs=15,
    hard_fraction=0.5,
    batch_size=256,
    optimizer="muon",
    learning_rate=0.11,
    schedule="linear",
    augmentation="flip+shift",
    label_smoothing=0.2,
    sizes=(5 / 8, 6 / 8, 1),
    views=6,
    validation_fraction=0.05,
)

_BEST = replace(
    _FAST,
    name="best",
    epochs=46,
    hard_fraction=1.0,
    augmentation="flip+shift+cutout",
    sizes=(5 / 8, 6 / 8, 7 / 8, 1),
    views=2,
)

_PHOTOS = Recipe(
    "photos",
    architecture=BACKBONE,
    size=224,
    frozen="stage5",
    variants=6,
    epochs=6,
    batch_size=32,
    optimizer="adamw",
    learning_rate=6e-4,
    weight_decay=0.02,
    schedule="cosine",
    augmentation="flip+crop",
    label_smoothing=0.1,
    validation_fraction=0.1,
)

_HEAD = replace(_PHOTOS, name="head", frozen=FEATURES, variants=1, epochs=1, optimizer="logistic", augmentation="none")
_GUIDED = replace(_HEAD, name="guided", architecture=GUIDED)
_FINETUNE = replace(_PHOTOS, name="finetune", frozen="", variants=1, epochs=10, learning_rate=3e-4)

_ALL = (Recipe("baseline"), _FAST, _BEST, _PHOTOS, _HEAD, _GUIDED, _FINETUNE)
RECIPES = {recipe.name: recipe for recipe in _ALL}


def get_recipe(recipe: str | Recipe, **settings) -> Recipe:
    """A recipe by name, with some of its settings replaced; a setting given as None is not changed.

    Raises:
        ValueError: The recipe or a setting is unknown, or a value is out of range.

    Example:
        >>> get_recipe("baseline", epochs=5, batch_size=None).batch_size
        64
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe: use one of {sorted(RECIPES)}. Received: recipe={recipe!r}")
        recipe = RECIPES[recipe]
    chosen = {name: value for name, value in settings.items() if value is not None}
    if unknown := set(chosen) - set(asdict(recipe)):
        known = ", ".join(asdict(recipe))
        raise ValueError(f"Unknown recipe setting {', '.join(sorted(unknown))}: a recipe has {known}.")
    return replace(recipe, **chosen)
