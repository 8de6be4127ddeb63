"""A service in its own process: `python slow_service.py MODEL PORT SECONDS LIMITS [KEYS]`."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from imgclassify.serving import service
from imgclassify.serving.exported import load_exported

path, port, seconds, limits, *keys = sys.argv[1:]
model = load_exported(path)


def slow(x, run=model.run):
    time.sleep(float(seconds))
    return run(x)


limits = service.Limits(**json.loads(limits))
options = {
    "limits": limits,
    "answers": Path(path).with_suffix(".jsonl"),
    "keys": service.Keys(keys[0]) if keys else None,
}
app = service.create_app(replace(model, run=slow), **options)
with service.listening("127.0.0.1", int(port)) as (_, bound):
    service.serve(app, bound, limits=limits)
