"""Writing an article, the race for it, and the race for the commit."""

from django.urls import path

from demos.articles import views

app_name = "articles"
urlpatterns = [
    path("", views.index, name="index"),
    path("commit/", views.commit, name="commit"),
    path("<uuid:pk>/", views.edit, name="article"),
    path("<uuid:pk>/start/", views.start, name="start"),
    path("<uuid:pk>/texts/", views.texts, name="texts"),
]
