import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgclassify import runtime

HEAVY = ("tensorflow", "keras", "numpy", "PIL", "matplotlib", "sklearn", "scipy", "requests", "ipywidgets")

SET_BY_RUNTIME = ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND")  # also in this process, by earlier tests


def python(code: str, **environment) -> subprocess.CompletedProcess:
    """Runs code in a process of its own; its two streams are caught at the level of file descriptors."""
    untouched = {name: value for name, value in os.environ.items() if name not in SET_BY_RUNTIME}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=untouched | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def loaded_after(code: str) -> list[str]:
    """Which heavy packages a piece of code has loaded."""
    done = python(f"import sys\n{code}\nprint('loaded:', *[name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


# --- what an import costs ----------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import imgclassify") == []


def test_help_loads_nothing_heavy():
    for arguments in (["--help"], ["train", "--help"]):
        code = f"try: cli.main({arguments})\nexcept SystemExit as end: assert end.code == 0"
        assert loaded_after(f"from imgclassify import cli\n{code}") == []


def test_listing_the_packages_names_loads_nothing_heavy():
    assert loaded_after("import imgclassify; dir(imgclassify); imgclassify.__all__") == []


def test_working_with_pictures_and_data_does_not_load_tensorflow():
    loaded = loaded_after("from imgclassify import decode_image, load_dataset, list_runs, ModelFileError")
    assert "numpy" in loaded
    assert "tensorflow" not in loaded
    assert "keras" not in loaded


def test_importing_prints_nothing_sets_nothing_and_makes_no_folder(tmp_path):
    code = """
import os
before = dict(os.environ)
import imgclassify.cli, imgclassify.data, imgclassify.training, imgclassify.visualization
assert dict(os.environ) == before
"""
    folders = {f"IMGCLASSIFY_{name}_DIR": str(tmp_path / name) for name in ("ARTIFACTS", "CACHE")}
    done = python(code, **folders)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_every_public_name_can_be_had_and_others_are_an_attribute_error():
    import imgclassify

    for name in imgclassify.__all__:
        assert getattr(imgclassify, name).__name__ == name
        assert name in dir(imgclassify)
    with pytest.raises(AttributeError, match="module 'imgclassify' has no attribute 'train'"):
        imgclassify.train  # noqa: B018


def test_tensorflow_starts_and_computes_without_a_word_and_standard_error_works_afterwards():
    code = """
import numpy, os
from imgclassify import build_model
from imgclassify.prediction import predict_probabilities
assert predict_probabilities(build_model(), numpy.zeros((2, 32, 32, 3), numpy.uint8)).shape == (2, 10)
os.write(1, b"the end")
os.write(2, b"heard")
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end", "heard")


# --- settings ------------------------------------------------------------------------------------------


def test_an_unset_and_an_empty_setting_are_none(monkeypatch):
    monkeypatch.delenv("IMGCLASSIFY_DATASET", raising=False)
    assert runtime.setting("DATASET") is None
    monkeypatch.setenv("IMGCLASSIFY_DATASET", "")
    assert runtime.setting("DATASET") is None
    monkeypatch.setenv("IMGCLASSIFY_DATASET", "digits")
    assert runtime.setting("DATASET") == "digits"


@pytest.mark.parametrize(
    ("value", "on"),
    [
        ("1", True),
        ("true", True),
        ("yes", True),
        ("0", False),
        ("false", False),
        ("No", False),
        ("OFF", False),
        ("", False),
    ],
)
def test_switches_are_on_unless_they_say_off(monkeypatch, value, on):
    monkeypatch.setenv("IMGCLASSIFY_SHORT", value)
    assert runtime.is_on("SHORT") is runtime.short_mode() is on


def test_cache_folders_are_those_of_the_settings_and_not_created(monkeypatch, tmp_path):
    monkeypatch.setenv("IMGCLASSIFY_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    assert runtime.cache_dir() == tmp_path / "mine"
    assert runtime.keras_cache_dir() == tmp_path / "keras" / "datasets"
    monkeypatch.delenv("IMGCLASSIFY_CACHE_DIR")
    assert runtime.cache_dir().name == "imgclassify"
    assert list(tmp_path.iterdir()) == []


# --- the artifacts folder --------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """A project elsewhere, with its artifacts folder."""
    (tmp_path / "project" / "artifacts").mkdir(parents=True)
    (tmp_path / "project" / "src" / "imgclassify").mkdir(parents=True)
    (tmp_path / "project" / "notebooks").mkdir()
    return tmp_path / "project"


def test_the_setting_goes_before_everything(monkeypatch, project, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "chosen"))
    assert runtime.artifacts_dir() == tmp_path / "chosen"
    assert not (tmp_path / "chosen").exists()


def test_the_setting_may_start_at_the_home_folder(monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", "~/models")
    assert runtime.artifacts_dir() == Path.home() / "models"


def test_short_mode_goes_to_one_temporary_folder_and_not_into_the_project(monkeypatch, project):
    monkeypatch.chdir(project)
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    folder = runtime.artifacts_dir()
    assert folder == runtime.artifacts_dir()
    assert folder.is_dir()
    assert project not in folder.parents


def test_the_temporary_folder_is_gone_when_the_process_ends(tmp_path):
    done = python(
        "from imgclassify import runtime\nprint(runtime.artifacts_dir())",
        IMGCLASSIFY_SHORT="1",
        IMGCLASSIFY_ARTIFACTS_DIR="",
        TMPDIR=str(tmp_path),
    )
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", [".", "notebooks", "src/imgclassify"])
def test_then_the_project_is_found_upward_from_the_working_folder(monkeypatch, project, inside):
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    monkeypatch.chdir(project / inside)
    assert runtime.artifacts_dir() == project / "artifacts"


def test_then_the_installed_source_tree_is_taken(monkeypatch, tmp_path, project):
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "__file__", str(project / "src" / "imgclassify" / "runtime.py"))
    assert runtime.artifacts_dir() == project / "artifacts"


def test_else_there_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "site-packages" / "imgclassify" / "runtime.py"))
    with pytest.raises(FileNotFoundError, match=r"No artifacts folder: .* set IMGCLASSIFY_ARTIFACTS_DIR"):
        runtime.artifacts_dir()


def test_models_are_searched_in_the_artifacts_folder_then_among_shipped_ones(monkeypatch, project, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "chosen"))
    assert runtime.model_dirs() == [tmp_path / "chosen", project / "artifacts"]
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    assert runtime.model_dirs() == [project / "artifacts"]


# --- seeds and provenance ----------------------------------------------------------------------------------


def test_a_seed_repeats_random_numbers_and_weights():
    import random

    import numpy as np

    from imgclassify import build_model

    def draw():
        runtime.set_seed(7)
        weights = build_model().get_weights()[0]
        return random.random(), np.random.random(), weights.tolist()  # noqa: NPY002 - keras draws from it

    assert draw() == draw()


def test_the_machine_is_described_without_names_of_hosts_or_users():
    import getpass
    import platform

    machine = runtime.describe_machine()
    assert set(machine) == {"processor", "cores", "gpus", "system"}
    assert machine["cores"] >= 1
    words = str(machine).split()
    assert platform.node() not in words
    assert getpass.getuser() not in words


def test_versions_are_those_of_the_packages_in_use():
    import numpy as np

    versions = runtime.describe_versions()
    assert versions["numpy"] == np.__version__
    assert versions["keras"] == runtime.keras().__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_commit_is_none_where_the_source_merely_lies_in_somebodys_repository(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    stray = tmp_path / "imgclassify" / "runtime.py"
    stray.parent.mkdir()
    stray.touch()
    monkeypatch.setattr(runtime, "__file__", str(stray))
    assert runtime.source_commit() is None


def test_the_commit_says_whether_the_source_has_changed_since(monkeypatch, tmp_path):
    source = tmp_path / "src" / "imgclassify" / "runtime.py"
    source.parent.mkdir(parents=True)
    source.write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(runtime, "__file__", str(source))
    commit = runtime.source_commit()
    assert len(commit) == 40
    source.write_text("2")
    assert runtime.source_commit() == f"{commit}-dirty"


def test_tensorflow_can_be_imported_from_two_threads_without_losing_standard_error():
    code = (
        "import os, threading\n"
        "from imgclassify import runtime\n"
        "threads = [threading.Thread(target=runtime.tensorflow) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "os.write(2, b'still here')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr == b"still here"
