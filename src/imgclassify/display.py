"""Display: the palette of figures, and HTML for notebooks and the app, whose colours, in `style.css`, follow themes."""

import base64
import functools
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageOps

from imgclassify.settings import PACKAGE

BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#9db4c0"
_OVERLAY = 224  # pixels, to which a smaller picture is enlarged by a whole factor


@functools.cache
def style_sheet() -> str:
    """The package's CSS as a `<style>` element, to put before HTML that uses its classes."""
    return f"<style>{(PACKAGE / 'style.css').read_text(encoding='utf-8')}</style>"


def fragment(*parts: str) -> str:
    """HTML for a notebook: with the style sheet, inside the element that its classes need."""
    return f'{style_sheet()}<div class="imgclassify">{"".join(parts)}</div>'


def escape(text: object) -> str:
    """Text with the special characters of HTML escaped: "&lt;" for "<"."""
    return html.escape(str(text))


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture file as a `data:` URI; `kind` is its format, such as "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(image: np.ndarray | Image.Image) -> str:
    """A picture, uint8 (H, W, 3) or a Pillow image, as the `data:` URI of a PNG."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format="PNG")
    return data_uri(file.getvalue())


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A picture as JPEG, shrunk to fit a square of `side` pixels; small ones are enlarged by a whole factor."""
    times, file = side // max(image.size), io.BytesIO()
    small = ImageOps.scale(image, times, Image.Resampling.NEAREST) if times else ImageOps.contain(image, (side, side))
    small.save(file, format="JPEG", quality=85)
    return file.getvalue()


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture in grey, under the cells of a heat map in orange; uint8 (S, S, 3), small ones enlarged.

    Args:
        image: uint8 (H, W, 3).
        heat: From 0 to 1, (h, w).
    """
    height, width = image.shape[:2]
    times = max(1, _OVERLAY // max(height, width))
    size = (width * times, height * times)
    grey = ImageOps.grayscale(Image.fromarray(image)).convert("RGB").resize(size, Image.Resampling.NEAREST)
    high = max(np.quantile(heat, 0.99), heat.max() / 5) or 1  # a single bright cell leaves the others visible
    strength = Image.fromarray(np.uint8(np.minimum(heat / high, 1) * 190)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(Image.composite(Image.new("RGB", size, ORANGE), grey, strength))


def message(sentence: str, details: str = "") -> str:
    """A sentence that says what went wrong, with details that can be unfolded."""
    fold = f"<details><summary>details</summary><pre>{escape(details)}</pre></details>" if details else ""
    return f'<div class="error" role="alert">{escape(sentence)}{fold}</div>'


def hint(sentence: str) -> str:
    """A sentence in a quieter colour."""
    return f'<span class="hint">{escape(sentence)}</span>'


def bars(shares: Iterable[tuple[str, float]], *, highlighted: bool = True) -> str:
    """Labels with their shares, 0 to 1, as bars; the first is highlighted unless that is False."""
    rows = (
        f'<span class="label">{escape(label)}</span>'
        f'<span class="track"><span class="bar" style="width:{100 * share:.1f}%"></span></span>'
        f'<span class="percent">{share:.1%}</span>'
        for label, share in shares
    )
    return f'<div class="bars{"" if highlighted else " plain"}">{"".join(rows)}</div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], shades: Sequence[Sequence[float]] | None = None
) -> str:
    """A table; the names in its header may break at underscores, which keeps it narrow.

    With `shades`, the background of each cell has that strength, 0 to 1.
    """
    names = "".join(f"<th>{escape(name).replace('_', '_<wbr>')}</th>" for name in head)
    looks = [[f' style="--shade-of:{100 * each:.0f}%"' for each in row] for row in shades or ()]
    looks = looks or [[""] * len(row) for row in rows]
    body = "".join(
        "<tr>" + "".join(f"<td{look}>{escape(cell)}</td>" for cell, look in zip(row, line, strict=True)) + "</tr>"
        for row, line in zip(rows, looks, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'
