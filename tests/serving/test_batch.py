import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclassify.cli import _ENGINES, main
from imgclassify.prediction import COLUMNS, table_row
from imgclassify.progress import Progress
from imgclassify.runs.locks import locked
from imgclassify.runs.manifest import ModelFileError
from imgclassify.serving import batch, lookup
from imgclassify.serving.batch import ENGINES, find_pictures, predict_files
from imgclassify.serving.export import export_model
from imgclassify.serving.exported import load_exported

PICTURES = 300  # three chunks
# Imported by every Python that has its folder on the path: opening one file ends the process, another one takes long.
TRAPS = """
import os, sys, time

def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("fatal.png"):
        os.kill(os.getpid(), 9)
    while event == "open" and str(arguments[0]).endswith("00290.png") and os.path.exists({hold!r}):
        time.sleep(0.01)

sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def model(tiny_model, tiny, tmp_path_factory):
    """A tiny model, exported."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    return load_exported(export_model(replace(tiny_model, file=None), path=path, data=tiny).path)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """300 pictures, of which one is damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        shade = tiny.x_test[number % 30] // (1 + number // 30)
        Image.fromarray(shade).save(folder / f"{number:05}.png")
    (folder / "00200.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def table(model, folder, tmp_path_factory):
    """The bytes of the table that one undisturbed worker writes."""
    output = tmp_path_factory.mktemp("table") / "out.csv"
    written = predict_files(model, *arguments(folder, output), workers=1, progress=Progress(enabled=False))
    assert (written.pictures, written.refused, written.resumed) == (PICTURES, 1, 0)
    return output.read_bytes()


def arguments(folder: Path, output: Path) -> tuple:
    return find_pictures(str(folder))[0], output


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def traps(tmp_path, monkeypatch):
    """Sets the traps in the processes that are started; while the returned file exists, one picture takes for ever."""
    (tmp_path / "traps").mkdir()
    hold = tmp_path / "hold"
    (tmp_path / "traps" / "sitecustomize.py").write_text(TRAPS.format(hold=str(hold)))
    paths = [str(tmp_path / "traps"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return hold


# --- the table ---------------------------------------------------------------------------------------


def test_a_table_has_a_row_for_each_picture_in_their_order(model, folder, table):
    head, *rows = csv.reader(table.decode().splitlines())
    assert head == list(COLUMNS)
    assert [row[0] for row in rows] == [str(folder / f"{number:05}.png") for number in range(PICTURES)]
    for row in (rows[0], rows[131], rows[299]):
        prediction = model.predict(row[0])
        assert row[1] == prediction.label
        assert float(row[2]) == pytest.approx(prediction.confidence, abs=1e-4)
        assert row[1::2][:3] == [label for label, _ in prediction.top(3)]
    assert rows[200][1:-1] == [""] * 8
    assert "is not a picture of a known format" in rows[200][-1]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes(model, folder, table, tmp_path, quiet, workers):
    predict_files(model, *arguments(folder, tmp_path / "out.csv"), workers=workers, progress=quiet)
    assert (tmp_path / "out.csv").read_bytes() == table
    assert hidden(tmp_path) == []
    assert not active_children()


def test_familiarity_and_unusual_names_are_in_the_table(tiny_model, tmp_path):
    prediction = replace(tiny_model.predict(np.zeros((8, 8, 3), np.uint8)), familiarity=0.01)
    row = table_row("=a.png", prediction)
    assert row[COLUMNS.index("familiarity")] == 0.01
    assert row[COLUMNS.index("known")] is False
    assert batch.csv_row(row)[0] == "'=a.png"
    assert batch.csv_row(row)[-3:] == ["0.0100", "no", ""]


def test_names_that_are_no_text_and_files_that_are_gone_are_rows(model, folder, tmp_path, quiet):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        shutil.copy(os.fsencode(folder / "00000.png"), odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    names = [os.fsdecode(odd), str(tmp_path / "gone.png")]
    predict_files(model, names, tmp_path / "out.csv", workers=1, progress=quiet)
    _, first, second = csv.reader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines())
    assert first[0].endswith("caf\\udce9.png")
    assert first[1] == model.predict(folder / "00000.png").label
    assert "does not exist" in second[-1]


def test_nothing_to_do_is_an_empty_table(model, tmp_path, quiet):
    assert predict_files(model, [], tmp_path / "out.csv", progress=quiet).pictures == 0
    assert (tmp_path / "out.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_parquet_has_the_same_rows_with_types(model, folder, table, tmp_path, quiet):
    parquet = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow, of the extra "cluster"')
    for workers in (1, 2):
        predict_files(model, *arguments(folder, tmp_path / f"{workers}.parquet"), workers=workers, progress=quiet)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    found = parquet.read_table(tmp_path / "1.parquet")
    assert found.column_names == list(COLUMNS)
    rows = [batch.csv_row(row.values()) for row in found.to_pylist()]
    assert rows == list(csv.reader(table.decode().splitlines()))[1:]


# --- kills -------------------------------------------------------------------------------------------


class Killing(Progress):
    """Kills a worker whenever there is progress, a few times."""

    def __init__(self, times: int):
        super().__init__(enabled=False)
        self.killed, self._times = set[int](), times

    def update(self, line: str) -> None:
        for child in active_children()[:1]:
            if len(self.killed) < self._times:
                os.kill(child.pid, signal.SIGKILL)
                self.killed.add(child.pid)


def test_a_killed_worker_loses_nothing(model, folder, table, tmp_path):
    killing = Killing(2)
    predict_files(model, *arguments(folder, tmp_path / "out.csv"), workers=2, progress=killing)
    assert len(killing.killed) == 2
    assert (tmp_path / "out.csv").read_bytes() == table


def test_a_picture_that_kills_its_workers_is_a_row(model, folder, table, tmp_path, quiet, traps):
    names = find_pictures(str(folder))[0]
    names[200] = str(tmp_path / "fatal.png")  # in the place of the damaged one
    shutil.copy(folder / "00000.png", names[200])
    assert predict_files(model, names, tmp_path / "out.csv", workers=2, progress=quiet).refused == 1
    found, wanted = (content.splitlines() for content in ((tmp_path / "out.csv").read_bytes(), table))
    assert b"fatal.png ends the process that opens it" in found.pop(201)
    del wanted[201]
    assert found == wanted


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in found.read_text().split()] if found.exists() else []


def test_after_a_kill_of_the_whole_command_it_goes_on(model, folder, table, tmp_path, quiet, traps):
    output = tmp_path / "out.csv"
    traps.touch()  # so that the last of three chunks is never finished
    command = [sys.executable, "-m", "imgclassify.cli", "predict", str(folder), "-o", str(output), "--workers", "2"]
    running = subprocess.Popen([*command, "--model", str(model.file)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".out.csv.*/0*.json"))) < 2:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = children(running.pid)
    running.kill()
    running.wait()
    assert not output.exists()
    traps.unlink()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # they end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.02)
    written = predict_files(model, *arguments(folder, output), workers=1, progress=quiet)
    assert written.resumed == 256
    assert "256 of them done before" in str(written)
    assert output.read_bytes() == table
    assert hidden(tmp_path) == []


class Stopping(Progress):
    """Interrupts after the first chunk."""

    def update(self, line: str) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def stopped(model, folder, tmp_path):
    """A copy of the folder, and an output of which one chunk is done."""
    copy, output = tmp_path / "copy", tmp_path / "out.csv"
    shutil.copytree(folder, copy)
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, *arguments(copy, output), workers=1, progress=Stopping(enabled=False))
    (kept,) = tmp_path.glob(".out.csv.*/0*.json")
    return copy, output, kept


def test_an_interrupted_table_goes_on_by_either_number_of_workers(model, stopped, quiet):
    folder, output, _ = stopped
    assert predict_files(model, *arguments(folder, output), workers=2, progress=quiet).resumed == 128


def test_a_damaged_remainder_is_done_again(model, stopped, table, folder, quiet):
    copy, output, kept = stopped
    for content in (kept.read_text()[:100], "[1, 2]", json.dumps([[str(copy / "00000.png")] * 10])):
        kept.write_text(content)
        chunk = batch.Chunk(0, tuple(find_pictures(str(copy))[0][:128]))
        assert batch._rows(kept.parent, chunk) is None
    assert predict_files(model, *arguments(copy, output), workers=1, progress=quiet).resumed == 0
    assert output.read_bytes().replace(bytes(copy), bytes(folder)) == table


def test_another_model_or_another_file_begins_anew(model, tiny_model, tiny, stopped, tmp_path, quiet):
    folder, output, _ = stopped
    picture = folder / "00005.png"
    picture.write_bytes(picture.read_bytes())  # another time
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, *arguments(folder, output), workers=1, progress=Stopping(enabled=False))
    assert len(list(tmp_path.glob(".out.csv.*/0*.json"))) == 2
    weights = [1.5 * each for each in tiny_model.network.get_weights()]
    network = type(tiny_model.network).from_config(tiny_model.network.get_config())
    network.set_weights(weights)
    path = export_model(network, path=tmp_path / "other.onnx", data=tiny).path
    assert predict_files(load_exported(path), *arguments(folder, output), workers=1, progress=quiet).resumed == 0
    assert hidden(tmp_path) == []  # nor is the remainder of the first model left


