"""What a call may leave to be waited for: nothing, where it could do all of it at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

Pending: TypeAlias = Callable[[], Awaitable[Any]] | None
"""Call it, and await what it returns; None: there is nothing to wait for.

No coroutine is made for what is done already, and none is left over where nobody waits any more.
"""


async def done(pending: Pending) -> None:
    """Wait until it is done, if it isn't."""
    if pending is not None:
        await pending()
