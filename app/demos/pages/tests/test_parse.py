"""What is read from a page's HTML."""

import pytest

from demos.pages.parse import read_html

PAGE = """<!doctype html><html><head><title>
  Bees &amp; Co </title><meta name="Description" content="All about
  them."><style>p { color: red }</style><script>document.write("<a href=/no>no</a>")</script></head>
<body><h1>Bees dance</h1><p>and <b>sing</b>.</p><svg><title>Not this</title></svg>
<a href="/why">Why?</a> <a href="/why#more">More</a> <a href="https://example.org/">There</a>
<a href="#top">Up</a> <a href="mailto:bee@example.org">Mail</a> <a>Nothing</a></body></html>"""


def test_title_description_words_and_links_are_read():
    assert read_html(PAGE.encode(), "utf-8") == {
        "title": "Bees & Co",
        "description": "All about them.",
        "words": 11,  # Bees dance and sing . Why? More There Up Mail Nothing
        "links": 2,
    }


@pytest.mark.parametrize("page", ["", "<", "<title>", "<a href", "\0", "<!--", "&#0;&#xD800;", "</p></title>"])
def test_broken_html_is_no_error(page):
    assert read_html(page.encode(), "")["title"] in {"", "\ufffd"}


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("<title>Café</title>".encode("latin-1"), "ISO-8859-1"),
        ("<meta charset='windows-1252'><title>Café</title>".encode("cp1252"), ""),
        ("<title>Café</title>".encode(), ""),
        ("<title>Café</title>".encode(), "punycode"),  # Python's, and quadratic
        ("<title>Café</title>".encode(), "no such thing"),
    ],
)
def test_the_charset_is_the_headers_or_the_pages_or_utf8(body, charset):
    assert read_html(body, charset)["title"] == "Café"


def test_a_long_title_is_cut_and_a_nul_left_out():
    info = read_html(b"<title>a\0b " + b"c" * 1000 + b"</title>", "")

    assert info["title"].startswith("a b ccc")
    assert len(info["title"]) == 300
