"""The demo's addresses."""

from django.urls import path

from demos.pages import views

app_name = "pages"
urlpatterns = [
    path("", views.index, name="index"),
]
