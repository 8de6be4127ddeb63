"""Settings: the environment variables, and the folders that depend on them.

This is the only module that reads the project's environment variables, `IMGCLASSIFY_<NAME>`. docs/data.md lists them.
"""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

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
    import platformdirs

    return Path(setting("CACHE_DIR") or platformdirs.user_cache_dir("imgclassify", appauthor=False)).expanduser()


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
    if (project := _project_artifacts()) is not None:
        return project
    import platformdirs

    return Path(platformdirs.user_data_dir("imgclassify", appauthor=False)) / "artifacts"


def model_dirs() -> list[Path]:
    """Folders searched for trained models, in this order: `artifacts_dir()`, then the folder of the shipped models."""
    folders = [artifacts_dir()]
    shipped = shipped_dir()
    if shipped is not None and shipped.resolve() != folders[0].resolve():
        folders.append(shipped)
    return folders


def shipped_dir() -> Path | None:
    """Folder of the models that come with the project: the source tree's, or the wheel's; None if there is neither."""
    project = _project_artifacts()
    in_wheel = PACKAGE / "shipped"  # a copy; see setup.py
    return in_wheel if project is None and in_wheel.is_dir() else project


def _project_artifacts() -> Path | None:
    """`artifacts/` of the project that contains the working folder, or else the source tree; None outside a project."""
    for start in (Path.cwd(), PACKAGE):
        for folder in (start, *start.parents):
            if (folder / "artifacts").is_dir() and (folder / "src" / "imgclassify").is_dir():
                return folder / "artifacts"
    return None


@functools.cache
def _temporary_artifacts() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="imgclassify-short-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
