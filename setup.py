"""The shipped models become part of the wheel, as `imgclassify/shipped/`. All else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithModels(build_py):
    """Copies the shipped models, with their manifests, into the package that is built."""

    def run(self):
        """Build as usual, then copy the models."""
        super().run()
        if self.editable_mode:  # the source tree has them in artifacts/
            return
        target = Path(self.build_lib, "imgclassify", "shipped")
        self.mkpath(str(target))
        for path in sorted(Path(__file__).parent.glob("artifacts/cifar10_*.*")):
            self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildWithModels})
