"""Pictures: decoded upright, on white and in eight bits, or refused in one sentence; cut, resized and scaled."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from imgclassify import backend
from imgclassify.data import images
from imgclassify.data.images import ImageError, decode_image, prepare_image, scale_pixels, to_bytes

ORIENTATION = 0x0112  # the EXIF tag


def encode(image, file_format, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise(height=40, width=60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def red_above_blue(width=40, height=60) -> Image.Image:
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width, height // 2))
    return image


def png(width, height, bits, rows: bytes) -> bytes:
    """An RGB file written by hand: Pillow writes neither 16 bits per channel nor a wrong size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def bomb(width, height) -> bytes:
    """A hundred bytes that claim to be a picture of this many pixels."""
    return png(width, height, bits=8, rows=b"\0" * 100)


# --- where a picture may come from ---------------------------------------------------------------


def test_paths_bytes_and_files_give_the_same_picture(tmp_path):
    pixels = noise()
    content = encode(Image.fromarray(pixels), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with path.open("rb") as file:
        in_memory = (content, bytearray(content), memoryview(content), io.BytesIO(content))
        for picture in (path, str(path), file, *in_memory):
            image = decode_image(picture)
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), pixels)


def test_a_path_may_start_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Image.fromarray(noise()).save(tmp_path / "photo.png")
    assert decode_image("~/photo.png").size == (60, 40)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(file_format):
    pixels = noise()
    assert np.array_equal(np.asarray(decode_image(encode(Image.fromarray(pixels), file_format))), pixels)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_are_read(file_format):
    image = decode_image(encode(red_above_blue(), file_format, quality=90))
    assert image.size == (40, 60)
    assert np.abs(np.asarray(image)[5, 20].astype(int) - (255, 0, 0)).max() < 25


def test_a_stereo_photo_of_a_phone_is_read_as_jpeg():
    content = encode(red_above_blue(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 60))])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert decode_image(content).size == (40, 60)


@pytest.mark.parametrize("picture", [None, 3, [[1, 2], [3, 4]]])
def test_things_other_than_pictures_are_refused_with_their_type(picture):
    kind = type(picture).__name__
    with pytest.raises(ImageError, match=rf"A picture is a path, bytes, .* or an array\. Received: {kind}"):
        decode_image(picture)


def test_a_file_opened_as_text_is_refused_with_the_remedy():
    with pytest.raises(ImageError, match="opened as text: open it with mode 'rb'"):
        decode_image(io.StringIO("no picture"))


def test_an_image_error_is_a_value_error():
    with pytest.raises(ValueError, match="is empty"):
        decode_image(b"")


# --- upright, on white, in eight bits ---------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_phone_photos_come_out_upright_whatever_their_exif_orientation(file_format, orientation):
    # Stored so that a viewer who follows the tag sees red above blue, with green in the left upper corner.
    upright = red_above_blue(64, 96)
    upright.paste((0, 255, 0), (0, 0, 32, 32))
    turns = Image.Transpose
    undo = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = decode_image(encode(stored, file_format, exif=exif))
    assert image.size == (64, 96)
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for place, color in (((8, 8), green), ((56, 8), red), ((8, 88), blue), ((56, 88), blue)):
        assert np.abs(np.subtract(image.getpixel(place), color)).max() < 40


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_opened_photo_comes_out_upright_and_stays_as_it_was(file_format):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    opened = Image.open(io.BytesIO(encode(red_above_blue(60, 40), file_format, exif=exif)))
    assert opened.getexif()[ORIENTATION] == 6
    decoded = decode_image(opened)
    assert decoded.size == (40, 60)
    assert decoded is not opened
    for _ in range(2):  # the second time, its pixels are in memory
        assert np.array_equal(decode_image(opened), decoded)
    if file_format != "TIFF":  # which Pillow itself turns when it reads the pixels
        assert opened.size == (60, 40)
        assert opened.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparent_pixels_lie_on_white_and_half_transparent_ones_mix(mode):
    alpha = Image.new("L", (3, 1))
    alpha.putdata([0, 128, 255])
    image = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    image.putalpha(alpha)
    if mode != "RGBA":
        image = {
            "LA": lambda: image.convert("LA"),
            "RGBa": lambda: image.convert("RGBa"),
            "PA": lambda: _palette_with_alpha(alpha),
        }[mode]()
    clear, half, solid = (pixel[0] for pixel in np.asarray(decode_image(image))[0].astype(int))
    assert clear == 255
    assert abs(half - 177) <= 2  # 100 * 128/255 + 255 * 127/255
    assert abs(solid - 100) <= 1


