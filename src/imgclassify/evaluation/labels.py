"""Labels: which of them are doubtful, and what an accuracy is with corrected ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from imgclassify.evaluation.metrics import Evaluation

UNLIKELY = 0.07  # probability of a label, below which it is doubtful; chosen on changed labels of "clothing"


class Doubt(NamedTuple):
    """A label that a model finds unlikely."""

    row: int  # of the picture
    label: str  # its class by the data
    suggestion: str  # the most probable class
    confidence: float  # probability of the label, 0 to 1
    alternative: float  # probability of the suggestion

    def __str__(self) -> str:
        return f"{self.label} {self.confidence:.1%}, {self.suggestion} {self.alternative:.1%}"


def doubtful_labels(evaluation: Evaluation, *, below: float = UNLIKELY) -> list[Doubt]:
    """Labels that are less probable than `below`, the least probable first: wrong ones are often among them.

    The model must not have learned from these pictures: give an evaluation of test pictures, or of training pictures
    from `cross_validate`. The rule is the self-confidence of confident learning (Northcutt et al., "Confident Learning:
    Estimating Uncertainty in Dataset Labels", 2021). Notebook 06 measures how many changed labels it finds.

    A doubtful label need not be wrong: look at the picture.
    """
    own = evaluation.probabilities[np.arange(len(evaluation.labels)), evaluation.labels]
    rows = np.arange(len(own)) if evaluation.rows is None else evaluation.rows
    names, said, found = evaluation.class_names, evaluation.predicted, []
    for place in np.argsort(own, kind="stable"):
        if own[place] >= below:
            break
        if said[place] == evaluation.labels[place]:  # with many classes, even the most probable one can be unlikely
            continue
        label, suggestion = names[evaluation.labels[place]], names[said[place]]
        found.append(Doubt(int(rows[place]), label, suggestion, float(own[place]), float(evaluation.confidence[place])))
    return found


def with_corrections(evaluation: Evaluation, corrections: Mapping[int, str]) -> Evaluation:
    """The same answers, judged by corrected labels.

    It tells what the wrong labels cost; it is not the model's result. If only doubtful labels are looked at, they are
    those against which the model was wrong, so that correcting them can hardly make it worse.

    Args:
        evaluation: Of the pictures of a part.
        corrections: Names of classes by the rows of their pictures, as `LabelReview` gives them.

    Raises:
        ValueError: There is no such row or class.
    """
    labels, names = evaluation.labels.copy(), list(evaluation.class_names)
    rows = np.arange(len(labels)) if evaluation.rows is None else evaluation.rows
    places = {int(row): place for place, row in enumerate(rows)}
    for row, name in corrections.items():
        if row not in places or name not in names:
            accepted = f"{len(labels)} rows up to {rows.max()}, and the classes {', '.join(names)}"
            raise ValueError(f"Corrections are for {accepted}. Received: {row}: {name!r}")
        labels[places[row]] = names.index(name)
    return replace(evaluation, labels=labels)
