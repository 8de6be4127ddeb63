"""The check of a folder of photos: counts, what cannot be read, what occurs twice, in sentences."""

import json
import shutil

import pytest
from test_splits import photo

from imgclassify.data.check import check_data
from imgclassify.data.dataset import DatasetError
from imgclassify.data.loading import load_dataset
from imgclassify.runs.manifest import strict_json
from imgclassify.visualization import plot_data_check


@pytest.fixture
def pets(tmp_path):
    """A folder with a training and a test part, twelve and two photos of each of two classes; nothing is wrong."""
    for number, name in enumerate(("cat", "dog")):
        for part, seeds in (("train", range(12)), ("test", range(50, 52))):
            (tmp_path / "pets" / part / name).mkdir(parents=True, exist_ok=True)
            for seed in seeds:
                photo(seed + 100 * number).save(tmp_path / "pets" / part / name / f"{seed}.png")
    return tmp_path / "pets"


def test_a_good_folder_has_no_problems(pets):
    report = check_data(pets)
    assert report.problems == report.pairs == report.skipped == ()
    assert report.counts == {name: {"train": 12, "test": 2} for name in ("cat", "dog")}
    assert report.sizes == ((320, 320),) * 3
    assert str(report).splitlines()[-1] == "No problems found."


def test_duplicates_are_found_in_a_class_across_classes_and_across_parts(pets):
    shutil.copy(pets / "train" / "cat" / "0.png", pets / "train" / "dog" / "copy.png")
    photo(1).crop((8, 0, 312, 304)).save(pets / "test" / "cat" / "cropped.png")
    photo(102).resize((200, 200)).save(pets / "train" / "dog" / "smaller.jpg")
    report = check_data(pets)
    found = [(pair.place, pair.exact, *(path.split("pets/")[1] for path in pair[:2])) for pair in report.pairs]
    assert found == [
        ("in different classes", True, "train/cat/0.png", "train/dog/copy.png"),
        ("in different parts", False, "train/cat/1.png", "test/cat/cropped.png"),
        ("in one class", False, "train/dog/2.png", "train/dog/smaller.jpg"),
    ]
    assert [problem.split(": ")[0] for problem in report.problems] == [
        "Copies in different classes",
        "Near-duplicates in different parts",
        "Near-duplicates in one class",
    ]


def test_small_empty_and_unequal_classes_and_unreadable_files_are_named(pets):
    for path in [*sorted((pets / "train" / "cat").iterdir())[1:], *(pets / "test" / "dog").iterdir()]:
        path.unlink()
    (pets / "train" / "cat" / "broken.png").write_bytes(b"no picture")
    (pets / "test" / "dog" / "notes.txt").write_text("no picture either")
    report = check_data(pets)
    assert report.counts["cat"] == {"train": 1, "test": 2}
    assert report.problems[:3] == (
        "No picture that can be read (test): dog.",
        "Classes with fewer than 10 pictures: cat (1). Add pictures, or use cross-validation.",
        "dog has 12 times as many pictures as cat: add some of cat.",
    )
    assert "Files that cannot be read: 1, for instance: " in report.problems[3]
    assert "broken.png" in report.skipped[0]


def test_a_folder_without_a_picture_is_refused_in_one_sentence(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no picture")
    with pytest.raises(DatasetError, match=r"contains no picture that can be read\.$"):
        check_data(tmp_path)
    (tmp_path / "cat" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"contains no picture that can be read\. .*a\.png is not a picture"):
        check_data(tmp_path)


def test_a_data_set_of_photos_is_checked_and_other_data_refused(pets, tiny):
    for size in (None, 96):
        report = check_data(load_dataset(pets, size=size))
        assert report.counts == check_data(pets).counts
    with pytest.raises(DatasetError, match=r"made-up colours is not a folder of photos"):
        check_data(tiny)


def test_the_report_is_json_html_and_a_figure(pets):
    shutil.copy(pets / "train" / "cat" / "0.png", pets / "train" / "dog" / "<b>.png")
    report = check_data(pets)
    values = json.loads(strict_json(report.to_dict()))
    assert values["pairs"][0]["place"] == "in different classes"
    assert values["counts"]["dog"] == {"train": 13, "test": 2}
    assert "&lt;b&gt;.png" in report._repr_html_()
    by_title = {axes.get_title(): axes for axes in plot_data_check(report).axes}
    assert by_title.keys() == {str(pets), "cat\ntrain", "dog\ntrain"}
    assert [bar.get_width() for bar in by_title[str(pets)].patches] == [12, 13, 2, 2]
    assert len(plot_data_check(check_data(pets), count=0).axes) == 1
