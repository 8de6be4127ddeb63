"""Drift: whether a model's answers in use differ from its answers on validation pictures, told from a service's log."""

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgclassify.evaluation.answers import Answers, read_log, validation_answers
from imgclassify.runs.names import find_model, name_of

# What is looked at, with the least change that counts: of many answers, one that matters to nobody is significant too.
LEAST = {
    "confidence": 0.1,  # largest distance between the two cumulative distributions (Kolmogorov-Smirnov)
    "class shares": 0.1,  # share of the accepted answers that would have to be of another class
    "refusals": 0.05,  # difference of the shares that are none of the classes
}
FALSE_ALARMS = 0.01  # probability of a drift in a whole log where there is none
_FEWEST = 200  # independent answers that are judged together
_LAGS = 100  # neighbours in the log that may be alike
_EXPECTED = 5  # answers of a class at least, for the chi-squared test; rarer classes are counted together


@dataclass(frozen=True, eq=False)
class Window:
    """Some days, with at least as many answers as 200 independent ones, if the log has as many."""

    first: dt.date
    last: dt.date
    answers: Answers
    changes: dict[str, tuple[float, float]]  # size and p-value of each change, as in `compare`
    drifts: tuple[str, ...]  # what has changed, of what is in `LEAST`

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"


@dataclass(frozen=True, eq=False)
class Drift:
    """What a log says, window by window, beside the validation pictures."""

    model: str  # its name, without a path
    reference: Answers
    windows: tuple[Window, ...]
    skipped: dict[str, int]  # number of lines by the reason

    def to_dict(self) -> dict:
        """The same as values for JSON."""
        windows = [
            {"first": str(each.first), "last": str(each.last), **_summary(each.answers), "drifts": each.drifts}
            | {name: {"change": size, "p": p} for name, (size, p) in each.changes.items()}
            for each in self.windows
        ]
        drifts = sorted({name for each in self.windows for name in each.drifts})
        about = {"model": self.model, "drifts": drifts, "validation": _summary(self.reference)}
        return about | {"windows": windows, "skipped": self.skipped, "least": LEAST}

    def __str__(self) -> str:
        count = sum(len(each.answers) for each in self.windows)
        lines = [f"{count:,} answers by {self.model}, compared with those on {len(self.reference):,} pictures."]
        lines += [f"Skipped: {number:,} {why}." for why, number in self.skipped.items()]
        for name, least in LEAST.items():
            found = [each for each in self.windows if name in each.drifts]
            sizes = [each.changes[name][0] for each in self.windows]
            if not found:
                largest = max(sizes, default=0)
                doubt = ", which may be chance" if largest >= least else ""
                lines.append(f"{name}: no drift (largest change {largest:.2f}{doubt}).")
                continue
            worst = max(found, key=lambda each: each.changes[name][0])
            size, p = worst.changes[name]
            text = f"{name}: DRIFT in {len(found)} of {len(sizes)} windows, most on {worst}: {_said(name, worst, self)}"
            lines.append(f"{text} (change {size:.2f}, at least {least} counts; p = {p:.1g}).")
        if count < _FEWEST:
            lines.append(f"These are few answers: with fewer than {_FEWEST}, this is not reliable.")
        return "\n".join(lines)

    __repr__ = __str__


def _summary(answers: Answers) -> dict:
    shares = answers.counts / max(1, answers.counts.sum())
    mean = float(answers.confidence.mean())
    classes = dict(zip(answers.class_names, map(float, shares), strict=True))
    return {"answers": len(answers), "confidence": mean, "refusals": answers.refused, "class shares": classes}


def _said(name: str, window: Window, drift: Drift) -> str:
    now, before = _summary(window.answers), _summary(drift.reference)
    if name == "class shares":
        gains = {label: share - before[name][label] for label, share in now[name].items()}
        label = max(gains, key=lambda each: abs(gains[each]))
        return f"{label} {now[name][label]:.0%} instead of {before[name][label]:.0%}"
    return f"{'mean ' if name == 'confidence' else ''}{now[name]:.0%} instead of {before[name]:.0%}"


