"""Fuzz for long what reads files from elsewhere: `python long_forms.py fuzzing`, half an hour; see tests/fuzz."""

import re
import subprocess
import sys
from pathlib import Path

TARGETS = Path(__file__).resolve().parents[1] / "fuzz" / "targets.py"
SECONDS = 600  # for each target


def measure() -> dict[str, int]:
    """For each target, the number of inputs; ends with libFuzzer's report if one of them does what it should not."""
    found = {}
    for target in ("manifest", "picture", "configuration", "detector"):
        command = [sys.executable, str(TARGETS), target, f"-max_total_time={SECONDS}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise SystemExit(ended.stderr[-5000:])
        found[target] = int(re.search(r"number_of_executed_units: (\d+)", ended.stderr)[1])
        print(target, found[target], flush=True)
    return found


def describe(found: dict) -> str:
    counts = ", ".join(f"{count:,} {target}s" for target, count in found.items())
    return f"{counts}, in {SECONDS // 60} minutes each: nothing was found"
