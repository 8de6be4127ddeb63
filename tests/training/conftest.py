"""What the tests of trainings share."""

import pytest


@pytest.fixture
def quick(quiet):
    """Options of the shortest training."""
    return {"epochs": 1, "batch_size": 16, "progress": quiet}
