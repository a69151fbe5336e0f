"""A picture becomes a small one, without what it should not tell; a hostile one becomes an error."""

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demos.uploads import thumbnail
from demos.uploads.errors import FileError
from demos.uploads.tests.conftest import picture

ORIENTATION, GPS = 0x0112, 0x8825


@pytest.fixture
def small(tmp_path):
    """The thumbnail, and the sentence about the picture."""

    def make(content):
        source, target = tmp_path / "picture", io.BytesIO()
        source.write_bytes(content)
        sentence = thumbnail.make_thumbnail(source, target, lambda done, note: None)
        return Image.open(target), sentence

    return make


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_every_format_becomes_a_png_of_at_most_512_pixels(small, kind):
    image, sentence = small(picture((1200, 800), kind))

    assert (image.format, image.size) == ("PNG", (512, 341))
    assert sentence.startswith(f"{kind}, 1200 by 800 pixels; the thumbnail has 512 by 341")


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("JPEG", "CMYK"), ("GIF", "P")]
)
def test_every_kind_of_colour_is_drawn(small, kind, mode):
    assert small(picture((600, 600), kind, mode))[0].size == (512, 512)


def test_what_can_be_seen_through_stays_so(small):
    image, _ = small(picture((600, 600), "PNG", "RGBA"))

    assert image.getpixel((0, 0)) == (0, 0, 0, 0)


def test_the_place_and_everything_else_the_camera_wrote_is_dropped(small):
    exif = Image.Exif()
    exif[0x010F], exif[GPS] = "SECRET camera", {2: (52.0, 31.0, 0.0)}
    info = PngInfo()
    info.add_text("Author", "SECRET name")
    sources = [
        picture(exif=exif, comment=b"SECRET comment", xmp=b"<x>SECRET</x>", icc_profile=b"SECRET profile"),
        picture(kind="PNG", exif=exif, pnginfo=info, icc_profile=b"SECRET profile"),
        picture(kind="WEBP", exif=exif, xmp=b"<x>SECRET</x>"),
    ]
    for source in sources:
        assert Image.open(io.BytesIO(source)).getexif().get_ifd(GPS)
        image, _ = small(source)
        assert b"SECRET" not in image.fp.getvalue()
        assert not image.getexif()
        assert not image.info


def test_a_picture_taken_upright_stays_upright(small):
    exif = Image.Exif()
    exif[ORIENTATION] = 6

    assert small(picture((1200, 600), exif=exif))[0].size == (256, 512)


def bomb(width, height):
    """A PNG of a few bytes that says it has this many pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7_100, 9_500, 14_000, 60_000], ids=["ours", "a warning", "an error", "Pillow's"])
def test_a_bomb_is_refused_before_it_unpacks(small, side):
    with pytest.raises(FileError, match="unpacks to more than 50 million pixels"):
        small(bomb(side, side))


@pytest.mark.parametrize(
    "content",
    [
        picture()[:3000],
        picture(kind="PNG", size=(3000, 3000))[:-40],
        b"\x89PNG\r\n\x1a\n" + b"nonsense" * 10,
        b"GIF89a",
        picture(kind="TIFF"),
        bomb(600, 600),
    ],
    ids=["half a JPEG", "PNG without end", "nonsense", "only a name", "TIFF", "too few pixels"],
)
def test_a_damaged_picture_is_told_as_one(small, content):
    with pytest.raises(FileError, match="This picture is damaged"):
        small(content)


def test_a_disk_that_fails_is_no_damaged_picture(tmp_path):
    with pytest.raises(FileNotFoundError):
        thumbnail.make_thumbnail(tmp_path / "missing", io.BytesIO(), lambda done, note: None)
