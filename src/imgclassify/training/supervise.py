"""Supervision: work in a process of its own, which is started again when it, or one that it works with, has died."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

LOST = 75  # exit code of work that can go on after another start; EX_TEMPFAIL of sysexits.h
_STARTS = 10  # at most
_PAUSE = 3.0  # seconds between two of them, so that the others have noticed the end
_INTERRUPTED = 130


def supervise(work: Callable[[int], int], say: Callable[[str], None]) -> int:
    """Do `work` in another process, and again whenever it was killed or ended with `LOST`; returns its exit code.

    Ctrl-C and SIGTERM ask it to end, a second one kills it. It ends with this process, however that ends.

    Args:
        work: A function of a module, or a partial one; gets the number of the attempt, from 0.
        say: Gets a sentence before each further attempt.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads in it may hang
    with _obeying_signals() as (asked, processes):
        for attempt in range(_STARTS):
            if attempt:
                say(f"started again, {attempt + 1} of at most {_STARTS} times")
                time.sleep(_PAUSE)
            process = context.Process(target=_in_process, args=(work, attempt), daemon=True)
            process.start()
            processes.append(process)
            if asked:  # in the pause
                process.terminate()
            process.join()
            code = process.exitcode or 0
            if asked or 0 <= code != LOST:
                break
    died = code < 0 or code == LOST
    return _INTERRUPTED if asked and died else LOST if died else code


def _in_process(work: Callable[[int], int], attempt: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    raise SystemExit(work(attempt))


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(LOST)


@contextlib.contextmanager
def _obeying_signals() -> Iterator[tuple[list, list]]:
    """Lists of the signals that have come, and of the processes that they are passed on to, of which the last runs."""
    asked, processes = list[int](), list[multiprocessing.process.BaseProcess]()

    def stop(number: int, _frame) -> None:
        asked.append(number)
        if processes:
            (processes[-1].terminate if len(asked) == 1 else processes[-1].kill)()

    with contextlib.ExitStack() as at_the_end:
        for number in (signal.SIGINT, signal.SIGTERM):
            at_the_end.callback(signal.signal, number, signal.signal(number, stop))
        yield asked, processes
