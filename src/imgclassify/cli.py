"""The command line: `imgclassify run | train | evaluate | predict | data | runs`. It parses, calls and prints.

Nothing heavy is imported before a command needs it, so that `--help` answers at once. Exit codes: 0 all went
well, 1 something the user can mend (said in one sentence on standard error), 2 wrong usage, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

_RED, _BOLD = "31", "1"  # of a terminal


class UsageError(ValueError):
    """An option's value is not one that the command takes."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return options.command(options)
    except KeyboardInterrupt:
        return _fail(options, "interrupted; what was finished is kept", 130)
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        sys.stderr.close()
        return 1
    except UsageError as error:
        return _fail(options, str(error), 2)
    except (ValueError, OSError, MemoryError) as error:
        return _fail(options, str(error), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imgclassify",
        description="Classify CIFAR-10's 32 x 32 pictures and your own with a convolutional network.",
        epilog="A MODEL is best, a recipe, a .keras or .h5 file, a run by name (with or without its time), or latest.",
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.set_defaults(command=None, json=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, function: Callable, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    def data_option(sub: argparse.ArgumentParser, default: str | None, extra: str) -> None:
        text = f"cifar10, digits, auto, or a folder with one subfolder per class (default: {extra})"
        sub.add_argument("--data", default=default, metavar="NAME", help=text)

    model = {"default": "best", "help": "best (default), a recipe, a model file, a run, or latest"}
    run = command("run", _run, "The whole job: find the data, load or train the baseline, evaluate, plot, classify.")
    data_option(run, "auto", "auto")
    image = {"action": "append", "default": [], "metavar": "FILE"}
    run.add_argument("--image", help="a picture of your own to classify; may be repeated", **image)

    train = command("train", _train, "Train a network; it becomes a run, and is published if there is no model yet.")
    train.add_argument("recipe", nargs="?", default="baseline", help="baseline (default), fast or best")
    data_option(train, "cifar10", "cifar10")
    train.add_argument("--epochs", type=int, help="passes over the training pictures (default: the recipe's)")
    train.add_argument("--batch-size", type=int, help="pictures per step (default: the recipe's)")
    train.add_argument("--learning-rate", type=float, help="the optimizer's (default: the recipe's)")
    train.add_argument("--augmentation", help="none, flip, flip+shift or flip+shift+cutout (default: the recipe's)")
    train.add_argument("--seed", type=_from_zero, default=0, help="of everything random, from 0 (default: 0)")
    share = "train on this share of the training pictures, above 0 to 1 (default: 1)"
    train.add_argument("--share", type=_share, default=1.0, help=share)
    precisions = ["auto", "float32", "mixed_float16", "mixed_bfloat16"]
    train.add_argument("--precision", default="auto", choices=precisions, help="auto: what the hardware is made for")
    train.add_argument("--name", help="name of the run (default: the recipe's)")
    train.add_argument("--replace", action="store_true", help="replace the published model once it is complete")

    evaluate = command("evaluate", _evaluate, "Measure a model on test data.")
    evaluate.add_argument("model", nargs="?", **model)
    data_option(evaluate, None, "what the model was trained on")

    predict = command("predict", _predict, "Classify your own pictures.")
    predict.add_argument("files", nargs="+", metavar="FILE-or-FOLDER", help="pictures, or folders of pictures")
    predict.add_argument("--model", **model)
    top = "how many classes to print, from 1 (default: 3)"
    predict.add_argument("--top", type=_from_one, default=3, metavar="K", help=top)

    data = command("data", _data, "Say which data is at hand, check it, or download CIFAR-10.")
    name = "cifar10 (default), digits, auto, or a folder with one subfolder per class"
    data.add_argument("name", nargs="?", default="cifar10", help=name)
    download = "fetch CIFAR-10 (170 MB) if it is not here, however long it takes"
    data.add_argument("--download", action="store_true", help=download)

    runs = command("runs", _runs, "List and compare trainings, or delete one.")
    runs.add_argument("names", nargs="*", metavar="RUN", help="only these, by name with or without the time, or latest")
    runs.add_argument("--delete", metavar="RUN", help="delete this run after asking")
    runs.add_argument("--yes", action="store_true", help="delete without asking")
    return parser


def _version() -> str:
    from importlib.metadata import version

    return f"imgclassify {version('imgclassify')}"


def _from_zero(text: str) -> int:
    return _bounded(int(text), 0)


def _from_one(text: str) -> int:
    return _bounded(int(text), 1)


def _bounded(number: int, low: int) -> int:
    if number < low:
        raise argparse.ArgumentTypeError(f"must be at least {low}")
    return number


def _share(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return float(text)


# --- output ----------------------------------------------------------------------------------------


def _paint(text: str, color: str, stream: TextIO) -> str:
    """Text in a colour, if the stream is a terminal and `NO_COLOR` is unset (no-color.org)."""
    return f"\x1b[{color}m{text}\x1b[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


def _complain(sentence: str) -> None:
    print(f"{_paint('imgclassify:', _RED, sys.stderr)} {sentence}", file=sys.stderr)


def _fail(options: argparse.Namespace, sentence: str, code: int) -> int:
    """Say what went wrong, with `--json` also as JSON; returns the exit code."""
    _complain(sentence)
    if options.json:
        _print_json({"error": sentence})
    return code


def _print_json(values: object) -> None:
    from imgclassify.runs.manifest import strict_json

    print(strict_json(values))


def _report(options: argparse.Namespace, text: str, values: object) -> None:
    """Print the result, as text or as JSON."""
    if options.json:
        _print_json(values)
    else:
        print(text)


def _list_skipped(skipped: Iterable[str]) -> None:
    """Name the files of a folder that were left out."""
    for sentence in skipped:
        _complain(f"left out: {sentence}")


# --- run -------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from imgclassify import decode_image, load_dataset, load_model, train_or_load_model
    from imgclassify.evaluation.metrics import evaluate_model
    from imgclassify.runs.names import runs_dir
    from imgclassify.training.publish import find_published

    say: Callable = (lambda *words: None) if options.json else print
    for file in options.image:
        decode_image(file)  # a wrong file is said before work is spent
    data = load_dataset(options.data)
    _list_skipped(data.skipped)
    if data.notice:
        _complain(data.notice)
    say(f"Data: {data.source}, {len(data.y_train):,} training and {len(data.y_test):,} test pictures")

    published, existing = find_published("baseline", data.name)
    say(f"Model: {existing}" if existing else "Model: none trained yet on this data, so the baseline is trained now")
    baseline, history = train_or_load_model("baseline", data)
    if baseline.manifest.status == "interrupted":
        return 130
    evaluation = evaluate_model(baseline, data.x_test, data.y_test, source=data.source)
    say(f"Baseline: {evaluation}")
    result = {
        "data": data.source,
        "notice": data.notice,
        "test_accuracy": evaluation.accuracy,
        "interval": list(evaluation.interval),
    }
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
    written = _save_figures(baseline, history, evaluation, {"data": data, "prediction": prediction, "by": answering})
    result |= {"pictures": _classify_photos(options.image, load_model("best") if data.notice else answering, say)}
    if not existing:
        written = [published, runs_dir() / baseline.manifest.run, *written]
    result["written"] = [str(path) for path in written]
    say("Written: " + "\n         ".join(result["written"]))
    if options.json:
        _print_json(result)
    return 0


def _classify_photos(files: list[str], model, say: Callable) -> list[dict]:
    """Classify the user's own pictures by one model, which is named."""
    results = []
    for file in files:
        prediction = model.predict(file)
        say(f"{file}, by {model.name}: {prediction}")
        results.append(_as_json(file, prediction) | {"model": model.name})
    return results


def _save_figures(baseline, history: dict, evaluation, shown: dict) -> list[Path]:
    import matplotlib as mpl

    mpl.use("Agg")  # no display needed

    from imgclassify import visualization
    from imgclassify.settings import artifacts_dir

    folder = artifacts_dir() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    data, figures = shown["data"], {}
    if history.get("loss"):
        title = f"Baseline, {baseline.manifest.dataset.source}"
        figures["history"] = visualization.plot_history(history, title=title)
    figures["confusion"] = visualization.plot_confusion_matrix(evaluation)
    truth = data.class_names[data.y_test[0]]
    figures["prediction"] = visualization.plot_prediction(shown["prediction"], true_label=truth)
    figures["prediction"].suptitle(f"by {shown['by'].name}", fontsize=9)
    paths = [folder / f"{data.name}_{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path)
    return paths


# --- the parts -------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    from imgclassify import load_dataset, train_model, train_or_load_model
    from imgclassify.recipes import check_name, get_recipe
    from imgclassify.training.publish import find_published

    chosen = {key: getattr(options, key) for key in ("epochs", "batch_size", "learning_rate", "augmentation")}
    try:
        recipe = get_recipe(options.recipe, **chosen)
        check_name(recipe.name if options.name is None else options.name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    data = load_dataset(options.data)
    _list_skipped(data.skipped)
    if data.notice:
        _complain(data.notice)
    arguments = {"seed": options.seed, "share": options.share, "precision": options.precision, "name": options.name}
    target, existing = find_published(recipe.name, data.name)
    if existing and not options.replace:
        model, _ = train_model(recipe, data, **arguments)
        text = f"The published {existing.name} stays as it is; --replace replaces it."
    else:
        model, _ = train_or_load_model(recipe, data, replace=options.replace, **arguments)
        text = f"Published as {target}."
    manifest = model.manifest
    if manifest.status == "interrupted":
        return 130
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


def _evaluate(options: argparse.Namespace) -> int:
    from imgclassify import load_model
    from imgclassify.evaluation.metrics import evaluate_model

    if options.data:
        data = _load_for_evaluation(options.data)
        model = load_model(options.model, dataset=data.name)
    else:
        model = load_model(options.model)
        recorded = model.manifest.dataset
        if recorded.folder and not Path(recorded.folder).is_dir():
            raise ValueError(
                f"{options.model} was trained on the folder {recorded.folder}, which is not there: "
                "put it back, or say with --data where it is."
            )
        data = _load_for_evaluation(recorded.location())
        if recorded.folder and recorded.fingerprint not in (None, data.fingerprint):
            _complain(f"{recorded.folder} holds other pictures now than when the model was trained.")
    if model.class_names != data.class_names:
        classes = ", ".join(data.class_names)
        raise ValueError(
            f"The model knows other classes ({', '.join(model.class_names)}) than {data.source} ({classes})."
        )
    result = evaluate_model(model, data.x_test, data.y_test, source=data.source)
    _report(
        options,
        f"{_paint(model.name, _BOLD, sys.stdout)}: {result}",
        {
            "model": model.name,
            "source": result.source,
            "pictures": len(result.labels),
            "accuracy": result.accuracy,
            "interval": list(result.interval),
            "loss": result.loss,
            "per_class": result.per_class,
            "confusion": result.confusion.tolist(),
        },
    )
    return 0


def _load_for_evaluation(name: str):
    from imgclassify import load_dataset

    data = load_dataset(name)
    _list_skipped(data.skipped)
    if data.notice:
        _complain(data.notice)
    return data


def _predict(options: argparse.Namespace) -> int:
    from imgclassify import ImageError, load_model

    files, refused = _picture_files(options.files)
    model, results = load_model(options.model), []
    for file in files:
        try:
            prediction = model.predict(file)
        except ImageError as error:
            refused.append({"file": str(file), "error": str(error)})
            _complain(str(error))
            continue
        result = _as_json(str(file), prediction)
        results.append(result | {"probabilities": dict(prediction.top(options.top))})
        if not options.json:
            print(f"{file}: " + ", ".join(f"{label} {share:.1%}" for label, share in prediction.top(options.top)))
    if options.json:
        _print_json({"model": model.name, "pictures": results, "refused": refused})
    return 1 if refused else 0


def _picture_files(names: list[str]) -> tuple[list[Path | str], list[dict]]:
    """The files to classify: those named, and the picture files in folders; and what is refused."""
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
        others = len(inside) - len(pictures)
        if others:
            _complain(f"{name}: passed over {others} other file{'s' * (others > 1)} than {', '.join(IMAGE_SUFFIXES)}.")
        if not pictures:
            sentence = f"{name} holds no picture: expected files ending in {', '.join(IMAGE_SUFFIXES)}."
            _complain(sentence)
            refused.append({"file": name, "error": sentence})
    return files, refused


def _as_json(file: str, prediction) -> dict:
    return {
        "file": file,
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
    }


def _data(options: argparse.Namespace) -> int:
    import numpy as np

    from imgclassify import load_dataset

    data = load_dataset(options.name, offline=not options.download)
    parts = (("training", data.y_train), ("test", data.y_test))
    counts = {
        name: {part: int(np.sum(labels == number)) for part, labels in parts}
        for number, name in enumerate(data.class_names)
    }
    lines = [
        f"{data.source}: {len(data.y_train):,} training and {len(data.y_test):,} test pictures; "
        f"fingerprint {data.fingerprint[:16]}",
        *(f"  {name}: {count['training']:,} + {count['test']:,}" for name, count in counts.items()),
    ]
    values = {
        "name": data.name,
        "source": data.source,
        "fingerprint": data.fingerprint,
        "classes": counts,
        "skipped": list(data.skipped),
        "notice": data.notice,
    }
    _report(options, "\n".join(lines), values)
    _list_skipped(data.skipped)
    if data.notice:
        _complain(data.notice)
    return 1 if data.skipped else 0


def _runs(options: argparse.Namespace) -> int:
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
    text = str(comparison) if comparison.runs else "No runs yet: `imgclassify train` makes one."
    _report(options, text, [run.manifest.to_dict() | {"name": run.name} for run in comparison.runs])
    for problem in comparison.problems:
        _complain(problem)
    return 1 if comparison.problems else 0


def _confirm(question: str) -> bool:
    """Ask on standard error, which leaves standard output to the result; nobody there to answer means no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


if __name__ == "__main__":
    sys.exit(main())
