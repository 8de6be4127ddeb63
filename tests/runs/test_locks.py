import subprocess
import sys

import pytest

from imgclassify.runs.locks import LockedError, is_locked, locked


def test_a_lock_has_one_owner_and_leaves_no_file(tmp_path):
    path = tmp_path / ".lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
        with pytest.raises(LockedError), locked(path):
            pass
        assert is_locked(path)
    assert not is_locked(path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_has_no_lock(tmp_path):
    path = tmp_path / ".lock"
    code = "import sys, time; from imgclassify.runs.locks import locked; from pathlib import Path\n"
    code += "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as owner:
        owner.stdout.readline()
        assert is_locked(path)
        owner.kill()
    assert path.exists()
    assert not is_locked(path)


def test_where_no_lock_can_be_written_there_is_none(tmp_path):
    with locked(tmp_path / "missing" / "folder" / ".lock"):
        pass
