"""README, Makefile, environment.yml, pyproject.toml and .ci/run agree."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from imgclassify.evaluation.report import read_report
from imgclassify.recipes import RECIPES
from imgclassify.runs.manifest import read_manifest
from imgclassify.serving.model_card import card_texts

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def commands_in_readme() -> list[str]:
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_make_command_in_the_readme_has_its_target():
    asked = {target for line in commands_in_readme() for target in re.findall(r"^make (\w[\w-]*)", line)}
    assert {"run", "test", "lab"} <= asked
    assert asked <= set(re.findall(r"^([\w-]+):", MAKEFILE, flags=re.MULTILINE))


def test_make_help_names_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)[1].split()
    shown = set(re.findall(r"make (\w[\w-]*)", "\n".join(line for line in MAKEFILE.splitlines() if "@echo" in line)))
    assert shown | {"help"} == set(phony)


@pytest.mark.parametrize("line", [line for line in commands_in_readme() if line.startswith("imgclassify ")])
def test_every_imgclassify_command_in_the_readme_is_one(line, monkeypatch):
    from imgclassify import cli

    options = cli._parser().parse_args(line.split()[1:])
    assert callable(options.command)


def test_the_readme_names_every_subcommand():
    from imgclassify import cli

    for name in re.findall(r"\w+", re.search(r"`imgclassify (.*?)`", cli.__doc__)[1]):
        assert f"imgclassify {name}" in README


def test_pip_commands_in_the_readme_install_the_extras_that_exist():
    extras = set(PYPROJECT["project"]["optional-dependencies"])
    asked = [re.search(r"-e \"?\.(?:\[(.*?)\])?", line) for line in commands_in_readme() if "pip install" in line]
    assert asked
    assert all(found for found in asked)
    assert {extra for found in asked for extra in (found[1] or "").split(",") if extra} == extras


def test_make_installs_the_same_as_the_readme_says():
    installed = set(re.findall(r'-e "?(\.(?:\[[\w,]+\])?)', MAKEFILE))
    assert installed == {".", ".[notebooks]", ".[notebooks,export,serve,test]"}


def test_environment_yml_leaves_the_packages_to_pyproject(tmp_path):
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert environment["name"] == "imgclassify"
    assert [re.split("[=<>]", package)[0] for package in conda] == ["python", "pip"]
    python = re.search(r"python=([\d.]+)", conda[0])[1]
    low, high = re.fullmatch(r">=([\d.]+),<([\d.]+)", PYPROJECT["project"]["requires-python"]).groups()
    number = lambda text: tuple(map(int, text.split(".")))  # noqa: E731
    assert number(low) <= number(python) < number(high)
    assert pip == {"pip": ["-e .[notebooks,export,serve,test]"]}


def test_the_pip_block_of_environment_yml_can_be_installed(tmp_path):
    """What conda would hand to pip: everything it asks for is installed here already, so nothing is fetched."""
    block = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"]
    (tmp_path / "requirements.txt").write_text("\n".join(block))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
        str(tmp_path / "requirements.txt"),
    ]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_dependency_is_capped_below_the_next_major_version():
    project = PYPROJECT["project"]
    for requirement in project["dependencies"] + [
        each for extra in project["optional-dependencies"].values() for each in extra
    ]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+(; .*)?", requirement), requirement


def test_ci_ends_in_the_readmes_test_command():
    script = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test$", script, flags=re.MULTILINE)
    assert "make test" in commands_in_readme()


def test_the_shipped_best_was_trained_by_its_recipe():
    assert read_manifest(PROJECT / "artifacts" / "cifar10_best.keras").recipe == RECIPES["best"]


def test_every_notebook_is_in_the_readme():
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.name}" in README


def test_every_environment_variable_that_is_read_is_in_the_docs():
    page = (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")
    read = set()
    for path in (PROJECT / "src").rglob("*.py"):
        read |= {
            f"IMGCLASSIFY_{name}"
            for name in re.findall(r'(?:setting|is_on)\("(\w+)"\)', path.read_text(encoding="utf-8"))
        }
    read |= {"IMGCLASSIFY_CIFAR10_URL", "IMGCLASSIFY_CIFAR100_URL"}  # their names are put together from the data set's
    assert len(read) >= 8
    for name in read:
        assert name in page


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert README.count("\n") <= 120
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"), PROJECT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_wheel_holds_the_shipped_models_and_they_load_without_the_source_tree(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    source = tmp_path / "source"
    source.mkdir()
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, target)
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("imgclassify-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = (
        "import imgclassify, numpy as np; model = imgclassify.load_model();"
        "assert all(imgclassify.load_model(name).detector for name in ('best', 'baseline', 'guided'));"
        "print(imgclassify.__file__, model.file, imgclassify.predict_image(model, np.zeros((32, 32, 3), np.uint8)))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("IMGCLASSIFY_")}
    environment |= {"PYTHONPATH": str(tmp_path / "installed"), "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(str(tmp_path / "installed" / "imgclassify")) == 2
    assert "shipped/cifar10_best.keras" in run.stdout


def tracked() -> list[str]:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    return [name for name in files.stdout.split("\0") if name and (PROJECT / name).exists()]


def test_no_tracked_file_is_large():
    sizes = {name: (PROJECT / name).stat().st_size for name in tracked()}
    assert all(size < 10_000_000 for size in sizes.values()), sizes
    assert sum(sizes.values()) < 40_000_000


SHIPPED = [PROJECT / name for name in tracked() if re.fullmatch(r"artifacts/cifar10_\w+\.json", name)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_readme_gives_the_figures_of_each_shipped_models_manifest(path):
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    assert f"{metrics['test_accuracy']:.2%}".replace("%", " %") in README
    assert f"({path.parent.name}/{path.stem}." in README


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_model_is_calibrated(path):
    manifest = read_manifest(path)
    assert all(0.25 < temperature < 4 for temperature in manifest.temperatures)
    assert 1 <= len(manifest.temperatures) <= 2
    thumbnails = manifest.input_shape[0] == 32  # the model for photos is calibrated on enlarged ones, less well
    assert manifest.metrics["test_calibration_error"] <= (0.02 if thumbnails else 0.05)


def test_the_readmes_results_and_the_cards_are_those_of_the_reports(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "benchmarks"))
    script = runpy.run_path(str(PROJECT / "tests" / "benchmarks" / "reports.py"), run_name="reports")
    assert f"<!-- results -->\n{script['table']()}<!-- end of results -->" in README
    for name in script["MODELS"]:
        path = PROJECT / "artifacts" / name
        manifest, report = read_manifest(path), read_report(path)
        assert report.accuracy[0] == pytest.approx(manifest.metrics["test_accuracy"], abs=1e-9)
        for suffix, text in card_texts(manifest, report).items():
            assert path.with_suffix(suffix).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("script", "record", "page"),
    [
        ("bench", "benchmarks", "speed.md"),
        ("photos", "benchmarks_photos", "speed.md"),
        ("checkpoints", "benchmarks_checkpoints", "speed.md"),
        ("answers", "benchmarks_answers", "speed.md"),
        ("exports", "benchmarks_exports", "deployment.md"),
        ("serving", "benchmarks_serving", "deployment.md"),
        ("many", "benchmarks_many", "speed.md"),
        ("scale", "benchmarks_scale", "scale.md"),
        ("reproduce", "accuracies", "recipes.md"),
        ("long_forms", "long_forms", "promises.md"),
    ],
)
def test_the_tables_of_figures_agree_with_the_records(monkeypatch, script, record, page):
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "benchmarks"))
    table = runpy.run_path(str(PROJECT / "tests" / "benchmarks" / f"{script}.py"), run_name=script)["table"]
    result = json.loads((PROJECT / "artifacts" / f"{record}.json").read_text(encoding="utf-8"))
    assert (PROJECT / "docs" / page).read_text(encoding="utf-8").count(table(result)) == 1
