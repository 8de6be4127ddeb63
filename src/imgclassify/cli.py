"""The command line: `imgclassify run | train | evaluate | predict | data | runs`.

Nothing heavy is imported before a command needs it, so that `--help` answers at once. Exit codes: 0 all went
well, 1 something the user can mend (said in one sentence on standard error), 2 wrong usage, 130 interrupted.
"""

import argparse
import json
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept")
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        sys.stderr.close()
        return 1
    except (ValueError, OSError, MemoryError) as error:
        _complain(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imgclassify",
        description="Classify 32 x 32 pictures (CIFAR-10) and your own with a convolutional network.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    def data_option(sub: argparse.ArgumentParser, default: str | None, extra: str = "") -> None:
        sub.add_argument(
            "--data",
            default=default,
            metavar="NAME",
            help=f"cifar10, digits, auto, or a folder with one subfolder a class{extra}",
        )

    run = command("run", _run, "The whole job: find the data, load or train the baseline, evaluate, plot, classify.")
    data_option(run, "auto", " (default: auto)")
    run.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="a picture of your own to classify; may be repeated",
    )

    train = command(
        "train", _train, "Train a network; the result is a run, published where no model of the recipe is yet."
    )
    train.add_argument("recipe", nargs="?", default="baseline", help="baseline (default), fast or best")
    data_option(train, "cifar10", " (default: cifar10)")
    train.add_argument("--epochs", type=int)
    train.add_argument("--batch-size", type=int)
    train.add_argument("--learning-rate", type=float)
    train.add_argument("--augmentation", help="none, flip, flip+shift or flip+shift+cutout")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument(
        "--share", type=float, default=1.0, help="train on this share of the training pictures, 0 to 1 (default: 1)"
    )
    train.add_argument("--precision", default="auto", choices=["auto", "float32", "mixed_float16", "mixed_bfloat16"])
    train.add_argument("--name", help="name of the run (default: the recipe's)")
    train.add_argument(
        "--replace", action="store_true", help="replace the published model once the training is complete"
    )

    evaluate = command("evaluate", _evaluate, "Measure a model on test data.")
    evaluate.add_argument("model", nargs="?", default="best", help="best (default), a recipe, a model file or a run")
    data_option(evaluate, None, " (default: what the model was trained on)")

    predict = command("predict", _predict, "Classify your own pictures.")
    predict.add_argument("files", nargs="+", metavar="FILE-or-FOLDER")
    predict.add_argument("--model", default="best", help="best (default), a recipe, a model file or a run")
    predict.add_argument("--top", type=int, default=3, metavar="K", help="how many classes to print (default: 3)")

    data = command("data", _data, "Say which data is at hand, check it, or download CIFAR-10.")
    data.add_argument(
        "name",
        nargs="?",
        default="cifar10",
        help="cifar10 (default), digits, auto, or a folder with one subfolder a class",
    )
    data.add_argument(
        "--download", action="store_true", help="fetch CIFAR-10 (170 MB) if it is not here, however long it takes"
    )

    runs = command("runs", _runs, "List and compare trainings, or delete one.")
    runs.add_argument("names", nargs="*", metavar="RUN", help="only these")
    runs.add_argument("--delete", metavar="RUN", help="delete this run after asking")
    runs.add_argument("--yes", action="store_true", help="delete without asking")
    return parser


def _complain(sentence: str) -> None:
    print(f"imgclassify: {sentence}", file=sys.stderr)


def _report(options: argparse.Namespace, text: str, values: object) -> None:
    """Print the result, as text or as JSON."""
    print(json.dumps(values, indent=1, ensure_ascii=False) if options.json else text)