def _palette_with_alpha(alpha: Image.Image) -> Image.Image:
    palette = Image.new("L", alpha.size, 100).convert("P")
    image = palette.convert("PA")
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_a_transparent_file_lies_on_white(file_format):
    image = decode_image(encode(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), file_format))
    assert np.asarray(image).min() >= 254


def test_a_palettes_transparent_color_lies_on_white_and_the_others_stay():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    for content in (encode(image, "PNG", transparency=0), encode(image, "GIF", transparency=0)):
        assert np.asarray(decode_image(content))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize(("mode", "color"), [("L", 30), ("RGB", (30, 2, 1))])
def test_a_single_transparent_color_of_a_png_lies_on_white(mode, color):
    content = encode(Image.new(mode, (4, 4), color), "PNG", transparency=color)
    assert np.asarray(decode_image(content)).min() == 255


def test_palettes_become_rgb():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert np.asarray(decode_image(encode(image, "GIF")))[0].tolist() == [[10, 20, 30], [200, 100, 50]]


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_pictures_of_print_become_rgb(file_format):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixel = np.asarray(decode_image(encode(red, file_format)))[8, 8]
    assert pixel[0] > 200
    assert pixel[1:].max() < 60


def test_one_bit_pictures_become_black_and_white():
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    for content in (encode(image, "PNG"), encode(image, "TIFF")):
        assert np.asarray(decode_image(content))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(file_format):
    ramp = np.arange(0, 65536, 257, dtype=np.uint16)[np.newaxis]  # 256 steps from black to white
    image = Image.fromarray(ramp)
    assert image.mode == "I;16"
    grey = np.asarray(decode_image(encode(image, file_format)))
    assert grey[0, :, 0].tolist() == list(range(256))
    assert (grey == grey[..., :1]).all()


def test_sixteen_bit_color_is_scaled():
    content = png(1, 1, bits=16, rows=b"\0" + struct.pack(">HHH", 65535, 32896, 0))
    assert np.asarray(decode_image(content))[0, 0].tolist() == [255, 128, 0]


def test_32_bit_whole_numbers_are_taken_as_8_or_16_bits_by_their_range():
    deep = Image.fromarray(np.array([[0, 32896, 65535]], np.int32))
    flat = Image.fromarray(np.array([[0, 128, 255]], np.int32))
    assert deep.mode == flat.mode == "I"
    for image in (deep, flat, Image.open(io.BytesIO(encode(deep, "TIFF")))):
        assert np.asarray(decode_image(image))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("values", [[0, 0.5, 1], [0, 127.5, 255], [-10, 45, 100], [0, 500, 1000]])
def test_floating_point_pictures_are_scaled_by_their_range(values):
    image = Image.fromarray(np.array([values], np.float32))
    assert image.mode == "F"
    grey = np.asarray(decode_image(encode(image, "TIFF")))[0, :, 0]
    assert grey[0] == 0
    assert grey[1] in (127, 128)
    assert grey[2] == 255


def test_a_floating_point_picture_of_one_value_is_decoded():
    assert decode_image(Image.fromarray(np.full((4, 4), 300, np.float32))).size == (4, 4)


