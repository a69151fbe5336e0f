"""Who may post how often."""

import time

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.cache import cache
from django.test import RequestFactory

from demos import throttle

pytestmark = pytest.mark.usefixtures("_no_posts_yet")


def post(address="192.0.2.1", user=None, **headers):
    request = RequestFactory().post("/", REMOTE_ADDR=address, headers=headers)
    request.user = user or AnonymousUser()
    return throttle.seconds_to_wait(request, "demo")


def test_ten_posts_a_minute_are_free_and_the_eleventh_waits():
    assert [post() for _ in range(10)] == [0] * 10
    assert 0 < post() <= 60


def test_a_minute_after_the_first_post_there_is_room_for_one_more(monkeypatch, settings):
    settings.DEMO_POSTS_PER_MINUTE = 2
    start = time.time()
    waits = []
    for seconds in (0, 30, 50, 60.5, 61):
        monkeypatch.setattr(throttle.time, "time", lambda now=start + seconds: now)
        waits.append(post())

    assert waits == [0, 0, 10, 0, 29]


def test_each_address_has_its_own_count(settings):
    settings.DEMO_POSTS_PER_MINUTE = 1

    assert post("192.0.2.1") == 0
    assert post("192.0.2.2") == 0
    assert post("192.0.2.1") > 0


def test_people_who_are_signed_in_are_not_throttled(settings, admin_user):
    settings.DEMO_POSTS_PER_MINUTE = 1

    assert [post(user=admin_user) for _ in range(5)] == [0] * 5


def test_a_made_up_x_real_ip_opens_no_way_round(settings):
    settings.DEMO_POSTS_PER_MINUTE = 1
    settings.BEHIND_NGINX = False

    assert post(x_real_ip="198.51.100.1") == 0
    assert post(x_real_ip="198.51.100.2") > 0


def test_behind_nginx_visitors_are_told_apart(settings):
    settings.DEMO_POSTS_PER_MINUTE = 1
    settings.BEHIND_NGINX = True

    assert post(x_real_ip="198.51.100.1") == 0
    assert post(x_real_ip="198.51.100.2") == 0
    assert post(x_real_ip="198.51.100.1") > 0


def test_the_count_is_in_the_cache_every_web_process_shares():
    post()

    assert len(cache.get("throttle:demo:192.0.2.1")) == 1
