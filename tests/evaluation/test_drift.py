import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgclassify.cli import main
from imgclassify.data.dataset import DatasetError
from imgclassify.data.download import file_sha256
from imgclassify.evaluation import answers as answers_module
from imgclassify.evaluation.answers import Answers, answers_path, read_log, validation_answers
from imgclassify.evaluation.drift import LEAST, _clump, compare, find_drift, watch_log
from imgclassify.runs.files import write_model
from imgclassify.runs.manifest import read_manifest

SHIPPED = Path(__file__).resolve().parents[2] / "artifacts"
NAMES = ("red", "green", "blue")
ALONE = dict.fromkeys(LEAST, 1.0)  # all answers are independent
DAY = np.datetime64("2026-01-01")


def of(labels, confidence=0.9, known=True) -> Answers:
    labels = np.asarray(labels)
    return Answers(NAMES, labels, np.broadcast_to(confidence, labels.shape), np.broadcast_to(known, labels.shape))


@pytest.fixture(scope="module")
def real():
    """Real answers: those of the shipped best model to its 2,500 validation pictures."""
    return validation_answers(SHIPPED / "cifar10_best.keras")


def drifts(reference: Answers, *days: Answers) -> list[tuple[str, ...]]:
    """What drifts on each day."""
    parts = [np.concatenate([getattr(each, name) for each in days]) for name in ("labels", "confidence", "known")]
    dates = DAY + np.repeat(np.arange(len(days)), [len(each) for each in days])
    return [each.drifts for each in find_drift(reference, Answers(reference.class_names, *parts), dates)]


# --- the tests ---------------------------------------------------------------------------------------


def test_sizes_are_those_of_hand_computed_cases():
    a = of(np.repeat([0, 1], 50), np.linspace(0, 1, 100))
    b = of(np.repeat([0, 1, 2], [50, 25, 25]), np.linspace(0.5, 1.5, 100).clip(0, 1), np.arange(100) < 75)
    found = compare(a, b, ALONE)
    assert found["confidence"][0] == pytest.approx(0.5, abs=0.02)
    assert found["class shares"][0] == pytest.approx(1 / 6)  # 1/2 and 1/2, against 2/3 and 1/3 of the accepted
    assert found["refusals"][0] == pytest.approx(0.25)
    assert all(0 < p < 0.05 for _, p in found.values())
    assert compare(a, a, ALONE) == dict.fromkeys(LEAST, (0, 1))


def test_p_values_are_those_of_scipy_for_independent_answers_and_larger_for_others():
    from scipy.stats import chi2_contingency, ks_2samp

    chance = np.random.default_rng(0)
    a = of(chance.integers(3, size=400), chance.random(400), chance.random(400) < 0.9)
    b = of(chance.integers(2, size=300), chance.random(300) ** 1.2, chance.random(300) < 0.8)
    alone, alike = compare(a, b, ALONE), compare(a, b, dict.fromkeys(LEAST, 5.0))
    assert alone["confidence"][1] == pytest.approx(ks_2samp(a.confidence, b.confidence, method="asymp").pvalue)
    assert alone["class shares"][1] == pytest.approx(chi2_contingency([a.counts, b.counts]).pvalue)
    table = [[each.known.sum(), (~each.known).sum()] for each in (a, b)]
    assert alone["refusals"][1] == pytest.approx(chi2_contingency(table).pvalue)
    assert all(alike[name][0] == alone[name][0] and alike[name][1] > alone[name][1] for name in LEAST)


def test_rare_classes_are_counted_together_and_one_class_alone_is_not_tested():
    many = Answers(tuple(map(str, range(1000))), np.arange(2000) % 1000, np.full(2000, 0.5), np.ones(2000, bool))
    assert compare(many, many[:100], ALONE)["class shares"][1] == 1
    assert compare(of(np.zeros(200, int)), of(np.zeros(100, int)), ALONE)["class shares"] == (0, 1)
    assert compare(of(np.zeros(200, int)), of(np.zeros(100, int), known=False), ALONE)["class shares"][1] == 1


