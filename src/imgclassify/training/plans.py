"""Plans: what is trained on what, from a recipe, from an unfinished run, or from worker 0."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from imgclassify import backend
from imgclassify.data.dataset import Dataset, DatasetError, in_proportion
from imgclassify.data.loading import as_dataset
from imgclassify.models.backbones import BACKBONES
from imgclassify.models.networks import build_model, whiten
from imgclassify.recipes import Recipe, check_name, get_recipe
from imgclassify.runs import provenance
from imgclassify.runs.manifest import DataRecord, Manifest, ModelFileError, read_manifest
from imgclassify.runs.names import RUN_MODEL, find_run, runs_dir
from imgclassify.settings import short_mode
from imgclassify.training.workers import Workers

_SHORT_EPOCHS, _SHORT_VARIANTS = 3, 2  # in short mode
_WHITENING_SAMPLE = 5000  # training pictures that the whitening is computed from
_LARGEST_SEED = 2**32 - 1  # numpy's


class Plan(NamedTuple):
    """What is trained on what."""

    record: Manifest  # what is known before the training begins
    recipe: Recipe
    data: Dataset
    rows: tuple[np.ndarray, np.ndarray]  # of the training data, those to train on and those to validate on


def make_plan(
    recipe: str | Recipe,
    data,
    *,
    workers: Workers,
    settings: Mapping[str, Any],
    resume: str | None,
    name: str | None,
    seed: int,
    share: float,
    precision: str,
) -> Plan:
    """What `train_model` trains, with the same arguments and errors; what worker 0 does, all do."""
    if workers.index > 0:
        return _joined(workers, data)
    if resume is not None:
        plan = _resumed(resume, data)
    else:
        recipe = get_recipe(recipe, **settings)
        check_name(recipe.name if name is None else name)
        recipe = _in_short_mode(recipe)
        data = as_dataset(data, size=recipe.size)
        rows = split_rows(data, recipe, share, seed)
        about = {"seed": seed, "share": share, "precision": backend.choose_precision(precision)}
        plan = Plan(_new_record(recipe, data, rows, workers=workers.count, **about), recipe, data, rows)
    _invite(workers, plan)
    return plan


def _resumed(run: str, data) -> Plan:
    """What an unfinished run was begun with; `data` if it is given, else where the run found it."""
    record, recipe = unfinished_run(run)
    data = as_dataset(record.dataset.location() if data is None else data, size=recipe.size)
    rows, before = split_rows(data, recipe, record.share, record.seed or 0), record.dataset
    counts = before.training_pictures, before.validation_pictures
    if data.fingerprint != before.fingerprint or tuple(map(len, rows)) != counts:
        other = f"The run {record.run} was trained on other pictures than those of {data.source}"
        raise ModelFileError(f"{other}: pass its data.")
    return Plan(replace(record, temperatures=(), metrics={}, sha256=None), recipe, data, rows)


def unfinished_run(run: str) -> tuple[Manifest, Recipe]:
    """The record of a run that can be resumed, and its recipe.

    Raises:
        ValueError: There is no run with this name; see `find_run`.
        ModelFileError: It is complete, or its record cannot be read.
    """
    record = read_manifest(runs_dir() / find_run(run) / RUN_MODEL)
    if record.status not in ("running", "interrupted", "failed") or record.recipe is None:
        raise ModelFileError(f"The run {find_run(run)} is {record.status}: only an unfinished one can be resumed.")
    return record, record.recipe


def _invite(workers: Workers, plan: Plan) -> None:
    """Worker 0 tells the others what is trained, and hears whether they can; see `_joined`."""
    if workers.count == 1:
        return
    if plan.recipe.optimizer == "logistic":
        raise ValueError(f"The recipe {plan.recipe.name} does not train in steps: it needs no other workers.")
    settings = {name: getattr(plan.record, name) for name in ("seed", "share", "precision")}
    told = {"recipe": asdict(plan.recipe), "settings": settings, "fingerprint": plan.data.fingerprint}
    workers.share(told | {"like": _what_must_be_alike()})
    if workers.any(False):
        raise DatasetError("Another worker cannot train this; its own message says why.")


def _joined(workers: Workers, data) -> Plan:
    """What worker 0 trains, with this worker's copy of the data; what this worker cannot do, all hear."""
    told = workers.share()
    try:
        if other := [f"{name} {value}" for name, value in told["like"].items() if _what_must_be_alike()[name] != value]:
            raise ValueError(f"All workers must be alike: worker 0 has {', '.join(other)}.")
        recipe, settings = Recipe(**told["recipe"]), told["settings"]
        data = as_dataset(data, size=recipe.size)
        if data.fingerprint != told["fingerprint"]:
            raise DatasetError(f"Worker 0 trains on other pictures than those of {data.source}: pass the same ones.")
        rows = split_rows(data, recipe, settings["share"], settings["seed"])
    except Exception:
        workers.any(True)
        raise
    workers.any(False)
    return Plan(_new_record(recipe, data, rows, workers=workers.count, **settings), recipe, data, rows)


def split_rows(data: Dataset, recipe: Recipe, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1. Received: share={share}")
    if not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(f"seed must be from 0 to {_LARGEST_SEED}. Received: seed={seed}")
    train_rows, val_rows = data.validation_split(recipe.validation_fraction, seed)
    if share < 1:
        count = max(1, round(share * len(train_rows)))
        train_rows = train_rows[in_proportion(data.y_train[train_rows], count, seed)]
    return train_rows, val_rows


def new_network(recipe: Recipe, data: Dataset, train_rows: np.ndarray):
    """An untrained network of the recipe for this data."""
    backbone, loaded = recipe.architecture in BACKBONES, data.x_train.shape[1]
    if backbone and data.groups is not None and loaded < recipe.size:
        found = f"The photos were loaded at {loaded} pixels, but {recipe.name} takes {recipe.size}:"
        raise DatasetError(f"{found} load them by load_dataset(folder, size={recipe.size}), or pass the folder itself.")
    shape = (recipe.size, recipe.size, 3) if backbone else data.x_train.shape[1:]
    network = build_model(recipe.architecture, input_shape=shape, num_classes=len(data.class_names))
    if not backbone:
        whiten(network, data.x_train[train_rows[:: max(1, len(train_rows) // _WHITENING_SAMPLE)]])
    return network


def _in_short_mode(recipe: Recipe) -> Recipe:
    """The recipe, in short mode with few epochs and variants."""
    if not short_mode():
        return recipe
    return replace(recipe, epochs=min(recipe.epochs, _SHORT_EPOCHS), variants=min(recipe.variants, _SHORT_VARIANTS))


def _new_record(
    recipe: Recipe, data: Dataset, rows: tuple[np.ndarray, np.ndarray], *, workers: int = 1, **settings: Any
) -> Manifest:
    """What a manifest records before the training begins."""
    return Manifest(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        recipe=recipe,
        dataset=DataRecord(data.name, data.source, data.fingerprint, data.folder, *map(len, rows)),
        versions=provenance.describe_versions(),
        commit=provenance.source_commit(),
        machine=provenance.describe_machine(workers),
        **settings,
    )


def _what_must_be_alike() -> dict[str, Any]:
    """What workers must have in common, so that all take the same steps; Python may differ."""
    versions = {name: value for name, value in provenance.describe_versions().items() if name != "python"}
    return versions | {"fast bfloat16": backend.has_fast_bfloat16()}
