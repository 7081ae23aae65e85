"""Events → bytes: what an answer looks like to each kind of client. No I/O."""

from reverie.http.dialects.livepeer import LIVEPEER
from reverie.http.dialects.openai import OPENAI

__all__ = ["LIVEPEER", "OPENAI"]
