"""The commands behind the command line. They call the package's functions and print.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

_RED, _BOLD = "31", "1"  # codes for a terminal


class UsageError(ValueError):
    """The value of an option is not valid."""


def _paint(text: str, color: str, stream: TextIO) -> str:
    """Text in a colour, if the stream is a terminal and `NO_COLOR` is unset (no-color.org)."""
    return f"\x1b[{color}m{text}\x1b[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


def complain(sentence: str) -> None:
    """Print a sentence on standard error."""
    print(f"{_paint('imgclassify:', _RED, sys.stderr)} {sentence}", file=sys.stderr)


def fail(options: argparse.Namespace, sentence: str, code: int) -> int:
    """Print what went wrong, with `--json` also as JSON; returns the exit code."""
    complain(sentence)
    if options.json:
        print_json({"error": sentence})
    return code


def print_json(values: object) -> None:
    """Print strict JSON."""
    from imgclassify.runs.manifest import strict_json

    print(strict_json(values))


def _report(options: argparse.Namespace, text: str, values: object) -> None:
    """Print the result, as text or as JSON."""
    if options.json:
        print_json(values)
    else:
        print(text)


# --- the commands ----------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """The whole job: find the data, load or train the baseline, evaluate, plot, classify."""
    from imgclassify import decode_image, load_model, train_or_load_model
    from imgclassify.evaluation.metrics import evaluate_model
    from imgclassify.runs.names import runs_dir
    from imgclassify.training.publish import find_published

    say: Callable = (lambda *words: None) if options.json else print
    for file in options.image:
        decode_image(file)  # a bad file is reported before any work is done
    data = _load_data(options.data)
    say(f"Data: {data.source}, {len(data.y_train):,} training and {len(data.y_test):,} test pictures")

    published, existing = find_published("baseline", data.name)
    say(f"Model: {existing}" if existing else "Model: none trained yet on this data, so the baseline is trained now")
    baseline, history = train_or_load_model("baseline", data)
    if not existing and baseline.manifest.status == "interrupted":
        return fail(options, "interrupted; what was finished is kept", 130)
    evaluation = evaluate_model(baseline, data.x_test, data.y_test, source=data.source)
    say(f"Baseline: {evaluation}")
    result: dict[str, Any] = {"data": data.source, "notice": data.notice}
    result |= {"test_accuracy": evaluation.accuracy, "interval": evaluation.interval}
    answering = baseline
    if data.name == "cifar10":
        answering = load_model("best")
        if answering.manifest.sha256 != baseline.manifest.sha256:
            measured = evaluate_model(answering, data.x_test, data.y_test, source=data.source)
            say(f"Best model, {answering.name}: {measured}")
            result["best_test_accuracy"] = measured.accuracy

    truth = data.class_names[data.y_test[0]]
    prediction = answering.answer(data.x_test[0])
    say(f"Test picture 0, by {answering.name}: {prediction}; true class: {truth}")
    result |= {"model": answering.name, "test_picture": _as_json("test picture 0", prediction)}
    written = _save_figures(baseline, history, evaluation, prediction=prediction, by=answering, data=data)
    fallback = options.data == "auto" and data.name == "digits"  # of no use for photos
    photo_model = load_model("best") if fallback and options.image else answering
    result |= {"pictures": _classify_photos(options.image, photo_model, say)}
    if not existing:
        written = [published, runs_dir() / baseline.manifest.run, *written]
    result["written"] = [str(path) for path in written]
    say("Written: " + "\n         ".join(result["written"]))
    if options.json:
        print_json(result)
    return 0


def _classify_photos(files: list[str], model, say: Callable) -> list[dict]:
    """Classify the user's own pictures with one model, which the output names."""
    results = []
    for file in files:
        prediction = model.predict(file)
        say(f"{file}, by {model.name}: {prediction}")
        results.append(_as_json(file, prediction) | {"model": model.name})
    return results


