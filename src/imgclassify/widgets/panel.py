"""The training panel: trains in the background with live curves, and compares and deletes runs."""

import functools
import io
import threading
from collections.abc import Callable

import ipywidgets
from matplotlib.figure import Figure

from imgclassify import display
from imgclassify.classifier import Classifier
from imgclassify.data.augmentation import AUGMENTATIONS
from imgclassify.data.dataset import Dataset
from imgclassify.data.loading import load_dataset
from imgclassify.progress import Progress
from imgclassify.recipes import RECIPES
from imgclassify.runs.records import compare_runs, delete_run, list_runs
from imgclassify.training.plans import unfinished_run
from imgclassify.training.train import train_model
from imgclassify.training.watch import History
from imgclassify.visualization import plot_history, plot_runs
from imgclassify.widgets.handlers import Worker, button, guarded, row, styled

STOPPING = "Stopping ..."
_PANEL_SETTINGS = ("epochs", "batch_size", "learning_rate", "augmentation")  # of the recipe


class TrainingPanel(ipywidgets.VBox):
    """Trains in the background with live curves, and lists, compares and deletes runs.

    Args:
        data: A `Dataset`; default: `load_dataset("auto")`, when the first training starts.

    Attributes:
        recipe, epochs, batch_size, learning_rate, augmentation, seed, share: The controls.
        start, stop: The buttons. Start returns at once; Stop ends the training after the current step.
        status, message: `HTML` with the progress, and with sentences about what went wrong.
        curves: `Image` with the history so far.
        runs: `SelectMultiple` of run names.
        compare, resume, delete, confirm, keep: Buttons.
        table: `HTML` with the comparison; `overlay`: `Image` with the curves of the chosen runs.
        model, history: Of the last training.
        wait: Waits, at most a given number of seconds, for the training to end; returns whether it has.
    """

    def __init__(self, data: Dataset | None = None):
        self._data, self._stop = data, threading.Event()
        self._worker = Worker()
        self.wait = self._worker.wait
        self._doomed: tuple[str, ...] = ()  # runs to delete, once that is confirmed
        self.model: Classifier | None = None
        self.history: History = {}
        wide = {"style": {"description_width": "95px"}, "layout": {"width": "250px", "max_width": "100%"}}
        self.recipe = ipywidgets.Dropdown(options=list(RECIPES), description="Recipe", **wide)
        # No bounds: a value out of range is reported when the training starts, not changed silently.
        self.epochs = ipywidgets.IntText(description="Epochs", **wide)
        self.batch_size = ipywidgets.IntText(description="Batch size", **wide)
        self.learning_rate = ipywidgets.FloatText(step=1e-4, description="Learning rate", **wide)
        self.augmentation = ipywidgets.Dropdown(options=AUGMENTATIONS, description="Augmentation", **wide)
        self._on_recipe({"new": self.recipe.value})  # sets these four
        self.seed = ipywidgets.IntText(description="Seed", **wide)
        self.share = ipywidgets.FloatSlider(
            1.0, min=0.05, max=1, step=0.05, description="Share of data", readout_format=".0%", **wide
        )
        self.start = button("Start", self._on_start, button_style="primary", icon="play")
        self.stop = button("Stop", self._on_stop, icon="stop", disabled=True)
        self.status, self.message, self.table = ipywidgets.HTML("Ready."), ipywidgets.HTML(), ipywidgets.HTML()
        hidden = {"width": "810px", "max_width": "100%", "margin": "0", "display": "none"}
        self.curves, self.overlay = (ipywidgets.Image(format="png", layout=hidden) for _ in range(2))
        whole = {"width": "420px", "max_width": "100%", "margin": "0"}
        self.runs = ipywidgets.SelectMultiple(options=[], rows=5, layout=whole)
        self.compare = button("Compare", self._on_compare, tooltip="The chosen runs, or all of them")
        self.resume = button("Resume", self._on_resume, tooltip="Go on with the chosen run, if it is unfinished")
        self.delete = button("Delete...", self._on_delete, tooltip="Delete the chosen runs, after asking")
        self.confirm = button("Yes, delete", self._on_confirm, button_style="danger")
        self.keep = button("Keep", lambda _: self._asking.layout.set_trait("display", "none"))
        self._question = ipywidgets.HTML()
        self._asking = row(self._question, self.confirm, self.keep, display="none")
        self.recipe.observe(self._on_recipe, names="value")
        settings = (getattr(self, name) for name in ("recipe", *_PANEL_SETTINGS, "seed", "share"))
        above = (row(*settings), row(self.start, self.stop), self.status, self.message, self.curves)
        heading = ipywidgets.HTML("<b>Runs</b>, newest first (Ctrl or Shift chooses several)")
        below = (self.runs, row(self.compare, self.resume, self.delete), self._asking, self.table, self.overlay)
        super().__init__(styled(*above, heading, *below))
        self.add_class("imgclassify")
        self._list_runs()

    @guarded
    def _on_start(self, _button) -> None:
        settings = {name: getattr(self, name).value for name in (*_PANEL_SETTINGS, "seed", "share")}
        self._begin(self.recipe.value, settings)

    @guarded
    def _on_resume(self, _button) -> None:
        if len(self.runs.value) != 1:
            raise ValueError("Choose one run in the list first.")
        record, recipe = unfinished_run(self.runs.value[0])
        same = self._data is not None and self._data.fingerprint == record.dataset.fingerprint
        self._begin(recipe.name, {"resume": record.run, "data": self._data if same else record.dataset.location()})

    def _begin(self, recipe: str, settings: dict) -> None:
        if self.wait(0):
            self._stop.clear()
            self.message.value = ""
            self._busy(True)
            self._worker.begin(self._train, recipe, settings)

    @guarded
    def _train(self, recipe: str, settings: dict) -> None:
        try:
            self.status.value = "Loading the data ..."
            progress = StatusProgress(self.status, self._stop)
            if "data" not in settings:
                settings["data"] = self._data = self._data or load_dataset("auto", progress=progress)
            if self._data and self._data.notice:
                self.message.value = display.message(self._data.notice)
            if self._stop.is_set():
                raise KeyboardInterrupt
            self.status.value = "Building the network ..."
            settings |= {"on_epoch_end": functools.partial(self._draw, recipe), "progress": progress}
            self.model, self.history = train_model(recipe, stop=self._stop, **settings)
            manifest = self.model.manifest
            ending = "Finished" if manifest.status == "complete" else "Stopped"
            accuracy = manifest.metrics.get("val_accuracy")
            reached = "no epoch was finished" if accuracy is None else f"validation accuracy {accuracy:.2%}"
            self.status.value = f"{ending}: {reached}; kept as the run {manifest.run}."
        except KeyboardInterrupt:
            self.status.value = "Stopped before the training began."
        except Exception:
            self.status.value = "Failed."
            raise
        finally:
            self._busy(False)
            self._list_runs()

    @guarded
    def _draw(self, recipe: str, history: History) -> None:
        self.history = history
        title = f"{recipe}, {self._data.source if self._data else ''}"
        _show_figure(self.curves, functools.partial(plot_history, history, title=title))

    @guarded
    def _on_stop(self, _button) -> None:
        if not self.stop.disabled:  # else the click came after the end
            self.status.value = STOPPING
            self._stop.set()

    @guarded
    def _on_recipe(self, change: dict) -> None:
        for name in _PANEL_SETTINGS:
            getattr(self, name).value = getattr(RECIPES[change["new"]], name)

    @guarded
    def _on_compare(self, _button) -> None:
        self.message.value = ""
        self._list_runs()
        comparison = compare_runs(*self.runs.value)
        self.table.value = comparison._repr_html_()
        _show_figure(self.overlay, functools.partial(plot_runs, comparison.runs))

    @guarded
    def _on_delete(self, _button) -> None:
        if not self.runs.value:
            raise ValueError("Choose one or more runs in the list first.")
        self.message.value = ""
        self._doomed = self.runs.value
        self._question.value = f"Delete {display.escape(', '.join(self._doomed))} for good?"
        self._asking.layout.display = "flex"

    @guarded
    def _on_confirm(self, _button) -> None:
        self._asking.layout.display = "none"
        try:
            for name in self._doomed:
                delete_run(name)
        finally:
            self._list_runs()

    def _list_runs(self) -> None:
        """List the runs; the chosen ones stay chosen."""
        chosen, names = self.runs.value, [run.name for run in list_runs()]
        self.runs.options = names
        self.runs.value = [name for name in chosen if name in names]
        self.table.value = compare_runs()._repr_html_() if names else "No runs yet."
        self.overlay.layout.display = "none"

    def _busy(self, busy: bool) -> None:
        for each in (self.start, self.resume, self.delete, self.confirm):
            each.disabled = busy
        self.stop.disabled = not busy


