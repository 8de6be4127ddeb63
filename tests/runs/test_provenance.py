import getpass
import platform
import subprocess
import sys

import numpy as np
import pytest

from imgclassify import backend
from imgclassify.runs import provenance


def test_the_machine_is_described_without_names_of_hosts_or_users():
    machine = provenance.describe_machine()
    assert set(machine) == {"processor", "cores", "gpus", "system", "threads", "flags"}
    assert machine["cores"] == backend.cores() >= 1
    words = str(machine).split()
    assert platform.node() not in words
    assert getpass.getuser() not in words


def test_versions_are_those_of_the_packages_in_use():
    versions = provenance.describe_versions()
    assert versions["numpy"] == np.__version__
    assert versions["keras"] == backend.keras().__version__
    assert versions["tensorflow"] == backend.tensorflow().__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.fixture
def source(monkeypatch, tmp_path):
    """The package's source as if it were a file in a repository of somebody's, not yet under version control."""
    path = tmp_path / "src" / "imgclassify" / "runs" / "provenance.py"
    path.parent.mkdir(parents=True)
    path.write_text("1")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "__file__", str(path))
    return path


def commit_all(folder) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    for words in (["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)


def test_there_is_no_commit_if_the_source_merely_lies_in_somebodys_repository(source, tmp_path):
    (tmp_path / "README.md").touch()
    subprocess.run(["git", "-C", str(tmp_path), "add", "README.md"], check=True)
    assert provenance.source_commit() is None


def test_the_commit_says_whether_the_source_has_changed_since(source, tmp_path):
    commit_all(tmp_path)
    commit = provenance.source_commit()
    assert len(commit) == 40
    source.write_text("2")
    assert provenance.source_commit() == f"{commit}-dirty"


def test_the_commit_takes_note_of_changes_in_other_rooms(source, tmp_path):
    other = source.parents[1] / "models" / "networks.py"
    other.parent.mkdir()
    other.write_text("1")
    commit_all(tmp_path)
    assert not provenance.source_commit().endswith("-dirty")
    other.write_text("2")
    assert provenance.source_commit().endswith("-dirty")


def test_there_is_no_commit_without_git(source, tmp_path, monkeypatch):
    commit_all(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.source_commit() is None


def test_what_can_change_weights_and_has_changed_is_named(monkeypatch):
    machine, versions = provenance.describe_machine(), provenance.describe_versions()
    assert provenance.describe_changes(machine, versions) == ""
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    changes = provenance.describe_changes(machine | {"cores": 64}, versions | {"keras": "3.0.0"})
    now = f"cores 64 (now {machine['cores']}), flags {machine['flags']} (now ['TF_ENABLE_ONEDNN_OPTS=0"
    assert changes.startswith(now)
    assert f"keras 3.0.0 (now {versions['keras']})" in changes
