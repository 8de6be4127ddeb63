"""Batches: many pictures classified by several processes, or by a cluster, into one table; goes on after a kill."""

import csv
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import escape
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

from imgclassify.atomic import replacing
from imgclassify.classifier import Classifier
from imgclassify.data.download import file_sha256
from imgclassify.data.images import IMAGE_SUFFIXES
from imgclassify.data.loading import load_dataset
from imgclassify.prediction import COLUMNS, BaseClassifier, csv_row
from imgclassify.progress import Progress, format_seconds
from imgclassify.runs.locks import LockedError, locked
from imgclassify.runs.manifest import ModelFileError
from imgclassify.serving.engines import Chunk, Run, answer, finish, on_ray, on_this_machine, printable
from imgclassify.serving.exported import ExportedModel
from imgclassify.serving.lookup import digest_of, kept_export

Engine = Literal["local", "ray"]
ENGINES = get_args(Engine)
SUFFIXES = (".csv", ".parquet")
_CHUNK = 128  # pictures that are done, and kept, together
_GROUP = 16_384  # rows that a Parquet file has together


@dataclass(frozen=True)
class Batch:
    """A table of predictions that was written."""

    output: Path
    pictures: int
    refused: int  # of them, those that could not be used
    resumed: int  # of them, those that an earlier, interrupted call had done
    seconds: float

    def __str__(self) -> str:
        text = f"{self.output.name}: {self.pictures:,} pictures in {format_seconds(self.seconds)}"
        text += f", {self.resumed:,} of them done before" if self.resumed else ""
        return text + (f"; {self.refused:,} could not be used, see the column problem." if self.refused else ".")

    __repr__ = __str__


