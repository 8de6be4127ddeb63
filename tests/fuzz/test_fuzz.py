"""The short form of fuzzing: a few hundred inputs for each target. The long one is run by hand; see `targets.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris, which fuzzes, has packages for Linux on x86_64 only")

FOLDER = Path(__file__).parent


# Linux counts the memory of the process that starts another as the other's own, at first: so a small one starts it.
BETWEEN = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"


def fuzz(*command: str) -> subprocess.CompletedProcess:
    between = [sys.executable, "-c", BETWEEN, *command]
    return subprocess.run(between, cwd=FOLDER, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("target", "runs"), [("manifest", 2000), ("picture", 2000), ("configuration", 300), ("detector", 300)]
)
def test_no_input_does_more_than_raise_the_promised_exception(target, runs):
    ended = fuzz("targets.py", target, f"-runs={runs}", "-seed=1")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert int(re.search(r"number_of_executed_units: (\d+)", ended.stderr)[1]) >= runs
    assert "INFO: A corpus is not provided" not in ended.stderr


@pytest.mark.parametrize(
    ("deed", "named"),
    [
        ("open('/dev/null', 'w').close()", "('open', \"('/dev/null'"),
        ("open(place / '..' / 'escaped', 'w').close()", "escaped"),
        ("(place / 'x').touch(); (place / 'x').rename(place.parent / 'moved')", "os.rename"),
        ("__import__('pickle').loads(b'cos\\nsystem\\n.')", "pickle.find_class"),
        ("__import__('os').system('true')", "os.system"),
        ("raise KeyError(1)", "KeyError"),
    ],
)
def test_a_target_that_does_more_is_found_and_its_input_is_kept(deed, named, tmp_path, monkeypatch):
    code = f"""
import sys, targets
def read(content):
    if content.startswith(b"x"):
        {deed}
def bad(folder):
    global place
    place = folder
    return [b"a", b"b"], read
targets.TARGETS["bad"] = bad
sys.argv = ["targets.py", "bad", "-runs=100000", "-seed=1"]
targets.main()
"""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ended = fuzz("-c", code)
    assert [path for path in tmp_path.glob("imgclassify-bad-*") if path.read_bytes().startswith(b"x")]
    assert ended.returncode != 0
    assert named in ended.stdout + ended.stderr
