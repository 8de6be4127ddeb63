"""The drop zone without a browser: pieces in, files out, whatever the messages are."""

from importlib import resources

import pytest

pytest.importorskip("anywidget", reason="anywidget is not installed: pip install -e '.[notebooks]'")

from imgclassify.data.images import ImageError
from imgclassify.widgets.dropzone import PIECE_BYTES, DropZone, clean_name


class Browser:
    """A drop zone, and what its part in the browser sends and receives."""

    def __init__(self, **options):
        self.photos, self.starts, self.answers = [], 0, []
        self.zone = DropZone(options.pop("on_photo", self.keep), on_start=self.count, **options)
        self.zone.send = self.answers.append

    def keep(self, name: str, content: bytes) -> None:
        self.photos.append((name, content))

    def count(self) -> None:
        self.starts += 1

    def send(self, message, *buffers: bytes) -> dict | None:
        """The answer to a message."""
        before = len(self.answers)
        self.zone._handle_custom_msg(message, [memoryview(buffer) for buffer in buffers])
        return self.answers[-1] if len(self.answers) > before else None

    def piece(self, offset: object, content: bytes, key: object = "a", size: object = 10, **more) -> dict | None:
        return self.send({"id": key, "name": "photo.jpg", "size": size, "offset": offset, **more}, content)

    def upload(self, content: bytes, key: str = "a", name: str = "photo.jpg") -> dict:
        answer: dict = {"offset": 0}
        while "offset" in answer:
            offset = answer["offset"]
            answer = self.piece(offset, content[offset:][:PIECE_BYTES], key, len(content), name=name)
        return answer


@pytest.fixture
def browser():
    return Browser()


def test_a_file_arrives_in_pieces_and_is_handed_over_once(browser):
    content = bytes(range(256)) * 6001  # three pieces and a bit
    assert browser.upload(content) == {"id": "a", "done": True}
    assert browser.photos == [("photo.jpg", content)]
    offsets = [answer["offset"] for answer in browser.answers[:-1]]
    assert offsets == [PIECE_BYTES, 2 * PIECE_BYTES, 3 * PIECE_BYTES]


def test_files_are_handed_over_in_their_order_as_bytes(browser):
    for key in "cab":
        browser.upload(key.encode() * 3, key, f"{key}.png")
    assert browser.photos == [("c.png", b"ccc"), ("a.png", b"aaa"), ("b.png", b"bbb")]
    assert all(type(content) is bytes for _, content in browser.photos)


def test_an_empty_file_is_handed_over_too(browser):
    assert browser.upload(b"") == {"id": "a", "done": True}
    assert browser.photos == [("photo.jpg", b"")]


def test_a_choice_begins_with_one_call_even_if_its_first_file_is_refused():
    browser = Browser(max_bytes=5)
    assert "at most" in browser.piece(0, bytes(10), first=True)["error"]
    assert browser.piece(0, b"123", "b", 3)["done"]
    assert browser.starts == 1


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (PIECE_BYTES + 1, b"12345"),  # a piece is missing
        (-1, b"12345"),
        ("0", b"12345"),
        (None, b"12345"),
        (PIECE_BYTES, b""),
        (PIECE_BYTES, bytes(6)),  # longer than the file
    ],
)
def test_a_piece_that_does_not_fit_drops_the_file(browser, offset, content):
    size = PIECE_BYTES + 5
    assert browser.piece(0, bytes(PIECE_BYTES), size=size)["offset"] == PIECE_BYTES
    assert browser.piece(offset, content, size=size)["error"].startswith("photo.jpg ")
    assert "did not arrive completely" in browser.piece(PIECE_BYTES, bytes(5), size=size)["error"]
    assert browser.photos == []
    assert len(browser.zone._content) == 0
    assert browser.upload(b"next")["done"]


