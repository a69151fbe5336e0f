"""The demo's addresses."""

from django.urls import path

from demos.uploads import views

app_name = "uploads"
urlpatterns = [
    path("", views.index, name="index"),
]
