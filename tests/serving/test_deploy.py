"""The container's files: no engine runs here, so they are read."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def requirements(name: str) -> list[str]:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith(("#", "--hash"))]


def test_hadolint_finds_nothing():
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed (the extra test has it)")
    found = subprocess.run([hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_last_stage_has_a_user_of_its_own_and_no_compiler_or_source():
    last = DOCKERFILE.rpartition("FROM ")[2]
    assert re.search(r"^USER 10001$", last, flags=re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert re.findall(r"^COPY (.*)", last, flags=re.MULTILINE) == ["--from=build /venv /venv"]
    assert not re.search(r"pip|apt", last)


def test_everything_that_is_installed_is_locked_with_checksums():
    installs = re.findall(r"pip install .*", DOCKERFILE)
    assert installs
    assert all("--require-hashes" in each or "--no-deps /wheels" in each for each in installs)
    for name in ("requirements.txt", "requirements-build.txt"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        for line in requirements(name):
            assert re.fullmatch(r"[\w.-]+==[\w.]+ \\", line)
            assert re.search(re.escape(line) + r"\n    --hash=sha256:[0-9a-f]{64}", text)
        assert "://" not in text


def test_the_lock_has_what_pyproject_asks_for_and_no_tensorflow():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["serve"]}
    assert set(requirements("requirements.in")) <= asked
    assert set(project["optional-dependencies"]["serve"]) <= set(requirements("requirements.in"))
    locked = {line.partition("==")[0] for line in requirements("requirements.txt")}
    assert {re.split("[>=]", line)[0] for line in requirements("requirements.in")} <= locked
    assert not locked & {"tensorflow", "keras", "scikit-learn", "matplotlib"}


def test_every_file_that_is_copied_exists_and_is_sent_to_the_builder():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, flags=re.MULTILINE)
    for path in " ".join(copied).split():
        assert (PROJECT / path).exists()
        assert (
            path in ignored
            or (path.startswith("deploy/requirements") and "!deploy/requirements*.txt" in ignored)
            or any(line.startswith(f"!{path}/") for line in ignored.splitlines())
        )


def test_the_compose_file_takes_every_right_away():
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert {"mem_limit", "pids_limit"} <= set(service)
    assert service["build"]["dockerfile"] == "deploy/Dockerfile"