def test_a_piece_above_the_size_of_pieces_drops_the_file(browser):
    assert "did not arrive" in browser.piece(0, bytes(PIECE_BYTES + 1), size=2 * PIECE_BYTES)["error"]


def test_a_cancelled_file_is_dropped_without_an_answer(browser):
    browser.piece(0, bytes(PIECE_BYTES), size=PIECE_BYTES + 5)
    assert browser.send({"id": "a", "cancel": True}) is None
    assert len(browser.zone._content) == 0
    assert "did not arrive" in browser.piece(PIECE_BYTES, b"12345", size=PIECE_BYTES + 5)["error"]
    assert browser.photos == []


def test_a_late_cancel_leaves_the_next_file_alone(browser):
    browser.piece(0, bytes(PIECE_BYTES), "a", PIECE_BYTES + 5)
    browser.piece(0, bytes(PIECE_BYTES), "b", PIECE_BYTES + 5)
    browser.send({"id": "a", "cancel": True})
    assert browser.piece(PIECE_BYTES, b"12345", "b", PIECE_BYTES + 5)["done"]


def test_only_the_newest_file_is_in_memory(browser):
    browser.piece(0, bytes(PIECE_BYTES), "a", PIECE_BYTES + 5)
    assert browser.upload(b"from a page that was loaded again", "b")["done"]
    assert "did not arrive" in browser.piece(PIECE_BYTES, b"12345", "a", PIECE_BYTES + 5)["error"]
    assert len(browser.photos) == 1


def test_a_file_above_the_limit_is_refused_with_its_first_piece():
    browser = Browser(max_bytes=1_000_000)
    answer = browser.piece(0, bytes(PIECE_BYTES), size=1_500_000)
    assert answer["error"] == "photo.jpg has 1.5 MB: at most 1 MB can be uploaded."
    assert len(browser.zone._content) == 0


@pytest.mark.parametrize(
    "message",
    [
        *(None, "words", 3, [], {}, {"id": ["a"]}, {"offset": 0}, {"size": 3}),
        *({"offset": 0, "size": size} for size in (None, -1, "10", [10])),
    ],
)
def test_a_message_that_makes_no_sense_is_answered_in_one_sentence(browser, message):
    assert browser.send(message)["error"].startswith("The file ")
    assert browser.photos == []
    assert browser.upload(b"next")["done"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("two\nlines\x00.png", "two lines .png"),
        ("gpj.\u202etac.exe", "gpj. tac.exe"),  # would be shown from right to left
        ("folder/", "folder"),
        ("Größe 猫.png", "Größe 猫.png"),
        ("x" * 5000, "x" * 200),
        ("", "The file"),
        (None, "The file"),
        (" / ", "The file"),
        (["a"], "['a']"),
    ],
)
def test_a_name_is_made_safe_to_show(browser, given, shown):
    assert clean_name(given) == shown
    browser.upload(b"", name=given)
    assert browser.photos == [(shown, b"")]


def test_a_photo_that_the_owner_refuses_is_shown_by_its_sentence():
    def refuse(name, content):
        raise ImageError(f"{name} is not a picture.")

    browser = Browser(on_photo=refuse)
    assert browser.upload(b"words") == {"id": "a", "error": "photo.jpg is not a picture."}
    assert len(browser.zone._content) == 0


def test_an_unforeseen_error_of_the_owner_is_shown_too():
    def broken(name, content):
        raise RuntimeError("out of paper")

    browser = Browser(on_photo=broken)
    assert browser.upload(b"words")["error"] == "photo.jpg could not be used (RuntimeError: out of paper)."


@pytest.mark.parametrize("name", ["dropzone.js", "dropzone.css", "crop.js", "crop.css"])
def test_script_and_style_are_shipped_and_fetch_nothing(name):
    text = resources.files("imgclassify.widgets").joinpath(name).read_text(encoding="utf-8")
    assert "import " not in text
    assert "//cdn" not in text
    assert "url(" not in text
