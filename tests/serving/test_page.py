import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from imgclassify import load_model
from imgclassify.cli import main
from imgclassify.runs.manifest import ModelFileError, read_manifest
from imgclassify.serving import page
from imgclassify.serving.export import export_model, export_path
from imgclassify.serving.exported import load_exported
from imgclassify.serving.page import exported_model, write_page

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
    named |= {"model.onnx.gz", page._RUNTIME, "index.html"}
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
    assert read_manifest(saved.file).exports == {}  # nobody has asked for an export
    small = export_path(saved, "onnx-int8")
    assert gzip.decompress((folder / "model.onnx.gz").read_bytes()) == small.read_bytes()


def test_the_same_model_gives_the_same_page(saved, tiny, tmp_path):
    folders = [write_page(saved, tmp_path / name, data=tiny).parent for name in "ab"]
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second


def test_an_export_of_this_model_is_used_again_and_one_of_another_is_not(saved, tiny):
    first = exported_model(saved, data=tiny)
    before = first.file.stat().st_mtime_ns
    assert exported_model(saved).file.stat().st_mtime_ns == before  # without data: nothing is compared
    other = saved.recorded(seed=7).save(saved.file, replace=True)
    network = other.network
    network.layers[-1].set_weights([each * 2 for each in network.layers[-1].get_weights()])
    changed = other.save(saved.file, replace=True)
    assert changed.manifest.sha256 != saved.manifest.sha256
    assert exported_model(changed, data=tiny).about.model_sha256 == changed.manifest.sha256


def test_a_damaged_export_is_written_again(saved, tiny):
    path = exported_model(saved, data=tiny).file
    path.write_bytes(b"damaged")
    assert exported_model(saved, data=tiny).class_names == saved.class_names


def test_where_eight_bits_change_too_much_float32_is_used(saved, tiny, tmp_path, monkeypatch, capsys):
    def refuses(model, to, *arguments, **options):
        if to == "onnx-int8":
            raise ModelFileError("colours.keras is not exported to onnx-int8: it answers otherwise.")
        return export_model(model, to, *arguments, **options)

    monkeypatch.setattr(page, "export_model", refuses)
    folder = write_page(saved, tmp_path / "page", data=tiny).parent
    assert gzip.decompress((folder / "model.onnx.gz").read_bytes()) == export_path(saved, "onnx").read_bytes()
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
    with pytest.raises(ModelFileError, match="exists and is not empty"):
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
    assert main(["page", str(export_path(saved, "onnx-int8")), "-o", str(tmp_path / "page")]) == 1
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_model_without_a_file_is_exported_anew(saved, tiny, tmp_path):
    unsaved = replace(saved.recorded(sha256=None), file=None)
    first = exported_model(unsaved, data=tiny)
    assert first.about.model_sha256 is None
    before = first.file.stat().st_mtime_ns
    assert exported_model(unsaved, data=tiny).file.stat().st_mtime_ns > before