def test_neighbours_that_are_alike_count_for_fewer():
    chance = np.random.default_rng(0)
    for burst in (1, 5, 20):
        series = [np.repeat(chance.integers(3, size=1200 // burst), burst) for _ in range(5)]
        assert _clump(series) == pytest.approx(burst, rel=0.35)
    assert _clump([np.zeros(300, int)]) == _clump([]) == _clump([np.arange(3)]) == 1


def test_a_small_change_of_many_answers_is_no_drift(real):
    chance = np.random.default_rng(0)
    many = real[chance.integers(len(real), size=100_000)]
    fewer = many[(many.labels != 3) | (np.arange(len(many)) % 5 > 0)]  # a fifth of the cats are missing
    (window,) = find_drift(many, fewer, np.full(len(fewer), DAY))
    assert window.changes["class shares"][1] < 1e-6
    assert window.drifts == ()


def test_false_alarms_are_rare_and_drifts_are_found(real):
    """The fast form of tests/benchmarks/watching.py."""
    chance, alarms, found, logs = np.random.default_rng(0), 0, [], 40
    for _ in range(logs):
        order = chance.permutation(len(real))
        known, rest = real[order[:1250]], real[order[1250:]]
        usual = [rest[chance.integers(len(rest), size=400)] for _ in range(5)]
        alarms += any(drifts(known, *usual))
        cats = np.concatenate([np.flatnonzero(rest.labels == 3), np.arange(300)])  # a third is of one class
        refused = np.concatenate([np.flatnonzero(~rest.known), np.arange(300)])
        unsure = replace(usual[0], confidence=usual[0].confidence ** 2)
        days = [*usual, *(rest[chance.choice(rows, 400)] for rows in (cats, refused)), unsure]
        said = drifts(known, *days)[5:]
        found.append(
            [name in each for name, each in zip(("class shares", "refusals", "confidence"), said, strict=True)]
        )
    assert alarms <= 0.07 * logs
    assert np.all(np.mean(found, axis=0) > 0.8)


def test_bursts_of_one_person_are_rarely_a_drift(real):
    chance, alarms = np.random.default_rng(0), 0
    of_class = [np.flatnonzero(real.labels == label) for label in range(10)]
    for _ in range(30):
        rows = [chance.choice(of_class[each], 5) for each in chance.integers(10, size=400)]
        alarms += any(drifts(real, *(real[part] for part in np.split(np.concatenate(rows), 4))))
    assert alarms <= 3


def test_days_with_few_answers_are_joined():
    dates = DAY + np.repeat([0, 1, 2, 5, 9], [80, 140, 300, 198, 6])
    windows = find_drift(of(np.arange(300) % 3), of(np.arange(len(dates)) % 3), dates[::-1])
    assert [(str(each), len(each.answers)) for each in windows] == [
        ("2026-01-01 to 2026-01-02", 220),
        ("2026-01-03", 300),
        ("2026-01-06 to 2026-01-10", 204),
    ]
    assert str(windows[0].first) == "2026-01-01"
    (alone,) = find_drift(of(np.arange(300) % 3), of(np.arange(5) % 3), dates[:5])
    assert len(alone.answers) == 5


# --- answers -----------------------------------------------------------------------------------------


@pytest.fixture
def kept(tiny_run, tiny, tmp_path, monkeypatch):
    """A copy of the tiny model whose data can be loaded."""
    monkeypatch.setattr(answers_module, "load_dataset", lambda *_, **__: tiny)
    monkeypatch.setattr(answers_module, "size_for", lambda *_: None)
    return tiny_run.model.save(tmp_path / "tiny.keras").file


def test_answers_to_validation_pictures_are_measured_once(kept, tiny, tiny_model, monkeypatch):
    found = validation_answers(kept)
    manifest = read_manifest(kept)
    held = tiny.validation_split(manifest.recipe.validation_fraction, manifest.seed)[1]
    probabilities = tiny_model.probabilities(tiny.x_train[held])
    assert found.class_names == NAMES
    np.testing.assert_array_equal(found.labels, probabilities.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, probabilities.max(axis=1), atol=1e-6)
    assert found.refused == 0
    monkeypatch.setattr(answers_module, "_measured", lambda model: pytest.fail("measured again"))
    again = validation_answers(kept)
    np.testing.assert_array_equal(again.labels, found.labels)
    np.testing.assert_array_equal(again.confidence, found.confidence)


def test_a_damaged_or_foreign_record_is_measured_again(kept, tiny_model, tmp_path):
    wanted, record = validation_answers(kept), answers_path(kept)
    other = tiny_model.recorded(class_names=("a", "b", "c"))
    write_model(other.network, other.manifest, kept, replace=True)
    assert validation_answers(kept).class_names == ("a", "b", "c")
    with np.load(record) as file:
        arrays = dict(file)
    for changed in ({"labels": arrays["labels"] + 9}, {"confidence": arrays["confidence"] * 2}, {"known": np.ones(1)}):
        with record.open("wb") as file:
            np.savez(file, **{**arrays, **changed})
        with pytest.raises(ValueError, match="it is not as expected"):
            answers_module._read(record, file_sha256(kept))
    record.write_bytes(record.read_bytes()[:300])
    np.testing.assert_array_equal(validation_answers(kept).labels, wanted.labels)


def test_validation_pictures_that_are_not_known_are_said(kept, tiny_model, tmp_path):
    plain = tiny_model.recorded(recipe=None).save(tmp_path / "plain.keras").file
    with pytest.raises(ValueError, match="its validation pictures are not known"):
        validation_answers(plain)
    gone = replace(tiny_model.manifest.dataset, folder="/gone", fingerprint="another")
    changed = tiny_model.recorded(dataset=gone).save(tmp_path / "changed.keras").file
    with pytest.raises(DatasetError, match="have changed since"):
        validation_answers(changed)


@pytest.mark.parametrize("name", ["cifar10_best.keras", "cifar10_guided.keras", "cifar10_model.h5"])
def test_shipped_models_have_their_answers(name, monkeypatch):
    monkeypatch.setattr(answers_module, "_measured", lambda model: pytest.fail("not shipped"))
    answers = validation_answers(SHIPPED / name)
    manifest = read_manifest(SHIPPED / name)
    assert len(answers) == manifest.dataset.validation_pictures
    assert answers.class_names == manifest.class_names
    assert answers.refused == pytest.approx(0.05, abs=0.01)
    assert f'"{answers_path(Path(name))}"' in (SHIPPED.parent / "setup.py").read_text(encoding="utf-8")


# --- logs and the command ----------------------------------------------------------------------------


def line(number: int = 0, **changes) -> str:
    """A line as the service writes it."""
    values = {"time": f"2026-11-{1 + number // 1000:02}T10:00:00.123+00:00", "request": f"r{number}", "key": "ann"}
    values |= {"model": "tiny.onnx", "label": NAMES[number % 3], "confidence": 0.9, "familiarity": None, "known": True}
    return json.dumps(values | {"milliseconds": 4.2} | changes)


def test_a_log_is_read_and_what_cannot_be_used_is_counted(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [
        line(0, time="2026-11-02T01:00:00+02:00", key="bob"),
        line(1, known=False, familiarity=0.01, key=None),
        line(2, confidence=0.25),
        line(3, model="other.onnx"),
        line(4, label="pink"),
        line(5, confidence=1.5),
        "not JSON at all",
        "",
        line(6)[:50],
    ]
    log.write_text("\n".join(lines))
    answers, days, skipped = read_log(log, "tiny.keras", NAMES)
    assert answers.labels.tolist() == [1, 2, 0]  # those of one key together
    assert answers.known.tolist() == [False, True, True]
    assert answers.confidence.tolist() == [0.9, 0.25, 0.9]
    assert list(map(str, days)) == ["2026-11-01"] * 3  # in UTC
    assert skipped == {
        "damaged or cut off": 3,
        "by other models": 1,
        "with a class that the model does not know": 1,
    }


def test_logs_of_no_use_are_one_sentence(tmp_path):
    log = tmp_path / "log.jsonl"
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_log(log, "tiny", NAMES)
    log.write_text(line(label="pink"))
    with pytest.raises(ValueError, match="has no answers of a model that knows red, green, blue"):
        read_log(log, "tiny", NAMES)
    log.write_text("\n".join([line(model="a.onnx"), line(model="b.onnx")]))
    with pytest.raises(ValueError, match=r"has no answers by tiny, but by a\.onnx, b\.onnx"):
        read_log(log, "tiny", NAMES)
    log.write_text(line(model="other.onnx"))
    with pytest.raises(ValueError, match=r"has no answers by tiny, but by other\.onnx: use --model"):
        read_log(log, "tiny", NAMES)
    log.write_text(line(confidence=1.0000001) + "\n" + line(time="0001-01-01T00:00:00+14:00"))
    answers, _, skipped = read_log(log, "tiny.keras", NAMES)
    assert (len(answers), skipped) == (1, {"damaged or cut off": 1})


def test_the_command_says_what_drifts(kept, tmp_path, monkeypatch, capsys):
    log, figure = tmp_path / "log.jsonl", tmp_path / "drift.png"
    usual = validation_answers(kept)
    chance = np.random.default_rng(0)

    def written(count: int, **changes) -> list[str]:
        rows = chance.integers(len(usual), size=count)
        said = [{"label": NAMES[usual.labels[row]], "confidence": float(usual.confidence[row])} for row in rows]
        return [line(number, **each, **changes) for number, each in enumerate(said)]

    log.write_text("\n".join([*written(300), *written(300, time="2026-12-24T00:00:00Z", known=False), "cut o"]))
    assert main(["watch", str(log), "--model", str(kept), "-o", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert f"600 answers by {kept.name}, compared with those on 12 pictures." in shown
    assert "Skipped: 1 damaged or cut off." in shown
    assert "refusals: DRIFT in 1 of 2 windows, most on 2026-12-24: 100% instead of 0% (change 1.00" in shown
    assert "class shares: no drift" in shown
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(["watch", str(log), "--model", str(kept), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["drifts"] == ["refusals"]
    assert [each["drifts"] for each in values["windows"]] == [[], ["refusals"]]
    assert values["windows"][1]["refusals"]["change"] == 1
    assert values["validation"]["answers"] == 12
    log.write_text("\n".join(written(20)))
    assert "These are few answers" in str(watch_log(log, kept))
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
    assert main(["watch", str(tmp_path / "gone.jsonl"), "--model", str(kept)]) == 1
    assert "cannot be read" in capsys.readouterr().err
