"""The demo's addresses."""

from django.urls import path

from demos.articles import views

app_name = "articles"
urlpatterns = [
    path("", views.index, name="index"),
]
