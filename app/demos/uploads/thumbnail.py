"""A small picture of a large one, without what the camera wrote beside it."""

from pathlib import Path
from typing import IO

from celery.exceptions import SoftTimeLimitExceeded
from PIL import Image, ImageOps

from demos.uploads.errors import FileError
from demos.uploads.summary import Report

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
SIZE = (512, 512)
# A few kilobytes can unpack to gigabytes. Pillow only warns from 89 million pixels on; a worker's child has
# memory for these.
MAX_PIXELS = 50_000_000
TOO_MANY_PIXELS = f"This picture unpacks to more than {MAX_PIXELS // 1_000_000} million pixels. Make it smaller."


def make_thumbnail(source: Path, target: IO[bytes], report: Report) -> str:
    """Write a PNG of at most 512 by 512 pixels to ``target``; return what the picture is in one sentence."""
    report(0, "looking at the picture")
    with source.open("rb") as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise FileError(TOO_MANY_PIXELS)
                about = f"{image.format}, {image.width} by {image.height} pixels"
                image.verify()  # after this it has to be opened again
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                small = shrink(image)
        except Image.DecompressionBombError:
            raise FileError(TOO_MANY_PIXELS) from None
        except (FileError, SoftTimeLimitExceeded):
            raise
        except Exception as error:  # of many types; a damaged picture is an OSError, too, but no system's
            if isinstance(error, OSError) and error.errno:
                raise
            raise FileError(f"This picture is damaged ({error}). Export it again.") from error
    small.save(target, "PNG")
    return f"{about}; the thumbnail has {small.width} by {small.height}, and no place, camera or date in it"


def shrink(image: Image.Image) -> Image.Image:
    image.draft("RGB", SIZE)
    if image.mode in {"P", "PA", "CMYK", "LA", "1"} or image.mode.startswith("I"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail(SIZE)
    image = ImageOps.exif_transpose(image)  # the way up is in the EXIF, too
    # Only pixels are copied: EXIF with its GPS position, XMP, comments and colour profiles stay behind.
    clean = Image.new(image.mode, image.size)
    clean.paste(image)
    return clean