def test_two_processes_do_not_write_one_table(model, folder, tmp_path, quiet):
    with locked(tmp_path / ".out.csv.lock"), pytest.raises(ValueError, match="Another process is writing"):
        predict_files(model, *arguments(folder, tmp_path / "out.csv"), progress=quiet)


def test_workers_that_cannot_start_are_said(model, folder, tmp_path, quiet):
    gone = tmp_path / "gone.onnx"
    shutil.copy(model.file, gone)
    there = load_exported(gone)
    gone.write_bytes(b"")
    with pytest.raises(ChildProcessError, match="cannot start"):
        predict_files(there, *arguments(folder, tmp_path / "out.csv"), workers=1, progress=quiet)


# --- models ------------------------------------------------------------------------------------------


def test_a_model_is_exported_once_and_the_cache_knows_it_again(tiny_model, folder, table, tmp_path, quiet, monkeypatch):
    predict_files(tiny_model, *arguments(folder, tmp_path / "out.csv"), workers=1, progress=quiet)
    assert (tmp_path / "out.csv").read_bytes() == table
    monkeypatch.setattr(lookup, "export_model", lambda *_, **__: pytest.fail("it was exported again"))
    assert batch._exported(tiny_model, quiet).about.class_names == ("red", "green", "blue")
    others = [tiny_model.recorded(class_names=("a", "b", "c")), tiny_model.recorded(crop=0.9)]
    assert len({batch._digest(each) for each in [tiny_model, *others]}) == 3


