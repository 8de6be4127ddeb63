"""The queue of the service: pictures are decoded in threads, and those that wait together are computed together."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from imgclassify.backend import cores
from imgclassify.data.images import ImageError, decode_image, prepare_image
from imgclassify.models.inference import batch_length
from imgclassify.prediction import BaseClassifier, Prediction

MOST_TOGETHER = 8  # pictures; more gain little, and the first one waits for them


class QueueFullError(Exception):
    """No more pictures are taken for now; `seconds` is when to try again."""

    def __init__(self, seconds: int):
        super().__init__(f"Too many pictures are waiting: try again in {seconds} s.")
        self.seconds = seconds


class Batcher:
    """Answers pictures of many clients with one model. Nobody waits for a batch to fill: it is what came meanwhile.

    Args:
        model: What answers; called from one thread per core.
        most_waiting: How many pictures may be under way, from their arrival to their answer.
        most_pixels: Of a picture; `None`: as many as `decode_image` takes.
        on_batch: Called with the number of pictures of each batch.

    Use it as an asynchronous context manager: at the end, its threads end.
    """

    def __init__(
        self,
        model: BaseClassifier,
        *,
        most_waiting: int,
        most_pixels: int | None = None,
        on_batch: Callable[[int], object] = lambda size: None,
    ):
        self.model, self.waiting = model, 0
        self._most_waiting, self._most_pixels, self._on_batch = most_waiting, most_pixels, on_batch
        self._most_together = min(MOST_TOGETHER, batch_length(model.input_shape))
        self._decoders = ThreadPoolExecutor(cores(), "decode")
        self._computers = ThreadPoolExecutor(cores(), "compute")
        self._prepared: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue()
        self._tasks: list[asyncio.Task] = []
        self._seconds = 0.01  # that a picture takes: a running mean, to say when to try again

    async def __aenter__(self) -> "Batcher":
        self._tasks = [asyncio.create_task(self._compute()) for _ in range(cores())]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        for threads in (self._decoders, self._computers):
            threads.shutdown(cancel_futures=True)

    async def predict(self, pictures: Sequence[tuple[bytes, str]]) -> list[Prediction | ImageError]:
        """Answers, in order, of pictures, each the bytes of a file and a name for messages; or why there is none.

        If the caller is cancelled, as by a deadline, what has not begun is not computed.

        Raises:
            QueueFullError: They would be more than may wait; none is computed.
        """
        if self.waiting + len(pictures) > self._most_waiting:
            raise QueueFullError(max(1, math.ceil(self.waiting * self._seconds)))
        self.waiting += len(pictures)
        try:
            async with asyncio.TaskGroup() as group:  # which cancels the others if one fails
                tasks = [group.create_task(self._predict(*picture)) for picture in pictures]
        except* Exception as errors:
            raise errors.exceptions[0] from None
        finally:
            self.waiting -= len(pictures)
        return [task.result() for task in tasks]

    async def _predict(self, content: bytes, name: str) -> Prediction | ImageError:
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self._decoders, self._prepare, content, name)
        except ImageError as error:
            return error
        answer = loop.create_future()
        self._prepared.put_nowait((image, answer))
        values, familiarity = await answer
        return self.model.prediction(image, values, familiarity)

    def _prepare(self, content: bytes, name: str) -> np.ndarray:
        size = self.model.input_size
        image = decode_image(content, name=name, size=size, most_pixels=self._most_pixels)
        return prepare_image(image, size=size, crop=self.model.crop)

    async def _compute(self) -> None:
        """Compute whatever waits, in batches, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self._prepared.get()]
            while len(waiting) < self._most_together and not self._prepared.empty():
                waiting.append(self._prepared.get_nowait())
            waiting = [(image, answer) for image, answer in waiting if not answer.done()]  # some have been given up
            if not waiting:
                continue
            begun = time.perf_counter()
            images = np.stack([image for image, _ in waiting])
            try:
                probabilities, familiarity = await loop.run_in_executor(self._computers, self.model.answers, images)
            except Exception as error:  # whatever it is, those who wait are told, and the next are answered
                for _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for row, (_, answer) in enumerate(waiting):
                if not answer.done():
                    answer.set_result((probabilities[row], None if familiarity is None else float(familiarity[row])))
            self._seconds += 0.1 * ((time.perf_counter() - begun) / len(waiting) - self._seconds)
            self._on_batch(len(waiting))
