"""The shipped models become part of the wheel, as `imgclassify/shipped/`. All else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = (
    "cifar10_best.keras",
    "cifar10_best.json",
    "cifar10_best.familiarity.npz",
    "cifar10_best.answers.npz",
    "cifar10_guided.keras",
    "cifar10_guided.json",
    "cifar10_guided.familiarity.npz",
    "cifar10_guided.answers.npz",
    "cifar10_model.h5",
    "cifar10_model.json",
    "cifar10_model.familiarity.npz",
    "cifar10_model.answers.npz",
)


class BuildWithModels(build_py):
    """Copies the shipped models, with their manifests and detectors, into the package that is built."""

    def run(self):
        """Build as usual, then copy the models."""
        super().run()
        if self.editable_mode:  # the source tree has them in artifacts/
            return
        target = Path(self.build_lib, "imgclassify", "shipped")
        self.mkpath(str(target))
        for name in SHIPPED:
            self.copy_file(str(Path(__file__).parent / "artifacts" / name), str(target / name))


setup(cmdclass={"build_py": BuildWithModels})
