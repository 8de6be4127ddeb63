"""The commands behind the command line: they call the package and print. Each imports what it needs when it runs."""

import argparse
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any


def complain(*sentences: str) -> None:
    """Print sentences on standard error, in colour if that is a terminal and `NO_COLOR` is unset (no-color.org)."""
    colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    for sentence in sentences:
        print("\x1b[31mimgclassify:\x1b[0m" if colored else "imgclassify:", sentence, file=sys.stderr)


def fail(options: argparse.Namespace, sentence: str, code: int) -> int:
    """Print what went wrong, with `--json` also as JSON; returns the exit code."""
    complain(sentence)
    show(options, {"error": sentence})
    return code


def perform(options: argparse.Namespace) -> int:
    """Run the command of these options; returns its exit code. What goes wrong is said in a sentence."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show loses no results
    try:
        return options.command(options) or 0
    except KeyboardInterrupt:
        return fail(options, "interrupted; what was finished is kept", 130)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        sys.stderr.close()
        return 1
    except argparse.ArgumentTypeError as error:
        return fail(options, str(error), 2)
    except (ValueError, OSError, MemoryError) as error:
        return fail(options, str(error), 1)


def show(options: argparse.Namespace, values: object, text: str | None = None) -> None:
    """Print the result: with `--json` as JSON, else as text."""
    if options.json:
        from imgclassify.runs.manifest import strict_json

        print(strict_json(values))
    elif text is not None:
        print(text)


def run(options: argparse.Namespace) -> int:
    """The whole job: find the data, load or train the baseline, evaluate, plot, classify."""
    os.environ["MPLBACKEND"] = "Agg"  # no display needed
    from imgclassify import decode_image, load_model, train_or_load_model, visualization
    from imgclassify.evaluation.metrics import evaluate_model
    from imgclassify.runs.names import photo_model, runs_dir
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
    result |= {"model": answering.name, "test_picture": as_json("test picture 0", prediction)}
    figures = {
        "confusion": visualization.plot_confusion_matrix(evaluation),
        "prediction": visualization.plot_prediction(prediction, true_label=truth),
    }
    figures["prediction"].suptitle(f"by {answering.name}", fontsize=9)
    if history.get("loss"):
        figures["history"] = visualization.plot_history(history, title=f"Baseline, {baseline.manifest.dataset.source}")
    written = _save_figures(data.name, figures)
    fallback = options.data == "auto" and data.name == "digits"  # of no use for photos
    for_photos = options.image and (fallback or data.name == "cifar10")
    answering = load_model(photo_model()) if for_photos else answering
    result["pictures"] = []
    for file in options.image:
        prediction = answering.predict(file)
        say(f"{file}, by {answering.name}: {prediction}")
        result["pictures"].append(as_json(file, prediction) | {"model": answering.name})
    if not existing:
        written = [published, runs_dir() / baseline.manifest.run, *written]
    result["written"] = [str(path) for path in written]
    say("Written: " + "\n         ".join(result["written"]))
    show(options, result)
    return 0


def _save_figures(data: str, figures: dict) -> list[Path]:
    from matplotlib import pyplot as plt

    from imgclassify.settings import artifacts_dir

    paths = {artifacts_dir() / "figures" / f"{data}_{name}.png": figure for name, figure in figures.items()}
    for path, figure in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)
    return list(paths)


def train(options: argparse.Namespace) -> int:
    """Train a network; it is kept as a run, and published if there is no model yet."""
    from imgclassify.training.supervise import supervise
    from imgclassify.training.workers import ALONE, check_addresses

    if (options.workers is None) != (options.worker is None):
        raise argparse.ArgumentTypeError("--workers and --worker belong together: all addresses, and which one is this")
    if options.workers is None:
        return _train(options, ALONE)

    if options.worker == 0 and not options.resume:
        _chosen_recipe(options)  # a mistake is told before the others are waited for
    check_addresses(options.workers, options.worker)
    name = f"worker {options.worker} of {len(options.workers)}"
    with tempfile.TemporaryDirectory() as folder:
        work = functools.partial(_as_worker, options, name, Path(folder, "run"))
        return supervise(work, lambda what: complain(f"{name}: {what}"))


def _as_worker(options: argparse.Namespace, name: str, begun: Path) -> int:
    """What the process of a worker does; worker 0 goes on with the run that an earlier one wrote to `begun`."""
    from imgclassify.training.supervise import LOST
    from imgclassify.training.workers import LostError, join_workers

    def together(options: argparse.Namespace) -> int:
        try:
            complain(f"{name}: waiting for the others")
            workers = join_workers(options.workers, options.worker)
            complain(f"{name}: all workers have joined")
            return _train(options, workers, begun.write_text)
        except LostError as error:
            complain(f"{name}: {error}")
            return LOST

    if begun.exists():
        options.resume = begun.read_text()
    options.command = together
    return perform(options)


def _chosen_recipe(options: argparse.Namespace) -> Any:
    from imgclassify.data.loading import OWN_SIZE
    from imgclassify.recipes import check_name, get_recipe

    settings = ("epochs", "patience", "batch_size", "learning_rate", "augmentation")
    try:
        name = options.recipe or ("baseline" if options.data in OWN_SIZE else "photos")
        recipe = get_recipe(name, **{key: getattr(options, key) for key in settings})
        check_name(recipe.name if options.name is None else options.name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return recipe


def _train(options: argparse.Namespace, workers, on_begin: Callable[[str], Any] | None = None) -> int:
    from imgclassify import train_model, train_or_load_model
    from imgclassify.training.plans import unfinished_run
    from imgclassify.training.publish import find_published

    if workers.index > 0:
        model, _ = train_model(data=options.data, workers=workers)
        show(options, model.manifest.to_dict(), "This worker has done its part; worker 0 keeps the model.")
        return 130 if model.manifest.status == "interrupted" else 0
    if options.resume:
        record, recipe = unfinished_run(options.resume)
        data = _load_data(record.dataset.location(), size=recipe.size)
        arguments: dict[str, Any] = {"resume": record.run}
    else:
        recipe = _chosen_recipe(options)
        data = _load_data(options.data, size=recipe.size)
        arguments = {key: getattr(options, key) for key in ("seed", "share", "precision", "name")}
    arguments |= {"workers": workers, "on_begin": on_begin}
    target, existing = find_published(recipe.name, data.name)
    if existing and not options.replace:
        model, _ = train_model(recipe, data, **arguments)
        text = f"The published {existing.name} is unchanged; use --replace to replace it."
    else:
        model, _ = train_or_load_model(recipe, data, replace=options.replace, **arguments)
        text = f"Published as {target}." if model.file == target else "It is kept as a run, and not published."
    manifest = model.manifest
    if model.file is None:
        return fail(options, f"the trained model could not be written; what could is in the run {manifest.run}", 1)
    if manifest.status == "interrupted":
        resume = f"go on by: imgclassify train --resume {manifest.run}"
        return fail(options, f"interrupted; what was finished is kept; {resume}", 130)
    metrics = manifest.metrics
    low, high = metrics["val_interval"]
    lines = [
        f"Validation accuracy {metrics['val_accuracy']:.2%} of "
        f"{metrics['val_pictures']:,} pictures (95 % interval {low:.1%} to {high:.1%}).",
        text,
        f"Evaluate it:        imgclassify evaluate {model.name}",
        f"Classify pictures:  imgclassify predict --model {model.name} photo.jpg",
        "Compare trainings:  imgclassify runs",
    ]
    show(options, manifest.to_dict(), "\n".join(lines))
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model on test data."""
    from imgclassify.evaluation.metrics import evaluate_model

    model, data = _model_and_data(options)
    result = evaluate_model(model, data.x_test, data.y_test, source=data.source)
    values = {key: getattr(result, key) for key in ("source", "accuracy", "interval", "loss", "per_class")}
    values["by_class"] = {name: scores._asdict() for name, scores in result.by_class.items()}
    values |= {"model": model.name, "pictures": len(result.labels), "confusion": result.confusion.tolist()}
    show(options, values, f"{model.name}: {result}")
    return 0


