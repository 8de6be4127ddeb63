"""Writes a lock file: `python tests/benchmarks/lock.py > requirements.lock`.

It holds the exact version of every installed package that `pip install -e ".[notebooks]"` asks for, directly or
through another package. Nothing is looked up on a network: names, requirements and versions are read from the packages
that are installed for this Python. Requirements that do not apply to this Python and platform are left out.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT, EXTRA = "imgclassify", "notebooks"


def locked() -> dict[str, str]:
    """Version of each package that the project with its extra needs, without the project itself.

    Raises:
        SystemExit: A required package is not installed, or not in a required version.
    """
    versions: dict[str, str] = {}
    seen, waiting = set(), [(PROJECT, ""), (PROJECT, EXTRA)]  # a package without extras, and each of its extras
    while waiting:
        if (current := waiting.pop()) in seen:
            continue
        seen.add(current)
        name, extra = current
        found = distribution(name)
        versions[name] = found.version
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = canonicalize_name(requirement.name)
            try:
                fits = requirement.specifier.contains(distribution(needed).version, prereleases=True)
            except PackageNotFoundError:
                fits = False
            if not fits:
                raise SystemExit(f"{name} needs {requirement}, which is not installed.")
            waiting += [(needed, ""), *((needed, canonicalize_name(each)) for each in requirement.extras)]
    del versions[PROJECT]
    return versions


if __name__ == "__main__":
    print(f'# Exact versions of what `pip install -e ".[{EXTRA}]"` installs. Written by a script, not by hand:')
    print("#   python tests/benchmarks/lock.py > requirements.lock")
    print(f"# For Python {platform.python_version()} on {sys.platform}, {platform.machine()}.")
    for name, version in sorted(locked().items()):
        print(f"{name}=={version}")
