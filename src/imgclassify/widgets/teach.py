"""The teach box: name classes, give each some photos, train, and try it; without code."""

import contextlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from imgclassify import display
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset, DatasetError
from imgclassify.data.images import ImageError
from imgclassify.data.photos import Photo, Pictures
from imgclassify.evaluation.metrics import Evaluation
from imgclassify.models.networks import build_model
from imgclassify.recipes import Recipe
from imgclassify.training.features import backbone_recipe, compute_features, cross_validate
from imgclassify.training.train import train_model
from imgclassify.widgets.album import ENOUGH, NOT_YET, Album, counted, open_album
from imgclassify.widgets.camera import CameraClassifier
from imgclassify.widgets.cards import PhotoCard
from imgclassify.widgets.dropzone import DropZone
from imgclassify.widgets.gallery import Gallery
from imgclassify.widgets.handlers import Worker, button, discard, guarded, on_enter, row, styled
from imgclassify.widgets.panel import STOPPING, StatusProgress

_CERTAIN = 0.6  # photos whose class is as probable as this are not shown as weak
_TRIED = 6  # photos that were tried and stay in view
_LOOKED_AT = 20  # photos whose features are computed together
_FIELD: dict[str, Any] = {"layout": {"width": "260px", "max_width": "calc(100% - 4px)"}}
_FIELD |= {"style": {"description_width": "48px"}}


