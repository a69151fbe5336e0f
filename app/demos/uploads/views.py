"""The page with the form and the visitor's own files; and what can be done with one of them."""

import time
from contextlib import suppress
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from demos import throttle
from demos.uploads import limits
from demos.uploads.forms import UploadForm
from demos.uploads.handlers import SpoolHandler
from demos.uploads.models import Upload
from demos.uploads.tasks import start

LINGER = 10  # seconds
CHUNK = 2**16  # bytes


# Django checks the CSRF token in the body, and so reads all of it, before a view is called. Only this outer
# view is exempt: it looks at the headers, says where the body goes, and hands on to `receive`, which checks.
# https://docs.djangoproject.com/en/5.2/topics/http/file-uploads/#modifying-upload-handlers-on-the-fly
@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return page(request)
    if not limits.slots.acquire(blocking=False):
        return refuse(request, limits.BUSY)
    handler = SpoolHandler(request)
    try:
        if refusal := limits.refusal(request):
            return refuse(request, refusal)
        request.upload_handlers = [handler]
        return receive(request, handler)
    finally:
        handler.discard()
        limits.slots.release()


@csrf_protect
def receive(request: HttpRequest, handler: SpoolHandler) -> HttpResponse:
    form = UploadForm(request.POST, request.FILES, refusal=handler.refusal)
    if handler.refusal:
        return refuse(request, handler.refusal)
    if not form.is_valid():
        return page(request, form)
    file = form.cleaned_data["file"]
    upload = Upload(name=file.name, kind=form.kind, size=file.size, file=file, **Upload.owner(request))
    with transaction.atomic():
        upload.save()  # moves the file: it was written to the same volume
        start(upload)
    return redirect("uploads:index")


def page(request: HttpRequest, form: UploadForm | None = None, status: int = 200) -> HttpResponse:
    return render(request, "uploads/index.html", context(request, form or UploadForm()), status=status)


def context(request: HttpRequest, form: UploadForm) -> dict[str, Any]:
    if form.errors:
        form.fields["file"].widget.attrs["autofocus"] = True
    return {"form": form, "uploads": mine(request), "hours": int(limits.KEEP_FOR.total_seconds() // 3600)}


def mine(request: HttpRequest) -> QuerySet[Upload]:
    return Upload.objects.owned_by(request)


def refuse(request: HttpRequest, refusal: limits.Refusal) -> HttpResponse:
    """The page with the reason at its field, for somebody who may still be sending the file."""
    form = UploadForm({}, {}, refusal=refusal)
    html = render_to_string("uploads/index.html", context(request, form), request)
    response = LingeringResponse(html, request=request, status=refusal.status)
    if refusal.retry_after:
        response["Retry-After"] = str(refusal.retry_after)
    return response


class LingeringResponse(HttpResponse):
    """Reads on for a while once it is sent: a closed connection would reset a browser that is still sending,
    and the browser would show that instead of the answer. gunicorn by itself reads 64 KB."""

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request

    def close(self) -> None:
        until = time.monotonic() + LINGER
        with suppress(OSError):
            while time.monotonic() < until and self.request.read(CHUNK):
                pass
        super().close()


@require_safe
@never_cache
def too_large(request: HttpRequest) -> HttpResponse:
    """What nginx shows for a body that it refuses itself."""
    return page(request, UploadForm({}, {}, refusal=limits.too_large()), status=413)


@require_safe
@never_cache
def card(request: HttpRequest, pk: str) -> HttpResponse:
    """One upload of the list, asked for when its task has ended."""
    return render(request, "uploads/upload.html", {"upload": get_object_or_404(mine(request), pk=pk)})


@require_POST
def start_again(request: HttpRequest, pk: str) -> HttpResponse:
    upload = get_object_or_404(mine(request), pk=pk)
    if seconds := throttle.seconds_to_wait(request, "uploads"):
        refusal = limits.Refusal(f"That is a lot for one minute. Start it in {seconds} s.", 429, seconds)
        return refuse(request, refusal)
    if upload.startable:
        start(upload)
    return redirect("uploads:index")


@require_POST
def delete(request: HttpRequest, pk: str) -> HttpResponse:
    get_object_or_404(mine(request), pk=pk).delete()
    return redirect("uploads:index")


@require_safe
@never_cache
def result(request: HttpRequest, pk: str) -> FileResponse:
    """Never shown in the browser, under our own address: it is made of somebody's file."""
    upload = get_object_or_404(mine(request), pk=pk, done_at__isnull=False)
    try:
        file = upload.result_path.open("rb")
    except FileNotFoundError:
        raise Http404 from None
    types = {Upload.Kind.CSV: "text/csv; charset=utf-8", Upload.Kind.IMAGE: "image/png"}
    return FileResponse(
        file, as_attachment=True, filename=upload.result_name, content_type=types[Upload.Kind(upload.kind)]
    )