def report(options: argparse.Namespace) -> int:
    """Measure everything about a model, some minutes, and write its model card."""
    from imgclassify.evaluation.report import measure_report, report_path, write_report
    from imgclassify.serving.model_card import write_cards

    model, data = _model_and_data(options)
    measured = measure_report(model, data)
    write_report(model.file, measured)
    written = [str(path) for path in (report_path(model.file), *write_cards(model.file, model.manifest))]
    accuracy = f"{model.name}: accuracy {measured.accuracy[0]:.2%} on {data.source}"
    show(options, {"report": measured, "written": written}, f"{accuracy}. Written: {', '.join(written)}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a model as one file for other programs: ONNX, or LiteRT for phones."""
    from imgclassify import load_model
    from imgclassify.serving.export import export_model

    model = load_model(options.model)
    data = _load_data(options.data, size=model.input_size) if options.data else None
    written = export_model(model, options.to, options.output, data=data, replace=options.replace, record=options.record)
    values = {"written": str(written.path), "format": written.to, **asdict(written.record)}
    show(options, values, f"{written} Written: {written.path}")
    return 0


def page(options: argparse.Namespace) -> int:
    """Write a web page on which anybody can use a model, computed in the browser."""
    from imgclassify.serving.page import write_page

    model = any_model(options.model)
    data = _load_data(options.data, size=model.input_size) if options.data else None
    written = write_page(model, options.output, data=data, replace=options.replace)
    size = sum(file.stat().st_size for file in written.parent.iterdir()) / 1e6
    look = f"Look at it: python -m http.server --directory {written.parent}"
    show(options, {"written": str(written), "megabytes": size}, f"Written: {written}, {size:.1f} MB in all. {look}")
    return 0


def any_model(name: str):
    """A model by its name, or an exported one by its file."""
    from imgclassify import load_model
    from imgclassify.serving.exported import SUFFIXES, load_exported

    return (load_exported if name.endswith(SUFFIXES) else load_model)(name)


def serve(options: argparse.Namespace) -> int:
    """Answer pictures by HTTP, with an exported model and without TensorFlow."""
    from imgclassify.serving.lookup import find_exported

    try:
        from imgclassify.serving import service
    except ImportError as error:
        raise ValueError(f"The service needs the package {error.name}: pip install 'imgclassify[serve]'") from error
    if options.keys is None and not service.is_loopback(options.host):
        raise argparse.ArgumentTypeError(
            f"Without --keys, only this computer is served. Received: --host {options.host}"
        )
    keys = service.Keys(options.keys) if options.keys else None
    model = find_exported(options.model, say=complain, threads=1)
    limits = service.Limits(rate=options.rate)
    paths = {"answers": options.log, "page": options.page}
    app = service.create_app(model, keys=keys, limits=limits, **paths)
    if options.log:
        options.log.open("a").close()  # what cannot be written is said now
    with service.listening(options.host, options.port) as (address, bound), contextlib.suppress(KeyboardInterrupt):
        complain(f"{model.name} is served at {address}, until Ctrl+C.")
        service.serve(app, bound, limits=limits)
    return 0


def _model_and_data(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model that is to be measured, and its data."""
    from imgclassify import Classifier, load_model
    from imgclassify.data.folders import BUILT_IN, name_of_folder
    from imgclassify.data.loading import OWN_SIZE

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
    return model, data


def _load_data(name: str, *, size: int | None = None, offline: bool = False):
    """A data set, photos in this size; what the user should know about it goes to standard error."""
    from imgclassify import load_dataset
    from imgclassify.data.loading import size_for

    data = load_dataset(name, size=size_for(name, size), offline=offline)
    complain(*(f"left out: {sentence}" for sentence in data.skipped), *filter(None, [data.notice]))
    return data


def as_json(file: str, prediction) -> dict:
    """What is said of a file, as values for JSON."""
    keys = ("label", "confidence", "known", "familiarity", "probabilities")
    return {"file": file} | {key: getattr(prediction, key) for key in keys}


def data(options: argparse.Namespace) -> int:
    """Show which data is available, check it, or download CIFAR-10."""
    from imgclassify.data.check import check_data
    from imgclassify.data.folders import BUILT_IN

    if options.name not in BUILT_IN and Path(options.name).expanduser().is_dir():
        report = check_data(options.name)
        show(options, report.to_dict(), str(report))
        complain(*(f"left out: {sentence}" for sentence in report.skipped))
        return 1 if report.problems else 0
    data = _load_data(options.name, offline=not options.download)
    counts = {
        name: {"training": int((data.y_train == number).sum()), "test": int((data.y_test == number).sum())}
        for number, name in enumerate(data.class_names)
    }
    head = f"{data.source}: {len(data.y_train):,} training and {len(data.y_test):,} test pictures"
    lines = [f"{head}; fingerprint {data.fingerprint[:16]}"]
    lines += [f"  {name}: {count['training']:,} + {count['test']:,}" for name, count in counts.items()]
    values = {key: getattr(data, key) for key in ("name", "source", "fingerprint", "skipped", "notice")}
    show(options, values | {"classes": counts}, "\n".join(lines))
    return 1 if data.skipped else 0


def runs(options: argparse.Namespace) -> int:
    """List and compare trainings, or delete one."""
    from imgclassify import compare_runs, delete_run
    from imgclassify.runs.names import find_run

    if options.delete:
        run = find_run(options.delete)
        if not options.yes:  # asked on standard error, because standard output is for the result
            print(f"Delete the run {run} for good? [y/N] ", end="", file=sys.stderr, flush=True)
        sure = options.yes or sys.stdin.readline().strip().lower() in ("y", "yes")
        if sure:
            delete_run(run)
        show(options, {"deleted": run if sure else None}, f"Deleted {run}." if sure else "Nothing was deleted.")
        return 0
    comparison = compare_runs(*options.names)
    text = str(replace(comparison, problems=()))  # these are said on standard error
    if not comparison.runs and not comparison.problems:
        text = "No runs yet: `imgclassify train` makes one."
    show(options, [run.manifest.to_dict() | {"name": run.name} for run in comparison.runs], text)
    complain(*comparison.problems)
    return 1 if comparison.problems else 0