def predict_files(
    model,
    files: Iterable[str | os.PathLike],
    output: str | os.PathLike,
    *,
    engine: Engine = "local",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Batch:
    """Classify many pictures into a table with a row for each, in their order; see `COLUMNS`.

    A picture that cannot be used is a row with its problem. The table has the same bytes for any number of workers and
    either engine, on processors of one kind. What is done is kept beside the output until the table is complete: after
    a kill, the same call goes on. It begins anew if the model or a file has changed. A chunk whose worker dies is done
    again by another; a picture that ends two workers is a row with this problem. Memory holds the names of the files,
    and for each worker a model and 128 prepared pictures.

    A script must call it behind `if __name__ == "__main__":`, because the workers import the script.

    Args:
        model: An `ExportedModel`; or a `Classifier` or Keras model, which is exported to the cache folder first. Where
            the extra "export" is missing, or the network cannot be exported, this process does all the work.
        files: Paths; or, with the package fsspec, addresses such as "s3://bucket/cat.jpg". See `find_pictures`.
        output: A `.csv` file, or with the extra "cluster" a `.parquet` file. An existing one is replaced.
        engine: "local" for processes on this machine; "ray" for Ray Data, with the extra "cluster": on the cluster
            that Ray finds, whose machines must see the files and have this package, or else on this machine.
        workers: Processes, each with one thread; default: one per core, of the machine or the cluster.
        progress: Where to show the progress.

    Returns:
        A `Batch`: the path, and how many pictures were classified, refused, and done before.

    Raises:
        ValueError: The engine, the ending of the output or the number of workers is not accepted, a package for it is
            missing, or another process is writing this output.
        ModelFileError: Ray needs an exported model, and this one cannot be exported.
        ChildProcessError: Workers die whatever they do.
    """
    output, begun = Path(output).expanduser(), time.monotonic()
    if engine not in ENGINES or (workers is not None and workers < 1):
        accepted = f"engine must be {' or '.join(ENGINES)}, and workers at least 1"
        raise ValueError(f"{accepted}. Received: engine={engine!r}, workers={workers}")
    if output.suffix not in SUFFIXES:
        raise ValueError(f"A table of predictions ends in {' or '.join(SUFFIXES)}. Received: {output}")
    for package in (["pyarrow"] if output.suffix == ".parquet" else []) + (["ray"] if engine == "ray" else []):
        _need(package)
    names = [os.fspath(file) for file in files]
    with progress or Progress() as progress:
        answering = _exported(model, progress)
        chunks = [Chunk(number, tuple(some)) for number, some in enumerate(_parts(names, _CHUNK))]
        output.parent.mkdir(parents=True, exist_ok=True)
        kept = output.with_name(f".{output.name}.{_key(answering, names)}")
        try:
            with locked(output.with_name(f".{output.name}.lock")):
                kept.mkdir(exist_ok=True)
                missing = [chunk for chunk in chunks if _rows(kept, chunk) is None]
                done = resumed = len(names) - sum(len(chunk.files) for chunk in missing)
                for number, rows in finish(_engine(answering, engine, workers), missing):
                    with replacing(_file(kept, number)) as part:
                        part.write_text(json.dumps(rows), encoding="utf-8")
                    done += len(rows)
                    speed = (done - resumed) / (time.monotonic() - begun)
                    left = format_seconds((len(names) - done) / speed)
                    progress.update(f"{done:,} of {len(names):,} pictures, {speed:,.0f} per second, {left} left")
                refused = _write(kept, chunks, output)
                for old in output.parent.glob(f".{escape(output.name)}.{'[0-9a-f]' * 16}"):  # of other models too
                    shutil.rmtree(old)
        except LockedError:
            raise ValueError(f"Another process is writing {output}.") from None
    return Batch(output, len(names), refused, resumed, time.monotonic() - begun)


def find_pictures(folder: str) -> tuple[list[str], int]:
    """The pictures in a folder and those inside it, sorted, and how many other files there are; no hidden files.

    Args:
        folder: A path, or the address of a folder that fsspec reads, such as "s3://bucket/folder", or of one picture.

    Raises:
        ValueError: The package fsspec, or one that it needs for this kind of address, is missing.
        OSError: The folder cannot be read.
    """
    if "://" not in folder:
        whole = [path.relative_to(folder) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        visible = [str(Path(folder, path)) for path in whole if not any(part[0] == "." for part in path.parts)]
    else:
        _need("fsspec")
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(folder)
        except ImportError as error:
            raise ValueError(f"{folder} cannot be read: {error}.") from error
        chained = "".join(folder.partition("::")[1:])  # as in zip://folder::archive.zip
        names = [each for each in sorted(system.find(path)) if "/." not in f"/{each.removeprefix(path)}"]
        visible = [system.unstrip_protocol(each) + chained for each in names]
    pictures = [each for each in visible if each.partition("::")[0].lower().endswith(IMAGE_SUFFIXES)]
    return pictures, len(visible) - len(pictures)


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"The package {package} is missing: pip install 'imgclassify[cluster]'")


def _exported(model, progress: Progress) -> BaseClassifier:
    """A model as a file that needs no TensorFlow, from the cache if it was there; itself if that is not possible."""
    if isinstance(model, ExportedModel):
        return model
    classifier = Classifier.of(model)
    try:  # any pictures will do for the comparison: these are always at hand
        return kept_export(classifier, data=load_dataset("digits"), progress=progress)
    except ModelFileError as error:
        progress.say(f"{error} So the model itself answers, in one process.")
        return classifier


def _digest(model: BaseClassifier) -> str:
    if isinstance(model, ExportedModel):
        return file_sha256(model.file)
    assert isinstance(model, Classifier)
    return digest_of(model)


def _key(model: BaseClassifier, names: Sequence[str]) -> str:
    """What kept rows belong to: a checksum of the model and of the files' names, sizes and times."""
    found = hashlib.sha256(f"{version('imgclassify')} {_digest(model)} {_CHUNK}".encode())
    for name in names:
        found.update(repr((name, _facts(name))).encode())
    return found.hexdigest()[:16]


def _facts(name: str) -> tuple:
    try:
        if "://" not in name:
            status = Path(name).stat()
            return status.st_size, status.st_mtime_ns
        _need("fsspec")
        from fsspec.core import url_to_fs

        system, path = url_to_fs(name)
        info = system.info(path)  # of a folder that was just listed, from memory
        return tuple(str(info.get(each)) for each in ("size", "mtime", "LastModified", "updated", "ETag", "etag"))
    except OSError:
        return ()  # it will be a row with this problem


def _parts(values: Iterable, length: int) -> Iterator[list]:
    values = iter(values)
    while some := list(itertools.islice(values, length)):
        yield some


def _file(kept: Path, number: int) -> Path:
    return kept / f"{number:08}.json"


def _rows(kept: Path, chunk: Chunk) -> list[list] | None:
    """The rows of a finished chunk; None if it is not finished, or its file is damaged."""
    try:
        rows = json.loads(_file(kept, chunk.number).read_text(encoding="utf-8"))
        return rows if [row[0] for row in rows] == [printable(name) for name in chunk.files] else None
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _write(kept: Path, chunks: Sequence[Chunk], output: Path) -> int:
    """Write the table whole or not at all; returns how many of its rows have a problem."""
    refused = 0

    def rows() -> Iterator[list]:
        nonlocal refused
        for chunk in chunks:
            for row in _rows(kept, chunk) or ():
                refused += bool(row[-1])
                yield row

    with replacing(kept / f"table{output.suffix}", lasting=True) as part:
        if output.suffix == ".csv":
            with part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(map(csv_row, rows()))
        else:
            _write_parquet(part, rows())
    (kept / f"table{output.suffix}").replace(output)
    return refused


def _write_parquet(path: Path, rows: Iterator[list]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"confidence": pa.float64(), "familiarity": pa.float64(), "known": pa.bool_()}
    types = [(name, kinds.get(name.split()[-1], pa.string())) for name in COLUMNS]
    schema = pa.schema(types)
    with parquet.ParquetWriter(path, schema) as writer:
        for some in _parts(rows, _GROUP):
            writer.write_table(pa.table(list(map(list, zip(*some, strict=True))), schema=schema))


def _engine(model: BaseClassifier, engine: Engine, workers: int | None) -> Run:
    if isinstance(model, ExportedModel):
        return partial(on_ray if engine == "ray" else on_this_machine, model.file, workers)
    if engine == "ray":
        raise ModelFileError(f"Ray needs an exported model, and {model.name} cannot be exported.")
    return lambda chunks: ((chunk.number, answer(model, chunk)) for chunk in chunks)
