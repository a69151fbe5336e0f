"""What a process gives back before it forks, and before it idles."""

import ctypes
import gc
from contextlib import suppress


def settle() -> None:
    """All is imported: give back what that needed, and leave what stays alone.

    Importing leaves megabytes of free memory in the heap, which glibc keeps. And whatever the garbage collector looks
    through it writes to, so that a fork would copy it into each child.
    """
    gc.collect()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
