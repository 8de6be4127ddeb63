"""Engines: what classifies chunks of pictures, processes on this machine or Ray Data, and goes on without the dead."""

import contextlib
import json
import logging
import multiprocessing
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from imgclassify.backend import cores
from imgclassify.data.images import MAX_BYTES, ImageError, Picture
from imgclassify.prediction import BaseClassifier, table_row
from imgclassify.serving.exported import load_exported

_TRIES = 2  # workers that may die of a chunk, or of a picture


@dataclass(frozen=True)
class Chunk:
    """Pictures that are classified together: always the same ones, so that the answers are the same to the last bit."""

    number: int
    files: tuple[str, ...]
    fatal: tuple[str, ...] = ()  # of them, those that end the process that opens them


# Rows of chunks by their numbers, in any order; of a chunk whose workers died, nothing.
Run = Callable[[Sequence[Chunk]], Iterator[tuple[int, list[list]]]]


def finish(run: Run, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[list]]]:
    """Rows of all chunks; in those whose workers died, each picture is tried alone to find which one it was."""
    lost = {chunk.number: chunk for chunk in chunks}
    for number, rows in run(chunks):
        del lost[number]
        yield number, rows
    for chunk in lost.values():
        alone = [Chunk(place, (file,)) for place, file in enumerate(chunk.files)]
        survived = {place for place, _ in run(alone)}
        fatal = tuple(file for place, file in enumerate(chunk.files) if place not in survived)
        found = list(run([replace(chunk, fatal=fatal)]))
        if not found:
            raise ChildProcessError(f"Workers die on the pictures from {chunk.files[0]} on, whatever is left out.")
        yield from found


def answer(model: BaseClassifier, chunk: Chunk) -> list[list]:
    """The rows of a chunk; a picture that cannot be used counts as black, so that there are always as many."""
    pictures, problems = np.zeros((len(chunk.files), *model.input_shape), np.uint8), {}
    for place, name in enumerate(chunk.files):
        try:
            if name in chunk.fatal:
                raise ImageError(f"{name} ends the process that opens it: it needs too much memory, or is damaged.")
            pictures[place] = model.prepare(_opened(name), name=printable(name))
        except ImageError as error:
            problems[place] = printable(str(error))
    probabilities, familiarity = model.answers(pictures)
    shares = [None] * len(pictures) if familiarity is None else list(map(float, familiarity))
    return [
        table_row(printable(name), None, problems[place])
        if place in problems
        else table_row(printable(name), model.prediction(pictures[place], probabilities[place], shares[place]))
        for place, name in enumerate(chunk.files)
    ]


def _opened(name: str) -> Picture:
    """A path as it is; the bytes behind an address."""
    if "://" not in name:
        return name
    import fsspec

    try:
        with fsspec.open(name, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError, ImportError) as error:
        raise ImageError(f"{name} cannot be read: {error}") from error


def printable(name: str) -> str:
    """A name of any bytes as text that every table can hold."""
    return name.encode("utf-8", "backslashreplace").decode()


class _Worker:
    """A process that classifies one chunk at a time; it sends None once its model is loaded, then rows."""

    def __init__(self, model: Path):
        context = multiprocessing.get_context("spawn")  # a fork of a process with TensorFlow in it may hang
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(model, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is noticed
        self.chunk: Chunk | None = None

    def end(self) -> None:
        """Stop the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(path: Path, pipe: Connection) -> None:
    """What a worker does, until its owner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its owner ends it
    model = load_exported(path, threads=1)
    try:
        pipe.send(None)
        while True:
            pipe.send(answer(model, pipe.recv()))
    except (EOFError, OSError):
        return


def on_this_machine(model: Path, workers: int | None, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[list]]]:
    """Rows of chunks from processes that are started afresh, by default one per core; see `Run`."""
    queue, deaths, unstarted = deque(chunks), Counter[int](), 0
    team: dict[Connection, _Worker] = {}
    try:
        while queue or any(worker.chunk for worker in team.values()):
            while len(team) < min(workers or cores(), len(chunks)):
                worker = _Worker(model)
                team[worker.pipe] = worker
            for pipe in wait(list(team)):
                worker = team[pipe]  # type: ignore[index]
                try:
                    rows = worker.pipe.recv()
                except (EOFError, OSError):  # it was killed
                    team.pop(worker.pipe).end()
                    if worker.chunk is None:
                        unstarted += 1
                        if unstarted == _TRIES + 1:
                            raise ChildProcessError("Processes that should classify pictures cannot start.") from None
                    else:
                        deaths[worker.chunk.number] += 1
                        queue.extend([worker.chunk] * (deaths[worker.chunk.number] < _TRIES))
                    continue
                if worker.chunk is not None:
                    yield worker.chunk.number, rows
                worker.chunk = queue.popleft() if queue else None
                if worker.chunk is not None:
                    with contextlib.suppress(OSError):  # it was killed, which is noticed when it should answer
                        worker.pipe.send(worker.chunk)
    finally:
        for worker in team.values():
            worker.end()


class _Tries:
    """How often each chunk was begun; an actor of Ray's, which itself would try for ever."""

    def __init__(self):
        self._begun = Counter[int]()

    def begin(self, number: int) -> int:
        """Count one more."""
        self._begun[number] += 1
        return self._begun[number]


class _RayWorker:
    """A worker of Ray's, which loads the model once."""

    def __init__(self, suffix: str, content, tries):
        import ray

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"model{suffix}")
            path.write_bytes(ray.get(content))
            self._model = load_exported(path, threads=1)
        self._tries = tries

    def __call__(self, batch: dict) -> dict:
        import ray

        chunk = Chunk(*json.loads(batch["chunk"][0]))
        lost = ray.get(self._tries.begin.remote(chunk.number)) > _TRIES
        return {"number": [chunk.number], "rows": ["" if lost else json.dumps(answer(self._model, chunk))]}


def on_ray(model: Path, workers: int | None, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[list]]]:
    """Rows of chunks from Ray Data's actors, by default one per core of the cluster; see `Run`."""
    if not chunks:
        return
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one already
    size = min(len(chunks), workers or max(1, int(ray.cluster_resources()["CPU"])))
    given = (model.suffix, ray.put(model.read_bytes()), ray.remote(_Tries).options(num_cpus=0).remote())
    items = [{"chunk": json.dumps((chunk.number, chunk.files, chunk.fatal))} for chunk in chunks]
    data = ray.data.from_items(items, override_num_blocks=len(items))
    for row in data.map_batches(
        _RayWorker, batch_size=1, compute=ray.data.ActorPoolStrategy(size=size), fn_constructor_args=given
    ).iter_rows():
        if row["rows"]:
            yield int(row["number"]), json.loads(row["rows"])
