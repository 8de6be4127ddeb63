import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from onnx_files import write_colours
from PIL import Image

from imgclassify.data.images import ImageError
from imgclassify.serving.batching import MOST_TOGETHER, Batcher, QueueFullError
from imgclassify.serving.exported import load_exported

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def png(colour: str) -> bytes:
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", (40, 30), COLOURS[colour]).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_exported(write_colours(tmp_path_factory.mktemp("model") / "colours.onnx"))


class Held:
    """A model whose answers wait until they are released; notes the sizes of its batches."""

    def __init__(self, model):
        self.released, self.sizes = threading.Event(), []
        self.model = replace(model, run=lambda x: self._run(x, model.run))

    def _run(self, x, run):
        self.sizes.append(len(x))
        assert self.released.wait(10)
        return run(x)


def test_everybody_gets_the_answer_to_their_own_picture(model):
    async def ask():
        async with Batcher(model, most_waiting=300) as batcher:
            names = [*COLOURS] * 100
            return names, await asyncio.gather(*(batcher.predict([(png(name), name)]) for name in names))

    names, found = asyncio.run(ask())
    assert [prediction.label for (prediction,) in found] == names
    assert found[0][0].confidence == pytest.approx(
        model.predict(np.full((5, 5, 3), COLOURS["red"], np.uint8)).confidence
    )


def test_pictures_that_wait_together_are_computed_together(model):
    async def ask():
        held = Held(model)
        async with Batcher(held.model, most_waiting=200) as batcher:
            tasks = [asyncio.create_task(batcher.predict([(png("red"), "a")])) for _ in range(100)]
            while batcher._prepared.qsize() < 100 - sum(held.sizes):  # until all are decoded
                await asyncio.sleep(0.01)
            held.released.set()
            await asyncio.gather(*tasks)
        return held.sizes

    sizes = asyncio.run(ask())
    assert sum(sizes) == 100
    assert max(sizes) == MOST_TOGETHER
    assert len(sizes) < 30


def test_a_file_that_is_no_picture_is_refused_and_the_others_are_answered(model):
    async def ask():
        async with Batcher(model, most_waiting=9, most_pixels=1300) as batcher:
            large = np.zeros((40, 40, 3), np.uint8)
            from io import BytesIO

            file = BytesIO()
            Image.fromarray(large).save(file, "PNG")
            files = [(png("red"), "a"), (b"no picture", "b"), (b"", "c"), (file.getvalue(), "d"), (png("blue"), "e")]
            return await batcher.predict(files)

    red, *refused, blue = asyncio.run(ask())
    assert (red.label, blue.label) == ("red", "blue")
    assert all(isinstance(each, ImageError) for each in refused)
    assert [str(each)[:22] for each in refused] == [
        "b is not a picture of ",
        "c is empty: expected a",
        "d has too many pixels:",
    ]
    assert "at most 0.0013 million" in str(refused[-1])


def test_more_than_may_wait_are_refused_and_taken_again_afterwards(model):
    async def ask():
        held = Held(model)
        async with Batcher(held.model, most_waiting=3) as batcher:
            first = asyncio.create_task(batcher.predict([(png("red"), "a")] * 2))
            await asyncio.sleep(0.05)
            with pytest.raises(QueueFullError, match="try again in 1 s"):
                await batcher.predict([(png("red"), "b")] * 2)
            second = asyncio.create_task(batcher.predict([(png("green"), "c")]))  # there is room for one
            await asyncio.sleep(0.05)
            held.released.set()
            await first
            await second
            assert batcher.waiting == 0
            assert len(await batcher.predict([(png("red"), "d")] * 3)) == 3

    asyncio.run(ask())


def test_what_has_been_given_up_is_not_computed(model):
    async def ask():
        held = Held(model)
        async with Batcher(held.model, most_waiting=100) as batcher:
            blocking = [asyncio.create_task(batcher.predict([(png("red"), "a")])) for _ in range(30)]
            while not held.sizes:
                await asyncio.sleep(0.01)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await batcher.predict([(png("blue"), "b")] * 20)
            assert batcher.waiting == 30
            held.released.set()
            await asyncio.gather(*blocking)
        return held.sizes

    assert sum(asyncio.run(ask())) == 30


def test_a_model_that_fails_is_said_to_those_who_wait_and_the_next_are_answered(model):
    fails = [True]

    def run(x):
        if fails.pop() if fails else False:
            raise RuntimeError("out of memory")
        return model.run(x)

    async def ask():
        async with Batcher(replace(model, run=run), most_waiting=9) as batcher:
            with pytest.raises(RuntimeError, match="out of memory"):
                await batcher.predict([(png("red"), "a")])
            return await batcher.predict([(png("red"), "a")])

    assert asyncio.run(ask())[0].label == "red"


def test_its_threads_end_with_it(model):
    async def ask():
        async with Batcher(model, most_waiting=9) as batcher:
            await batcher.predict([(png("red"), "a")])
            assert any(thread.name.startswith("compute") for thread in threading.enumerate())

    asyncio.run(ask())
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("compute", "decode"))]
