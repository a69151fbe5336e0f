"""The form, the page of one batch, and the part of that page which keeps itself up to date."""

from django.urls import path

from demos.pages import views

app_name = "pages"
urlpatterns = [
    path("", views.Index.as_view(), name="index"),
    path("<int:pk>/", views.BatchDetail.as_view(), name="batch"),
    path("<int:pk>/rows/", views.BatchRows.as_view(), name="rows"),
]