class StatusProgress(Progress):
    """Progress that goes to an `HTML` widget, whose traits may be set from any thread."""

    def __init__(self, status: ipywidgets.HTML, stop: threading.Event):
        super().__init__()
        self._status, self._stop, self._notebook, self._last_update = status, stop, True, float("-inf")

    def update(self, line: str) -> None:
        """Show a line; raises `KeyboardInterrupt` after Stop."""
        if self._stop.is_set():  # during a download too, which cannot be stopped in any other way
            raise KeyboardInterrupt
        super().update(line)

    def say(self, sentence: str) -> None:
        """Show a line."""
        self.log(sentence)

    def _show(self, lines: list[str]) -> None:
        if self._status.value != STOPPING:
            shown = reversed(lines[-2:])  # the newest first
            self._status.value = "".join(f'<div class="log">{display.escape(line)}</div>' for line in shown)


def _show_figure(widget: ipywidgets.Image, draw: Callable[..., Figure]) -> None:
    """Draw a figure, without pyplot (this may be a worker thread), and show it in an `Image` widget."""
    figure, file = Figure(figsize=(9, 3.4), dpi=90, layout="constrained"), io.BytesIO()
    draw(figure=figure).savefig(file, format="png")
    widget.value = file.getvalue()
    widget.layout.display = ""
