"""The page, what its forms post to, and the part of it that keeps a table up to date."""

from django.urls import path

from celeriac.tracking.views import task_status
from demos.widgets import views

app_name = "widgets"
urlpatterns = [
    path("", views.index, name="index"),
    path("call/", views.call, name="call"),
    path("debug/", views.debug, name="debug"),
    path("limited/", views.rush, name="limited"),
    path("new/", views.make, name="new"),
    path("answers/<str:task_id>/", task_status, {"template": "widgets/answer.html"}, name="answer"),
]
