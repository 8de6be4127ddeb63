"""The command line, `imgclassify run | train | evaluate | predict | ...`; see commands.py and classifying.py.

Exit codes: 0 success, 1 a problem that the user can fix (a sentence on standard error), 2 wrong usage, 75 a worker that
was lost too often, 130 interrupted.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from imgclassify import classifying, commands
from imgclassify.backend import PRECISIONS

_FORMATS = ("onnx", "onnx-int8", "litert")  # those of `export_model`, which is not imported for the help
_ENGINES = ("local", "ray")  # those of `predict_files`
_MOST = 2**32 - 1  # of the numbers that seed random generators


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return commands.perform(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imgclassify",
        description="Classify CIFAR-10's 32 x 32 pictures and your own with a convolutional network.",
        epilog="A MODEL is best, imagenet, a recipe, a .keras or .h5 file, a run, with or without its time, or latest.",
    )
    parser.add_argument("--version", action="version", version=f"imgclassify {version('imgclassify')}")
    parser.set_defaults(command=lambda options: parser.print_help(), json=False)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(function: Callable) -> Callable[..., object]:
        """Add a command, which its docstring describes; returns a function that adds an option with its help."""
        summary = (function.__doc__ or "").partition("\n")[0]
        sub = subparsers.add_parser(function.__name__, help=summary, description=summary)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return lambda name, text, **options: sub.add_argument(name, help=text, **options)

    names = "cifar10, cifar100, clothing, digits, auto, or a folder with one subfolder per class"
    model = "best (default), a recipe, a model file, a run, latest, or imagenet"
    option = command(commands.run)
    option("--data", f"{names} (default: auto)", default="auto", metavar="NAME")
    option("--image", "a picture of your own; may be repeated", action="append", default=[], metavar="FILE")

    option = command(commands.train)
    recipes = "baseline, fast, best, photos, head or finetune (default: photos for photos, else baseline)"
    option("recipe", recipes, nargs="?")
    option("--data", f"{names} (default: cifar10)", default="cifar10", metavar="NAME")
    option("--epochs", "passes over the training pictures (default: the recipe's)", type=int)
    option("--patience", "end after this many epochs without a lower validation loss (default: never)", type=int)
    option("--batch-size", "pictures per step (default: the recipe's)", type=int)
    option("--learning-rate", "the optimizer's initial rate (default: the recipe's)", type=float)
    option("--augmentation", "none, flip, flip+shift, flip+shift+cutout or flip+crop (default: the recipe's)")
    option("--seed", "seed for everything random, at least 0 (default: 0)", type=_bounded(int, 0, _MOST), default=0)
    share = _bounded(float, sys.float_info.min, 1, "above 0 and at most 1")
    option("--share", "train on this share of the pictures, above 0 to 1 (default: 1)", type=share, default=1.0)
    option("--precision", "auto: the fastest for this hardware", default="auto", choices=["auto", *PRECISIONS])
    option("--name", "name of the run (default: the recipe's)")
    option("--resume", "go on with this unfinished run, by name or latest: its recipe, data and seed", metavar="RUN")
    option("--replace", "replace the published model once it is complete", action="store_true")
    text = "train with other machines: host:port of each, the same list for all; worker 0 chooses the recipe"
    option("--workers", text, type=lambda text: text.split(","), metavar="HOST:PORT,...")
    option("--worker", "which of them this one is, from 0", type=_bounded(int, 0, 9999), metavar="K")

    option = command(commands.evaluate)
    option("model", model, nargs="?", default="best")
    option("--data", f"{names} (default: what the model was trained on)", metavar="NAME")

    option = command(classifying.predict)
    option("files", "pictures, or folders of pictures", nargs="+", metavar="FILE-or-FOLDER")
    option("--model", "a MODEL, or an exported .onnx or .tflite file (default: guided, which is for photos)")
    option("--top", "how many classes to print (default: 3)", type=_bounded(int, 1, _MOST), default=3, metavar="K")
    option("-o", "write a table instead, .csv or .parquet, also of very many pictures", dest="output", metavar="OUT")
    option("--engine", "for -o: processes on this machine (default), or Ray", default="local", choices=_ENGINES)
    option("--workers", "for -o: how many (default: one per core)", type=_bounded(int, 1, 10_000), metavar="N")

    option = command(classifying.explain)
    option("file", "a picture", metavar="FILE")
    option("-o", "where the figure is written: a PNG, PDF or SVG", dest="output", required=True, metavar="OUT")
    option("--model", "a MODEL (default: guided, which is for photos)")
    option("--label", "the class to explain (default: the most probable one)", metavar="CLASS")
    option("--against", "the class to compare it with (default: the runner-up)", metavar="CLASS")
    option("--method", "hirescam (default), grad-cam, occlusion or rise", default="hirescam")
    option("--layer", "the layer to look at, for hirescam and grad-cam", metavar="NAME")

    option = command(classifying.watch)
    option("log", "a service's log, with a line of JSON for each answer", metavar="LOG")
    option("--model", "the MODEL whose answers they are (default: best)", default="best")
    option("-o", "where a figure is written: a PNG, PDF or SVG", dest="output", metavar="OUT")

    option = command(commands.report)
    option("model", model, nargs="?", default="best")
    option("--data", f"{names} (default: what the model was trained on)", metavar="NAME")

    option = command(commands.export)
    option("model", model, nargs="?", default="best")
    option("--to", "onnx (default), onnx-int8, or litert for phones", default="onnx", choices=_FORMATS)
    option("-o", "the file to write (default: beside the model)", dest="output", metavar="OUT")
    option("--data", f"pictures to compare, and round, it on: {names} (default: its training data)", metavar="NAME")
    option("--replace", "replace an existing file", action="store_true")
    option("--no-record", "do not add the result to the model's manifest", dest="record", action="store_false")

    option = command(commands.page)
    option("model", f"{model}, or an exported .onnx file", nargs="?", default="best")
    option("-o", "the folder to write", dest="output", required=True, metavar="FOLDER")
    option("--data", f"pictures to compare, and round, it on: {names} (default: its training data)", metavar="NAME")
    option("--replace", "replace a page that is there", action="store_true")

    option = command(commands.serve)
    option("model", "an exported .onnx or .tflite file, or a MODEL, which is exported first if need be")
    option("--host", "the address to listen on (default: 127.0.0.1, this computer only)", default="127.0.0.1")
    option("--port", "the port to listen on (default: 8000)", type=_bounded(int, 0, 65535), default=8000)
    option("--keys", "a file with a line per key: a name, and the key's SHA-256", type=Path, metavar="FILE")
    rate = _bounded(float, 0.001, 1e6, "a number from {} to {:.0f}")
    option("--rate", "pictures per second that each key may send (default: any)", type=rate, metavar="N")
    option("--log", "append a line of JSON for each answer to this file", type=Path, metavar="FILE")
    option("--page", "a folder with a static page to show at /", type=Path, metavar="FOLDER")

    option = command(commands.data)
    option("name", f"{names}, to check it (default: cifar10)", nargs="?", default="cifar10")
    option("--download", "download CIFAR-10 (170 MB) or the named data if it is not at hand", action="store_true")

    option = command(commands.runs)
    option("names", "only these runs, by name with or without the time, or latest", nargs="*", metavar="RUN")
    option("--delete", "delete this run after asking", metavar="RUN")
    option("--yes", "delete without asking", action="store_true")
    return parser


def _bounded(kind: type, low: float, high: float, accepted: str = "a whole number from {} to {}") -> Callable:
    """A function that turns an argument into a number within bounds, or says what is accepted."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"must be {accepted.format(low, high)}. Received: {text}")

    return parse


if __name__ == "__main__":
    sys.exit(main())
