import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from imgclassify import settings


@pytest.mark.parametrize(("value", "found"), [(None, None), ("", None), ("digits", "digits")])
def test_an_unset_or_empty_setting_is_none(monkeypatch, value, found):
    if value is not None:
        monkeypatch.setenv("IMGCLASSIFY_DATASET", value)
    assert settings.setting("DATASET") == found


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
    assert settings.is_on("SHORT") is settings.short_mode() is on


def test_cache_folders_are_those_of_the_settings_and_not_created(monkeypatch, tmp_path):
    monkeypatch.setenv("IMGCLASSIFY_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    assert settings.cache_dir() == tmp_path / "mine"
    assert settings.keras_cache_dir() == tmp_path / "keras" / "datasets"
    assert list(tmp_path.iterdir()) == []


def test_without_a_setting_the_caches_are_the_users(monkeypatch):
    monkeypatch.delenv("IMGCLASSIFY_CACHE_DIR")
    monkeypatch.delenv("KERAS_HOME")
    assert settings.cache_dir() == Path(platformdirs.user_cache_dir("imgclassify", appauthor=False))
    assert settings.keras_cache_dir() == Path.home() / ".keras" / "datasets"


@pytest.mark.parametrize("name", ["CACHE", "ARTIFACTS"])
def test_a_folder_may_start_at_the_home_folder(monkeypatch, name):
    monkeypatch.setenv(f"IMGCLASSIFY_{name}_DIR", "~/mine")
    folder = {"CACHE": settings.cache_dir, "ARTIFACTS": settings.artifacts_dir}[name]()
    assert folder == Path.home() / "mine"


# --- the artifacts folder --------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Path:
    """A project elsewhere, with its artifacts folder."""
    for folder in ("artifacts", "src/imgclassify", "notebooks"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    return tmp_path / "project"


@pytest.fixture
def installed(monkeypatch, tmp_path) -> Path:
    """The package as if it were installed from a wheel, far from any project; returns its folder."""
    package = tmp_path / "site-packages" / "imgclassify"
    package.mkdir(parents=True)
    (tmp_path / "anywhere").mkdir()
    monkeypatch.chdir(tmp_path / "anywhere")
    monkeypatch.setattr(settings, "PACKAGE", package)
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return package


def test_the_setting_comes_first(monkeypatch, project, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "chosen"))
    assert settings.artifacts_dir() == tmp_path / "chosen"
    assert not (tmp_path / "chosen").exists()


def test_short_mode_goes_to_one_temporary_folder_and_not_into_the_project(monkeypatch, project):
    monkeypatch.chdir(project)
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    folder = settings.artifacts_dir()
    assert folder == settings.artifacts_dir()
    assert folder.is_dir()
    assert project not in folder.parents


def test_the_temporary_folder_is_gone_when_the_process_ends(tmp_path):
    environment = {"IMGCLASSIFY_SHORT": "1", "IMGCLASSIFY_ARTIFACTS_DIR": "", "TMPDIR": str(tmp_path)}
    code = "from imgclassify import settings\nprint(settings.artifacts_dir())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", [".", "notebooks", "src/imgclassify"])
def test_then_the_project_is_found_upward_from_the_working_folder(monkeypatch, project, installed, inside):
    monkeypatch.chdir(project / inside)
    assert settings.artifacts_dir() == settings.shipped_dir() == project / "artifacts"


def test_then_the_installed_source_tree_is_taken(monkeypatch, project, installed):
    monkeypatch.setattr(settings, "PACKAGE", project / "src" / "imgclassify")
    assert settings.artifacts_dir() == settings.shipped_dir() == project / "artifacts"


def test_else_artifacts_go_to_the_users_data_folder_which_is_not_created(installed, tmp_path):
    folder = settings.artifacts_dir()
    assert folder == Path(platformdirs.user_data_dir("imgclassify", appauthor=False)) / "artifacts"
    if sys.platform.startswith("linux"):
        assert folder == tmp_path / "data" / "imgclassify" / "artifacts"
    assert not folder.exists()


# --- shipped models ----------------------------------------------------------------------------------------


def test_shipped_models_are_in_a_folder_of_the_installed_package(installed):
    assert settings.shipped_dir() is None
    (installed / "shipped").mkdir()
    assert settings.shipped_dir() == installed / "shipped"
    assert settings.model_dirs() == [settings.artifacts_dir(), installed / "shipped"]


def test_a_projects_models_come_before_those_in_the_package(monkeypatch, project, installed):
    (installed / "shipped").mkdir()
    monkeypatch.chdir(project)
    assert settings.shipped_dir() == project / "artifacts"


def test_without_shipped_models_only_the_artifacts_folder_is_searched(installed):
    assert settings.model_dirs() == [settings.artifacts_dir()]


def test_models_are_searched_in_the_artifacts_folder_then_among_shipped_ones(monkeypatch, project, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "chosen"))
    assert settings.model_dirs() == [tmp_path / "chosen", project / "artifacts"]
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    assert settings.model_dirs() == [project / "artifacts"]


def test_one_folder_with_two_paths_is_searched_once(monkeypatch, project, tmp_path):
    (tmp_path / "link").symlink_to(project / "artifacts")
    monkeypatch.chdir(project)
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "link"))
    assert settings.model_dirs() == [tmp_path / "link"]