@pytest.mark.parametrize("problem", ["a missing package", "an unknown operation"])
def test_a_model_that_cannot_be_exported_answers_itself(tiny_model, folder, tmp_path, monkeypatch, capsys, problem):
    if problem == "a missing package":
        monkeypatch.setitem(sys.modules, "tf2onnx", None)
    else:
        monkeypatch.setattr(lookup, "export_model", lambda *_, **__: raise_(ModelFileError("It cannot be.")))
    names, output = find_pictures(str(folder))[0][:3], tmp_path / "out.csv"
    predict_files(tiny_model, names, output)
    assert "So the model itself answers, in one process." in capsys.readouterr().err
    _, *rows = csv.reader(output.read_text().splitlines())
    assert [row[1] for row in rows] == [tiny_model.predict(name).label for name in names]
    if "ray" in sys.modules or batch.importlib.util.find_spec("ray"):
        with pytest.raises(ModelFileError, match="Ray needs an exported model"):
            predict_files(tiny_model, names, output, engine="ray")


def raise_(error: Exception):
    raise error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "dask"}, "engine must be local or ray"),
        ({"workers": 0}, "workers at least 1"),
        ({"output": "out.xlsx"}, r"ends in \.csv or \.parquet"),
    ],
)
def test_what_is_not_accepted_is_said(model, tmp_path, options, message):
    output = tmp_path / options.pop("output", "out.csv")
    with pytest.raises(ValueError, match=message):
        predict_files(model, [], output, **options)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(("output", "engine"), [("out.parquet", "local"), ("out.csv", "ray")])
