"""Settings: the environment variables, which only this module reads, and folders; docs/data.md lists the variables."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent


def setting(name: str) -> str | None:
    """Value of the environment variable `IMGCLASSIFY_<name>`; None if it is unset or empty."""
    return os.environ.get(f"IMGCLASSIFY_{name}") or None


def is_on(name: str) -> bool:
    """Whether the switch `IMGCLASSIFY_<name>` is on: set, and not to 0, false, no or off."""
    return (setting(name) or "0").lower() not in ("0", "false", "no", "off")


def short_mode() -> bool:
    """Whether `IMGCLASSIFY_SHORT` asks for few pictures and few epochs."""
    return is_on("SHORT")


def cache_dir() -> Path:
    """Folder for converted data sets: `IMGCLASSIFY_CACHE_DIR`, else the user's cache folder. Not created."""
    return Path(setting("CACHE_DIR") or platformdirs.user_cache_dir("imgclassify", appauthor=False)).expanduser()


def computing_flags() -> list[str]:
    """The variables, with their values, that change how TensorFlow computes."""
    return [f"{name}={os.environ[name]}" for name in ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS") if name in os.environ]


def keras_cache_dir() -> Path:
    """Folder in which Keras keeps its downloaded data sets: `$KERAS_HOME/datasets`, else `~/.keras/datasets`."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"


def artifacts_dir() -> Path:
    """Folder that models, runs and figures are written to. Not created.

    The first of these: `IMGCLASSIFY_ARTIFACTS_DIR`; in short mode, a temporary folder of this process;
    `artifacts/` of the project that contains the working folder, or else the installed source tree;
    the user's data folder.
    """
    if chosen := setting("ARTIFACTS_DIR"):
        return Path(chosen).expanduser()
    if short_mode():
        return _temporary_artifacts()
    return _project_artifacts() or Path(platformdirs.user_data_dir("imgclassify", appauthor=False)) / "artifacts"


def model_dirs() -> list[Path]:
    """Folders searched for trained models, in this order: `artifacts_dir()`, then the folder of the shipped models."""
    own, shipped = artifacts_dir(), shipped_dir()
    return [own] if shipped is None or shipped.resolve() == own.resolve() else [own, shipped]


def shipped_dir() -> Path | None:
    """Folder of the models that come with the project: the source tree's, or the wheel's; None if there is neither."""
    project = _project_artifacts()
    in_wheel = PACKAGE / "shipped"  # a copy; see setup.py
    return in_wheel if project is None and in_wheel.is_dir() else project


def _project_artifacts() -> Path | None:
    """`artifacts/` of the project that contains the working folder, or else the source tree; None outside a project."""
    for folder in (Path.cwd(), *Path.cwd().parents, PACKAGE, *PACKAGE.parents):
        if (folder / "artifacts").is_dir() and (folder / "src" / "imgclassify").is_dir():
            return folder / "artifacts"
    return None


@functools.cache
def _temporary_artifacts() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="imgclassify-short-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
