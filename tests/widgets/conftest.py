"""What the tests of widgets share."""

import io
from collections.abc import Callable

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """`png(color, size=(60, 40))` is a PNG file of one colour."""

    def write(color, size: tuple[int, int] = (60, 40)) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, color).save(file, "PNG")
        return file.getvalue()

    return write
