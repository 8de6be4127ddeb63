import base64
import html.parser
import io

import numpy as np
import pytest
from PIL import Image

from imgclassify import display


class Elements(html.parser.HTMLParser):
    """Reads HTML and fails where it is not well formed; keeps the text and the number of each element."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.count, self.text = [], {}, ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ("img", "wbr", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


NASTY = "<b>\"Tom\" & 'Jerry'</b><script>alert(1)</script>"


@pytest.mark.parametrize(
    "page",
    [
        display.message(NASTY, NASTY),
        display.hint(NASTY),
        display.bars([(NASTY, 0.5)]),
        display.table([NASTY], [[NASTY]]),
        display.escape(NASTY),
    ],
    ids=["message", "hint", "bars", "table", "escape"],
)
def test_text_is_escaped_and_shown_as_it_is(page):
    elements = Elements(page)
    assert "script" not in elements.count
    assert "b" not in elements.count
    assert NASTY in elements.text


def test_a_fragment_brings_its_style_sheet():
    page = display.fragment("<p>one</p>", "<p>two</p>")
    assert Elements(page).count == {"style": 1, "div": 1, "p": 2}
    assert page.startswith(display.style_sheet())
    assert ".imgclassify" in display.style_sheet()
    assert page.endswith('<div class="imgclassify"><p>one</p><p>two</p></div>')


def test_a_message_is_an_alert_and_unfolds_its_details():
    assert "details" not in Elements(display.message("It went wrong.")).count
    page = display.message("It went wrong.", "line 1")
    assert 'role="alert"' in page
    assert Elements(page).text == "It went wrong.detailsline 1"


def test_bars_are_as_long_as_their_shares():
    page = display.bars([("cat", 0.875), ("dog", 0.1)])
    assert page.index(">cat<") < page.index("width:87.5%") < page.index(">87.5%<") < page.index(">dog<")
    assert "width:10.0%" in page


def test_a_table_has_a_head_and_its_names_break_at_underscores():
    page = display.table(["val_accuracy", "n"], [["50 %", 1], ["60 %", 2]])
    assert Elements(page).count["tr"] == 3
    assert Elements(page).count["td"] == 4
    assert "val_<wbr>accuracy" in page


@pytest.mark.parametrize("kind", ["array", "image"])
def test_a_picture_becomes_a_png_pixel_for_pixel(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    uri = display.picture_uri(pixels if kind == "array" else Image.fromarray(pixels))
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), pixels)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((400, 200), (100, 50)),
        ((200, 400), (50, 100)),
        ((32, 32), (96, 96)),
        ((100, 100), (100, 100)),
        ((60, 30), (60, 30)),
    ],
)
def test_a_thumbnail_fits_and_small_pictures_are_enlarged_in_whole_pixels(size, shown):
    picture = Image.new("RGB", size, "red")
    thumbnail = Image.open(io.BytesIO(display.thumbnail(picture, 100)))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", shown)
    assert picture.size == size
