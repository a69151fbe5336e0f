"""The form, the page of one feedback, and the part of that page which keeps itself up to date."""

from django.urls import path

from demos.feedback import views

app_name = "feedback"
urlpatterns = [
    path("", views.FeedbackCreate.as_view(), name="form"),
    path("<uuid:pk>/", views.FeedbackDetail.as_view(), name="detail"),
    path("<uuid:pk>/status/", views.FeedbackStatus.as_view(), name="status"),
]
