"""The demo's addresses."""

from django.urls import path

from demos.notifications import views

app_name = "notifications"
urlpatterns = [
    path("", views.index, name="index"),
]
