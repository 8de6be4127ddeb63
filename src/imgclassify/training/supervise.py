"""Supervision: work in a process of its own, which is started again when it, or one that it works with, has died."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

LOST = 75  # exit code of work that can go on after another start; EX_TEMPFAIL of sysexits.h
_MOST = 10  # deaths in a row, each within `_LONG` of its start
_LONG = 600.0  # seconds
_PAUSE = 3.0  # seconds before another start for each death, so that the others have noticed it
_INTERRUPTED = 130


def supervise(work: Callable[[], int], say: Callable[[str], None]) -> int:
    """Do `work` in another process, and again whenever it was killed or ended with `LOST`; returns its exit code.

    After ten deaths in a row, it gives up with `LOST`. Ctrl-C and SIGTERM ask the work to end; a second one kills it.
    The work ends with this process, however that ends.

    Args:
        work: A function of a module, or a partial one.
        say: Gets a sentence before each further start, and before it gives up.
    """
    context, deaths = multiprocessing.get_context("spawn"), 0  # a fork of a process with threads in it may hang
    with _obeying_signals() as (asked, processes):
        while True:
            began = time.monotonic()
            process = context.Process(target=_in_process, args=(work,), daemon=True)
            process.start()
            processes.append(process)
            if asked:  # in the pause
                process.terminate()
            process.join()
            code = process.exitcode or 0
            if 0 <= code != LOST:
                return code
            if asked:
                return _INTERRUPTED
            deaths = deaths + 1 if time.monotonic() - began < _LONG else 1
            if deaths == _MOST:
                say(f"given up, after {_MOST} times in a row")
                return LOST
            say(f"starting again, after {deaths} of at most {_MOST} times in a row")
            time.sleep(deaths * _PAUSE)


def _in_process(work: Callable[[], int]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    raise SystemExit(work())


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