def test_a_floating_point_picture_with_nan_is_refused():
    with pytest.raises(ImageError, match="not finite numbers"):
        decode_image(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(file_format):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert np.asarray(decode_image(content))[8, 8].tolist() == [255, 0, 0]


def test_the_result_shares_no_pixels_with_the_image_passed_in():
    image = Image.fromarray(noise())
    before = image.tobytes()
    ImageDraw.Draw(decode_image(image)).rectangle((0, 0, 60, 40), fill="black")
    assert image.tobytes() == before


def test_a_palette_image_passed_in_keeps_its_mode_and_transparency():
    image = Image.new("P", (4, 4))
    image.info["transparency"] = 0
    decode_image(image)
    assert image.mode == "P"
    assert image.info == {"transparency": 0}


# --- what is refused, and how ------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png does not exist: expected a picture file"):
        decode_image(tmp_path / "gone.png")


@pytest.mark.parametrize("address", ["https://example.org/cat.jpg", "HTTP://example.org/a/b/cat.png?size=2"])
def test_a_web_address_is_named_as_one_with_the_remedy(address):
    with pytest.raises(ImageError, match="is a web address: save the picture as a file and give its path") as raised:
        decode_image(address)
    assert str(raised.value).startswith(address)


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(ImageError, match="is a folder, expected a picture file"):
        decode_image(tmp_path)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg is empty"):
        decode_image(tmp_path / "empty.jpg")


def test_a_text_file_is_refused_with_the_formats_that_are_accepted(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture at all")
    accepted = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are accepted"
    with pytest.raises(ImageError, match=rf"notes\.png is not a picture of a known format: {accepted}"):
        decode_image(path)


def test_formats_that_start_other_programs_are_not_opened():
    # Pillow would hand PostScript to Ghostscript.
    with pytest.raises(ImageError, match="not a picture of a known format"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


def test_a_path_with_a_null_character_is_refused():
    with pytest.raises(ImageError, match="cannot be read"):
        decode_image("a\0b.png")


@pytest.mark.parametrize("file_name", ["photo.heic", "photo.jpg"])
def test_a_heic_photo_is_recognised_whatever_its_name(tmp_path, monkeypatch, file_name):
    path = tmp_path / file_name
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"\0" * 100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=f"{file_name} is a HEIC photo: .* `pip install pillow-heif`, or export it"):
        decode_image(path)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.9])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF"])
