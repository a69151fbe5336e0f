"""The home page, and every demo under its own name."""

from django.urls import include, path

from demos.views import DEMOS, home

urlpatterns = [
    path("", home, name="home"),
    *(path(f"{demo.slug}/", include(f"demos.{demo.slug}.urls")) for demo in DEMOS),
]
