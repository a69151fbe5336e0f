"""How often visitors who are not signed in may post to a demo; public forms get robots."""

import math
import time

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse

WINDOW = 60  # seconds
#: For pages on which there is nothing to be kept but what is saved; takes the seconds.
TOO_MANY = "That is a lot for one minute. Nothing is lost: try again in {} s."


def seconds_to_wait(request: HttpRequest, demo: str) -> int:
    """Count this post and return 0, or how long the visitor has to wait before the next one counts.

    Two posts in the same instant may count as one: a demo can live with that, and it needs no lock.
    """
    if request.user.is_authenticated:
        return 0
    key, now = f"throttle:{demo}:{client_address(request)}", time.time()
    posts = [at for at in cache.get(key, []) if at > now - WINDOW]
    if len(posts) >= settings.DEMO_POSTS_PER_MINUTE:
        return math.ceil(posts[0] + WINDOW - now)
    cache.set(key, [*posts, now], timeout=WINDOW)
    return 0


def too_many(page: HttpResponse, seconds: int) -> HttpResponse:
    """The same page as 429, Too Many Requests."""
    page.status_code = 429
    page["Retry-After"] = str(seconds)
    return page


def client_address(request: HttpRequest) -> str:
    """Only nginx can be believed: anyone else may write any X-Real-IP, a new one for each post."""
    peer = request.META["REMOTE_ADDR"]
    return request.META.get("HTTP_X_REAL_IP", peer) if settings.BEHIND_NGINX else peer
