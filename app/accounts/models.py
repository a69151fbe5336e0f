"""Users."""

from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    """Django's user; add your fields here."""