def test_a_missing_package_is_named(model, tmp_path, monkeypatch, output, engine):
    monkeypatch.setattr(batch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"is missing: pip install 'imgclassify\[cluster\]'"):
        predict_files(model, [], tmp_path / output, engine=engine)


# --- folders and the command -------------------------------------------------------------------------


def test_pictures_are_found_in_folders_sorted_and_without_hidden_files(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a.png", "notes.txt", ".hidden.png", "b/.x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, others = find_pictures(str(tmp_path))
    assert [str(Path(each).relative_to(tmp_path)) for each in found] == ["a.png", "b/1.JPG", "b/2.png"]
    assert others == 1


def test_addresses_are_read_by_fsspec(model, folder, table, tmp_path, quiet):
    pytest.importorskip("fsspec", reason='needs fsspec, of the extra "cluster"')
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    for address in (f"file://{folder}", f"zip://::{packed}"):
        found, others = find_pictures(address)
        assert (len(found), others) == (PICTURES, 0)
        predict_files(model, found, tmp_path / "out.csv", workers=2, progress=quiet)
        rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
        assert [row[1:-1] for row in rows] == [row[1:-1] for row in csv.reader(table.decode().splitlines())]
    predict_files(model, [f"file://{tmp_path}/gone.png"], tmp_path / "out.csv", workers=1, progress=quiet)
    assert "cannot be read" in (tmp_path / "out.csv").read_text()


def test_addresses_need_fsspec(tmp_path, monkeypatch):
    monkeypatch.setattr(batch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="The package fsspec is missing"):
        find_pictures("s3://bucket/folder")


def test_the_command_writes_a_table(model, folder, table, tmp_path, capsys):
    command = ["predict", str(folder), "-o", str(tmp_path / "out.csv"), "--model", str(model.file), "--workers", "1"]
    assert main([*command, "--json"]) == 1  # one picture could not be used
    shown = json.loads(capsys.readouterr().out)
    assert (shown["pictures"], shown["refused"], shown["output"]) == (PICTURES, 1, str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_bytes() == table
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / "empty"), "-o", str(tmp_path / "no.csv"), "--model", str(model.file)]) == 1
    assert "contains no picture" in capsys.readouterr().err
    assert not (tmp_path / "no.csv").exists()
    assert _ENGINES == ENGINES


# --- a cluster ---------------------------------------------------------------------------------------


@pytest.fixture
def cluster(traps):
    """A cluster of Ray's with two nodes of one core, on this machine."""
    ray = pytest.importorskip("ray", reason='needs Ray, of the extra "cluster"')
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_of_two_nodes_writes_the_same_bytes_also_when_a_picture_kills(
    model, folder, table, tmp_path, quiet, cluster
):
    import ray

    assert len(ray.nodes()) == 2
    names = find_pictures(str(folder))[0]
    predict_files(model, names, tmp_path / "out.csv", engine="ray", progress=quiet)
    assert (tmp_path / "out.csv").read_bytes() == table
    names[200] = str(tmp_path / "fatal.png")
    shutil.copy(folder / "00000.png", names[200])
    assert predict_files(model, names, tmp_path / "out.csv", engine="ray", progress=quiet).refused == 1
    found, wanted = (content.splitlines() for content in ((tmp_path / "out.csv").read_bytes(), table))
    assert b"fatal.png ends the process that opens it" in found.pop(201)
    del wanted[201]
    assert found == wanted