def _save_figures(baseline, history: dict, evaluation, *, prediction, by, data) -> list[Path]:
    import matplotlib as mpl

    mpl.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    from imgclassify import visualization
    from imgclassify.settings import artifacts_dir

    folder = artifacts_dir() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if history.get("loss"):
        title = f"Baseline, {baseline.manifest.dataset.source}"
        figures["history"] = visualization.plot_history(history, title=title)
    figures["confusion"] = visualization.plot_confusion_matrix(evaluation)
    truth = data.class_names[data.y_test[0]]
    figures["prediction"] = visualization.plot_prediction(prediction, true_label=truth)
    figures["prediction"].suptitle(f"by {by.name}", fontsize=9)
    paths = [folder / f"{data.name}_{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path)
        plt.close(figure)
    return paths


def train(options: argparse.Namespace) -> int:
    """Train a network, and publish it if there is no model yet."""
    from imgclassify import train_model, train_or_load_model
    from imgclassify.data.loading import OWN_SIZE
    from imgclassify.recipes import check_name, get_recipe
    from imgclassify.training.publish import find_published

    chosen = {key: getattr(options, key) for key in ("epochs", "batch_size", "learning_rate", "augmentation")}
    try:
        recipe = get_recipe(options.recipe or ("baseline" if options.data in OWN_SIZE else "photos"), **chosen)
        check_name(recipe.name if options.name is None else options.name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    data = _load_data(options.data, size=recipe.size)
    arguments = {"seed": options.seed, "share": options.share, "precision": options.precision, "name": options.name}
    target, existing = find_published(recipe.name, data.name)
    if existing and not options.replace:
        model, _ = train_model(recipe, data, **arguments)
        text = f"The published {existing.name} is unchanged; use --replace to replace it."
    else:
        model, _ = train_or_load_model(recipe, data, replace=options.replace, **arguments)
        text = f"Published as {target}."
    manifest = model.manifest
    if manifest.status == "interrupted":
        return fail(options, "interrupted; what was finished is kept", 130)
    metrics = manifest.metrics
    low, high = metrics["val_interval"]
    lines = [
        f"{_paint('Validation accuracy', _BOLD, sys.stdout)} {metrics['val_accuracy']:.2%} of "
        f"{metrics['val_pictures']:,} pictures (95 % interval {low:.1%} to {high:.1%}).",
        text,
        f"Evaluate it:        imgclassify evaluate {model.name}",
        f"Classify pictures:  imgclassify predict --model {model.name} photo.jpg",
        "Compare trainings:  imgclassify runs",
    ]
    _report(options, "\n".join(lines), manifest.to_dict())
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model on test data."""
    from imgclassify import Classifier, load_model
    from imgclassify.data.folders import BUILT_IN, name_of_folder
    from imgclassify.data.loading import OWN_SIZE
    from imgclassify.evaluation.metrics import evaluate_model

    if options.data:
        data = _load_data(options.data) if options.data in OWN_SIZE else None
        name = options.data if options.data in BUILT_IN else name_of_folder(Path(options.data))
        model = load_model(options.model, dataset=data.name if data else name)
        data = data or _load_data(options.data, size=model.input_size)
    else:
        model = load_model(options.model)
        recorded = model.manifest.dataset
        if recorded.folder and not Path(recorded.folder).is_dir():
            gone = f"{options.model} was trained on the folder {recorded.folder}, which no longer exists"
            raise ValueError(f"{gone}: restore it, or give its new path with --data.")
        data = _load_data(recorded.location(), size=model.input_size)
        if recorded.folder and recorded.fingerprint not in (None, data.fingerprint):
            complain(f"The pictures in {recorded.folder} have changed since the model was trained.")
    if model.manifest.status == "unknown" and len(model.class_names) == len(data.class_names):
        model = Classifier.of(model, data.class_names)  # a file without a manifest: the data says what its classes are
    if model.class_names != data.class_names:
        known, classes = ", ".join(model.class_names), ", ".join(data.class_names)
        raise ValueError(f"The model's classes ({known}) are not those of {data.source} ({classes}).")
    result = evaluate_model(model, data.x_test, data.y_test, source=data.source)
    values = {key: getattr(result, key) for key in ("source", "accuracy", "interval", "loss", "per_class")}
    values |= {"model": model.name, "pictures": len(result.labels), "confusion": result.confusion.tolist()}
    _report(options, f"{_paint(model.name, _BOLD, sys.stdout)}: {result}", values)
    return 0


def _load_data(name: str, *, size: int | None = None, offline: bool = False):
    """A data set, photos in this size; what the user should know about it goes to standard error."""
    from imgclassify import load_dataset
    from imgclassify.data.loading import size_for

    data = load_dataset(name, size=size_for(name, size), offline=offline)
    for sentence in data.skipped:
        complain(f"left out: {sentence}")
    if data.notice:
        complain(data.notice)
    return data


def predict(options: argparse.Namespace) -> int:
    """Classify the user's own pictures."""
    from imgclassify import ImageError, load_model

    files, refused = _picture_files(options.files)
    model, results = load_model(options.model), []
    for file in files:
        try:
            prediction = model.predict(file)
        except ImageError as error:
            refused.append({"file": str(file), "error": str(error)})
            complain(str(error))
            continue
        result = _as_json(str(file), prediction)
        results.append(result | {"probabilities": dict(prediction.top(options.top))})
        if not options.json:
            print(f"{file}: {prediction.describe(options.top)}")
    if options.json:
        print_json({"model": model.name, "pictures": results, "refused": refused})
    return 1 if refused else 0


def _picture_files(names: list[str]) -> tuple[list[Path | str], list[dict]]:
    """The files to classify (those named, and the picture files in folders), and what was refused."""
    from imgclassify.data.images import IMAGE_SUFFIXES

    files: list[Path | str] = []
    refused = []
    for name in names:
        if not Path(name).is_dir():
            files.append(name)
            continue
        inside = sorted(path for path in Path(name).rglob("*") if path.is_file() and not path.name.startswith("."))
        pictures = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
        files += pictures
        endings = ", ".join(IMAGE_SUFFIXES)
        if others := len(inside) - len(pictures):
            complain(f"{name}: skipped {others} file{'s' * (others > 1)} not ending in {endings}.")
        if not pictures:
            sentence = f"{name} contains no picture: expected files ending in {endings}."
            complain(sentence)
            refused.append({"file": name, "error": sentence})
    return files, refused


def _as_json(file: str, prediction) -> dict:
    answer = {key: getattr(prediction, key) for key in ("label", "confidence", "probabilities")}
    return {"file": file} | answer


def data(options: argparse.Namespace) -> int:
    """Show which data is available, or check a folder of photos."""
    from imgclassify.data.check import check_data
    from imgclassify.data.folders import BUILT_IN

    if options.name not in BUILT_IN and Path(options.name).expanduser().is_dir():
        report = check_data(options.name)
        _report(options, str(report), report.to_dict())
        for sentence in report.skipped:
            complain(f"left out: {sentence}")
        return 1 if report.problems else 0
    data = _load_data(options.name, offline=not options.download)
    parts = (("training", data.y_train), ("test", data.y_test))
    counts = {
        name: {part: int((labels == number).sum()) for part, labels in parts}
        for number, name in enumerate(data.class_names)
    }
    head = f"{data.source}: {len(data.y_train):,} training and {len(data.y_test):,} test pictures"
    rows = (f"  {name}: {count['training']:,} + {count['test']:,}" for name, count in counts.items())
    lines = [f"{head}; fingerprint {data.fingerprint[:16]}", *rows]
    values = {key: getattr(data, key) for key in ("name", "source", "fingerprint", "skipped", "notice")}
    values |= {"classes": counts}
    _report(options, "\n".join(lines), values)
    return 1 if data.skipped else 0


def runs(options: argparse.Namespace) -> int:
    """List and compare trainings, or delete one."""
    from imgclassify import compare_runs, delete_run
    from imgclassify.runs.names import find_run

    if options.delete:
        run = find_run(options.delete)
        sure = options.yes or _confirm(f"Delete the run {run} for good?")
        if sure:
            delete_run(run)
        text = f"Deleted {run}." if sure else "Nothing was deleted."
        _report(options, text, {"deleted": run if sure else None})
        return 0
    comparison = compare_runs(*options.names)
    text = str(replace(comparison, problems=()))  # these are said on standard error
    if not comparison.runs and not comparison.problems:
        text = "No runs yet: `imgclassify train` makes one."
    _report(options, text, [run.manifest.to_dict() | {"name": run.name} for run in comparison.runs])
    for problem in comparison.problems:
        complain(problem)
    return 1 if comparison.problems else 0


def _confirm(question: str) -> bool:
    """Ask on standard error, because standard output is for the result; no answer means no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False
