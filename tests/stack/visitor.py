"""Someone with a browser, as far as HTTP goes: cookies, forms, CSRF; and no redirect followed unasked."""

import base64
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urlencode, urljoin


@dataclass
class Answer:
    status: int
    headers: Message
    text: str
    url: str

    @property
    def location(self) -> str:
        return urljoin(self.url, self.headers["Location"])


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Visitor:
    """Talks to the stack through nginx, directly: whatever proxy this machine uses is for elsewhere."""

    def __init__(self, base: str, user: str = "", password: str = "") -> None:
        self.base = base
        self.headers = {"Authorization": f"Basic {_base64(f'{user}:{password}')}"} if user else {}
        self.cookies = CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies), Stay()
        )

    def request(self, path: str, data: bytes | None = None, timeout: float = 30, **headers: str) -> Answer:
        request = urllib.request.Request(urljoin(self.base, path), data, {**self.headers, **headers})
        try:
            with self.opener.open(request, timeout=timeout) as response:
                status, received, body = (response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                status, received, body = error.code, error.headers, error.read()
        return Answer(status, received, body.decode(), request.full_url)

    def get(self, path: str, **options: Any) -> Answer:
        return self.request(path, **options)

    def post(self, path: str, fields: dict[str, Any], **options: Any) -> Answer:
        """As browsers do it, with the Origin that Django's CSRF check looks at."""
        return self.request(path, urlencode(fields, doseq=True).encode(), Origin=self.base, **options)

    def submit(self, path: str, form: str = "", **fields: Any) -> Answer:
        """Open the page, change some of its form's fields, and send the form; ``None`` unticks a box."""
        page = self.get(path)
        assert page.status == 200, f"{path}: {page.status}"
        filled = {**forms(page.text)[form], **fields}
        return self.post(path, {name: value for name, value in filled.items() if value is not None})

    def log_in(self, user: str, password: str) -> Answer:
        return self.submit("/admin/login/?next=/admin/", form="login-form", username=user, password=password)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, Any]] = {}
        self.form: dict[str, Any] | None = None
        self.select = self.textarea = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        a = dict(attributes)
        name, value = a.get("name") or "", a.get("value") or ""
        if tag == "form":
            self.form = self.forms[a.get("id") or ""] = {}
        elif self.form is None:
            return
        elif tag == "select":
            self.select = name
            self.form[name] = []
        elif tag == "option" and "selected" in a:
            self.form[self.select].append(value)
        elif tag == "textarea":
            self.textarea = name
            self.form[name] = ""
        elif tag == "input" and name and a.get("type") not in {"submit", "file"}:
            if a.get("type") in {"checkbox", "radio"} and "checked" not in a:
                return
            self.form[name] = value or ("on" if a.get("type") == "checkbox" else "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.form = None
        elif tag == "textarea":
            self.textarea = ""

    def handle_data(self, data: str) -> None:
        if self.form is not None and self.textarea:
            self.form[self.textarea] += data


def forms(html: str) -> dict[str, dict[str, Any]]:
    """Each form's id -> its fields as they would be sent."""
    parser = _Forms()
    parser.feed(html)
    return parser.forms


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
