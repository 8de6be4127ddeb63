"""A service in its own process: `python slow_service.py MODEL PORT SECONDS LIMITS`; a batch takes SECONDS."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from imgclassify.serving import service
from imgclassify.serving.exported import load_exported

path, port, seconds, limits = sys.argv[1:]
model = load_exported(path)


def slow(x, run=model.run):
    time.sleep(float(seconds))
    return run(x)


limits = service.Limits(**json.loads(limits))
app = service.create_app(replace(model, run=slow), limits=limits, answers=Path(path).with_suffix(".jsonl"))
service.serve(app, host="127.0.0.1", port=int(port), limits=limits)
