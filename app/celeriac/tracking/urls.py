"""The addresses at which a task's owner asks how far it is."""

from django.urls import path

from celeriac.tracking import views

app_name = "tracking"
urlpatterns = [
    path("api/tasks/<str:task_id>/", views.task_json, name="json"),
    path("tasks/<str:task_id>/status/", views.task_status, name="status"),
]