class TeachBox(ipywidgets.VBox):
    """A box that learns classes from photos: dropped, pasted, chosen, from a folder, or from the camera.

    Photos are kept in a folder of class folders, `artifacts/photos/<name>/<class>/`, as soon as they arrive: after a
    restart the box goes on where it was, and everything else can use the folder too. Their features are computed in
    the background, so that a training takes seconds. Each training is kept as a run.

    Args:
        folder: A folder of class folders, or a short name for the box's own. The photos of a folder are copied (hard-
            linked) into the box's own the first time; the folder itself is never changed. Default: "my-classes".
        recipe: A backbone's recipe, for the training; the accuracy by cross-validation is always that of "head".
        path_box: Offer a box for paths of folders on the kernel's machine.

    Attributes:
        album: The photos; see `Album`.
        new_class, add: The box for the name of a new class, and its button.
        path, load, save: The box for a folder's path, and its buttons; without `path_box` they are not shown.
        camera: The `CameraClassifier`, with a burst button for each class.
        train, stop: Buttons. Train returns at once.
        status, message, results: `HTML` with the progress, what went wrong, and what came out.
        weakest: The `Gallery` of photos that are wrong or least certain.
        upload, tried: The `DropZone` for photos to try, and a `TriedCard` for each, the last one first.
        model, evaluation: Of the last training: the `Classifier`, and its `Evaluation` by cross-validation.
        wait: Waits, at most a given number of seconds, for training or loading to end; returns whether it has.

    Raises:
        DatasetError: The folder is no folder of class folders, or the disk is full.
        ValueError: The recipe is unknown or has no backbone.
    """

    def __init__(self, folder: str | Path | None = None, *, recipe: str | Recipe = "head", path_box: bool = True):
        self._recipe = backbone_recipe(recipe)
        self.album = open_album(folder, self._recipe.size)
        self._worker, self._looker = Worker(), Worker()  # one trains or loads a folder, the other computes features
        self.wait = self._worker.wait
        self._stop, self._seen = threading.Event(), set[str]()
        self._learned = set[tuple[str, str]]()  # class and digest of the photos of the last training
        self._weak: list[tuple[Photo, str, str]] = []
        self.model: Classifier | None = None
        self.evaluation: Evaluation | None = None
        self.status, self.message, self.results, self._hint = (ipywidgets.HTML() for _ in range(4))
        self._shown = self.status  # where the progress of the present work is shown
        self.new_class = ipywidgets.Text(description="Class", placeholder="a name, such as cup", **_FIELD)
        self.path = ipywidgets.Text(description="Folder", placeholder="a path on this computer", **_FIELD)
        on_enter(self.new_class, self._on_add)
        on_enter(self.path, self._on_load)
        self.add, self.load = button("Add class", self._on_add), button("Add its photos", self._on_load)
        self.save, self.stop = button("Save all photos there", self._on_save), button("Stop", self._on_stop)
        self.train = button("Train", lambda _: self._begin(self._learn, self.status), button_style="primary")
        self._classes, self.tried = ipywidgets.Box(), ipywidgets.VBox()
        self._classes.add_class("classes")
        self.camera = CameraClassifier(on_frame=self._on_frame)
        self.weakest = Gallery(lambda: self._weak, self.album.cache, "Least certain", self._on_correct)
        self.upload = DropZone(self._on_try, label="Drop the next photo here")
        trial = _heading("Try it", "Show it photos it has not seen. Add those that it gets wrong, and train again.")
        self._after = ipywidgets.VBox([self.results, self.weakest, trial, self.upload, self.tried])
        self._after.layout.display = "none"
        kept = f" Photos are kept in {self.album.folder}." if path_box else ""
        heading = _heading("Classes and photos", f"Add two classes or more, each with ten photos or more.{kept}")
        paths = [row(self.path, self.load, self.save)] if path_box else []
        above = [heading, row(self.new_class, self.add), *paths, self.message, self._classes]
        training = [_heading("Training"), self._hint, row(self.train, self.stop), self.status]
        bursts = "Start the camera, then hold the button of a class: it gets five photos per second."
        below = [_heading("Camera", bursts), self.camera, *training, self._after]
        super().__init__(styled(*above, *below))
        self.add_class("imgclassify")
        self.add_class("imgclassify-teach")
        self.message.value = "".join(map(display.message, self.album.problems))
        if not path_box:
            discard(self.path, self.load, self.save)  # not even a forged message reaches them
        self._busy(False)

    @property
    def cards(self) -> dict[str, "ClassCard"]:
        """The card of each class, by its name."""
        return {card.name: card for card in self._classes.children}

    def _changed(self) -> None:
        """Bring everything in line with the photos, and compute the features of new ones."""
        names, cards = list(self.album.photos), self.cards
        gone = [card for name, card in cards.items() if name not in names]
        if names != self.camera.bursts:
            self._classes.children = [cards.get(name) or ClassCard(self.album, name, self._changed) for name in names]
            self.camera.bursts = names
            for card in self.tried.children:
                card.offer(names)
        discard(*gone)
        for card in self._classes.children:
            card.refresh()
        few = [name for name, photos in self.album.photos.items() if len(photos) < ENOUGH]
        too_few = len(names) - len(few) < 2
        self.train.disabled = too_few or not self.stop.disabled
        left_out = f"Left out, because they have fewer than two photos: {', '.join(few)}. " if few else ""
        changed = self.model is not None and self._learned != self._digests()
        news = f"{left_out}{'The photos have changed since the last training.' if changed else ''}"
        self._hint.value = display.hint(NOT_YET if too_few else news)
        if self._looker.wait(0):
            self._looker.begin(self._look)

    def _digests(self) -> set[tuple[str, str]]:
        return {(name, each.sha256) for name, photos in [*self.album.photos.items()] for each in [*photos]}

    @guarded
    def _look(self) -> None:
        """Compute the features of photos until there are no more new ones."""
        network = None
        while True:
            photos = [each for some in list(self.album.photos.values()) for each in list(some)]
            new = [each for each in photos if each.sha256 not in self._seen][:_LOOKED_AT]
            if not new or self._stop.is_set():
                return
            side = self._recipe.size
            network = network or build_model(self._recipe.architecture, input_shape=(side, side, 3), num_classes=2)
            compute_features(network, Pictures(new, self.album.cache), np.arange(len(new)))
            self._seen.update(each.sha256 for each in new)

    def _begin(self, work: Callable[[StatusProgress], str], shown: ipywidgets.HTML) -> None:
        """Work in the background, with progress; the sentence that comes back is shown at the end."""
        if self.wait(0):
            self._stop.clear()
            self.message.value, self._shown = "", shown
            self._busy(True)
            self._worker.begin(self._work, work)

    @guarded
    def _work(self, work: Callable[[StatusProgress], str]) -> None:
        self._shown.value = "Looking at the photos ..."
        ending = ""
        try:
            ending = work(StatusProgress(self._shown, self._stop))
        except KeyboardInterrupt:
            ending = "Stopped."
        finally:
            self._shown.value = f'<div role="status">{display.escape(ending)}</div>'
            self._busy(False)

    def _busy(self, busy: bool) -> None:
        self.stop.disabled = not busy
        self.train.disabled = self.load.disabled = self.save.disabled = busy
        if not busy:
            self._changed()

    @guarded
    def _on_add(self, _button) -> None:
        self.album.add_class(self.new_class.value)
        self.new_class.value = self.message.value = ""
        self._changed()

    @guarded
    def _on_load(self, _button) -> None:
        folder = _typed(self.path)
        self._begin(lambda progress: self.album.add_folder(folder, progress=progress), self.message)

    @guarded
    def _on_save(self, _button) -> None:
        folder = _typed(self.path)
        self._begin(lambda progress: self.album.save(folder), self.message)

    def _on_stop(self, _button) -> None:
        self._shown.value = STOPPING
        self._stop.set()

    def _learn(self, progress: StatusProgress) -> str:
        while not self._looker.wait(0.2):
            progress.update(f"computing features  {len(self._seen):,} of {len(self.album):,}")  # may raise, after Stop
        learned, data, name = self._digests(), self.album.dataset(), re.sub(r"[^\w.-]+", "-", self.album.folder.name)
        model, _ = train_model(self._recipe, data, name=name, stop=self._stop, progress=progress)
        measured = cross_validate(data, recipe=self._recipe, progress=progress)
        self.model, self.evaluation, self._learned = model, measured, learned
        self._show(data, measured)
        self.camera.use(model)
        for card in self.tried.children:
            card.use(model)
        return f'Kept as the run {model.name}. Load it by load_model("{model.name}").'

    def _show(self, data: Dataset, measured: Evaluation) -> None:
        """Show what came out of a training."""
        pictures: Any = data.x_train
        names, counts, (low, high) = data.class_names, measured.confusion.sum(axis=1), measured.interval
        certain = measured.probabilities[np.arange(len(measured.labels)), measured.labels]
        pairs = [(names[i], names[j]) for i, j in zip(measured.labels, measured.predicted, strict=True)]
        self._weak = [
            (pictures.photos[row], pairs[row][0], "" if measured.correct[row] else pairs[row][1])
            for row in np.argsort(certain, kind="stable")
            if certain[row] < _CERTAIN
        ]
        lines = [
            f"Right on {measured.accuracy:.0%} of {counted(len(pairs))} (95% interval {low:.0%} to {high:.0%}). Each "
            "was classified by a model trained without it and without its near-duplicates (cross-validation).",
            *(
                f"{true} taken for {other}: {count} of {counted(int(counts[names.index(true)]))}."
                for true, other, count in measured.most_confused(3)
            ),
            *(["The least certain photos first. Is one in the wrong class? Remove or move it."] if self._weak else []),
        ]
        self.results.value = "".join(f"<p>{display.escape(line)}</p>" for line in lines)
        self.weakest.refresh()
        self._after.layout.display = ""

    def _on_correct(self, photo: Photo, label: str) -> None:
        if label:
            self.album.move(photo, label)
        else:
            self.album.remove(photo)
        self._weak = [each for each in self._weak if each[0].sha256 != photo.sha256]
        self.weakest.refresh()
        self._changed()

    def _on_frame(self, name: str, content: bytes) -> None:
        with contextlib.suppress(ImageError):  # a camera may give the same frame twice; the burst goes on
            self.album.add(name, f"camera-{time.time_ns()}.jpg", content)
        self._changed()

    def _on_try(self, name: str, content: bytes) -> None:
        if self.model is None:
            raise ValueError("Train first, then try photos.")
        card = TriedCard(self.model, name, content, lambda label: self._on_teach(label, name, content))
        card.offer(list(self.album.photos))
        gone = self.tried.children[_TRIED - 1 :]
        self.tried.children = (card, *self.tried.children[: _TRIED - 1])
        discard(*gone)

    def _on_teach(self, label: str, name: str, content: bytes) -> None:
        self.album.add(label, name, content)
        self._changed()


