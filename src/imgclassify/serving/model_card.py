"""Model cards: what a model is, can and cannot do, from its manifest and report alone, as Markdown and as a page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgclassify import display
from imgclassify.atomic import replacing
from imgclassify.evaluation.metrics import Estimate
from imgclassify.evaluation.report import Report, read_report
from imgclassify.runs.manifest import Manifest
from imgclassify.settings import PACKAGE


@dataclass(frozen=True)
class _Section:
    title: str
    sentences: Sequence[str]
    head: Sequence[str] = ()  # of its table, if it has one
    rows: Sequence[Sequence[str]] = ()
    shaded: bool = False  # whether the page shades the table by its numbers


def write_cards(model: Path, manifest: Manifest) -> list[Path]:
    """Write the card of a model file beside it, as Markdown and as a self-contained page; returns their paths.

    The sections follow Mitchell et al. ("Model Cards for Model Reporting", 2019).

    Args:
        model: The file.
        manifest: What is known about it, with class names and input shape.

    Raises:
        ModelFileError: There is no report of this file.
    """
    texts = card_texts(manifest, read_report(model))
    for suffix, text in texts.items():
        with replacing(model.with_suffix(suffix)) as part:
            part.write_text(text, encoding="utf-8")
    return [model.with_suffix(suffix) for suffix in texts]


def card_texts(manifest: Manifest, report: Report) -> dict[str, str]:
    """A card as Markdown, and as an HTML page that refers to nothing else, by the endings of their files."""
    sections = list(_sections(manifest, report))
    return {".card.md": _as_markdown(report.name, sections), ".card.html": _as_page(report.name, sections)}


def _as_markdown(name: str, sections: Iterable[_Section]) -> str:
    lines = [f"# Model card: {name}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", *(f"- {each}" for each in section.sentences), ""]
        if section.rows:
            table = [section.head, ["---"] * len(section.head), *section.rows]
            lines += [*("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table), ""]
    return "\n".join(lines)


def _as_page(name: str, sections: Iterable[_Section]) -> str:
    parts = [f"<h1>Model card: {display.escape(name)}</h1>"]
    for section in sections:
        facts = "".join(f"<li>{display.escape(each)}</li>" for each in section.sentences)
        parts.append(f"<h2>{section.title}</h2><ul>{facts}</ul>")
        if section.rows:
            shades = _shades(section.rows) if section.shaded else None
            parts.append(display.table(section.head, section.rows, shades))
    title = f"<title>Model card: {display.escape(name)}</title>"
    about = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    look = f"<style>{(PACKAGE / 'serving' / 'card.css').read_text(encoding='utf-8')}</style>"
    head = f"<head>{about}{title}{display.style_sheet()}{look}</head>"
    body = f'<body class="imgclassify">{"".join(parts)}</body>'
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _shades(rows: Sequence[Sequence[str]]) -> list[list[float]]:
    """For each cell, its number as a share of the sum of its row, or of 100 %; 0 for words."""
    shades = []
    for _, *cells in rows:
        numbers = [float(cell.rstrip("%").replace(",", "") or 0) for cell in cells]
        whole = 100 if any(cell.endswith("%") for cell in cells) else sum(numbers) or 1
        shades.append([0.0, *(number / whole for number in numbers)])
    return shades


def _share(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


def _number(value: float | None, digits: int = 3) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def _sections(manifest: Manifest, report: Report) -> Iterable[_Section]:
    names, (height, width, *_) = manifest.class_names, manifest.input_shape
    counts = np.array(report.confusion)
    yield _Section("What it is", list(_about(manifest, report)))
    yield _Section(
        "What it is for",
        [
            f"It names what a picture shows, as one of its {len(names)} classes, with a probability.",
            f"It sees the central square of a picture at {width} x {height} pixels.",
            "It is for learning, teaching and trying. Nothing about people should be decided by it, and nothing that "
            "matters without measuring it first on pictures like those that it will get.",
        ],
    )
    accuracy, low, high = report.accuracy
    sentences = [
        f"Right on {_share(accuracy, 2)} of {counts.sum():,} test pictures of {report.source} (95 % interval "
        f"{_share(low)} to {_share(high)}, which covers chance in the choice of pictures).",
    ]
    if len(report.seeds) > 1:
        values = list(report.seeds.values())
        sentences.append(
            f"Trained with {len(values)} seeds: {_share(min(values), 2)} to {_share(max(values), 2)}, mean "
            f"{_share(float(np.mean(values)), 2)}."
        )
    else:
        sentences.append("One training with one seed: how much another would differ was not measured.")
    yield _Section("Accuracy", sentences, ("class", "pictures", "recall", "precision"), list(_by_class(names, counts)))
    rows = [(name, *map(str, row)) for name, row in zip(names, counts.tolist(), strict=True)]
    yield _Section("Confusion", ["Rows are true classes, columns are answers."], ("", *names), rows, shaded=True)
    error, least, most = report.corrected_calibration_error
    yield _Section(
        "Calibration",
        [
            f"Expected calibration error {_number(report.calibration_error)}: the mean distance between confidence and "
            "accuracy.",
            f"Root mean square error without the part of chance {_number(error)} (95 % interval {_number(least)} to "
            f"{_number(most)}).",
        ],
    )
    yield _Section("None of its classes", list(_unknown(report)))
    strengths = ("strength 1", "strength 2", "strength 3")
    means = ", ".join(map(_share, report.corrupted_means))
    yield _Section(
        "Robustness",
        [
            f"On {report.corrupted_pictures} test pictures as they are: {_share(report.clean)}; mean over fifteen "
            f"corruptions, by strength: {means}.",
            f"Mean calibration error under corruption: {report.corrupted_calibration_error:.3f}.",
            "The corruptions are our own, after Hendrycks and Dietterich (2019).",
        ],
        ("", *strengths),
        [(name, *map(_share, values)) for name, values in report.corrupted.items()],
        shaded=True,
    )
    yield _Section("Explanations", list(_faithfulness(report)))
    yield _Section(
        "Size and speed",
        [
            f"{report.parameters:,} parameters, {report.megabytes:.1f} MB.",
            f"{report.milliseconds:.1f} ms for one picture, {report.per_second:,.0f} pictures per second in batches of "
            f"64 (medians, as the model answers by default), on {report.machine.get('processor')}, "
            f"{report.machine.get('cores')} cores.",
        ],
    )


def _about(manifest: Manifest, report: Report) -> Iterable[str]:
    data, recipe = manifest.dataset, manifest.recipe
    yield f"Classes: {', '.join(manifest.class_names)}."
    pictures = f"{data.training_pictures:,} training and {data.validation_pictures:,} validation pictures"
    yield f"Trained on {data.source}" + (f", {pictures}." if data.training_pictures else ".")
    if recipe is not None:
        minutes = f", in {manifest.wall_time_s / 60:.1f} minutes" if manifest.wall_time_s else ""
        yield f"Recipe {recipe.name}: {recipe.architecture}, {recipe.epochs} epochs, seed {manifest.seed}{minutes}."
    if manifest.views > 1:
        yield f"Answers are means over {manifest.views} views of the picture."
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield f"Trained with {versions or 'unknown versions'}; commit {manifest.commit or 'unknown'}."
    yield f"SHA-256 of the file {report.sha256}; measured {report.measured[:10]}."


def _by_class(names: Sequence[str], counts: np.ndarray) -> Iterable[tuple[str, ...]]:
    for number, name in enumerate(names):
        hits, true, said = counts[number, number], counts[number].sum(), counts[:, number].sum()
        yield (name, f"{true:,}", *(str(Estimate.of_share(hits, whole)) for whole in (true, said)))


def _unknown(report: Report) -> Iterable[str]:
    if not report.passed:
        yield "It has no detector of other things: whatever it is shown, it names one of its classes."
        return
    yield 'A detector answers "none of its classes"; its threshold was set on pictures that it had not learned from.'
    shares = ", ".join(f"{kind} {_share(share)}" for kind, share in report.passed.items())
    yield f"Pictures that pass as one of its classes: {shares}."


def _faithfulness(report: Report) -> Iterable[str]:
    if not report.faithfulness:
        yield "Not measured: the network has no feature maps."
        return
    chance = report.beats_random
    p = "not measured" if chance is None else "below 1e-9" if chance < 1e-9 else f"{chance:.1g}"
    yield (
        f"Heat maps (HiResCAM) of {report.explained_pictures} test pictures, by the area under the curve when their "
        "highest places are deleted (lower is better) and inserted (higher is better):"
    )
    for kind, (deletion, insertion) in report.faithfulness.items():
        yield f"{kind}: deletion {deletion:.3f}, insertion {insertion:.3f}."
    yield f"Against random maps: p {p} (Wilcoxon, insertion less deletion)."
    yield f"Mean rank correlation with the maps of shuffled weights: {_number(report.shuffled, 2)} (0 is best)."
