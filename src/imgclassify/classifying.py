"""The commands that classify, and tell of answers: predict, explain and watch; the others are in commands.py."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from imgclassify.commands import any_model, as_json, complain, fail, show


def predict(options: argparse.Namespace) -> int:
    """Classify your own pictures; with -o, many of them, into a table."""
    from imgclassify import ImageError
    from imgclassify.runs.names import photo_model

    files, refused = _picture_files(options.files, addresses=options.output is not None)
    if options.output is not None:
        return _predict_many(options, files, refused)
    model, results = any_model(options.model or photo_model()), []
    for file in files:
        try:
            prediction = model.predict(file)
        except ImageError as error:
            refused.append({"file": file, "error": str(error)})
            continue
        results.append(as_json(file, prediction) | {"probabilities": dict(prediction.top(options.top))})
        if not options.json:
            print(f"{file}: {prediction.describe(options.top)}")
    complain(*(each["error"] for each in refused))
    show(options, {"model": model.name, "pictures": results, "refused": refused})
    return 1 if refused else 0


def _predict_many(options: argparse.Namespace, files: list[str], refused: list[dict]) -> int:
    from imgclassify.runs.names import photo_model
    from imgclassify.serving.batch import predict_files

    if refused:  # a folder without pictures: nothing is begun
        return fail(options, " ".join(each["error"] for each in refused), 1)
    model = any_model(options.model or photo_model())
    written = predict_files(model, files, options.output, engine=options.engine, workers=options.workers)
    values = {"model": model.name, **asdict(written), "output": str(written.output)}
    show(options, values, f"By {model.name}: {written}")
    return 1 if written.refused else 0


def explain(options: argparse.Namespace) -> int:
    """Show what in a picture speaks for a class."""
    os.environ["MPLBACKEND"] = "Agg"  # no display needed
    from imgclassify import load_model, visualization
    from imgclassify.atomic import replacing
    from imgclassify.evaluation.explain import explain_prepared
    from imgclassify.runs.names import photo_model

    model, output = load_model(options.model or photo_model()), Path(options.output)
    if output.exists() and Path(options.file).exists() and output.samefile(options.file):
        raise ValueError(f"{output} is the picture itself: give another path with -o.")
    prediction = model.predict(options.file)
    label = options.label or prediction.label
    against = options.against or next(name for name in prediction.probabilities if name != label)
    how = {"label": label, "method": options.method, "layer": options.layer}
    alone, compared = (explain_prepared(model, prediction.image, against=each, **how) for each in (None, against))
    figure = visualization.plot_explanations([[alone, compared]], title=f"{prediction}\nby {model.name}")
    with replacing(output) as part:
        figure.savefig(part)
    text = f"{options.file}, by {model.name}: {prediction}\n{alone}; {compared}. Written: {options.output}"
    values = {"model": model.name, "explained": label, "against": against, "method": options.method}
    found = {"found": not alone.empty, "found_against": not compared.empty, "written": str(options.output)}
    show(options, as_json(options.file, prediction) | values | found, text)
    return 0


def watch(options: argparse.Namespace) -> int:
    """Compare the answers in a service's log with those on validation pictures."""
    from imgclassify.evaluation.drift import watch_log

    found = watch_log(options.log, options.model)
    written = {}
    if options.output is not None:
        os.environ["MPLBACKEND"] = "Agg"  # no display needed
        from imgclassify.atomic import replacing
        from imgclassify.visualization import plot_drift

        with replacing(Path(options.output)) as part:
            plot_drift(found).savefig(part)
        written = {"written": options.output}
    lines = [str(found), *(f"Written: {each}" for each in written.values())]
    show(options, found.to_dict() | written, "\n".join(lines))
    return 0


def _picture_files(names: list[str], *, addresses: bool) -> tuple[list[str], list[dict]]:
    """The files to classify (those named, and the pictures in folders and addresses), and what was refused."""
    from imgclassify.data.images import IMAGE_SUFFIXES
    from imgclassify.serving.batch import find_pictures

    files, refused, endings = list[str](), [], ", ".join(IMAGE_SUFFIXES)
    for name in names:
        if not Path(name).is_dir() and not (addresses and "://" in name):
            files.append(name)
            continue
        pictures, others = find_pictures(name)
        files += pictures
        if others:
            complain(f"{name}: skipped {others} file{'s' * (others > 1)} not ending in {endings}.")
        if not pictures:
            refused.append({"file": name, "error": f"{name} contains no picture: expected files ending in {endings}."})
    return files, refused