def test_a_file_cut_off_anywhere_is_an_image_error(file_format, share):
    content = encode(Image.fromarray(noise()), file_format)
    with pytest.raises(ImageError, match=r"^cut is (damaged or cut off|not a picture of a known format)"):
        decode_image(content[: int(len(content) * share)], name="cut")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_half_a_photo_is_refused_as_damaged(file_format):
    content = encode(Image.fromarray(noise()), file_format)
    half = content[: len(content) // 2]
    with pytest.raises(ImageError, match=r"half\.bin is damaged or cut off"):
        decode_image(half, name="half.bin")


def test_half_a_photo_opened_by_the_caller_is_refused_as_damaged():
    content = encode(Image.fromarray(noise()), "PNG")
    opened = Image.open(io.BytesIO(content[: len(content) // 2]))
    with pytest.raises(ImageError, match="The image is damaged or cut off"):
        decode_image(opened)


REAL_FILES = {
    file_format: encode(Image.fromarray(noise()), file_format)
    for file_format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
}
SIGNATURES = [b"", *(content[:count] for content in REAL_FILES.values() for count in (4, 16, 64))]


def outcome(content: bytes) -> str:
    """What happens to a file: "decoded" or "refused"; anything else is an error."""
    try:
        image = decode_image(content, name="some.bin")
    except ImageError as error:
        return "refused" if str(error).startswith("some.bin ") else str(error)
    assert image.mode == "RGB"
    assert len(image.tobytes()) == image.width * image.height * 3
    return "decoded"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(start=st.sampled_from(SIGNATURES), rest=st.binary(max_size=300))
def test_random_bytes_are_decoded_or_refused(start, rest):
    assert outcome(start + rest) in ("decoded", "refused")


@pytest.mark.parametrize("file_format", REAL_FILES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    in_head=st.booleans(),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_changed_and_cut_file_is_decoded_or_refused(file_format, changes, in_head, kept):
    content = bytearray(REAL_FILES[file_format])
    reach = min(len(content), 200) if in_head else len(content)
    for place, byte in changes:
        content[int(place * reach)] = byte
    assert outcome(bytes(content[: int(len(content) * kept)])) in ("decoded", "refused")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_of_files_with_changed_bytes_some_are_refused(file_format):
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(REAL_FILES[file_format])
        for place in random.integers(0, min(len(damaged), 200), 3):
            damaged[place] = random.integers(256)
        outcomes.add(outcome(bytes(damaged)))
    assert "refused" in outcomes
    assert outcomes <= {"decoded", "refused"}


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (20_000, 20_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header(width, height):
    content = bomb(width, height)
    assert len(content) < 200
    with pytest.raises(ImageError, match=r"bomb\.png has too many pixels: at most 80 million"):
        decode_image(content, name="bomb.png")


def test_a_bomb_opened_by_the_caller_is_refused_before_it_is_decoded():
    opened = Image.open(io.BytesIO(bomb(9200, 9200)))
    with pytest.raises(ImageError, match="too many pixels"):
        decode_image(opened)


class Endless:
    """An endless file that records how much of it was read."""

    name = "endless.png"

    def __init__(self):
        self.read_bytes = 0

    def read(self, count=None):
        assert count is not None, "all of an endless file was asked for"
        self.read_bytes += count
        return bytes(count)


def test_a_file_above_the_cap_is_refused_unread(tmp_path):
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.write(bomb(100, 100))
    os.truncate(path, images.MAX_BYTES + 1)  # takes no space on disk
    with pytest.raises(ImageError, match=r"big\.png is too large: at most 200 MB"):
        decode_image(path)
    assert peak_memory("decode_image", path) < 20_000_000


def test_bytes_and_open_files_above_the_cap_are_refused(monkeypatch):
    content = encode(Image.fromarray(noise()), "PNG")
    monkeypatch.setattr(images, "MAX_BYTES", len(content) - 1)
    for picture in (content, io.BytesIO(content)):
        with pytest.raises(ImageError, match=r"is too large: at most .* MB"):
            decode_image(picture)
    endless = Endless()
    with pytest.raises(ImageError, match=r"endless\.png is too large: at most .* MB"):
        decode_image(endless)
    assert endless.read_bytes == len(content)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ImageError, match="has no pixels: its size is 0 x 4"):
        decode_image(Image.new("RGB", (0, 4)))


# --- arrays ------------------------------------------------------------------------------------------


def test_every_accepted_type_of_array_gives_the_same_picture():
    pixels = noise()
    floats = [pixels.astype(dtype) / 255 for dtype in (np.float32, np.float64)]
    for array in (pixels, *floats, pixels.astype(np.uint16) * 257):
        assert np.array_equal(np.asarray(decode_image(array)), pixels)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_grey_and_rgb_arrays_are_accepted(shape):
    image = decode_image(np.full(shape, 77, np.uint8))
    assert image.size == (5, 4)
    assert set(np.asarray(image).ravel()) == {77}


def test_rgba_arrays_lie_on_white():
    array = np.zeros((2, 2, 4), np.uint8)
    array[0, :, 3] = 255
    rows = np.asarray(decode_image(array))
    assert rows[0].max() == 0
    assert rows[1].min() == 255


def test_boolean_arrays_are_black_and_white():
    assert np.asarray(decode_image(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]


def test_an_array_passed_in_is_not_modified():
    array = noise().astype(np.float32) / 255
    before = array.copy()
    prepare_image(decode_image(array))
    assert np.array_equal(array, before)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4, 3), (4, 5, 2), (4, 5, 5), (0, 5, 3), ()])
def test_arrays_of_other_shapes_are_refused_with_their_shape(shape):
    with pytest.raises(ImageError, match=r"must have the shape \(H, W\), .* Received: \(") as caught:
        decode_image(np.zeros(shape, np.uint8))
    assert str(caught.value).endswith(str(shape))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint32, complex, object])
def test_arrays_of_other_types_are_refused_with_their_type(dtype):
    with pytest.raises(ImageError, match=r"must be uint8, uint16, bool or float in \[0, 1\]\. Received: "):
        decode_image(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize("value", [255.0, -0.01, np.nan, np.inf])
def test_float_arrays_out_of_range_are_refused_with_their_range(value):
    array = np.zeros((4, 4, 3), np.float32)
    array[0, 0, 0] = value
    with pytest.raises(ImageError, match=r"of float32 must lie in \[0, 1\] \(uint8: 0 to 255\)\. Received: "):
        decode_image(array)


# --- memory ------------------------------------------------------------------------------------------

MEASURE = """
import sys
from imgclassify.data.images import ImageError, decode_image, prepare_image

def resident(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

before = resident("VmRSS")
try:
    {call}(sys.argv[1]) if {call} is decode_image else prepare_image(decode_image(sys.argv[1]))
except ImageError:
    pass
print(resident("VmHWM") - before)
"""


def peak_memory(call: str, path: Path) -> int:
    """The peak growth, in bytes, of a separate process that decodes, or decodes and prepares, a picture."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process's memory is only known on Linux")
    command = [sys.executable, "-c", MEASURE.replace("{call}", call), str(path)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.parametrize("call", ["decode_image", "prepare_image"])
def test_the_pixels_of_a_file_are_in_memory_once(tmp_path, call):
    width, height = 5000, 4000
    path = tmp_path / "big.png"
    Image.new("RGB", (width, height), "navy").save(path, compress_level=1)
    pixels = width * height * 4  # Pillow keeps RGB in four bytes
    assert pixels < peak_memory(call, path) < 1.3 * pixels


def test_a_large_jpeg_never_takes_its_full_size(tmp_path):
    path = tmp_path / "big.jpg"
    Image.new("RGB", (6000, 4000), "navy").save(path)
    assert peak_memory("decode_image", path) < 6000 * 4000


# --- cutting and resizing ---------------------------------------------------------------------------------------


def test_a_large_jpeg_is_decoded_reduced_and_looks_as_if_decoded_in_full():
    across, down = np.meshgrid(np.linspace(0, 1, 2400), np.linspace(0, 1, 1600))
    photo = np.stack([across, down, (np.sin(9 * across) * np.cos(7 * down) + 1) / 2], axis=-1)
    image = Image.fromarray((photo * 255).astype(np.uint8))
    reduced = decode_image(encode(image, "JPEG", quality=95))
    assert reduced.size == (1200, 800)  # half the scale; a quarter would fall below 512
    difference = prepare_image(reduced).astype(int) - prepare_image(image).astype(int)
    assert np.abs(difference).max() <= 6


def test_a_small_jpeg_is_decoded_in_full():
    assert decode_image(encode(Image.fromarray(noise(600, 700)), "JPEG")).size == (700, 600)


def test_prepare_image_gives_one_picture_of_bytes():
    picture = prepare_image(decode_image(noise(300, 200)))
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8


def test_white_stays_white_and_black_stays_black():
    assert prepare_image(Image.new("RGB", (50, 50), "white")).min() == 255
    assert prepare_image(Image.new("RGB", (50, 50), "black")).max() == 0


def test_a_picture_of_the_models_size_passes_pixel_for_pixel():
    pixels = noise(32, 32)
    assert np.array_equal(prepare_image(decode_image(encode(Image.fromarray(pixels), "PNG"))), pixels)
    assert np.array_equal(prepare_image(decode_image(pixels)), pixels)


def test_grey_images_of_the_caller_are_prepared_in_rgb():
    assert prepare_image(Image.new("L", (8, 8), 99), size=4).tolist() == [[[99] * 3] * 4] * 4


def test_preparing_leaves_the_image_as_it_was():
    image = Image.fromarray(noise())
    before = image.tobytes()
    prepare_image(image, crop=0.5)
    assert image.tobytes() == before


@pytest.mark.parametrize("size", [(96, 32), (32, 96), (960, 320), (320, 960)])
def test_the_central_square_is_kept(size):
    width, height = size
    image = Image.new("RGB", size, "red")
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    image.paste("lime", (left, top, left + side, top + side))
    square = prepare_image(image)
    assert square.shape == (32, 32, 3)
    assert (square[4:-4, 4:-4] == (0, 255, 0)).all()
    assert square[..., 0].max() < 40  # no red, except for ringing at the very edge


def test_shrinking_averages_fine_stripes_to_grey():
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(prepare_image(Image.fromarray(stripes)).astype(int) - 128).max() <= 4


def test_small_pictures_are_enlarged():
    assert prepare_image(Image.new("RGB", (5, 9), "navy")).shape == (32, 32, 3)
    assert prepare_image(Image.new("RGB", (1, 5000), "navy"), size=48).shape == (48, 48, 3)


@pytest.mark.parametrize("size", [(64, 64), (64, 160), (160, 64)])
@pytest.mark.parametrize("crop", [1.0, 0.75, 0.5, 0.25])
def test_crop_keeps_that_share_of_the_central_square(size, crop):
    pixels = noise(*size[::-1])
    side = int(64 * crop)
    left, top = ((length - side) // 2 for length in size)
    expected = pixels[top : top + side, left : left + side]
    assert np.array_equal(prepare_image(Image.fromarray(pixels), size=side, crop=crop), expected)


def test_a_cropped_square_is_resized_to_the_size_asked_for():
    image = Image.new("RGB", (200, 100), "red")
    image.paste("lime", (75, 25, 125, 75))  # the central half
    square = prepare_image(image, size=20, crop=0.5)
    assert square.shape == (20, 20, 3)
    assert (square[4:-4, 4:-4] == (0, 255, 0)).all()


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match=rf"size must be at least 1 pixel\. Received: size={size}"):
        prepare_image(Image.new("RGB", (4, 4)), size=size)


@pytest.mark.parametrize("crop", [0, -0.5, 1.01, float("nan")])
def test_a_crop_out_of_range_is_refused(crop):
    with pytest.raises(ValueError, match=rf"crop must be above 0 and at most 1\. Received: crop={crop}"):
        prepare_image(Image.new("RGB", (4, 4)), crop=crop)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    crop=st.floats(0, 1, exclude_min=True),
)
def test_any_picture_is_prepared_to_any_size_with_any_crop(width, height, size, crop):
    picture = prepare_image(Image.new("RGB", (width, height), (10, 20, 30)), size=size, crop=crop)
    assert picture.shape == (size, size, 3)
    assert (picture == (10, 20, 30)).all()


# --- the scale of pixels -----------------------------------------------------------------------------

EVERY_BYTE = np.arange(256, dtype=np.uint8)


def test_bytes_are_scaled_to_0_to_1_in_float32():
    scaled = scale_pixels(EVERY_BYTE)
    assert scaled.dtype == np.float32
    assert np.array_equal(scaled, np.float32(EVERY_BYTE / 255))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_keep_their_values(dtype):
    x = np.array([[0, 0.25, 1.0]], dtype)
    tensor = scale_pixels(backend.tensorflow().constant(x))
    assert scale_pixels(x).dtype == tensor.numpy().dtype == np.float32
    assert np.array_equal(scale_pixels(x), x)
    assert np.array_equal(tensor, x)


def test_arrays_and_tensors_are_scaled_alike_bit_for_bit():
    tf = backend.tensorflow()
    compiled = tf.function(scale_pixels, autograph=False)
    for scaled in (scale_pixels(tf.constant(EVERY_BYTE)), compiled(tf.constant(EVERY_BYTE))):
        assert tf.is_tensor(scaled)
        assert np.array_equal(scaled, scale_pixels(EVERY_BYTE))


def test_every_byte_comes_back_from_its_scaled_value():
    assert np.array_equal(to_bytes(scale_pixels(EVERY_BYTE)), EVERY_BYTE)
    assert to_bytes(EVERY_BYTE) is EVERY_BYTE


# --- HEIC --------------------------------------------------------------------------------------------


@pytest.fixture
def heic(tmp_path) -> Path:
    """A HEIC photo, 300 x 200 pixels, red on the left and blue on the right, that is to be turned upright."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="no pillow-heif: no HEIC photo is read")
    image = Image.new("RGB", (300, 200), "red")
    image.paste("blue", (150, 0, 300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pillow_heif.from_pillow(image).save(tmp_path / "photo.heic", quality=90, exif=exif.tobytes())
    return tmp_path / "photo.heic"


def test_heic_photos_are_read_upright(heic):
    image = decode_image(heic)
    assert (image.mode, image.size) == ("RGB", (200, 300))
    np.testing.assert_allclose(np.asarray(image)[[20, 280], 100], [[254, 0, 0], [0, 0, 254]], atol=12)
    np.testing.assert_array_equal(np.asarray(decode_image(heic.read_bytes())), np.asarray(image))


def test_heic_photos_with_too_many_pixels_are_refused(heic, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 59_999)
    with pytest.raises(ImageError, match=r"photo\.heic has too many pixels"):
        decode_image(heic)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_heic_photos_that_are_cut_off_are_refused(heic, share):
    content = heic.read_bytes()
    heic.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match=r"photo\.heic is (damaged or cut off|not a picture)"):
        decode_image(heic)


# --- the size to which a picture is reduced ------------------------------------------------------------


def test_a_large_jpeg_keeps_the_pixels_that_the_size_needs():
    file = io.BytesIO()
    Image.new("RGB", (4800, 3600)).save(file, "JPEG")
    sides = {size: decode_image(file.getvalue(), size=size).size for size in (32, 224, 512, 900, 1000)}
    assert sides == {32: (1200, 900), 224: (1200, 900), 512: (1200, 900), 900: (1200, 900), 1000: (2400, 1800)}
    assert decode_image(file.getvalue()).size == sides[224]
    assert decode_image(file.getvalue()).info["full_size"] == (4800, 3600)
