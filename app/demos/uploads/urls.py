"""The demo's addresses."""

from django.urls import path

from demos.uploads import views

app_name = "uploads"
urlpatterns = [
    path("", views.index, name="index"),
    path("too-large/", views.too_large, name="too_large"),
    path("<uuid:pk>/", views.card, name="card"),
    path("<uuid:pk>/result/", views.result, name="result"),
    path("<uuid:pk>/start/", views.start_again, name="start"),
    path("<uuid:pk>/delete/", views.delete, name="delete"),
]
