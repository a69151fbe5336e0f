"""What a file is, by its first bytes; its name and what the browser calls it are only claims.

No picture is opened here: that is for a worker, whose memory a hostile one may have.
"""

import codecs
import re

from django.core.files import File

from demos.uploads.errors import FileError
from demos.uploads.models import Upload

HEAD = 8192  # bytes
PICTURES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", re.DOTALL)
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: No text has these, apart from tab, line feed, form feed and carriage return.
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f]")
#: HTML, XML and SVG, JSON, PDF: text, and no table.
OTHER_TEXT = re.compile(rb"\s*(<|\{|\[|%PDF)")

NEITHER = "This is neither a CSV file nor a PNG, JPEG, GIF or WebP picture, whatever its name says."
NOT_UTF_8 = "This text is not in UTF-8. Save it again as “CSV UTF-8”, as Excel and LibreOffice call it."


def kind_of(file: File) -> Upload.Kind:
    head = file.read(HEAD)
    file.seek(0)
    if PICTURES.match(head):
        return Upload.Kind.IMAGE
    if head.startswith(UTF_16):
        raise FileError(NOT_UTF_8)
    text = head.removeprefix(codecs.BOM_UTF8)
    if CONTROL.search(text) or OTHER_TEXT.match(text):
        raise FileError(NEITHER)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)  # the last character may be cut
    except UnicodeDecodeError:
        raise FileError(NOT_UTF_8) from None
    return Upload.Kind.CSV
