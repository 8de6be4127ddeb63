"""ipywidgets: thin faces over the package's functions, which do the same without them."""

import functools
import html
import io
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
from matplotlib.figure import Figure
from PIL import Image

from imgclassify import persistence
from imgclassify.augmentation import AUGMENTATIONS
from imgclassify.data import Dataset, DatasetError, load_dataset
from imgclassify.experiments import compare_runs, delete_run, list_runs
from imgclassify.images import ImageError, Picture, decode_image
from imgclassify.prediction import Prediction, class_names_of, classify_custom_image, image_data_uri
from imgclassify.progress import Progress
from imgclassify.recipes import RECIPES
from imgclassify.training import train_model
from imgclassify.visualization import plot_history, plot_runs

_STOPPING = "Stopping ..."
_GIVEN = "given"  # not None, which a Dropdown may show as no choice at all
_SOCKET_BYTES = 7_000_000  # JupyterLab's default message limit is 10 MiB, and uploads travel as base64


def _guarded(method: Callable) -> Callable:
    """A widget's handler whose exceptions appear in the widget's `message`, not in the front end's hidden log."""

    @functools.wraps(method)
    def handler(self, *arguments):
        try:
            return method(self, *arguments)
        except (ValueError, FileNotFoundError, MemoryError) as error:
            self.message.value = _red(str(error))
        except Exception as error:
            self.message.value = _red(f"{type(error).__name__}: {error}", traceback.format_exc())
        return None

    return handler


def _red(sentence: str, details: str = "") -> str:
    fold = f"<details><summary>details</summary><pre>{html.escape(details)}</pre></details>" if details else ""
    return f'<div style="color:#b00020;margin:4px 0">{html.escape(sentence)}{fold}</div>'


class UploadClassifier(ipywidgets.VBox):
    """A box that classifies each picture chosen from the computer, from a path, or from the examples at once.

    Args:
        model: From `load_model` or `train_model`; default: `load_model("best")`.
        path_box: Offer a box for the path of a file on the kernel's machine, for files too large to upload.
        max_bytes: Largest upload, in bytes. Files chosen together travel together; more than the server takes
            is dropped by it before it gets here.

    Attributes:
        upload: The `FileUpload` button.
        models: The choice of models, or the given one alone.
        path, open_path: The path box and its button; None without `path_box`.
        examples: A button for each example, each with its picture above.
        message: `HTML` for sentences in red.
        output: `HTML` with the results.
        predictions: The `Prediction`s of the last choice, in its order.
    """

    def __init__(self, model=None, *, path_box: bool = True, max_bytes: int = _SOCKET_BYTES):
        self._max_bytes = max_bytes
        self._model = self._given = model if model is not None else persistence.load_model("best")
        self.predictions: list[Prediction] = []
        self.message, self.output, self._classes = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.upload = ipywidgets.FileUpload(
            accept="image/*",
            multiple=True,
            description="Choose pictures",
            button_style="primary",
            layout={"width": "170px"},
        )
        self.upload.observe(self._on_upload, names="value")
        published = [(path.name, path) for path in persistence.list_models()]
        given = (getattr(self._model, "manifest", None) or {}).get("run", self._model.name)
        self.models = ipywidgets.Dropdown(
            options=[(f"the given model ({given})", _GIVEN), *published], description="Model", layout={"width": "360px"}
        )
        self.models.observe(self._on_model, names="value")
        rows = [ipywidgets.HBox([self.upload, self.models], layout={"flex_flow": "row wrap"}), self._classes]
        limit = f"Uploads of up to {max_bytes / 1e6:.0f} MB together"
        self.path = self.open_path = None
        if path_box:
            self.path = ipywidgets.Text(placeholder="path of a picture on this computer", layout={"width": "360px"})
            self.open_path = ipywidgets.Button(description="Classify file", layout={"width": "170px"})
            self.open_path.on_click(self._on_path)
            rows.append(ipywidgets.HBox([self.open_path, self.path], layout={"flex_flow": "row wrap"}))
            limit += "; the path box takes larger ones"
        rows.append(ipywidgets.HTML(f'<span style="color:#666">{limit}. Nothing is stored.</span>'))
        self.examples = []
        if pictures := example_pictures():
            rows.append(ipywidgets.HBox([self._example(*each) for each in pictures], layout={"flex_flow": "row wrap"}))
        super().__init__([*rows, self.message, self.output])
        self._show_classes()

    def classify(self, files: Sequence[tuple[str, Picture]]) -> list[Prediction]:
        """Classify and show pictures, as if they had been uploaded.

        Args:
            files: Name and picture of each; see `decode_image` for what a picture can be.

        Returns:
            The predictions of those that could be used; the others are named in `message`.
        """
        self.predictions, cards, problems = [], [], []
        for name, picture in files:
            try:
                if isinstance(picture, bytes) and len(picture) > self._max_bytes:
                    raise ImageError(
                        f"{name} has {len(picture) / 1e6:.1f} MB: "
                        f"at most {self._max_bytes / 1e6:.0f} MB can be uploaded."
                    )
                started = time.perf_counter()
                image = decode_image(picture, name=name)
                prediction = classify_custom_image(self._model, image)
                milliseconds = 1000 * (time.perf_counter() - started)
                self.predictions.append(prediction)
                cards.append(_card(name, image, prediction, milliseconds))
            except ImageError as error:
                problems.append(_red(str(error)))
            except Exception as error:
                problems.append(
                    _red(f"{name} could not be classified ({type(error).__name__}: {error}).", traceback.format_exc())
                )
        self.message.value = "".join(problems)
        self.output.value = "".join(cards)
        return self.predictions

    @_guarded
    def _on_upload(self, change: dict) -> None:
        if files := change["new"]:  # empty after the reset below
            self.classify([(file["name"], bytes(file["content"])) for file in files])
            self.upload.value = ()  # so that the same file can be chosen again

    @_guarded
    def _on_path(self, _button) -> None:
        path = self.path.value.strip().strip("\"'")
        if not path:
            raise ImageError("Write the path of a picture into the box first.")
        self.classify([(path, Path(path))])

    @_guarded
    def _on_model(self, change: dict) -> None:
        try:
            self._model = self._given if change["new"] == _GIVEN else persistence.load_model(change["new"])
        except ValueError:
            self.models.unobserve(self._on_model, names="value")
            self.models.value = change["old"]  # the list names the model that is in use
            self.models.observe(self._on_model, names="value")
            raise
        self.message.value, self.output.value = "", ""
        self._show_classes()

    def _show_classes(self) -> None:
        self._classes.value = f"It knows only: <b>{html.escape(', '.join(class_names_of(self._model)))}</b>."

    def _example(self, name: str, picture: Picture) -> ipywidgets.VBox:
        button = ipywidgets.Button(description=name, tooltip=f"Classify the example: {name}", layout={"width": "112px"})
        button.on_click(lambda _: self.classify([(name, picture)]))
        self.examples.append(button)
        thumbnail = ipywidgets.Image(value=_jpeg(decode_image(picture), 104), format="jpeg", width=104, height=104)
        return ipywidgets.VBox([thumbnail, button], layout={"align_items": "center"})


