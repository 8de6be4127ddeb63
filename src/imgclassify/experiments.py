"""Run records in `artifacts/runs/`: list, compare, delete."""

import html
import shutil
from dataclasses import dataclass
from pathlib import Path

from imgclassify import persistence, runtime
from imgclassify.recipes import recorded_settings


@dataclass(frozen=True, eq=False)
class Run:
    """One training's record.

    Attributes:
        name: Its folder's name, `<time>-<name>`.
        folder: The folder, with `model.keras` and the manifest `model.json`.
        manifest: Settings, history, metrics, versions; see `train_model`.
    """

    name: str
    folder: Path
    manifest: dict

    @property
    def status(self) -> str:
        """One of "complete", "interrupted", "failed" and "running" (also where it was killed)."""
        return self.manifest.get("status", "unknown")

    @property
    def history(self) -> dict[str, list[float]]:
        """Values of each epoch; empty while it runs."""
        return self.manifest.get("history", {})

    @property
    def settings(self) -> dict[str, object]:
        """The recipe's fields, seed, share, precision and data: all that may differ between two runs."""
        keys = ("seed", "share", "precision")
        return (
            recorded_settings(self.manifest)
            | {key: self.manifest.get(key) for key in keys}
            | {"data": self.manifest.get("dataset", {}).get("source")}
        )

    @property
    def val_accuracy(self) -> float | None:
        """Validation accuracy of the saved weights, 0 to 1; None where nothing was saved."""
        return self.manifest.get("metrics", {}).get("val_accuracy")


@dataclass(frozen=True, eq=False)
class Comparison:
    """A table of runs; shows itself as text and as HTML.

    Attributes:
        runs: The runs compared, best validation accuracy first.
        differences: For each setting that is not the same in all, its value in each run.
    """

    runs: tuple[Run, ...]
    differences: dict[str, tuple]

    def rows(self) -> list[list[str]]:
        """The table with its head: name, status, epochs, validation accuracy, minutes, differing settings."""
        head = ["run", "status", "epochs done", "val_accuracy", "minutes", *self.differences]
        body = [
            [
                run.name,
                run.status,
                str(len(run.history.get("loss", []))),
                "-" if run.val_accuracy is None else f"{run.val_accuracy:.2%}",
                f"{run.manifest.get('wall_time_s', 0) / 60:.1f}",
                *(str(values[i]) for values in self.differences.values()),
            ]
            for i, run in enumerate(self.runs)
        ]
        return [head, *body]

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in row] for row in self.rows()]
        style = "text-align:left;padding:2px 10px 2px 0"
        names = [cell.replace("_", "_<wbr>") for cell in head]  # may be broken, which keeps the table narrower
        rows = ["".join(f'<th style="{style}">{name}</th>' for name in names)]
        rows += ["".join(f'<td style="{style};white-space:nowrap">{cell}</td>' for cell in row) for row in body]
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def list_runs() -> list[Run]:
    """All runs in the artifacts folder, newest first. Folders without a readable manifest are left out."""
    runs = []
    for folder in sorted(_runs_dir().glob("*"), reverse=True):
        try:
            manifest = persistence.read_manifest(folder / "model.keras")
        except persistence.ModelFileError:
            continue
        if manifest:
            runs.append(Run(folder.name, folder, manifest))
    return runs


def compare_runs(*names: str) -> Comparison:
    """Compare the named runs, or all of them.

    Raises:
        ValueError: There is no run of such a name.
    """
    runs = [_find(name) for name in names] if names else list_runs()
    runs.sort(key=lambda run: -1 if run.val_accuracy is None else run.val_accuracy, reverse=True)
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: tuple(run.settings.get(key) for run in runs) for key in keys}
    return Comparison(tuple(runs), {key: row for key, row in values.items() if len(set(row)) > 1})


def delete_run(name: str) -> None:
    """Delete one run's folder for good. Published models are no runs and cannot be deleted here.

    Raises:
        ValueError: There is no run of this name.
    """
    shutil.rmtree(_find(name).folder)


def _runs_dir() -> Path:
    return runtime.artifacts_dir() / "runs"


def _find(name: str) -> Run:
    runs = {run.name: run for run in list_runs()}
    if name not in runs:
        raise ValueError(f"There is no run {name!r}. There are: {', '.join(runs) or 'none'}.")
    return runs[name]
