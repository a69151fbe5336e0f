"""The form, one campaign and how far it is, and the tasks that meet their time limits."""

from django.urls import path

from demos.notifications import views

app_name = "notifications"
urlpatterns = [
    path("", views.index, name="index"),
    path("limits/", views.limits, name="limits"),
    path("<uuid:pk>/", views.show, name="campaign"),
    path("<uuid:pk>/recipients/", views.recipients, name="recipients"),
    path("<uuid:pk>/rest/", views.send_the_rest, name="rest"),
]