def example_pictures() -> list[tuple[str, Picture]]:
    """Pictures to try: photos that scikit-image ships, and test pictures where the data is at hand."""
    found: list[tuple[str, Picture]] = []
    try:
        import skimage

        photos = Path(skimage.__file__).parent / "data"
        found += [
            (name, photos / file)
            for name, file in (("cat photo", "chelsea.png"), ("coffee cup", "coffee.png"))
            if (photos / file).exists()
        ]
    except ImportError:
        pass
    try:
        data = load_dataset("cifar10", offline=True, show_progress=False)
        found += [(f"test: {data.class_names[data.y_test[i]]}", data.x_test[i]) for i in range(4)]
    except DatasetError:
        pass
    return found


def _card(name: str, image: Image.Image, prediction: Prediction, milliseconds: float) -> str:
    photo = Image.open(io.BytesIO(_jpeg(image, 256)))
    address = image_data_uri(photo)
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:center;margin:8px 0;padding:8px;'
        'border:1px solid #ccc">'
        f'<figure style="margin:0"><img src="{address}" alt="the picture" style="height:128px;max-width:256px">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        f'<figure style="margin:0"><img src="{image_data_uri(prediction.image)}" alt="what the model sees" '
        'width="128" height="128" style="image-rendering:pixelated">'
        "<figcaption>what the model sees</figcaption></figure>"
        '<div style="flex:1 1 260px;max-width:420px;line-height:1.8">'
        f'<b style="font-size:120%">{html.escape(prediction.label)}</b> '
        f'<span style="color:#666">{milliseconds:.0f} ms</span>{prediction.bars_html(3)}</div></div>'
    )


