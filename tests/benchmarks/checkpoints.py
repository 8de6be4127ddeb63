"""What checkpoints cost, for `make bench`: their share of real trainings; writes docs/speed.md's table.

`python checkpoints.py`, some five minutes on two cores. The trainings are real ones, cut short after one or two epochs;
the seconds of every checkpoint, from collecting the state to the synced file, are divided by those of the training.
"""

import datetime as dt
import json
import sys
import tempfile
import time
from unittest import mock

from bench import ARTIFACTS, summary, write_table

from imgclassify import train_model
from imgclassify.data.dataset import DatasetError
from imgclassify.data.loading import load_dataset
from imgclassify.progress import Progress
from imgclassify.runs import provenance
from imgclassify.training.keeping import Keeper

ROUNDS = 3
TRAININGS = {"baseline": ("cifar10", {"epochs": 2}), "fast": ("cifar10", {"epochs": 1}), "photos": ("clothing", {})}


def shares(recipe: str, data, options: dict) -> dict[str, list[float]]:
    """Per training: the share of its time that checkpoints took, how many there were, and the seconds of each."""
    found: dict[str, list[float]] = {"share": [], "number": [], "seconds of one": []}
    write = Keeper.checkpoint
    for _ in range(ROUNDS):
        spent: list[float] = []

        def timed(keeper, *arguments, spent=spent, **more) -> None:
            last, began = keeper._last, time.perf_counter()
            write(keeper, *arguments, **more)
            if keeper._last != last:
                spent.append(time.perf_counter() - began)

        with mock.patch.object(Keeper, "checkpoint", timed):
            began = time.perf_counter()
            train_model(recipe, data, progress=Progress(enabled=False), **options)
            wall = time.perf_counter() - began
        found["share"].append(sum(spent) / wall)
        found["number"].append(len(spent))
        found["seconds of one"] += spent
        print(f"{recipe}: {wall:.1f} s, {len(spent)} checkpoints, {found['share'][-1]:.2%}", flush=True)
    return found


def table(result: dict) -> str:
    lines = ["| training | checkpoints | one takes | share of the time, median (highest) |", "|---|---|---|---|"]
    for label, entry in result["measured"].items():
        share, one = entry["share"], entry["seconds of one"]["median"]
        cells = (label, f"{entry['number']['median']:.0f}", f"{one * 1000:.0f} ms")
        lines.append(f"| {' | '.join(cells)} | {share['median']:.2%} ({share['highest']:.2%}) |")
    machine = result["machine"]
    notes = (
        f"On {machine['cores']} cores of an {machine['processor']}, {result['created'][:10]}; {ROUNDS} trainings each."
    )
    return "\n".join(lines) + f"\n\n{notes}\n"


def main() -> None:
    measured = {}
    with tempfile.TemporaryDirectory() as scratch, mock.patch.dict("os.environ", IMGCLASSIFY_ARTIFACTS_DIR=scratch):
        for recipe, (name, options) in TRAININGS.items():
            label = f"`{recipe}` on {name}" + (f", {options['epochs']} epochs" if options else "")
            try:
                data = load_dataset(name, offline=True, **({"size": 224} if recipe == "photos" else {}))
            except DatasetError as error:
                print(f"{label} is left out: {error}", file=sys.stderr, flush=True)
                continue
            measured[label.replace("1 epochs", "1 epoch")] = summary(shares(recipe, data, options))
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": provenance.describe_machine(),
        "versions": provenance.describe_versions(),
        "measured": measured,
    }
    (ARTIFACTS / "benchmarks_checkpoints.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table("checkpoints", table(result))


if __name__ == "__main__":
    main()