# --- run -------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from imgclassify import decode_image, load_dataset, load_model, runtime, train_or_load_model
    from imgclassify.evaluation import evaluate_model
    from imgclassify.persistence import describe_accuracy
    from imgclassify.prediction import classify_custom_image, predict_image
    from imgclassify.training import find_published

    say = (lambda *words: None) if options.json else print
    for file in options.image:
        decode_image(file)  # a wrong file is said before work is spent
    data = load_dataset(options.data)
    if data.notice:
        _complain(data.notice)
    say(f"Data: {data.source}, {len(data.y_train):,} training and {len(data.y_test):,} test pictures")

    published, existing = find_published("baseline", data.name)
    say(f"Model: {existing}" if existing else "Model: none trained yet on this data, so the baseline is trained now")
    model, history = train_or_load_model("baseline", data)
    if model.manifest.get("status") == "interrupted":
        return 130
    baseline = evaluate_model(model, data.x_test, data.y_test, source=data.source)
    say(f"Baseline: {baseline}")
    result = {
        "data": data.source,
        "notice": data.notice,
        "test_accuracy": baseline.accuracy,
        "interval": list(baseline.interval),
    }

    best = model
    if data.name == "cifar10":
        best = load_model("best")
        if best.manifest.get("sha256") != model.manifest.get("sha256"):
            measured = evaluate_model(best, data.x_test, data.y_test, source=data.source)
            say(f"Best model ({best.manifest.get('recipe', {}).get('name', 'unrecorded')}): {measured}")
            result["best_test_accuracy"] = measured.accuracy
    written = _save_figures(model, history, baseline, data)

    label, confidence = predict_image(best, data.x_test[0])
    say(f"Test picture 0: {label} ({confidence:.1%}), in truth {data.class_names[data.y_test[0]]}")
    result |= {"test_picture": {"label": label, "confidence": confidence}, "pictures": []}
    if options.image and data.name != "cifar10":
        best = load_model("best")
        say(f"Your pictures go to the shipped model, not measured here; its manifest: {describe_accuracy(best)}")
    for file in options.image:
        prediction = classify_custom_image(best, file)
        say(f"{file}: {prediction}")
        result["pictures"].append(_as_json(file, prediction))
    if not existing:
        written = [published, runtime.artifacts_dir() / "runs" / model.manifest["run"], *written]
    result["written"] = [str(path) for path in written]
    say("Written: " + "\n         ".join(result["written"]))
    if options.json:
        _report(options, "", result)
    return 0


