"""The home page."""

import pytest
from django.urls import reverse

from demos.views import DEMOS


def test_the_home_says_what_celeriac_is_and_links_to_everything(client, settings):
    page = client.get("/").content.decode()

    assert "The Django + Celery stack that does not lose work" in page
    assert f'href="{settings.FLOWER_URL}"' in page
    assert f'href="{reverse("admin:index")}"' in page
    assert "README.md" in page


@pytest.mark.django_db
@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.slug)
def test_every_demo_on_the_home_opens(client, demo):
    assert f'href="/{demo.slug}/"' in client.get("/").content.decode()
    assert client.get(f"/{demo.slug}/").status_code == 200


def test_pages_load_nothing_from_another_site(client):
    page = client.get("/").content.decode()

    assert "django_htmx/htmx" in page
    assert 'src="http' not in page
    assert '<link rel="stylesheet" href="/static/' in page
