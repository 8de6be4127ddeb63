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

    def start(self, key: object = "a", name: object = "photo.jpg", size: object = 10, **more) -> dict | None:
        return self.send({"kind": "start", "id": key, "name": name, "size": size, **more})

    def piece(self, offset: object, content: bytes, key: object = "a") -> dict | None:
        return self.send({"kind": "piece", "id": key, "name": "photo.jpg", "offset": offset}, content)

    def upload(self, content: bytes, key: str = "a", name: str = "photo.jpg") -> dict:
        answer = self.start(key, name, len(content))
        while "offset" in answer:
            answer = self.piece(answer["offset"], content[answer["offset"] :][:PIECE_BYTES], key)
        return answer


@pytest.fixture
def browser():
    return Browser()


def test_a_file_arrives_in_pieces_and_is_handed_over_once(browser):
    content = bytes(range(256)) * 6001  # three pieces and a bit
    assert browser.upload(content) == {"id": "a", "done": True}
    assert browser.photos == [("photo.jpg", content)]
    offsets = [answer["offset"] for answer in browser.answers[:-1]]
    assert offsets == [0, PIECE_BYTES, 2 * PIECE_BYTES, 3 * PIECE_BYTES]


def test_files_are_handed_over_in_their_order_as_bytes(browser):
    for key in "cab":
        browser.upload(key.encode() * 3, key, f"{key}.png")
    assert browser.photos == [("c.png", b"ccc"), ("a.png", b"aaa"), ("b.png", b"bbb")]
    assert all(type(content) is bytes for _, content in browser.photos)


def test_an_empty_file_is_handed_over_at_once(browser):
    assert browser.start(size=0) == {"id": "a", "done": True}
    assert browser.photos == [("photo.jpg", b"")]


def test_a_choice_begins_with_one_call_even_if_its_first_file_is_refused():
    browser = Browser(max_bytes=5)
    assert "at most" in browser.start(size=10, first=True)["error"]
    browser.start("b", size=3)
    assert browser.starts == 1


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (4, b"12345"),  # a piece is missing
        (-1, b"12345"),
        ("0", b"12345"),
        (None, b"12345"),
        (0, b""),
        (0, bytes(11)),  # longer than the file
    ],
)
def test_a_piece_that_does_not_fit_drops_the_file(browser, offset, content):
    browser.start()
    assert browser.piece(offset, content)["error"] == "photo.jpg did not arrive completely: choose it again."
    assert "was interrupted" in browser.piece(0, bytes(10))["error"]
    assert browser.photos == []
    assert browser.upload(b"next")["done"]


def test_pieces_out_of_order_or_sent_twice_drop_the_file(browser):
    browser.start()
    assert browser.piece(0, b"12345")["offset"] == 5
    assert "did not arrive" in browser.piece(0, b"12345")["error"]
    assert browser.photos == []


def test_a_piece_above_the_size_of_pieces_drops_the_file(browser):
    browser.start(size=2 * PIECE_BYTES)
    assert "did not arrive" in browser.piece(0, bytes(PIECE_BYTES + 1))["error"]


@pytest.mark.parametrize("buffers", [(), (b"12345", b"12345")])
def test_a_piece_is_one_buffer(browser, buffers):
    browser.start()
    assert "did not arrive" in browser.send({"kind": "piece", "id": "a", "offset": 0}, *buffers)["error"]


def test_a_piece_that_was_not_announced_is_refused(browser):
    assert "photo.jpg was interrupted: choose it again." in browser.piece(0, b"12345")["error"]


def test_a_cancelled_file_is_dropped_without_an_answer(browser):
    browser.start()
    browser.piece(0, b"12345")
    assert browser.send({"kind": "cancel", "id": "a"}) is None
    assert browser.zone._transfer is None
    assert "was interrupted" in browser.piece(5, b"12345")["error"]
    assert browser.photos == []


def test_a_late_cancel_leaves_the_next_file_alone(browser):
    browser.start("a")
    browser.start("b", size=4)
    browser.send({"kind": "cancel", "id": "a"})
    assert browser.piece(0, b"1234", "b")["done"]


def test_only_the_newest_file_is_in_memory(browser):
    browser.start("a")
    browser.piece(0, b"12345", "a")
    browser.start("b", size=4)  # from a page that was loaded again
    assert "was interrupted" in browser.piece(5, b"12345", "a")["error"]
    assert browser.photos == []


@pytest.mark.parametrize("size", [None, -1, 1.5, "10", True, [10]])
def test_a_file_without_a_proper_size_is_refused(browser, size):
    assert browser.start(size=size)["error"] == "photo.jpg was announced without its size: choose it again."


def test_a_file_above_the_limit_is_refused_before_a_piece_is_sent():
    browser = Browser(max_bytes=1_000_000)
    assert browser.start(size=1_500_000)["error"] == "photo.jpg has 1.5 MB: at most 1 MB can be uploaded."
    assert browser.zone._transfer is None


def test_memory_grows_with_what_arrives_not_with_what_is_announced(browser):
    browser.start(size=200_000_000)
    assert len(browser.zone._transfer.content) == 0


@pytest.mark.parametrize("message", [None, "words", 3, [], {}, {"kind": "dance"}, {"kind": ["start"]}])
def test_a_message_that_is_not_understood_is_answered_in_one_sentence(browser, message):
    assert "not understood" in browser.send(message)["error"]
    assert browser.upload(b"next")["done"]


@pytest.mark.parametrize("key", [None, 3, {}, ["a"]])
def test_a_file_needs_a_key_to_answer_to(browser, key):
    assert "choose it again" in browser.start(key)["error"]


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
    browser.start(name=given, size=0)
    assert browser.photos == [(shown, b"")]


def test_a_photo_that_the_owner_refuses_is_shown_by_its_sentence():
    def refuse(name, content):
        raise ImageError(f"{name} is not a picture.")

    browser = Browser(on_photo=refuse)
    assert browser.upload(b"words") == {"id": "a", "error": "photo.jpg is not a picture."}
    assert browser.zone._transfer is None


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
