"""What is told about a page: its title, its description, and how many words and links it has."""

import re
from html.parser import HTMLParser
from typing import Any

#: Python knows more encodings than the web has, and some of them take quadratic time.
CHARSETS = re.compile(
    r"utf-?8|utf-?16(-?[lb]e)?|us-ascii|latin-?1|iso-8859-\d\d?|windows-125\d|cp125\d|koi8-[ru]"
    r"|gb2312|gbk|gb18030|big5|shift[_-]jis|euc-(jp|kr)",
    re.IGNORECASE,
)
META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]{1,40})", re.IGNORECASE)

UNSEEN = {"script", "style", "template", "noscript", "title"}
DESCRIPTIONS = {"description", "og:description"}


def read_html(body: bytes, charset: str) -> dict[str, Any]:
    parser = PageParser()
    parser.feed(decode(body, charset))
    parser.close()
    return {
        "title": tidy(parser.title, 300),
        "description": tidy(parser.description, 1000),
        "words": parser.words,
        "links": len(parser.links),
    }


def decode(body: bytes, charset: str) -> str:
    """As the header says, else as the page says of itself, else as UTF-8; what is wrong is replaced."""
    found = META_CHARSET.search(body[:1024])
    names = [charset, found[1].decode("ascii") if found else ""]
    return body.decode(next(filter(CHARSETS.fullmatch, names), "utf-8"), errors="replace")


def tidy(text: str, longest: int) -> str:
    return " ".join(text.replace("\0", " ").split())[:longest]  # Postgres keeps no NUL


class PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.title = self.description = ""
        self.words = 0
        self.links: set[str] = set()
        self.unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag in UNSEEN:
            self.unseen.append(tag)
        elif tag == "a" and re.match(r"https?:|(?![\w+.-]+:|#)\S", attributes.get("href", "").strip()):
            self.links.add(attributes["href"].strip().partition("#")[0])
        elif tag == "meta" and (attributes.get("name") or attributes.get("property", "")).lower() in DESCRIPTIONS:
            self.description = self.description or attributes.get("content", "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in UNSEEN:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self.unseen and self.unseen[-1] == tag:
            self.unseen.pop()

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.words += len(data.split())
        elif self.unseen == ["title"] and not self.title.strip():
            self.title = data