def _save_figures(model, history: dict, evaluation, data) -> list[Path]:
    import matplotlib as mpl

    mpl.use("Agg")  # no display needed

    from imgclassify import runtime, visualization
    from imgclassify.prediction import predict_image

    folder = runtime.artifacts_dir() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    prediction = predict_image(model, data.x_test[0])
    trained_on = model.manifest.get("dataset", {}).get("source", "data unrecorded")
    figures = (
        {"history": visualization.plot_history(history, title=f"Baseline, {trained_on}")} if history.get("loss") else {}
    )
    figures |= {
        "confusion": visualization.plot_confusion_matrix(evaluation),
        "prediction": visualization.plot_prediction(prediction, true_label=data.class_names[data.y_test[0]]),
    }
    paths = [folder / f"{data.name}_{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path)
    return paths


# --- the parts -------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    from imgclassify import load_dataset, train_model, train_or_load_model
    from imgclassify.recipes import get_recipe
    from imgclassify.training import find_published

    chosen = {key: getattr(options, key) for key in ("epochs", "batch_size", "learning_rate", "augmentation")}
    recipe = get_recipe(options.recipe, **chosen)
    data = load_dataset(options.data)
    if data.notice:
        _complain(data.notice)
    arguments = {"seed": options.seed, "share": options.share, "precision": options.precision, "name": options.name}
    target, existing = find_published(recipe.name, data.name)
    if existing and not options.replace:
        model, _ = train_model(recipe, data, **arguments)
        text = f"The published {existing.name} stays as it is (--replace replaces it); `imgclassify runs` lists runs."
    else:
        model, _ = train_or_load_model(recipe, data, replace=options.replace, **arguments)
        text = f"Published as {target}."
    if model.manifest["status"] == "interrupted":
        return 130
    metrics = model.manifest["metrics"]
    _report(options, f"Validation accuracy {metrics['val_accuracy']:.2%}. {text}", model.manifest)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from imgclassify import load_dataset, load_model
    from imgclassify.evaluation import evaluate_model
    from imgclassify.prediction import class_names_of

    model = load_model(options.model)
    data = load_dataset(options.data or model.manifest.get("dataset", {}).get("name", "cifar10"))
    if data.notice:
        _complain(data.notice)
    if (known := class_names_of(model)) != data.class_names:
        classes = ", ".join(data.class_names)
        raise ValueError(f"The model knows other classes ({', '.join(known)}) than {data.source} has ({classes}).")
    result = evaluate_model(model, data.x_test, data.y_test, source=data.source)
    _report(
        options,
        str(result),
        {
            "source": result.source,
            "pictures": len(result.labels),
            "accuracy": result.accuracy,
            "interval": list(result.interval),
            "loss": result.loss,
            "per_class": {name: share if share == share else None for name, share in result.per_class.items()},
            "confusion": result.confusion.tolist(),
        },
    )
    return 0


def _predict(options: argparse.Namespace) -> int:
    from imgclassify import ImageError, classify_custom_image, load_model

    if options.top < 1:
        raise ValueError(f"--top must be at least 1. Received: {options.top}")
    files, bad = [], 0
    for name in map(Path, options.files):
        inside = (
            sorted(path for path in name.rglob("*") if path.is_file() and not path.name.startswith("."))
            if name.is_dir()
            else [name]
        )
        files += inside
        if not inside:
            _complain(f"{name} is an empty folder: expected pictures in it.")
            bad += 1
    model, results = load_model(options.model), []
    for file in files:
        try:
            prediction = classify_custom_image(model, file)
        except ImageError as error:
            _complain(str(error))
            bad += 1
            continue
        results.append(_as_json(str(file), prediction))
        if not options.json:
            print(f"{file}: " + ", ".join(f"{label} {share:.1%}" for label, share in prediction.top(options.top)))
    if options.json:
        _report(
            options,
            "",
            [
                result | {"probabilities": dict(list(result["probabilities"].items())[: options.top])}
                for result in results
            ],
        )
    return 1 if bad else 0


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
    counts = {
        name: {
            part: int(np.sum(labels == number)) for part, labels in (("training", data.y_train), ("test", data.y_test))
        }
        for number, name in enumerate(data.class_names)
    }
    lines = [
        f"{data.source}: {len(data.y_train):,} training and {len(data.y_test):,} test pictures; "
        f"fingerprint {data.fingerprint[:16]}",
        *(f"  {name}: {count['training']:,} + {count['test']:,}" for name, count in counts.items()),
    ]
    _report(
        options,
        "\n".join(lines),
        {
            "name": data.name,
            "source": data.source,
            "fingerprint": data.fingerprint,
            "classes": counts,
            "skipped": list(data.skipped),
            "notice": data.notice,
        },
    )
    for sentence in (*data.skipped, *filter(None, [data.notice])):
        _complain(sentence)
    return 1 if data.skipped else 0


def _runs(options: argparse.Namespace) -> int:
    from imgclassify import compare_runs, delete_run

    if options.delete:
        sure = options.yes or _confirm(f"Delete the run {options.delete} for good?")
        if sure:
            delete_run(options.delete)
        text = f"Deleted {options.delete}." if sure else "Nothing was deleted."
        _report(options, text, {"deleted": options.delete if sure else None})
        return 0
    comparison = compare_runs(*options.names)
    text = str(comparison) if comparison.runs else "No runs yet: `imgclassify train` makes one."
    _report(options, text, [run.manifest | {"name": run.name} for run in comparison.runs])
    return 0


def _confirm(question: str) -> bool:
    """Ask on standard error, which leaves standard output to the result; nobody there to answer means no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


if __name__ == "__main__":
    sys.exit(main())
