"""Where things run and lie: environment, folders, the quiet import of TensorFlow, devices, seeds.

The only module that reads environment variables:

| variable | meaning |
|---|---|
| `IMGCLASSIFY_DATA_DIR` | folder with `cifar-10-batches-py/` or `cifar-10-python.tar.gz` |
| `IMGCLASSIFY_CACHE_DIR` | where the converted data is kept (default: the user's cache folder) |
| `IMGCLASSIFY_CIFAR10_URL` | the only address to fetch CIFAR-10 from; may end in `#sha256=<hex>` |
| `IMGCLASSIFY_OFFLINE` | set: never use the network |
| `IMGCLASSIFY_DATASET` | what `load_dataset("auto")` loads |
| `IMGCLASSIFY_ARTIFACTS_DIR` | where models, runs and figures go |
| `IMGCLASSIFY_SHORT` | set: few pictures, few epochs, artifacts in a temporary folder (for tests) |
"""

import atexit
import contextlib
import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def setting(name: str) -> str | None:
    """Value of the environment variable `IMGCLASSIFY_<name>`; None where it is unset or empty."""
    return os.environ.get(f"IMGCLASSIFY_{name}") or None


def is_on(name: str) -> bool:
    """Whether the switch `IMGCLASSIFY_<name>` is on: set, and not to 0, false, no or off."""
    return (setting(name) or "0").lower() not in ("0", "false", "no", "off")


def short_mode() -> bool:
    """Whether `IMGCLASSIFY_SHORT` asks for few pictures and few epochs."""
    return is_on("SHORT")


# --- folders -----------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Folder for converted data sets: `IMGCLASSIFY_CACHE_DIR`, else the user's cache folder. Not created."""
    import platformdirs

    return Path(setting("CACHE_DIR") or platformdirs.user_cache_dir("imgclassify", appauthor=False)).expanduser()


def keras_cache_dir() -> Path:
    """Folder in which Keras keeps its downloaded data sets: `$KERAS_HOME/datasets`, else `~/.keras/datasets`."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"


def _project_artifacts() -> Path | None:
    """`artifacts/` of the project found upward from the working folder, else of the source tree."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "artifacts").is_dir() and (folder / "src" / "imgclassify").is_dir():
                return folder / "artifacts"
    return None


@functools.cache
def _temporary_artifacts() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="imgclassify-short-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def artifacts_dir() -> Path:
    """Folder that models, runs and figures are written to.

    `IMGCLASSIFY_ARTIFACTS_DIR` where set; in short mode a temporary folder of this process; else
    `artifacts/` of the project found upward from the working folder or around the installed source.

    Raises:
        FileNotFoundError: None of these exists.
    """
    if chosen := setting("ARTIFACTS_DIR"):
        return Path(chosen).expanduser()
    if short_mode():
        return _temporary_artifacts()
    if (project := _project_artifacts()) is not None:
        return project
    raise FileNotFoundError(
        "No artifacts folder: neither the working folder nor the installed package lies in the imgclassify project. "
        "Run inside the project, or set IMGCLASSIFY_ARTIFACTS_DIR to a folder for models, runs and figures."
    )


def model_dirs() -> list[Path]:
    """Folders searched for trained models, in this order: `artifacts_dir()`, then the project's shipped ones."""
    folders = [artifacts_dir()]
    shipped = _project_artifacts()
    if shipped is not None and shipped.resolve() != folders[0].resolve():
        folders.append(shipped)
    return folders


_importing = threading.RLock()


# --- TensorFlow --------------------------------------------------------------------------------


@contextlib.contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """Point file descriptor 2 at the null device: TensorFlow's C++ code writes there, past `sys.stderr`."""
    try:
        saved = os.dup(2)
    except OSError:  # no standard error at all, as in some graphical launchers
        yield
        return
    try:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def tensorflow() -> ModuleType:
    """TensorFlow, imported without its start-up noise; graphics memory grows on demand. Safe to call from threads."""
    with _importing:
        return _import_tensorflow()


@functools.cache
def _import_tensorflow() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    with _native_stderr_silenced():
        import tensorflow as tf

        # RuntimeError: the caller has used the device already; then its own choice stands.
        with contextlib.suppress(RuntimeError):
            gpus = tf.config.list_physical_devices("GPU")
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
            if not gpus:  # several operations side by side, each on one core: see `towers`
                tf.config.threading.set_intra_op_parallelism_threads(max(1, cores() // _MOST_TOWERS))
                tf.config.threading.set_inter_op_parallelism_threads(cores())
        tf.config.list_logical_devices()  # starts the devices, the second source of noise
    tf.get_logger().setLevel("ERROR")  # its advice on retracing is for those who train one model only
    return tf


def keras() -> ModuleType:
    """Keras 3 on the TensorFlow backend, imported without noise."""
    tensorflow()
    import keras

    return keras


def set_seed(seed: int) -> None:
    """Seed Python, numpy and TensorFlow, so that a training repeats on the same machine and versions."""
    keras().utils.set_random_seed(seed)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_MOST_TOWERS = 8


def towers(batch_size: int) -> int:
    """Equal parts to split a training batch into, which then run side by side, each on one core; 1 on a GPU.

    TensorFlow spreads one operation over the cores poorly for small networks; whole towers keep them busy.
    Each part has at least eight pictures.
    """
    if tensorflow().config.list_physical_devices("GPU"):
        return 1
    fitting = [n for n in range(1, min(cores(), _MOST_TOWERS) + 1) if batch_size % n == 0 and batch_size // n >= 8]
    return max(fitting, default=1)


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively, as far as Linux tells; elsewhere False."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split() if cpuinfo.exists() else ()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def default_precision() -> str:
    """Keras policy to train with: the fastest mixed one that the hardware is made for, else "float32".

    That is "mixed_float16" on GPUs of compute capability 7 or more, "mixed_bfloat16" on processors with bfloat16
    instructions.
    """
    tf = tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    capable = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (7, 0) for gpu in gpus
    ]
    if gpus:
        return "mixed_float16" if all(capable) else "float32"
    return "mixed_bfloat16" if has_fast_bfloat16() else "float32"


# --- provenance, for manifests -----------------------------------------------------------------


def describe_machine() -> dict[str, object]:
    """Processor, cores, GPUs and operating system of this machine, without names of hosts or users."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    tf = tensorflow()
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return {
        "processor": processor,
        "cores": cores(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a training gives."""
    from importlib.metadata import version

    packages = ("imgclassify", "tensorflow", "keras", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def source_commit() -> str | None:
    """Git commit of the source tree, with "-dirty" where `src` has uncommitted changes; None outside a checkout."""
    source = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # not merely lying in somebody's repository
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", str(source)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
