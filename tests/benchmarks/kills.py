"""Kill trainings and see that nothing is lost: `python long_forms.py kills`, some fifteen minutes on two cores.

Each training is killed again and again, half of the time at a random moment and half of the time at a random file
operation, and resumed, until it ends. Its end must be that of a training that was never killed, bit for bit; and after
each kill, the model that was published before must load, or the new one must.
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from imgclassify.runs.files import read_model

KILLS = 100
KILLED = Path(__file__).resolve().parents[1] / "training" / "killed.py"


def train(folder: Path, recipe: str, *operation: int, seconds: float | None = None) -> bool:
    """Run the training, and kill it so many seconds after its beginning; returns whether it ended by itself."""
    command = [sys.executable, str(KILLED), str(folder), recipe, *map(str, operation)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        too_long = threading.Timer(300, process.kill)
        too_long.start()
        process.stdout.readline()  # Python and TensorFlow have started
        too_long.cancel()
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    if process.returncode not in (0, -9):
        raise SystemExit(said)
    return process.returncode == 0


def published(folder: Path) -> str | None:
    """Checksum of the published model, which must load; None before the first."""
    model = folder / "model.keras"
    return read_model(model)[1].sha256 if model.exists() else None


def measure() -> dict[str, int]:
    """How many kills there were, how many trainings ended, and how many of these had been resumed."""
    chance, killed, resumed, trainings = random.Random(0), 0, 0, 0
    for recipe in ("baseline", "fast"):
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch, "whole")
            whole.mkdir()
            assert train(whole, recipe)
            expected = json.loads((whole / "result.json").read_text())
            folder = Path(scratch, "killed")
            folder.mkdir()
            until = killed + KILLS // 2
            while killed < until:
                (folder / "result.json").unlink(missing_ok=True)
                before, ended = published(folder), False
                while not ended:
                    if killed >= until:
                        ended = train(folder, recipe)
                    elif chance.random() < 0.5:
                        ended = train(folder, recipe, seconds=chance.uniform(0, 6))
                    else:
                        ended = train(folder, recipe, chance.randint(1, 40))
                    killed += not ended
                    now = published(folder)
                    assert before is None or now is not None, "the published model is lost"
                result = json.loads((folder / "result.json").read_text())
                for part in ("weights", "history", "metrics"):
                    assert result[part] == expected[part], (recipe, part)
                resumed, trainings = resumed + result["resumed"], trainings + 1
                print(f"{recipe}: {killed} kills, {trainings} trainings ended as if there had been none", flush=True)
    return {"kills": killed, "trainings": trainings, "resumed": resumed}


def describe(found: dict) -> str:
    return (
        f"{found['kills']} kills; {found['trainings']} trainings ended, {found['resumed']} of them resumed, all with "
        "the weights, history and measurements of one that was not killed; "
        "the published model was whole after each kill"
    )
