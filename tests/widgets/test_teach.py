"""The teach box without a browser: photos in, on the disk, trained, judged, tried, and given back."""

import errno
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("anywidget", reason="anywidget is not installed: pip install -e '.[notebooks]'")

from imgclassify import display, load_dataset, load_model
from imgclassify.data.images import ImageError
from imgclassify.recipes import get_recipe
from imgclassify.settings import artifacts_dir
from imgclassify.widgets import teach as module
from imgclassify.widgets.teach import TeachBox

pytestmark = pytest.mark.usefixtures("nothing_shipped")

HEAD = get_recipe("head", size=96)
ALERT = 'role="alert"'
COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}


def photo(color: str, seed: int = 0) -> bytes:
    """A JPEG photo: noise in shades of a colour."""
    pixels = np.random.default_rng(seed).integers(0, 90, (90, 120, 3)) + np.array(COLORS[color]) * 0.6
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture
def open_box(monkeypatch):
    """`open_box(...)` opens a box as `TeachBox` does; in the end, it waits until nothing works in the background."""
    boxes = []

    def open_box(*arguments, quick: bool = True, **options) -> TeachBox:
        boxes.append(TeachBox(*arguments, recipe=HEAD, **options))
        return boxes[-1]

    yield open_box
    for box in boxes:
        box._stop.set()
        assert box.wait(60)
        assert box._looker.wait(60)


@pytest.fixture
def box(open_box):
    return open_box()


def add_class(box, name: str) -> None:
    box.new_class.value = name
    box.add.click()


def drop(zone, name: str, content: bytes) -> str:
    """What the browser's part of a drop zone sends for a small file; returns the error, or nothing."""
    answers, zone.send = [], lambda answer: answers.append(answer)
    message = {"id": name, "name": name, "size": len(content), "first": True, "offset": 0}
    zone._handle_custom_msg(message, [memoryview(content)])
    return answers[-1].get("error", "")


def fill(box, count: int = 4, colors=("red", "green")) -> None:
    for color in colors:
        add_class(box, color)
        for seed in range(count):
            assert drop(box.cards[color].upload, f"{color} {seed}.jpg", photo(color, seed)) == ""


def ask(gallery, **message) -> tuple[dict, list[bytes]]:
    """A gallery's answer to its part in the browser."""
    answers, gallery.send = [], lambda answer, buffers=(): answers.append((answer, list(buffers)))
    gallery._handle_custom_msg({"view": "1", **message}, [])
    return answers[-1]


def files(box) -> list[str]:
    return sorted(str(path.relative_to(box.album.folder)) for path in box.album.folder.rglob("*") if path.is_file())


def train(box) -> None:
    box.train.click()
    assert box.wait(120)
    assert ALERT not in box.message.value


# --- classes and photos --------------------------------------------------------------------------------


def test_photos_are_on_the_disk_as_soon_as_they_arrive_and_a_new_box_goes_on_there(open_box):
    box = open_box()
    fill(box, 2)
    assert box.album.folder == artifacts_dir() / "photos" / "my-classes"
    assert files(box) == ["green/green 0.jpg", "green/green 1.jpg", "red/red 0.jpg", "red/red 1.jpg"]
    again = open_box()
    assert [len(photos) for photos in again.album.photos.values()] == [2, 2]
    assert [card._count.value for card in again.cards.values()] == ["2 photos"] * 2
    assert not again.train.disabled
    assert len(load_dataset(box.album.folder, size=96).y_train) == 2  # and everything else can use the folder


