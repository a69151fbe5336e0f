"""The demo's addresses."""

from django.urls import path

from demos.widgets import views

app_name = "widgets"
urlpatterns = [
    path("", views.index, name="index"),
]
