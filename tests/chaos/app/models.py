"""What is asked, and what became of it. Nothing is unique: a second effect must be seen, not refused."""

from django.db import connection, models
from django.db.models.functions import Now


class Order(models.Model):
    """The business row, written in the transaction that enqueues its task."""

    number = models.IntegerField()
    kind = models.CharField(max_length=20)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "chaos"

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


class Effect(models.Model):
    """What a task does to the database."""

    number = models.IntegerField()
    task_id = models.CharField(max_length=255)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "chaos"

    def __str__(self) -> str:
        return str(self.number)


def create() -> None:
    """The tables; an app in ``INSTALLED_APPS``, with migrations, would have to be part of the product."""
    with connection.schema_editor() as editor:
        editor.create_model(Order)
        editor.create_model(Effect)