def test_what_is_uploaded_is_kept_byte_for_byte(box):
    add_class(box, "red")
    drop(box.cards["red"].upload, "a.jpg", photo("red"))
    assert (box.album.folder / "red" / "a.jpg").read_bytes() == photo("red")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "A class needs a name"),
        ("   ", "A class needs a name"),
        ("Red", "There is a class Red already"),
        ("a/b", "cannot be a name here"),
        ("a\\b", "cannot be a name here"),
        (".hidden", "cannot be a name here"),
        ("..", "cannot be a name here"),
        ("__cache", "cannot be a name here"),
        ("Con", "cannot be a name here"),
        ("lpt1.old", "cannot be a name here"),
        ("x" * 81, "cannot be a name here"),
    ],
)
def test_a_bad_name_is_one_sentence_for_new_and_renamed_classes(box, name, sentence):
    add_class(box, "red")
    add_class(box, "green")
    add_class(box, name)
    assert sentence in box.message.value
    card = box.cards["green"]
    card.title.value = name
    assert sentence in card.message.value
    assert card.title.value == "green"
    assert list(box.album.photos) == ["red", "green"]
    assert sorted(path.name for path in box.album.folder.iterdir()) == ["green", "red"]


def test_enter_adds_a_class_and_spaces_around_its_name_are_dropped(box):
    box.new_class.value = " my cup "
    box.new_class._handle_custom_msg({"event": "submit"}, [])
    assert list(box.cards) == ["my cup"]
    assert box.new_class.value == ""
    assert box.camera.bursts == ["my cup"]


def test_a_renamed_class_keeps_its_photos_and_its_place(box):
    fill(box, 2)
    box.cards["red"].title.value = "Crimson"
    assert list(box.cards) == ["Crimson", "green"]
    assert files(box)[:2] == ["Crimson/red 0.jpg", "Crimson/red 1.jpg"]
    assert box.cards["Crimson"].upload.label == "Drop photos of Crimson"
    assert box.camera.bursts == ["Crimson", "green"]
    assert drop(box.cards["Crimson"].upload, "more.jpg", photo("red", 9)) == ""
    assert (box.album.folder / "Crimson" / "more.jpg").exists()
    assert all(Path(each.path).exists() for each in box.album.photos["Crimson"])


def test_a_class_with_photos_is_deleted_after_one_question_and_an_empty_one_at_once(box):
    fill(box, 1)
    add_class(box, "empty")
    box.cards["empty"].delete.click()
    card = box.cards["red"]
    card.delete.click()
    assert card.confirm.description == "Delete 1 photo for good"
    card.keep.click()
    assert card._asking.layout.display == "none"
    assert list(box.cards) == ["red", "green"]
    card.delete.click()
    card.confirm.click()
    assert list(box.cards) == ["green"]
    assert files(box) == ["green/green 0.jpg"]


def test_photos_without_a_usable_name_get_one(box):
    add_class(box, "red")
    for seed, name in enumerate(
        ["a.jpg", "a.jpg", "no suffix", ".jpg", "x" * 300 + ".PNG", "📷" * 100, "../../up.jpg"]
    ):
        assert drop(box.cards["red"].upload, name, photo("red", seed)) == ""
    assert len(files(box)) == 7
    assert {"red/a.jpg", "red/a-2.jpg", "red/no suffix.jpg", "red/up.jpg"} < set(files(box))


def test_a_file_that_is_no_photo_is_one_sentence_and_leaves_nothing(box):
    add_class(box, "red")
    sentence = drop(box.cards["red"].upload, "words.txt", b"words")
    assert sentence.startswith("words.txt is not a picture of a known format")
    assert "damaged or cut off" in drop(box.cards["red"].upload, "cut.jpg", photo("red")[:900])
    assert files(box) == []


def test_a_photo_is_taken_only_once(box):
    fill(box, 1)
    assert drop(box.cards["green"].upload, "again.jpg", photo("red")) == "again.jpg is in red already."
    assert len(box.album) == 2


def test_a_full_disk_is_one_sentence_and_loses_nothing(box, monkeypatch):
    fill(box, 1)

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    sentence = drop(box.cards["red"].upload, "new.jpg", photo("red", 5))
    assert "cannot be written (No space left on device): make room" in sentence
    assert len(box.album) == 2
    assert files(box) == ["green/green 0.jpg", "red/red 0.jpg"]


def test_a_damaged_photo_is_named_when_a_box_opens_and_stays_where_it_is(open_box):
    box = open_box()
    fill(box, 2)
    assert box._looker.wait(60)
    (box.album.folder / "red" / "broken.jpg").write_bytes(b"no photo")
    again = open_box()
    assert "broken.jpg is not a picture" in again.message.value
    assert len(again.album) == 4
    assert "red/broken.jpg" in files(again)


