"""Workers: the processes, on one machine or on many, that train one network together."""

import functools
import re
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imgclassify import backend
from imgclassify.runs.checkpoint import pack, unpack


class LostError(RuntimeError):
    """The connection to another worker is lost; a training goes on from its last checkpoint once all are there."""

    @classmethod
    def of(cls, error: BaseException) -> "LostError":
        """It, with what TensorFlow says, in a line."""
        if isinstance(error, cls):
            return error
        reason = re.search(r"aborted by: (.+)", str(error)) or re.search(r"(.+)", str(error))
        return cls("lost the connection to another worker" + (f" ({reason[1]:.200})" if reason else ""))


class Workers:
    """All processes of a training, as seen from one of them; `join_workers` connects several.

    What they exchange, they exchange together: each must call the same methods in the same order. Where one is gone,
    the others get an exception for which `is_lost` is true, within seconds.

    Attributes:
        count: How many there are; one by default, and then nothing is sent.
        index: Which of them this process is, from 0. Worker 0 keeps the run.
    """

    def __init__(self, strategy=None, count: int = 1, index: int = 0):
        self.count, self.index, self._strategy = count, index, strategy
        if count > 1:
            compiled = functools.partial(backend.tensorflow().function, autograph=False, reduce_retracing=True)
            self._sum, self._gather = compiled(self._all_reduce), compiled(self._all_gather)

    def sum(self, tensors: Sequence) -> list:
        """For each float32 tensor, its sum over all workers; for use in a `tf.function`, in one exchange."""
        if self.count == 1:
            return list(tensors)
        tf = backend.tensorflow()
        whole = self._all_reduce(tf.concat([tf.reshape(each, [-1]) for each in tensors], axis=0))
        parts = tf.split(whole, [each.shape.num_elements() for each in tensors])
        return [tf.reshape(part, each.shape) for part, each in zip(parts, tensors, strict=True)]

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all workers (float16, float32 or int32), one after the other along the first axis.

        One of them may have nothing, but not all: that would end TensorFlow.
        """
        if self.count == 1:
            return array
        return self._exchanged(self._gather, array)

    def any(self, asked: bool) -> bool:
        """Whether it is true for one of them."""
        return bool(self.gather(np.array([asked], np.int32)).any())

    def share(self, value: Any = None) -> Any:
        """What worker 0 has: dictionaries and lists of arrays, numbers and texts."""
        if self.count == 1:
            return value
        content = pack(value) if self.index == 0 else b""
        length = int(self.gather(np.array([len(content)], np.int32)).sum())
        padded = np.zeros(-(-length // 4), np.int32)
        if self.index == 0:
            padded[:] = np.frombuffer(content.ljust(4 * len(padded), b"\0"), np.int32)
        return unpack(self._exchanged(self._sum, padded).tobytes()[:length])

    def part(self, length: int) -> slice:
        """Which of so many items are this worker's; the parts differ by at most one item."""
        return slice(length * self.index // self.count, length * (self.index + 1) // self.count)

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error means that another worker is gone."""
        if self.count == 1:
            return False
        errors = backend.tensorflow().errors
        gone = (errors.UnavailableError, errors.FailedPreconditionError, errors.DeadlineExceededError)
        return isinstance(error, (LostError, *gone, errors.AbortedError, errors.CancelledError))

    def _exchanged(self, exchange: Callable, array: np.ndarray) -> np.ndarray:
        try:
            return exchange(backend.tensorflow().constant(array)).numpy()
        except backend.tensorflow().errors.OpError as error:
            if self.is_lost(error):
                raise LostError.of(error) from error
            raise

    def _all_reduce(self, tensor):
        return self._everywhere(lambda context, tensor: context.all_reduce("SUM", tensor), tensor)

    def _all_gather(self, tensor):
        return self._everywhere(lambda context, tensor: context.all_gather(tensor, axis=0), tensor)

    def _everywhere(self, exchange: Callable, tensor):
        tf = backend.tensorflow()

        def on_device(tensor):  # in a loop, a tensor has no device, which the exchange needs
            return exchange(tf.distribute.get_replica_context(), tf.identity(tensor))

        return self._strategy.run(on_device, args=(tensor,))


ALONE = Workers()


def join_workers(addresses: Sequence[str], index: int) -> Workers:
    """Connect this process with the other workers, and wait for them; must come before all other use of TensorFlow.

    They are connected by `tf.distribute.MultiWorkerMirroredStrategy`, over gRPC, without passwords and encryption: the
    network between them must be private. Each uses its processor or one GPU.

    Args:
        addresses: host:port of each worker, in the same order for all; this process listens on the port of its own.
        index: Which of them is this process, from 0.

    Returns:
        `Workers`, for `train_model`.

    Raises:
        ValueError: An address is not host:port, two are equal, there is no such index, the port is taken, or the
            process has several GPUs.
        LostError: Another worker was there, and is gone.
    """
    check_addresses(addresses, index)
    try:
        strategy = backend.start_cluster(addresses, index)
    except backend.tensorflow().errors.OpError as error:
        raise LostError.of(error) from error
    if strategy.num_replicas_in_sync != len(addresses):
        raise ValueError("A worker uses one GPU: start one for each, and set CUDA_VISIBLE_DEVICES to its number.")
    return Workers(strategy, len(addresses), index)


def check_addresses(addresses: Sequence[str], index: int) -> None:
    """Raise `ValueError` unless these are the addresses of two or more workers, and this process can be the named one.

    Example:
        >>> check_addresses(["10.0.0.1:7000"], 0)
        Traceback (most recent call last):
        ValueError: Several workers are needed, each as host:port. Received: 10.0.0.1:7000
    """
    received = f"Received: {','.join(addresses)}"
    if len(addresses) < 2 or not all(re.fullmatch(r"[\w.-]+:[1-9]\d{0,4}", each) for each in addresses):
        raise ValueError(f"Several workers are needed, each as host:port. {received}")
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"Each worker needs an address of its own. {received}")
    if not 0 <= index < len(addresses):
        raise ValueError(f"The worker must be from 0 to {len(addresses) - 1}. Received: {index}")
    port = int(addresses[index].rpartition(":")[2])
    with socket.socket() as probe:  # gRPC would share the port with another process, and answer for it now and then
        try:
            if sys.platform != "win32":  # where it would allow to take over a port that is in use
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"This worker cannot listen on port {port}: {error}.") from error
