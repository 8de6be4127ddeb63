"""The command line: `imgclassify run | train | evaluate | predict | data | runs`. It parses; commands.py does the rest.

Exit codes: 0 success, 1 a problem that the user can fix (explained in one sentence on standard error), 2 wrong usage,
130 interrupted.
"""

import argparse
import math
import sys
from collections.abc import Callable
from importlib.metadata import version

from imgclassify import commands
from imgclassify.backend import PRECISIONS

_MOST = 2**32 - 1  # of the numbers that seed random generators


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
        return commands.fail(options, "interrupted; what was finished is kept", 130)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        sys.stderr.close()
        return 1
    except commands.UsageError as error:
        return commands.fail(options, str(error), 2)
    except (ValueError, OSError, MemoryError) as error:
        return commands.fail(options, str(error), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imgclassify",
        description="Classify CIFAR-10's 32 x 32 pictures and your own with a convolutional network.",
        epilog="A MODEL is best, imagenet, a recipe, a .keras or .h5 file, a run, with or without its time, or latest.",
    )
    parser.add_argument("--version", action="version", version=f"imgclassify {version('imgclassify')}")
    parser.set_defaults(command=None, json=False)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, function: Callable, summary: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    def data_option(sub: argparse.ArgumentParser, default: str | None, extra: str) -> None:
        text = f"cifar10, cifar100, clothing, digits, auto, or a folder with one subfolder per class (default: {extra})"
        sub.add_argument("--data", default=default, metavar="NAME", help=text)

    model = "best (default), a recipe, a model file, a run, latest, or imagenet"
    run = command(
        "run", commands.run, "The whole job: find the data, load or train the baseline, evaluate, plot, classify."
    )
    data_option(run, "auto", "auto")
    image = "a picture of your own to classify; may be repeated"
    run.add_argument("--image", action="append", default=[], metavar="FILE", help=image)

    train = command(
        "train", commands.train, "Train a network; it is kept as a run, and published if there is no model yet."
    )
    train.add_argument(
        "recipe",
        nargs="?",
        help="baseline, fast, best, photos, head or finetune (default: photos for photos, else baseline)",
    )
    data_option(train, "cifar10", "cifar10")
    train.add_argument("--epochs", type=int, help="passes over the training pictures (default: the recipe's)")
    train.add_argument("--batch-size", type=int, help="pictures per step (default: the recipe's)")
    train.add_argument("--learning-rate", type=float, help="the optimizer's initial rate (default: the recipe's)")
    train.add_argument(
        "--augmentation", help="none, flip, flip+shift, flip+shift+cutout or flip+crop (default: the recipe's)"
    )
    train.add_argument(
        "--seed",
        type=_bounded(int, 0, _MOST, f"a whole number from 0 to {_MOST}"),
        default=0,
        help="seed for everything random, at least 0 (default: 0)",
    )
    share = "train on this share of the training pictures, above 0 to 1 (default: 1)"
    train.add_argument(
        "--share", type=_bounded(float, sys.float_info.min, 1, "above 0 and at most 1"), default=1.0, help=share
    )
    train.add_argument(
        "--precision", default="auto", choices=["auto", *PRECISIONS], help="auto: the fastest for this hardware"
    )
    train.add_argument("--name", help="name of the run (default: the recipe's)")
    train.add_argument("--replace", action="store_true", help="replace the published model once it is complete")

    evaluate = command("evaluate", commands.evaluate, "Measure a model on test data.")
    evaluate.add_argument("model", nargs="?", default="best", help=model)
    data_option(evaluate, None, "what the model was trained on")

    predict = command("predict", commands.predict, "Classify your own pictures.")
    predict.add_argument("files", nargs="+", metavar="FILE-or-FOLDER", help="pictures, or folders of pictures")
    predict.add_argument("--model", default="best", help=model)
    top = "how many classes to print, at least 1 (default: 3)"
    predict.add_argument(
        "--top", type=_bounded(int, 1, _MOST, f"a whole number from 1 to {_MOST}"), default=3, metavar="K", help=top
    )

    data = command("data", commands.data, "Show which data is available, check it, or download CIFAR-10.")
    name = "cifar10 (default), cifar100, clothing, digits, auto, or a folder with one subfolder per class, to check it"
    data.add_argument("name", nargs="?", default="cifar10", help=name)
    download = "download CIFAR-10 (170 MB) or the named data if it is not on this computer, however long it takes"
    data.add_argument("--download", action="store_true", help=download)

    runs = command("runs", commands.runs, "List and compare trainings, or delete one.")
    names = "only these runs, by name with or without the time, or latest"
    runs.add_argument("names", nargs="*", metavar="RUN", help=names)
    runs.add_argument("--delete", metavar="RUN", help="delete this run after asking")
    runs.add_argument("--yes", action="store_true", help="delete without asking")
    return parser


def _bounded(kind: type, low: float, high: float, accepted: str) -> Callable[[str], float]:
    """A function that turns an argument into a number within bounds, or says what is accepted."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {accepted}. Received: {text}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
