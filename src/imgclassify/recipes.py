"""Recipes: everything that decides how a network is trained, but for the data and the seed."""

import re
from dataclasses import asdict, dataclass, replace

from imgclassify.augmentation import check_augmentation

OPTIMIZERS = ("adam", "muon")
SCHEDULES = ("constant", "linear")


@dataclass(frozen=True)
class Recipe:
    """How to train a network.

    Attributes:
        name: Used in file names.
        architecture: See `build_model`.
        epochs: The first goes through all training pictures, the others through `hard_fraction` of them.
        hard_fraction: Share of the training pictures that an epoch after the first trains on, in whole batches: those
            of whose class the network was least sure when it last trained on them. The others come back as they fall
            behind. After "online batch selection" (Loshchilov and Hutter, 2015), which draws by rank; airbench96's
            later version (Jordan) asks a small network of its own which half is hard. Pictures with a wrong label
            stay hard, and so take part most often. 1 for all pictures.
        batch_size: Pictures a step.
        optimizer: "adam" (Kingma and Ba, 2015), or "muon" (Jordan et al., 2024) for the convolutions and Adam for
            the rest; see `build_optimizer`.
        learning_rate: The optimizer's, at the start.
        schedule: "constant", or "linear" for a learning rate that falls to zero in equal steps.
        augmentation: Random variants of the training pictures; see `augment`.
        label_smoothing: Share of the target probability that is spread over all classes (Szegedy et al., 2016).
        growing: Train on pictures of so many sizes, an equal number of steps each (progressive resizing; Howard,
            2018), which is quicker: 2 for 5/8 and 8/8 of the full size, 3 for 6/8 between them, 4 for 6/8 and 7/8; 0
            for the full size throughout. Not for the baseline, whose size is fixed.
        averaging: Share of the training's steps, the last ones, over which the weights are averaged in the end; 0 for
            the weights of the last step. After "stochastic weight averaging" (Izmailov et al., 2018), here while the
            learning rate falls, and with the statistics of batch normalisation averaged too, not measured anew.
        tta: Level of test-time augmentation, 0 for none, 1 or 2; see `predict_probabilities`.
        validation_fraction: Share of the training data that is held out for validation.
    """

    name: str
    architecture: str = "baseline"
    epochs: int = 20
    hard_fraction: float = 1.0
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    augmentation: str = "none"
    label_smoothing: float = 0.0
    growing: int = 0
    averaging: float = 0.0
    tta: int = 0
    validation_fraction: float = 0.2

    def __post_init__(self):
        check_name(self.name)
        check_augmentation(self.augmentation)
        for field, valid, bound in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("hard_fraction", 0 < self.hard_fraction <= 1, "above 0 and at most 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            # Muon scales kernels, which the network must be indifferent to.
            ("optimizer", (self.optimizer, self.architecture) != ("muon", "baseline"), "adam for the baseline network"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            ("growing", self.growing in (0, 2, 3, 4), "0, 2, 3 or 4"),
            ("growing", not (self.growing and self.architecture == "baseline"), "0 for the baseline network"),
            ("averaging", 0 <= self.averaging <= 1, "at least 0 and at most 1"),
            ("tta", self.tta in (0, 1, 2), "0, 1 or 2"),
            ("validation_fraction", 0 < self.validation_fraction < 1, "between 0 and 1"),
        ):
            if not valid:
                raise ValueError(f"{field} must be {bound}. Received: {field}={getattr(self, field)}")

    def steps(self, pictures: int) -> list[int]:
        """Training steps of each epoch on so many training pictures."""
        counts = [pictures] + [max(1, round(self.hard_fraction * pictures))] * (self.epochs - 1)
        return [-(-count // min(self.batch_size, pictures)) for count in counts]


def check_name(name: str) -> None:
    """Raise `ValueError` for a name that cannot be part of a file name everywhere."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"A name is made of letters, digits, '-', '_' and '.'. Received: name={name!r}")


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
    growing=3,
    averaging=0.15,
    tta=2,
    validation_fraction=0.05,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("baseline"),
        _FAST,
        replace(
            _FAST,
            name="best",
            epochs=46,
            hard_fraction=1.0,
            augmentation="flip+shift+cutout",
            growing=4,
            averaging=0.0,
            tta=1,
        ),
    )
}


def get_recipe(recipe: str | Recipe, **settings) -> Recipe:
    """A recipe by name, with some of its settings replaced; a setting of None leaves it as it is.

    Raises:
        ValueError: There is no such recipe or setting, or a value is out of range.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe: use one of {sorted(RECIPES)}. Received: recipe={recipe!r}")
        recipe = RECIPES[recipe]
    chosen = {name: value for name, value in settings.items() if value is not None}
    if unknown := set(chosen) - set(asdict(recipe)):
        raise ValueError(f"A recipe has no {', '.join(sorted(unknown))}; it has {', '.join(asdict(recipe))}.")
    return replace(recipe, **chosen)


def recorded_settings(manifest: dict) -> dict[str, object]:
    """The recipe in a manifest, also of earlier versions; settings that it does not have yet have their defaults."""
    recorded = manifest.get("recipe", {})
    if not recorded:
        return {}
    settings = asdict(Recipe(recorded["name"])) | recorded
    if settings["growing"] is True:  # always four sizes then
        settings["growing"] = 4
    return settings | {key: int(settings[key]) for key in ("growing", "tta")}  # False and True before
