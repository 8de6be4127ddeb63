"""What the tests of models share: networks of both architectures, made once, and pictures to show them."""

import numpy as np
import pytest

from imgclassify.models.networks import build_model, whiten


@pytest.fixture(scope="session")
def baseline():
    """An untrained baseline; not to be modified."""
    return build_model()


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """200 random pictures, smooth with some noise: uint8 (200, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(200, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2) * 40 + 128
    return np.clip(smooth + rng.normal(size=(200, 32, 32, 3)) * 10, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def airbench(pictures):
    """An untrained airbench, whitened with `pictures`; not to be modified."""
    model = build_model("airbench")
    whiten(model, pictures)
    return model