def _jpeg(image: Image.Image, side: int) -> bytes:
    """The picture as JPEG, shrunk to fit a square of `side` pixels; small ones enlarged in whole pixels."""
    file = io.BytesIO()
    fitted = image.copy()
    if max(image.size) < side:
        fitted = image.resize([length * (side // max(image.size)) for length in image.size], Image.Resampling.NEAREST)
    fitted.thumbnail((side, side))
    fitted.save(file, format="JPEG", quality=85)
    return file.getvalue()


_PANEL_SETTINGS = ("epochs", "batch_size", "learning_rate", "augmentation")  # of the recipe


class TrainingPanel(ipywidgets.VBox):
    """Trains in the background with live curves, and lists, compares and deletes runs.

    Args:
        data: A `Dataset`; default: `load_dataset("auto")`, when the first training starts.

    Attributes:
        recipe, epochs, batch_size, learning_rate, augmentation, seed, share: The controls.
        start, stop: The buttons. Start returns at once; Stop ends the training after the step it is in.
        status, message: `HTML` with the progress, and with sentences in red.
        curves: `Image` with the history so far.
        runs: `SelectMultiple` of run names.
        compare, delete, confirm, keep: Buttons.
        table: `HTML` with the comparison; `overlay`: `Image` with the curves of the chosen runs.
        model, history: Of the last training.
    """

    def __init__(self, data: Dataset | None = None):
        self._data, self._worker, self._stop, self._doomed = data, None, threading.Event(), ()
        self.model, self.history = None, {}
        wide = {"style": {"description_width": "95px"}, "layout": {"width": "250px"}}
        baseline = RECIPES["baseline"]
        self.recipe = ipywidgets.Dropdown(options=list(RECIPES), value=baseline.name, description="Recipe", **wide)
        self.epochs = ipywidgets.BoundedIntText(baseline.epochs, min=1, max=1000, description="Epochs", **wide)
        self.batch_size = ipywidgets.BoundedIntText(
            baseline.batch_size, min=1, max=4096, description="Batch size", **wide
        )
        self.learning_rate = ipywidgets.BoundedFloatText(
            baseline.learning_rate, min=1e-6, max=1, step=1e-4, description="Learning rate", **wide
        )
        self.augmentation = ipywidgets.Dropdown(
            options=AUGMENTATIONS, value=baseline.augmentation, description="Augmentation", **wide
        )
        self.seed = ipywidgets.BoundedIntText(0, min=0, max=2**31 - 1, description="Seed", **wide)
        self.share = ipywidgets.FloatSlider(
            1.0, min=0.05, max=1, step=0.05, description="Share of data", readout_format=".0%", **wide
        )
        self.start = ipywidgets.Button(description="Start", button_style="primary", icon="play")
        self.stop = ipywidgets.Button(description="Stop", button_style="warning", icon="stop", disabled=True)
        self.status, self.message, self.table = ipywidgets.HTML("Ready."), ipywidgets.HTML(), ipywidgets.HTML()
        self.curves, self.overlay = (
            ipywidgets.Image(format="png", layout={"width": "810px", "max_width": "100%", "display": "none"})
            for _ in range(2)
        )
        self.runs = ipywidgets.SelectMultiple(options=[], rows=5, layout={"width": "420px", "max_width": "100%"})
        self.compare = ipywidgets.Button(description="Compare", tooltip="The chosen runs, or all of them")
        self.delete = ipywidgets.Button(description="Delete...", tooltip="Delete the chosen runs, after asking")
        self.confirm = ipywidgets.Button(description="Yes, delete", button_style="danger")
        self.keep = ipywidgets.Button(description="Keep")
        self._question = ipywidgets.HTML()
        self._asking = ipywidgets.HBox([self._question, self.confirm, self.keep], layout={"display": "none"})
        for button, handler in (
            (self.start, self._on_start),
            (self.stop, self._on_stop),
            (self.compare, self._on_compare),
            (self.delete, self._on_delete),
            (self.confirm, self._on_confirm),
            (self.keep, self._on_keep),
        ):
            button.on_click(handler)
        self.recipe.observe(self._on_recipe, names="value")
        wrap = {"flex_flow": "row wrap"}
        super().__init__(
            [
                ipywidgets.HBox(
                    [
                        self.recipe,
                        self.epochs,
                        self.batch_size,
                        self.learning_rate,
                        self.augmentation,
                        self.seed,
                        self.share,
                    ],
                    layout=wrap,
                ),
                ipywidgets.HBox([self.start, self.stop]),
                self.status,
                self.message,
                self.curves,
                ipywidgets.HTML("<b>Runs</b>, newest first (Ctrl or Shift chooses several)"),
                self.runs,
                ipywidgets.HBox([self.compare, self.delete]),
                self._asking,
                self.table,
                self.overlay,
            ]
        )
        self._list_runs()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, at most `timeout` seconds, for the training to end; returns whether it has."""
        if self._worker is not None:
            self._worker.join(timeout)
        return self._worker is None or not self._worker.is_alive()

    @_guarded
    def _on_start(self, _button) -> None:
        if not self.wait(0):
            return
        self._stop.clear()
        self.message.value = ""
        self._busy(True)
        settings = {name: getattr(self, name).value for name in (*_PANEL_SETTINGS, "seed", "share")}
        self._worker = threading.Thread(target=self._train, args=(self.recipe.value, settings), daemon=True)
        self._worker.start()

    @_guarded
    def _train(self, recipe: str, settings: dict) -> None:
        try:
            self.status.value = "Loading the data ..."
            progress = _StatusProgress(self.status, self._stop)
            self._data = self._data or load_dataset("auto", progress=progress)
            if self._data.notice:
                self.message.value = _red(self._data.notice)
            if self._stop.is_set():
                raise KeyboardInterrupt
            self.status.value = "Building the network ..."
            self.model, self.history = train_model(
                recipe,
                self._data,
                stop=self._stop,
                on_epoch=self._draw,
                progress=progress,
                **settings,
            )
            manifest, metrics = self.model.manifest, self.model.manifest["metrics"]
            ending = "Finished" if manifest["status"] == "complete" else "Stopped"
            accuracy = f"validation accuracy {metrics['val_accuracy']:.2%}" if metrics else "no epoch was finished"
            self.status.value = f"{ending}: {accuracy}; kept as the run {manifest['run']}."
        except KeyboardInterrupt:
            self.status.value = "Stopped before the training began."
        except Exception:
            self.status.value = "Failed."
            raise
        finally:
            try:
                self._list_runs()
            finally:
                self._busy(False)

    @_guarded
    def _draw(self, history: dict[str, list[float]]) -> None:
        self.history = history
        _show_figure(
            self.curves, functools.partial(plot_history, history, title=f"{self.recipe.value}, {self._data.source}")
        )

    @_guarded
    def _on_stop(self, _button) -> None:
        if not self.stop.disabled:  # else the click came after the end
            self.status.value = _STOPPING
            self._stop.set()

    @_guarded
    def _on_recipe(self, change: dict) -> None:
        for name in _PANEL_SETTINGS:
            getattr(self, name).value = getattr(RECIPES[change["new"]], name)

    @_guarded
    def _on_compare(self, _button) -> None:
        self.message.value = ""
        self._list_runs()
        comparison = compare_runs(*self.runs.value)
        self.table.value = comparison._repr_html_()
        _show_figure(self.overlay, functools.partial(plot_runs, comparison.runs))

    @_guarded
    def _on_delete(self, _button) -> None:
        if not self.runs.value:
            raise ValueError("Choose one or several runs in the list first.")
        self.message.value = ""
        self._doomed = self.runs.value
        self._question.value = f"Delete {html.escape(', '.join(self._doomed))} for good?"
        self._asking.layout.display = "flex"

    @_guarded
    def _on_confirm(self, _button) -> None:
        self._asking.layout.display = "none"
        try:
            for name in self._doomed:
                delete_run(name)
        finally:
            self._list_runs()

    def _on_keep(self, _button) -> None:
        self._asking.layout.display = "none"

    def _list_runs(self) -> None:
        """Show which runs there are, keeping what is chosen."""
        chosen, names = self.runs.value, [run.name for run in list_runs()]
        self.runs.options = names
        self.runs.value = [name for name in chosen if name in names]
        self.table.value = compare_runs()._repr_html_() if names else "No runs yet."
        self.overlay.layout.display = "none"

    def _busy(self, busy: bool) -> None:
        self.start.disabled = self.delete.disabled = self.confirm.disabled = busy
        self.stop.disabled = not busy


class _StatusProgress(Progress):
    """Progress that goes to an `HTML` widget, whose traits may be set from any thread."""

    def __init__(self, status: ipywidgets.HTML, stop: threading.Event):
        super().__init__()
        self._status, self._stop, self._last = status, stop, ""

    def __exit__(self, *exception) -> None:
        pass

    def log(self, line: str) -> None:
        self._last = line
        self._put(line)

    def update(self, line: str) -> None:
        if self._stop.is_set():  # also where a download is shown, which knows no other way to stop
            raise KeyboardInterrupt
        if time.monotonic() - self._last_update > 0.25:
            self._last_update = time.monotonic()
            self._put(line, self._last)

    def say(self, sentence: str) -> None:
        self._put(sentence)

    def _put(self, *lines: str) -> None:
        if self._status.value != _STOPPING:
            self._status.value = "".join(
                f'<div style="font-family:monospace;white-space:pre-wrap">{html.escape(line)}</div>'
                for line in lines
                if line
            )


def _show_figure(widget: ipywidgets.Image, draw: Callable[..., Figure]) -> None:
    """Draw a figure, without pyplot (this may be a worker thread), and show it in an `Image` widget."""
    figure, file = Figure(figsize=(9, 3.4), dpi=90, layout="constrained"), io.BytesIO()
    draw(figure=figure).savefig(file, format="png")
    widget.value = file.getvalue()
    widget.layout.display = ""
