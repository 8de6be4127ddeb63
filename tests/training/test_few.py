import pytest

from imgclassify import DatasetError
from imgclassify.training.few import accuracy_by_photos


def test_accuracy_is_measured_for_each_number_and_draw_and_repeats_by_seed(tiny, quiet):
    found = accuracy_by_photos(tiny, (1, 10), draws=3, progress=quiet)
    assert {count: len(accuracies) for count, accuracies in found.items()} == {1: 3, 10: 3}
    assert min(found[10]) > 0.9  # the colours are easily learned
    assert all(0 <= accuracy <= 1 for accuracy in found[1])
    assert accuracy_by_photos(tiny, (1,), draws=3, progress=quiet)[1] == found[1]


def test_a_number_below_one_is_refused(tiny):
    with pytest.raises(DatasetError, match=r"must be at least 1\. Received: 0"):
        accuracy_by_photos(tiny, (5, 0))
