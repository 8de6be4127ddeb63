import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from imgclassify import load_model
from imgclassify.cli import main
from imgclassify.runs.manifest import ModelFileError, read_manifest
from imgclassify.serving import lookup, page
from imgclassify.serving.export import export_model
from imgclassify.serving.exported import load_exported
from imgclassify.serving.lookup import kept_export
from imgclassify.serving.page import write_page

WEB = Path(page.__file__).with_name("web")


@pytest.fixture
def saved(tiny_run, tmp_path):
    """A trained model in this test's artifacts folder."""
    return load_model(tiny_run.model.save(tmp_path / "artifacts" / "colours.keras").file)


def test_a_page_has_all_that_it_needs_and_refers_to_nothing_else(saved, tiny, tmp_path):
    written = write_page(saved, tmp_path / "page", data=tiny)
    folder = written.parent
    assert written.name == "index.html"
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".html", ".js", ".css")]
    assert len(texts) == 5
    named = {name for text in texts for name in re.findall(r'(?:src|href|from|get|load)[=( ]+"\.?/?([\w.-]+)"', text)}
    named |= {"model.onnx.gz", page._RUNTIME, "index.html"}  # those have a suffix, or are the beginning
    assert named >= {"page.js", "page.css", "classifier.js", "prepare.js", "ort.wasm.bundle.min.mjs", "about.json"}
    assert named == {path.name for path in folder.iterdir()}
    assert not any(re.search(r"(?:src|href)=\"(?!data:)[a-z]+:", text) for text in texts)


def test_a_page_says_what_the_model_is(saved, tiny, tmp_path):
    folder = write_page(saved, tmp_path / "page", data=tiny).parent
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    assert about["class_names"] == ["red", "green", "blue"]
    assert about["input_shape"] == [32, 32, 3]
    assert about["bytes"] == {
        "model": (folder / "model.onnx.gz").stat().st_size,
        "runtime": (folder / page._RUNTIME).stat().st_size,
    }
    small = kept_export(saved, "onnx-int8").file
    assert gzip.decompress((folder / "model.onnx.gz").read_bytes()) == small.read_bytes()


def test_the_same_model_gives_the_same_page(saved, tiny, tmp_path):
    folders = [write_page(saved, tmp_path / name, data=tiny).parent for name in "ab"]
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second


def test_an_export_in_the_cache_is_used_again_and_one_of_another_model_is_not(saved, tiny):
    first = kept_export(saved, data=tiny)
    before = first.file.stat().st_mtime_ns
    assert kept_export(saved).file.stat().st_mtime_ns == before  # without data: nothing is compared
    last = saved.network.weights[-2]
    last.assign(2 * last)  # in memory only: the manifest knows nothing of it
    changed = kept_export(saved, data=tiny)
    assert changed.file != first.file
    assert changed.predict(tiny.x_test[0]).confidence != first.predict(tiny.x_test[0]).confidence


def test_a_damaged_export_is_written_again(saved, tiny):
    path = kept_export(saved, data=tiny).file
    path.write_bytes(b"damaged")
    assert kept_export(saved, data=tiny).class_names == saved.class_names


def test_an_export_that_nobody_has_asked_for_touches_nothing_beside_the_model(saved, tiny, tmp_path):
    mine = saved.file.with_name("colours.int8.onnx")
    mine.write_bytes(b"mine")
    write_page(saved, tmp_path / "page", data=tiny)
    assert mine.read_bytes() == b"mine"
    assert read_manifest(saved.file).exports == {}


def test_where_eight_bits_change_too_much_float32_is_used(saved, tiny, tmp_path, monkeypatch, capsys):
    def refuses(model, to, *arguments, **options):
        if to == "onnx-int8":
            raise ModelFileError("colours.keras is not exported to onnx-int8: it answers otherwise.")
        return export_model(model, to, *arguments, **options)

    monkeypatch.setattr(lookup, "export_model", refuses)
    folder = write_page(saved, tmp_path / "page", data=tiny).parent
    assert gzip.decompress((folder / "model.onnx.gz").read_bytes()) == kept_export(saved).file.read_bytes()
    assert "it answers otherwise. It is used in float32." in capsys.readouterr().err


def test_a_page_can_be_written_from_a_file_alone(saved, tiny, tmp_path):
    path = export_model(saved, "onnx", tmp_path / "mine.onnx", data=tiny).path
    folder = write_page(load_exported(path), tmp_path / "page").parent
    assert gzip.decompress((folder / "model.onnx.gz").read_bytes()) == path.read_bytes()
    phone = export_model(saved, "litert", tmp_path / "mine.tflite", data=tiny).path
    with pytest.raises(ModelFileError, match=r"A page needs an \.onnx file"):
        write_page(load_exported(phone), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_nothing_that_is_there_is_lost(saved, tiny, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ModelFileError, match="exists and is not empty"):
        write_page(saved, folder, data=tiny)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    write_page(saved, folder, data=tiny, replace=True)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    with pytest.raises(ModelFileError, match="is a file, expected a folder"):
        write_page(saved, tmp_path / "file", data=tiny, replace=True)


def test_the_runtime_is_the_one_that_its_readme_names():
    readme = (WEB / "README.md").read_text(encoding="utf-8")
    version = re.search(r"ONNX Runtime Web (\d+\.\d+\.\d+)", readme)[1]
    script = (WEB / "ort.wasm.bundle.min.mjs").read_text(encoding="utf-8")
    assert script.startswith("/*!\n * ONNX Runtime Web v" + version)
    assert "MIT License" in script[:200]
    packed = (WEB / page._RUNTIME).read_bytes()
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    )


def test_the_policy_allows_nothing_from_elsewhere():
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', (WEB / "index.html").read_text("utf-8"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe-inline" not in policy
    assert "http" not in policy


def test_the_command_writes_a_page(saved, tiny, tmp_path, capsys, monkeypatch):
    from imgclassify.data.folders import save_as_folder

    data = save_as_folder(tiny, tmp_path / "data")
    assert main(["page", "colours.keras", "-o", str(tmp_path / "page"), "--data", str(data), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["written"] == str(tmp_path / "page" / "index.html")
    assert 3 < values["megabytes"] < 8
    assert main(["page", str(kept_export(saved, "onnx-int8").file), "-o", str(tmp_path / "page")]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
