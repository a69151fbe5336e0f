"""The site's addresses. The demos' are the last block: delete it with the folder."""

from django.conf import settings
from django.contrib import admin
from django.http import HttpResponse
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

admin.autodiscover()  # a worker has not, until a task asks for an address
admin.site.site_header = admin.site.site_title = "Celeriac"
admin.site.index_title = "Administration"

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("", include("celeriac.tracking.urls")),
    path("favicon.ico", lambda request: HttpResponse(status=204)),  # the admin names none, and browsers ask
]

if "demos" in settings.INSTALLED_APPS:
    urlpatterns += [path("", include("demos.urls"))]
else:
    urlpatterns += [path("", RedirectView.as_view(url="/admin/"))]