def compare(reference: Answers, answers: Answers, alike: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Size and p-value of each kind of change between two sets of answers; see `LEAST`.

    Confidence is compared by the two-sample test of Kolmogorov and Smirnov, counts by the chi-squared test: accepted
    and refused ones, and the classes of the accepted ones.

    Args:
        reference: Answers that are independent of one another.
        answers: Others.
        alike: How many of these count as much as one independent answer, for each kind of change: 1 or more. The
            chi-squared statistic is divided accordingly (Rao and Scott, 1984).
    """
    from scipy.stats import chi2, chi2_contingency, ks_2samp, kstwo

    def of_counts(counts: np.ndarray, clump: float) -> tuple[float, float]:  # (2, classes)
        totals = counts.sum(axis=1, keepdims=True)
        shares = counts / np.maximum(totals, 1)
        rare = counts.sum(axis=0) * totals.min() < _EXPECTED * counts.sum()
        kept = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
        kept = kept[:, kept.sum(axis=0) > 0]
        size, p = float(np.abs(shares[0] - shares[1]).sum() / 2), 1.0
        if kept.shape[1] > 1 and totals.min() > 0:
            found, weights = chi2_contingency(kept), 1 / totals[:, 0]
            p = float(chi2.sf(found.statistic * weights.sum() / (weights @ (1, clump)), found.dof))
        return size, p

    both = (reference, answers)
    distance = ks_2samp(*(each.confidence for each in both), method="asymp").statistic
    independent = 1 / (1 / len(reference) + alike["confidence"] / len(answers))
    refusals = np.array([[each.known.sum(), (~each.known).sum()] for each in both])
    return {
        "confidence": (float(distance), float(kstwo.sf(distance, max(1, round(independent))))),
        "class shares": of_counts(np.array([each.counts for each in both]), alike["class shares"]),
        "refusals": of_counts(refusals, alike["refusals"]),
    }


def _clump(series: Sequence[np.ndarray]) -> float:
    """How many answers count as much as one independent answer, because neighbours are alike; 1 or more.

    It is one plus twice the sum of the autocorrelations (Bartlett, 1946), as far as these can be told from chance. For
    bursts of one class, it is about the length of a burst.

    Args:
        series: Classes of answers, (N,), in the order of the log, for each window.
    """
    total = sum(map(len, series))
    pairs = [np.bincount(each) if len(each) else np.zeros(1) for each in series]
    # How often two answers are equal: any two of a window, or some that follow one another.
    usual = sum(count @ (count - 1) / max(1, count.sum() - 1) for count in pairs) / max(1, total)
    clump = 1.0
    for lag in range(1, _LAGS + 1):
        equal = [each[lag:] == each[:-lag] for each in series if len(each) > lag]
        compared = sum(map(len, equal))
        if usual >= 1 or compared < _FEWEST / 2:
            break
        correlation = (sum(each.sum() for each in equal) / compared - usual) / (1 - usual)
        if correlation < 2 / compared**0.5:
            break
        clump += 2 * correlation
    return float(clump)


def find_drift(reference: Answers, answers: Answers, days: np.ndarray) -> list[Window]:
    """Compare the answers, (N,), of these days, datetime64[D] (N,), with the reference; days with few are joined.

    A change is a drift if it is significant, by Holm's correction for all that is looked at in all windows, and at
    least as large as in `LEAST`. One person's pictures are alike and count for fewer: how alike neighbours in the
    log are is measured (see `_clump`), up to bursts of a hundred. docs/watching.md has the measured rate of false
    alarms. One unusual person who sends very many pictures may still be called a drift.
    """
    order = np.argsort(days, kind="stable")
    _, starts, counts = np.unique(days[order], return_index=True, return_counts=True)
    tenths = np.quantile(answers.confidence, np.arange(1, 10) / 10)
    daily = [answers[each] for each in np.split(order, starts[1:])]
    alike = {
        "confidence": _clump([np.digitize(each.confidence, tenths) for each in daily]),
        "class shares": _clump([each.labels[each.known] for each in daily]),
        "refusals": _clump([each.known.astype(int) for each in daily]),
    }
    begins, gathered, fewest = [0], 0, _FEWEST * max(alike.values())
    for number, count in enumerate(counts[:-1], 1):
        gathered += count
        if gathered >= fewest and counts[number:].sum() >= fewest:
            begins.append(number)
            gathered = 0
    rows = np.split(order, starts[begins[1:]])
    parts = [answers[each] for each in rows]
    changes = [compare(reference, each, alike) for each in parts]
    left, significant = len(LEAST) * len(changes), set()
    for p, place in sorted((p, (number, name)) for number, each in enumerate(changes) for name, (_, p) in each.items()):
        if p * left > FALSE_ALARMS:
            break
        significant.add(place)
        left -= 1
    windows = []
    for number, found in enumerate(changes):
        drifts = [name for name, (size, _) in found.items() if (number, name) in significant and size >= LEAST[name]]
        first, last = (each.astype(dt.date) for each in (days[rows[number]].min(), days[rows[number]].max()))
        windows.append(Window(first, last, parts[number], found, tuple(drifts)))
    return windows


def watch_log(log: str | os.PathLike, model: str | os.PathLike = "best") -> Drift:
    """Compare the answers in a service's log with the model's answers on its validation pictures; see `find_drift`.

    Args:
        log: The log, a line of JSON for each answer; see `read_log`.
        model: Any name that `load_model` takes, of a model with a file. The first time, if there is no record of its
            answers, it is asked about its validation pictures.

    Raises:
        ValueError: The log cannot be read or has no answer by this model; or the validation pictures are not known.
        ModelFileError: There is no such model.
        DatasetError: The validation pictures are needed and unavailable.
    """
    path = find_model(model)
    reference, name = validation_answers(path), Path(name_of(path)).name
    answers, days, skipped = read_log(log, name, reference.class_names)
    return Drift(name, reference, tuple(find_drift(reference, answers, days)), skipped)
