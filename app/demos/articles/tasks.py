"""The task of Celery's documentation, "State" and "Database transactions", done right; and once done wrong.

https://docs.celeryq.dev/en/stable/userguide/tasks.html#state
"""

import re

from celery import shared_task
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F

from demos.articles.models import Article

ABBREVIATIONS = {
    "ASAP": "as soon as possible",
    "BTW": "by the way",
    "FYI": "for your information",
    "MyCorp": "My Corporation",
    "TBD": "to be decided",
}


def expand(text: str) -> tuple[str, int]:
    """``text`` with every abbreviation spelt out, and how many there were."""
    return re.subn(rf"\b({'|'.join(ABBREVIATIONS)})\b", lambda found: ABBREVIATIONS[found[0]], text)


@shared_task(autoretry_for=(OperationalError, InterfaceError), retry_backoff=True, max_retries=8)
def expand_abbreviations(article_id: str) -> str:
    """Spell out the abbreviations of the article with this id, as it reads when the task runs.

    An article that is not there is an error: queued on commit it was there, so someone should hear of it.
    """
    with transaction.atomic():
        # Whoever is saving the article at this moment is waited for; whoever comes next waits for us.
        article = Article.objects.select_for_update().get(pk=article_id)
        article.body, count = expand(article.body)
        article.version += 1
        article.save(update_fields=["body", "version"])
    return said(count)


@shared_task
def overwrite_with_stale(article: dict[str, str]) -> str:
    """THE WRONG WAY, to be watched: takes the article as it was when the message was sent, and saves that."""
    body, count = expand(article["body"])
    Article.objects.filter(pk=article["id"]).update(title=article["title"], body=body, version=F("version") + 1)
    return said(count)


def said(count: int) -> str:
    return f"{count} abbreviation{'' if count == 1 else 's'} spelt out."
