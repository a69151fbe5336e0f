"""What a process does for its memory when it has loaded what it needs."""

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """What loading needed for a moment: megabytes, which glibc would keep."""
    gc.collect()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def settle() -> None:
    """Before a fork: what can be shared is there, and stays shared."""
    from django.conf import settings
    from django.db import connection

    if settings.configured:
        connection.get_connection_params()  # psycopg's adapters, that each child would make; it connects nowhere
    give_back()
    gc.freeze()  # the collector writes to what it looks through, and so would copy it into each child
