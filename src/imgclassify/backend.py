"""The backend: TensorFlow imported quietly, its devices, precision and seeds."""

import contextlib
import functools
import logging
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_importing, _tracing = threading.RLock(), threading.RLock()


@contextlib.contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Point file descriptor 2 at the null device: C++ code, as TensorFlow's, writes to it, bypassing `sys.stderr`."""
    with contextlib.ExitStack() as at_the_end:
        with contextlib.suppress(OSError):  # no standard error at all, as in some graphical launchers
            saved = os.dup(2)
            at_the_end.callback(os.close, saved)
            at_the_end.callback(os.dup2, saved, 2)  # called first
            with Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), 2)
        yield


def tensorflow() -> ModuleType:
    """TensorFlow, imported without its start-up noise; GPU memory grows on demand. Safe to call from any thread."""
    with _importing:
        tf = _import_tensorflow()
        _start_devices()
        return tf


def start_cluster(addresses: Sequence[str], index: int) -> Any:
    """Connect this process with others, and wait for them; must come before all other uses of TensorFlow.

    Args:
        addresses: host:port of each process.
        index: Which of them is this one, from 0.

    Returns:
        A `tf.distribute.MultiWorkerMirroredStrategy`.
    """
    with _importing:
        tf = _import_tensorflow()
        cluster = tf.train.ClusterSpec({"worker": list(addresses)})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, task_type="worker", task_id=index)
        with quiet(), native_stderr_silenced():
            strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        _start_devices()
        return strategy


@functools.cache
def _start_devices() -> None:
    with native_stderr_silenced():
        _import_tensorflow().config.list_logical_devices()


@functools.cache
def _import_tensorflow() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    with native_stderr_silenced():
        import tensorflow as tf

        # RuntimeError: the caller has already started the devices; its own settings then stay.
        with contextlib.suppress(RuntimeError):
            gpus = tf.config.list_physical_devices("GPU")
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
            if not gpus:  # several operations in parallel, each on one core: see `towers`
                tf.config.threading.set_intra_op_parallelism_threads(max(1, cores() // _MOST_THREADS))
                tf.config.threading.set_inter_op_parallelism_threads(cores())
    tf.get_logger().setLevel("ERROR")  # its retracing warnings assume that a program uses one model only
    return tf


def keras() -> ModuleType:
    """Keras 3 on the TensorFlow backend, imported without noise."""
    tensorflow()
    import keras

    return keras


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Trace functions for TensorFlow in here, so that their memory is freed with them; one thread at a time.

    TensorFlow registers each custom gradient that it traces, SiLU's among them, under a name of its own and for good,
    and with it the whole graph. What this thread registers meanwhile is dropped. So a function that is traced here can
    hold a `tf.GradientTape`, but cannot be differentiated from outside.
    """
    tensorflow()
    try:
        from tensorflow.python.framework.ops import gradient_registry
        from tensorflow.python.framework.registry import Registry
    except ImportError:  # they are not public, and may move: a test notices it
        yield
        return
    names, thread = list[str](), threading.get_ident()
    with _tracing:
        register = Registry.register

        def noting(self, candidate, name=None):
            register(self, candidate, name)
            if threading.get_ident() == thread and str(name).startswith("CustomGradient-"):
                names.append(name)

        Registry.register = noting
        try:
            yield
        finally:
            Registry.register = register
            for name in names:
                getattr(gradient_registry, "_registry", {}).pop(name, None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of other packages, in places where they say nothing that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def set_seed(seed: int) -> None:
    """Seed Python, numpy and TensorFlow, so that a training is repeatable on the same machine and versions."""
    keras().utils.set_random_seed(seed)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(function: Callable[[Any], Any], items: Iterable) -> Iterator:
    """The function's result for each item, in order; computed in threads, a few items ahead of the caller.

    If the function or the caller raises an exception, nothing more is begun.
    """
    workers = min(cores(), _MOST_THREADS)
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_MOST_THREADS = 8


def towers(batch_size: int) -> int:
    """Number of equal parts ("towers") of a training batch, which run in parallel, each on one core; 1 on a GPU.

    For small networks, TensorFlow spreads a single operation over the cores poorly; whole towers keep them busy.
    Each tower has at least eight pictures.
    """
    if tensorflow().config.list_physical_devices("GPU"):
        return 1
    fitting = [n for n in range(1, min(cores(), _MOST_THREADS) + 1) if batch_size % n == 0 and batch_size // n >= 8]
    return max(fitting, default=1)


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether the processor has bfloat16 instructions, as reported by Linux; False on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split() if cpuinfo.exists() else ()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_precision(precision: str) -> str:
    """The precision to train with: the given one, or `default_precision()` for "auto".

    Raises:
        ValueError: The precision is unknown.
    """
    if precision == "auto":
        return default_precision()
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be auto or one of {', '.join(PRECISIONS)}. Received: precision={precision!r}")
    return precision


def default_precision() -> str:
    """Keras dtype policy to train with: the fastest mixed one that the hardware supports natively, else "float32".

    That is "mixed_float16" on GPUs with compute capability 7 or higher, and "mixed_bfloat16" on processors with
    bfloat16 instructions.
    """
    config = tensorflow().config
    details = map(config.experimental.get_device_details, config.list_physical_devices("GPU"))
    if capable := [each.get("compute_capability", (0, 0)) >= (7, 0) for each in details]:
        return "mixed_float16" if all(capable) else "float32"
    return "mixed_bfloat16" if has_fast_bfloat16() else "float32"
