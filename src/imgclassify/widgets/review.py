"""The label review: doubtful labels, one picture after another, to keep or to correct; the pictures are not touched."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from imgclassify import display
from imgclassify.atomic import replacing
from imgclassify.data.photos import Pictures
from imgclassify.evaluation.labels import Doubt
from imgclassify.runs.manifest import strict_json
from imgclassify.widgets.handlers import button, guarded, row, styled, view_html


class LabelReview(ipywidgets.VBox):
    """A box that shows doubtful labels with their pictures, and writes down which are kept and which corrected.

    Every decision is in the file at once, where the next review of the same file goes on. Pictures and folders stay as
    they are.

    Args:
        pictures: uint8 (N, H, W, 3).
        doubts: From `doubtful_labels`, rows of these pictures.
        class_names: All classes.
        path: A JSON file for the decisions: for each picture a checksum of its pixels, its row and file, the label in
            the data and the one decided on. If it exists, its decisions are taken over, wherever the pictures are now.

    Attributes:
        keep, correct, back: Buttons: the label is right; it is the suggestion; show the picture before.
        other: A drop-down list of all classes, for when it is neither.
        picture, message: `HTML` with the picture that is asked about, and with what went wrong.

    Raises:
        ValueError: The file exists and is no list of decisions.
    """

    def __init__(self, pictures: np.ndarray, doubts: Sequence[Doubt], class_names: Sequence[str], path: str | Path):
        self._pictures, self._doubts, self._path = pictures, list(doubts), Path(path)
        self._decided = _read(self._path)
        self._keys = [hashlib.sha256(pictures[each.row].tobytes()).hexdigest() for each in self._doubts]
        self._place = 0
        self.picture, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        wide = {"width": "auto", "max_width": "calc(100% - 4px)"}
        self.keep = button("", lambda _: self.decide(self._doubt.label), layout=wide)
        self.correct = button("", lambda _: self.decide(self._doubt.suggestion), layout=wide)
        self.other: Any = ipywidgets.Dropdown(
            options=[("another class", ""), *((name, name) for name in class_names)],
            layout={"width": "180px"},
            tooltip="The picture shows another class",
        )
        self.other.observe(lambda change: self.decide(change["new"]) if change["new"] else None, names="value")
        self.back = button("Back", lambda _: self._show(self._place - 1), layout={"width": "90px"})
        buttons = row(self.keep, self.correct, self.other, self.back)
        super().__init__(styled(self.picture, buttons, self.message))
        self.add_class("imgclassify")
        decided = [self._decision(place) is not None for place in range(len(self._doubts))]
        self._show(decided.index(False) if False in decided else len(decided))

    @property
    def corrections(self) -> dict[int, str]:
        """The decided classes by row, of those only that differ from the data's."""
        found = ((doubt, self._decision(place)) for place, doubt in enumerate(self._doubts))
        return {doubt.row: new for doubt, new in found if new not in (None, doubt.label)}

    @property
    def _doubt(self) -> Doubt:
        return self._doubts[self._place]

    def _decision(self, place: int) -> str | None:
        """What was decided on a doubt; None if nothing was, or its picture had another label then."""
        entry = self._decided.get(self._keys[place], {})
        return entry.get("decided") if entry.get("label") == self._doubts[place].label else None

    @guarded
    def decide(self, label: str) -> None:
        """Write down that the picture that is shown has this label, and show the next one."""
        if self._place >= len(self._doubts):
            return
        number, key = self._doubt.row, self._keys[self._place]
        file = self._pictures.photos[number].path if isinstance(self._pictures, Pictures) else None
        entry = {"row": number, "file": file, "label": self._doubt.label, "decided": label}
        decided = self._decided | {key: entry}
        entries = [{"picture": key, **each} for key, each in decided.items()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path, lasting=True) as part:
            part.write_text(strict_json(entries) + "\n", encoding="utf-8")
        self._decided = decided
        self._show(self._place + 1)

    def _show(self, place: int) -> None:
        self._place, self.message.value = place, ""
        count = sum(self._decision(each) is not None for each in range(len(self._doubts)))
        done = f"{count} decided, {len(self.corrections)} of them corrected"
        self.back.disabled = place == 0
        self.keep.disabled = self.correct.disabled = self.other.disabled = place >= len(self._doubts)
        self.other.value = ""
        if place >= len(self._doubts):
            self.picture.value = f"<p>No more doubtful labels: {done}. They are in {display.escape(self._path)}.</p>"
            return
        label, suggestion = self._doubt.label, self._doubt.suggestion
        self.keep.description, self.correct.description = f"Keep: {label}", f"Correct: {suggestion}"
        said = f"{place + 1} of {len(self._doubts)}. Labelled <b>{display.escape(label)}</b>; the model finds"
        shares = display.bars([(suggestion, self._doubt.alternative), (label, self._doubt.confidence)])
        seen = f"<figure>{view_html(self._pictures[self._doubt.row], f'picture {self._doubt.row}')}</figure>"
        answer = f'<div class="answer"><p>{said}</p>{shares}<p>{display.hint(done)}</p></div>'
        self.picture.value = f'<div class="card">{seen}{answer}</div>'


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The decisions by checksum of the picture; empty without a file."""
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        kept = ("row", "file", "label", "decided")
        return {str(entry["picture"]): {key: entry[key] for key in kept} for entry in entries}
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"{path} is no list of decided labels ({error}): move it away, or give another path."
        ) from error