class TriedCard(PhotoCard):
    """A photo that was tried, with a button that adds it to a class of a `TeachBox`.

    Attributes:
        label, teach: The `Dropdown` of classes, and the button.
    """

    def __init__(self, model: Classifier, name: str, content: bytes, add: Callable[[str], None]):
        super().__init__(model, name, content)
        self._add = add
        self.label = ipywidgets.Dropdown(description="Class", **_FIELD)
        self.teach = button("Add to this class", self._on_teach)
        self.children = [self.crop, self.answer, row(self.label, self.teach), self.message]

    def offer(self, names: list[str]) -> None:
        """Let the user choose among these classes; what is chosen stays, and is the model's answer at first."""
        chosen = self.label.value or self.prediction.label
        self.label.options = names
        self.label.value = chosen if chosen in names else None

    @guarded
    def _on_teach(self, _button) -> None:
        if (label := self.label.value) is None:
            raise ValueError("Choose a class first.")
        self._add(label)
        self.message.value = f'<div role="status">{display.escape(f"Added to {label}.")}</div>'


class ClassCard(ipywidgets.VBox):
    """One class of a `TeachBox`: its name, which can be changed, its photos, and a zone that takes more.

    Attributes:
        name: The class.
        title: The `Text` with the name.
        delete, confirm, keep: Buttons; a class with photos is deleted only after `confirm`.
        upload, gallery: The `DropZone` and the `Gallery`.
        message: `HTML` for what went wrong.
    """

    def __init__(self, album: Album, name: str, on_change: Callable[[], None]):
        self._album, self.name, self._on_change = album, name, on_change
        self.title = ipywidgets.Text(value=name, tooltip="Name of the class", continuous_update=False)
        self.title.observe(self._on_title, names="value")
        self.delete = button("Delete...", self._on_delete)
        self.confirm = button("", self._on_confirm, button_style="danger")
        self.keep = button("Keep", lambda _: self._asking.layout.set_trait("display", "none"))
        self._count, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self._asking = row(self.confirm, self.keep, display="none")
        self.upload = DropZone(self._on_photo, label=f"Drop photos of {name}", folder=True)
        self.gallery = Gallery(self._photos, album.cache, name, self._on_remove)
        head = row(self.title, self._count, self.delete)
        super().__init__([head, self._asking, self.message, self.upload, self.gallery])
        self.add_class("class")

    def refresh(self) -> None:
        """Show the photos as they are now."""
        if (shown := counted(len(self._photos()))) != self._count.value:
            self._count.value = shown
            self.confirm.description = f"Delete {shown} for good"
            self.gallery.refresh()

    def _photos(self) -> list[tuple[Photo, str, str]]:
        return [(photo, "", "") for photo in reversed(self._album.photos.get(self.name, []))]  # the newest first

    def _on_photo(self, name: str, content: bytes) -> None:
        self._album.add(self.name, name, content)
        self._on_change()

    def _on_remove(self, photo: Photo, _) -> None:
        self._album.remove(photo)
        self._on_change()

    @guarded
    def _on_title(self, change: dict) -> None:
        if change["new"] == self.name:
            return
        try:
            self.message.value = ""
            self.name = self._album.rename_class(self.name, change["new"])
        finally:
            self.title.value = self.gallery.label = self.name
            self.upload.label = f"Drop photos of {self.name}"
        self._on_change()

    def _on_delete(self, _button) -> None:
        self._asking.layout.display = "flex"
        if not self._photos():
            self._on_confirm(None)

    @guarded
    def _on_confirm(self, _button) -> None:
        self._album.delete_class(self.name)
        self._on_change()


def _heading(text: str, hint: str = "") -> ipywidgets.HTML:
    return ipywidgets.HTML(f'<h4 class="part">{text}</h4>{display.hint(hint)}')


def _typed(box: ipywidgets.Text) -> Path:
    """The folder that was typed."""
    if not (path := box.value.strip().strip("\"'")):
        raise DatasetError("Type the path of a folder first.")
    return Path(path).expanduser()
