"""Ends this process with the one that started it, however that one ends.

Ray's workers outlive a raylet that is killed, with their engines, while others are started in their
place. The kernel's own means (``runner/guard.py``) would bind this process to a thread that may end
earlier.
"""

from __future__ import annotations

import os
import threading
import time

_INTERVAL = 0.2
"""Seconds between two looks."""


def die_with(parent: int) -> None:
    """End this process at once when its parent isn't ``parent`` any more."""
    threading.Thread(target=_watch, args=(parent,), name="orphan guard", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
    os._exit(1)
