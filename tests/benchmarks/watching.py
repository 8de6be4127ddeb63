"""How often `imgclassify watch` gives a false alarm, and how often it finds a drift; writes docs/watching.md's tables.

`python watching.py`, ten minutes on two cores. Logs of ten days are drawn from real answers of the shipped best model;
its validation pictures are the reference, and CIFAR-10's test pictures what users send.
"""

import datetime as dt
import json
from unittest.mock import patch

import numpy as np
from bench import ARTIFACTS, write_table

from imgclassify import load_model
from imgclassify.data.loading import load_dataset
from imgclassify.evaluation.answers import Answers, validation_answers
from imgclassify.evaluation.drift import LEAST, find_drift
from imgclassify.evaluation.robustness import corrupt
from imgclassify.evaluation.unknown import as_thumbnails

DAYS, PER_DAY = 10, (100, 300, 1000)
LOGS, SHOTS = 500, 100  # logs without a drift, and with one, of each kind
OTHERS = 2000  # pictures that are corrupted, and digits


def joined(*parts: Answers) -> Answers:
    arrays = [np.concatenate([getattr(each, name) for each in parts]) for name in ("labels", "confidence", "known")]
    return Answers(parts[0].class_names, *arrays)


def days(per_day: int) -> np.ndarray:
    return np.repeat(np.datetime64("2026-01-01") + np.arange(DAYS), per_day)


def false_alarms(reference: Answers, use: Answers, per_day: int, burst: int = 1) -> float:
    """Share of logs without a drift in which one is said; people send `burst` pictures of one class each.

    Reference and use are mixed and divided anew for each log, so that chance in the choice of the reference counts too.
    """
    chance, pool, alarms = np.random.default_rng(per_day), joined(reference, use), 0
    for _ in range(LOGS):
        order = chance.permutation(len(pool))
        known, rest = pool[order[: len(reference)]], pool[order[len(reference) :]]
        if burst == 1:
            rows = chance.integers(len(rest), size=DAYS * per_day)
        else:
            of_class = [np.flatnonzero(rest.labels == label) for label in range(len(pool.class_names))]
            people = chance.integers(len(of_class), size=DAYS * per_day // burst)
            rows = np.concatenate([chance.choice(of_class[each], burst) for each in people])
        alarms += any(window.drifts for window in find_drift(known, rest[rows], days(per_day)))
    return alarms / LOGS


def power(reference: Answers, use: Answers, last_day: Answers, per_day: int) -> dict[str, float]:
    """Share of logs whose last day is drawn from other answers in which this day is said to drift, and in what."""
    chance, found = np.random.default_rng(per_day), []
    for _ in range(SHOTS):
        usual = use[chance.integers(len(use), size=(DAYS - 1) * per_day)]
        log = joined(usual, last_day[chance.integers(len(last_day), size=per_day)])
        found.append(find_drift(reference, log, days(per_day))[-1].drifts)
    return {name: float(np.mean([name in each for each in found])) for name in LEAST} | {
        "any": float(np.mean([bool(each) for each in found]))
    }


def drifts(model, data, use: Answers) -> dict[str, Answers]:
    """Answers of a day on which something has changed, by what it is."""
    x, chance = np.asarray(data.x_test[:OTHERS]), np.random.default_rng(0)
    digits = Answers.of(model, as_thumbnails(list(load_dataset("digits").x_train[:1000])))
    corruptions = {"JPEG": (1, 3), "Gaussian noise": (1, 3), "defocus blur": (1, 2), "contrast": (3,)}
    found = {
        f"all pictures: {name}, strength {strength}": Answers.of(model, corrupt(x, name, strength))
        for name, strengths in corruptions.items()
        for strength in strengths
    }
    cats = np.flatnonzero(use.labels == use.class_names.index("cat"))
    for share in (0.1, 0.2):
        rows = chance.choice(cats, round(share / (1 - share) * len(use)))
        found[f"cats added, {share:.0%} of all"] = joined(use, use[rows])
    for share in (0.05, 0.1, 0.3):
        rows = chance.integers(len(digits), size=round(share / (1 - share) * len(use)))
        found[f"digits added, {share:.0%} of all"] = joined(use, digits[rows])
    return found


def tables(result: dict) -> tuple[str, str]:
    alarms = result["false alarms"]
    lines = ["| answers per day | " + " | ".join(alarms) + " |", "|---" * (1 + len(alarms)) + "|"]
    for count in map(str, PER_DAY):
        lines.append(f"| {count} | " + " | ".join(f"{each[count]:.1%}" for each in alarms.values()) + " |")
    more = ["| what has changed | found of 100 | of 300 | of 1,000 | said to be |", "|---|---|---|---|---|"]
    for kind, each in result["power"].items():
        shares = " | ".join(f"{each[str(count)]['any']:.0%}" for count in PER_DAY)
        said = [name for name in LEAST if each[str(PER_DAY[-1])][name] >= 0.5]
        more.append(f"| {kind} | {shares} | {', '.join(said) or '-'} |")
    return "\n".join(lines) + "\n", "\n".join(more) + "\n"


def main() -> None:
    data, model = load_dataset("cifar10", offline=True), load_model("best")
    reference, use = validation_answers(model.file), Answers.of(model, np.asarray(data.x_test))
    alarms = {"drift is said": {str(count): false_alarms(reference, use, count) for count in PER_DAY}}
    with patch.dict(LEAST, dict.fromkeys(LEAST, 0)):
        alarms["only significance asked for"] = {str(count): false_alarms(reference, use, count) for count in PER_DAY}
    for burst in (5, 20):
        name = f"people send {burst} pictures of one class"
        alarms[name] = {str(count): false_alarms(reference, use, count, burst) for count in PER_DAY}
    result = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "model": model.name,
        "validation": {"answers": len(reference), "refusals": reference.refused},
        "logs": {"days": DAYS, "without drift": LOGS, "with drift": SHOTS},
        "false alarms": alarms,
        "power": {
            kind: {str(count): power(reference, use, each, count) for count in PER_DAY}
            for kind, each in drifts(model, data, use).items()
        },
    }
    (ARTIFACTS / "benchmarks_watching.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, text in zip(("false alarms", "power"), tables(result), strict=True):
        write_table(name, text, "watching.md")


if __name__ == "__main__":
    main()
