"""How a process that serves for months treats its memory."""

from __future__ import annotations

import ctypes
import gc
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGE = 128 * 1024


def prepare_memory() -> None:
    """Keep the heap compact, and don't look for garbage yet: what is built from here on stays.

    The GNU C library has a heap for each thread, and raises with each large block that is freed the
    size from which blocks get memory of their own. Both leave holes that a burst of requests makes
    and nothing fills again (mallopt(3)). With another library, and where the environment says how
    memory is to be had, nothing changes.
    """
    gc.disable()
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = None if told else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


def settle_garbage() -> None:
    """Have the garbage collector pass over what there is now, and stays.

    It would cost a tenth of each request. The thresholds stay as they are: ones of 5,000 to 50,000
    objects gained nothing that could be measured, since requests leave next to no cycles behind and
    old objects are few.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def forget_origin(failure: BaseException) -> None:
    """Forget where a failure that was dealt with came from.

    Its traceback leads to what functions held, the failure among it: a cycle that only the garbage
    collector would free.
    """
    link: BaseException | None = failure
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