def test_camera_bursts_go_to_their_class(box):
    add_class(box, "red")
    answers = []
    box.camera.send = answers.append
    for seed in (0, 1, 1, 2):  # a camera may give the same frame twice
        box.camera._handle_custom_msg({"frame": "1", "burst": "red"}, [memoryview(photo("red", seed))])
    assert box.cards["red"]._count.value == "3 photos"
    assert answers == [{"frame": "1"}] * 4


def test_thumbnails_come_in_pages_newest_first_and_one_can_be_removed(box):
    fill(box, 15, colors=["red"])
    gallery = box.cards["red"].gallery
    answer, pictures = ask(gallery, first=0)
    assert (answer["first"], answer["total"], len(answer["photos"]), len(pictures)) == (0, 15, 12, 12)
    assert Image.open(io.BytesIO(pictures[0])).size == (96, 96)
    assert answer["photos"][0][0] == box.album.photos["red"][-1].sha256
    assert len(ask(gallery, first=12)[1]) == 3
    assert ask(gallery, first=999)[0]["first"] == 12
    for nonsense in (-1, "x", None, 1e9):
        assert ask(gallery, first=nonsense)[0]["total"] == 15
    ask(gallery, photo=answer["photos"][0][0])
    assert ask(gallery, first=0)[0]["total"] == 14
    assert "red/red 14.jpg" not in files(box)
    assert box.cards["red"]._count.value == "14 photos"


def test_no_photo_is_part_of_the_state_that_a_notebook_stores(box):
    fill(box, 2)
    for gallery in (box.weakest, *(card.gallery for card in box.cards.values())):
        state = {name: value for name, value in gallery.get_state().items() if name not in ("_esm", "_css")}
        assert len(str(state)) < 1000


# --- folders -------------------------------------------------------------------------------------------


@pytest.fixture
def own_folder(tmp_path):
    """A person's folder of class folders, outside the artifacts."""
    folder = tmp_path / "shapes"
    for color in ("red", "green"):
        (folder / color).mkdir(parents=True)
        for seed in range(3):
            (folder / color / f"{seed}.jpg").write_bytes(photo(color, seed))
    return folder


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_given_folder_is_copied_and_never_changed(open_box, own_folder):
    before = state_of(own_folder)
    box = open_box(own_folder)
    assert len(box.album) == 6
    assert box.album.folder.parent == artifacts_dir() / "photos"
    ask(box.cards["red"].gallery, photo=box.album.photos["red"][0].sha256)
    box.cards["green"].title.value = "grass"
    box.cards["red"].delete.click()
    box.cards["red"].confirm.click()
    assert state_of(own_folder) == before
    again = open_box(own_folder)  # goes on with its copy
    assert list(again.cards) == ["grass"]


def test_a_photo_of_a_folder_that_is_edited_in_place_stays_as_it_was_here(open_box, own_folder):
    box = open_box(own_folder)
    kept = Path(box.album.photos["red"][0].path)
    assert kept.stat().st_nlink == 1
    (own_folder / "red" / kept.name).write_bytes(b"scribble")
    assert kept.read_bytes() == photo("red", int(kept.stem))


@pytest.mark.parametrize("wrapped", [False, True], ids=["one class", "in another folder"])
def test_a_folder_with_one_class_or_in_another_folder_is_loaded_too(box, own_folder, wrapped):
    outside = own_folder
    if wrapped:
        outside = own_folder.with_name("unpacked")
        shutil.copytree(own_folder, outside / "shapes")
    else:
        shutil.rmtree(own_folder / "green")
    box.path.value = str(outside)
    box.load.click()
    assert box.wait(60)
    assert box.message.value.startswith('<div role="status">Added ')
    assert list(box.cards) == (["green", "red"] if wrapped else ["red"])
    assert {card._count.value for card in box.cards.values()} == {"3 photos"}


