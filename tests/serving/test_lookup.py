import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper
from onnx_files import ABOUT, write_colours

from imgclassify.data.download import file_sha256
from imgclassify.runs.manifest import ModelFileError
from imgclassify.serving.lookup import find_exported
from imgclassify.settings import cache_dir


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A model in the artifacts folder of this test."""
    return tiny_model.save(tmp_path / "artifacts" / "colours.keras")


@pytest.fixture
def exports(monkeypatch):
    """The commands that would export a model; `exports.result` is how they end."""

    class Exports(list):
        result = subprocess.CompletedProcess([], 0, stderr="")

        def run(self, command, **options):
            self.append(command)
            if not self.result.returncode:
                write_export(Path(command[6]), None)
            return self.result

    found = Exports()
    monkeypatch.setattr("imgclassify.serving.lookup.subprocess.run", found.run)
    return found


def write_export(path: Path, sha256: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(write_colours(path))
    helper.set_model_props(model, replace(ABOUT, model_sha256=sha256).properties())
    onnx.save(model, path)


def test_a_file_is_taken_as_it_is(exports, tmp_path):
    write_export(tmp_path / "some.onnx", None)
    assert find_exported(str(tmp_path / "some.onnx"), say=pytest.fail).file == tmp_path / "some.onnx"
    with pytest.raises(ModelFileError, match="There is no exported model"):
        find_exported(str(tmp_path / "gone.onnx"), say=pytest.fail)
    assert exports == []


def test_the_export_of_this_model_is_used_without_a_word(saved, exports):
    path = saved.file.with_name("colours.onnx")
    write_export(path, saved.manifest.sha256)
    assert find_exported("colours.keras", say=pytest.fail).file == path
    assert exports == []


@pytest.mark.parametrize("there", ["nothing", "an export of another model", "a damaged file"])
def test_otherwise_the_model_is_exported_first_in_a_process_of_its_own(saved, exports, there):
    path, said = saved.file.with_name("colours.onnx"), []
    kept = cache_dir() / "exported" / file_sha256(saved.file)[:16] / "colours.onnx"
    if there == "an export of another model":
        write_export(path, "0" * 64)
    elif there == "a damaged file":
        path.write_bytes(b"damaged")
    before = path.read_bytes() if path.exists() else None
    assert find_exported("colours.keras", say=said.append).file == kept
    command = [sys.executable, "-m", "imgclassify.cli", "export", "colours.keras", "-o", str(kept), "--replace"]
    assert exports == [[*command, "--no-record"]]
    assert said == [f"colours.keras is exported to {kept} first, which takes a minute."]
    assert (path.read_bytes() if path.exists() else None) == before
    assert find_exported("colours.keras", say=pytest.fail).file == kept  # from now on


def test_an_export_that_fails_is_said_in_its_own_words(saved, exports):
    exports.result = subprocess.CompletedProcess(
        [], 1, stderr="loading\nimgclassify: The package tf2onnx is missing.\n"
    )
    with pytest.raises(ModelFileError, match=r"could not be exported. \(The package tf2onnx is missing.\)"):
        find_exported("colours.keras", say=lambda sentence: None)
    exports.result = subprocess.CompletedProcess([], -9, stderr="")
    with pytest.raises(ModelFileError, match="its process was ended"):
        find_exported("colours.keras", say=lambda sentence: None)


def test_an_unknown_model_is_a_sentence(exports, nothing_shipped):
    with pytest.raises(ModelFileError, match='No model for "nonsense"'):
        find_exported("nonsense", say=pytest.fail)
