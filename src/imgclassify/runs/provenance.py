"""Provenance: the machine, versions and commit that a manifest records."""

import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imgclassify.backend import cores, tensorflow
from imgclassify.settings import computing_flags


def describe_machine(workers: int = 1) -> dict[str, Any]:
    """Processor, GPUs, operating system, threads, flags, and several workers, without names of hosts or users."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*:(.*)", cpuinfo.read_text(), re.MULTILINE)):
        processor = found[1].strip()
    config = tensorflow().config
    details = map(config.experimental.get_device_details, config.list_physical_devices("GPU"))
    gpus = [each.get("device_name", "GPU") for each in details]
    system = f"{platform.system()} {platform.machine()}"
    limits = config.threading
    operations, threads = limits.get_inter_op_parallelism_threads(), limits.get_intra_op_parallelism_threads()
    computing = {"threads": f"{operations} operations of {threads}", "flags": computing_flags()}
    several = {"workers": workers} if workers > 1 else {}
    return {"processor": processor, "cores": cores(), "gpus": gpus, "system": system, **computing, **several}


def describe_changes(machine: Mapping[str, Any], versions: Mapping[str, str], workers: int = 1) -> str:
    """What is no longer as it is recorded in a manifest, of all that can change weights; empty if nothing is."""
    now = {"workers": 1} | describe_machine(workers) | describe_versions()
    before = {"workers": 1, **machine, **versions}
    return ", ".join(f"{name} {before[name]} (now {now[name]})" for name in before if before[name] != now.get(name))


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the result of a training."""
    packages = ("imgclassify", "tensorflow", "keras", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def source_commit() -> str | None:
    """Git commit of the source tree, with "-dirty" if `src` has uncommitted changes; None outside a checkout."""
    source = Path(__file__).resolve().parents[1]  # the whole package

    def git(*words: str) -> str:
        command = ["git", "-C", str(source), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # it must be tracked, not just be in somebody's repository
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", str(source)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