def test_a_folder_can_be_loaded_twice_and_a_folder_of_one_class_too(box, own_folder):
    for said in ("Added 6 photos of", "Added 0 photos of"):
        box.path.value = str(own_folder)
        box.load.click()
        assert box.wait(60)
        assert said in box.message.value
    assert "Left out, because they are here already or cannot be read: 6." in box.message.value
    for seed in range(2):
        (own_folder / f"{seed}.jpg").write_bytes(photo("blue", seed))
    box.load.click()
    assert box.wait(60)
    assert [card._count.value for card in box.cards.values()] == ["3 photos", "3 photos", "2 photos"]
    assert list(box.cards)[2] == "shapes"


@pytest.mark.parametrize("typed", ["", "nowhere", "words"])
def test_a_path_that_is_no_folder_of_photos_is_one_sentence(box, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    box.path.value = typed
    box.load.click()
    assert box.wait(60)
    assert box.message.value.count(ALERT) == 1
    assert "details" not in box.message.value
    assert not box.load.disabled


def test_photos_are_saved_as_a_folder_which_is_never_overwritten(box, tmp_path):
    fill(box, 2)
    box.path.value = str(tmp_path / "new" / "copy")
    box.save.click()
    assert box.wait(60)
    assert "Copied 4 photos to" in box.message.value
    assert (tmp_path / "new" / "copy" / "red" / "red 0.jpg").read_bytes() == photo("red")
    box.save.click()
    assert box.wait(60)
    assert "exists already, and is not overwritten" in box.message.value


def test_the_app_can_hide_the_path_box(open_box):
    def everything(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from everything(child)

    assert box_shows(everything(open_box("shown")))
    hidden = open_box("hidden", path_box=False)
    assert not box_shows(everything(hidden))
    assert [each.comm for each in (hidden.path, hidden.load, hidden.save)] == [None] * 3  # no forged message gets there
    fill(hidden, 2)
    train(hidden)


def box_shows(widgets) -> bool:
    return any(getattr(widget, "description", "") == "Folder" for widget in widgets)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a/b", ".hidden"])
def test_a_box_needs_a_folder_or_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot be a name here"):
        TeachBox(name, recipe=HEAD)


def test_a_recipe_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match="efficientnet-lite0"):
        TeachBox(recipe="baseline")


# --- training ------------------------------------------------------------------------------------------


def test_train_waits_for_two_photos_of_two_classes_and_says_so(box):
    assert box.train.disabled
    fill(box, 2, colors=["red"])
    add_class(box, "green")
    drop(box.cards["green"].upload, "a.jpg", photo("green"))
    assert box.train.disabled
    assert "two classes with at least two photos each" in box._hint.value
    drop(box.cards["green"].upload, "b.jpg", photo("green", 1))
    assert not box.train.disabled
    add_class(box, "blue")
    assert "fewer than two photos: blue." in box._hint.value
    assert not box.train.disabled


def test_features_are_computed_as_photos_arrive(box, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "compute_features", lambda network, pictures, rows: seen.extend(pictures.photos))
    fill(box, 3)
    assert box._looker.wait(60)
    box._changed()
    assert box._looker.wait(60)
    assert sorted(each.sha256 for each in seen) == sorted(
        each.sha256 for photos in box.album.photos.values() for each in photos
    )


def test_a_training_is_judged_tried_corrected_and_kept(box):
    fill(box, 5)
    drop(box.cards["red"].upload, "wrong.jpg", photo("green", 77))
    train(box)
    run = re.search(r"Kept as the run (\S+)\. Load it", box.status.value)[1]
    assert load_model(run).class_names == ("green", "red")
    assert box.model.manifest.dataset.folder == str(box.album.folder)
    assert len(box.evaluation.labels) == 11
    assert "Right on 91% of 11 photos (95% interval" in box.results.value
    assert "red taken for green: 1 of 6 photos." in box.results.value
    assert box.camera.class_names == ["green", "red"]

    wrong, *others = box._weak
    assert wrong[1:] == ("red", "green")
    assert ask(box.weakest, first=0)[0]["photos"][0] == (wrong[0].sha256, "red", "green")
    ask(box.weakest, photo=wrong[0].sha256, move=True)
    assert ask(box.weakest, first=0)[0]["total"] == len(others)
    assert [card._count.value for card in box.cards.values()] == ["5 photos", "6 photos"]
    assert (box.album.folder / "green" / "wrong.jpg").read_bytes() == photo("green", 77)

    assert drop(box.upload, "next.jpg", photo("green", 50)) == ""
    card = box.tried.children[0]
    assert card.prediction.label == card.label.value == "green"
    train(box)
    assert box._hint.value == display.hint("")
    card.teach.click()
    assert "The photos have changed since the last training." in box._hint.value
    assert "Added to green." in card.message.value
    assert box.cards["green"]._count.value == "7 photos"
    card.teach.click()
    assert "next.jpg is in green already." in card.message.value
    train(box)
    assert box.evaluation.accuracy == 1
    assert "taken for" not in box.results.value


def test_a_photo_is_not_lost_when_the_class_it_is_moved_to_has_gone(box):
    fill(box, 2)
    moving = box.album.photos["red"][0]
    box._weak = [(moving, "red", "green")]
    box.cards["green"].delete.click()
    box.cards["green"].confirm.click()
    assert "cannot be written" in ask(box.weakest, photo=moving.sha256, move=True)[0]["error"]
    assert moving in box.album.photos["red"]
    assert files(box) == ["red/red 0.jpg", "red/red 1.jpg"]


def test_photos_can_be_added_while_it_trains(box, monkeypatch):
    fill(box, 3)
    real = module.train_model

    def and_meanwhile(*arguments, **options):
        assert drop(box.cards["red"].upload, "late.jpg", photo("red", 60)) == ""
        assert box.train.disabled
        return real(*arguments, **options)

    monkeypatch.setattr(module, "train_model", and_meanwhile)
    train(box)
    assert len(box.evaluation.labels) == 6
    assert not box.train.disabled


def test_stop_ends_the_training(box, monkeypatch):
    fill(box, 2)
    monkeypatch.setattr(module, "train_model", lambda *_, progress, **__: (box.stop.click(), progress.update("still")))
    train(box)
    assert "Stopped." in box.status.value
    assert box.model is None
    assert not box.train.disabled


def test_an_error_is_shown_in_the_box_which_goes_on(box, monkeypatch):
    fill(box, 2)

    def fail(*_, **__):
        raise ImageError("The sentence.")

    monkeypatch.setattr(module, "train_model", fail)
    box.train.click()
    assert box.wait(60)
    assert "The sentence." in box.message.value
    assert not box.train.disabled


def test_only_the_last_photos_that_were_tried_stay_in_view(box, tiny_model):
    assert drop(box.upload, "early.jpg", photo("red")) == "Train first, then try photos."
    box.model = tiny_model
    for seed in range(8):
        drop(box.upload, f"{seed}.jpg", photo("red", seed))
    assert [card.name for card in box.tried.children] == ["7.jpg", "6.jpg", "5.jpg", "4.jpg", "3.jpg", "2.jpg"]


def test_a_tried_photo_can_go_to_a_class_that_is_added_later(box, tiny_model):
    add_class(box, "red")
    box.model = tiny_model
    assert drop(box.upload, "new.jpg", photo("blue")) == ""
    card = box.tried.children[0]
    assert card.label.value is None  # the model's answer is no class of this box
    card.teach.click()
    assert "Choose a class first." in card.message.value
    add_class(box, "blue")
    card.label.value = "blue"
    add_class(box, "green")
    assert (card.label.value, card.label.options) == ("blue", ("red", "blue", "green"))
    card.teach.click()
    assert files(box) == ["blue/new.jpg"]


def test_a_phone_photo_of_twelve_megapixels_is_taken(box):
    noise = np.random.default_rng(0).integers(0, 120, (3000, 4000, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=80)
    add_class(box, "red")
    assert file.tell() > 3_000_000
    box.cards["red"]._on_photo("IMG_1.jpg", file.getvalue())
    assert box.cards["red"]._count.value == "1 photo"
