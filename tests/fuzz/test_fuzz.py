"""The short form of fuzzing: a few hundred inputs for each target. The long one is run by hand; see `targets.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris, which fuzzes, has packages for Linux on x86_64 only")

FOLDER = Path(__file__).parent


def fuzz(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=FOLDER, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("target", "runs"), [("manifest", 2000), ("picture", 2000), ("configuration", 300)])
def test_no_input_does_more_than_raise_the_promised_exception(target, runs):
    ended = fuzz("targets.py", target, f"-runs={runs}", "-seed=1")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert int(re.search(r"number_of_executed_units: (\d+)", ended.stderr)[1]) >= runs
    assert "INFO: A corpus is not provided" not in ended.stderr


@pytest.mark.parametrize(
    ("deed", "named"),
    [
        ("open('/tmp/../dev/null', 'w').close()", "('open', '/tmp/../dev/null')"),
        ("__import__('os').system('true')", "os.system"),
        ("raise KeyError(1)", "KeyError"),
    ],
)
def test_a_target_that_does_more_is_found(deed, named):
    code = f"""
import sys, targets
def read(content):
    if content.startswith(b"x"):
        {deed}
targets.TARGETS["bad"] = lambda folder: ([b"a", b"b"], read)
sys.argv = ["targets.py", "bad", "-runs=100000", "-seed=1"]
targets.main()
"""
    ended = fuzz("-c", code)
    assert ended.returncode != 0
    assert named in ended.stdout + ended.stderr
