"""What was asked for, and what became of each page."""

from django.db import models
from django.template.defaultfilters import filesizeformat, pluralize

from celeriac.models import Owned


class Batch(Owned):
    """The addresses of one post, one or many; its owner watches them."""

    created_at = models.DateTimeField(auto_now_add=True)
    #: Of the chord's body, which writes the summary.
    task_id = models.CharField(max_length=255)
    summary = models.TextField(blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "batches"

    def __str__(self) -> str:
        return f"{self.created_at:%Y-%m-%d %H:%M}"


class Page(models.Model):
    """One address. A page that cannot be had is a result like any other: its row says why."""

    class State(models.TextChoices):
        QUEUED = "queued"
        FETCHING = "fetching"
        RETRYING = "retrying"
        PARSING = "parsing"
        DONE = "done"
        FAILED = "failed"

    ENDED = (State.DONE, State.FAILED)

    batch = models.ForeignKey(Batch, models.CASCADE, related_name="pages")
    url = models.URLField(max_length=2000)
    state = models.CharField(max_length=8, choices=State, default=State.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    #: In a sentence for whoever asked.
    error = models.TextField(blank=True)
    #: Where the redirects ended, and what the server answered there.
    final_url = models.URLField(max_length=2000, blank=True)
    status = models.PositiveSmallIntegerField(null=True)
    fetched_at = models.DateTimeField(null=True)
    bytes = models.PositiveIntegerField(default=0)
    title = models.TextField(blank=True)
    description = models.TextField(blank=True)
    words = models.PositiveIntegerField(default=0)
    links = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.url

    @property
    def ended(self) -> bool:
        return self.state in self.ENDED

    @property
    def tone(self) -> str:
        """Its class in the style sheet, where tasks have one word for all that runs."""
        return "running" if self.state in {self.State.FETCHING, self.State.PARSING} else self.state


class Body(models.Model):
    """The page on its way from one task to the next, which gets its id; gone once it is parsed and stored."""

    page = models.OneToOneField(Page, models.CASCADE, primary_key=True)
    packed = models.BinaryField()
    charset = models.CharField(max_length=40, blank=True)

    def __str__(self) -> str:
        return f"body of {self.page_id}"


def summary_of(pages: list[Page]) -> str:
    read = [page for page in pages if page.state == Page.State.DONE]
    failed = sum(page.state == Page.State.FAILED for page in pages)
    parts = [f"{len(read)} of {len(pages)} read", f"{failed} failed"]
    if to_go := len(pages) - len(read) - failed:
        parts.append(f"{to_go} to go")
    words, links, size = (sum(getattr(page, field) for page in read) for field in ("words", "links", "bytes"))
    found = [f"{number:,} {noun}{pluralize(number)}" for number, noun in ((words, "word"), (links, "link"))]
    return f"{', '.join(parts)}: {' and '.join(found)} in {filesizeformat(size)}."
