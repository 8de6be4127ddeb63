"""Records: start, list, compare and delete the runs in `artifacts/runs/`."""

import datetime as dt
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from imgclassify import display
from imgclassify.runs.locks import is_locked
from imgclassify.runs.manifest import Manifest, ModelFileError, read_manifest
from imgclassify.runs.names import RUN_MODEL, find_run, lock_of, run_names, runs_dir


@dataclass(frozen=True, eq=False)
class Run:
    """The record of one training."""

    name: str  # of its folder, `<time>-<name>`
    folder: Path  # with `model.keras` and the manifest `model.json`
    manifest: Manifest  # settings, history, metrics, versions

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.manifest.history.get("loss", []))

    @property
    def val_accuracy(self) -> float | None:
        """Validation accuracy of the saved weights, 0 to 1; None if none were saved."""
        return self.manifest.metrics.get("val_accuracy")

    def describe_accuracy(self) -> str:
        """Validation accuracy for a table; for a stopped training, with the epoch whose weights were kept."""
        if self.val_accuracy is None:
            return "-"
        accuracies = self.manifest.history.get("val_accuracy", [])
        stopped = accuracies and self.manifest.status in ("interrupted", "failed")
        best = f" (best epoch: {accuracies.index(max(accuracies)) + 1})" if stopped else ""
        return f"{self.val_accuracy:.2%}{best}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side, which print as a table in text or HTML.

    They are grouped by data set, the newest first in each group, and the group with the newest run first.
    """

    runs: tuple[Run, ...]  # in the order shown
    problems: tuple[str, ...] = ()  # one sentence for each run whose manifest cannot be read

    @cached_property
    def differences(self) -> dict[str, tuple[Any, ...]]:
        """For each setting that is not the same in all runs, its value in each."""
        settings = [run.manifest.settings for run in self.runs]
        keys = dict.fromkeys(key for each in settings for key in each)
        values = {key: tuple(each.get(key) for each in settings) for key in keys}
        return {key: row for key, row in values.items() if len(set(row)) > 1}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """`problems`, and a sentence if the runs were computed by other machines, versions, threads or flags."""
        made = [{**run.manifest.machine, **run.manifest.versions} for run in self.runs]
        keys = dict.fromkeys(key for each in made for key in each)
        other = ", ".join(key for key in keys if len({str(each[key]) for each in made if key in each}) > 1)
        sentence = f"The runs also differ in {other}, which can change their results; see their manifests."
        return (*self.problems, *([sentence] if other else []))

    def rows(self) -> list[list[str]]:
        """The table with its header: name, data, status, epochs, validation accuracy, minutes, differing settings."""
        rows = [["run", "data", "status", "epochs done", "val_accuracy", "minutes", *self.differences]]
        for i, run in enumerate(self.runs):
            about, minutes = run.manifest, f"{run.manifest.wall_time_s / 60:.1f}"
            row = [run.name, about.dataset.source, about.status, str(run.epochs), run.describe_accuracy(), minutes]
            rows.append(row + [_shown(values[i]) for values in self.differences.values()])
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = self.rows()
        return display.fragment(display.table(head, body), *map(display.message, self.notes))


def group_by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by the source of their data, in order; accuracies on different data cannot be compared."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.manifest.dataset.source, []).append(run)
    return grouped


def new_run(name: str) -> str:
    """Name of a new run, with the time; its folder is created if the disk allows it."""
    stamp = dt.datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        run = f"{stamp}-{name}{suffix}"
        try:
            (runs_dir() / run).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # a training that cannot be kept says so
            pass
        return run
    raise FileExistsError(f"{runs_dir()} already has a thousand runs from this second")


def list_runs() -> list[Run]:
    """All runs in the artifacts folder, newest first. Those without a readable manifest are left out."""
    return _read(run_names())[0]


def compare_runs(*names: str) -> Comparison:
    """Compare the named runs, or all of them; returns a `Comparison`, which is shown as a table.

    Args:
        *names: Runs by name, with or without the time, or "latest".

    Raises:
        ValueError: There is no run with one of these names.
    """
    runs, problems = _read(dict.fromkeys(map(find_run, names)) if names else run_names())
    groups = group_by_data(sorted(runs, key=lambda run: run.name, reverse=True))
    return Comparison(tuple(run for group in groups.values() for run in group), tuple(problems))


def delete_run(name: str) -> str:
    """Delete one run's folder for good; returns its full name. Published models are not runs and stay.

    Raises:
        ValueError: There is no run with this name (see `find_run`), or it is being trained.
    """
    run = find_run(name)
    if is_locked(lock_of(runs_dir() / run)):
        raise ValueError(f"The run {run} is being trained: stop the training first.")
    shutil.rmtree(runs_dir() / run)
    return run


def _read(names: Iterable[str]) -> tuple[list[Run], list[str]]:
    """The runs with these names, and one sentence for each whose manifest cannot be read."""
    runs, problems = [], []
    for name in names:
        folder = runs_dir() / name
        try:
            manifest = read_manifest(folder / RUN_MODEL)
            killed = manifest.status == "running" and not is_locked(lock_of(folder))
            runs.append(Run(name, folder, replace(manifest, status="interrupted") if killed else manifest))
        except ModelFileError as error:
            problems.append(str(error))
    return [run for run in runs if run.manifest.status != "unknown"], problems  # with a manifest


def _shown(value: object) -> str:
    """A setting as a table shows it."""
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)
